"""First pass of the shader: colour, normal, position and height of every sample.

Where a pixel shows one background surface only, its four samples share one evaluation.
"""

from __future__ import annotations

import math

import numpy as np

from hmrbench.records import Array
from hmrbench_synth import materials as mt
from hmrbench_synth.backdrop import background, paint_background
from hmrbench_synth.raster import njit
from hmrbench_synth.textures import texture


@njit
def unwrap(row: Array, p: Array) -> tuple[float, float]:
    """Texture coordinates in metres of a point at rest."""
    if row[mt.WRAP] == mt.AROUND_Y:
        x = abs(p[0]) if row[mt.CENTRE_0] > 0.0 else p[0]
        return math.atan2(x - row[mt.CENTRE_0], p[2] - row[mt.CENTRE_1]) * row[mt.RADIUS], p[1]
    if row[mt.WRAP] == mt.AROUND_X:
        return math.atan2(p[1] - row[mt.CENTRE_0], p[2] - row[mt.CENTRE_1]) * row[mt.RADIUS], abs(p[0])
    return p[0], p[1]


@njit
def store(
    y: int,
    x: int,
    tag: int,
    rgb: Array,
    n: Array,
    p: Array,
    h: float,
    row: Array,
    colour: Array,
    normal: Array,
    position: Array,
    extra: Array,
) -> None:
    """Put a surface point into the buffers."""
    for k in range(3):
        colour[y, x, k] = rgb[k]
        normal[y, x, k] = n[k]
        position[y, x, k] = p[k]
    extra[y, x, 0] = h
    extra[y, x, 4] = tag
    extra[y, x, 1] = row[mt.GLOSS]
    extra[y, x, 2] = row[mt.SHARPNESS]
    extra[y, x, 3] = -1.0 if row[mt.EMIT] > 0 else row[mt.SOFT]


@njit
def _same(tags: Array) -> bool:
    """Whether four samples see the same plane and decal."""
    same = True
    for s in range(1, 4):
        same = same and tags[s, 0] == tags[0, 0] and tags[s, 1] == tags[0, 1]
    return same


@njit
def surface(
    face: Array, bary: Array, depth: Array, faces: Array, attributes: Array, face_material: Array,
    rows: Array, planes: Array, decals: Array, backdrop: Array, camera: Array, noise: Array,
    colour: Array, normal: Array, position: Array, extra: Array,
) -> None:  # fmt: skip
    """First pass, into colour, normal, position (H, W, 3 each) and extra (H, W, 5: height, gloss, sharpness,
    softness, surface).

    `attributes` (V, 11) holds world position, world normal, rest point, cover and mark of each vertex;
    `planes` (P, 6) normal, offset and material of the room's surfaces; `decals` (D, 7) plane, rectangle,
    material, frame width; `camera` (5, 3) eye, axes right, down, forward, and (focal, centre x, centre y) in
    samples. H and W are even. Softness is negative where a sample gives its own light.
    """
    height, width = face.shape
    p, n, t, ray, rgb = np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3)
    tags = np.zeros((4, 2), np.int64)
    for block in range((height // 2) * (width // 2)):
        by, bx = 2 * (block // (width // 2)), 2 * (block % (width // 2))
        if bx % 8 == 0:  # does a strip of four pixels see the same surface at its ends?
            last = min(bx + 7, width - 1)
            for s in range(4):
                tags[s, 0], tags[s, 1] = background(last if s & 1 else bx, by + (s >> 1), planes, decals, camera, ray)
            whole = _same(tags)
        if not whole:
            for s in range(4):
                tags[s, 0], tags[s, 1] = background(bx + (s & 1), by + (s >> 1), planes, decals, camera, ray)
        alone = whole or _same(tags)
        for s in range(4):
            alone = alone and face[by + (s >> 1), bx + (s & 1)] < 0
        for s in range(4):
            y, x = by + (s >> 1), bx + (s & 1)
            i = face[y, x]
            if i < 0 and alone and s > 0:
                for k in range(3):
                    colour[y, x, k] = colour[by, bx, k]
                    normal[y, x, k] = normal[by, bx, k]
                    position[y, x, k] = position[by, bx, k]
                for k in range(5):
                    extra[y, x, k] = extra[by, bx, k]
                depth[y, x] = depth[by, bx]
            elif i < 0:
                shift, wide = (0.5, 2.0) if alone else (0.0, 1.0)
                hit, decal = tags[s, 0], tags[s, 1]
                depth[y, x], h, chosen = paint_background(
                    x + shift,
                    y + shift,
                    wide,
                    hit,
                    decal,
                    planes,
                    decals,
                    rows,
                    backdrop,
                    camera,
                    noise,
                    ray,
                    p,
                    n,
                    rgb,
                )
                store(
                    y,
                    x,
                    1000 + 10 * chosen + hit,
                    rgb,
                    n,
                    p,
                    h,
                    rows[chosen],
                    colour,
                    normal,
                    position,
                    extra,
                )
                if hit < 0:
                    extra[y, x, 3] = -1.0
            else:
                wa, wb = bary[y, x, 0], bary[y, x, 1]
                wc = 1.0 - wa - wb
                a, b, c = faces[i, 0], faces[i, 1], faces[i, 2]
                away = size = 0.0
                for k in range(3):
                    p[k] = wa * attributes[a, k] + wb * attributes[b, k] + wc * attributes[c, k]
                    n[k] = wa * attributes[a, 3 + k] + wb * attributes[b, 3 + k] + wc * attributes[c, 3 + k]
                    t[k] = wa * attributes[a, 6 + k] + wb * attributes[b, 6 + k] + wc * attributes[c, 6 + k]
                    size += n[k] * n[k]
                    away += n[k] * (p[k] - camera[0, k])
                cover = wa * attributes[a, 9] + wb * attributes[b, 9] + wc * attributes[c, 9]
                mark = wa * attributes[a, 10] + wb * attributes[b, 10] + wc * attributes[c, 10]
                size = math.sqrt(size) + 1e-9
                inside = away > 0.2 * size * depth[y, x]  # the inner side of a skirt, say
                for k in range(3):
                    n[k] = -n[k] / size if inside else n[k] / size
                row = rows[face_material[i]]
                u, v = unwrap(row, t)
                h = texture(row, t, u, v, cover, mark, depth[y, x] / camera[4, 0], noise, rgb)
                if inside:
                    for k in range(3):
                        rgb[k] *= 0.4
                store(y, x, 100000 + face_material[i], rgb, n, p, h, row, colour, normal, position, extra)
