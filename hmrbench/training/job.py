"""What is to be trained: everything checked, nothing begun."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from hmrbench import distributed, evaluation
from hmrbench.body import Body
from hmrbench.records import Array
from hmrbench.schema import DatasetSpec, ModelCard
from hmrbench.training import start
from hmrbench.training.examples import Examples
from hmrbench.training.losses import LossFunction
from hmrbench.training.prior import RealBodies
from hmrbench.training.recipes import Recipe


@dataclass(frozen=True)
class TrainJob:
    """One training, with everything checked that can be checked before anything slow starts."""

    card: ModelCard
    spec: DatasetSpec
    recipe: Recipe
    examples: Examples
    losses: LossFunction
    body: Body | None
    validation: evaluation.Job | None
    mean_params: Mapping[str, Array] | None
    real_bodies: RealBodies | None  # for the adversarial prior
    annotations_sha256: str
    device: torch.device
    seed: int
    workers: int

    @property
    def people_per_step(self) -> int:
        """People that all processes together see in a step."""
        return self.recipe.batch_size * distributed.size()

    @property
    def steps(self) -> int:
        """Steps in all."""
        if self.recipe.steps is not None:
            return self.recipe.steps
        assert self.recipe.epochs is not None
        return max(1, round(self.recipe.epochs * self.examples.count / self.people_per_step))

    @property
    def validate_steps(self) -> int:
        """Steps between two validations."""
        return max(1, round(self.recipe.validate_every * self.examples.count / self.people_per_step))

    @cached_property
    def settings(self) -> Recipe:
        """The recipe as it is written down: a file to start from is named by its content, not by where it lay."""
        return self.recipe.model_copy(update={"init": start.described(self.recipe.init)})

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a run to be resumed."""
        return {
            "model": self.card.name,
            "recipe": json.loads(self.settings.model_dump_json()),
            "dataset": self.spec.name,
            "annotations": self.annotations_sha256,
            "people": self.examples.count,
            "real_bodies": self.real_bodies.sha256 if self.real_bodies else None,
            "validation": self.validation.spec.name if self.validation else None,
            "processes": distributed.size(),
            "seed": self.seed,
            "cached": bool(self.examples.pictures),
        }
