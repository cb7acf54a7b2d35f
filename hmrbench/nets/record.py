"""What is particular to a family of networks, and to a whole network, in frozen records in the family's own file.

The files of a folder are found by a tuple of records in each; nothing registers itself. Encoders have a record of
their own, see `hmrbench.nets.encoders.record`; those of other packages are named by their import path.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn


State = dict[str, "Tensor"]
Renames = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]  # pattern on a key, what its match becomes
FOLDERS = ("poses", "meshes")  # of whole networks, beside this file


def same(state: State) -> State:
    """The weights as they are."""
    return state


@dataclass(frozen=True)
class WeightsLayout:
    """A way to name weights.

    Attributes:
        name: what reports call it.
        marks: patterns at the beginning of keys that must all be found.
        rename: gives the weights our keys.
        classifier: keys that only ImageNet classification, or another part that is left out, needs.
        optional: keys of ours that the layout lacks; they keep their initial value.
        whole: a whole network with its head, or an encoder alone.
    """

    name: str
    marks: tuple[str, ...] = ()
    rename: Callable[[State], State] = same
    classifier: str = r"(?!)"
    optional: str = r"(?!)"
    whole: bool = False

    def fits(self, keys: Iterable[str]) -> bool:
        """Whether the marks are all there."""
        names = list(keys)
        return all(any(re.match(mark, key) for key in names) for mark in self.marks)


@dataclass(frozen=True)
class Depth:
    """Where the parameters of an encoder stand between its input and its output, by patterns on their keys.

    Attributes:
        block: a block, as group `block`, of a stage, as group `stage` where there are several.
        first: what comes before the first block.
        into: what leads into a stage, as group `stage`, or from one to the next, as group `before`.
        not_decayed: what weight decay leaves alone besides biases and norms.
    """

    block: str
    first: str
    into: str = r"(?!)"
    not_decayed: str = r"(?!)"

    def place(self, key: str) -> tuple[int, int | None] | None:
        """Stage and block of a parameter, from 0 (no block where it leads into a stage); None behind them all."""
        if m := re.match(self.block, key):
            return int(m.groupdict().get("stage") or 0), int(m["block"])
        if m := re.match(self.into, key):
            found = m.groupdict()
            return (int(found["before"]) + 1 if "before" in found else int(found["stage"])), None
        return (0, None) if re.match(self.first, key) else None


@dataclass(frozen=True)
class Family:
    """Networks or encoders that differ in size alone.

    Attributes:
        name: the beginning of their names, `swin` of `swin-t`.
        title: the name in plots and tables.
        colour: in plots, on white and on dark; None for one that the plot picks.
        output_norm: the output of an encoder's stage passes a LayerNorm before the neck.
        layouts: in which files have an encoder's weights, besides our own keys.
        depth: the order of an encoder's parameters, for layer-wise decay and for files of other depths.
    """

    name: str
    title: str
    colour: tuple[str, str] | None = None
    output_norm: bool = False
    layouts: tuple[WeightsLayout, ...] = ()
    depth: Depth | None = None


# In plots, all whole networks of other people: more colours than these cannot be told apart.
REFERENCES = Family("references", "reference networks", ("#8B4513", "#FFD92F"))


@dataclass(frozen=True)
class OfficialLayout:
    """One official checkpoint layout.

    `renames` are tried one after the other on a key (regular expression, replacement). `unused` keys stand in some
    official files and have no place in our network. `never_read` keys (ours) have one, since the published numbers
    of parameters count them, but no forward reads them: a file may lack them. `prefixes` are stripped first (`module.`
    of parallel training), and `wrapper` is the entry of the file that holds the weights, where it is not the file.
    `name` is what reports call it.
    """

    renames: Renames
    unused: str | None = None
    never_read: str | None = None
    prefixes: tuple[str, ...] = ("module.",)
    wrapper: str | None = None
    name: str = "official"

    def ours(self, key: str) -> str | None:
        """Our key for an official one; None where it has no place in our network."""
        for prefix in self.prefixes:
            key = key.removeprefix(prefix)
        if self.unused and re.search(self.unused, key):
            return None
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key


# mmpose's layouts: 1.x `backbone.*`, `head.*`; 0.x `backbone.*`, `keypoint_head.*`; without prefixes, as in the older
# repositories of single networks. mmpose's SimCC head keeps its transposed convolutions one level deeper than ours.
MMPOSE_KEYS = OfficialLayout(
    (
        (r"^backbone\.", "encoder."),
        (r"^(keypoint_head\.|head\.)?deconv_head\.", "head."),
        (r"^keypoint_head\.", "head."),
        (r"^(deconv_layers|final_layer|mlp_head_[xy]|mlp|gau|cls_[xy])\.", r"head.\1."),
        (r"^(?!encoder\.|head\.)", "encoder."),
    ),
    name="mmpose",
)


@dataclass(frozen=True)
class Net:
    """One whole network, which a card's `build` names.

    Attributes:
        name: what a card's `build` says.
        build: takes the input's (height, width) in pixels.
        family: its name and title in tables.
        input_sizes: the published ones.
        widths: channels of the maps that the encoder computes, from the finest to the coarsest.
        output: "heatmap" for maps (B, K, h, w), "simcc" for two tensors (B, K, bins), x then y, "bottom-up" for maps
            and tags of all people of a picture, "mesh" for a dict.
        split: bins per pixel of a network that puts out coordinates.
        layout: how official checkpoint keys become ours.
        mesh: what of the mesh assets `build` is given as its argument `mesh`: nothing, matrices, or also the mesh at
            rest, without SMPL's own of which the accuracy is not the official one.
    """

    name: str
    build: Callable[..., nn.Module]
    family: Family
    input_sizes: tuple[tuple[int, int], ...]
    widths: tuple[int, ...]
    output: Literal["heatmap", "simcc", "bottom-up", "mesh"] = "heatmap"
    split: float | None = None
    layout: OfficialLayout = MMPOSE_KEYS
    mesh: Literal["", "matrices", "template"] = ""


@dataclass(frozen=True)
class HeadKind:
    """A head: what comes behind encoder and neck.

    Attributes:
        name: what a card's `head.kind` says.
        build: takes the channels of the features, the input's (height, width) in pixels, and what the card says by
            name: of heads of this package the fields of its `head`, of another's its `options`.
        bins: puts out coordinates, in the card's `split` bins per pixel.
        side_crop: pixels of the picture's sides that the network does not look at.
    """

    name: str
    build: Callable[..., nn.Module]
    bins: bool = False
    side_crop: int = 0


def find_records(package: str, name: str) -> Iterator[Any]:
    """The records of that name, one or a tuple of them, in the files of a package, in the order of the files."""
    folder = importlib.import_module(package)
    for module in pkgutil.iter_modules(folder.__path__):
        found = getattr(importlib.import_module(f"{package}.{module.name}"), name, ())
        yield from found if isinstance(found, tuple) else (found,)


@cache
def known_heads() -> dict[str, HeadKind]:
    """The heads of this package by name."""
    return {head.name: head for head in find_records(f"{__package__}.heads", "HEADS")}


@cache
def known_networks() -> dict[str, Net]:
    """The whole networks of this package by name."""
    records = (record for folder in FOLDERS for record in find_records(f"{__package__}.{folder}", "NETWORKS"))
    return {record.name: record for record in records}
