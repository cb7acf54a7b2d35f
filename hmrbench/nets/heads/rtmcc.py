"""RTMPose's head: SimCC after one gated attention unit between the keypoints.

Papers: Jiang et al., "RTMPose: Real-Time Multi-Person Pose Estimation based on MMPose", arXiv 2303.07399;
Hua et al., "Transformer Quality in Linear Time", ICML 2022.
Origin: open-mmlab/mmpose (Apache-2.0), `rtmcc_head.py` and `rtmcc_block.py`; key names are theirs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmrbench.nets.record import HeadKind


class ScaleNorm(nn.Module):
    """x over its length, times the root of its dimension and one learned factor."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = dim**-0.5
        self.g = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to the same shape."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True) * self.scale
        y: Tensor = x / length.clamp(min=1e-5) * self.g
        return y


class Scale(nn.Module):
    """A learned factor for each channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to the same shape."""
        return x * self.scale


class GatedAttention(nn.Module):
    """Attention with squared ReLU for softmax, gated by its input; no position bias.

    Args:
        dim: channels of a token.
        key_dim: channels of queries and keys, which are scaled and shifted copies of one another.
        expansion: channels of values and gates over `dim`.
    """

    def __init__(self, dim: int = 256, key_dim: int = 128, expansion: int = 2) -> None:
        super().__init__()
        inner = expansion * dim
        self.sizes = [inner, inner, key_dim]
        self.gamma = nn.Parameter(torch.rand(2, key_dim))
        self.beta = nn.Parameter(torch.rand(2, key_dim))
        self.o = nn.Linear(inner, dim, bias=False)
        self.uv = nn.Linear(dim, sum(self.sizes), bias=False)
        self.ln = ScaleNorm(dim)
        self.res_scale = Scale(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) to the same shape."""
        u, v, base = torch.split(F.silu(self.uv(self.ln(x))), self.sizes, dim=-1)
        q, k = (base.unsqueeze(2) * self.gamma + self.beta).unbind(2)  # (B, N, key_dim)
        weights = F.relu(q @ k.transpose(1, 2) / self.sizes[2] ** 0.5).square()  # (B, N, N)
        y: Tensor = self.res_scale(x) + self.o(u * (weights @ v))
        return y


class RTMCCHead(nn.Module):
    """A 7x7 convolution to one map per keypoint, a token of each, attention, then a linear layer for each axis.

    Args:
        in_channels: channels of the features, which have stride 32.
        input_size: (height, width) of the network's input in pixels.
        split: bins per pixel.
        num_keypoints: number of tokens.
    """

    def __init__(
        self, in_channels: int, input_size: tuple[int, int], split: float = 2.0, num_keypoints: int = 17
    ) -> None:
        super().__init__()
        height, width = input_size
        cells = (height // 32) * (width // 32)
        self.final_layer = nn.Conv2d(in_channels, num_keypoints, 7, padding=3)
        self.mlp = nn.Sequential(ScaleNorm(cells), nn.Linear(cells, 256, bias=False))
        self.gau = GatedAttention()
        self.cls_x = nn.Linear(256, int(width * split), bias=False)
        self.cls_y = nn.Linear(256, int(height * split), bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) features to scores (B, K, W * split) of x and (B, K, H * split) of y."""
        tokens = self.gau(self.mlp(self.final_layer(x).flatten(2)))  # (B, K, 256)
        return self.cls_x(tokens), self.cls_y(tokens)


def _build(channels: int, input_size: tuple[int, int], *, split: float, **_: Any) -> RTMCCHead:
    return RTMCCHead(channels, input_size, split)


HEADS = (HeadKind("rtmcc", _build, bins=True),)
