"""YAML -> model cards, and cards by name or glob; torch is never imported here."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from hmrbench.errors import UsageError, unknown_name
from hmrbench.schema import EncoderWeights, ModelCard, Source
from hmrbench.schema.faults import kind_of, refuse, unknown_key, validate_all
from hmrbench.schema.reading import read_yaml, share_dir


def load_cards(models_dirs: Sequence[str | Path] = ()) -> dict[str, ModelCard]:
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
            raise unknown_name(f"{card.where}: model in encoder_from", card.encoder_from, cards)
        shared = start.weights if start else encoders.get(card.encoder or "", ())
        if not card.encoder_weights and shared:
            cards[name] = card.model_copy(update={"encoder_weights": shared})
    return cards


def _models_folder(named: str | Path) -> Path:
    """The folder of cards that a path, or the name of an installed package, stands for."""
    given, name = Path(named), str(named)
    if not given.is_dir() and all(part.isidentifier() for part in name.split(".")):
        try:
            found = importlib.util.find_spec(name)
        except ImportError:
            found = None
        inner = [Path(place) / "models" for place in (found and found.submodule_search_locations) or ()]
        given = next((folder for folder in inner if folder.is_dir()), given)
    if given.is_dir() and (given / "models").is_dir() and not any(given.glob("*.y*ml")):
        return given / "models"  # the folder of a package, where it is not installed or lies here as well
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
    unknown = [unknown_key(key, known) for key in content if key not in known]
    faults = []
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
    if faults:
        refuse(path, [*unknown, *faults])  # there are no entries to look at
    entries: dict[str, Any] = {}
    for name, own in (models or {}).items():
        if isinstance(own, Mapping):
            size = {**(defaults or {}), **own}.get("size")
            of_size = (sizes or {}).get(size) if isinstance(size, str) else None
            own = {**({} if family is None else {"family": family}), **(defaults or {}), **(of_size or {}), **own}
        entries[name] = own
    cards, wrong_cards = validate_all(ModelCard, entries)
    stated = {name: {"sources": given} for name, given in (encoders or {}).items()}
    sources, wrong_encoders = validate_all(EncoderWeights, stated)
    refuse(path, [*unknown, *wrong_cards, *wrong_encoders])
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


def load_card(name: str, models_dirs: Sequence[str | Path] = ()) -> ModelCard:
    """One card by its name or the paper's spelling."""
    cards = find_cards([name], load_cards(models_dirs))
    if len(cards) > 1:
        raise UsageError(f"'{name}' names {len(cards)} models: {', '.join(c.name for c in cards)}")
    return cards[0]


def family_order(card: ModelCard) -> tuple[str, int, int]:
    """Sort key: family, size from small to large, stages."""
    return card.family, "tsmblh".find(card.size), card.stages or 0
