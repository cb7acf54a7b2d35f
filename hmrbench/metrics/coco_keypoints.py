"""COCO keypoint AP and AR of top-down predictions: rescoring, OKS-NMS, COCOeval, and what lies behind the
numbers.

The ten numbers are pycocotools' own (Lin et al., "Microsoft COCO", ECCV 2014; Simplified BSD). Rescoring by
the mean joint score and suppression by OKS are as in mmpose 0.x (`topdown_coco_dataset.py` and `nms.py`, read
in the ViTPose repository, Apache-2.0). Everything ends in percent.
"""

from __future__ import annotations

import io
import reprlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hmrbench.errors import DataError, HmrbenchError
from hmrbench.records import Array, Dataset, Measurement, Metric, Prediction, Sample, Score
from hmrbench.skeletons import COCO17, Skeleton

STATS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")  # in pycocotools' order
PCK_THRESHOLDS = (0.05, 0.1)  # of the longer side of the ground-truth box
JOINT_THRESHOLD = 0.2  # joints above it make up a person's score
NMS_THRESHOLD = 0.9  # OKS above which the lower of two scores is dropped
BOX = "bbox (x, y, width, height)"
MAX_AREA_PX2 = 1e10  # of a person; COCOeval leaves out what is larger

Result = Mapping[str, Any]


# --- similarity


def keypoint_similarity(pred_px: Array, gt_px: Array, area_px2: Array, sigmas: Sequence[float] | Array) -> Array:
    """Similarity exp(-d^2 / (2 area (2 sigma)^2)) of each keypoint.

    Args:
        pred_px: (..., K, 2) keypoints in pixels.
        gt_px: (..., K, 2) keypoints in pixels.
        area_px2: (...) area of the person.
        sigmas: (K,) OKS constants of the joints.

    Returns:
        (..., K) in 0..1. Leading dimensions broadcast.
    """
    squared = ((np.asarray(pred_px, np.float64) - np.asarray(gt_px, np.float64)) ** 2).sum(-1)
    area = np.asarray(area_px2, np.float64)[..., None] + np.spacing(1)
    similarity: Array = np.exp(-(squared / (2 * np.asarray(sigmas)) ** 2 / area / 2))
    return similarity


def oks(pred_px: Array, gt_px: Array, visible: Array | None, area_px2: Array, sigmas: Sequence[float] | Array) -> Array:
    """Object keypoint similarity: the mean of `keypoint_similarity` over the visible keypoints.

    Args:
        pred_px: (..., K, 2) keypoints in pixels.
        gt_px: (..., K, 2) keypoints in pixels.
        visible: (..., K), above 0 where labelled; None for all.
        area_px2: (...) area of the person.
        sigmas: (K,) OKS constants of the joints.

    Returns:
        (...) in 0..1, and 0 where no keypoint is visible. Leading dimensions broadcast.
    """
    similarity = keypoint_similarity(pred_px, gt_px, area_px2, sigmas)
    if visible is None:
        every: Array = similarity.mean(-1)
        return every
    seen = np.asarray(visible) > 0
    mean: Array = (similarity * seen).sum(-1) / np.maximum(seen.sum(-1), 1)
    return mean


def rescore(scores: Array, box_scores: Array, threshold: float = JOINT_THRESHOLD) -> Array:
    """A person's score: the box's, times the mean of the joint scores above the threshold (0 if none is).

    Args:
        scores: (N, K) joint scores; their mean is taken in their own precision.
        box_scores: (N,) confidence of the boxes.
        threshold: joints at or below it do not count.

    Returns:
        (N,) float64.
    """
    counted = [row[row > threshold] for row in np.asarray(scores)]
    means = np.array([row.mean() if len(row) else 0.0 for row in counted], np.float64)
    rescored: Array = means * np.asarray(box_scores, np.float64)
    return rescored


def oks_nms(
    keypoints_px: Array,
    scores: Array,
    areas_px2: Array,
    sigmas: Sequence[float] | Array = COCO17.sigmas,
    threshold: float = NMS_THRESHOLD,
) -> Array:
    """Greedy suppression among the people of one image: the best is kept, whoever resembles it too much goes.

    Args:
        keypoints_px: (N, K, 2) in pixels; every joint counts, however unsure.
        scores: (N,) of the people. Of two equal ones the later comes first, as in mmpose.
        areas_px2: (N,) areas of their padded, aspect-corrected boxes; a pair is compared at its mean area.
        sigmas: (K,) OKS constants of the joints.
        threshold: OKS above which one is dropped.

    Returns:
        (M,) indices of those kept, best first.
    """
    keypoints, areas = np.asarray(keypoints_px, np.float64), np.asarray(areas_px2, np.float64)
    alike = oks(keypoints[:, None], keypoints[None], None, (areas[:, None] + areas[None]) / 2, sigmas) > threshold
    left = np.argsort(scores, kind="stable")[::-1]
    keep = []
    while len(left):
        keep.append(left[0])
        left = left[1:][~alike[left[0], left[1:]]]
    return np.array(keep, np.intp)


def crop_areas(boxes_xywh_px: Array, aspect: float, padding: Array | float) -> Array:
    """Areas (N,) float32 in square pixels of boxes (N, 4) brought to the aspect width / height, then padded.

    Rounded like mmpose, which keeps sizes in units of 200 pixels in float32.
    """
    width, height = np.asarray(boxes_xywh_px, np.float64)[:, 2:].T
    size = np.stack([np.maximum(width, height * aspect), np.maximum(height, width / aspect)], axis=1)
    scale = (size / 200).astype(np.float32) * np.broadcast_to(np.float32(padding), len(size))[:, None]
    areas: Array = np.prod(scale * np.float32(200), axis=1)
    return areas


# --- predictions to results


def coco_results(
    predictions: Sequence[Prediction],
    samples: Sequence[Sample],
    *,
    skeleton: Skeleton = COCO17,
    aspect: float = 192 / 256,
    padding: float = 1.25,
    category_id: int = 1,
) -> list[dict[str, Any]]:
    """Predictions in COCO's results format, after rescoring and OKS-NMS at 0.9.

    Args:
        predictions: one per sample, in order.
        samples: the people, in the order of the data set's boxes.
        skeleton: joints of the predictions and their OKS constants.
        aspect: width over height of the crops; with the padding it gives the area at which people are
            compared, for predictions that do not know the area of their crop.
        padding: of the crops, for samples whose box does not hold its margin yet.
        category_id: of persons in the annotations.

    Returns:
        One dict per person kept: image_id, category_id, keypoints (x, y, score for each joint), score. Images
        in order of first appearance, people best first. No bbox: pycocotools would take the area of a person
        from it.

    Raises:
        DataError: numbers of predictions, samples or joints do not fit, or a sample appears twice.
        HmrbenchError: a prediction is not finite.
    """
    if not samples:
        raise DataError("there are no boxes to evaluate")
    if len(predictions) != len(samples):
        raise DataError(f"{len(predictions)} predictions for {len(samples)} samples")
    sample_id, times = Counter(sample.id for sample in samples).most_common(1)[0]
    if times > 1:
        raise DataError(f"sample {sample_id} appears {times} times")
    joints = len(skeleton.joints)
    for sample, prediction in zip(samples, predictions, strict=True):
        if np.shape(prediction.keypoints_px) != (joints, 2) or np.shape(prediction.scores) != (joints,):
            raise DataError(
                f"sample {sample.id}: keypoints {np.shape(prediction.keypoints_px)} and scores "
                f"{np.shape(prediction.scores)} do not fit the {joints} joints of {skeleton.name}"
            )
        if not (np.isfinite(prediction.keypoints_px).all() and np.isfinite(prediction.scores).all()):
            raise HmrbenchError(f"sample {sample.id}: the prediction is not finite")

    keypoints = np.stack([prediction.keypoints_px for prediction in predictions])  # (N, K, 2)
    joint_scores = np.stack([prediction.scores for prediction in predictions])  # (N, K)
    scores = rescore(joint_scores, np.array([sample.score for sample in samples]))
    boxes = np.array([sample.box_xywh_px for sample in samples])
    areas = crop_areas(boxes, aspect, np.where([sample.padded for sample in samples], 1.0, padding))
    known = [prediction.crop_area_px2 for prediction in predictions]
    areas = np.array([area if own is None else own for own, area in zip(known, areas, strict=True)], areas.dtype)
    triples = np.concatenate([keypoints, joint_scores[..., None]], axis=-1)  # (N, K, 3)

    of_image: dict[int | str, list[int]] = {}
    for index, sample in enumerate(samples):
        of_image.setdefault(sample.image_id, []).append(index)
    results = []
    for image_id, members in of_image.items():
        people = np.array(members)
        kept = people[oks_nms(keypoints[people], scores[people], areas[people], skeleton.sigmas)]
        results += [
            {
                "image_id": image_id,
                "category_id": category_id,
                "keypoints": triples[index].ravel().tolist(),
                "score": float(scores[index]),
            }
            for index in kept
        ]
    return results


# --- results to numbers


def make_coco(dataset: Mapping[str, Any]) -> COCO:
    """The content of a COCO annotation file as a `pycocotools.coco.COCO`, without its messages."""
    coco = COCO()
    coco.dataset = dataset
    with redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def restrict(coco: COCO, image_ids: Iterable[int | str]) -> COCO:
    """The annotations of those images only."""
    wanted = set(image_ids)
    return make_coco(
        {
            **coco.dataset,
            "images": [image for image in coco.dataset["images"] if image["id"] in wanted],
            "annotations": [a for a in coco.dataset["annotations"] if a["image_id"] in wanted],
        }
    )


def person_category(coco: COCO) -> int:
    """The id of the category `person`, or of the only category: see `find_person`."""
    return find_person(coco.dataset.get("categories", []))


def find_person(categories: Sequence[Mapping[str, Any]]) -> int:
    """The id of the category `person`, or of the only category.

    Raises:
        DataError: there is neither, or its id is no whole number.
    """
    people = [category for category in categories if str(category.get("name")).strip().lower() == "person"]
    if len(people or categories) != 1:
        names = reprlib.repr([category.get("name") for category in categories])
        raise DataError(f"the annotations must have one category person, not {names}")
    found = (people or categories)[0].get("id")
    if not isinstance(found, int):
        raise DataError(f"category person: its id is {reprlib.repr(found)}, no whole number")
    return int(found)


def check_coco(coco: COCO, items: Sequence[Sample | Result], skeleton: Skeleton = COCO17) -> None:
    """Find out beforehand what would end in a crash or in a wrong score without a word.

    Args:
        coco: the ground truth.
        items: the samples to predict, or results in COCO's format.
        skeleton: joints and OKS constants.

    Raises:
        DataError: see `check_truth`; no items; image ids that are not in the annotations; results of another category,
            or with anything but finite numbers in their keypoints, their score, or the box or segmentation from which
            pycocotools takes their area.
    """
    if not len(items):
        raise DataError("there are no boxes or results to evaluate")
    category = person_category(coco)
    check_truth(coco, skeleton)

    ids = [item.image_id if isinstance(item, Sample) else item.get("image_id") for item in items]
    unknown = [n for n, image_id in enumerate(ids) if not isinstance(image_id, Hashable) or image_id not in coco.imgs]
    if len(unknown) == len(ids):
        like = f"have ids like {next(iter(coco.imgs), None)!r}, not {reprlib.repr(ids[0])}"
        raise DataError(f"no image id is in the annotations, which {like}")
    if unknown:
        first = f"number {unknown[0]}: image id {reprlib.repr(ids[unknown[0]])}"
        raise DataError(f"{first} is not in the annotations ({len(unknown)} of {len(ids)} are not)")

    results = [(n, item) for n, item in enumerate(items) if not isinstance(item, Sample)]
    area_of = _area_source([result for _, result in results])
    for number, result in results:
        _check_result(f"result {number} (image {result['image_id']})", result, category, area_of, skeleton)


def check_truth(coco: COCO, skeleton: Skeleton = COCO17) -> None:
    """Find out what in the annotations would end in a crash, or in a wrong score without a word.

    Only people on one of the images are looked at, as pycocotools does; ids are looked at everywhere.

    Raises:
        DataError: an id that stands twice, or that pycocotools takes for "no match"; image ids of which some are text;
            not one triple per joint; something that is no finite number; somebody with labelled keypoints of which none
            is visible, with a box of no extent, or with an area at which no prediction counts; nobody with any.
    """
    joints = len(skeleton.joints)
    if len(skeleton.sigmas) != joints:
        raise DataError(f"{skeleton.name} has {len(skeleton.sigmas)} OKS constants for {joints} joints")
    for kind in ("images", "annotations", "categories"):
        twice = [i for i, times in Counter(entry["id"] for entry in coco.dataset.get(kind, [])).items() if times > 1]
        if twice:
            raise DataError(f"two {kind} have the same id {twice[0]!r}")
    if len({isinstance(image_id, str) for image_id in coco.imgs}) > 1:
        raise DataError("some image ids are text and some are numbers: pycocotools would make all of them text")
    category = person_category(coco)
    people = [a for a in coco.dataset["annotations"] if a["category_id"] == category and a["image_id"] in coco.imgs]
    if not sum([_check_person(f"annotation {person['id']}", person, joints) for person in people]):
        raise DataError(f"no annotation has labelled keypoints on one of the {len(coco.imgs)} images")


def _check_person(name: str, person: Mapping[str, Any], joints: int) -> bool:
    """Whether a person counts, which asks more of it."""
    missing = {"keypoints", "num_keypoints", "iscrowd", "area", "bbox"} - person.keys()
    if missing:
        raise DataError(f"{name} has no {min(missing)}")
    keypoints = numbers(name, person["keypoints"], 3 * joints, f"{joints} keypoints (x, y, visible)")
    box = numbers(name, person["bbox"], 4, BOX)
    for key in ("num_keypoints", "area"):
        if numbers(name, [person[key]], 1, key)[0] < 0:
            raise DataError(f"{name}: {key} is {person[key]}")
    if person["iscrowd"] not in (0, 1):
        raise DataError(f"{name}: iscrowd is {reprlib.repr(person['iscrowd'])}, not 0 or 1")
    if person["iscrowd"] or not person["num_keypoints"]:
        return False
    if not person["id"]:
        raise DataError("annotation id 0 means 'no match' to pycocotools: number the annotations from 1")
    if not (keypoints[2::3] > 0).any():  # COCOeval would compare the box instead: everything in it is right
        raise DataError(f"{name}: num_keypoints is {person['num_keypoints']}, but none of its keypoints is visible")
    if not 0 < person["area"] <= MAX_AREA_PX2:
        raise DataError(f"{name}: area is {person['area']}, at which no prediction can match")
    if not (box[2:] > 0).all():
        raise DataError(f"{name}: its box has no extent: {person['bbox']}")
    return True


def _area_source(results: Sequence[Result]) -> str:
    """Where pycocotools takes the area of results from, told by the first one: their bbox, segmentation or keypoints.

    Only whether unmatched results count among medium and large people depends on it.
    """
    first = results[0] if results else {}
    return next((key for key in ("bbox", "segmentation") if key in first and first[key] != []), "keypoints")


def _check_result(name: str, result: Result, category: int, area_of: str, skeleton: Skeleton) -> None:
    missing = {"category_id", "keypoints", "score", area_of} - result.keys()
    if missing:
        because = " (the first result has one)" if area_of in missing - {"keypoints"} else ""
        raise DataError(f"{name} has no {min(missing)}{because}")
    if result["category_id"] != category:
        raise DataError(f"{name}: category_id is {reprlib.repr(result['category_id'])}, persons have {category}")
    joints = len(skeleton.joints)
    numbers(name, result["keypoints"], 3 * joints, f"{joints} keypoints (x, y, score)")
    numbers(name, [result["score"]], 1, "score")
    if area_of == "bbox":
        numbers(name, result["bbox"], 4, BOX)
    elif area_of == "segmentation":
        _mask_area(name, result)


def _mask_area(name: str, result: Result) -> float:
    try:
        return float(mask.area(result["segmentation"]))
    except Exception as e:  # pycocotools checks nothing
        raise DataError(f"{name}: segmentation is no run-length code of COCO's") from e


def numbers(name: str, values: Any, count: int, what: str) -> Array:
    """(count,) finite numbers out of a JSON list.

    Raises:
        DataError: they are not; says for `what` of `name` they are.
    """
    if not isinstance(values, (list, tuple, np.ndarray)):
        raise DataError(f"{name}: {reprlib.repr(values)} instead of {count} numbers for {what}")
    if len(values) != count:
        raise DataError(f"{name}: {len(values)} numbers for {what}")
    try:
        found: Array = np.array(values)
    except ValueError:  # lists in it, of different lengths
        found = np.zeros(0)
    if found.shape != (count,) or found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        raise DataError(f"{name}: {what}: not finite numbers: {reprlib.repr(values)}")
    return found


def unpredicted(coco: COCO, results: Sequence[Result]) -> tuple[int, int]:
    """How many of the people that count have no result, since their image has fewer results than people; and of how
    many."""
    category = person_category(coco)
    people = Counter(
        a["image_id"]
        for a in coco.dataset["annotations"]
        if a["category_id"] == category and a["image_id"] in coco.imgs and a["num_keypoints"] and not a["iscrowd"]
    )
    return (people - Counter(result["image_id"] for result in results)).total(), people.total()


def evaluate_results(coco: COCO, results: Sequence[Result], skeleton: Skeleton = COCO17) -> dict[str, float]:
    """The ten numbers of COCO's keypoint task, straight from pycocotools, in percent.

    Args:
        coco: the ground truth; every image in it counts, predicted or not.
        results: in COCO's format; at most the best 20 of an image count.
        skeleton: joints and OKS constants.

    Returns:
        AP AP50 AP75 APM APL AR AR50 AR75 ARM ARL. Those that are not defined, for lack of medium or large
        people, are left out (pycocotools says -1).

    Raises:
        DataError: see `check_coco`.
    """
    return _stats(_run_cocoeval(coco, results, skeleton))


def measure_results(coco: COCO, results: Sequence[Result], skeleton: Skeleton = COCO17) -> Measurement:
    """Everything that the metric reports, from results in COCO's format.

    The per-joint numbers look at every ground truth that counts, and at the prediction that COCOeval gives it
    at OKS 0.5; a person without one counts as missed. PCK compares the distance with the longer side of the
    ground-truth box; its overall value is the mean over the joints.

    Returns:
        Scores AP to ARL, Phi_P_2D, PCK@0.05, PCK@0.1; per joint OKS and PCK; per sample what
        `ap_from_matches` needs.

    Raises:
        DataError: see `check_coco`.
    """
    evaluator = _run_cocoeval(coco, results, skeleton)
    values = _stats(evaluator)
    values["Phi_P_2D"] = (values["AP"] + values["AR"]) / 2
    with np.errstate(over="ignore"):
        per_joint = _per_joint(evaluator, skeleton)
    for threshold in PCK_THRESHOLDS:
        values[f"PCK@{threshold}"] = float(np.mean(list(per_joint[f"PCK@{threshold}"].values())))
    scores = tuple(Score(name, value, "%", True) for name, value in values.items())
    return Measurement(scores, per_joint, _matches(evaluator))


def _run_cocoeval(coco: COCO, results: Sequence[Result], skeleton: Skeleton) -> COCOeval:
    """pycocotools on copies, since it writes into what it is given; without its messages."""
    check_coco(coco, results, skeleton)
    used = {
        "images": ("id",),
        "annotations": ("id", "image_id", "category_id", "iscrowd", "area", "bbox", "keypoints", "num_keypoints"),
        "categories": ("id",),
    }
    truth = make_coco({kind: _only(coco.dataset[kind], keys) for kind, keys in used.items()})
    area_of = _area_source(results)
    keys = ("image_id", "category_id", "keypoints", "score", *(["bbox"] if area_of == "bbox" else []))
    given = _only(results, keys)
    for copy in given:  # whole numbers would be squared as such, and wrap
        copy["keypoints"] = np.array(copy["keypoints"], np.float64).tolist()
    with redirect_stdout(io.StringIO()), np.errstate(over="ignore"):
        found = truth.loadRes(given)
        if area_of == "segmentation":
            for result, copy in zip(results, found.dataset["annotations"], strict=True):
                copy["area"] = _mask_area("result", result)
        evaluator = COCOeval(truth, found, "keypoints")
        evaluator.params.catIds = [person_category(coco)]
        if skeleton.name != COCO17.name:  # pycocotools' own constants differ from the literals by a rounding
            evaluator.params.kpt_oks_sigmas = np.array(skeleton.sigmas)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def _only(entries: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    return [{key: entry[key] for key in keys if key in entry} for entry in entries]


def _stats(evaluator: COCOeval) -> dict[str, float]:
    return {name: float(value) * 100 for name, value in zip(STATS, evaluator.stats, strict=True) if value > -1}


def _of_all_areas(evaluator: COCOeval) -> list[dict[str, Any] | None]:
    """COCOeval's findings per image at area `all`, which comes first; None for images without people or
    results."""
    found: list[dict[str, Any] | None] = evaluator.evalImgs[: len(evaluator.params.imgIds)]
    return found


def _per_joint(evaluator: COCOeval, skeleton: Skeleton) -> dict[str, dict[str, float]]:
    truths, matches = [], []
    for found in _of_all_areas(evaluator):
        if found is None:
            continue
        for truth_id, match, ignored in zip(found["gtIds"], found["gtMatches"][0], found["gtIgnore"], strict=True):
            if not ignored:
                truths.append(evaluator.cocoGt.anns[truth_id])
                matches.append(int(match))
    joints = len(skeleton.joints)
    nobody = np.zeros(3 * joints)
    keypoints = np.array([truth["keypoints"] for truth in truths], np.float64).reshape(-1, joints, 3)  # (M, K, 3)
    predicted = [evaluator.cocoDt.anns[match]["keypoints"] if match else nobody for match in matches]
    pred = np.array(predicted, np.float64).reshape(-1, joints, 3)
    area = np.array([truth["area"] for truth in truths])  # (M,)
    size = np.array([max(truth["bbox"][2:]) for truth in truths])  # (M,)
    hit = np.array(matches) > 0  # (M,)

    gt, labelled = keypoints[..., :2], keypoints[..., 2] > 0
    similarity = keypoint_similarity(pred[..., :2], gt, area, skeleton.sigmas) * hit[:, None]  # (M, K)
    distance = np.linalg.norm(pred[..., :2] - gt, axis=-1)
    found_at = {f"PCK@{t}": (distance < t * size[:, None]) & hit[:, None] for t in PCK_THRESHOLDS}
    return {
        name: {
            joint: float(value[labelled[:, k], k].mean()) * 100
            for k, joint in enumerate(skeleton.joints)
            if labelled[:, k].any()
        }
        for name, value in {"OKS": similarity, **found_at}.items()
    }


# --- resampling


def _matches(evaluator: COCOeval) -> dict[str, Array]:
    """What AP is made of, at area `all` and 20 results per image; detections sorted as pycocotools sorts
    them.

    image_ids (I,), truths (I,) people that count per image, detection_image (D,) index into image_ids,
    detection_score (D,), matched (D, 10) and ignored (D, 10) at each OKS threshold.
    """
    thresholds = len(evaluator.params.iouThrs)
    truths, image, score = [], [], [np.zeros(0)]
    matched, ignored = [np.zeros((0, thresholds), bool)], [np.zeros((0, thresholds), bool)]
    for index, found in enumerate(_of_all_areas(evaluator)):
        truths.append(int(np.count_nonzero(found["gtIgnore"] == 0)) if found else 0)
        if found:
            image += [index] * len(found["dtScores"])
            score.append(np.array(found["dtScores"], np.float64))
            matched.append(found["dtMatches"].T != 0)
            ignored.append(found["dtIgnore"].T > 0)
    scores = np.concatenate(score)
    order = np.argsort(-scores, kind="stable")
    return {
        "image_ids": np.array(evaluator.params.imgIds),
        "truths": np.array(truths, np.int64),
        "detection_image": np.array(image, np.int64)[order],
        "detection_score": scores[order],
        "matched": np.concatenate(matched)[order],
        "ignored": np.concatenate(ignored)[order],
    }


def ap_from_matches(per_sample: Mapping[str, Array], image_counts: Array | None = None) -> float:
    """AP when each image is taken so many times, equal to pycocotools' for every image once.

    Args:
        per_sample: of a Measurement of this metric.
        image_counts: (I,) how often each image is taken, for example `numpy.bincount(drawn, minlength=I)`;
            None for once.

    Returns:
        AP in percent.

    Raises:
        DataError: the counts do not fit, or no person that counts is in the images taken.
    """
    truths, image = per_sample["truths"], per_sample["detection_image"]
    counts = np.ones(len(truths)) if image_counts is None else np.asarray(image_counts, np.float64)
    if counts.shape != truths.shape:
        raise DataError(f"{counts.shape} counts for {len(truths)} images")
    people = counts @ truths
    if not people > 0:
        raise DataError("no person that counts is in the images taken")
    weight = counts[image]  # (D,)
    recalls = np.linspace(0.0, 1.0, 101)
    precisions = []
    for matched, ignored in zip(per_sample["matched"].T, per_sample["ignored"].T, strict=True):
        hits = np.flatnonzero(matched & ~ignored)  # precision can only peak, recall only rise, at a hit
        right = np.cumsum(weight[hits])
        precision = right / (np.cumsum(weight * ~ignored)[hits] + np.spacing(1))
        best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(right / people, recalls, side="left")
        precisions.append(np.append(best_from_here, 0.0)[at])  # 0 at a recall never reached
    return float(np.mean(precisions)) * 100


# --- the metric


def coco_keypoints(aspect: float = 192 / 256, padding: float = 1.25, skeleton: Skeleton = COCO17) -> Metric:
    """The metric for a crop of that aspect (width over height) and padding, at which OKS-NMS compares
    areas."""
    compute = partial(_compute, aspect=aspect, padding=padding, skeleton=skeleton)
    return Metric(name="coco-keypoints", unit="%", higher_is_better=True, compute=compute)


def _compute(
    predictions: Sequence[Prediction], dataset: Dataset, *, aspect: float, padding: float, skeleton: Skeleton
) -> Measurement:
    check_coco(dataset.truth, dataset.samples, skeleton)
    results = coco_results(
        predictions,
        dataset.samples,
        skeleton=skeleton,
        aspect=aspect,
        padding=padding,
        category_id=person_category(dataset.truth),
    )
    return measure_results(dataset.truth, results, skeleton)


METRIC = coco_keypoints()
