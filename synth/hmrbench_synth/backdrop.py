"""What is seen where no face is: the planes of a room with their windows and pictures, and the sky."""

from __future__ import annotations

import math

from hmrbench.records import Array
from hmrbench_synth.noise import below, tile
from hmrbench_synth.raster import njit
from hmrbench_synth.textures import texture


@njit
def aim(x: float, y: float, camera: Array, ray: Array) -> None:
    """The direction (3,) in the world of a sample's ray, one metre deep, into `ray`."""
    for k in range(3):
        ray[k] = (camera[1, k] * (x - camera[4, 1]) + camera[2, k] * (y - camera[4, 2])) / camera[4, 0] + camera[3, k]


@njit
def plane_distance(planes: Array, q: int, camera: Array, ray: Array) -> float:
    """How far along a ray a plane is met from its front, in lengths of the ray; 1e9 if never."""
    facing = planes[q, 0] * ray[0] + planes[q, 1] * ray[1] + planes[q, 2] * ray[2]
    if facing >= -1e-9:
        return 1e9
    gap = planes[q, 3] - planes[q, 0] * camera[0, 0] - planes[q, 1] * camera[0, 1] - planes[q, 2] * camera[0, 2]
    return gap / facing if gap < 0.0 else 1e9


@njit
def plane_point(planes: Array, q: int, distance: float, camera: Array, ray: Array) -> tuple[float, float]:
    """Coordinates in a plane, metres, of the point at a distance along a ray."""
    x, y, z = (
        camera[0, 0] + distance * ray[0],
        camera[0, 1] + distance * ray[1],
        camera[0, 2] + distance * ray[2],
    )
    if abs(planes[q, 1]) > 0.7:
        return x, z
    return (z, y) if abs(planes[q, 0]) > 0.7 else (x, y)


@njit
def background(x: float, y: float, planes: Array, decals: Array, camera: Array, ray: Array) -> tuple[int, int]:
    """Which plane and which decal on it a sample sees that shows no face; -1 for none."""
    aim(x, y, camera, ray)
    best, hit, decal = 1e9, -1, -1
    for q in range(planes.shape[0]):
        distance = plane_distance(planes, q, camera, ray)
        if distance < best:
            best, hit = distance, q
    if hit >= 0:
        u, v = plane_point(planes, hit, best, camera, ray)
        for q in range(decals.shape[0]):
            if decals[q, 0] == hit and decals[q, 1] <= u <= decals[q, 3] and decals[q, 2] <= v <= decals[q, 4]:
                decal = q
    return hit, decal


@njit
def paint_background(
    x: float, y: float, wide: float, hit: int, decal: int, planes: Array, decals: Array, rows: Array,
    backdrop: Array, camera: Array, noise: Array, ray: Array, p: Array, n: Array, rgb: Array,
) -> tuple[float, float, int]:  # fmt: skip
    """Point, normal and colour (3,) of the background at a sample `wide` samples wide; returns distance,
    height, material.
    """
    aim(x, y, camera, ray)
    if hit < 0:
        sky(ray, backdrop, noise, rgb)
        return 200.0, 0.0, -1
    distance = plane_distance(planes, hit, camera, ray)
    u, v = plane_point(planes, hit, distance, camera, ray)
    facing = 0.0
    for k in range(3):
        p[k] = camera[0, k] + distance * ray[k]
        n[k] = planes[hit, k]
        facing += n[k] * ray[k]
    chosen, edge = int(planes[hit, 4]), 1.0
    if decal >= 0:
        chosen = int(decals[decal, 5])
        edge = min(u - decals[decal, 1], decals[decal, 3] - u, v - decals[decal, 2], decals[decal, 4] - v)
        edge -= decals[decal, 6]
    footprint = wide * distance / camera[4, 0] / max(0.08, abs(facing))
    return distance, texture(rows[chosen], p, u, v, edge, 0.0, footprint, noise, rgb), chosen


@njit
def sky(ray: Array, backdrop: Array, noise: Array, rgb: Array) -> None:
    """Light from far away along a ray (3,), into `rgb`.

    `backdrop` (6, 3): colour at the horizon, at the zenith, of the clouds, of far and of near silhouettes,
    and (kind, height, seed): kind 0 plain, 1 hills, 2 trees, 3 houses.
    """
    flat = math.sqrt(ray[0] * ray[0] + ray[2] * ray[2]) + 1e-9
    rise = ray[1] / flat
    around = math.atan2(ray[0], -ray[2])
    kind, size, seed = int(backdrop[5, 0]), backdrop[5, 1], backdrop[5, 2]
    t = min(1.0, max(0.0, rise * 1.6)) ** 0.7
    cloud = tile(noise, 0, seed + around * 0.35, seed + rise * 0.9)
    cloud = min(1.0, max(0.0, (cloud - 0.48) * 3.5)) * min(1.0, max(0.0, rise * 6.0))
    for k in range(3):
        rgb[k] = backdrop[0, k] + (backdrop[1, k] - backdrop[0, k]) * t
        rgb[k] += (backdrop[2, k] - rgb[k]) * cloud * 0.8
    if kind == 0:
        return
    for layer in range(2):
        scale = 1.0 if layer == 0 else 0.55
        if kind == 3:
            q = (around + seed + layer * 0.7) * (7.0 - 2.0 * layer)
            cell = math.floor(q)
            top = size * scale * (0.4 + 1.3 * tile(noise, 1, cell * 0.137 + seed, 0.3 + layer * 0.2))
        else:
            rough = 0.25 if kind == 1 else 0.5
            top = size * scale * (0.3 + tile(noise, 0, around * 0.15 + seed + 0.4 * layer, 0.2 + 0.3 * layer))
            top += size * scale * rough * (tile(noise, 1, around * (0.2 if kind == 1 else 0.9) + seed, 0.7) - 0.3)
        solid = below(rise, top, 0.012 if kind == 2 else 0.003)
        leaf = tile(noise, 1, around * 2.5 + seed, rise * 2.5)
        glow = 1.0 if kind == 1 else 0.7 + 0.6 * leaf
        if kind == 3:
            q = (around + seed) * 60.0
            r = rise * 70.0
            pane = below(q - math.floor(q), 0.5, 0.2) * below(r - math.floor(r), 0.5, 0.2)
            glow = 1.0 - 0.4 * pane
        for k in range(3):
            rgb[k] += (backdrop[3 + layer, k] * glow - rgb[k]) * solid
