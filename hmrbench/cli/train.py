"""`hmrbench train`: train a network by a recipe."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hmrbench.cli.options import (
    DEFAULT_WORKERS,
    DataRoot,
    DatasetOption,
    DatasetsFile,
    Device,
    Json,
    Model,
    ModelsDirs,
    Workers,
    print_json,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from hmrbench.training.job import TrainJob
    from hmrbench.training.train import Moment, TrainResult


def train(
    model: Model,
    dataset: DatasetOption,
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="A recipe's name or YAML file; if none, the data set's, else vitpose or hmr2."),
    ] = None,
    val_dataset: Annotated[
        str | None, typer.Option("--val-dataset", help="Measured while training; its best weights are kept.")
    ] = None,
    val_limit: Annotated[int | None, typer.Option("--val-limit", min=1, help="Its first N people only.")] = None,
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            help="random; imagenet or pretrained: the encoder weights that the card names; or a file.",
        ),
    ] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", min=0, help="Instead of the recipe's length.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Instead of the recipe's length.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", min=0, help="Instead of the recipe's learning rate.")] = None,
    batch_size: Annotated[
        str, typer.Option("--batch-size", help="People per process and step; auto: the recipe's.")
    ] = "auto",
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="bf16, fp16 (GPU) or fp32, instead of the recipe's.")
    ] = None,
    device: Device = "auto",
    workers: Workers = DEFAULT_WORKERS,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides weights, order and augmentation.")] = 0,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="First N people of the training set only.")
    ] = None,
    real_bodies: Annotated[
        Path | None,
        typer.Option("--real-bodies", help="cmu_mocap.npz of 4D-Humans, for the adversarial prior; without it, none."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0, help="Stop after so long, saved; --resume goes on.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")] = False,
    half: Annotated[bool, typer.Option("--half", help="Write weights in half precision.")] = False,
    cache: Annotated[
        bool, typer.Option("--cache", help="Keep all pictures decoded in the device's memory; crops are cut there.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder of the run; train/MODEL-RECIPE if none.")
    ] = None,
    data_root: DataRoot = None,
    models_dir: ModelsDirs = None,
    datasets_file: DatasetsFile = None,
    json: Json = False,
) -> None:
    """Train a network; under `torchrun --nproc-per-node N -m hmrbench train ...` in several processes.

    The run's folder holds log.csv, validation.csv, last.ckpt to go on from, best.safetensors, and in the end
    weights.safetensors for `eval --weights`. Ctrl-C saves first.
    """
    from hmrbench import distributed
    from hmrbench.errors import UsageError
    from hmrbench.training.train import TrainingSettings, prepare, run

    if batch_size != "auto" and not (batch_size.isdigit() and int(batch_size)):
        raise UsageError(f"batch size must be 'auto' or a number above 0, not '{batch_size}'")
    distributed.start()
    settings = TrainingSettings(
        recipe=recipe,
        val_dataset=val_dataset,
        val_limit=val_limit,
        init=init,
        epochs=epochs,
        steps=steps,
        lr=lr,
        batch_size=None if batch_size == "auto" else int(batch_size),
        dtype=dtype,
        device=device,
        workers=workers,
        seed=seed,
        limit=limit,
        real_bodies=real_bodies,
        cache=cache,
        data_root=data_root,
        models_dirs=models_dir or [],
        datasets_file=datasets_file,
    )
    job = prepare(model, dataset, settings)
    folder = out or Path("train") / f"{job.card.name}-{job.recipe.name}"
    remark = stderr()
    remark.quiet = not distributed.is_first()
    remark.print(
        f"{job.card.name} by recipe {job.recipe.name} on {job.examples.count:,} people of "
        f"{job.spec.name}: {job.steps:,} steps of {job.people_per_step}, into {folder}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    if job.recipe.loss.adversarial and job.real_bodies is None:
        remark.print("without its adversarial prior, which needs --real-bodies", markup=False)
    display = Display() if distributed.is_first() else None
    try:
        result = run(job, folder, resume=resume, minutes=minutes, half=half, progress=display)
    except KeyboardInterrupt:
        remark.print(f"stopped; --resume goes on from {folder / 'last.ckpt'}", markup=False, soft_wrap=True)
        raise
    if not distributed.is_first():
        return
    if json:
        print_json(_row(job, result))
    elif result.weights is not None:
        stdout().print(f"{result.weights}", markup=False, soft_wrap=True)
    else:
        remark.print(f"time is up at step {result.step:,}; --resume goes on", markup=False)


def _row(job: TrainJob, result: TrainResult) -> dict[str, Any]:
    return {
        "model": job.card.name,
        "recipe": job.recipe.name,
        "dataset": job.spec.name,
        "finished": result.finished,
        "step": result.step,
        "seconds": round(result.seconds, 1),
        "best": dict(result.best),
        "weights": None if result.weights is None else str(result.weights),
    }


class Display:
    """Progress on stderr: a line that is overwritten on a terminal, else one a minute."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.printed = float("-inf")
        self.width = 0

    def __call__(self, moment: Moment) -> None:
        if moment.validation is not None:
            numbers = "  ".join(f"{name} {value:.2f}" for name, value in moment.validation.items())
            self._print(f"step {moment.step:,}  {numbers}", keep=True)
        elif self.terminal or time.monotonic() - self.printed >= 60 or moment.step == moment.steps:
            left = time.strftime("%H:%M:%S", time.gmtime(moment.seconds_left % 86400))
            days = int(moment.seconds_left // 86400)
            self._print(
                f"step {moment.step:,} of {moment.steps:,}  loss {moment.loss:.5g}  "
                f"{moment.people_per_s:.1f} people/s  {f'{days} d ' if days else ''}{left} left",
                keep=not self.terminal or moment.step == moment.steps,
            )
            self.printed = time.monotonic()

    def _print(self, line: str, keep: bool) -> None:
        start = "\r" if self.terminal else ""
        sys.stderr.write(f"{start}{line.ljust(self.width if self.terminal else 0)}" + ("\n" if keep else ""))
        sys.stderr.flush()
        self.width = 0 if keep else len(line)
