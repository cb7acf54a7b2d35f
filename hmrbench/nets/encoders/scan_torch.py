"""Selective scan, backend for every device: plain PyTorch that scans all chunks of the sequence at once.

The inputs are those of `selective_scan.selective_scan`. Inside, steps come first: u, delta (B, L, K, D); B, C
(B, L, K, N); A (K, N, D); D, delta_bias (K, D).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

_PART = 2**20  # numbers per buffer on the CPU: 4 MB stay in cache, and need no fresh pages from the system


def forward(*inputs: Tensor) -> Tensor:
    """Output (B, K*D, L) in float32, or float64 if u is."""
    u, delta, A, B, C, D, bias = _steps_first(*inputs)
    y = D.new_empty(u.shape)
    for part in _parts(u, states=A.shape[1]):
        k = part[2]
        _, _, h = _states(u[part], delta[part], A[k], B[part], bias[k])
        out = torch.mul(u[part], D[k], out=y[part])
        for n in range(h.shape[3]):
            out.addcmul_(h[:, :, :, n], C[part][..., n, None])
    return y.flatten(2).movedim(1, -1)


def backward(*inputs: Tensor, dy: Tensor) -> list[Tensor]:
    """Gradients of the seven inputs from that of the output. The states are computed again, not kept."""
    u, delta, A, B, C, D, bias = _steps_first(*inputs)
    dy = dy.to(D.dtype).view(len(dy), *D.shape, -1).permute(0, 3, 1, 2)  # (B, L, K, D)
    du, d_delta = dy.new_empty(u.shape), dy.new_empty(u.shape)
    dB, dC = dy.new_empty(B.shape), dy.new_empty(B.shape)
    dA, dD, d_bias = torch.zeros_like(A), torch.zeros_like(D), torch.zeros_like(bias)
    for part in _parts(u, states=2 * A.shape[1]):  # twice the buffers of forward
        k = part[2]
        u_, dy_, B_ = u[part], dy[part], B[part].unsqueeze(4)
        dt, decay, h = _states(u_, delta[part], A[k], B[part], bias[k])
        dC[part] = (h * dy_.unsqueeze(3)).sum(4)
        dh = torch.mul(dy_.unsqueeze(3), C[part].unsqueeze(4), out=torch.empty_like(h)).flip(1)
        dh = linear_recurrence_(decay.roll(-1, 1).flip(1), dh).flip(1)
        d_exponent = decay.mul_(dh)  # of dt A
        d_exponent[:, 0] = 0
        d_exponent[:, 1:] *= h[:, :-1]
        d_drive = (dh * B_).sum(3)  # of dt u
        dB[part] = dh.mul_((dt * u_).unsqueeze(3)).sum(4)
        d_step = torch.mul((d_drive * u_).add_((d_exponent * A[k]).sum(3)), -torch.expm1(-dt), out=d_delta[part])
        dA[k] += d_exponent.mul_(dt.unsqueeze(3)).sum((0, 1))
        torch.addcmul(dy_ * D[k], d_drive, dt, out=du[part])
        dD[k] += (dy_ * u_).sum((0, 1))
        d_bias[k] += d_step.sum((0, 1))
    rows = (x.flatten(2).movedim(1, -1) for x in (du, d_delta))
    states = (x.movedim(1, -1) for x in (dB, dC))
    grads = (*rows, dA.transpose(1, 2).flatten(0, 1), *states, dD.flatten(), d_bias.flatten())
    return [g.to(x.dtype) for g, x in zip(grads, inputs, strict=True)]


def linear_recurrence_(a: Tensor, b: Tensor) -> Tensor:
    """Turn b into h, where h[t] = a[t] h[t-1] + b[t] and h[-1] = 0; both (B, L, ...), contiguous, t along L.

    A step runs in all chunks of the sequence at once: first to find where every chunk ends; then, when the
    ends are chained, from the right start. Decays are never divided by, so that they may underflow.
    """
    batch, steps = b.shape[:2]
    length = max(1, math.isqrt(3 * steps // 4))  # a row, if the steps are the pixels of a 4:3 image
    count = steps // length
    a, flat = a.view(batch, steps, -1), b.view(batch, steps, -1)
    a_chunks, b_chunks = (x[:, : count * length].view(batch, count, length, -1) for x in (a, flat))
    a_steps, b_steps = a_chunks.unbind(2), b_chunks.unbind(2)  # each (B, chunks, lanes)
    if count > 1:
        end = b_steps[0].clone()
        for a_t, b_t in zip(a_steps[1:], b_steps[1:], strict=True):
            end = torch.addcmul(b_t, a_t, end)
        ends, decays = end.unbind(1), a_chunks.prod(2).unbind(1)
        for i in range(1, count):
            ends[i].addcmul_(decays[i], ends[i - 1])
        b_steps[0][:, 1:].addcmul_(a_steps[0][:, 1:], end[:, :-1])
    h = b_steps[0]
    for a_t, b_t in zip(a_steps[1:], b_steps[1:], strict=True):
        h = b_t.addcmul_(a_t, h)
    for t in range(count * length, steps):
        flat[:, t].addcmul_(a[:, t], flat[:, t - 1])
    return b


def _states(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Steps dt (B, L, K, D), decays and states h (B, L, K, N, D), all contiguous."""
    if u.device.type == "cpu":
        # With AVX-512, the log1p in softplus reads a constant under an empty mask. While that page of the
        # library is not mapped, softplus takes ten times as long; log1p(-0) fills the mask and so maps it.
        torch.log1p(bias.new_full((64,), -0.0))
    shape = (*B.shape, u.shape[-1])
    dt = F.softplus(torch.add(delta, bias, out=bias.new_empty(delta.shape)))
    rates = A * math.log2(math.e)  # for exp2: PyTorch leaves exp to MKL, which is four times slower on AMD
    decay = torch.mul(dt.unsqueeze(3), rates, out=dt.new_empty(shape)).exp2_()
    h = torch.mul(dt.unsqueeze(3), B.unsqueeze(4), out=dt.new_empty(shape)).mul_(u.unsqueeze(3))
    return dt, decay, linear_recurrence_(decay, h)


def _steps_first(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor
) -> tuple[Tensor, ...]:
    """Views with steps first; the parameters in the precision of the computation."""
    batch, directions, states, steps = B.shape
    u, delta = (x.view(batch, directions, -1, steps).permute(0, 3, 1, 2) for x in (u, delta))
    B, C = (x.permute(0, 3, 1, 2) for x in (B, C))
    precision = torch.float64 if u.dtype == torch.float64 else torch.float32
    A, D, delta_bias = (x.to(precision) for x in (A, D, delta_bias))
    A = A.view(directions, -1, states).transpose(1, 2)
    return u, delta, A, B, C, D.view(directions, -1), delta_bias.view(directions, -1)


def _parts(u: Tensor, states: int) -> Iterator[tuple[slice, slice, slice]]:
    """Indices of the parts of (B, L, K, D) that are scanned one after the other; on a GPU one part is all."""
    batch, steps, directions, width = u.shape
    many = max(1, _PART // (steps * states * width)) if u.device.type == "cpu" else batch * directions
    images, some = max(1, many // directions), min(directions, many)
    for i in range(0, batch, images):
        for k in range(0, directions, some):
            yield slice(i, i + images), slice(None), slice(k, k + some)
