"""Model cards -> networks with weights."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmrbench.errors import HmrbenchError, UsageError, WeightsError, unknown_name
from hmrbench.schema import (
    EncoderWeights,
    ModelCard,
    Source,
    import_object,
    kind_of,
    read_yaml,
    refuse,
    share_dir,
    unknown_key,
    validate_all,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hmrbench.checkpoints import LoadReport
    from hmrbench.nets.encoders.record import Encoder


# --------------------------------------------------------------------------- cards


def load_cards(models_dirs: Sequence[Path] = ()) -> dict[str, ModelCard]:
    """All cards by name: our own, then those of `models_dirs`, in the order of their files.

    Args:
        models_dirs: folders, or names of installed packages that have a folder `models`.

    Raises:
        UsageError: a folder is missing, a file is no card file, or a name stands there twice.
    """
    cards: dict[str, ModelCard] = {}
    folded: dict[str, ModelCard] = {}
    encoders: dict[str, tuple[Source, ...]] = {}
    for folder in (share_dir() / "models", *map(_models_folder, models_dirs)):
        for path in sorted(folder.glob("*.y*ml")):
            found, sources = _read_cards(path)
            encoders |= sources
            for card in found:
                if other := folded.get(_fold(card.name)):  # lookup could not tell them apart
                    raise UsageError(f"{path}: there is already a model named '{other.name}'")
                cards[card.name] = folded[_fold(card.name)] = card
    for name, card in cards.items():
        start = folded.get(_fold(card.encoder_from)) if card.encoder_from else None
        if card.encoder_from is not None and start is None:
            raise unknown_name(f"model in encoder_from of {card.where}", card.encoder_from, cards)
        shared = start.weights if start else encoders.get(card.encoder or "", ())
        if not card.encoder_weights and shared:
            cards[name] = card.model_copy(update={"encoder_weights": shared})
    return cards


def _models_folder(given: Path) -> Path:
    """The folder of cards that a path, or the name of an installed package, stands for."""
    name = str(given)
    if not given.is_dir() and all(part.isidentifier() for part in name.split(".")):
        try:
            found = importlib.util.find_spec(name)
        except ImportError:
            found = None
        inner = [Path(place) / "models" for place in (found and found.submodule_search_locations) or ()]
        given = next((folder for folder in inner if folder.is_dir()), given)
    if not given.is_dir():
        raise UsageError(f"{given}: no such folder of model cards, nor a package that has a folder 'models'")
    return given


@cache
def _read_cards(path: Path) -> tuple[tuple[ModelCard, ...], dict[str, tuple[Source, ...]]]:
    """The cards of one family file, and the sources of encoders that it states.

    `defaults` hold for all, `sizes` for one size, `models` name each model; `encoders` say where pretrained
    weights of an encoder are, for all families that share it.
    """
    content = read_yaml(path)
    known = ("family", "defaults", "sizes", "models", "encoders")
    faults = [unknown_key(key, known) for key in content if key not in known]
    family, defaults, sizes, models, encoders = (content.get(key) for key in known)
    if not isinstance(models, Mapping) and (models is not None or encoders is None):
        faults.append("a family file needs 'models', each under its own name")
    shared = {"defaults": defaults, "sizes": sizes, "encoders": encoders}
    shared |= {f"sizes.{name}": of_size for name, of_size in sizes.items()} if isinstance(sizes, Mapping) else {}
    faults += [
        f"'{key}' must map names to what they are, not be {kind_of(value)}"
        for key, value in shared.items()
        if not isinstance(value, Mapping | None)
    ]
    if any(not f.startswith("unknown key") for f in faults):
        refuse(path, faults)  # there are no entries to look at
    entries: dict[str, Any] = {}
    for name, own in (models or {}).items():
        if isinstance(own, Mapping):
            size = {**(defaults or {}), **own}.get("size")
            of_size = (sizes or {}).get(size) if isinstance(size, str) else None
            own = {"family": family, **(defaults or {}), **(of_size or {}), **own}
        entries[name] = own
    cards, wrong_cards = validate_all(ModelCard, entries)
    stated = {name: {"sources": given} for name, given in (encoders or {}).items()}
    sources, wrong_encoders = validate_all(EncoderWeights, stated)
    refuse(path, [*faults, *wrong_cards, *wrong_encoders])
    for card in cards.values():
        card._file = path
    return tuple(cards.values()), {name: e.sources for name, e in sources.items()}


def _fold(name: str) -> str:
    """A name as lookup sees it: case, and the paper's 'HMR2.0' for our 'hmr2', do not matter."""
    return name.lower().replace("hmr2.0", "hmr2").replace(" (vit-h)", "-h")


def find_cards(names: Sequence[str], cards: Mapping[str, ModelCard]) -> list[ModelCard]:
    """The cards that names or globs select, each once, in the order asked for.

    Raises:
        UsageError: a name or glob matches nothing; the nearest names are listed.
    """
    found: dict[str, ModelCard] = {}
    for name in names:
        wanted = _fold(name)
        # A name may hold brackets or stars itself: as it stands it comes before what it means as a glob.
        hits = [c for c in cards.values() if wanted in (_fold(c.name), _fold(c.paper_name))]
        hits = hits or [c for c in cards.values() if fnmatchcase(_fold(c.name), wanted)]
        if not hits:
            raise unknown_name("model", name, cards, "cards of your own: --models-dir DIR")
        found.update((c.name, c) for c in hits)
    return list(found.values())


def load_card(name: str, models_dirs: Sequence[Path] = ()) -> ModelCard:
    """One card by its name or the paper's spelling."""
    cards = find_cards([name], load_cards(models_dirs))
    if len(cards) > 1:
        raise UsageError(f"'{name}' names {len(cards)} models: {', '.join(c.name for c in cards)}")
    return cards[0]


# --------------------------------------------------------------------------- networks


def find_encoder(name: str) -> Encoder:
    """The record of an encoder by its name, or the one at an import path such as `mypkg.encoder:TINY`.

    Raises:
        UsageError: there is no encoder of that name, or the path leads to no Encoder.
    """
    from hmrbench.nets.encoders.record import Encoder, known_encoders

    found = import_object(name, "encoder") if ":" in name else known_encoders().get(name.lower())
    if found is None:
        raise unknown_name("encoder", name, known_encoders())
    if not isinstance(found, Encoder):
        raise UsageError(f"encoder '{name}' is a {type(found).__name__}, not a hmrbench.nets.encoders.record.Encoder")
    return found


def _make_encoder(name: str, stages: int, **options: Any) -> nn.Module:
    if stages not in (1, 2, 3, 4):
        raise UsageError(f"{name}: stages must be 1 to 4, not {stages}")
    make = find_encoder(name).build
    known = list(inspect.signature(make).parameters)[1:]
    if wrong := [unknown_key(key, known) for key in options if key not in known]:
        raise UsageError(f"options of {name}: {'; '.join(wrong)}")
    try:
        encoder: nn.Module = make(stages, **options)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as e:
        if not options:
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


def build_net(card: ModelCard, **encoder_options: Any) -> nn.Module:
    """The network of a card with initial weights; under `torch.device("meta")` it has its shapes alone."""
    if card.build is not None:
        build = import_object(card.build, f"{card.where}: build")
        if not callable(build):
            raise UsageError(f"{card.where}: build '{card.build}' is no function")
        net: nn.Module = build(card)
        return net
    from hmrbench.nets.heads.heatmap import HeatmapHead
    from hmrbench.nets.truncation import Network, make_neck

    if card.encoder is None:
        raise UsageError(f"{card.where}: a card needs 'encoder' or 'build'")
    stages = 4 if card.stages is None else card.stages
    try:
        encoder: Any = _make_encoder(card.encoder, stages, **{**card.options, **encoder_options})
    except UsageError as e:
        raise UsageError(f"{card.where}: {e}") from e
    neck, channels = make_neck(encoder.widths, stages, norm=find_encoder(card.encoder).family.output_norm)
    if card.head.kind == "heatmap":
        return Network(encoder, neck, HeatmapHead(channels))
    from hmrbench.nets.heads.smpl import SMPLHead

    sizes = card.head.model_dump(exclude={"kind"})
    if None in sizes.values():
        raise UsageError(f"{card.where}: an smpl head needs {', '.join(sizes)}")
    head = SMPLHead(channels, **sizes)
    return Network(encoder, neck, head, side_crop=8)


def backend_of(card: ModelCard) -> str | None:
    """Package and version of what computes a network that is not PyTorch's, for its rows; None for PyTorch's.

    Raises:
        UsageError: the package is not installed.
    """
    if card.backend is None:
        return None
    from importlib import metadata

    package = card.backend.package
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        raise UsageError(f"{card.name} runs on {package}, which is not installed: pip install {package}") from None


def fit_backend(card: ModelCard, device: str, dtype: str) -> str:
    """The device to use: as asked for, or for `auto` the first of those that the card's backend has.

    Raises:
        UsageError: the backend is not installed, or has no such device or dtype.
    """
    backend = card.backend
    if backend is None:
        return device
    backend_of(card)
    if dtype not in backend.dtypes:
        raise UsageError(f"{card.name} runs on {backend.package} in {', '.join(backend.dtypes)}, not in {dtype}")
    if device == "auto":
        return backend.devices[0]
    if device.partition(":")[0] not in backend.devices:
        raise UsageError(f"{card.name} runs on {backend.package} on {', '.join(backend.devices)}, not on {device}")
    return device


def count_parameters(card: ModelCard) -> dict[str, int | None]:
    """Parameters: `params`, `params_encoder`, `params_neck`, `params_head`; None if not known."""
    import torch

    with torch.device("meta"):
        return parameters_by_part(build_net(card))


def parameters_by_part(net: nn.Module) -> dict[str, int | None]:
    """Parameters of a network, in all and of each of its parts (0 for a part that a foreign network lacks).

    They are not known, None, where PyTorch sees none, since another backend has them, and where a lazy module gets
    them at its first forward.
    """
    counts = {"params": _count(net)}
    counts |= {f"params_{part}": _count(getattr(net, part, None)) for part in ("encoder", "neck", "head")}
    return {name: number if counts["params"] else None for name, number in counts.items()}


def _count(module: Any) -> int:
    from torch import nn

    own = list(module.parameters()) if isinstance(module, nn.Module) else []
    return 0 if any(map(nn.parameter.is_lazy, own)) else sum(p.numel() for p in own)


# --------------------------------------------------------------------------- weights


def load_model(name: str | ModelCard, weights: str | Path | None = None, models_dirs: Sequence[Path] = ()) -> nn.Module:
    """A network by name, in eval mode, with `.encoder`, `.neck` and `.head`.

    A pose network maps (B, 3, 256, 192) to heatmaps (B, 17, 64, 48); an HMR network maps (B, 3, 256, 256) to
    a dict.

    Args:
        name: a model's name, or its card.
        weights: None for the card's own, "random" for reproducible untrained ones, or a file.

    Raises:
        UsageError: unknown name.
        WeightsError: the weights are not here, or not of this network.
    """
    from hmrbench.fetch import sources

    card = name if isinstance(name, ModelCard) else load_card(name, models_dirs)
    _, path = sources.resolve_weights(card, weights)
    return load_weights(card, path)[0]


def load_weights(card: ModelCard, path: Path | None) -> tuple[nn.Module, LoadReport | None]:
    """The card's network in eval mode, with the weights of a file or reproducible random ones (path None).

    A network that has a method `load_weights(path: Path)` reads its own format by it; there is no report then.

    Raises:
        UsageError: the network has no random weights: it is empty before its file is read.
        WeightsError: the file is not of this network.
    """
    import torch

    from hmrbench import checkpoints

    # Ours are read before anything is built; another package's network may have a format of its own.
    state = None if path is None or card.build is not None else checkpoints.read_state(path)
    if state is not None and path is not None and card.head.kind == "smpl":
        _check_decoder(card, checkpoints.decoder_sizes(state), path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build_net(card)
        own: Any = getattr(net, "load_weights", None)
        if own is not None and path is not None:
            _load_own_format(own, path, card.name)
            return net.eval(), None
    if path is None:
        if own is not None and not net.state_dict():
            raise UsageError(f"{card.name} has no random weights: its network is empty before its file is read")
        return net.eval(), None
    return net.eval(), _load_network(net, state or checkpoints.read_state(path), f"{card.name}: {path}")


def _load_network(net: nn.Module, state: dict[str, Tensor], source: str) -> LoadReport:
    """Fill a network; the SMPL body that an HMR2.0 checkpoint carries must be the one installed."""
    from hmrbench import checkpoints
    from hmrbench.body import check_same_body

    check_same_body(state, source)
    return checkpoints.load_network(net, state, source)


def _load_own_format(load: Callable[[Path], None], path: Path, name: str) -> None:
    try:
        load(path)
    except HmrbenchError:
        raise
    except Exception as e:  # whatever the other package raises
        raise WeightsError(f"{name}: {path}: {' '.join(str(e).split()) or type(e).__name__}") from e


def _check_decoder(card: ModelCard, found: Mapping[str, int], path: Path) -> None:
    """The sizes that a checkpoint's SMPL decoder shows must be the card's."""
    h = card.head
    stated = {"depth": h.depth, "heads x dim_head": (h.heads or 0) * (h.dim_head or 0), "mlp_dim": h.mlp_dim}
    if any(found[k] != stated[k] for k in found):
        texts = (", ".join(f"{k} {v}" for k, v in sizes.items() if k in found) for sizes in (found, stated))
        raise WeightsError("{}: {}: its decoder has {}, the card says {}".format(card.name, path, *texts))


def family_order(card: ModelCard) -> tuple[str, int, int]:
    """Sort key: family, size from small to large, stages."""
    return card.family, "tsblh".find(card.size), card.stages or 0


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
        shape = {k: list(v.shape) for k, v in output.items()} if isinstance(output, Mapping) else list(output.shape)
        params = _count(module)
        rows.append({"part": part, "output": shape, "params": params - before})
        return params

    with torch.device("meta"), torch.no_grad():
        net: Any = build_net(card).eval()
        image = torch.empty(1, 3, *card.input)
        try:
            output = net(image)
        except Exception:  # a foreign network may need its weights, or memory, to compute anything
            if card.build is None:
                raise
            return [{"part": "network", "output": [], "params": parameters_by_part(net)["params"]}]
        if not isinstance(getattr(net, "encoder", None), nn.Module):
            note("network", net, output)
            return rows
        seen = net.seen(image) if hasattr(net, "seen") else image
        below = 0
        for stage in range(1, (card.stages or 4) + 1) if len(net.encoder.widths) > 1 else ():
            cut = _make_encoder(str(card.encoder), stage, **card.options)
            below = note(f"stage {stage}", cut, cut(seen), below)
        features = net.encoder(seen)
        note("encoder", net.encoder, features)
        note("neck", net.neck, net.neck(features))
        note("head", net.head, output)
    return rows


def convert_weights(
    source: Path, target: Path, name: str | None = None, models_dirs: Sequence[Path] = ()
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
    layout = checkpoints.find_layout(state, str(source))
    cards = load_cards(models_dirs)
    if name is not None and name.lower() in known_encoders():
        candidates = [name.lower()]
    elif name is not None:
        candidates = [find_cards([name], cards)[0].name]
    else:
        candidates = [c for c in cards if cards[c].build is None] if layout.whole else list(known_encoders())
    failures = []
    for candidate in candidates:
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
    if len(failures) == 1:
        raise failures[0]
    raise WeightsError(f"{source} ({layout.name} layout) fits none of {len(candidates)} networks; --model says why not")


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
    return net, _load_network(net, state, f"{name}: {source}")
