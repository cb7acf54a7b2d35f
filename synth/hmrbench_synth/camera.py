"""The pinhole camera of a scene, and how it is pointed so that people fill a wanted share of the picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hmrbench.records import Array
from hmrbench_synth.limbs import turn


@dataclass(frozen=True)
class Camera:
    """Focal length and centre in pixels; rows of `axes` (3, 3) are right, down and forward in the world;
    `eye` (3,).

    Pixel centres are integers: the top left pixel is (0, 0).
    """

    focal_px: float
    centre_px: tuple[float, float]
    axes: Array
    eye: Array

    def to_camera(self, points: Array) -> Array:
        """World points (N, 3) in the camera's frame, metres."""
        return np.asarray(np.einsum("nk,ck->nc", points - self.eye, self.axes))

    def project(self, points: Array) -> Array:
        """Pixels (N, 2) of world points (N, 3)."""
        return project(self.to_camera(points), self.focal_px, self.centre_px)


def project(points: Array, focal_px: float, centre_px: tuple[float, float]) -> Array:
    """Pixels (N, 2) of points (N, 3) in the camera's frame."""
    return np.asarray(points[:, :2] / points[:, 2:] * focal_px + np.asarray(centre_px))


def aim_camera(rng: np.random.Generator, points: Array, size: tuple[int, int]) -> Camera:
    """A camera that shows the points (N, 3) at a share of the picture (H, W) drawn at random, now and then
    cut off.
    """
    height, width = size
    focal = round(float(max(size) * rng.uniform(1.05, 2.3)), 2)
    centre = (width / 2, height / 2)
    pitch = float(np.clip(rng.normal(9, 9), -8, 42))
    roll = float(rng.normal(0, 2.0))
    forward = np.array([0.0, -np.sin(np.deg2rad(pitch)), -np.cos(np.deg2rad(pitch))])
    right = turn(forward, roll) @ np.array([1.0, 0.0, 0.0])
    axes = np.stack([right, np.cross(forward, right), forward])
    kind = rng.random()
    share = (
        rng.uniform(0.62, 0.93) if kind < 0.7 else rng.uniform(0.35, 0.62) if kind < 0.84 else rng.uniform(1.0, 1.75)
    )
    shift = rng.normal(0, 0.05, 2)
    if share > 0.98:
        shift = np.array([rng.normal(0, 0.12), rng.choice([1.0, 0.35, -0.6]) * (share - 0.92) * 0.5])
    middle = 0.5 * (points.min(0) + points.max(0))
    distance = 4.0
    offset = np.zeros(2)
    for _ in range(4):
        eye = middle - forward * distance - axes[0] * offset[0] - axes[1] * offset[1]
        camera = Camera(focal, centre, axes, eye)
        px = camera.project(points)
        low, high = px.min(0), px.max(0)
        wanted = np.array(centre) + shift * np.array([width, height])
        offset += (wanted - 0.5 * (low + high)) * distance / focal
        distance *= float(max((high - low) / np.array([width, height]))) / share
    if eye[1] < 0.12:
        eye = eye + np.array([0.0, 0.12 - eye[1], 0.0])
    return Camera(focal, centre, axes, eye)
