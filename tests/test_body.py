"""Posing bodies: against a slow version and against smplx; the free body; installation."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import reference
import smplx
import torch
from made_bodies import PARENTS, make_parts, pose, random_pose, smpl_sized

from hmrbench.body import Body, find_body, free_body, install_body, load_body, read_body
from hmrbench.body.arrays import SMPL_JOINT_VERTICES
from hmrbench.body.install import ASSETS, body_folder
from hmrbench.errors import DataError, UsageError
from hmrbench.skeletons import HMR44, HMR44_EVAL14, SMPL24

# --- posing


@pytest.mark.parametrize("update_hips", [False, True])
@pytest.mark.parametrize("source", ["random", "free-lite", "free"])
def test_equal_the_slow_version(source, update_hips):
    """Joints and vertices to a micrometre, in the joint set of 4D-Humans."""
    files = {"free": "free_body.npz", "free-lite": "free_body_lite.npz"}
    arrays = read_body(make_parts() if source == "random" else ASSETS / files[source])
    R, betas = random_pose(3)
    body = Body(arrays, update_hips)
    out = pose(body, R, betas, vertices=True)
    for i in range(3):
        vertices, joints = reference.pose_body(arrays, R[i], betas[i])
        assert np.abs(out.vertices[i].numpy() - vertices).max() < 1e-6
        assert np.abs(out.smpl_joints[i].numpy() - joints).max() < 1e-6
        expected = reference.joints44(arrays, vertices, joints, update_hips)
        assert np.abs(out.joints[i].numpy() - expected).max() < 1e-6
    exact = pose(body.double(), R[:1], betas[:1], vertices=True)
    vertices, _ = reference.pose_body(arrays, R[0], betas[0])
    assert np.abs(exact.vertices[0].numpy() - vertices).max() < 1e-6


def test_equal_smplx():
    parts = make_parts()
    ids = dict(zip(["nose", "reye", "leye", "rear", "lear"], parts["joint_vertices"][:5], strict=True))
    feet = ["LBigToe", "LSmallToe", "LHeel", "RBigToe", "RSmallToe", "RHeel"]
    ids |= dict(zip(feet, parts["joint_vertices"][5:], strict=True))
    struct = smplx.utils.Struct(**{**parts, "kintree_table": parts["kintree_table"].astype(np.int64)})
    theirs = smplx.SMPLLayer(model_path="", data_struct=struct, vertex_ids=ids, use_hands=False)
    R, betas = (torch.tensor(x, dtype=torch.float32) for x in random_pose(4))
    transl = torch.tensor([[0.1, 0.2, 3.0]]).repeat(4, 1)
    expected = theirs(betas=betas, body_pose=R[:, 1:], global_orient=R[:, :1], transl=transl)
    out = load_body(parts)(R[:, :1], R[:, 1:], betas, transl, vertices=True)
    assert (out.vertices - expected.vertices).abs().max() < 1e-6
    assert (out.smpl_joints - expected.joints[:, :24]).abs().max() < 1e-6
    openpose = expected.joints[
        :, [24, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34]
    ]
    assert (out.joints[:, :25] - openpose).abs().max() < 1e-6
    regressor = torch.tensor(parts["joint_regressor_extra"]).float()
    regressed = torch.einsum("jv,bvc->bjc", regressor, expected.vertices)
    assert (out.joints[:, 25:] - regressed).abs().max() < 1e-6


def test_vertices_only_on_demand_and_joints_do_not_depend_on_it():
    body = free_body(lite=True)
    R, betas = random_pose(2)
    with_mesh, without = pose(body, R, betas, vertices=True), pose(body, R, betas)
    assert without.vertices is None
    assert torch.equal(with_mesh.joints, without.joints)
    assert with_mesh.vertices.shape == (2, 1229, 3)
    assert body.faces.max() < 1229


def test_absent_pose_blend_shapes_are_zero():
    parts = make_parts()
    zero = {**parts, "posedirs": np.zeros_like(parts["posedirs"])}
    del parts["posedirs"]
    R, betas = random_pose(2)
    a, b = (pose(load_body(p), R, betas, vertices=True) for p in (parts, zero))
    assert torch.equal(a.vertices, b.vertices)


def test_only_the_first_ten_betas_are_used():
    parts = make_parts()
    more = np.concatenate((parts["shapedirs"], np.ones((80, 3, 290))), axis=2)
    assert read_body({**parts, "shapedirs": more}).sha256 == read_body(parts).sha256


def test_wrong_shapes_are_refused():
    body = load_body(make_parts())
    eye = torch.eye(3)
    with pytest.raises(DataError, match=r"body_pose is \(1, 22, 3, 3\), not \(1, 23, 3, 3\)"):
        body(eye.expand(1, 1, 3, 3), eye.expand(1, 22, 3, 3), torch.zeros(1, 10))
    with pytest.raises(DataError, match="betas"):
        body(eye.expand(1, 1, 3, 3), eye.expand(1, 23, 3, 3), torch.zeros(1, 9))


def test_a_body_without_the_extra_regressor_has_only_its_own_joints():
    body = load_body(make_parts(extra=False))
    R, betas = random_pose(1)
    out = pose(body, R, betas)
    assert out.joints is None
    assert out.smpl_joints.shape == (1, 24, 3)
    assert not body.has_joints


def test_precision_is_that_of_the_body():
    body, (R, betas) = free_body(lite=True), random_pose(2)
    R, betas = torch.tensor(R).bfloat16(), torch.tensor(betas).bfloat16()
    expected = body(R[:, :1].float(), R[:, 1:].float(), betas.float()).joints
    with torch.autocast("cpu", torch.bfloat16):
        found = body(R[:, :1], R[:, 1:], betas).joints
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


# --- the free body


@pytest.mark.parametrize("lite", [False, True])
def test_free_body_stands_like_a_person(lite):
    """The 44 joints are where their names say: y up, facing z, left is +x."""
    out = pose(free_body(lite), np.eye(3)[None, None].repeat(24, 1), np.zeros((1, 10)))
    at = dict(zip(HMR44.joints, out.joints[0].numpy(), strict=True))
    tree = dict(zip(SMPL24.joints, out.smpl_joints[0].numpy(), strict=True))
    for name, other in (
        ("right_ankle_extra", "right_ankle"),
        ("left_knee_extra", "left_knee"),
        ("left_wrist_extra", "left_wrist"),
        ("right_elbow_extra", "right_elbow"),
    ):
        assert np.linalg.norm(at[name] - at[other]) < 0.03
    assert np.linalg.norm(at["neck_lsp"] - tree["neck"]) < 2e-3
    assert np.linalg.norm(at["pelvis_mpii"] - tree["pelvis"]) < 0.06
    assert np.linalg.norm(at["spine_h36m"] - tree["spine2"]) < 2e-3
    order = ["left_heel", "left_knee", "pelvis_mpii", "thorax_mpii", "neck_lsp", "jaw_h36m", "head_h36m"]
    heights = [at[name][1] for name in [*order, "top_of_head_lsp"]]
    assert heights == sorted(heights)
    assert at["nose"][2] > at["left_eye"][2] > at["left_ear"][2]
    assert at["left_big_toe"][2] > at["left_ankle"][2] > at["left_heel"][2]
    for left, right in HMR44.flip_pairs:
        a, b = out.joints[0, left].numpy(), out.joints[0, right].numpy()
        assert HMR44.joints[left].replace("left", "right") == HMR44.joints[right]
        assert a[0] > 0
        assert np.abs(a * [-1, 1, 1] - b).max() < 5e-3


@pytest.mark.parametrize("name", ["free_body.npz", "free_body_lite.npz"])
def test_free_body_files(name):
    arrays = read_body(ASSETS / name)
    for rows in (arrays.weights, arrays.J_regressor, arrays.joint_regressor_extra):
        assert rows.sum(1) == pytest.approx(np.ones(len(rows)), abs=1e-5)
    assert arrays.joint_regressor_extra.min() >= 0
    assert np.array_equal(arrays.parents, PARENTS)
    notice = (ASSETS / "LICENSE-free-body.txt").read_text()
    assert all(word in notice for word in ("Apache License", "NAVER", "CC0", "MakeHuman", "not SMPL"))


def test_free_bodies_by_name():
    assert find_body("free-lite").sha256 == free_body(lite=True).sha256 != free_body().sha256
    with pytest.raises(UsageError, match="unknown body 'smplx'"):
        find_body("smplx")


# --- installation


def test_install_and_find(tmp_path):
    folder = tmp_path / "bodies"
    with pytest.raises(DataError) as missing:
        find_body("smpl", folder)
    words = ("SMPL body model", "licence", "smpl.is.tue.mpg.de", "hmrbench body install", "free body")
    assert all(word in str(missing.value) for word in words)
    assert missing.value.exit_code == 3
    parts = smpl_sized()
    np.savez(tmp_path / "smpl.npz", **parts)
    written = install_body(tmp_path / "smpl.npz", folder)
    with pytest.raises(DataError, match=r"SMPL_to_J19\.pkl"):
        find_body("smpl", folder)
    regressor = np.eye(19, 6890)
    (tmp_path / "J19.pkl").write_bytes(pickle.dumps(regressor))
    install_body(tmp_path / "J19.pkl", folder)
    body = find_body("smpl", folder)
    assert body.source == str(written)
    assert body.sha256 == read_body({**parts, "joint_regressor_extra": regressor}).sha256
    assert np.array_equal(read_body(parts).joint_vertices, SMPL_JOINT_VERTICES)
    out = pose(body, *random_pose(2))
    assert out.joints[:, HMR44_EVAL14].shape == (2, 14, 3)
    assert sorted(p.name for p in folder.iterdir()) == ["smpl.npz", "smpl_joints.npz"]


def test_install_from_a_state_dict_needs_no_regressor_file(tmp_path):
    parts = smpl_sized(joint_regressor_extra=np.eye(19, 6890))
    renamed = {"weights": "lbs_weights", "f": "faces_tensor"}
    state = {f"smpl.{renamed.get(k, k)}": torch.tensor(v) for k, v in parts.items() if k != "kintree_table"}
    state |= {"smpl.parents": torch.tensor(PARENTS), "smpl_head.init_cam": torch.zeros(1, 3)}
    install_body(state, tmp_path)
    assert find_body("smpl", tmp_path).sha256 == read_body(parts).sha256


def test_only_smpl_is_installed_as_smpl(tmp_path):
    np.savez(tmp_path / "small.npz", **make_parts())
    with pytest.raises(DataError, match="80 vertices; SMPL has 6890: this is another topology"):
        install_body(tmp_path / "small.npz", tmp_path / "bodies")
    (tmp_path / "J19.pkl").write_bytes(pickle.dumps(np.eye(19, 80)))
    with pytest.raises(DataError, match="for 80 vertices; SMPL has 6890"):
        install_body(tmp_path / "J19.pkl", tmp_path / "bodies")
    assert not (tmp_path / "bodies").exists()


def test_folder_of_installed_bodies(tmp_path, monkeypatch):
    monkeypatch.setenv("HMRBENCH_CACHE", str(tmp_path))
    assert body_folder() == tmp_path / "bodies"
    monkeypatch.delenv("HMRBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert body_folder() == tmp_path / "hmrbench" / "bodies"
