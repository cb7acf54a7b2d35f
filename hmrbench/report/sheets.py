"""Table -> sheets: what is written of each task, in which columns and words, whatever the format.

Published rows stand below the measured ones and are marked; what all rows share, the definition of every composite
score and the sources are notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from hmrbench.errors import printable
from hmrbench.metrics import phi
from hmrbench.metrics.measures import COMPOSITES, COUNTS, MEASURES, SPEEDS, TITLES, measure_of
from hmrbench.report.tables import Table
from hmrbench.report.views import Row, in_words

_IDENTITY = ("input", "boxes", "flip", "codec", "weights", "runtime", "dtype")
_MEANING = {
    "macs": "MACs: one multiply-add = 1; FLOPs are twice that",
    "published": "published: reported by others, not measured here",
}


@dataclass(frozen=True)
class Column:
    """A column of a written table: a row's key, a heading that neighbours share, a title, how to write it."""

    key: str
    group: str
    title: str
    digits: int = 1
    scale: float = 1.0
    signed: bool = False

    def text(self, row: Row) -> str:
        """The cell of a row; empty where there is no value."""
        value = row.get(self.key)
        if value is None:
            return ""
        if self.key == "flip":
            return "yes" if value else "no"
        if self.key == "weights":
            return printable(str(value).rpartition("/")[2])
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            shown = round(value / self.scale, self.digits) + 0.0  # never a negative zero
            return f"{shown:{'+' if self.signed else ''},.{self.digits}f}"
        return printable(str(value)).replace("\n", " ")


@dataclass(frozen=True)
class Sheet:
    """What is written of one task: a title, columns, measured and published rows, notes."""

    task: str
    title: str
    columns: Sequence[Column]
    measured: Sequence[Row]
    published: Sequence[Row]
    notes: Sequence[str]

    def blocks(self) -> list[Sequence[Row]]:
        """Rows that belong together: each family, then the published ones."""
        families = [list(g) for _, g in groupby(self.measured, key=lambda r: r.get("family"))]
        return [*families, *([self.published] if self.published else [])]


def sheets(table: Table, metrics: Sequence[str] = (), digits: int | None = None) -> list[Sheet]:
    """The tables to write, pose first.

    Args:
        metrics: the numbers to show and no others (see `Table.find_numbers`); those of a paper's table if none.
        digits: decimals of scores and of speed; one if None.

    Raises:
        UsageError: no row has such a number.
    """
    chosen = table.find_numbers(metrics)
    return [_sheet(table, task, chosen, digits) for task in table.tasks()]


def _sheet(table: Table, task: str, chosen: Sequence[str], digits: int | None) -> Sheet:
    rows = [r for r in table.rows if r["task"] == task]
    measured = [r for r in rows if r["kind"] == "measured"]
    published = [r for r in rows if r["kind"] == "published"]
    differ = [k for k in _IDENTITY if _differs(k, rows if k == "input" else measured)]
    columns = [Column("model", "", "model"), *(Column(k, "", k) for k in differ)]
    columns += [_column(k, digits) for k in table.columns() if _is_shown(k, rows, chosen)]
    keys = {c.key for c in columns}
    notes = [_shared(k, measured) for k in _IDENTITY if k not in differ]
    notes = [", ".join(filter(None, notes)), *_people(measured)]
    notes += [phi.DEFINITIONS[k] for k in COMPOSITES if keys & {k, f"published:{k}", f"difference:{k}"}]
    notes += [f"{k}: of that data set alone" for k in keys if k.partition(":")[2] in COMPOSITES and k[:4] != "publ"]
    notes += [_MEANING["macs"]] if any("macs" in k for k in keys) else []
    notes += table.notes if keys & set(SPEEDS) else ()
    notes += table.mean_changes.get(task, ())
    if published or any(k.startswith("published:") for k in keys):
        sources = [r["published:source"] for r in measured if r.get("published:source")]
        own = "; ".join(dict.fromkeys(sources))
        notes.append(_MEANING["published"] + (f"; published columns: {own}" if own else ""))
    notes += [f"[{i}] {s}" for i, s in enumerate(table.sources, 1) if any(r["source"] == s for r in published)]
    marks = {s: i for i, s in enumerate(table.sources, 1)}
    published = [{**r, "model": f"{r['model']} (published [{marks[r['source']]}])"} for r in published]
    return Sheet(task, TITLES.get(task, task), columns, measured, published, [n for n in notes if n])


def _differs(key: str, rows: Sequence[Row]) -> bool:
    """Whether a column is needed; weights get one where a model has several, or some are untrained."""
    values = {r[key] for r in rows if r.get(key) is not None}
    if key != "weights" or len(values) < 2:
        return len(values) > 1
    several = len({(r["model"], r["weights"]) for r in rows}) > len({r["model"] for r in rows})
    return several or "random" in values


def _shared(key: str, rows: Sequence[Row]) -> str:
    values = list(dict.fromkeys(r[key] for r in rows if r.get(key) is not None))
    if len(values) > 1:
        return "weights of each model's own file"
    return in_words(key, values[0]) if values else ""


def _people(rows: Sequence[Row]) -> list[str]:
    """How many people each data set had."""
    counts: dict[str, dict[int, None]] = {}
    for row in rows:
        for label, samples in (row.get("samples") or {}).items():
            counts.setdefault(label, {})[samples] = None
    words = [f"{label} {' or '.join(f'{n:,}' for n in found)}" for label, found in counts.items()]
    return [f"samples: {', '.join(words)}"] if words else []


def _is_shown(key: str, rows: Sequence[Row], chosen: Sequence[str]) -> bool:
    if not any(r.get(key) is not None for r in rows):
        return False
    if chosen:
        return key in chosen
    prefix, _, rest = key.partition(":")
    name = key.rpartition(":")[2]
    scored = name not in (*COUNTS, *SPEEDS)
    if name not in MEASURES:  # a score of another package, or what is no number
        return ":" in key and prefix not in ("published", "change", "difference") and _has_number(key, rows)
    measure = MEASURES[name]
    if prefix in ("change", "difference"):
        return (prefix == "difference") == scored and measure.change_shown
    label = rest.rpartition(":")[0] if prefix == "published" else prefix
    hidden = measure.behind and any(r.get(f"{label}:{measure.behind}") is not None for r in rows)
    return measure.shown and not hidden


def _has_number(key: str, rows: Sequence[Row]) -> bool:
    return any(isinstance(r.get(key), (int, float)) for r in rows)


def _column(key: str, digits: int | None) -> Column:
    measure = measure_of(key)
    prefix, _, rest = key.partition(":")
    scored = key.rpartition(":")[2] not in (*COUNTS, *SPEEDS)
    places = measure.digits if digits is None or (not scored and measure.scale > 1) else digits
    title = measure.heading.partition(" (")[0]
    if prefix in ("change", "difference"):
        where = rest.rpartition(":")[0].replace("published:", "published, ") or ("composite" if scored else "")
        unit = measure.unit.replace("%", "points") if scored else "%"
        group = f"change, {where}" if where else "change"
        return Column(key, group, f"{title} ({unit})", places if scored else 1, 1.0, True)
    if prefix == "published":
        return Column(key, f"published, {rest.rpartition(':')[0]}", title, places)
    if not scored:
        return Column(key, "cost", measure.heading, places, measure.scale)
    return Column(key, prefix if ":" in key else "composite", title, places)
