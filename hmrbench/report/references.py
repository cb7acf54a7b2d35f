"""Rows that others published, read from published.yaml: numbers with their sources, never mixed with measured ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hmrbench.report.views import set_name
from hmrbench.schema.faults import describe_fault, refuse
from hmrbench.schema.reading import read_yaml, share_dir


class Reference(BaseModel):
    """A row that somebody else reported: scores by data set and metric, millions of parameters, 10^9 MACs.

    `card` names the model here that is the same network.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    card: str | None = None
    task: Literal["hpe", "hmr"]
    source: str = ""
    metrics: dict[str, dict[str, float]]
    input: str | None = None
    boxes: str | None = None
    params_m: float | None = None
    gmacs: float | None = None
    note: str | None = None

    def full_source(self) -> str:
        """Where it stands, with the remark on it."""
        return self.source + (f" ({self.note})" if self.note else "")

    def row(self) -> dict[str, Any]:
        """As a row of the joined table, marked by `kind` = "published"."""
        row: dict[str, Any] = {"model": self.model, "kind": "published", "paper_name": self.model}
        row |= {
            "task": self.task,
            "input": self.input,
            "boxes": self.boxes,
            "source": self.full_source(),
        }
        for dataset, scores in self.metrics.items():
            label = set_name(dataset, self.boxes)
            row |= {f"{label}:{metric}": value for metric, value in scores.items()}
        if self.params_m is not None:
            row["params"] = round(self.params_m * 1e6)
        if self.gmacs is not None:
            row["macs"] = round(self.gmacs * 1e9)
        return row


def load_references(path: Path | None = None) -> list[Reference]:
    """The published rows that ship with this package, or those of another file of its form.

    Raises:
        UsageError: the file is missing or says something that no such row has; names the entry.
    """
    path = path or share_dir() / "published.yaml"
    found, faults = [], []
    sources = read_yaml(path).get("sources") or ()
    for source in sources if isinstance(sources, Sequence) else [sources]:
        rows = source.get("rows") if isinstance(source, Mapping) else None
        if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
            faults.append("each of 'sources' needs 'rows', a list of rows that map names to numbers")
            continue
        shared = {k: v for k, v in source.items() if k != "rows"}
        for row in rows:
            try:
                found.append(Reference(**{**shared, **row}))
            except ValidationError as e:
                faults += [f"'{row.get('model')}' {describe_fault(Reference, fault)}" for fault in e.errors()]
    refuse(path, faults)
    return found
