"""`hmrbench demo`: every step of a benchmark on the embedded people, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hmrbench.cli import eval, plot, predict, profile, report, table
from hmrbench.cli.options import DEFAULT_WORKERS, stdout

POSE = ["vmpose-t-s2", "gmfpose-t-s2", "swinpose-t-s2"]  # the first draws: the best one with its demo weights
MESH = ["swinhmr2-t-s2"]
PICTURES = (1, 2, 4, 9, 14, 20)  # of the test split, chosen for variety


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path("demo"),
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="First N people only; rows are partial.")] = None,
) -> None:
    """Evaluate, profile, draw and report small networks on the synthetic people of this package; no download.

    Without trained demo weights for a network its weights are random, and every row says so.
    """
    from hmrbench import data, zoo

    runs, drawn = out / "runs", out / "pictures"
    cards = zoo.load_cards()
    weights = {name: "demo" if cards[name].demo_weights else "random" for name in POSE + MESH}
    for dataset, models in (("demo-pose", POSE), ("demo-mesh", MESH)):
        for kind in ("demo", "random"):
            if chosen := [name for name in models if weights[name] == kind]:
                _say(f"eval {' '.join(chosen)} --dataset {dataset} --weights {kind}")
                eval.evaluate(
                    chosen, [dataset], weights=kind, limit=limit, resume=True, runs=runs, workers=DEFAULT_WORKERS
                )
    _say(f"profile {' '.join(POSE + MESH)}")
    profile.profile(POSE + MESH, resume=True, runs=runs, seconds=1.0)
    _say("table")
    table.table(runs=runs)
    spec = data.load_spec("demo-pose")
    folder = data.find_folder(spec, None)
    images = [folder / spec.images / f"{number:012d}.jpg" for number in PICTURES]
    for name in (POSE[0], MESH[0]):
        _say(f"predict {name} ... --boxes {spec.annotations}")
        predict.predict(
            name, images, boxes=str(folder / spec.annotations), weights=weights[name], out=drawn,
            body="free" if name in MESH else None, side_view=name in MESH,
        )  # fmt: skip
    _say("plot, report")
    untrained = "random" in weights.values()
    plot.plot(output=out / "accuracy-cost.png", runs=runs, task="hpe", untrained=untrained)
    report.report(output=out / "report.html", runs=runs, title="hmrbench demo", untrained=untrained)
    stdout().print(f"[bold]report    {(out / 'report.html').resolve()}[/bold]", soft_wrap=True)
    stdout().print(f"pictures  {drawn.resolve()}", soft_wrap=True)


def _say(command: str) -> None:
    """The command that the next step stands for."""
    stdout().print(f"\n[bold]$ hmrbench {command}[/bold]", soft_wrap=True)
