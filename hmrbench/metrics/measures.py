"""The numbers that runs hold, by name: the scores of all metrics, the composites, and what a network costs."""

from __future__ import annotations

from collections.abc import Mapping

from hmrbench.metrics import known_metrics, phi
from hmrbench.records import Measure

_COUNTS = (
    Measure("params", "M", False, "params (M)", 2, 1e6),
    Measure("params_encoder", "M", False, "encoder (M)", 2, 1e6, shown=False, change_shown=False),
    Measure("params_neck", "M", False, "neck (M)", 2, 1e6, shown=False, change_shown=False),
    Measure("params_head", "M", False, "head (M)", 2, 1e6, shown=False, change_shown=False),
    Measure("macs", "G", False, "MACs (G)", 2, 1e9),
    Measure("flops", "G", False, "FLOPs (G)", 2, 1e9, shown=False, change_shown=False),
    Measure("activations", "M", False, "act. (M)", 2, 1e6, shown=False, change_shown=False),
)
_SPEEDS = (
    Measure("latency_ms", "ms", False, "ms", 2, shown=False, change_shown=False),
    Measure("latency_ms_p90", "ms", False, "ms p90", 2, shown=False, change_shown=False),
    Measure("latency_ms_p99", "ms", False, "ms p99", 2, shown=False, change_shown=False),
    Measure("images_per_s", "1/s", True, "images/s"),
    Measure("peak_memory_mb", "MB", False, "memory (MB)", 0, shown=False, change_shown=False),
    Measure("energy_mj", "mJ", False, "energy (mJ)", shown=False, change_shown=False),
)
COUNTS, SPEEDS = (tuple(m.name for m in some) for some in (_COUNTS, _SPEEDS))
COMPOSITES = tuple(m.name for m in phi.MEASURES)
MEASURES: Mapping[str, Measure] = {
    m.name: m
    for some in (*(metric.measures for metric in known_metrics().values()), phi.MEASURES, _COUNTS, _SPEEDS)
    for m in some
}
TITLES = {"hpe": "human pose estimation", "hmr": "human mesh recovery"}


def measure_of(key: str) -> Measure:
    """The measure of a row's key: of `coco-val:AP` that of AP. An unknown metric is shown as it is."""
    name = key.rpartition(":")[2]
    return MEASURES.get(name) or Measure(name, "", None, digits=2)
