"""Keypoints and meshes drawn on pictures.

Pixel centres are integers, as OpenCV and the crops have it, so that a joint's projection and the mesh around
it fall on the same spot. Colours are told apart by people of any colour vision (Okabe and Ito 2008).

Meshes are rendered by Embree, Intel's ray tracer, through embreex: it comes as one wheel, runs on the CPU,
and wants neither a display nor a graphics driver. Perspective takes triangles to triangles, so vertices are
projected first, by the same formula as joints, and the rays run parallel through the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hmrbench.errors import HmrbenchError, UsageError
from hmrbench.files import write_arrays, write_atomic
from hmrbench.records import Array
from hmrbench.skeletons import Skeleton

MIN_SCORE = 0.1  # keypoints of lower scores are not drawn
LEFT, RIGHT, CENTRE = (86, 180, 233), (230, 130, 20), (240, 240, 240)  # sky blue, orange, white
OUTLINE, OUTLINE_OPACITY = (15, 18, 24), 0.85
MIN_RADIUS_PX = 1.1  # of a limb

SKINS = (
    (150, 190, 232),
    (140, 210, 178),
    (212, 168, 218),
    (230, 218, 124),
    (196, 196, 202),
)  # one a person, in turn
BACKGROUND = 245  # of the side view
NEAR_M = 0.05  # triangles that come nearer to the camera, or lie behind it, are left out
SAMPLES = 3  # rays per pixel and axis; in large pictures, where edges are short against areas, 2
_LARGE_PX = 1_500_000
_RAYS = 3_000_000  # at once, to bound memory


# --------------------------------------------------------------------------- keypoints


def draw_keypoints(
    image: Array,
    keypoints_px: Array | Sequence[Array],
    scores: Array | Sequence[Array],
    skeleton: Skeleton,
    min_score: float = MIN_SCORE,
) -> Array:
    """The picture with everybody's limbs and joints on it, coloured by side, as opaque as their scores.

    Args:
        image: (H, W, 3) uint8 RGB.
        keypoints_px: (N, K, 2) pixels of the image.
        scores: (N, K) clipped to 0..1; a limb has the lower one of its ends.
        skeleton: names and limbs of the K joints.
        min_score: what scores less is left out.

    Returns:
        (H, W, 3) uint8; the input is left alone.
    """
    canvas = image.astype(np.float32)
    for points, score in zip(keypoints_px, scores, strict=True):
        opacity = np.where(score >= min_score, np.clip(score, 0, 1), 0)
        _draw_person(canvas, np.asarray(points, np.float64), opacity, skeleton)
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)


class _Stroke(NamedTuple):
    """A line with round ends; a dot where they coincide."""

    start: Array
    end: Array
    radius: float
    opacity: float
    colour: tuple[int, int, int]


def _draw_person(canvas: Array, points: Array, opacity: Array, skeleton: Skeleton) -> None:
    """Draw one person into the float canvas: a dark outline of everything, then limbs, then joints."""
    shown = points[opacity > 0]
    if not len(shown):
        return
    widest = _limb_radius(shown)
    edge = max(1.0, 0.4 * widest)
    low = np.maximum(np.floor(shown.min(0) - 2 * widest - 2 * edge), 0).astype(int)
    high = np.minimum(np.ceil(shown.max(0) + 2 * widest + 2 * edge), canvas.shape[1::-1]).astype(int)
    if (high <= low).any():
        return
    part = canvas[low[1] : high[1], low[0] : high[0]]
    strokes = _strokes(points - low, opacity, skeleton, widest, edge)
    shadow = np.zeros(part.shape[:2], np.float32)
    for stroke in strokes:
        window, coverage = _cover(part.shape[:2], stroke, edge)
        shadow[window] = np.maximum(shadow[window], coverage * stroke.opacity)
    _blend(part, (slice(None), slice(None)), shadow * OUTLINE_OPACITY, OUTLINE)
    for stroke in strokes:
        window, coverage = _cover(part.shape[:2], stroke)
        _blend(part, window, coverage * stroke.opacity, stroke.colour)


def _strokes(points: Array, opacity: Array, skeleton: Skeleton, widest: float, edge: float) -> list[_Stroke]:
    """Limbs, then joints as dots with a dark ring; short limbs, as those of the face, are thin."""
    sides = [_side(name) for name in skeleton.joints]
    strokes: list[_Stroke] = []
    dots = np.zeros(len(points))
    for a, b in skeleton.limbs:
        strength = float(min(opacity[a], opacity[b]))
        if strength > 0:
            length = float(np.linalg.norm(points[a] - points[b]))
            radius = min(widest, max(MIN_RADIUS_PX, 0.14 * length))
            dots[[a, b]] = np.maximum(dots[[a, b]], 1.6 * radius)
            strokes.append(_Stroke(points[a], points[b], radius, strength, _limb_colour(sides[a], sides[b])))
    dots[dots == 0] = 1.6 * widest
    for j in np.flatnonzero(opacity > 0):
        at, strength = points[j], float(opacity[j])
        strokes.append(_Stroke(at, at, dots[j] + 0.6 * edge, strength, OUTLINE))
        strokes.append(_Stroke(at, at, dots[j], strength, _COLOURS[sides[j]]))
    return strokes


def _limb_radius(points: Array) -> float:
    """Half the width of a limb: in proportion to the person, but always to be seen."""
    extent = float(np.linalg.norm(points.max(0) - points.min(0)))
    return float(np.clip(0.0075 * extent, MIN_RADIUS_PX, 9.0))


def _side(joint: str) -> str:
    return joint.partition("_")[0] if joint.startswith(("left_", "right_")) else "centre"


_COLOURS = {"left": LEFT, "right": RIGHT, "centre": CENTRE}


def _limb_colour(one: str, other: str) -> tuple[int, int, int]:
    """A limb is of the side of its ends; one between left and right is central."""
    sides = {one, other} - {"centre"}
    return _COLOURS[sides.pop()] if len(sides) == 1 else CENTRE


def _cover(shape: Sequence[int], stroke: _Stroke, margin: float = 0.0) -> tuple[tuple[slice, slice], Array]:
    """The window that a stroke, widened by a margin, reaches; how much of its pixels it fills."""
    a, b, radius = stroke.start, stroke.end, stroke.radius + margin
    low = np.floor(np.minimum(a, b) - radius - 1).astype(int)
    high = np.ceil(np.maximum(a, b) + radius + 2).astype(int)
    rows = slice(max(low[1], 0), max(min(high[1], shape[0]), 0))
    columns = slice(max(low[0], 0), max(min(high[0], shape[1]), 0))
    y, x = np.ogrid[rows, columns]
    along = b - a
    length2 = float(along @ along)
    t = np.clip(((x - a[0]) * along[0] + (y - a[1]) * along[1]) / length2, 0, 1) if length2 > 0 else 0.0
    distance = np.hypot(x - a[0] - t * along[0], y - a[1] - t * along[1])
    return (rows, columns), np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)


def _blend(canvas: Array, window: tuple[slice, slice], opacity: Array, colour: Sequence[float]) -> None:
    canvas[window] += opacity[..., None] * (np.array(colour, np.float32) - canvas[window])


# --------------------------------------------------------------------------- meshes


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


def overlay_meshes(
    image: Array, meshes: Sequence[Mesh], focal_px: float, center_px: Sequence[float], opacity: float = 0.9
) -> Array:
    """The picture (H, W, 3) uint8 with meshes rendered over it; see `render_meshes`."""
    drawn = render_meshes(meshes, focal_px, center_px, image.shape[:2])
    return _over(image.astype(np.float32), drawn, opacity)


def side_view(meshes: Sequence[Mesh], height: int) -> Array:
    """Everybody from the camera's right-hand side, each in a cell, all at one scale: (height, W, 3) uint8.

    Who faces the camera faces left. The eye is far away, so that a metre is a metre everywhere.
    """
    if not meshes:
        return np.full((height, height // 2, 3), BACKGROUND, np.uint8)
    turned = [m.vertices_m[:, [2, 1, 0]] * [1, 1, -1] for m in meshes]
    middles = [(v.min(0) + v.max(0)) / 2 for v in turned]
    wide, tall = np.max([np.ptp(v, axis=0)[:2] for v in turned], axis=0).clip(1e-3)  # metres
    rows = round(len(meshes) ** 0.5)
    columns, cell_height = -(-len(meshes) // rows), max(height // rows, 1)
    cell_width = max(round(cell_height * float(np.clip(wide / tall, 0.5, 1.3))), 1)
    distance = 40.0
    focal = 0.9 * distance * min(cell_width / wide, cell_height / tall)
    canvas = np.full((height, columns * cell_width, 3), BACKGROUND, np.uint8)
    for i, (mesh, vertices, middle) in enumerate(zip(meshes, turned, middles, strict=True)):
        alone = replace(mesh, vertices_m=vertices - middle + [0, 0, distance])
        cell = ((cell_width - 1) / 2, (cell_height - 1) / 2)
        drawn = render_meshes([alone], focal, cell, (cell_height, cell_width))
        top, left = (i // columns) * cell_height, (i % columns) * cell_width
        window = np.s_[top : top + cell_height, left : left + cell_width]
        canvas[window] = _over(canvas[window].astype(np.float32), drawn, 1.0)
    return canvas


def _over(canvas: Array, drawn: Rendering, opacity: float) -> Array:
    strength = (opacity * drawn.coverage)[..., None]
    picture: Array = np.clip(np.round(canvas + strength * (drawn.colour - canvas)), 0, 255).astype(np.uint8)
    return picture


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


# --------------------------------------------------------------------------- mesh files


def save_mesh(mesh: Mesh, path: Path) -> None:
    """Write a mesh as .obj or binary .ply, whole or not at all: metres, x right, y up, z towards the viewer.

    That is the camera's frame turned half around x: the camera stands at the origin, and viewers show people
    upright. An .npz holds `vertices_m` (V, 3) and `faces` (F, 3) in the camera's frame as it is.

    Raises:
        UsageError: another kind of file.
    """
    vertices = mesh.vertices_m * [1, -1, -1]
    if path.suffix == ".obj":
        lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices.tolist()]
        lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]
        write_atomic(path, ("\n".join(lines) + "\n").encode())
    elif path.suffix == ".ply":
        header = (
            f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\n"
            "property float x\nproperty float y\nproperty float z\n"
            f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
        )
        faces = np.empty(len(mesh.faces), [("count", "u1"), ("corners", "<i4", 3)])
        faces["count"], faces["corners"] = 3, mesh.faces
        write_atomic(path, header.encode() + vertices.astype("<f4").tobytes() + faces.tobytes())
    elif path.suffix == ".npz":
        write_arrays(path, {"vertices_m": mesh.vertices_m.astype(np.float32), "faces": mesh.faces})
    else:
        raise UsageError(f"{path}: a mesh is saved as .obj, .ply or .npz")
