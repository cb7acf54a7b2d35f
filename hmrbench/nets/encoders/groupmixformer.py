"""GroupMixFormer encoder in sizes T, S and B, whole or cut after stage 1, 2 or 3.

Paper: Ge et al., "Advancing Vision Transformers with Group-Mix Attention", 2023, arXiv 2311.15157.
Origin of sizes and key names: github.com/AILab-CVC/GroupMixFormer (3d3f409), MIT licence. Its checkpoints
load without renaming once `norm4`, `head` and the stages that are not built are left out.

Maps are (B, H, W, C): fastest for depthwise convolutions, free for LayerNorm and linear layers. In float32 on
a CPU, linear layers run as convolutions and BatchNorm goes into the weights: only the rounding changes, and
`nets.fusion.fuse(net, False)` turns it off.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from hmrbench.errors import UsageError
from hmrbench.nets.encoders.record import Encoder, Family
from hmrbench.nets.layers import on_cpu_in_float32, onednn_conv2d
from hmrbench.nets.record import Depth, WeightsLayout

HEADS = 8  # fixed by the position convolutions: windows of 3, 5 and 7 pixels for 2, 3 and 3 heads
CONV_ROWS, CONV_MACS = 16, 4e6  # below either, a 1x1 convolution loses against the matrix product


def _on_nchw(module: nn.Module, x: Tensor) -> Tensor:
    """`module`, which wants (B, C, H, W), on a map (B, H, W, C); no data move."""
    y: Tensor = module(x.permute(0, 3, 1, 2))
    return y.permute(0, 2, 3, 1)


def _hardswish(x: Tensor) -> Tensor:
    return F.hardswish(x, inplace=not torch.is_grad_enabled())


def _conv_norm_act(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor, fused: bool) -> Tensor:
    """(B, H, W, C) to (B, h, w, D); in evaluation the norm goes into the weights, if `fused`."""
    mean, var, x = norm.running_mean, norm.running_var, x.permute(0, 3, 1, 2)
    if norm.training or mean is None or var is None or not (fused and on_cpu_in_float32(x)):
        x = norm(conv(x))
    else:
        scale = norm.weight * torch.rsqrt(var + norm.eps)
        shift = torch.addcmul(norm.bias, mean if conv.bias is None else mean - conv.bias, scale, value=-1)
        x = F.conv2d(x, conv.weight * scale[:, None, None, None], shift, conv.stride, conv.padding)
    return _hardswish(x.permute(0, 2, 3, 1))


class _Linear(nn.Linear):
    """(B, H, W, C) to (B, H, W, D); oneDNN's convolution is twice as fast as some CPUs' BLAS."""

    fused = True

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        large = B * H >= CONV_ROWS and x.numel() * self.out_features >= CONV_MACS
        if not (self.fused and large and on_cpu_in_float32(x)):
            return F.linear(x, self.weight, self.bias)
        y = onednn_conv2d(x.permute(0, 3, 1, 2), self.weight, self.bias)
        if y is None:  # image rows are the batch: on one thread PyTorch keeps smaller batches than 16 from oneDNN
            rows = x.reshape(B * H, 1, W, C).permute(0, 3, 1, 2)
            y = F.conv2d(rows, self.weight[:, :, None, None], self.bias)  # (B * H, D, 1, W)
        return y.permute(0, 2, 3, 1).reshape(B, H, W, -1)


class _Gelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:  # the function has no inplace
        return F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)


class _Stem(nn.Module):
    fused = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj1 = nn.Conv2d(3, dim // 2, 3, stride=2, padding=1)
        self.norm1 = nn.BatchNorm2d(dim // 2)
        self.proj2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm2 = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        x = _conv_norm_act(self.proj1, self.norm1, x, self.fused)
        return _conv_norm_act(self.proj2, self.norm2, x, self.fused)  # (B, H/4, W/4, C)


class _Separable(nn.Module):
    """Depthwise and pointwise convolution; if a norm is given, then that and Hardswish."""

    fused = True

    def __init__(self, in_dim: int, out_dim: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_dim, in_dim, kernel, stride, kernel // 2, groups=in_dim, bias=False)
        self.pointwise_conv = nn.Conv2d(in_dim, out_dim, 1, bias=False)

    def forward(self, x: Tensor, norm: nn.BatchNorm2d | None = None) -> Tensor:
        x = _on_nchw(self.conv1, x)
        conv = self.pointwise_conv
        return _on_nchw(conv, x) if norm is None else _conv_norm_act(conv, norm, x, self.fused)


class _PatchEmbed(nn.Module):
    def __init__(self, in_dim: int, dim: int, stride: int) -> None:
        super().__init__()
        self.proj = _Separable(in_dim, dim, 3, stride)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x, self.norm)
        return x


class _Aggregator(nn.Module):
    """Group proxies: five segments of the channels see windows of 1, 3, 5, 7 and (local branch) 3 pixels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm0 = nn.BatchNorm2d(dim)
        self.agg1 = _Separable(dim, dim, 3)
        self.norm1 = nn.BatchNorm2d(dim)
        self.agg2 = _Separable(dim, dim, 5)
        self.norm2 = nn.BatchNorm2d(dim)
        self.agg3 = _Separable(dim, dim, 7)
        self.norm3 = nn.BatchNorm2d(dim)
        local = OrderedDict(conv=_Separable(3 * dim, dim, 3), norm=nn.LayerNorm(dim, eps=1e-5))
        self.agg0 = nn.Sequential(local)

    def forward(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, 15S) to the stack of q, k and v (3, B, H, W, 4S) and the local branch (B, H, W, S)."""
        B, H, W, C = qkv.shape
        segments = qkv.view(B, H, W, 3, 5, C // 15).unbind(4)  # 5 x (B, H, W, 3, S)
        local = _hardswish(self.agg0(segments[4].flatten(3)))
        # q, k and v share the weights: they pass as one batch of 3B
        x0, x1, x2, x3 = (s.permute(3, 0, 1, 2, 4).contiguous().flatten(0, 1) for s in segments[:4])
        x0 = _hardswish(_on_nchw(self.norm0, x0))
        x1, x2, x3 = self.agg1(x1, self.norm1), self.agg2(x2, self.norm2), self.agg3(x3, self.norm3)
        return torch.cat((x0, x1, x2, x3), dim=3).view(3, B, H, W, -1), local


class _GroupMixAttention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = (dim // HEADS) ** -0.5  # of the full width, although only four fifths are attended
        self.qkv = _Linear(dim, 3 * dim)
        self.proj = _Linear(dim, dim)
        self.aggregator = _Aggregator(dim // 5)
        sizes = ((dim // 5, 3), (dim // 10 * 3, 5), (dim // 10 * 3, 7))
        convs = nn.ModuleList(nn.Conv2d(n, n, k, padding=k // 2, groups=n) for n, k in sizes)
        self.crpe = nn.ModuleDict({"conv_list": convs})

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        D = C // 10  # per head, 8 of 10
        (q, k, v), local = self.aggregator(self.qkv(x))
        # k is normalised over the tokens, so k'v may come first and no (N, N) matrix arises
        heads = (t.view(B, H * W, HEADS, D) for t in (q, k.flatten(1, 2).softmax(dim=1), v))
        qh, kh, vh = (t.transpose(1, 2).flatten(0, 1) for t in heads)  # (B * 8, N, D)
        y = (qh @ (kh.transpose(1, 2) @ vh * self.scale)).view(B, HEADS, H * W, D).transpose(1, 2)
        y = torch.cat((y, local.view(B, H * W, 2, D)), dim=2).view(B, H, W, C)

        # relative positions: q * conv(v) on top of the attended four fifths
        parts = (slice(0, 2 * D), slice(2 * D, 5 * D), slice(5 * D, 8 * D))
        for conv, part in zip(self.crpe["conv_list"].children(), parts, strict=True):
            y[..., part].addcmul_(q[..., part], _on_nchw(conv, v[..., part]))
        x = self.proj(y)
        return x


class _Block(nn.Module):
    def __init__(self, dim: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.cpe = nn.Sequential(OrderedDict(proj=nn.Conv2d(dim, dim, 3, padding=1, groups=dim)))
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.att = _GroupMixAttention(dim)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(OrderedDict(fc1=_Linear(dim, hidden), act=_Gelu(), fc2=_Linear(hidden, dim)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + _on_nchw(self.cpe, x)
        x = x + self.drop_path(self.att(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


class GroupMixFormer(nn.Module):
    """The first `stages` of four stages, no norm after the last; UsageError on sizes that cannot be.

    Args:
        widths, depths: channels (multiples of 10) and blocks of the four stages.
        mlp_ratios: hidden width of the MLPs over `widths`.
        num_heads: 8; the architecture is defined for no other number.
        stages: how many stages are built, 1 to 4.
        drop_path: rate at the end of stage 4, built or not; it rises linearly from 0 at the first block.
    """

    strides = (4, 8, 16, 32)

    def __init__(
        self,
        widths: tuple[int, int, int, int],
        depths: tuple[int, int, int, int],
        mlp_ratios: tuple[float, float, float, float],
        num_heads: int = 8,
        stages: int = 4,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if stages not in (1, 2, 3, 4) or num_heads != HEADS or any(width % 10 for width in widths):
            raise UsageError(f"no GroupMixFormer has {stages} stages, {num_heads} heads and widths {widths}")
        self.widths, self.stages = widths, stages
        self.conv_stem = _Stem(widths[0])
        self.patch_embed_layers = nn.ModuleList()
        self.groupmixformer_backbone = nn.ModuleList()
        rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        for i in range(stages):
            self.patch_embed_layers.append(_PatchEmbed(widths[max(i - 1, 0)], widths[i], 2 if i else 1))
            blocks = (_Block(widths[i], mlp_ratios[i], next(rates)) for _ in range(depths[i]))
            self.groupmixformer_backbone.append(nn.Sequential(OrderedDict(gma_stage=nn.Sequential(*blocks))))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, C, H / stride, W / stride); UsageError unless the stride divides H and W."""
        H, W = x.shape[2:]
        stride = self.strides[self.stages - 1]
        if H % stride or W % stride:
            raise UsageError(f"GroupMixFormer, {self.stages} stages: {H}x{W} are not multiples of {stride}")
        x = self.conv_stem(x)
        for embed, stage in zip(self.patch_embed_layers, self.groupmixformer_backbone, strict=True):
            x = stage(embed(x))
        return x.permute(0, 3, 1, 2)


def gmf_t(stages: int = 4, drop_path: float = 0.0) -> GroupMixFormer:
    """GroupMixFormer-T, 10.7 M parameters."""
    return GroupMixFormer((80, 160, 200, 240), (4, 4, 12, 4), (4, 4, 4, 4), HEADS, stages, drop_path)


def gmf_s(stages: int = 4, drop_path: float = 0.0) -> GroupMixFormer:
    """GroupMixFormer-S, 22.1 M parameters."""
    return GroupMixFormer((80, 160, 320, 320), (2, 4, 12, 4), (4, 4, 4, 4), HEADS, stages, drop_path)


def gmf_b(stages: int = 4, drop_path: float = 0.0) -> GroupMixFormer:
    """GroupMixFormer-B, 45.3 M parameters."""
    return GroupMixFormer((200, 240, 320, 480), (8, 8, 12, 8), (2, 2, 4, 4), HEADS, stages, drop_path)


FAMILY = Family(
    "gmf",
    "GroupMixFormer",
    ("#D55E00", "#F0703A"),
    layouts=(
        WeightsLayout("groupmixformer", (r"conv_stem\.", r"groupmixformer_backbone\."), classifier=r"(norm4|head)\."),
    ),
    depth=Depth(
        block=r"groupmixformer_backbone\.(?P<stage>\d+)\.gma_stage\.(?P<block>\d+)\.",
        first=r"conv_stem\.",
        into=r"patch_embed_layers\.(?P<stage>\d+)\.",
    ),
)
ENCODERS = (
    Encoder("gmf-t", gmf_t, FAMILY),
    Encoder("gmf-s", gmf_s, FAMILY),
    Encoder("gmf-b", gmf_b, FAMILY),
)
