"""SMPL-X: installed from files in the official layout, posed as by the smplx package, and SMPLer-X's meshes with it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.sparse
import torch
from made_bodies import smplx_sized
from test_cli import hmrbench
from test_mesh_path import common, home, made_body, posed, saved, scored, spec_of

from hmrbench import evaluation, geometry
from hmrbench.body import WholeBody, find_body, find_whole_body, install_body, read_whole_body, whole_body_path
from hmrbench.body.decode import decode_whole
from hmrbench.body.whole_body import PARAMS, ROTATIONS
from hmrbench.errors import DataError, UsageError
from hmrbench.skeletons import SMPLERX65, skeleton_of

__all__ = ["home"]
pytestmark = pytest.mark.usefixtures("calm")


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made SMPLX_NEUTRAL.npz."""
    path = tmp_path_factory.mktemp("smplx") / "SMPLX_NEUTRAL.npz"
    np.savez(path, **smplx_sized())
    return path


@pytest.fixture
def cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of `home`, without SMPL-X again afterwards."""
    monkeypatch.setenv("HMRBENCH_CACHE", str(home / "cache"))
    assert not whole_body_path().exists()
    return home / "cache"


@pytest.fixture
def installed(cache: Path, official: Path) -> Any:
    yield install_body(official)
    whole_body_path().unlink()


def random_params(count: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vectors = {
        name: 0.4 * torch.randn(count, n, 3, generator=generator) for name, n in ROTATIONS.items() if name != "eyes"
    }
    shape = {name: torch.randn(count, 10, generator=generator) for name in ("betas", "expression")}
    return {name: geometry.axis_angle_to_matrix(v) for name, v in vectors.items()} | shape


@pytest.mark.parametrize("directions", [20, 400])
def test_poses_as_the_smplx_package_does(tmp_path: Path, directions: int) -> None:
    """As SMPLer-X makes its body: no principal components for the hands, whose mean pose is added."""
    import smplx

    np.savez(tmp_path / "SMPLX_NEUTRAL.npz", **smplx_sized(directions))
    theirs = smplx.SMPLX(str(tmp_path / "SMPLX_NEUTRAL.npz"), use_pca=False, batch_size=3, num_betas=10)
    params = random_params()
    vectors = {name: geometry.matrix_to_axis_angle(x).flatten(1) if x.ndim == 4 else x for name, x in params.items()}
    with torch.no_grad():
        expected = theirs(**vectors)
        vertices, joints = WholeBody(read_whole_body(tmp_path / "SMPLX_NEUTRAL.npz"))(params)
    assert torch.allclose(vertices, expected.vertices, atol=2e-5)
    assert torch.allclose(joints, expected.joints[:, :55], atol=2e-5)
    assert vertices.std() > 0.1


def test_a_pickle_of_python_2s_kind_is_read_alike(tmp_path: Path, official: Path) -> None:
    parts = {k: v for k, v in smplx_sized().items() if k not in ("joint2num", "part2num")}
    parts |= {"J_regressor": scipy.sparse.csc_matrix(parts["J_regressor"]), "joint2num": {"Pelvis": 0}}
    (tmp_path / "SMPLX_NEUTRAL.pkl").write_bytes(pickle.dumps(parts, 2))
    found = WholeBody(read_whole_body(tmp_path / "SMPLX_NEUTRAL.pkl"))
    assert found.sha256 == WholeBody(read_whole_body(official)).sha256


def test_install_list_and_find(tmp_path: Path, official: Path) -> None:
    env = {"HMRBENCH_CACHE": str(tmp_path)}

    def row() -> dict[str, Any]:
        return next(r for r in json.loads(hmrbench("body", "list", "--json", env=env).stdout) if r["name"] == "smplx")

    assert row()["status"] == "missing"
    assert "smpl-x.is.tue.mpg.de" in row()["detail"]
    made = hmrbench("body", "install", official, "--json", env=env)
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["complete"] is True
    assert (row()["status"], row()["vertices"], row()["faces"]) == ("installed", 10475, 400)
    assert find_whole_body(tmp_path / "bodies").sha256 == WholeBody(read_whole_body(official)).sha256
    with pytest.raises(DataError, match="SMPL body model is not installed"):
        find_body("smpl", tmp_path / "bodies")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"posedirs": None}, r"SMPL-X \(55 joints\), but it lacks posedirs"),
        ({"hands_meanl": None, "f": None}, "lacks f, hands_meanl"),
        ({"v_template": np.zeros((100, 3))}, "100 vertices; SMPL-X has 10,475"),
        ({"shapedirs": np.zeros((10475, 3, 10))}, "fewer than 10 betas and 10"),
        ({"weights": np.zeros((10475, 24))}, "weights is .* of different topologies"),
        ({"hands_meanr": np.zeros(12)}, "hands_meanr is"),
        ({"f": np.array([[0, 1, 10475]])}, "f points at vertices that are not there"),
        ({"kintree_table": np.zeros((2, 24), int)}, "no tree of 55 joints"),
        ({"v_template": np.full((10475, 3), np.nan)}, "v_template is not finite"),
        ({"gender": "female"}, "neutral body alone"),
    ],
)
def test_what_is_no_whole_smplx_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    parts = {k: v for k, v in (smplx_sized() | change).items() if v is not None}
    with pytest.raises(DataError, match=message):
        install_body(parts, tmp_path, "SMPLX_NEUTRAL.npz")
    assert not list(tmp_path.iterdir())


def test_smpl_is_not_smplx() -> None:
    with pytest.raises(DataError, match="this is not SMPL-X"):
        read_whole_body(made_body())


# --------------------------------------------------------------------------- what is predicted


def test_the_networks_own_joints_lie_in_the_picture() -> None:
    """Cells of the crop, in which the corners are 0 and the grid's size."""
    cells = torch.zeros(2, 65, 3)
    cells[:, 1] = torch.tensor([12.0, 16.0, 3.0])
    cells[:, 2] = torch.tensor([3.0, 8.0, 3.0])
    output = random_params(2) | {"cam": torch.tensor([[0.1, 0.2, 40.0]] * 2), "joints_cells": cells}
    center, size = np.array([[100.0, 50.0], [30.0, 70.0]]), np.array([[60.0, 80.0], [30.0, 40.0]])
    keypoints, scores, joints, params = decode_whole(output, center, size, None)
    assert np.allclose(keypoints[:, 0], center - size / 2)
    assert np.allclose(keypoints[:, 1], center + size / 2)
    assert np.allclose(keypoints[:, 2], center - [[0.25, 0]] * size)
    assert joints is None
    assert scores.shape == (2, 65)
    assert set(params) == {*PARAMS, "cam"}
    assert np.allclose(params["cam"], [[2 * 5000 / 256 / 40, 0.1, 0.2]] * 2)
    assert (skeleton_of(65), len(SMPLERX65.joints), len(set(SMPLERX65.joints))) == (SMPLERX65, 65, 65)
    assert all(sum(i == j for pair in SMPLERX65.limbs for j in pair) for i in range(65))


def predicted(home: Path, tmp_path: Path, *args: Any, env: dict[str, str] | None = None) -> Any:
    picture = home / "people" / "pictures" / "a.jpg"
    return hmrbench("predict", "smplerx-s", picture, "--weights", "random", "--device", "cpu", "-o", tmp_path, *args,
                    "--json", env=env)  # fmt: skip


def test_predict_draws_smplxs_mesh(home: Path, tmp_path: Path, installed: Path) -> None:
    ran = predicted(home, tmp_path, "--save-mesh", "npz", "--side-view")
    assert ran.exit_code == 0, ran.stderr
    row = json.loads(ran.stdout)[0]
    assert (row["body"], row["remarks"]) == ("smplx.npz", [])
    assert row["joint_names"] == list(SMPLERX65.joints)
    person = row["people"][0]
    shapes = {name: np.shape(person[name]) for name in ("keypoints_px", "joints_m", *PARAMS)}
    assert shapes == {
        "keypoints_px": (65, 2), "joints_m": (55, 3), "global_orient": (1, 3), "body_pose": (21, 3), "jaw_pose": (1, 3),
        "left_hand_pose": (15, 3), "right_hand_pose": (15, 3), "betas": (10,), "expression": (10,),
    }  # fmt: skip
    assert person["keypoint_scores"] is None
    params = {k: torch.tensor(person[k], dtype=torch.float32)[None] for k in PARAMS}
    params = {k: geometry.axis_angle_to_matrix(x) if x.ndim == 3 else x for k, x in params.items()}
    with torch.no_grad():
        vertices, joints = find_whole_body()(params)
    with np.load(tmp_path / person["mesh"]) as mesh:
        assert mesh["vertices_m"].shape == (10475, 3)
        assert np.abs(mesh["vertices_m"] - vertices[0].numpy() - person["translation_m"]).max() < 1e-3
        assert np.array_equal(mesh["faces"], find_whole_body().faces)
    assert np.abs(np.array(person["joints_m"]) - joints[0].numpy()).max() < 1e-3
    drawn = cv2.imread(str(tmp_path / "a-smplerx-s.png"))
    assert drawn.shape[1] > 320  # with the side view
    obj = predicted(home, tmp_path / "obj", "--save-mesh", "obj")
    lines = (tmp_path / "obj" / json.loads(obj.stdout)[0]["people"][0]["mesh"]).read_text().splitlines()
    assert sum(line.startswith("v ") for line in lines) == 10475


def test_predict_without_any_body_gives_parameters_and_joints(home: Path, tmp_path: Path) -> None:
    env = {"HMRBENCH_CACHE": str(tmp_path / "empty")}
    ran = predicted(home, tmp_path / "out", env=env)
    assert ran.exit_code == 0, ran.stderr
    assert "hmrbench body install SMPLX_NEUTRAL.npz" in " ".join(ran.stderr.split())
    row = json.loads(ran.stdout)[0]
    person = row["people"][0]
    assert "body" not in row
    assert person["joints_m"] is None
    assert np.shape(person["keypoints_px"]) == (65, 2)
    assert np.isfinite(person["keypoints_px"]).all()
    assert np.shape(person["left_hand_pose"]) == (15, 3)
    picture = cv2.imread(str(home / "people" / "pictures" / "a.jpg"))
    assert (cv2.imread(str(tmp_path / "out" / "a-smplerx-s.png")) != picture).any()
    for args in (("--save-mesh", "obj"), ("--side-view",), ("--body", "smplx")):
        refused = predicted(home, tmp_path / "no", *args, env=env)
        assert refused.exit_code == 3
        assert "https://smpl-x.is.tue.mpg.de" in refused.stderr
        assert not (tmp_path / "no").exists()


def test_predict_with_smpl_alone_is_an_approximation_and_says_so(home: Path, tmp_path: Path, cache: Path) -> None:
    ran = predicted(home, tmp_path, "--save-mesh", "ply")
    assert ran.exit_code == 0, ran.stderr
    assert "approximation" in ran.stderr
    row = json.loads(ran.stdout)[0]
    assert row["body"] == "smpl.npz"
    assert "approximation" in row["remarks"][0]
    assert b"element vertex 6890\n" in (tmp_path / row["people"][0]["mesh"]).read_bytes()


def test_smplx_is_for_networks_that_predict_it(home: Path, tmp_path: Path, installed: Path) -> None:
    picture = home / "people" / "pictures" / "a.jpg"
    ran = hmrbench("predict", "spin-r50", picture, "--weights", "random", "--body", "smplx", "-o", tmp_path)
    assert ran.exit_code == 2
    assert "predicts no SMPL-X" in ran.stderr
    with pytest.raises(UsageError, match="unknown body 'smplx'"):  # no data set is measured with it
        evaluation.prepare("spin-r50", spec_of(home).model_copy(update={"options": {"body": "smplx"}}))


# --------------------------------------------------------------------------- scores


def evaluated(home: Path, tmp_path: Path, *args: Any) -> dict[str, Any]:
    ran = hmrbench("eval", "smplerx-s", "--weights", "random", "--device", "cpu", "--runs", tmp_path, *args,
                   *common(home))  # fmt: skip
    assert ran.exit_code == 0, ran.stderr
    row: dict[str, Any] = json.loads(ran.stdout)[0]
    return row


def test_scores_are_of_joints_and_smplxs_rule_takes_smplxs(home: Path, tmp_path: Path, installed: Path) -> None:
    file = tmp_path / "p.npz"
    row = evaluated(home, tmp_path / "r", "--protocol", "all", "--save-predictions", file)
    assert not [name for name in row["metrics"] if name.startswith("PVE")]
    assert {"MPJPE", "MPJPE@metro", "MPJPE@spin", "MPJPE@smplerx", "MPJPE@smpl24", "PCK@0.1"} <= set(row["metrics"])
    assert any("no PVE" in remark for remark in row["remarks"])
    assert any("approximation" in remark for remark in row["remarks"])
    said = row["protocol"]
    assert said["whole_body"] == "smplx.npz"
    assert said["rules"]["smplerx"]["predicted"] == "SMPL-X's tree, regressed from its mesh"
    assert said["rules"]["smpl24"]["predicted"] == "SMPL's tree, regressed from the mesh"
    again = scored(home, file, "--protocol", "all")
    assert again["metrics"] == pytest.approx(row["metrics"], abs=1e-3)
    with np.load(file) as arrays:
        params = {name: arrays[f"params.smplx_{name}"] for name in PARAMS if f"params.smplx_{name}" in arrays}
        params |= {"global_orient": arrays["params.global_orient"], "body_pose": arrays["params.body_pose"][:, :21]}
        tree = arrays["params.joints22_m"]
    assert set(params) == set(PARAMS)
    body = find_whole_body()
    with torch.no_grad():
        vertices = body({k: torch.from_numpy(x) for k, x in params.items()})[0]
    assert np.allclose(tree, body.tree_of(vertices).numpy(), atol=1e-5)
    own = scored(home, saved(tmp_path / "v.npz", vertices_m=vertices.numpy()), "--protocol", "smplerx")
    assert own["metrics"]["MPJPE@smplerx"] == pytest.approx(row["metrics"]["MPJPE@smplerx"], abs=1e-2)


def test_without_smplx_both_sides_of_its_rule_are_smpl(home: Path, tmp_path: Path, cache: Path) -> None:
    row = evaluated(home, tmp_path, "--protocol", "smplerx")
    assert row["protocol"]["rules"]["smplerx"]["predicted"] == "SMPL's tree, regressed from the mesh"
    assert "whole_body" not in row["protocol"]
    assert set(row["metrics"]) == {"MPJPE@smplerx", "PA-MPJPE@smplerx"}


def test_smplxs_joints_equal_to_the_truth_are_perfect(home: Path, tmp_path: Path, cache: Path) -> None:
    """SMPL's tree has the same first 22; where in space they are matters to nobody."""
    tree = np.einsum("jv,nvc->njc", made_body()["J_regressor"], posed(find_body("smpl"))) + np.array([1.0, 2.0, 30.0])
    row = scored(home, saved(tmp_path / "p.npz", joints22_m=tree[:, :22]), "--protocol", "smplerx")
    assert max(row["metrics"].values()) < 5e-3
    assert "SMPL-X's own" in row["protocol"]["rules"]["smplerx"]["regressor"]
    row = scored(home, saved(tmp_path / "q.npz", joints24_m=tree), "--protocol", "smpl24")
    assert max(row["metrics"].values()) < 5e-3


def test_smplxs_vertices_say_nothing_of_smpls_joints(home: Path, tmp_path: Path, cache: Path) -> None:
    file = saved(tmp_path / "p.npz", vertices_m=np.ones((3, 10475, 3)))
    ran = hmrbench("score", file, *common(home))
    assert ran.exit_code == 3
    assert "SMPL-X's, not SMPL's" in ran.stderr
    assert "--protocol smplerx" in ran.stderr
    ran = hmrbench("score", file, "--protocol", "all", *common(home))
    assert ran.exit_code == 3
    assert "body install SMPLX_NEUTRAL.npz" in ran.stderr
