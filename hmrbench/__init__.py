"""Benchmark human pose estimation and human mesh recovery networks.

    net = hmrbench.load_model("swinpose-s-s3", weights="random")
    encoder = hmrbench.create_encoder("gmf-t", stages=2)
    result = hmrbench.evaluate("vitpose-s", "coco-val", data_root=Path("data"))
    runs = hmrbench.load_results("runs")  # a pandas table, one row a run
    table = hmrbench.make_table(runs, against="S4")  # and one row a model

The names are imported on first use, so that the command line starts without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hmrbench import metrics
    from hmrbench.evaluation import evaluate
    from hmrbench.profiling import profile_model
    from hmrbench.report.tables import make_table
    from hmrbench.results.frame import load_results
    from hmrbench.zoo import create_encoder, load_model

__version__ = "0.1.0"

_PUBLIC = {
    "load_model": "hmrbench.zoo:load_model",
    "create_encoder": "hmrbench.zoo:create_encoder",
    "evaluate": "hmrbench.evaluation:evaluate",
    "profile_model": "hmrbench.profiling:profile_model",
    "load_results": "hmrbench.results.frame:load_results",
    "make_table": "hmrbench.report.tables:make_table",
    "metrics": "hmrbench.metrics",
}
__all__ = [
    "__version__",
    "create_encoder",
    "evaluate",
    "load_model",
    "load_results",
    "make_table",
    "metrics",
    "profile_model",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'hmrbench' has no attribute '{name}'")
    module, _, attribute = _PUBLIC[name].partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted({*(name for name in globals() if name.startswith("__")), *__all__})
