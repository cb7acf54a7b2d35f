"""Meshes as a pinhole camera sees them: rays, light and shade.

Meshes are rendered by Embree, Intel's ray tracer, through embreex: it comes as one wheel, runs on the CPU,
and wants neither a display nor a graphics driver. Perspective takes triangles to triangles, so vertices are
projected first, by the same formula as joints, and the rays run parallel through the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hmrbench.errors import HmrbenchError, UsageError
from hmrbench.records import Array

SKINS = (
    (150, 190, 232),
    (140, 210, 178),
    (212, 168, 218),
    (230, 218, 124),
    (196, 196, 202),
)  # one a person, in turn
NEAR_M = 0.05  # triangles that come nearer to the camera, or lie behind it, are left out
SAMPLES = 3  # rays per pixel and axis; in large pictures, where edges are short against areas, 2
_LARGE_PX = 1_500_000
_RAYS = 3_000_000  # at once, to bound memory


@dataclass(frozen=True)
class Mesh:
    """Vertices (V, 3) in metres, camera frame (x right, y down, z forwards); triangles (F, 3); RGB 0..255."""

    vertices_m: Array
    faces: Array
    colour: tuple[int, int, int] = SKINS[0]


@dataclass(frozen=True)
class Rendering:
    """What meshes look like.

    `colour` (H, W, 3) float32 0..255; `coverage` (H, W) from 0 to 1; `depth_m` (H, W) of the nearest surface,
    infinite where there is none.
    """

    colour: Array
    coverage: Array
    depth_m: Array


def render_meshes(
    meshes: Sequence[Mesh], focal_px: float, center_px: Sequence[float], size: tuple[int, int]
) -> Rendering:
    """Shaded meshes seen by a pinhole camera, anti-aliased.

    Args:
        meshes: the people.
        focal_px: focal length in pixels.
        center_px: the principal point, x then y.
        size: height and width of the picture.

    Raises:
        UsageError: embreex, the renderer, is not installed.
    """
    height, width = size
    colour, coverage = np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32)
    depth = np.full((height, width), np.inf, np.float32)
    surface = _project(meshes, focal_px, center_px)
    if surface is None:
        return Rendering(colour, coverage, depth)
    low = np.maximum(np.floor(surface.corners[:, :2].min(0)), 0).astype(int)
    high = np.minimum(np.ceil(surface.corners[:, :2].max(0)) + 1, [width, height]).astype(int)
    if (high <= low).any():
        return Rendering(colour, coverage, depth)
    columns = slice(low[0], high[0])
    samples = SAMPLES if (high - low).prod() < _LARGE_PX else 2
    scene = _scene(surface.corners, surface.faces)
    step = max(1, _RAYS // ((high[0] - low[0]) * samples**2))
    for top in range(low[1], high[1], step):
        rows = slice(top, min(top + step, high[1]))
        colour[rows, columns], coverage[rows, columns], depth[rows, columns] = _trace(
            scene, surface, rows, columns, samples
        )
    return Rendering(colour, coverage, depth)


@dataclass(frozen=True)
class _Surface:
    """All meshes as one.

    `corners` (V, 3) x and y in pixels and an order of depth; `inverse_m` (V,) one over the depth; `shades`
    (V, 3) colour 0..255; `faces` (F, 3).
    """

    corners: Array
    inverse_m: Array
    shades: Array
    faces: Array


def _project(meshes: Sequence[Mesh], focal_px: float, center_px: Sequence[float]) -> _Surface | None:
    """The triangles before the camera; None where there are none."""
    vertices: list[Array] = []
    faces: list[Array] = []
    shades: list[Array] = []
    for i, mesh in enumerate(meshes):
        if not np.isfinite(mesh.vertices_m).all():
            raise HmrbenchError(f"mesh {i} is not finite")
        before = (mesh.vertices_m[:, 2] > NEAR_M)[mesh.faces].all(1)
        if before.any():
            faces.append(mesh.faces[before] + sum(map(len, vertices)))
            vertices.append(mesh.vertices_m.astype(np.float64))
            shades.append(_shade(mesh))
    if not vertices:
        return None
    points, all_faces = np.concatenate(vertices), np.concatenate(faces)
    used, all_faces = np.unique(all_faces, return_inverse=True)
    points = points[used]
    inverse = 1 / points[:, 2]
    xy = points[:, :2] * inverse[:, None] * focal_px + np.asarray(center_px, np.float64)
    # Linear in 1 / z, as depth is in a picture; of the size of pixels, so that float32 resolves it.
    order = (inverse.max() - inverse) * 1000 / max(np.ptp(inverse), np.finfo(np.float64).tiny)
    return _Surface(
        np.column_stack([xy, order]).astype(np.float32),
        inverse,
        np.concatenate(shades)[used],
        all_faces.reshape(-1, 3),
    )


def _trace(scene: Any, surface: _Surface, rows: slice, columns: slice, samples: int) -> tuple[Array, Array, Array]:
    """Mean colour (h, w, 3), coverage (h, w) and nearest depth (h, w) of the pixels of a window."""
    offsets = (np.arange(samples) + 0.5) / samples - 0.5
    y = (np.arange(rows.start, rows.stop)[:, None] + offsets).ravel()
    x = (np.arange(columns.start, columns.stop)[:, None] + offsets).ravel()
    origins = np.empty((len(y), len(x), 3), np.float32)
    origins[..., 0], origins[..., 1], origins[..., 2] = x, y[:, None], -10
    hits = scene.run(origins.reshape(-1, 3), np.array([[0, 0, 1]], np.float32), output=True)
    met = np.flatnonzero(hits["primID"] >= 0)
    corners = surface.faces[hits["primID"][met]]  # (M, 3)
    u, v = hits["u"][met], hits["v"][met]
    weights = np.stack([1 - u - v, u, v], axis=1)  # (M, 3)
    colours = np.zeros((len(y) * len(x), 3), np.float32)
    colours[met] = np.einsum("mk,mkc->mc", weights, surface.shades[corners])
    depths = np.full(len(y) * len(x), np.inf, np.float32)
    depths[met] = 1 / np.einsum("mk,mk->m", weights, surface.inverse_m[corners])
    seen = np.zeros(len(y) * len(x), np.float32)
    seen[met] = 1
    grid = (len(y) // samples, samples, len(x) // samples, samples)
    coverage = seen.reshape(grid).mean((1, 3))
    colour = colours.reshape(*grid, 3).mean((1, 3)) / np.maximum(coverage, 1e-6)[..., None]
    return colour, coverage, depths.reshape(grid).min((1, 3))


def _scene(vertices: Array, faces: Array) -> Any:
    """Embree's scene of one mesh. Robust: without it a ray may slip between two triangles."""
    try:
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene
    except ImportError as e:
        raise UsageError("rendering meshes needs embreex: pip install embreex") from e
    scene = EmbreeScene(robust=True)
    TriangleMesh(scene, np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.int32))
    return scene


# --------------------------------------------------------------------------- light

_KEY, _FILL = np.array([-0.45, -0.7, -0.55]), np.array([0.8, -0.1, -0.45])  # towards the lights, camera frame
_REACH_M = 0.35  # surfaces farther away do not darken a crease
_DIRECTIONS = 48


def _shade(mesh: Mesh) -> Array:
    """Colours of the vertices (V, 3), 0..255: two lights, a sky above, creases darkened, a lighter rim."""
    vertices = mesh.vertices_m.astype(np.float64)
    normals = _vertex_normals(vertices, mesh.faces)
    view = -vertices / np.linalg.norm(vertices, axis=1, keepdims=True).clip(1e-9)
    open_sky = _openness(vertices - vertices.mean(0), mesh.faces, normals)  # (V,)
    key = (normals @ (_KEY / np.linalg.norm(_KEY))).clip(0)
    fill = (normals @ (_FILL / np.linalg.norm(_FILL))).clip(0)
    sky = 0.5 - 0.5 * normals[:, 1]
    facing = (normals * view).sum(1).clip(0, 1)
    half = view + _KEY / np.linalg.norm(_KEY)
    gloss = ((normals * half).sum(1) / np.linalg.norm(half, axis=1)).clip(0) ** 24
    light = open_sky * (0.42 + 0.22 * sky) + (0.4 + 0.6 * open_sky) * (0.58 * key + 0.18 * fill)
    light = light * (0.72 + 0.28 * facing**0.5)
    shaded: Array = np.array(mesh.colour) * light[:, None] + 28 * (gloss * open_sky)[:, None]
    return shaded.clip(0, 255)


def _vertex_normals(vertices: Array, faces: Array) -> Array:
    """Unit normals (V, 3), area-weighted; outwards for faces that are counter-clockwise from outside."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    across = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for k in range(3):
        np.add.at(normals, faces[:, k], across)
    unit: Array = normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)
    return unit


def _openness(vertices: Array, faces: Array, normals: Array) -> Array:
    """The share (V,) of the light from all around, cosine-weighted, that the mesh nearby lets through."""
    index = np.arange(_DIRECTIONS) + 0.5
    height, angle = 1 - 2 * index / _DIRECTIONS, np.pi * (1 + 5**0.5) * index  # a Fibonacci sphere
    ring = np.sqrt(1 - height**2)
    sphere = np.stack([np.cos(angle) * ring, np.sin(angle) * ring, height], axis=1)
    # A normal plus a point of the unit sphere is a direction whose density goes with the cosine.
    directions = normals[:, None] + 0.999 * sphere  # (V, 48, 3)
    directions = directions / np.linalg.norm(directions, axis=2, keepdims=True)
    origins = np.broadcast_to((vertices + 0.004 * normals)[:, None], directions.shape)
    rays = (np.ascontiguousarray(x.reshape(-1, 3), np.float32) for x in (origins, directions))
    far = _scene(vertices, faces).run(*rays, dists=_REACH_M, query="DISTANCE")
    openness: Array = np.clip(far / _REACH_M, 0, 1).reshape(directions.shape[:2]).mean(1)
    return openness
