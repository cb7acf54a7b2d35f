"""Model cards -> networks with weights."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmrbench.errors import UsageError, WeightsError, unknown_name
from hmrbench.schema import ModelCard, import_object, read_yaml, share_dir, validate

if TYPE_CHECKING:
    from torch import nn

    from hmrbench.checkpoints import LoadReport

# Encoder name -> module and function; a model's name is a function's name in its family's file.
ENCODERS = {
    **{f"swin-{s}": ("swin", f"swin_{s}") for s in "tsb"},
    **{f"gmf-{s}": ("groupmixformer", f"gmf_{s}") for s in "tsb"},
    **{f"vmamba-{s}": ("vmamba", f"vmamba_{s}") for s in "tsb"},
    **{f"vit-{s}": ("vit", f"vit_{s}") for s in "sblh"},
}
# Encoders whose stage output passes a LayerNorm before the neck (shared facts: paper.md, Truncation).
_OUTPUT_NORM = ("swin", "vmamba")


# --------------------------------------------------------------------------- cards


def load_cards(models_dirs: Sequence[Path] = ()) -> dict[str, ModelCard]:
    """All cards by name: our own, then those of `models_dirs`, in the order of their files.

    Raises:
        UsageError: a folder is missing, a file is no card file, or a name stands there twice.
    """
    cards: dict[str, ModelCard] = {}
    for folder in (share_dir() / "models", *models_dirs):
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder of model cards")
        for path in sorted(folder.glob("*.y*ml")):
            for card in _read_cards(path):
                if card.name in cards:
                    raise UsageError(f"{path}: there is already a model named '{card.name}'")
                cards[card.name] = card
    return cards


@cache
def _read_cards(path: Path) -> tuple[ModelCard, ...]:
    """The cards of one family file: `defaults` hold for all, `sizes` for one size, `models` name each model."""
    content = read_yaml(path)
    stray = set(content) - {"family", "defaults", "sizes", "models"}
    if stray:
        raise UsageError(f"{path}: unknown key {', '.join(sorted(stray))}; there are family, defaults, sizes, models")
    if not isinstance(content.get("models"), Mapping):
        raise UsageError(f"{path}: a family file needs 'models', each under its own name")
    defaults, sizes = content.get("defaults") or {}, content.get("sizes") or {}
    cards = []
    for name, own in content["models"].items():
        fields = {"family": content.get("family"), **defaults, **(sizes.get(own.get("size")) or {}), **own}
        cards.append(validate(ModelCard, path, name, fields))
    return tuple(cards)


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
        hits = [c for c in cards.values() if fnmatchcase(c.name, wanted) or _fold(c.paper_name) == wanted]
        if not hits:
            raise unknown_name("model", name, cards)
        found.update((c.name, c) for c in hits)
    return list(found.values())


def load_card(name: str, models_dirs: Sequence[Path] = ()) -> ModelCard:
    """One card by its name or the paper's spelling."""
    cards = find_cards([name], load_cards(models_dirs))
    if len(cards) > 1:
        raise UsageError(f"'{name}' names {len(cards)} models: {', '.join(c.name for c in cards)}")
    return cards[0]


# --------------------------------------------------------------------------- networks


def _make_encoder(name: str, stages: int, **options: Any) -> nn.Module:
    if name not in ENCODERS:
        raise unknown_name("encoder", name, ENCODERS)
    if stages not in (1, 2, 3, 4):
        raise UsageError(f"{name}: stages must be 1 to 4, not {stages}")
    module, function = ENCODERS[name]
    make = getattr(importlib.import_module(f"hmrbench.nets.encoders.{module}"), function)
    encoder: nn.Module = make(stages, **options)
    return encoder


def create_encoder(name: str, stages: int = 4, checkpoint: str | Path | None = None) -> nn.Module:
    """An encoder cut after a stage, in eval mode: (B, 3, H, W) -> the stage's raw output (B, C, h, w).

    Args:
        name: swin-, gmf- or vmamba-{t,s,b}, vit-{s,b,l,h}.
        stages: 1 to 4; a ViT has 4 only.
        checkpoint: an official file, or one of a whole network; random weights where None.
    """
    encoder = _make_encoder(name.lower(), stages)
    if checkpoint is not None:
        from hmrbench import checkpoints

        checkpoints.load_encoder(encoder, checkpoints.read_state(checkpoint), str(checkpoint))
    return encoder.eval()


def build_net(card: ModelCard, **encoder_options: Any) -> nn.Module:
    """The network of a card with initial weights; build it under `torch.device("meta")` to learn its shape alone."""
    if card.build is not None:
        net: nn.Module = import_object(card.build, f"{card.name}: build")(card)
        return net
    from hmrbench.nets.heads.heatmap import HeatmapHead
    from hmrbench.nets.truncation import Network, make_neck

    if card.encoder is None:
        raise UsageError(f"{card.name}: a card needs 'encoder' or 'build'")
    stages = card.stages or 4
    encoder: Any = _make_encoder(card.encoder, stages, **card.options, **encoder_options)
    neck, channels = make_neck(encoder.widths, stages, norm=card.encoder.startswith(_OUTPUT_NORM))
    if card.head.kind == "heatmap":
        return Network(encoder, neck, HeatmapHead(channels))
    from hmrbench.nets.heads.smpl import SMPLHead

    sizes = card.head.model_dump(exclude={"kind"})
    if None in sizes.values():
        raise UsageError(f"{card.name}: an smpl head needs {', '.join(sizes)}")
    head = SMPLHead(channels, **sizes)
    return Network(encoder, neck, head, side_crop=32)


def count_parameters(card: ModelCard) -> dict[str, int]:
    """Parameters in all and by part: `params`, `params_encoder`, `params_neck`, `params_head`."""
    import torch

    with torch.device("meta"):
        return parameters_by_part(build_net(card))


def parameters_by_part(net: nn.Module) -> dict[str, int]:
    """Parameters of a network, in all and of each of its parts (0 for a part that a foreign network lacks)."""
    from torch import nn

    def count(module: Any) -> int:
        return sum(p.numel() for p in module.parameters()) if isinstance(module, nn.Module) else 0

    parts = {f"params_{part}": count(getattr(net, part, None)) for part in ("encoder", "neck", "head")}
    return {"params": count(net), **parts}


# --------------------------------------------------------------------------- weights


def resolve_weights(card: ModelCard, weights: str | Path | None) -> tuple[str, Path | None]:
    """What the words after `--weights` mean: (`random`, None), or a label and the file that holds the weights.

    None means the weights that the card names, which must have been fetched before.

    Raises:
        WeightsError: they are not here; says where they come from.
    """
    if weights == "random":
        return "random", None
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise WeightsError(f"{card.name}: no weights file at {path} (or say 'random')")
        return str(weights), path
    lines = [f"{card.name} has no weights here. Give a file (--weights PATH) or say --weights random. They come from:"]
    for source in card.weights:
        where = source.page if source.url == "manual:" else source.url
        lines.append(f"  {where}  [{source.read_in}]")
    raise WeightsError("\n".join(lines))


def load_model(
    name: str | ModelCard, weights: str | Path | None = None, models_dirs: Sequence[Path] = ()
) -> nn.Module:
    """A network by name, in eval mode, with `.encoder`, `.neck` and `.head`.

    A pose network maps (B, 3, 256, 192) to heatmaps (B, 17, 64, 48); an HMR network maps (B, 3, 256, 256) to a dict.

    Args:
        name: a model's name, or its card.
        weights: None for the card's own, "random" for reproducible untrained ones, or a file.

    Raises:
        UsageError: unknown name.
        WeightsError: the weights are not here, or not of this network.
    """
    card = name if isinstance(name, ModelCard) else load_card(name, models_dirs)
    _, path = resolve_weights(card, weights)
    return load_weights(card, path)[0]


def load_weights(card: ModelCard, path: Path | None) -> tuple[nn.Module, LoadReport | None]:
    """The card's network with the weights of a file, or with reproducible random ones (path None), in eval mode."""
    import torch

    from hmrbench import checkpoints

    if path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build_net(card).eval(), None
    state = checkpoints.read_state(path)
    if card.head.kind == "smpl" and card.build is None:
        _check_decoder(card, checkpoints.decoder_sizes(state), path)
    net = build_net(card)
    report = checkpoints.load_network(net, state, f"{card.name}: {path}")
    return net.eval(), report


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


def is_glob(name: str) -> bool:
    """Whether a name holds a wildcard."""
    return re.search(r"[*?\[]", name) is not None


def describe(card: ModelCard) -> list[dict[str, Any]]:
    """Stages and parts of a network: the shape each puts out for one picture, and its parameters; nothing is computed.

    Returns:
        One dict per stage of a hierarchical encoder, then per part: `part`, `output` (a shape, or shapes by name),
        `params`.
    """
    import torch
    from torch import nn

    rows: list[dict[str, Any]] = []

    def note(part: str, module: nn.Module, output: Any, before: int = 0) -> int:
        shape = {k: list(v.shape) for k, v in output.items()} if isinstance(output, Mapping) else list(output.shape)
        params = parameters_by_part(module)["params"]
        rows.append({"part": part, "output": shape, "params": params - before})
        return params

    with torch.device("meta"), torch.no_grad():
        net: Any = build_net(card).eval()
        image = torch.empty(1, 3, *card.input)
        output = net(image)
        if not isinstance(getattr(net, "encoder", None), nn.Module):
            note("network", net, output)
            return rows
        seen = image[..., net.side_crop : image.shape[-1] - net.side_crop] if hasattr(net, "side_crop") else image
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
    from hmrbench import checkpoints

    state = checkpoints.read_state(source)
    layout = checkpoints.find_layout(state)
    cards = load_cards(models_dirs)
    if name is not None and name.lower() in ENCODERS:
        candidates = [name.lower()]
    elif name is not None:
        candidates = [find_cards([name], cards)[0].name]
    else:
        candidates = [c for c in cards if cards[c].build is None] if layout.whole else list(ENCODERS)
    failures = []
    for candidate in candidates:
        alone = candidate in ENCODERS
        net = _make_encoder(candidate, 4) if alone else build_net(cards[candidate])
        try:
            load = checkpoints.load_encoder if alone else checkpoints.load_network
            report = load(net, state, f"{candidate}: {source}")
        except WeightsError as e:
            failures.append(e)
            continue
        weights = {k: v for k, v in net.state_dict().items()}
        checkpoints.save_state(weights, target, {"model": candidate, "layout": report.layout, "source": source.name})
        return candidate, report
    if len(failures) == 1:
        raise failures[0]
    raise WeightsError(f"{source} ({layout.name} layout) fits none of {len(candidates)} networks; --model says why not")
