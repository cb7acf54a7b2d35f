"""MPJPE and PA-MPJPE by the rule of SMPLer-X on 3DPW: 14 joints of SMPL's own tree.

Read in caizhongang/SMPLer-X (non-commercial; for its facts, revision d3e3c10): rows 1, 2, 4, 5, 7, 8, 12, 15 to 21 of
the body's own joint regressor, on its row 0. There the predicted mesh is SMPL-X's and the regressor that of SMPL-X; so
they are here where predictions hold those joints, which SMPL-X must be installed for. Else both sides are SMPL.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from hmrbench.metrics import smpl24_protocol
from hmrbench.metrics.protocols import Meshes, mesh_truth, metric_of
from hmrbench.records import Array, Measure

JOINTS = (1, 2, 4, 5, 7, 8, 12, *range(15, 22))


def joints(meshes: Meshes, truth: Mapping[str, Any]) -> tuple[Array, Array, str]:
    """Predicted and true joints."""
    true, words = mesh_truth(meshes, "24")
    pred = np.where(np.isfinite(meshes.pred22[:, :1]), meshes.pred22, meshes.pred24[:, : meshes.pred22.shape[1]])
    return pred[:, list(JOINTS)], true[:, list(JOINTS)], words


RULE = replace(smpl24_protocol.RULE, name="smplerx", count=len(JOINTS), joints=joints, whole=True)
METRIC = metric_of(RULE)
# What its authors publish: the mean of the primary errors on five data sets. It is never measured here.
METRIC = replace(METRIC, measures=(*METRIC.measures, Measure("MPE", "mm", False, change_shown=False)))
