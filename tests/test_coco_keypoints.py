"""The COCO keypoint metric against pycocotools run by hand, mmpose's own suppression, and planted answers."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hmrbench.codecs import Crops, find_codec
from hmrbench.data.crop import crop_matrix, expand_boxes, image_to_crop
from hmrbench.errors import DataError, HmrbenchError
from hmrbench.files.coco_json import check_coco, make_coco, person_category, restrict
from hmrbench.metrics.coco_eval import match_results, stats
from hmrbench.metrics.coco_keypoints import (
    METRIC,
    STATS,
    coco_keypoints,
    coco_results,
    crop_areas,
    evaluate_results,
    measure_results,
    oks,
    oks_nms,
    rescore,
    unpredicted,
)
from hmrbench.metrics.coco_matches import ap_from_matches, keypoint_similarity
from hmrbench.records import Dataset, Prediction, Sample
from hmrbench.skeletons import COCO17

NAMES = [*STATS, "Phi_P_2D", "PCK@0.05", "PCK@0.1"]


def make_truth(images: int = 12, seed: int = 0) -> dict:
    """An annotation file: people of all sizes, some joints labelled, crowds, people without keypoints."""
    rng = np.random.default_rng(seed)
    annotations = []
    for image in range(1, images + 1):
        for person in range(rng.integers(0, 5)):
            height = rng.uniform(20, 350)
            width = height * rng.uniform(0.3, 0.9)
            left, top = rng.uniform(0, 640 - width), rng.uniform(0, 480 - height)
            visible = rng.choice([0, 1, 2], 17, p=[0.3, 0.2, 0.5])
            if person == 3:
                visible[:] = 0
            xy = np.round([left, top] + rng.uniform(0, 1, (17, 2)) * [width, height])
            triples = np.where(visible[:, None] > 0, np.column_stack([xy, visible]), 0).astype(int)
            annotations.append(
                {
                    "id": 100 + len(annotations),
                    "image_id": image,
                    "category_id": 1,
                    "iscrowd": int(person == 2 and image % 4 == 0),
                    "num_keypoints": int((visible > 0).sum()),
                    "area": width * height * 0.6,
                    "bbox": [left, top, width, height],
                    "keypoints": triples.ravel().tolist(),
                    "segmentation": [[left, top, left + width, top, left, top + height]],
                }
            )
    return {
        "images": [{"id": n, "width": 640, "height": 480, "file_name": f"{n}.jpg"} for n in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person", "keypoints": list(COCO17.joints)}],
    }


def make_results(truth: dict, seed: int = 0, extra: int = 4) -> list[dict]:
    """People found again more or less well, twice, not at all, and invented; many scores are tied."""
    rng = np.random.default_rng(seed)
    results = []
    for annotation in truth["annotations"]:
        for _ in range(rng.integers(0, 3)):
            xy = np.array(annotation["keypoints"], float).reshape(17, 3)[:, :2]
            xy = xy + rng.normal(0, rng.uniform(0, 0.05), (17, 2)) * annotation["bbox"][3]
            results.append((annotation["image_id"], xy, round(rng.uniform(), 1)))
    for image in truth["images"]:
        for _ in range(rng.integers(0, extra)):
            results.append((image["id"], rng.uniform(0, 400, (17, 2)), round(rng.uniform(0, 0.7), 1)))
    order = rng.permutation(len(results))
    return [
        {
            "image_id": results[n][0],
            "category_id": 1,
            "keypoints": np.column_stack([results[n][1], np.ones(17)]).ravel().tolist(),
            "score": float(results[n][2]),
        }
        for n in order
    ]


def by_hand(truth: dict, results: list[dict], folder: Path, images: list[int] | None = None) -> dict[str, float]:
    """pycocotools as its users call it, from files."""
    evaluator = evaluate_by_hand(truth, results, folder, images)
    return {name: float(value) * 100 for name, value in zip(STATS, evaluator.stats, strict=True)}


def evaluate_by_hand(truth: dict, results: list[dict], folder: Path, images: list[int] | None = None) -> COCOeval:
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "results.json").write_text(json.dumps(results))
    coco = COCO(str(folder / "truth.json"))
    evaluator = COCOeval(coco, coco.loadRes(str(folder / "results.json")), "keypoints")
    if images:
        evaluator.params.imgIds = images
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator


@pytest.fixture(params=["generated", "photographs"])
def truth(request) -> dict:
    """An annotation file's content."""
    if request.param == "generated":
        return make_truth()
    folder = request.getfixturevalue("coco_mini")
    return json.loads((folder / "annotations" / "person_keypoints_val2017.json").read_text())


def counting(truth: dict) -> list[dict]:
    return [a for a in truth["annotations"] if a["num_keypoints"] and not a["iscrowd"]]


def as_dataset(truth: dict, annotations: list[dict]) -> Dataset:
    samples = tuple(Sample(str(a["id"]), Path("x.jpg"), a["image_id"], tuple(a["bbox"])) for a in annotations)
    return Dataset("generated", samples, make_coco(truth), "gt", "", len(samples))


# --- similarity


def test_oks_equals_slow_version():
    rng = np.random.default_rng(0)
    gt, area = rng.uniform(0, 200, (6, 17, 2)), rng.uniform(400, 40000, 6)
    pred = gt + rng.normal(0, 6, gt.shape)
    visible = rng.choice([0, 1, 2], (6, 17))
    visible[5] = 0
    for array in (gt, pred, area, visible):
        array.setflags(write=False)
    got = oks(pred, gt, visible, area, COCO17.sigmas)
    want = [reference.oks_one(*case, COCO17.sigmas) for case in zip(pred, gt, visible, area, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-12)
    assert got[5] == 0
    table = oks(pred[:, None], gt[None], None, area[None], COCO17.sigmas)  # every prediction with every truth
    every = [[reference.oks_one(p, g, [1] * 17, a, COCO17.sigmas) for g, a in zip(gt, area, strict=True)] for p in pred]
    np.testing.assert_allclose(table, every, rtol=1e-9, atol=1e-300)
    assert (keypoint_similarity(gt, gt, area, COCO17.sigmas) == 1).all()


def test_rescore_row_by_row():
    rng = np.random.default_rng(1)
    scores, boxes = rng.uniform(0, 1, (9, 17)), rng.uniform(0, 1, 9)
    scores[3] *= 0.2  # no joint above the threshold
    scores[4, 0] = 0.2  # at the threshold does not count
    got = rescore(scores, boxes)
    for row, box, value in zip(scores, boxes, got, strict=True):
        counted = [s for s in row if s > 0.2]
        assert value == pytest.approx(box * sum(counted) / len(counted) if counted else 0.0, rel=1e-12)
    assert got[3] == 0
    assert rescore(np.zeros((0, 17)), np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("seed", range(5))
def test_oks_nms_equals_slow_version(seed):
    rng = np.random.default_rng(seed)
    people = rng.uniform(0, 300, (6, 17, 2))[rng.integers(0, 6, 25)]
    keypoints = people + rng.normal(0, 2, people.shape) * rng.uniform(0, 3, (25, 1, 1))
    scores, areas = rng.choice([0.2, 0.5, 0.9], 25), rng.uniform(1000, 30000, 25)
    for threshold in (0.3, 0.9):
        want = reference.oks_nms(keypoints, scores, areas, COCO17.sigmas, threshold)
        assert oks_nms(keypoints, scores, areas, COCO17.sigmas, threshold).tolist() == want
    assert oks_nms(keypoints[:0], scores[:0], areas[:0]).tolist() == []


def test_official_rescoring_suppression_and_stats(refs, coco_mini):
    ref = np.load(refs / "oks_nms.npz")
    found = json.loads(
        (coco_mini / "person_detection_results" / "COCO_val2017_detections_AP_H_56_person.json").read_text()
    )
    truth = json.loads((coco_mini / "annotations" / "person_keypoints_val2017.json").read_text())
    keypoints, boxes = ref["keypoints"], np.array([box["bbox"] for box in found])
    np.testing.assert_array_equal(rescore(keypoints[..., 2], ref["det_score"]), ref["rescored"])
    np.testing.assert_array_equal(crop_areas(boxes, 0.75, 1.25), ref["area"])

    samples = tuple(
        Sample(str(n), Path("x.jpg"), box["image_id"], tuple(box["bbox"]), box["score"]) for n, box in enumerate(found)
    )
    predictions = [Prediction(k[:, :2], k[:, 2]) for k in keypoints]
    results = coco_results(predictions, samples)
    kept = {(r["image_id"], *r["keypoints"]) for r in results}
    keep = [(s.image_id, *k.ravel().tolist()) in kept for s, k in zip(samples, keypoints, strict=True)]
    np.testing.assert_array_equal(keep, ref["keep"])
    assert len(results) == ref["keep"].sum()
    measured = METRIC.compute(predictions, Dataset("mini", samples, make_coco(truth), "det", "", len(samples)))
    assert [score.name for score in measured.scores] == NAMES
    np.testing.assert_array_equal([score.value for score in measured.scores[:10]], ref["coco_stats"] * 100)
    assert ap_from_matches(measured.per_sample) == pytest.approx(measured.scores[0].value, abs=1e-12)


def test_crop_areas_are_those_of_the_crops():
    rng = np.random.default_rng(2)
    boxes = rng.uniform(1, 400, (50, 4))
    np.testing.assert_array_equal(crop_areas(boxes, 0.75, 1.25), expand_boxes(boxes, 0.75, 1.25)[1].prod(axis=1))
    padding = np.where(np.arange(50) % 2, 1.0, 1.25)
    want = np.where(padding == 1, crop_areas(boxes, 0.75, 1.0), crop_areas(boxes, 0.75, 1.25))
    np.testing.assert_array_equal(crop_areas(boxes, 0.75, padding), want)


# --- results


def test_coco_results_suppress_within_an_image_only():
    xy = np.random.default_rng(3).uniform(0, 100, (17, 2))
    scores = np.full(17, 0.5, np.float32)
    box = (0.0, 0.0, 75.0, 100.0)
    samples = [Sample(str(n), Path("x.jpg"), image, box, 0.3 + 0.1 * n) for n, image in enumerate([7, 3, 7, 3])]
    shifted = [0.0, 40.0, 0.1, 0.0]
    results = coco_results([Prediction(xy + shift, scores) for shift in shifted], samples, category_id=1)
    assert [r["image_id"] for r in results] == [7, 3, 3]  # images as they came, best person first
    assert [r["score"] for r in results] == pytest.approx([0.25, 0.3, 0.2])
    assert all(set(r) == {"image_id", "category_id", "keypoints", "score"} for r in results)
    assert results[0]["keypoints"][:3] == [xy[0, 0] + 0.1, xy[0, 1] + 0.1, 0.5]


def test_padded_boxes_are_compared_at_their_own_area():
    xy = np.zeros((17, 2))
    moved = xy + 3.0  # OKS 0.88 at the area of the box, 0.92 at 1.25^2 times that
    scores, box = np.full(17, 0.5), (0.0, 0.0, 75.0, 100.0)
    for padded, kept in ((False, 1), (True, 2)):
        samples = [Sample(str(n), Path("x.jpg"), 1, box, padded=padded) for n in range(2)]
        assert len(coco_results([Prediction(xy, scores), Prediction(moved, scores)], samples)) == kept


def test_predictions_that_cannot_be_right_raise():
    good = Prediction(np.ones((17, 2)), np.ones(17))
    samples = [Sample(name, Path("x.jpg"), 1, (0.0, 0.0, 9.0, 9.0)) for name in ("first", "second")]
    with pytest.raises(DataError, match="no boxes"):
        coco_results([], [])
    with pytest.raises(DataError, match="1 predictions for 2 samples"):
        coco_results([good], samples)
    with pytest.raises(DataError, match="first appears 2 times"):
        coco_results([good, good], [samples[0]] * 2)
    with pytest.raises(DataError, match="second"):
        coco_results([good, Prediction(np.ones((16, 2)), np.ones(16))], samples)
    for bad in (
        Prediction(np.full((17, 2), np.nan), np.ones(17)),
        Prediction(np.ones((17, 2)), np.full(17, np.inf)),
    ):
        with pytest.raises(HmrbenchError, match="second"):
            coco_results([good, bad], samples)


# --- numbers


@pytest.mark.parametrize("seed", range(4))
def test_evaluate_results_equals_pycocotools_by_hand(seed, tmp_path, capsys):
    truth = make_truth(seed=seed)
    results = make_results(truth, seed)
    want = by_hand(truth, results, tmp_path)
    capsys.readouterr()
    coco = make_coco(truth)
    before = copy.deepcopy((truth, results))
    got = evaluate_results(coco, results)
    assert got == want
    assert 5 < got["AP"] < 95
    assert capsys.readouterr().out == ""
    assert (truth, results) == before  # pycocotools writes into both
    assert evaluate_results(coco, json.loads(json.dumps(results))) == got


def crowded(seed: int) -> tuple[dict, list[dict]]:
    """Everything that decides who gets whom: equal OKS, equal scores, the same person twice, crowds, people without
    keypoints, sizes at the bounds of the ranges, more results than count, images without people or without results."""
    rng = np.random.default_rng(seed)
    truth = make_truth(images=14, seed=seed)
    for annotation in list(truth["annotations"]):
        annotation["iscrowd"] = int(rng.random() < 0.15)
        annotation["area"] = float(rng.choice([annotation["area"], 32**2, 96**2, 96**2 + 1]))
        if rng.random() < 0.3:  # as far from whatever resembles it
            truth["annotations"].append({**annotation, "id": 5000 + annotation["id"]})
        if rng.random() < 0.2:
            annotation["num_keypoints"] = 0
    rng.shuffle(truth["annotations"])
    results = []
    for annotation in truth["annotations"]:
        xy = np.array(annotation["keypoints"], float).reshape(17, 3)
        for _ in range(rng.integers(0, 7) if annotation["image_id"] % 5 else 0):
            noise = rng.choice([0, 0.01, 0.03, 0.06]) * annotation["bbox"][3]
            moved = np.column_stack([xy[:, :2] + np.round(rng.normal(0, noise, (17, 2))), np.ones(17)])
            score = float(rng.choice([0.2, 0.4, 0.8]))
            fields = {"image_id": annotation["image_id"], "category_id": 1, "score": score}
            results.append({**fields, "keypoints": moved.ravel().tolist()})
    rng.shuffle(results)
    return truth, results


@pytest.mark.parametrize("seed", range(12))
def test_matches_are_those_of_pycocotools(seed, tmp_path):
    truth, results = crowded(seed)
    evaluator = evaluate_by_hand(truth, results, tmp_path)
    found = match_results(make_coco(truth), results, COCO17)
    ids = np.array([a["id"] for a in sorted(truth["annotations"], key=lambda a: a["image_id"])])
    for n, want in enumerate(evaluator.evalImgs):
        area, image = divmod(n, len(found.image_ids))
        people, own = found.truth_image == image, found.image == image
        if want is None:
            assert not people.any()
            assert not own.any()
            continue
        ignored = dict(zip(want["gtIds"], want["gtIgnore"].astype(bool), strict=True))
        assert [ignored[i] for i in ids[people]] == found.truth_ignored[area, people].tolist()
        assert found.score[own].tolist() == want["dtScores"]
        match = found.match[area][:, own]
        np.testing.assert_array_equal(np.where(match < 0, 0, ids[match]), want["dtMatches"])
        np.testing.assert_array_equal(found.ignored[area][:, own], want["dtIgnore"])
    defined = {k: float(v) * 100 for k, v in zip(STATS, evaluator.stats, strict=True) if v > -1}
    assert stats(found) == defined
    assert (found.match >= 0).any()
    assert found.ignored.any()


def test_at_most_twenty_results_an_image_count(tmp_path):
    truth = make_truth()
    results = make_results(truth, extra=40)
    coco = make_coco(truth)
    measured = measure_results(coco, results)
    assert {s.name: s.value for s in measured.scores[:10]} == by_hand(truth, results, tmp_path)
    assert np.bincount(measured.per_sample["detection_image"]).max() == 20


def test_numbers_that_are_not_defined_are_left_out():
    truth = make_truth()
    truth["annotations"] = [a for a in truth["annotations"] if a["area"] > 96**2]
    results = make_results(truth)
    got = evaluate_results(make_coco(truth), results)
    assert set(STATS) - set(got) == {"APM", "ARM"}
    assert [s.name for s in measure_results(make_coco(truth), results).scores] == [
        n for n in NAMES if n in got or n not in STATS
    ]


def test_ground_truth_as_predictions_is_perfect(truth):
    people = counting(truth)
    results = [{"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 1.0} for a in people]
    measured = measure_results(make_coco(truth), results)
    assert [s.name for s in measured.scores] == NAMES
    assert all(s.value == pytest.approx(100.0, abs=1e-9) for s in measured.scores)
    assert all(s.unit == "%" and s.higher_is_better for s in measured.scores)
    assert {v for joints in measured.per_joint.values() for v in joints.values()} == {100.0}
    assert set(measured.per_joint["OKS"]) == set(COCO17.joints)


@pytest.mark.parametrize("name", ["udp", "dark"])
def test_ground_truth_through_heatmaps_is_perfect(truth, name):
    """Box -> crop -> target -> decoding -> results -> AP: only a wrong geometry loses anything."""
    people = counting(truth)
    dataset = as_dataset(truth, people)
    triples = np.array([a["keypoints"] for a in people], float).reshape(-1, 17, 3)
    center, size = expand_boxes(np.array([a["bbox"] for a in people]), 0.75)
    codec = find_codec(name)
    matrices = [crop_matrix(c, s, (256, 192), codec.geometry) for c, s in zip(center, size, strict=True)]
    heatmaps, _ = codec.encode(image_to_crop(triples[..., :2], np.stack(matrices)), triples[..., 2], (256, 192))
    keypoints, scores = codec.decode(torch.from_numpy(heatmaps), Crops(center, size, (256, 192)))
    predictions = [Prediction(k, s) for k, s in zip(keypoints, scores, strict=True)]
    values = {s.name: s.value for s in METRIC.compute(predictions, dataset).scores}
    assert all(value == pytest.approx(100.0, abs=1e-9) for value in values.values())


def test_saved_predictions_score_the_same_to_the_last_digit():
    truth = make_truth(seed=5)
    dataset = as_dataset(truth, counting(truth))
    rng = np.random.default_rng(5)
    predictions = []
    for annotation in counting(truth):
        xy = np.array(annotation["keypoints"], float).reshape(17, 3)[:, :2]
        noise = rng.normal(0, 0.04, (17, 2)) * annotation["bbox"][3]
        predictions.append(Prediction(xy + noise, rng.uniform(0, 1, 17).astype(np.float32)))
    direct = METRIC.compute(predictions, dataset)
    saved = json.loads(json.dumps(coco_results(predictions, dataset.samples)))
    again = measure_results(dataset.truth, saved)
    assert again.scores == direct.scores
    assert again.per_joint == direct.per_joint
    assert 5 < direct.scores[0].value < 95
    other = coco_keypoints(aspect=1.0, padding=1.0).compute(predictions, dataset)
    assert [s.name for s in other.scores] == NAMES


def test_per_joint_numbers_of_planted_errors():
    """Two people of one size: one is found with a known error at one joint, the other is missed."""
    triples = np.column_stack([np.arange(17) * 10.0, np.arange(17) * 5.0, np.full(17, 2)])
    truth = make_truth(images=1)
    truth["annotations"] = [
        {"id": n, "image_id": 1, "category_id": 1, "iscrowd": 0, "num_keypoints": 17, "area": 5000.0,
         "bbox": [0, 0, 100, 200], "keypoints": (triples + np.array([300 * (n - 1), 0, 0])).ravel().tolist()}
        for n in (1, 2)
    ]  # fmt: skip
    truth["annotations"][1]["keypoints"][2] = 0  # the missed one's nose is not labelled
    found = triples.copy()
    found[9, 0] += 12  # left wrist: 12 / 200 = 0.06
    found[0, 1] += 20  # nose: 0.1, and at the threshold is not below it
    results = [{"image_id": 1, "category_id": 1, "keypoints": found.ravel().tolist(), "score": 0.9}]
    per_joint = measure_results(make_coco(truth), results).per_joint
    wrist = np.exp(-(12**2) / (2 * 5000 * (2 * 0.062) ** 2))
    nose = np.exp(-(20**2) / (2 * 5000 * (2 * 0.026) ** 2))
    assert per_joint["OKS"]["left_wrist"] == pytest.approx(50 * wrist)
    assert per_joint["OKS"]["nose"] == pytest.approx(100 * nose)
    assert per_joint["OKS"]["left_hip"] == 50
    assert [per_joint[f"PCK@{t}"]["left_wrist"] for t in (0.05, 0.1)] == [0, 50]
    assert [per_joint[f"PCK@{t}"]["nose"] for t in (0.05, 0.1)] == [0, 0]
    measured = measure_results(make_coco(truth), results)
    values = {s.name: s.value for s in measured.scores}
    assert values["PCK@0.1"] == pytest.approx(16 * 50 / 17)
    assert values["Phi_P_2D"] == (values["AP"] + values["AR"]) / 2


# --- resampling


@pytest.mark.parametrize("seed", range(4))
def test_ap_from_matches_equals_pycocotools(seed, tmp_path):
    truth = make_truth(images=20, seed=seed)
    results = make_results(truth, seed)
    measured = measure_results(make_coco(truth), results)
    per_sample = measured.per_sample
    assert ap_from_matches(per_sample) == pytest.approx(measured.scores[0].value, abs=1e-12)
    np.testing.assert_array_equal(per_sample["image_ids"], np.arange(1, 21))

    chosen = np.random.default_rng(seed).random(20) < 0.5  # some images only
    want = by_hand(truth, results, tmp_path, [int(i) for i in per_sample["image_ids"][chosen]])
    assert ap_from_matches(per_sample, chosen) == pytest.approx(want["AP"], abs=1e-12)

    # Some images twice or more: the same as a data set that holds copies of them. Scores differ here,
    # as pycocotools orders equal ones by image.
    results = [{**r, "score": 0.001 * n} for n, r in enumerate(results)]
    per_sample = measure_results(make_coco(truth), results).per_sample
    counts = np.random.default_rng(seed).integers(0, 4, 20)
    bigger: dict = {"images": [], "annotations": [], "categories": truth["categories"]}
    more = []
    for image, count in zip(truth["images"], counts, strict=True):
        for _ in range(count):
            new = len(bigger["images"]) + 1
            bigger["images"].append({**image, "id": new})
            for a in truth["annotations"]:
                if a["image_id"] == image["id"]:
                    bigger["annotations"].append({**a, "id": len(bigger["annotations"]) + 1, "image_id": new})
            more += [{**r, "image_id": new} for r in results if r["image_id"] == image["id"]]
    want = by_hand(bigger, more, tmp_path)
    assert ap_from_matches(per_sample, counts) == pytest.approx(want["AP"], abs=1e-12)


def test_ap_from_matches_says_what_does_not_fit():
    per_sample = measure_results(make_coco(make_truth()), make_results(make_truth())).per_sample
    with pytest.raises(DataError, match="12 images"):
        ap_from_matches(per_sample, np.ones(11))
    with pytest.raises(DataError, match="no person"):
        ap_from_matches(per_sample, np.zeros(12))


def test_ap_is_zero_without_a_match():
    truth = make_truth()
    far = [{**r, "keypoints": [9999.0, 9999.0, 1.0] * 17} for r in make_results(truth)]
    measured = measure_results(make_coco(truth), far)
    assert measured.scores[0].value == ap_from_matches(measured.per_sample) == 0


# --- what would be a silent zero


def broken(change) -> tuple[COCO, list[dict]]:
    truth = make_truth()
    results = make_results(truth)
    change(truth, results)
    return make_coco(truth), results


def set_all(key, value):
    return lambda truth, results: [a.update({key: value}) for a in truth["annotations"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, r: r.clear(), "no boxes"),
        (lambda t, r: [x.update(image_id=x["image_id"] + 5000) for x in r], "no image id is in"),
        (lambda t, r: [x.update(image_id=str(x["image_id"])) for x in r], "no image id is in"),
        (lambda t, r: r[1].update(image_id=77), "image id 77"),
        (lambda t, r: r[1].update(category_id=2), "result 1 .*category_id"),
        (lambda t, r: r[1]["keypoints"].pop(), "result 1 .*50 numbers"),
        (lambda t, r: r[1]["keypoints"].__setitem__(4, float("nan")), "result 1 .*not finite"),
        (lambda t, r: r[1].update(score=float("inf")), "result 1 .*not finite"),
        (lambda t, r: r[1].update(score=None), "result 1 .*not finite"),
        (lambda t, r: r[1].pop("score"), "result 1 .*has no score"),
        (set_all("area", 0), r"annotation \d+: area"),
        (set_all("area", float("nan")), r"annotation \d+: area"),
        (set_all("num_keypoints", 0), "no annotation has labelled keypoints"),
        (set_all("iscrowd", 1), "no annotation has labelled keypoints"),
        (set_all("keypoints", [1] * 48), r"annotation \d+: 48 numbers for 17"),
        (set_all("bbox", [0, 0, float("nan"), 1]), r"annotation \d+: bbox .*not finite"),
        (lambda t, r: [a.pop("area") for a in t["annotations"]], r"annotation \d+ has no area"),
        (lambda t, r: counting(t)[0].update(id=0), "annotation id 0"),
        (lambda t, r: t["annotations"][1].update(id=100), "same id"),
        (lambda t, r: t["categories"].append({"id": 2, "name": "person"}), "one category person"),
        (lambda t, r: t["categories"].append({"id": 1, "name": "dog"}), "two categories have the same id 1"),
        (lambda t, r: t["categories"][0].update(id="1"), "category person: its id is '1'"),
        (set_all("keypoints", [5, 5, 0] * 17), r"annotation \d+: num_keypoints is \d+, but none .* visible"),
        (set_all("keypoints", ["5"] * 51), r"annotation \d+: 17 keypoints .*not finite numbers"),
        (set_all("keypoints", None), r"annotation \d+: None instead of 51 numbers"),
        (set_all("num_keypoints", -1), r"annotation \d+: num_keypoints is -1"),
        (set_all("bbox", [5, 5, 0, 9]), r"annotation \d+: its box has no extent: \[5, 5, 0, 9\]"),
        (set_all("bbox", [5, 5, 9]), r"annotation \d+: 3 numbers for bbox"),
        (set_all("area", 1e11), r"annotation \d+: area is 1000"),
        (set_all("area", 10**400), r"annotation \d+: area"),
        (set_all("iscrowd", 2), r"annotation \d+: iscrowd is 2"),
        (lambda t, r: t["images"].append(t["images"][0]), "two images have the same id 1"),
        (lambda t, r: t["images"].append({"id": "x"}), "some image ids are text"),
        (lambda t, r: [a.update(image_id=77) for a in t["annotations"]], "on one of the 12 images"),
        (lambda t, r: r[1].update(image_id=[1]), r"number 1: image id \[1\]"),
        (lambda t, r: r[1].update(score="0.9"), "result 1 .*score: not finite numbers: \\['0.9'\\]"),
        (lambda t, r: r[1].update(score=10**400), "result 1 .*score: not finite"),
        (lambda t, r: r[1].update(keypoints=[True] * 51), "result 1 .*not finite numbers"),
        (lambda t, r: r[1].update(keypoints=[*[1.5] * 50, 10**400]), "result 1 .*not finite numbers"),
        (lambda t, r: r[1].update(keypoints=None), "result 1 .*None instead of 51 numbers"),
        (lambda t, r: r[1].update(keypoints=[[1, 2, 3]] * 51), "result 1 .*not finite"),
        (lambda t, r: r[0].update(bbox=[1, 2, 3, 4]), r"result 1 .*has no bbox \(the first result has one\)"),
        (lambda t, r: [x.update(bbox=None) for x in r], "result 0 .*None instead of 4 numbers for bbox"),
        (lambda t, r: [x.update(segmentation=[[1, 2]]) for x in r], "result 0 .*no run-length code"),
    ],
)  # fmt: skip
def test_what_would_score_zero_without_a_word_raises(change, message):
    coco, results = broken(change)
    with pytest.raises(DataError, match=message):
        evaluate_results(coco, results)


def areas_of(truth, results):
    """A box, or a mask, per result, of another size than its keypoints span."""
    boxes = [[10.0, 10.0, 20.0 + 7 * n % 300, 90.0] for n in range(len(results))]
    masks = mask.encode(np.asfortranarray(np.triu(np.ones((480, 640), np.uint8), 400)))
    return [
        [{**r, "bbox": box} for r, box in zip(results, boxes, strict=True)],
        [{**r, "segmentation": {**masks, "counts": masks["counts"].decode()}} for r in results],
        [{**results[0], "bbox": []}, *[{**r, "bbox": [1, 2, 3, 4]} for r in results[1:]]],
    ]


@pytest.mark.parametrize("case", range(3))
def test_areas_of_results_are_taken_from_where_pycocotools_takes_them(case, tmp_path):
    truth = make_truth()
    results = areas_of(truth, make_results(truth))[case]
    before = copy.deepcopy(results)
    assert evaluate_results(make_coco(truth), results) == by_hand(truth, results, tmp_path)
    assert results == before
    plain = evaluate_results(make_coco(truth), make_results(truth))
    assert (evaluate_results(make_coco(truth), results) == plain) == (case == 2)


def test_what_other_tools_add_changes_nothing():
    truth = make_truth()
    results = make_results(truth)
    more = [{**r, "caption": "x", "id": 7, "area": "?", "iscrowd": None, "center": [1, 2]} for r in results]
    assert evaluate_results(make_coco(truth), more) == evaluate_results(make_coco(truth), results)


@pytest.mark.parametrize("change", ["text ids", "strangers", "persons are 3", "persons are 0", "Person", "lists"])
def test_unusual_files_score_as_in_pycocotools(change, tmp_path):
    truth = make_truth()
    results = make_results(truth)
    if change == "text ids":
        for entry in [*truth["annotations"], *results]:
            entry["image_id"] = f"im{entry['image_id']}"
        for image in truth["images"]:
            image["id"] = f"im{image['id']}"
    elif change == "strangers":  # annotations on images of which the file says nothing
        truth["annotations"] += [{**a, "id": 9000 + a["id"], "image_id": 777} for a in truth["annotations"]]
    elif change.startswith("persons are"):
        number = int(change[-1])
        truth["categories"] = [{"id": 1, "name": "dog"}, {"id": number, "name": "person"}]
        for entry in [*truth["annotations"], *results]:
            entry["category_id"] = number
        truth["annotations"].append({"id": 5000, "image_id": 1, "category_id": 1, "keypoints": "of a dog"})
        plain = {**truth, "annotations": truth["annotations"][:-1], "categories": truth["categories"][1:]}
    elif change == "Person":
        truth["categories"] = [{"id": 1, "name": "Person"}, {"id": 2, "name": "dog"}]
        plain = {**truth, "categories": truth["categories"][:1]}
    else:
        truth["info"] = json.loads("[" * 300 + "]" * 300)
        plain = make_truth()
    plain = truth if change in ("text ids", "strangers") else plain
    got = evaluate_results(make_coco(truth), results)
    assert got == by_hand(plain, results, tmp_path)
    assert got["AP"] > 5


def test_whole_numbers_beyond_pictures_do_not_wrap():
    """numpy squares 2**33 in whole numbers to 0, which would be a perfect match."""
    truth = make_truth()
    triples = np.array([a["keypoints"] for a in counting(truth)]).reshape(-1, 17, 3)
    far = triples + np.array([2**33, 2**33, 0])
    results = [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": k.ravel().tolist(), "score": 1.0}
        for a, k in zip(counting(truth), far, strict=True)
    ]
    assert evaluate_results(make_coco(truth), results)["AP"] == 0


def test_people_without_prediction_are_counted():
    truth = make_truth()
    people = counting(truth)
    results = [{"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 1.0} for a in people]
    coco = make_coco(truth)
    assert unpredicted(coco, results) == (0, len(people))
    assert unpredicted(coco, results[3:]) == (3, len(people))
    assert unpredicted(coco, [results[0]] * 50) == (
        len(people) - sum(a["image_id"] == people[0]["image_id"] for a in people),
        len(people),
    )


def test_numbers_of_other_kinds_count_as_numbers():
    """Rows of arrays, tuples or single numbers of numpy go the long way, with the same outcome."""
    truth = make_truth()
    results = make_results(truth)
    other = [{**r, "keypoints": tuple(r["keypoints"]), "score": np.float64(r["score"])} for r in results]
    arrays = [{**r, "keypoints": np.array(r["keypoints"])} for r in results]
    want = evaluate_results(make_coco(truth), results)
    assert evaluate_results(make_coco(truth), other) == evaluate_results(make_coco(truth), arrays) == want


def test_check_coco_of_samples():
    truth = make_truth()
    dataset = as_dataset(truth, counting(truth))
    check_coco(dataset.truth, dataset.samples)
    with pytest.raises(DataError, match="no boxes"):
        check_coco(dataset.truth, ())
    strangers = [Sample("a", Path("x.jpg"), "785", (0.0, 0.0, 1.0, 1.0))]
    with pytest.raises(DataError, match="'785'"):
        check_coco(dataset.truth, strangers)


def test_person_category_and_restrict():
    truth = make_truth()
    truth["categories"] = [{"id": 3, "name": "dog"}, {"id": 1, "name": "person"}]
    coco = make_coco(truth)
    assert person_category(coco) == 1
    some = restrict(coco, [2, 3, 3])
    assert sorted(some.imgs) == [2, 3]
    assert {a["image_id"] for a in some.anns.values()} <= {2, 3}
    assert len(coco.imgs) == 12
