"""What is particular to an encoder, in one frozen record that stands in the encoder's own file.

A file of this folder is found by its tuple `ENCODERS`; nothing registers itself. Encoders of other packages have the
same record, which a card names by its import path.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from torch import nn


@dataclass(frozen=True)
class Family:
    """Encoders that differ in size alone.

    Attributes:
        name: the beginning of their names, `swin` of `swin-t`.
        title: the name in plots and tables.
        colour: in plots, on white and on dark; None for one that the plot picks.
        output_norm: the output of a stage passes a LayerNorm before the neck.
    """

    name: str
    title: str
    colour: tuple[str, str] | None = None
    output_norm: bool = False


@dataclass(frozen=True)
class Encoder:
    """One encoder: `build(stages, **options)` gives it cut after a stage, with `widths` of its stages."""

    name: str
    build: Callable[..., nn.Module]
    family: Family


@cache
def known_encoders() -> dict[str, Encoder]:
    """The encoders of this folder by name, in the order of its files."""
    package = importlib.import_module(__package__)
    found: dict[str, Encoder] = {}
    for module in pkgutil.iter_modules(package.__path__):
        encoders: tuple[Encoder, ...] = getattr(importlib.import_module(f"{__package__}.{module.name}"), "ENCODERS", ())
        found.update((encoder.name, encoder) for encoder in encoders)
    return found


def known_families() -> dict[str, Family]:
    """The families of these encoders by name."""
    return {encoder.family.name: encoder.family for encoder in known_encoders().values()}
