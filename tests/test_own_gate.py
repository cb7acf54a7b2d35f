"""The gate and the comparison agree: harmless changes pass by intervals, real ones fail, and both say why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_coco
from test_cli import hmrbench
from test_tables import eval_row, save

from hmrbench.results import runs as results

IMAGES = 30


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of generated people with a spec of four lines, and results of made-up networks on it."""
    folder = tmp_path_factory.mktemp("data")
    make_coco(folder, (1, 2, 2) * (IMAGES // 3))
    (folder / "mine.yaml").write_text(
        "mine:\n  task: hpe\n  annotations: annotations/person_keypoints_val2017.json\n  images: val2017\n"
    )
    truth = json.loads((folder / "annotations" / "person_keypoints_val2017.json").read_text())
    for name, noise, seed in (("first", 8, 0), ("again", 8, 1), ("worse", 20, 2)):
        rng = np.random.default_rng(seed)
        found = []
        for person in truth["annotations"]:
            points = np.array(person["keypoints"], float).reshape(17, 3)
            points[:, :2] += noise * rng.standard_normal((17, 2)) * rng.uniform(0.3, 1.7)
            fields = {"image_id": person["image_id"], "category_id": 1, "score": float(rng.uniform(0.2, 1))}
            found.append({**fields, "keypoints": points.ravel().tolist()})
        (folder / f"{name}.json").write_text(json.dumps(found))
    return folder


def score(data: Path, name: str, runs: Path, model: str = "net") -> None:
    args = ("--datasets-file", data / "mine.yaml", "--data-root", data, "--runs", runs, "--model", model)
    result = hmrbench("score", data / f"{name}.json", "-d", "mine", *args)
    assert result.exit_code == 0, result.output


def check(baseline: Path, runs: Path, *args: object, code: int = 0) -> tuple[str, list[dict[str, Any]]]:
    """What the gate prints, and its verdicts."""
    result = hmrbench("check", "--baseline", baseline, "--runs", runs, "--seed", "1", "--resamples", "100", *args)
    assert result.exit_code == code, result.output
    shown = hmrbench(
        "check", "--baseline", baseline, "--runs", runs, "--seed", "1", "--resamples", "100", "--json", *args
    )
    return " ".join(result.output.split()), json.loads(shown.stdout)


@pytest.fixture
def baseline(data: Path, tmp_path: Path) -> Path:
    score(data, "first", tmp_path / "first")
    path = tmp_path / "base" / "net.json"
    result = hmrbench("check", "--baseline", path, "--runs", tmp_path / "first", "--update", "--interval")
    assert result.exit_code == 0, result.output
    assert path.with_suffix(".npz").is_file()
    return path


def test_a_harmless_retraining_passes_by_intervals_and_a_worse_network_does_not(
    data: Path, tmp_path: Path, baseline: Path
) -> None:
    score(data, "again", tmp_path / "again")
    text, _ = check(baseline, tmp_path / "again", code=4)
    assert "FAILED: 13 numbers held against the baseline" in text
    text, verdicts = check(baseline, tmp_path / "again", "--interval")
    assert "passed: 13 numbers held against the baseline: 13 ok" in text
    held = {v["measure"]: v for v in verdicts}
    assert held["AP"]["low"] < 0 < held["AP"]["high"]
    assert all(v["low"] < v["high"] for v in verdicts)
    score(data, "worse", tmp_path / "worse")
    text, verdicts = check(baseline, tmp_path / "worse", "--interval", code=4)
    worse = {v["measure"]: v for v in verdicts if v["verdict"] == "worse"}
    assert {"AP", "AR"} <= worse.keys()
    assert worse["AP"]["high"] < -0.1
    assert f"interval {worse['AP']['low']:+.2f} .. {worse['AP']['high']:+.2f}" in worse["AP"]["detail"]

    # `compare` says the same of the same runs
    score(data, "first", tmp_path / "both", "a")
    score(data, "worse", tmp_path / "both", "b")
    result = hmrbench("compare", "a", "b", "--runs", tmp_path / "both", "--seed", "1", "--json", "--resamples", "100")
    compared = {d["metric"]: d for d in json.loads(result.stdout)["differences"]}
    for name, verdict in {v["measure"]: v for v in verdicts}.items():
        assert (verdict["low"], verdict["high"]) == (compared[name]["low"], compared[name]["high"])
        assert (verdict["verdict"] == "worse") <= (compared[name]["verdict"] == "worse")


def forget_sizes(path: Path) -> None:
    """What a run keeps, without what its scores by size and its PCK are drawn from, as before these were kept."""
    with np.load(path) as file:
        kept = {k: file[k] for k in file.files if k[-1] not in "ML" and "PCK" not in k}
    np.savez(path, **kept)


def test_a_row_of_which_no_score_has_an_interval_is_not_passed(data: Path, tmp_path: Path, baseline: Path) -> None:
    score(data, "worse", tmp_path / "worse")
    content = json.loads(baseline.read_text())
    content["rows"][0]["values"] = {"ARM": content["rows"][0]["values"]["ARM"]}
    baseline.write_text(json.dumps(content))
    forget_sizes(baseline.with_suffix(".npz"))
    args = ("check", "--baseline", baseline, "--runs", tmp_path / "worse", "--interval")
    result = hmrbench(*args)
    assert result.exit_code == 3, result.output
    assert "no score of net on mine has an interval" in " ".join(result.output.split())


def test_the_tolerance_is_what_the_interval_must_exclude(data: Path, tmp_path: Path, baseline: Path) -> None:
    score(data, "worse", tmp_path / "worse")
    _, verdicts = check(baseline, tmp_path / "worse", "--interval", "--tolerance", "100")
    assert {v["verdict"] for v in verdicts} == {"ok"}
    ap = next(v for v in verdicts if v["measure"] == "AP")
    _, verdicts = check(
        baseline,
        tmp_path / "worse",
        "--interval",
        "--tolerance",
        "100",
        "--tolerance",
        f"AP={-ap['high'] - 0.01}",
        code=4,
    )
    assert [v["measure"] for v in verdicts if v["verdict"] == "worse"] == ["AP"]


def test_tolerances_by_flag(data: Path, tmp_path: Path, baseline: Path) -> None:
    score(data, "again", tmp_path / "again")
    check(baseline, tmp_path / "again", "--tolerance", "100")
    text, _ = check(baseline, tmp_path / "again", "--tolerance", "100", "--tolerance", "AP50=0", code=4)
    assert "1 of 13 numbers regressed" in text
    for wrong, words in (
        ("APX=1", "did you mean AP"),
        ("AP=much", "NAME=NUMBER"),
        ("-1", "0 or more"),
        ("nan", "0 or more"),
    ):
        result = hmrbench("check", "--baseline", baseline, "--runs", tmp_path / "again", f"--tolerance={wrong}")
        assert result.exit_code == 2, result.output
        assert words in result.stderr
    args = ("--update", "--tolerance", "AP=3", "--tolerance", "0.5")
    assert hmrbench("check", "--baseline", baseline, "--runs", tmp_path / "again", *args).exit_code == 0
    written = json.loads(baseline.read_text())
    assert (written["tolerances"]["AP"], written["tolerances"]["AR"]) == (3.0, 0.5)
    check(baseline, tmp_path / "again", "--interval")  # a baseline that has intervals keeps them when it is updated


def test_what_a_baseline_needs_for_intervals(data: Path, tmp_path: Path, baseline: Path) -> None:
    score(data, "again", tmp_path / "again")
    other = tmp_path / "other.json"
    row = {**json.loads(baseline.read_text())["rows"][0], "per_sample": "gone"}
    other.write_text(json.dumps({**json.loads(baseline.read_text()), "rows": [row]}))
    result = hmrbench("check", "--baseline", other, "--runs", tmp_path / "again", "--interval")
    assert result.exit_code == 3
    assert "other.npz: not there" in result.stderr
    other.with_suffix(".npz").write_bytes(baseline.with_suffix(".npz").read_bytes())
    result = hmrbench("check", "--baseline", other, "--runs", tmp_path / "again", "--interval")
    assert result.exit_code == 3
    assert "no per-sample results of net on mine" in result.stderr
    changed = json.loads(baseline.read_text())
    changed["rows"][0]["values"]["AP"] += 1
    baseline.write_text(json.dumps(changed))
    result = hmrbench("check", "--baseline", baseline, "--runs", tmp_path / "again", "--interval")
    assert result.exit_code == 3
    assert "its arrays give AP" in result.stderr


# --------------------------------------------------------------------------- compare


@pytest.fixture
def three(data: Path, tmp_path: Path) -> Path:
    """A folder of three runs of one network, the last one worse, and one of another."""
    for name in ("first", "again", "worse"):
        score(data, name, tmp_path / "runs")
    score(data, "first", tmp_path / "runs", "other")
    return tmp_path / "runs"


def compared(runs: Path, *args: object) -> dict[str, Any]:
    result = hmrbench("compare", *args, "--runs", runs, "--json", "--resamples", "100")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_runs_by_how_long_ago_they_were(three: Path) -> None:
    of = [r.path for r in results.load_runs(three)]
    for args, a, b in (
        (("net", "net~1"), 2, 1),
        (("net~2", "NET"), 0, 2),
        (("net", "--last", "2"), 1, 2),
        (("net", "--last", "3"), 0, 2),
        (("--last", "2"), 2, 3),
    ):
        found = compared(three, *args)
        assert (found["a"], found["b"]) == (str(of[a]), str(of[b]))
    for args, code, words in (
        (("net~3", "net"), 3, "net~3: net has 3 runs on mine"),
        (("net", "--last", "9"), 3, "net has 3 runs"),
        (("--last", "9"), 3, "4 runs of eval and score, not 9"),
        (("net",), 2, "compare needs two runs"),
        (("net", "other", "--last", "2"), 2, "one name, or none"),
    ):
        result = hmrbench("compare", *args, "--runs", three)
        assert result.exit_code == code, result.output
        assert words in " ".join(result.stderr.split())


def test_a_comparison_says_how_many_images_why_no_interval_and_what_came_of_it(three: Path) -> None:
    first = Path(compared(three, "net~2", "net")["a"])
    forget_sizes(first.with_suffix(".npz"))
    text = " ".join(hmrbench("compare", "net~2", "net", "--runs", three, "--resamples", "100").stdout.split())
    assert f"{IMAGES} images" in text
    assert f"no interval of APM, APL, ARM, ARL, PCK@0.05, PCK@0.1: {first} keeps nothing of the images" in text
    found = compared(three, "net~2", "net")
    assert (found["count"], found["unit"]) == (IMAGES, "images")
    assert found["conclusion"].startswith("B is worse than A: ")
    assert found["conclusion"].endswith("6 without an interval, of 13 scores")
    assert found["conclusion"] in text
    assert compared(three, "net", "net~2")["conclusion"].startswith("B is better than A: ")


def test_a_run_compared_with_itself_says_so(three: Path) -> None:
    assert "A and B are the same run, score-net-mine" in compared(three, "net", "net")["conclusion"]
    assert compared(three, "net~2", "other")["conclusion"].startswith("B equals A in all 13 scores")


def test_own_scores_beside_cocos_are_drawn_by_image(tmp_path: Path) -> None:
    """Two people on each image: a sample is taken as often as its image."""
    rng = np.random.default_rng(0)
    arrays = {"image_ids": np.arange(40), "samples.image": np.repeat(np.arange(40), 2)}
    for model, shift in (("a", 0.0), ("b", 3.0)):
        wobble = rng.normal(10 + shift, 1, 80)
        row = eval_row(model, metrics={"Wobble": float(wobble.mean())})
        row |= {"units": {"Wobble": "px"}, "higher_is_better": {"Wobble": False}}
        save(tmp_path, row, arrays={**arrays, "Wobble": wobble})
    (found,) = compared(tmp_path, "a", "b")["differences"]
    assert (found["unit"], found["verdict"]) == ("px", "worse")
    assert 2.3 < found["low"] < found["high"] < 3.7
