"""Who stands where: people with shape, pose and clothes, the camera, seats, things behind and things in the
way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hmrbench.records import Array
from hmrbench_synth import anatomy as an
from hmrbench_synth import raster
from hmrbench_synth.anatomy import Body
from hmrbench_synth.camera import Camera, aim_camera
from hmrbench_synth.meshes import Mesh, Part, join
from hmrbench_synth.poses import Pose, sample_pose
from hmrbench_synth.things import placed, seat, thing
from hmrbench_synth.wardrobe import dress
from hmrbench_synth.world import Setting, sample_setting

Rng = np.random.Generator
UPRIGHT = ("stand", "walk", "run", "dance", "lunge", "jump")


@dataclass(frozen=True)
class Actor:
    """One person in the world: parameters of the body, the dressed mesh posed, joints and body vertices
    (world, metres).
    """

    pose: Pose
    betas: Array
    body_pose: Array
    root: Array
    rest_joints: Array
    offset: Array
    mesh: Mesh
    vertices: Array
    joints: Array
    yaw_deg: float


@dataclass(frozen=True)
class Stage:
    """Everything to be drawn."""

    setting: Setting
    actors: tuple[Actor, ...]
    things: tuple[Part, ...]
    camera: Camera
    size: tuple[int, int]


def make_actor(rng: Rng, body: Body, yaw_deg: float) -> Actor:
    """A person at the origin, on the ground, turned by `yaw_deg` (0 faces the camera)."""
    betas = np.round(np.clip(rng.normal(0, 1, 10), -2, 2) * an.BETA_SCALE, 4)
    rest, joints = an.shaped(body, betas)
    pose = sample_pose(rng, joints, body.parents)
    body_pose = an.to_axis_angle(pose.rotations[1:])
    root = an.euler(y=yaw_deg) @ pose.rotations[0]
    mesh = join(dress(rng, body, betas, rest, joints, pose.name in UPRIGHT))
    rotations = np.concatenate([root[None], an.to_matrices(body_pose)])
    turned, offsets, posed = an.bone_transforms(body, rotations, joints)
    vertices = raster.skin(mesh.vertices, mesh.bones, mesh.weights, turned, offsets)
    shown = vertices[mesh.cover >= 0]
    middle = posed[0] if not pose.flat else posed.mean(0)
    offset = np.array([-middle[0], pose.clearance_m - shown[:, 1].min(), -middle[2]])
    return Actor(pose, betas, body_pose, root, joints, offset, mesh, vertices + offset, posed + offset, yaw_deg)


def moved(actor: Actor, by: Array) -> Actor:
    """The person somewhere else."""
    change = {"offset": actor.offset + by, "vertices": actor.vertices + by, "joints": actor.joints + by}
    return Actor(**{**actor.__dict__, **change})


def _yaw(rng: Rng) -> float:
    return float(rng.normal(0, 50) if rng.random() < 0.65 else rng.uniform(-180, 180))


def _gap(a: Actor, b: Actor) -> float:
    """Smallest distance in metres between two people's joints."""
    return float(np.linalg.norm(a.joints[:, None] - b.joints[None], axis=2).min())


def _seats(rng: Rng, body: Body, actor: Actor) -> list[Part]:
    """What a sitting person sits on, as high as buttocks and thighs allow."""
    if not actor.pose.seat:
        return []
    skin = actor.vertices[: len(body.template)]
    under = np.isin(body.part, (an.PELVIS, an.HIP, an.HIP + 1)) & (body.template[:, 1] > -0.28)
    height = float(skin[under, 1].min()) + 0.008
    heading = an.euler(y=actor.yaw_deg)
    at = actor.joints[0] * np.array([1, 0, 1]) + heading @ np.array([0, 0, 0.05])
    return [placed(part, actor.yaw_deg, at) for part in seat(rng, max(height, 0.12))]


def _behind(rng: Rng, setting: Setting, actors: tuple[Actor, ...]) -> list[Part]:
    """Furniture and plants around and behind the people, touching nobody."""
    parts: list[Part] = []
    people = np.concatenate([a.joints for a in actors])[:, [0, 2]]
    far = -setting.back_z - 0.35 if setting.back_z is not None else 7.0
    for _ in range(int(rng.integers(0, 6)) if setting.name != "studio" else 0):
        at = np.array([rng.uniform(-2.4, 2.4), 0.0, -rng.uniform(0.3, max(far, 0.5))])
        high, wide = rng.uniform(0.35, 1.6), rng.uniform(0.3, 1.3)
        made = [placed(p, float(rng.normal(0, 12)), at) for p in thing(rng, high, wide, setting.back_z is None)]
        close = np.linalg.norm(people - at[[0, 2]], axis=1).min() < 0.62 * wide + 0.4
        if not close:
            parts += made
    return parts


def _in_the_way(rng: Rng, actors: tuple[Actor, ...], camera: Camera, outdoors: bool) -> list[Part]:
    """A thing on the ground between the camera and somebody's legs, trunk or one side."""
    actor = actors[int(rng.integers(len(actors)))]
    joint = int(rng.choice([an.KNEE, an.KNEE + 1, an.ANKLE, an.HIP, an.HIP + 1, an.SPINE2, an.ELBOW, an.ELBOW + 1]))
    point = actor.joints[joint]
    way = camera.eye - point
    distance = float(np.linalg.norm(way))
    reach = rng.uniform(0.35, 0.8)
    at = point + way / distance * min(reach, 0.5 * distance)
    height = float(np.clip(at[1] + rng.normal(0.02, 0.05), 0.15, 1.5))
    wide = rng.uniform(0.3, 1.3)
    side = rng.choice([0.0, 0.0, -1.0, 1.0]) * 0.45 * wide
    ground = np.array([at[0] + side, 0.0, at[2]])
    front = (
        max(float(a.vertices[:, 2].max()) for a in actors if abs(a.joints[0, 0] - ground[0]) < 0.5 * wide + 0.5)
        if any(abs(a.joints[0, 0] - ground[0]) < 0.5 * wide + 0.5 for a in actors)
        else ground[2]
    )
    ground[2] = max(ground[2], min(front + 0.3, camera.eye[2] - 1.0))
    return [placed(p, float(rng.normal(0, 10)), ground) for p in thing(rng, height, wide, outdoors)]


def sample_stage(rng: Rng, body: Body, size: tuple[int, int]) -> Stage | None:
    """One or two people in a place, seen by a camera; None when they would stand in each other."""
    setting = sample_setting(rng)
    actors: tuple[Actor, ...] = (make_actor(rng, body, _yaw(rng)),)
    if rng.random() < 0.38:
        other = make_actor(rng, body, _yaw(rng))
        wanted = rng.uniform(0.24, 0.6)
        way = np.array([rng.choice([-1, 1]) * rng.uniform(0.25, 1.0), 0.0, rng.uniform(-1.0, 0.6)])
        for k in range(1, 40):
            other_there = moved(other, way * (0.1 * k))
            if _gap(actors[0], other_there) > wanted:
                actors = (actors[0], other_there)
                break
    if setting.back_z is not None:  # nobody in the wall
        rear = min(float(a.vertices[:, 2].min()) for a in actors)
        forward = np.array([0.0, 0.0, max(0.0, setting.back_z + 0.25 - rear)])
        actors = tuple(moved(a, forward) for a in actors)
    shown = actors if rng.random() < 0.75 else actors[:1]
    camera = aim_camera(rng, np.concatenate([a.vertices[::5] for a in shown]), size)
    if camera.eye[2] < max(float(a.vertices[:, 2].max()) for a in actors) + 0.5:
        return None
    things = [part for a in actors for part in _seats(rng, body, a)]
    things += _behind(rng, setting, actors)
    if rng.random() < 0.33:
        things += _in_the_way(rng, actors, camera, setting.back_z is None)
    return Stage(setting, actors, tuple(things), camera, size)
