"""Layer-wise learning rates, their course over time, and the average of the weights.

Layer-wise decay of ViTPose (`mmcv_custom/layer_decay_optimizer_constructor.py`, the same in mmpose 1.x,
Apache-2.0): the patch embedding is layer 0, block i layer i + 1, all behind the blocks the last layer, and
each layer learns more slowly than the next by a fixed factor; biases, norms and the position embedding are
not decayed.

Assumed for hierarchical encoders, of which it says nothing: blocks are counted through all stages that are
built; what leads into a stage belongs to that stage's first block; relative position tables, and the
recurrences of VMamba, are not decayed.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from hmrbench.nets.record import Depth
from hmrbench.training.recipes import Optimizer, Schedule

# The SMPL head's last layers: Muon is for matrices between hidden layers.
_OUTPUT = re.compile(r"^head\.dec(pose|shape|cam)\.")


def layer_numbers(names: list[str], depth: Depth | None) -> tuple[dict[str, int], int]:
    """The layer of each parameter by name, from 0, and the number of the last layer (neck and head).

    Without the order of its encoder a network is one layer.
    """
    places = {name: _place(name, depth) for name in names}
    blocks = sorted({place for place in places.values() if place and place[1] is not None})
    number = {place: i + 1 for i, place in enumerate(blocks)}
    last = len(blocks) + 1
    layers = {}
    for name, place in places.items():
        if place is None:
            layers[name] = last
        elif place[1] is None:
            layers[name] = 0 if place[0] == 0 else number.get((place[0], 0), last)
        else:
            layers[name] = number[place]
    return layers, last


def _place(name: str, depth: Depth | None) -> tuple[int, int | None] | None:
    """Stage and block of a parameter of the encoder, see `Depth.place`; None for what follows it."""
    inner = name.removeprefix("encoder.")
    return depth.place(inner) if depth and inner != name else None


def freeze_stages(net: nn.Module, stages: int, depth: Depth | None) -> None:
    """Let the patch embedding and the first `stages` stages of the encoder learn nothing (none for 0)."""
    for name, parameter in net.named_parameters():
        place = _place(name, depth)
        if place and place[0] < stages:
            parameter.requires_grad_(False)


def set_training(net: nn.Module) -> None:
    """Training mode for all but what is frozen: its statistics and its dropout are those of eval mode."""
    net.train()
    for module in net.modules():
        own = list(module.parameters())
        if own and not any(p.requires_grad for p in own):
            module.eval()


def make_optimizers(net: nn.Module, settings: Optimizer, depth: Depth | None) -> list[torch.optim.Optimizer]:
    """AdamW and, where the settings give matrices a learning rate of their own, Muon for these.

    Each has one group per layer and kind, whose `scale` is its part of the settings' `lr`.
    """
    names = {name: p for name, p in net.named_parameters() if p.requires_grad}
    layers, last = layer_numbers(list(names), depth)
    kept = re.compile(rf"encoder\.(?:{depth.not_decayed})") if depth else re.compile(r"(?!)")
    groups: dict[tuple[bool, int, bool], dict[str, Any]] = {}
    for name, parameter in names.items():
        matrix = parameter.ndim > 1 and not name.endswith(".bias") and not kept.match(name)
        decayed = matrix or settings.decay_all
        by_muon = matrix and parameter.ndim == 2 and settings.muon_lr is not None and not _OUTPUT.search(name)
        faster = (settings.muon_lr or 0.0) / settings.lr if by_muon else 1.0
        group = groups.setdefault(
            (by_muon, layers[name], decayed),
            {
                "params": [],
                "weight_decay": settings.weight_decay if decayed else 0.0,
                "scale": faster * settings.layer_decay ** (last - layers[name]),
            },
        )
        group["params"].append(parameter)
    adamw, muon = ([g for (kind, *_), g in groups.items() if kind is wanted] for wanted in (False, True))
    found: list[torch.optim.Optimizer] = [torch.optim.AdamW(adamw, lr=settings.lr, betas=settings.betas)]
    if muon:
        found.append(_Muon(muon, lr=settings.lr, adjust_lr_fn="match_rms_adamw"))
    return found


class _Float32(TorchFunctionMode):
    """`bfloat16()` of a tensor on the CPU gives a copy in float32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.bfloat16 and args[0].device.type == "cpu":
            return args[0].to(torch.float32, copy=True)
        return func(*args, **(kwargs or {}))


class _Muon(torch.optim.Muon):
    """PyTorch writes its iterations in bf16: on a CPU without units for it they take thirty times as long."""

    def step(self, closure: Any = None) -> Any:
        with _Float32():
            return super().step(closure)  # type: ignore[no-untyped-call]


def set_lr(optimizers: Sequence[torch.optim.Optimizer], settings: Optimizer, factor: float) -> None:
    """Give every group its learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * factor * group["scale"]


def lr_factor(step: int, steps: int, schedule: Schedule) -> float:
    """The factor on the learning rate in step `step` of `steps`, from 0; steps and warm-up as in mmcv."""
    done = step / max(steps, 1)
    factor = 1.0
    if schedule.kind == "steps":
        factor = schedule.factor ** sum(done >= milestone for milestone in schedule.milestones)
    elif schedule.kind == "cosine":
        warm = min(schedule.warmup_steps, steps - 1)
        course = min(1.0, max(0.0, (step - warm) / max(steps - warm, 1)))
        factor = schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * course))
    if step < schedule.warmup_steps:
        factor *= 1 - (1 - step / schedule.warmup_steps) * (1 - schedule.warmup_start)
    return factor


class Average:
    """The exponential moving average of a network's weights; `net` is the network that has them, in eval
    mode.

    It follows the tensors that `source` has now, which must stay in their place. The decay begins low and
    rises to `decay`, as the first weights are worth nothing.
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        self.net = copy.deepcopy(source).eval().requires_grad_(False)
        self.decay = decay
        pairs = list(zip(self.net.state_dict().values(), source.state_dict().values(), strict=True))
        self._floats = [(own, new) for own, new in pairs if own.is_floating_point()]
        self._counts = [(own, new) for own, new in pairs if not own.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step number `step`, from 0."""
        part = 1 - min(self.decay, (1 + step) / (10 + step))
        own, new = zip(*self._floats, strict=True)
        torch._foreach_lerp_(own, new, part)
        for count, seen in self._counts:
            count.copy_(seen)
