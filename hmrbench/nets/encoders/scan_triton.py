"""Selective scan, backend for CUDA without a compiled extension: one Triton kernel for the output.

The inputs are those of `selective_scan.selective_scan`. Importing this module imports triton, which may be
missing: `selective_scan` asks first.

A program scans a block of channels of one direction of one image. It takes the steps tile by tile: inside a
tile, the recurrence h -> a h + b is an associative scan over pairs (a, b); from tile to tile, the last state
is carried. Decays are only multiplied, never divided by, so that they may underflow.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from hmrbench.nets.encoders import scan_torch

_TILE = 2048  # numbers in a tile (steps x states x channels): 16 for each thread of 4 warps
_WIDTH = 16  # channels of a program: few enough for many programs, enough for whole memory sectors


def forward(*inputs: Tensor) -> Tensor:
    """Output (B, K*D, L), float32 (float64 if u is, from the PyTorch backend)."""
    u, delta, A, B, C, D, bias = inputs
    if u.dtype == torch.float64:
        return scan_torch.forward(*inputs)
    A, D, bias = (x.float().contiguous() for x in (A, D, bias))
    batch, directions, states, steps = B.shape
    lanes = u.shape[1]
    channels = lanes // directions
    y = u.new_empty((batch, steps, lanes), dtype=torch.float32)
    width = min(_WIDTH, triton.next_power_of_2(channels))
    depth = triton.next_power_of_2(states)
    tile = max(16, _TILE // (width * depth))
    grid = (batch, directions, triton.cdiv(channels, width))
    with torch.cuda.device_of(u):  # type: ignore[no-untyped-call]  # triton launches on the current device
        _scan_kernel[grid](
            *(u, delta, A, B, C, D, bias, y, steps, channels, states),
            *(*u.stride(), *delta.stride(), *B.stride(), *C.stride(), *y.stride()),
            TILE=tile,
            STATES=depth,
            WIDTH=width,
        )
    return y.movedim(1, -1)


def backward(*inputs: Tensor, dy: Tensor) -> list[Tensor]:
    """Gradients of the seven inputs from that of the output, from the PyTorch backend."""
    return scan_torch.backward(*inputs, dy=dy)


@functools.cache
def works_on(device: torch.device) -> bool:
    """Whether the kernel compiles, runs and agrees with the PyTorch backend on `device`.

    A GPU may be too old for triton, and a machine may lack the C compiler with which triton builds its launcher.
    """
    try:
        inputs = [x.to(device) for x in _trial()]
        torch.testing.assert_close(forward(*inputs), scan_torch.forward(*inputs), rtol=1e-4, atol=1e-4)
    except Exception:  # triton, its compiler and the driver each raise their own
        return False
    return True


def _trial() -> list[Tensor]:
    """Two full tiles and a rest, in time-major memory, with waves for numbers: no random state is touched."""
    batch, directions, channels, steps = 2, 4, 24, 2 * _TILE // _WIDTH + 5

    def waves(*shape: int) -> Tensor:
        return torch.arange(torch.Size(shape).numel(), dtype=torch.float32).view(shape).mul(0.7).sin()

    u, delta = (waves(batch, steps, directions * channels).mul(s).movedim(1, -1) for s in (1, 3))
    B, C = (waves(batch, steps, directions, 1).add(s).movedim(1, -1) for s in (0, 0.5))
    A, D, bias = waves(directions * channels, 1).exp().neg(), waves(directions * channels), waves(directions * channels)
    return [u, delta, A, B, C, D, bias]


@triton.jit
def _compose(a_first, b_first, a_then, b_then):  # type: ignore[no-untyped-def]
    """The step h -> a h + b that equals two steps."""
    return a_first * a_then, a_then * b_first + b_then


@triton.jit
def _softplus(x):  # type: ignore[no-untyped-def]
    """log(1 + exp(x)), and x above 20, as in PyTorch; for small exp(x) as exact as log1p."""
    z = tl.exp(tl.minimum(x, 20.0))
    w = 1.0 + z
    # W. Kahan's log1p: log(w) is scaled by what rounding has lost from w. Where w rounds to 1, it is z.
    rounded = w - 1.0
    log1p = tl.where(rounded == 0.0, z, tl.log(w) * (z / tl.where(rounded == 0.0, 1.0, rounded)))
    # min() drops a NaN on some devices: x <= 20 is false for NaN, so that it takes the branch x.
    return tl.where(x <= 20.0, log1p, x)


@triton.jit  # type: ignore[untyped-decorator]
def _scan_kernel(  # type: ignore[no-untyped-def]
    u_at,
    delta_at,
    A_at,
    B_at,
    C_at,
    D_at,
    bias_at,
    y_at,
    steps,
    channels,
    states,
    u_batch,
    u_lane,
    u_step,
    delta_batch,
    delta_lane,
    delta_step,
    B_batch,
    B_direction,
    B_state,
    B_step,
    C_batch,
    C_direction,
    C_state,
    C_step,
    y_batch,
    y_step,
    y_lane,
    TILE: tl.constexpr,
    STATES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)  # offsets of images may exceed 32 bits
    direction = tl.program_id(1).to(tl.int64)
    d = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    n = tl.arange(0, STATES)
    t = tl.arange(0, TILE).to(tl.int64)
    lane = direction * channels + d
    in_d, in_n = d < channels, n < states
    in_nd = in_n[:, None] & in_d[None, :]

    # Lanes, states and steps beyond the end read 0. There B is 0, so that they add nothing.
    rate = tl.load(A_at + lane[None, :] * states + n[:, None], mask=in_nd, other=0.0)  # (N, D)
    skip = tl.load(D_at + lane, mask=in_d, other=0.0)
    bias = tl.load(bias_at + lane, mask=in_d, other=0.0)
    u_at += image * u_batch + lane[None, :] * u_lane
    delta_at += image * delta_batch + lane[None, :] * delta_lane
    B_at += image * B_batch + direction * B_direction + n[None, :] * B_state
    C_at += image * C_batch + direction * C_direction + n[None, :] * C_state
    y_at += image * y_batch + lane[None, :] * y_lane

    carried = tl.zeros((STATES, WIDTH), tl.float32)
    for start in range(0, steps, TILE):
        row = start + t
        in_t = row < steps
        in_td = in_t[:, None] & in_d[None, :]
        in_tn = in_t[:, None] & in_n[None, :]
        u = tl.load(u_at + row[:, None] * u_step, mask=in_td, other=0.0).to(tl.float32)  # (T, D)
        delta = tl.load(delta_at + row[:, None] * delta_step, mask=in_td, other=0.0).to(tl.float32)
        B = tl.load(B_at + row[:, None] * B_step, mask=in_tn, other=0.0).to(tl.float32)  # (T, N)
        C = tl.load(C_at + row[:, None] * C_step, mask=in_tn, other=0.0).to(tl.float32)
        dt = _softplus(delta + bias[None, :])
        decay = tl.exp(dt[:, None, :] * rate[None, :, :])  # (T, N, D)
        drive = (dt[:, None, :] * B[:, :, None]) * u[:, None, :]
        decay, drive = tl.associative_scan((decay, drive), 0, _compose)
        h = decay * carried[None, :, :] + drive
        y = tl.sum(h * C[:, :, None], axis=1) + skip[None, :] * u
        tl.store(y_at + row[:, None] * y_step, y, mask=in_td)
        carried = tl.sum(tl.where((t == TILE - 1)[:, None, None], h, 0.0), axis=0)
