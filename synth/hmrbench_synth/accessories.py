"""Shoes, skirts and small things that a person wears: geometry beyond shells over the body."""

from __future__ import annotations

import numpy as np

from hmrbench.records import Array
from hmrbench_synth import anatomy as an
from hmrbench_synth import materials as mt
from hmrbench_synth.anatomy import Body
from hmrbench_synth.meshes import Part, bone_mix, box, ellipsoid, loose, ramp, solid, tube

Rng = np.random.Generator


def shoes(rng: Rng, body: Body, rest: Array, joints: Array, skin: Array) -> tuple[list[Part], Array | None, Array]:
    """Both shoes, the cover (V,) of socks or None, and how far skin vertices (V,) stay out of the shoe."""
    p = body.template
    ground = float(p[:, 1].min())
    if rng.random() < 0.05:
        return [], None, np.ones(len(p))
    kind = str(rng.choice(["sneaker", "leather", "boot"], p=[0.62, 0.23, 0.15]))
    upper = mt.cloth_colour(rng, skin) if kind == "sneaker" else np.array([0.2, 0.12, 0.07]) * rng.uniform(0.3, 1.4)
    sole = np.full(3, rng.choice([0.92, 0.85, 0.15])) if kind == "sneaker" else np.full(3, 0.07)
    gloss = 0.02 if kind == "sneaker" else 0.12
    row = mt.material(
        upper, sole, pattern=mt.BLOCK, duty=ground + 0.016, wrap=mt.FLAT, gloss=gloss, sharpness=25, soft=0.1
    )
    height = 0.095 if kind != "boot" else 0.13
    parts = [_shoe(body, rest, joints, side, row, height) for side in (0, 1)]
    y = p[:, 1]
    foot = y < -0.8
    bare = np.where(foot, y - (ground + height - 0.02), 1.0)
    socks = None
    socks_top = ground + (rng.uniform(0.24, 0.42) if kind == "boot" else rng.choice([0.0, 0.16, 0.24]))
    if socks_top > ground + 0.1:
        socks = np.where(foot | (y < -0.5), np.minimum(socks_top - y, y - (ground + height - 0.03)), -0.05)
    return parts, socks, bare


def _shoe(body: Body, rest: Array, joints: Array, side: int, row: Array, height: float) -> Part:
    """A rounded shoe around the foot of a shape: rings along the foot, flat at the sole."""
    sign = 1.0 if side == 0 else -1.0
    mine = np.isin(body.part, [an.ANKLE + side, an.FOOT + side]) & (body.template[:, 1] < -0.86)
    foot = rest[mine]
    ground, heel, toe = foot[:, 1].min(), foot[:, 2].min(), foot[:, 2].max()
    stations = np.linspace(0, 1, 15)
    middle, half, tall = (np.zeros(len(stations)) for _ in range(3))
    for k, s in enumerate(stations):
        z = heel + s * (toe - heel)
        near = foot[np.abs(foot[:, 2] - z) < 0.02]
        middle[k], half[k], tall[k] = (
            0.5 * (near[:, 0].min() + near[:, 0].max()),
            0.5 * np.ptp(near[:, 0]),
            near[:, 1].max() - ground,
        )
    kernel = np.array([0.25, 0.5, 0.25])
    middle, half, tall = (np.convolve(np.pad(a, 1, mode="edge"), kernel, "valid") for a in (middle, half, tall))
    round_end = np.sqrt(np.clip(1 - np.clip((np.abs(stations - 0.46) - 0.3) / 0.27, 0, 1) ** 2, 0, 1))
    half = (half + 0.008) * np.maximum(round_end, 0.05)
    ankle_z = joints[an.ANKLE + side][2]
    along = heel - 0.014 + stations * (toe - heel + 0.034)
    opening = ramp(along, ankle_z + 0.035, ankle_z + 0.11)
    top = np.minimum(height * (1 - opening) + (tall + 0.012) * opening, height) * np.maximum(round_end, 0.35) ** 0.35
    top = np.maximum(top, 0.035)
    phi = np.linspace(0, 2 * np.pi, 20, endpoint=False) + np.pi / 20
    cx = np.sign(np.cos(phi)) * np.abs(np.cos(phi)) ** 0.65
    sy = np.where(np.sin(phi) > 0, np.sin(phi), -(np.abs(np.sin(phi)) ** 0.35))
    rings = []
    for k in range(len(stations)):
        base = ground - 0.014
        belly = 0.022
        up = np.where(sy > 0, belly + (top[k] + 0.014 - belly) * sy, belly * (1 + sy))
        narrow = 1 - 0.38 * np.clip(sy, 0, 1) ** 1.5
        rings.append(np.stack([middle[k] + half[k] * cx * narrow, base + up, np.full_like(phi, along[k])], -1))
    first, last = rings[0].mean(0), rings[-1].mean(0)
    rings = [np.tile(first, (len(phi), 1)) * 0.999 + rings[0] * 0.001, *rings, np.tile(last, (len(phi), 1))]
    vertices, faces = tube(np.stack(rings))
    front = ramp(vertices[:, 2], joints[an.FOOT + side][2] - 0.03, joints[an.FOOT + side][2] + 0.02)
    bones, weights = bone_mix(len(vertices), body.bones.shape[1], (an.ANKLE + side, 1 - front), (an.FOOT + side, front))
    texture = vertices + np.array([0.0, float(body.template[:, 1].min()) - ground, 0.0])
    texture[:, 0] *= sign
    return loose(vertices, faces, row, bones, weights, texture=texture)


def skirt(rng: Rng, body: Body, rest: Array, joints: Array, row: Array, hem: float) -> Part:
    """A skirt from the waist to `hem` (rest height of the average shape), hung around hips and thighs."""
    p = body.template
    theta = np.linspace(-np.pi, np.pi, 64, endpoint=False)
    levels = np.linspace(0.11, hem, 16)
    flare = rng.uniform(0.02, 0.34)
    pleats, depth = rng.choice([0, 9, 14]), rng.uniform(0.006, 0.018)
    trunk = (np.abs(p[:, 0]) < 0.4) & (p[:, 1] < 0.3)
    rings, wide, deep = [], 0.0, 0.0
    for y in levels:
        near = rest[trunk & (np.abs(p[:, 1] - y) < 0.02)]
        real = float(near[:, 1].mean())
        wide = max(wide * 0.99, float(np.abs(near[:, 0]).max()))
        centre = 0.5 * float(near[:, 2].max() + near[:, 2].min())
        deep = max(deep * 0.99, 0.5 * float(np.ptp(near[:, 2])))
        drop = 0.11 - y
        grow = 0.014 + flare * drop * 0.5
        fold = depth * np.sin(pleats * theta) * np.clip(drop / 0.3, 0, 1)
        r_x, r_z = wide + grow + fold, deep * 1.04 + grow + fold
        cx = np.sign(np.sin(theta)) * np.abs(np.sin(theta)) ** 0.85
        rings.append(np.stack([r_x * cx, np.full_like(theta, real), centre + r_z * np.cos(theta)], -1))
    vertices, faces = tube(np.stack(rings))
    y = np.repeat(levels, len(theta))
    legs = ramp(-y, -0.02, 0.2)
    left = ramp(vertices[:, 0], -0.13, 0.13)
    calf = 0.75 * ramp(-y, 0.42, 0.6)
    left, right = legs * left, legs * (1 - left)
    shares = (
        (an.PELVIS, 1 - legs),
        (an.HIP, left * (1 - calf)),
        (an.HIP + 1, right * (1 - calf)),
        (an.KNEE, left * calf),
        (an.KNEE + 1, right * calf),
    )
    bones, weights = bone_mix(len(y), body.bones.shape[1], *shares)
    texture = np.stack([vertices[:, 0], y, vertices[:, 2]], -1)
    return loose(
        vertices,
        faces,
        mt.with_columns(row, logo=mt.NO_LOGO),
        bones,
        weights,
        y - hem,
        texture,
        two_sided=True,
    )


def worn_things(rng: Rng, body: Body, rest: Array, skin: Array) -> list[Part]:
    """Now and then sunglasses, a backpack, or a thing in the hand."""
    parts: list[Part] = []
    width = body.bones.shape[1]
    if rng.random() < 0.1:
        row = mt.material(np.full(3, 0.05), gloss=0.3, sharpness=40)
        eyes = np.stack([rest[body.masks["eye"] & (body.template[:, 0] * s > 0)].mean(0) for s in (1, -1)])
        for eye in eyes:
            parts.append(
                solid(
                    *ellipsoid(eye + np.array([0, -0.002, 0.022]), np.array([0.025, 0.019, 0.008]), 14, 7),
                    row,
                    body,
                )
            )
        bar = eyes.mean(0) + np.array([0, 0.006, 0.028])
        parts.append(solid(*box(bar - np.array([0.03, 0.003, 0.003]), bar + np.array([0.03, 0.003, 0.003])), row, body))
    if rng.random() < 0.07:
        row = mt.material(mt.cloth_colour(rng, skin), soft=0.2, bump=0.006, bump_freq=2, tone=0.1, tone_freq=1)
        back = float(rest[(body.part == an.SPINE3) & (np.abs(body.template[:, 0]) < 0.1)][:, 2].min())
        centre = np.array([0.0, 0.32, back - 0.075])
        parts.append(solid(*ellipsoid(centre, np.array([0.16, 0.23, 0.1]), 24, 13), row, body, an.SPINE3))
    if rng.random() < 0.12:
        side = int(rng.integers(2))
        tip = rest[(body.part == an.HAND + side)].mean(0)
        colour = mt.cloth_colour(rng, skin)
        row = mt.material(colour, np.clip(colour * 0.5, 0, 1), gloss=0.1, soft=0.1)
        if rng.random() < 0.5:
            half = np.array([0.075, 0.006, 0.04])
            vertices, faces = box(tip - half + np.array([0, -0.035, 0]), tip + half + np.array([0, -0.035, 0]))
        else:
            vertices, faces = ellipsoid(tip + np.array([0.0, -0.1, 0.0]), np.full(3, rng.uniform(0.04, 0.11)))
        parts.append(loose(vertices, faces, row, (an.WRIST + side,), width=width))
    return parts
