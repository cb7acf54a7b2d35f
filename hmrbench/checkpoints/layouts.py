"""Known layouts of checkpoints, and how their keys become ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from torch import Tensor

from hmrbench.errors import WeightsError
from hmrbench.nets.encoders.record import known_families
from hmrbench.nets.encoders.vit import from_mmpretrain
from hmrbench.nets.record import Depth, OfficialLayout, WeightsLayout, known_networks


def is_known(state: Mapping[str, Any]) -> bool:
    """Whether the keys are of a known layout."""
    return any(layout.fits(state) for layout in _layouts())


def drop_keys(state: dict[str, Tensor], pattern: str) -> tuple[dict[str, Tensor], list[str]]:
    """The weights without those whose keys match, and the keys of those."""
    gone = [k for k in state if re.match(pattern, k)]
    return {k: v for k, v in state.items() if k not in set(gone)}, gone


def _network_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`backbone.` and the heads of a whole network -> `encoder.`, `head.`; the norm of the output -> `neck.`."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        key = re.sub(r"^backbone\.(?:out)?norm[0-3]\.", "neck.norm.", key)
        key = re.sub(r"^backbone\.", "encoder.", key)
        key = re.sub(r"^(keypoint_head|smpl_head|head)\.", "head.", key)
        out[key] = value
    return out


def _mmpose1(state: dict[str, Tensor]) -> dict[str, Tensor]:
    backbone = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    rest = {k: v for k, v in state.items() if not k.startswith("backbone.")}
    return {**{f"encoder.{k}": v for k, v in from_mmpretrain(backbone).items()}, **_network_prefixes(rest)}


# Of whole networks. Those of encoders alone stand with the encoders.
OWN = WeightsLayout("hmrbench", (r"encoder\.", r"head\."), whole=True)
_WHOLE = (
    OWN,
    WeightsLayout("hmr2", (r"backbone\.", r"smpl_head\."), _network_prefixes, r"(smpl|discriminator)\.", whole=True),
    WeightsLayout("mmpose-1.x", (r"backbone\.layers\.0\.ln1", r"head\."), _mmpose1, whole=True),
    WeightsLayout(
        "vitpose", (r"backbone\.", r"keypoint_head\."), _network_prefixes, r"associate_keypoint_heads\.", whole=True
    ),
)


@cache
def _layouts() -> tuple[WeightsLayout, ...]:
    families = [*known_families().values(), *(net.family for net in known_networks().values())]
    return (*_WHOLE, *dict.fromkeys(layout for family in families for layout in family.layouts))


@cache
def _depths() -> tuple[Depth, ...]:
    return tuple(family.depth for family in known_families().values() if family.depth)


def place_of(key: str) -> tuple[int, int | None] | None:
    """Stage and block of a key of whatever encoder, as its record says."""
    places = (depth.place(key.removeprefix("encoder.")) for depth in _depths())
    return next((place for place in places if place), None)


def find_layout(state: Mapping[str, Tensor], source: str = "weights") -> WeightsLayout:
    """The layout whose marks are all there; `source` names the file in messages.

    Raises:
        WeightsError: no known layout; some of the keys are listed.
    """
    for layout in _layouts():
        if layout.fits(state):
            return layout
    some, known = ", ".join(list(state)[:5]), ", ".join(x.name for x in _layouts())
    raise WeightsError(
        f"{source}: unknown checkpoint layout (keys begin: {some}); known: {known}, or the keys of the network itself"
    )


def decoder_sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Depth and widths of the SMPL decoder in a checkpoint, read off its keys and shapes; empty if there is none.

    How `heads x dim_head` divides cannot be seen.
    """
    blocks = {k: v for k, v in state.items() if re.search(r"head\..*layers\.\d+\.", k)}
    depths = [int(m[1]) for k in blocks if (m := re.search(r"layers\.(\d+)\.", k))]
    inner = [v.shape[0] for k, v in blocks.items() if k.endswith("to_q.weight")]
    mlp = [v.shape[0] for k, v in blocks.items() if k.endswith("net.0.weight")]
    if not (depths and inner and mlp):
        return {}
    return {"depth": max(depths) + 1, "heads x dim_head": inner[0], "mlp_dim": mlp[0]}


def bare_encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An encoder saved inside a larger dictionary, without its prefix."""
    for prefix in ("encoder.", "backbone."):
        if state and all(k.startswith(prefix) for k in state):
            return {k.removeprefix(prefix): v for k, v in state.items()}
    return state


def layout_of(given: OfficialLayout) -> WeightsLayout:
    """What a network's record says of its official files, as a layout."""

    def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {ours: v for k, v in state.items() if (ours := given.ours(k)) is not None}

    unused, never_read = (f".*(?:{x})" if x else r"(?!)" for x in (given.unused, given.never_read))
    return WeightsLayout(given.name, (), rename, unused, never_read, whole=True)
