"""Paired bootstrap: scores of resamples against pycocotools, intervals against theory, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_coco
from test_cli import hmrbench
from test_tables import eval_row, save

from hmrbench.compare import bootstrap
from hmrbench.errors import DataError, UsageError
from hmrbench.files import coco_json
from hmrbench.metrics import coco_keypoints
from hmrbench.metrics.pck import pck_of_distances
from hmrbench.records import Array, Measurement
from hmrbench.results import runs as results

IMAGES = 30


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """COCO annotations of generated people."""
    folder = make_coco(tmp_path_factory.mktemp("coco"), (1, 3, 2) * (IMAGES // 3))
    content: dict[str, Any] = json.loads((folder / "annotations" / "person_keypoints_val2017.json").read_text())
    return content


def predict(truth: dict[str, Any], noise_px: float, seed: int = 0) -> list[dict[str, Any]]:
    """COCO results: the truth with noise, the same noise for the same seed."""
    rng = np.random.default_rng(seed)
    found = []
    for person in truth["annotations"]:
        keypoints = np.array(person["keypoints"], float).reshape(17, 3)
        keypoints[:, :2] += noise_px * rng.standard_normal((17, 2)) * rng.uniform(0.3, 1.7)
        score = float(rng.uniform(0.2, 1))
        fields = {"image_id": person["image_id"], "category_id": 1, "score": score}
        found.append({**fields, "keypoints": keypoints.ravel().tolist()})
    return found


def measure(truth: dict[str, Any], predictions: list[dict[str, Any]]) -> Measurement:
    return coco_keypoints.measure_results(coco_json.make_coco(truth), predictions)


def save_pose(folder: Path, model: str, found: Measurement, **fields: Any) -> results.Run:
    row = eval_row(model, metrics={s.name: s.value for s in found.scores}, **fields)
    save(folder, row, arrays=dict(found.per_sample))
    return next(r for r in results.load_runs(folder) if r.row["model"] == model)


def save_mesh(folder: Path, model: str, mm: Array, distances: Array | None = None, **fields: Any) -> results.Run:
    metrics = {"MPJPE": float(mm.mean())}
    arrays: dict[str, Array] = {"MPJPE": mm}
    if distances is not None:
        metrics["PCK@0.05"] = pck_of_distances(distances, 0.05)[0]
        arrays["normalised_distance"] = distances
    save(folder, eval_row(model, "3dpw-test", metrics=metrics, samples=len(mm), **fields), arrays=arrays)
    return next(r for r in results.load_runs(folder) if r.row["model"] == model)


# --------------------------------------------------------------------------- scores of a resample


def test_scores_of_a_resample_are_those_of_pycocotools(truth: dict[str, Any]) -> None:
    """Every image is copied as often as it was drawn, people and predictions with it, and evaluated anew."""
    predictions = predict(truth, 6)
    for n, wrong in enumerate(predict(truth, 80, seed=1)[::2]):  # nobody's, of all sizes, between the others
        points = np.array(wrong["keypoints"]).reshape(17, 3) * (0.1 * (1 + n % 12), 0.1 * (1 + n % 12), 1)
        predictions.append({**wrong, "keypoints": points.ravel().tolist()})
    found = measure(truth, predictions)
    assert [len(np.unique(found.per_sample[f"ignored{size}"])) for size in ("", "M", "L")] == [1, 2, 2]
    counts = np.random.default_rng(3).multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=2)
    names = {s.name: s.value for s in found.scores}
    scores = bootstrap._scores(found.per_sample, counts, names)
    assert set(scores) == set(names) == {*coco_keypoints.STATS, "Phi_P_2D", "PCK@0.05", "PCK@0.1"}
    once = bootstrap._scores(found.per_sample, np.ones((1, IMAGES)), names)
    assert {name: float(values[0]) for name, values in once.items()} == pytest.approx(names, abs=1e-10)
    for k, row in enumerate(counts):
        times = dict(zip(found.per_sample["image_ids"].tolist(), row.tolist(), strict=True))
        copies: dict[str, Any] = {"images": [], "annotations": [], "categories": truth["categories"]}
        copied = []
        for image, copy in ((i, c) for i, n in times.items() for c in range(n)):
            new = 1000 * copy + image
            copies["images"].append({"id": new})
            copies["annotations"] += [
                {**a, "image_id": new, "id": 100_000 * copy + a["id"]}
                for a in truth["annotations"]
                if a["image_id"] == image
            ]
            copied += [{**p, "image_id": new} for p in predictions if p["image_id"] == image]
        expected = {s.name: s.value for s in measure(copies, copied).scores}
        for name, values in scores.items():
            assert values[k] == pytest.approx(expected[name], abs=1e-9), name


def test_draws_without_anybody_of_a_size_do_not_count(truth: dict[str, Any]) -> None:
    found = measure(truth, predict(truth, 6))
    arrays = found.per_sample
    none_large = (arrays["truthsL"] == 0).astype(float)[None]
    scores = bootstrap._scores(arrays, np.concatenate([none_large, 0 * none_large]), ["AP", "APL", "APM", "PCK@0.1"])
    assert np.isnan(scores["APL"]).all()
    assert np.isfinite([scores[name][0] for name in ("AP", "APM", "PCK@0.1")]).all()
    assert np.isnan([scores[name][1] for name in ("AP", "APM", "PCK@0.1")]).all()


def test_pck_of_a_resample_is_that_of_its_rows() -> None:
    rng = np.random.default_rng(0)
    distances = np.where(rng.random((50, 5)) < 0.8, rng.uniform(0, 0.12, (50, 5)), np.nan)
    distances[:, 4] = np.nan  # never visible
    drawn = rng.integers(0, 50, 50)
    counts = np.bincount(drawn, minlength=50)[None]
    score = bootstrap._scores({"normalised_distance": distances}, counts, ["PCK@0.05"])["PCK@0.05"][0]
    assert score == pytest.approx(pck_of_distances(distances[drawn], 0.05)[0], abs=1e-9)


# --------------------------------------------------------------------------- intervals


def test_a_worse_network_is_told_from_noise_and_a_like_one_is_not(tmp_path: Path, truth: dict[str, Any]) -> None:
    a = save_pose(tmp_path, "vitpose-s", measure(truth, predict(truth, 4)))
    b = save_pose(tmp_path, "vitpose-b", measure(truth, predict(truth, 12, seed=1)))
    c = save_pose(tmp_path, "vitpose-l", measure(truth, predict(truth, 4.02)))
    worse = {d.metric: d for d in bootstrap.compare(a, b, resamples=200)}
    assert worse["AP"].verdict == worse["AR"].verdict == worse["Phi_P_2D"].verdict == "worse"
    assert worse["AP"].low < worse["AP"].difference < worse["AP"].high < 0
    assert worse["AP"].difference == b.row["metrics"]["AP"] - a.row["metrics"]["AP"]
    for name in ("APM", "APL", "ARM", "ARL", "PCK@0.05", "PCK@0.1"):
        assert worse[name].low < worse[name].difference < worse[name].high, name
    better = {d.metric: d for d in bootstrap.compare(b, a, resamples=200)}
    assert better["AP"].verdict == "better"
    assert (better["AP"].low, better["AP"].high) == (-worse["AP"].high, -worse["AP"].low)  # the same draws
    alike = {d.metric: d for d in bootstrap.compare(a, c, resamples=200)}
    assert alike["AP"].verdict in ("not told from noise", "equal")
    same = bootstrap.compare(a, a, resamples=100)
    assert {d.verdict for d in same} == {"equal"}


def test_a_run_from_before_sizes_were_kept_says_why_it_has_no_interval(tmp_path: Path, truth: dict[str, Any]) -> None:
    found = measure(truth, predict(truth, 4))
    old = {k: v for k, v in found.per_sample.items() if k[-1] not in "ML" and "PCK" not in k}
    a = save_pose(tmp_path, "vitpose-s", Measurement(found.scores, {}, old))
    b = save_pose(tmp_path, "vitpose-b", measure(truth, predict(truth, 12, seed=1)))
    told = {d.metric: d for d in bootstrap.compare(a, b, resamples=50)}
    silent = {name for name, d in told.items() if d.verdict == "no interval"}
    assert silent == {"APM", "APL", "ARM", "ARL", "PCK@0.05", "PCK@0.1"}
    assert {told[n].reason for n in silent} == {f"{a.path} keeps nothing of the images that gives it; a new run does"}


def test_the_interval_of_a_mean_is_that_of_theory(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    base = rng.gamma(4, 20, 2000)
    gain = rng.normal(-1.0, 8.0, 2000)
    a, b = save_mesh(tmp_path, "hmr2-s", base), save_mesh(tmp_path, "hmr2-b", base + gain)
    (found,) = bootstrap.compare(a, b, resamples=2000)
    error = gain.std() / np.sqrt(2000)
    assert found.low == pytest.approx(gain.mean() - 1.96 * error, abs=0.12 * error)
    assert found.high == pytest.approx(gain.mean() + 1.96 * error, abs=0.12 * error)
    assert found.verdict == "better"  # millimetres: less is better
    (wide,) = bootstrap.compare(a, b, resamples=500, confidence=0.999)
    assert wide.low < found.low


def test_pairing_beats_two_intervals(tmp_path: Path) -> None:
    """A gain of 0.5 mm on errors that vary by 40 mm is told, because both are measured on the same people."""
    rng = np.random.default_rng(6)
    base = rng.gamma(4, 20, 500)
    a, b = (
        save_mesh(tmp_path, "hmr2-s", base),
        save_mesh(tmp_path, "hmr2-b", base - 0.5 + rng.normal(0, 1, 500)),
    )
    assert bootstrap.compare(a, b)[0].verdict == "better"


def test_the_seed_decides(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    a, b = (save_mesh(tmp_path, m, rng.gamma(4, 20, 300)) for m in ("hmr2-s", "hmr2-b"))
    assert bootstrap.compare(a, b, seed=1) == bootstrap.compare(a, b, seed=1)
    assert bootstrap.compare(a, b, seed=1) != bootstrap.compare(a, b, seed=2)


# --------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dataset": "h36m-val-p2"}, "different data sets: 3dpw-test and h36m-val-p2"),
        ({"annotations_sha256": "b" * 64}, "different annotation files"),
        ({"boxes": "det"}, "different samples: det and gt boxes"),
        ({"samples": 99, "partial": True}, "different samples: 300 and 99 people"),
    ],
)
def test_runs_of_other_people_are_refused(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    mm = np.random.default_rng(0).gamma(4, 20, 300)
    a = save_mesh(tmp_path, "hmr2-s", mm)
    dataset = fields.pop("dataset", "3dpw-test")
    row = {**eval_row("hmr2-b", dataset, metrics={"MPJPE": float(mm.mean())}), "samples": 300, **fields}
    save(tmp_path, row, arrays={"MPJPE": mm})
    b = next(r for r in results.load_runs(tmp_path) if r.row["model"] == "hmr2-b")
    with pytest.raises(UsageError, match=words):
        bootstrap.compare(a, b)


def test_other_images_are_refused(tmp_path: Path, truth: dict[str, Any]) -> None:
    found = measure(truth, predict(truth, 4))
    a = save_pose(tmp_path, "vitpose-s", found)
    arrays = {**found.per_sample, "image_ids": found.per_sample["image_ids"] + 1}
    b = save_pose(tmp_path, "vitpose-b", Measurement(found.scores, {}, arrays))
    with pytest.raises(UsageError, match="different samples"):
        bootstrap.compare(a, b)


def test_arrays_must_be_there_and_give_the_score(tmp_path: Path) -> None:
    a = save_mesh(tmp_path, "hmr2-s", np.full(10, 50.0))
    b = save_mesh(tmp_path, "hmr2-b", np.full(10, 51.0))
    np.savez(b.path.with_suffix(".npz"), MPJPE=np.full(10, 40.0))
    with pytest.raises(DataError, match=r"its arrays give MPJPE 40\.0, not 51\.0"):
        bootstrap.compare(a, b)
    b.path.with_suffix(".npz").unlink()
    with pytest.raises(DataError, match=r"\.npz: not there"):
        bootstrap.compare(a, b)


# --------------------------------------------------------------------------- the command


def test_compare_by_name_takes_the_newest_run(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    base = rng.gamma(4, 20, 400)
    save_mesh(tmp_path, "hmr2-s", base)
    save_mesh(tmp_path, "hmr2-b", base - 9)
    save_mesh(tmp_path, "hmr2-b", base + 3 + rng.normal(0, 1, 400))
    result = hmrbench("compare", "hmr2-s", "HMR2-B", "--runs", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    (difference,) = content["differences"]
    assert (difference["metric"], difference["verdict"]) == ("MPJPE", "worse")
    assert 2.5 < difference["low"] < difference["high"] < 3.5

    text = hmrbench("compare", "hmr2-s", content["b"], "--runs", tmp_path).stdout
    assert max(map(len, text.splitlines())) <= 80
    for words in ("B - A", "95 % interval", "worse", "paired bootstrap over samples, 1000 resamples, seed 0"):
        assert words in text


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (
            ("hmr2-s", "nobody", "-d", "3dpw-test"),
            3,
            "no run of 'nobody' on 3dpw-test; there are runs of: hmr2-s",
        ),
        (("hmr2-s", "none.json", "-d", "3dpw-test"), 3, "none.json: run missing"),
        (("hmr2-s", "hmr2-s"), 2, "hmr2-s was run on 3dpw-test, h36m-val-p2: say which with --dataset"),
        (("hmr2-s", "hmr2-s", "-d", "coco-val"), 3, "no run of 'hmr2-s' on coco-val"),
    ],
)
def test_bad_input(tmp_path: Path, args: tuple[str, ...], code: int, words: str) -> None:
    save_mesh(tmp_path, "hmr2-s", np.full(10, 50.0))
    save(tmp_path, eval_row("hmr2-s", "h36m-val-p2"))
    result = hmrbench("compare", *args, "--runs", tmp_path)
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.split())
