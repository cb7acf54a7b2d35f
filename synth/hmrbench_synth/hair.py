"""Hair and hats: shells over the skull, hair that falls, tails, buns, caps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hmrbench.records import Array
from hmrbench_synth import anatomy as an
from hmrbench_synth import materials as mt
from hmrbench_synth.anatomy import Body
from hmrbench_synth.meshes import Part, bone_mix, ellipsoid, loose, ramp, shell, solid, tube

Rng = np.random.Generator
Place = Callable[[Array], Array]  # from the average head to this one
HAIRS = np.array(
    [[0.06, 0.045, 0.04], [0.16, 0.1, 0.07], [0.28, 0.18, 0.1], [0.45, 0.3, 0.16], [0.76, 0.6, 0.36],
     [0.5, 0.22, 0.1], [0.62, 0.61, 0.6], [0.1, 0.09, 0.1]]
)  # fmt: skip
HEAD_Z = 0.03  # the skull's axis


def _hairline(p: Array, wave: float) -> Array:
    """Metres inside the hairline (V,): across the forehead, before the ears, down to the nape."""
    y, z = p[:, 1], p[:, 2]
    line = np.interp(
        z, [-0.1, 0.0, 0.028, 0.045, 0.06, 0.085, 0.13], [0.635, 0.66, 0.69, 0.705, 0.755, 0.785, 0.79 + wave]
    )
    return np.asarray(y - line)


def _wave(p: Array, rng: Rng) -> Array:
    """A wave (V,) through space in a direction drawn at random."""
    return np.asarray(np.sin((p * rng.normal(0, 22, 3)).sum(1) + rng.uniform(0, 6)))


def hair_and_hat(
    rng: Rng, body: Body, rest: Array, normals: Array, skin: Array, feminine: bool
) -> tuple[Array, list[Part]]:
    """Hair colour (3,) and the parts of hair and hat."""
    p = body.template
    head = (body.part == an.HEAD) | ((body.part == an.NECK) & (p[:, 1] > 0.6))
    colour = np.clip(HAIRS[int(rng.integers(len(HAIRS)))] * rng.uniform(0.8, 1.2) + rng.normal(0, 0.01, 3), 0.02, 0.9)
    row = mt.material(
        colour, colour * 0.6, pattern=mt.HAIR, gloss=0.05, sharpness=10, tone=0.2, tone_freq=3, soft=0.2,
        wrap=mt.AROUND_Y, centre_1=HEAD_Z, radius=0.1,
    )  # fmt: skip
    shares = (
        [0.06, 0.02, 0.32, 0.17, 0.15, 0.1, 0.05, 0.0, 0.07, 0.06]
        if feminine
        else [0.42, 0.2, 0.05, 0, 0.02, 0, 0.05, 0.1, 0.1, 0.06]
    )
    style = str(rng.choice(["short", "crop", "long", "bob", "tail", "bun", "afro", "bald", "cap", "beanie"], p=shares))
    parts: list[Part] = []
    line = _hairline(p, rng.uniform(-0.012, 0.012)) + 0.006 * np.sin(p[:, 0] * 190) * np.cos(p[:, 2] * 150)
    cover = np.where(head & ~body.masks["ears"] & ~body.masks["eye"], line, -0.05)
    none = np.zeros(len(p), dtype=np.int64)
    volume = {
        "short": rng.uniform(0.012, 0.028),
        "crop": 0.005,
        "afro": rng.uniform(0.045, 0.08),
        "long": 0.018,
        "bob": 0.02,
    }.get(style, 0.01)
    if style != "bald":
        swell = 1 + 0.35 * _wave(p, rng) * _wave(p, rng)
        rise = np.clip(cover / (0.045 if style == "afro" else 0.03), 0.12, 1)
        parts.append(shell(body, rest, normals, cover, np.clip(volume * rise * swell, 0.002, 0.1), (row,), none))
    middle = rest[head].mean(0)
    stretch = float(np.ptp(rest[head][:, 0]) / np.ptp(p[head][:, 0]))
    old = p[head].mean(0)

    def place(points: Array) -> Array:
        return np.asarray((points - old) * stretch + middle)

    if style in ("long", "bob"):
        parts.append(_curtain(rng, body, place, row, 0.6 if style == "bob" else rng.uniform(0.34, 0.52), volume))
    if style == "tail":
        t = np.linspace(0, 1, 9)[:, None]
        spine = np.concatenate(
            [0 * t, 0.775 - 0.05 * t - rng.uniform(0.18, 0.32) * t**1.5, -0.115 - 0.09 * np.sin(2.2 * t)], 1
        )
        parts.append(
            _strand(place(spine), 0.036 * np.sin(np.pi * np.clip(t[:, 0] * 0.85 + 0.12, 0, 1)) + 0.006, row, body)
        )
    if style == "bun":
        parts.append(
            solid(
                *ellipsoid(place(np.array([[0, rng.uniform(0.76, 0.85), -0.1]]))[0], np.array([0.05, 0.045, 0.05])),
                row,
                body,
            )
        )
    if style in ("cap", "beanie"):
        parts += _hat(rng, body, rest, normals, head, place, style, skin)
    return colour, parts


def _strand(spine: Array, radius: Array, row: Array, body: Body) -> Part:
    """A tube of given radius along a line of points (N, 3), on the head."""
    phi = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = np.stack([np.cos(phi), 0.25 * np.sin(phi), np.sin(phi)], -1)
    return solid(*tube(spine[:, None] + radius[:, None, None] * ring), row, body)


def _curtain(rng: Rng, body: Body, place: Place, row: Array, end: float, volume: float) -> Part:
    """Hair that falls around the head and, if long, down the back."""
    p = body.template
    head = p[(body.part == an.HEAD) & ~body.masks["ears"]]
    theta = np.linspace(-np.pi, np.pi, 48, endpoint=False) + np.pi / 48
    levels = np.concatenate([np.linspace(0.828, 0.66, 9), np.linspace(0.645, end, 9)])
    axis = np.array([np.sin(theta), np.cos(theta)]).T
    rings, reach = [], np.zeros(len(theta))
    for y in levels:
        near = head[np.abs(head[:, 1] - max(y, 0.665)) < 0.009]
        flat = near[:, [0, 2]] - np.array([0.0, HEAD_Z])
        support = np.einsum("ak,nk->an", axis, flat).max(1)
        reach = np.maximum(support, reach * 0.97) if y > 0.655 else reach * 0.995 + 0.0004
        lift = volume * (1.0 + 0.15 * np.sin(5 * theta + 2)) * np.clip((0.84 - y) / 0.09, 0.1, 1)
        r = reach + lift
        rings.append(np.stack([r * np.sin(theta), np.full_like(theta, y), HEAD_Z + r * np.cos(theta)], -1))
    vertices, faces = tube(np.stack(rings))
    y, turn = vertices[:, 1], np.abs(np.tile(theta, len(levels)))
    opening = np.interp(
        y,
        [end, 0.56, 0.62, 0.7, 0.755, 0.785, 0.8],
        np.array([2.1 if end < 0.5 else 1.25, 1.5, 1.12, 1.0, 0.85, 0.3, -1.0]),
    )
    fringe = 0.012 * np.sin(theta * 9 + rng.uniform(0, 6))
    cover = np.minimum((turn - opening) * 0.1, y - end - 0.02 + np.tile(fringe, len(levels)))
    low = ramp(-y, -0.6, -0.42)
    bones, weights = bone_mix(len(y), body.bones.shape[1], (an.HEAD, 1 - low), (an.SPINE3, low))
    return loose(place(vertices), faces, row, bones, weights, cover, vertices, two_sided=True)


def _hat(
    rng: Rng, body: Body, rest: Array, normals: Array, head: Array, place: Place, style: str, skin: Array
) -> list[Part]:
    p = body.template
    a, b = mt.cloth_colour(rng, skin), mt.cloth_colour(rng, skin)
    ribbed = style == "beanie"
    row = mt.material(
        a, b, b, pattern=mt.ALONG if ribbed else mt.PLAIN, trim=0.03 if ribbed else 0.0, period=0.014,
        wrap=mt.AROUND_Y, centre_1=HEAD_Z, radius=0.1, bump=0.003, bump_freq=3, soft=0.2,
    )  # fmt: skip
    edge = (0.745 if ribbed else 0.768) + (0.25 if ribbed else 0.1) * (p[:, 2] - HEAD_Z)
    cover = np.where(head, p[:, 1] - edge, -0.05)
    parts = [
        shell(
            body,
            rest,
            normals,
            cover,
            np.full(len(p), 0.02 if ribbed else 0.016),
            (row,),
            np.zeros(len(p), dtype=np.int64),
        )
    ]
    if not ribbed:
        phi = np.linspace(-1.25, 1.25, 17)
        back = np.stack([0.086 * np.sin(phi), 0.782 + 0 * phi, HEAD_Z + 0.118 * np.cos(phi)], -1)
        front = np.stack(
            [0.088 * np.sin(phi), 0.772 - 0.02 * np.cos(phi), HEAD_Z + 0.12 + 0.085 * np.cos(phi) ** 0.8], -1
        )
        vertices, faces = tube(np.stack([back, 0.5 * (back + front) + np.array([0, 0.006, 0]), front]), closed=False)
        visor = mt.material(b if rng.random() < 0.4 else a, soft=0.1)
        parts.append(loose(place(vertices), faces, visor, (an.HEAD,), two_sided=True, width=body.bones.shape[1]))
    return parts
