"""The selective scan of Mamba and the four-way cross scan of VMamba.

Papers: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (arXiv 2312.00752);
Liu et al., "VMamba: Visual State Space Model" (arXiv 2401.10166). Origin of the semantics: MzeroMiko/VMamba
(MIT), `classification/models/csms6s.py` and `csm_triton.py`.

B images, K directions, D channels per direction, N states per channel, L steps. Tensors have the official
shapes, steps last, in any memory layout; time-major memory (B, L, K, D) is fastest and comes from
channels-last images without a transpose.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from hmrbench.errors import UsageError
from hmrbench.nets.encoders import scan_cuda, scan_torch

_INPUTS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, Tensor delta_bias"


def selective_scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """h[t] = exp(dt[t] A) h[t-1] + dt[t] B[t] u[t] and y[t] = C[t] h[t] + D u[t].

    Here dt = softplus(delta + delta_bias). One operator, `hmrbench::selective_scan`, for autograd, tracers,
    compilers and counters. It computes in float32 (float64 if u is float64), also under autocast.

    Args:
        u: (B, K*D, L) input.
        delta: (B, K*D, L) step sizes before bias and softplus.
        A: (K*D, N) growth rates, negative.
        B: (B, K, N, L) input weights, shared by the D channels of a direction.
        C: (B, K, N, L) output weights.
        D: (K*D,) skip weights.
        delta_bias: (K*D,) bias of delta.

    Returns:
        (B, K*D, L) in the precision of the computation, in time-major memory.

    Raises:
        UsageError: the shapes do not fit together.
    """
    batch, directions, states, steps = B.shape
    lanes = u.shape[1]
    found = [tuple(x.shape) for x in (u, delta, A, B, C, D, delta_bias)]
    rows, weights = (batch, lanes, steps), (batch, directions, states, steps)
    if found != [rows, rows, (lanes, states), weights, weights, (lanes,), (lanes,)] or lanes % directions:
        raise UsageError(f"selective scan: u, delta, A, B, C, D, delta_bias do not fit together: {found}")
    y: Tensor = _scan(u, delta, A, B, C, D, delta_bias)
    return y


def selective_scan_macs(B: int, L: int, D: int, N: int) -> int:
    """Official price of a scan of D lanes (channels of all directions): 9 B L D N, and B L D for the skip."""
    return 9 * B * L * D * N + B * L * D


def scan_backend(device: torch.device | str) -> str:
    """What scans on `device`: 'torch-chunked', or on CUDA the installed kernel, such as 'cuda-oflex', or 'triton'."""
    device = torch.device(device)
    if device.type != "cuda":
        return "torch-chunked"
    has_triton = importlib.util.find_spec("triton") is not None
    return scan_cuda.installed_kernel()[0] or (
        "triton" if has_triton and _triton().works_on(device) else "torch-chunked"
    )


def cross_scan(x: Tensor) -> Tensor:
    """Unroll an image by rows, by columns, and both reversed: (B, C, H, W) -> (B, 4, C, H*W)."""
    rows = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, L, C)
    columns = x.permute(0, 3, 2, 1).flatten(1, 2)
    return torch.stack((rows, columns, rows.flip(1), columns.flip(1)), dim=2).permute(0, 2, 3, 1)


def cross_merge(ys: Tensor) -> Tensor:
    """Add up four scans in image order, the transpose of `cross_scan`: (B, 4, C, H, W) -> (B, C, H*W)."""
    batch, _, channels, height, width = ys.shape
    y = ys.flatten(3).permute(0, 3, 1, 2)  # (B, L, 4, C)
    both = y[:, :, :2] + y[:, :, 2:].flip(1)
    rows = both[:, :, 0].view(batch, height, width, channels)
    columns = both[:, :, 1].view(batch, width, height, channels)
    return (rows + columns.transpose(1, 2)).flatten(1, 2).transpose(1, 2)


def _backend(u: Tensor) -> ModuleType:
    """The module whose `forward` and `backward` scan u. All return rows (B, ..., L) in time-major memory."""
    name = "torch-chunked" if u.dtype == torch.float64 else scan_backend(u.device)
    if name == "triton":
        return _triton()
    return scan_torch if name == "torch-chunked" else scan_cuda


def _triton() -> ModuleType:
    """The backend in Triton, which takes a while to import and is missing on some systems."""
    return importlib.import_module("hmrbench.nets.encoders.scan_triton")


@torch.library.custom_op("hmrbench::selective_scan", mutates_args=(), schema=f"({_INPUTS}) -> Tensor")
def _scan(*inputs: Tensor) -> Tensor:
    y: Tensor = _backend(inputs[0]).forward(*inputs)
    return y


@torch.library.custom_op(
    "hmrbench::selective_scan_backward", mutates_args=(), schema=f"({_INPUTS}, Tensor dy) -> Tensor[]"
)
def _scan_backward(*inputs: Tensor) -> list[Tensor]:
    grads: list[Tensor] = _backend(inputs[0]).backward(*inputs[:7], dy=inputs[7])
    return grads


@_scan.register_fake
def _(u: Tensor, *others: Tensor) -> Tensor:
    return _empty_like(u, torch.float64 if u.dtype == torch.float64 else torch.float32)


@_scan_backward.register_fake
def _(*inputs: Tensor) -> list[Tensor]:
    return [_empty_like(x, x.dtype) for x in inputs[:7]]


def _empty_like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows (B, ..., L) in time-major memory, or a parameter."""
    if x.ndim < 3:
        return torch.empty(x.shape, dtype=dtype, device=x.device)
    return torch.empty(x.movedim(-1, 1).shape, dtype=dtype, device=x.device).movedim(1, -1)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor, ...]:
    return tuple(_scan_backward(*ctx.saved_tensors, dy))


_scan.register_autograd(_differentiate, setup_context=_save_inputs)
