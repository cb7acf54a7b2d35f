"""The free body as the generator needs it: shape, joints, skinning, and where its parts lie.

Rest frame of the body: metres, T-pose, y up, facing +z, the person's left at +x. Kinematic tree and the order
of the 24 joints are SMPL's (Loper et al. 2015). Betas are the free body's own, not SMPL's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from hmrbench.errors import DataError
from hmrbench.records import Array
from hmrbench_synth import raster

BODY_FILE = Path(str(resources.files("hmrbench"))) / "body" / "assets" / "free_body.npz"

PELVIS, SPINE1, SPINE2, SPINE3, NECK, HEAD = 0, 3, 6, 9, 12, 15
HIP, KNEE, ANKLE, FOOT = 1, 4, 7, 10  # of the left side; the right one is the next index
COLLAR, SHOULDER, ELBOW, WRIST, HAND = 13, 16, 18, 20, 22
# OpenPose's 25 joints among SMPL's 24 joints and the 11 vertices after them (4D-Humans, `smpl_wrapper.py`).
OPENPOSE_ORDER = (24, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34)
COCO = 17  # the first rows of the keypoint regressor; big toes, small toes and heels follow (left, right)
BETA_SCALE = np.array([0.75] + [1.0] * 9)  # the first component spreads heights too far


@dataclass(frozen=True)
class Body:
    """The free body's arrays in float64, and a few quantities that depend on them alone.

    `bones`, `weights` (V, K) are the skinning weights without their zeros. `hull` (V, 3) is what a taut cloth
    adds to the template: it fills hollows and never cuts in. `part` (V,) is the joint that moves a vertex
    most.
    """

    template: Array
    shapedirs: Array
    faces: Array
    parents: tuple[int, ...]
    bones: Array
    weights: Array
    joints: Array
    joint_dirs: Array
    keypoint_rows: tuple[tuple[Array, Array], ...]
    keypoints: Array
    extra_rows: tuple[tuple[Array, Array], ...]
    joint_vertices: Array
    part: Array
    hull: Array
    masks: dict[str, Array]


@cache
def load_body(path: Path = BODY_FILE) -> Body:
    """Read the free body once per process; DataError when the file is missing or lacks an array."""
    try:
        with np.load(path, allow_pickle=False) as file:
            raw = {key: file[key] for key in file.files}
        template = raw["v_template"].astype(np.float64)
        shapedirs = raw["shapedirs"].astype(np.float64)
        faces = raw["f"].astype(np.int64)
        dense = raw["weights"].astype(np.float64)
        regressor = raw["J_regressor"].astype(np.float64)
        keypoint_regressor = raw["coco_regressor"].astype(np.float64)
        extra_regressor = raw["joint_regressor_extra"].astype(np.float64)
        joint_vertices = raw["joint_vertices"].astype(np.int64)
        parents = tuple(int(p) for p in raw["kintree_table"][0])
        masks = {key: raw[name] > 0.5 for key, name in (("eye", "is_eye"), ("lips", "m_lips"), ("ears", "m_ears"))}
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: not the free body's npz file ({error})") from error
    most = int((dense > 0).sum(1).max())
    bones = np.ascontiguousarray(np.argsort(-dense, axis=1, kind="stable")[:, :most])
    weights = np.take_along_axis(dense, bones, axis=1)
    rows = _sparse(keypoint_regressor)
    smooth = raster.laplacian(template, faces, 30)
    normals = raster.vertex_normals(template, faces)
    bulge = np.maximum(0.0, ((smooth - template) * normals).sum(1))
    return Body(
        template=template,
        shapedirs=shapedirs,
        faces=faces,
        parents=(-1, *parents[1:]),
        bones=bones,
        weights=weights,
        joints=np.einsum("jv,vc->jc", regressor, template),
        joint_dirs=np.einsum("jv,vcb->jcb", regressor, shapedirs),
        keypoint_rows=rows,
        keypoints=regress(rows, template),
        extra_rows=_sparse(extra_regressor),
        joint_vertices=joint_vertices,
        part=dense.argmax(1),
        hull=raster.laplacian(bulge[:, None] * normals, faces, 4),
        masks=masks,
    )


def _sparse(regressor: Array) -> tuple[tuple[Array, Array], ...]:
    """Vertices and weights of each row that are not zero."""
    return tuple((np.flatnonzero(row), row[np.flatnonzero(row)]) for row in regressor)


def joints44(body: Body, vertices: Array, joints: Array) -> Array:
    """The 44 joints of 4D-Humans (44, 3) from posed vertices and SMPL joints: OpenPose's 25, then 19
    regressed ones.
    """
    found = np.concatenate([joints, vertices[body.joint_vertices]])[list(OPENPOSE_ORDER)]
    return np.concatenate([found, regress(body.extra_rows, vertices)])


def regress(rows: tuple[tuple[Array, Array], ...], vertices: Array) -> Array:
    """Points (R, 3) that are fixed weighted means of vertices (V, 3)."""
    return np.stack([(vertices[index] * weight[:, None]).sum(0) for index, weight in rows])


def shaped(body: Body, betas: Array) -> tuple[Array, Array]:
    """Rest vertices (V, 3) and rest joints (24, 3) of one shape, betas (10,)."""
    return (
        body.template + np.einsum("vcb,b->vc", body.shapedirs, betas),
        body.joints + np.einsum("jcb,b->jc", body.joint_dirs, betas),
    )


def forward(parents: tuple[int, ...], rotations: Array, rest: Array) -> tuple[Array, Array]:
    """Forward kinematics: local rotations (24, 3, 3), rest joints (24, 3) to global rotations and posed
    joints.
    """
    turned, joints = np.empty_like(rotations), np.empty_like(rest)
    turned[0], joints[0] = rotations[0], rest[0]
    for j, p in enumerate(parents[1:], start=1):
        turned[j] = turned[p] @ rotations[j]
        joints[j] = joints[p] + turned[p] @ (rest[j] - rest[p])
    return turned, joints


def bone_transforms(body: Body, rotations: Array, rest: Array) -> tuple[Array, Array, Array]:
    """Rotation (24, 3, 3) and offset (24, 3) of each bone for `raster.skin`, and the posed joints (24, 3)."""
    turned, joints = forward(body.parents, rotations, rest)
    return turned, joints - np.einsum("jab,jb->ja", turned, rest), joints


def to_matrices(axis_angle: Array) -> Array:
    """Rotation vectors (N, 3) in radians to matrices (N, 3, 3)."""
    return np.ascontiguousarray(Rotation.from_rotvec(axis_angle).as_matrix())


def to_axis_angle(matrices: Array) -> Array:
    """Matrices (N, 3, 3) to rotation vectors (N, 3), rounded to 1e-6: every machine stores the same ones."""
    return np.asarray(np.round(Rotation.from_matrix(matrices).as_rotvec(), 6))


def euler(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Array:
    """Rz @ Ry @ Rx for angles in degrees, (3, 3)."""
    return np.asarray(Rotation.from_euler("xyz", (x, y, z), degrees=True).as_matrix())
