"""VMamba, second version (T is the official s1l8, S and B are s2l15), cut after any of its four stages.

Paper: Liu et al., "VMamba: Visual State Space Model" (arXiv 2401.10166). Origin of sizes, names and initial
values: MzeroMiko/VMamba (MIT), `classification/models/vmamba.py`, forward type `v05_noz`: no gate, one state
per channel. The keys of the state_dict are the official ones: official checkpoints load without renaming.

Feature maps are (B, C, H, W) in channels-last memory, which suits the norms, the convolutions and the scan.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from hmrbench.errors import UsageError
from hmrbench.nets.encoders import scan_standard
from hmrbench.nets.encoders.record import Encoder, Family
from hmrbench.nets.encoders.selective_scan import cross_merge, cross_scan, selective_scan
from hmrbench.nets.layers import onednn_conv2d
from hmrbench.nets.record import Depth, WeightsLayout

DIRECTIONS = 4
STATES = 1
STEP_MIN, STEP_MAX = 1e-3, 1e-1  # range of the initial step sizes of the scan


class Linear2d(nn.Linear):
    """Linear layer over the channels of (B, C, H, W), as the 1x1 convolution that oneDNN runs faster."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[:, :, None, None], self.bias)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DownsampleConv(nn.Conv2d):
    """3x3 convolution of stride 2."""

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__(width, out_width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.numel() > x.numel():  # the layout of x decides which of the two is copied to the other's
            x = x.contiguous()
        return super().forward(x)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = Linear2d(width, 4 * width)
        self.fc2 = Linear2d(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc2(F.gelu(self.fc1(x)))
        return x


class SS2D(nn.Module):
    """Token mixer: a depthwise convolution, then a selective scan in four directions."""

    fused = True
    standard_operators = False

    def __init__(self, width: int, ssm_ratio: float) -> None:
        super().__init__()
        inner, self.rank = int(ssm_ratio * width), math.ceil(width / 16)
        self.in_proj = Linear2d(width, inner, bias=False)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.x_proj_weight = nn.Parameter(torch.empty(DIRECTIONS, self.rank + 2 * STATES, inner))
        self.dt_projs_weight = nn.Parameter(torch.empty(DIRECTIONS, inner, self.rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(DIRECTIONS, inner))
        self.A_logs = nn.Parameter(torch.arange(1.0, STATES + 1).log().repeat(DIRECTIONS * inner, 1))
        self.Ds = nn.Parameter(torch.ones(DIRECTIONS * inner))
        self.out_norm = LayerNorm2d(inner)
        self.out_proj = Linear2d(inner, width, bias=False)
        nn.init.uniform_(self.x_proj_weight, -(inner**-0.5), inner**-0.5)
        nn.init.uniform_(self.dt_projs_weight, -(self.rank**-0.5), self.rank**-0.5)
        nn.init.uniform_(self.dt_projs_bias, math.log(STEP_MIN), math.log(STEP_MAX))
        with torch.no_grad():  # so that softplus(bias) is log-uniform
            self.dt_projs_bias.exp_().expm1_().log_()

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv2d(self.in_proj(x)))  # (B, D, H, W)
        y = self.scan(x)
        y = self.out_norm(y.to(self.out_norm.weight.dtype))
        x = self.out_proj(y.to(x.dtype))
        return x

    def scan(self, x: Tensor) -> Tensor:
        """Scan (B, D, H, W) in four directions and add up, (B, D, H, W) in the precision of the scan."""
        batch, channels, height, width = x.shape
        u = cross_scan(x)  # (B, K, D, L)
        projected = project_directions(u, self.x_proj_weight, self.fused)
        delta, B, C = torch.split(projected, [self.rank, STATES, STATES], dim=2)
        delta = project_directions(delta, self.dt_projs_weight, self.fused)  # (B, K, D, L)
        A = -self.A_logs.to(torch.promote_types(self.A_logs.dtype, torch.float32)).exp()
        bias = self.dt_projs_bias.flatten()
        scan = scan_standard.forward if self.standard_operators else selective_scan
        ys = scan(u.flatten(1, 2), delta.flatten(1, 2), A, B, C, self.Ds, bias)  # (B, K*D, L)
        return cross_merge(ys.view(batch, DIRECTIONS, channels, height, width)).view(x.shape)


def project_directions(x: Tensor, weight: Tensor, fused: bool = True) -> Tensor:
    """Apply weight (K, O, I) to every step of the K directions of x: (B, K, I, L) -> (B, K, O, L)."""
    x = x.permute(0, 3, 1, 2).flatten(2).transpose(1, 2)  # (B, K*I, L) in time-major memory
    rows, weights, groups = x.unsqueeze(2), weight.flatten(0, 1), len(weight)
    y = onednn_conv2d(rows, weights, groups=groups) if fused else None
    y = F.conv2d(rows, weights[:, :, None, None], groups=groups) if y is None else y
    return y.view(x.shape[0], *weight.shape[:2], -1)


class VSSBlock(nn.Module):
    """Pre-norm residual block: SS2D, then an MLP."""

    def __init__(self, width: int, ssm_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm = LayerNorm2d(width)
        self.op = SS2D(width, ssm_ratio)
        self.drop_path = DropPath(drop_path)
        self.norm2 = LayerNorm2d(width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.op(self.norm(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


class VMamba(nn.Module):
    """VMamba encoder of which only the stages asked for exist.

    Args:
        width: channels of stage 1; every further stage doubles them.
        depths: blocks of the four stages.
        ssm_ratio: width of the scan in a block, in widths of the stage.
        stages: 1 to 4, how many stages to build; the output is that of the last one.
        drop_path: rate of the last block of the full depth; it grows linearly from 0 over all blocks.
    """

    strides = (4, 8, 16, 32)

    def __init__(
        self, width: int, depths: Sequence[int], ssm_ratio: float, stages: int = 4, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        if stages not in (1, 2, 3, 4):
            raise UsageError(f"VMamba has stages 1 to 4, not {stages}")
        self.widths = (width, 2 * width, 4 * width, 8 * width)
        self.patch_embed = nn.Sequential(
            nn.Conv2d(3, width // 2, 3, stride=2, padding=1),
            nn.Identity(),
            LayerNorm2d(width // 2),
            nn.Identity(),
            nn.GELU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            nn.Identity(),
            LayerNorm2d(width),
        )
        rates = iter([drop_path * i / max(1, sum(depths) - 1) for i in range(sum(depths))])
        self.layers = nn.ModuleList()
        for i in range(stages):
            blocks = [VSSBlock(self.widths[i], ssm_ratio, next(rates)) for _ in range(depths[i])]
            stage = nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks)))
            if i + 1 < stages:
                conv = DownsampleConv(self.widths[i], self.widths[i + 1])
                norm = LayerNorm2d(self.widths[i + 1])
                stage.add_module("downsample", nn.Sequential(nn.Identity(), conv, nn.Identity(), norm))
            self.layers.append(stage)
        self.apply(_init_linear)

    def forward(self, x: Tensor) -> Tensor:
        """Map an image (B, 3, H, W) to the raw output (B, C, h, w) of the last stage's blocks."""
        x = self.patch_embed(x.contiguous(memory_format=torch.channels_last))
        for stage in self.layers:
            x = stage(x)
        return x


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def vmamba_t(stages: int = 4, drop_path: float = 0.0) -> VMamba:
    """VMamba-T (s1l8); official training has drop path 0.2."""
    return VMamba(96, (2, 2, 8, 2), 1.0, stages, drop_path)


def vmamba_s(stages: int = 4, drop_path: float = 0.0) -> VMamba:
    """VMamba-S (s2l15); official training has drop path 0.3."""
    return VMamba(96, (2, 2, 15, 2), 2.0, stages, drop_path)


def vmamba_b(stages: int = 4, drop_path: float = 0.0) -> VMamba:
    """VMamba-B (s2l15); official training has drop path 0.6."""
    return VMamba(128, (2, 2, 15, 2), 2.0, stages, drop_path)


FAMILY = Family(
    "vmamba",
    "VMamba",
    ("#009E73", "#009E73"),
    output_norm=True,
    layouts=(
        WeightsLayout(
            "vmamba", (r"patch_embed\.0\.", r"layers\.0\.blocks\.0\.op\."), classifier=r"(classifier|outnorm\d)\."
        ),
    ),
    depth=Depth(
        block=r"layers\.(?P<stage>\d+)\.blocks\.(?P<block>\d+)\.",
        first=r"patch_embed\.",
        into=r"layers\.(?P<before>\d+)\.downsample\.",
        not_decayed=r".*(\.A_logs|\.Ds|\.dt_projs_bias)$",
    ),
)
ENCODERS = (
    Encoder("vmamba-t", vmamba_t, FAMILY),
    Encoder("vmamba-s", vmamba_s, FAMILY),
    Encoder("vmamba-b", vmamba_b, FAMILY),
)
