"""Selective scan by few standard operators, for converters to other runtimes: none of PyTorch's own, none in place.

The inputs are those of `selective_scan.selective_scan`. Steps are taken RADIX at a time: within all groups at once, to
where each group ends; then over the ends, which is the same problem, RADIX times as short; then again within the
groups, from the right start. So the graph has some 5 RADIX operators for each of the log(L) levels, and each step is
computed twice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RADIX = 8


def forward(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """Output (B, K*D, L) in float32, or float64 if u is."""
    directions, states, steps = (int(n) for n in B.shape[1:])  # of a trace: numbers, so that only the batch stays open
    precision = torch.float64 if u.dtype == torch.float64 else torch.float32
    u, delta, A, B, C, D, delta_bias = (x.to(precision) for x in (u, delta, A, B, C, D, delta_bias))
    lanes = int(A.shape[0]) // directions
    u, delta = (x.reshape(-1, directions, lanes, steps).permute(0, 3, 1, 2) for x in (u, delta))  # (B, L, K, D)
    B, C = (x.permute(0, 3, 1, 2) for x in (B, C))  # (B, L, K, N)
    rates = A.reshape(directions, lanes, states)
    step = F.softplus(delta + delta_bias.reshape(directions, lanes))
    driven, y = step * u, u * D.reshape(directions, lanes)
    for n in range(states):
        decay = torch.exp(step * rates[..., n])
        h = linear_recurrence(decay.flatten(2), (driven * B[..., n : n + 1]).flatten(2), steps)
        y = y + h.reshape(-1, steps, directions, lanes) * C[..., n : n + 1]
    return y.flatten(2).transpose(1, 2)


def linear_recurrence(a: Tensor, b: Tensor, steps: int) -> Tensor:
    """h[t] = a[t] h[t-1] + b[t], with h[-1] = 0; all (B, L, lanes), L being `steps`."""
    length = min(RADIX, steps)
    groups = -(-steps // length)
    padding = (0, 0, 0, groups * length - steps)
    a, b = (F.pad(x, padding).reshape(-1, groups, length, int(x.shape[2])) for x in (a, b))
    decays, drives = ([x[:, :, t] for t in range(length)] for x in (a, b))  # each (B, groups, lanes)
    if groups > 1:
        end, decay = drives[0], decays[0]
        for t in range(1, length):
            end, decay = decays[t] * end + drives[t], decays[t] * decay
        before = F.pad(linear_recurrence(decay, end, groups)[:, :-1], (0, 0, 1, 0))
        found = [decays[0] * before + drives[0]]
    else:
        found = [drives[0]]
    for t in range(1, length):
        found.append(decays[t] * found[-1] + drives[t])
    return torch.stack(found, 2).flatten(1, 2)[:, :steps]
