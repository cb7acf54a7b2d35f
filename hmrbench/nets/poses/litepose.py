"""LitePose: all people of a picture at once, by a small network with large kernels.

Paper: Wang et al., "Lite Pose: Efficient Architecture Design for 2D Human Pose Estimation", CVPR 2022.
Origin: mit-han-lab/litepose (MIT), `lib/models/pose_mobilenet.py`, `mobile_configs`; key names are its.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor, nn

from hmrbench.nets.record import Family, Net, OfficialLayout
from hmrbench.nets.truncation import Network

DEPTHS, STRIDES = (6, 8, 10, 10), (2, 2, 2, 1)


class Size(NamedTuple):
    """What the search chose: channels behind the stem, of the four stages, of the three decoder levels."""

    stem: int
    widths: tuple[int, int, int, int]
    decoder: tuple[int, int, int]


SIZES = {
    "xs": Size(16, (16, 32, 48, 80), (16, 24, 24)),
    "s": Size(16, (16, 32, 48, 120), (32, 24, 32)),
    "m": Size(16, (24, 48, 72, 120), (64, 40, 32)),
    "l": Size(24, (24, 64, 96, 160), (64, 40, 32)),
}


def conv_bn(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    """A convolution without bias that keeps the size, BatchNorm, ReLU6 if `act`."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([nn.ReLU6(inplace=True)] if act else []))


class InvertedResidual(nn.Module):
    """1x1 convolution to six times the channels, 7x7 depthwise, 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = 6 * inputs
        self.inv = conv_bn(inputs, inner, 1)
        self.depth_conv = conv_bn(inner, inner, 7, stride, inner)
        self.point_conv = conv_bn(inner, outputs, 1, act=False)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        y: Tensor = self.point_conv(self.depth_conv(self.inv(x)))
        return x + y if self.shortcut else y


class LitePoseEncoder(nn.Module):
    """Stem of stride 2 and four stages, of stride 4, 8, 16, 16."""

    strides = (2, 4, 8, 16, 16)

    def __init__(self, stem: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.widths = (stem, *widths)
        self.first = nn.Sequential(
            conv_bn(3, 32, 3, stride=2),
            conv_bn(32, 32, 3, groups=32),
            *conv_bn(32, stem, 1, act=False),  # unnested, as its keys are
        )
        self.stage = nn.ModuleList()
        inputs = stem
        for width, depth, stride in zip(widths, DEPTHS, STRIDES, strict=True):
            blocks = [InvertedResidual(inputs, width, stride)]
            blocks += [InvertedResidual(width, width, 1) for _ in range(depth - 1)]
            self.stage.append(nn.Sequential(*blocks))
            inputs = width

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised images to five maps (B, C, h, w): the stem's and those of the stages."""
        maps = [self.first(x)]
        for stage in self.stage:
            maps.append(stage(maps[-1]))
        return maps


class SeparableConv(nn.Module):
    """5x5 depthwise convolution, BatchNorm, ReLU, 1x1 convolution without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, inputs, 5, padding=2, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(inputs, outputs, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H, W)."""
        y: Tensor = self.conv(x)
        return y


class FusionDeconvHead(nn.Module):
    """Three levels of transposed convolutions, each of the level before and of the encoder's map of its size.

    Args:
        widths: channels of the encoder's five maps.
        decoder: channels of the three levels.
        num_keypoints: heatmaps of each output; the first has as many tags beside them.
    """

    def __init__(self, widths: Sequence[int], decoder: Sequence[int], num_keypoints: int = 17) -> None:
        super().__init__()
        deconv = partial(nn.ConvTranspose2d, kernel_size=4, stride=2, padding=1, bias=False)
        before = (widths[4], *decoder[:2])
        beside = widths[3:0:-1]
        self.deconv_refined = nn.ModuleList(deconv(i, o) for i, o in zip(before, decoder, strict=True))
        self.deconv_raw = nn.ModuleList(deconv(i, o) for i, o in zip(beside, decoder, strict=True))
        self.deconv_bnrelu = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(inplace=True)) for width in decoder
        )
        outputs = (2 * num_keypoints, num_keypoints)
        self.final_refined = nn.ModuleList(SeparableConv(i, o) for i, o in zip(decoder[1:], outputs, strict=True))
        self.final_raw = nn.ModuleList(SeparableConv(i, o) for i, o in zip(widths[1::-1], outputs, strict=True))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The encoder's maps to heatmaps and tags (B, 2K, H/4, W/4), and to heatmaps (B, K, H/2, W/2)."""
        x = maps[4]
        outputs = []
        for level in range(3):
            x = self.deconv_refined[level](x) + self.deconv_raw[level](maps[3 - level])
            x = self.deconv_bnrelu[level](x)
            if level:
                outputs.append(self.final_refined[level - 1](x) + self.final_raw[level - 1](maps[2 - level]))
        return outputs[0], outputs[1]


def litepose_auto(size: str, input_size: tuple[int, int] = (448, 448)) -> Network:
    """LitePose-Auto of a size xs, s, m or l; sides in multiples of 16 pixels."""
    stem, widths, decoder = SIZES[size]
    encoder = LitePoseEncoder(stem, widths)
    return Network(encoder, nn.Identity(), FusionDeconvHead(encoder.widths, decoder))


litepose_auto_xs, litepose_auto_s, litepose_auto_m, litepose_auto_l = (partial(litepose_auto, s) for s in SIZES)

FAMILY = Family("litepose", "LitePose")
LAYOUT = OfficialLayout(((r"^(first|stage)\.", r"encoder.\1."), (r"^(deconv|final)_", r"head.\1_")))
_SMALL, _LARGE = ((448, 448),), ((512, 512),)
NETWORKS = (
    Net("litepose-auto-xs", litepose_auto_xs, FAMILY, ((256, 256),), (16, 16, 32, 48, 80), "bottom-up", layout=LAYOUT),
    Net("litepose-auto-s", litepose_auto_s, FAMILY, _SMALL, (16, 16, 32, 48, 120), "bottom-up", layout=LAYOUT),
    Net("litepose-auto-m", litepose_auto_m, FAMILY, _SMALL, (16, 24, 48, 72, 120), "bottom-up", layout=LAYOUT),
    Net("litepose-auto-l", litepose_auto_l, FAMILY, _LARGE, (24, 24, 64, 96, 160), "bottom-up", layout=LAYOUT),
)
