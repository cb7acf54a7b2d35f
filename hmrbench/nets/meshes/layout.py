"""How the keys of a family's official checkpoints become ours."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hmrbench.nets.meshes.backbones import Renames


@dataclass(frozen=True)
class OfficialLayout:
    """One official checkpoint layout.

    `renames` are tried one after the other on a key (regular expression, replacement). `unused` keys stand in some
    official files and have no place in our network. `never_read` keys (ours) have one, since the published numbers
    of parameters count them, but no forward reads them: a file may lack them. `prefixes` are stripped first (`module.`
    of parallel training), and `wrapper` is the entry of the file that holds the weights, where it is not the file.
    """

    renames: Renames
    unused: str | None = None
    never_read: str | None = None
    prefixes: tuple[str, ...] = ("module.",)
    wrapper: str | None = None

    def ours(self, key: str) -> str | None:
        """Our key for an official one; None where it has no place in our network."""
        for prefix in self.prefixes:
            key = key.removeprefix(prefix)
        if self.unused and re.search(self.unused, key):
            return None
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key


# What is left after an encoder's own renames belongs to the head.
TO_HEAD: Renames = ((r"^(?!encoder\.)", "head."),)
