"""MPJPE and PA-MPJPE over all 24 joints of SMPL's tree, on its root, as 3DPW's own challenge compares.

Formula: von Marcard et al., "Recovering Accurate 3D Human Pose in The Wild Using IMUs and a Moving Camera", ECCV 2018.
Hands and collars, which other rules leave out, count like any other joint. Vertices are centred on each mesh's root.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hmrbench.metrics.protocols import Meshes, Rule, mesh_truth, metric_of
from hmrbench.records import Array


def joints(meshes: Meshes, truth: Mapping[str, Any]) -> tuple[Array, Array, str]:
    """Predicted and true joints."""
    true, words = mesh_truth(meshes, "24")
    return meshes.pred24, true, words


RULE = Rule(
    name="smpl24",
    count=24,
    pelvis="SMPL's root, regressed from each mesh",
    source="SMPL's tree, regressed from the mesh",
    about_vertices="each on its own root; neutral truth",
    joints=joints,
    vertices=lambda meshes: meshes.pve_root,
)
METRIC = metric_of(RULE)
