"""How the keys of a family's official checkpoints become ours."""

from __future__ import annotations

from hmrbench.nets.record import OfficialLayout, Renames

# What is left after an encoder's own renames belongs to the head.
TO_HEAD: Renames = ((r"^(?!encoder\.)", "head."),)

__all__ = ["TO_HEAD", "OfficialLayout"]
