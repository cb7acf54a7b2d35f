"""Metrics by name, and the functions that they are made of."""

from __future__ import annotations

from pathlib import Path

from hmrbench.errors import UsageError, unknown_name
from hmrbench.metrics.mpjpe import mpjpe, pa_mpjpe, pve
from hmrbench.metrics.pck import pck
from hmrbench.records import Metric
from hmrbench.schema import import_object

# Metric name -> import path; a new metric is one file here, or an import path in a data set's spec.
METRICS = {
    "coco-keypoints": "hmrbench.metrics.coco_keypoints:METRIC",
    "mpjpe": "hmrbench.metrics.mpjpe:METRIC",
    "pck": "hmrbench.metrics.pck:METRIC",
}


def find_metric(name: str, file: Path | None = None) -> Metric:
    """The metric of that name, or the one at an import path such as `mypkg.metric:METRIC`.

    Args:
        file: of the spec that names it, beside which the module may lie.

    Raises:
        UsageError: nobody knows the name, or the path leads to no Metric.
    """
    if name not in METRICS and ":" not in name:
        raise unknown_name("metric", name, METRICS)
    found = import_object(METRICS.get(name, name), "metric", file)
    if not isinstance(found, Metric):
        raise UsageError(f"metric '{name}' is a {type(found).__name__}, not a hmrbench.records.Metric")
    return found


__all__ = ["METRICS", "find_metric", "mpjpe", "pa_mpjpe", "pck", "pve"]
