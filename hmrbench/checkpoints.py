"""Every known checkpoint layout -> our keys, checked key by key; nothing in a file is executed.

Our keys are those of `nets.truncation.Network`: `encoder.*`, `neck.*`, `head.*`. Encoders keep the key names of their
official repositories (Swin: timm's), so most layouts differ by a prefix. Facts were read in ViTPose
(mmpose 0.x detectors), mmpose 1.x configs (mmpretrain's VisionTransformer), microsoft/Swin-Transformer,
timm, GroupMixFormer, VMamba and 4D-Humans; the shapes are those of the files themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmrbench.errors import DataError, WeightsError
from hmrbench.files import describe_content, in_place_of, opened
from hmrbench.files.torch_files import Odd, Stored, as_tensor, read_torch
from hmrbench.nets.encoders.record import known_families
from hmrbench.nets.encoders.vit import from_mmpretrain
from hmrbench.nets.record import Depth, OfficialLayout, WeightsLayout, known_networks

# A repeated block: a file with more of them is of a deeper network, whatever the shapes say.
_BLOCK = re.compile(r"(^|\.)(blocks|layers|gma_stage)\.\d+\.")

# Where training frameworks put the weights inside a checkpoint, in the order they are tried: averaged ones first.
_AVERAGED = (
    "state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "params_ema", "ema", "averaged_model",
)  # fmt: skip
_WRAPPERS = (
    "state_dict", "model", "model_state", "model_state_dict", "module", "network", "net", "params", "weights",
)  # fmt: skip
# Prefixes of what wraps a network: torch.compile, DDP and FSDP, Lightning.
_PREFIXES = ("module.", "model.", "_forward_module.", "network.", "net.")
_AVERAGED_PREFIXES = ("ema_model.", "model_ema.", "ema.", "averaged_model.", "_averaged_model.", "module_ema.")
_MAX_NESTING = 8
# What training keeps beside weights, in tensors too.
_STATE_OF_TRAINING = re.compile(r"optim|lr_|sched|scaler|amp|callbacks|loops|rng|random|hyper|meta|message_hub|loss")
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


class State(dict[str, Tensor]):
    """Tensors by key; `part` names which of several sets of a file they are, such as `state_dict_ema`.

    `before` are the same as they were before each prefix was taken off, which may have been the network's own.
    """

    part: str = ""
    before: tuple[dict[str, Tensor], ...] = ()


# --------------------------------------------------------------------------- files


def read_state(path: str | Path) -> State:
    """All tensors of a checkpoint file by key, on the CPU, without what frameworks put around them.

    Reads .safetensors, and PyTorch files, whatever their names, without running anything in them. Where a file holds
    averaged (EMA) weights too, those are taken, and `part` says so.

    Raises:
        WeightsError: the file is missing, truncated, holds no tensors or odd ones, or wants to run something.
    """
    path = Path(path)
    try:
        with opened(path, "weights file") as file:
            kind = describe_content(file.read(512))
    except DataError as e:
        raise WeightsError(str(e)) from None
    if kind == "a safetensors file" or path.suffix == ".safetensors":
        content: Any = _read_safetensors(path, kind)
    elif kind not in (None, "a zip archive"):
        raise WeightsError(f"{path}: not a PyTorch checkpoint but {kind}")
    else:
        content = read_torch(path)
    steps, part = _unwrap(content)
    if not steps or not steps[0]:
        raise WeightsError(f"{path}: holds no tensors")
    read = {id(x): x if isinstance(x, Tensor) else as_tensor(path, key, x) for key, x in steps[0].items()}
    *before, last = [{key: read[id(x)] for key, x in step.items()} for step in steps]
    state = State(last)
    state.part, state.before = part, tuple(before)
    return state


def _read_safetensors(path: Path, kind: str | None) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as e:
        why = (
            f"it is {kind}"
            if kind not in (None, "a safetensors file")
            else (str(e) or type(e).__name__).splitlines()[0]
        )
        raise WeightsError(f"{path}: not a readable safetensors file ({why})") from e


def _is_tensor(x: Any) -> bool:
    return isinstance(x, (Tensor, Stored, Odd))


def _unwrap(content: Any) -> tuple[list[dict[str, Any]], str]:
    """The weights inside a training checkpoint by key, as they are and after each prefix that is taken off, and
    where they were if there are averaged ones too."""
    part = ""
    for _ in range(_MAX_NESTING):
        if not isinstance(content, Mapping):
            return [], part
        inside = {k: _flat(content[k]) for k in (*_AVERAGED, *_WRAPPERS) if isinstance(content.get(k), Mapping)}
        name = next((k for k, tensors in inside.items() if tensors), None)
        if name is None:
            break
        part = name if name in _AVERAGED else part
        content = content[name]
    steps = [_flat(content)]
    for _ in range(_MAX_NESTING):
        key, state = _without_prefix(steps[-1])
        if not key:
            break
        steps.append(state)
        part = key.rstrip(".") if key in _AVERAGED_PREFIXES else part
    return steps, part


def _flat(content: Any, prefix: str = "", depth: int = 0) -> dict[str, Any]:
    """Tensors of a nested mapping by their keys, joined by dots; without those of torch.compile's wrapper."""
    found: dict[str, Any] = {}
    for key, value in content.items() if isinstance(content, Mapping) and depth < _MAX_NESTING else ():
        if _is_tensor(value):
            found[f"{prefix}{key}".replace("_orig_mod.", "")] = value
        elif isinstance(value, Mapping) and not _STATE_OF_TRAINING.match(str(key)):
            found |= _flat(value, f"{prefix}{key}.", depth + 1)
    return found


def _without_prefix(state: dict[str, Any], depth: int = 0) -> tuple[str, dict[str, Any]]:
    """One wrapper's prefix and the weights without it; no prefix, and all as they are, where there is none."""
    averaged = next((p for p in _AVERAGED_PREFIXES if any(k.startswith(p) for k in state)), None)
    if averaged is None and _known(state):
        return "", state
    for prefix in (averaged,) if averaged else _PREFIXES:
        inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        # others beside them, a loss's or a metric's, are left out only where what is left can be placed
        if inner and (len(inner) == len(state) or averaged or _can_be_placed(inner)):
            return prefix, inner
    firsts = {k.partition(".")[0] for k in state}
    for first in sorted(firsts):
        inner = {k.removeprefix(f"{first}."): v for k, v in state.items() if k.startswith(f"{first}.")}
        deeper = depth < 3 and inner and _without_prefix(inner, depth + 1)[0]
        if first not in ("smpl", "discriminator") and (_known(inner) or deeper):
            return f"{first}.", inner
    return "", state


def _can_be_placed(state: dict[str, Any]) -> bool:
    return _known(state) or any(k.startswith((*_PREFIXES, *_AVERAGED_PREFIXES)) for k in state)


def _known(state: Mapping[str, Any]) -> bool:
    """Whether the keys are of a known layout."""
    return any(layout.fits(state) for layout in _layouts())


# --------------------------------------------------------------------------- layouts


def _drop(state: dict[str, Tensor], pattern: str) -> tuple[dict[str, Tensor], list[str]]:
    gone = [k for k in state if re.match(pattern, k)]
    return {k: v for k, v in state.items() if k not in set(gone)}, gone


def _network_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`backbone.` and the heads of a whole network -> `encoder.`, `head.`; the norm of the output -> `neck.`"""
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
_OWN = WeightsLayout("hmrbench", (r"encoder\.", r"head\."), whole=True)
_WHOLE = (
    _OWN,
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


def _place(key: str) -> tuple[int, int | None] | None:
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


def _bare_encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """An encoder saved inside a larger dictionary, without its prefix."""
    for prefix in ("encoder.", "backbone."):
        if state and all(k.startswith(prefix) for k in state):
            return {k.removeprefix(prefix): v for k, v in state.items()}
    return state


# --------------------------------------------------------------------------- loading


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
        name = "hmrbench" if _OWN.fits(same) else "the network's own"
        return _load(net, same, WeightsLayout(name, whole=True), source, state, strict=True)
    if official is not None:
        layout = _official(official)
        # A prefix that was taken off as a wrapper's may have been the official layout's own.
        steps: list[dict[str, Tensor]] = [state, *getattr(state, "before", ())]
        return _load(
            net, max(steps, key=lambda x: len(layout.rename(x).keys() & net.state_dict().keys())), layout, source, state
        )
    try:
        layout = find_layout(state, source)
    except WeightsError as e:
        raise WeightsError(f"{e}. {_how_to_map(net, state)}") from None
    if not layout.whole:
        raise WeightsError(
            f"{source}: these are weights of an encoder alone ({layout.name}), a start for training, "
            "not of a whole network: there is no decoder in them"
        )
    return _load(net, state, layout, source, state)


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


def _official(given: OfficialLayout) -> WeightsLayout:
    def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {ours: v for k, v in state.items() if (ours := given.ours(k)) is not None}

    unused, never_read = (f".*(?:{x})" if x else r"(?!)" for x in (given.unused, given.never_read))
    return WeightsLayout(given.name, (), rename, unused, never_read, whole=True)


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
    given, bare = state, _bare_encoder(state)
    if not _known(bare) and (same := as_own(encoder, bare)) is not None:
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
    """Load weights of a layout in place; `strict` refuses keys that are nobody's, also those of no block."""
    state, unused = _drop(state, layout.classifier)
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
    built = {place[0] for k in own if (place := _place(k))}
    # A cut leaves later stages out, and what leads into them.
    later = [k for k in rest if (place := _place(k)) and (place[0] not in built or (place[0] and place[1] is None))]
    surplus = [k for k in rest if k not in set(later) and (strict or _BLOCK.search(k))]
    if missing or misshapen or surplus:
        found = {"missing": missing, "misshapen": misshapen}
        found["that it does not have" if strict else "of blocks that it does not have"] = surplus
        raise WeightsError(_complaint(source, layout.name, found))
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


def _complaint(source: str, layout: str, found: Mapping[str, Sequence[str]]) -> str:
    parts = []
    for title, keys in found.items():
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


def save_state(state: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write weights as safetensors, whole or not at all.

    Raises:
        DataError: the disk is full or the folder cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with in_place_of(path) as part:
            save_file({k: v.contiguous() for k, v in state.items()}, part, metadata=dict(metadata))
    except (OSError, SafetensorError) as e:
        raise DataError(f"{path}: cannot be written ({getattr(e, 'strerror', None) or e})") from e
