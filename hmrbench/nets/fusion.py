"""One switch for what networks do differently for speed on some device or in some precision.

Such short cuts change the rounding of a result, not its meaning. Two kinds: a BatchNorm is folded into the convolution
before it, in every network alike; and another operator for the same product, in a module that has an attribute `fused`,
True as it is built, which it asks at every forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

# Where a convolution and the BatchNorm registered next to it also follow each other in the forward; of other people's
# modules this is known of an nn.Sequential only.
_IN_ORDER = ("hmrbench", "timm", "torchvision")
_Conv = nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d
# Subclasses with a forward of their own do more, as timm's convolutions that pad as TensorFlow's do. Of its norms that
# end in an activation, the activation stays.
_PLAIN = {
    kind.forward for kind in (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm1d, nn.BatchNorm2d, BatchNormAct2d)
}


def fuse(net: nn.Module, on: bool = True) -> None:
    """Let a network in eval mode take all short cuts, with the weights that it has now, or none.

    Weights, keys and the plain network stay as they are: `fuse(net, False)` computes the plain layers again.
    """
    for module in net.modules():
        if hasattr(module, "fused"):
            setattr(module, "fused", on)  # noqa: B010 - nn.Module declares tensors and modules alone
    unfold(net)
    for conv, norm in _pairs(net) if on else ():
        if not norm.training:
            _fold(conv, norm)


def unfold(net: nn.Module) -> None:
    """Let norms and convolutions compute themselves again."""
    for conv, norm in _pairs(net):
        for module in (conv, norm):
            module.__dict__.pop("forward", None)


def _pairs(net: nn.Module) -> Iterator[tuple[_Conv, nn.BatchNorm1d | nn.BatchNorm2d]]:
    """Convolutions and the norm that alone takes what each puts out."""
    for parent in net.modules():
        if type(parent) is not nn.Sequential and type(parent).__module__.partition(".")[0] not in _IN_ORDER:
            continue
        for conv, norm in pairwise(parent.children()):
            if not isinstance(conv, _Conv) or not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                continue
            if (
                {type(conv).forward, type(norm).forward} <= _PLAIN
                and norm.running_var is not None
                and conv.out_channels == norm.num_features
            ):
                yield conv, norm


def _fold(conv: Any, norm: Any) -> None:
    transposed = isinstance(conv, nn.ConvTranspose2d)
    if transposed and conv.groups > 1:  # the channels put out do not lie along one axis of its weights
        return
    parts = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias, transposed
    )
    weight, bias = (part.detach() for part in parts)

    def folded(x: Tensor) -> Tensor:
        if not transposed:
            y: Tensor = conv._conv_forward(x, weight, bias)
            return y
        return F.conv_transpose2d(x, weight, bias, conv.stride, conv.padding, conv.output_padding, 1, conv.dilation)

    conv.__dict__["forward"] = folded
    norm.__dict__["forward"] = norm.act if isinstance(norm, BatchNormAct2d) else _same


def _same(x: Tensor) -> Tensor:
    return x


def standard(net: nn.Module, on: bool = True) -> None:
    """Let all modules that have operators of their own compute by PyTorch's, which other runtimes know, or not.

    A module that has such operators has an attribute `standard_operators`, False as it is built.
    """
    for module in net.modules():
        if hasattr(module, "standard_operators"):
            setattr(module, "standard_operators", on)  # noqa: B010 - likewise
