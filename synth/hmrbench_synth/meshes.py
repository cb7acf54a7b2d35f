"""Pieces of geometry: shells over the body, rings joined to tubes, ellipsoids and boxes, and how pieces make
one mesh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hmrbench.records import Array
from hmrbench_synth import anatomy as an
from hmrbench_synth import raster
from hmrbench_synth.anatomy import Body

_CUFF = np.arange(24)
_CUFF[[an.ANKLE, an.FOOT]], _CUFF[[an.ANKLE + 1, an.FOOT + 1]] = an.KNEE, an.KNEE + 1
_CUFF[[an.WRIST, an.HAND]], _CUFF[[an.WRIST + 1, an.HAND + 1]] = an.ELBOW, an.ELBOW + 1


@dataclass(frozen=True)
class Part:
    """A piece that moves with the bones (or, without any, stands in the world).

    `vertices` (V, 3) at rest, `faces` (F, 3), `bones` and `weights` (V, K), `texture` (V, 3) rest points of
    the average shape in metres, `cover` (V,) cut away where negative, `mark` (V,), `rows` material rows and
    `material` (F,) which of them a face has, `two_sided` whether its back is drawn too.
    """

    vertices: Array
    faces: Array
    bones: Array
    weights: Array
    texture: Array
    cover: Array
    mark: Array
    rows: tuple[Array, ...]
    material: Array
    two_sided: bool = False


@dataclass(frozen=True)
class Mesh:
    """Parts joined: the same arrays, material indices into `rows` (M, columns), `two_sided` (F,)."""

    vertices: Array
    faces: Array
    bones: Array
    weights: Array
    texture: Array
    cover: Array
    mark: Array
    rows: Array
    material: Array
    two_sided: Array


def join(parts: Sequence[Part]) -> Mesh:
    """One mesh of several parts."""
    starts = np.cumsum([0] + [len(p.vertices) for p in parts])
    row_starts = np.cumsum([0] + [len(p.rows) for p in parts])
    return Mesh(
        vertices=np.concatenate([p.vertices for p in parts]),
        faces=np.concatenate([p.faces + s for p, s in zip(parts, starts, strict=False)]),
        bones=np.concatenate([p.bones for p in parts]),
        weights=np.concatenate([p.weights for p in parts]),
        texture=np.concatenate([p.texture for p in parts]),
        cover=np.concatenate([p.cover for p in parts]),
        mark=np.concatenate([p.mark for p in parts]),
        rows=np.stack([row for p in parts for row in p.rows]),
        material=np.concatenate([p.material + s for p, s in zip(parts, row_starts, strict=False)]),
        two_sided=np.concatenate([np.full(len(p.faces), p.two_sided) for p in parts]),
    )


def shell(
    body: Body,
    rest: Array,
    normals: Array,
    cover: Array,
    thickness: Array,
    rows: tuple[Array, ...],
    which: Array,
    stiff: bool = True,
) -> Part:
    """Cloth over the part of the body where `cover` (V,) is positive, `thickness` (V,) metres off the skin.

    `which` (V,) says which of the rows a vertex has; a face takes its first vertex's. A stiff garment does
    not follow hands and feet: its cuffs stay with forearm and shin.
    """
    kept = np.flatnonzero((cover[body.faces] > 0).any(1))
    faces = body.faces[kept]
    used = np.zeros(len(rest), dtype=bool)
    used[faces] = True
    index = np.cumsum(used) - 1
    return Part(
        vertices=rest[used] + body.hull[used] + normals[used] * thickness[used, None],
        faces=index[faces],
        bones=_CUFF[body.bones[used]] if stiff else body.bones[used],
        weights=body.weights[used],
        texture=body.template[used],
        cover=cover[used],
        mark=np.zeros(int(used.sum())),
        rows=rows,
        material=which[faces[:, 0]],
    )


def grid_faces(rows: int, columns: int, closed: bool) -> Array:
    """Two triangles for each cell of a grid of points (rows x columns), round the seam too when closed."""
    wide = columns if closed else columns - 1
    r, c = np.meshgrid(np.arange(rows - 1), np.arange(wide), indexing="ij")
    a, b = r * columns + c, r * columns + (c + 1) % columns
    d, e = a + columns, b + columns
    return np.stack([np.stack([a, d, b], -1), np.stack([b, d, e], -1)], 2).reshape(-1, 3)


def outward(vertices: Array, faces: Array) -> Array:
    """The faces turned, all together, so that they look away from the middle."""
    normals = raster.vertex_normals(vertices, faces)
    inward = ((vertices - vertices.mean(0)) * normals).sum() < 0
    return np.ascontiguousarray(faces[:, ::-1]) if inward else faces


def loose(
    vertices: Array,
    faces: Array,
    row: Array,
    bones: Sequence[int] | Array = (0,),
    weights: Array | None = None,
    cover: Array | None = None,
    texture: Array | None = None,
    two_sided: bool = False,
    width: int = 0,
) -> Part:
    """A part of one material with bones of its own: one bone for all, or (V, K) indices and weights."""
    count = len(vertices)
    table = np.tile(np.asarray(bones, dtype=np.int64), (count, 1)) if weights is None else np.asarray(bones)
    shares = np.tile(np.eye(1, table.shape[1]), (count, 1)) if weights is None else weights
    pad = max(0, width - table.shape[1])
    return Part(
        vertices=vertices,
        faces=outward(vertices, faces),
        bones=np.pad(table, ((0, 0), (0, pad))),
        weights=np.pad(shares, ((0, 0), (0, pad))),
        texture=vertices if texture is None else texture,
        cover=np.ones(count) if cover is None else cover,
        mark=np.zeros(count),
        rows=(row,),
        material=np.zeros(len(faces), dtype=np.int64),
        two_sided=two_sided,
    )


def solid(vertices: Array, faces: Array, row: Array, body: Body, bone: int = an.HEAD) -> Part:
    """A part of one material that moves with one bone of the body."""
    return loose(vertices, faces, row, (bone,), width=body.bones.shape[1])


def tube(rings: Array, closed: bool = True) -> tuple[Array, Array]:
    """Vertices and faces of rings (R, N, 3) joined one after the other."""
    rows, columns, _ = rings.shape
    return rings.reshape(-1, 3), grid_faces(rows, columns, closed)


def ellipsoid(centre: Array, radii: Array, around: int = 20, rows: int = 11) -> tuple[Array, Array]:
    """Vertices and faces of an ellipsoid with its poles up and down."""
    theta = np.linspace(0.02, np.pi - 0.02, rows)[:, None]
    phi = np.linspace(0, 2 * np.pi, around, endpoint=False)[None]
    ring = np.stack([np.sin(theta) * np.cos(phi), np.cos(theta) + 0 * phi, np.sin(theta) * np.sin(phi)], -1)
    return tube(ring * radii + centre)


def cylinder(base: Array, radius: float, height: float, around: int = 20, taper: float = 1.0) -> tuple[Array, Array]:
    """Vertices and faces of an upright cylinder with a flat lid, standing on `base`."""
    phi = np.linspace(0, 2 * np.pi, around, endpoint=False)
    circle = np.stack([np.cos(phi), 0 * phi, np.sin(phi)], -1)
    up = np.array([0.0, height, 0.0])
    r = radius * taper
    rings = [circle * radius, circle * r + up * 0.999, circle * r * 0.985 + up, circle * 1e-3 + up]
    return tube(np.stack(rings) + base)


def box(low: Array, high: Array) -> tuple[Array, Array]:
    """Vertices (24, 3) and faces of a box with sharp edges: each side has its own corners."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=np.float64)
    sides = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
    vertices = np.concatenate([corners[list(side)] for side in sides]) * (high - low) + low
    quads = np.arange(24).reshape(6, 4)
    return vertices, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def ramp(value: Array, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))


def bone_mix(count: int, width: int, *shares: tuple[int, Array]) -> tuple[Array, Array]:
    """Bones and weights (V, width) from (bone, (V,) weight) pairs."""
    bones = np.zeros((count, width), dtype=np.int64)
    weights = np.zeros((count, width))
    for k, (bone, share) in enumerate(shares):
        bones[:, k], weights[:, k] = bone, share
    return bones, weights / weights.sum(1, keepdims=True)
