"""How downloads show on stderr: a bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from hmrbench.fetch.fetch import FetchProgress

_LINE_EVERY = 200 << 20  # bytes


@contextmanager
def download_bar(console: Console) -> Iterator[FetchProgress]:
    """`with download_bar(...) as progress`: size, rate and time left of each file that is downloaded."""
    if not console.is_terminal:
        yield _lines(console)
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=True) as bar:

        def progress(done: int, total: int | None, name: str) -> None:
            if name not in tasks:
                for old in tasks.values():
                    bar.update(old, visible=False)
                tasks[name] = bar.add_task(name[-40:], total=total)
            bar.update(tasks[name], completed=done, total=total)

        yield progress


def _lines(console: Console) -> FetchProgress:
    """A line when a file begins, after every 200 MB, and when it is whole."""
    told: dict[str, int] = {}

    def progress(done: int, total: int | None, name: str) -> None:
        whole = done == total
        if name not in told or whole or done - told[name] >= _LINE_EVERY:
            told[name] = done
            of = "" if total is None else f" of {total / 1e6:,.1f}"
            console.print(f"{name}: {done / 1e6:,.1f}{of} MB", markup=False, soft_wrap=True)

    return progress
