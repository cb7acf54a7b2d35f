"""Run records on disk: one versioned JSON per run, whole or not at all, with the environment that made it.

A run is `<runs>/<kind>-<model>-<dataset>-<time>-<key>.json`, beside it an `.npz` of per-sample numbers where there are
any. What a run has finished before it ends lies in `<runs>/.partial/<key>/` and is what `--resume` continues from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from hmrbench import environment
from hmrbench.errors import DataError
from hmrbench.files import plain, write_arrays, write_json
from hmrbench.records import Array, Prediction

SCHEMA = 1
# Times are compared only where all of these agree.
SPEED_SETTING = (
    "device",
    "dtype",
    "batch_size",
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
        """The per-sample numbers beside the run; empty where there are none."""
        path = self.path.with_suffix(".npz")
        if not path.is_file():
            return {}
        with np.load(path, allow_pickle=False) as content:
            return {k: content[k] for k in content.files}


def save(runs: Path, kind: str, row: Mapping[str, Any], key: str, arrays: Mapping[str, Array] | None = None) -> Path:
    """Write one run; its file's name tells what it is. Returns the path of the JSON."""
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
    if arrays:
        write_arrays(runs / f"{stem}.npz", arrays)
    path = runs / f"{stem}.json"
    write_json(path, content)
    return path


def load_run(path: Path) -> Run:
    """One run from its file.

    Raises:
        DataError: missing, not a run, or written by a newer version.
    """
    try:
        content = json.loads(path.read_bytes())
        if content["schema"] > SCHEMA:
            raise DataError(
                f"{path}: written by a newer hmrbench (schema {content['schema']}, this one reads {SCHEMA})"
            )
        return Run(path, content["kind"], content["key"], content["created"], content["row"], content["environment"])
    except FileNotFoundError:
        raise DataError(f"{path}: no such run") from None
    except (ValueError, KeyError, TypeError, OSError) as e:
        raise DataError(f"{path}: not a run of hmrbench ({e!r})") from e


def load_runs(runs: Path, kind: str | None = None) -> list[Run]:
    """All runs of a folder, oldest first; of one kind if given. Files whose names do not end in a key are no runs."""
    found = [load_run(p) for p in sorted(runs.glob(f"*-{'[0-9a-f]' * 12}.json"))] if runs.is_dir() else []
    return sorted((r for r in found if kind in (None, r.kind)), key=lambda r: (r.created, r.path.name))


def finished(runs: Path, kind: str, key: str) -> Run | None:
    """The newest finished run with this key."""
    paths = sorted(runs.glob(f"{kind}-*-{key}.json")) if runs.is_dir() else []
    return load_run(paths[-1]) if paths else None


# --------------------------------------------------------------------------- predictions


def stack(predictions: Sequence[Prediction]) -> dict[str, Array]:
    """Predictions as arrays, one row each: keypoints_px, scores, crop_area_px2, joints_m, params.NAME."""
    arrays = {
        "keypoints_px": np.stack([p.keypoints_px for p in predictions]),
        "scores": np.stack([p.scores for p in predictions]),
        "crop_area_px2": np.array([p.crop_area_px2 for p in predictions], np.float64),  # NaN where not known
    }
    if predictions[0].joints_m is not None:
        arrays["joints_m"] = np.stack([p.joints_m for p in predictions])  # type: ignore[misc]
    for name in predictions[0].params:
        arrays[f"params.{name}"] = np.stack([p.params[name] for p in predictions])
    return arrays


def unstack(arrays: Mapping[str, Array]) -> list[Prediction]:
    """The inverse of `stack`."""
    params = {k.removeprefix("params."): v for k, v in arrays.items() if k.startswith("params.")}
    joints = arrays.get("joints_m")
    return [
        Prediction(
            arrays["keypoints_px"][i],
            arrays["scores"][i],
            None if joints is None else joints[i],
            {k: v[i] for k, v in params.items()},
            None if np.isnan(area := float(arrays["crop_area_px2"][i])) else area,
        )
        for i in range(len(arrays["scores"]))
    ]


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
        """What was kept, shard by shard."""
        for path in sorted(self.folder.glob("*.npz")) if self.folder.is_dir() else []:
            with np.load(path, allow_pickle=False) as content:
                arrays = {k: content[k] for k in content.files}
            yield arrays.pop("index"), unstack(arrays)

    def discard(self) -> None:
        """Remove it, once the run is finished or begins anew."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                path.unlink()
            self.folder.rmdir()


def speed_setting(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What two runs of `profile` must share for their times to be compared; threads are those of a CPU."""
    on_gpu = bool((row.get("hardware") or {}).get("cuda"))
    return tuple(None if k == "threads" and on_gpu else row.get(k) for k in SPEED_SETTING)
