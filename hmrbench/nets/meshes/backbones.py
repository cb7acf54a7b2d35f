"""The convolutional encoders of the mesh networks, to their last feature map, and the keys of official files.

The official code has torchvision's ResNet-50 and the HRNet for classification (HRNet/HRNet-Image-Classification,
MIT), both cut before their pooling, and lukemelas' EfficientNet-PyTorch (Apache-2.0), whose arithmetic timm's
`tf_efficientnet_b0` has under other names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import timm
from torch import Tensor, nn

from hmrbench.errors import unknown_name
from hmrbench.nets.encoders.hrnet import HRNet
from hmrbench.nets.encoders.resnet import ResNet50
from hmrbench.nets.record import Renames


@dataclass(frozen=True)
class Backbone:
    """An encoder to stride 32.

    `build` makes it with initial weights, `channels` is the width of its map and
    `widths` are those of all maps that it computes, from the finest to the coarsest, `renames` are regular expressions
    that turn the keys of official checkpoints into ours, where a key begins with `backbone.` there and `encoder.` here.
    """

    build: Callable[[], nn.Module]
    channels: int
    widths: tuple[int, ...]
    renames: Renames


class EfficientNetFeatures(nn.Module):
    """The last feature map of timm's EfficientNet-B0: (B, 3, H, W) to (B, 1280, H/32, W/32), equal to the official one
    where H and W are multiples of 32. Its classifier stays, unused: official checkpoints and counts include it."""

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = timm.create_model("tf_efficientnet_b0")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net.forward_features(x)
        return y


class GlobalAndGrid(HRNet):
    """HRNet to the mean of its last map (B, 2048) and to the map (B, 1024, h, w) of which that one is made."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        grid = self.brought_together(self.branches(x))
        return self.final_layer(grid).mean((2, 3)), grid


_B0_BLOCKS = [(stage, block) for stage, blocks in enumerate((1, 2, 2, 3, 3, 4, 1)) for block in range(blocks)]
_B0_LAYERS = {
    **{"expand_conv": "conv_pw", "bn0": "bn1", "depthwise_conv": "conv_dw", "bn1": "bn2"},
    **{"se_reduce": "se.conv_reduce", "se_expand": "se.conv_expand", "project_conv": "conv_pwl", "bn2": "bn3"},
}
_B0_FIRST_BLOCK = {**_B0_LAYERS, "bn1": "bn1", "project_conv": "conv_pw", "bn2": "bn2"}  # it does not expand


def _b0_block(match: re.Match[str]) -> str:
    """lukemelas counts blocks through all stages, and norms from 0 where a block expands, else from 1."""
    stage, block = _B0_BLOCKS[int(match[1])]
    layer = (_B0_LAYERS if stage else _B0_FIRST_BLOCK)[match[2]]
    return f"encoder.net.blocks.{stage}.{block}.{layer}."


H64_WIDTHS = (64, 128, 256, 512)
CLASSES = 1000  # of ImageNet, for the classifier that official networks keep
NEVER_READ = r"^encoder\.(net\.)?classifier\."  # ours, in official checkpoints and counts
HRNET_RENAMES: Renames = ((r"^backbone\.", "encoder."),)
BACKBONES = {
    "r50": Backbone(
        ResNet50,
        2048,
        ResNet50.widths,
        (
            (r"^backbone\.0\.", "encoder.conv1."),
            (r"^backbone\.1\.", "encoder.bn1."),
            (r"^backbone\.([4-7])\.", lambda match: f"encoder.layer{int(match[1]) - 3}."),
        ),
    ),
    "h64": Backbone(lambda: HRNet(64, "features", CLASSES), 2048, H64_WIDTHS, HRNET_RENAMES),
    "effb0": Backbone(
        EfficientNetFeatures,
        1280,
        (16, 24, 40, 112, 320),
        (
            (r"^backbone\._blocks\.(\d+)\._(\w+)\.", _b0_block),
            (r"^backbone\._conv_stem\.", "encoder.net.conv_stem."),
            (r"^backbone\._bn0\.", "encoder.net.bn1."),
            (r"^backbone\._conv_head\.", "encoder.net.conv_head."),
            (r"^backbone\._bn1\.", "encoder.net.bn2."),
            (r"^backbone\._fc\.", "encoder.net.classifier."),
        ),
    ),
}


def find_backbone(name: str, known: Sequence[str] = ("r50", "h64")) -> Backbone:
    """The backbone of that name.

    Raises:
        UsageError: it is not among those that the family comes with.
    """
    if name not in known:
        raise unknown_name("backbone", name, known)
    return BACKBONES[name]
