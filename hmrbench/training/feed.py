"""Examples -> batches, made ahead of the network by threads.

Training reads one endless row of people: a shuffled data set, then the same anew shuffled, and so on. Which
person stands at a position, and every random choice about that example, follow from the seed and the position
alone: not from the number of threads or processes, nor from where training was interrupted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

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
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="example")
        ahead: deque[list[Future[Example]]] = deque()
        try:
            while True:
                while len(ahead) < 2 + self.workers // self.batch_size:
                    first = step * self.people_per_step + self.process * self.batch_size
                    positions = range(first, first + self.batch_size)
                    ahead.append([pool.submit(self._example, position) for position in positions])
                    step += 1
                examples = [future.result() for future in ahead.popleft()]
                yield {name: np.stack([e[name] for e in examples]) for name in examples[0]}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _example(self, position: int) -> Example:
        epoch, place = divmod(position, self.examples.count)
        person = int(epoch_order(self.seed, epoch, self.examples.count)[place])
        return self.examples.make(person, np.random.default_rng((self.seed, _EXAMPLE, epoch, person)))


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> Array:
    """The order in which an epoch goes through `count` people, (count,)."""
    return np.random.default_rng((seed, _ORDER, epoch)).permutation(count)
