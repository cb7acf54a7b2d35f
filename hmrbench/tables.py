"""Results -> tables: one row per model, published numbers in columns of their own; csv, markdown, latex, json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hmrbench.errors import DataError
from hmrbench.results import Run
from hmrbench.schema import ModelCard

# What a row must say to be honest, in the order shown; what all rows share stands once, below the table.
PROTOCOL = ("dataset", "boxes", "flip", "codec", "weights", "dtype", "device", "batch_size", "samples", "partial")
_SHOWN = ("AP", "AP50", "AP75", "APM", "APL", "AR", "Phi_P_2D", "PCK@0.05", "PCK@0.1", "MPJPE", "PA-MPJPE", "PVE")
_SUMMARY = ("AP", "AP50", "AP75", "AR", "MPJPE", "PA-MPJPE", "PCK@0.05", "PCK@0.1")
_IN_WORDS = {"flip": ("no flip test", "flip test"), "partial": ("", "PARTIAL (--limit)")}


@dataclass(frozen=True)
class View:
    """A table for a person: column names, cells, and a line that holds for all rows."""

    columns: Sequence[str]
    cells: Sequence[Sequence[Any]]
    caption: str


def evaluation_view(rows: Sequence[Mapping[str, Any]]) -> View:
    """Rows of `eval`, narrow enough for a terminal: what differs in columns, what is shared in the caption."""
    flat = [{**r, **r["metrics"]} for r in rows]
    return _view(flat, [m for m in _SHOWN if any(m in r["metrics"] for r in rows)][:8])


def table_view(frame: pd.DataFrame) -> View:
    """The gathered table, narrow enough for a terminal."""
    published = [c for c in frame if str(c).startswith("published:")]
    return _view(to_rows(frame), [*[m for m in _SUMMARY if m in frame], *published])


def _view(rows: Sequence[Mapping[str, Any]], numbers: Sequence[str]) -> View:
    differ = [k for k in PROTOCOL if len({str(r[k]) for r in rows}) > 1]
    columns = ["model", *differ, *numbers]
    caption = ", ".join(filter(None, (_word(k, rows[0][k]) for k in PROTOCOL if k not in differ)))
    titles = [c.replace("published:", "publ. ") for c in columns]
    return View(titles, [[r.get(c) for c in columns] for r in rows], caption)


def _word(key: str, value: Any) -> str:
    if key in _IN_WORDS:
        return _IN_WORDS[key][bool(value)]
    if key in ("boxes", "samples"):
        return f"{value:,} samples" if key == "samples" else f"{value} boxes"
    if key in ("weights", "batch_size"):
        return f"{key.replace('_', ' ')} {value}"
    return str(value)


def gather(runs: Sequence[Run], cards: Mapping[str, ModelCard]) -> pd.DataFrame:
    """One row per model and protocol, of its newest run: protocol, measured scores, and `published:` columns.

    Raises:
        DataError: there are no runs.
    """
    if not runs:
        raise DataError("no runs here yet: `hmrbench eval` leaves them, `--runs` says where")
    rows = {}
    for run in runs:
        if run.kind not in ("eval", "score"):
            continue
        row = dict(run.row)
        card = cards.get(row["model"])
        identity = {k: row[k] for k in PROTOCOL}
        measured = {m: row["metrics"][m] for m in _SHOWN if m in row["metrics"]}
        published = {} if card is None else published_numbers(card, row["dataset"])
        rows[(row["model"], *map(str, identity.values()))] = {"model": row["model"], **identity, **measured, **published}
    frame = pd.DataFrame(list(rows.values()))
    front = [c for c in frame if not str(c).startswith("published:")]
    return frame[[*front, *(c for c in frame if c not in front)]]


def published_numbers(card: ModelCard, dataset: str) -> dict[str, float]:
    """What others reported of a model on a data set, by `published:METRIC`; never mixed with measured columns."""
    return {f"published:{p.metric}": p.value for p in card.published if p.dataset == dataset}


def to_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The table as a list of objects; a cell without a value is None."""
    return [{k: None if pd.isna(v) else v for k, v in row.items()} for row in frame.to_dict("records")]  # type: ignore[misc]


def render(frame: pd.DataFrame, format: str) -> str:
    """The table as csv, markdown, latex (booktabs) or plain text."""
    if format == "csv":
        return frame.to_csv(index=False)
    if format == "markdown":
        return frame.to_markdown(index=False, floatfmt=".2f") + "\n"
    if format == "latex":
        return frame.to_latex(index=False, float_format="%.2f", escape=True, na_rep="--")
    return frame.to_string(index=False) + "\n"
