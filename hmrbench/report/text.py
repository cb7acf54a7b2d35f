"""Sheets -> plain text of a given width: numbers are always whole, names are folded where they must be."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby, zip_longest

from rich.cells import cell_len, chop_cells

from hmrbench.report.sheets import Column, Sheet
from hmrbench.report.views import Row


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
