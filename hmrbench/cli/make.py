"""`hmrbench datasets make`: data that are drawn, not fetched."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from hmrbench.cli.options import Json, print_json, progress_bar, stderr, stdout


class World(str, Enum):
    """What can be drawn."""

    demo = "demo"


class Split(str, Enum):
    """People of different splits are never the same, whatever the seed."""

    train = "train"
    val = "val"
    test = "test"


def make(
    world: Annotated[World, typer.Argument(help="demo: synthetic people.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    images: Annotated[int, typer.Option("--images", min=1, help="How many pictures.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, other people.")] = 0,
    split: Annotated[Split, typer.Option("--split", help="Which split.")] = Split.train,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes that draw.")] = os.cpu_count() or 1,
    json: Json = False,
) -> None:
    """Draw synthetic people in COCO's and in 4D-Humans' layout; the same bytes for the same seed."""
    from hmrbench.errors import UsageError

    try:
        from hmrbench_synth import make_demo
    except ModuleNotFoundError:
        raise UsageError("the generator of synthetic people is a package of its own: pip install ./synth") from None

    with progress_bar(stderr(), "pictures") as progress:
        make_demo(
            images,
            seed,
            out,
            workers,
            lambda done, total: progress(f"{world.value} {split.value}", done, total),
            split.value,
        )
    if json:
        print_json({"out": str(out), "images": images, "seed": seed, "split": split.value})
    else:
        stdout().print(f"{images} pictures in {out}", markup=False)
