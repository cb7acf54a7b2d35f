"""Checkpoints of whatever layout -> files with our keys."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from hmrbench import checkpoints
from hmrbench.cards import find_cards, load_cards
from hmrbench.checkpoints import LoadReport
from hmrbench.errors import WeightsError
from hmrbench.nets.encoders.record import known_encoders
from hmrbench.schema import ModelCard
from hmrbench.zoo import build_net, fill_network, find_encoder, find_network, make_encoder


def convert_weights(
    source: Path, target: Path, name: str | None = None, models_dirs: Sequence[str | Path] = ()
) -> tuple[str, LoadReport]:
    """Write a checkpoint of any known layout with our keys, as safetensors.

    Args:
        name: the model or encoder that it is for; None tries those that can have its keys until one fits.

    Returns:
        The model or encoder that it fits, and what loading it reported.

    Raises:
        WeightsError: unreadable, unknown layout, or it fits no network.
    """
    state = checkpoints.read_state(source)
    cards = load_cards(models_dirs)
    if name is not None and name.lower() in known_encoders():
        candidates = [name.lower()]
    elif name is not None:
        candidates = [find_cards([name], cards)[0].name]
    else:
        candidates = _candidates(cards, state, source)
    failures = []
    for candidate in candidates if len(candidates) == 1 else _likely(candidates, cards, state):
        try:
            with torch.device("meta"), warnings.catch_warnings():  # keys and shapes tell whether it fits
                warnings.simplefilter("ignore")
                _filled(candidate, cards, state, source)
        except WeightsError as e:
            failures.append(e)
            continue
        net, report = _filled(candidate, cards, state, source)
        weights = dict(net.state_dict())
        checkpoints.save_state(weights, target, {"model": candidate, "layout": report.layout, "source": source.name})
        return candidate, report
    if len(candidates) == 1:
        raise failures[0]
    checkpoints.find_layout(state, str(source))
    raise WeightsError(f"{source} fits none of {len(candidates)} networks; --model says why not")


def _candidates(cards: Mapping[str, ModelCard], state: dict[str, Tensor], source: Path) -> list[str]:
    """The networks, or encoders, whose files look like this one."""
    ours = [name for name, card in cards.items() if find_network(card) is not None]
    try:
        layout = checkpoints.find_layout(state, str(source))
    except WeightsError:
        return ours
    return [name for name, card in cards.items() if not card.foreign] if layout.whole else [*known_encoders(), *ours]


def _likely(candidates: Sequence[str], cards: Mapping[str, ModelCard], state: dict[str, Tensor]) -> Iterator[str]:
    """Those of some networks and encoders whose files these weights may be, by what is known before one is built: a
    whole network's widths are sizes of some tensor, an encoder's blocks and a decoder of SMPL are under their keys."""
    sizes = {size for tensor in state.values() for size in tensor.shape}
    with suppress(WeightsError):
        state = checkpoints.find_layout(state).rename(state)
    decoder = bool(checkpoints.decoder_sizes(state))
    blocks: dict[str, bool] = {}
    for name in candidates:
        if name not in cards:
            found = known_encoders()[name]
        elif (record := find_network(card := cards[name])) is not None:
            if sizes.issuperset(record.widths):
                yield name
            continue
        elif card.head.kind == "smpl" and not decoder:
            continue
        else:
            found = find_encoder(str(card.encoder), card.file)
        depth = found.family.depth
        pattern = depth.block if depth else ""
        if pattern not in blocks:
            blocks[pattern] = any(re.search(rf"(?:^|\.)(?:{pattern})", key) for key in state)
        if blocks[pattern]:
            yield name


def _filled(
    name: str, cards: Mapping[str, ModelCard], state: dict[str, Tensor], source: Path
) -> tuple[nn.Module, LoadReport]:
    """A model's network, or an encoder, with these weights."""
    if name in known_encoders():
        encoder = make_encoder(name, 4)
        return encoder, checkpoints.load_encoder(encoder, state, f"{name}: {source}")
    net = build_net(cards[name])
    return net, fill_network(cards[name], net, state, f"{name}: {source}")
