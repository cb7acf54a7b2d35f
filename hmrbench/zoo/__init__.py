"""Model cards -> networks with weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hmrbench import checkpoints
from hmrbench.body import check_same_body, mesh_assets
from hmrbench.body.mesh_assets import MeshAssets, find_mesh_assets
from hmrbench.cards import load_card
from hmrbench.checkpoints import LoadReport
from hmrbench.codecs import Codec, find_codec
from hmrbench.errors import HmrbenchError, UsageError, WeightsError, blamed_on, unknown_name
from hmrbench.fetch import sources
from hmrbench.nets.encoders.record import Encoder, known_encoders
from hmrbench.nets.meshes.mesh import MeshMatrices
from hmrbench.nets.record import HeadKind, Net, known_heads, known_networks
from hmrbench.nets.truncation import Network, make_neck
from hmrbench.schema import ModelCard
from hmrbench.schema.faults import unknown_key
from hmrbench.schema.importing import beside, find_part, import_object

# --------------------------------------------------------------------------- networks


def find_encoder(name: str, file: Path | None = None) -> Encoder:
    """The record of an encoder by its name, or the one at an import path such as `mypkg.encoder:TINY`.

    Args:
        file: of the card that names it, beside which the module may lie.

    Raises:
        UsageError: there is no encoder of that name, or the path leads to no Encoder.
    """
    known = known_encoders()
    return known.get(name.lower()) or find_part(name, "encoder", Encoder, known, file)


def find_network(card: ModelCard) -> Net | None:
    """The record of the whole network of ours that a card builds; None where it is made of parts or foreign.

    Raises:
        UsageError: there is no network of that name.
    """
    if card.build is None or card.foreign:
        return None
    found = known_networks().get(card.build)
    if found is None:
        raise unknown_name(f"network in build of {card.where}", card.build, known_networks())
    return found


def codec_of(card: ModelCard, name: str | None = None) -> Codec:
    """The codec of a card with what the card says of it; one of another `name` as it is by itself.

    Raises:
        UsageError: there is no such codec, or it has no such option.
    """
    net = find_network(card)
    split = net.split if net is not None else None
    if net is None and not card.foreign and find_head(card).bins:
        split = card.head.split
    options = card.decode.codec_options if name in (None, card.codec) else {}
    if split is not None and "split" in find_codec(name or card.codec, file=card.file).options:
        options = {"split": split, **options}
    return find_codec(name or card.codec, options, card.file)


def make_encoder(
    name: str, stages: int, options: Mapping[str, Any] | None = None, file: Path | None = None
) -> nn.Module:
    """An encoder cut after a stage, with the options that its builder takes; UsageError if it takes no such."""
    options = options or {}
    if stages not in (1, 2, 3, 4):
        raise UsageError(f"{name}: stages must be 1 to 4, not {stages}")
    make = find_encoder(name, file).build
    known = list(inspect.signature(make).parameters)[1:]
    if wrong := [unknown_key(key, known) for key in options if key not in known]:
        raise UsageError(f"options of {name}: {'; '.join(wrong)}")
    try:
        encoder: nn.Module = make(stages, **options)
    except Exception as e:
        if isinstance(e, HmrbenchError) or not options:
            raise
        told = ", ".join(f"{key}: {value!r:.60}" for key, value in options.items())
        raise UsageError(f"options of {name} ({told}) are not right: {e}") from e
    return encoder


def create_encoder(name: str, stages: int = 4, checkpoint: str | Path | None = None) -> nn.Module:
    """An encoder cut after a stage, in eval mode: (B, 3, H, W) -> the stage's raw output (B, C, h, w).

    Args:
        name: swin-, gmf- or vmamba-{t,s,b}, vit-{s,b,l,h}.
        stages: 1 to 4; a ViT has 4 only.
        checkpoint: an official file, or one of a whole network; random weights where None.
    """
    encoder = make_encoder(name, stages)
    if checkpoint is not None:
        checkpoints.load_encoder(encoder, checkpoints.read_state(checkpoint), str(checkpoint))
    return encoder.eval()


def build_net(card: ModelCard, mesh: MeshMatrices | None = None, **encoder_options: Any) -> nn.Module:
    """The network of a card with initial weights; under `torch.device("meta")` it has its shapes alone.

    Args:
        mesh: the fixed matrices of a network that has some; made ones where none are given, for shapes and costs.

    Raises:
        UsageError: the card's options, encoder or builder are not right.
        HmrbenchError: a builder or an encoder of another package fails.
    """
    if (record := find_network(card)) is not None:
        fixed = {"mesh": mesh or made_mesh()} if record.mesh else {}
        with blamed_on(f"{card.where}: build '{card.build}'"):
            return record.build(input_size=card.input, **fixed, **card.options)
    if card.build is None:
        with blamed_on(f"{card.where}: encoder '{card.encoder}'"):
            return _build_own(card, encoder_options)
    what = f"{card.where}: build '{card.build}'"
    build = import_object(card.build, f"{card.where}: build", card.file)
    if not callable(build):
        raise UsageError(f"{what} is no function")
    wanted = _wanted_of(build, card, what)
    with blamed_on(what), beside(card.file):
        net = build(*wanted)
    if not isinstance(net, nn.Module):
        raise UsageError(f"{what} gives a {type(net).__name__}, not a torch.nn.Module")
    return net


def _build_own(card: ModelCard, encoder_options: Mapping[str, Any]) -> nn.Module:
    if card.encoder is None:
        raise UsageError(f"{card.where}: a card needs 'encoder' or 'build'")
    stages = 4 if card.stages is None else card.stages
    try:
        encoder: Any = make_encoder(card.encoder, stages, {**card.options, **encoder_options}, card.file)
    except UsageError as e:
        raise UsageError(f"{card.where}: {e}") from e
    neck: nn.Module = nn.Identity()
    channels = encoder.widths[-1] if len(encoder.widths) == 1 else encoder.widths[stages - 1]
    if card.neck == "stride16":
        neck, channels = make_neck(
            encoder.widths, stages, norm=find_encoder(card.encoder, card.file).family.output_norm
        )
    kind = find_head(card)
    try:
        fields = card.head.options if ":" in card.head.kind else card.head.model_dump(exclude={"kind", "options"})
        head = kind.build(channels, card.input, **fields)
    except UsageError as e:
        raise UsageError(f"{card.where}: {e}") from e
    return Network(encoder, neck, head, side_crop=kind.side_crop)


@cache
def made_mesh() -> MeshMatrices:
    """Matrices by formula, for a network whose shapes, keys or costs alone matter."""
    return mesh_assets.made_mesh()


def needs_mesh(card: ModelCard) -> str:
    """What of the mesh assets a card's network is built on: `matrices`, also the `template`, or nothing."""
    record = find_network(card)
    return "" if record is None else record.mesh


def find_head(card: ModelCard) -> HeadKind:
    """The record of a card's head.

    Raises:
        UsageError: there is no head of that kind, or its import path leads to no HeadKind.
    """
    return find_part(card.head.kind, f"{card.where}: head", HeadKind, known_heads(), card.file)


def _wanted_of(build: Callable[..., Any], card: ModelCard, what: str) -> tuple[ModelCard, ...]:
    """The arguments of `build`: the card where it needs something or has a parameter `card`, else nothing."""
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):  # what is written in C may not tell
        return (card,)
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) > 1 or any(p.kind is p.KEYWORD_ONLY for p in needed):
        raise UsageError(f"{what} needs {', '.join(p.name for p in needed)}; it is called with nothing or the card")
    first = next(iter(parameters), None)
    return (card,) if needed or (first is not None and first.name == "card") else ()


# --------------------------------------------------------------------------- weights


def load_model(
    name: str | ModelCard,
    weights: str | Path | None = None,
    models_dirs: Sequence[str | Path] = (),
    *,
    mesh_assets: str | Path | None = None,
) -> nn.Module:
    """A network by name, in eval mode, with `.encoder`, `.neck` and `.head`.

    A pose network maps (B, 3, 256, 192) to heatmaps (B, 17, 64, 48); an HMR network maps (B, 3, 256, 256) to
    a dict; METRO and its kin map (B, 3, 224, 224) to a dict with `vertices` (B, 6890, 3) and `cam` (B, 3).

    Args:
        name: a model's name, or its card.
        weights: None for the card's own, "random" for reproducible untrained ones, or a file.
        mesh_assets: file of the fixed matrices that METRO and its kin are built on; default: what `body fetch` stored.

    Raises:
        UsageError: unknown name.
        DataError: the mesh assets are not here, or broken.
        WeightsError: the weights are not here, or not of this network.
    """
    card = name if isinstance(name, ModelCard) else load_card(name, models_dirs)
    assets = find_assets(card, None if mesh_assets is None else Path(mesh_assets))
    _, path = sources.resolve_weights(card, weights)
    return load_weights(card, path, None if assets is None else assets.matrices)[0]


def find_assets(card: ModelCard, path: Path | None = None) -> MeshAssets | None:
    """The mesh assets that a card's network is built on; None where it needs none.

    Raises:
        DataError: they are not here, which says how to get them, or broken.
    """
    return find_mesh_assets(path) if needs_mesh(card) else None


def load_weights(
    card: ModelCard, path: Path | None, mesh: MeshMatrices | None = None
) -> tuple[nn.Module, LoadReport | None]:
    """The card's network in eval mode, with the weights of a file or reproducible random ones (path None).

    A network that has a method `load_weights(path: Path)` reads its own format by it; there is no report then.

    Args:
        mesh: the fixed matrices of a network that has some; None for what `body fetch` stored. Where only costs or
            keys matter, `made_mesh()` does.

    Raises:
        DataError: the mesh assets are not here, or broken.
        UsageError: the network has no random weights: it is empty before its file is read.
        WeightsError: the file is not of this network.
    """
    if mesh is None and (assets := find_assets(card)) is not None:
        mesh = assets.matrices
    # Ours are read before anything is built; another package's network may have a format of its own.
    state = None if path is None or card.foreign else checkpoints.read_state(path)
    if state is not None and path is not None and card.head.kind == "smpl":
        _check_decoder(card, checkpoints.decoder_sizes(state), path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build_net(card, mesh)
        own: Any = getattr(net, "load_weights", None)
        if own is not None and path is not None:
            with blamed_on(f"{card.name}: {path}", WeightsError):
                own(path)
            return net.eval(), None
    if path is None:
        if own is not None and not net.state_dict():
            raise UsageError(f"{card.name} has no random weights: its network is empty before its file is read")
        return net.eval(), None
    return net.eval(), fill_network(card, net, state or checkpoints.read_state(path), f"{card.name}: {path}")


def fill_network(card: ModelCard, net: nn.Module, state: dict[str, Tensor], source: str) -> LoadReport:
    """Fill a network; the SMPL body that an HMR2.0 checkpoint carries must be the one installed."""
    check_same_body(state, source)
    record = find_network(card)
    return checkpoints.load_network(net, state, source, None if record is None else record.layout)


def _check_decoder(card: ModelCard, found: Mapping[str, int], path: Path) -> None:
    """The sizes that a checkpoint's SMPL decoder shows must be the card's."""
    h = card.head
    stated = {"depth": h.depth, "heads x dim_head": (h.heads or 0) * (h.dim_head or 0), "mlp_dim": h.mlp_dim}
    if any(found[k] != stated[k] for k in found):
        texts = (", ".join(f"{k} {v}" for k, v in sizes.items() if k in found) for sizes in (found, stated))
        raise WeightsError("{}: {}: its decoder has {}, the card says {}".format(card.name, path, *texts))
