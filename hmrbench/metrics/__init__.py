"""Metrics by name, and the functions that they are made of.

A metric is a file of this folder with a `METRIC`, or an import path in a data set's spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from hmrbench.metrics.mpjpe import mpjpe, pa_mpjpe, pve
from hmrbench.metrics.pck import pck
from hmrbench.nets.record import find_records
from hmrbench.records import Metric
from hmrbench.schema.importing import find_part


@cache
def known_metrics() -> Mapping[str, Metric]:
    """The metrics of this folder by name, in the order of its files."""
    return {metric.name: metric for metric in find_records(__name__, "METRIC")}


def find_metric(name: str, file: Path | None = None) -> Metric:
    """The metric of that name, or the one at an import path such as `mypkg.metric:METRIC`.

    Args:
        file: of the spec that names it, beside which the module may lie.

    Raises:
        UsageError: nobody knows the name, or the path leads to no Metric.
    """
    return find_part(name, "metric", Metric, known_metrics(), file)


__all__ = ["find_metric", "known_metrics", "mpjpe", "pa_mpjpe", "pck", "pve"]
