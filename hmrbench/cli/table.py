"""`hmrbench table`: accuracy and cost of each model side by side, with what was published apart."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hmrbench.cli.options import Json, ModelsDirs, Runs, Task, print_json, print_text, stdout

if TYPE_CHECKING:
    from hmrbench.report.tables import Table

Patterns = Annotated[list[str] | None, typer.Argument(help="Names or globs of models; all that have runs if none.")]
WithPublished = Annotated[
    bool, typer.Option("--with-published", help="Add rows that others published, marked, with their sources.")
]
SpeedDevice = Annotated[str | None, typer.Option("--device", help="Speed on this device: part of its name.")]
SpeedDtype = Annotated[str | None, typer.Option("--dtype", help="Speed at this type: fp32, tf32, fp16, bf16.")]
By = Annotated[Literal["runtime"] | None, typer.Option("--by", help="runtime: each runtime and type by itself.")]
SpeedBatch = Annotated[int | None, typer.Option("--batch-size", help="Speed at this batch size.")]


class Format(str, Enum):
    """How a table is written."""

    text = "text"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"
    json = "json"
    html = "html"
    parquet = "parquet"


def table(
    pattern: Patterns = None,
    runs: Runs = Path("runs"),
    against: Annotated[
        str | None, typer.Option("--against", help="A cut such as S4: add what the others change against it.")
    ] = None,
    with_published: WithPublished = False,
    task: Task = None,
    by: By = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", help="Write this number and no others, such as AP, coco-val:AP, macs; may be repeated."
        ),
    ] = None,
    digits: Annotated[int | None, typer.Option("--digits", min=0, max=6, help="Decimals of scores.")] = None,
    device: SpeedDevice = None,
    dtype: SpeedDtype = None,
    batch_size: SpeedBatch = None,
    format: Annotated[Format, typer.Option("--format", "-f", help="How to write it.")] = Format.text,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write to this file.")] = None,
    models_dir: ModelsDirs = None,
    json: Json = False,
) -> None:
    """Join the newest runs of eval, score and profile into one row per model.

    Published numbers of a model stand in columns of their own. csv, json and parquet hold every score and digit.
    """
    from hmrbench import files
    from hmrbench.errors import UsageError
    from hmrbench.report import formats
    from hmrbench.report.costs import Speed

    if format is Format.parquet and output is None and not json:
        raise UsageError("parquet is no text: --output says which file to write")
    gathered = load(runs, models_dir, pattern, with_published, against, Speed(device, dtype, batch_size), by, task)
    if json or format is Format.json:
        rows = gathered.flat(metric or [])
        if output is None:
            print_json(rows)
        else:
            files.write_json(output, rows)
        return
    if format is Format.parquet and output is not None:
        files.write_atomic(output, formats.write_parquet(gathered, metric or []))
        return
    width = stdout().width if output is None else 80
    text = formats.render(gathered, format.value, metric or [], digits, width)
    if output is None:
        print_text(text)
    else:
        files.write_text(output, text)


def load(
    runs: Path,
    models_dirs: list[Path] | None,
    patterns: list[str] | None,
    with_published: bool,
    against: str | None = None,
    speed: object = None,
    by: str | None = None,
    task: str | None = None,
) -> Table:
    """The joined table that `table`, `plot` and `report` begin with."""
    from hmrbench.cards import load_cards
    from hmrbench.report.references import load_references
    from hmrbench.report.tables import gather
    from hmrbench.results import runs as results

    return gather(
        results.load_runs(runs),
        load_cards(models_dirs or []),
        patterns=patterns or [],
        references=load_references() if with_published else [],
        against=against,
        speed=speed,  # type: ignore[arg-type]
        by_runtime=by == "runtime",
        task=task,
    )
