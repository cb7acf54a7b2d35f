"""Run records: whole or not at all, versioned, read back as written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from hmrbench import files, results
from hmrbench.errors import DataError
from hmrbench.records import Prediction

ROW = {"model": "m", "dataset": "d", "metrics": {"AP": 12.5}}


def test_a_run_reads_back(tmp_path: Path) -> None:
    path = results.save(tmp_path, "eval", ROW, "abc", {"scores": np.arange(3.0)})
    run = results.load_run(path)
    assert (run.kind, run.key) == ("eval", "abc")
    assert run.row.items() >= ROW.items()
    assert run.arrays()["scores"].tolist() == [0, 1, 2]
    content = json.loads(path.read_text())
    assert content["schema"] == results.SCHEMA
    assert set(content["environment"]["versions"]) >= {"hmrbench", "python", "torch", "pycocotools"}
    assert results.finished(tmp_path, "eval", "abc") == run
    assert results.finished(tmp_path, "eval", "abd") is None
    assert results.load_runs(tmp_path, "profile") == []


def test_what_is_written_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    files.write_atomic(path, b"first")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        files.write_atomic(path, b"second")
    assert path.read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "not a run"), ("[]", "not a run"), ('{"schema": 1}', "not a run"), ('{"schema": 99}', "newer hmrbench")],
)
def test_what_is_no_run_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "eval-x.json"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"eval-x\.json: .*{message}"):
        results.load_run(path)


def test_json_has_no_nan() -> None:
    assert json.loads(files.to_json({"a": float("nan"), "b": np.float32(1.5), "c": [np.int64(2)]})) == {
        "a": None,
        "b": 1.5,
        "c": [2],
    }


def test_keys_differ_where_anything_differs() -> None:
    assert results.run_key({"a": 1, "b": 2}) == results.run_key({"b": 2, "a": 1})
    assert results.run_key({"a": 1}) != results.run_key({"a": 2})


def test_predictions_round_trip_bit_for_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    there = [
        Prediction(rng.random((17, 2)), rng.random(17, np.float32), rng.random((24, 3)), {"betas": rng.random(10)})
        for _ in range(3)
    ]
    store = results.PartialRun(tmp_path / "p")
    store.add(np.array([4, 2]), there[:2])
    store.add(np.array([0]), there[2:])
    back = [(i, p) for index, kept in store.load() for i, p in zip(index.tolist(), kept, strict=True)]
    assert [i for i, _ in back] == [4, 2, 0]
    for (_, found), wanted in zip(back, there, strict=True):
        assert found.keypoints_px.dtype == wanted.keypoints_px.dtype
        np.testing.assert_array_equal(found.keypoints_px, wanted.keypoints_px)
        np.testing.assert_array_equal(found.scores, wanted.scores)
        np.testing.assert_array_equal(found.joints_m, wanted.joints_m)  # type: ignore[arg-type]
        np.testing.assert_array_equal(found.params["betas"], wanted.params["betas"])
    store.discard()
    assert list(store.load()) == []
