"""Where people are: rooms, streets, parks and studios, and their light.

World frame: metres, x to the right of the camera, y up, ground at y = 0, the camera somewhere at positive z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hmrbench.records import Array
from hmrbench_synth import materials as mt

Rng = np.random.Generator


@dataclass(frozen=True)
class Setting:
    """Surfaces, far view and light of a place, as `shading.surface` and `shading.light` read them.

    `floor_z` is the z of the back wall, or None outdoors.
    """

    name: str
    planes: Array
    decals: Array
    backdrop: Array
    rows: tuple[Array, ...]
    lamp: Array
    back_z: float | None


def wall(rng: Rng) -> Array:
    """The material of a wall."""
    kind = int(
        rng.choice([mt.PLAIN, mt.BRICKS, mt.TILES, mt.ALONG, mt.PLANKS, mt.DOTS], p=[0.52, 0.14, 0.1, 0.1, 0.1, 0.04])
    )
    a = mt.paint(rng, 0.45, 0.92)
    b = np.clip(a * rng.uniform(0.7, 1.15), 0, 1)
    if kind == mt.BRICKS:
        a, b = (
            mt.hsv(rng.uniform(5, 30), rng.uniform(0.05, 0.55), rng.uniform(0.35, 0.8)),
            np.full(3, rng.uniform(0.5, 0.8)),
        )
    period = {
        mt.BRICKS: 0.075,
        mt.TILES: rng.uniform(0.1, 0.3),
        mt.ALONG: rng.uniform(0.1, 0.5),
        mt.PLANKS: 0.12,
        mt.DOTS: 0.25,
    }.get(kind, 0.2)
    duty = {mt.TILES: 0.03, mt.ALONG: 0.5, mt.DOTS: 0.25}.get(kind, 0.5)
    return mt.material(
        a, b, pattern=kind, period=period, duty=duty, phase=rng.uniform(0, 1), tone=rng.uniform(0.03, 0.16),
        tone_freq=rng.uniform(0.15, 0.5), bump=0.004, bump_freq=1.0,
    )  # fmt: skip


def _indoor_floor(rng: Rng) -> Array:
    kind = int(rng.choice([mt.PLANKS, mt.TILES, mt.PLAIN, mt.CHECKER], p=[0.45, 0.27, 0.2, 0.08]))
    a = mt.paint(rng, 0.3, 0.8)
    if kind == mt.PLANKS:
        a = mt.hsv(rng.uniform(18, 40), rng.uniform(0.25, 0.6), rng.uniform(0.3, 0.8))
    period = {
        mt.PLANKS: rng.uniform(0.08, 0.16),
        mt.TILES: rng.uniform(0.25, 0.6),
        mt.CHECKER: rng.uniform(0.5, 1.0),
    }.get(kind, 1.0)
    duty = 0.02 if kind == mt.TILES else 0.5
    return mt.material(
        a, a * (0.4 if kind != mt.CHECKER else 0.65), pattern=kind, period=period, duty=duty, tone=0.12,
        tone_freq=0.6, bump=0.002, bump_freq=2, gloss=rng.choice([0.0, 0.02, 0.06]), sharpness=15,
    )  # fmt: skip


def _outdoor_floor(rng: Rng) -> Array:
    kind = rng.choice(["grass", "asphalt", "sand", "paving"], p=[0.36, 0.26, 0.16, 0.22])
    if kind == "grass":
        a = mt.hsv(rng.uniform(70, 115), rng.uniform(0.35, 0.65), rng.uniform(0.3, 0.6))
        return mt.material(
            a,
            mt.hsv(rng.uniform(50, 80), 0.45, 0.5),
            pattern=mt.LAWN,
            tone=0.25,
            tone_freq=0.5,
            bump=0.006,
            bump_freq=7,
        )
    if kind == "paving":
        a = np.full(3, rng.uniform(0.4, 0.75)) * np.array([1, 0.98, 0.93])
        return mt.material(
            a,
            a * 0.6,
            pattern=mt.TILES,
            period=rng.uniform(0.3, 0.8),
            duty=0.03,
            tone=0.2,
            tone_freq=0.4,
            bump=0.003,
            bump_freq=4,
        )
    a = (
        np.full(3, rng.uniform(0.22, 0.5))
        if kind == "asphalt"
        else mt.hsv(rng.uniform(30, 45), rng.uniform(0.2, 0.4), rng.uniform(0.6, 0.85))
    )
    return mt.material(a, tone=0.22, tone_freq=0.7, bump=0.006, bump_freq=6)


def _lamp(rng: Rng, kind: str) -> Array:
    """Light: sun or window from the camera's side mostly, ambient from above and below."""
    azimuth, height = rng.normal(0, 1.0), np.deg2rad(rng.uniform(28, 66))
    sun = np.array([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
    warm = 1 + rng.uniform(-0.08, 0.16) * np.array([1, 0.15, -1])
    if kind == "indoor":
        strength, above, under = (
            rng.uniform(0.5, 1.1),
            rng.uniform(0.5, 0.8) * np.ones(3),
            rng.uniform(0.3, 0.45) * np.ones(3),
        )
    elif rng.random() < 0.3:  # overcast
        strength, above, under = (
            rng.uniform(0.1, 0.35),
            np.array([0.88, 0.94, 1.0]),
            np.array([0.36, 0.36, 0.34]),
        )
    else:
        strength, above, under = (
            rng.uniform(1.1, 1.8),
            np.array([0.42, 0.52, 0.68]),
            np.array([0.26, 0.25, 0.22]),
        )
    return np.stack([sun, strength * warm, above, under, np.array([0.0, 0.3, 0.0])])


def _backdrop(rng: Rng) -> Array:
    hue = rng.uniform(200, 222)
    zenith = mt.linear(mt.hsv(hue, rng.uniform(0.25, 0.65), rng.uniform(0.55, 0.9)))
    horizon = mt.linear(
        mt.hsv(hue + rng.choice([0.0, -170.0], p=[0.8, 0.2]), rng.uniform(0.03, 0.2), rng.uniform(0.82, 0.98))
    )
    cloud = np.full(3, rng.uniform(0.75, 1.0))
    kind = int(rng.choice([0, 1, 2, 3], p=[0.15, 0.2, 0.4, 0.25]))
    if kind == 3:
        far, near = (mt.linear(mt.paint(rng, 0.4, 0.8)) for _ in range(2))
    else:
        far = mt.linear(mt.hsv(rng.uniform(90, 200), rng.uniform(0.15, 0.4), rng.uniform(0.35, 0.6)))
        near = mt.linear(mt.hsv(rng.uniform(75, 130), rng.uniform(0.3, 0.6), rng.uniform(0.15, 0.4)))
    size = {0: 0.0, 1: 0.12, 2: 0.22, 3: 0.3}[kind] * rng.uniform(0.6, 1.5)
    return np.stack([horizon, zenith, cloud, far, near, np.array([kind, size, rng.uniform(0, 1)])])


def sample_setting(rng: Rng) -> Setting:
    """A room, a studio, or a place outdoors with or without a wall behind."""
    kind = str(rng.choice(["room", "studio", "open", "facade"], p=[0.42, 0.1, 0.3, 0.18]))
    backdrop = _backdrop(rng)
    if kind == "studio":
        row = mt.material(mt.paint(rng, 0.3, 0.95), tone=0.03, tone_freq=0.2)
        planes = np.array([[0, 1, 0, 0, 0, 0], [0, 0, 1, -rng.uniform(1.0, 2.5), 0, 0]])
        return Setting(kind, planes, np.zeros((0, 7)), backdrop, (row,), _lamp(rng, "indoor"), float(planes[1, 3]))
    if kind == "open":
        planes = np.array([[0, 1, 0, 0, 0, 0]], dtype=np.float64)
        return Setting(kind, planes, np.zeros((0, 7)), backdrop, (_outdoor_floor(rng),), _lamp(rng, "outdoor"), None)
    back = -rng.uniform(0.9, 3.5)
    if kind == "facade":
        planes = np.array([[0, 1, 0, 0, 0, 0], [0, 0, 1, back, 1, 0]])
        rows, decals = _openings(rng, [_outdoor_floor(rng), wall(rng)], 1, -6.0, 6.0, glass_dark=True)
        return Setting(kind, planes, decals, backdrop, tuple(rows), _lamp(rng, "outdoor"), back)
    left, right, ceiling = rng.uniform(1.4, 4), rng.uniform(1.4, 4), rng.uniform(2.5, 3.6)
    planes = np.array(
        [
            [0, 1, 0, 0, 0, 0],
            [0, 0, 1, back, 1, 0],
            [1, 0, 0, -left, 1, 0],
            [-1, 0, 0, -right, 1, 0],
            [0, -1, 0, -ceiling, 2, 0],
        ]
    )
    ceiling_row = mt.material(np.full(3, rng.uniform(0.75, 0.95)), tone=0.05, tone_freq=0.3)
    rows, decals = _openings(rng, [_indoor_floor(rng), wall(rng), ceiling_row], 1, -left, right, glass_dark=False)
    skirting = mt.material(np.clip(mt.paint(rng, 0.3, 0.95), 0, 1))
    rows.append(skirting)
    boards = [[plane, -9, 0.0, 9, 0.09, len(rows) - 1, -1.0] for plane in (1, 2, 3)]
    decals = np.concatenate([np.array(boards, dtype=np.float64), decals])
    return Setting(kind, planes, decals, backdrop, tuple(rows), _lamp(rng, "indoor"), back)


def _openings(
    rng: Rng, rows: list[Array], plane: int, low: float, high: float, glass_dark: bool
) -> tuple[list[Array], Array]:
    """Windows, doors and pictures on a wall that do not overlap; returns all material rows and the decals."""
    decals: list[list[float]] = []
    x = low + rng.uniform(0.1, 0.8)
    frame = np.full(3, rng.choice([0.93, 0.3, 0.15])) if rng.random() < 0.7 else mt.paint(rng)
    while x < high - 0.5 and len(decals) < 9:
        kind = str(rng.choice(["window", "door", "picture", "gap"], p=[0.28, 0.14, 0.33, 0.25]))
        wide = {
            "window": rng.uniform(0.7, 1.6),
            "door": 0.9,
            "picture": rng.uniform(0.3, 1.0),
            "gap": rng.uniform(0.4, 1.5),
        }[kind]
        wide = min(wide, high - x - 0.05)
        if kind != "gap":
            y0, y1 = {
                "window": (0.9, 2.1),
                "door": (0.0, 2.05),
                "picture": (1.2, 1.2 + wide * rng.uniform(0.6, 1.2)),
            }[kind]
            if kind == "window":
                glow = mt.hsv(210, 0.2, 0.35) if glass_dark else mt.hsv(205, rng.uniform(0.05, 0.25), 0.95)
                row = mt.material(
                    glow, frame, frame, pattern=mt.PANES, period=wide / 2, duty=0.05, trim=0.001,
                    tone_freq=0.35, tone=0.5 if glass_dark else 0.2, gloss=0.2, sharpness=30,
                    emit=0.0 if glass_dark else 1.0,
                )  # fmt: skip
            elif kind == "door":
                colour = mt.paint(rng, 0.25, 0.9)
                row = mt.material(
                    colour, colour * 0.85, colour * 0.7, pattern=mt.PANES, period=0.45, duty=0.06, trim=0.001,
                    tone=0.05, tone_freq=1,
                )  # fmt: skip
            else:
                kinds = [mt.FADE, mt.CAMO, mt.DIAMONDS, mt.ACROSS, mt.BLOCK, mt.DOTS, mt.PLAIN]
                row = mt.material(
                    mt.paint(rng), mt.paint(rng), frame, pattern=int(rng.choice(kinds)),
                    period=rng.uniform(0.08, 0.4), phase=rng.uniform(0, 1), trim=0.001, tone=0.4,
                    tone_freq=0.8,
                )  # fmt: skip
            rows.append(row)
            decals.append([plane, x, y0, x + wide, y1, len(rows) - 1, 0.035 if kind == "picture" else 0.06])
        x += wide + rng.uniform(0.15, 0.9)
    return rows, np.array(decals, dtype=np.float64).reshape(-1, 7)
