"""Baselines: their file, the rows that runs give, and how a new one is made of these.

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
its own. `better` says which way is better for scores that this package does not know; runs say it of their scores. The
newest run of each row counts.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError, model_validator

from hmrbench.compare.bootstrap import Scores
from hmrbench.errors import DataError, UsageError, unknown_name
from hmrbench.files import read_arrays, read_json, to_json, write_arrays
from hmrbench.metrics.measures import COUNTS, MEASURES, measure_of
from hmrbench.records import Array
from hmrbench.results.runs import SPEED_SETTING, Run, run_key, speed_setting

Row = Mapping[str, Any]

SCHEMA = 1
_DEFAULT_TOLERANCE = {"%": 0.1, "mm": 0.1}
_SLOWER = 1.10
_WAY = {True: "higher", False: "lower"}
_NOT_KEPT = ("partial", "values", "units", "higher_is_better", "run")  # of a run's row, in a baseline
_GATED_COUNTS = ("params", "macs")
_GATED_SPEEDS = ("latency_ms",)
KEYS = {
    "accuracy": ("model", "dataset", "boxes", "flip", "codec", "input", "dtype", "trained", "runtime"),
    "counts": ("model",),
    "speed": ("model", *SPEED_SETTING),
}


_NEEDED: Mapping[str, Mapping[str, type]] = {
    "accuracy": {"dataset": str, "samples": int, "annotations_sha256": str},
    "speed": {"device": str},
}


class _BaselineRow(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    kind: Literal["accuracy", "counts", "speed"]
    model: str
    values: dict[str, FiniteFloat]
    tolerances: dict[str, FiniteFloat] = {}

    @model_validator(mode="after")
    def _fields(self) -> _BaselineRow:
        """What names a row is text, a number, yes or no; people are told by their number and their file."""
        stated = self.model_extra or {}
        for name in KEYS[self.kind]:
            if isinstance(stated.get(name), (list, dict)):
                raise ValueError(f"{name} is a list or an object")
        for name, kind in _NEEDED.get(self.kind, {}).items():
            if not isinstance(stated.get(name), kind):
                raise ValueError(f"{name} is {stated.get(name)!r:.40}, not {'a number' if kind is int else 'text'}")
        return self


class _Baseline(BaseModel):
    model_config = ConfigDict(strict=True)

    rows: list[_BaselineRow]
    tolerances: dict[str, FiniteFloat] = {}
    better: dict[str, str] = {}


def rows_of_runs(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Rows in the form of a baseline's, of the newest run of each."""
    newest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in runs:
        for row in _rows_of_run(run):
            newest[row_key(row)] = row
    return list(newest.values())


def _rows_of_run(run: Run) -> Iterator[dict[str, Any]]:
    row = run.row
    if run.kind in ("eval", "score"):
        named = {k: row[k] for k in KEYS["accuracy"] if k not in ("trained", "runtime")}
        named |= {"trained": row["weights"] != "random", **_on(row.get("runtime"))}
        more = {k: row[k] for k in ("samples", "annotations_sha256", "weights", "weights_sha256", "partial")}
        told = {k: row.get(k) or {} for k in ("units", "higher_is_better")}
        yield {"kind": "accuracy", **named, **more, "values": dict(row["metrics"]), **told, "run": run}
    elif run.kind == "profile":
        failure = {"error": row.get("error") or row["status"]} if row.get("status", "ok") != "ok" else {}
        counts = {k: row[k] for k in _GATED_COUNTS if row.get(k) is not None}
        if counts or failure:
            yield {"kind": "counts", "model": row["model"], "values": counts, **failure}
        speeds = {k: row[k] for k in _GATED_SPEEDS if row.get(k) is not None}
        if speeds or failure:
            setting = dict(zip(SPEED_SETTING, speed_setting(row), strict=True))
            setting |= _on(setting.pop("runtime"))
            yield {"kind": "speed", "model": row["model"], **setting, "values": speeds, **failure}


def row_key(row: Row) -> tuple[Any, ...]:
    """What names a row: its kind and the fields of that kind."""
    return (row["kind"], *(row.get(k, _ABSENT.get(k)) for k in KEYS[row["kind"]]))


_ABSENT = {"runtime": "pytorch"}  # what a row means that does not say


def _on(runtime: str | None) -> dict[str, str]:
    return {} if runtime in (None, "pytorch") else {"runtime": str(runtime)}


def on_runtime(
    baseline: Mapping[str, Any], rows: Sequence[Row], runtime: str, dtype: str | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What holds a runtime against PyTorch's baseline: its rows of accuracy and speed, and the runs on that runtime.

    Args:
        dtype: of those runs; None where they have one only.

    Raises:
        UsageError: there are runs of several types, and none is named; or the baseline has nothing to hold.
    """
    own = [r for r in rows if r.get("runtime", "pytorch") == runtime and dtype in (None, r.get("dtype"))]
    types = sorted({str(r["dtype"]) for r in own if "dtype" in r})
    if len(types) > 1:
        raise UsageError(f"there are runs on {runtime} in {', '.join(types)}: say which with --dtype")
    held = [r for r in baseline["rows"] if r["kind"] != "counts" and r.get("runtime", "pytorch") == "pytorch"]
    if not held:
        raise UsageError(
            "the baseline holds no accuracy and no speed of PyTorch, against which a runtime could be held"
        )
    moved = []
    for base in held:
        place = {"runtime": "pytorch", "dtype": base.get("dtype")}
        moved += [{**r, **place} for r in own if r["kind"] == base["kind"] and row_key({**r, **place}) == row_key(base)]
    return {**baseline, "rows": held}, moved


def read_baseline(path: Path) -> dict[str, Any]:
    """A baseline from its file.

    Raises:
        DataError: missing, not a baseline, without rows, or written by a newer version.
    """
    if not os.path.lexists(path):
        raise DataError(f"{path}: no such baseline; --update writes one")
    content: Any = read_json(path, "baseline")
    wrong = f"{path}: not a baseline of hmrbench"
    try:
        if content["kind"] != "baseline":
            raise KeyError("kind")
        if content["schema"] > SCHEMA:
            raise DataError(
                f"{path}: written by a newer hmrbench (schema {content['schema']}, this one reads {SCHEMA})"
            )
        _Baseline.model_validate({k: v for k, v in content.items() if k != "schema"})
        for row in content["rows"]:
            if not row["values"]:
                raise DataError(f"{path}: the {row['kind']} row of {row['model']} holds no values")
    except ValidationError as e:
        first = e.errors()[0]
        raise DataError(f"{wrong} ({'.'.join(map(str, first['loc']))}: {first['msg']})") from e
    except (KeyError, TypeError) as e:
        raise DataError(f"{wrong} ({e!r})") from e
    if not content["rows"]:
        raise DataError(f"{path}: a baseline without rows lets everything pass")
    return dict(content)


def with_tolerances(baseline: Mapping[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """A baseline with other tolerances: of one number, `AP=0.5`, or of all scores, `0.5`; before the file's own.

    Raises:
        UsageError: not of that form, negative, or of a number that the baseline does not hold.
    """
    held = {m for row in baseline["rows"] for m in row["values"]}
    scores = {m for row in baseline["rows"] if row["kind"] == "accuracy" for m in row["values"]}
    wanted: dict[str, float] = {}
    for text in given:
        name, _, value = text.rpartition("=")
        if name and name not in held:
            raise unknown_name("number of the baseline", name, held)
        try:
            tolerance = float(value)
        except ValueError:
            tolerance = math.nan
        if not 0 <= tolerance < math.inf:
            raise UsageError(f"a tolerance is NAME=NUMBER or a NUMBER for all scores, 0 or more, not '{text}'")
        wanted |= {name: tolerance} if name else dict.fromkeys(scores - wanted.keys(), tolerance)
    rows = [
        {**row, "tolerances": {k: v for k, v in row["tolerances"].items() if k not in wanted}}
        if "tolerances" in row
        else row
        for row in baseline["rows"]
    ]
    return {**baseline, "tolerances": {**baseline.get("tolerances", {}), **wanted}, "rows": rows}


def tolerance_of(measure: str, row: Row, given: Mapping[str, float], now: Row | None = None) -> float:
    """The row's own tolerance, else that given for all rows, else the default of the unit."""
    if measure in (own := {**given, **row.get("tolerances", {})}):
        return float(own[measure])
    if measure in COUNTS or (row["kind"] == "accuracy" and measure not in MEASURES):
        return _DEFAULT_TOLERANCE.get(((now or row).get("units") or {}).get(measure, ""), 0.0)
    return _DEFAULT_TOLERANCE.get(measure_of(measure).unit, _SLOWER)


def update(old: Mapping[str, Any] | None, rows: Sequence[Row]) -> tuple[dict[str, Any], list[str]]:
    """A new baseline out of rows, with the tolerances of the old one; remarks say what is not in it, or new.

    Rows of the old baseline without a run stay. Partial and failed rows and scores of unknown direction are
    left out.
    """
    old = old or {}
    better = dict(old.get("better", {}))
    for row in rows:
        for measure, higher in (row.get("higher_is_better") or {}).items():
            if measure not in MEASURES and better.setdefault(measure, word := _WAY[higher]) != word:
                raise UsageError(
                    f"{row['model']} says that {word} {measure} is better, the baseline or another run not"
                )
    kept = {row_key(r): dict(r) for r in old.get("rows", ())}
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
        key = row_key(row)
        fields = {k: v for k, v in row.items() if k not in _NOT_KEPT and v is not None}
        own = {"tolerances": kept[key]["tolerances"]} if "tolerances" in kept.get(key, {}) else {}
        units = {m: u for m, u in (row.get("units") or {}).items() if m in gated and m not in MEASURES}
        fields |= {"units": units} if units else {}
        before = kept.get(key, {}).get("values")
        if before != gated:
            remarks.append(f"{'new' if before is None else 'changed'}: {name}")
        kept[key] = {**fields, "values": gated, **own}
    found = {row_key(r) for r in rows}
    remarks += [f"kept, without a run: {k[0]} of {k[1]}" for k in kept if k not in found]
    ordered = sorted(kept.values(), key=lambda r: (list(KEYS).index(r["kind"]), *map(str, row_key(r))))
    measures = {m: {k: v for k, v in r.items() if k != "tolerances"} for r in reversed(ordered) for m in r["values"]}
    order = list(dict.fromkeys(m for r in ordered for m in r["values"]))
    tolerances = {m: tolerance_of(m, measures[m], old.get("tolerances", {})) for m in order}
    better = {"better": better} if better else {}
    return {
        "schema": SCHEMA,
        "kind": "baseline",
        "tolerances": tolerances,
        **better,
        "rows": ordered,
    }, remarks


def arrays_file(baseline: Path) -> Path:
    """Where the per-sample results of a baseline stand."""
    return baseline.with_suffix(".npz")


def read_arrays_of(baseline: Path) -> dict[str, Array]:
    """The per-sample results beside a baseline, each under KEY/NAME with the key of its row.

    Raises:
        DataError: there are none, or they cannot be read.
    """
    path = arrays_file(baseline)
    if not path.is_file():
        raise DataError(
            f"{path}: not there, and without it there are no intervals; `check --update --interval` writes it"
        )
    return read_arrays(path, "per-sample results of the baseline")


def keep_arrays(baseline: dict[str, Any], rows: Sequence[Row], path: Path) -> dict[str, Any]:
    """Write the per-sample results of the rows' runs beside a baseline; returns the baseline whose rows name them.

    Rows without a run of now keep what stands there already.

    Raises:
        DataError: a run has no such results.
    """
    arrays = read_arrays_of(path) if arrays_file(path).is_file() else {}
    current = {row_key(row): row for row in rows}
    named = []
    for row in baseline["rows"]:
        now = current.get(row_key(row))
        if row["kind"] == "accuracy" and now is not None and not now.get("partial"):
            key = run_key({k: row.get(k) for k in ("kind", *KEYS["accuracy"])})
            arrays = {name: a for name, a in arrays.items() if not name.startswith(f"{key}/")}
            arrays |= {f"{key}/{name}": a for name, a in Scores.of_run(now["run"]).arrays.items()}
            row = {**row, "per_sample": key}
        named.append(row)
    write_arrays(arrays_file(path), arrays)
    return {**baseline, "rows": named}


def baseline_text(baseline: Mapping[str, Any]) -> str:
    """A baseline as it is written: one row a line, so that a change of it reads well."""
    rows = ",\n".join("  " + json.dumps(json.loads(to_json(r)), ensure_ascii=False) for r in baseline["rows"])
    head = {k: v for k, v in baseline.items() if k != "rows"}
    lines = [f' "{k}": {json.dumps(v, ensure_ascii=False)}' for k, v in head.items()]
    return "{\n" + ",\n".join([*lines, f' "rows": [\n{rows}\n ]']) + "\n}\n"
