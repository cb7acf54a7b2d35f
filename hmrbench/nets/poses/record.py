"""What is particular to a pose network, in one frozen record that stands in the family's own file.

A file of this folder is found by its tuple `FAMILIES`; nothing registers itself.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from torch import nn

Rules = tuple[tuple[str, str], ...]  # regular expression on an official key, what its match becomes

# mmpose's layouts: 1.x `backbone.*`, `head.*`; 0.x `backbone.*`, `keypoint_head.*`; without prefixes, as in the older
# repositories of single networks. mmpose's SimCC head keeps its transposed convolutions one level deeper than ours.
MMPOSE_KEYS: Rules = (
    (r"^backbone\.", "encoder."),
    (r"^(keypoint_head\.|head\.)?deconv_head\.", "head."),
    (r"^(keypoint_head|head)\.", "head."),
    (r"^(deconv_layers|final_layer|mlp_head_[xy]|mlp|gau|cls_[xy])\.", r"head.\1."),
    (r"^", "encoder."),
)


@dataclass(frozen=True)
class PoseNet:
    """One network of a family.

    `build` takes the input's (height, width) in pixels; `input_sizes` are the published ones. `widths` are the
    channels of the maps that the encoder computes, from the finest to the coarsest. `split` is the number of bins
    per pixel of a network that puts out coordinates, 0 for one that puts out heatmaps.
    """

    build: Callable[[tuple[int, int]], nn.Module]
    input_sizes: tuple[tuple[int, int], ...]
    widths: tuple[int, ...]
    split: float = 0.0


@dataclass(frozen=True)
class PoseFamily:
    """A family by its title in plots and tables, its networks by their names on the command line.

    `output` is "heatmap" for maps (B, K, h, w), "simcc" for two tensors (B, K, bins), x then y, "bottom-up" for maps
    and tags of all people of a picture. `keys` turn official checkpoint keys into ours, see `own_key`.
    """

    title: str
    output: Literal["heatmap", "simcc", "bottom-up"]
    networks: Mapping[str, PoseNet]
    keys: Rules = MMPOSE_KEYS


@cache
def known_networks() -> dict[str, PoseFamily]:
    """The family of each network by the network's name, in the order of this folder's files."""
    package = importlib.import_module(__package__)
    found: dict[str, PoseFamily] = {}
    for module in pkgutil.iter_modules(package.__path__):
        families = getattr(importlib.import_module(f"{__package__}.{module.name}"), "FAMILIES", ())
        found.update((name, family) for family in families for name in family.networks)
    return found


def own_key(key: str, rules: Sequence[tuple[str, str]]) -> str:
    """Our name of an official checkpoint key: the first rule that matches decides; the key itself if none does."""
    for pattern, new in rules:
        renamed, hits = re.subn(pattern, new, key, count=1)
        if hits:
            return renamed
    return key
