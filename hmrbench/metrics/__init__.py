"""Metrics by name, and the functions that they are made of.

A metric is a file of this folder with a `METRIC`, or an import path in a data set's spec.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from hmrbench.errors import UsageError, unknown_name
from hmrbench.metrics.mpjpe import mpjpe, pa_mpjpe, pve
from hmrbench.metrics.pck import pck
from hmrbench.records import Metric
from hmrbench.schema.importing import import_object


@cache
def known_metrics() -> Mapping[str, Metric]:
    """The metrics of this folder by name, in the order of its files."""
    modules = (
        importlib.import_module(f"{__name__}.{m.name}") for m in pkgutil.iter_modules(__path__) if m.name != "measures"
    )
    found = (getattr(module, "METRIC", None) for module in modules)
    return {metric.name: metric for metric in found if metric is not None}


def find_metric(name: str, file: Path | None = None) -> Metric:
    """The metric of that name, or the one at an import path such as `mypkg.metric:METRIC`.

    Args:
        file: of the spec that names it, beside which the module may lie.

    Raises:
        UsageError: nobody knows the name, or the path leads to no Metric.
    """
    if name in known_metrics():
        return known_metrics()[name]
    if ":" not in name:
        raise unknown_name("metric", name, known_metrics())
    found = import_object(name, "metric", file)
    if not isinstance(found, Metric):
        raise UsageError(f"metric '{name}' is a {type(found).__name__}, not a hmrbench.records.Metric")
    return found


__all__ = ["find_metric", "known_metrics", "mpjpe", "pa_mpjpe", "pck", "pve"]
