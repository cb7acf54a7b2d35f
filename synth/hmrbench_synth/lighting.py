"""Second pass of the shader: a sun with a soft shadow, ambient light of sky and ground, and a highlight.

Normals are first bent by the height of the surface (Mikkelsen 2010, bump mapping unparametrised surfaces).
Ambient light is dimmed where little sky is seen, which a second shadow map, from straight above, tells.
"""

from __future__ import annotations

import math

import numpy as np

from hmrbench.records import Array
from hmrbench_synth.raster import njit


@njit
def shadow(light_map: Array, frame: Array, p: Array, bias: float, reach: int) -> float:
    """Share of the light that arrives at a point: mean over (2 reach + 1)^2 samples of a depth map.

    `light_map` (3, H, W): the depth, and its minimum and maximum around each texel, which answer most points
    at once. `frame` (5, 3): axes right, up and away of the light, the map's middle, and (texels per metre,
    step in texels, 0).
    """
    _, height, width = light_map.shape
    x = y = z = 0.0
    for k in range(3):
        d = p[k] - frame[3, k]
        x += d * frame[0, k]
        y += d * frame[1, k]
        z += d * frame[2, k]
    x = x * frame[4, 0] + 0.5 * width
    y = y * frame[4, 0] + 0.5 * height
    near = z - bias
    cx, cy = math.floor(x), math.floor(y)
    if cx < 0 or cy < 0 or cx >= width or cy >= height or near <= light_map[1, cy, cx]:
        return 1.0
    if near > light_map[2, cy, cx]:
        return 0.0
    lit = total = 0.0
    step = frame[4, 1]
    for j in range(-reach, reach + 1):
        for i in range(-reach, reach + 1):
            sx, sy = x + i * step, y + j * step
            ix, iy = math.floor(sx), math.floor(sy)
            total += 1.0
            if ix < 0 or iy < 0 or ix >= width - 1 or iy >= height - 1:
                lit += 1.0
                continue
            fx, fy = sx - ix, sy - iy
            top = (1 - fx) * (near <= light_map[0, iy, ix]) + fx * (near <= light_map[0, iy, ix + 1])
            low = (1 - fx) * (near <= light_map[0, iy + 1, ix]) + fx * (near <= light_map[0, iy + 1, ix + 1])
            lit += (1 - fy) * top + fy * low
    return lit / total


@njit
def bend_normal(x: int, y: int, position: Array, extra: Array, n: Array) -> None:
    """Tilt a normal (3,) in place by the slope of the heights of the neighbours right and below."""
    height, width, _ = extra.shape
    x1 = x + 1 if x + 1 < width else x - 1
    y1 = y + 1 if y + 1 < height else y - 1
    hx = (extra[y, x1, 0] - extra[y, x, 0]) * (x1 - x)
    hy = (extra[y1, x, 0] - extra[y, x, 0]) * (y1 - y)
    if (hx == 0.0 and hy == 0.0) or extra[y, x1, 4] != extra[y, x, 4] or extra[y1, x, 4] != extra[y, x, 4]:
        return
    sx, sy = x1 - x, y1 - y
    ax = (position[y, x1, 0] - position[y, x, 0]) * sx
    ay = (position[y, x1, 1] - position[y, x, 1]) * sx
    az = (position[y, x1, 2] - position[y, x, 2]) * sx
    bx = (position[y1, x, 0] - position[y, x, 0]) * sy
    by = (position[y1, x, 1] - position[y, x, 1]) * sy
    bz = (position[y1, x, 2] - position[y, x, 2]) * sy
    wide, tall = ax * ax + ay * ay + az * az, bx * bx + by * by + bz * bz
    if wide > 0.0016 or tall > 0.0016 or wide < 1e-12 or tall < 1e-12:
        return
    r1x, r1y, r1z = by * n[2] - bz * n[1], bz * n[0] - bx * n[2], bx * n[1] - by * n[0]
    r2x, r2y, r2z = n[1] * az - n[2] * ay, n[2] * ax - n[0] * az, n[0] * ay - n[1] * ax
    det = ax * r1x + ay * r1y + az * r1z
    sign = 1.0 if det > 0 else -1.0
    det = abs(det)
    n[0] = det * n[0] - sign * (hx * r1x + hy * r2x)
    n[1] = det * n[1] - sign * (hx * r1y + hy * r2y)
    n[2] = det * n[2] - sign * (hx * r1z + hy * r2z)
    size = math.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) + 1e-12
    for k in range(3):
        n[k] /= size


@njit
def light(
    face: Array, colour: Array, normal: Array, position: Array, extra: Array, eye: Array, lamp: Array,
    sun_map: Array, sun_frame: Array, top_map: Array, top_frame: Array,
) -> None:  # fmt: skip
    """Second pass: colour (H, W, 3) from albedo to outgoing linear light, in place.

    `lamp` (5, 3): direction to the sun, its colour, ambient from above, ambient from below, (0, ambient
    floor, 0).
    """
    height, width = face.shape
    n, moved, to_eye, gain, shine = np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3), np.zeros(3)
    wraps = (0.4, 0.16, 0.08)  # light creeps round skin, red most
    for by in range(0, height, 2):
        for bx in range(0, width, 2):
            alone = face[by, bx] < 0
            for s in range(1, 4):
                alone = alone and extra[by + (s >> 1), bx + (s & 1), 4] == extra[by, bx, 4]
            for s in range(4):
                y, x = by + (s >> 1), bx + (s & 1)
                soft = extra[y, x, 3]
                if soft < 0.0:
                    continue
                if not alone or s == 0:
                    facing = far = 0.0
                    for k in range(3):
                        n[k] = normal[y, x, k]
                        to_eye[k] = eye[k] - position[y, x, k]
                        far += to_eye[k] * to_eye[k]
                        moved[k] = position[y, x, k] + 0.012 * n[k]
                    bend_normal(bx + 1 if alone else x, by + 1 if alone else y, position, extra, n)
                    far = math.sqrt(far)
                    half = rim = glance = 0.0
                    for k in range(3):
                        to_eye[k] /= far
                        facing += n[k] * lamp[0, k]
                        rim += n[k] * to_eye[k]
                        half += (to_eye[k] + lamp[0, k]) ** 2
                        glance += n[k] * (to_eye[k] + lamp[0, k])
                    seen = shadow(sun_map, sun_frame, moved, 0.012, 1) if facing > -0.4 else 0.0
                    open_sky = shadow(top_map, top_frame, moved, 0.02, 2)
                    up = 0.5 + 0.5 * n[1]
                    occlusion = lamp[4, 1] + (1.0 - lamp[4, 1]) * open_sky
                    gloss = extra[y, x, 1]
                    spark = fresnel = 0.0
                    if gloss > 0.0:
                        fresnel = 0.06 * gloss * (1.0 - max(0.0, min(1.0, rim))) ** 4
                        if facing > 0.0:
                            spark = gloss * max(0.0, glance / (math.sqrt(half) + 1e-9)) ** extra[y, x, 2] * seen
                    for k in range(3):
                        wrap = soft * wraps[k]
                        direct = max(0.0, (facing + wrap) / (1.0 + wrap))
                        ambient = (lamp[2, k] * up + lamp[3, k] * (1.0 - up)) * occlusion
                        gain[k] = ambient + lamp[1, k] * direct * seen * (0.65 + 0.35 * open_sky)
                        shine[k] = spark * lamp[1, k] + fresnel * ambient
                for k in range(3):
                    colour[y, x, k] = colour[y, x, k] * gain[k] + shine[k]
