"""Composite scores across metrics and data sets.

The paper (arXiv 2510.12660) defines Phi_P,2D; of Phi_M,2D and Phi_M,3D it gives only the names. The
definitions used here are the strings below, and a number is always shown next to its definition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hmrbench.records import Measure

Row = Mapping[str, Any]  # the JSON object of an EvalResult

PHI_P_2D = "Phi_P_2D = (AP + AR) / 2 on coco-val"
PHI_M_2D = "Phi_M_2D = mean of PCK@0.05 and PCK@0.1 on lsp-extended, coco-val-hmr and posetrack-val"
PHI_M_3D = "Phi_M_3D = mean of MPJPE and PA-MPJPE (mm) on 3dpw-test and h36m-val-p2"
DEFINITIONS = {"Phi_P_2D": PHI_P_2D, "Phi_M_2D": PHI_M_2D, "Phi_M_3D": PHI_M_3D}

MEASURES = (
    Measure("Phi_P_2D", "%", True, "Phi_P,2D"),
    Measure("Phi_M_2D", "%", True, "Phi_M,2D"),
    Measure("Phi_M_3D", "mm", False, "Phi_M,3D"),
)
_PARTS = {
    "Phi_P_2D": (("coco-val",), ("AP", "AR")),
    "Phi_M_2D": (("lsp-extended", "coco-val-hmr", "posetrack-val"), ("PCK@0.05", "PCK@0.1")),
    "Phi_M_3D": (("3dpw-test", "h36m-val-p2"), ("MPJPE", "PA-MPJPE")),
}
_PROTOCOL = ("model", "weights", "weights_sha256", "flip", "codec", "input", "dtype")


def protocol_key(row: Row) -> tuple[Any, ...]:
    """What rows must share to enter one composite score: the model, its weights, how it was run."""
    return tuple(str(row[field]) for field in _PROTOCOL)


def phi_p_2d(rows: Iterable[Row]) -> float | None:
    """Mean of AP and AR on coco-val in percent, or None where a part is missing (see `phi`)."""
    return phi("Phi_P_2D", rows)


def phi_m_2d(rows: Iterable[Row]) -> float | None:
    """Mean of the six PCK values in percent, or None where a part is missing (see `phi`)."""
    return phi("Phi_M_2D", rows)


def phi_m_3d(rows: Iterable[Row]) -> float | None:
    """Mean of the four errors in mm, or None where a part is missing (see `phi`)."""
    return phi("Phi_M_3D", rows)


def phi(name: str, rows: Iterable[Row]) -> float | None:
    """The composite score `name` of `rows`.

    Rows of other data sets and partial rows do not count. None unless every data set of the definition is
    there with all its metrics, exactly once, and all of them agree in `protocol_key`: runs of different
    weights or settings are never mixed.
    """
    datasets, metrics = _PARTS[name]
    parts = [row for row in rows if row["dataset"] in datasets and not row["partial"]]
    if sorted(row["dataset"] for row in parts) != sorted(datasets):
        return None
    if len({protocol_key(row) for row in parts}) != 1:
        return None
    values = [row["metrics"].get(metric) for row in parts for metric in metrics]
    if any(value is None for value in values):
        return None
    return float(sum(values) / len(values))
