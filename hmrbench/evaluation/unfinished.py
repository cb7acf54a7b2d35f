"""Predictions of a whole job: what an unfinished run holds is taken over, what is new is kept as it goes."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from hmrbench import distributed
from hmrbench.evaluation.job import Job
from hmrbench.evaluation.loop import predict
from hmrbench.records import Prediction, Sample
from hmrbench.results import runs as results
from hmrbench.runtimes import Prepared

_log = logging.getLogger(__name__)

_SHARD = 512  # people between two saves of an unfinished run, at most
_SAVE_SECONDS = 30.0  # likewise: what a run loses that is killed
Progress = Callable[[str, int, int], None]  # label, people done, people in all


def predict_all(
    net: nn.Module | Prepared, job: Job, store: results.PartialRun | None = None, progress: Progress | None = None
) -> list[Prediction]:
    """Predictions for all samples of a job, in their order; what `store` holds already is not predicted again.

    Several processes share the samples, and each gets all predictions in the end.
    """
    samples = job.dataset.samples
    done: dict[int, Prediction] = {}
    for index, kept in store.load() if store is not None and distributed.is_first() else ():
        done.update((i, p) for i, p in zip(index.tolist(), kept, strict=True) if 0 <= i < len(samples))
    todo = json.loads(distributed.from_first(json.dumps([i for i in range(len(samples)) if i not in done])))
    mine = distributed.my_share(_by_picture(samples, todo), job.batch_size)
    total = len(done) + len(mine)
    fresh: dict[int, Prediction] = {}
    saved = time.monotonic()
    with distributed.together():
        try:
            for index, predictions in predict(net, job, mine):
                found = dict(zip(index.tolist(), predictions, strict=True))
                done |= found
                fresh |= found
                if store is not None and (len(fresh) >= _SHARD or time.monotonic() - saved >= _SAVE_SECONDS):
                    fresh = _keep(store, fresh)
                    saved = time.monotonic()
                if progress is not None:
                    progress(f"{job.card.name} on {job.spec.name}", len(done), total)
        finally:  # scoring may fail as well
            if store is not None:
                _keep(store, fresh)
    if distributed.size() > 1:
        own = {"index": np.array(list(done)), **results.stack(list(done.values()))} if done else {}
        for part in filter(None, distributed.gather_arrays(own)):
            done.update(zip(part.pop("index").tolist(), results.unstack(part), strict=True))
    return [done[i] for i in range(len(samples))]


def _keep(store: results.PartialRun, fresh: Mapping[int, Prediction]) -> dict[int, Prediction]:
    """Write predictions into an unfinished run. What cannot be written now, with a warning, is left for later."""
    try:
        if fresh:
            store.add(np.array(list(fresh)), list(fresh.values()))
    except OSError as e:
        _log.warning("%s: what is done so far could not be kept (%s)", store.folder, e.strerror or e)
        return dict(fresh)
    return {}


def _by_picture(samples: Sequence[Sample], index: Sequence[int]) -> list[int]:
    """The order in which `predict` works: people of one picture together, pictures in order of first appearance."""
    first: dict[Path, int] = {}
    for i in index:
        first.setdefault(samples[i].image, len(first))
    return sorted(index, key=lambda i: first[samples[i].image])
