"""How legs and trunk are: standing, walking, running, sitting, crouching, lying and more.

Legs stand on the ground by inverse kinematics. A stance says which actions of the arms suit it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hmrbench_synth import anatomy as an
from hmrbench_synth.limbs import LEFT, RIGHT, Figure, mirrored

Rng = np.random.Generator
ANKLE_HEIGHT_M = 0.095  # ankle joint above the ground, in shoes


@dataclass(frozen=True)
class Stance:
    """What a stance leaves to the arms: which arm actions suit it, and how it meets the ground."""

    arms: tuple[str, ...]
    clearance_m: float = 0.0
    seat: bool = False
    flat: bool = False


EVERYDAY = (
    "down", "down", "down", "hips", "pockets", "wave", "phone", "point", "up", "hold", "read", "folded",
    "chin", "nape", "back", "side", "greet", "any",
)  # fmt: skip


def _legs_to_ground(
    fig: Figure, height: float, feet: list[tuple[float, float, float, float]], out: float = 0.2
) -> None:
    """Both ankles to (sideways, forward, lift, pitch) each, the pelvis `height` metres above the ground."""
    floor = fig.rest[an.PELVIS][1] - height
    for side, (x, z, lift, pitch) in enumerate(feet):
        ankle = mirrored(np.array([x, floor + ANKLE_HEIGHT_M + lift, z]), side)
        fig.step(
            side,
            ankle,
            mirrored(np.array([out, 0.15, 1.0]), side),
            heading=6 + 40 * max(out - 0.2, 0),
            pitch=pitch,
        )


def _leg_length(fig: Figure) -> float:
    """Height of the pelvis above the ground on straight legs."""
    above = float(fig.rest[an.PELVIS][1] - fig.rest[an.HIP][1])
    return fig.length(an.HIP, an.KNEE, an.ANKLE) + ANKLE_HEIGHT_M + above


def _root(fig: Figure, forward: float = 0.0, turn: float = 0.0, roll: float = 0.0) -> None:
    fig.rotations[0] = an.euler(forward, turn, roll)


def stand(fig: Figure, rng: Rng) -> Stance:
    length = _leg_length(fig)
    width, shift = abs(rng.normal(0.11, 0.05)) + 0.03, rng.normal(0, 0.035)
    _root(fig, rng.normal(2, 3), rng.normal(0, 4), -60 * shift + rng.normal(0, 1.5))
    stagger = rng.normal(0, 0.07)
    feet = [(width + shift * s, stagger * s, 0.0, 0.0) for s in (-1, 1)]
    _legs_to_ground(fig, length * rng.uniform(0.965, 0.995), feet, rng.uniform(0.1, 0.35))
    fig.bend_spine(rng.normal(2, 5), rng.normal(0, 10), rng.normal(0, 4) - 80 * shift)
    return Stance(EVERYDAY)


def walk(fig: Figure, rng: Rng) -> Stance:
    phase, stride = rng.uniform(0, 2 * np.pi), rng.uniform(0.22, 0.4)
    feet = []
    for q in (phase, phase + np.pi):
        swing = max(0.0, -np.sin(q))  # the foot that travels forward is in the air
        pitch = -14 * max(0.0, np.cos(q)) + 32 * max(0.0, -np.cos(q)) * (0.4 + 0.6 * swing)
        lift = 0.1 * swing + 0.05 * max(0.0, -np.cos(q)) + 0.02 * max(0.0, np.cos(q))
        feet.append((rng.uniform(0.06, 0.11), stride * np.cos(q), lift, pitch))
    _root(fig, rng.normal(3, 2), 8 * np.cos(phase), rng.normal(0, 2))
    _legs_to_ground(fig, _leg_length(fig) * (0.985 - 0.18 * (stride * np.cos(phase)) ** 2), feet, 0.1)
    fig.bend_spine(rng.normal(3, 3), -14 * np.cos(phase), rng.normal(0, 2))
    if rng.random() < 0.75:
        for side in (LEFT, RIGHT):
            sway = -np.cos(phase + np.pi * side) * rng.uniform(0.3, 0.5)
            fig.aim_arm(
                side,
                np.array([0.18, -1, sway]),
                np.array([-0.1, 0.1, 1]),
                rng.uniform(8, 35),
                rng.normal(0, 12),
            )
            fig.hand(side, rng.normal(5, 6), 0, rng.uniform(5, 35))
        return Stance(())
    return Stance(("hold", "phone", "pockets", "wave", "read", "carry"))


def run(fig: Figure, rng: Rng) -> Stance:
    phase, power = rng.uniform(0, 2 * np.pi), rng.uniform(0.7, 1.1)
    _root(fig, rng.normal(9, 4), 10 * np.cos(phase))
    for side in (LEFT, RIGHT):
        q = phase + np.pi * side
        flex = power * (18 + 42 * np.cos(q))
        knee = 18 + power * 78 * max(0.0, 0.55 * -np.sin(q) - 0.55 * np.cos(q) + 0.25)
        fig.leg(side, flex, rng.normal(2, 2), 0, knee, -25 * max(0.0, -np.cos(q)) + rng.normal(0, 4))
    fig.bend_spine(rng.normal(8, 4), -22 * np.cos(phase), 0)
    for side in (LEFT, RIGHT):
        sway = -np.cos(phase + np.pi * side) * rng.uniform(0.6, 0.95)
        fig.aim_arm(
            side,
            np.array([0.25, -0.8, sway]),
            np.array([-0.35, 0.35, 1]),
            rng.uniform(70, 110),
            rng.normal(0, 10),
        )
        fig.hand(side, rng.normal(0, 6), 0, rng.uniform(30, 75))
    return Stance((), clearance_m=float(rng.choice([0.0, rng.uniform(0.02, 0.12)])))


def sit(fig: Figure, rng: Rng) -> Stance:
    height = rng.uniform(0.5, 0.66) * _leg_length(fig)
    _root(fig, -rng.normal(6, 7))
    feet = [(rng.uniform(0.06, 0.24), rng.uniform(0.28, 0.55), 0.0, rng.choice([0.0, 0.0, 20.0])) for _ in (0, 1)]
    _legs_to_ground(fig, height, feet, rng.uniform(0.0, 0.5))
    if rng.random() < 0.22:  # one leg across the other
        side = int(rng.integers(2))
        ankle = mirrored(np.array([-0.2, 0.12, 0.42]) + rng.normal(0, 0.02, 3), side)
        fig.step(side, ankle, mirrored(np.array([0.8, 0.4, 0.6]), side), 10, 25)
    fig.bend_spine(rng.normal(12, 9), rng.normal(0, 10), rng.normal(0, 4))
    return Stance(("knees", "knees", "knees", "folded", "chin", "phone", "read", "hold", "wave", "side"), seat=True)


def sit_floor(fig: Figure, rng: Rng) -> Stance:
    _root(fig, -rng.uniform(8, 22))
    if rng.random() < 0.4:  # legs crossed
        for side, height in ((LEFT, -0.05), (RIGHT, -0.09)):
            ankle = mirrored(np.array([-0.12, height, 0.3 + 0.06 * side]), side)
            fig.step(side, ankle, mirrored(np.array([1.0, 0.25, 0.35]), side), 10, 35)
    else:
        for side in (LEFT, RIGHT):
            ankle = mirrored(np.array([rng.uniform(0.03, 0.25), -0.03, rng.uniform(0.35, 0.78)]), side)
            fig.step(
                side,
                ankle,
                mirrored(np.array([rng.uniform(-0.2, 0.3), 1.0, 0.2]), side),
                5,
                -rng.uniform(5, 40),
            )
    fig.bend_spine(rng.normal(24, 8), rng.normal(0, 8), rng.normal(0, 4))
    return Stance(("knees", "knees", "prop", "prop", "read", "hold", "wave", "chin"))


def squat(fig: Figure, rng: Rng) -> Stance:
    height = rng.uniform(0.42, 0.72) * _leg_length(fig)
    _root(fig, rng.uniform(5, 25))
    back = -0.16 * (1 - height / _leg_length(fig))
    feet = [(rng.uniform(0.12, 0.24), rng.normal(-back, 0.03), 0.0, 0.0) for _ in (0, 1)]
    _legs_to_ground(fig, height, feet, rng.uniform(0.25, 0.7))
    fig.bend_spine(rng.uniform(10, 45), rng.normal(0, 8), rng.normal(0, 4))
    return Stance(("knees", "ahead", "ahead", "hold", "ground", "point", "guard"))


def kneel(fig: Figure, rng: Rng) -> Stance:
    thigh = fig.length(an.HIP, an.KNEE)
    down = int(rng.integers(2))
    if rng.random() < 0.65:  # on one knee
        _root(fig, rng.normal(2, 4))
        floor = -thigh - 0.085
        ankle = mirrored(np.array([rng.uniform(0.08, 0.2), floor + ANKLE_HEIGHT_M, rng.uniform(0.36, 0.5)]), 1 - down)
        fig.step(1 - down, ankle, mirrored(np.array([0.2, 0.6, 1.0]), 1 - down), 6, 0)
        fig.leg(down, rng.normal(-2, 4), abs(rng.normal(3, 3)), rng.normal(0, 4), rng.uniform(82, 98), -40)
    else:
        back = rng.uniform(0, 60)
        _root(fig, rng.normal(3, 4))
        for side in (LEFT, RIGHT):
            fig.leg(side, back, rng.uniform(3, 14), 0, 90 + back * rng.uniform(0.6, 0.9), -45)
    fig.bend_spine(rng.normal(8, 10), rng.normal(0, 10), rng.normal(0, 4))
    return Stance(("knees", "ahead", "hold", "guard", "down", "up", "point", "hips", "any"))


def lunge(fig: Figure, rng: Rng) -> Stance:
    front, length = int(rng.integers(2)), _leg_length(fig)
    height, reach = length * rng.uniform(0.68, 0.88), rng.uniform(0.32, 0.5)
    _root(fig, rng.normal(4, 5), (8 if front == RIGHT else -8) * rng.uniform(0, 1))
    feet = [(rng.uniform(0.06, 0.16), reach if side == front else -reach * 1.15, 0.0, 0.0) for side in (0, 1)]
    x, z, _, _ = feet[1 - front]
    feet[1 - front] = (x, z, 0.075, 42.0)
    _legs_to_ground(fig, height, feet, 0.1)
    fig.bend_spine(rng.normal(6, 10), rng.normal(0, 14), rng.normal(0, 5))
    return Stance(("guard", "side", "up", "hips", "point", "knees", "throw", "any"))


def jump(fig: Figure, rng: Rng) -> Stance:
    _root(fig, rng.normal(0, 8), 0, rng.normal(0, 5))
    tucked = rng.random() < 0.5
    for side in (LEFT, RIGHT):
        flex = rng.uniform(20, 80) if tucked else rng.normal(5, 12)
        fig.leg(
            side,
            flex,
            rng.uniform(4, 30),
            rng.normal(0, 8),
            flex * 1.2 if tucked else rng.uniform(0, 40),
            -35,
        )
    fig.bend_spine(rng.normal(0, 9), rng.normal(0, 10), rng.normal(0, 6))
    return Stance(("up", "up", "side", "any", "wave"), clearance_m=float(rng.uniform(0.05, 0.35)))


def kick(fig: Figure, rng: Rng) -> Stance:
    side, length = int(rng.integers(2)), _leg_length(fig)
    _root(fig, -rng.uniform(0, 16), rng.normal(0, 10))
    _legs_to_ground(fig, length * rng.uniform(0.93, 0.98), [(0.05, 0.02, 0.0, 0.0), (0.05, 0.02, 0.0, 0.0)], 0.2)
    fig.leg(
        side,
        rng.uniform(35, 95),
        rng.uniform(0, 25),
        rng.normal(0, 8),
        rng.uniform(5, 80),
        rng.uniform(-30, 10),
    )
    fig.bend_spine(rng.normal(12, 8), rng.normal(0, 14), rng.normal(0, 5))
    return Stance(("guard", "side", "any", "down"))


def bend(fig: Figure, rng: Rng) -> Stance:
    lean, length = rng.uniform(30, 75), _leg_length(fig)
    _root(fig, lean * 0.75)
    feet = [(rng.uniform(0.08, 0.18), 0.0018 * lean + rng.normal(0.0, 0.05), 0.0, 0.0) for _ in (0, 1)]
    _legs_to_ground(fig, length * rng.uniform(0.84, 0.96), feet, 0.2)
    fig.bend_spine(lean * 0.5, rng.normal(0, 10), rng.normal(0, 5))
    return Stance(("ground", "ground", "knees", "ahead"))


def dance(fig: Figure, rng: Rng) -> Stance:
    length = _leg_length(fig)
    _root(fig, rng.normal(2, 7), rng.normal(0, 14), rng.normal(0, 7))
    feet = [(rng.uniform(0.02, 0.36), rng.normal(0, 0.16), 0.0, 0.0) for _ in (0, 1)]
    raised = int(rng.integers(2))
    feet[raised] = (feet[raised][0], feet[raised][1], rng.uniform(0, 0.3), rng.uniform(0, 35))
    _legs_to_ground(fig, length * rng.uniform(0.86, 0.96), feet, rng.uniform(0.1, 0.7))
    fig.bend_spine(rng.normal(4, 10), rng.normal(0, 22), rng.normal(0, 14))
    return Stance(("any", "up", "side", "hips", "any", "greet"))


def balance(fig: Figure, rng: Rng) -> Stance:
    side, length = int(rng.integers(2)), _leg_length(fig)
    _root(fig, rng.normal(0, 3))
    _legs_to_ground(fig, length * 0.985, [(0.03, 0.0, 0.0, 0.0), (0.03, 0.0, 0.0, 0.0)], 0.15)
    if rng.random() < 0.5:  # sole against the other knee
        target = mirrored(np.array([0.0, -0.42, 0.04]), side)
        fig.step(side, target, mirrored(np.array([1.0, 0.1, 0.25]), side), 60, 70)
    else:
        fig.leg(side, rng.uniform(60, 95), rng.uniform(0, 20), 0, rng.uniform(50, 110), -20)
    fig.bend_spine(rng.normal(0, 4), rng.normal(0, 5), rng.normal(0, 4))
    return Stance(("up", "side", "hips", "greet", "any"))


def lie(fig: Figure, rng: Rng) -> Stance:
    prone = rng.random() < 0.35
    fig.rotations[0] = an.euler(x=-90.0) @ an.euler(y=(180.0 if prone else 0.0) + rng.normal(0, 4))
    for side in (LEFT, RIGHT):
        flex, knee = rng.normal(0, 2), abs(rng.normal(3, 3))
        if not prone and rng.random() < 0.4:  # a foot on the ground, the knee up
            flex, knee = 48.0, 96.0
        fig.leg(side, flex, rng.uniform(1, 10), rng.normal(0, 8), knee, -50)
    fig.bend_spine(rng.normal(0, 3), rng.normal(0, 4), rng.normal(0, 5))
    return Stance(("up", "down") if prone else ("down", "side", "up", "nape"), flat=True)


def crawl(fig: Figure, rng: Rng) -> Stance:
    pitch = rng.uniform(74, 90)
    _root(fig, pitch)
    for side in (LEFT, RIGHT):
        fig.leg(side, pitch + rng.normal(0, 12), rng.uniform(2, 10), 0, rng.uniform(82, 95), -45)
    fig.bend_spine(rng.normal(4, 6), rng.normal(0, 5), rng.normal(0, 3))
    return Stance(("floor",))


STANCES: tuple[tuple[Callable[[Figure, Rng], Stance], float], ...] = (
    (stand, 0.26), (walk, 0.14), (run, 0.08), (sit, 0.12), (sit_floor, 0.06), (squat, 0.06), (kneel, 0.05),
    (lunge, 0.04), (jump, 0.03), (kick, 0.03), (bend, 0.04), (dance, 0.04), (balance, 0.02), (lie, 0.02),
    (crawl, 0.01),
)  # fmt: skip
