"""Flags that several commands share, and how commands print."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO

import typer

from hmrbench import environment
from hmrbench.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

    from hmrbench.report.views import View


def _complete_model(incomplete: str) -> list[str]:
    from hmrbench.cards import load_cards

    return [name for name in load_cards() if name.lower().startswith(incomplete.lower())]


def _complete_dataset(incomplete: str) -> list[str]:
    from hmrbench.data import load_specs

    return [name for name in load_specs() if name.lower().startswith(incomplete.lower())]


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
Runtime = Annotated[
    str | None,
    typer.Option(
        "--runtime",
        envvar="HMRBENCH_RUNTIME",
        help="pytorch, onnxruntime, openvino, tensorrt, an import path, or a file of `hmrbench export`.",
    ),
]
Fuse = Annotated[
    bool, typer.Option("--fuse/--no-fuse", help="Short cuts for speed, such as norms folded into weights.")
]
NoCudaGraph = Annotated[
    bool, typer.Option("--no-cuda-graph", help="Replay no CUDA graph on a GPU, as is done where one can be captured.")
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
Boxes = Annotated[
    str | None,
    typer.Option(
        "--boxes", envvar="HMRBENCH_BOXES", help="gt or det, where the data set has them; bottom-up networks: none."
    ),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", envvar="HMRBENCH_OFFLINE", help="Use no network, only what is here already."),
]
MeshAssetsFile = Annotated[
    Path | None,
    typer.Option(
        "--mesh-assets",
        envvar="HMRBENCH_MESH_ASSETS",
        help="The matrices that METRO and its kin need: an npz; default: what `body fetch` stored.",
    ),
]
Task = Annotated[Literal["hpe", "hmr"] | None, typer.Option("--task", help="hpe or hmr: the networks for it alone.")]
Protocol = Annotated[
    str | None,
    typer.Option(
        "--protocol", help="For meshes: metro, spin, smplerx, smpl24, or all side by side; default 4d-humans."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else.")]

DEFAULT_WORKERS = environment.usable_cpus()


_document: ContextVar[TextIO | None] = ContextVar("_document", default=None)


@contextmanager
def only_json() -> Iterator[None]:
    """What anything else prints, such as a network of another package, goes to stderr; stdout is `print_json`'s."""
    token = _document.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _document.reset(token)


def print_json(rows: Any) -> None:
    """One JSON document on stdout; in pure ASCII where the terminal has not all of its characters."""
    from hmrbench.files import to_json

    out = _document.get() or sys.stdout
    text = to_json(rows)
    if not _can_print(text, out):
        text = "".join(c if c.isascii() else json.dumps(c)[1:-1] for c in text)
    out.write(text + "\n")


def print_text(text: str) -> None:
    """A text on stdout; lines are drawn with ASCII where the terminal has no others."""
    drawn = str.maketrans({"─": "-", "╌": "-", "…": "~", "–": "-"})
    sys.stdout.write(text if _can_print(text, sys.stdout) else text.translate(drawn))


def _can_print(text: str, stream: TextIO) -> bool:
    try:
        text.encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def stdout() -> Console:
    """Where tables go; brackets and colons in names are no markup."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def stderr() -> Console:
    """Where progress and remarks go; brackets and colons in names are no markup."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


_NARROW = 12  # the width to which a column of text may be folded
_LONGEST = 400  # characters of a cell; the end of a longer one is cut off


def show_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a plain table: text to the left and folded where it must be, numbers to the right and always whole.

    Columns for which the terminal has no room stand in further tables below, each with the first column again.
    """
    from rich import box
    from rich.cells import cell_len
    from rich.table import Table

    out = stdout()
    cells = [[_cut(format_value(v)) for v in row] for row in rows]
    numeric = [bool(rows) and all(_is_number(row[i]) for row in rows) for i in range(len(columns))]
    widths, needs = [], []
    for i, name in enumerate(columns):
        title = max(map(cell_len, name.split() or [""]))
        widths.append(max([title, *(cell_len(line) for row in cells for line in row[i].split("\n"))]))
        needs.append(widths[i] if numeric[i] else min(widths[i], _NARROW))
    parts = [[0]]
    for i in range(1, len(columns)):
        if len(parts[-1]) > 1 and sum(needs[k] + 3 for k in [*parts[-1], i]) - 1 > out.width:
            parts.append([0])
        parts[-1].append(i)
    for part in parts:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=False)
        full = sum(max(widths[i], cell_len(columns[i])) + 3 for i in part) - 1
        for i in part:
            # Columns of numbers are never folded, so that their headings are, where there is no room for them.
            heading = columns[i].replace(" ", "\n") if numeric[i] and full > out.width else columns[i]
            justify: Literal["left", "right"] = "right" if numeric[i] else "left"
            table.add_column(printable(heading), justify=justify, overflow="fold", no_wrap=widths[i] == needs[i])
        for row in cells:
            table.add_row(*[row[i] for i in part])
        out.print(table)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or value in ("", "-", None)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def format_value(value: Any) -> str:
    """A cell's text: thousands separated, two decimals, nothing for None, no control characters."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 1e9 else f"{value:.3g}"
    return printable(str(value))


def show_view(view: View) -> None:
    """A table of `tables`, with its caption below."""
    show_table(view.columns, view.cells)
    stdout().print(printable(view.caption), style="dim")


def show_evaluations(rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of `eval` and `score`, and where they were measured by several rules, these side by side."""
    from hmrbench.report import views

    show_view(views.evaluation_view(rows))
    if any(row["protocol"].get("rules") for row in rows):
        from hmrbench.report.rules import rules_view

        show_view(rules_view(rows))


def show_remarks(rows: Sequence[Mapping[str, Any]]) -> None:
    """What a reader of rows of `eval` and `score` must know of them, on stderr."""
    for row in rows:
        for remark in row["remarks"]:
            stderr().print(f"{row['model']} on {row['dataset']}: {remark}", markup=False, soft_wrap=True)


@contextmanager
def progress_bar(console: Console, unit: str) -> Iterator[Callable[[str, int, int], None]]:
    """What is done, rate and time left: `with progress_bar(...) as progress`, then `progress(label, done, total)`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (
        TextColumn("{task.description}", markup=False),
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
