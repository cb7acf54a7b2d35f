"""Every known checkpoint layout -> our keys, checked key by key; nothing in a file is executed.

Our keys are those of `nets.truncation.Network`: `encoder.*`, `neck.*`, `head.*`. Encoders keep the key names of their
official repositories (Swin: timm's), so most layouts differ by a prefix. Facts were read in ViTPose
(mmpose 0.x detectors), mmpose 1.x configs (mmpretrain's VisionTransformer), microsoft/Swin-Transformer,
timm, GroupMixFormer, VMamba and 4D-Humans; the shapes are those of the files themselves.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmrbench.errors import WeightsError

State = dict[str, Tensor]

# A stage of a hierarchical encoder: a cut leaves later ones out.
_STAGE = re.compile(r"^(encoder\.)?(layers|patch_embed_layers|groupmixformer_backbone)\.\d+\.")
# A repeated block: a file with more of them is of a deeper network, whatever the shapes say.
_BLOCK = re.compile(r"(^|\.)(blocks|layers|gma_stage)\.\d+\.")

# Where training frameworks put the weights inside a checkpoint, in the order they are tried.
_WRAPPERS = ("state_dict", "model", "model_state", "module", "model_ema")
# Configuration objects that frameworks store beside the weights. They are replaced by inert stand-ins: no code of
# theirs is imported or run, and what they held is not read.
_INERT = re.compile(r"^(mmengine|mmcv|yacs|omegaconf|argparse|pytorch_lightning|lightning|hydra|typing|collections)\.")
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


# --------------------------------------------------------------------------- files


class _Inert:
    """Stands for an object of a framework that is not installed and not wanted."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _allowed_globals(path: Path) -> list[Any]:
    """What unpickling this file may refer to; raises for anything that is neither data nor a known bystander."""
    reconstruct = getattr(np, "_core", np).multiarray._reconstruct
    scalar = getattr(np, "_core", np).multiarray.scalar
    allowed: list[Any] = [np.ndarray, np.dtype]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed += [(reconstruct, f"{module}._reconstruct"), (scalar, f"{module}.scalar")]
    allowed += [type(np.dtype(t)) for t in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")]
    if not zipfile.is_zipfile(path):  # the old format has no listing; torch's own refusal speaks for it
        return allowed
    refused = []
    known = {"numpy.ndarray", "numpy.dtype"} | {item[1] for item in allowed if isinstance(item, tuple)}
    for name in torch.serialization.get_unsafe_globals_in_checkpoint(path):
        if name in known or name.startswith("numpy.dtypes."):
            continue
        if _INERT.match(name):
            allowed.append((type(name.rpartition(".")[2], (_Inert,), {}), name))
        else:
            refused.append(name)
    if refused:
        raise WeightsError(
            f"{path}: refused; unpickling it would call {', '.join(refused)}, which is not weights. "
            "Nothing of it was run. Convert it to safetensors where you trust it."
        )
    return allowed


def read_state(path: str | Path) -> State:
    """All tensors of a checkpoint file by key, on the CPU.

    Reads .safetensors, and PyTorch files through `weights_only` with an allow-list, so that no code in the file runs.

    Raises:
        WeightsError: the file is missing, truncated, holds no tensors, or wants to run something.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as e:
            raise WeightsError(f"{path}: not a readable safetensors file ({e})") from e
    try:
        with torch.serialization.safe_globals(_allowed_globals(path)):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as e:
        reason = str(e).split("Please file an issue")[0].replace("\n", " ").strip()
        raise WeightsError(f"{path}: refused, nothing of it was run ({reason[:300]})") from e
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as e:
        raise WeightsError(f"{path}: not a readable PyTorch checkpoint ({_first_line(e)})") from e
    state = _unwrap(content)
    if not state:
        raise WeightsError(f"{path}: holds no tensors")
    return state


def _first_line(e: Exception) -> str:
    """The first line of an error's text, or its name if it says nothing."""
    return (str(e) or type(e).__name__).splitlines()[0]


def _unwrap(content: Any) -> State:
    """The weights inside a training checkpoint, without the prefix of data-parallel training."""
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping):
        return {}
    state = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if state and all(k.startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}
    return state


# --------------------------------------------------------------------------- layouts


def _drop(state: State, pattern: str) -> tuple[State, list[str]]:
    gone = [k for k in state if re.match(pattern, k)]
    return {k: v for k, v in state.items() if k not in set(gone)}, gone


def _swin_microsoft(state: State) -> State:
    """Microsoft puts a stage's downsample at its end, timm at the start of the next one."""
    return {
        re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", k): v
        for k, v in state.items()
    }


def _mmpretrain_vit(state: State) -> State:
    """mmpretrain's VisionTransformer (mmpose 1.x) -> ViTPose's names.

    It has no class position: entry 0 of ours, which is added to every patch, becomes zero.
    """
    names = (
        (r"^patch_embed\.projection\.", "patch_embed.proj."),
        (r"^ln1\.", "last_norm."),
        (r"^layers\.(\d+)\.ln(\d)\.", r"blocks.\1.norm\2."),
        (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
        (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
        (r"^layers\.(\d+)\.", r"blocks.\1."),
    )
    out: State = {}
    for key, value in state.items():
        for pattern, new in names:
            key, hits = re.subn(pattern, new, key)
            if hits:
                break
        out[key] = value
    pos = out["pos_embed"]
    if pos.shape[1] % 2 == 0:  # 16 x 12 patches without a class position
        out["pos_embed"] = torch.cat([torch.zeros_like(pos[:, :1]), pos], dim=1)
    return out


def _network_prefixes(state: State) -> State:
    """`backbone.` and the heads of a whole network -> `encoder.`, `head.`; the norm of the output -> `neck.`"""
    out: State = {}
    for key, value in state.items():
        key = re.sub(r"^backbone\.(?:out)?norm[0-3]\.", "neck.norm.", key)
        key = re.sub(r"^backbone\.", "encoder.", key)
        key = re.sub(r"^(keypoint_head|smpl_head|head)\.", "head.", key)
        out[key] = value
    return out


def _mmpose1(state: State) -> State:
    backbone = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    rest = {k: v for k, v in state.items() if not k.startswith("backbone.")}
    return {**{f"encoder.{k}": v for k, v in _mmpretrain_vit(backbone).items()}, **_network_prefixes(rest)}


@dataclass(frozen=True)
class _Layout:
    """A way to name weights. `classifier` matches keys that only ImageNet classification needs."""

    name: str
    whole: bool  # a whole network with its head, or an encoder alone
    marks: tuple[str, ...]  # keys that must be there (regular expressions)
    rename: Callable[[State], State]
    classifier: str = r"(?!)"
    optional: str = r"(?!)"  # keys of ours that the layout lacks: they keep their initial value


def _same(state: State) -> State:
    return state


_LAYOUTS = (
    _Layout("hmrbench", True, (r"encoder\.", r"head\."), _same),
    _Layout("hmr2", True, (r"backbone\.", r"smpl_head\."), _network_prefixes, r"(smpl|discriminator)\."),
    _Layout("mmpose-1.x", True, (r"backbone\.layers\.0\.ln1", r"head\."), _mmpose1),
    _Layout("vitpose", True, (r"backbone\.", r"keypoint_head\."), _network_prefixes, r"associate_keypoint_heads\."),
    _Layout(
        "swin-microsoft", False, (r"layers\.0\.downsample\.reduction", r"patch_embed\.proj\."), _swin_microsoft,
        r"(norm|head)\.",
    ),
    _Layout("swin-timm", False, (r"layers\.1\.downsample\.reduction", r"patch_embed\.proj\."), _same, r"(norm|head)\."),
    _Layout("groupmixformer", False, (r"conv_stem\.", r"groupmixformer_backbone\."), _same, r"(norm4|head)\."),
    _Layout("vmamba", False, (r"patch_embed\.0\.", r"layers\.0\.blocks\.0\.op\."), _same, r"(classifier|outnorm\d)\."),
    _Layout("mmpretrain-vit", False, (r"layers\.0\.ln1\.", r"pos_embed"), _mmpretrain_vit, r"cls_token|head\."),
    _Layout(
        "mae", False, (r"cls_token", r"blocks\.0\.attn\.qkv", r"pos_embed"), _same,
        r"cls_token|mask_token|decoder_|norm\.|fc_norm\.|head\.", optional=r"last_norm\.",
    ),
    _Layout("vit", False, (r"blocks\.0\.attn\.qkv", r"pos_embed"), _same, r"head\.", optional=r"last_norm\."),
)  # fmt: skip


def find_layout(state: Mapping[str, Tensor]) -> _Layout:
    """The layout whose marks are all there.

    Raises:
        WeightsError: no known layout; some of the keys are listed.
    """
    for layout in _LAYOUTS:
        if all(any(re.match(mark, key) for key in state) for mark in layout.marks):
            return layout
    some = ", ".join(list(state)[:5])
    raise WeightsError(f"unknown checkpoint layout (keys begin: {some}); known: {', '.join(x.name for x in _LAYOUTS)}")


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


def _bare_encoder(state: State) -> State:
    """An encoder saved inside a larger dictionary, without its prefix."""
    for prefix in ("encoder.", "backbone."):
        if state and all(k.startswith(prefix) for k in state):
            return {k.removeprefix(prefix): v for k, v in state.items()}
    return state


# --------------------------------------------------------------------------- loading


def load_network(net: nn.Module, state: State, source: str = "weights") -> LoadReport:
    """Load a whole network in place, strictly.

    Raises:
        WeightsError: unknown layout; weights of an encoder alone; a key missing or of another shape.
    """
    layout = find_layout(state)
    if not layout.whole:
        raise WeightsError(
            f"{source}: these are weights of an encoder alone ({layout.name}), a start for training, "
            "not of a whole network: there is no decoder in them"
        )
    return _load(net, state, layout, source)


def load_encoder(encoder: nn.Module, state: State, source: str = "weights") -> LoadReport:
    """Load an encoder in place from its official file, or from a whole network's; strictly for the stages it has."""
    state = _bare_encoder(state)
    layout = find_layout(state)
    if layout.whole:
        part = layout.rename(state)
        state = {k.removeprefix("encoder."): v for k, v in part.items() if k.startswith("encoder.")}
        layout = _Layout(layout.name, False, (), _same)
    return _load(encoder, state, layout, source)


def _load(net: nn.Module, state: State, layout: _Layout, source: str) -> LoadReport:
    state, unused = _drop(state, layout.classifier)
    renamed = {k: v for k, v in layout.rename(state).items() if not _COMPUTED.search(k)}
    own = {k: v for k, v in net.state_dict().items() if not _COMPUTED.search(k)}
    missing = [k for k in own if k not in renamed and not re.match(layout.optional, k)]
    ready: State = {}
    interpolated, misshapen = [], []
    for key, value in own.items():
        if key not in renamed:
            continue
        given = renamed[key]
        if given.shape != value.shape:
            fitted = _interpolate(key, given, value, net)
            if fitted is None:
                misshapen.append(f"{key} is {tuple(given.shape)}, not {tuple(value.shape)}")
                continue
            given = fitted
            interpolated.append(key)
        ready[key] = given
    rest = [k for k in renamed if k not in own]
    built = {m[0] for k in own if (m := _STAGE.match(k))}
    later = [k for k in rest if (m := _STAGE.match(k)) and (m[0] not in built or ".downsample." in k)]
    surplus = [k for k in rest if k not in set(later) and _BLOCK.search(k)]
    if missing or misshapen or surplus:
        raise WeightsError(_complaint(source, layout.name, missing, misshapen, surplus))
    net.load_state_dict(ready, strict=False)
    return LoadReport(
        layout=layout.name,
        unexpected=tuple(k for k in rest if k not in set(later)),
        interpolated=tuple(interpolated),
        unused=(*unused, *later),
        missing=tuple(k for k in own if k not in renamed),
    )


def _complaint(source: str, layout: str, missing: list[str], misshapen: list[str], surplus: list[str]) -> str:
    parts = []
    for title, keys in (("missing", missing), ("misshapen", misshapen), ("of blocks that it does not have", surplus)):
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
    """Write weights as safetensors, whole or not at all."""
    import os

    from safetensors.torch import save_file

    part = path.with_name(path.name + ".part")
    save_file({k: v.contiguous() for k, v in state.items()}, part, metadata=dict(metadata))
    os.replace(part, path)
