"""`hmrbench plot`: accuracy against cost, as a picture for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hmrbench.cli.options import Json, ModelsDirs, Runs, print_json, stderr, stdout
from hmrbench.cli.table import By, Patterns, SpeedBatch, SpeedDevice, SpeedDtype, WithPublished, load


def plot(
    pattern: Patterns = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture: .png, .svg or .pdf.")] = Path("plot.png"),
    runs: Runs = Path("runs"),
    task: Annotated[str | None, typer.Option("--task", help="hpe or hmr; by the accuracy asked for if none.")] = None,
    y: Annotated[
        str | None,
        typer.Option("--y", help="Accuracy: AP, Phi_M_3D, 3dpw-test:PA-MPJPE, ... (default: the task's first)."),
    ] = None,
    x: Annotated[str, typer.Option("--x", help="Cost: macs, params, rate, latency, memory.")] = "macs",
    size: Annotated[
        str, typer.Option("--size", help="What the size of a circle is: params, macs, ... or none.")
    ] = "params",
    with_published: WithPublished = False,
    front: Annotated[bool, typer.Option("--front/--no-front", help="Draw the Pareto front.")] = True,
    labels: Annotated[str, typer.Option("--labels", help="all, front, none, or auto: all unless too many.")] = "auto",
    y_min: Annotated[float | None, typer.Option("--y-min", help="Lower end of the accuracy axis.")] = None,
    y_max: Annotated[float | None, typer.Option("--y-max", help="Upper end of the accuracy axis.")] = None,
    width: Annotated[float, typer.Option("--width", min=2, help="Inches.")] = 7.0,
    height: Annotated[float, typer.Option("--height", min=1.5, help="Inches.")] = 4.4,
    dpi: Annotated[int, typer.Option("--dpi", min=50, help="Of a png.")] = 300,
    by: By = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="Also draw scores of untrained networks.")] = False,
    device: SpeedDevice = None,
    dtype: SpeedDtype = None,
    batch_size: SpeedBatch = None,
    models_dir: ModelsDirs = None,
    json: Json = False,
) -> None:
    """Draw accuracy against MACs, parameters or rate: filled what was measured, hollow what was published.

    A model that was profiled but not evaluated stands at its measured cost and published accuracy. --json
    prints the points.
    """
    from dataclasses import asdict

    from hmrbench import files
    from hmrbench.errors import UsageError
    from hmrbench.metrics import measures
    from hmrbench.report import figures, plots
    from hmrbench.report.costs import Speed

    format = output.suffix.lstrip(".").lower()
    if format not in figures.FORMATS:
        raise UsageError(f"{output}: a picture is .{', .'.join(figures.FORMATS)}")
    if task not in (None, *measures.TITLES):
        raise UsageError(f"a task is {' or '.join(measures.TITLES)}, not '{task}'")
    table = load(runs, models_dir, pattern, with_published, None, Speed(device, dtype, batch_size), by)
    y_key, task = plots.find_accuracy(table, y, task)
    x_key = plots.find_key(table, x, task)
    size_key = None if size == "none" or size == x else plots.find_key(table, size, task)
    points, remarks = plots.points(table, x_key, y_key, size_key, task, untrained=untrained, by_runtime=by == "runtime")
    figure, more = figures.accuracy_cost(
        points,
        plots.axis_of(x_key),
        plots.axis_of(y_key),
        None if size_key is None else plots.axis_of(size_key),
        figures.FigureSettings(front=front, labels=labels, width_in=width, height_in=height, y_range=(y_min, y_max)),
    )
    files.write_atomic(output, figures.to_bytes(figure, format, dpi))
    remark = stderr()
    for line in [*remarks, *more, *table.notes]:
        remark.print(line, markup=False, soft_wrap=True)
    if json:
        told = {"file": str(output), "x": x_key, "y": y_key, "size": size_key}
        print_json({**told, "points": [asdict(p) for p in points]})
    else:
        stdout().print(f"{output}: {len(points)} points", markup=False, soft_wrap=True)
