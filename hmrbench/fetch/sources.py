"""Where a network's weights come from: what `--weights` means, what is here already, what can be fetched."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from hmrbench.errors import DataError, WeightsError, unknown_name
from hmrbench.fetch import fetch
from hmrbench.fetch.fetch import Fetched, FetchProgress
from hmrbench.schema import ModelCard, Source
from hmrbench.schema.reading import share_dir

_log = logging.getLogger(__name__)
_SOURCE = re.compile(r"(https?|hf|gdrive|file|pypi):")


def resolve_weights(card: ModelCard, weights: str | Path | None) -> tuple[str, Path | None]:
    """What the words after `--weights` mean: (`random`, None), or a label and the file of the weights.

    None means the first of the card's own sources whose file is here already. A source's address is fetched
    if its file is not here; one that the card names keeps the card's sha256. `demo` means the card's demo
    weights.

    Raises:
        WeightsError: they are not here; says where they come from and what to type.
    """
    if weights == "random":
        return "random", None
    if weights == "demo":
        return "demo", _demo_weights(card)
    if weights is None:
        found = find_weights(card)
        if found is None:
            raise WeightsError(_missing(card))
        return found.source.url, found.path
    if _SOURCE.match(str(weights)):
        return str(weights), _named_source(card, str(weights)).path
    path = Path(weights)
    if not os.path.isfile(path):
        raise WeightsError(f"{card.name}: no weights file at {path} (or say 'random')")
    return str(weights), path


def weights_sources(card: ModelCard, *, encoder: bool = False, variant: str | None = None) -> list[Source]:
    """Where a card's weights, or its encoder's alone, can be had; what is got by hand has a file name.

    Args:
        variant: those of this variant only; None for all.

    Raises:
        UsageError: the card has no such variant.
    """
    given, name = card.weights, card.name
    if encoder:
        given, name = card.encoder_weights, card.encoder_from or card.encoder or card.name
    named = [s if s.file or s.url != "manual:" else s.model_copy(update={"file": _by_hand(name, s)}) for s in given]
    known = dict.fromkeys(s.variant for s in named)
    if variant is not None and variant not in known:
        raise unknown_name(f"variant of {card.name}'s weights", variant, known)
    return [s for s in named if variant in (None, s.variant)]


def _by_hand(name: str, source: Source) -> str:
    """What to call a file that a person gets, where nobody knows what it is called there."""
    return "-".join(filter(None, (name, source.variant))) + ".pth"


def find_weights(card: ModelCard, *, encoder: bool = False) -> Fetched | None:
    """The first of a card's weights (or its encoder's alone) that is here, checked; uses no network."""
    sources = weights_sources(card, encoder=encoder)
    return fetch.find(sources) if sources else None


def fetch_weights(
    card: ModelCard,
    *,
    encoder: bool = False,
    variant: str | None = None,
    offline: bool = False,
    progress: FetchProgress | None = None,
) -> Fetched:
    """Get a card's weights, or those of its encoder alone, into the cache.

    Args:
        variant: which of the card's weights; None for the first that the card names, from any of its mirrors.

    Raises:
        UsageError: the card has no such variant, or a source needs an extra that is not installed.
        WeightsError: no source works; where a person is needed, says page, file and where to put it.
    """
    sources = weights_sources(card, encoder=encoder, variant=variant)
    what = f"{card.name}{': its encoder' if encoder else ''}"
    if not sources:
        raise WeightsError(f"{what}: no source of its weights is known")
    sources = [s for s in sources if s.variant == sources[0].variant]
    try:
        return fetch.fetch(sources, offline=offline, progress=progress)
    except DataError as e:
        raise WeightsError(f"{what}: {e}") from e


def _named_source(card: ModelCard, url: str) -> Fetched:
    """The file of a source named by its address: as a card states it, if one does."""
    known = [s for s in (*card.weights, *card.encoder_weights) if s.url == url]
    sources = known or [Source(url=url)]
    if found := fetch.find(sources):
        return found
    _log.warning("%s: fetching %s", card.name, url)
    try:
        return fetch.fetch(sources)
    except DataError as e:
        raise WeightsError(f"{card.name}: {e}") from e


def _demo_weights(card: ModelCard) -> Path:
    if card.demo_weights is None:
        raise WeightsError(f"{card.name} has no demo weights")
    source = card.demo_weights
    inner = share_dir() / source.url.removeprefix("file:")
    if source.url.startswith("file:") and inner.is_file():  # demo weights may travel with the package
        source = source.model_copy(update={"url": f"file:{inner}"})
    return fetch.fetch([source]).path


def next_steps(card: ModelCard) -> list[str]:
    """What to do to have a card's weights: what to type, or where a person gets which file and where it goes."""
    lines = []
    sources = weights_sources(card)
    if any(s.url != "manual:" for s in sources):
        lines.append(f"to get them: hmrbench weights fetch {card.name}")
    elif sources:
        first = sources[0]
        lines.append(f"by hand: {first.page or 'no page is known'} says how the file is had")
        lines.append(
            f"then: put it at {fetch.place_by_hand(first.file or '')}, where it is found, or give --weights PATH"
        )
    if card.demo_weights is not None:
        lines.append("for the demo data sets: --weights demo, of this package, is enough")
    return lines


def _missing(card: ModelCard) -> str:
    """Where a card's weights come from, and what to type."""
    lines = [f"{card.name} has no weights here. Give a file (--weights PATH) or say --weights random."]
    lines += ["They come from:"] if card.weights else ["No source of them is known."]
    for source in card.weights:
        where = source.page if source.url == "manual:" else source.url
        lines.append(f"  {where}  [{source.read_in}]")
    return "\n".join([*lines, *(f"{step[0].upper()}{step[1:]}" for step in next_steps(card))])
