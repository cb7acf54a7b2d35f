"""The pre-norm encoder-decoder transformer of FastMETRO, with a camera token in the encoder.

Paper: Cho et al., "Cross-Attention of Disentangled Modalities for 3D Human Mesh Recovery with Transformers",
ECCV 2022; the layers are those of DETR (Carion et al., ECCV 2020).
Origin: postech-ami/FastMETRO (MIT), `src/modeling/model/transformer.py` and `position_encoding.py`. Key names as there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def sine_positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Sine position encoding of a grid, in rows: (height * width, channels) float32.

    Positions run from just above 0 to 2 pi; the first half of the channels encodes y, the second x.
    """
    half = channels // 2
    pair = torch.arange(half, dtype=torch.float32, device=device) // 2
    period = 10000.0 ** (2 * pair / half)

    def encode(length: int) -> Tensor:
        position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
        angle = (position / (length + 1e-6) * (2 * math.pi))[:, None] / period  # (length, half)
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)

    y, x = encode(height), encode(width)
    grid = torch.cat((y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)), dim=2)
    return grid.flatten(0, 1)


class Attention(nn.MultiheadAttention):
    """Multi-head attention with the parameters of nn.MultiheadAttention, by one fused operator on every path."""

    def forward(  # type: ignore[override]
        self, query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None = None
    ) -> Tensor:
        """(B, N, C), (B, M, C), (B, M, C) to (B, N, C); `seen` (N, M) is True where a query may look."""
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        out: Tensor = self.out_proj(y.transpose(1, 2).flatten(2))
        return out


class EncoderLayer(nn.Module):
    """Self-attention, whose queries and keys know their position, and MLP."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.self_attn(y + positions, y + positions, y)
        out: Tensor = x + self.linear2(F.relu(self.linear1(self.norm2(x))))
        return out


class DecoderLayer(nn.Module):
    """Self-attention, attention to the memory, whose keys alone know their position, and MLP."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn, self.multihead_attn = Attention(width, heads), Attention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, memory: Tensor, positions: Tensor, seen: Tensor | None) -> Tensor:
        y = self.norm1(x)
        x = x + self.self_attn(y, y, y, seen)
        x = x + self.multihead_attn(self.norm2(x), memory + positions, memory)
        out: Tensor = x + self.linear2(F.relu(self.linear1(self.norm3(x))))
        return out


class Stack(nn.Module):
    """Layers, then a LayerNorm."""

    def __init__(self, layers: list[nn.Module], width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, *context: Tensor | None) -> Tensor:
        for layer in self.layers:
            x = layer(x, *context)
        out: Tensor = self.norm(x)
        return out


class EncoderDecoder(nn.Module):
    """Image and camera tokens through the encoder, then queries through a decoder that sees the image tokens.

    Args:
        width: of all tokens.
        depth: layers of the encoder, and of the decoder.
        heads: attention heads.
        hidden: width within the MLPs; default four times `width`.
    """

    def __init__(self, width: int, depth: int, heads: int = 8, hidden: int | None = None) -> None:
        super().__init__()
        self.width = width
        hidden = hidden or 4 * width
        self.encoder = Stack([EncoderLayer(width, heads, hidden) for _ in range(depth)], width)
        self.decoder = Stack([DecoderLayer(width, heads, hidden) for _ in range(depth)], width)

    def forward(
        self, image: Tensor, camera: Tensor, queries: Tensor, grid: tuple[int, int], seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One pass.

        Args:
            image: (B, N, C) tokens of a grid, in rows.
            camera: (B, 1, C) token without a position.
            queries: (B, M, C) tokens of the decoder.
            grid: rows and columns of the image tokens, for their positions.
            seen: (M, M), True where a query may look at a query; default everywhere.

        Returns:
            Camera (B, 1, C), image (B, N, C) and queries (B, M, C), each after its final norm.
        """
        positions = sine_positions(*grid, self.width, image.device).to(image.dtype)
        tokens = torch.cat((camera, image), dim=1)
        encoded = self.encoder(tokens, F.pad(positions, (0, 0, 1, 0)))
        camera, image = encoded[:, :1], encoded[:, 1:]
        return camera, image, self.decoder(queries, image, positions, seen)
