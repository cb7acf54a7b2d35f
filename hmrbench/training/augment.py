"""How a training crop varies: where it looks, how it is turned and mirrored, and what becomes of the truth.

Distributions of mmpose 0.x for poses (`mmpose/datasets/pipelines/top_down_transform.py`, read in the ViTPose
repository, Apache-2.0) and of 4D-Humans for meshes (`hmr2/datasets/utils.py`, MIT). A crop is one affine map
of the image, so a picture is interpolated once, also where it is mirrored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np

from hmrbench.data.crop import Geometry, crop_matrix
from hmrbench.records import Array
from hmrbench.skeletons import SMPL24
from hmrbench.training.recipes import Augment

UPPER_BODY = 11  # the first joints of COCO's 17: head, shoulders, arms
HALF_BODY_PADDING = 1.5
BODY_FLIP = [i - 1 for i in SMPL24.flip_order[1:]]  # of the 23 joints below the root


@dataclass(frozen=True)
class View:
    """One way to look at a person: a box in the image (center and size in pixels, x then y), turned and
    mirrored."""

    center_px: Array
    size_px: Array
    rotation_deg: float = 0.0
    mirrored: bool = False
    colour: tuple[float, float, float] | None = None  # factors on the channels

    @property
    def turn(self) -> Array:
        """What happens about the centre, (2, 2): mirrored first, then rotated; x to the right, y down."""
        a = np.deg2rad(self.rotation_deg)
        rotation = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
        turn: Array = rotation @ np.diag([-1.0 if self.mirrored else 1.0, 1.0])
        return turn

    def matrix(self, input_size: tuple[int, int], geometry: Geometry) -> Array:
        """The matrix (2, 3) from pixels of the image to pixels of the input picture; see
        `data.crop.crop_matrix`."""
        upright = np.asarray(crop_matrix(self.center_px, self.size_px, input_size, geometry), np.float64)
        if not self.mirrored and self.rotation_deg == 0:
            return upright
        center = np.asarray(self.center_px, np.float64)
        linear = upright[:, :2] @ self.turn
        moved = upright[:, 2] + upright[:, :2] @ (center - self.turn @ center)
        return np.column_stack([linear, moved])

    def recolour(self, picture: Array) -> Array:
        """The picture (H, W, 3) uint8 with its channels brightened or darkened."""
        if self.colour is None:
            return picture
        table = np.clip(np.arange(256)[:, None] * np.array(self.colour), 0, 255).round().astype(np.uint8)
        recoloured: Array = cv2.LUT(picture, table[None])
        return recoloured


# --------------------------------------------------------------------------- poses


def draw_pose(
    rng: np.random.Generator,
    augment: Augment,
    box_wh_px: Array,
    view: View,
    keypoints_px: Array,
    visible: Array,
) -> View:
    """A random variation of a pose network's crop.

    Args:
        box_wh_px: (2,) width and height of the person's box without its margin.
        view: the crop as in evaluation; its sides have the aspect of the network's input.
        keypoints_px: (17, 2) COCO's keypoints in the image; `visible` (17,) above 0 where labelled.
    """
    mirrored = rng.random() < augment.flip
    center, size = np.asarray(view.center_px, np.float64), np.asarray(view.size_px, np.float64)
    if rng.random() < augment.shift_chance:
        center = center + augment.shift * (rng.random(2) - 0.5) * box_wh_px
    if (visible > 0).sum() > augment.half_body_joints and rng.random() < augment.half_body:
        half = _half_body(rng, keypoints_px, visible, size[0] / size[1])
        center, size = half or (center, size)
    size = size * _scale(rng, augment)
    return replace(
        view, center_px=center, size_px=size, rotation_deg=_rotation(rng, augment), mirrored=mirrored,
        colour=_colour(rng, augment),
    )  # fmt: skip


def _half_body(rng: np.random.Generator, keypoints: Array, visible: Array, aspect: float) -> tuple[Array, Array] | None:
    """Centre and size of a box around the upper or the lower body; the upper one in 69 of 100 cases, as in
    mmpose."""
    labelled = np.flatnonzero(visible > 0)
    upper, lower = labelled[labelled < UPPER_BODY], labelled[labelled >= UPPER_BODY]
    above = len(upper) > 2 and rng.standard_normal() < 0.5
    chosen = upper if above or len(lower) <= 2 else lower
    if len(chosen) < 2:
        return None
    points = keypoints[chosen]
    width, height = np.ptp(points, axis=0)
    if max(width, height) <= 0:
        return None
    size = np.array([max(width, aspect * height), max(height, width / aspect)])
    return points.mean(axis=0), size * HALF_BODY_PADDING


def turn_keypoints(keypoints: Array, matrix: Array, order: list[int] | None) -> Array:
    """Keypoints (K, 2) of the image in the input picture; `order` swaps the sides where it is mirrored."""
    moved: Array = keypoints @ matrix[:, :2].T + matrix[:, 2]
    return moved if order is None else moved[order]


# --------------------------------------------------------------------------- meshes


def draw_mesh(rng: np.random.Generator, augment: Augment, view: View, keypoints_px: Array, confidence: Array) -> View:
    """A random variation of a mesh network's square crop; see `draw_pose`.

    Args:
        keypoints_px: (44, 2) keypoints in the image; `confidence` (44,) above 0 where labelled.
    """
    shift = rng.standard_normal(2).clip(-1, 1) * augment.shift
    scale, rotation = _scale(rng, augment), _rotation(rng, augment)
    mirrored = rng.random() < augment.flip
    center, size = np.asarray(view.center_px, np.float64), np.asarray(view.size_px, np.float64)
    if rng.random() < augment.extreme_crop and (part := extreme_crop(rng.random(), keypoints_px, confidence)):
        center, size = part[0], np.repeat(part[1], 2)
    center = center + size * shift
    return View(center, size * scale, rotation, mirrored, _colour(rng, augment))


# The crops to a part of the body of 4D-Humans (`extreme_cropping_aggressive`), which are those of EFT (Joo et
# al. 2020): the chance with which a whole body, or one seen to the hips, is cut to it; the margin; the joints
# of HMR44 that remain.
Part = tuple[float, tuple[float, list[int]]]
_ARM = {"right": ([2, 3, 4], [6, 7, 8]), "left": ([5, 6, 7], [9, 10, 11])}
_LEG = {"right": ([9, 10, 11, 22, 23, 24], [0, 1, 2]), "left": ([12, 13, 14, 19, 20, 21], [3, 4, 5])}
_HEAD = [0, 1, 2, 5, 15, 16, 17, 18]


def _but(body: list[int], extra: list[int]) -> list[int]:
    """The joints that are not named: of OpenPose's 25, and of the 19 regressed ones."""
    return [j for j in range(25) if j not in body] + [25 + j for j in range(19) if j not in extra]


def _only(body: list[int], extra: list[int]) -> list[int]:
    return body + [25 + j for j in extra]


_HIPS = (1.1, _but([10, 11, 13, 14, 19, 20, 21, 22, 23, 24], [0, 1, 4, 5]))
_SHOULDERS = (1.2, _only(_HEAD, [8, 9, 12, 13, 17, 18]))
_FACE = (1.3, _only(_HEAD, [12, 13, 17, 18]))
_TORSO = (1.1, _only([1, 2, 5, 8, 9, 12], [2, 3, 8, 9, 12, 14, 15, 16]))
_RIGHT_ARM, _LEFT_ARM = (1.1, _only(*_ARM["right"])), (1.1, _only(*_ARM["left"]))
_RIGHT_LEG, _LEFT_LEG = (1.1, _only(*_LEG["right"])), (1.1, _only(*_LEG["left"]))
_LEGS = (1.1, _but([0, 1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 18], [6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18]))
_WHOLE_BODY: tuple[Part, ...] = (
    (0.2, _HIPS), (0.1, _SHOULDERS), (0.1, _FACE), (0.1, _TORSO), (0.1, _RIGHT_ARM), (0.1, _LEFT_ARM),
    (0.1, _LEGS), (0.1, _RIGHT_LEG), (0.1, _LEFT_LEG),
)  # fmt: skip
_UPPER_BODY: tuple[Part, ...] = (
    (0.2, _SHOULDERS),
    (0.2, _FACE),
    (0.2, _TORSO),
    (0.2, _RIGHT_ARM),
    (0.2, _LEFT_ARM),
)
_TIGHT = 1.2  # margin about the joints before that of the crop
_SMALLEST_PX = 4.0


def extreme_crop(chance: float, keypoints_px: Array, confidence: Array) -> tuple[Array, float] | None:
    """Centre (2,) and side in pixels of a crop to a part of the body; None where too little of it is
    labelled.

    Args:
        chance: a random number in [0, 1) that chooses the part.
        keypoints_px: (44, 2) and `confidence` (44,).
    """
    seen = confidence > 0
    limbs = np.array([2, 3, 4, 5, 6, 7, 10, 11, 13, 14]), 25 + np.array([8, 7, 6, 9, 10, 11, 1, 0, 4, 5])
    legs, upper = [10, 11, 13, 14, 26, 25, 29, 30], [0, 1, 15, 16, 17, 18, 33, 34, 37, 38, 42, 43]
    if (seen[limbs[0]] | seen[limbs[1]]).all():
        parts = _WHOLE_BODY
    elif not seen[legs].any() and seen[upper].sum() >= 2:
        parts = _UPPER_BODY
    else:
        return None
    bounds = np.cumsum([p for p, _ in parts])
    margin, joints = parts[min(int(np.searchsorted(bounds, chance, side="right")), len(parts) - 1)][1]
    left = [j for j in joints if seen[j]]
    if confidence[left].sum() <= 1:
        return None
    points = keypoints_px[left]
    low, high = points.min(axis=0), points.max(axis=0)
    side = float((high - low).max() * _TIGHT * margin)
    return ((low + high) / 2, side) if side >= _SMALLEST_PX else None


def turn_in_space(view: View) -> Array:
    """What the view does to the camera frame, (3, 3): mirrors x, then rotates about the optical axis."""
    turn = np.eye(3)
    turn[:2, :2] = view.turn
    return turn


def turn_joints(joints_m: Array, view: View, order: list[int]) -> Array:
    """Joints (J, 3) of the camera frame as the view shows them."""
    moved: Array = joints_m @ turn_in_space(view).T
    return moved[order] if view.mirrored else moved


def turn_params(params: Mapping[str, Array], view: View) -> dict[str, Array]:
    """Parameters of a body as the view shows it.

    A mirrored body has the rotations of its other side, mirrored: R becomes F R F with F = diag(-1, 1, 1);
    its shape stays, as far as the body is symmetric.

    Args:
        params: rotation matrices `global_orient` (1, 3, 3) and `body_pose` (23, 3, 3), `betas` (10,).
    """
    orient, pose = params["global_orient"], params["body_pose"]
    if view.mirrored:
        sign = np.array([-1.0, 1.0, 1.0])
        mirror = sign[:, None] * sign[None, :]
        orient, pose = orient * mirror, pose[BODY_FLIP] * mirror
    rotation = turn_in_space(replace(view, mirrored=False))
    return {"global_orient": rotation @ orient, "body_pose": pose, "betas": params["betas"]}


# --------------------------------------------------------------------------- draws


def _scale(rng: np.random.Generator, augment: Augment) -> float:
    return 1 + float(np.clip(rng.standard_normal() * augment.scale, -augment.scale, augment.scale))


def _rotation(rng: np.random.Generator, augment: Augment) -> float:
    limit = 2 * augment.rotation_deg
    angle = float(np.clip(rng.standard_normal() * augment.rotation_deg, -limit, limit))
    return angle if rng.random() < augment.rotation_chance else 0.0


def _colour(rng: np.random.Generator, augment: Augment) -> tuple[float, float, float] | None:
    if not augment.colour:
        return None
    r, g, b = rng.uniform(1 - augment.colour, 1 + augment.colour, 3)
    return float(r), float(g), float(b)
