"""Patterns of cloth, hair, floors and walls, evaluated per sample and smoothed over its footprint."""

from __future__ import annotations

import math

from hmrbench.records import Array
from hmrbench_synth import materials as mt
from hmrbench_synth.markings import face_paint, logo
from hmrbench_synth.noise import band, below, tile
from hmrbench_synth.raster import njit


@njit
def pattern(row: Array, u: float, v: float, width: float, noise: Array) -> tuple[float, float]:
    """How much of the second colour (0 to 1) there is at (u, v) metres, and a factor on the brightness."""
    kind, period, duty = int(row[mt.PATTERN]), row[mt.PERIOD], row[mt.DUTY]
    u, v = u + row[mt.PHASE], v + row[mt.PHASE] * 0.7
    if kind == mt.ACROSS:
        return band(v, period, duty, width), 1.0
    if kind == mt.ALONG:
        return band(u, period, duty, width), 1.0
    if kind == mt.GINGHAM:
        return 0.5 * band(u, period, 0.5, width) + 0.5 * band(v, period, 0.5, width), 1.0
    if kind == mt.PLAID:
        thin = 0.55 * max(band(u + 0.3 * period, period, 0.08, width), band(v + 0.3 * period, period, 0.08, width))
        return min(1.0, 0.4 * band(u, period, 0.45, width) + 0.4 * band(v, period, 0.45, width) + thin), 1.0
    if kind == mt.CHECKER:
        a, b = band(u, period, 0.5, width), band(v, period, 0.5, width)
        return a * (1 - b) + b * (1 - a), 1.0
    if kind == mt.DIAMONDS:
        a, b = band(u + 0.6 * v, period, 0.5, width), band(u - 0.6 * v, period, 0.5, width)
        return a * (1 - b) + b * (1 - a), 1.0
    if kind == mt.DOTS:
        line = math.floor(v / period)
        x = u / period + 0.5 * (int(line) & 1)
        x, y = x - math.floor(x) - 0.5, v / period - line - 0.5
        return below(math.sqrt(x * x + y * y), 0.32 * math.sqrt(duty), width / period), 1.0
    if kind == mt.CAMO:
        a = tile(noise, 0, u * 0.9 / period * 0.1, v * 0.9 / period * 0.1)
        b = tile(noise, 0, u * 0.9 / period * 0.1 + 0.37, v * 0.9 / period * 0.1 + 0.61)
        return below(a, 0.35 + 0.3 * duty, 0.02), 0.72 + 0.28 * below(b, 0.5, 0.02)
    if kind == mt.DENIM:
        fibre = tile(noise, 1, u * 2.0, v * 0.5)
        worn = tile(noise, 0, u * 0.8, v * 0.5)
        return 0.5 * max(0.0, worn - 0.35), 0.85 + 0.3 * fibre
    if kind == mt.FADE:
        return min(1.0, max(0.0, 0.5 + (v - row[mt.PHASE] * 0.7 - duty) / period)), 1.0
    if kind == mt.BLOCK:
        return below(v - row[mt.PHASE] * 0.7, duty, width), 1.0
    if kind == mt.PLANKS:
        line = math.floor(v / period)
        shift = tile(noise, 1, line * 0.137, 0.31)
        gap = max(band(v, period, 0.03, width), band(u + 3.0 * shift, 9 * period, 0.006, width))
        grain = tile(noise, 0, u * 0.25 + shift * 7.0, v * 3.0 + shift * 3.0)
        return 0.8 * gap, (0.7 + 0.3 * shift) * (0.75 + 0.5 * grain)
    if kind == mt.BRICKS:
        line = math.floor(v / period)
        x = u / (2.6 * period) + 0.5 * (int(line) & 1)
        tint = tile(noise, 1, math.floor(x) * 0.213 + line * 0.071, line * 0.171)
        return max(band(x, 1.0, 0.05, width / (2.6 * period)), band(v, period, 0.13, width)), 0.7 + 0.6 * tint
    if kind == mt.TILES:
        tint = tile(noise, 1, math.floor(u / period) * 0.213, math.floor(v / period) * 0.171)
        return max(band(u, period, duty, width), band(v, period, duty, width)), 0.88 + 0.24 * tint
    if kind == mt.PANES:
        return max(band(u, period, duty, width), band(v, period * 1.3, duty, width)), 1.0
    if kind == mt.LAWN:
        near = min(1.0, max(0.0, 1.0 - width * 60.0))
        blade = tile(noise, 1, u * 1.7 + 0.3 * v, v * 1.3)
        patch = tile(noise, 0, u * 0.11, v * 0.11) + 0.4 * tile(noise, 0, 0.31 * u + 0.17 * v, 0.29 * v - 0.19 * u)
        return min(1.0, max(0.0, 1.4 * patch - 0.5)), 1.0 + near * 0.8 * (blade - 0.5)
    if kind == mt.LEAVES:
        leaf = tile(noise, 1, u * 2.3 + 0.4 * v, v * 2.3)
        return min(1.0, max(0.0, 2.2 * leaf - 0.6)), 0.4 + 0.9 * tile(noise, 1, u * 4.7 + 0.31, v * 4.7)
    return 0.0, 1.0


@njit
def texture(
    row: Array,
    p: Array,
    u: float,
    v: float,
    cover: float,
    mark: float,
    width: float,
    noise: Array,
    rgb: Array,
) -> float:
    """Linear colour of a surface point into `rgb`; returns its height in metres for the bump.

    `cover` is the distance in metres from the garment's edge, `mark` a free scalar (lips positive, eyeballs
    -1), `width` a pixel's size in metres.
    """
    kind = int(row[mt.PATTERN])
    freq = row[mt.TONE_FREQ]
    tone = 1.0
    if row[mt.TONE] > 0.0:
        spots = tile(noise, 0, u * freq, v * freq) + tile(noise, 0, 0.37 * freq * (u + v), 0.37 * freq * (v - u))
        tone += row[mt.TONE] * 0.7 * (spots - 1.0)
    bump = 0.0
    if row[mt.BUMP] > 0.0:
        a, b = u * row[mt.BUMP_FREQ], v * row[mt.BUMP_FREQ] * row[mt.STRETCH]
        if row[mt.STRETCH] != 1.0:  # cloth: soft ridges, slanted
            bump = row[mt.BUMP] * (1.0 - abs(2.0 * tile(noise, 2, a + 0.4 * b, b) - 1.0))
        else:
            bump = row[mt.BUMP] * tile(noise, 0, a, b)
    if kind == mt.HAIR:
        strand = tile(noise, 1, u * 5.0, v * 0.35)
        lock = tile(noise, 0, u * 1.6, v * 0.3)
        tone *= 0.6 + 0.5 * strand + 0.4 * lock
        bump += 0.006 * lock + 0.002 * strand
    mixed, shade = pattern(row, u, v, width, noise)
    for k in range(3):
        rgb[k] = (row[mt.COLOUR_A + k] + (row[mt.COLOUR_B + k] - row[mt.COLOUR_A + k]) * mixed) * tone * shade
    if kind == mt.FACE:
        for k in range(3):
            rgb[k] = row[mt.COLOUR_A + k] * tone
        face_paint(row, p, mark, width, noise, rgb)
        return bump
    if kind in (mt.BRICKS, mt.TILES, mt.PLANKS):
        bump -= 0.004 * mixed
    inked = logo(row, p, width)
    if row[mt.TRIM] > 0.0:
        inked = max(inked, below(cover, row[mt.TRIM], width))
        bump += 0.003 * below(cover, row[mt.TRIM], max(width, 0.003))
    for k in range(3):
        rgb[k] += (row[mt.COLOUR_C + k] - rgb[k]) * inked
    return bump
