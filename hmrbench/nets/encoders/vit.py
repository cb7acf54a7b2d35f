"""Vision Transformer in the flavour of ViTPose, which HMR2.0 inherits.

Paper: Xu et al., "ViTPose: Simple Vision Transformer Baselines for Human Pose Estimation", NeurIPS 2022.
Origin: ViTAE-Transformer/ViTPose (Apache-2.0), `mmpose/models/backbones/vit.py`, and its copy in
shubham-goel/4D-Humans (MIT).

It differs from the usual ViT in three ways: the 16x16 patches are cut with a padding of 2; there is no class
token, but its position embedding, entry 0, is added to every patch; S has 12 heads.
"""

from __future__ import annotations

import re
from collections import OrderedDict

import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from hmrbench.errors import UsageError
from hmrbench.nets.encoders.record import Encoder, Family
from hmrbench.nets.record import Depth, State, WeightsLayout

PATCH = 16  # pixels
MAX_PATCHES = 1 << 16  # 4096 x 4096 pixels; each has a position embedding, which takes memory before anything else does


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to the same shape."""
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # (B, heads, N, d)
        x = F.scaled_dot_product_attention(q, k, v)
        y: Tensor = self.proj(x.transpose(1, 2).reshape(b, n, c))
        return y


class Block(nn.Module):
    """Pre-norm attention and MLP."""

    def __init__(self, width: int, num_heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, 4 * width)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


class ViT(nn.Module):
    """Plain vision transformer with one feature map of stride 16.

    Args:
        width: channels of a token.
        depth: number of blocks.
        num_heads: attention heads of a block.
        image_size: (height, width) of the input in pixels, multiples of 16. The position embedding belongs to
            it, so no other size is accepted.
        drop_path: stochastic depth rate of the last block, growing linearly from 0 at the first.

    Raises:
        UsageError: `image_size` is not made of multiples of 16, or makes more than `MAX_PATCHES` patches.
    """

    strides = (PATCH,)

    def __init__(
        self,
        width: int,
        depth: int,
        num_heads: int,
        image_size: tuple[int, int] = (256, 192),
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if len(image_size) != 2 or any(not isinstance(n, int) or n < PATCH or n % PATCH for n in image_size):
            raise UsageError(
                f"a ViT needs an image size (height, width) in multiples of {PATCH}, not {image_size!r:.60}"
            )
        self.widths = (width,)
        self.image_size = (image_size[0], image_size[1])
        patches = (image_size[0] // PATCH) * (image_size[1] // PATCH)
        if patches > MAX_PATCHES:
            raise UsageError(
                f"a ViT for images of {image_size!r:.60} has {patches:,} patches; {MAX_PATCHES:,} is the bound"
            )
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, width, PATCH, stride=PATCH, padding=2)))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + patches, width))
        self.blocks = nn.ModuleList(Block(width, num_heads, drop_path * i / max(depth - 1, 1)) for i in range(depth))
        self.last_norm = nn.LayerNorm(width, eps=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.apply(_init_linear)

    def forward(self, x: Tensor) -> Tensor:
        """Features after the last norm.

        Args:
            x: (B, 3, H, W) normalised images of `image_size`.

        Returns:
            (B, C, H/16, W/16) features.

        Raises:
            UsageError: the images have another size.
        """
        size = (int(x.shape[-2]), int(x.shape[-1]))
        if size != self.image_size:
            expected, got = ("x".join(map(str, s)) for s in (self.image_size, size))
            raise UsageError(f"this ViT was built for images of {expected} (height x width), not {got}")
        x = self.patch_embed(x)  # (B, C, h, w)
        b, c, h, w = x.shape
        x = x.flatten(2).transpose(1, 2)  # (B, h*w, C)
        x = x + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        for block in self.blocks:
            x = block(x)
        x = self.last_norm(x)
        return x.transpose(1, 2).reshape(b, c, h, w)


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def _one_stage(stages: int) -> None:
    if stages != 4:
        raise UsageError(f"a ViT has one resolution and cannot be cut: stages must be 4, not {stages}")


def vit_s(stages: int = 4, drop_path: float = 0.0, image_size: tuple[int, int] = (256, 192)) -> ViT:
    """ViT-S: width 384, 12 blocks of 12 heads."""
    _one_stage(stages)
    return ViT(384, 12, 12, image_size, drop_path)


def vit_b(stages: int = 4, drop_path: float = 0.0, image_size: tuple[int, int] = (256, 192)) -> ViT:
    """ViT-B: width 768, 12 blocks of 12 heads."""
    _one_stage(stages)
    return ViT(768, 12, 12, image_size, drop_path)


def vit_l(stages: int = 4, drop_path: float = 0.0, image_size: tuple[int, int] = (256, 192)) -> ViT:
    """ViT-L: width 1024, 24 blocks of 16 heads."""
    _one_stage(stages)
    return ViT(1024, 24, 16, image_size, drop_path)


def vit_h(stages: int = 4, drop_path: float = 0.0, image_size: tuple[int, int] = (256, 192)) -> ViT:
    """ViT-H: width 1280, 32 blocks of 16 heads."""
    _one_stage(stages)
    return ViT(1280, 32, 16, image_size, drop_path)


def from_mmpretrain(state: State) -> State:
    """mmpretrain's VisionTransformer (mmpose 1.x) -> ViTPose's names.

    It has no class position: entry 0 of ours, which is added to every patch, becomes zero.
    """
    names = (
        (r"^patch_embed\.projection\.", "patch_embed.proj."),
        (r"^ln1\.", "last_norm."),
        (r"^layers\.(\d+)\.ln(\d)\.", r"blocks.\1.norm\2."),
        (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
        (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
        (r"^layers\.(\d+)\.", r"blocks.\1."),
    )
    out: State = {}
    for key, value in state.items():
        for pattern, new in names:
            key, hits = re.subn(pattern, new, key)
            if hits:
                break
        out[key] = value
    pos = out["pos_embed"]
    if pos.shape[1] % 2 == 0:  # 16 x 12 patches without a class position
        out["pos_embed"] = torch.cat([torch.zeros_like(pos[:, :1]), pos], dim=1)
    return out


_MARKS, _NORM = (r"blocks\.0\.attn\.qkv", r"pos_embed"), r"last_norm\."
_OF_MAE = r"cls_token|mask_token|decoder_|norm\.|fc_norm\.|head\."
FAMILY = Family(
    "vit",
    "ViT",
    ("#CC79A7", "#CC79A7"),
    layouts=(
        WeightsLayout("mmpretrain-vit", (r"layers\.0\.ln1\.", r"pos_embed"), from_mmpretrain, r"cls_token|head\."),
        WeightsLayout("mae", (r"cls_token", *_MARKS), classifier=_OF_MAE, optional=_NORM),
        WeightsLayout("vit", _MARKS, classifier=r"head\.", optional=_NORM),
    ),
    depth=Depth(block=r"blocks\.(?P<block>\d+)\.", first=r"patch_embed\.|pos_embed$", not_decayed=r"pos_embed"),
)
ENCODERS = (
    Encoder("vit-s", vit_s, FAMILY),
    Encoder("vit-b", vit_b, FAMILY),
    Encoder("vit-l", vit_l, FAMILY),
    Encoder("vit-h", vit_h, FAMILY),
)
