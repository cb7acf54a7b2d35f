"""Rows of `eval` and `score` for a terminal: what differs in columns, what all share in a caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hmrbench.metrics.measures import MEASURES
from hmrbench.records import NO_BOXES

NO_BOXES_MARK = " (no boxes)"  # behind the name of a data set of which whole pictures were looked at

Row = Mapping[str, Any]

# What a row must say to be honest, in the order shown; what all rows share stands once, below the table.
PROTOCOL = (
    "dataset",
    "boxes",
    "flip",
    "codec",
    "weights",
    "runtime",
    "dtype",
    "device",
    "batch_size",
    "samples",
    "partial",
)
_EVALUATION = (
    "AP",
    "AP50",
    "AP75",
    "APM",
    "APL",
    "AR",
    "Phi_P_2D",
    "PCK@0.05",
    "PCK@0.1",
    "MPJPE",
    "PA-MPJPE",
    "PVE",
)
_IN_WORDS = {"flip": ("no flip test", "flip test"), "partial": ("", "PARTIAL (--limit)")}


@dataclass(frozen=True)
class View:
    """A table for a person: column names, cells, and a line that holds for all rows."""

    columns: Sequence[str]
    cells: Sequence[Sequence[Any]]
    caption: str


def evaluation_view(rows: Sequence[Row]) -> View:
    """Rows of `eval`, narrow enough for a terminal: what differs in columns, what is shared in a caption."""
    flat = [{**r, **r["metrics"]} for r in rows]
    numbers = [m for m in _EVALUATION if any(m in r["metrics"] for r in rows)][:8]
    numbers += dict.fromkeys(m for r in rows for m in r["metrics"] if m not in MEASURES)  # of other packages
    differ = [k for k in PROTOCOL if len({str(r[k]) for r in rows}) > 1]
    columns = ["model", *differ, *numbers]
    caption = ", ".join(filter(None, (in_words(k, rows[0][k]) for k in PROTOCOL if k not in differ)))
    return View(columns, [[r.get(c) for c in columns] for r in flat], caption)


def set_name(dataset: str, boxes: str | None) -> str:
    """The heading of a data set: who finds the people in whole pictures is not compared with who is given boxes."""
    return dataset + NO_BOXES_MARK if boxes == NO_BOXES else dataset


def in_words(key: str, value: Any) -> str:
    """A field of a row for a caption; empty where there is nothing to say."""
    if key in _IN_WORDS and value is not None:
        return _IN_WORDS[key][bool(value)]
    if (key, value) == ("boxes", NO_BOXES):
        return "whole pictures, no boxes"
    if key in ("boxes", "samples") and value is not None:
        return f"{value:,} samples" if key == "samples" else f"boxes {value}" if " " in value else f"{value} boxes"
    if value is None or (key, value) == ("runtime", "pytorch"):
        return ""
    if key in ("weights", "batch_size"):
        return f"{key.replace('_', ' ')} {value}"
    return str(value)
