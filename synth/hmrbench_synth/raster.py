"""The compiled inner loops of geometry: skinning, vertex normals, and a z-buffer that remembers faces.

Everything is plain float64 arithmetic in a fixed order (no fast-math, no BLAS), so that a picture does not
depend on the number of workers. Screen positions are snapped to 1/256 pixel, as graphics hardware does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from hmrbench.errors import UsageError
from hmrbench.records import Array

try:
    import numba
except ImportError as error:
    raise UsageError("synthetic people need numba: pip install numba") from error

Function = TypeVar("Function", bound=Callable[..., Any])


def njit(function: Function) -> Function:
    """Compile a function of numbers and arrays, once per machine."""
    return cast("Function", numba.njit(cache=True)(function))


NEAR_M = 0.15
FAR_M = 1e9


@njit
def skin(vertices: Array, bones: Array, weights: Array, rotations: Array, offsets: Array) -> Array:
    """Linear blend skinning: (V, 3), (V, K) bone indices and weights, (24, 3, 3), (24, 3) to (V, 3)."""
    out = np.zeros_like(vertices)
    for v in range(vertices.shape[0]):
        x, y, z = vertices[v, 0], vertices[v, 1], vertices[v, 2]
        for k in range(bones.shape[1]):
            w = weights[v, k]
            if w == 0.0:
                continue
            j = bones[v, k]
            for r in range(3):
                m = rotations[j, r]
                out[v, r] += w * (m[0] * x + m[1] * y + m[2] * z + offsets[j, r])
    return out


@njit
def vertex_normals(vertices: Array, faces: Array) -> Array:
    """Unit normals (V, 3), area-weighted over the faces around each vertex, outwards for counter-clockwise
    faces.
    """
    out = np.zeros_like(vertices)
    for i in range(faces.shape[0]):
        a, b, c = faces[i, 0], faces[i, 1], faces[i, 2]
        o, u, w = vertices[a], vertices[b], vertices[c]
        ux, uy, uz = u[0] - o[0], u[1] - o[1], u[2] - o[2]
        wx, wy, wz = w[0] - o[0], w[1] - o[1], w[2] - o[2]
        nx, ny, nz = uy * wz - uz * wy, uz * wx - ux * wz, ux * wy - uy * wx
        for v in (a, b, c):
            out[v, 0] += nx
            out[v, 1] += ny
            out[v, 2] += nz
    for v in range(out.shape[0]):
        length = np.sqrt(out[v, 0] ** 2 + out[v, 1] ** 2 + out[v, 2] ** 2) + 1e-12
        out[v] /= length
    return out


@njit
def laplacian(vertices: Array, faces: Array, steps: int) -> Array:
    """Vertices after so many steps of replacing each by the mean of its neighbours."""
    out: Array = vertices.copy()
    for _ in range(steps):
        total = np.zeros_like(out)
        count = np.zeros(out.shape[0])
        for i in range(faces.shape[0]):
            for k in range(3):
                a, b = faces[i, k], faces[i, (k + 1) % 3]
                total[a] += out[b]
                count[a] += 1
        for v in range(out.shape[0]):
            if count[v] > 0:
                out[v] = 0.5 * out[v] + 0.5 * total[v] / count[v]
    return out


@njit
def rasterize(
    xy: Array, z: Array, faces: Array, cover: Array, two_sided: Array, depth: Array, face: Array, bary: Array
) -> None:
    """Draw faces into a buffer: depth, face index and perspective-correct barycentric weights of each pixel.

    Args:
        xy: (V, 2) position in pixels of the buffer, pixel centres at integers, y down.
        z: (V,) depth in metres; faces that reach nearer than NEAR_M are left out.
        faces: (F, 3) vertex indices, counter-clockwise seen from outside.
        cover: (V,) where its interpolated value is negative, the face is cut away.
        two_sided: (F,) bool, draw the face from behind too.
        depth: (H, W) nearest depth so far, updated in place; likewise
        face: (H, W) index of the nearest face, and
        bary: (H, W, 2) its weights of the first and second vertex.
    """
    height, width = depth.shape
    for i in range(faces.shape[0]):
        a, b, c = faces[i, 0], faces[i, 1], faces[i, 2]
        if z[a] < NEAR_M or z[b] < NEAR_M or z[c] < NEAR_M:
            continue
        if cover[a] < 0.0 and cover[b] < 0.0 and cover[c] < 0.0:
            continue
        x0, y0, x1, y1, x2, y2 = xy[a, 0], xy[a, 1], xy[b, 0], xy[b, 1], xy[c, 0], xy[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0.0 or (area > 0.0 and not two_sided[i]):
            continue
        left = max(0, int(np.ceil(min(x0, x1, x2))))
        right = min(width - 1, int(np.floor(max(x0, x1, x2))))
        top = max(0, int(np.ceil(min(y0, y1, y2))))
        bottom = min(height - 1, int(np.floor(max(y0, y1, y2))))
        za, zb, zc = 1.0 / z[a], 1.0 / z[b], 1.0 / z[c]
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                wa = ((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) / area
                wb = ((x2 - x) * (y0 - y) - (x0 - x) * (y2 - y)) / area
                wc = 1.0 - wa - wb
                if wa < 0.0 or wb < 0.0 or wc < 0.0:
                    continue
                zz = 1.0 / (wa * za + wb * zb + wc * zc)
                if zz >= depth[y, x]:
                    continue
                wa, wb = wa * za * zz, wb * zb * zz
                if wa * cover[a] + wb * cover[b] + (1.0 - wa - wb) * cover[c] < 0.0:
                    continue
                depth[y, x] = zz
                face[y, x] = i
                bary[y, x, 0] = wa
                bary[y, x, 1] = wb


@njit
def shadow_depth(xy: Array, z: Array, faces: Array, cover: Array, depth: Array) -> None:
    """Draw faces, both sides, seen along parallel rays into a depth map (H, W), updated in place."""
    height, width = depth.shape
    for i in range(faces.shape[0]):
        a, b, c = faces[i, 0], faces[i, 1], faces[i, 2]
        if cover[a] < 0.0 or cover[b] < 0.0 or cover[c] < 0.0:
            continue
        x0, y0, x1, y1, x2, y2 = xy[a, 0], xy[a, 1], xy[b, 0], xy[b, 1], xy[c, 0], xy[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0.0:
            continue
        left = max(0, int(np.ceil(min(x0, x1, x2))))
        right = min(width - 1, int(np.floor(max(x0, x1, x2))))
        top = max(0, int(np.ceil(min(y0, y1, y2))))
        bottom = min(height - 1, int(np.floor(max(y0, y1, y2))))
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                wa = ((x1 - x) * (y2 - y) - (x2 - x) * (y1 - y)) / area
                wb = ((x2 - x) * (y0 - y) - (x0 - x) * (y2 - y)) / area
                wc = 1.0 - wa - wb
                if wa < 0.0 or wb < 0.0 or wc < 0.0:
                    continue
                zz = wa * z[a] + wb * z[b] + wc * z[c]
                depth[y, x] = min(depth[y, x], zz)
