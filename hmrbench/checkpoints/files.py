"""Weights in files: read without running anything, and without what training frameworks put around them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from hmrbench.checkpoints.layouts import is_known
from hmrbench.errors import DataError, WeightsError
from hmrbench.files import describe_content, in_place_of, opened
from hmrbench.files.torch_files import Odd, Stored, as_tensor, read_torch

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


class State(dict[str, Tensor]):
    """Tensors by key; `part` names which of several sets of a file they are, such as `state_dict_ema`.

    `before` are the same as they were before each prefix was taken off, which may have been the network's own.
    """

    part: str = ""
    before: tuple[dict[str, Tensor], ...] = ()


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
    if averaged is None and is_known(state):
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
        if first not in ("smpl", "discriminator") and (is_known(inner) or deeper):
            return f"{first}.", inner
    return "", state


def _can_be_placed(state: dict[str, Any]) -> bool:
    return is_known(state) or any(k.startswith((*_PREFIXES, *_AVERAGED_PREFIXES)) for k in state)


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
