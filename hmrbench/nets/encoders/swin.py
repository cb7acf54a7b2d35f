"""Swin Transformer, cut after any of its four stages.

Paper: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021.
Origin: microsoft/Swin-Transformer (MIT). Maps that the window does not divide: open-mmlab/mmpose,
`mmpose/models/backbones/swin.py` (Apache-2.0). Key names: huggingface/pytorch-image-models (Apache-2.0).

Implementations disagree at 256x192, where no stage's grid is a multiple of the window of 7. As in mmpose, a
map is zero-padded at the right and the bottom after `norm1` and *then* rolled; every second block shifts by
3, even where one window covers the map; padded tokens take part in the attention.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from timm.layers.patch_embed import PatchEmbed
from timm.models.swin_transformer import PatchMerging
from torch import Tensor, nn

from hmrbench.errors import UsageError
from hmrbench.nets.encoders.record import Encoder, Family
from hmrbench.nets.layers import free_to_cut
from hmrbench.nets.record import Depth, State, WeightsLayout

LAYOUTS_KEPT = 16  # grids whose window layout is remembered: four stages at four input sizes


class WindowLayout(NamedTuple):
    """What the blocks of a stage share; depends on the grid alone. N = window^2 tokens.

    The mask is for shifted blocks: -100 between tokens that only the roll made neighbours, else 0.
    """

    bias_index: Tensor  # (N * N,) rows of the relative position bias table
    mask: Tensor  # (windows, 1, N, N)


def window_layout(height: int, width: int, window: int, device: torch.device, dtype: torch.dtype) -> WindowLayout:
    """Relative position index and shifted-window mask of a padded grid.

    Args:
        height, width: grid in tokens, multiples of `window`.
        window: side of a window in tokens; shifted blocks roll the grid by `window // 2`.
    """
    side = torch.arange(window, device=device)
    y, x = side.repeat_interleave(window), side.repeat(window)  # (window^2,)
    dy, dx = y[:, None] - y[None, :] + window - 1, x[:, None] - x[None, :] + window - 1
    bias_index = (dy * (2 * window - 1) + dx).flatten()

    def region(length: int) -> Tensor:
        """0 for all windows but the last, 1 and 2 for the two parts that the roll joined in the last one."""
        position = torch.arange(length, device=device)
        return (position >= length - window).long() + (position >= length - window // 2).long()

    regions = 3 * region(height)[:, None] + region(width)[None, :]
    regions = partition(regions[None, :, :, None], window).squeeze(-1)  # (windows, window^2)
    apart = regions[:, None, :] != regions[:, :, None]
    mask = torch.zeros(apart.shape, device=device, dtype=dtype).masked_fill(apart, -100.0)
    return WindowLayout(bias_index, mask[:, None])


def partition(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) to windows in row-major order (B * H/window * W/window, window^2, C)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c).transpose(2, 3)
    return x.reshape(-1, window * window, c)


def unpartition(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """The inverse of `partition`: (B * windows, window^2, C) to (B, height, width, C)."""
    rows, columns, c = height // window, width // window, x.shape[-1]
    x = x.reshape(-1, rows, columns, window, window, c).transpose(2, 3)
    return x.reshape(-1, height, width, c)


@functools.lru_cache(maxsize=64)
def window_rows(batch: int, height: int, width: int, window: int, shift: int) -> tuple[Tensor, Tensor]:
    """Where the tokens of padded, rolled and partitioned maps come from, and where they are to be found.

    Returns:
        For every token of the windows its row in maps (B * H * W, C), B * H * W for a padded one; and for every row
        its token, (B * H * W,).
    """
    count = batch * height * width
    rows = torch.arange(count, device="cpu").view(batch, height, width, 1)
    rows = F.pad(rows, (0, 0, 0, -width % window, 0, -height % window), value=count)
    rows = partition(rows.roll((-shift, -shift), (1, 2)), window).flatten()
    tokens = rows.new_empty(count + 1).scatter_(0, rows, torch.arange(len(rows), device="cpu"))
    return rows, tokens[:count]


class WindowAttention(nn.Module):
    """Multi-head self-attention inside each window, with a learned bias per relative position and head."""

    def __init__(self, width: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, layout: WindowLayout, shifted: bool) -> Tensor:
        """(B * windows, window^2, C) to the same shape."""
        y: Tensor = self.proj(self.attend(self.qkv(x), layout, shifted))
        return y

    def on_rows(self, x: Tensor, rows: Tensor, tokens: Tensor, layout: WindowLayout, shifted: bool) -> Tensor:
        """(R, C), of which `window_rows` knows where they lie, to the same shape.

        The products leave out padded tokens: they are zeros, so their queries, keys and values are the bias.
        """
        qkv = x.new_empty(len(x) + 1, len(self.qkv.bias))
        torch.addmm(self.qkv.bias, x, self.qkv.weight.t(), out=qkv[:-1])
        qkv[-1] = self.qkv.bias
        n = math.isqrt(len(layout.bias_index))
        y = self.attend(qkv.index_select(0, rows).view(-1, n, qkv.shape[1]), layout, shifted)
        return F.linear(y.flatten(0, 1).index_select(0, tokens), self.proj.weight, self.proj.bias)

    def attend(self, qkv: Tensor, layout: WindowLayout, shifted: bool) -> Tensor:
        """(B * windows, window^2, 3C) to (B * windows, window^2, C)."""
        b, n, _ = qkv.shape
        q, k, v = qkv.reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)  # (b, heads, n, d)
        bias = self.relative_position_bias_table.t().index_select(1, layout.bias_index).view(-1, n, n)
        bias = (bias + layout.mask if shifted else bias[None]).to(q.dtype)  # (windows or 1, heads, n, n)
        if shifted and b > len(bias):
            bias = bias.repeat(b // len(bias), 1, 1, 1)  # images come before windows in the batch
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape(b, n, -1)


class SwinBlock(nn.Module):
    """Pre-norm window attention and MLP; a shifted block attends over windows moved by half a window."""

    fused = True

    def __init__(self, width: int, num_heads: int, window: int, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, num_heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, 4 * width)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def attend(self, x: Tensor, layout: WindowLayout) -> Tensor:
        b, h, w, c = x.shape
        shift = self.window // 2
        if self.fused and free_to_cut(x):
            rows, tokens = window_rows(b, h, w, self.window, shift if self.shifted else 0)
            return self.attn.on_rows(x.reshape(-1, c), rows, tokens, layout, self.shifted).view(x.shape)
        x = F.pad(x, (0, 0, 0, -w % self.window, 0, -h % self.window))  # (B, Hp, Wp, C)
        hp, wp = x.shape[1:3]
        if self.shifted:
            x = x.roll((-shift, -shift), (1, 2))
        x = self.attn(partition(x, self.window), layout, self.shifted)
        x = unpartition(x, self.window, hp, wp)
        if self.shifted:
            x = x.roll((shift, shift), (1, 2))
        return x[:, :h, :w]

    def forward(self, x: Tensor, layout: WindowLayout) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x = x + self.drop_path(self.attend(self.norm1(x), layout))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


class SwinStage(nn.Module):
    """Patch merging (not in the first stage), then blocks of which every second one is shifted."""

    def __init__(self, in_width: int, width: int, num_heads: int, window: int, drop_path: Sequence[float]) -> None:
        super().__init__()
        self.downsample = nn.Identity() if in_width == width else PatchMerging(in_width, width)
        self.blocks = nn.ModuleList(
            SwinBlock(width, num_heads, window, i % 2 == 1, rate) for i, rate in enumerate(drop_path)
        )

    def forward(self, x: Tensor, layout_of: Callable[[Tensor], WindowLayout]) -> Tensor:
        """(B, H, W, C) to the same shape in the first stage, to (B, H/2, W/2, 2C) in the others."""
        x = self.downsample(x)
        layout = layout_of(x)
        for block in self.blocks:
            x = block(x, layout)
        return x


class Swin(nn.Module):
    """Swin Transformer up to and including stage `stages`; any input size.

    Args:
        width: channels of stage 1; each stage doubles them.
        depths: blocks of all four stages, also of those that are not built.
        num_heads: attention heads of all four stages.
        stages: last stage that is built, 1 to 4.
        window: side of a window in tokens.
        drop_path: stochastic depth rate of the last block of stage 4; it grows linearly from 0 at the first
            block of stage 1, so a block has the same rate in every cut.

    Raises:
        UsageError: `stages` is not 1, 2, 3 or 4.
    """

    strides = (4, 8, 16, 32)

    def __init__(
        self,
        width: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        stages: int = 4,
        window: int = 7,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if stages not in (1, 2, 3, 4):
            raise UsageError(f"a Swin Transformer has stages 1 to 4, not {stages}")
        self.widths = (width, 2 * width, 4 * width, 8 * width)
        self.window = window
        self.patch_embed = PatchEmbed(
            img_size=None,
            patch_size=4,
            embed_dim=width,
            norm_layer=nn.LayerNorm,
            output_fmt="NHWC",
            strict_img_size=False,
            dynamic_img_pad=True,
        )
        blocks = sum(depths)
        rates = iter(drop_path * i / max(blocks - 1, 1) for i in range(blocks))
        self.layers = nn.ModuleList(
            SwinStage(
                self.widths[max(i - 1, 0)],
                self.widths[i],
                num_heads[i],
                window,
                [next(rates) for _ in range(depths[i])],
            )
            for i in range(stages)
        )
        self._layouts: dict[tuple[Any, ...], WindowLayout] = {}
        self.apply(_init_linear)

    def forward(self, x: Tensor) -> Tensor:
        """Raw output of the last built stage, before the norm or the merging that follows it.

        Args:
            x: (B, 3, H, W) normalised images.

        Returns:
            (B, C, h, w) features, h and w being H and W over the stage's stride, rounded up.
        """
        x = self.patch_embed(x)  # (B, H/4, W/4, C)
        for stage in self.layers:
            x = stage(x, self._layout)
        return x.permute(0, 3, 1, 2)  # (B, C, h, w)

    def _layout(self, x: Tensor) -> WindowLayout:
        """The window layout of a map (B, H, W, C), remembered per padded size, device and dtype."""
        height, width = (int(side) + -int(side) % self.window for side in x.shape[1:3])
        dtype = self.patch_embed.proj.weight.dtype
        grid = (height, width, self.window, x.device, dtype)
        # Tensors made under a compiler or by a tensor subclass (FakeTensor) must not outlive that.
        if torch.compiler.is_compiling() or type(x) is not Tensor:
            return window_layout(*grid)
        if grid not in self._layouts:
            if len(self._layouts) >= LAYOUTS_KEPT:
                self._layouts.pop(next(iter(self._layouts)))
            with torch.inference_mode(False):  # else a training step after an evaluation could not use it
                self._layouts[grid] = window_layout(*grid)
        return self._layouts[grid]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_layouts": {}}  # copies and pickles compute their own


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def swin_t(stages: int = 4, drop_path: float = 0.0) -> Swin:
    """Swin-T: widths 96 to 768, 2-2-6-2 blocks."""
    return Swin(96, (2, 2, 6, 2), (3, 6, 12, 24), stages, drop_path=drop_path)


def swin_s(stages: int = 4, drop_path: float = 0.0) -> Swin:
    """Swin-S: widths 96 to 768, 2-2-18-2 blocks."""
    return Swin(96, (2, 2, 18, 2), (3, 6, 12, 24), stages, drop_path=drop_path)


def swin_b(stages: int = 4, drop_path: float = 0.0) -> Swin:
    """Swin-B: widths 128 to 1024, 2-2-18-2 blocks."""
    return Swin(128, (2, 2, 18, 2), (4, 8, 16, 32), stages, drop_path=drop_path)


def _from_microsoft(state: State) -> State:
    """Microsoft puts a stage's downsample at its end, timm at the start of the next one."""
    return {
        re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", k): v
        for k, v in state.items()
    }


_MARK, _CLASSIFIER = r"patch_embed\.proj\.", r"(norm|head)\."
FAMILY = Family(
    "swin",
    "Swin",
    ("#0072B2", "#56B4E9"),
    output_norm=True,
    layouts=(
        WeightsLayout("swin-microsoft", (r"layers\.0\.downsample\.reduction", _MARK), _from_microsoft, _CLASSIFIER),
        WeightsLayout("swin-timm", (r"layers\.1\.downsample\.reduction", _MARK), classifier=_CLASSIFIER),
    ),
    depth=Depth(
        block=r"layers\.(?P<stage>\d+)\.blocks\.(?P<block>\d+)\.",
        first=r"patch_embed\.",
        into=r"layers\.(?P<stage>\d+)\.downsample\.",
        not_decayed=r".*relative_position_bias_table",
    ),
)
ENCODERS = (
    Encoder("swin-t", swin_t, FAMILY),
    Encoder("swin-s", swin_s, FAMILY),
    Encoder("swin-b", swin_b, FAMILY),
)
