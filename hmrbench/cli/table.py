"""`hmrbench table`: what was measured, side by side with what was published."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from hmrbench.cli.options import Json, ModelsDirs, Runs, print_json, show_view


class Format(str, Enum):
    """How a table is written."""

    text = "text"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"
    json = "json"


def table(
    runs: Runs = Path("runs"),
    format: Annotated[Format, typer.Option("--format", "-f", help="How to write it.")] = Format.text,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
    models_dir: ModelsDirs = None,
    json: Json = False,
) -> None:
    """Gather the runs into one table; published numbers stand in columns of their own."""
    from hmrbench import results, tables, zoo

    gathered = tables.gather(results.load_runs(runs), zoo.load_cards(models_dir or []))
    if json or format is Format.json:
        rows = tables.to_rows(gathered)
        if output is None:
            print_json(rows)
        else:
            results.write_atomic(output, results.to_json(rows).encode())
        return
    if format is Format.text and output is None:
        show_view(tables.table_view(gathered))
        return
    text = tables.render(gathered, format.value)
    if output is None:
        typer.echo(text)
    else:
        results.write_atomic(output, text.encode())
