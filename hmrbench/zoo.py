"""Model cards -> networks with weights."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmrbench.cards import find_cards, load_card, load_cards
from hmrbench.codecs import Codec, find_codec
from hmrbench.errors import HmrbenchError, UsageError, WeightsError, blamed_on, unknown_name
from hmrbench.schema import (
    ModelCard,
    beside,
    import_object,
    unknown_key,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hmrbench.body.mesh_assets import MeshAssets
    from hmrbench.checkpoints import LoadReport
    from hmrbench.nets.encoders.record import Encoder
    from hmrbench.nets.meshes.mesh import MeshMatrices
    from hmrbench.nets.record import HeadKind, Net


# --------------------------------------------------------------------------- networks


def find_encoder(name: str, file: Path | None = None) -> Encoder:
    """The record of an encoder by its name, or the one at an import path such as `mypkg.encoder:TINY`.

    Args:
        file: of the card that names it, beside which the module may lie.

    Raises:
        UsageError: there is no encoder of that name, or the path leads to no Encoder.
    """
    from hmrbench.nets.encoders.record import Encoder, known_encoders

    found = import_object(name, "encoder", file) if ":" in name else known_encoders().get(name.lower())
    if found is None:
        raise unknown_name("encoder", name, known_encoders())
    if not isinstance(found, Encoder):
        raise UsageError(f"encoder '{name}' is a {type(found).__name__}, not a hmrbench.nets.encoders.record.Encoder")
    return found


def find_network(card: ModelCard) -> Net | None:
    """The record of the whole network of ours that a card builds; None where it is made of parts or foreign.

    Raises:
        UsageError: there is no network of that name.
    """
    from hmrbench.nets.record import known_networks

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


def _make_encoder(
    name: str, stages: int, options: Mapping[str, Any] | None = None, file: Path | None = None
) -> nn.Module:
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
    encoder = _make_encoder(name, stages)
    if checkpoint is not None:
        from hmrbench import checkpoints

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
    from torch import nn

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
    from torch import nn

    from hmrbench.nets.truncation import Network, make_neck

    if card.encoder is None:
        raise UsageError(f"{card.where}: a card needs 'encoder' or 'build'")
    stages = 4 if card.stages is None else card.stages
    try:
        encoder: Any = _make_encoder(card.encoder, stages, {**card.options, **encoder_options}, card.file)
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
    from hmrbench.body import mesh_assets

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
    from hmrbench.nets.record import HeadKind, known_heads

    kind = card.head.kind
    found = import_object(kind, f"{card.where}: head", card.file) if ":" in kind else known_heads().get(kind)
    if found is None:
        raise unknown_name(f"{card.where}: head", kind, known_heads())
    if not isinstance(found, HeadKind):
        raise UsageError(
            f"{card.where}: head '{kind}' is a {type(found).__name__}, not a hmrbench.nets.record.HeadKind"
        )
    return found


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


def count_parameters(card: ModelCard) -> dict[str, int | None]:
    """Parameters: `params`, `params_encoder`, `params_neck`, `params_head`; None if not known."""
    return parameters_by_part(shape_of_net(card))


def shape_of_net(card: ModelCard) -> nn.Module:
    """The network of a card without values; one of another package that reads its values to be built has them.

    Raises:
        UsageError: it cannot be built; see `build_net`.
    """
    import torch

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
    from torch import nn

    own = list(module.parameters()) if isinstance(module, nn.Module) else []
    return 0 if any(map(nn.parameter.is_lazy, own)) else sum(p.numel() for p in own)


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
    from hmrbench.fetch import sources

    card = name if isinstance(name, ModelCard) else load_card(name, models_dirs)
    assets = find_assets(card, None if mesh_assets is None else Path(mesh_assets))
    _, path = sources.resolve_weights(card, weights)
    return load_weights(card, path, None if assets is None else assets.matrices)[0]


def find_assets(card: ModelCard, path: Path | None = None) -> MeshAssets | None:
    """The mesh assets that a card's network is built on; None where it needs none.

    Raises:
        DataError: they are not here, which says how to get them, or broken.
    """
    from hmrbench.body.mesh_assets import find_mesh_assets

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
    import torch

    from hmrbench import checkpoints

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
    return net.eval(), _load_network(card, net, state or checkpoints.read_state(path), f"{card.name}: {path}")


def _load_network(card: ModelCard, net: nn.Module, state: dict[str, Tensor], source: str) -> LoadReport:
    """Fill a network; the SMPL body that an HMR2.0 checkpoint carries must be the one installed."""
    from hmrbench import checkpoints
    from hmrbench.body import check_same_body

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


def describe(card: ModelCard) -> list[dict[str, Any]]:
    """Stages and parts of a network: the shape each puts out for one picture, and its parameters.

    Returns:
        One dict per stage of a hierarchical encoder, then per part: `part`, `output` (a shape, or shapes by
        name), `params`. A foreign network is one part; what it does not tell without its weights is empty or
        None.
    """
    import torch
    from torch import nn

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
            cut = _make_encoder(str(card.encoder), stage, card.options, card.file)
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
    import torch

    from hmrbench import checkpoints
    from hmrbench.nets.encoders.record import known_encoders

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
    from hmrbench import checkpoints
    from hmrbench.nets.encoders.record import known_encoders

    ours = [name for name, card in cards.items() if find_network(card) is not None]
    try:
        layout = checkpoints.find_layout(state, str(source))
    except WeightsError:
        return ours
    return [name for name, card in cards.items() if not card.foreign] if layout.whole else [*known_encoders(), *ours]


def _likely(candidates: Sequence[str], cards: Mapping[str, ModelCard], state: dict[str, Tensor]) -> Iterator[str]:
    """Those of some networks and encoders whose files these weights may be, by what is known before one is built: a
    whole network's widths are sizes of some tensor, an encoder's blocks and a decoder of SMPL are under their keys."""
    from hmrbench import checkpoints
    from hmrbench.nets.encoders.record import known_encoders

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
    from hmrbench import checkpoints
    from hmrbench.nets.encoders.record import known_encoders

    if name in known_encoders():
        encoder = _make_encoder(name, 4)
        return encoder, checkpoints.load_encoder(encoder, state, f"{name}: {source}")
    net = build_net(cards[name])
    return net, _load_network(cards[name], net, state, f"{name}: {source}")
