"""Run records: whole or not at all, versioned, read back as written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from hmrbench import files
from hmrbench.errors import DataError, HmrbenchError
from hmrbench.records import EvalResult, Prediction
from hmrbench.results import runs as results

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
    [
        ("{", "run is not readable JSON"),
        ("[]", "not a run"),
        ('{"schema": 1}', "not a run"),
        ('{"schema": 99}', "newer hmrbench"),
    ],
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


def whole_row(**change: object) -> dict[str, object]:
    row = EvalResult("m", "hpe", "d", "random", None, "gt", True, "udp", "64x48", "cpu", "fp32", 8, 3, False,
                     {"AP": 12.5}, {}, None).row()  # fmt: skip
    return {**row, **change}


def test_a_row_of_another_version_is_read(tmp_path: Path) -> None:
    old = {k: v for k, v in whole_row().items() if k not in ("annotations_sha256", "units", "remarks", "codec")}
    run = results.load_run(results.save(tmp_path, "eval", old, "a" * 12))
    assert (run.row["annotations_sha256"], run.row["units"], run.row["codec"]) == ("", {}, None)
    newer = results.load_run(results.save(tmp_path, "eval", whole_row(humidity=0.4), "b" * 12))
    assert newer.row["humidity"] == 0.4
    result = EvalResult.from_row(newer.row)
    assert (result.model, result.metrics) == ("m", {"AP": 12.5})
    profiled = results.load_run(results.save(tmp_path, "profile", {"model": "m", "macs": 5}, "c" * 12))
    assert (profiled.row["status"], profiled.row["latency_ms"]) == ("ok", None)


def test_a_score_that_does_not_exist_is_left_out(tmp_path: Path) -> None:
    path = results.save(tmp_path, "eval", whole_row(metrics={"AP": 1.0, "AR": float("nan")}), "a" * 12)
    assert results.load_run(path).row["metrics"] == {"AP": 1.0}


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": None}, {"metrics": {"AP": "high"}}, {"metrics": [1]}, {"model": None}, {"model": 7},
        {"samples": "many"}, {"partial": "no"}, {"boxes": ["gt"]}, {"hardware": "a GPU"},
    ],
)  # fmt: skip
def test_a_foreign_row_is_passed_over_with_a_warning_that_names_it(
    tmp_path: Path, change: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    good = results.save(tmp_path, "eval", whole_row(), "a" * 12)
    bad = results.save(tmp_path, "eval", whole_row(**change), "b" * 12)
    with pytest.raises(DataError, match="not a run of hmrbench"):
        results.load_run(bad)
    assert [r.path for r in results.load_runs(tmp_path)] == [good]
    assert f"{bad}: not a run of hmrbench" in caplog.text
    assert "passed over" in caplog.text


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '"eval"', '{"schema": 99}', '{"schema": "1"}', "[" * 100_000, "\x00\xff"]
)
def test_a_damaged_record_stops_nothing(tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture) -> None:
    good = results.save(tmp_path, "eval", whole_row(), "a" * 12)
    newest = tmp_path / f"eval-z-{'a' * 12}.json"
    newest.write_text(content)
    (tmp_path / f"eval-folder-{'b' * 12}.json").mkdir()
    assert [r.path for r in results.load_runs(tmp_path)] == [good]
    found = results.finished(tmp_path, "eval", "a" * 12)
    assert found is not None
    assert found.path == good
    assert newest.name in caplog.text
    assert "eval-folder" in caplog.text


def test_a_run_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(results, "write_json", fail)
    with pytest.raises(OSError, match="No space"):
        results.save(tmp_path, "eval", ROW, "abc", {"scores": np.arange(3.0)})
    assert os.listdir(tmp_path) == []


def test_whether_a_file_can_be_written_is_tried_and_leaves_nothing(tmp_path: Path) -> None:
    results.try_writing(tmp_path / "new" / "x.json")
    assert os.listdir(tmp_path / "new") == []
    (tmp_path / "file").touch()
    for path, words in (
        (tmp_path / "file" / "x.json", "Not a directory"),
        (tmp_path / "new", "Is a directory"),
        (tmp_path / ("x" * 300), "too long"),
    ):
        with pytest.raises(HmrbenchError, match=f"cannot be written: .*{words}"):
            results.try_writing(path)


def test_a_damaged_part_of_an_unfinished_run_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = results.PartialRun(tmp_path / "p")
    one = Prediction(np.zeros((17, 2)), np.ones(17))
    store.add(np.array([3]), [one])
    for name, content in (("000001-0", b"PK\x03\x04 cut"), ("000002-0", b"")):
        (store.folder / f"{name}.npz").write_bytes(content)
    np.savez(store.folder / "000003-0.npz", index=np.array([1]))
    files.write_arrays(store.folder / "000004-0.npz", {"index": np.array([1, 2]), **results.stack([one])})
    assert [index.tolist() for index, _ in store.load()] == [[3]]
    assert store.count() == 1
    for number in range(1, 5):
        assert f"00000{number}-0.npz" in caplog.text
