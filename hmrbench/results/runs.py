"""Run records on disk: one versioned JSON per run, whole or not at all, with the environment that made it.

A run is `<runs>/<kind>-<model>-<dataset>-<time>-<key>.json`, beside it an `.npz` of per-sample numbers where there are
any. What a run has finished before it ends lies in `<runs>/.partial/<key>/` and is what `--resume` continues from.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from pydantic import BaseModel, ValidationError, create_model

from hmrbench import environment
from hmrbench.errors import DataError, HmrbenchError
from hmrbench.files import plain, read_arrays, read_json, write_arrays, write_json
from hmrbench.records import Array, EvalResult, Prediction, ProfileResult, whole_row

_log = logging.getLogger(__name__)

SCHEMA = 1
_DETAILS = {"hardware": Mapping[str, Any], "versions": Mapping[str, Any], "by_module": Mapping[str, Any]}
# What the rows of each kind are, and the fields that such a row cannot be without.
_ROWS: Mapping[str, tuple[type[EvalResult] | type[ProfileResult], tuple[str, ...]]] = {
    "eval": (EvalResult, ("model", "dataset", "metrics")),
    "score": (EvalResult, ("model", "dataset", "metrics")),
    "profile": (ProfileResult, ("model",)),
}
# Times are compared only where all of these agree.
SPEED_SETTING = (
    "device",
    "dtype",
    "batch_size",
    "runtime",
    "scope",
    "compile",
    "channels_last",
    "cuda_graph",
    "threads",
)


# --------------------------------------------------------------------------- runs


def run_key(identity: Mapping[str, Any]) -> str:
    """Twelve hex digits that two runs share only if everything that decides their numbers is the same."""
    text = json.dumps(plain(identity), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class NotWrittenError(HmrbenchError):
    """All is measured, but a file could not be written: the numbers are in `result`."""

    def __init__(self, message: str, result: EvalResult | ProfileResult) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True)
class Run:
    """A finished run read back from its file."""

    path: Path
    kind: str
    key: str
    created: str
    row: Mapping[str, Any]
    environment: Mapping[str, Any]

    def arrays(self) -> dict[str, Array]:
        """The per-sample numbers beside the run; empty where there are none.

        Raises:
            DataError: they cannot be read.
        """
        path = self.path.with_suffix(".npz")
        return read_arrays(path, "file of per-sample numbers") if path.is_file() else {}


def save(runs: Path, kind: str, row: Mapping[str, Any], key: str, arrays: Mapping[str, Array] | None = None) -> Path:
    """Write one run, all of it or nothing; its file's name tells what it is. Returns the path of the JSON."""
    now = datetime.now(timezone.utc)
    name = "-".join(str(row[k]) for k in ("model", "dataset") if row.get(k))
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{kind}-{name}-{now:%Y%m%dT%H%M%S%f}"[:-3]) + f"-{key}"
    content = {
        "schema": SCHEMA,
        "kind": kind,
        "key": key,
        "created": now.isoformat(timespec="seconds"),
        "row": row,
        "environment": environment.current(),
    }
    path = runs / f"{stem}.json"
    try:
        if arrays:
            write_arrays(path.with_suffix(".npz"), arrays)
        write_json(path, content)
    except BaseException:
        if not path.exists():
            path.with_suffix(".npz").unlink(missing_ok=True)
        raise
    return path


def try_writing(path: Path, what: Path | None = None) -> None:
    """Whether a file of this name can be written, its folder made where there is none; leaves no file.

    Args:
        what: what messages name; the path if None.

    Raises:
        HmrbenchError: it cannot; says why.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.parent.is_file():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        os.unlink(part)
    except OSError as e:
        why = f"{e.strerror or e} (tried before anything is computed)"
        raise HmrbenchError(f"{what or path} cannot be written: {why}") from e


def try_runs(runs: Path, key: str) -> None:
    """Whether a run of this key can be written, unfinished and finished.

    Raises:
        HmrbenchError: it cannot; says why.
    """
    try_writing(runs / f"{key}.json", runs)
    part = PartialRun.of(runs, key).folder
    new = not part.exists()
    try_writing(part / "0.npz", part)
    if new:
        part.rmdir()


def load_run(path: Path) -> Run:
    """One run from its file; fields that an older version did not write are empty in its row.

    Raises:
        DataError: missing, not a run, or written by a newer version.
    """
    content = read_json(path, "run")
    try:
        if content["schema"] > SCHEMA:
            raise DataError(
                f"{path}: written by a newer hmrbench (schema {content['schema']}, this one reads {SCHEMA})"
            )
        kind, key, created = (_text(content[name], name) for name in ("kind", "key", "created"))
        environment = content.get("environment")
        return Run(path, kind, key, created, _row(kind, content["row"]), environment if _is_map(environment) else {})
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, ("row", *first["loc"])))
        raise DataError(f"{path}: not a run of hmrbench ({where}: {first['msg']})") from e
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise DataError(f"{path}: not a run of hmrbench ({e!r})") from e


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} is no text")
    return value


def _row(kind: str, row: Any) -> dict[str, Any]:
    """A row as the commands take it: each known field there, and of its type.

    Raises:
        KeyError, TypeError, ValidationError: it is no row.
    """
    if not _is_map(row):
        raise TypeError("row is no object")
    _text(row["model"], "model")
    if kind not in _ROWS:
        return dict(row)
    what, needed = _ROWS[kind]
    for name in needed:
        if row[name] is None:
            raise TypeError(f"row.{name} is null")
    found = whole_row(what, row)
    if _is_map(found.get("metrics")):
        found["metrics"] = {k: v for k, v in found["metrics"].items() if v is not None}  # a score that does not exist
    _types(kind).model_validate({k: v for k, v in found.items() if v is not None and k in row}, strict=True)
    return found


@cache
def _types(kind: str) -> type[BaseModel]:
    """What checks the types of those fields of a row that are there."""
    hints = {**get_type_hints(_ROWS[kind][0]), **_DETAILS}
    fields: dict[str, Any] = {name: (hint, None) for name, hint in hints.items()}
    found: type[BaseModel] = create_model("Row", **fields)
    return found


def load_runs(runs: Path, kind: str | None = None) -> list[Run]:
    """All runs of a folder, oldest first; of one kind if given. Files whose names do not end in a key are no runs.

    A file that cannot be read as a run is passed over, with a warning that names it.
    """
    found = _readable(sorted(runs.glob(f"*-{'[0-9a-f]' * 12}.json")) if runs.is_dir() else [])
    return sorted((r for r in found if kind in (None, r.kind)), key=lambda r: (r.created, r.path.name))


def finished(runs: Path, kind: str, key: str) -> Run | None:
    """The newest finished run with this key that can be read."""
    paths = sorted(runs.glob(f"{kind}-*-{key}.json"), reverse=True) if runs.is_dir() else []
    return next(_readable(paths), None)


def _readable(paths: Sequence[Path]) -> Iterator[Run]:
    for path in paths:
        try:
            yield load_run(path)
        except DataError as e:
            _warn(f"{e}; passed over")


@cache
def _warn(text: str) -> None:
    """Warn, but not twice of the same."""
    _log.warning(text)


# --------------------------------------------------------------------------- predictions


def stack(predictions: Sequence[Prediction]) -> dict[str, Array]:
    """Predictions as arrays, one row each: keypoints_px, scores, crop_area_px2, joints_m, params.NAME.

    For whole pictures keypoints_px, scores and people_scores have a row for each person, and people says how many of
    them each picture has.
    """
    pictures = predictions[0].people_scores is not None
    join = np.concatenate if pictures else np.stack
    arrays = {
        "keypoints_px": join([p.keypoints_px for p in predictions]),
        "scores": join([p.scores for p in predictions]),
        "crop_area_px2": np.array([p.crop_area_px2 for p in predictions], np.float64),  # NaN where not known
    }
    if pictures:
        arrays["people_scores"] = np.concatenate([p.people_scores for p in predictions if p.people_scores is not None])
        arrays["people"] = np.array([len(p.scores) for p in predictions])
    if predictions[0].joints_m is not None:
        arrays["joints_m"] = np.stack([p.joints_m for p in predictions])  # type: ignore[misc]
    for name in predictions[0].params:
        arrays[f"params.{name}"] = np.stack([p.params[name] for p in predictions])
    return arrays


def unstack(arrays: Mapping[str, Array]) -> list[Prediction]:
    """The inverse of `stack`."""
    if "people" in arrays:
        arrays = {**arrays, **_by_picture(arrays)}
    params = {k.removeprefix("params."): v for k, v in arrays.items() if k.startswith("params.")}
    joints = arrays.get("joints_m")
    return [
        Prediction(
            arrays["keypoints_px"][i],
            arrays["scores"][i],
            None if joints is None else joints[i],
            {k: v[i] for k, v in params.items()},
            None if np.isnan(area := float(arrays["crop_area_px2"][i])) else area,
            arrays["people_scores"][i] if "people" in arrays else None,
        )
        for i in range(len(arrays["scores"]))
    ]


def _by_picture(arrays: Mapping[str, Array]) -> dict[str, Any]:
    """The rows of people as one array for each picture; ValueError if there are not as many as the pictures have."""
    of_people = {name: arrays[name] for name in ("keypoints_px", "scores", "people_scores")}
    counts = arrays["people"]
    if counts.dtype.kind not in "iu" or (counts < 0).any() or {len(a) for a in of_people.values()} != {counts.sum()}:
        raise ValueError("the pictures do not have as many people as there are rows")
    return {name: np.split(array, np.cumsum(counts)[:-1]) if len(counts) else [] for name, array in of_people.items()}


@dataclass(frozen=True)
class PartialRun:
    """What an unfinished run has predicted so far: shards of predictions with their places in the data set."""

    folder: Path

    @classmethod
    def of(cls, runs: Path, key: str) -> PartialRun:
        """The partial run of a key."""
        return cls(runs / ".partial" / key)

    def add(self, index: Array, predictions: Sequence[Prediction]) -> None:
        """Keep some predictions; a shard is there whole or not at all."""
        number = len(list(self.folder.glob("*.npz"))) if self.folder.is_dir() else 0
        process = os.environ.get("RANK", "0")  # processes of torchrun write into the same folder
        write_arrays(self.folder / f"{number:06d}-{process}.npz", {"index": index, **stack(predictions)})

    def load(self) -> Iterator[tuple[Array, list[Prediction]]]:
        """What was kept, shard by shard; a shard that cannot be read is passed over, with a warning."""
        for path in sorted(self.folder.glob("*.npz")) if self.folder.is_dir() else []:
            try:
                arrays = read_arrays(path, "part of an unfinished run")
                index = arrays.pop("index")
                kept = unstack(arrays)
                if index.shape != (len(kept),) or index.dtype.kind not in "iu":
                    raise DataError(f"{path}: part of an unfinished run does not say whose predictions it holds")
            except DataError as e:
                _warn(f"{e}; passed over")
            except (KeyError, IndexError, TypeError, ValueError) as e:
                _warn(f"{path}: no part of an unfinished run ({e!r}); passed over")
            else:
                yield index, kept

    def count(self) -> int:
        """How many people's predictions can be read back."""
        return len({i for index, _ in self.load() for i in index.tolist()})

    def discard(self) -> None:
        """Remove it, once the run is finished or begins anew."""
        shutil.rmtree(self.folder, ignore_errors=True)  # what stays is of the same run, and costs only room


def speed_setting(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two runs of `profile` must share for their times to be compared; threads are those of a CPU."""
    on_gpu = bool((row.get("hardware") or {}).get("cuda"))
    return tuple(None if k == "threads" and on_gpu else row.get(k) for k in SPEED_SETTING)
