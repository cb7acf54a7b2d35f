"""The convolutional encoders of the mesh networks, as torchvision and timm have them, to their last feature map.

The official code has the same networks: torchvision's ResNet-50 cut before its pooling, the HRNet for
classification (HRNet/HRNet-Image-Classification, MIT) cut before its pooling, and lukemelas'
EfficientNet-PyTorch (Apache-2.0), whose arithmetic timm's `tf_efficientnet_b0` has under other names.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torchvision
from torch import Tensor, nn

from hmrbench.errors import unknown_name
from hmrbench.nets.record import Renames


@dataclass(frozen=True)
class Backbone:
    """An encoder to stride 32.

    `build` makes it with initial weights, `channels` is the width of its map, `renames` are regular expressions that
    turn the keys of official checkpoints into ours, where a key begins with `backbone.` there and `encoder.` here.
    """

    build: Callable[[], nn.Module]
    channels: int
    renames: Renames


class TimmFeatures(nn.Module):
    """The last feature map of a timm network. Its classifier stays, unused: official checkpoints and the published
    numbers of parameters include it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net: Any = net

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net.forward_features(x)
        return y


class GlobalAndGrid(nn.Module):
    """HRNet to the mean of its last map (B, 2048) and to the map (B, 1024, h, w) of which that one is made."""

    def __init__(self, features: TimmFeatures) -> None:
        super().__init__()
        self.net = features.net
        self.final_layer = self.net.final_layer
        self.net.final_layer = nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        grid = self.net.forward_features(x)
        return self.final_layer(grid).mean((2, 3)), grid


def resnet50() -> nn.Module:
    """(B, 3, H, W) to (B, 2048, H/32, W/32)."""
    children = OrderedDict(torchvision.models.resnet50().named_children())
    return nn.Sequential(OrderedDict((name, m) for name, m in children.items() if name not in ("avgpool", "fc")))


def hrnet(width: int, classes: int = 1000) -> TimmFeatures:
    """HRNet-W`width` with its four resolutions brought together: (B, 3, H, W) to (B, 2048, H/32, W/32)."""
    return TimmFeatures(timm.create_model(f"hrnet_w{width}", num_classes=classes))


def efficientnet_b0() -> TimmFeatures:
    """(B, 3, H, W) to (B, 1280, H/32, W/32); equal to the official one where H and W are multiples of 32."""
    return TimmFeatures(timm.create_model("tf_efficientnet_b0"))


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


NEVER_READ = r"^encoder\.net\.classifier\."  # ours, in official checkpoints and counts
HRNET_RENAMES: Renames = ((r"^backbone\.", "encoder.net."),)
BACKBONES = {
    "r50": Backbone(
        resnet50,
        2048,
        (
            (r"^backbone\.0\.", "encoder.conv1."),
            (r"^backbone\.1\.", "encoder.bn1."),
            (r"^backbone\.([4-7])\.", lambda match: f"encoder.layer{int(match[1]) - 3}."),
        ),
    ),
    "h64": Backbone(lambda: hrnet(64), 2048, HRNET_RENAMES),
    "effb0": Backbone(
        efficientnet_b0,
        1280,
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
