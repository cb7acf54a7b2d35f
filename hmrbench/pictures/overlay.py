"""Keypoints and meshes drawn on pictures.

Pixel centres are integers, as OpenCV and the crops have it, so that a joint's projection and the mesh around
it fall on the same spot. Colours are told apart by people of any colour vision (Okabe and Ito 2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hmrbench.errors import UsageError
from hmrbench.files import write_arrays, write_atomic
from hmrbench.pictures.rendering import Mesh, Rendering, render_meshes
from hmrbench.records import Array
from hmrbench.skeletons import Skeleton

MIN_SCORE = 0.1  # keypoints of lower scores are not drawn
LEFT, RIGHT, CENTRE = (86, 180, 233), (230, 130, 20), (240, 240, 240)  # sky blue, orange, white
OUTLINE, OUTLINE_OPACITY = (15, 18, 24), 0.85
MIN_RADIUS_PX = 1.1  # of a limb
BACKGROUND = 245  # of the side view


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
