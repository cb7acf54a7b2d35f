"""The two encoders that ViPNAS found: a ResNet with grouped convolutions and context blocks, a MobileNetV3.

Paper: Xu et al., "ViPNAS: Efficient Video Pose Estimation via Neural Architecture Search", CVPR 2021.
Origin: open-mmlab/mmpose (Apache-2.0), `vipnas_resnet.py`, `vipnas_mbv3.py`; key names are theirs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from hmrbench.nets.layers import Gate, conv_bn


class ContextBlock(nn.Module):
    """Adds to every position what the whole map says: its mean, weighted by attention, through two convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        middle = max(channels // 16, 16)
        self.conv_mask = nn.Conv2d(channels, 1, 1)
        self.channel_add_conv = nn.Sequential(
            nn.Conv2d(channels, middle, 1),
            nn.LayerNorm([middle, 1, 1]),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        weights = self.conv_mask(x).flatten(2).softmax(-1)  # (B, 1, HW)
        context = x.flatten(2) @ weights.transpose(1, 2)  # (B, C, 1)
        y: Tensor = x + self.channel_add_conv(context.unsqueeze(-1))
        return y


class Bottleneck(nn.Module):
    """1x1, grouped k x k, 1x1 convolution of one width, and the shortcut."""

    def __init__(self, inputs: int, channels: int, kernel: int, stride: int, context: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=16, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.attention = ContextBlock(channels) if context else nn.Identity()
        self.downsample = (
            nn.Identity()
            if stride == 1 and inputs == channels
            else nn.Sequential(nn.Conv2d(inputs, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.attention(self.bn3(self.conv3(y)))
        return F.relu(y + self.downsample(x), inplace=True)


class ViPNASRes50(nn.Module):
    """(B, 3, H, W) normalised images to (B, 608, H/32, W/32) features."""

    widths = (80, 160, 304, 608)
    strides = (4, 8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 48, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(48)
        inputs = 48
        settings = zip(self.widths, (4, 6, 7, 3), (3, 5, 5, 5), (True, False, True, True), strict=True)
        stages = []
        for i, (channels, blocks, kernel, context) in enumerate(settings):
            layers = []
            for block in range(blocks):
                stride = 2 if i and block == 0 else 1
                layers.append(Bottleneck(inputs, channels, kernel, stride, context))
                inputs = channels
            stages.append(nn.Sequential(*layers))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    def forward(self, x: Tensor) -> Tensor:
        """Features of the last stage."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return x


class _Stage(NamedTuple):
    width: int
    depth: int
    expansion: int  # channels inside a block, over `width`
    kernel: int
    groups: int
    stride: int
    gate: bool
    act: type[nn.Module]


_MBV3_STAGES = (
    _Stage(16, 1, 1, 3, 8, 1, True, nn.ReLU),
    _Stage(24, 4, 5, 7, 120, 2, True, nn.ReLU),
    _Stage(40, 4, 4, 7, 20, 2, False, nn.ReLU),
    _Stage(80, 4, 5, 5, 100, 2, True, nn.Hardswish),
    _Stage(112, 4, 5, 7, 280, 1, True, nn.Hardswish),
    _Stage(160, 4, 6, 5, 240, 2, True, nn.Hardswish),
)


class HalfSigmoid(nn.Module):
    """(x + 1) / 2 between 0 and 1, where MobileNetV3 has (x + 3) / 6."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return ((x + 1) / 2).clamp(0, 1)


class InvertedResidual(nn.Module):
    """1x1 convolution to the inner width, grouped convolution, gate, 1x1 convolution."""

    def __init__(self, inputs: int, stage: _Stage, stride: int) -> None:
        super().__init__()
        inner = stage.width * stage.expansion
        self.shortcut = stride == 1 and inputs == stage.width
        self.expand_conv = conv_bn(inputs, inner, act=stage.act) if stage.expansion > 1 else nn.Identity()
        self.depthwise_conv = conv_bn(inner, inner, stage.kernel, stride, stage.groups, act=stage.act)
        self.se = Gate(inner, inner // 4, HalfSigmoid()) if stage.gate else nn.Identity()
        self.linear_conv = conv_bn(inner, stage.width, act=None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        y: Tensor = self.linear_conv(self.se(self.depthwise_conv(self.expand_conv(x))))
        return x + y if self.shortcut else y


class ViPNASMobileNetV3(nn.Sequential):
    """(B, 3, H, W) normalised images to (B, 160, H/32, W/32) features."""

    widths = tuple(stage.width for stage in _MBV3_STAGES)
    strides = (2, 4, 8, 16, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        self.add_module("conv1", conv_bn(3, 16, 3, stride=2, act=nn.Hardswish))
        inputs = 16
        for stage in _MBV3_STAGES:
            for block in range(stage.depth):
                block_net = InvertedResidual(inputs, stage, stage.stride if block == 0 else 1)
                self.add_module(f"layer{len(self)}", block_net)
                inputs = stage.width
