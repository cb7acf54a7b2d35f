"""What regressed: numbers of runs held against a baseline.

A baseline is a JSON file of this form:

    {"schema": 1, "kind": "baseline",
     "tolerances": {"AP": 0.1, "MPJPE": 0.1, "params": 0, "macs": 0, "latency_ms": 1.1},
     "better": {"MyScore": "lower"},
     "rows": [
       {"kind": "accuracy", "model": ..., "dataset": ..., "boxes": ..., "flip": ..., "codec": ...,
        "input": ..., "dtype": ..., "trained": true, "samples": ..., "annotations_sha256": ...,
        "values": {"AP": ..., "AR": ...}},
       {"kind": "counts", "model": ..., "values": {"params": ..., "macs": ...}},
       {"kind": "speed", "model": ..., "device": ..., "dtype": ..., "batch_size": ...,
        "values": {"latency_ms": ...}}]}

All fields but the values, the samples and the annotations name a row. A tolerance is, for a score, how much
worse it may be in its own unit; for a count, how far it may be off as a fraction of the baseline, in either
direction (0: not at all); for a speed, the ratio by which it may be slower. A row may hold `tolerances` of
its own. `better` says which way is better for scores that this package does not know. The newest run of each
row counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hmrbench.errors import DataError, UsageError
from hmrbench.files import read_json, to_json
from hmrbench.metrics.measures import COUNTS, MEASURES, measure_of
from hmrbench.records import ANY_BOXES
from hmrbench.results.runs import SPEED_SETTING, Run, speed_setting

Row = Mapping[str, Any]

SCHEMA = 1
FAILING = ("worse", "changed", "missing", "partial", "failed", "not comparable")
_DEFAULT_TOLERANCE = {"%": 0.1, "mm": 0.1}
_SLOWER = 1.10
_GATED_COUNTS = ("params", "macs")
_GATED_SPEEDS = ("latency_ms",)
_KEYS = {
    "accuracy": ("model", "dataset", "boxes", "flip", "codec", "input", "dtype", "trained"),
    "counts": ("model",),
    "speed": ("model", *SPEED_SETTING),
}


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
    verdict: str  # ok, improved, other device; of a Regression one of FAILING
    detail: str = ""


@dataclass(frozen=True)
class Regression(Verdict):
    """A number that got worse by more than its tolerance, or that cannot be told."""


def rows_of_runs(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Rows in the form of a baseline's, of the newest run of each."""
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in runs:
        for row in _rows_of_run(run):
            newest[_key(row)] = row
    return list(newest.values())


def _rows_of_run(run: Run) -> Iterator[dict[str, Any]]:
    row = run.row
    if run.kind in ("eval", "score"):
        named = {k: row[k] for k in _KEYS["accuracy"] if k != "trained"} | {"trained": row["weights"] != "random"}
        more = {k: row[k] for k in ("samples", "annotations_sha256", "weights", "weights_sha256", "partial")}
        yield {"kind": "accuracy", **named, **more, "values": dict(row["metrics"])}
    elif run.kind == "profile":
        failure = {"error": row.get("error") or row["status"]} if row.get("status", "ok") != "ok" else {}
        counts = {k: row[k] for k in _GATED_COUNTS if row.get(k) is not None}
        if counts or failure:
            yield {"kind": "counts", "model": row["model"], "values": counts, **failure}
        speeds = {k: row[k] for k in _GATED_SPEEDS if row.get(k) is not None}
        if speeds or failure:
            setting = dict(zip(SPEED_SETTING, speed_setting(row), strict=True))
            yield {"kind": "speed", "model": row["model"], **setting, "values": speeds, **failure}


def _key(row: Row) -> tuple[Any, ...]:
    """What names a row: its kind and the fields of that kind."""
    return (row["kind"], *(row.get(k) for k in _KEYS[row["kind"]]))


def read_baseline(path: Path) -> dict[str, Any]:
    """A baseline from its file.

    Raises:
        DataError: missing, not a baseline, without rows, or written by a newer version.
    """
    if not os.path.lexists(path):
        raise DataError(f"{path}: no such baseline; --update writes one")
    content: dict[str, Any] = read_json(path, "baseline")
    try:
        if content["kind"] != "baseline":
            raise KeyError("kind")
        if content["schema"] > SCHEMA:
            raise DataError(
                f"{path}: written by a newer hmrbench (schema {content['schema']}, this one reads {SCHEMA})"
            )
        for row in content["rows"]:
            _key(row)
            if not row["values"]:
                raise DataError(f"{path}: the {row['kind']} row of {row['model']} holds no values")
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as e:
        raise DataError(f"{path}: not a baseline of hmrbench ({e!r})") from e
    if not content["rows"]:
        raise DataError(f"{path}: a baseline without rows lets everything pass")
    return content


def check(baseline: Mapping[str, Any], rows: Sequence[Row]) -> list[Verdict]:
    """Hold rows against a baseline: one verdict per number in it, those that fail as `Regression`.

    Raises:
        UsageError: the baseline holds a score whose better direction nobody states.
    """
    current = {_key(row): row for row in rows}
    found = []
    for row in baseline["rows"]:
        now = current.get(_key(row))
        for measure, value in row["values"].items():
            tolerance = _tolerance(measure, {**baseline.get("tolerances", {}), **row.get("tolerances", {})})
            found.append(_verdict(row, now, measure, value, tolerance, baseline.get("better", {}), rows))
    return found


def regressions(verdicts: Sequence[Verdict]) -> list[Regression]:
    """Those that fail the gate."""
    return [v for v in verdicts if isinstance(v, Regression)]


def _tolerance(measure: str, given: Mapping[str, float]) -> float:
    if measure in given:
        return given[measure]
    known = MEASURES.get(measure)
    if measure in COUNTS or known is None:
        return 0.0
    return _DEFAULT_TOLERANCE.get(known.unit, _SLOWER)


def _verdict(
    row: Row,
    now: Row | None,
    measure: str,
    value: float,
    tolerance: float,
    better: Mapping[str, str],
    rows: Sequence[Row],
) -> Verdict:
    found, word, detail = None, "ok", ""
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
    else:
        word, detail = _judge(row["kind"], measure, value, found, tolerance, better)
    on = str(row.get("dataset") or (_words(row) if row["kind"] == "speed" else ""))
    kind = Regression if word in FAILING else Verdict
    return kind(row["kind"], row["model"], on, measure, value, found, tolerance, word, detail)


def _words(row: Row) -> str:
    return f"{row['device']}, {row['dtype']}, batch size {row['batch_size']}"


def _absent(row: Row, rows: Sequence[Row]) -> tuple[str, str]:
    """What it means that a row has no run: a speed on another device is not compared, all else is missing."""
    near = [r for r in rows if r["kind"] == row["kind"] and r["model"] == row["model"]]
    if row["kind"] == "speed":
        anywhere = {"device": None, "threads": None}
        others = [r for r in near if _key({**r, **anywhere}) == _key({**row, **anywhere})]
        others = [r for r in others if r["device"] != row["device"]]
        if others:
            return "other device", f"measured on {others[-1]['device']}, not compared"
    near = [r for r in near if r.get("dataset") == row.get("dataset")]
    differ = [
        f"{k} {near[-1].get(k)}, not {row.get(k)}" for k in _KEYS[row["kind"]] if near and near[-1].get(k) != row.get(k)
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


def _higher_is_better(measure: str, better: Mapping[str, str]) -> bool:
    stated = better.get(measure)
    if stated in ("higher", "lower"):
        return stated == "higher"
    known = measure_of(measure).higher_is_better
    if known is None or stated is not None:
        raise UsageError(f"the baseline must say under 'better' whether 'higher' or 'lower' {measure} is better")
    return known


def update(old: Mapping[str, Any] | None, rows: Sequence[Row]) -> tuple[dict[str, Any], list[str]]:
    """A new baseline out of rows, with the tolerances of the old one; remarks say what is not in it, or new.

    Rows of the old baseline without a run stay. Partial and failed rows and scores of unknown direction are
    left out.
    """
    old = old or {}
    better = dict(old.get("better", {}))
    kept = {_key(r): dict(r) for r in old.get("rows", ())}
    remarks = []
    for row in rows:
        name = f"{row['kind']} of {row['model']}" + (f" on {row['dataset']}" if row.get("dataset") else "")
        gated = {m: v for m, v in row["values"].items() if m in MEASURES or m in better}
        if row.get("partial") or "error" in row or not gated:
            reason = "partial" if row.get("partial") else row.get("error", "it has no numbers of known direction")
            remarks.append(f"left out: {name} ({reason})")
            continue
        if lost := row["values"].keys() - gated.keys():
            remarks.append(f"left out: {', '.join(sorted(lost))} of {row['model']} ('better' does not say which way)")
        key = _key(row)
        fields = {k: v for k, v in row.items() if k not in ("partial", "values") and v is not None}
        own = {"tolerances": kept[key]["tolerances"]} if "tolerances" in kept.get(key, {}) else {}
        before = kept.get(key, {}).get("values")
        if before != gated:
            remarks.append(f"{'new' if before is None else 'changed'}: {name}")
        kept[key] = {**fields, "values": gated, **own}
    found = {_key(r) for r in rows}
    remarks += [f"kept, without a run: {k[0]} of {k[1]}" for k in kept if k not in found]
    ordered = sorted(kept.values(), key=lambda r: (list(_KEYS).index(r["kind"]), *map(str, _key(r))))
    measures = list(dict.fromkeys(m for r in ordered for m in r["values"]))
    tolerances = {m: _tolerance(m, old.get("tolerances", {})) for m in measures}
    better = {"better": better} if better else {}
    return {
        "schema": SCHEMA,
        "kind": "baseline",
        "tolerances": tolerances,
        **better,
        "rows": ordered,
    }, remarks


def baseline_text(baseline: Mapping[str, Any]) -> str:
    """A baseline as it is written: one row a line, so that a change of it reads well."""
    rows = ",\n".join("  " + json.dumps(json.loads(to_json(r)), ensure_ascii=False) for r in baseline["rows"])
    head = {k: v for k, v in baseline.items() if k != "rows"}
    lines = [f' "{k}": {json.dumps(v, ensure_ascii=False)}' for k, v in head.items()]
    return "{\n" + ",\n".join([*lines, f' "rows": [\n{rows}\n ]']) + "\n}\n"
