"""Selective scan, backend for CUDA without a compiled extension: a Triton kernel for the output, one for gradients.

The inputs are those of `selective_scan.selective_scan`. Importing this module imports triton, which may be
missing: `selective_scan` asks first.

A program scans a block of channels of one direction of one image. It takes the steps tile by tile: inside a
tile, the recurrence h -> a h + b is an associative scan over pairs (a, b); from tile to tile, the last state
is carried. Decays are only multiplied, never divided by, so that they may underflow. Inputs in half precision
are read as they are; states are float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

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
    channels = u.shape[1] // directions
    y = u.new_empty((batch, steps, u.shape[1]), dtype=torch.float32)
    grid, shape = _programs(batch, directions, channels, states)
    with torch.cuda.device_of(u):  # type: ignore[no-untyped-call]  # triton launches on the current device
        _scan_kernel[grid](
            *(u, delta, A, B, C, D, bias, y, steps, channels, states),
            *(*u.stride(), *delta.stride(), *B.stride(), *C.stride(), *y.stride()),
            **shape,
        )
    return y.movedim(1, -1)


def backward(*inputs: Tensor, dy: Tensor) -> list[Tensor]:
    """Gradients of the seven inputs from that of the output, each in its input's precision."""
    if inputs[0].dtype == torch.float64 or not differentiates_on(inputs[0].device):
        return scan_torch.backward(*inputs, dy=dy)
    return gradients(*inputs, dy=dy)


def gradients(*inputs: Tensor, dy: Tensor) -> list[Tensor]:
    """As `backward`, by the kernel. Sums over blocks of channels and over images are PyTorch's, so always the same."""
    u, delta, A, B, C, D, bias = inputs
    A, D, bias, dy = (x.float() for x in (A, D, bias, dy))
    A, D, bias = (x.contiguous() for x in (A, D, bias))
    batch, directions, states, steps = B.shape
    lanes, channels = u.shape[1], u.shape[1] // directions
    grid, shape = _programs(batch, directions, channels, states)
    tiles = triton.cdiv(steps, shape["TILE"])
    new = functools.partial(u.new_empty, dtype=torch.float32)
    starts = new((batch, directions, tiles, states, channels))  # the states with which the tiles begin
    du, d_delta = new((batch, steps, lanes)), new((batch, steps, lanes))
    dB, dC = (new((grid[2], batch, steps, directions, states)) for _ in range(2))
    dA, dD, d_bias = new((batch, lanes, states)), new((batch, lanes)), new((batch, lanes))
    with torch.cuda.device_of(u):  # type: ignore[no-untyped-call]
        _gradient_kernel[grid](
            *(u, delta, A, B, C, D, bias, dy, starts, du, d_delta, dA, dB, dC, dD, d_bias),
            *(steps, channels, states, tiles),
            *(*u.stride(), *delta.stride(), *B.stride(), *C.stride(), *dy.stride()),
            **shape,
        )
    rows = (x.movedim(1, -1) for x in (du, d_delta))
    weights = (x.sum(0).movedim(1, -1) for x in (dB, dC))
    found = (*rows, dA.sum(0), *weights, dD.sum(0), d_bias.sum(0))
    return [g.to(x.dtype) for g, x in zip(found, inputs, strict=True)]


def _programs(batch: int, directions: int, channels: int, states: int) -> tuple[tuple[int, int, int], dict[str, int]]:
    """The grid of programs, and the sizes of the tile of each."""
    width = min(_WIDTH, triton.next_power_of_2(channels))
    depth = triton.next_power_of_2(states)
    sizes = {"TILE": max(16, _TILE // (width * depth)), "STATES": depth, "WIDTH": width}
    return (batch, directions, triton.cdiv(channels, width)), sizes


@functools.cache
def works_on(device: torch.device) -> bool:
    """Whether the kernel compiles, runs and agrees with the PyTorch backend on `device`.

    A GPU may be too old for triton, and a machine may lack the C compiler with which triton builds its launcher.
    """
    return _agrees(device, forward, scan_torch.forward)


@functools.cache
def differentiates_on(device: torch.device) -> bool:
    """The same of the kernel of gradients."""
    return _agrees(
        device,
        lambda *inputs: gradients(*inputs, dy=inputs[0].cos()),
        lambda *inputs: scan_torch.backward(*inputs, dy=inputs[0].cos()),
    )


def _agrees(device: torch.device, kernel: Callable[..., Any], expected: Callable[..., Any]) -> bool:
    try:
        inputs = [x.to(device) for x in _trial()]
        torch.testing.assert_close(kernel(*inputs), expected(*inputs), rtol=1e-4, atol=1e-4)
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


@triton.jit
def _row(at, row, stride, mask):  # type: ignore[no-untyped-def]
    """A tile, steps first; 0 where the mask is not."""
    return tl.load(at + row[:, None] * stride, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _steps(u, dt, B, rate):  # type: ignore[no-untyped-def]
    """What each step of a tile does to the state: decay and drive, (T, N, D)."""
    return tl.exp(dt[:, None, :] * rate[None, :, :]), (dt[:, None, :] * B[:, :, None]) * u[:, None, :]


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
        u = _row(u_at, row, u_step, in_td)  # (T, D)
        dt = _softplus(_row(delta_at, row, delta_step, in_td) + bias[None, :])
        B = _row(B_at, row, B_step, in_tn)  # (T, N)
        C = _row(C_at, row, C_step, in_tn)
        decay, drive = _steps(u, dt, B, rate)
        decay, drive = tl.associative_scan((decay, drive), 0, _compose)
        h = decay * carried[None, :, :] + drive
        y = tl.sum(h * C[:, :, None], axis=1) + skip[None, :] * u
        tl.store(y_at + row[:, None] * y_step, y, mask=in_td)
        carried = tl.sum(tl.where((t == TILE - 1)[:, None, None], h, 0.0), axis=0)


@triton.jit  # type: ignore[untyped-decorator]
def _gradient_kernel(  # type: ignore[no-untyped-def]
    u_at,
    delta_at,
    A_at,
    B_at,
    C_at,
    D_at,
    bias_at,
    dy_at,
    starts_at,
    du_at,
    d_delta_at,
    dA_at,
    dB_at,
    dC_at,
    dD_at,
    d_bias_at,
    steps,
    channels,
    states,
    tiles,
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
    dy_batch,
    dy_lane,
    dy_step,
    TILE: tl.constexpr,
    STATES: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Once forward for the states at the beginnings of tiles, then tile by tile backward.

    With g[t] the gradient of h[t]: g[t] = C[t] dy[t] + a[t+1] g[t+1], a scan from the right.
    """
    image = tl.program_id(0).to(tl.int64)
    direction = tl.program_id(1).to(tl.int64)
    block = tl.program_id(2).to(tl.int64)
    d = block * WIDTH + tl.arange(0, WIDTH)
    n = tl.arange(0, STATES)
    t = tl.arange(0, TILE).to(tl.int64)
    directions = tl.num_programs(1)
    lanes = directions * channels
    lane = direction * channels + d
    in_d, in_n = d < channels, n < states
    in_nd = in_n[:, None] & in_d[None, :]
    rate = tl.load(A_at + lane[None, :] * states + n[:, None], mask=in_nd, other=0.0)  # (N, D)
    skip = tl.load(D_at + lane, mask=in_d, other=0.0)
    bias = tl.load(bias_at + lane, mask=in_d, other=0.0)
    u_at += image * u_batch + lane[None, :] * u_lane
    delta_at += image * delta_batch + lane[None, :] * delta_lane
    dy_at += image * dy_batch + lane[None, :] * dy_lane
    B_at += image * B_batch + direction * B_direction + n[None, :] * B_state
    C_at += image * C_batch + direction * C_direction + n[None, :] * C_state
    starts_at += (image * directions + direction) * tiles * states * channels + n[:, None] * channels + d[None, :]
    du_at += image * steps * lanes + lane[None, :]
    d_delta_at += image * steps * lanes + lane[None, :]
    weight = directions * states
    summed = (block * tl.num_programs(0) + image) * steps * weight + direction * states + n[None, :]

    carried = tl.zeros((STATES, WIDTH), tl.float32)
    for i in range(0, tiles):
        tl.store(starts_at + i * states * channels, carried, mask=in_nd)
        row = i * TILE + t
        in_td = (row < steps)[:, None] & in_d[None, :]
        u = _row(u_at, row, u_step, in_td)
        dt = _softplus(_row(delta_at, row, delta_step, in_td) + bias[None, :])
        B = _row(B_at, row, B_step, (row < steps)[:, None] & in_n[None, :])
        decay, drive = _steps(u, dt, B, rate)
        decay, drive = tl.associative_scan((decay, drive), 0, _compose)
        h = decay * carried[None, :, :] + drive
        carried = tl.sum(tl.where((t == TILE - 1)[:, None, None], h, 0.0), axis=0)
    tl.debug_barrier()  # what one thread stored, another loads

    ahead = tl.zeros((STATES, WIDTH), tl.float32)  # g of the first step of the tile that follows
    dA = tl.zeros((STATES, WIDTH), tl.float32)
    dD = tl.zeros((WIDTH,), tl.float32)
    d_bias = tl.zeros((WIDTH,), tl.float32)
    for i in range(tiles - 1, -1, -1):
        start = tl.load(starts_at + i * states * channels, mask=in_nd, other=0.0)
        row = i * TILE + t
        in_t = row < steps
        in_td = in_t[:, None] & in_d[None, :]
        in_tn = in_t[:, None] & in_n[None, :]
        u = _row(u_at, row, u_step, in_td)
        raw = _row(delta_at, row, delta_step, in_td) + bias[None, :]
        dt = _softplus(raw)
        dy = _row(dy_at, row, dy_step, in_td)
        B = _row(B_at, row, B_step, in_tn)
        C = _row(C_at, row, C_step, in_tn)
        decay, drive = _steps(u, dt, B, rate)

        # The state before each step: the same scan, a step later, whose first step changes nothing.
        later = t > 0
        in_late = later & (row <= steps)
        late_td = in_late[:, None] & in_d[None, :]
        late_u = _row(u_at, row - 1, u_step, late_td)
        late_dt = _softplus(_row(delta_at, row - 1, delta_step, late_td) + bias[None, :])
        late_B = _row(B_at, row - 1, B_step, in_late[:, None] & in_n[None, :])
        late_decay, late_drive = _steps(late_u, late_dt, late_B, rate)
        late_decay = tl.where(later[:, None, None], late_decay, 1.0)
        late_decay, late_drive = tl.associative_scan((late_decay, late_drive), 0, _compose)
        before = late_decay * start[None, :, :] + late_drive
        h = decay * before + drive

        next_td = (row + 1 < steps)[:, None] & in_d[None, :]
        next_dt = _softplus(_row(delta_at, row + 1, delta_step, next_td) + bias[None, :])
        next_decay = tl.where(next_td[:, None, :], tl.exp(next_dt[:, None, :] * rate[None, :, :]), 0.0)
        g = C[:, :, None] * dy[:, None, :]
        next_decay, g = tl.associative_scan((next_decay, g), 0, _compose, reverse=True)
        g = next_decay * ahead[None, :, :] + g
        ahead = tl.sum(tl.where((t == 0)[:, None, None], g, 0.0), axis=0)

        d_exponent = g * decay * before  # of dt A
        d_drive = tl.sum(g * B[:, :, None], axis=1)  # of dt u
        d_step = (d_drive * u + tl.sum(d_exponent * rate[None, :, :], axis=1)) * tl.sigmoid(raw)
        d_step = tl.where(in_td, d_step, 0.0)
        tl.store(du_at + row[:, None] * lanes, dy * skip[None, :] + d_drive * dt, mask=in_td)
        tl.store(d_delta_at + row[:, None] * lanes, d_step, mask=in_td)
        tl.store(dB_at + summed + row[:, None] * weight, tl.sum(g * (dt * u)[:, None, :], axis=2), mask=in_tn)
        tl.store(dC_at + summed + row[:, None] * weight, tl.sum(h * dy[:, None, :], axis=2), mask=in_tn)
        dA += tl.sum(tl.where(in_td[:, None, :], d_exponent * dt[:, None, :], 0.0), axis=0)
        dD += tl.sum(dy * u, axis=0)
        d_bias += tl.sum(d_step, axis=0)
    tl.store(dA_at + (image * lanes + lane[None, :]) * states + n[:, None], dA, mask=in_nd)
    tl.store(dD_at + image * lanes + lane, dD, mask=in_d)
    tl.store(d_bias_at + image * lanes + lane, d_bias, mask=in_d)
