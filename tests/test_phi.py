"""Composite scores: right when all parts are there, absent otherwise."""

from __future__ import annotations

import pytest

from hmrbench.metrics.phi import DEFINITIONS, phi, phi_m_2d, phi_m_3d, phi_p_2d, protocol_key


def row(dataset, metrics, **changes):
    base = {
        "model": "swinhmr2-s-s3",
        "weights": "w.ckpt",
        "weights_sha256": "ab" * 32,
        "flip": False,
        "codec": "none",
        "input": "256x256",
        "dtype": "fp32",
        "partial": False,
        "samples": 10,
        "device": "cpu",
    }
    return {**base, "dataset": dataset, "metrics": metrics, **changes}


TWO_D = [
    row("lsp-extended", {"PCK@0.05": 50.0, "PCK@0.1": 80.0}),
    row("coco-val-hmr", {"PCK@0.05": 70.0, "PCK@0.1": 90.0}),
    row("posetrack-val", {"PCK@0.05": 85.0, "PCK@0.1": 99.0}),
]
THREE_D = [
    row("3dpw-test", {"MPJPE": 80.0, "PA-MPJPE": 50.0, "PVE": 1e9}),
    row("h36m-val-p2", {"MPJPE": 50.0, "PA-MPJPE": 36.0}),
]
POSE = [row("coco-val", {"AP": 74.0, "AR": 79.0, "AP50": 90.0})]
CASES = [("Phi_P_2D", POSE, 76.5), ("Phi_M_2D", TWO_D, 79.0), ("Phi_M_3D", THREE_D, 54.0)]


@pytest.mark.parametrize(("name", "rows", "expected"), CASES)
def test_value(name, rows, expected):
    assert phi(name, rows) == pytest.approx(expected)
    assert phi(name, reversed(rows)) == pytest.approx(expected)
    others = [row("demo-mesh", {"MPJPE": 1.0}), row("lsp-extended", {"PCK@0.05": 1.0}, partial=True)]
    assert phi(name, [*rows, *others]) == pytest.approx(expected)


def test_named_functions():
    assert phi_p_2d(POSE) == pytest.approx(76.5)
    assert phi_m_2d(TWO_D) == pytest.approx(79.0)
    assert phi_m_3d(THREE_D) == pytest.approx(54.0)
    assert phi_m_3d(TWO_D) is None


@pytest.mark.parametrize(("name", "rows", "_expected"), CASES)
def test_a_missing_part_gives_none(name, rows, _expected):
    for i, part in enumerate(rows):
        rest = rows[:i] + rows[i + 1 :]
        assert phi(name, rest) is None
        assert phi(name, [*rest, {**part, "partial": True}]) is None
        first = next(iter(part["metrics"]))
        lacking = {k: v for k, v in part["metrics"].items() if k != first}
        assert phi(name, [*rest, {**part, "metrics": lacking}]) is None
    assert phi(name, []) is None


@pytest.mark.parametrize(
    "change",
    [
        {"model": "swinhmr2-s-s4"},
        {"weights": "other.ckpt"},
        {"weights_sha256": "cd" * 32},
        {"weights_sha256": None},
        {"flip": True},
        {"codec": "udp"},
        {"input": "256x192"},
        {"dtype": "bf16"},
    ],
)
def test_runs_of_other_weights_or_protocol_are_never_mixed(change):
    assert phi_m_2d([*TWO_D[:2], {**TWO_D[2], **change}]) is None
    assert phi_m_3d([THREE_D[0], {**THREE_D[1], **change}]) is None
    assert protocol_key({**TWO_D[0], **change}) != protocol_key(TWO_D[0])


def test_a_data_set_that_is_there_twice_is_ambiguous():
    assert phi_m_3d([*THREE_D, THREE_D[0]]) is None


def test_every_score_has_a_definition():
    assert set(DEFINITIONS) == {name for name, _, _ in CASES}
    assert all(text.startswith(f"{name} = ") for name, text in DEFINITIONS.items())
