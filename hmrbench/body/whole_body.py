"""SMPL-X, the body with hands and a face: read from the official files, checked, and posed.

Pavlakos et al., "Expressive Body Capture: 3D Hands, Face, and Body from a Single Image", CVPR 2019. Names are those of
the official files, and what they mean is read in the smplx package (licensed for non-commercial research), whose
skinning poses it: the first 300 directions of a newer file are of shape and the others of expression, of an older one
the first 10; rotations of the hands are added to those of the mean hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hmrbench.body.arrays import BETAS, arrays_sha256, faces_of, parents_of, read_arrays, real_arrays
from hmrbench.body.model import SkinnedMesh
from hmrbench.errors import DataError
from hmrbench.geometry import axis_angle_to_matrix, matrix_to_axis_angle
from hmrbench.records import Array

JOINTS = 55
VERTICES = 10475
EXPRESSION = 10
SHAPE_SPACE, ALL_DIRECTIONS = 300, 400  # of newer files
HAND_JOINTS = 15
BODY_JOINTS = 22  # that SMPL has too, in the same order: the first ones
# In the order of the kinematic tree; the eyes, between jaw and hands, look straight ahead.
ROTATIONS = {"global_orient": 1, "body_pose": 21, "jaw_pose": 1, "eyes": 2, "left_hand_pose": 15, "right_hand_pose": 15}
PARAMS = (*(name for name in ROTATIONS if name != "eyes"), "betas", "expression")
_PARTS = (
    "v_template", "shapedirs", "posedirs", "J_regressor", "weights", "f", "kintree_table", "hands_meanl", "hands_meanr",
)  # fmt: skip


@dataclass(frozen=True)
class WholeBodyArrays:
    """SMPL-X with V vertices; float32, metres, rest pose with y up.

    `v_template` (V, 3), `shapedirs` (V, 3, 20), of shape and then of expression, `posedirs` (V, 3, 486), `J_regressor`
    (55, V), `weights` (V, 55), `hands_mean` (30, 3) rotation vectors of the left and the right hand, `faces` (F, 3),
    `parents` (55,) with -1 for the root.
    """

    v_template: Array
    shapedirs: Array
    posedirs: Array
    J_regressor: Array
    weights: Array
    hands_mean: Array
    faces: Array
    parents: Array
    source: str

    def as_npz(self) -> dict[str, Array]:
        """The arrays under the names of the official files, from which `read_whole_body` reads the same again."""
        left, right = self.hands_mean.reshape(2, -1)
        tree = np.stack((self.parents, np.arange(JOINTS)))
        others = {"f": self.faces, "kintree_table": tree, "hands_meanl": left, "hands_meanr": right}
        return {name: others[name] if name in others else getattr(self, name) for name in _PARTS}


def is_whole_body(content: Mapping[str, Any]) -> bool:
    """Whether the arrays of a file are those of SMPL-X, by its number of joints."""
    return "J_regressor" in content and np.shape(content["J_regressor"])[:1] == (JOINTS,)


def read_whole_body(source: str | Path | Mapping[str, Any], name: str | None = None) -> WholeBodyArrays:
    """SMPL-X from an official `.npz` or `.pkl`, or from a mapping of arrays.

    Raises:
        DataError: the file cannot be read, a part is missing, or the parts are of different topologies.
    """
    name = str(source) if isinstance(source, (str, Path)) else name or "body"
    content = dict(source) if isinstance(source, Mapping) else read_arrays(Path(source))
    if not is_whole_body(content):
        raise DataError(f"{name}: this is not SMPL-X, whose regressor J_regressor has {JOINTS} joints")
    if missing := [part for part in _PARTS if part not in content]:
        raise DataError(f"{name}: this is SMPL-X ({JOINTS} joints), but it lacks {', '.join(missing)}")
    parts = {part: np.asarray(content[part]) for part in _PARTS}
    vertices, directions = len(np.atleast_1d(parts["v_template"])), parts["shapedirs"]
    if vertices != VERTICES:
        raise DataError(f"{name}: {vertices:,} vertices; SMPL-X has {VERTICES:,}")
    if directions.ndim != 3 or directions.shape[-1] < BETAS + EXPRESSION:
        raise DataError(f"{name}: shapedirs {directions.shape} has fewer than {BETAS} betas and {EXPRESSION} of faces")
    first = SHAPE_SPACE if directions.shape[-1] >= ALL_DIRECTIONS else BETAS
    chosen = np.concatenate((directions[..., :BETAS], directions[..., first : first + EXPRESSION]), axis=2)
    found = real_arrays(
        name,
        {
            "v_template": (parts["v_template"], (VERTICES, 3)),
            "shapedirs": (chosen, (VERTICES, 3, BETAS + EXPRESSION)),
            "posedirs": (parts["posedirs"], (VERTICES, 3, 9 * (JOINTS - 1))),
            "J_regressor": (parts["J_regressor"], (JOINTS, VERTICES)),
            "weights": (parts["weights"], (VERTICES, JOINTS)),
            "hands_meanl": (parts["hands_meanl"], (3 * HAND_JOINTS,)),
            "hands_meanr": (parts["hands_meanr"], (3 * HAND_JOINTS,)),
        },
    )
    arrays: dict[str, Any] = dict(found)
    hands = [arrays.pop(hand).reshape(HAND_JOINTS, 3) for hand in ("hands_meanl", "hands_meanr")]
    return WholeBodyArrays(
        **arrays,
        hands_mean=np.concatenate(hands),
        faces=faces_of(name, parts["f"], VERTICES),
        parents=parents_of(name, parts["kintree_table"], JOINTS),
        source=name,
    )


class WholeBody(nn.Module):
    """SMPL-X. It computes in its own precision (float32), whatever that of the network.

    `sha256` is the hash of its arrays, `source` where they were read, `faces` (F, 3) its triangles.
    """

    _hands: Tensor

    def __init__(self, arrays: WholeBodyArrays) -> None:
        super().__init__()
        self.source = arrays.source
        self.faces = arrays.faces
        self.sha256 = arrays_sha256(arrays.as_npz())
        self._parents = torch.from_numpy(arrays.parents)  # stays on the CPU: smplx walks along it in Python
        self.mesh = SkinnedMesh(
            arrays.v_template, arrays.shapedirs, arrays.posedirs, arrays.J_regressor, arrays.weights
        )
        self.register_buffer("_hands", torch.from_numpy(arrays.hands_mean), persistent=False)

    def forward(self, params: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Posed vertices (B, V, 3) and joints of the tree (B, 55, 3) in metres, in the frame of the global orientation.

        Args:
            params: rotation matrices `global_orient` (B, 1, 3, 3), `body_pose` (B, 21, 3, 3), `jaw_pose` (B, 1, 3, 3),
                `left_hand_pose` and `right_hand_pose` (B, 15, 3, 3); `betas` and `expression` (B, 10).
        """
        shape = torch.cat((params["betas"], params["expression"]), dim=1)
        eyes = torch.eye(3, dtype=shape.dtype, device=shape.device).expand(len(shape), 2, 3, 3)
        dtype = self.mesh.v_template.dtype
        pose = torch.cat([params[name] if name != "eyes" else eyes for name in ROTATIONS], dim=1).to(dtype)
        with torch.autocast(shape.device.type, enabled=False):
            hands = matrix_to_axis_angle(pose[:, -2 * HAND_JOINTS :]) + self._hands
            pose = torch.cat((pose[:, : -2 * HAND_JOINTS], axis_angle_to_matrix(hands)), dim=1)
            found: tuple[Tensor, Tensor] = self.mesh(shape.to(dtype), pose, self._parents)
        return found

    def tree_of(self, vertices: Tensor) -> Tensor:
        """The joints that SMPL has too, regressed from a mesh: (B, V, 3) to (B, 22, 3).

        Raises:
            DataError: the mesh is of another topology.
        """
        if vertices.shape[1:] != (VERTICES, 3):
            raise DataError(f"a mesh of {tuple(vertices.shape[1:])}, and SMPL-X has ({VERTICES}, 3)")
        regressor = self.mesh.J_regressor[:BODY_JOINTS]
        return torch.einsum("jv,bvc->bjc", regressor, vertices.to(regressor.dtype))
