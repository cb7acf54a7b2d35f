"""Pyramid Vision Transformer, versions 1 and 2: four stages whose attention reads a map of fewer positions.

Papers: Wang et al., "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions",
ICCV 2021; "PVT v2: Improved Baselines with Pyramid Vision Transformer", Computational Visual Media 2022.
Origin: open-mmlab/mmpose, `mmpose/models/backbones/pvt.py` (Apache-2.0); key names are its: queries, keys and values
in one table, and 1x1 convolutions for linear layers. No class token; every LayerNorm has eps 1e-6. Files of ImageNet
have the keys of whai362/PVT (Apache-2.0), `classification/pvt.py` and `pvt_v2.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmrbench.nets.record import Renames, State, WeightsLayout

EPS = 1e-6
GRIDS = (56, 28, 14, 7)  # sides of the position embeddings of version 1, made for images of 224 pixels


def to_tokens(x: Tensor) -> Tensor:
    """(B, C, h, w) to (B, h * w, C)."""
    return x.flatten(2).transpose(1, 2)


def to_map(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h * w, C) to (B, C, h, w)."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *size)


class PatchEmbed(nn.Module):
    """A strided convolution, with LayerNorm over channels."""

    def __init__(self, inputs: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        padding = kernel // 2 if kernel > stride else 0
        self.projection = nn.Conv2d(inputs, channels, kernel, stride, padding)
        self.norm = nn.LayerNorm(channels, eps=EPS)

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B, C, H, W) to tokens (B, h * w, C') and (h, w)."""
        x = self.projection(x)
        size = (int(x.shape[2]), int(x.shape[3]))
        return self.norm(to_tokens(x)), size


class PositionEmbed(nn.Module):
    """A learned position embedding of a square grid, resized to the map's."""

    def __init__(self, side: int, channels: int) -> None:
        super().__init__()
        self.side = side
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side, channels))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, h * w, C) tokens of a map of `size` (h, w) to the same shape."""
        grid = to_map(self.pos_embed, (self.side, self.side))
        return x + to_tokens(F.interpolate(grid, size=size, mode="bilinear", align_corners=False))


class ReducedAttention(nn.Module):
    """Self-attention with keys and values from a map that a strided convolution made smaller."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.reduction = reduction
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, stride=reduction)
            self.norm = nn.LayerNorm(channels, eps=EPS)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, h * w, C) tokens of a map of `size` (h, w) to the same shape."""
        read = self.norm(to_tokens(self.sr(to_map(x, size)))) if self.reduction > 1 else x
        y: Tensor = self.attn(x, read, read, need_weights=False)[0]
        return y


class FeedForward(nn.Module):
    """Two 1x1 convolutions; in version 2 with a depthwise one before the activation.

    They are linear layers: as such a CPU computes a batch in one product, 3 to 12 % of a network sooner.
    """

    fused = True

    def __init__(self, channels: int, inner: int, depthwise: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, inner, 1)]
        if depthwise:
            layers.append(nn.Conv2d(inner, inner, 3, padding=1, groups=inner))
        # The place behind the activation is dropout's, of rate 0; the keys count it.
        layers += [nn.GELU(), nn.Identity(), nn.Conv2d(inner, channels, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, h * w, C) tokens of a map of `size` (h, w) to the same shape."""
        if not (self.fused and x.is_cpu and len(x) > 1):
            return to_tokens(self.layers(to_map(x, size)))
        layers: list[Any] = list(self.layers)
        first, *depthwise, act, _, last = layers
        x = F.linear(x, first.weight.flatten(1), first.bias)
        for conv in depthwise:
            x = to_tokens(conv(to_map(x, size)))
        return F.linear(act(x), last.weight.flatten(1), last.bias)


class Block(nn.Module):
    """Pre-norm attention and feed-forward network."""

    def __init__(self, channels: int, heads: int, inner: int, reduction: int, depthwise: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=EPS)
        self.attn = ReducedAttention(channels, heads, reduction)
        self.norm2 = nn.LayerNorm(channels, eps=EPS)
        self.ffn = FeedForward(channels, inner, depthwise)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, h * w, C) tokens of a map of `size` (h, w) to the same shape."""
        x = x + self.attn(self.norm1(x), size)
        x = x + self.ffn(self.norm2(x), size)
        return x


class PVT(nn.Module):
    """Four stages of stride 4 to 32.

    Args:
        depths: blocks of each stage.
        version: 1 cuts patches that do not overlap and adds position embeddings; 2 has overlapping patches, depthwise
            convolutions instead of the embeddings, and a LayerNorm behind each stage.
        widths, heads, expansions, reductions: channels, attention heads, inner channels of the feed-forward network
            over `widths`, and side of what becomes one key, of each stage.
    """

    strides = (4, 8, 16, 32)

    def __init__(
        self,
        depths: Sequence[int],
        version: int,
        widths: Sequence[int] = (64, 128, 320, 512),
        heads: Sequence[int] = (1, 2, 5, 8),
        expansions: Sequence[int] = (8, 8, 4, 4),
        reductions: Sequence[int] = (8, 4, 2, 1),
    ) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.layers = nn.ModuleList()
        for i, channels in enumerate(widths):
            inputs, stride = (widths[i - 1], 2) if i else (3, 4)
            kernel = stride if version == 1 else 2 * stride - 1
            blocks: list[nn.Module] = [
                Block(channels, heads[i], expansions[i] * channels, reductions[i], version == 2)
                for _ in range(depths[i])
            ]
            if version == 1:
                blocks.insert(0, PositionEmbed(GRIDS[i], channels))
            norm = nn.LayerNorm(channels, eps=EPS) if version == 2 else nn.Identity()
            patches = PatchEmbed(inputs, channels, kernel, stride)
            self.layers.append(nn.ModuleList([patches, nn.ModuleList(blocks), norm]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to (B, C, H/32, W/32) features."""
        stage: Any
        for stage in self.layers:
            patches, blocks, norm = stage
            tokens, size = patches(x)
            for block in blocks:
                tokens = block(tokens, size)
            x = to_map(norm(tokens), size)
        return x


_PLACES = {"patch_embed": "0", "pos_embed": "1.0.pos_embed", "norm": "2"}  # in a stage


def from_imagenet(state: State) -> State:
    """Weights of whai362/PVT by our keys: queries above keys and values, linear layers as 1x1 convolutions."""
    # Version 1 has the position embedding before the blocks, 2 the depthwise convolution inside them.
    before, last = (1, 3) if "pos_embed1" in state else (0, 4)
    renames: Renames = (
        (r"^(patch_embed|pos_embed|norm)([1-4])", lambda m: f"layers.{int(m[2]) - 1}.{_PLACES[m[1]]}"),
        (r"^block([1-4])\.(\d+)\.", lambda m: f"layers.{int(m[1]) - 1}.1.{int(m[2]) + before}."),
        (r"^(layers\.\d\.0)\.proj\.", r"\1.projection."),
        (r"\.attn\.q\.", ".attn.attn.in_proj_"),
        (r"\.attn\.proj\.", ".attn.attn.out_proj."),
        (r"\.mlp\.(fc1|dwconv\.dwconv|fc2)\.", lambda m: f".ffn.layers.{ {'fc1': 0, 'fc2': last}.get(m[1], 1) }."),
    )
    out: State = {}
    for key, value in state.items():
        ours = key
        for pattern, replacement in renames:
            ours = re.sub(pattern, replacement, ours)
        if ".attn.kv." in key:
            continue
        beside = state.get(key.replace(".attn.q.", ".attn.kv.")) if ".attn.q." in key else None
        if beside is not None and beside.shape[1:] == value.shape[1:]:
            value = torch.cat([value, beside])
        elif re.search(r"\.mlp\.fc[12]\.weight$", key):
            value = value[..., None, None]
        elif key == "pos_embed4" and value.shape[1:2] == (GRIDS[3] ** 2 + 1,):
            value = value[:, 1:]  # the class token's comes first
        out[ours] = value
    return out


IMAGENET = WeightsLayout("pvt", (r"patch_embed1\.proj\.", r"block1\.0\."), from_imagenet, r"(head|norm)\.|cls_token$")
