"""PyTorch's network as a graph of standard operators, which converters to other runtimes begin with."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hmrbench.nets.fusion import standard
from hmrbench.runtimes.outputs import Form, flatten


@dataclass(frozen=True)
class Graph:
    """A network that puts out a flat tuple, the input (B, 3, H, W) on which to trace it, the form of its outputs, and
    whether B stays open."""

    net: nn.Module
    x: Tensor
    form: Form
    any_batch: bool


class _Flat(nn.Module):
    """The network with a flat tuple of tensors as output, of which a graph has no other."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(flatten(self.net(x))[0])


_TRANSPOSED = torch.Tensor.mT.__get__  # type: ignore[attr-defined]


class _Spelt(TorchFunctionMode):
    """Spells operators that converters do not know by those that they do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == _TRANSPOSED:
            return args[0].transpose(-2, -1)
        return func(*args, **(kwargs or {}))


@contextmanager
def traceable(net: nn.Module, x: Tensor, any_batch: bool = False) -> Iterator[Graph]:
    """What converters trace inside: there, a network with operators of its own computes them by standard ones."""
    standard(net, True)
    try:
        with torch.no_grad(), warnings.catch_warnings(), _Spelt():
            warnings.simplefilter("ignore")  # of Python numbers, which are the same for all pictures
            yield Graph(_Flat(net).eval(), x, flatten(net(x))[1], any_batch)
    finally:
        standard(net, False)
