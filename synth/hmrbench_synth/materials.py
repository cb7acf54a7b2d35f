"""What a surface looks like: a row of numbers per material, read by the compiled shader.

Colours are given as sRGB in [0, 1] and stored linear. Texture coordinates are metres on the body at rest or
in the room, so that a stripe stays a stripe however the body moves.
"""

from __future__ import annotations

import colorsys
from functools import cache

import cv2
import numpy as np

from hmrbench.records import Array

Rng = np.random.Generator

# Columns of a material row.
COLOUR_A, COLOUR_B, COLOUR_C = 0, 3, 6
PATTERN, PERIOD, PHASE, DUTY = 9, 10, 11, 12
WRAP, CENTRE_0, CENTRE_1, RADIUS = 13, 14, 15, 16
GLOSS, SHARPNESS = 17, 18
BUMP, BUMP_FREQ, TONE, TONE_FREQ = 19, 20, 21, 22
TRIM, LOGO, LOGO_X, LOGO_Y, LOGO_R = 23, 24, 25, 26, 27
SOFT, EMIT, STRETCH = 28, 29, 30
BEARD, LIPS, GAZE, BROW = 31, 32, 33, 34
COLUMNS = 35

# Patterns.
PLAIN, ACROSS, ALONG, GINGHAM, CHECKER, DOTS, CAMO, DENIM, FADE, BLOCK = range(10)
PLANKS, BRICKS, TILES, LAWN, DIAMONDS, FACE, HAIR, PLAID, PANES, LEAVES = range(10, 20)
# Where texture coordinates come from: the x-y plane, around the vertical, around the arm.
FLAT, AROUND_Y, AROUND_X = range(3)
# Marks on the chest.
NO_LOGO, DISC, RING, BAR, WORDS, NUMBER, BUTTONS, ZIP = range(8)

NOISE_SIZE = 256


def linear(rgb: Array) -> Array:
    """sRGB in [0, 1] to linear light."""
    return np.asarray(np.clip(rgb, 0.0, 1.0) ** 2.2)


def hsv(hue: float, saturation: float, value: float) -> Array:
    """sRGB (3,) from a hue in degrees, saturation and value in [0, 1]."""
    return np.array(colorsys.hsv_to_rgb(hue / 360 % 1, float(np.clip(saturation, 0, 1)), float(np.clip(value, 0, 1))))


def material(
    colour: Array,
    second: Array | None = None,
    third: Array | None = None,
    **columns: float,
) -> Array:
    """A material row (COLUMNS,): up to three sRGB colours, the other columns by their lower-case name."""
    row = np.zeros(COLUMNS)
    row[COLOUR_A : COLOUR_A + 3] = linear(colour)
    row[COLOUR_B : COLOUR_B + 3] = linear(colour if second is None else second)
    row[COLOUR_C : COLOUR_C + 3] = linear(colour if third is None else third)
    row[[PERIOD, DUTY, RADIUS, SHARPNESS, STRETCH]] = 0.1, 0.5, 0.15, 20.0, 1.0
    for name, value in columns.items():
        row[globals()[name.upper()]] = value
    return row


def with_columns(row: Array, **columns: float) -> Array:
    """A copy of a row with some columns changed."""
    out: Array = row.copy()
    for name, value in columns.items():
        out[globals()[name.upper()]] = value
    return out


def paint(rng: Rng, low: float = 0.3, high: float = 0.9) -> Array:
    """A colour (3,) as walls and furniture have it, mostly quiet, its value between `low` and `high`."""
    return hsv(
        rng.uniform(0, 360),
        rng.choice([0.04, 0.1, 0.2, 0.4], p=[0.3, 0.3, 0.25, 0.15]),
        rng.uniform(low, high),
    )


@cache
def noise_tile() -> Array:
    """Three periodic noises (3, 256, 256) in [0, 1], float32: clouds of many sizes, fine grain, and smooth
    folds.
    """
    rng = np.random.default_rng(20240)
    out = np.zeros((3, NOISE_SIZE, NOISE_SIZE))
    for channel, cells in ((0, (4, 8, 16, 32, 64)), (1, (32, 64, 128)), (2, (4, 8, 16))):
        for n in cells:
            grid = np.pad(rng.random((n, n)), 4, mode="wrap")
            size = NOISE_SIZE * (n + 8) // n
            big = cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
            edge = 4 * NOISE_SIZE // n
            out[channel] += big[edge : edge + NOISE_SIZE, edge : edge + NOISE_SIZE] * (4.0 / n) ** 0.8
    out -= out.min((1, 2), keepdims=True)
    return np.asarray(np.round(out / out.max((1, 2), keepdims=True), 4), dtype=np.float32)


def chromaticity(rgb: Array) -> Array:
    """Share of each channel, damped in the dark, (3,)."""
    return np.asarray(rgb / (rgb.sum() + 0.12))


def cloth_colour(rng: Rng, skin: Array, tries: int = 40) -> Array:
    """A colour (3,) that nobody takes for the given skin, lit or in shade: the chromaticity differs."""
    colour: Array = np.full(3, 0.2)
    for _ in range(tries):
        kind = rng.random()
        if kind < 0.26:  # black, greys, white
            colour = np.full(3, rng.choice([0.08, 0.14, 0.3, 0.5, 0.75, 0.9])) + rng.normal(0, 0.012, 3)
        elif kind < 0.42:  # navy and denim blues
            colour = hsv(rng.normal(218, 8), rng.uniform(0.35, 0.8), rng.uniform(0.2, 0.6))
        elif kind < 0.76:  # muted
            colour = hsv(rng.uniform(0, 360), rng.uniform(0.15, 0.5), rng.uniform(0.25, 0.8))
        else:  # strong
            colour = hsv(
                rng.choice([2, 12, 35, 50, 130, 170, 205, 225, 280, 330]) + rng.normal(0, 8),
                rng.uniform(0.5, 0.9),
                rng.uniform(0.35, 0.9),
            )
        if np.abs(chromaticity(colour) - chromaticity(skin)).sum() > 0.15:
            break
    return np.asarray(np.clip(colour, 0.03, 0.97))
