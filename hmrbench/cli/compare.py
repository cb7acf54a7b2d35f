"""`hmrbench compare`: whether one run is better than another, or only luckier."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hmrbench.cli.options import DatasetsFile, Json, Runs, print_json, show_table, stdout

if TYPE_CHECKING:
    from hmrbench.records import Metric
    from hmrbench.results.runs import Run

Resamples = Annotated[int, typer.Option("--resamples", min=100, help="How often the data set is drawn again.")]
Confidence = Annotated[float, typer.Option("--confidence", min=0.5, max=0.999, help="Of the interval.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the draws.")]


def compare(
    run_a: Annotated[
        str | None,
        typer.Argument(
            help="A run's JSON file, or a model's name for its newest run; NAME~1 is the run before, "
            "NAME@openvino:int8 one on a runtime."
        ),
    ] = None,
    run_b: Annotated[str | None, typer.Argument(help="The run that is compared with it.")] = None,
    last: Annotated[
        int | None,
        typer.Option(
            "--last", min=2, help="Of a model's last N runs (of all runs, without a name) the first and the last."
        ),
    ] = None,
    runs: Runs = Path("runs"),
    dataset: Annotated[
        str | None, typer.Option("--dataset", "-d", help="Of which data set, for models by name.")
    ] = None,
    resamples: Resamples = 1000,
    confidence: Confidence = 0.95,
    seed: Seed = 0,
    datasets_file: DatasetsFile = None,
    json: Json = False,
) -> None:
    """Compare two runs score by score, each difference with a paired bootstrap confidence interval.

    `hmrbench compare my-net my-net~1` and `hmrbench compare my-net --last 2` take the newest runs of one model.
    """
    from dataclasses import asdict

    from hmrbench.compare import bootstrap

    a, b = _two_runs(run_a, run_b, last, runs, dataset)
    draw = bootstrap.Draw(resamples, confidence, seed, own_metrics([a.row.get("dataset")], datasets_file))
    found = bootstrap.compare_runs(a, b, draw)
    same = a.path.resolve() == b.path.resolve()
    conclusion = f"A and B are the same run, {a.path.name}: it was compared with itself" if same else found.conclusion
    if json:
        settings = {"resamples": resamples, "confidence": confidence, "seed": seed}
        counted = {"count": found.count, "unit": found.unit, "conclusion": conclusion}
        differences = [asdict(d) for d in found.differences]
        print_json({"a": str(a.path), "b": str(b.path), **settings, **counted, "differences": differences})
        return
    out = stdout()
    for label, run in (("A", a), ("B", b)):
        partial = " PARTIAL (--limit)" if run.row["partial"] else ""
        by = "" if run.row.get("runtime") in (None, "pytorch") else f", {run.row['runtime']} {run.row['dtype']}"
        out.print(f"{label}  {run.row['model']}, {run.row['weights']}{by}, {run.created}{partial}", soft_wrap=True)
    cells = [
        [
            d.metric,
            d.a,
            d.b,
            f"{d.difference:+.2f}",
            "-" if d.low is None else f"{d.low:+.2f} .. {d.high:+.2f}",
            d.verdict,
        ]
        for d in found.differences
    ]
    show_table([a.row["dataset"], "A", "B", "B - A", f"{100 * confidence:g} % interval", "verdict"], cells)
    reasons: dict[str, list[str]] = {}
    for d in found.differences:
        if d.reason:
            reasons.setdefault(d.reason, []).append(d.metric)
    for reason, metrics in reasons.items():
        out.print(f"no interval of {', '.join(metrics)}: {reason}", style="dim", soft_wrap=True)
    out.print(
        f"paired bootstrap over {found.unit}, {resamples} resamples, seed {seed}; {found.count:,} {found.unit}",
        style="dim",
        soft_wrap=True,
    )
    out.print(conclusion, style="bold", soft_wrap=True)


def _two_runs(
    run_a: str | None, run_b: str | None, last: int | None, runs: Path, dataset: str | None
) -> tuple[Run, Run]:
    """The two runs that the arguments mean.

    Raises:
        UsageError: they mean none.
        DataError: there are no such runs.
    """
    from hmrbench.compare import bootstrap
    from hmrbench.errors import DataError, UsageError
    from hmrbench.results import runs as results

    if last is None:
        if run_a is None or run_b is None:
            raise UsageError("compare needs two runs, such as A B or A A~1; or --last 2")
        return _find(run_a, runs, dataset), _find(run_b, runs, dataset)
    if run_b is not None:
        raise UsageError("--last takes the runs of one model: give one name, or none")
    found = results.load_runs(runs)
    if run_a is not None:
        newest = bootstrap.find_run(run_a, found, dataset)
        return bootstrap.find_run(f"{run_a}~{last - 1}", found, newest.row["dataset"]), newest
    scored = [r for r in found if r.kind in ("eval", "score")]
    scored = [r for r in scored if dataset is None or r.row["dataset"].lower() == dataset.lower()]
    if len(scored) < last:
        raise DataError(
            f"{runs}: {len(scored)} runs of eval and score{f' on {dataset}' if dataset else ''}, not {last}"
        )
    return scored[-last], scored[-1]


def _find(name: str, runs: Path, dataset: str | None) -> Run:
    from hmrbench.compare import bootstrap
    from hmrbench.results import runs as results

    if name.endswith(".json") or os.path.isfile(name):
        return results.load_run(Path(name))
    return bootstrap.find_run(name, results.load_runs(runs), dataset)


def own_metrics(datasets: Iterable[str | None], datasets_file: Path | None) -> tuple[Metric, ...]:
    """The metrics of other packages that these data sets name, as far as their specs are here."""
    from hmrbench import data, metrics

    specs = data.load_specs(datasets_file)
    named = [(name, specs[d].file) for d in datasets if d in specs for name in specs[d].metrics if ":" in name]
    return tuple(metrics.find_metric(name, file) for name, file in dict.fromkeys(named))
