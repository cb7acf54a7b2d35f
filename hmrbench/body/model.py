"""Poses a body: parameters to joints, and to vertices where they are asked for.

Linear blend skinning is that of the smplx package (Loper et al. 2015; licensed for non-commercial research).
The joint set is that of 4D-Humans (repository shubham-goel/4D-Humans, MIT licence;
`hmr2/models/smpl_wrapper.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hmrbench.body.arrays import BETAS, EXTRA, JOINTS, OPENPOSE_ORDER, BodyArrays
from hmrbench.errors import DataError
from hmrbench.records import Array

_MID_HIP, _RIGHT_HIP, _LEFT_HIP = 8, 9, 12


@dataclass(frozen=True)
class BodyOutput:
    """A posed body in metres, in the frame of the global orientation.

    `joints` (B, 44, 3) is the joint set of 4D-Humans (`skeletons.HMR44`), None where the body lacks its
    regressor or vertices; `smpl_joints` (B, 24, 3) are the joints of the kinematic tree; `vertices` (B, V, 3)
    or None.
    """

    joints: Tensor | None
    smpl_joints: Tensor
    vertices: Tensor | None


class Body(nn.Module):
    """A body model in SMPL's format.

    Call it with rotation matrices `global_orient` (B, 1, 3, 3) and `body_pose` (B, 23, 3, 3), `betas` (B,
    10), and `transl` (B, 3) in metres or None; `vertices=True` also poses the whole mesh. Joints need few
    vertices, so only these are posed for them: their numbers do not depend on `vertices`. The body computes
    in its own precision (float32), whatever that of the network.

    Args:
        arrays: the body.
        update_hips: move OpenPose's hips to where Human3.6M has them (an option of 4D-Humans, off in its
            evaluation).

    `sha256` names body and regressors, `source` where they were read, `faces` (F, 3) its triangles.
    """

    _picked: Tensor
    _extra: Tensor
    _order: Tensor
    _needed: Tensor

    def __init__(self, arrays: BodyArrays, update_hips: bool = False) -> None:
        super().__init__()
        self.sha256 = arrays.sha256
        self.source = arrays.source
        self.faces = arrays.faces
        self.update_hips = update_hips
        self.has_joints = arrays.joint_vertices is not None and arrays.joint_regressor_extra is not None
        self._parents = torch.from_numpy(arrays.parents)  # stays on the CPU: smplx walks along it in Python
        self.mesh = SkinnedMesh(
            arrays.v_template, arrays.shapedirs, arrays.posedirs, arrays.J_regressor, arrays.weights
        )
        self.joint_mesh = self._mesh_for_joints(arrays)

    def _mesh_for_joints(self, arrays: BodyArrays) -> SkinnedMesh:
        """A small mesh: 24 points that are the joints at rest, then the vertices joints are read from."""
        needed = np.zeros(0, np.int64)
        if arrays.joint_vertices is not None and arrays.joint_regressor_extra is not None:
            used = np.flatnonzero((arrays.joint_regressor_extra != 0).any(0))
            needed = np.union1d(arrays.joint_vertices, used)
            place = JOINTS + np.searchsorted(needed, arrays.joint_vertices)
            self.register_buffer("_picked", torch.from_numpy(place), persistent=False)
            self.register_buffer("_needed", torch.from_numpy(needed), persistent=False)
            extra = torch.from_numpy(arrays.joint_regressor_extra[:, needed])
            self.register_buffer("_extra", extra, persistent=False)
            self.register_buffer("_order", torch.tensor(OPENPOSE_ORDER), persistent=False)
        regressor = arrays.J_regressor.astype(np.float64)
        rest, moves = regressor @ arrays.v_template, np.einsum("jv,vcs->jcs", regressor, arrays.shapedirs)
        posedirs = None
        if arrays.posedirs is not None:
            still = np.zeros((JOINTS, *arrays.posedirs.shape[1:]))
            posedirs = np.concatenate((still, arrays.posedirs[needed]))
        return SkinnedMesh(
            v_template=np.concatenate((rest, arrays.v_template[needed])),
            shapedirs=np.concatenate((moves, arrays.shapedirs[needed])),
            posedirs=posedirs,
            J_regressor=np.eye(JOINTS, JOINTS + len(needed)),
            weights=np.concatenate((np.eye(JOINTS), arrays.weights[needed])),
        )

    def forward(
        self,
        global_orient: Tensor,
        body_pose: Tensor,
        betas: Tensor,
        transl: Tensor | None = None,
        vertices: bool = False,
    ) -> BodyOutput:
        batch = len(betas)
        for name, value, shape in (
            ("global_orient", global_orient, (batch, 1, 3, 3)),
            ("body_pose", body_pose, (batch, JOINTS - 1, 3, 3)),
            ("betas", betas, (batch, BETAS)),
        ):
            if tuple(value.shape) != shape:
                raise DataError(f"body: {name} is {tuple(value.shape)}, not {shape}")
        dtype = self.mesh.v_template.dtype
        pose, betas = torch.cat((global_orient, body_pose), dim=1).to(dtype), betas.to(dtype)  # (B, 24, 3, 3)
        with torch.autocast(betas.device.type, enabled=False):
            return self._posed(pose, betas, transl, vertices)

    def _posed(self, pose: Tensor, betas: Tensor, transl: Tensor | None, vertices: bool) -> BodyOutput:
        points, smpl_joints = self.joint_mesh(betas, pose, self._parents)
        mesh = self.mesh(betas, pose, self._parents)[0] if vertices else None  # (B, V, 3)
        joints = self._all_joints(smpl_joints, points) if self.has_joints else None
        if transl is not None:
            smpl_joints = smpl_joints + transl[:, None]
            joints = None if joints is None else joints + transl[:, None]
            mesh = None if mesh is None else mesh + transl[:, None]
        return BodyOutput(joints=joints, smpl_joints=smpl_joints, vertices=mesh)

    def joints_of(self, vertices: Tensor) -> Tensor:
        """The 44 joints of a mesh that something else posed: (B, V, 3) to (B, 44, 3).

        Those of the kinematic tree are regressed from the mesh as it stands, which is not quite where the tree has
        them; the 19 extra ones, which MPJPE compares, are the same as of the parameters.

        Raises:
            DataError: the mesh is of another topology, or this body has no regressor of the 44 joints.
        """
        count = len(self.mesh.v_template)
        if vertices.shape[1:] != (count, 3):
            raise DataError(f"a mesh of {tuple(vertices.shape[1:])}, and the body {self.source} has ({count}, 3)")
        if not self.has_joints:
            raise DataError(f"{self.source}: this body has no regressor of the 44 joints")
        vertices = vertices.to(self.mesh.v_template.dtype)
        with torch.autocast(vertices.device.type, enabled=False):
            tree = self.tree_of(vertices)
            return self._all_joints(tree, torch.cat((tree, vertices[:, self._needed]), dim=1))

    def tree_of(self, vertices: Tensor) -> Tensor:
        """The 24 joints of the kinematic tree, regressed from a mesh: (B, V, 3) to (B, 24, 3)."""
        return torch.einsum("jv,bvc->bjc", self.mesh.J_regressor, vertices)

    def extra_regressor(self) -> Tensor:
        """The regressor of the 19 extra joints (19, V); nothing but zeros where the body has none."""
        whole = torch.zeros(EXTRA, len(self.mesh.v_template), device=self.mesh.v_template.device)
        if self.has_joints:
            whole[:, self._needed] = self._extra.to(whole.dtype)
        return whole

    def _all_joints(self, smpl_joints: Tensor, points: Tensor) -> Tensor:
        openpose = torch.cat((smpl_joints, points[:, self._picked]), dim=1)[:, self._order]  # (B, 25, 3)
        if self.update_hips:
            openpose = _moved_hips(openpose)
        extra = torch.einsum("jv,bvc->bjc", self._extra, points[:, JOINTS:])  # (B, 19, 3)
        return torch.cat((openpose, extra), dim=1)


def _moved_hips(joints: Tensor) -> Tensor:
    """Hips pushed apart by a quarter of their distance each, and their middle half-way to the pelvis."""
    right, left, pelvis = joints[:, _RIGHT_HIP], joints[:, _LEFT_HIP], joints[:, _MID_HIP]
    apart = 0.25 * (right - left)
    towards_pelvis = 0.5 * (pelvis - 0.5 * (right + left))
    joints = joints.clone()
    joints[:, _RIGHT_HIP] = right + apart + towards_pelvis
    joints[:, _LEFT_HIP] = left - apart + towards_pelvis
    return joints


class SkinnedMesh(nn.Module):
    """The tensors of one mesh with J joints, in the layout that smplx wants."""

    v_template: Tensor
    shapedirs: Tensor
    posedirs: Tensor
    J_regressor: Tensor
    weights: Tensor

    def __init__(
        self,
        v_template: Array,
        shapedirs: Array,
        posedirs: Array | None,
        J_regressor: Array,
        weights: Array,
    ) -> None:
        super().__init__()
        if posedirs is None:
            posedirs = np.zeros((*v_template.shape, 9 * (len(J_regressor) - 1)), np.float32)
        for name, array in (
            ("v_template", v_template),
            ("shapedirs", shapedirs),
            ("posedirs", posedirs.reshape(-1, posedirs.shape[-1]).T),  # (9 (J - 1), 3V)
            ("J_regressor", J_regressor),
            ("weights", weights),
        ):
            self.register_buffer(name, torch.tensor(array, dtype=torch.float32), persistent=False)

    def forward(self, betas: Tensor, pose: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
        """Posed vertices (B, V, 3) and joints (B, J, 3) of rotations (B, J, 3, 3)."""
        from smplx.lbs import lbs  # for non-commercial research: not imported where no body is posed

        tensors = (self.v_template, self.shapedirs, self.posedirs, self.J_regressor, parents, self.weights)
        posed: tuple[Tensor, Tensor] = lbs(betas, pose, *tensors, pose2rot=False)
        return posed
