"""`hmrbench report`: one HTML file with all tables and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hmrbench.cli.options import ModelsDirs, Runs, stderr, stdout
from hmrbench.cli.table import Patterns, SpeedBatch, SpeedDevice, SpeedDtype, WithPublished, load


def report(
    pattern: Patterns = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML file.")] = Path("report.html"),
    runs: Runs = Path("runs"),
    title: Annotated[str, typer.Option("--title", help="Its heading.")] = "hmrbench report",
    against: Annotated[
        str | None, typer.Option("--against", help="A cut such as S4: add what the others change against it.")
    ] = None,
    with_published: WithPublished = False,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Also show what predict drew into this folder.")
    ] = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="Also draw scores of untrained networks.")] = False,
    device: SpeedDevice = None,
    dtype: SpeedDtype = None,
    batch_size: SpeedBatch = None,
    models_dir: ModelsDirs = None,
) -> None:
    """Write one self-contained HTML file of tables, plots, machines and definitions; it loads nothing."""
    from hmrbench import files
    from hmrbench.report.costs import Speed
    from hmrbench.report.page import build
    from hmrbench.results import runs as results

    table = load(runs, models_dir, pattern, with_published, against, Speed(device, dtype, batch_size))
    page, remarks = build(table, results.load_runs(runs), title, untrained=untrained, pictures=pictures)
    files.write_text(output, page)
    for line in remarks:
        stderr().print(line, markup=False, soft_wrap=True)
    stdout().print(f"{output}: {len(page) / 1e6:.1f} MB", markup=False, soft_wrap=True)
