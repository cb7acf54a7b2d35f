"""Training: examples -> network -> losses -> weights, in one or several processes, resumed as if never
stopped."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hmrbench import data, distributed, environment, evaluation, zoo
from hmrbench.device import pick_device
from hmrbench.errors import DataError, HmrbenchError, UsageError, blamed_on
from hmrbench.fetch import sources
from hmrbench.records import Array
from hmrbench.results import runs as results
from hmrbench.schema import DatasetSpec, ModelCard
from hmrbench.schema.importing import import_object
from hmrbench.training import checkpoint, examples, losses, start
from hmrbench.training.examples import Examples
from hmrbench.training.job import TrainJob
from hmrbench.training.prior import read_bodies
from hmrbench.training.recipes import Recipe, load_recipe
from hmrbench.training.trainer import Moment, Trainer, TrainingProgress

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a training leaves: the weights' file, the validation that chose them, how long it took."""

    weights: Path | None
    finished: bool
    step: int
    seconds: float
    best: Mapping[str, Any]


# --------------------------------------------------------------------------- preparation


@dataclass(frozen=True)
class TrainingSettings:
    """How a network is trained; see `Recipe` for what None leaves to the recipe.

    Attributes:
        recipe: None for the one that the data set's spec names (option `recipe`), else the task's usual one.
        val_dataset: measured while training, to keep the best weights; None keeps the last ones.
        val_limit: its first samples only.
        init: `random`, `imagenet` or a file; see `training.start`.
        epochs: the length, in passes through the training set.
        steps: the length, in steps of the optimiser.
        lr: the highest learning rate.
        batch_size: people per process and step.
        dtype: fp32, bf16 or fp16.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        workers: threads that read and crop pictures; as many as there are cores.
        seed: decides weights, order and augmentation.
        limit: the first people of the training set only.
        real_bodies: 4D-Humans' `cmu_mocap.npz`, for the adversarial prior of the recipe; None for no prior.
        cache: keep all pictures decoded in the device's memory and cut the crops there.
        data_root: the folder of the data sets.
        models_dirs: folders of further model cards.
        datasets_file: a further file of data sets.
    """

    recipe: str | Path | Recipe | None = None
    val_dataset: str | DatasetSpec | None = None
    val_limit: int | None = None
    init: str | None = None
    epochs: float | None = None
    steps: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    dtype: str | None = None
    device: str = "auto"
    workers: int = field(default_factory=environment.usable_cpus)
    seed: int = 0
    limit: int | None = None
    real_bodies: Path | None = None
    cache: bool = False
    data_root: str | Path | None = None
    models_dirs: Sequence[str | Path] = ()
    datasets_file: str | Path | None = None

    def changes(self) -> dict[str, Any]:
        """What is said instead of the recipe; None where it is not."""
        return {name: getattr(self, name) for name in ("epochs", "steps", "lr", "batch_size", "dtype", "init")}


def prepare(model: str | ModelCard, dataset: str | DatasetSpec, settings: TrainingSettings | None = None) -> TrainJob:
    """Check everything cheap and return what `run` needs.

    Raises:
        UsageError: an unknown name, a model of another task, a setting that cannot be, or the engine is
            missing.
        DataError: data are missing or broken.
    """
    _need_engine()
    s = settings or TrainingSettings()
    card, spec = evaluation.card_and_spec(model, dataset, s.models_dirs, s.datasets_file)
    if card.crop.kind == "bottom-up":
        raise UsageError(f"{card.name} sees whole pictures; what can be trained here are networks of people in boxes")
    recipe = spec.options.get("recipe") if s.recipe is None else s.recipe
    plan = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, card, **s.changes())
    if recipe is None and s.init is None and plan.init in start.PRETRAINED:  # nobody asked for it
        plan = _start_without(card, plan)
    if plan.input:
        card = card.model_copy(update={"input": plan.input})
    place = pick_device(s.device)
    _check_plan(plan, place, s)
    validation = None if s.val_dataset is None else _validation(card, s.val_dataset, s)
    body = evaluation.body_of(spec) if card.task == "hmr" else None
    people, sha256, params = _open_examples(spec, card, plan, s.data_root, s.limit, s.cache)
    return TrainJob(
        card=card,
        spec=spec,
        recipe=plan,
        examples=people,
        losses=losses.pose_losses(plan.loss) if body is None else losses.mesh_losses(plan.loss, body.to(place)),
        body=body,
        validation=validation,
        mean_params=params,
        real_bodies=None if s.real_bodies is None else read_bodies(s.real_bodies),
        annotations_sha256=sha256,
        device=place,
        seed=s.seed,
        workers=s.workers,
    )


def _start_without(card: ModelCard, plan: Recipe) -> Recipe:
    """The plan as it is where the pretrained encoder can be had, else one that starts from random weights."""
    try:
        sources.fetch_weights(card, encoder=True)
    except HmrbenchError as e:
        _log.warning("it starts from random weights, which --init changes: %s", str(e).splitlines()[0])
        return plan.model_copy(update={"init": "random"})
    return plan


def _check_plan(plan: Recipe, place: torch.device, settings: TrainingSettings) -> None:
    """Refuse (UsageError) a recipe that cannot be followed there, or real bodies that it has no use for."""
    if plan.dtype == "fp16" and place.type == "cpu":
        raise UsageError("fp16 is trained on a GPU; on a CPU say --dtype bf16 or fp32")
    if plan.dtype == "fp16" and plan.optimizer.muon_lr:
        raise UsageError("Muon's steps know no loss scaling; with 'muon_lr' say --dtype bf16 or fp32")
    if settings.real_bodies is not None and not plan.loss.adversarial:
        raise UsageError(f"recipe '{plan.name}' gives the adversarial prior no weight (loss: adversarial)")


def _validation(card: ModelCard, dataset: str | DatasetSpec, settings: TrainingSettings) -> evaluation.Job:
    """The evaluation that is repeated while training; its weights are those of the moment."""
    wanted = evaluation.EvaluationSettings(
        weights="random",
        data_root=settings.data_root,
        device=settings.device,
        workers=settings.workers,
        limit=settings.val_limit,
        datasets_file=settings.datasets_file,
    )
    return evaluation.prepare(card, dataset, wanted)


def _need_engine() -> None:
    if importlib.util.find_spec("lightning_fabric") is None:
        raise UsageError("training needs its extra: pip install 'hmrbench[train]'")


def _open_examples(
    spec: DatasetSpec, card: ModelCard, recipe: Recipe, data_root: str | Path | None, limit: int | None, cache: bool
) -> tuple[Examples, str, Mapping[str, Array] | None]:
    """The examples, what names their annotations, and the body parameters that are known in advance.

    A reader that has a function `examples(spec, folder, card, recipe, limit)` makes its own.
    """
    reader = import_object(data.READERS.get(spec.reader, spec.reader), f"{spec.name}: reader", spec.file)
    if hasattr(reader, "examples"):
        if cache:
            raise UsageError(f"{spec.name}: pictures that its reader takes itself are not kept; leave --cache out")
        folder = data.find_folder(spec, data_root)
        with blamed_on(f"{spec.name}: reader '{spec.reader}'"):
            own, sha256 = reader.examples(spec, folder, card, recipe, limit)
        return own, sha256, None
    boxes = "gt" if "gt" in spec.boxes else None
    dataset = data.open_dataset(spec, data_root, boxes, limit)
    if card.task == "hpe":
        poses = examples.pose_examples(dataset, card, zoo.codec_of(card), recipe.augment, cache)
        return poses, dataset.annotations_sha256, None
    meshes = examples.mesh_examples(dataset, card, recipe.augment, recipe.loss.unused_joints_3d, cache)
    return meshes, dataset.annotations_sha256, dataset.truth["params"]


# --------------------------------------------------------------------------- running


def run(
    job: TrainJob,
    out: Path,
    *,
    resume: bool = False,
    minutes: float | None = None,
    half: bool = False,
    progress: TrainingProgress | None = None,
) -> TrainResult:
    """Train, validate, and write everything into the folder `out`; only the first process writes.

    Args:
        resume: go on from `out/last.ckpt`, where there is one.
        minutes: stop after so long, saved, to be resumed.
        half: write weights in half precision.

    Raises:
        UsageError: there is a run in `out` already, or the one to be resumed was another.
        HmrbenchError: the loss is not finite.
        KeyboardInterrupt: interrupted; the state is saved.
    """
    last = out / "last.ckpt"
    there = os.path.lexists(last)
    if there and not resume:
        raise UsageError(f"{out}: holds a training run already; --resume goes on with it")
    with distributed.together():
        if distributed.is_first():
            results.try_writing(last)
    trainer = Trainer(job, out, progress, half)
    if there:
        state = checkpoint.read(last, job.identity)
        with blamed_on(f"{last}: not the whole state of this training run", DataError):
            trainer.restore(state)
    trainer.open_log()
    finished = trainer.train(minutes)
    weights = trainer.export() if finished else None
    return TrainResult(weights, finished, trainer.step, trainer.seconds, trainer.best)


__all__ = ["Moment", "TrainJob", "TrainResult", "TrainingSettings", "prepare", "run"]
