"""Tables as csv, parquet, markdown, LaTeX (booktabs) and html, written by pandas and by Jinja.

csv and parquet hold every key and digit; the others what a paper shows (`sheets`). Only what pandas lacks is here:
what must not be read as markup, headings that neighbours share, notes and captions. Jinja writes the html, since cells
carry the exact value to sort by, which pandas' Styler cannot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from hmrbench.errors import UsageError, printable
from hmrbench.report.sheets import Column, Sheet, sheets
from hmrbench.report.tables import Table
from hmrbench.report.text import write_text
from hmrbench.report.views import Row


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


# --------------------------------------------------------------------------- markdown


def write_markdown(found: Sequence[Sheet]) -> str:
    """Tables as GitHub reads them."""
    return "\n".join(_markdown(sheet) for sheet in found)


def _markdown(sheet: Sheet) -> str:
    heads = [f"{c.group} {c.title}" if c.group not in ("", "cost", "composite") else c.title for c in sheet.columns]
    rows = [[_markdown_cell(c.text(r)) for c in sheet.columns] for r in sheet.measured]
    rows += [[f"*{t}*" if (t := _markdown_cell(c.text(r))) else "" for c in sheet.columns] for r in sheet.published]
    frame = pd.DataFrame(rows, columns=list(map(_markdown_cell, heads)))
    sides = ["left" if c.group == "" else "right" for c in sheet.columns]
    notes = [f"- {_escape_markdown(n)}" for n in sheet.notes]
    lines = frame.to_markdown(index=False, colalign=sides, disable_numparse=True)  # digits as they were written
    return "\n".join([f"**{sheet.title.capitalize()}**", "", lines, "", *notes, ""])


def _markdown_cell(text: str) -> str:
    """A name as it is: no emphasis, link, tag or end of the cell."""
    return re.sub(r"([\\`*<|]|(?<=\])\(|\b_\B|\B_\b)", r"\\\1", text)


def _escape_markdown(text: str) -> str:
    return re.sub(r"([_*<>|])", r"\\\1", text)


# --------------------------------------------------------------------------- LaTeX


def write_latex(found: Sequence[Sheet]) -> str:
    """Tables for LaTeX's package booktabs."""
    return "\n".join(_latex(sheet) for sheet in found)


def _latex(sheet: Sheet) -> str:
    spans = [(group, len(list(members))) for group, members in groupby(c.group for c in sheet.columns)]
    rules, at = "", 1
    for group, count in spans:
        rules += f"\\cmidrule(lr){{{at}-{at + count - 1}}}" if group else ""
        at += count
    titles = [_tex(c.title) for c in sheet.columns]
    titles[0] = f"{rules}\n{titles[0]}" if rules else titles[0]
    rows: list[list[str]] = []
    for number, block in enumerate(sheet.blocks()):
        told = [[_tex_name(row), *(_tex_number(c.text(row)) for c in sheet.columns[1:])] for row in block]
        told[0][0] = f"\\midrule\n{told[0][0]}" if number else told[0][0]
        rows += told
    groups = [_tex(c.group) for c in sheet.columns]
    columns = pd.MultiIndex.from_arrays([groups, titles]) if rules else titles
    caption = ". ".join(_tex(n[:1].upper() + n[1:]) for n in [sheet.title, *sheet.notes])
    text: str = (
        pd.DataFrame(rows, columns=columns)
        .style.hide(axis="index")
        .to_latex(
            column_format="".join("l" if c.group == "" else "r" for c in sheet.columns),
            hrules=True,
            multicol_align="c",
            position_float="centering",
        )
    )
    return text.replace(r"\end{table}", f"\\caption{{{caption}.}}\n\\end{{table}}")  # pandas would put it above


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


def _tex_number(text: str) -> str:
    return text.replace("-", "$-$", 1) if re.fullmatch(r"-[\d,.]+", text) else _tex(text) or "--"


def _tex_name(row: Row) -> str:
    """The name as papers write it; of a published row in italics."""
    if row["kind"] == "published":
        return f"\\textit{{{_tex(row['model'])}}}"
    return _tex(printable(row.get("paper_name") or row["model"]).replace("\n", " "))


# --------------------------------------------------------------------------- html


def write_html(found: Sequence[Sheet]) -> str:
    """A section per task; cells carry `data-value` for sorting, published rows the class `published`."""
    environment = Environment(
        loader=PackageLoader("hmrbench", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["phi"] = _html_title
    template = environment.get_template("table.html.j2")
    return "\n".join(
        template.render(
            sheet=sheet,
            spans=[(group, list(members)) for group, members in groupby(sheet.columns, key=lambda c: c.group)],
            bodies=[(kind, rows) for kind in ("measured", "published") if (rows := getattr(sheet, kind))],
            sort_value=_sort_value,
        )
        for sheet in found
    )


def _sort_value(column: Column, row: Row) -> str | None:
    """Every digit of a number, to sort by; None for a name or where there is no number."""
    value = row.get(column.key)
    return repr(value) if isinstance(value, (int, float)) and column.group != "" else None


def _html_title(text: str) -> Markup:
    return Markup(re.sub(r"Phi[_,](\w)[_,](\dD)", r"Φ<sub>\1,\2</sub>", str(escape(text))))


WRITERS: dict[str, Callable[[Sequence[Sheet]], str]] = {
    "text": write_text,
    "markdown": write_markdown,
    "latex": write_latex,
    "html": write_html,
}
