"""The numbers that runs hold: how each is called and written, and which way it is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hmrbench.metrics import phi
from hmrbench.metrics.coco_keypoints import STATS


@dataclass(frozen=True)
class Measure:
    """How a number is called and written, and which way it is better (None: a size, neither)."""

    title: str
    unit: str
    higher_is_better: bool | None
    digits: int = 1
    scale: float = 1.0


MEASURES: Mapping[str, Measure] = {
    **{name: Measure(name, "%", True) for name in (*STATS, "PCK@0.05", "PCK@0.1")},
    **{name: Measure(name, "mm", False) for name in ("MPJPE", "PA-MPJPE", "PVE")},
    "Phi_P_2D": Measure("Phi_P,2D", "%", True),
    "Phi_M_2D": Measure("Phi_M,2D", "%", True),
    "Phi_M_3D": Measure("Phi_M,3D", "mm", False),
    "params": Measure("params (M)", "M", False, 2, 1e6),
    "params_encoder": Measure("encoder (M)", "M", False, 2, 1e6),
    "params_neck": Measure("neck (M)", "M", False, 2, 1e6),
    "params_head": Measure("head (M)", "M", False, 2, 1e6),
    "macs": Measure("MACs (G)", "G", False, 2, 1e9),
    "flops": Measure("FLOPs (G)", "G", False, 2, 1e9),
    "activations": Measure("act. (M)", "M", False, 2, 1e6),
    "latency_ms": Measure("ms", "ms", False, 2),
    "latency_ms_p90": Measure("ms p90", "ms", False, 2),
    "latency_ms_p99": Measure("ms p99", "ms", False, 2),
    "images_per_s": Measure("images/s", "1/s", True),
    "peak_memory_mb": Measure("memory (MB)", "MB", False, 0),
    "energy_mj": Measure("energy (mJ)", "mJ", False),
}
COMPOSITES = tuple(phi.DEFINITIONS)
COUNTS = ("params", "params_encoder", "params_neck", "params_head", "macs", "flops", "activations")
SPEEDS = ("latency_ms", "latency_ms_p90", "latency_ms_p99", "images_per_s", "peak_memory_mb", "energy_mj")
TITLES = {"hpe": "human pose estimation", "hmr": "human mesh recovery"}


def measure_of(key: str) -> Measure:
    """The measure of a row's key: of `coco-val:AP` that of AP. An unknown metric is shown as it is."""
    name = key.rpartition(":")[2]
    return MEASURES.get(name) or Measure(name, "", None, 2)
