"""Noise and soft edges, the pieces of which textures are made."""

from __future__ import annotations

import math

from hmrbench.records import Array
from hmrbench_synth import materials as mt
from hmrbench_synth.raster import njit


@njit
def tile(noise: Array, channel: int, u: float, v: float) -> float:
    """Periodic noise at (u, v), one period per unit, bilinear."""
    x, y = u * mt.NOISE_SIZE, v * mt.NOISE_SIZE
    ix, iy = math.floor(x), math.floor(y)
    fx, fy = x - ix, y - iy
    x0, y0 = ix & (mt.NOISE_SIZE - 1), iy & (mt.NOISE_SIZE - 1)
    x1, y1 = (x0 + 1) & (mt.NOISE_SIZE - 1), (y0 + 1) & (mt.NOISE_SIZE - 1)
    top = noise[channel, y0, x0] * (1 - fx) + noise[channel, y0, x1] * fx
    low = noise[channel, y1, x0] * (1 - fx) + noise[channel, y1, x1] * fx
    value: float = top * (1 - fy) + low * fy
    return value


@njit
def below(value: float, edge: float, width: float) -> float:
    """1 where value < edge, 0 where above, a ramp as wide as a pixel between."""
    return min(1.0, max(0.0, (edge - value) / max(width, 1e-6) + 0.5))


@njit
def band(value: float, period: float, duty: float, width: float) -> float:
    """A wave of bands: 1 inside the first `duty` of each period; its mean where a pixel is wider than the
    bands.
    """
    q = value / period
    q -= math.floor(q)
    w = width / period
    if w > 0.5:
        return duty
    inside = min(below(q, duty, w), 1.0)
    return max(inside * below(-q, 0.0, w), below(1.0 - q, 0.0, w))
