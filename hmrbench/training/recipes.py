"""Recipes: everything that decides how a network is trained, in YAML beside the model cards.

A recipe's `sizes` overrides fields for models of one size letter; `extends` names the recipe whose fields it has
where it does not say otherwise. Nested mappings are merged.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hmrbench.errors import UsageError, unknown_name
from hmrbench.schema import ModelCard, Pixels
from hmrbench.schema.faults import kind_of, validate
from hmrbench.schema.reading import read_yaml, share_dir

DEFAULTS = {"hpe": "vitpose", "hmr": "hmr2"}


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Optimizer(_Frozen):
    """AdamW.

    `muon_lr` gives the matrices between hidden layers to Muon (Jordan et al. 2024), its steps scaled to
    AdamW's; on small data it learns about twice as much from each picture. `layer_decay` multiplies the
    learning rate once for every block between a layer and the neck; `decay_all` decays biases and norms too.
    """

    lr: float = Field(gt=0)
    muon_lr: float | None = Field(default=None, gt=0)
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    decay_all: bool = False


class Schedule(_Frozen):
    """The learning rate over time, as a factor on the optimizer's.

    It rises linearly from `warmup_start` to 1 in the first `warmup_steps`. `steps` multiplies it by `factor`
    at each milestone: a recipe's file has them in its epochs (or steps), here they are parts of the whole, so
    that they move in proportion when the length is changed. `cosine` falls from 1 to `floor` at the end.
    """

    kind: Literal["constant", "steps", "cosine"] = "constant"
    milestones: tuple[float, ...] = ()
    factor: float = 0.1
    floor: float = 0.0
    warmup_steps: int = Field(default=0, ge=0)
    warmup_start: float = 0.001


class Augment(_Frozen):
    """How crops vary; what is 0 never happens.

    `scale` is the standard deviation and the limit of the change of size; `rotation_deg` the standard
    deviation, and half the limit, of the angle, with `rotation_chance`; `shift` how far the box moves, in its
    own widths and heights, with `shift_chance`; `half_body` and `extreme_crop` the chances of seeing a part
    of the body alone, for poses and for meshes; `colour` the largest change of a colour channel's brightness.
    """

    flip: float = 0.0
    scale: float = 0.0
    rotation_deg: float = 0.0
    rotation_chance: float = 0.6
    shift: float = 0.0
    shift_chance: float = 1.0
    half_body: float = 0.0
    half_body_joints: int = 8
    extreme_crop: float = 0.0
    colour: float = 0.0


class Loss(_Frozen):
    """Weights of the losses. `scale` multiplies their sum.

    `heatmap` is the mean squared error of heatmaps, where a target's pixels count 1 + `foreground` * their
    value. The others are for meshes. `adversarial` is that of the prior, see `training.prior`, which needs real
    bodies and without them is none. `unused_joints_3d` count as not labelled in 3D.
    """

    scale: float = 1.0
    heatmap: float = 1.0
    foreground: float = 0.0
    keypoints_2d: float = 0.0
    keypoints_3d: float = 0.0
    global_orient: float = 0.0
    body_pose: float = 0.0
    betas: float = 0.0
    adversarial: float = Field(default=0.0, ge=0)
    unused_joints_3d: tuple[int, ...] = ()


class Recipe(_Frozen):
    """How a network is trained.

    `input` is the height and width of the pictures, where they are not those of the card: a network learns
    several times as fast on small pictures, before it goes on with whole ones. `batch_size` is that of one
    process. `frozen_stages` of the encoder, and its patch embedding, learn nothing, as in mmpose. The length is
    `epochs` or `steps`. `clip` is the largest norm of the gradient, `ema` the decay of the averaged weights (0 for
    none), which are then the ones that are measured and kept. `validate_every` and `save_minutes` say when; `best`
    is the metric that decides which weights are kept.
    """

    name: str
    task: Literal["hpe", "hmr"]
    title: str = ""
    epochs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    steps: int | None = Field(default=None, gt=0)
    batch_size: int = Field(gt=0)
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    init: str = "random"
    input: tuple[Pixels, Pixels] | None = None
    drop_path: float = 0.0
    frozen_stages: int = Field(default=0, ge=0)
    clip: float = 0.0
    ema: float = Field(default=0.0, ge=0, lt=1)
    optimizer: Optimizer
    schedule: Schedule = Schedule()
    augment: Augment = Augment()
    loss: Loss = Loss()
    best: str = "AP"
    validate_every: float = Field(default=1.0, gt=0)  # epochs
    save_minutes: float = 10.0
    log_every: int = Field(default=50, gt=0)  # steps
    sources: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()


def recipe_dir() -> Path:
    """The folder of the recipes that come with the package."""
    return share_dir() / "models" / "recipes"


def load_recipe(name: str | Path | None, card: ModelCard, **overrides: Any) -> Recipe:
    """A recipe by name or file, for one model.

    Args:
        name: None for the one that the model's task is usually trained with.
        card: the model; its size letter selects what the recipe says for that size.
        overrides: fields that replace the recipe's, `lr` the optimizer's; None leaves them.

    Raises:
        UsageError: unknown name; a field that is not right; a recipe of another task.
    """
    path = _find(str(name or DEFAULTS[card.task]))
    content = dict(read_yaml(path))
    base = content.pop("extends", None)
    if base is not None and not isinstance(base, str):
        raise UsageError(f"{path}: 'extends' must be a recipe's name or file, not {kind_of(base)}")
    if base is not None:
        try:
            content = _merge(read_yaml(_find(base)), content)
        except UsageError as e:
            raise UsageError(f"{path}: extends: {e}") from e
    sizes = content.pop("sizes", None) or {}
    own = sizes.get(card.size) or {} if isinstance(sizes, Mapping) else None
    if not isinstance(own, Mapping):
        raise UsageError(f"{path}: 'sizes' must map size letters to fields that replace the recipe's")
    fields = _merge(content, own)
    given = {k: v for k, v in overrides.items() if v is not None}
    if "lr" in given:
        fields = _merge(fields, {"optimizer": {"lr": given.pop("lr")}})
    _set_length(fields, given, path)
    recipe = validate(Recipe, path, path.stem, {**fields, **given})
    if recipe.task != card.task:
        raise UsageError(f"{path}: recipe '{recipe.name}' is for {recipe.task}, {card.name} a network for {card.task}")
    return recipe


def _find(name: str) -> Path:
    if name.endswith((".yaml", ".yml")) or "/" in name or os.path.isfile(name):  # whatever its length
        return Path(name)
    known = {p.stem.lower(): p for p in recipe_dir().glob("*.yaml")}
    if name.lower() not in known:
        raise unknown_name("recipe", name, known)
    return known[name.lower()]


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _set_length(fields: dict[str, Any], given: Mapping[str, Any], path: Path) -> None:
    """Turn milestones into parts of the whole, and let a given length take the place of the recipe's."""
    if given.get("epochs") and given.get("steps"):
        raise UsageError("give --epochs or --steps, not both")
    whole = fields.get("epochs") or fields.get("steps")
    schedule = fields.get("schedule")
    milestones = schedule.get("milestones") if isinstance(schedule, Mapping) else None
    if milestones and not whole:
        raise UsageError(f"{path}: milestones need a length, 'epochs' or 'steps'")
    if isinstance(milestones, list) and all(map(_is_number, [whole, *milestones])):  # else validation finds the fault
        fields["schedule"] = {**(schedule or {}), "milestones": [m / whole for m in milestones]}
    if given.get("epochs") or given.get("steps"):
        fields["epochs"] = fields["steps"] = None
    elif not whole:
        raise UsageError(f"{path}: a recipe needs a length, 'epochs' or 'steps'")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
