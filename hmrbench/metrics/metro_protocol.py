"""MPJPE, PA-MPJPE and MPVPE by the rule of METRO, Mesh Graphormer, FastMETRO and TORE.

Read in microsoft/MeshTransformer (MIT, revision cefc4af), `metro/tools/run_metro_bodymesh.py` and
`metro/utils/metric_pampjpe.py`; the other three have the same code.

It differs from 4D-Humans' rule, in which this benchmark compares all networks: predicted joints are 14 of Human3.6M's,
regressed from the predicted mesh; joints are centred on the midpoint of the hips, vertices on the pelvis regressed
from their own mesh; PA-MPJPE is over all samples, the others over those with a truth of their kind. Published numbers
are means over joints or vertices, then over samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hmrbench.errors import DataError
from hmrbench.metrics.mpjpe import mpjpe, pa_mpjpe, pelvis_centred, pve
from hmrbench.metrics.protocols import ANNOTATED_PELVIS as TRUE_PELVIS
from hmrbench.metrics.protocols import ANNOTATED_TO_14 as TRUE_JOINTS
from hmrbench.metrics.protocols import Meshes, Rule, metric_of, regressed
from hmrbench.nets.meshes.mesh import H36M_TO_14
from hmrbench.records import Array

ANNOTATED = 24  # joints of the family's files
HIPS = (2, 3)  # of the 14
PELVIS = 0  # of the 17 regressed joints


def predicted_joints(vertices_m: Array, joints17: Array) -> Array:
    """The 14 joints that are compared, from a mesh, its pelvis at the origin.

    Args:
        vertices_m: (N, V, 3) predicted meshes in metres, any frame.
        joints17: (17, V) METRO's regressor of Human3.6M's joints, dense or scipy-sparse.

    Returns:
        (N, 14, 3) float64.

    Raises:
        DataError: the shapes do not fit.
    """
    joints = regressed(joints17.astype(np.float64), vertices_m)
    centred: Array = pelvis_centred(joints, PELVIS)[:, list(H36M_TO_14)]
    return centred


def true_joints(joints24_m: Array) -> Array:
    """The same 14 joints of the 24 annotated ones: (N, 24, 3) metres to (N, 14, 3), the pelvis at the origin.

    Raises:
        DataError: there are not 24 joints.
    """
    joints = np.asarray(joints24_m, np.float64)
    if joints.ndim != 3 or joints.shape[1:] != (ANNOTATED, 3):
        raise DataError(f"the METRO protocol needs (N, {ANNOTATED}, 3) annotated joints, not {joints.shape}")
    centred: Array = pelvis_centred(joints, TRUE_PELVIS)[:, list(TRUE_JOINTS)]
    return centred


def metro_mpjpe(pred14_m: Array, gt14_m: Array) -> Array:
    """Mean joint error, both poses centred on the midpoint of their hips: (N, 14, 3) metres twice to (N,) mm.

    Raises:
        DataError: the shapes differ, or a pose is not finite (rows are named).
    """
    return mpjpe(pelvis_centred(pred14_m, HIPS), pelvis_centred(gt14_m, HIPS))


def metro_pa_mpjpe(pred14_m: Array, gt14_m: Array) -> Array:
    """Mean joint error after similarity alignment without reflection: (N, 14, 3) metres twice to (N,) mm.

    Raises:
        DataError: the shapes differ, or a pose is not finite or has no extent (rows are named).
    """
    return pa_mpjpe(pred14_m, gt14_m)


def metro_mpvpe(pred_m: Array, gt_m: Array, joints17: Array) -> Array:
    """Mean vertex error, each mesh centred on the pelvis regressed from it: (N, V, 3) metres twice to (N,) mm.

    The official truth is the mesh of neutral SMPL, whatever gender was annotated. `joints17` is as in
    `predicted_joints`.

    Raises:
        DataError: the shapes do not fit, or a mesh is not finite (rows are named).
    """
    centred = [
        np.asarray(mesh, np.float64) - regressed(joints17.astype(np.float64), mesh)[:, PELVIS, None]
        for mesh in (pred_m, gt_m)
    ]
    return pve(centred[0], centred[1])


def joints(meshes: Meshes, truth: Mapping[str, Any]) -> tuple[Array, Array, str]:
    """Predicted and annotated joints, both on the midpoint of their hips."""
    return pelvis_centred(meshes.pred14, HIPS), pelvis_centred(meshes.annotated14, HIPS), "annotated joints"


RULE = Rule(
    name="metro",
    count=14,
    pelvis="midpoint of the hips",
    source="Human3.6M's joints, regressed from the mesh",
    about_vertices="each on its own Human3.6M pelvis; neutral truth",
    joints=joints,
    vertices=lambda meshes: meshes.pve_h36m,
    needs_regressor=True,
)
METRIC = metric_of(RULE)
