"""Runs -> tables: accuracy and cost of a model in one row, what truncation changes, published numbers apart.

`gather` joins; `hmrbench.formats` writes. Keys of a row: what names it (`model`, `task`, `weights`, ...),
scores as `DATASET:METRIC`, composites (`Phi_P_2D`), costs as in a row of `profile`, numbers that others
reported of the same model as `published:DATASET:METRIC`, and what changes against another cut as `change:KEY`
(percent) and `difference:KEY` (in the score's own unit). A value that does not exist is None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hmrbench.cards import family_order, load_cards
from hmrbench.errors import DataError, unknown_name
from hmrbench.metrics import phi
from hmrbench.metrics.measures import COMPOSITES, COUNTS, SPEEDS, measure_of
from hmrbench.records import NO_BOXES
from hmrbench.report.accuracy import join_accuracy
from hmrbench.report.changes import add_changes
from hmrbench.report.costs import Speed, join_costs, join_runtimes
from hmrbench.report.references import Reference, load_references
from hmrbench.report.views import Row, set_name
from hmrbench.results.runs import Run
from hmrbench.schema import ModelCard

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Table:
    """One row per model and protocol; all rows have the same keys.

    `notes` say of what kind the speeds are, `mean_changes` what changes against a cut, for each task, `sources` where
    published rows stand.
    """

    rows: Sequence[Row]
    notes: Sequence[str] = ()
    mean_changes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sources: Sequence[str] = ()

    @property
    def changes(self) -> list[str]:
        """The mean changes of all tasks."""
        return [text for texts in self.mean_changes.values() for text in texts]

    def columns(self) -> list[str]:
        """All keys, in the order of their first row."""
        return list(dict.fromkeys(k for row in self.rows for k in row))

    def numbers(self) -> list[str]:
        """The keys under which some row has a number."""
        return [k for k in self.columns() if any(_is_number(row.get(k)) for row in self.rows)]

    def find_numbers(self, names: Sequence[str]) -> list[str]:
        """The keys of numbers that names mean: a whole key, or its last part (`AP`), whatever the case.

        Raises:
            UsageError: no row has such a number; lists the nearest.
        """
        known = self.numbers()
        found: dict[str, None] = {}
        for name in names:
            keys = [k for k in known if name.lower() in (k.lower(), k.lower().rpartition(":")[2])]
            if not keys:
                raise unknown_name("score", name, {k.rpartition(":")[2] for k in known} | set(known))
            found |= dict.fromkeys(keys)
        return [k for k in known if k in found]

    def flat(self, metrics: Sequence[str] = ()) -> list[dict[str, Any]]:
        """The rows with one value in each cell: what a row counts per data set has a key for each, `samples:coco-val`.

        Args:
            metrics: the numbers wanted (see `find_numbers`); all if none.
        """
        dropped = set(self.numbers()) - set(self.find_numbers(metrics)) if metrics else set()
        rows: list[dict[str, Any]] = []
        for row in self.rows:
            rows.append({})
            for key, value in row.items():
                if isinstance(value, Mapping):
                    rows[-1] |= {f"{key}:{inner}": v for inner, v in value.items()}
                elif key not in dropped:
                    rows[-1][key] = value
        nested = {key for row in self.rows for key, value in row.items() if isinstance(value, Mapping)}
        keys = dict.fromkeys(k for row in rows for k in row if k not in nested)
        return [{k: row.get(k) for k in keys} for row in rows]

    def frame(self, metrics: Sequence[str] = ()) -> pd.DataFrame:
        """The rows of `flat` as a pandas table of nullable columns; what holds for all of them is in its `attrs`."""
        import pandas as pd

        from hmrbench.results.frame import typed

        rows = self.flat(metrics)
        frame: pd.DataFrame = pd.DataFrame({key: typed([row[key] for row in rows]) for key in rows[0]})
        named = [m for m in COMPOSITES if any(key.rpartition(":")[2] == m for key in rows[0])]
        frame.attrs = {
            "notes": list(self.notes),
            "changes": self.changes,
            "sources": list(self.sources),
            "definitions": {m: phi.DEFINITIONS[m] for m in named},
        }
        return frame

    def tasks(self) -> list[str]:
        """The tasks that have rows, pose first."""
        return sorted({r["task"] for r in self.rows}, reverse=True)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def gather(
    runs: Sequence[Run],
    cards: Mapping[str, ModelCard],
    *,
    patterns: Sequence[str] = (),
    references: Sequence[Reference] = (),
    against: str | None = None,
    speed: Speed | None = None,
    by_runtime: bool = False,
    task: str | None = None,
) -> Table:
    """Join the newest runs of each model: accuracy by data set, composites, parameters, MACs and speed.

    Args:
        patterns: names or globs of the models wanted; all if none.
        references: published rows to put below, marked by `kind` = "published".
        against: a cut such as "S4"; adds what the other cuts of the same family and size change against it.
        by_runtime: a row for each runtime and type of a model, with the accuracy and the speed of each.
        task: hpe or hmr: the models for it alone.

    Raises:
        DataError: there is nothing to show.
        UsageError: no such cut, or no speed of the kind asked for.
    """
    wanted = [r for r in runs if _is_wanted(r.row["model"], patterns) and task in (None, _task_of(r.row, cards))]
    accuracy = join_accuracy(wanted)
    costs, notes = join_costs(wanted, Speed() if by_runtime else speed or Speed())
    if by_runtime:
        accuracy, costs, notes = _by_runtime(accuracy, costs, wanted, speed or Speed())
    models = list(dict.fromkeys([*(row["model"] for row in accuracy), *costs]))
    rows = []
    for model in sorted(models, key=lambda m: (m not in cards, family_order(cards[m]) if m in cards else (m, 0, 0))):
        own = [row for row in accuracy if row["model"] == model] or [{"model": model}]
        rows += [{**_names(model, cards), **row, **costs.get(model, {}), **_published(cards.get(model))} for row in own]
    rows = [r | {"task": r.get("task") or _task(r)} for r in rows]
    rows.sort(key=lambda r: r["task"], reverse=True)
    changes: dict[str, list[str]] = {}
    if against is not None:
        rows, changes = add_changes(rows, against)
    chosen = [r for r in references if _is_wanted(r.model, patterns) and task in (None, r.task)]
    shown = _each_once(chosen, models)
    rows += [r.row() for r in shown]
    if not rows:
        raise DataError("no runs here yet: `hmrbench eval` and `hmrbench profile` leave them, `--runs` says where")
    return Table(_same_keys(rows), tuple(notes), changes, tuple(dict.fromkeys(r.full_source() for r in shown)))


def _by_runtime(
    accuracy: Sequence[dict[str, Any]], costs: Mapping[str, Mapping[str, Any]], runs: Sequence[Run], speed: Speed
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]], list[str]]:
    """Rows of accuracy with the speed of their runtime and type, also of those that have no accuracy; the counts."""
    speeds, notes = join_runtimes(runs, speed)
    rows = [{**row, **speeds.get((row["model"], row["runtime"], row["dtype"]), {})} for row in accuracy]
    known = {(row["model"], row["runtime"], row["dtype"]) for row in rows}
    rows += [{"model": key[0], **found} for key, found in speeds.items() if key not in known]
    rows.sort(key=lambda r: (r.get("latency_ms") is None, r.get("latency_ms") or 0))
    told = (*COUNTS, "task", "input")
    return rows, {m: {k: v for k, v in cost.items() if k in told} for m, cost in costs.items()}, notes


def make_table(
    results: pd.DataFrame | str | Path,
    against: str | None = None,
    published: bool = False,
    *,
    models_dirs: Sequence[str | Path] = (),
) -> pd.DataFrame:
    """The newest runs of each model side by side: one row a model and protocol, as `hmrbench table` joins them.

    Columns are a MultiIndex of data set and metric. What names a row, composites and costs have "" for a data set;
    what others published of a model is `published:DATASET`, and against a cut `change:DATASET` (percent) and
    `difference:DATASET` (in the score's own unit) say what changes.

    `attrs` hold lists of `notes` (which speed is shown), `changes` (mean changes against the cut) and `sources` (of
    published rows), and `definitions` of composites by name.

    Args:
        results: a folder of runs, or a table of `hmrbench.load_results`: its rows say which runs take part, and their
            records are read again.
        against: a cut such as "S4".
        published: add rows that others published, marked by `kind` = "published".
        models_dirs: folders of more model cards.

    Raises:
        DataError: no such folder, no runs, or a record is no longer there.
        UsageError: no such cut, or a table that is not of `load_results`.
    """
    import pandas as pd

    from hmrbench.results.frame import runs_of

    references = load_references() if published else ()
    frame = gather(runs_of(results), load_cards(models_dirs), references=references, against=against).frame()
    frame.columns = pd.MultiIndex.from_tuples(_places(list(frame.columns)), names=["data set", "metric"])
    return frame


def _places(keys: Sequence[str]) -> list[tuple[str, str]]:
    """Data set and metric of each key; the count of samples stands with the scores, unless one of them is so called."""
    places = []
    for key in keys:
        dataset = key.removeprefix("samples:")
        counted = dataset != key and f"{dataset}:samples" not in keys
        head, _, last = key.rpartition(":")
        places.append((dataset, "samples") if counted else (head, last))
    return places


def _each_once(references: Sequence[Reference], measured: Sequence[str]) -> list[Reference]:
    """Published rows without the networks that were measured, and each other network as first reported only."""
    known, found = set(measured), []
    for reference in references:
        if reference.card is None or reference.card not in known:
            found.append(reference)
        known |= {reference.card} if reference.card else set()
    return found


def _is_wanted(model: str, patterns: Sequence[str]) -> bool:
    """Whether a name or glob among the patterns, if there are any, means this model; case does not matter."""
    name = model.lower()
    return not patterns or any(p.lower() == name or fnmatchcase(name, p.lower()) for p in patterns)


def _names(model: str, cards: Mapping[str, ModelCard]) -> dict[str, Any]:
    card = cards.get(model)
    if card is None:
        return {"model": model, "kind": "measured"}
    names = {
        "model": model,
        "kind": "measured",
        "paper_name": card.paper_name,
        "task": card.task,
        "family": card.family,
    }
    # Ours are called by family and size, others by whatever their file or their card says.
    encoder = card.encoder or card.family
    backbone = encoder.rpartition(":")[2] if card.foreign or ":" in encoder else encoder.partition("-")[0]
    sisters = {c.stages for c in cards.values() if (c.family, c.size) == (card.family, card.size)}
    cut = f"S{card.stages}" if card.stages and len(sisters) > 1 else None
    return {**names, "backbone": backbone, "size": card.size, "cut": cut, "input": card.input_text}


def _task_of(row: Row, cards: Mapping[str, ModelCard]) -> str | None:
    """The task of a run's row; one of `profile` does not say it, its card does."""
    card = cards.get(row["model"])
    return row.get("task") or (card.task if card is not None else None)


def _task(row: Row) -> str:
    """The task of a model without a card, by what was measured."""
    return "hmr" if any(measure_of(k).unit == "mm" for k in row) else "hpe"


def _same_keys(rows: Sequence[Row]) -> tuple[Row, ...]:
    keys = dict.fromkeys(k for row in rows for k in row)
    order = sorted(keys, key=lambda k: (_section(k), list(keys).index(k)))
    return tuple({k: row.get(k) for k in order} for row in rows)


def _section(key: str) -> int:
    """Names first, then scores, composites, costs, published numbers, changes."""
    later = {"published:": 6, "change:": 7, "difference:published:": 9, "difference:": 8}
    for prefix, section in later.items():
        if key.startswith(prefix):
            return section
    if ":" in key:
        return 2
    if key in COMPOSITES or key == "definitions":
        return 3
    return 4 if key in COUNTS else 5 if key in (*SPEEDS, "spread", "stable", "speed") else 1


def _published(card: ModelCard | None) -> dict[str, Any]:
    """What others reported of a model, by `published:DATASET:METRIC`; never mixed with measured columns."""
    numbers = () if card is None else card.headline
    boxes = NO_BOXES if card is not None and card.crop.kind == "bottom-up" else None
    found: dict[str, Any] = {f"published:{set_name(p.dataset, boxes)}:{p.metric}": p.value for p in numbers}
    return found | ({"published:source": "; ".join(dict.fromkeys(p.source for p in numbers))} if numbers else {})
