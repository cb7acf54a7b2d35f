"""Examples -> batches, made ahead of the network by threads; by processes where examples hold no pictures, since
what remains is Python's own work.

Training reads one endless row of people: a shuffled data set, then the same anew shuffled, and so on. Which
person stands at a position, and every random choice about that example, follow from the seed and the position
alone: not from the number of threads or processes, nor from where training was interrupted.
"""

from __future__ import annotations

import itertools
import signal
import sys
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from hmrbench.records import Array
from hmrbench.training.examples import Example, Examples

_ORDER, _EXAMPLE = 0, 1  # keep the streams of random numbers apart


@dataclass(frozen=True)
class Feed:
    """Batches for one of `processes` processes, which share each step's people among them."""

    examples: Examples
    seed: int
    batch_size: int
    workers: int
    process: int = 0
    processes: int = 1

    @property
    def people_per_step(self) -> int:
        """People that all processes together see in a step."""
        return self.batch_size * self.processes

    def batches(self, step: int) -> Generator[dict[str, Array], None, None]:
        """Batches from step number `step` (from 0) on, without end.

        Raises:
            DataError: a picture is missing or corrupt; raised when its batch is due.
        """
        if self.examples.pictures:
            yield from self._from_processes(step)
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="example")
        ahead: deque[list[Future[Example]]] = deque()
        try:
            while True:
                while len(ahead) < 2 + self.workers // self.batch_size:
                    ahead.append([pool.submit(self.example, position) for position in self.positions(step)])
                    step += 1
                yield collate([future.result() for future in ahead.popleft()])
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _from_processes(self, step: int) -> Generator[dict[str, Any], None, None]:
        """The same batches as tensors; in this process where `workers` is 0 or a process cannot be forked."""
        forked = self.workers if sys.platform == "linux" else 0
        loader: DataLoader[Any] = DataLoader(
            _Steps(self),
            batch_size=None,
            sampler=itertools.count(step),
            num_workers=forked,
            multiprocessing_context="fork" if forked else None,
            prefetch_factor=4 if forked else None,
            worker_init_fn=_leave_signals,
            generator=torch.Generator(),  # else it draws from the numbers that dropout draws from
        )
        yield from loader

    def positions(self, step: int) -> range:
        """Where the people of a step stand in the endless row."""
        first = step * self.people_per_step + self.process * self.batch_size
        return range(first, first + self.batch_size)

    def example(self, position: int) -> Example:
        epoch, place = divmod(position, self.examples.count)
        person = int(epoch_order(self.seed, epoch, self.examples.count)[place])
        return self.examples.make(person, np.random.default_rng((self.seed, _EXAMPLE, epoch, person)))


class _Steps(Dataset[dict[str, Array]]):
    """Batches by number of their step."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed

    def __getitem__(self, step: int) -> dict[str, Array]:
        return collate([self.feed.example(position) for position in self.feed.positions(step)])


def collate(examples: Sequence[Example]) -> dict[str, Array]:
    """A batch of examples."""
    return {name: np.stack([e[name] for e in examples]) for name in examples[0]}


def _leave_signals(worker: int) -> None:
    """Signals are for the process that trains, which ends its workers when it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> Array:
    """The order in which an epoch goes through `count` people, (count,)."""
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(count)
