"""One switch for what networks do differently for speed on some device or in some precision.

Such short cuts are a norm folded into the weights before it, or another operator for the same product: they change
the rounding of a result, not its meaning. A module that has them has an attribute `fused`, True as it is built, and
asks it at every forward.
"""

from __future__ import annotations

from torch import nn


def fuse(net: nn.Module, on: bool = True) -> None:
    """Let all modules of a network take their short cuts, or none; it computes the plain layers then."""
    for module in net.modules():
        if hasattr(module, "fused"):
            setattr(module, "fused", on)  # noqa: B010 - nn.Module declares tensors and modules alone


def standard(net: nn.Module, on: bool = True) -> None:
    """Let all modules that have operators of their own compute by PyTorch's, which other runtimes know, or not.

    A module that has such operators has an attribute `standard_operators`, False as it is built.
    """
    for module in net.modules():
        if hasattr(module, "standard_operators"):
            setattr(module, "standard_operators", on)  # noqa: B010 - likewise
