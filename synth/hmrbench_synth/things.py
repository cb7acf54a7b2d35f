"""Things that stand about: furniture, plants, posts, seats.

Frame: metres, y up, the ground at y = 0.
"""

from __future__ import annotations

import numpy as np

from hmrbench.records import Array
from hmrbench_synth import anatomy as an
from hmrbench_synth import materials as mt
from hmrbench_synth.meshes import Part, box, cylinder, ellipsoid, loose
from hmrbench_synth.world import wall

Rng = np.random.Generator


def _sides(vertices: Array) -> Array:
    """Texture points of a box's 24 vertices: each side flat, in metres."""
    out = np.zeros((24, 3))
    for s in range(6):
        corner = vertices[4 * s : 4 * s + 4]
        flat = int(np.argmin(np.ptp(corner, axis=0)))
        u, v = {0: (2, 1), 1: (0, 2), 2: (0, 1)}[flat]
        out[4 * s : 4 * s + 4, 0], out[4 * s : 4 * s + 4, 1] = corner[:, u], corner[:, v]
    return out


def block(low: Array, high: Array, row: Array) -> Part:
    """A box standing in the world."""
    vertices, faces = box(np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64))
    return loose(vertices, faces, row, texture=_sides(vertices))


def _wood_or_paint(rng: Rng) -> Array:
    if rng.random() < 0.45:
        wood = mt.hsv(rng.uniform(18, 38), rng.uniform(0.3, 0.6), rng.uniform(0.25, 0.75))
        return mt.material(
            wood,
            wood * 0.5,
            pattern=mt.PLANKS,
            period=rng.uniform(0.1, 0.3),
            tone=0.1,
            tone_freq=1,
            gloss=0.03,
            sharpness=15,
        )
    kind = int(rng.choice([mt.PLAIN, mt.PLAIN, mt.PLAIN, mt.ALONG, mt.CHECKER, mt.FADE]))
    return mt.material(
        mt.paint(rng, 0.2, 0.9), mt.paint(rng, 0.2, 0.9), pattern=kind, period=rng.uniform(0.1, 0.4),
        tone=0.08, tone_freq=1, gloss=rng.choice([0.0, 0.05]), sharpness=15,
    )  # fmt: skip


def thing(rng: Rng, height: float, wide: float, outdoors: bool) -> list[Part]:
    """A piece of furniture, a plant, a post or a crate about so high and wide, standing at the origin."""
    kinds = (
        ["bush", "post", "crate", "low wall", "bench"]
        if outdoors
        else ["table", "cabinet", "crate", "plant", "post", "bench"]
    )
    kind = str(rng.choice(kinds))
    row, half, deep = _wood_or_paint(rng), wide / 2, rng.uniform(0.18, 0.32)
    if kind in ("table", "bench"):
        height = min(height, 1.05 if kind == "table" else 0.55)
        half = max(half, 0.45 * height)
        legs = [(x, z) for x in (-half + 0.04, half - 0.04) for z in (-deep + 0.04, deep - 0.04)]
        top = [block(np.array([-half, height - 0.04, -deep]), np.array([half, height, deep]), row)]
        return top + [
            block(np.array([x - 0.025, 0, z - 0.025]), np.array([x + 0.025, height - 0.04, z + 0.025]), row)
            for x, z in legs
        ]
    if kind == "post":
        return [loose(*cylinder(np.zeros(3), rng.uniform(0.05, 0.16), max(height, 1.0) * rng.uniform(1.2, 2.4)), row)]
    if kind in ("bush", "plant"):
        leaf = mt.hsv(rng.uniform(80, 135), rng.uniform(0.3, 0.6), rng.uniform(0.18, 0.42))
        green = mt.material(leaf, np.clip(leaf * 1.4, 0, 1), pattern=mt.LEAVES, bump=0.05, bump_freq=4, soft=0.5)
        base = 0.0 if kind == "bush" else 0.35 * height
        parts = [] if kind == "bush" else [loose(*cylinder(np.zeros(3), 0.4 * half + 0.04, base, taper=1.3), row)]
        tall = height - base
        for _ in range(9):
            at = np.array(
                [
                    rng.uniform(-0.6, 0.6) * half,
                    base + rng.uniform(0.25, 0.75) * tall,
                    rng.uniform(-0.4, 0.4) * half,
                ]
            )
            radius = rng.uniform(0.3, 0.5) * np.array([min(wide, 1.2 * tall), 0.6 * tall, min(wide, 1.2 * tall)])
            vertices, faces = ellipsoid(np.zeros(3), radius, 26, 15)
            parts.append(loose(vertices * rng.normal(1, 0.07, (len(vertices), 1)) + at, faces, green))
        return parts
    thick = 0.08 if kind == "low wall" else deep
    return [
        block(
            np.array([-half, 0, -thick]),
            np.array([half, height, thick]),
            wall(rng) if kind == "low wall" else row,
        )
    ]


def placed(part: Part, yaw_deg: float, at: Array) -> Part:
    """The part turned about the vertical and moved."""
    turned = np.einsum("nk,ck->nc", part.vertices, an.euler(y=yaw_deg)) + at
    return Part(**{**part.__dict__, "vertices": turned})


def seat(rng: Rng, height: float) -> list[Part]:
    """Something to sit on, its top at `height`, in the frame of who sits (facing +z)."""
    row, half = _wood_or_paint(rng), rng.uniform(0.2, 0.26)
    kind = str(rng.choice(["chair", "stool", "cube", "bench"]))
    if kind == "stool":
        pole = loose(*cylinder(np.zeros(3), 0.05, height - 0.03), row)
        return [loose(*cylinder(np.array([0, height - 0.05, 0.0]), half, 0.05), row), pole]
    if kind == "cube":
        return [block(np.array([-half, 0, -half]), np.array([half, height, half]), row)]
    if kind == "bench":
        long = rng.uniform(0.5, 0.9)
        legs = [
            block(np.array([x - 0.04, 0, -0.17]), np.array([x + 0.04, height - 0.05, 0.17]), row)
            for x in (-long + 0.1, long - 0.1)
        ]
        return [block(np.array([-long, height - 0.05, -0.2]), np.array([long, height, 0.2]), row), *legs]
    ends = (-half + 0.03, half - 0.03)
    parts = [
        block(np.array([x - 0.02, 0, z - 0.02]), np.array([x + 0.02, height - 0.04, z + 0.02]), row)
        for x in ends
        for z in ends
    ]
    parts.append(block(np.array([-half, height - 0.05, -half]), np.array([half, height, half]), row))
    return [
        *parts,
        block(
            np.array([-half, height, -half - 0.04]),
            np.array([half, height + rng.uniform(0.3, 0.5), -half]),
            row,
        ),
    ]
