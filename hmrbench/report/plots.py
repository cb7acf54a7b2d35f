"""Tables -> points of a plot: which numbers are meant, how their axes are called, what can be drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hmrbench.errors import UsageError
from hmrbench.metrics.measures import MEASURES, measure_of
from hmrbench.nets.encoders.record import known_families
from hmrbench.nets.record import REFERENCES, known_networks
from hmrbench.report.marks import Axis, Point
from hmrbench.report.tables import Table
from hmrbench.report.views import NO_BOXES_MARK


def find_key(table: Table, name: str, task: str | None = None) -> str:
    """The key of a row that a person means by `AP`, `coco-val:AP`, `Phi_M_3D`, `MACs`, `rate`, `latency`.

    Raises:
        UsageError: no row has such a number, or several data sets do; lists what there is.
    """
    alias = {
        "rate": "images_per_s",
        "fps": "images_per_s",
        "latency": "latency_ms",
        "memory": "peak_memory_mb",
    }
    wanted = alias.get(name.lower(), name).lower()
    rows = [r for r in table.rows if task in (None, r["task"])]
    keys = {
        k.removeprefix("published:"): None
        for row in rows
        for k, v in row.items()
        if isinstance(v, (int, float)) and k.rpartition(":")[2] in MEASURES and not k.startswith(("change", "diff"))
    }
    exact = [k for k in keys if k.lower() == wanted]
    found = exact or [k for k in keys if k.lower().rpartition(":")[2] == wanted]
    found = [k for k in found if NO_BOXES_MARK not in k] or found  # which must be asked for by its whole name
    if len(found) != 1:
        what = f"is measured on {len(found)} data sets; say which" if found else "is in no row; there is"
        raise UsageError(f"'{name}' {what}: {', '.join(found or keys)}")
    return found[0]


# What is drawn of a task if nobody says: the first of these that some model has.
_ACCURACY = {
    "hpe": ("coco-val:AP",),
    "hmr": ("Phi_M_3D", "3dpw-test:PA-MPJPE", "h36m-val-p2:PA-MPJPE", "Phi_M_2D", "coco-val-hmr:PCK@0.1"),
}


def find_accuracy(table: Table, name: str | None, task: str | None) -> tuple[str, str]:
    """The key of the accuracy to draw, and the task whose models have it.

    Raises:
        UsageError: no model has it, or several keys are meant.
    """
    tasks = [task] if task else table.tasks()
    if name is not None:
        key = find_key(table, name, task)
        scored = [
            t
            for t in tasks
            if any(r.get(k) is not None for r in table.rows for k in (key, f"published:{key}") if r["task"] == t)
        ]
        return key, scored[0]
    for own in tasks:
        known = {
            k.removeprefix("published:") for r in table.rows if r["task"] == own for k, v in r.items() if v is not None
        }
        others = sorted(
            k
            for k in known
            if ":" in k and measure_of(k).higher_is_better is not None and k[:4] not in ("chan", "diff")
        )
        for key in (*_ACCURACY[own], *others):
            if key in known:
                return key, own
    raise UsageError("no model has an accuracy, measured or published")


def axis_of(key: str) -> Axis:
    """Title, scale and direction of a plot's axis."""
    measure = measure_of(key)
    names = {"params": "parameters (M)", "latency_ms": "latency (ms)", "images_per_s": "images per second"}
    where = f" on {key.rpartition(':')[0]}" if ":" in key else ""
    unit = f" ({measure.unit})" if key not in names and measure.unit in ("%", "mm") else ""
    title = names.get(key, measure.heading) + where + unit
    return Axis(title, measure.scale, measure.higher_is_better)


def points(
    table: Table, x: str, y: str, size: str | None, task: str, *, untrained: bool = False, by_runtime: bool = False
) -> tuple[list[Point], list[str]]:
    """Points of accuracy `y` against cost `x`, measured and published; remarks name what could not be drawn.

    A measured number is left out where its weights are random (unless `untrained`) or only part of the data
    set was evaluated. The published number of a model that was profiled here becomes a published point at its
    cost. `by_runtime` tells the runtime by the marker, in place of the cut.
    """
    found, untold, left_out = [], [], []
    inputs: dict[str, set[Any]] = {}
    references = {network.family.name for network in known_networks().values()} - known_families().keys()
    for row in table.rows:
        inputs.setdefault(row["model"], set()).add(row.get("input"))
    for row in (r for r in table.rows if r["task"] == task):
        cost, third = row.get(x), row.get(size or "")
        name = row.get("paper_name") or row["model"]
        if row["kind"] == "published" and len(inputs[row["model"]]) > 1:
            name += f" {row['input']}"
        measured, published = row.get(y), row.get(f"published:{y}")
        if row["kind"] == "published":
            measured, published = None, measured
        if measured is not None and row.get("weights") == "random" and not untrained:
            left_out.append(name)
            measured = None
        if cost is None or (measured is None and published is None):
            untold.append(name)
            continue
        family = row.get("backbone") or "others"
        kind = f"{row.get('runtime')} {row.get('dtype')}" if by_runtime and row["kind"] == "measured" else None
        if family in references:
            family = REFERENCES.name
        for value, reported in ((measured, False), (published, True)):
            if value is not None:
                found.append(Point(name, family, kind or row.get("cut") or "", cost, value, third, reported))
    remarks = []
    if left_out:
        remarks.append(f"not drawn, untrained weights: {_list(left_out)}")
    if untold:
        what = f"{axis_of(x).title} or {axis_of(y).title}"
        remarks.append(f"not drawn, {what} is not known: {_list(untold)}")
    return list(dict.fromkeys(found)), remarks


def _list(names: Iterable[str]) -> str:
    unique = list(dict.fromkeys(names))
    return ", ".join(unique[:6]) + (f" and {len(unique) - 6} more" if len(unique) > 6 else "")
