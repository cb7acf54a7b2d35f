"""MPJPE and PA-MPJPE by the rule of SPIN, which CLIFF's published numbers follow.

Read in nkolot/SPIN (BSD-3-Clause, revision 2476c43), `eval.py`: predicted joints are 14 of Human3.6M's, regressed from
the mesh of neutral SMPL, on the pelvis regressed with them. On 3DPW the truth is the mesh of the *gendered* SMPL
through the same regressor, on Human3.6M the annotated joints on their annotated pelvis. There is no vertex error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hmrbench.metrics.protocols import Meshes, Rule, metric_of
from hmrbench.records import Array


def joints(meshes: Meshes, truth: Mapping[str, Any]) -> tuple[Array, Array, str]:
    """Predicted and true joints; where genders or their bodies are missing, annotated joints stand in, as it says."""
    if not truth.get("gendered_truth"):
        return meshes.pred14, meshes.annotated14, "annotated joints"
    if np.isfinite(meshes.gendered14).any():
        return meshes.pred14, meshes.gendered14, "the gendered mesh's joints"
    why = truth.get("no_gendered", "the file says no genders, or no parameters")
    return meshes.pred14, meshes.annotated14, f"annotated joints, and not the gendered mesh's: {why}"


RULE = Rule(
    name="spin",
    count=14,
    pelvis="Human3.6M's, regressed from each mesh",
    source="Human3.6M's joints, regressed from the mesh",
    about_vertices="none",
    joints=joints,
    needs_regressor=True,
)
METRIC = metric_of(RULE)
