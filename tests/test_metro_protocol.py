"""The METRO family's rule gives the official numbers, and differs from the benchmark's own as stated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import refio
import seeding
import torch

from hmrbench.body.mesh_assets import made_mesh
from hmrbench.errors import DataError
from hmrbench.metrics import metro_protocol as metro
from hmrbench.metrics.mpjpe import mpjpe
from hmrbench.nets.meshes.mesh import H36M_TO_14

REGRESSOR = made_mesh().joints17


@pytest.fixture(scope="module")
def official(refs: Path) -> dict[str, Any]:
    with np.load(refs / "meshes" / "metro_family_eval.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def made(official: dict[str, Any]) -> dict[str, Any]:
    """Meshes around poses near the truth, as the official code was given them; read-only."""
    gt24 = 0.4 * seeding.seeded_input((6, 24, 3), seed=2)
    joints17 = torch.zeros(6, 17, 3)
    joints17[:, list(H36M_TO_14)] = (gt24 - gt24[:, 14:15])[:, [*range(13), 18]]
    joints17 = joints17 + 0.05 * seeding.seeded_input((6, 17, 3), seed=3)
    pred = 0.02 * seeding.seeded_input((6, 6890, 3), seed=4)
    for joint in range(17):
        pred[:, 400 * joint : 400 * joint + 10] += joints17[:, joint, None]
    gt = pred + 0.03 * seeding.seeded_input((6, 6890, 3), seed=5) + 0.3
    found = {"gt24": gt24.numpy(), "pred": pred.numpy(), "gt": gt.numpy()}
    for array in found.values():
        array.setflags(write=False)
    assert refio.error(official, "pred_vertices", found["pred"]) < 1e-5
    assert refio.error(official, "gt_vertices", found["gt"]) < 1e-5
    assert np.allclose(official["gt24.full"][..., :3], found["gt24"], atol=1e-6)
    return found


@pytest.fixture(scope="module")
def joints(made: dict[str, Any]) -> tuple[Any, Any]:
    return metro.predicted_joints(made["pred"], REGRESSOR), metro.true_joints(made["gt24"])


def having(official: dict[str, Any], what: str) -> Any:
    """Samples with a truth of that kind."""
    return official[f"{what}.full"].astype(bool)


def test_joints(official: dict[str, Any], joints: tuple[Any, Any]) -> None:
    pred, gt = joints
    assert refio.error(official, "pred14_pelvis_centred", pred) < 1e-5
    assert refio.error(official, "gt14_pelvis_centred", gt) < 1e-5


def test_mpjpe_is_centred_on_the_hips(official: dict[str, Any], joints: tuple[Any, Any]) -> None:
    found = metro.metro_mpjpe(*joints)
    assert found[having(official, "has_3d_joints")] == pytest.approx(official["mpjpe_mm.full"], abs=2e-3)
    on_pelvis = official["pelvis_centred_mpjpe_mm_not_official.full"]
    assert mpjpe(*joints) == pytest.approx(on_pelvis, abs=2e-3)
    assert np.abs(found - on_pelvis).max() > 1


def test_pa_mpjpe_is_over_all_samples(official: dict[str, Any], joints: tuple[Any, Any]) -> None:
    assert metro.metro_pa_mpjpe(*joints) == pytest.approx(official["pa_mpjpe_mm.full"], abs=2e-3)


def test_mpvpe_is_centred_on_each_meshs_own_pelvis(official: dict[str, Any], made: dict[str, Any]) -> None:
    rows = having(official, "has_smpl")
    found = metro.metro_mpvpe(made["pred"][rows], made["gt"][rows], REGRESSOR)
    assert found == pytest.approx(official["mpvpe_mm.full"], abs=2e-3)
    assert metro.metro_mpvpe(made["pred"], made["gt"], REGRESSOR.toarray())[rows] == pytest.approx(found, abs=1e-9)


def test_a_regressor_with_the_legs_swapped_costs_much(made: dict[str, Any], joints: tuple[Any, Any]) -> None:
    swapped = REGRESSOR.toarray()[[0, 4, 5, 6, 1, 2, 3, *range(7, 17)]]  # SPIN's and CLIFF's file
    wrong = metro.predicted_joints(made["pred"], swapped)
    assert metro.metro_mpjpe(wrong, joints[1]).min() > 2 * metro.metro_mpjpe(*joints).max()


def test_what_does_not_fit_is_refused(made: dict[str, Any], joints: tuple[Any, Any]) -> None:
    with pytest.raises(DataError, match=r"\(17, V\)"):
        metro.predicted_joints(made["pred"][:, :-1], REGRESSOR)
    with pytest.raises(DataError, match=r"\(17, V\)"):
        metro.metro_mpvpe(made["pred"], made["gt"][0], REGRESSOR)
    with pytest.raises(DataError, match="24, 3"):
        metro.true_joints(made["gt24"][:, :17])
    broken = joints[0].copy()
    broken[2, 3, 1] = np.nan
    for rule in (metro.metro_mpjpe, metro.metro_pa_mpjpe):
        with pytest.raises(DataError, match="prediction is not finite: row 2"):
            rule(broken, joints[1])
