"""How long a network takes: warm-up, sampling until the median is known, statistics of the times."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hmrbench.device import synchronize
from hmrbench.errors import HmrbenchError
from hmrbench.records import Array

MAX_SPREAD = 0.10  # interquartile range over median above which a row is not stable
MAX_ERROR = 0.025  # 95 % confidence of the median; two runs within it agree within 5 %
_ENOUGH = 0.01  # confidence of the median at which sampling ends
_MIN_SAMPLES = 20  # before sampling may end for that reason
FEWEST = 5  # samples that bound the median (by the smallest and the largest, at 94 %); taken whatever they last
_BLOCKS, _STUDENT = 10, 2.262  # stretches compared for drift, and 97.5 % of Student's t with 9 degrees of freedom
_WARM = 0.05  # three runs in a row that differ by less end the warm-up


@dataclass(frozen=True)
class Timing:
    """Statistics of the times of single forwards; `spread` and `error` are relative to the median."""

    samples_ms: Array
    median_ms: float
    p90_ms: float
    p99_ms: float
    spread: float
    error: float

    @property
    def stable(self) -> bool:
        """Whether a second run can be expected to agree."""
        return self.spread <= MAX_SPREAD and self.error <= MAX_ERROR


def summarise(samples_ms: Sequence[float] | Array) -> Timing:
    """Median, percentiles (linear interpolation), interquartile range, and the median's 95 % confidence.

    The confidence is the larger of two. One is the farther end of the distribution-free interval between two order
    statistics (ranks n/2 -+ 1.96 sqrt(n)/2, the normal approximation of the binomial): no shape of the times is
    assumed, but their independence is. A machine whose speed drifts breaks that, so from twenty samples on the other
    is that of non-overlapping batch means, with the medians of ten stretches in a row (Law, "Simulation Modeling and
    Analysis", 9.5.3). Fewer than five samples leave it infinite.

    Args:
        samples_ms: times in ms, in the order in which they were taken.

    Raises:
        HmrbenchError: there are no samples, or one is not a positive number.
    """
    samples = np.asarray(samples_ms, np.float64)
    if not samples.size or not np.isfinite(samples).all() or (samples <= 0).any():
        raise HmrbenchError(f"times must be positive numbers, not {samples[:5].tolist()}")
    q25, median, q75, p90, p99 = np.percentile(samples, (25, 50, 75, 90, 99))
    spread = (q75 - q25) / median
    error = max(_independent_error(samples, median), _drift_error(samples)) / median
    return Timing(samples, *map(float, (median, p90, p99, spread, error)))


def _independent_error(samples: Array, median: float) -> float:
    """Half of the 95 % interval of the median in ms, were the samples independent."""
    n, ordered = len(samples), np.sort(samples)
    if n < FEWEST:
        return math.inf
    reach = 0.98 * math.sqrt(n)
    low, high = max(0, math.floor(n / 2 - reach)), min(n - 1, math.ceil(n / 2 + reach))
    return float(max(ordered[high] - median, median - ordered[low]))


def _drift_error(samples: Array) -> float:
    """The same in ms from how far the medians of stretches of samples lie apart."""
    if len(samples) < 2 * _BLOCKS:
        return 0.0
    medians = [np.median(block) for block in np.array_split(samples, _BLOCKS)]
    return float(_STUDENT * np.std(medians, ddof=1) / math.sqrt(_BLOCKS))


def bare_rate(net: nn.Module, x: Tensor, seconds: float = 5.0) -> float:
    """Images per second of a plain loop, to hold the profiler against."""
    with torch.inference_mode():
        for _ in range(3):
            net(x)
        synchronize(x.device)
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            net(x)
            synchronize(x.device)
            count += 1
        return count * len(x) / (time.perf_counter() - start)


def sample_times(
    watch: Callable[[], float], repeats: int | None, seconds: float, settled_s: float = 2.0
) -> tuple[list[float], int]:
    """Times in ms of single runs once they have become stable, and how many runs warmed up before.

    Args:
        watch: makes one run and returns its time in ms.
        repeats: how many samples; None until the median is known to 1 % or `seconds` have passed.
        seconds: for warm-up and samples together, if `repeats` is None; half of it at most for the warm-up.
        settled_s: of sampling at least before the median counts as known.
    """
    start = time.monotonic()
    warm = [watch()]
    while time.monotonic() - start < seconds / 2 and (len(warm) < 3 or max(warm[-3:]) > (1 + _WARM) * min(warm[-3:])):
        warm.append(watch())
    sampling = time.monotonic()
    samples: list[float] = []
    with _no_gc():
        while len(samples) < (repeats or FEWEST) or (repeats is None and time.monotonic() - start < seconds):
            samples.append(watch())
            enough = len(samples) % _MIN_SAMPLES == 0 and time.monotonic() - sampling >= settled_s
            if repeats is None and enough and summarise(samples).error <= _ENOUGH:
                break
    return samples, len(warm)


@contextmanager
def _no_gc() -> Iterator[None]:
    """Python's garbage collector would stop some forward or other."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


def stopwatch(run: Callable[[], Any], device: torch.device, by_events: bool) -> Callable[[], float]:
    """One run in ms: between two CUDA events, or from an idle device until it is idle again."""
    if device.type == "cuda" and by_events:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

        def between_events() -> float:
            start.record()
            run()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end))

        return between_events

    def by_clock() -> float:
        synchronize(device)
        begin = time.perf_counter_ns()
        run()
        synchronize(device)
        return (time.perf_counter_ns() - begin) / 1e6

    return by_clock


def graphed(forward: Callable[[Tensor], Any], x: Tensor) -> Callable[[Tensor], Any]:
    """The forward as a CUDA graph, warmed up on a stream of its own as capturing demands."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            forward(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = forward(x)

    def replay(given: Tensor) -> Any:
        if given is not x:
            x.copy_(given)
        graph.replay()
        return output

    return replay
