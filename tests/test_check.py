"""`hmrbench check`: a planted regression of each kind has its exit code; the project's own costs are held."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from test_cli import hmrbench, run_eval
from test_tables import CARDS, count_parameters, eval_row, profile_row, save

from hmrbench.compare import baselines

COSTS = Path(__file__).parents[1] / "baselines" / "costs.json"
Plant = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]


def good_rows() -> list[dict[str, Any]]:
    return [eval_row("vitpose-s"), eval_row("vitpose-b"), profile_row("vitpose-s"), profile_row("vitpose-b")]


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    path = tmp_path / "baseline.json"
    result = hmrbench("check", "--baseline", path, "--runs", save(tmp_path / "before", *good_rows()), "--update")
    assert result.exit_code == 0, result.output
    assert "6 rows" in result.stdout
    return path


def changed(model: str, key: str, change: Callable[[Any], Any]) -> Plant:
    """Good rows, but one field of a model's rows that have it is another."""
    return lambda rows: [{**r, key: change(r[key])} if r["model"] == model and key in r else r for r in rows]


@pytest.mark.parametrize(
    ("plant", "code", "words"),
    [
        (lambda rows: rows, 0, ["16 ok"]),
        (
            changed("vitpose-s", "metrics", lambda m: {**m, "AP": m["AP"] - 0.2}),
            4,
            ["AP", "75.000", "74.800", "worse"],
        ),
        (changed("vitpose-s", "metrics", lambda m: {**m, "AP": m["AP"] + 5}), 0, ["improved"]),
        (changed("vitpose-b", "params", lambda n: n + 1), 4, ["params", "changed: by +1"]),
        (changed("vitpose-b", "macs", lambda n: n - 7), 4, ["macs", "changed: by -7"]),
        (
            changed("vitpose-b", "latency_ms", lambda t: t * 1.5),
            4,
            ["latency_ms", "worse: 1.50 times as slow"],
        ),
        (lambda rows: [r for r in rows if r["model"] != "vitpose-b"], 4, ["missing: no run"]),
        (lambda rows: [{**r, "partial": True} if "metrics" in r else r for r in rows], 4, ["partial"]),
        (
            lambda rows: [{**r, "device": "GPU B", "latency_ms": 99.0} if "macs" in r else r for r in rows],
            0,
            ["other device"],
        ),
        (
            lambda rows: [{**r, "annotations_sha256": "c"} if "metrics" in r else r for r in rows],
            4,
            ["not comparable"],
        ),
    ],
    ids=(
        "nothing",
        "accuracy",
        "improved",
        "params",
        "macs",
        "latency",
        "missing",
        "partial",
        "device",
        "annotations",
    ),
)
def test_planted_regressions(baseline: Path, tmp_path: Path, plant: Plant, code: int, words: list[str]) -> None:
    runs = save(tmp_path / "after", *plant(good_rows()))
    result = hmrbench("check", "--baseline", baseline, "--runs", runs, env={"COLUMNS": "120"})
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.stdout
    assert ("error: " in result.stderr and "regressed" in result.stderr) == (code == 4)


def test_outputs_for_ci(baseline: Path, tmp_path: Path) -> None:
    runs = save(tmp_path / "after", *changed("vitpose-b", "params", lambda n: n + 1)(good_rows()))
    junit, summary = tmp_path / "out" / "junit.xml", tmp_path / "out" / "summary.md"
    summary.parent.mkdir()
    summary.write_text("before\n")
    args = ("check", "--baseline", baseline, "--runs", runs, "--junit", junit, "--summary", summary, "--json")
    result = hmrbench(*args)
    assert result.exit_code == 4
    found = json.loads(result.stdout)
    assert len(found) == 16
    (bad,) = (v for v in found if v["verdict"] != "ok")
    assert (bad["model"], bad["measure"], bad["verdict"], bad["value"] - bad["baseline"]) == (
        "vitpose-b",
        "params",
        "changed",
        1,
    )
    assert ElementTree.parse(junit).getroot().get("failures") == "1"
    assert summary.read_text().startswith("before\n### ❌ hmrbench check: baseline.json")


def test_update_then_check_passes(baseline: Path, tmp_path: Path) -> None:
    runs = save(tmp_path / "after", *changed("vitpose-b", "params", lambda n: n + 1)(good_rows()))
    assert hmrbench("check", "--baseline", baseline, "--runs", runs).exit_code == 4
    result = hmrbench("check", "--baseline", baseline, "--runs", runs, "--update")
    assert result.exit_code == 0
    assert "changed: counts of vitpose-b" in result.stderr
    assert hmrbench("check", "--baseline", baseline, "--runs", runs).exit_code == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--baseline", "none.json"), "none.json: no such baseline"),
        (("--baseline", "none.json", "--update", "--runs", "partial"), "must be whole"),
        (("--baseline", "baseline.json", "--runs", "nowhere"), "nowhere: no such folder of runs"),
    ],
)
def test_bad_input(
    baseline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "runs", *good_rows())
    save(tmp_path / "partial", eval_row("vitpose-s", partial=True))
    result = hmrbench("check", *args)
    assert result.exit_code == 3, result.output
    assert words in " ".join(result.stderr.split())


def test_a_real_run_with_a_limit_is_refused(tiny_coco: Path, tiny_cards: Path, tmp_path: Path) -> None:
    """From `eval` to the gate: the same evaluation passes, a part of it does not, and --limit says why."""
    path, args = tmp_path / "b.json", ("tiny-a", "--weights", "random", "--boxes", "gt")
    assert run_eval(tiny_coco, tiny_cards, tmp_path / "r", *args).exit_code == 0
    assert hmrbench("check", "--baseline", path, "--runs", tmp_path / "r", "--update").exit_code == 0
    assert run_eval(tiny_coco, tiny_cards, tmp_path / "r", *args).exit_code == 0
    assert hmrbench("check", "--baseline", path, "--runs", tmp_path / "r").exit_code == 0
    assert run_eval(tiny_coco, tiny_cards, tmp_path / "r", *args, "--limit", 2).exit_code == 0
    result = hmrbench("check", "--baseline", path, "--runs", tmp_path / "r")
    assert result.exit_code == 4
    assert "only 2 samples were evaluated (--limit)" in " ".join(result.stderr.split())


# --------------------------------------------------------------------------- the project's own gate


def costs() -> dict[str, dict[str, int]]:
    return {r["model"]: r["values"] for r in baselines.read_baseline(COSTS)["rows"]}


def test_the_committed_costs_are_of_all_models() -> None:
    assert set(costs()) == set(CARDS)
    assert len(CARDS) == 119


@pytest.mark.parametrize("model", CARDS)
def test_parameters_are_the_committed_ones(model: str) -> None:
    assert count_parameters(model)["params"] == costs()[model]["params"]


# Each family, cut and task; `hmrbench check --baseline baselines/costs.json --costs` counts all, in a minute.
SOME = ("swinpose-t-s4", "swinhmr2-s-s3", "gmfhmr2-t-s3", "vmpose-t-s2", "vitpose-s", "hmr2-h")


@pytest.mark.thorough
def test_macs_are_the_committed_ones(tmp_path: Path) -> None:
    held = baselines.read_baseline(COSTS)
    part = {**held, "rows": [r for r in held["rows"] if r["model"] in SOME]}
    path = tmp_path / "part.json"
    path.write_text(baselines.baseline_text(part))
    result = hmrbench("check", "--baseline", path, "--costs", "--runs", tmp_path / "none")
    assert result.exit_code == 0, result.output
    assert f"{2 * len(SOME)} ok" in result.stdout
    part["rows"][0]["values"]["macs"] += 1
    path.write_text(baselines.baseline_text({**part, "rows": part["rows"][:1]}))
    result = hmrbench("check", "--baseline", path, "--costs", "--runs", tmp_path / "none", "--json")
    assert result.exit_code == 4
    assert [v["verdict"] for v in json.loads(result.stdout)] == ["ok", "changed"]
