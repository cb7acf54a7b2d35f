"""What regressed: numbers of runs held against a baseline (`compare.baselines`).

By intervals (`check --interval`) a score is worse only if the whole paired bootstrap interval of its difference
from the baseline lies beyond the tolerance. What that needs of each sample stands in an `.npz` beside the
baseline, under the row's `per_sample` key: `check --update --interval` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hmrbench.compare.baselines import KEYS, Row, row_key, tolerance_of
from hmrbench.compare.bootstrap import Difference, Draw, Scores, compare_scores
from hmrbench.errors import DataError, UsageError
from hmrbench.metrics.measures import MEASURES, measure_of
from hmrbench.records import ANY_BOXES, Array

FAILING = ("worse", "changed", "missing", "partial", "failed", "not comparable")


@dataclass(frozen=True)
class Verdict:
    """One number held against its baseline."""

    kind: str  # accuracy, counts, speed
    model: str
    on: str  # the data set or the device
    measure: str
    baseline: float
    value: float | None
    tolerance: float
    verdict: str  # ok, improved, other device, no interval; of a Regression one of FAILING
    detail: str = ""
    low: float | None = None  # the interval of value - baseline, where scores are held by intervals
    high: float | None = None


@dataclass(frozen=True)
class Regression(Verdict):
    """A number that got worse by more than its tolerance, or that cannot be told."""


@dataclass(frozen=True)
class Intervals:
    """What scores are held by instead of their difference alone: the baseline's arrays, and how draws are made."""

    arrays: Mapping[str, Array]
    draw: Draw

    def of(self, row: Row, now: Row) -> dict[str, Difference]:
        """The differences of a run from a row of the baseline, by score.

        Raises:
            DataError: the baseline has no arrays for this row, or arrays do not give the scores they are of.
        """
        key = f"{row.get('per_sample', '')}/"
        kept = {name.removeprefix(key): array for name, array in self.arrays.items() if name.startswith(key)}
        name = f"{row['model']} on {row['dataset']}"
        if not row.get("per_sample") or not kept:
            raise DataError(
                f"the baseline has no per-sample results of {name}, without which there is no interval: "
                "`check --update --interval` writes them"
            )
        units, higher = now.get("units") or {}, now.get("higher_is_better") or {}
        before = Scores(f"the baseline's row of {name}", row["values"], kept, units, higher)
        found = {d.metric: d for d in compare_scores(before, Scores.of_run(now["run"]), self.draw).differences}
        if found and all(d.low is None for d in found.values()):
            raise DataError(f"no score of {name} has an interval: {next(iter(found.values())).reason}")
        return found


def check(baseline: Mapping[str, Any], rows: Sequence[Row], intervals: Intervals | None = None) -> list[Verdict]:
    """Hold rows against a baseline: one verdict per number in it, those that fail as `Regression`.

    Args:
        intervals: scores are held by these; None holds them by their difference alone.

    Raises:
        UsageError: the baseline holds a score whose better direction nobody states.
        DataError: no intervals can be had of a row.
    """
    current = {row_key(row): row for row in rows}
    found = []
    for row in baseline["rows"]:
        now = current.get(row_key(row))
        differences = {} if intervals is None or _cannot_be_held(row, now) else intervals.of(row, now or {})
        for measure, value in row["values"].items():
            tolerance = tolerance_of(measure, row, baseline.get("tolerances", {}), now)
            difference = differences.get(measure)
            found.append(_verdict(row, now, measure, value, tolerance, baseline.get("better", {}), rows, difference))
    return found


def _cannot_be_held(row: Row, now: Row | None) -> bool:
    """Whether a row has no scores of which intervals can be made; why, its verdicts say."""
    return row["kind"] != "accuracy" or now is None or bool(now.get("partial")) or bool(_other_people(row, now))


def conclusion(verdicts: Sequence[Verdict]) -> str:
    """What came of the gate, in one line."""
    failed = regressions(verdicts)
    words = [f"{sum(v.verdict == w for v in verdicts)} {w}" for w in dict.fromkeys(v.verdict for v in verdicts)]
    return f"{'FAILED' if failed else 'passed'}: {len(verdicts)} numbers held against the baseline: {', '.join(words)}"


def regressions(verdicts: Sequence[Verdict]) -> list[Regression]:
    """Those that fail the gate."""
    return [v for v in verdicts if isinstance(v, Regression)]


def _verdict(
    row: Row,
    now: Row | None,
    measure: str,
    value: float,
    tolerance: float,
    better: Mapping[str, str],
    rows: Sequence[Row],
    difference: Difference | None = None,
) -> Verdict:
    found, word, detail = None, "ok", ""
    higher = (now or {}).get("higher_is_better") or {}
    better = {**{m: "higher" if up else "lower" for m, up in higher.items() if m not in MEASURES}, **better}
    if now is None:
        word, detail = _absent(row, rows)
    elif "error" in now and measure not in now["values"]:
        word, detail = "failed", str(now["error"])
    elif now.get("partial"):
        word, detail = "partial", f"only {now['samples']:,} samples were evaluated (--limit)"
    elif row["kind"] == "accuracy" and (reason := _other_people(row, now)):
        word, detail = "not comparable", reason
    elif (found := now["values"].get(measure)) is None:
        word, detail = "missing", f"the run has no {measure}"
    elif difference is not None:
        word, detail = _judge_interval(difference, tolerance, better)
    else:
        word, detail = _judge(row["kind"], measure, value, found, tolerance, better)
    ends = (None, None) if difference is None else (difference.low, difference.high)
    on = str(row.get("dataset") or (_words(row) if row["kind"] == "speed" else ""))
    kind = Regression if word in FAILING else Verdict
    return kind(row["kind"], row["model"], on, measure, value, found, tolerance, word, detail, *ends)


def _words(row: Row) -> str:
    return f"{row['device']}, {row['dtype']}, batch size {row['batch_size']}"


def _absent(row: Row, rows: Sequence[Row]) -> tuple[str, str]:
    """What it means that a row has no run: a speed on another device is not compared, all else is missing."""
    near = [r for r in rows if r["kind"] == row["kind"] and r["model"] == row["model"]]
    if row["kind"] == "speed":
        anywhere = {"device": None, "threads": None}
        others = [r for r in near if row_key({**r, **anywhere}) == row_key({**row, **anywhere})]
        others = [r for r in others if r["device"] != row["device"]]
        if others:
            return "other device", f"measured on {others[-1]['device']}, not compared"
    near = [r for r in near if r.get("dataset") == row.get("dataset")]
    differ = [
        f"{k} {near[-1].get(k)}, not {row.get(k)}" for k in KEYS[row["kind"]] if near and near[-1].get(k) != row.get(k)
    ]
    return "missing", "no run" + (f" (the nearest has {', '.join(differ)})" if differ else "")


def _other_people(row: Row, now: Row) -> str:
    if row["annotations_sha256"] != now["annotations_sha256"]:
        return f"other annotations: {now['annotations_sha256'][:12]}, not {row['annotations_sha256'][:12]}"
    if row["samples"] != now["samples"] and row["boxes"] != ANY_BOXES:
        return f"{now['samples']:,} samples, not {row['samples']:,}"
    return ""


def _judge(
    kind: str, measure: str, value: float, found: float, tolerance: float, better: Mapping[str, str]
) -> tuple[str, str]:
    if kind == "counts":
        off = found - value
        return ("ok", "") if abs(off) <= tolerance * abs(value) else ("changed", f"by {off:+,}")
    higher = _higher_is_better(measure, better)
    if kind == "speed":
        ratio = value / found if higher else found / value
        word = "worse" if ratio > tolerance else "improved" if ratio < 1 / tolerance else "ok"
        return word, f"{ratio:.2f} times as slow" if word == "worse" else ""
    loss = round(value - found if higher else found - value, 9)  # decimal tolerances mean what they say
    return ("worse" if loss > tolerance else "improved" if -loss > tolerance else "ok"), ""


def _judge_interval(difference: Difference, tolerance: float, better: Mapping[str, str]) -> tuple[str, str]:
    """A score is worse, or improved, if its whole interval lies beyond the tolerance."""
    if difference.low is None or difference.high is None:
        return "no interval", difference.reason
    higher = _higher_is_better(difference.metric, better)
    ends = (difference.low, difference.high) if higher else (-difference.high, -difference.low)
    word = "worse" if ends[1] < -tolerance else "improved" if ends[0] > tolerance else "ok"
    return word, f"{difference.difference:+.2f}, interval {difference.low:+.2f} .. {difference.high:+.2f}"


def _higher_is_better(measure: str, better: Mapping[str, str]) -> bool:
    stated = better.get(measure)
    if stated in ("higher", "lower"):
        return stated == "higher"
    known = measure_of(measure).higher_is_better
    if known is None or stated is not None:
        raise UsageError(f"the baseline must say under 'better' whether 'higher' or 'lower' {measure} is better")
    return known
