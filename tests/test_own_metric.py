"""A metric of one's own: in `eval` and `score` alike, in tables, gate and comparison, and where it fails."""

from __future__ import annotations

import doctest
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_coco
from test_cli import hmrbench
from tiny_net import write_cards

DOCS = Path(__file__).parents[1] / "docs"
METRIC = """\
import numpy as np
from hmrbench.records import Measurement, Metric, Score

def compute(predictions, dataset):
    errors = []
    for sample, prediction in zip(dataset.samples, predictions, strict=True):
        truth = np.array(dataset.truth.anns[sample.annotation_id]["keypoints"], float).reshape(-1, 3)
        errors.append(np.linalg.norm(prediction.keypoints_px - truth[:, :2], axis=1)[truth[:, 2] > 0].mean())
    errors = np.array(errors)
    return Measurement((Score("pixel error", errors.mean(), "px", False),), per_sample={"pixel error": errors})

METRIC = Metric("pixel-error", "px", False, compute)
"""


@pytest.fixture(autouse=True)
def _modules() -> Iterator[None]:
    yield
    sys.modules.pop("own_metric", None)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a data set, its spec, a metric beside it, and cards of tiny networks."""
    make_coco(tmp_path / "data")
    write_cards(tmp_path / "cards")
    write(tmp_path, METRIC)
    return tmp_path


def write(folder: Path, code: str, metrics: str = "[coco-keypoints, 'own_metric:METRIC']") -> None:
    sys.modules.pop("own_metric", None)
    (folder / "own_metric.py").write_text(code)
    (folder / "mine.yaml").write_text(
        "mine:\n  task: hpe\n  annotations: annotations/person_keypoints_val2017.json\n  images: val2017\n"
        f"  metrics: {metrics}\n"
    )


def evaluate(place: Path, *args: object, model: str = "tiny-a", code: int = 0) -> Any:
    where = ("--datasets-file", place / "mine.yaml", "--data-root", place / "data", "--runs", place / "runs")
    command = ("eval", model, "--models-dir", place / "cards", "-d", "mine", "--weights", "random")
    result = hmrbench(*command, *where, *args)
    assert result.exit_code == code, result.output
    return result


def score(place: Path, file: Path, *args: object, code: int = 0) -> Any:
    where = ("--datasets-file", place / "mine.yaml", "--data-root", place / "data")
    result = hmrbench("score", file, "-d", "mine", *where, *args)
    assert result.exit_code == code, result.output
    return result


def test_the_page_is_true() -> None:
    failed, tried = doctest.testfile(str(DOCS / "own-metric.md"), module_relative=False)
    assert (failed, tried) == (0, 18)


def test_eval_and_score_say_the_same(place: Path) -> None:
    saved = place / "p.json"
    (row,) = json.loads(evaluate(place, "--save-predictions", saved, "--json").stdout)
    (again,) = json.loads(score(place, saved, "--json").stdout)
    assert row["metrics"] == again["metrics"]
    assert (row["units"]["pixel error"], row["higher_is_better"]["pixel error"]) == ("px", False)
    assert row["metrics"]["pixel error"] > 1
    for shown in (evaluate(place).stdout, score(place, saved).stdout):  # heading folded, numbers whole
        assert {"pixel", "error", "AP75", f"{row['metrics']['pixel error']:.2f}"} <= set(shown.split())


def test_results_of_another_tool_go_to_whom_they_are_like(place: Path) -> None:
    truth = json.loads((place / "data" / "annotations" / "person_keypoints_val2017.json").read_text())
    found = []
    for far, person in enumerate(truth["annotations"][:-1], 1):
        points = np.array(person["keypoints"], float).reshape(17, 3) + np.array([far, 0, 0])
        found.append(
            {"image_id": person["image_id"], "category_id": 1, "score": 0.5, "keypoints": points.ravel().tolist()}
        )
    (place / "p.json").write_text(json.dumps(found[::-1]))
    result = score(place, place / "p.json", "--json")
    assert json.loads(result.stdout)[0]["metrics"]["pixel error"] == pytest.approx(np.mean([1, 2, 3, 4, 5]))
    (place / "p.json").write_text(json.dumps([{**r, "image_id": 99} for r in found]))
    assert "no image id is in the annotations" in score(place, place / "p.json", code=3).stderr


@pytest.mark.parametrize("metrics", ["['own_metric:METRIC']", "['own_metric:METRIC', coco-keypoints]"])
def test_score_takes_the_metrics_that_the_spec_names(place: Path, metrics: str) -> None:
    saved = place / "p.json"
    evaluate(place, "--save-predictions", saved)
    write(place, METRIC, metrics)
    (row,) = json.loads(score(place, saved, "--json").stdout)
    assert ("AP" in row["metrics"]) == ("coco" in metrics)
    assert "pixel error" in row["metrics"]
    for wrong, words in (
        ("[coco-keypoint]", "did you mean coco-keypoints"),
        ("['own_metric:METRICK']", "has no attribute"),
    ):
        write(place, METRIC, wrong)
        assert words in score(place, saved, code=2).stderr
        assert words in evaluate(place, code=2).stderr


def test_it_shows_in_table_gate_and_comparison(place: Path) -> None:
    runs = place / "runs"
    for model in ("tiny-a", "tiny-b"):
        evaluate(place, "--limit", "6", model=model)
    assert "pixel error" in hmrbench("table", "--runs", runs, env={"COLUMNS": "200"}).stdout
    (first, _) = json.loads(hmrbench("table", "--runs", runs, "--json", "--metric", "pixel error").stdout)
    assert first["mine:pixel error"] > 1
    assert "mine:AP" not in first
    assert hmrbench("check", "--baseline", place / "b.json", "--runs", runs, "--update", "--interval").exit_code == 0
    baseline = json.loads((place / "b.json").read_text())
    assert baseline["better"] == {"pixel error": "lower"}
    assert baseline["rows"][0]["values"]["pixel error"] > 1
    baseline["rows"][0]["values"]["pixel error"] -= 5
    (place / "worse.json").write_text(json.dumps(baseline))
    result = hmrbench("check", "--baseline", place / "worse.json", "--runs", runs)
    assert result.exit_code == 4
    assert "pixel error" in result.stderr
    result = hmrbench("compare", "tiny-a", "tiny-b", "--runs", runs, "--json", "--resamples", "100")
    found = {d["metric"]: d for d in json.loads(result.stdout)["differences"]}
    assert (found["pixel error"]["unit"], found["pixel error"]["verdict"]) == ("px", "equal")


def test_a_function_resample_gives_an_interval(place: Path) -> None:
    code = METRIC.replace('per_sample={"pixel error": errors})', 'per_sample={"errors": errors})')
    code = code.replace("errors.mean()", "np.sqrt((errors**2).mean())").replace(
        "compute)\n", "compute, resample=draw)\n"
    )
    draw = (
        "def draw(arrays, counts):\n    return {'pixel error': np.sqrt(counts @ arrays['errors']**2 / counts.sum(1))}\n"
    )
    write(place, code.replace("METRIC =", f"{draw}METRIC ="))
    evaluate(place)
    args = ("compare", "tiny-a", "tiny-a", "--runs", place / "runs", "--json", "--resamples", "100")
    for more, verdict in (((), "no interval"), (("--datasets-file", place / "mine.yaml"), "equal")):
        found = {d["metric"]: d for d in json.loads(hmrbench(*args, *more).stdout)["differences"]}
        assert found["pixel error"]["verdict"] == verdict


# --------------------------------------------------------------------------- what may go wrong


def test_a_metric_that_fails_keeps_the_predictions(place: Path) -> None:
    write(place, METRIC.replace("errors = []", "errors = [1 / 0]"))
    result = evaluate(place, code=1)
    said = " ".join(result.stderr.split())
    assert "mine: metric 'own_metric:METRIC': ZeroDivisionError: division by zero (own_metric.py, line 5)" in said
    assert "6 predictions are kept: --resume goes straight to scoring" in said
    write(place, METRIC)
    (place / "data" / "val2017" / "000000000001.jpg").write_bytes(b"no picture any more")
    (row,) = json.loads(evaluate(place, "--resume", "--json").stdout)
    assert row["metrics"]["pixel error"] > 1
    assert not list((place / "runs" / ".partial").iterdir())
    # the finished run is not taken for one with other metrics
    write(place, METRIC, "['own_metric:METRIC']")
    evaluate(place, "--resume", code=3)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("return Measurement(", "return dict(scores=", "gives a dict, not a hmrbench.records.Measurement"),
        ("Score(\"pixel error\", errors.mean()", "Score(\"pixel error\", np.nan", "pixel error is nan"),
        ("Score(\"pixel error\", errors.mean()", "Score(\"pixel error\", errors", "METRIC': TypeError"),
        ("errors.mean()", "np.median(errors) + 1", "per_sample['pixel error'] has the mean"),
        ("\"pixel error\", errors.mean()", "\"AP\", errors.mean()", "two metrics of mine give a score called AP"),
        ("sample.annotation_id", "sample.id", "METRIC': KeyError: 'ann 100' (own_metric.py, line 7)"),
    ],
)  # fmt: skip
def test_what_a_metric_may_not_give(place: Path, old: str, new: str, words: str) -> None:
    write(place, METRIC.replace(old, new))
    assert words in " ".join(evaluate(place, code=1).stderr.split())


def test_a_check_that_fails_says_so_before_anything_is_predicted(place: Path) -> None:
    write(place, METRIC.replace("compute)\n", "compute, lambda dataset: dataset.truth['joints'])\n"))
    said = evaluate(place, code=3).stderr
    assert "mine: metric 'own_metric:METRIC' cannot score its truth: TypeError" in said
    assert not (place / "runs" / ".partial").exists()
