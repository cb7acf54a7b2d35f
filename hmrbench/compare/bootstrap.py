"""What of the difference between two runs is told from noise.

A paired bootstrap confidence interval (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, percentile
method) for each score's difference: both runs are scored again on the same resampled images (COCO) or samples
(meshes), out of the arrays saved beside them. The samples of a video are not independent, so there the interval is
narrower than the truth.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hmrbench.errors import DataError, HmrbenchError, UsageError, blamed_on
from hmrbench.metrics import known_metrics
from hmrbench.metrics.measures import measure_of
from hmrbench.records import ANY_BOXES, IMAGE_OF_SAMPLE, Array, Metric
from hmrbench.results.runs import Run

_CHUNK = 64  # resamples held at a time


@dataclass(frozen=True)
class Difference:
    """One score of two runs. `low` and `high` bound the difference `b - a`; None, for a `reason`, where they cannot."""

    metric: str
    unit: str
    a: float
    b: float
    difference: float
    low: float | None
    high: float | None
    verdict: str  # better, worse, different, not told from noise, equal, no interval
    reason: str = ""


@dataclass(frozen=True)
class Scores:
    """What a comparison needs of a run, or of a baseline's row: its scores, and the arrays that gave them.

    `name` is for messages. `units` and `higher_is_better` say of scores that this package does not know what they are.
    """

    name: str
    metrics: Mapping[str, float]
    arrays: Mapping[str, Array]
    units: Mapping[str, str] = field(default_factory=dict)
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)

    @classmethod
    def of_run(cls, run: Run) -> Scores:
        """Those of a run.

        Raises:
            DataError: it has no arrays beside it.
        """
        arrays = run.arrays()
        if not arrays:
            raise DataError(f"{run.path.with_suffix('.npz')}: not there, and without it nothing can be resampled")
        row = run.row
        return cls(str(run.path), row["metrics"], arrays, row.get("units") or {}, row.get("higher_is_better") or {})

    def ids(self) -> Array:
        """What names the things that can be resampled, images or samples."""
        return self.arrays["image_ids"] if self.by_image else np.arange(len(next(iter(self.arrays.values()))))

    @property
    def by_image(self) -> bool:
        """Whether images are drawn, with all that are on them, or samples."""
        return "image_ids" in self.arrays


@dataclass(frozen=True)
class Comparison:
    """All differences of two runs, over how many `images` or `samples` (`unit`) they were drawn."""

    differences: Sequence[Difference]
    count: int
    unit: str

    @property
    def conclusion(self) -> str:
        """What came of it, in one line."""
        number = dict.fromkeys(("better", "worse", "different", "equal", "not told from noise", "no interval"), 0)
        for d in self.differences:
            number[d.verdict] += 1
        told = [f"{n} {word}" for word, n in number.items() if n and word not in ("not told from noise", "no interval")]
        noise, silent = number["not told from noise"], number["no interval"]
        told += [f"{noise} not told from noise"] if noise else []
        told += [f"{silent} without an interval"] if silent else []
        total = len(self.differences)
        if total == number["equal"] and total:
            return f"B equals A in all {total} scores"
        worse, better = number["worse"], number["better"]
        verdict = "mixed" if worse and better else "worse" if worse else "better" if better else "not told from A"
        return (
            f"B is {verdict}{' than A' if verdict in ('worse', 'better') else ''}: {', '.join(told)}, of {total} scores"
        )


def find_run(name: str, runs: Sequence[Run], dataset: str | None = None) -> Run:
    """The newest run of `eval` or `score` of a model, by its name; `NAME~1` is the one before, and so on.

    `NAME@openvino` is one on a runtime, `NAME@openvino:int8` in a type.

    Raises:
        DataError: there is none.
        UsageError: it was run on several data sets, and none is named.
    """
    scored = [r for r in runs if r.kind in ("eval", "score")]
    given, tilde, back = name.rpartition("~")
    known = {r.row["model"].lower() for r in scored}
    model, before = (given, int(back)) if tilde and back.isdigit() and name.lower() not in known else (name, 0)
    model, at, place = model.partition("@") if model.lower() not in known else (model, "", "")
    runtime, _, dtype = place.partition(":")
    own = [r for r in scored if r.row["model"].lower() == model.lower()]
    own = [r for r in own if r.row["model"] == model] or own
    own = [r for r in own if runtime in ("", r.row.get("runtime") or "pytorch") and dtype in ("", r.row["dtype"])]
    own = [r for r in own if dataset is None or dataset.lower() == r.row["dataset"].lower()]
    on = f" on {dataset}" if dataset else ""
    if not own:
        models = ", ".join(dict.fromkeys(r.row["model"] for r in scored)) or "none"
        raise DataError(f"no run of '{model}{at}{place}'{on}; there are runs of: {models}")
    datasets = list(dict.fromkeys(r.row["dataset"] for r in own))
    if len(datasets) > 1:
        raise UsageError(f"{model} was run on {', '.join(datasets)}: say which with --dataset")
    if before >= len(own):
        raise DataError(f"{name}: {model} has {len(own)} run{'s' if len(own) > 1 else ''} on {datasets[0]}")
    return own[-1 - before]


def check_comparable(a: Run, b: Run) -> None:
    """Refuse two runs that did not measure the same people.

    Raises:
        UsageError: they are of other kinds, data sets, annotations, boxes or samples; says which.
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


@dataclass(frozen=True)
class Draw:
    """How intervals are made: resamples, confidence, seed, and metrics beside this package's."""

    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0
    own_metrics: tuple[Metric, ...] = ()


def compare(a: Run, b: Run, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0) -> list[Difference]:
    """Differences of all scores that both runs have, with paired bootstrap intervals; errors as of `compare_runs`."""
    return list(compare_runs(a, b, Draw(resamples, confidence, seed)).differences)


def compare_runs(a: Run, b: Run, draw: Draw) -> Comparison:
    """Two runs score by score.

    Raises:
        UsageError: the runs did not measure the same people.
        DataError: the arrays beside a run are missing or do not give its scores.
    """
    check_comparable(a, b)
    return compare_scores(Scores.of_run(a), Scores.of_run(b), draw)


def compare_scores(a: Scores, b: Scores, draw: Draw) -> Comparison:
    """Differences of all scores that both have, see `compare`."""
    whole = []
    for side in (a, b):
        with blamed_on(f"{side.name}: no numbers per sample of this run", DataError):
            ids = side.ids()
            whole.append((ids, _scores(side.arrays, np.ones((1, len(ids))), side.metrics, draw.own_metrics)))
    (ids, _), (other, _) = whole
    if a.by_image != b.by_image or not np.array_equal(ids, other):
        raise UsageError(f"these runs are of different samples: {len(ids):,} and {len(other):,}, or others")
    count = len(ids)
    for side, (_, scores) in zip((a, b), whole, strict=True):
        for name, values in scores.items():
            if not np.isclose(values[0], side.metrics[name], rtol=1e-6, atol=1e-6):
                raise DataError(f"{side.name}: its arrays give {name} {values[0]}, not {side.metrics[name]}")
    rng = np.random.default_rng(draw.seed)
    drawn: dict[str, list[Array]] = {}
    for start in range(0, draw.resamples, _CHUNK):
        counts = _drawn(rng, count, min(_CHUNK, draw.resamples - start))
        first, second = (_scores(side.arrays, counts, side.metrics, draw.own_metrics) for side in (a, b))
        for name in first.keys() & second.keys():
            drawn.setdefault(name, []).append(second[name] - first[name])
    unit = "images" if a.by_image else "samples"
    found = []
    for name, value in a.metrics.items():
        if name in b.metrics:
            ends, reason = (
                None,
                _why_not(name, [(s, scores) for s, (_, scores) in zip((a, b), whole, strict=True)], unit),
            )
            if name in drawn:
                changes = np.concatenate(drawn[name])
                ends = np.nanpercentile(changes, _tails(draw.confidence)) if np.isfinite(changes).any() else None
                reason = "" if ends is not None else f"no draw of the {unit} gives it"
            found.append(_difference(name, value, b.metrics[name], ends, reason, a))
    return Comparison(tuple(found), count, unit)


def intervals(run: Run, draw: Draw) -> dict[str, tuple[float, float]]:
    """The bootstrap interval of each score of one run, as far as what lies beside it gives them; see `compare`.

    Raises:
        DataError: the arrays beside the run are missing.
    """
    side = Scores.of_run(run)
    count = len(side.ids())
    rng = np.random.default_rng(draw.seed)
    drawn: dict[str, list[Array]] = {}
    for start in range(0, draw.resamples, _CHUNK):
        counts = _drawn(rng, count, min(_CHUNK, draw.resamples - start))
        for name, values in _scores(side.arrays, counts, side.metrics, draw.own_metrics).items():
            drawn.setdefault(name, []).append(values)
    ends = {name: np.nanpercentile(np.concatenate(found), _tails(draw.confidence)) for name, found in drawn.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _drawn(rng: np.random.Generator, count: int, resamples: int) -> Array:
    """How often each of `count` things is drawn (resamples, count)."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples)


def _tails(confidence: float) -> list[float]:
    tail = 100 * (1 - confidence) / 2
    return [tail, 100 - tail]


def _why_not(name: str, sides: Sequence[tuple[Scores, Mapping[str, Array]]], unit: str) -> str:
    """Why a score cannot be resampled, of two sides and what the arrays of each give."""
    for side, _ in sides:
        if (array := side.arrays.get(name)) is not None:
            return f"{side.name} keeps {array.shape} values of it, not one for each sample"
    silent = [side.name for side, given in sides if name not in given]
    if len(silent) == 1:  # it is of an earlier version
        return f"{silent[0]} keeps nothing of the {unit} that gives it; a new run does"
    return f"its metric keeps no values of it for each of the {unit} to draw from"


def _difference(name: str, a: float, b: float, ends: Array | None, reason: str, run: Scores) -> Difference:
    unit = run.units.get(name) or measure_of(name).unit
    higher = run.higher_is_better.get(name, measure_of(name).higher_is_better)
    change = b - a
    if ends is None:
        return Difference(name, unit, a, b, change, None, None, "no interval", reason)
    low, high = float(ends[0]), float(ends[1])
    if low == high == change == 0:
        verdict = "equal"
    elif low <= 0 <= high:
        verdict = "not told from noise"
    elif higher is None:
        verdict = "different"
    else:
        verdict = "better" if (change > 0) == higher else "worse"
    return Difference(name, unit, a, b, change, low, high, verdict)


def _scores(
    arrays: Mapping[str, Array], counts: Array, names: Collection[str], own_metrics: Sequence[Metric] = ()
) -> dict[str, Array]:
    """The scores `names` of each row of counts (R, N), as far as the metrics tell how: else means of values kept."""
    # Where images are drawn, each sample is taken as often as its image.
    per_sample = counts[:, arrays[IMAGE_OF_SAMPLE]] if IMAGE_OF_SAMPLE in arrays else counts
    scores = {}
    for name in names:
        values = arrays.get(name)
        if values is not None and values.shape == per_sample.shape[1:] and values.dtype.kind in "fiub":
            counted = np.isfinite(values)  # who has no such number does not count
            with np.errstate(invalid="ignore"):
                scores[name] = per_sample @ np.where(counted, values, 0) / (per_sample @ counted)
    for metric in known_metrics().values():
        if metric.resample:
            scores |= {k: v for k, v in metric.resample(arrays, counts).items() if k in names}
    for metric in own_metrics:
        if metric.resample:
            scores |= {k: v for k, v in _resampled(metric, arrays, per_sample).items() if k in names}
    return scores


def _resampled(metric: Metric, arrays: Mapping[str, Array], counts: Array) -> Mapping[str, Array]:
    """What somebody's metric makes of resamples.

    Raises:
        HmrbenchError: it fails, or does not give one value for each; names the metric.
    """
    assert metric.resample is not None
    with blamed_on(f"metric '{metric.name}' cannot resample"):
        found = {name: np.asarray(values, np.float64) for name, values in metric.resample(arrays, counts).items()}
    for name, values in found.items():
        if values.shape != (len(counts),):
            raise HmrbenchError(
                f"metric '{metric.name}': resample gives {values.shape} of {name}, not ({len(counts)},)"
            )
    return found
