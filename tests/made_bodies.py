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


def random_pose(n, seed=0):
    rng = np.random.default_rng(seed)
    R = Rotation.from_rotvec(rng.normal(0, 0.6, (24 * n, 3))).as_matrix().reshape(n, 24, 3, 3)
    return R, rng.normal(0, 1.5, (n, 10))


def pose(body, R, betas, **options):
    dtype = body.mesh.v_template.dtype
    R, betas = torch.tensor(R, dtype=dtype), torch.tensor(betas, dtype=dtype)
    return body(R[:, :1], R[:, 1:], betas, **options)
