"""Runs -> tables: accuracy and cost of a model in one row, what truncation changes, published numbers apart.

`gather` joins; `hmrbench.formats` writes. Keys of a row: what names it (`model`, `task`, `weights`, ...),
scores as `DATASET:METRIC`, composites (`Phi_P_2D`), costs as in a row of `profile`, numbers that others
reported of the same model as `published:DATASET:METRIC`, and what changes against another cut as `change:KEY`
(percent) and `difference:KEY` (in the score's own unit). A value that does not exist is None.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from hmrbench.cards import family_order, load_cards
from hmrbench.errors import DataError, UsageError, unknown_name
from hmrbench.metrics import phi
from hmrbench.metrics.measures import COMPOSITES, COUNTS, MEASURES, SPEEDS, TITLES, measure_of
from hmrbench.results.runs import SPEED_SETTING, Run, speed_setting
from hmrbench.schema import ModelCard, describe_fault, read_yaml, refuse, share_dir

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]

_DATASETS = ("coco-val", "lsp-extended", "coco-val-hmr", "posetrack-val", "3dpw-test", "h36m-val-p2")

# --------------------------------------------------------------------------- rows of eval and score

# What a row must say to be honest, in the order shown; what all rows share stands once, below the table.
PROTOCOL = (
    "dataset",
    "boxes",
    "flip",
    "codec",
    "weights",
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


def in_words(key: str, value: Any) -> str:
    """A field of a row for a caption; empty where there is nothing to say."""
    if key in _IN_WORDS and value is not None:
        return _IN_WORDS[key][bool(value)]
    if key in ("boxes", "samples") and value is not None:
        return f"{value:,} samples" if key == "samples" else f"boxes {value}" if " " in value else f"{value} boxes"
    if value is None:
        return ""
    if key in ("weights", "batch_size"):
        return f"{key.replace('_', ' ')} {value}"
    return str(value)


# --------------------------------------------------------------------------- published rows


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Reference(_Checked):
    """A row that somebody else reported: scores by data set and metric, millions of parameters, 10^9 MACs."""

    model: str
    task: Literal["hpe", "hmr"]
    source: str = ""
    metrics: dict[str, dict[str, float]]
    input: str | None = None
    boxes: str | None = None
    params_m: float | None = None
    gmacs: float | None = None
    note: str | None = None


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


# --------------------------------------------------------------------------- the joined table


@dataclass(frozen=True)
class Speed:
    """The speed to show: part of the device's name, type, batch size; None for what most models have."""

    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None


@dataclass(frozen=True)
class Table:
    """One row per model and protocol; all rows have the same keys.

    `notes` say what holds for all rows, `changes` the mean changes against a cut, `sources` where published
    rows stand.
    """

    rows: Sequence[Row]
    notes: Sequence[str] = ()
    changes: Sequence[str] = ()
    sources: Sequence[str] = ()

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
            "changes": list(self.changes),
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
) -> Table:
    """Join the newest runs of each model: accuracy by data set, composites, parameters, MACs and speed.

    Args:
        patterns: names or globs of the models wanted; all if none.
        references: published rows to put below, marked by `kind` = "published".
        against: a cut such as "S4"; adds what the other cuts of the same family and size change against it.

    Raises:
        DataError: there is nothing to show.
        UsageError: no such cut, or no speed of the kind asked for.
    """
    wanted = [r for r in runs if _is_wanted(r.row["model"], patterns)]
    accuracy = _accuracy(wanted)
    costs, notes = _costs(wanted, speed or Speed())
    models = list(dict.fromkeys([*(row["model"] for row in accuracy), *costs]))
    rows = []
    for model in sorted(models, key=lambda m: (m not in cards, family_order(cards[m]) if m in cards else (m, 0, 0))):
        own = [row for row in accuracy if row["model"] == model] or [{"model": model}]
        rows += [{**_names(model, cards), **row, **costs.get(model, {}), **_published(cards.get(model))} for row in own]
    rows = [r | {"task": r.get("task") or _task(r)} for r in rows]
    rows.sort(key=lambda r: r["task"], reverse=True)
    changes: list[str] = []
    if against is not None:
        rows, changes = _changes(rows, against)
    shown = [r for r in references if _is_wanted(r.model, patterns)]
    rows += [_reference_row(r) for r in shown]
    if not rows:
        raise DataError("no runs here yet: `hmrbench eval` and `hmrbench profile` leave them, `--runs` says where")
    return Table(_same_keys(rows), tuple(notes), tuple(changes), tuple(dict.fromkeys(_source(r) for r in shown)))


def make_table(
    results: pd.DataFrame | str | Path,
    against: str | None = None,
    published: bool = False,
    *,
    models_dirs: Sequence[Path] = (),
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
    backbone = (card.encoder or card.family).partition("-")[0]
    sisters = {c.stages for c in cards.values() if (c.family, c.size) == (card.family, card.size)}
    cut = f"S{card.stages}" if card.stages and len(sisters) > 1 else None
    return {**names, "backbone": backbone, "size": card.size, "cut": cut, "input": card.input_text}


def _task(row: Row) -> str:
    """The task of a model without a card, by what was measured."""
    return "hmr" if any(k.endswith(("MPJPE", "PVE")) for k in row) else "hpe"


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


# --- accuracy


def _accuracy(runs: Sequence[Run]) -> list[dict[str, Any]]:
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


def _dataset_labels(rows: Sequence[Row]) -> dict[tuple[str, str, Any], str]:
    """A heading for each set of people measured: numbers of different people never stand in one column."""
    labels = {}
    for row in rows:
        others = {r["annotations_sha256"] for r in rows if r["dataset"] == row["dataset"]}
        label = row["dataset"] + (f" ({row['annotations_sha256'][:8]})" if len(others) > 1 else "")
        labels[_people(row)] = label + (f" (first {row['samples']} only)" if row["partial"] else "")
    return labels


def _people(row: Row) -> tuple[str, str, Any]:
    return row["dataset"], row["annotations_sha256"], row["samples"] if row["partial"] else None


def _joined(group: Sequence[Row], labels: Mapping[tuple[str, str, Any], str]) -> dict[str, Any]:
    first = group[0]
    joined: dict[str, Any] = {
        k: first[k] for k in ("model", "task", "weights", "weights_sha256", "flip", "codec", "input", "dtype")
    }
    joined["boxes"] = ", ".join(dict.fromkeys(str(r["boxes"]) for r in group))
    joined["samples"] = {labels[_people(r)]: r["samples"] for r in group}
    joined["partial"] = any(r["partial"] for r in group)
    found = {name: value for name in COMPOSITES if (value := phi.phi(name, group)) is not None}
    for row in group:  # a composite of one data set stands with it where it is not that of the whole row
        own = {m: v for m, v in row["metrics"].items() if m not in found or not math.isclose(found[m], v or 0)}
        joined |= {f"{labels[_people(row)]}:{m}": v for m, v in own.items()}
    if found:
        joined |= found | {"definitions": "; ".join(phi.DEFINITIONS[name] for name in found)}
    return joined


def _published(card: ModelCard | None) -> dict[str, Any]:
    """What others reported of a model, by `published:DATASET:METRIC`; never mixed with measured columns."""
    numbers = () if card is None else card.published
    found: dict[str, Any] = {f"published:{p.dataset}:{p.metric}": p.value for p in numbers}
    return found | ({"published:source": "; ".join(dict.fromkeys(p.source for p in numbers))} if numbers else {})


def _reference_row(reference: Reference) -> dict[str, Any]:
    row: dict[str, Any] = {"model": reference.model, "kind": "published", "paper_name": reference.model}
    row |= {
        "task": reference.task,
        "input": reference.input,
        "boxes": reference.boxes,
        "source": _source(reference),
    }
    for dataset, scores in reference.metrics.items():
        row |= {f"{dataset}:{metric}": value for metric, value in scores.items()}
    if reference.params_m is not None:
        row["params"] = round(reference.params_m * 1e6)
    if reference.gmacs is not None:
        row["macs"] = round(reference.gmacs * 1e9)
    return row


def _source(reference: Reference) -> str:
    return reference.source + (f" ({reference.note})" if reference.note else "")


# --- cost


def describe_speed(setting: Sequence[Any]) -> str:
    """A speed's setting in words."""
    device, dtype, batch_size, *rest = setting
    more = [k if v is True else f"{k} {v}" for k, v in zip(SPEED_SETTING[3:], rest, strict=True) if v and v != "model"]
    return ", ".join([f"batch size {batch_size}", str(dtype), *more, str(device)])


def _costs(runs: Sequence[Run], speed: Speed) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Counts of each model's newest profile, and its speed in one setting for all; notes say which."""
    profiles = [r.row for r in runs if r.kind == "profile"]
    costs: dict[str, dict[str, Any]] = {}
    for row in profiles:
        counted = {k: row[k] for k in COUNTS if row.get(k) is not None}
        if counted:
            named = {k: row[k] for k in ("task", "input", "backend") if row.get(k) is not None}
            costs[row["model"]] = costs.get(row["model"], {}) | named | counted
    timed = [r for r in profiles if r.get("latency_ms") is not None]
    chosen = [r for r in timed if _matches(r, speed)]
    if not chosen:
        if speed != Speed():
            known = "; ".join(dict.fromkeys(describe_speed(speed_setting(r)) for r in timed)) or "none"
            raise UsageError(f"no speed of that kind was measured; there is: {known}")
        return costs, []
    models: dict[tuple[Any, ...], set[str]] = {}
    for row in chosen:
        models.setdefault(speed_setting(row), set()).add(row["model"])
    best = max(models, key=lambda s: (len(models[s]), list(models).index(s)))
    newest = {row["model"]: row for row in chosen if speed_setting(row) == best}
    for model, row in newest.items():
        told = {k: row[k] for k in (*SPEEDS, "spread", "stable") if row.get(k) is not None}
        costs.setdefault(model, {}).update(told, speed=describe_speed(best))
    notes = [f"speed: {describe_speed(best)}"]
    unsteady = [model for model, row in newest.items() if row.get("stable") is False]
    if unsteady:
        notes.append(f"speed that varied too much to rely on: {', '.join(unsteady)}")
    backends: dict[str, list[str]] = {}
    for model, row in newest.items():
        if row.get("backend"):
            backends.setdefault(row["backend"], []).append(model)
    notes += [f"speed with backend {name}: {', '.join(own)}" for name, own in backends.items()]
    others = [s for s in dict.fromkeys(speed_setting(r) for r in timed) if s != best]
    if others:
        notes.append("speed also measured: " + "; ".join(f"{describe_speed(s)}" for s in others))
    return costs, notes


def _matches(row: Row, speed: Speed) -> bool:
    return (
        (speed.device is None or speed.device.lower() in str(row["device"]).lower())
        and speed.dtype in (None, row["dtype"])
        and speed.batch_size in (None, row["batch_size"])
    )


# --- against another cut


def _changes(rows: Sequence[dict[str, Any]], against: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows with `change:` and `difference:` against a cut of the same family and size, and the mean changes.

    Costs belong to the model; scores are compared only between rows of the same protocol.
    """
    cut = against.upper()
    if re.fullmatch("S[1-4]", cut) is None:
        raise UsageError(f"a cut is S2, S3 or S4, not '{against}'")
    wholes = [r for r in rows if r.get("cut") == cut]
    if not wholes:
        raise UsageError(f"no run of a model cut at {cut}, against which others could be compared")
    found = []
    for row in rows:
        partners = [w for w in wholes if row.get("cut") not in (None, cut) and _sisters(row) == _sisters(w)]
        alike = [w for w in partners if _alike(row) == _alike(w)]
        costs = _change(row, partners[0], (*COUNTS, *SPEEDS)) if partners else {}
        scores = _change(row, alike[0], [m for m in MEASURES if m not in (*COUNTS, *SPEEDS)]) if len(alike) == 1 else {}
        reported = _change(row, partners[0], [], "published:") if partners else {}
        found.append(row | costs | scores | reported)
    means = []
    for task in dict.fromkeys(r["task"] for r in found):
        for other in sorted({r["cut"] for r in found if r["task"] == task and "against" in r}, reverse=True):
            own = {r["model"]: r for r in found if r["task"] == task and r.get("cut") == other and "against" in r}
            means.append(f"{TITLES.get(task, task)}, {other} against {cut}: {_mean_changes(list(own.values()))}")
    return found, means


def _sisters(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(k) for k in ("task", "family", "size"))


def _alike(row: Row) -> tuple[Any, ...]:
    return (
        *(row.get(k) for k in ("flip", "codec", "input", "dtype", "boxes")),
        row.get("weights") == "random",
    )


def _change(row: Row, whole: Row, names: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """Changes of the measures `names`, or of all numbers whose key has the prefix."""
    changes: dict[str, Any] = {"against": whole["model"]}
    for key, value in row.items():
        name = key.rpartition(":")[2]
        wanted = key.startswith(prefix) if prefix else name in names and not key.startswith("published:")
        if not wanted or not isinstance(value, (int, float)) or not whole.get(key):
            continue
        changes[f"change:{key}"] = 100 * (value / whole[key] - 1)
        if name not in (*COUNTS, *SPEEDS):
            changes[f"difference:{key}"] = value - whole[key]
    return changes


def _mean_changes(rows: Sequence[Row]) -> str:
    words = []
    for key in ("params", "macs", "images_per_s"):
        values = [r[f"change:{key}"] for r in rows if f"change:{key}" in r]
        if values:
            low, high = min(values), max(values)
            span = f" ({low:+.1f} to {high:+.1f})" if len(values) > 1 else ""
            words.append(f"{measure_of(key).heading.partition(' ')[0]} {sum(values) / len(values):+.1f} %{span}")
    return ", ".join(words) + f"; {len(rows)} model{'s' if len(rows) > 1 else ''}"
