"""What is drawn on a person: marks on the chest, and eyes, brows, lips and beard."""

from __future__ import annotations

import math

from hmrbench.records import Array
from hmrbench_synth import materials as mt
from hmrbench_synth.noise import below, tile
from hmrbench_synth.raster import njit

EYE_X, EYE_Y, EYE_Z, EYE_RADIUS = (
    0.031,
    0.722,
    0.119,
    0.0155,
)  # the left eyeball, average shape at rest, metres
CHIN_Y, MOUTH_Y = 0.605, 0.647


@njit
def logo(row: Array, p: Array, width: float) -> float:
    """How much of the third colour a mark on the chest puts at a rest point."""
    kind = int(row[mt.LOGO])
    if kind == 0 or p[2] < 0.02 or abs(p[0]) > 0.15 or p[1] > 0.46:
        return 0.0
    x, y, r = p[0] - row[mt.LOGO_X], p[1] - row[mt.LOGO_Y], row[mt.LOGO_R]
    far = math.sqrt(x * x + y * y)
    if kind == mt.DISC:
        return below(far, r, width)
    if kind == mt.RING:
        return below(abs(far - 0.8 * r), 0.18 * r, width)
    if kind == mt.BAR:
        return below(abs(y), 0.35 * r, width) * below(abs(x), 0.155, width)
    if kind == mt.WORDS:
        line = below(abs(y), 0.22 * r, width) * below(abs(x), 1.3 * r, width)
        q = x / (0.34 * r)
        cell = math.floor(q)
        q -= cell
        odd = int(cell) & 1
        bar = below(q, 0.72, width / (0.34 * r)) * (1.0 - 0.8 * below(abs(q - 0.38), 0.14, 0.1) * (1 - odd))
        return line * max(bar, below(abs(y - (0.12 if odd else -0.12) * r), 0.05 * r, width))
    if kind == mt.NUMBER:
        one = below(abs(x + 0.55 * r), 0.16 * r, width) * below(abs(y), r, width)
        side = below(abs(x - 0.45 * r), 0.42 * r, width) * below(abs(y), r, width)
        hole = below(abs(x - 0.45 * r), 0.14 * r, width) * below(abs(abs(y) - 0.42 * r), 0.26 * r, width)
        return max(one, side * (1.0 - hole))
    if kind == mt.BUTTONS:
        q = p[1] / 0.085
        q = (q - math.floor(q) - 0.5) * 0.085
        return max(below(math.sqrt(x * x + q * q), 0.0075, width), 0.5 * below(abs(abs(x) - 0.016), 0.0012, width))
    if kind == mt.ZIP:
        return below(abs(x), 0.006, width)
    return 0.0


@njit
def face_paint(row: Array, p: Array, mark: float, width: float, noise: Array, rgb: Array) -> None:
    """Eyes, brows, lips and beard on skin at a rest point (3,), into `rgb` in place."""
    if p[1] < CHIN_Y - 0.06:
        return
    x = abs(p[0])
    dx, dy, dz = x - EYE_X, p[1] - EYE_Y, p[2] - EYE_Z
    if mark < -0.5:  # the ball of the eye
        radius = math.sqrt(dx * dx + dy * dy + dz * dz) + 1e-9
        gaze = row[mt.GAZE] if p[0] > 0 else -row[mt.GAZE]
        off = math.acos(max(-1.0, min(1.0, (dz * math.cos(gaze) + dx * math.sin(gaze)) / radius)))
        iris, pupil = below(off, 0.5, width / EYE_RADIUS), below(off, 0.22, width / EYE_RADIUS)
        lid = 0.55 + 0.45 * below(dy, 0.004, 0.006)
        for k in range(3):
            white = (0.8, 0.78, 0.76)[k]
            rgb[k] = (white + (row[mt.COLOUR_C + k] - white) * iris) * (1.0 - 0.95 * pupil) * lid
        return
    if p[2] < EYE_Z - 0.06:
        return
    arc = row[mt.BROW] + 0.007 * math.cos(dx * 70.0) - 0.1 * max(0.0, dx - 0.012)
    brow = below(abs(dy - arc), 0.0042 - 0.05 * max(0.0, dx - 0.005), max(width, 0.002)) * below(
        abs(dx - 0.001), 0.021, 0.004
    )
    hair = 0.85 * brow
    lash = below(abs(math.sqrt(dx * dx + 1.7 * dy * dy) - 0.0152), 0.0016, max(width, 0.0015)) * below(-dy, 0.0, 0.004)
    hair = max(hair, 0.6 * lash * below(abs(dx), 0.02, 0.004))
    beard = 0.0
    if row[mt.BEARD] > 0.0:
        jaw = below(p[1], MOUTH_Y + 0.02 + 1.3 * max(0.0, x - 0.03), 0.016) * below(-p[1], -(CHIN_Y - 0.012), 0.012)
        bare = below(math.sqrt(x * x + (1.6 * (p[1] - MOUTH_Y)) ** 2), 0.024, 0.006)
        beard = row[mt.BEARD] * jaw * (1.0 - bare) * below(-p[2], -(EYE_Z - 0.06), 0.03)
        beard *= 0.8 + 0.3 * tile(noise, 1, p[0] * 4, p[1] * 4)
    lips = max(0.0, min(1.0, mark)) * row[mt.LIPS]
    flush = 0.16 * below(math.sqrt((x - 0.04) ** 2 + (p[1] - MOUTH_Y - 0.04) ** 2), 0.014, 0.03)
    for k in range(3):
        rgb[k] *= (1.0, 1.0 - 0.8 * flush, 1.0 - 0.7 * flush)[k]
        rgb[k] += (rgb[k] * (0.82, 0.45, 0.46)[k] - rgb[k]) * lips
        rgb[k] += (row[mt.COLOUR_B + k] - rgb[k]) * min(1.0, max(hair, beard))
