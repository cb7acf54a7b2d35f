"""The state of a training run on disk, from which it goes on as if it had never stopped.

`last.ckpt` holds weights, averaged weights, optimizer, loss scaler, random numbers of every process, the sums
of the log, the best validation so far, and what the run is: with other settings it is not resumed. It is
written whole or not at all, and nothing in it is executed when it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmrbench import distributed, files
from hmrbench.errors import DataError, UsageError, WeightsError
from hmrbench.files.torch_files import load_all, read_torch

VERSION = 1


def random_state() -> list[dict[str, torch.Tensor]]:
    """The state of PyTorch's random numbers in every process."""
    state = {"cpu": torch.get_rng_state().numpy()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().numpy()
    return [{k: torch.from_numpy(np.copy(v)) for k, v in s.items()} for s in distributed.gather_arrays(state)]


def set_random_state(states: list[dict[str, torch.Tensor]]) -> None:
    """Put back what `random_state` gave, in this process."""
    own = states[distributed.rank()]
    torch.set_rng_state(own["cpu"])
    if "cuda" in own and torch.cuda.is_available():
        torch.cuda.set_rng_state(own["cuda"])


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    try:
        with files.in_place_of(path) as part, part.open("wb") as file:
            torch.save({"version": VERSION, **state}, file)
    except (OSError, RuntimeError) as e:  # torch reports a full disk as either
        raise DataError(f"{path}: cannot be written ({getattr(e, 'strerror', None) or str(e).splitlines()[0]})") from e


def read(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint of the same run.

    Args:
        identity: what must be the same for the run to go on as it began.

    Raises:
        DataError: unreadable, or of a newer version.
        UsageError: it is of another run; names what differs.
    """
    try:
        state: Any = load_all(path, read_torch(path))
        if not isinstance(state, dict):
            raise TypeError(f"it is a {type(state).__name__}")
        version, found = state["version"], state["identity"]
        identity.keys() | found.keys()
    except (WeightsError, KeyError, TypeError, AttributeError) as e:
        raise DataError(f"{path}: not a readable checkpoint of a training run ({e})") from e
    if not isinstance(version, int):
        raise DataError(f"{path}: not a readable checkpoint of a training run (version {_short(version)})")
    if version > VERSION:
        raise DataError(f"{path}: written by a newer hmrbench (version {version}, this one reads {VERSION})")
    other = sorted(k for k in identity.keys() | found.keys() if identity.get(k) != found.get(k))
    if other:
        pairs = "; ".join(f"{k}: {_short(found.get(k))} there, {_short(identity.get(k))} now" for k in other)
        raise UsageError(
            f"{path}: that run was another one ({pairs}); start anew without --resume, or in another folder"
        )
    return state


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
