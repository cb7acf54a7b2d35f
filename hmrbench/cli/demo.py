"""`hmrbench demo`: every step of a benchmark on the embedded people, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hmrbench.cli import eval, plot, predict, profile, report, table
from hmrbench.cli.options import DEFAULT_WORKERS, stdout

POSE = ["vmpose-t-s2", "gmfpose-t-s2", "swinpose-t-s2"]  # the first draws: the best one with its demo weights
MESH = ["vmhmr2-t-s2"]
PICTURES = (1, 2, 4, 9, 14, 20)  # of the test split, chosen for variety


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where everything goes.")] = Path("demo"),
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="First N people only; rows are partial.")] = None,
) -> None:
    """Evaluate, profile, draw and report small networks on the synthetic people of this package; no download."""
    from hmrbench import data

    runs, drawn = out / "runs", out / "pictures"
    for dataset, models in (("demo-pose", POSE), ("demo-mesh", MESH)):
        # The flip test of poses takes as long again; of meshes there is none.
        _say(f"eval {' '.join(models)} --dataset {dataset} --no-flip")
        eval.evaluate(models, [dataset], flip=False, limit=limit, resume=True, runs=runs, workers=DEFAULT_WORKERS)
    _say(f"profile {' '.join(POSE + MESH)}")
    profile.profile(POSE + MESH, resume=True, runs=runs, seconds=2.0)
    _say("table")
    table.table(runs=runs)
    spec = data.load_spec("demo-pose")
    folder = data.find_folder(spec, None)
    images = [folder / spec.images / f"{number:012d}.jpg" for number in PICTURES]
    for name in (POSE[0], MESH[0]):
        _say(f"predict {name} ... --weights demo --boxes {spec.annotations}")
        predict.predict(
            name, images, boxes=str(folder / spec.annotations), weights="demo", out=drawn,
            body="free" if name in MESH else None, side_view=name in MESH,
        )  # fmt: skip
    _say("plot, report")
    plot.plot(output=out / "accuracy-cost.png", runs=runs, task="hpe")
    report.report(output=out / "report.html", runs=runs, title="hmrbench demo", pictures=drawn)
    stdout().print(f"report    {(out / 'report.html').resolve()}", style="bold", soft_wrap=True)
    stdout().print(f"pictures  {drawn.resolve()}", soft_wrap=True)


def _say(command: str) -> None:
    """The command that the next step stands for."""
    stdout().print(f"\n$ hmrbench {command}", style="bold", soft_wrap=True)
