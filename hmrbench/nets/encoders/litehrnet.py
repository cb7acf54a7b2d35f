"""Lite-HRNet: HRNet's branches, with weights that the branches compute for each other instead of 1x1 convolutions.

Paper: Yu et al., "Lite-HRNet: A Lightweight High-Resolution Network", CVPR 2021.
Origin: HRNet/Lite-HRNet (Apache-2.0); open-mmlab/mmpose (Apache-2.0), `mmpose/models/backbones/litehrnet.py`, whose
key names these are.

Its fusion adds up in place, in the very tensor that later terms read. The trained weights expect that, see `fuse`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmrbench.nets.layers import Gate, channel_shuffle, conv_bn, separable_conv

WIDTHS = (40, 80, 160, 320)


def light_conv(inputs: int, outputs: int, stride: int, act: bool) -> nn.Sequential:
    """Depthwise 3x3, then 1x1 convolution, each with BatchNorm, ReLU behind the second if `act`."""
    layers = [
        nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if act else []))


class Stem(nn.Module):
    """(B, 3, H, W) to (B, 32, H/4, W/4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv_bn(3, 32, 3, stride=2)
        self.branch1 = nn.Sequential(conv_bn(16, 16, 3, stride=2, groups=16, act=None), conv_bn(16, 16))
        self.expand_conv = conv_bn(16, 32)
        self.depthwise_conv = conv_bn(32, 32, 3, stride=2, groups=32, act=None)
        self.linear_conv = conv_bn(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        """The halves of the first convolution's channels take two ways."""
        x1, x2 = self.conv1(x).chunk(2, dim=1)
        x2 = self.linear_conv(self.depthwise_conv(self.expand_conv(x2)))
        return channel_shuffle(torch.cat([self.branch1(x1), x2], dim=1))


class CrossResolutionWeighting(nn.Module):
    """Every branch times factors computed from all of them at the size of the coarsest."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = list(widths)
        total = sum(widths)
        self.conv1 = conv_bn(total, total // 8)
        self.conv2 = conv_bn(total // 8, total, act=nn.Sigmoid)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, C, h, w), finest first, to the same shapes."""
        size = (int(maps[-1].shape[-2]), int(maps[-1].shape[-1]))
        small = [*(F.adaptive_avg_pool2d(x, size) for x in maps[:-1]), maps[-1]]
        factors = self.conv2(self.conv1(torch.cat(small, dim=1))).split(self.widths, dim=1)
        return [x * F.interpolate(f, size=x.shape[-2:], mode="nearest") for x, f in zip(maps, factors, strict=True)]


class ConditionalChannelWeighting(nn.Module):
    """The second half of each branch's channels: weighted across resolutions, convolved, weighted for itself."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        halves = [width // 2 for width in widths]
        self.cross_resolution_weighting = CrossResolutionWeighting(halves)
        self.depthwise_convs = nn.ModuleList(conv_bn(half, half, 3, groups=half, act=None) for half in halves)
        self.spatial_weighting = nn.ModuleList(Gate(half, half // 4, nn.Sigmoid()) for half in halves)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, C, h, w), finest first, to the same shapes."""
        kept, changed = zip(*(x.chunk(2, dim=1) for x in maps), strict=True)
        changed = self.cross_resolution_weighting(list(changed))
        outputs = []
        for x1, x2, conv, gate in zip(kept, changed, self.depthwise_convs, self.spatial_weighting, strict=True):
            outputs.append(channel_shuffle(torch.cat([x1, gate(conv(x2))], dim=1)))
        return outputs


class LiteModule(nn.Module):
    """Two weighting blocks, then the fusion of all branches."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(ConditionalChannelWeighting(widths) for _ in range(2)))
        count = range(len(widths))
        self.fuse_layers = nn.ModuleList(nn.ModuleList(_fusion_path(widths, j, i) for j in count) for i in count)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, C, h, w), finest first, to the same shapes."""
        maps = self.layers(maps)
        return [F.relu(x) for x in self.fuse(maps)]

    def fuse(self, maps: list[Tensor]) -> list[Tensor]:
        """Sums of all branches, each brought to the size and width of the one that it is added to.

        Officially the finest branch is the first term of its own sum and is then added once more; the sum overwrites
        it, so that the coarser ones read the sum; and their term from it counts twice. It is computed twice here too,
        so that costs and times are those of the official code.
        """
        paths: Any = self.fuse_layers  # paths[i][j] goes from branch j to branch i
        first = maps[0] + maps[0]
        for j in range(1, len(maps)):
            first = first + paths[0][j](maps[j])
        maps = [first, *maps[1:]]
        sums = [first]
        for i in range(1, len(maps)):
            total = paths[i][0](first)
            for path, x in zip(paths[i], maps, strict=True):
                total = total + path(x)
            sums.append(total)
        return sums


def _fusion_path(widths: Sequence[int], source: int, target: int) -> nn.Module:
    """From one branch to another: strided convolutions down, a 1x1 convolution and nearest neighbours up."""
    if source == target:
        return nn.Identity()
    if source > target:
        conv = nn.Conv2d(widths[source], widths[target], 1, bias=False)
        scale = 2.0 ** (source - target)
        return nn.Sequential(conv, nn.BatchNorm2d(widths[target]), nn.Upsample(scale_factor=scale, mode="nearest"))
    steps = [light_conv(widths[source], widths[source], 2, act=True) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, light_conv(widths[source], widths[target], 2, act=False))


class IterativeHead(nn.Module):
    """From coarse to fine, adds each map to the next finer one and convolves the sum."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        coarse_first = list(widths)[::-1]
        outputs = [*coarse_first[1:], coarse_first[-1]]
        self.projects = nn.ModuleList(
            separable_conv(c, o, 3, None, nn.ReLU) for c, o in zip(coarse_first, outputs, strict=True)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps (B, C, h, w), finest first, to one of the finest size."""
        x: Tensor = self.projects[0](maps[-1])
        for finer, project in zip(maps[-2::-1], self.projects[1:], strict=True):
            x = project(finer + F.interpolate(x, size=finer.shape[-2:], mode="bilinear", align_corners=True))
        return x


class LiteHRNet(nn.Module):
    """Three stages of two, three and four branches of stride 4 to 32.

    Args:
        modules: how many of each stage: (2, 4, 2) for Lite-HRNet-18, (3, 8, 3) for -30.
    """

    widths = WIDTHS
    strides = (4, 8, 16, 32)

    def __init__(self, modules: Sequence[int]) -> None:
        super().__init__()
        self.stem = Stem()
        before: tuple[int, ...] = (32,)
        for stage, count in enumerate(modules):
            widths = WIDTHS[: stage + 2]
            self.add_module(f"transition{stage}", _transition(before, widths))
            self.add_module(f"stage{stage}", nn.Sequential(*(LiteModule(widths) for _ in range(count))))
            before = widths
        self.head_layer = IterativeHead(WIDTHS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, 40, H/4, W/4) features."""
        maps: list[Tensor] = [self.stem(x)]
        for i in range(3):
            transition: Any = self.get_submodule(f"transition{i}")
            stage = self.get_submodule(f"stage{i}")
            maps = stage([layer(maps[min(j, len(maps) - 1)]) for j, layer in enumerate(transition)])
        y: Tensor = self.head_layer(maps)
        return y


def _transition(before: Sequence[int], widths: Sequence[int]) -> nn.ModuleList:
    """To each branch of a stage from that of the stage before; a new one begins at the coarsest."""
    layers: list[nn.Module] = []
    for i, width in enumerate(widths):
        if i >= len(before):
            layers.append(nn.Sequential(light_conv(before[-1], width, 2, act=True)))
        elif before[i] != width:
            layers.append(light_conv(before[i], width, 1, act=True))
        else:
            layers.append(nn.Identity())
    return nn.ModuleList(layers)
