"""Untrained networks to be timed, made without drawing each of their weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hmrbench import zoo
from hmrbench.profiling.counts import are_of_this_package
from hmrbench.schema import ModelCard

BIG = 1 << 18  # elements from which on a tensor is filled with the same numbers over and over
_PERIOD = 1_000_003  # a prime, so that no two rows of a matrix are alike


def load_untrained(card: ModelCard) -> nn.Module:
    """The card's network with weights of the usual size: outputs, zeros and denormals aside, cost what others cost.

    A network of another package is built as it builds itself.
    """
    if are_of_this_package(card):
        try:
            with _BigOnMeta():
                net = zoo.load_weights(card, None, zoo.made_mesh())[0]
            if not any(buffer.is_meta for buffer in net.buffers()):
                return _filled(net)
        except Exception:  # it computes with its weights while it is built; what else is wrong comes up again
            pass
    return zoo.load_weights(card, None, zoo.made_mesh())[0]


class _BigOnMeta(TorchFunctionMode):
    """What `torch.empty` makes for big tensors has no memory yet, and costs nothing to initialise."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            shape: Tensor = func(*args, **{**kwargs, "device": "meta"})
            if shape.numel() >= BIG:
                return shape
        return func(*args, **kwargs)


def _filled(net: nn.Module) -> nn.Module:
    """Give memory and normal numbers to parameters that have none, those of a row or filter to add up to one."""
    numbers = torch.randn(_PERIOD, generator=torch.Generator().manual_seed(0))
    made: dict[int, nn.Parameter] = {}
    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.is_meta:
                continue
            if id(parameter) not in made:
                tensor = torch.empty_like(parameter, device="cpu")
                scaled = numbers * (len(tensor) / tensor.numel()) ** 0.5
                for part in torch.split(tensor.view(-1), _PERIOD):
                    part.copy_(scaled[: len(part)])
                made[id(parameter)] = nn.Parameter(tensor, parameter.requires_grad)
            setattr(module, name, made[id(parameter)])
    return net
