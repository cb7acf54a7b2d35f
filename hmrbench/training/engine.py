"""The engine under the training loop, and what may interrupt it.

Lightning Fabric (Apache-2.0) places the network on its device, runs it in mixed precision and, under
`torchrun`, in data-parallel processes. It has no global state, lets a device be chosen, and adds 0.3 MB to
what is installed.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch

from hmrbench import distributed
from hmrbench.device import keep_freed_memory
from hmrbench.errors import STOPPING, Stopped

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def make_engine(device: torch.device, dtype: str) -> Fabric:
    """Fabric for a device and precision, in as many processes as torchrun started."""
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    kind = {"cuda": "cuda", "mps": "mps"}.get(device.type, "cpu")
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if distributed.size() > 1 else 1
    devices: Any = local
    if kind == "cuda" and distributed.size() == 1:
        devices = [device.index if device.index is not None else torch.cuda.current_device()]
    fabric = Fabric(
        accelerator=kind,
        devices=devices,
        num_nodes=distributed.size() // local,
        strategy="ddp" if distributed.size() > 1 else "auto",
        precision=_PRECISION[dtype],  # type: ignore[arg-type]
    )
    fabric.launch()
    keep_freed_memory(device)
    torch.backends.cudnn.benchmark = kind == "cuda"  # every step has the same shapes
    return fabric


@contextmanager
def caught_signals() -> Iterator[list[int]]:
    """SIGINT, SIGTERM and SIGHUP that came while inside: the step ends first; a second one interrupts at once."""
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came:
            raise Stopped(number)
        came.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {s: signal.signal(s, note) for s in STOPPING if signal.getsignal(s) is not signal.SIG_IGN}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
