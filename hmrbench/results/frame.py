"""Run records as one pandas table, and from such a table back to the records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pandas as pd

from hmrbench.errors import DataError, UsageError
from hmrbench.files import plain
from hmrbench.records import EvalResult, ProfileResult
from hmrbench.results.runs import Run, load_run, load_runs

_DTYPES: Mapping[type, Any] = {str: "string", int: "Int64", float: "Float64", bool: "boolean"}
_IDENTITY = ("kind", "created", "key", "path")
# A value per joint or module would make columns without end, and units belong to a column, not to a run.
_IN_ATTRS = ("per_joint", "by_module", "units", "higher_is_better")


def load_results(runs: str | Path) -> pd.DataFrame:
    """All runs of a folder as a table, one row a run, oldest first.

    Columns: `kind` (eval, score, profile), `created` (UTC), `key`, `path`, the fields of `EvalResult` and
    `ProfileResult`, what a run tells of versions, hardware, protocol and environment by dotted names such as
    `versions.torch`, and one for each score by its plain name, such as `AP`; a score that is called like another
    column stands as `metrics.NAME`. All but `created` are nullable (Int64, Float64, boolean, string): what a run does
    not have is `pandas.NA`.

    `attrs` hold `notes` (the remarks of all runs, each after its file's name), `units` and `higher_is_better` by
    score, `per_joint` and `by_module` by file's name.

    Args:
        runs: a folder as the commands' `--runs`; a file in it that is no run is passed over, with a warning.

    Raises:
        DataError: there is no such folder.
    """
    found = runs_of(runs)
    rows = [dict(_cells(run)) for run in found]
    dtypes = _known()
    taken = {*_IDENTITY, *dtypes, *(name for row in rows for name in row)}
    for run, row in zip(found, rows, strict=True):
        scores = run.row.get("metrics")
        for name, value in scores.items() if isinstance(scores, Mapping) else ():
            column = f"metrics.{name}" if name in taken else name
            row[column], dtypes[column] = value, "Float64"
    names = dict.fromkeys([*_IDENTITY, *_known(), *(k for row in rows for k in row if k not in dtypes), *dtypes])
    frame: pd.DataFrame = pd.DataFrame({k: typed([row.get(k) for row in rows], dtypes.get(k)) for k in names})
    created = pd.to_datetime(frame["created"], utc=True, format="ISO8601", errors="coerce")
    frame["created"] = created.astype("datetime64[us, UTC]")
    frame.attrs.update(_attrs(found))
    return frame


def runs_of(results: pd.DataFrame | str | Path) -> list[Run]:
    """The records of a folder, or those that the rows of a table of `load_results` name; oldest first.

    Raises:
        DataError: no such folder, or a record is no longer there.
        UsageError: a table that is not of `load_results`.
    """
    if isinstance(results, pd.DataFrame):
        if "path" not in results.columns or results["path"].isna().any():
            raise UsageError("not a table of load_results: it needs `path`, where the record of each row lies")
        found = (load_run(Path(path)) for path in results["path"].unique())
        return sorted(found, key=lambda run: (run.created, run.path.name))
    folder = Path(results)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of runs")
    return load_runs(folder)


def typed(values: Sequence[Any], dtype: Any = None) -> Any:
    """A column of plain values, None where there is none, as a nullable array.

    Args:
        dtype: what it should be; if None, or if the values are none of that, what they are. Texts where they differ.
    """
    if dtype is None:
        kinds = {type(v) for v in values if v is not None}
        common = float if kinds == {int, float} else next(iter(kinds)) if len(kinds) == 1 else str
        dtype = _DTYPES.get(common, "string")
    if dtype == "string":
        values = [v if v is None or isinstance(v, str) else json.dumps(plain(v), ensure_ascii=False) for v in values]
    try:
        return pd.array(values, dtype=dtype)
    except (TypeError, ValueError, OverflowError):  # such as a count beyond 64 bits
        return typed(values, "string")


def _known() -> dict[str, str]:
    """The plain fields of a run's row, with the dtype of their columns."""
    hints = {**get_type_hints(EvalResult), **get_type_hints(ProfileResult)}
    return {
        name: dtype for name, hint in hints.items() for kind, dtype in _DTYPES.items() if hint in (kind, kind | None)
    }


def _cells(run: Run) -> Iterator[tuple[str, Any]]:
    """The columns of a run but its scores."""
    yield from {"kind": run.kind, "created": run.created, "key": run.key, "path": str(run.path.absolute())}.items()
    rest = {"environment": run.environment, **run.row}
    for name, value in rest.items():
        if name in ("metrics", *_IN_ATTRS):
            continue
        if name == "remarks":
            yield name, "; ".join(_remarks(run)) or None
        else:
            yield from _flat(name if name not in _IDENTITY else f"row.{name}", value)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for inner, v in value.items():
            yield from _flat(f"{name}.{inner}", v)
    else:
        yield name, value


def _remarks(run: Run) -> list[str]:
    """The remarks of a run; rows of unknown kinds may have anything in their place."""
    remarks = run.row.get("remarks")
    return [str(remark) for remark in remarks] if isinstance(remarks, (list, tuple)) else []


def _attrs(runs: Iterable[Run]) -> dict[str, Any]:
    attrs: dict[str, Any] = {"notes": [], **{name: {} for name in _IN_ATTRS}}
    for run in runs:
        attrs["notes"] += [f"{run.path.name}: {remark}" for remark in _remarks(run)]
        for name in _IN_ATTRS:
            found = plain(run.row.get(name))
            if isinstance(found, dict) and found:
                attrs[name] |= found if name in ("units", "higher_is_better") else {run.path.name: found}
    return attrs
