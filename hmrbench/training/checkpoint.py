"""The state of a training run on disk, from which it goes on as if it had never stopped.

`last.ckpt` holds weights, averaged weights, optimizer, loss scaler, random numbers of every process, the sums
of the log, the best validation so far, and what the run is: with other settings it is not resumed. It is
written whole or not at all and read with `weights_only`, so nothing in it is executed.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmrbench import distributed
from hmrbench.errors import DataError, HmrbenchError, UsageError

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
        HmrbenchError: it cannot be written; says why.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            torch.save({"version": VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as e:
        part.unlink(missing_ok=True)
        if isinstance(e, (OSError, RuntimeError)):  # PyTorch does not say that the disk is full
            raise HmrbenchError(f"{path}: cannot be written ({str(e) or type(e).__name__})") from e
        raise


def read(path: Path, identity: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint of the same run.

    Args:
        identity: what must be the same for the run to go on as it began.

    Raises:
        DataError: unreadable, or of a newer version.
        UsageError: it is of another run; names what differs.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version, found = state["version"], state["identity"]
    except (
        RuntimeError,
        EOFError,
        OSError,
        KeyError,
        ValueError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as e:
        raise DataError(f"{path}: not a readable checkpoint of a training run ({e})") from e
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
