"""What a network is made of: parameters and shapes, part by part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hmrbench.errors import HmrbenchError, blamed_on
from hmrbench.schema import ModelCard
from hmrbench.zoo import build_net, find_network, make_encoder


def count_parameters(card: ModelCard) -> dict[str, int | None]:
    """Parameters: `params`, `params_encoder`, `params_neck`, `params_head`; None if not known."""
    return parameters_by_part(shape_of_net(card))


def shape_of_net(card: ModelCard) -> nn.Module:
    """The network of a card without values; one of another package that reads its values to be built has them.

    Raises:
        UsageError: it cannot be built; see `build_net`.
    """
    try:
        with torch.device("meta"):
            return build_net(card)
    except HmrbenchError:
        if not card.foreign:
            raise
        with torch.random.fork_rng(devices=[]):
            return build_net(card)


def parameters_by_part(net: nn.Module) -> dict[str, int | None]:
    """Parameters of a network, in all and of each of its parts (0 for a part that a foreign network lacks).

    They are not known, None, where PyTorch sees none, since another runtime has them, and where a lazy module gets
    them at its first forward.
    """
    counts = {"params": _count(net)}
    counts |= {f"params_{part}": _count(getattr(net, part, None)) for part in ("encoder", "neck", "head")}
    return {name: number if counts["params"] else None for name, number in counts.items()}


def unread_parameters(card: ModelCard, net: nn.Module) -> int:
    """Of the parameters that `params` counts, those that no forward reads: official files and published numbers have
    them."""
    record = find_network(card)
    if record is None or not record.layout.never_read:
        return 0
    pattern = re.compile(record.layout.never_read)
    return sum(p.numel() for name, p in net.named_parameters() if pattern.search(name))


def _count(module: Any) -> int:
    own = list(module.parameters()) if isinstance(module, nn.Module) else []
    return 0 if any(map(nn.parameter.is_lazy, own)) else sum(p.numel() for p in own)


def describe(card: ModelCard) -> list[dict[str, Any]]:
    """Stages and parts of a network: the shape each puts out for one picture, and its parameters.

    Returns:
        One dict per stage of a hierarchical encoder, then per part: `part`, `output` (a shape, or shapes by
        name), `params`. A foreign network is one part; what it does not tell without its weights is empty or
        None.
    """
    rows: list[dict[str, Any]] = []

    def note(part: str, module: nn.Module, output: Any, before: int = 0) -> int:
        shape = _shapes(output)
        params = _count(module)
        rows.append({"part": part, "output": shape, "params": params - before})
        return params

    net: Any = shape_of_net(card).eval()
    device = next((p.device for p in net.parameters()), torch.device("meta"))
    with device, torch.no_grad():
        image = torch.empty(1, 3, *card.input)
        try:
            output = net(image)
        except Exception:  # a foreign network may need its weights, or memory, to compute anything
            if not card.foreign:
                raise
            return [{"part": "network", "output": [], "params": parameters_by_part(net)["params"]}]
        if not isinstance(getattr(net, "encoder", None), nn.Module):
            with blamed_on(f"{card.where}: what its network puts out"):
                note("network", net, output)
            return rows
        seen = net.seen(image) if hasattr(net, "seen") else image
        below = 0
        staged = card.encoder is not None and len(net.encoder.widths) > 1
        for stage in range(1, (card.stages or 4) + 1) if staged else ():
            cut = make_encoder(str(card.encoder), stage, card.options, card.file)
            below = note(f"stage {stage}", cut, cut(seen), below)
        features = net.encoder(seen)
        note("encoder", net.encoder, features)
        note("neck", net.neck, net.neck(features))
        note("head", net.head, output)
    return rows


def _shapes(output: Any) -> Any:
    """The shape of a tensor; those of several by their names, or by their numbers."""
    if isinstance(output, Mapping):
        return {name: list(x.shape) for name, x in output.items()}
    return list(output.shape) if hasattr(output, "shape") else {str(i): list(x.shape) for i, x in enumerate(output)}
