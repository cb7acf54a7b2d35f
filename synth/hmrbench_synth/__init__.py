"""Synthetic people: pictures of dressed, lit, partly hidden people with everything that is true of them.

Needs numba; importing this package without it raises UsageError.
"""

from hmrbench_synth.export import demo_scene, make_demo
from hmrbench_synth.scene import Person, Scene, pose_body, render_scene

__all__ = ["Person", "Scene", "demo_scene", "make_demo", "pose_body", "render_scene"]
