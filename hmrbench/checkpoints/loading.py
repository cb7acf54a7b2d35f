"""Weights -> a network, key by key: nothing missing, of another shape, or meant for a deeper one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmrbench.checkpoints.layouts import OWN, bare_encoder, drop_keys, find_layout, is_known, layout_of, place_of
from hmrbench.errors import WeightsError
from hmrbench.nets.record import OfficialLayout, WeightsLayout

# A repeated block: a file with more of them is of a deeper network, whatever the shapes say.
_BLOCK = re.compile(r"(^|\.)(blocks|layers|gma_stage)\.\d+\.")
# Buffers that code computes from the input size; never learned, so not required and not read.
_COMPUTED = re.compile(r"(\.attn_mask|\.relative_position_index|\.num_batches_tracked)$")


@dataclass(frozen=True)
class LoadReport:
    """What loading did.

    `unexpected` keys of the file are nobody's; `unused` ones belong to parts that the network leaves out (a classifier,
    later stages); `interpolated` tables were of another input size; `missing` keys keep their initial value because the
    layout never has them.
    """

    layout: str
    unexpected: tuple[str, ...] = ()
    interpolated: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    part: str = ""  # which of several sets of weights of the file, where it holds averaged ones


def load_network(
    net: nn.Module, state: dict[str, Tensor], source: str = "weights", official: OfficialLayout | None = None
) -> LoadReport:
    """Load a whole network in place, strictly.

    Args:
        official: how the keys of this network's official files become ours, where its record says so.

    Raises:
        WeightsError: unknown layout; weights of an encoder alone; a key missing or of another shape.
    """
    if (same := as_own(net, state)) is not None:
        name = "hmrbench" if OWN.fits(same) else "the network's own"
        return _load(net, same, WeightsLayout(name, whole=True), source, state, strict=True)
    if official is not None:
        layout = layout_of(official)
        # A prefix that was taken off as a wrapper's may have been the official layout's own.
        steps: list[dict[str, Tensor]] = [state, *getattr(state, "before", ())]
        best = max(steps, key=lambda x: len(layout.rename(x).keys() & net.state_dict().keys()))
        try:
            return _load(net, best, layout, source, state)
        except WeightsError:
            if is_known(state) and all(len(step) == len(state) for step in steps):  # of all weights, no part of them
                _refuse_encoder(find_layout(state, source), source)
            raise
    try:
        layout = find_layout(state, source)
    except WeightsError as e:
        raise WeightsError(f"{e}. {_how_to_map(net, state)}") from None
    _refuse_encoder(layout, source)
    return _load(net, state, layout, source, state)


def _refuse_encoder(layout: WeightsLayout, source: str) -> None:
    if not layout.whole:
        raise WeightsError(
            f"{source}: these are weights of an encoder alone ({layout.name}), a start for training, "
            "not of a whole network: there is no decoder in them"
        )


def _how_to_map(net: nn.Module, state: Mapping[str, Tensor]) -> str:
    """What keys of the network a file lacks, and how to make it load."""
    own = [k for k in net.state_dict() if not _COMPUTED.search(k)]
    missing = [k for k in own if k not in state]
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    return (
        f"Of the network's {len(own)} keys {len(missing)} are missing: {', '.join(missing[:5])}{more}. Save the "
        "state_dict of the network itself, with its keys as they are, or give the network a method load_weights(path), "
        "which then reads the file"
    )


def as_own(net: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The weights under the keys of the network itself, or None where they are not all there.

    A prefix that was taken off as a wrapper's may have been the network's own.
    """
    own = [k for k in net.state_dict() if not _COMPUTED.search(k)]
    same = (x for x in (state, *getattr(state, "before", ())) if own and x.keys() >= set(own))
    found = next(same, None)
    return None if found is None else dict(found)


def load_encoder(encoder: nn.Module, state: dict[str, Tensor], source: str = "weights") -> LoadReport:
    """Load an encoder in place from its official file, or from a whole network's; strictly for the stages it has."""
    given, bare = state, bare_encoder(state)
    if not is_known(bare) and (same := as_own(encoder, bare)) is not None:
        return _load(encoder, same, WeightsLayout("the encoder's own"), source, given)
    layout = find_layout(bare, source)
    if layout.whole:
        part = layout.rename(bare)
        bare = {k.removeprefix("encoder."): v for k, v in part.items() if k.startswith("encoder.")}
        layout = WeightsLayout(layout.name)
    return _load(encoder, bare, layout, source, given)


def _load(
    net: nn.Module,
    state: dict[str, Tensor],
    layout: WeightsLayout,
    source: str,
    given: Mapping[str, Tensor],
    strict: bool = False,
) -> LoadReport:
    """Load weights of a layout in place; `strict` refuses all keys that are nobody's, not only those of more blocks."""
    state, unused = drop_keys(state, layout.classifier)
    renamed = {k: v for k, v in layout.rename(state).items() if not _COMPUTED.search(k)}
    own = {k: v for k, v in net.state_dict().items() if not _COMPUTED.search(k)}
    missing = [k for k in own if k not in renamed and not re.match(layout.optional, k)]
    ready: dict[str, Tensor] = {}
    interpolated, misshapen = [], []
    for key, value in own.items():
        if key not in renamed:
            continue
        found = renamed[key]
        if found.shape != value.shape:
            fitted = _interpolate(key, found, value, net) if found.is_floating_point() else None
            if fitted is None:
                misshapen.append(f"{key} is {tuple(found.shape)}, not {tuple(value.shape)}")
                continue
            found = fitted
            interpolated.append(key)
        if reason := cannot_be_meant(found, value):
            raise WeightsError(f"{source}: {key} {reason}: these are not weights of this network")
        ready[key] = found
    rest = [k for k in renamed if k not in own]
    built = {place[0] for k in own if (place := place_of(k))}
    # A cut leaves later stages out, and what leads into them; only networks of ours are cut.
    places = rest if not strict or OWN.fits(own) else ()
    later = [k for k in places if (at := place_of(k)) and (at[0] not in built or (at[0] and at[1] is None))]
    surplus = [k for k in rest if k not in set(later) and (strict or _BLOCK.search(k))]
    if missing or misshapen or surplus:
        faults = {"missing": missing, "misshapen": misshapen}
        faults["that it does not have" if strict else "of blocks that it does not have"] = surplus
        raise WeightsError(_complaint(source, layout.name, faults))
    net.load_state_dict(ready, strict=False)
    return LoadReport(
        layout=layout.name,
        unexpected=tuple(k for k in rest if k not in set(later)),
        interpolated=tuple(interpolated),
        unused=(*unused, *later),
        missing=tuple(k for k in own if k not in renamed),
        part=getattr(given, "part", ""),
    )


def cannot_be_meant(given: Tensor, like: Tensor) -> str:
    """Why a tensor cannot be what the network wants, though its shape is right; empty if it can."""
    if given.is_complex() and not like.is_complex():
        return "is complex"
    if given.is_floating_point() != like.is_floating_point():
        return f"is {str(given.dtype).removeprefix('torch.')}, not {str(like.dtype).removeprefix('torch.')}"
    if given.is_floating_point() and not torch.isfinite(given.to(like.dtype)).all():
        return "is not finite"
    return ""


def _complaint(source: str, layout: str, faults: Mapping[str, Sequence[str]]) -> str:
    parts = []
    for title, keys in faults.items():
        if keys:
            more = f" and {len(keys) - 8} more" if len(keys) > 8 else ""
            parts.append(f"{len(keys)} {title}: {'; '.join(keys[:8])}{more}")
    return f"{source} ({layout} layout) is not of this network: {'. '.join(parts)}"


def _interpolate(key: str, given: Tensor, like: Tensor, net: nn.Module) -> Tensor | None:
    """A position table of another input size, resampled bicubically as timm and MAE do; None for any other tensor."""
    if key.endswith("relative_position_bias_table") and given.ndim == 2 and given.shape[1] == like.shape[1]:
        side, new = round(given.shape[0] ** 0.5), round(like.shape[0] ** 0.5)
        if side * side != given.shape[0] or new * new != like.shape[0]:
            return None
        return _resample(given, (side, side), (new, new))
    if key.endswith("pos_embed") and given.ndim == 3 and given.shape[2] == like.shape[2]:
        first, patches = given[0, :1].float(), given[0, 1:]
        size = getattr(getattr(net, "encoder", net), "image_size", None)
        grid = None if size is None else (size[0] // 16, size[1] // 16)
        count = patches.shape[0]
        side = round(count**0.5)
        old = (side, side) if side * side == count else (16, 12) if count == 192 else None
        if grid is None or old is None:
            return None
        return torch.cat([first, _resample(patches, old, grid)]).unsqueeze(0)
    return None


def _resample(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    grid = table.float().T.reshape(1, -1, *old)
    return F.interpolate(grid, size=new, mode="bicubic", align_corners=False).flatten(2)[0].T
