"""Counts of networks, kept in the cache folder: they cost more than the timing, and follow from card and code alone."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hmrbench import environment, files
from hmrbench.errors import DataError
from hmrbench.fetch.ledger import cache_dir
from hmrbench.results import runs as results
from hmrbench.schema import ModelCard

_log = logging.getLogger(__name__)


def are_of_this_package(card: ModelCard) -> bool:
    """Whether all that a card's network consists of is here; nobody says when another package's code changes."""
    return card.backend is None and not card.foreign and ":" not in (card.encoder or "")


def find(card: ModelCard) -> dict[str, Any] | None:
    """What `keep` kept of a card, by this code and these versions; None if nothing, or something that is damaged."""
    path = _path(card)
    if not path.is_file():
        return None
    try:
        content = files.read_json(path, "counts of a network")
        counts = content["counts"]
        if content["sha256"] == _digest(counts):
            return dict(counts)
    except (DataError, KeyError, TypeError, ValueError):
        pass
    _log.warning("%s: no counts of a network as they were written; counted anew", path)
    return None


def keep(card: ModelCard, counts: Mapping[str, Any]) -> None:
    """Keep counts for later; where nothing can be written they are counted anew."""
    try:
        files.write_json(_path(card), {"counts": counts, "sha256": _digest(files.plain(counts))})
    except OSError as e:
        _log.info("counts of %s are not kept: %s", card.name, e)


def _path(card: ModelCard) -> Path:
    identity = {"card": card.model_dump(mode="json"), "code": _code_sha256(), "versions": environment.versions()}
    return cache_dir() / "counts" / f"{results.run_key(identity)}.json"


def _digest(counts: Any) -> str:
    return hashlib.sha256(files.to_json(counts).encode()).hexdigest()


@cache
def _code_sha256() -> str:
    """Of all modules of this package, whatever commit they are of."""
    digest = hashlib.sha256()
    top = Path(environment.__file__).parent
    for path in sorted(top.rglob("*.py")):
        digest.update(f"{path.relative_to(top)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
