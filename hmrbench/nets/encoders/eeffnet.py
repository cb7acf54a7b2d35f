"""The encoder of MEMe: an EfficientNet whose finer maps go on beside the coarser ones, with a fusion after each stage.

Paper: Li et al., "Mutually Enhanced Modeling for Human Pose Estimation", Sensors 2022, 22(2), 632.
Origin: igodogi/EEffPose, `lib/models/pose_effpnet.py`, `lib/models/effpnet/model.py`; key names are its. The blocks are
those of timm's EfficientNet (huggingface/pytorch-image-models, Apache-2.0).

As in TensorFlow's EfficientNet the strided convolutions pad more at the right and bottom. The stem has stride 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual, SqueezeExcite
from torch import Tensor, nn

BatchNorm = partial(nn.BatchNorm2d, eps=1e-3)  # of EfficientNet; the blocks of the fusion have PyTorch's 1e-5


class _Stage(NamedTuple):
    kernel: int
    stride: int
    branch: int  # which of the maps it computes, finest first
    grows: bool  # the map is new: it begins at the one before


_STAGES = (
    _Stage(3, 1, 0, False),
    _Stage(3, 2, 0, False),
    _Stage(5, 2, 0, False),
    _Stage(3, 2, 1, True),
    _Stage(5, 1, 1, False),
    _Stage(5, 2, 2, True),
    _Stage(3, 1, 2, False),
)


def _gate(channels: int) -> Any:
    """What makes the gate of a block that `channels` go into."""
    return partial(SqueezeExcite, rd_channels=channels // 4)


def residual_block(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    """EfficientNet's block: 1x1 convolution to six times the channels, depthwise, gate, 1x1 convolution."""
    block: nn.Module = InvertedResidual(
        inputs, outputs, kernel, stride, pad_type="same", exp_ratio=6.0, act_layer=nn.SiLU, norm_layer=BatchNorm,
        se_layer=_gate(inputs),
    )  # fmt: skip
    return block


def first_block(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    """EfficientNet's block of its first stage: depthwise convolution, gate, 1x1 convolution."""
    block: nn.Module = DepthwiseSeparableConv(
        inputs, outputs, kernel, stride, pad_type="same", act_layer=nn.SiLU, norm_layer=BatchNorm,
        se_layer=_gate(inputs),
    )  # fmt: skip
    return block


class Project(nn.Module):
    """A 1x1 convolution and BatchNorm where the channels differ, else nothing."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = (
            nn.Identity()
            if inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), BatchNorm(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H, W)."""
        y: Tensor = self.conv(x)
        return y


def _with_last_axis(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    state[f"{prefix}weights"] = state[f"{prefix}weights"].unsqueeze(-1)


def _without_last_axis(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    if f"{prefix}weights" in state:
        state[f"{prefix}weights"] = state[f"{prefix}weights"].squeeze(-1)


class WeightedSum(nn.Module):
    """All maps brought to the size and width of one, and their mean with learned weights for each channel."""

    def __init__(self, inputs: Sequence[int], outputs: int, target: int) -> None:
        super().__init__()
        # Officially with one more 1 at the end, which `to(memory_format=torch.channels_last)` would refuse.
        self.weights = nn.Parameter(torch.full((1, outputs, len(inputs), 1), 1 / len(inputs)))
        self.register_state_dict_post_hook(_with_last_axis)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_without_last_axis)  # type: ignore[no-untyped-call]
        self.sample_layers = nn.ModuleList()
        for source, channels in enumerate(inputs):
            steps: list[nn.Module] = [Project(channels, outputs)]
            if source > target:
                scale = 2.0 ** (source - target)
                steps.append(nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=True))
            elif source < target:
                steps.insert(0, nn.MaxPool2d(2 ** (target - source)))
            self.sample_layers.append(nn.Sequential(*steps))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps (B, C, h, w), finest first, to one (B, C', h, w) after SiLU."""
        weights = self.weights.relu()
        weights = weights / (weights.sum(2, keepdim=True) + 1e-5)
        sampled = (layer(x) for layer, x in zip(self.sample_layers, maps, strict=True))
        first, *rest = weights.unsqueeze(-1).unbind(2)  # (1, C', 1, 1) for each map
        total = first * next(sampled)
        for weight, x in zip(rest, sampled, strict=True):
            total.add_(weight * x)
        return nn.functional.silu(total, inplace=True)


class Fusion(nn.Module):
    """Each map becomes a block on the weighted sum of all, plus itself."""

    def __init__(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        super().__init__()
        self.addup_layers = nn.ModuleList(WeightedSum(inputs, width, i) for i, width in enumerate(outputs))
        self.mixup_layers = nn.ModuleList(
            InvertedResidual(
                width, width, 5, noskip=True, exp_ratio=6.0, act_layer=nn.SiLU,
                se_layer=_gate(width),
            )
            for width in outputs
        )  # fmt: skip
        self.fixup_layers = nn.ModuleList(Project(i, o) for i, o in zip(inputs, outputs, strict=True))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, C, h, w), finest first, to maps of the same sizes."""
        layers = zip(self.addup_layers, self.mixup_layers, self.fixup_layers, maps, strict=True)
        return [mix(add(maps)).add_(fix(x)) for add, mix, fix, x in layers]


class HighResolutionStage(nn.Module):
    """One stage of EfficientNet on the coarsest map, as many blocks on each finer one, and the fusion of all."""

    def __init__(self, branches: Sequence[nn.Sequential], grows: bool, widths: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.grows = grows
        self.fuse_layers = Fusion(widths, widths) if len(widths) > 1 else nn.Identity()

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, C, h, w), finest first, to as many, or one more where the stage begins a coarser one."""
        inputs = [*maps, maps[-1]] if self.grows else maps
        y: list[Tensor] = self.fuse_layers([branch(x) for branch, x in zip(self.branches, inputs, strict=True)])
        return y


class EEffNet(nn.Sequential):
    """EfficientNet with maps of stride 4, 8 and 16 side by side.

    Args:
        widths: channels of its seven stages.
        depths: blocks of them.
        stem: channels of the first convolution.
    """

    strides = (4, 8, 16)

    def __init__(self, widths: Sequence[int], depths: Sequence[int], stem: int = 32) -> None:
        super().__init__(nn.Conv2d(3, stem, 3, padding=1, bias=False), BatchNorm(stem), nn.SiLU())
        maps = [stem]
        kernels = [0, 0, 0]
        for number, (stage, width, depth) in enumerate(zip(_STAGES, widths, depths, strict=True)):
            block = first_block if number == 0 else residual_block
            finer = [
                nn.Sequential(*(residual_block(maps[i], maps[i], kernels[i]) for _ in range(depth)))
                for i in range(stage.branch)
            ]
            blocks = [block(maps[-1], width, stage.kernel, stage.stride)]
            blocks += [block(width, width, stage.kernel) for _ in range(depth - 1)]
            maps = [*maps[: stage.branch], width]
            kernels[stage.branch] = stage.kernel
            self.append(HighResolutionStage([*finer, nn.Sequential(*blocks)], stage.grows, maps))
        self.widths = tuple(maps)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised images to three maps (B, C, h, w), finest first."""
        stem, stages = list(self)[:3], list(self)[3:]
        for layer in stem:
            x = layer(x)
        maps = [x]
        for stage in stages:
            maps = stage(maps)
        return maps
