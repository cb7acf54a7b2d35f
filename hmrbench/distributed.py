"""Several processes of one run: which one is this, what is its share, and how the shares become a whole
again.

`torchrun -m hmrbench ...` starts the processes and tells them of each other through environment variables;
without it there is one process, and everything here costs nothing. What travels between processes are bytes
and arrays: nothing is unpickled.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import distributed as dist

from hmrbench.errors import DataError, HmrbenchError, RegressionError, UsageError, WeightsError
from hmrbench.files import arrays_of
from hmrbench.records import Array

_ERRORS = (HmrbenchError, UsageError, DataError, WeightsError, RegressionError)


def start() -> None:
    """Join the other processes, if torchrun started this one; each takes the GPU of its own number."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "MASTER_ADDR" not in os.environ or dist.is_initialized():
        return
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % gpus)
    with _stdout_to_stderr():  # where PyTorch 2.9 has Gloo write of its connections
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    atexit.register(stop)


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """What libraries print on stdout goes to stderr: `--json` promises one document and nothing else."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def stop() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


# --------------------------------------------------------------------------- shares


def my_share(index: Sequence[int], batch_size: int) -> list[int]:
    """This process's part of `index`: a run of whole batches.

    Every entry is in exactly one process's share. Batches are those that one process alone would form, so
    that what is computed per batch is the same whatever the number of processes.
    """
    batches = -(-len(index) // batch_size)
    first, last = (batches * r // size() for r in (rank(), rank() + 1))
    return list(index[first * batch_size : last * batch_size])


# --------------------------------------------------------------------------- exchange


def gather_bytes(content: bytes) -> list[bytes]:
    """The contents of all processes, in their order, in every process."""
    if size() == 1:
        return [content]
    length = torch.tensor([len(content)])
    lengths = [torch.zeros_like(length) for _ in range(size())]
    dist.all_gather(lengths, length)
    padded = torch.zeros(max(1, *(int(n) for n in lengths)), dtype=torch.uint8)
    padded[: len(content)] = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)[: len(content)]
    parts = [torch.empty_like(padded) for _ in range(size())]
    dist.all_gather(parts, padded)
    return [part[: int(n)].numpy().tobytes() for part, n in zip(parts, lengths, strict=True)]


def gather_arrays(arrays: Mapping[str, Array]) -> list[dict[str, Array]]:
    """The named arrays of all processes, in their order, in every process."""
    if size() == 1:
        return [dict(arrays)]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    parts = enumerate(gather_bytes(buffer.getvalue()))
    return [arrays_of(io.BytesIO(part), f"process {i}", "what it sent", len(part)) for i, part in parts]


def from_first(text: str) -> str:
    """The first process's text, in every process."""
    return gather_bytes(text.encode() if is_first() else b"")[0].decode()


def highest(number: int) -> int:
    """The highest of all processes' numbers, in every process."""
    if size() == 1:
        return number
    found = torch.tensor([number])
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


@contextmanager
def together() -> Iterator[None]:
    """What happens inside ends well in all processes or in none: an error of one is raised in every one."""
    error: HmrbenchError | None = None
    try:
        yield
    except HmrbenchError as e:
        error = e
    if size() == 1:
        if error is not None:
            raise error
        return
    kind = -1 if error is None else max(i for i, k in enumerate(_ERRORS) if isinstance(error, k))
    reports = [json.loads(r) for r in gather_bytes(json.dumps([kind, str(error or "")]).encode())]
    if error is not None:
        raise error
    for other, (kind, message) in enumerate(reports):
        if kind >= 0:
            raise _ERRORS[kind](f"process {other}: {message}")
