"""One synthetic picture with everything that is true of the people in it.

Camera frame: metres, x right, y down, z forward. Pixel centres are integers. Rotations are SMPL's: rotation
vectors of the 24 joints in the kinematic tree's order, the first in the camera's frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hmrbench.errors import HmrbenchError
from hmrbench.records import Array
from hmrbench_synth import anatomy as an
from hmrbench_synth import raster
from hmrbench_synth.anatomy import Body
from hmrbench_synth.camera import Camera, project
from hmrbench_synth.render import SUPER, Buffers, paint, scan
from hmrbench_synth.stage import Actor, sample_stage

SIZES = ((320, 320), (320, 256), (288, 384))  # height, width
MIN_VISIBLE, MIN_INSIDE, MIN_BOX_PX = 5, 8, 64.0
# A keypoint is seen if the surface shown there lies as near to it, at rest and in depth, metres.
SEEN_M = np.array([0.045, 0.04, 0.04, 0.05, 0.05, 0.14, 0.14, 0.1, 0.1, 0.08, 0.08, 0.19, 0.19, 0.13, 0.13, 0.12, 0.12])


@dataclass(frozen=True)
class Person:
    """What is true of one person.

    `keypoints_px` (17, 3): COCO's keypoints, x and y in pixels and visibility (2 seen, 1 hidden, 0 outside,
    then x = y = 0); `box_xywh_px` around what lies in the picture; `area_px` of what is seen; `global_orient`
    (3,) and `body_pose` (23, 3) rotation vectors; `betas` (10,); `translation_m` (3,) moves the posed body
    into the camera's frame; `joints_m` (24, 3) SMPL's joints, `joints44_m` (44, 3) the joint set of 4D-Humans
    as `hmrbench.body` has it for the free body, camera frame.
    """

    keypoints_px: Array
    box_xywh_px: tuple[float, float, float, float]
    area_px: float
    global_orient: Array
    body_pose: Array
    betas: Array
    translation_m: Array
    focal_px: float
    centre_px: tuple[float, float]
    joints_m: Array
    joints44_m: Array
    pose_name: str


@dataclass(frozen=True)
class Scene:
    """A picture (H, W, 3) uint8 RGB and the people in it, nobody left out."""

    image: Array
    people: tuple[Person, ...]


def pose_body(
    body: Body, betas: Array, global_orient: Array, body_pose: Array, translation_m: Array
) -> tuple[Array, Array]:
    """Vertices (V, 3) and joints (24, 3) of the free body, metres, from SMPL's parameters."""
    rest, joints = an.shaped(body, betas)
    rotations = an.to_matrices(np.concatenate([global_orient[None], body_pose]))
    turned, offsets, posed = an.bone_transforms(body, rotations, joints)
    return raster.skin(rest, body.bones, body.weights, turned, offsets) + translation_m, posed + translation_m


def render_scene(seed: int | Sequence[int], size: tuple[int, int] | None = None) -> Scene:
    """Draw the picture that belongs to a seed; the same one on every call.

    Args:
        seed: a non-negative integer or several, the entropy of the random generator.
        size: (height, width) in pixels; one of SIZES at random when None.
    """
    body = an.load_body()
    entropy = [seed] if isinstance(seed, int) else list(seed)
    for attempt in range(100):
        rng = np.random.default_rng([*entropy, attempt])
        shape = SIZES[int(rng.integers(len(SIZES)))] if size is None else size
        stage = sample_stage(rng, body, shape)
        if stage is None:
            continue
        buffers = scan(stage)
        people = tuple(_annotate(body, actor, i, stage.camera, buffers) for i, actor in enumerate(stage.actors))
        if all(_worth_showing(person) for person in people):
            return Scene(paint(stage, buffers, rng), people)
    raise HmrbenchError(f"seed {entropy}: no picture in which everybody can be seen")


def _worth_showing(person: Person) -> bool:
    flags = person.keypoints_px[:, 2]
    big = max(person.box_xywh_px[2:]) >= MIN_BOX_PX
    return bool((flags == 2).sum() >= MIN_VISIBLE and (flags > 0).sum() >= MIN_INSIDE and big)


def _annotate(body: Body, actor: Actor, index: int, camera: Camera, buffers: Buffers) -> Person:
    orient = an.to_axis_angle((camera.axes @ actor.root)[None])[0]
    pelvis = actor.rest_joints[0]
    translation = np.round(camera.axes @ (pelvis + actor.offset - camera.eye) - pelvis, 6)
    vertices, joints = pose_body(body, actor.betas, orient, actor.body_pose, translation)
    keypoints = an.regress(body.keypoint_rows, vertices)
    px = project(keypoints[: an.COCO], camera.focal_px, camera.centre_px)
    flags = visibility(px, keypoints[: an.COCO, 2], body.keypoints[: an.COCO], index, buffers)
    outline = camera.project(actor.vertices[actor.mesh.cover >= 0])
    return Person(
        keypoints_px=np.where(flags[:, None] > 0, np.concatenate([np.round(px, 2), flags[:, None]], axis=1), 0.0),
        box_xywh_px=_box(outline, (buffers.face.shape[0] // SUPER, buffers.face.shape[1] // SUPER)),
        area_px=float((buffers.person == index).sum()) / SUPER**2,
        global_orient=orient,
        body_pose=actor.body_pose,
        betas=actor.betas,
        translation_m=translation,
        focal_px=camera.focal_px,
        centre_px=camera.centre_px,
        joints_m=joints,
        joints44_m=an.joints44(body, vertices, joints),
        pose_name=actor.pose.name,
    )


def _box(points: Array, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """x, y, width, height around the points (N, 2) that lie in the picture (H, W), in whole hundredths."""
    height, width = size
    inside = (points >= -0.5).all(1) & (points[:, 0] <= width - 0.5) & (points[:, 1] <= height - 0.5)
    if not inside.any():
        return (0.0, 0.0, 0.0, 0.0)
    low = np.round(np.maximum(points[inside].min(0), 0), 2)
    high = np.round(np.minimum(points[inside].max(0), [width - 1, height - 1]), 2)
    return (
        float(low[0]),
        float(low[1]),
        round(float(high[0] - low[0]), 2),
        round(float(high[1] - low[1]), 2),
    )


def visibility(px: Array, depth_m: Array, rest: Array, index: int, buffers: Buffers) -> Array:
    """COCO's flags (K,): 0 outside the picture, 2 where this very part of this person is what the picture
    shows, else 1.

    Args: px: (K, 2) keypoints in pixels. depth_m: (K,) their depth. rest: (K, 3) where they are on the
    average body at rest. index: of the person. buffers: of the picture; the nine samples around the keypoint
    are asked.
    """
    height, width = (n // SUPER for n in buffers.face.shape)
    flags = np.zeros(len(px))
    for k, (x, y) in enumerate(px):
        if not (0 <= x <= width - 1 and 0 <= y <= height - 1):
            continue
        flags[k] = 1
        column, row = (round(SUPER * float(v) + 0.5 * (SUPER - 1)) for v in (x, y))
        for r in range(max(row - 1, 0), min(row + 2, SUPER * height)):
            for c in range(max(column - 1, 0), min(column + 2, SUPER * width)):
                if buffers.person[r, c] != index or buffers.depth[r, c] < depth_m[k] - SEEN_M[k] - 0.05:
                    continue
                if np.linalg.norm(buffers.rest_at(r, c) - rest[k]) < SEEN_M[k]:
                    flags[k] = 2
    return flags
