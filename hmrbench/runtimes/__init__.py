"""How a network is run: PyTorch, other runtimes, and the files that they read.

Adding a runtime is one file of this folder with a tuple `RUNTIMES`, or a `Runtime` anywhere that is named by its import
path.
"""

from hmrbench.runtimes.exported import Exported, choose, find, read_exported
from hmrbench.runtimes.runtime import (
    Description,
    Network,
    Prepared,
    Runtime,
    Setting,
    find_runtime,
    known_runtimes,
)
from hmrbench.runtimes.writing import Calibration, ExportSettings, export, prepare

__all__ = [
    "Calibration",
    "Description",
    "ExportSettings",
    "Exported",
    "Network",
    "Prepared",
    "Runtime",
    "Setting",
    "choose",
    "export",
    "find",
    "find_runtime",
    "known_runtimes",
    "prepare",
    "read_exported",
]
