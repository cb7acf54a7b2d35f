"""Flags that several commands share, and how commands print."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from hmrbench.tables import View


def _complete_model(incomplete: str) -> list[str]:
    from hmrbench.zoo import load_cards

    return [name for name in load_cards() if name.startswith(incomplete.lower())]


def _complete_dataset(incomplete: str) -> list[str]:
    from hmrbench.data import load_specs

    return [name for name in load_specs() if name.startswith(incomplete.lower())]


Model = Annotated[str, typer.Argument(help="A model's name.", autocompletion=_complete_model)]
Models = Annotated[list[str], typer.Argument(help="Names or globs, such as 'gmf*-s3'.", autocompletion=_complete_model)]
DatasetName = Annotated[str, typer.Argument(help="A data set's name.", autocompletion=_complete_dataset)]
DatasetOption = Annotated[
    str, typer.Option("--dataset", "-d", help="A data set's name.", autocompletion=_complete_dataset)
]
DatasetOptions = Annotated[
    list[str],
    typer.Option("--dataset", "-d", help="A data set's name; may be repeated.", autocompletion=_complete_dataset),
]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", envvar="HMRBENCH_DATA", help="The folder that holds the data sets.")
]
DatasetsFile = Annotated[
    Path | None,
    typer.Option(
        "--datasets-file", envvar="HMRBENCH_DATASETS_FILE", help="More data sets: a YAML file like datasets.yaml."
    ),
]
ModelsDirs = Annotated[
    list[Path] | None,
    typer.Option(
        "--models-dir", envvar="HMRBENCH_MODELS_DIR", help="More model cards: a folder of YAML; may be repeated."
    ),
]
Runs = Annotated[Path, typer.Option("--runs", envvar="HMRBENCH_RUNS", help="Where rows are kept.")]
Device = Annotated[str, typer.Option("--device", envvar="HMRBENCH_DEVICE", help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option("--dtype", envvar="HMRBENCH_DTYPE", help="fp32, tf32, fp16 or bf16.")]
Fuse = Annotated[
    bool, typer.Option("--fuse/--no-fuse", help="Short cuts for speed, such as norms folded into weights.")
]
BatchSize = Annotated[str, typer.Option("--batch-size", envvar="HMRBENCH_BATCH_SIZE", help="auto or a number.")]
Workers = Annotated[
    int, typer.Option("--workers", envvar="HMRBENCH_WORKERS", min=1, help="Threads that read and crop pictures.")
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        envvar="HMRBENCH_WEIGHTS",
        help="random, demo, a file, or an address (https:, hf:, gdrive:, file:, pypi:).",
    ),
]
Boxes = Annotated[str | None, typer.Option("--boxes", help="gt or det, where the data set has them.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]

DEFAULT_WORKERS = min(8, os.cpu_count() or 1)


def print_json(rows: Any) -> None:
    """One JSON document on stdout."""
    from hmrbench.files import to_json

    sys.stdout.write(to_json(rows) + "\n")


def stdout() -> Console:
    """Where tables go."""
    from rich.console import Console

    return Console(highlight=False)


def stderr() -> Console:
    """Where progress and remarks go."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def make_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> Table:
    """A plain table: text to the left, numbers to the right."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
    for i, name in enumerate(columns):
        numeric = all(isinstance(row[i], (int, float)) or row[i] in ("", "-", None) for row in rows)
        table.add_column(name, justify="right" if numeric and rows else "left", overflow="fold", no_wrap=i == 0)
    for row in rows:
        table.add_row(*[format_value(v) for v in row])
    return table


def format_value(value: Any) -> str:
    """A cell's text: thousands separated, two decimals, nothing for None."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.2f}"
    return str(value)


def show_view(view: View) -> None:
    """A table of `tables`, with its caption below."""
    stdout().print(make_table(view.columns, view.cells))
    stdout().print(view.caption, style="dim", markup=False)


@contextmanager
def progress_bar(console: Console, unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """What is done, rate and time left: `with progress_bar(...) as progress`, then `progress(label, done, total)`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        rate,
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True) as bar:

        def progress(label: str, done: int, total: int) -> None:
            if label not in tasks:
                for old in tasks.values():
                    bar.update(old, visible=False)
                tasks[label] = bar.add_task(label, total=total, rate="")
            bar.update(tasks[label], completed=done)
            speed = bar.tasks[bar.task_ids.index(tasks[label])].speed
            bar.update(tasks[label], rate=f"{speed:.1f} {unit}/s" if speed else "")

        yield progress
