"""The gate's verdicts, its baseline file, and what CI reads of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from test_tables import eval_row, profile_row, save

from hmrbench import files
from hmrbench.compare import baselines, ci, gate
from hmrbench.errors import DataError, UsageError
from hmrbench.records import ProfileResult
from hmrbench.results import runs as results


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return baselines.rows_of_runs(results.load_runs(folder))


@pytest.fixture
def good(tmp_path: Path) -> list[dict[str, Any]]:
    """A pose model evaluated, a mesh model evaluated, one profiled."""
    mesh = eval_row("hmr2-s", "3dpw-test")
    return rows_of(save(tmp_path / "good", eval_row("vitpose-s"), mesh, profile_row("vitpose-s")))


@pytest.fixture
def baseline(good: list[dict[str, Any]]) -> dict[str, Any]:
    return baselines.update(None, good)[0]


def verdicts(baseline: dict[str, Any], folder: Path, *rows: dict[str, Any]) -> dict[tuple[str, str], gate.Verdict]:
    """Verdicts by model and measure, when these runs follow the good ones."""
    save(folder / "good", *rows)
    return {(v.model, v.measure): v for v in gate.check(baseline, rows_of(folder / "good"))}


def test_good_runs_pass(baseline: dict[str, Any], good: list[dict[str, Any]]) -> None:
    found = gate.check(baseline, good)
    assert {v.verdict for v in found} == {"ok"}
    assert gate.regressions(found) == []
    assert [(v.kind, v.measure) for v in found if v.model == "vitpose-s"] == [
        *(("accuracy", m) for m in ("AP", "AP50", "AP75", "AR", "PCK@0.05")),
        ("counts", "params"),
        ("counts", "macs"),
        ("speed", "latency_ms"),
    ]


def metrics(**changed: float) -> dict[str, float]:
    return {"AP": 75.0, "AP50": 90.0, "AP75": 82.0, "AR": 80.0, "PCK@0.05": 60.0, **changed}


@pytest.mark.parametrize(
    ("ap", "verdict"), [(74.85, "worse"), (74.9, "ok"), (75.0, "ok"), (75.1, "ok"), (75.2, "improved")]
)
def test_percent_may_fall_by_its_tolerance(baseline: dict[str, Any], tmp_path: Path, ap: float, verdict: str) -> None:
    found = verdicts(baseline, tmp_path, eval_row("vitpose-s", metrics=metrics(AP=ap)))
    assert found["vitpose-s", "AP"].verdict == verdict
    assert isinstance(found["vitpose-s", "AP"], gate.Regression) == (verdict == "worse")


@pytest.mark.parametrize(("mm", "verdict"), [(44.2, "worse"), (44.1, "ok"), (43.5, "improved")])
def test_millimetres_may_rise_by_their_tolerance(
    baseline: dict[str, Any], tmp_path: Path, mm: float, verdict: str
) -> None:
    row = eval_row("hmr2-s", "3dpw-test", metrics={"MPJPE": 70.0, "PA-MPJPE": mm})
    assert verdicts(baseline, tmp_path, row)["hmr2-s", "PA-MPJPE"].verdict == verdict


@pytest.mark.parametrize("measure", ["params", "macs"])
@pytest.mark.parametrize("by", [-1, 1])
def test_counts_hold_exactly(baseline: dict[str, Any], tmp_path: Path, measure: str, by: int) -> None:
    row = profile_row("vitpose-s")
    found = verdicts(baseline, tmp_path, {**row, measure: row[measure] + by})
    assert {k for k, v in found.items() if isinstance(v, gate.Regression)} == {("vitpose-s", measure)}
    assert (found["vitpose-s", measure].verdict, found["vitpose-s", measure].detail) == (
        "changed",
        f"by {by:+d}",
    )


@pytest.mark.parametrize(("ms", "verdict"), [(22.1, "worse"), (21.9, "ok"), (18.0, "improved")])
def test_latency_may_rise_by_its_ratio(baseline: dict[str, Any], tmp_path: Path, ms: float, verdict: str) -> None:
    assert (
        verdicts(baseline, tmp_path, profile_row("vitpose-s", latency_ms=ms))["vitpose-s", "latency_ms"].verdict
        == verdict
    )


def test_latency_of_another_device_is_not_compared(good: list[dict[str, Any]], baseline: dict[str, Any]) -> None:
    rows = [
        {**r, "device": "GPU B", "threads": 7, "values": {"latency_ms": 900.0}} if r["kind"] == "speed" else r
        for r in good
    ]
    (found,) = (v for v in gate.check(baseline, rows) if v.kind == "speed")
    assert (found.verdict, found.value, found.detail) == (
        "other device",
        None,
        "measured on GPU B, not compared",
    )
    assert not isinstance(found, gate.Regression)


@pytest.mark.parametrize("setting", [{"dtype": "fp16"}, {"batch_size": 8}, {"scope": "end2end"}, {"threads": 7}])
def test_latency_of_another_setting_is_missing(
    good: list[dict[str, Any]], baseline: dict[str, Any], setting: dict[str, Any]
) -> None:
    rows = [{**r, **setting} if r["kind"] == "speed" else r for r in good]
    (found,) = (v for v in gate.check(baseline, rows) if v.kind == "speed")
    assert found.verdict == "missing"
    assert str(next(iter(setting.values()))) in found.detail


def test_a_missing_model_fails(good: list[dict[str, Any]], baseline: dict[str, Any]) -> None:
    found = gate.check(baseline, [r for r in good if r["model"] != "hmr2-s"])
    assert [(v.model, v.on, v.verdict, v.detail) for v in gate.regressions(found)] == [
        ("hmr2-s", "3dpw-test", "missing", "no run")
    ] * 2


def test_another_protocol_is_missing_and_says_what_differs(baseline: dict[str, Any], tmp_path: Path) -> None:
    rows = rows_of(save(tmp_path / "other", eval_row("vitpose-s", flip=False), eval_row("hmr2-s", "3dpw-test")))
    found = [v for v in gate.check(baseline, rows) if v.measure == "AP"]
    assert found[0].detail == "no run (the nearest has flip False, not True)"
    rows = rows_of(save(tmp_path / "random", eval_row("vitpose-s", weights="random")))
    found = [v for v in gate.check(baseline, rows) if v.measure == "AP"]
    assert found[0].detail == "no run (the nearest has trained False, not True)"


@pytest.mark.parametrize(
    ("fields", "verdict", "detail"),
    [
        ({"partial": True, "samples": 12}, "partial", "only 12 samples"),
        (
            {"annotations_sha256": "b" * 64},
            "not comparable",
            "other annotations: bbbbbbbbbbbb, not aaaaaaaaaaaa",
        ),
        ({"samples": 999}, "not comparable", "999 samples, not 1,000"),
        ({"metrics": {"AP": None, "AR": 80.0}}, "missing", "the run has no AP"),
    ],
)
def test_rows_that_cannot_be_compared_fail(
    baseline: dict[str, Any], tmp_path: Path, fields: dict[str, Any], verdict: str, detail: str
) -> None:
    found = verdicts(baseline, tmp_path, eval_row("vitpose-s", **fields))["vitpose-s", "AP"]
    assert isinstance(found, gate.Regression)
    assert found.verdict == verdict
    assert detail in found.detail


def test_a_failed_profile_fails_with_its_error(baseline: dict[str, Any], tmp_path: Path) -> None:
    row = ProfileResult("vitpose-s", device="GPU A", status="out of memory", error="CUDA out of memory").row()
    found = verdicts(baseline, tmp_path, row)
    for measure in ("params", "macs", "latency_ms"):
        assert (found["vitpose-s", measure].verdict, found["vitpose-s", measure].detail) == (
            "failed",
            "CUDA out of memory",
        )


# --------------------------------------------------------------------------- tolerances and directions


def test_tolerances_stand_in_the_file_and_in_rows(baseline: dict[str, Any], tmp_path: Path) -> None:
    assert baseline["tolerances"]["AP"] == baseline["tolerances"]["MPJPE"] == 0.1
    assert baseline["tolerances"]["params"] == baseline["tolerances"]["macs"] == 0
    assert baseline["tolerances"]["latency_ms"] == 1.1
    worse = eval_row("vitpose-s", metrics=metrics(AP=74.5, AR=79.5))
    loose = {**baseline, "tolerances": {**baseline["tolerances"], "AP": 1.0}}
    found = verdicts(loose, tmp_path, worse)
    assert (found["vitpose-s", "AP"].verdict, found["vitpose-s", "AR"].verdict) == ("ok", "worse")
    rows = [{**r, "tolerances": {"AR": 1.0}} if r["kind"] == "accuracy" else r for r in baseline["rows"]]
    found = verdicts({**loose, "rows": rows}, tmp_path, worse)
    assert found["vitpose-s", "AR"].verdict == "ok"
    counts = {**baseline, "tolerances": {**baseline["tolerances"], "macs": 0.01}}
    row = profile_row("vitpose-s")
    assert verdicts(counts, tmp_path, {**row, "macs": int(row["macs"] * 1.005)})["vitpose-s", "macs"].verdict == "ok"


def test_a_score_that_nobody_knows_needs_a_direction(tmp_path: Path) -> None:
    row = eval_row("vitpose-s", metrics={"AP": 75.0, "Wobble": 3.0})
    folder = save(tmp_path / "good", row)
    made, remarks = baselines.update(None, rows_of(folder))
    assert "left out: Wobble of vitpose-s ('better' does not say which way)" in remarks
    made, _ = baselines.update({"better": {"Wobble": "lower"}}, rows_of(folder))
    assert made["rows"][0]["values"]["Wobble"] == 3.0
    found = verdicts(made, tmp_path, {**row, "metrics": {"AP": 75.0, "Wobble": 4.0}})
    assert found["vitpose-s", "Wobble"].verdict == "worse"
    with pytest.raises(UsageError, match="under 'better'"):
        gate.check({**made, "better": {}}, rows_of(folder))


# --------------------------------------------------------------------------- the file


def test_update_keeps_tolerances_and_rows_without_a_run(baseline: dict[str, Any], tmp_path: Path) -> None:
    old = {**baseline, "tolerances": {**baseline["tolerances"], "AP": 0.5}}
    old["rows"] = [{**r, "tolerances": {"AR": 2.0}} if r["kind"] == "accuracy" else r for r in old["rows"]]
    rows = rows_of(save(tmp_path / "new", eval_row("vitpose-s", metrics=metrics(AP=76.0)), eval_row("vitpose-b")))
    new, remarks = baselines.update(old, rows)
    assert new["tolerances"]["AP"] == 0.5
    own = {r["model"]: r for r in new["rows"] if r["kind"] == "accuracy"}
    assert own["vitpose-s"]["values"]["AP"] == 76.0
    assert own["vitpose-s"]["tolerances"] == {"AR": 2.0}
    assert own["hmr2-s"]["values"]["MPJPE"] == 70.0
    assert remarks == [
        "changed: accuracy of vitpose-s on coco-val",
        "new: accuracy of vitpose-b on coco-val",
        "kept, without a run: accuracy of hmr2-s",
        "kept, without a run: counts of vitpose-s",
        "kept, without a run: speed of vitpose-s",
    ]


def test_update_takes_no_partial_or_failed_row(tmp_path: Path) -> None:
    part = eval_row("vitpose-s", partial=True, samples=3)
    failed = ProfileResult("vitpose-b", status="failed", error="boom").row()
    new, remarks = baselines.update(None, rows_of(save(tmp_path, part, failed)))
    assert new["rows"] == []
    assert "left out: accuracy of vitpose-s on coco-val (partial)" in remarks
    assert "left out: counts of vitpose-b (boom)" in remarks


def test_a_baseline_reads_back_and_is_one_row_a_line(baseline: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(baselines.baseline_text(baseline))
    assert baselines.read_baseline(path) == json.loads(files.to_json(baseline))
    assert len(path.read_text().splitlines()) == len(baseline["rows"]) + 7


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such baseline; --update writes one"),
        ("{", "baseline is not readable JSON"),
        ("[]", "not a baseline"),
        ('{"schema": 1, "kind": "eval", "rows": []}', "not a baseline"),
        ('{"schema": 9, "kind": "baseline", "rows": []}', "newer hmrbench"),
        ('{"schema": 1, "kind": "baseline", "rows": []}', "lets everything pass"),
        (
            '{"schema": 1, "kind": "baseline", "rows": [{"kind": "counts", "model": "m", "values": {}}]}',
            "holds no values",
        ),
        (
            '{"schema": 1, "kind": "baseline", "rows": [{"kind": "beauty", "values": {"x": 1}}]}',
            "not a baseline",
        ),
    ],
)
def test_what_is_no_baseline(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "b.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=rf"b\.json: .*{words}"):
        baselines.read_baseline(path)


# --------------------------------------------------------------------------- CI


def test_junit_and_summary(baseline: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path / "good", eval_row("vitpose-s", metrics=metrics(AP=70.0)))
    rows = rows_of(tmp_path / "good")
    rows = [{**r, "device": "GPU <B>"} if r["kind"] == "speed" else r for r in rows]
    found = gate.check(baseline, rows)
    suite = ElementTree.fromstring(ci.junit_xml(found))[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("10", "1", "1")
    cases = {c.get("name"): c for c in suite}
    failure = cases["AP of vitpose-s on coco-val"].find("failure")
    assert failure is not None
    assert failure.get("message") == "vitpose-s on coco-val: AP 75.000 -> 70.000: worse"
    skipped = cases["latency_ms of vitpose-s on GPU A, fp32, batch size 1"].find("skipped")
    assert skipped is not None
    text = ci.summary_markdown(found, "main.json")
    assert "❌ hmrbench check: main.json" in text
    assert "10 numbers of 2 models: 8 ok, 1 worse, 1 other device." in text
    assert "| vitpose-s | coco-val | AP | 75.000 | 70.000 | worse |" in text
    assert "✅" in ci.summary_markdown([v for v in found if v.verdict == "ok"], "main.json")
