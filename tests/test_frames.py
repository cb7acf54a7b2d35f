"""Results as pandas tables: one row a run, one row a model, types, parquet, and the page that shows them."""

from __future__ import annotations

import csv
import doctest
import io
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_cli import hmrbench as command
from test_tables import eval_row, gather, profile_row, save

import hmrbench
from hmrbench.errors import DataError, UsageError
from hmrbench.records import EvalResult, ProfileResult
from hmrbench.report import formats, tables
from hmrbench.report.references import load_references
from hmrbench.results import runs as results

HARDWARE = {"hardware": {"gpu": {"name": "GPU A"}, "cuda": None}, "threads": 2}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two evaluations and a profile of one model, an evaluation of another."""
    scored = eval_row(
        "swinpose-s-s3", versions={"torch": "2.9.1"}, protocol={"nms": {"oks": 0.9}}, remarks=["2 left out"],
        units={"AP": "%"}, higher_is_better={"AP": True}, per_joint={"AP": {"nose": 81.25}},
    )  # fmt: skip
    newer = eval_row("swinpose-s-s3", metrics={"AP": 73.1, "AR": 0.1 + 0.2}, samples=1001)
    profiled = [profile_row("swinpose-s-s4"), profile_row("swinpose-s-s3") | HARDWARE]
    return save(tmp_path / "runs", scored, newer, *profiled, eval_row("swinpose-s-s4"))


# --------------------------------------------------------------------------- one row a run


def test_one_row_a_run_oldest_first(runs: Path) -> None:
    frame = hmrbench.load_results(runs)
    assert frame["model"].tolist() == [
        "swinpose-s-s3",
        "swinpose-s-s3",
        "swinpose-s-s4",
        "swinpose-s-s3",
        "swinpose-s-s4",
    ]
    assert frame["kind"].tolist() == ["eval", "eval", "profile", "profile", "eval"]
    assert frame["key"].tolist() == [*(f"{i:012x}" for i in range(4)), "000000000004"]
    assert frame["created"].is_monotonic_increasing
    assert frame["created"][0] == pd.Timestamp("2026-01-01T00:01:00Z")
    assert [results.load_run(Path(p)).key for p in frame["path"]] == frame["key"].tolist()
    assert frame["AP"].dropna().tolist() == [75.0, 73.1, 75.0]
    assert frame["AR"][1] == 0.30000000000000004  # every digit
    assert frame["params"].dropna().tolist() == [r.row["params"] for r in results.load_runs(runs, "profile")]
    assert frame["PCK@0.05"].isna().tolist() == [False, True, True, True, False]


def test_columns_are_typed_whatever_a_folder_holds(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    for folder in (runs, tmp_path / "none", save(tmp_path / "one", profile_row("vitpose-s"))):
        dtypes = hmrbench.load_results(folder).dtypes.astype(str)
        for name, dtype in (
            ("kind", "string"), ("created", "datetime64[us, UTC]"), ("key", "string"), ("path", "string"),
            ("model", "string"), ("weights_sha256", "string"), ("flip", "boolean"), ("partial", "boolean"),
            ("samples", "Int64"), ("macs", "Int64"), ("batch_size", "Int64"), ("latency_ms", "Float64"),
            ("seconds", "Float64"), ("error", "string"),
        ):  # fmt: skip
            assert dtypes[name] == dtype, (folder.name, name)
    dtypes = hmrbench.load_results(runs).dtypes.astype(str)
    assert [dtypes[k] for k in ("AP", "threads", "protocol.nms.oks", "versions.torch")] == [
        "Float64",
        "Int64",
        "Float64",
        "string",
    ]


def test_what_is_nested_is_flat_or_in_attrs(runs: Path) -> None:
    frame = hmrbench.load_results(runs)
    first = Path(frame["path"][0]).name
    assert frame.loc[0, ["protocol.nms.oks", "versions.torch", "remarks"]].tolist() == [0.9, "2.9.1", "2 left out"]
    assert frame.loc[3, ["hardware.gpu.name", "threads"]].tolist() == ["GPU A", 2]
    assert set(frame["environment.versions.hmrbench"]) == {hmrbench.__version__}
    assert frame.attrs["notes"] == [f"{first}: 2 left out"]
    assert (frame.attrs["units"], frame.attrs["higher_is_better"]) == ({"AP": "%"}, {"AP": True})
    assert frame.attrs["per_joint"] == {first: {"AP": {"nose": 81.25}}}
    cells = frame.drop(columns="created").to_dict("records")
    assert not any(isinstance(v, (dict, list)) for row in cells for v in row.values())
    json.dumps(frame.attrs)


def test_no_field_of_a_run_is_lost(runs: Path) -> None:
    frame = hmrbench.load_results(runs)
    nested = {"metrics", "versions", "protocol", "per_joint", "units", "higher_is_better", "details"}
    fields = {*EvalResult.__dataclass_fields__, *ProfileResult.__dataclass_fields__} - nested
    assert fields <= set(frame.columns)
    for run, (_, row) in zip(results.load_runs(runs), frame.iterrows(), strict=True):
        for name, value in run.row.items():
            if isinstance(value, (str, int, float)):
                assert row[name] == value, name


def test_a_score_called_like_a_column_keeps_both(tmp_path: Path) -> None:
    save(tmp_path, eval_row("a", metrics={"AP": 1.0, "samples": 2.5, "key": 3}))
    (row,) = hmrbench.load_results(tmp_path).to_dict("records")
    assert (row["samples"], row["metrics.samples"]) == (1000, 2.5)
    assert (row["key"], row["metrics.key"]) == ("000000000000", 3.0)
    table = hmrbench.make_table(tmp_path)
    assert table.columns.is_unique
    assert (table["coco-val", "samples"][0], table["samples", "coco-val"][0]) == (2.5, 1000)


def test_records_of_other_kinds_and_times_are_read(tmp_path: Path) -> None:
    odd = {"model": "m", "units": "mm", "remarks": 7, "metrics": [1], "samples": "many", "per_joint": [], "kind": "x"}
    save(tmp_path, odd, kind="census")
    for i, created in enumerate(("2026-01-02T10:00:00.25+02:00", "2026-01-02T09:00:00Z", "yesterday")):
        save(tmp_path, eval_row(f"m{i}"))
        (path,) = tmp_path.glob(f"eval-m{i}-*.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"created": created}))
    frame = hmrbench.load_results(tmp_path).set_index("model")
    assert frame.loc["m", ["kind", "row.kind", "samples"]].tolist() == ["census", "x", "many"]
    assert frame.loc["m0", "created"] == pd.Timestamp("2026-01-02T08:00:00.25Z")
    assert frame.loc["m1", "created"] == pd.Timestamp("2026-01-02T09:00:00Z")
    assert pd.isna(frame.loc["m2", "created"])
    assert (frame.attrs["units"], frame.attrs["notes"]) == ({}, [])


@pytest.mark.parametrize(
    ("values", "dtype", "held"),
    [
        ([5, 6], "Int64", [5, 6]),
        ([5, 0.5], "Float64", [5.0, 0.5]),
        ([5, "six"], "string", ["5", "six"]),
        ([True, False], "boolean", [True, False]),
        ([[1, 2], None], "string", ["[1, 2]", pd.NA]),
        ([2**70, 1], "string", [str(2**70), "1"]),
        ([None, None], "string", [pd.NA, pd.NA]),
    ],
)
def test_fields_of_other_versions_have_columns(tmp_path: Path, values: list[Any], dtype: str, held: list[Any]) -> None:
    save(tmp_path, *(profile_row("vitpose-s") | {"humidity": v} for v in values))
    column = hmrbench.load_results(tmp_path)["humidity"]
    assert str(column.dtype) == dtype
    assert [str(v) for v in column] == [str(v) for v in held]


def test_what_is_no_run_is_passed_over_and_no_folder_is_refused(
    runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (runs / f"eval-bad-{'a' * 12}.json").write_text("{")
    assert len(hmrbench.load_results(str(runs))) == 5
    assert "eval-bad" in caplog.text
    for call in (hmrbench.load_results, hmrbench.make_table):
        with pytest.raises(DataError, match="nowhere: no such folder of runs"):
            call(tmp_path / "nowhere")


# --------------------------------------------------------------------------- one row a model


def test_one_row_a_model(runs: Path) -> None:
    table = hmrbench.make_table(runs, against="S4")
    assert table.columns.names == ["data set", "metric"]
    assert table["", "model"].tolist() == ["swinpose-s-s3", "swinpose-s-s4"]
    assert table["coco-val", "AP"].tolist() == [73.1, 75.0]  # the newest run of each
    assert table["coco-val", "samples"].tolist() == [1001, 1000]
    assert table["", "cut"].tolist() == ["S3", "S4"]
    assert table["published:coco-val", "AP"].tolist() == [74.6, 74.5]
    assert table["difference:coco-val", "AP"][0] == 73.1 - 75.0
    assert table["change", "params"][0] == pytest.approx(-31.9, abs=2)
    assert table["difference:coco-val", "AP"].isna().tolist() == [False, True]
    assert str(table.dtypes["", "macs"]) == "Int64"
    assert str(table.dtypes["coco-val", "AP"]) == "Float64"
    assert table.attrs["definitions"] == {"Phi_P_2D": "Phi_P_2D = (AP + AR) / 2 on coco-val"}
    assert table.attrs["notes"][0].startswith("speed: batch size 1, fp32")
    assert table.attrs["changes"][0].startswith("human pose estimation, S3 against S4: params -")
    assert table.attrs["sources"] == []


def test_it_is_the_table_of_the_command(runs: Path) -> None:
    table = hmrbench.make_table(runs, published=True)
    rows = json.loads(command("table", "--runs", runs, "--with-published", "--json").stdout)
    cards = [r.card for r in tables.load_references()]
    once = cards.count(None) + len({card for card in cards if card})
    assert len(table) == len(rows) == 2 + once
    assert list(table.columns) == tables._places(list(rows[0]))
    for place, key in zip(table.columns, rows[0], strict=True):
        assert [None if pd.isna(v) else v for v in table[place]] == [row[key] for row in rows], key
    assert table["", "kind"].value_counts().to_dict() == {"published": once, "measured": 2}
    assert table.attrs["sources"] == list(gather(runs, references=load_references()).sources)


def test_rows_of_results_choose_the_runs(runs: Path, tmp_path: Path) -> None:
    frame = hmrbench.load_results(runs)
    pd.testing.assert_frame_equal(hmrbench.make_table(frame), hmrbench.make_table(runs))
    backwards = frame.sort_values("created", ascending=False)  # the newest still counts
    pd.testing.assert_frame_equal(hmrbench.make_table(backwards), hmrbench.make_table(runs))
    older = hmrbench.make_table(frame.drop(index=1))
    assert older["coco-val", "AP"].tolist() == [75.0, 75.0]
    whole = hmrbench.make_table(frame[frame["model"] == "swinpose-s-s4"])
    assert whole["", "model"].tolist() == ["swinpose-s-s4"]
    more = hmrbench.load_results(save(tmp_path / "more", eval_row("vitpose-s")))
    assert "vitpose-s" in hmrbench.make_table(pd.concat([frame, more]))["", "model"].tolist()
    with pytest.raises(DataError, match="no runs"):
        hmrbench.make_table(frame[:0])
    with pytest.raises(UsageError, match="not a table of load_results"):
        hmrbench.make_table(frame.drop(columns="path"))
    Path(frame["path"][0]).unlink()
    with pytest.raises(DataError, match="run missing"):
        hmrbench.make_table(frame)


def test_models_of_other_folders_are_named(tiny_cards: Path, tmp_path: Path) -> None:
    save(tmp_path / "runs", eval_row("tiny-a"))
    table = hmrbench.make_table(tmp_path / "runs", models_dirs=[tiny_cards])
    assert table["", "family"].tolist() == ["tiny"]
    assert ("", "family") not in hmrbench.make_table(tmp_path / "runs").columns


# --------------------------------------------------------------------------- formats


def test_csv_is_what_the_csv_module_writes(tmp_path: Path) -> None:
    """Names with commas, quotes and line ends, whole numbers beside fractions, values that are not there."""
    rows = [eval_row(n, metrics={"AP": 70 + i, "AR": 76.25 + i / 3}) for i, n in enumerate(("a,b", 'c"d', "e\nf"))]
    table = gather(save(tmp_path, *rows, profile_row("vitpose-s")), references=load_references())
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table.flat()[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.flat())
    assert formats.render(table, "csv") == text.getvalue()


def test_parquet_reads_back(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="comes with hmrbench[parquet]")
    file = tmp_path / "t.parquet"
    result = command("table", "--runs", runs, "--with-published", "-f", "parquet", "-o", file)
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    read = pd.read_parquet(file)
    expected = gather(runs, references=load_references()).frame()
    pd.testing.assert_frame_equal(read, expected)
    assert str(read.dtypes["params"]) == "Int64"
    command("table", "--runs", runs, "--metric", "AR", "-f", "parquet", "-o", file)
    read = pd.read_parquet(file)
    assert read["coco-val:AR"].tolist() == [0.30000000000000004, 80.0]
    assert "coco-val:AP" not in read


def test_runs_of_all_kinds_can_be_kept_as_parquet(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="comes with hmrbench[parquet]")
    frame = hmrbench.load_results(runs)
    frame.to_parquet(tmp_path / "r.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "r.parquet"), frame)


def test_parquet_without_pyarrow_or_a_file_is_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = command("table", "--runs", runs, "-f", "parquet")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--output" in result.stderr
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = command("table", "--runs", runs, "-f", "parquet", "-o", tmp_path / "t.parquet")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "pip install 'hmrbench[parquet]'" in result.stderr
    assert not (tmp_path / "t.parquet").exists()
    assert json.loads(command("table", "--runs", runs, "-f", "parquet", "--json").stdout)[0]["model"] == "swinpose-s-s3"


# --------------------------------------------------------------------------- names and the page


def test_the_package_lists_its_names() -> None:
    assert {*hmrbench.__all__, "__version__", "__doc__"} <= set(dir(hmrbench))
    assert set(hmrbench._PUBLIC) | {"__version__"} == set(hmrbench.__all__)
    assert all(getattr(hmrbench, name) is not None for name in hmrbench.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hmrbench.nothing


def test_the_page_on_results_says_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session in docs/results.md, on the runs that it describes."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs"
    save(folder, *(profile_row(f"swinpose-s-{cut}", images_per_s=s) for cut, s in (("s4", 50.0), ("s3", 62.5))))
    save(folder, eval_row("swinpose-s-s4", metrics={"AP": 74.5, "AR": 79.5}))
    save(folder, eval_row("swinpose-s-s3", metrics={"AP": 74.6, "AR": 79.7}))
    page = Path(__file__).parents[1] / "docs" / "results.md"
    done = doctest.testfile(str(page), module_relative=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert done.failed == 0
    assert done.attempted >= 10
