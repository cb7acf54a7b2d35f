"""What a network knows before it is trained: nothing, a pretrained encoder, or another network's weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from hmrbench import checkpoints, zoo
from hmrbench.errors import WeightsError
from hmrbench.fetch import sources
from hmrbench.files import file_sha256
from hmrbench.geometry import matrix_to_rot6d
from hmrbench.schema import ModelCard

PRETRAINED = ("imagenet", "pretrained")
_MEAN_OF = 10_000  # people whose parameters are averaged
_ALL = "all weights"
_UPRIGHT = np.diag([1.0, -1.0, -1.0])  # a body with y up, seen by a camera with y down


def start_net(card: ModelCard, init: str, drop_path: float, seed: int) -> tuple[nn.Module, str, bool]:
    """A network in training mode, what it starts from, in words, and whether that was all of it.

    Args:
        init: `random`; `imagenet` or `pretrained` for the encoder weights that the card names (ImageNet's, or
            a pose network's), fetched if need be; or a file, of this network, or of one with the same
            encoder, of which encoder and, where it fits, neck are taken.

    Raises:
        DataError: the weights cannot be had, or fit neither way.
    """
    torch.manual_seed(seed)
    net: Any = zoo.build_net(card) if card.build is not None else zoo.build_net(card, drop_path=drop_path)
    if init == "random":
        return net.train(), init, False
    if init in PRETRAINED:
        found = sources.fetch_weights(card, encoder=True)
        report = checkpoints.load_encoder(net.encoder, checkpoints.read_state(found.path), f"{card.name}: {found.path}")
        return net.train(), f"encoder of {found.path.name} ({report.layout}, sha256 {found.sha256[:12]})", False
    loaded = _load(net, card, Path(init))
    return net.train(), f"{loaded} of {described(init)}", loaded == _ALL


def described(init: str) -> str:
    """What a network starts from, in words that say nothing of the machine: a file by its name and content."""
    path = Path(init)
    if init == "random" or init in PRETRAINED or not path.is_file():
        return path.name
    return f"{path.name} (sha256 {file_sha256(path)[:12]})"


def _load(net: Any, card: ModelCard, path: Path) -> str:
    """Load what fits of a file; says what that was."""
    state = checkpoints.read_state(path)
    source = f"{card.name}: {path}"
    own = net.state_dict()
    same = checkpoints.as_own(net, state)
    if same is not None and all(same[k].shape == v.shape for k, v in own.items() if k in same):
        checkpoints.load_network(net, state, source)
        return _ALL
    if not isinstance(getattr(net, "encoder", None), nn.Module):
        raise WeightsError(f"{source}: not the weights of this network")
    checkpoints.load_encoder(net.encoder, state, source)
    neck = {k: v for k, v in own.items() if k.startswith("neck.")}
    if neck and all(k in state and state[k].shape == v.shape for k, v in neck.items()):
        if reason := next(
            (f"{k} {why}" for k, v in neck.items() if (why := checkpoints.cannot_be_meant(state[k], v))), ""
        ):
            raise WeightsError(f"{source}: {reason}")
        net.load_state_dict({k: state[k] for k in neck}, strict=False)
        return "encoder and neck"
    return "encoder"


def set_mean_parameters(net: nn.Module, params: Mapping[str, Any] | None) -> None:
    """Let an untrained SMPL head start from the mean of the training set's parameters, upright where none are
    known, with read-outs that add next to nothing (4D-Humans' option INIT_DECODER_XAVIER).

    Args:
        params: rotation matrices `global_orient` (N, 1, 3, 3) and `body_pose` (N, 23, 3, 3), `betas` (N, 10).
    """
    head: Any = getattr(net, "head", None)
    if not hasattr(head, "init_body_pose"):
        return
    pose = np.tile(np.eye(3), (24, 1, 1))
    pose[0] = _UPRIGHT
    if params is not None:
        step = max(1, len(params["betas"]) // _MEAN_OF)
        pose[1:] = params["body_pose"][::step].mean(axis=0)
        head.init_betas.copy_(torch.as_tensor(params["betas"][::step].mean(axis=0))[None])
    for read_out in (head.decpose, head.decshape, head.deccam):
        nn.init.xavier_uniform_(read_out.weight, gain=0.01)
        nn.init.zeros_(read_out.bias)
    head.init_body_pose.copy_(matrix_to_rot6d(torch.as_tensor(pose)).flatten()[None])
