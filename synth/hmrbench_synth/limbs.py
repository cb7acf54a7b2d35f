"""A figure that is posed limb by limb: two-bone inverse kinematics, joint limits, and whether an arm cuts the
torso.

Frame of the figure: metres, x to the person's left, y up, z forward, pelvis at rest where the shape has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.spatial.transform import Rotation

from hmrbench.records import Array
from hmrbench_synth import anatomy as an

LEFT, RIGHT = 0, 1
KNEE_MAX_DEG, ELBOW_MAX_DEG, ANKLE_MAX_DEG = 150.0, 148.0, 50.0
HYPEREXTENSION_DEG = 6.0
_MIRROR = np.diag([-1.0, 1.0, 1.0])
_FOLDED = 0.32  # shortest reach of a limb, as a share of its length


def unit(vector: Array) -> Array:
    """The vector at length one."""
    return np.asarray(vector / (np.linalg.norm(vector) + 1e-12))


def frame(direction: Array, towards: Array) -> Array:
    """Orthonormal columns: a direction, what is left of `towards` across it, and their cross product."""
    d = unit(direction)
    b = unit(towards - d * (towards @ d))
    return np.stack([d, b, np.cross(d, b)], axis=1)


def turn(axis: Array, degrees: float) -> Array:
    """Rotation about an axis, (3, 3)."""
    return np.asarray(Rotation.from_rotvec(np.deg2rad(degrees) * unit(axis)).as_matrix())


def mirrored(vector: Array, side: int) -> Array:
    """A vector given for the left side, as this side needs it."""
    return np.asarray(_MIRROR @ vector) if side == RIGHT else np.asarray(vector, dtype=np.float64)


@dataclass
class Figure:
    """Rest joints (24, 3) of a shape and the local rotations (24, 3, 3) that its methods set."""

    rest: Array
    parents: tuple[int, ...]
    rotations: Array = field(default_factory=lambda: np.tile(np.eye(3), (24, 1, 1)))

    def posed(self) -> tuple[Array, Array]:
        """Global rotations (24, 3, 3) and joints (24, 3)."""
        return an.forward(self.parents, self.rotations, self.rest)

    def length(self, *joints: int) -> float:
        """Length of the chain of bones through these joints at rest, metres."""
        return float(sum(np.linalg.norm(self.rest[b] - self.rest[a]) for a, b in pairwise(joints)))

    def bend_spine(self, flex: float, turn_left: float = 0.0, lean_left: float = 0.0) -> None:
        """Spread a bend of the trunk, in degrees, over the three spine joints."""
        for joint, share in ((an.SPINE1, 0.35), (an.SPINE2, 0.4), (an.SPINE3, 0.25)):
            self.rotations[joint] = an.euler(flex * share, turn_left * share, -lean_left * share)

    def look(self, down: float, left: float, tilt: float) -> None:
        """Turn the head, in degrees, half in the neck and half in the head joint."""
        for joint in (an.NECK, an.HEAD):
            self.rotations[joint] = an.euler(down / 2, left / 2, tilt / 2)

    def leg(self, side: int, flex: float, spread: float, twist: float, knee: float, ankle: float) -> None:
        """Set a leg by angles in degrees: thigh forward, outward, inward twist, knee bend, toes up."""
        hip = an.euler(z=spread) @ an.euler(x=-flex) @ an.euler(y=twist)
        if side == RIGHT:
            hip = _MIRROR @ hip @ _MIRROR
        self.rotations[an.HIP + side] = hip
        self.rotations[an.KNEE + side] = an.euler(x=float(np.clip(knee, 0, KNEE_MAX_DEG)))
        self.rotations[an.ANKLE + side] = an.euler(x=-float(np.clip(ankle, -ANKLE_MAX_DEG, 30)))

    def step(self, side: int, ankle: Array, pole: Array, heading: float = 0.0, pitch: float = 0.0) -> None:
        """Reach a point (3,) of the figure's frame with the ankle, the knee towards `pole`; aim the foot.

        `heading` turns the toes outwards and `pitch` points them down, in degrees in the figure's frame.
        """
        self._reach(an.HIP + side, an.KNEE + side, an.ANKLE + side, ankle, pole, np.array([0.0, 0.0, -1.0]))
        turned, _ = self.posed()
        aim = an.euler(y=heading if side == LEFT else -heading) @ an.euler(x=pitch)
        local = Rotation.from_matrix(turned[an.KNEE + side].T @ aim).as_rotvec()
        size = np.rad2deg(np.linalg.norm(local))
        local = local * min(1.0, ANKLE_MAX_DEG / max(size, 1e-6))
        self.rotations[an.ANKLE + side] = Rotation.from_rotvec(local).as_matrix()

    def aim_arm(self, side: int, direction: Array, bend_to: Array, bend: float, twist: float = 0.0) -> None:
        """Set an arm by the upper arm's direction and the side to which the elbow bends, in the trunk's
        frame.

        Both vectors are given for the left arm; `bend` and the forearm's `twist` (palm outwards) are in
        degrees.
        """
        direction, bend_to = mirrored(unit(direction), side), mirrored(bend_to, side)
        self._raise_collar(side, float(np.rad2deg(np.arcsin(np.clip(direction[1], -1, 1)))))
        turned, _ = self.posed()
        trunk = turned[an.SPINE3]
        self._bend(an.SHOULDER + side, an.ELBOW + side, trunk @ direction, trunk @ bend_to, bend, _arm_bend())
        self._twist_forearm(side, twist)

    def reach_arm(self, side: int, wrist: Array, pole: Array, twist: float = 0.0) -> None:
        """Reach a point (3,) of the figure's frame with the wrist, the elbow towards `pole` (given for the
        left arm).
        """
        _, joints = self.posed()
        rise = unit(wrist - joints[an.SHOULDER + side])[1]
        self._raise_collar(side, float(np.rad2deg(np.arcsin(np.clip(rise, -1, 1)))) * 0.7)
        chain = (an.SHOULDER + side, an.ELBOW + side, an.WRIST + side)
        self._reach(*chain, wrist, mirrored(pole, side), _arm_bend())
        self._twist_forearm(side, twist)

    def hand(self, side: int, flex: float, sideways: float, curl: float) -> None:
        """Bend the wrist to the palm and to the thumb, and curl the fingers, in degrees."""
        wrist, fingers = an.euler(0.0, -sideways, -flex), an.euler(z=-curl)
        if side == RIGHT:
            wrist, fingers = _MIRROR @ wrist @ _MIRROR, _MIRROR @ fingers @ _MIRROR
        self.rotations[an.WRIST + side], self.rotations[an.HAND + side] = wrist, fingers

    def _raise_collar(self, side: int, elevation: float) -> None:
        raised = an.euler(z=float(np.clip(0.22 * elevation + 6.0, -8.0, 24.0)))
        self.rotations[an.COLLAR + side] = _MIRROR @ raised @ _MIRROR if side == RIGHT else raised

    def _twist_forearm(self, side: int, twist: float) -> None:
        forearm = self.rest[an.WRIST + side] - self.rest[an.ELBOW + side]
        sign = 1.0 if side == LEFT else -1.0
        self.rotations[an.ELBOW + side] = self.rotations[an.ELBOW + side] @ turn(forearm, sign * twist)

    def _bend(self, top: int, middle: int, direction: Array, bend_to: Array, bend: float, rest_bend: Array) -> None:
        turned, _ = self.posed()
        upper = self.rest[middle] - self.rest[top]
        wanted = frame(direction, bend_to) @ frame(upper, rest_bend).T
        self.rotations[top] = turned[self.parents[top]].T @ wanted
        limit = KNEE_MAX_DEG if top in (an.HIP, an.HIP + 1) else ELBOW_MAX_DEG
        self.rotations[middle] = turn(np.cross(upper, rest_bend), float(np.clip(bend, 0.0, limit)))

    def _reach(self, top: int, middle: int, end: int, target: Array, pole: Array, rest_bend: Array) -> None:
        _, joints = self.posed()
        a, b = self.length(top, middle), self.length(middle, end)
        offset = target - joints[top]
        far = float(np.clip(np.linalg.norm(offset), _FOLDED * (a + b), 0.998 * (a + b)))
        along = unit(offset)
        out = unit(pole - along * (pole @ along))
        lift = np.arccos(np.clip((a * a + far * far - b * b) / (2 * a * far), -1, 1))
        inner = np.arccos(np.clip((a * a + b * b - far * far) / (2 * a * b), -1, 1))
        upper = along * np.cos(lift) + out * np.sin(lift)
        self._bend(top, middle, upper, -out if lift < 1e-3 else along, 180.0 - float(np.rad2deg(inner)), rest_bend)


def _arm_bend() -> Array:
    return np.array([0.0, 0.0, 1.0])


def bend_deg(rotations: Array, rest: Array, joint: int, child: int, rest_bend: Array) -> float:
    """Bend of a knee or elbow in degrees, positive the natural way, from local rotations (24, 3, 3)."""
    bone = unit(rest[child] - rest[joint])
    across = unit(rest_bend - bone * (rest_bend @ bone))
    bent = rotations[joint] @ bone
    return float(np.rad2deg(np.arctan2(bent @ across, bent @ bone)))


def within_limits(rotations: Array, rest: Array) -> bool:
    """Whether no knee or elbow bends backwards or too far and hips, shoulders, neck stay within a person's
    range.
    """
    for side in (LEFT, RIGHT):
        knee = bend_deg(rotations, rest, an.KNEE + side, an.ANKLE + side, np.array([0.0, 0.0, -1.0]))
        elbow = bend_deg(rotations, rest, an.ELBOW + side, an.WRIST + side, _arm_bend())
        if not -HYPEREXTENSION_DEG <= knee <= KNEE_MAX_DEG + 1 or not -HYPEREXTENSION_DEG <= elbow <= ELBOW_MAX_DEG + 1:
            return False
        thigh = mirrored(rotations[an.HIP + side] @ np.array([0.0, -1.0, 0.0]), side)
        if thigh[2] < -0.65 or thigh[0] < -0.55:  # too far back, or across the other leg
            return False
        upper = mirrored(rotations[an.SHOULDER + side] @ mirrored(np.array([1.0, 0.0, 0.0]), side), side)
        if upper[2] < -0.75 or upper[0] < -0.6:  # too far behind the back, or across the chest
            return False
    limits = {an.NECK: 45.0, an.HEAD: 45.0, an.SPINE1: 40.0, an.SPINE2: 40.0, an.SPINE3: 40.0}
    angles = np.rad2deg(np.linalg.norm(an.to_axis_angle(rotations), axis=1))
    return all(angles[joint] <= limit for joint, limit in limits.items())


def arm_clear(figure: Figure, side: int) -> bool:
    """Whether forearm and hand stay out of trunk, head and thighs (ellipsoids around the bones)."""
    turned, joints = figure.posed()
    elbow, wrist, hand = (joints[j + side] for j in (an.ELBOW, an.WRIST, an.HAND))
    tip = wrist + 1.6 * (hand - wrist)
    points = np.stack([elbow, 0.5 * (elbow + wrist), wrist, hand, tip])
    solids = [
        (an.PELVIS, np.array([0.0, 0.0, 0.0]), np.array([0.175, 0.13, 0.125])),
        (an.SPINE1, np.array([0.0, 0.05, 0.045]), np.array([0.15, 0.14, 0.125])),
        (an.SPINE3, np.array([0.0, -0.02, 0.05]), np.array([0.165, 0.18, 0.13])),
        (an.HEAD, np.array([0.0, 0.05, 0.03]), np.array([0.08, 0.12, 0.1])),
        (an.HIP, np.array([0.02, -0.2, 0.0]), np.array([0.08, 0.22, 0.085])),
        (an.HIP + 1, np.array([-0.02, -0.2, 0.0]), np.array([0.08, 0.22, 0.085])),
    ]
    for joint, centre, radii in solids:
        local = (points - joints[joint]) @ turned[joint] - centre
        if (((local / radii) ** 2).sum(1) < 1.0).any():
            return False
    return True
