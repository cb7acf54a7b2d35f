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
from hmrbench.runtimes.outputs import INPUTS, Form, flatten


@dataclass(frozen=True)
class Graph:
    """A network that puts out a flat tuple, and what to trace it on.

    Attributes:
        net: the network.
        given: pictures (B, 3, H, W), and of a few networks numbers (B, N) beside them.
        form: how the outputs go together.
        any_batch, any_size: whether B stays open, whether H and W do.
    """

    net: nn.Module
    given: tuple[Tensor, ...]
    form: Form
    any_batch: bool
    any_size: bool = False

    @property
    def x(self) -> Tensor:
        """The pictures."""
        return self.given[0]

    def named(self) -> dict[str, Tensor]:
        """The inputs by their names in a file."""
        return dict(zip(INPUTS, self.given, strict=False))

    def open_axes(self) -> dict[int, str]:
        """The axes of the pictures whose length stays open, with a name for each."""
        batch, size = {0: "batch"}, {2: "height", 3: "width"}
        return (batch if self.any_batch else {}) | (size if self.any_size else {})


class _Flat(nn.Module):
    """The network with a flat tuple of tensors as output, of which a graph has no other."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        return tuple(flatten(self.net(*given))[0])


_TRANSPOSED = torch.Tensor.mT.__get__  # type: ignore[attr-defined]


class _Spelt(TorchFunctionMode):
    """Spells operators that converters do not know by those that they do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == _TRANSPOSED:
            return args[0].transpose(-2, -1)
        return func(*args, **(kwargs or {}))


@contextmanager
def traceable(
    net: nn.Module, given: tuple[Tensor, ...], any_batch: bool = False, any_size: bool = False
) -> Iterator[Graph]:
    """What converters trace inside: there, a network with operators of its own computes them by standard ones."""
    standard(net, True)
    learned = [weight for weight in net.parameters() if weight.requires_grad]
    for weight in learned:  # those that `state_dict` shows in another shape become constants, without a gradient
        weight.requires_grad_(False)
    try:
        with torch.no_grad(), warnings.catch_warnings(), _Spelt():
            warnings.simplefilter("ignore")  # of Python numbers, which are the same for all pictures
            yield Graph(_Flat(net).eval(), given, flatten(net(*given))[1], any_batch, any_size)
    finally:
        for weight in learned:
            weight.requires_grad_(True)
        standard(net, False)
