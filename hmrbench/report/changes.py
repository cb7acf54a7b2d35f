"""What the other cuts of a family and size change against one of them, and the mean of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hmrbench.errors import UsageError
from hmrbench.metrics.measures import COUNTS, MEASURES, SPEEDS, TITLES, measure_of
from hmrbench.report.views import Row


def add_changes(rows: Sequence[dict[str, Any]], against: str) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Rows with `change:` and `difference:` against a cut of the same family and size; the mean changes by task.

    Costs belong to the model; scores are compared only between rows of the same protocol.
    """
    cut = against.upper()
    if re.fullmatch("S[1-4]", cut) is None:
        raise UsageError(f"a cut is S2, S3 or S4, not '{against}'")
    wholes = [r for r in rows if r.get("cut") == cut]
    if not wholes:
        raise UsageError(f"no run of a model cut at {cut}, against which others could be compared")
    found = []
    for row in rows:
        partners = [w for w in wholes if row.get("cut") not in (None, cut) and _sisters(row) == _sisters(w)]
        alike = [w for w in partners if _alike(row) == _alike(w)]
        costs = _change(row, partners[0], (*COUNTS, *SPEEDS)) if partners else {}
        scores = _change(row, alike[0], [m for m in MEASURES if m not in (*COUNTS, *SPEEDS)]) if len(alike) == 1 else {}
        reported = _change(row, partners[0], [], "published:") if partners else {}
        found.append(row | costs | scores | reported)
    means: dict[str, list[str]] = {}
    for task in dict.fromkeys(r["task"] for r in found):
        for other in sorted({r["cut"] for r in found if r["task"] == task and "against" in r}, reverse=True):
            own = {r["model"]: r for r in found if r["task"] == task and r.get("cut") == other and "against" in r}
            text = f"{TITLES.get(task, task)}, {other} against {cut}: {_mean_changes(list(own.values()))}"
            means.setdefault(task, []).append(text)
    return found, means


def _sisters(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(k) for k in ("task", "family", "size"))


def _alike(row: Row) -> tuple[Any, ...]:
    return (
        *(row.get(k) for k in ("flip", "codec", "input", "dtype", "boxes")),
        row.get("weights") == "random",
    )


def _change(row: Row, whole: Row, names: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """Changes of the measures `names`, or of all numbers whose key has the prefix."""
    changes: dict[str, Any] = {"against": whole["model"]}
    for key, value in row.items():
        name = key.rpartition(":")[2]
        wanted = key.startswith(prefix) if prefix else name in names and not key.startswith("published:")
        if not wanted or not isinstance(value, (int, float)) or not whole.get(key):
            continue
        changes[f"change:{key}"] = 100 * (value / whole[key] - 1)
        if name not in (*COUNTS, *SPEEDS):
            changes[f"difference:{key}"] = value - whole[key]
    return changes


def _mean_changes(rows: Sequence[Row]) -> str:
    words = []
    for key in ("params", "macs", "images_per_s"):
        values = [r[f"change:{key}"] for r in rows if f"change:{key}" in r]
        if values:
            low, high = min(values), max(values)
            span = f" ({low:+.1f} to {high:+.1f})" if len(values) > 1 else ""
            words.append(f"{measure_of(key).heading.partition(' ')[0]} {sum(values) / len(values):+.1f} %{span}")
    return ", ".join(words) + f"; {len(rows)} model{'s' if len(rows) > 1 else ''}"
