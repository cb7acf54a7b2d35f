"""Tables -> text for a terminal, csv, parquet, markdown, LaTeX (booktabs), html.

One table per task, published rows below the measured ones and marked; what all rows share, the definition of
every composite score and the sources stand under it. csv, parquet and JSON hold every key and digit; the
others what a paper shows.
"""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from typing import Any

from rich.cells import cell_len, chop_cells

from hmrbench.errors import UsageError, printable
from hmrbench.metrics import phi
from hmrbench.metrics.measures import COMPOSITES, COUNTS, MEASURES, SPEEDS, TITLES, measure_of
from hmrbench.report.tables import Row, Table, in_words

_IDENTITY = ("input", "boxes", "flip", "codec", "weights", "dtype")
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
    notes += [n for n in table.notes if keys & set(SPEEDS) or not n.startswith("speed")]
    notes += [n for n in table.changes if n.startswith(TITLES.get(task, task))]
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


# --------------------------------------------------------------------------- writers


def render(table: Table, format: str, metrics: Sequence[str] = (), digits: int | None = None, width: int = 80) -> str:
    """The table in a format: text of a width, csv, markdown, latex or html.

    Raises:
        UsageError: no row has a number of a name in `metrics`.
    """
    if format == "csv":
        return write_csv(table, metrics)
    found = sheets(table, metrics, digits)
    return write_text(found, width) if format == "text" else WRITERS[format](found)


def write_csv(table: Table, metrics: Sequence[str] = ()) -> str:
    """Every key and digit of every row, or of the numbers wanted; an empty cell where there is no value."""
    import pandas as pd

    # Objects, so that a whole number beside fractions stays as it was measured.
    return str(pd.DataFrame(table.flat(metrics), dtype=object).to_csv(index=False, lineterminator="\n"))


def write_parquet(table: Table, metrics: Sequence[str] = ()) -> bytes:
    """What csv holds, with the types of the columns; notes, sources and definitions in the file's metadata.

    Raises:
        UsageError: pyarrow is not installed, or no row has a number of a name in `metrics`.
    """
    frame = table.frame(metrics)
    try:
        return frame.to_parquet(None, engine="pyarrow", index=False)
    except ImportError as error:
        raise UsageError("parquet needs pyarrow: pip install 'hmrbench[parquet]'") from error


def write_text(found: Sequence[Sheet], width: int = 80) -> str:
    """Plain text; a table too wide is broken between columns, and each part names the models."""
    return "\n".join(line for sheet in found for line in _text_lines(sheet, width)) + "\n"


def _text_lines(sheet: Sheet, width: int) -> Iterator[str]:
    yield sheet.title
    for columns in _parts(sheet, width):
        told = _told(sheet, columns)
        widths = _widths(columns, told[0] + told[1], width)
        line = "─" * (sum(widths) + 2 * len(widths) - 2)
        yield ""
        if any(c.group for c in columns):
            yield _group_line(columns, widths).rstrip()
        yield from _folded([c.title for c in columns], columns, widths)
        for rows, rule in zip(told, (line, f"─ {_PUBLISHED} {line}"[: len(line)]), strict=True):
            if rows:
                yield rule
            for row in rows:
                yield from _folded([_cell(c, row) for c in columns], columns, widths)
    yield ""
    for note in sheet.notes:
        yield from textwrap.wrap(note, width, subsequent_indent="  ", break_on_hyphens=False)
    yield ""


_PUBLISHED = "published, not measured here"


def _told(sheet: Sheet, columns: Sequence[Column]) -> tuple[list[Row], list[Row]]:
    """The measured and the published rows that have any number in these columns."""
    numbers = [c.key for c in columns if c.group]
    measured, published = (
        [r for r in rows if any(r.get(k) is not None for k in numbers)] for rows in (sheet.measured, sheet.published)
    )
    return measured, published


def _cell(column: Column, row: Row) -> str:
    """A cell as text; published rows stand below a line that says so and are marked by their source alone."""
    text = column.text(row) or "-"
    return re.sub(r" \(published (\[\d+\])\)$", r" \1", text) if column.key == "model" else text


def _folded(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> Iterator[str]:
    """The lines of one row: a name that is longer than its column goes on in the next line."""
    told = [chop_cells(text, width) for text, width in zip(cells, widths, strict=True)]
    for line in zip_longest(*told, fillvalue=""):
        yield "  ".join(_pad(t, c, w) for t, c, w in zip(line, columns, widths, strict=True)).rstrip()


def _pad(text: str, column: Column, width: int) -> str:
    blanks = " " * (width - cell_len(text))
    return text + blanks if column.group == "" else blanks + text


_NARROW = 6  # the width to which a column of names may be folded
_TITLE = 16  # the width that a title or a group's name may ask for where its numbers are narrower


def _widths(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[int]:
    """Widths in cells. Names that would leave numbers too little room are folded, the widest first; numbers never."""
    widths = []
    for c in columns:
        title = cell_len(c.title) if c.group == "" else min(cell_len(c.title), _TITLE)
        widths.append(max([title, *(cell_len(_cell(c, r)) for r in rows)]))
    for group, index in _groups(columns):
        span = sum(widths[i] for i in index) + 2 * len(index) - 2
        if group:
            widths[index[0]] += max(0, min(cell_len(group), max(_TITLE, width // 3)) - span)
    names = [i for i, c in enumerate(columns) if c.group == ""]
    numbers = [w for i, w in enumerate(widths) if i not in names]
    room = min(width * 6 // 10, width - max(numbers, default=0) - 2 * len(names))
    while sum(widths[i] for i in names) > room and max(widths[i] for i in names) > _NARROW:
        widths[max(names, key=lambda i: widths[i])] -= 1
    return widths


def _groups(columns: Sequence[Column]) -> Iterator[tuple[str, list[int]]]:
    """The headings that neighbours share, each with the places of its columns."""
    for group, members in groupby(range(len(columns)), key=lambda i: columns[i].group):
        yield group, list(members)


def _group_line(columns: Sequence[Column], widths: Sequence[int]) -> str:
    cells = []
    for group, index in _groups(columns):
        span = sum(widths[i] for i in index) + 2 * len(index) - 2
        told = group if cell_len(group) <= span else f"{chop_cells(group, span - 1)[0]}…"
        room = " " * (span - cell_len(told))
        cells.append(f"{told} ".ljust(span, "╌") if group and room and len(index) > 1 else room + told)
    return "  ".join(cells)


def _parts(sheet: Sheet, width: int) -> list[list[Column]]:
    """Columns that fit side by side, after those that name a row; groups stay whole where they can."""
    names = [c for c in sheet.columns if c.group == ""]
    groups = [list(g) for _, g in groupby((c for c in sheet.columns if c.group), key=lambda c: c.group)]
    parts: list[list[Column]] = []
    for group in groups:
        if parts and _fits(sheet, [*parts[-1], *group], width):
            parts[-1] += group
            continue
        parts.append([*names])
        for column in group:
            if len(parts[-1]) > len(names) and not _fits(sheet, [*parts[-1], column], width):
                parts.append([*names])
            parts[-1].append(column)
    return parts or [names]


def _fits(sheet: Sheet, columns: Sequence[Column], width: int) -> bool:
    measured, published = _told(sheet, columns)
    widths = _widths(columns, measured + published, width)
    return sum(widths) + 2 * len(widths) - 2 <= width


def write_markdown(found: Sequence[Sheet]) -> str:
    """Tables as GitHub reads them."""
    return "\n".join(_markdown(sheet) for sheet in found)


def _markdown(sheet: Sheet) -> str:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    head = [f"{c.group} {c.title}" if c.group not in ("", "cost", "composite") else c.title for c in sheet.columns]
    lines = [line(map(_markdown_cell, head)), line([":--" if c.group == "" else "--:" for c in sheet.columns])]
    lines += [line([_markdown_cell(c.text(r)) for c in sheet.columns]) for r in sheet.measured]
    for row in sheet.published:
        lines.append(line([f"*{_markdown_cell(t)}*" if (t := c.text(row)) else "" for c in sheet.columns]))
    notes = [f"- {_escape_markdown(n)}" for n in sheet.notes]
    return "\n".join([f"**{sheet.title.capitalize()}**", "", *lines, "", *notes, ""])


def _markdown_cell(text: str) -> str:
    """A name as it is: no emphasis, link, tag or end of the cell."""
    return re.sub(r"([\\`*<|]|(?<=\])\(|\b_\B|\B_\b)", r"\\\1", text)


def _escape_markdown(text: str) -> str:
    return re.sub(r"([_*<>|])", r"\\\1", text)


def write_latex(found: Sequence[Sheet]) -> str:
    """Tables for `\\usepackage{booktabs}`."""
    return "\n".join(_latex(sheet) for sheet in found)


_LATEX = {
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
}
_LATEX |= {"^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "<": r"\textless{}", ">": r"\textgreater{}"}


def _tex(text: str) -> str:
    escaped = "".join(_LATEX.get(c, c) for c in text)
    return re.sub(r"Phi(?:\\_|,)(\w)(?:\\_|,)(\dD)", r"$\\Phi_{\1,\2}$", escaped)


def _latex(sheet: Sheet) -> str:
    def number(text: str) -> str:
        return text.replace("-", "$-$", 1) if re.fullmatch(r"-[\d,.]+", text) else _tex(text) or "--"

    spans, rules, at = [], [], 1
    for group, members in groupby(sheet.columns, key=lambda c: c.group):
        count = len(list(members))
        spans.append(f"\\multicolumn{{{count}}}{{c}}{{{_tex(group)}}}" if group else " & ".join([""] * count))
        rules += [f"\\cmidrule(lr){{{at}-{at + count - 1}}}"] if group else []
        at += count
    blocks = []
    for rows in sheet.blocks():
        lines = []
        for row in rows:
            cells = [number(c.text(row)) for c in sheet.columns]
            name = row["model"] if row["kind"] == "published" else row.get("paper_name") or row["model"]
            name = printable(name).replace("\n", " ")
            cells[0] = f"\\textit{{{_tex(name)}}}" if row["kind"] == "published" else _tex(name)
            lines.append(" & ".join(cells) + r" \\")
        blocks.append("\n".join(lines))
    layout = "".join("l" if c.group == "" else "r" for c in sheet.columns)
    caption = ". ".join(_tex(n[:1].upper() + n[1:]) for n in [sheet.title, *sheet.notes])
    titles = " & ".join(_tex(c.title) for c in sheet.columns)
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{layout}}}", r"\toprule"]
    lines += [" & ".join(spans) + r" \\", "".join(rules)] if rules else []
    lines += [titles + r" \\", r"\midrule", "\n\\midrule\n".join(blocks), r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, rf"\caption{{{caption}.}}", r"\end{table}", ""])


def write_html(found: Sequence[Sheet]) -> str:
    """A section per task; cells carry `data-value` for sorting, published rows the class `published`."""
    return "\n".join(_html(sheet) for sheet in found)


def _html(sheet: Sheet) -> str:
    spans = []
    for group, members in groupby(sheet.columns, key=lambda c: c.group):
        count = len(list(members))
        kind = ' class="group"' if group else ""
        spans.append(f'<th colspan="{count}" scope="colgroup"{kind}>{html.escape(group)}</th>')
    titles = []
    for c in sheet.columns:
        kind = "name" if c.group == "" else "number"
        titles.append(f'<th scope="col" class="{kind}" data-key="{html.escape(c.key)}">{_html_title(c.title)}</th>')
    bodies = []
    for kind, rows in (("measured", sheet.measured), ("published", sheet.published)):
        lines = [f"<tr>{''.join(_html_cell(c, r) for c in sheet.columns)}</tr>" for r in rows]
        bodies += [f'<tbody class="{kind}">', *lines, "</tbody>"] if rows else []
    notes = [f"<li>{_html_title(n)}</li>" for n in sheet.notes]
    return "\n".join(
        [
            f'<section id="{html.escape(sheet.task)}">',
            f"<h2>{html.escape(sheet.title.capitalize())}</h2>",
            '<div class="scroll"><table>',
            f"<thead><tr>{''.join(spans)}</tr>",
            f"<tr>{''.join(titles)}</tr></thead>",
            *bodies,
            "</table></div>",
            f'<ul class="notes">{"".join(notes)}</ul>',
            "</section>",
        ]
    )


def _html_cell(column: Column, row: Row) -> str:
    text = html.escape(column.text(row))
    if column.key == "model":
        return f'<th scope="row">{text}</th>'
    value: Any = row.get(column.key)
    number = isinstance(value, (int, float)) and column.group != ""
    sort = f' data-value="{value!r}"' if number else ""
    kind = ("name" if column.group == "" else "number") + ("" if text else " none")
    return f'<td class="{kind}"{sort}>{text or "–"}</td>'


def _html_title(text: str) -> str:
    return re.sub(r"Phi[_,](\w)[_,](\dD)", r"Φ<sub>\1,\2</sub>", html.escape(text))


WRITERS: dict[str, Callable[[Sequence[Sheet]], str]] = {
    "text": write_text,
    "markdown": write_markdown,
    "latex": write_latex,
    "html": write_html,
}
