"""What of the difference between two runs is told from noise.

A paired bootstrap confidence interval (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, percentile
method) for each score's difference: both runs are scored again on the same resampled images (COCO) or samples
(meshes), out of the arrays saved beside them. The samples of a video are not independent, so there the interval is
narrower than the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hmrbench.errors import DataError, UsageError, blamed_on
from hmrbench.metrics import known_metrics
from hmrbench.metrics.measures import measure_of
from hmrbench.records import ANY_BOXES, Array
from hmrbench.results.runs import Run

Row = Mapping[str, Any]
_CHUNK = 64  # resamples held at a time


@dataclass(frozen=True)
class Difference:
    """One score of two runs. `low` and `high` bound the difference `b - a`; None without resampling."""

    metric: str
    unit: str
    a: float
    b: float
    difference: float
    low: float | None
    high: float | None
    verdict: str  # better, worse, not told from noise, equal, no interval


def find_run(name: str, runs: Sequence[Run], dataset: str | None = None) -> Run:
    """The newest run of `eval` or `score` of a model, by its name.

    Raises:
        DataError: there is none.
        UsageError: it was run on several data sets, and none is named.
    """
    own = [r for r in runs if r.kind in ("eval", "score") and r.row["model"].lower() == name.lower()]
    own = [r for r in own if r.row["model"] == name] or own
    own = [r for r in own if dataset is None or dataset.lower() == r.row["dataset"].lower()]
    if not own:
        known = ", ".join(dict.fromkeys(r.row["model"] for r in runs if r.kind in ("eval", "score"))) or "none"
        raise DataError(f"no run of '{name}'{f' on {dataset}' if dataset else ''}; there are runs of: {known}")
    datasets = list(dict.fromkeys(r.row["dataset"] for r in own))
    if len(datasets) > 1:
        raise UsageError(f"{name} was run on {', '.join(datasets)}: say which with --dataset")
    return own[-1]


def check_comparable(a: Run, b: Run) -> None:
    """Refuse two runs that did not measure the same people.

    Raises:
        UsageError: they are of other kinds, data sets, annotations, boxes or samples; says which.
        DataError: a run has no arrays beside it.
    """
    for run in (a, b):
        if run.kind not in ("eval", "score"):
            raise UsageError(f"{run.path}: a run of `{run.kind}`; what can be compared are runs of eval and score")
    for key, what in (("dataset", "data sets"), ("annotations_sha256", "annotation files")):
        if a.row[key] != b.row[key]:
            raise UsageError(f"these runs are of different {what}: {a.row[key]} and {b.row[key]}")
    boxes = {r.row["boxes"] for r in (a, b)} - {ANY_BOXES}
    if len(boxes) > 1:
        raise UsageError(f"these runs are of different samples: {' and '.join(sorted(boxes))} boxes")
    if a.row["boxes"] == b.row["boxes"] != ANY_BOXES and a.row["samples"] != b.row["samples"]:
        raise UsageError(f"these runs are of different samples: {a.row['samples']:,} and {b.row['samples']:,} people")


def compare(a: Run, b: Run, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> list[Difference]:
    """Differences of all scores that both runs have, with paired bootstrap intervals.

    Raises:
        UsageError: the runs did not measure the same people.
        DataError: the arrays beside a run are missing or do not give its scores.
    """
    check_comparable(a, b)
    scorers = []
    for run in (a, b):
        with blamed_on(f"{run.path.with_suffix('.npz')}: no numbers per sample of this run", DataError):
            count, ids, score = _scorer(run)
            scorers.append((count, ids, score, score(np.ones((1, count)))))
    (count_a, ids_a, score_a, all_a), (count_b, ids_b, score_b, all_b) = scorers
    if count_a != count_b or not np.array_equal(ids_a, ids_b):
        raise UsageError(f"these runs are of different samples: {count_a:,} and {count_b:,}, or others")
    for run, whole in ((a, all_a), (b, all_b)):
        for name, value in whole.items():
            if not np.isclose(value[0], run.row["metrics"][name], rtol=1e-6, atol=1e-6):
                raise DataError(f"{run.path}: its arrays give {name} {value[0]}, not {run.row['metrics'][name]}")
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[Array]] = {}
    for start in range(0, resamples, _CHUNK):
        counts = _drawn(rng, count_a, min(_CHUNK, resamples - start))
        first, second = score_a(counts), score_b(counts)
        for name in first.keys() & second.keys():
            drawn.setdefault(name, []).append(second[name] - first[name])
    found = []
    for name, value in a.row["metrics"].items():
        if name in b.row["metrics"]:
            ends = np.nanpercentile(np.concatenate(drawn[name]), _tails(confidence)) if name in drawn else None
            found.append(_difference(name, value, b.row["metrics"][name], ends))
    return found


def intervals(
    run: Run, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """The bootstrap interval of each score of one run, as far as what lies beside it gives them; see `compare`.

    Raises:
        DataError: the arrays beside the run are missing.
    """
    count, _, score = _scorer(run)
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[Array]] = {}
    for start in range(0, resamples, _CHUNK):
        for name, values in score(_drawn(rng, count, min(_CHUNK, resamples - start))).items():
            drawn.setdefault(name, []).append(values)
    ends = {name: np.nanpercentile(np.concatenate(found), _tails(confidence)) for name, found in drawn.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _drawn(rng: np.random.Generator, count: int, resamples: int) -> Array:
    """How often each of `count` things is drawn (resamples, count)."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples)


def _tails(confidence: float) -> list[float]:
    tail = 100 * (1 - confidence) / 2
    return [tail, 100 - tail]


def _difference(name: str, a: float, b: float, ends: Array | None) -> Difference:
    measure = measure_of(name)
    change = b - a
    if ends is None:
        return Difference(name, measure.unit, a, b, change, None, None, "no interval")
    low, high = float(ends[0]), float(ends[1])
    if low == high == change == 0:
        verdict = "equal"
    elif low <= 0 <= high:
        verdict = "not told from noise"
    elif measure.higher_is_better is None:
        verdict = "different"
    else:
        verdict = "better" if (change > 0) == measure.higher_is_better else "worse"
    return Difference(name, measure.unit, a, b, change, low, high, verdict)


_Scorer = Callable[[Array], dict[str, Array]]  # counts (R, N) of each image or sample -> (R,) values of each score


def _scorer(run: Run) -> tuple[int, Array, _Scorer]:
    """How many things can be resampled, what names them, and the scores of resamples of them."""
    arrays = run.arrays()
    if not arrays:
        raise DataError(f"{run.path.with_suffix('.npz')}: not there, and without it nothing can be resampled")
    ids = arrays.get("image_ids", np.arange(len(next(iter(arrays.values())))))
    return len(ids), ids, lambda counts: _scores(arrays, counts, run.row["metrics"])


def _scores(arrays: Mapping[str, Array], counts: Array, names: Collection[str]) -> dict[str, Array]:
    """The scores `names` of each row of counts (R, N), as far as the metrics tell how: else means of values kept."""
    scores = {}
    for name in names:
        if name in arrays and arrays[name].ndim == 1:
            counted = np.isfinite(arrays[name])  # who has no such number does not count
            with np.errstate(invalid="ignore"):
                scores[name] = counts @ np.where(counted, arrays[name], 0) / (counts @ counted)
    for metric in known_metrics().values():
        if metric.resample:
            scores |= {k: v for k, v in metric.resample(arrays, counts).items() if k in names}
    return scores
