"""Bodies of random shape, in SMPL's format, for tests."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.transform import Rotation

PARENTS = np.array([-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21])


def make_parts(vertices=80, seed=0, extra=True):
    """A body of random shape, in SMPL's format."""
    rng = np.random.default_rng(seed)
    sparse = rng.dirichlet(np.full(6, 0.5), 19)
    regressor = np.zeros((19, vertices))
    for row, values in zip(regressor, sparse, strict=True):
        row[rng.choice(vertices, 6, replace=False)] = values
    parts = {
        "v_template": rng.normal(0, 0.4, (vertices, 3)),
        "shapedirs": rng.normal(0, 0.02, (vertices, 3, 10)),
        "posedirs": rng.normal(0, 0.01, (vertices, 3, 207)),
        "J_regressor": rng.dirichlet(np.full(vertices, 0.1), 24),
        "weights": rng.dirichlet(np.full(24, 0.1), vertices),
        "f": rng.integers(0, vertices, (40, 3)).astype(np.uint32),
        "kintree_table": np.stack([PARENTS % 2**32, np.arange(24)]).astype(np.uint32),
        "joint_vertices": rng.choice(vertices, 11, replace=False),
        "joint_regressor_extra": regressor,
    }
    return parts if extra else {k: v for k, v in parts.items() if not k.startswith("joint_")}


def smpl_sized(**changes):
    """Arrays of SMPL's size (not SMPL)."""
    rng = np.random.default_rng(1)
    parts = {
        "v_template": rng.normal(0, 0.4, (6890, 3)),
        "shapedirs": rng.normal(0, 0.02, (6890, 3, 10)),
        "J_regressor": np.eye(24, 6890),
        "weights": np.eye(24)[rng.integers(0, 24, 6890)],
        "f": rng.integers(0, 6890, (100, 3)),
        "kintree_table": np.stack([PARENTS, np.arange(24)]),
    }
    return {**parts, **changes}


# Of SMPL-X: SMPL's first 22, jaw and eyes at the head, three joints of five fingers at each wrist.
FINGERS = [wrist if i % 3 == 0 else first + i - 1 for wrist, first in ((20, 25), (21, 40)) for i in range(15)]
SMPLX_PARENTS = np.array([*PARENTS[:22], 15, 15, 15, *FINGERS])


def smplx_sized(directions=20, **changes):
    """Arrays in the layout of SMPLX_NEUTRAL.npz, all of them (not SMPL-X); newer files have 400 directions."""
    rng = np.random.default_rng(2)
    near = rng.integers(0, 55, 10475)
    weights = 0.7 * np.eye(55)[near] + 0.3 * np.eye(55)[(near + 1) % 55]
    shapedirs = np.zeros((10475, 3, directions), np.float32)
    used = (*range(10), *range(directions - (100 if directions == 400 else 10), directions))[:20]
    shapedirs[..., list(used)] = rng.normal(0, 0.01, (10475, 3, 20))
    regressor = np.zeros((55, 10475))
    for joint in range(55):
        regressor[joint, 190 * joint : 190 * joint + 10] = 0.1
    parts = {
        "v_template": rng.normal(0, 0.4, (10475, 3)),
        "shapedirs": shapedirs,
        "posedirs": rng.normal(0, 0.001, (10475, 3, 486)).astype(np.float32),
        "J_regressor": regressor,
        "weights": weights,
        "f": rng.integers(0, 10475, (400, 3)).astype(np.uint32),
        "kintree_table": np.stack([SMPLX_PARENTS % 2**32, np.arange(55)]).astype(np.uint32),
        **{f"hands_mean{side}": rng.normal(0, 0.3, 45) for side in "lr"},
        **{f"hands_components{side}": np.eye(45) for side in "lr"},
        **{f"hands_coeffs{side}": np.zeros((10, 45)) for side in "lr"},
        "lmk_faces_idx": np.zeros(51, np.int64),
        "lmk_bary_coords": np.full((51, 3), 1 / 3),
        "dynamic_lmk_faces_idx": np.zeros((79, 17), np.int64),
        "dynamic_lmk_bary_coords": np.full((79, 17, 3), 1 / 3),
        "vt": np.zeros((20, 2)),
        "ft": np.zeros((400, 3), np.uint32),
        "joint2num": np.array({"Pelvis": 0}, object),
        "part2num": np.array({"Hips": 0}, object),
    }
    return {**parts, **changes}


def random_pose(n, seed=0):
    rng = np.random.default_rng(seed)
    R = Rotation.from_rotvec(rng.normal(0, 0.6, (24 * n, 3))).as_matrix().reshape(n, 24, 3, 3)
    return R, rng.normal(0, 1.5, (n, 10))


def pose(body, R, betas, **options):
    dtype = body.mesh.v_template.dtype
    R, betas = torch.tensor(R, dtype=dtype), torch.tensor(betas, dtype=dtype)
    return body(R[:, :1], R[:, 1:], betas, **options)
