"""What arms do: hang, wave, fold, hold a phone, rest on the knees, prop on the floor and so on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hmrbench.records import Array
from hmrbench_synth import anatomy as an
from hmrbench_synth.limbs import LEFT, RIGHT, Figure, arm_clear, mirrored

Rng = np.random.Generator
ArmMove = Callable[[Figure, Rng, int], None]


def _vec(*values: float) -> Array:
    return np.array(values, dtype=np.float64)


def _aim(
    direction: Array, bend_to: Array, low: float, high: float, twist: float = 0.0, spread: float = 0.12
) -> ArmMove:
    """An arm along a direction of the trunk's frame, elbow bent by `low` to `high` degrees."""

    def move(fig: Figure, rng: Rng, side: int) -> None:
        d = direction / np.linalg.norm(direction) + rng.normal(0, spread, 3)
        fig.aim_arm(side, d, bend_to + rng.normal(0, 0.1, 3), rng.uniform(low, high), twist + rng.normal(0, 12))
        fig.hand(side, rng.normal(5, 9), rng.normal(0, 6), rng.uniform(5, 45))

    return move


def _reach(
    anchor: int,
    offset: Array,
    pole: Array,
    twist: float = 0.0,
    spread: float = 0.02,
    flex: float = 5.0,
    curl: float = 25.0,
) -> ArmMove:
    """A wrist to a point near a joint of the body, offset in that joint's frame, given for the left arm."""

    def move(fig: Figure, rng: Rng, side: int) -> None:
        turned, joints = fig.posed()
        paired = anchor in (an.HIP, an.KNEE, an.SHOULDER, an.ANKLE)
        joint = anchor + side if paired else anchor
        target = joints[joint] + turned[joint] @ mirrored(offset + rng.normal(0, spread, 3), side)
        frame = turned[an.SPINE3]
        fig.reach_arm(side, target, mirrored(frame @ mirrored(pole, side), side), twist + rng.normal(0, 10))
        fig.hand(side, flex + rng.normal(0, 5), rng.normal(0, 5), max(0.0, curl + rng.normal(0, 10)))

    return move


def _floor(ahead: bool) -> ArmMove:
    """A wrist to the ground, before the body or beside it."""

    def move(fig: Figure, rng: Rng, side: int) -> None:
        _, joints = fig.posed()
        lowest = float(joints[:, 1].min()) - 0.03
        shoulder = joints[an.SHOULDER + side]
        z = shoulder[2] + rng.normal(0.03, 0.05) if ahead else joints[0][2] - rng.uniform(0.1, 0.3)
        x = shoulder[0] + rng.normal(0, 0.04) + (0.0 if ahead else (0.12 if side == LEFT else -0.12))
        pole = _vec(0.6, 0.1, -0.6) if ahead else _vec(0.4, 0.0, -1.0)
        fig.reach_arm(side, _vec(x, lowest + 0.06, z), pole, 0.0)
        fig.hand(side, -70.0 if ahead else -55.0, 0.0, 4.0)

    return move


MOVES: dict[str, ArmMove] = {
    "down": _aim(_vec(0.24, -1, 0.02), _vec(-0.05, 0, 1), 3, 38, spread=0.07),
    "hips": _reach(an.PELVIS, _vec(0.2, 0.055, 0.015), _vec(1, -0.1, -0.35), -35, 0.01, 40, 20),
    "pockets": _reach(an.PELVIS, _vec(0.2, -0.035, 0.05), _vec(0.6, 0, -1), 10, 0.012, 5, 10),
    "wave": _aim(_vec(0.75, 0.15, 0.2), _vec(-0.1, 1, 0.15), 75, 115, 0),
    "phone": _reach(an.HEAD, _vec(0.125, 0.0, 0.075), _vec(0.9, -1, 0.2), 20, 0.012, 15, 60),
    "point": _aim(_vec(0.35, 0.05, 1), _vec(-0.2, 0.5, 0.2), 0, 18),
    "up": _aim(_vec(0.35, 1, 0.1), _vec(-0.5, 0.1, 0.5), 2, 65, spread=0.18),
    "hold": _reach(an.SPINE2, _vec(0.12, 0.02, 0.33), _vec(0.7, -1, -0.3), 40, 0.04, 0, 50),
    "read": _reach(an.SPINE3, _vec(0.1, -0.04, 0.34), _vec(0.6, -1, -0.2), 60, 0.03, 10, 55),
    "carry": _reach(an.SPINE2, _vec(0.16, -0.06, 0.32), _vec(0.7, -0.6, -0.6), 20, 0.03, 10, 40),
    "chin": _reach(an.HEAD, _vec(0.03, -0.1, 0.17), _vec(0.5, -1, 0.5), 40, 0.01, 10, 65),
    "nape": _reach(an.HEAD, _vec(0.12, 0.02, -0.07), _vec(1, 0.5, 0.3), 0, 0.012, 20, 20),
    "back": _reach(an.PELVIS, _vec(0.09, 0.05, -0.16), _vec(1, 0, -0.7), 30, 0.015, 5, 20),
    "side": _aim(_vec(1, 0.1, 0.05), _vec(-0.1, 0.4, 0.8), 0, 60, spread=0.22),
    "greet": _aim(_vec(0.45, -0.75, 0.35), _vec(-0.1, 0.9, 0.6), 70, 120, 20),
    "guard": _aim(_vec(0.35, -0.75, 0.45), _vec(-0.35, 0.9, 0.5), 90, 130, 10),
    "ahead": _aim(_vec(0.15, -0.15, 1), _vec(-0.3, 0.6, 0.1), 0, 70, spread=0.2),
    "throw": _aim(_vec(0.7, 0.4, -0.25), _vec(-0.2, 1, 0.3), 60, 105),
    "knees": _reach(an.KNEE, _vec(0.01, 0.1, 0.1), _vec(0.9, 0.1, -0.6), 0, 0.02, 15, 15),
    "ground": _aim(_vec(0.12, -0.9, 0.85), _vec(-0.2, 0.3, 0.6), 0, 30),
    "prop": _floor(ahead=False),
    "floor": _floor(ahead=True),
}
PAIRED = {"folded", "knees", "prop", "floor", "carry", "ground", "guard"}


def _any(fig: Figure, rng: Rng, side: int) -> None:
    p = rng.normal(size=5)
    _aim(_vec(abs(p[0]) + 0.25, 0.9 * p[1], 0.7 * p[2] + 0.3), _vec(p[3] - 0.5, p[4], 0.8), 0, 125)(fig, rng, side)


def _fold(fig: Figure, rng: Rng) -> None:
    """Arms crossed before the chest, one forearm above the other."""
    over = int(rng.integers(2))
    for side in (LEFT, RIGHT):
        height = 0.0 if side == over else -0.055
        offset = _vec(-0.1, -0.1 + height, 0.2 if side == over else 0.165)
        _reach(an.SPINE3, offset, _vec(1, -0.9, 0.2), 10, 0.006, 8, 20)(fig, rng, side)


def move_arms(fig: Figure, rng: Rng, choices: tuple[str, ...]) -> None:
    """Let each arm do one of the actions, often both the same; an action that would cut the body is tried
    again.
    """
    if not choices:
        return
    first = str(rng.choice(choices))
    same = first in PAIRED or rng.random() < 0.4
    if first == "folded":
        _fold(fig, rng)
        return
    for side in (LEFT, RIGHT) if rng.random() < 0.5 else (RIGHT, LEFT):
        for attempt in range(8):
            name = first if attempt < 4 else str(rng.choice(choices))
            if name == "folded":
                continue
            (_any if name == "any" else MOVES[name])(fig, rng, side)
            if arm_clear(fig, side):
                break
        if not same:
            first = str(rng.choice([c for c in choices if c not in PAIRED] or ["down"]))
