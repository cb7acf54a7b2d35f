"""Runs of `eval` and `score` -> one row a model and protocol, of the newest run of each data set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hmrbench.metrics import phi
from hmrbench.metrics.measures import COMPOSITES
from hmrbench.records import NO_BOXES
from hmrbench.report.views import Row, set_name
from hmrbench.results.runs import Run

_DATASETS = ("coco-val", "lsp-extended", "coco-val-hmr", "posetrack-val", "3dpw-test", "h36m-val-p2")


def join_accuracy(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per model and protocol, of the newest run of each data set."""
    newest: dict[tuple[str, ...], Row] = {}
    for run in runs:
        if run.kind in ("eval", "score"):
            row = run.row
            identity = (
                row["dataset"],
                row["annotations_sha256"],
                row["partial"],
                row["samples"] if row["partial"] else "",
            )
            newest[_protocol(row) + tuple(map(str, identity))] = row
    labels = _dataset_labels(list(newest.values()))
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in sorted(newest.values(), key=_dataset_order):
        groups.setdefault(_protocol(row), []).append(row)
    return [_joined(group, labels) for group in groups.values()]


def _protocol(row: Row) -> tuple[str, ...]:
    """What runs on different data sets must share to stand in one row; for pose also where boxes are from."""
    return (*phi.protocol_key(row), str(row["boxes"]) if row["task"] == "hpe" else "")


def _dataset_order(row: Row) -> tuple[int, str, bool]:
    name = row["dataset"]
    return (_DATASETS.index(name) if name in _DATASETS else len(_DATASETS), name, row["partial"])


def _dataset_labels(rows: Sequence[Row]) -> dict[tuple[Any, ...], str]:
    """A heading for each set of people measured: numbers of different people never stand in one column."""
    labels = {}
    for row in rows:
        others = {r["annotations_sha256"] for r in rows if r["dataset"] == row["dataset"]}
        label = set_name(row["dataset"], row["boxes"])
        label += f" ({row['annotations_sha256'][:8]})" if len(others) > 1 else ""
        labels[_people(row)] = label + (f" (first {row['samples']} only)" if row["partial"] else "")
    return labels


def _people(row: Row) -> tuple[Any, ...]:
    whole = row["boxes"] == NO_BOXES
    return row["dataset"], row["annotations_sha256"], whole, row["samples"] if row["partial"] else None


def _joined(group: Sequence[Row], labels: Mapping[tuple[Any, ...], str]) -> dict[str, Any]:
    first = group[0]
    joined: dict[str, Any] = {
        k: first[k] for k in ("model", "task", "weights", "weights_sha256", "flip", "codec", "input", "dtype")
    }
    joined["boxes"] = ", ".join(dict.fromkeys(str(r["boxes"]) for r in group))
    joined["samples"] = {labels[_people(r)]: r["samples"] for r in group}
    joined["partial"] = any(r["partial"] for r in group)
    found = {name: value for name in COMPOSITES if (value := phi.phi(name, group)) is not None}
    found = {} if first["boxes"] == NO_BOXES else found  # beside the scores that it is made of
    for row in group:  # a composite of one data set stands with it where it is not that of the whole row
        own = {m: v for m, v in row["metrics"].items() if m not in found or not math.isclose(found[m], v or 0)}
        joined |= {f"{labels[_people(row)]}:{m}": v for m, v in own.items()}
    if found:
        joined |= found | {"definitions": "; ".join(phi.DEFINITIONS[name] for name in found)}
    return joined
