"""A natural pose of a shape: a stance, a look, something for the arms to do, within the joint limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hmrbench.records import Array
from hmrbench_synth import anatomy as an
from hmrbench_synth.arms import move_arms
from hmrbench_synth.limbs import LEFT, RIGHT, Figure, arm_clear, within_limits
from hmrbench_synth.stances import STANCES, bend, crawl

Rng = np.random.Generator


@dataclass(frozen=True)
class Pose:
    """Local rotations (24, 3, 3), root in the figure's frame (facing +z); how far the lowest point is off the
    ground.

    `seat` says that the person sits on something as high as the thighs allow; `flat` that the person lies.
    """

    name: str
    rotations: Array
    clearance_m: float = 0.0
    seat: bool = False
    flat: bool = False


def sample_pose(rng: Rng, rest: Array, parents: tuple[int, ...]) -> Pose:
    """A natural pose for a shape with rest joints (24, 3), within the joint limits."""
    weights = np.array([w for _, w in STANCES])
    for _ in range(50):
        make = STANCES[int(rng.choice(len(STANCES), p=weights / weights.sum()))][0]
        fig = Figure(rest, parents)
        stance = make(fig, rng)
        down = -0.5 * np.rad2deg(np.linalg.norm(an.to_axis_angle(fig.rotations[[0]]))) if make in (bend, crawl) else 0.0
        fig.look(
            float(np.clip(rng.normal(4, 9) + down, -40, 35)),
            float(np.clip(rng.normal(0, 20), -55, 55)),
            rng.normal(0, 6),
        )
        move_arms(fig, rng, stance.arms)
        clear = arm_clear(fig, LEFT) and arm_clear(fig, RIGHT)
        if clear and within_limits(fig.rotations, rest):
            return Pose(make.__name__, fig.rotations, stance.clearance_m, stance.seat, stance.flat)
    return Pose("stand", Figure(rest, parents).rotations)
