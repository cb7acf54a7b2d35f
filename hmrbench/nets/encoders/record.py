"""What is particular to an encoder, in one frozen record that stands in the encoder's own file.

A file of this folder is found by its tuple `ENCODERS`; nothing registers itself. Encoders of other packages have the
same record, which a card names by its import path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from torch import nn

from hmrbench.nets.record import Family, find_records


@dataclass(frozen=True)
class Encoder:
    """One encoder: `build(stages, **options)` gives it cut after a stage, with `widths` of its stages."""

    name: str
    build: Callable[..., nn.Module]
    family: Family


@cache
def known_encoders() -> dict[str, Encoder]:
    """The encoders of this folder by name, in the order of its files."""
    return {encoder.name: encoder for encoder in find_records(str(__package__), "ENCODERS")}


def known_families() -> dict[str, Family]:
    """The families of these encoders by name."""
    return {encoder.family.name: encoder.family for encoder in known_encoders().values()}


__all__ = ["Encoder", "Family", "known_encoders", "known_families"]
