"""A file that `hmrbench export` wrote, with the JSON beside it: whose network it is, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hmrbench import environment, files
from hmrbench.errors import DataError, UsageError
from hmrbench.files import file_sha256
from hmrbench.records import Dataset
from hmrbench.runtimes.runtime import Network, Runtime, find_runtime, known_runtimes
from hmrbench.schema import ModelCard

SCHEMA = 1


@dataclass(frozen=True)
class Exported:
    """A file that `export` wrote, and what the JSON beside it says."""

    path: Path
    record: Mapping[str, Any]
    runtime: Runtime

    @property
    def network(self) -> Network:
        """What its runtime prepares."""
        r = self.record
        return Network(
            file=self.path, form=r["form"], batch_size=r["batch_size"], error_std=(r.get("check") or {}).get("max_std")
        )

    def precision(self, asked: str) -> str:
        """What to run it in: as it was exported, or by a hint to a runtime that takes one, what was asked for instead.

        Raises:
            UsageError: it cannot.
        """
        own: str = self.record["dtype"]
        if asked in ("fp32", own):
            return own
        if own == "fp32" and asked == "bf16" and "bf16" in self.runtime.dtypes:
            return asked
        raise UsageError(f"{self.path} was exported in {own}: for {asked} export it again with --dtype {asked}")

    def check_source(self, card: ModelCard, weights: str, sha256: str | None, timed: bool = False) -> None:
        """Refuse a file of another model, card, commit or other weights.

        Args:
            weights: those asked for, "" where nobody did: then the file's own will do, unless they are untrained.
            sha256: of those asked for.
            timed: only the cost is wanted, which does not depend on the weights.

        Raises:
            UsageError: says what differs and how to export it again.
        """
        r = self.record
        wrong = None
        if r["model"] != card.name:
            wrong = f"it is {r['model']}, not {card.name}"
        elif r["card_sha256"] != card_sha256(card):
            wrong = "the model's card has changed since"
        elif r["commit"] != environment.commit() or r["versions"].get("hmrbench") != environment.versions()["hmrbench"]:
            here, there = environment.commit() or environment.versions()["hmrbench"], r["commit"] or "a release"
            wrong = f"it was exported at {there[:12]}, this is {here[:12]}"
        elif not weights and r["weights_sha256"] is None and not timed:
            raise UsageError(f"{self.path} holds untrained weights: --weights random says that this is meant")
        elif weights and r["weights_sha256"] != sha256:
            wrong = f"it holds the weights {r['weights']} ({str(r['weights_sha256'])[:12]}), not {weights}"
        if wrong is not None:
            raise UsageError(f"{self.path}: {wrong}; export it again: {self._command(card.name, weights)}")

    def _command(self, model: str, weights: str) -> str:
        """How to export a model in the way in which this file was."""
        r = self.record
        args = [model, "--runtime", r["runtime"], "--dtype", r["dtype"], "-o", self.path]
        if r["batch_size"] != 1:
            args += ["--batch-size", r["batch_size"] or "dynamic"]
        if r["calibration"]:
            args += ["--calibrate", r["calibration"]["dataset"], "--calibration-crops", r["calibration"]["crops"]]
        if r["search"]:
            args += ["--max-drop", f"{r['search']['score']}={r['search']['bound']:g}"]
        return shlex.join(["hmrbench", "export", *map(str, args), "--weights", str(weights or r["weights"])])

    def check_scored(self, people: Dataset) -> None:
        """Refuse to score a file on the people that it was calibrated on (UsageError)."""
        calibration = self.record.get("calibration")
        if calibration and calibration["annotations_sha256"] == people.annotations_sha256:
            raise UsageError(
                f"{self.path} was calibrated on {calibration['dataset']}, which cannot score it as well: "
                "calibrate on another data set (hmrbench export ... --calibrate DATASET)"
            )


def record_path(path: Path) -> Path:
    """Where the JSON of an exported file lies."""
    return Path(f"{path}.json")


# What a card says that decides a network's numbers.
_DECIDING = (
    "name", "task", "encoder", "build", "stages", "options", "neck", "head", "input", "crop", "codec", "decode",
    "skeleton",
)  # fmt: skip


def card_sha256(card: ModelCard) -> str:
    """What changes when a card does that decides a network's numbers."""
    text = json.dumps({k: v for k, v in card.model_dump(mode="json").items() if k in _DECIDING}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_exported(path: Path, runtime: Runtime | None = None) -> Exported:
    """A file that `export` wrote.

    Raises:
        DataError: it, or the JSON beside it, is missing, broken, or of another file.
    """
    beside = record_path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file of an exported network")
    if not beside.is_file():
        raise DataError(f"{path}: {beside.name} is not beside it, which says whose network it is (`hmrbench export`)")
    record = files.read_json(beside, "record of an exported network")
    kinds = {"model": str, "runtime": str, "dtype": str, "card_sha256": str, "files": dict, "versions": dict}
    known = isinstance(record, dict) and record.get("kind") == "export" and "form" in record
    if not known or any(not isinstance(record.get(k), kind) for k, kind in kinds.items()):
        raise DataError(f"{beside}: not the record of an exported network")
    for key in ("weights", "weights_sha256", "commit", "batch_size", "calibration", "search"):
        record.setdefault(key, None)
    if record.get("schema") != SCHEMA:
        raise DataError(f"{beside}: of another version (schema {record.get('schema')}, this one reads {SCHEMA})")
    for name, sha256 in record["files"].items():
        part = path.parent / name
        if Path(name).name != name or not part.is_file() or file_sha256(part) != sha256:
            raise DataError(f"{part}: missing, or not as `hmrbench export` wrote it")
    if path.name not in record["files"]:
        raise DataError(f"{beside}: says nothing of {path.name}")
    return Exported(path, record, runtime or find_runtime(record["runtime"]))


def choose(card: ModelCard, asked: str | None) -> tuple[Runtime, Exported | None]:
    """What runs a card's network: by name, import path, or a file that is to be run; None for its own, or PyTorch.

    Raises:
        UsageError: there is no such runtime, or the card's network runs on another alone.
        DataError: the file cannot be used.
    """
    if card.runtime is not None:
        own = find_runtime(card.runtime)
        if asked not in (None, card.runtime, own.name):
            raise UsageError(f"{card.name} runs on {own.name} alone, not on {asked}")
        return own, None
    return (known_runtimes()["pytorch"], None) if asked is None else find(asked)


def find(asked: str) -> tuple[Runtime, Exported | None]:
    """The runtime that a name or an import path means, or that of a file with the file.

    Raises:
        UsageError: there is no such runtime.
        DataError: the file cannot be used.
    """
    if os.sep in asked or Path(asked).suffix in {r.suffix for r in known_runtimes().values() if r.suffix}:
        found = read_exported(Path(asked))
        return found.runtime, found
    return find_runtime(asked), None
