"""Joint sets by name: order, symmetric pairs, limbs, OKS constants."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Skeleton:
    """An ordered joint set.

    `flip_pairs` swap left and right; `limbs` are what to draw; `sigmas` are the OKS constants.
    """

    name: str
    joints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    limbs: tuple[tuple[int, int], ...]
    sigmas: tuple[float, ...] = ()

    @property
    def flip_order(self) -> list[int]:
        """Index of each joint's mirror image, (K,)."""
        order = list(range(len(self.joints)))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return order


# Joint order and sigmas: COCO keypoint task, pycocotools `Params.setKpParams`.
COCO17 = Skeleton(
    name="coco17",
    joints=(
        "nose",
        "left_eye",
        "right_eye",
        "left_ear",
        "right_ear",
        "left_shoulder",
        "right_shoulder",
        "left_elbow",
        "right_elbow",
        "left_wrist",
        "right_wrist",
        "left_hip",
        "right_hip",
        "left_knee",
        "right_knee",
        "left_ankle",
        "right_ankle",
    ),
    flip_pairs=((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)),
    limbs=(
        (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
        (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
    ),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062,
        0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
    ),
)  # fmt: skip

# Joints of the SMPL body (Loper et al. 2015): the order of its kinematic tree.
SMPL24 = Skeleton(
    name="smpl24",
    joints=(
        "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle",
        "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head",
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
        "left_hand", "right_hand",
    ),
    flip_pairs=((1, 2), (4, 5), (7, 8), (10, 11), (13, 14), (16, 17), (18, 19), (20, 21), (22, 23)),
    limbs=(
        (0, 1), (0, 2), (0, 3), (1, 4), (2, 5), (3, 6), (4, 7), (5, 8), (6, 9), (7, 10), (8, 11), (9, 12),
        (9, 13), (9, 14), (12, 15), (13, 16), (14, 17), (16, 18), (17, 19), (18, 20), (19, 21), (20, 22),
        (21, 23),
    ),
)  # fmt: skip

# The joint set of 4D-Humans: OpenPose's 25, then 19 that are regressed from the vertices. Names as in SPIN
# (Kolotouros et al. 2019, `constants.py`, BSD-3), order and flip pairs as in 4D-Humans (`image_dataset.py`,
# MIT).
HMR44 = Skeleton(
    name="hmr44",
    joints=(
        "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
        "left_wrist", "mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee",
        "left_ankle", "right_eye", "left_eye", "right_ear", "left_ear", "left_big_toe", "left_small_toe",
        "left_heel", "right_big_toe", "right_small_toe", "right_heel", "right_ankle_extra",
        "right_knee_extra", "right_hip_extra", "left_hip_extra", "left_knee_extra", "left_ankle_extra",
        "right_wrist_extra", "right_elbow_extra", "right_shoulder_extra", "left_shoulder_extra",
        "left_elbow_extra", "left_wrist_extra", "neck_lsp", "top_of_head_lsp", "pelvis_mpii",
        "thorax_mpii", "spine_h36m", "jaw_h36m", "head_h36m",
    ),
    flip_pairs=(
        (5, 2), (6, 3), (7, 4), (12, 9), (13, 10), (14, 11), (16, 15), (18, 17), (19, 22), (20, 23),
        (21, 24), (30, 25), (29, 26), (28, 27), (36, 31), (35, 32), (34, 33),
    ),
    limbs=(
        (1, 8), (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (8, 9), (9, 10), (10, 11), (8, 12),
        (12, 13), (13, 14), (1, 0), (0, 15), (15, 17), (0, 16), (16, 18), (14, 19), (19, 20), (14, 21),
        (11, 22), (22, 23), (11, 24),
    ),
)  # fmt: skip

_FINGERS = tuple(f"{finger}{i}" for finger in ("thumb", "index", "middle", "ring", "pinky") for i in (1, 2, 3, 4))
# The joints that SMPLer-X itself finds in a picture, in its order (caizhongang/SMPLer-X, `human_models.py`): of the
# body, then four of each finger, from the palm out.
SMPLERX65 = Skeleton(
    name="smplerx65",
    joints=(
        "pelvis", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "neck",
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_big_toe",
        "left_small_toe", "left_heel", "right_big_toe", "right_small_toe", "right_heel", "left_ear", "right_ear",
        "left_eye", "right_eye", "nose", *(f"{side}_{finger}" for side in ("left", "right") for finger in _FINGERS),
    ),
    flip_pairs=(
        (1, 2), (3, 4), (5, 6), (8, 9), (10, 11), (12, 13), (14, 17), (15, 18), (16, 19), (20, 21), (22, 23),
        *((25 + i, 45 + i) for i in range(20)),
    ),
    limbs=(
        (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6), (0, 7), (7, 8), (7, 9), (8, 10), (9, 11), (10, 12), (11, 13),
        (5, 14), (14, 15), (5, 16), (6, 17), (17, 18), (6, 19), (7, 24), (24, 22), (22, 20), (24, 23), (23, 21),
        *((12 + (hand > 25), hand + 4 * finger) for hand in (25, 45) for finger in range(5)),
        *((i, i + 1) for i in range(25, 65) if (i - 25) % 4 < 3),
    ),
)  # fmt: skip

# What 4D-Humans compares on 3DPW and on Human3.6M: twelve limb joints, the neck, the head
# (`datasets_eval.yaml`), with both poses moved to the pelvis (`EXTRA.PELVIS_IND`).
HMR44_EVAL14 = (25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 43)
HMR44_PELVIS = 39


def mirrored(joints: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """The pairs of joints whose names differ in left and right, or begin with l_ and r_."""
    place = {name.lower(): i for i, name in enumerate(joints)}
    pairs = []
    for name, i in place.items():
        other = name.replace("left", "right") if "left" in name else f"r{name[1:]}" if name.startswith("l_") else ""
        if other in place:
            pairs.append((i, place[other]))
    return tuple(pairs)


def skeleton_of(count: int) -> Skeleton:
    """The joint set of that size that a network finds in pictures, where no data set names its joints."""
    known = {len(skeleton.joints): skeleton for skeleton in (COCO17, SMPLERX65)}
    return known.get(count) or Skeleton(f"{count} joints", joint_names(count), (), ())


def joint_names(count: int, names: Iterable[str] | None = None) -> tuple[str, ...]:
    """Names for `count` joints: those given, else those of the joint set of that size, else the numbers."""
    if names is not None:
        return tuple(str(name) for name in names)
    by_size = {len(s.joints): s.joints for s in (COCO17, SMPL24, HMR44)}
    return by_size.get(count, tuple(str(i) for i in range(count)))
