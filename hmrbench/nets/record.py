"""What the rest of hmrbench must know of a family of pose networks: one frozen record in the family's file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    """A family by its name in tables, its networks by theirs on the command line.

    `output` is "heatmap" for maps (B, K, h, w), "simcc" for two tensors (B, K, bins), x then y, "bottom-up" for maps
    and tags of all people of a picture. `keys` turn official checkpoint keys into ours, see `own_key`.
    """

    name: str
    output: Literal["heatmap", "simcc", "bottom-up"]
    networks: Mapping[str, PoseNet]
    keys: Rules = MMPOSE_KEYS


def own_key(key: str, rules: Sequence[tuple[str, str]]) -> str:
    """Our name of an official checkpoint key: the first rule that matches decides; the key itself if none does."""
    for pattern, new in rules:
        renamed, hits = re.subn(pattern, new, key, count=1)
        if hits:
            return renamed
    return key
