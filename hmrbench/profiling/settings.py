"""How networks are run while they are measured, and what of it cannot be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hmrbench import device as devices
from hmrbench import runtimes
from hmrbench.errors import UsageError
from hmrbench.schema import ModelCard

SCOPES = ("model", "end2end")
_IN_ROW = ("dtype", "scope", "compile", "channels_last", "cuda_graph", "threads", "fused")


@dataclass(frozen=True)
class ProfileSettings:
    """How networks are measured. The command line and `hmrbench.profile_model` build the same object.

    Attributes:
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        dtype: fp32, tf32, or for autocast fp16, bf16, as in an evaluation.
        repeats: number of timed forwards; 0 counts only; None samples until the median is known to 1 %.
        seconds: time for warm-up and sampling per row, where `repeats` is None.
        scope: `model` times the network alone, `end2end` also reading a JPEG, crop and decoding the output.
        runtime: what runs the network, by name or import path, or the file to run, see `runtimes`; None for the card's
            own, or PyTorch, which alone takes the next three.
        compile: run through torch.compile.
        channels_last: use that memory format for weights and input.
        cuda_graph: replay a CUDA graph.
        threads: of PyTorch on the CPU; None leaves its own choice.
        weights: None for untrained ones, which cost the same (the card's where it runs on a runtime of its own); else
            as for `sources.resolve_weights`.
        fused: let the network take its short cuts, see `nets.fusion`; MACs are those of the plain network anyway.
        by_module: rows also say how parameters and MACs spread over all modules, as {name: [params, macs]}.
    """

    device: str = "auto"
    dtype: str = "fp32"
    repeats: int | None = None
    seconds: float = 10.0
    scope: str = "model"
    runtime: str | None = None
    compile: bool = False
    channels_last: bool = False
    cuda_graph: bool = False
    threads: int | None = None
    weights: str | Path | None = None
    fused: bool = True
    by_module: bool = False

    def row(self) -> dict[str, Any]:
        """What a row says of it; the device stands there under its product name."""
        return {name: getattr(self, name) for name in _IN_ROW} | {"threads": self.threads or torch.get_num_threads()}

    def weights_of(self, card: ModelCard) -> str | None:
        """What `sources.resolve_weights` is to find; what PyTorch does not compute may have no weights but its own."""
        if self.weights:
            return str(self.weights)
        return None if card.runtime and card.weights else "random"


def check_settings(settings: ProfileSettings) -> torch.device:
    """The device that networks are measured on, if they can be measured so.

    Raises:
        UsageError: something that cannot be.
    """
    own = settings.runtime not in (None, "pytorch") and settings.device != "auto"  # it may have names of its own
    s, place = settings, torch.device("cpu") if own else devices.pick_device(settings.device)
    only_pytorch = [name for name in ("compile", "channels_last", "cuda_graph") if getattr(s, name)]
    dtypes = (*devices.DTYPES, *(["int8"] if s.runtime else []))
    checks = (
        (s.dtype in dtypes, f"dtype must be one of {', '.join(dtypes)}, not '{s.dtype}'"),
        (
            s.runtime in (None, "pytorch") or not only_pytorch,
            f"{', '.join(only_pytorch)} is PyTorch's, not {s.runtime}'s",
        ),
        (s.dtype != "tf32" or place.type == "cuda", f"tf32 is a precision of NVIDIA GPUs, not of {place.type}"),
        (s.scope in SCOPES, f"scope must be one of {', '.join(SCOPES)}, not '{s.scope}'"),
        (not s.cuda_graph or place.type == "cuda", f"a CUDA graph needs a CUDA device, not {place.type}"),
        (s.repeats is None or s.repeats >= 0, f"repeats must be 0 or more, not {s.repeats}"),
        (0 < s.seconds < math.inf, f"seconds must be above 0, not {s.seconds}"),
        (s.threads is None or s.threads > 0, f"threads must be 1 or more, not {s.threads}"),
    )
    for fine, message in checks:
        if not fine:
            raise UsageError(message)
    if s.runtime is not None:
        runtimes.find(s.runtime)
    return place


def variants(settings: ProfileSettings, asked: Sequence[str]) -> list[ProfileSettings]:
    """The settings for each runtime asked for; `all` are those that are here, in each precision that they serve.

    Raises:
        UsageError: something that cannot be.
    """
    found = []
    names: Sequence[str | None] = asked or [None]
    for name in names:
        found += _everywhere(settings) if name == "all" else [replace(settings, runtime=name)]
    for one in found:
        check_settings(one)
    return list(dict.fromkeys(found))


def _everywhere(settings: ProfileSettings) -> list[ProfileSettings]:
    """Each runtime that runs any network, in each precision; fp16 on the CPU is left out, where it only saves room."""
    found = []
    for runtime in runtimes.known_runtimes().values():
        for dtype in ("fp32", "bf16", "fp16"):
            try:
                place = runtime.check("", settings.device, dtype)
            except UsageError:
                continue
            if (runtime.write or runtime.name == "pytorch") and (dtype != "fp16" or place != "cpu"):
                found.append(replace(settings, runtime=runtime.name, dtype=dtype))
    return found


def pick_batch_sizes(text: str) -> tuple[int, ...]:
    """`1,8,64` as numbers; `auto` is 1.

    Raises:
        UsageError: not numbers above 0.
    """
    try:
        sizes = tuple(dict.fromkeys(int(part) for part in text.replace("auto", "1").split(",")))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise UsageError(f"batch sizes are numbers above 0 such as 1,8,64, not '{text}'")
    return sizes
