"""Benchmark human pose estimation and human mesh recovery networks.

    net = hmrbench.load_model("swinpose-s-s3", weights="random")
    encoder = hmrbench.create_encoder("gmf-t", stages=2)
    result = hmrbench.evaluate("vitpose-s", "coco-val", data_root=Path("data"))

The names are imported on first use, so that the command line starts without torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "load_model": "hmrbench.zoo:load_model",
    "create_encoder": "hmrbench.zoo:create_encoder",
    "evaluate": "hmrbench.evaluation:evaluate",
    "profile_model": "hmrbench.profiling:profile_model",
    "metrics": "hmrbench.metrics",
}
__all__ = ["__version__", "create_encoder", "evaluate", "load_model", "metrics", "profile_model"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hmrbench' has no attribute '{name}'")
    module, _, attribute = _PUBLIC[name].partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found
