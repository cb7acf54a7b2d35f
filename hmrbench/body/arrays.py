"""A body model in SMPL's format, as arrays: read from every form in which it is passed around, and checked.

The names are those of the official files (Loper et al. 2015), and of the buffers in HMR2.0 checkpoints
(repository shubham-goel/4D-Humans, MIT licence).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmrbench import files
from hmrbench.body.unpickle import read_pickle
from hmrbench.errors import DataError
from hmrbench.records import Array

JOINTS = 24
BETAS = 10
POSE_BASES = 9 * (JOINTS - 1)
EXTRA = 19  # regressed joints
SMPL_VERTICES = 6890

# Vertices of SMPL's mesh at the nose, right and left eye, right and left ear, left big toe, small toe, heel,
# right big toe, small toe, heel: those of the smplx package (`vertex_ids.py`), in the order in which it
# appends them.
SMPL_JOINT_VERTICES = (332, 6260, 2800, 4071, 583, 3216, 3226, 3387, 6617, 6624, 6787)

# OpenPose's 25 joints among SMPL's 24 joints and these 11 vertices, as in `hmr2/models/smpl_wrapper.py`.
OPENPOSE_ORDER = (24, 12, 17, 19, 21, 16, 18, 20, 0, 2, 5, 8, 1, 4, 7, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34)

# Names in checkpoints (without their prefix `smpl.`) -> names in files.
_CHECKPOINT_NAMES = {
    "lbs_weights": "weights",
    "faces_tensor": "f",
    "parents": "kintree_table",
    "vertex_joint_selector.extra_joints_idxs": "joint_vertices",
}
_FAMILIES = {  # by the number of their joints
    52: "SMPL-H (52 joints)",
    55: "SMPL-X (55 joints)",
    5: "FLAME (5 joints)",
    16: "MANO (16 joints)",
    33: "SMAL (33 joints)",
}
_REQUIRED = ("v_template", "shapedirs", "J_regressor", "weights", "f", "kintree_table")


@dataclass(frozen=True)
class BodyArrays:
    """A body with V vertices; float32, metres, rest pose with y up.

    `v_template` (V, 3), `shapedirs` (V, 3, 10), `posedirs` (V, 3, 207) or None where there are none,
    `J_regressor` (24, V), `weights` (V, 24), `faces` (F, 3), `parents` (24,) with -1 for the root.
    `joint_vertices` (11,) and `joint_regressor_extra` (19, V) complete the 44-joint set of 4D-Humans; None
    where they are not known.
    """

    v_template: Array
    shapedirs: Array
    posedirs: Array | None
    J_regressor: Array
    weights: Array
    faces: Array
    parents: Array
    joint_vertices: Array | None
    joint_regressor_extra: Array | None
    source: str

    @property
    def sha256(self) -> str:
        """Hash of the arrays: the same for the same body in whichever file format, regressors included."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return arrays_sha256({name: value for name, value in values.items() if isinstance(value, np.ndarray)})


def arrays_sha256(arrays: Mapping[str, Array]) -> str:
    """Hash of arrays with their names and shapes, in their order."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def read_body(
    source: str | Path | Mapping[str, Any], regressor: str | Path | None = None, name: str | None = None
) -> BodyArrays:
    """A body from an official `.pkl`, an `.npz`, or a mapping of arrays or tensors.

    Args:
        source: the file; or arrays by name; or the state dict of an HMR2.0 checkpoint, of which the `smpl.*`
            entries are used.
        regressor: file of the 19 extra joints (`SMPL_to_J19.pkl`), where the body does not hold them.
        name: the file that a mapping came from, for messages.

    Raises:
        DataError: the file cannot be read, a part is missing, there are not 24 joints or fewer than 10 betas,
            or the parts are of different topologies.
    """
    name = str(source) if isinstance(source, (str, Path)) else name or "body"
    content = dict(source) if isinstance(source, Mapping) else read_arrays(Path(source))
    if any(key.startswith("smpl.") for key in content):
        content = {key.removeprefix("smpl."): v for key, v in content.items() if key.startswith("smpl.")}
    parts = {_CHECKPOINT_NAMES.get(key, key): _numpy(value) for key, value in content.items()}
    if regressor is not None:
        parts["joint_regressor_extra"] = read_regressor(regressor)
    missing = [part for part in _REQUIRED if part not in parts]
    family = _FAMILIES.get(len(np.atleast_1d(parts["J_regressor"]))) if "J_regressor" in parts else None
    if family or "hands_componentsl" in parts or "hands_meanl" in parts:
        raise DataError(f"{name}: this is {family or 'SMPL-H or a later body, with hands'}, not SMPL")
    if missing:
        raise DataError(f"{name}: no body in SMPL's format, it lacks {', '.join(missing)}")
    return BodyArrays(**_geometry(name, parts), **_indices(name, parts), source=name)


def read_arrays(path: Path) -> dict[str, Any]:
    """Arrays and texts by name in a `.pkl`, `.npz` or `.npy` file; an array without a name is called `array`."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    suffix = path.suffix.lower()
    if suffix in (".pkl", ".pickle"):
        content = read_pickle(path)
        return content if isinstance(content, dict) else {"array": content}
    if suffix == ".npz":
        return files.read_arrays(path, "a body file")
    if suffix == ".npy":
        return {"array": files.read_npy(path, "a body file")}
    raise DataError(f"{path}: a body is a .pkl or .npz file, or lies in a checkpoint")


def read_regressor(path: str | Path) -> Array:
    """The regressor of the 19 extra joints (19, V) from `SMPL_to_J19.pkl`, or the same as .npy or .npz."""
    content = read_arrays(Path(path))
    array = content.get("array", content.get("joint_regressor_extra"))
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[0] != EXTRA:
        raise DataError(f"{path}: no regressor of {EXTRA} joints")
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise DataError(f"{path}: the regressor is not finite numbers")
    return np.asarray(array, np.float32)


def _numpy(value: Any) -> Array:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    value = value.detach().cpu()
    return np.asarray(value.float() if value.dtype == torch.bfloat16 else value)


def _geometry(name: str, parts: Mapping[str, Array]) -> dict[str, Any]:
    """The arrays of real numbers, float32, if they fit each other."""
    joints, vertices = len(np.atleast_1d(parts["J_regressor"])), len(np.atleast_1d(parts["v_template"]))
    if joints != JOINTS:
        raise DataError(f"{name}: {joints} joints, not {JOINTS}: this is not a body in SMPL's format")
    shapedirs, posedirs = parts["shapedirs"], parts.get("posedirs")
    if shapedirs.ndim != 3 or shapedirs.shape[-1] < BETAS:
        raise DataError(f"{name}: shapedirs {shapedirs.shape} has fewer than {BETAS} betas")
    if posedirs is not None and posedirs.shape == (POSE_BASES, 3 * vertices):  # as in a checkpoint
        posedirs = posedirs.T.reshape(vertices, 3, POSE_BASES)
    expected = {
        "v_template": (parts["v_template"], (vertices, 3)),
        "shapedirs": (shapedirs[..., :BETAS], (vertices, 3, BETAS)),
        "posedirs": (posedirs, (vertices, 3, POSE_BASES)),
        "J_regressor": (parts["J_regressor"], (JOINTS, vertices)),
        "weights": (parts["weights"], (vertices, JOINTS)),
        "joint_regressor_extra": (parts.get("joint_regressor_extra"), (EXTRA, vertices)),
    }
    return real_arrays(name, expected)


def real_arrays(name: str, expected: Mapping[str, tuple[Array | None, tuple[int, ...]]]) -> dict[str, Array | None]:
    """Arrays of a body as finite float32 numbers, each of the shape that stands beside it; None where there is none.

    Raises:
        DataError: one is of another shape, or of other numbers; `name` names the body.
    """
    found: dict[str, Array | None] = {}
    for part, (array, shape) in expected.items():
        if array is not None:
            if array.shape != shape:
                why = "the parts are of different topologies"
                raise DataError(f"{name}: {part} is {array.shape}, not {shape}: {why}")
            if array.dtype.kind not in "biuf":
                raise DataError(f"{name}: {part} is not finite numbers but {array.dtype}")
            with np.errstate(over="ignore", invalid="ignore"):
                array = np.ascontiguousarray(array, np.float32)
            if not np.isfinite(array).all():
                raise DataError(f"{name}: {part} is not finite")
        found[part] = array
    return found


def _indices(name: str, parts: Mapping[str, Array]) -> dict[str, Any]:
    """Triangles, kinematic tree and picked vertices, int64, if they point at what is there."""
    vertices = len(parts["v_template"])
    picked = parts.get("joint_vertices")
    if picked is None and vertices == SMPL_VERTICES:
        picked = np.array(SMPL_JOINT_VERTICES)
    if picked is not None:
        if picked.ndim != 1 or len(picked) < len(SMPL_JOINT_VERTICES):
            raise DataError(f"{name}: joint_vertices is {picked.shape}, not {len(SMPL_JOINT_VERTICES)} vertices")
        picked = picked[: len(SMPL_JOINT_VERTICES)]  # a checkpoint's list goes on with the finger tips
    faces = faces_of(name, parts["f"], vertices)
    if picked is not None:
        _check_places(name, "joint_vertices", picked, vertices)
    parents = parents_of(name, parts["kintree_table"], JOINTS)
    if "joint_map" in parts and not np.array_equal(parts["joint_map"], OPENPOSE_ORDER):
        raise DataError(f"{name}: joint_map is not that of 4D-Humans: the joints would be mixed up")
    return {
        "faces": faces,
        "parents": parents,
        "joint_vertices": None if picked is None else picked.astype(np.int64),
    }


def faces_of(name: str, faces: Array, vertices: int) -> Array:
    """The triangles (F, 3) int64 of a mesh of so many vertices.

    Raises:
        DataError: they are none, or point at others.
    """
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise DataError(f"{name}: f is {faces.shape}, not triangles (F, 3)")
    _check_places(name, "f", faces, vertices)
    return faces.astype(np.int64)


def _check_places(name: str, part: str, index: Array, vertices: int) -> None:
    if index.dtype.kind not in "iu" or index.size == 0 or index.min() < 0 or index.max() >= vertices:
        raise DataError(f"{name}: {part} points at vertices that are not there: it is of another topology")


def parents_of(name: str, kintree_table: Array, joints: int) -> Array:
    """The parent of each joint (joints,) int64, -1 for the root.

    Raises:
        DataError: the table is no tree of so many joints.
    """
    tree = np.atleast_2d(kintree_table)
    parents = tree[0].astype(np.int64) if tree.dtype.kind in "iuf" and tree.size else np.zeros(0, np.int64)
    if parents.shape != (joints,) or any(not 0 <= parent < j for j, parent in enumerate(parents) if j):
        raise DataError(f"{name}: kintree_table is no tree of {joints} joints")
    return np.concatenate(([-1], parents[1:]))
