"""`hmrbench compare`: whether one run is better than another, or only luckier."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hmrbench.cli.options import Json, Runs, print_json, show_table, stdout

if TYPE_CHECKING:
    from hmrbench.results.runs import Run


def compare(
    run_a: Annotated[
        str,
        typer.Argument(
            help="A run's JSON file, or a model's name for its newest run; NAME@openvino:int8 on a runtime."
        ),
    ],
    run_b: Annotated[str, typer.Argument(help="The run that is compared with it.")],
    runs: Runs = Path("runs"),
    dataset: Annotated[
        str | None, typer.Option("--dataset", "-d", help="Of which data set, for models by name.")
    ] = None,
    resamples: Annotated[
        int, typer.Option("--resamples", min=100, help="How often the data set is drawn again.")
    ] = 1000,
    confidence: Annotated[float, typer.Option("--confidence", min=0.5, max=0.999, help="Of the interval.")] = 0.95,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws.")] = 0,
    json: Json = False,
) -> None:
    """Compare two runs score by score, each difference with a paired bootstrap confidence interval."""
    from dataclasses import asdict

    from hmrbench.compare import bootstrap

    a, b = (_find(name, runs, dataset) for name in (run_a, run_b))
    found = bootstrap.compare(a, b, resamples=resamples, confidence=confidence, seed=seed)
    if json:
        settings = {"resamples": resamples, "confidence": confidence, "seed": seed}
        print_json({"a": str(a.path), "b": str(b.path), **settings, "differences": [asdict(d) for d in found]})
        return
    out = stdout()
    for label, run in (("A", a), ("B", b)):
        partial = " PARTIAL (--limit)" if run.row["partial"] else ""
        by = "" if run.row.get("runtime") in (None, "pytorch") else f", {run.row['runtime']} {run.row['dtype']}"
        out.print(
            f"{label}  {run.row['model']}, {run.row['weights']}{by}, {run.created}{partial}",
            markup=False,
            soft_wrap=True,
        )
    cells = [
        [
            d.metric,
            d.a,
            d.b,
            f"{d.difference:+.2f}",
            "-" if d.low is None else f"{d.low:+.2f} .. {d.high:+.2f}",
            d.verdict,
        ]
        for d in found
    ]
    show_table([a.row["dataset"], "A", "B", "B - A", f"{100 * confidence:g} % interval", "verdict"], cells)
    what = "images" if "AP" in a.row["metrics"] else "samples"
    out.print(f"paired bootstrap over {what}, {resamples} resamples, seed {seed}", style="dim", markup=False)


def _find(name: str, runs: Path, dataset: str | None) -> Run:
    from hmrbench.compare import bootstrap
    from hmrbench.results import runs as results

    if name.endswith(".json") or Path(name).is_file():
        return results.load_run(Path(name))
    return bootstrap.find_run(name, results.load_runs(runs), dataset)
