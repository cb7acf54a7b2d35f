"""Tables, plots, machines and definitions in one HTML file that loads nothing from anywhere.

Pictures are SVG in data URIs, one for a light and one for a dark page; tables sort by a click on a heading,
with a few lines of script in the page; without script they are in the order of the tables.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hmrbench import __version__
from hmrbench.errors import DataError, UsageError
from hmrbench.metrics import measures, phi
from hmrbench.report import figures, formats, gallery, plots
from hmrbench.report.marks import Axis, Point
from hmrbench.report.sheets import sheets
from hmrbench.report.tables import Table
from hmrbench.results.runs import Run

# What is drawn of each task against the accuracy: (cost, size of the circles).
_PLOTS = (("macs", "params"), ("params", None), ("images_per_s", "params"))


def build(
    table: Table, runs: Sequence[Run], title: str, *, untrained: bool = False, pictures: Path | None = None
) -> tuple[str, list[str]]:
    """The page, and remarks on what the plots do not show.

    Args:
        table: what `tables.gather` joined.
        runs: the runs it was joined from; their environments are listed.
        title: the page's heading.
        untrained: also draw scores of networks with random weights.
        pictures: a folder that `predict` wrote to; what it holds is shown.

    Raises:
        DataError: that folder, or a picture in it, cannot be read.
    """
    shown = [] if pictures is None else gallery.read(pictures)
    plots, remarks = _plots(table, untrained)
    used = {r["model"] for r in table.rows}
    page = Environment(
        loader=PackageLoader("hmrbench", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template("page.html.j2")
    text: str = page.render(
        title=title,
        version=__version__,
        sections=[(s, Markup(formats.write_html([s]))) for s in sheets(table)],  # escaped there
        plots=plots,
        pictures=shown,
        definitions=phi.DEFINITIONS,
        machines=_machines([r for r in runs if r.row["model"] in used]),
        runs=[_run_row(r) for r in runs if r.row["model"] in used],
    )
    return text, remarks


def _plots(table: Table, untrained: bool) -> tuple[dict[str, list[dict[str, Any]]], list[str]]:
    found: dict[str, list[dict[str, Any]]] = {}
    remarks: list[str] = []
    for task in table.tasks():
        for cost, size in _PLOTS:
            try:
                y, _ = plots.find_accuracy(table, None, task)
                x = plots.find_key(table, cost, task)
                points, left_out = plots.points(table, x, y, size, task, untrained=untrained)
                if len({p.label for p in points}) == 1:
                    raise DataError("only one model has both numbers, and the table says them")
                found.setdefault(task, []).append(_plot(points, x, y, size, left_out))
            except (UsageError, DataError) as e:  # nothing of that kind was measured
                remarks.append(f"{measures.TITLES[task]}, no plot against {cost}: {e}")
    return found, list(dict.fromkeys(remarks))


def _plot(points: Sequence[Point], x: str, y: str, size: str | None, left_out: Sequence[str]) -> dict[str, Any]:
    """A plot for a light and a dark page, what it does not show, and what is said where a pointer rests on a point."""
    axes = (plots.axis_of(x), plots.axis_of(y))
    third = None if size is None else plots.axis_of(size)
    pictures, remarks = [], [*left_out]
    for dark in (False, True):
        figure, more = figures.accuracy_cost(points, *axes, third, figures.FigureSettings(dark=dark))
        data = base64.b64encode(figures.to_bytes(figure, "svg", outlines=False)).decode()
        pictures.append(f"data:image/svg+xml;base64,{data}")
    spots = [
        {"left": f"{100 * left:.2f}%", "top": f"{100 * top:.2f}%", "model": p.label, "text": _told(p, *axes, third)}
        for p, (left, top) in zip(points, figures.places(figure, points, *axes), strict=True)
    ]
    alt = f"{axes[1].title} against {axes[0].title}, {len(points)} points"
    notes = " ".join(f"{n[0].upper()}{n[1:]}." for n in dict.fromkeys([*remarks, *more]))
    return {"light": pictures[0], "dark": pictures[1], "alt": alt, "notes": notes, "spots": spots}


def _told(point: Point, x: Axis, y: Axis, size: Axis | None) -> str:
    """The numbers of a point, a line each."""
    lines = [f"{point.label}, {'published' if point.published else 'measured'}"]
    known = [(y, point.y), (x, point.x), *([(size, point.size)] if size is not None and point.size else [])]
    return "\n".join([*lines, *(f"{axis.title}: {value / axis.scale:,.2f}" for axis, value in known)])


def _machines(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each environment that runs were made in, with how many."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        environment = _flat(run.environment)
        entry = found.setdefault(repr(environment), {"fields": environment, "runs": 0, "devices": {}})
        entry["runs"] += 1
        entry["devices"][str(run.row.get("device"))] = None
    return list(found.values())


def _flat(content: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= value if isinstance(value, Mapping) else {key: value}
    return flat


def _run_row(run: Run) -> dict[str, Any]:
    row = run.row
    remark = "partial" if row.get("partial") else row.get("error") or ""
    words = {k: row.get(k) for k in ("model", "dataset", "weights", "device", "dtype", "batch_size", "samples")}
    return {"created": run.created, "kind": run.kind, **words, "remark": remark}
