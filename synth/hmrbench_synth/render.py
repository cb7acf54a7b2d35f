"""From a stage to a picture: buffers at twice the size, light and shadow, then what a camera does to it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from hmrbench.records import Array
from hmrbench_synth import lighting, raster, surface
from hmrbench_synth import materials as mt
from hmrbench_synth.meshes import join
from hmrbench_synth.stage import Stage

Rng = np.random.Generator
SUPER = 2  # samples per pixel and axis
SNAP = 256.0
SUN_MAP, TOP_MAP, MAP_RADIUS_M = 512, 256, 2.6


@dataclass(frozen=True)
class Geometry:
    """People and things as one mesh in the world: per vertex (V, ...), per face (F, ...); `person` (F,) or
    -1.
    """

    vertices: Array
    normals: Array
    faces: Array
    texture: Array
    cover: Array
    mark: Array
    material: Array
    two_sided: Array
    rows: Array
    person: Array


@dataclass(frozen=True)
class Buffers:
    """What each of the (SUPER * H, SUPER * W) samples shows: depth in metres, face and its barycentric
    weights, person or -1.
    """

    depth: Array
    face: Array
    bary: Array
    person: Array
    geometry: Geometry

    def rest_at(self, y: int, x: int) -> Array:
        """Rest point (3,) of the surface at a sample that shows a face."""
        a, b = self.bary[y, x]
        corner = self.geometry.texture[self.geometry.faces[self.face[y, x]]]
        return np.asarray(a * corner[0] + b * corner[1] + (1 - a - b) * corner[2])


def _gather(stage: Stage) -> Geometry:
    """People and things as one mesh in the world, each face with its material and person."""
    meshes = [(a.mesh, a.vertices) for a in stage.actors]
    if stage.things:
        things = join(stage.things)
        meshes.append((things, things.vertices))
    starts = np.cumsum([0] + [len(v) for _, v in meshes])
    row_starts = np.cumsum([len(stage.setting.rows)] + [len(m.rows) for m, _ in meshes])
    faces = np.concatenate([m.faces + s for (m, _), s in zip(meshes, starts, strict=False)])
    vertices = np.concatenate([v for _, v in meshes])
    people = len(stage.actors)
    return Geometry(
        vertices=vertices,
        normals=raster.vertex_normals(vertices, faces),
        faces=faces,
        texture=np.concatenate([m.texture for m, _ in meshes]),
        cover=np.concatenate([m.cover for m, _ in meshes]),
        mark=np.concatenate([m.mark for m, _ in meshes]),
        material=np.concatenate([m.material + s for (m, _), s in zip(meshes, row_starts, strict=False)]),
        two_sided=np.concatenate([m.two_sided for m, _ in meshes]),
        rows=np.concatenate([np.stack(stage.setting.rows)] + [m.rows for m, _ in meshes]),
        person=np.concatenate([np.full(len(m.faces), i if i < people else -1) for i, (m, _) in enumerate(meshes)]),
    )


def _light_map(
    geo: Geometry, direction: Array, middle: Array, size: int, step_m: float, reach: int
) -> tuple[Array, Array]:
    """Depth map seen along a light and, for early answers, its minimum and maximum around each texel; and its
    frame.
    """
    away = -direction / np.linalg.norm(direction)
    right = np.cross(away, np.array([0.0, 1.0, 0.0]) if abs(away[1]) < 0.95 else np.array([0.0, 0.0, 1.0]))
    right /= np.linalg.norm(right)
    up = np.cross(right, away)
    scale = size / (2 * MAP_RADIUS_M)
    local = np.stack([((geo.vertices - middle) * axis).sum(1) for axis in (right, up, away)], axis=1)
    depth = np.full((size, size), raster.FAR_M, np.float32)
    raster.shadow_depth(local[:, :2] * scale + size / 2, local[:, 2], geo.faces, geo.cover, depth)
    step = step_m * scale
    window = np.ones((2 * int(np.ceil(reach * step)) + 3,) * 2, np.uint8)
    maps = np.stack([depth, cv2.erode(depth, window), cv2.dilate(depth, window)])
    return maps, np.stack([right, up, away, middle, np.array([scale, step, 0.0])])


def scan(stage: Stage) -> Buffers:
    """Which face every sample of the picture shows."""
    geo = _gather(stage)
    height, width = (SUPER * n for n in stage.size)
    focal, centre = _sample_view(stage)
    local = stage.camera.to_camera(geo.vertices)
    xy = np.round((local[:, :2] / np.maximum(local[:, 2:], 1e-3) * focal + centre) * SNAP) / SNAP
    depth = np.full((height, width), raster.FAR_M)
    face = np.full((height, width), -1, np.int64)
    bary = np.zeros((height, width, 2))
    raster.rasterize(xy, np.ascontiguousarray(local[:, 2]), geo.faces, geo.cover, geo.two_sided, depth, face, bary)
    return Buffers(depth, face, bary, np.where(face >= 0, geo.person[np.maximum(face, 0)], -1), geo)


def _sample_view(stage: Stage) -> tuple[float, Array]:
    """Focal length and centre (2,) in samples of the buffer."""
    return SUPER * stage.camera.focal_px, SUPER * np.asarray(stage.camera.centre_px) + 0.5 * (SUPER - 1)


def paint(stage: Stage, buffers: Buffers, rng: Rng) -> Array:
    """The picture (H, W, 3) uint8 RGB."""
    geo, setting = buffers.geometry, stage.setting
    height, width = buffers.face.shape
    colour, normal, position = (np.zeros((height, width, 3), np.float32) for _ in range(3))
    extra = np.zeros((height, width, 5), np.float32)
    attributes = np.concatenate([geo.vertices, geo.normals, geo.texture, geo.cover[:, None], geo.mark[:, None]], axis=1)
    focal, centre = _sample_view(stage)
    view = np.stack([stage.camera.eye, *stage.camera.axes, np.array([focal, *centre])])
    depth = buffers.depth.copy()
    surface.surface(
        buffers.face, buffers.bary, depth, geo.faces, attributes, geo.material, geo.rows, setting.planes,
        setting.decals, setting.backdrop, view, mt.noise_tile(), colour, normal, position, extra,
    )  # fmt: skip
    middle = np.concatenate([a.joints for a in stage.actors]).mean(0)
    sun = _light_map(geo, setting.lamp[0], middle, SUN_MAP, 0.012, 1)
    top = _light_map(geo, np.array([0.0, 1.0, 0.0]), middle, TOP_MAP, 0.06, 2)
    lighting.light(buffers.face, colour, normal, position, extra, stage.camera.eye, setting.lamp, *sun, *top)
    return _develop(colour, depth, buffers.person, rng)


def _develop(colour: Array, depth: Array, person: Array, rng: Rng) -> Array:
    """Linear light of the samples to a photograph: depth of field, exposure, tone, blur and noise."""
    size = (person.shape[1] // SUPER, person.shape[0] // SUPER)
    near = depth[person >= 0]
    far = np.clip((depth - (near.max() if near.size else 4.0) - 0.1) / 1.4, 0, 1).astype(np.float32)
    behind = cv2.resize(colour * far[..., None], size, interpolation=cv2.INTER_AREA)
    small = cv2.resize(colour, size, interpolation=cv2.INTER_AREA)
    if rng.random() < 0.6:
        share = cv2.resize(far, size, interpolation=cv2.INTER_AREA)
        sigma = rng.uniform(0.5, 2.4)
        soft = cv2.GaussianBlur(behind, (0, 0), sigma) / (cv2.GaussianBlur(share, (0, 0), sigma) + 1e-4)[..., None]
        small = small - behind + soft * share[..., None]
    level = small.mean(2)
    body = cv2.resize((person >= 0).astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    key = 0.5 * np.median(level) + 0.5 * (np.median(level[body]) if body.any() else np.median(level))
    small = small * np.float32((rng.uniform(0.2, 0.34) / max(float(key), 0.02)) ** 0.7)
    small = small * (1 + rng.normal(0, 0.025, 3)).astype(np.float32)
    small = small * (1 + 0.22 * small) / (1 + 0.9 * small)  # a soft shoulder
    image = np.clip(small, 0, 1) ** np.float32(1 / 2.2)
    if rng.random() < 0.35:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.75))
    image = image + np.float32(rng.uniform(0.001, 0.012)) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray(np.clip(np.round(image * 255), 0, 255), dtype=np.uint8)
