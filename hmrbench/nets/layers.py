"""Small layers that several families share."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


def on_cpu_in_float32(x: Tensor) -> bool:
    """Whether short cuts for float32 on a CPU apply that autograd and compilers see through; not under traces."""
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return x.is_cpu and x.dtype == torch.float32 and not tracing


def free_to_cut(x: Tensor) -> bool:
    """The same for short cuts that nothing sees through: not under compilers, autograd, autocast either."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    return type(x) is Tensor and on_cpu_in_float32(x)


def onednn_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> Tensor | None:
    """A 1x1 convolution (B, C, H, W) to (B, D, H, W) by oneDNN; None where that is not to be had, or not to be seen.

    On one thread PyTorch keeps small batches from oneDNN, which runs groups one by one otherwise, three times as
    slow.
    """
    # Compilers are asked first: not all of them see through `is_available`.
    free = free_to_cut(x) and weight.dtype == torch.float32
    if not (free and torch.backends.mkldnn.is_available()):  # type: ignore[no-untyped-call]
        return None
    y: Tensor = torch.mkldnn_convolution(x, weight[:, :, None, None], bias, [0, 0], [1, 1], [1, 1], groups)
    return y


def conv_bn(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU,
) -> nn.Sequential:
    """A convolution without bias that keeps the size, BatchNorm, activation: keys `conv.*`, `bn.*` as in mmcv."""
    layers: list[tuple[str, nn.Module]] = [
        ("conv", nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)),
        ("bn", nn.BatchNorm2d(outputs)),
    ]
    if act is not None:
        layers.append(("act", act() if act is nn.Sigmoid else act(inplace=True)))
    return nn.Sequential(OrderedDict(layers))


def conv_act(inputs: int, outputs: int, act: nn.Module) -> nn.Sequential:
    """A 1x1 convolution with bias, activation; key `conv.*` as in mmcv."""
    return nn.Sequential(OrderedDict([("conv", nn.Conv2d(inputs, outputs, 1)), ("act", act)]))


def separable_conv(
    inputs: int,
    outputs: int,
    kernel: int,
    depthwise_act: type[nn.Module] | None,
    pointwise_act: type[nn.Module],
) -> nn.Sequential:
    """Depthwise, then 1x1 convolution, each with BatchNorm: keys as of mmcv's DepthwiseSeparableConvModule."""
    depthwise = conv_bn(inputs, inputs, kernel, groups=inputs, act=depthwise_act)
    pointwise = conv_bn(inputs, outputs, act=pointwise_act)
    return nn.Sequential(OrderedDict([("depthwise_conv", depthwise), ("pointwise_conv", pointwise)]))


class Gate(nn.Module):
    """Squeeze and excitation: every channel times a factor computed from the means of all of them.

    Args:
        channels: of the map.
        squeezed: channels between the two convolutions.
        gate: activation that makes the factor.
    """

    def __init__(self, channels: int, squeezed: int, gate: nn.Module) -> None:
        super().__init__()
        self.conv1 = conv_act(channels, squeezed, nn.ReLU(inplace=True))
        self.conv2 = conv_act(squeezed, channels, gate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        y: Tensor = self.conv2(self.conv1(nn.functional.adaptive_avg_pool2d(x, 1)))
        return x * y


def channel_shuffle(x: Tensor) -> Tensor:
    """Channels (a0 .. an, b0 .. bn) of (B, C, H, W) in the order (a0, b0, a1, b1, ..)."""
    b, c, h, w = x.shape
    return x.reshape(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
