"""CSPNeXt, the encoder of RTMPose: half of a stage's channels pass its blocks, the other half goes around.

Paper: Lyu et al., "RTMDet: An Empirical Study of Designing Real-Time Object Detectors", arXiv 2212.07784.
Origin: open-mmlab/mmpose, `mmpose/models/backbones/cspnext.py` (Apache-2.0); key names are its.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmrbench.nets.layers import conv_bn, separable_conv

STAGES = ((64, 128, 3), (128, 256, 6), (256, 512, 6), (512, 1024, 3))  # channels in, out, blocks at full size


class Block(nn.Module):
    """3x3, then 5x5 separable convolution, with a shortcut around both except in the last stage."""

    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.conv1 = conv_bn(channels, channels, 3, act=nn.SiLU)
        self.conv2 = separable_conv(channels, channels, 5, nn.SiLU, nn.SiLU)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        y: Tensor = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class ChannelAttention(nn.Module):
    """Every channel times a factor that one 1x1 convolution computes from the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return x * F.hardsigmoid(self.fc(F.adaptive_avg_pool2d(x, 1)))


class CSPLayer(nn.Module):
    """Blocks on one half of the channels, the other half beside them, attention over both."""

    def __init__(self, channels: int, blocks: int, shortcut: bool) -> None:
        super().__init__()
        half = channels // 2
        self.main_conv = conv_bn(channels, half, act=nn.SiLU)
        self.short_conv = conv_bn(channels, half, act=nn.SiLU)
        self.final_conv = conv_bn(2 * half, channels, act=nn.SiLU)
        self.blocks = nn.Sequential(*(Block(half, shortcut) for _ in range(blocks)))
        self.attention = ChannelAttention(2 * half)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        x = torch.cat([self.blocks(self.main_conv(x)), self.short_conv(x)], dim=1)
        y: Tensor = self.final_conv(self.attention(x))
        return y


class PoolingPyramid(nn.Module):
    """The map beside its maxima over windows of 5, 9 and 13."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(channels, channels // 2, act=nn.SiLU)
        self.conv2 = conv_bn(channels // 2 * 4, channels, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        x = self.conv1(x)
        pools = [F.max_pool2d(x, window, stride=1, padding=window // 2) for window in (5, 9, 13)]
        y: Tensor = self.conv2(torch.cat([x, *pools], dim=1))
        return y


class CSPNeXt(nn.Module):
    """Stem of stride 2 and four stages, of stride 4 to 32.

    Args:
        deepen: factor on the number of blocks of a stage.
        widen: factor on the channels.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, deepen: float, widen: float) -> None:
        super().__init__()
        stem = int(64 * widen)
        self.widths = tuple(int(outputs * widen) for _, outputs, _ in STAGES)
        self.stem = nn.Sequential(
            conv_bn(3, stem // 2, 3, stride=2, act=nn.SiLU),
            conv_bn(stem // 2, stem // 2, 3, act=nn.SiLU),
            conv_bn(stem // 2, stem, 3, act=nn.SiLU),
        )
        for number, (inputs, outputs, blocks) in enumerate(STAGES, start=1):
            channels, last = int(outputs * widen), number == len(STAGES)
            layers: list[nn.Module] = [conv_bn(int(inputs * widen), channels, 3, stride=2, act=nn.SiLU)]
            if last:
                layers.append(PoolingPyramid(channels))
            layers.append(CSPLayer(channels, max(round(blocks * deepen), 1), shortcut=not last))
            self.add_module(f"stage{number}", nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, C, H/32, W/32) features."""
        for layer in self.children():
            x = layer(x)
        return x
