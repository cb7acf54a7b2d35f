"""Tables, plots, machines and definitions in one HTML file that loads nothing from anywhere.

Pictures are SVG in data URIs, one for a light and one for a dark page; tables sort by a click on a heading,
with a few lines of script in the page; without script they are in the order of the tables.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hmrbench import __version__
from hmrbench.errors import DataError, UsageError
from hmrbench.metrics import measures, phi
from hmrbench.report import figures, formats, plots
from hmrbench.report.sheets import sheets
from hmrbench.report.tables import Table
from hmrbench.results.runs import Run

# What is drawn of each task against the accuracy: (cost, size of the circles).
_PLOTS = (("macs", "params"), ("params", None), ("images_per_s", "params"))


def build(table: Table, runs: Sequence[Run], title: str, *, untrained: bool = False) -> tuple[str, list[str]]:
    """The page, and remarks on what the plots do not show.

    Args:
        table: what `tables.gather` joined.
        runs: the runs it was joined from; their environments are listed.
        title: the page's heading.
        untrained: also draw scores of networks with random weights.
    """
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
        definitions=phi.DEFINITIONS,
        machines=_machines([r for r in runs if r.row["model"] in used]),
        runs=[_run_row(r) for r in runs if r.row["model"] in used],
    )
    return text, remarks


def _plots(table: Table, untrained: bool) -> tuple[dict[str, list[dict[str, str]]], list[str]]:
    found: dict[str, list[dict[str, str]]] = {}
    remarks: list[str] = []
    for task in table.tasks():
        for cost, size in _PLOTS:
            try:
                y, _ = plots.find_accuracy(table, None, task)
                x = plots.find_key(table, cost, task)
                points, left_out = plots.points(table, x, y, size, task, untrained=untrained)
                pictures = [_picture(points, x, y, size, dark) for dark in (False, True)]
            except (UsageError, DataError) as e:  # nothing of that kind was measured
                remarks.append(f"{measures.TITLES[task]}, no plot against {cost}: {e}")
                continue
            alt = f"{plots.axis_of(y).title} against {plots.axis_of(x).title}, {len(points)} points"
            notes = " ".join(f"{n[0].upper()}{n[1:]}." for n in [*left_out, *pictures[0][1]])
            found.setdefault(task, []).append(
                {"light": pictures[0][0], "dark": pictures[1][0], "alt": alt, "notes": notes}
            )
    return found, list(dict.fromkeys(remarks))


def _picture(points: Sequence[figures.Point], x: str, y: str, size: str | None, dark: bool) -> tuple[str, list[str]]:
    third = None if size is None else plots.axis_of(size)
    figure, remarks = figures.accuracy_cost(points, plots.axis_of(x), plots.axis_of(y), third, dark=dark)
    data = base64.b64encode(figures.to_bytes(figure, "svg", outlines=False)).decode()
    return f"data:image/svg+xml;base64,{data}", remarks


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
