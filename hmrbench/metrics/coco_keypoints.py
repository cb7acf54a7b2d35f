"""COCO keypoint AP and AR of top-down predictions: rescoring, OKS-NMS, COCOeval, and what lies behind the
numbers.

The ten numbers are pycocotools' own (Lin et al., "Microsoft COCO", ECCV 2014; Simplified BSD). Rescoring by
the mean joint score and suppression by OKS are as in mmpose 0.x (`topdown_coco_dataset.py` and `nms.py`, read
in the ViTPose repository, Apache-2.0). Everything ends in percent.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hmrbench.errors import DataError, HmrbenchError
from hmrbench.records import Array, Dataset, Measurement, Metric, Prediction, Sample, Score
from hmrbench.skeletons import COCO17, Skeleton

STATS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")  # in pycocotools' order
PCK_THRESHOLDS = (0.05, 0.1)  # of the longer side of the ground-truth box
JOINT_THRESHOLD = 0.2  # joints above it make up a person's score
NMS_THRESHOLD = 0.9  # OKS above which the lower of two scores is dropped

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
    """The id of the category `person`, or of the only category.

    Raises:
        DataError: there is neither.
    """
    categories = coco.dataset.get("categories", [])
    people = [category for category in categories if category.get("name") == "person"]
    if len(people or categories) != 1:
        raise DataError(f"the annotations must have one category person, not {[c.get('name') for c in categories]}")
    return int((people or categories)[0]["id"])


def check_coco(coco: COCO, items: Sequence[Sample | Result], skeleton: Skeleton = COCO17) -> None:
    """Find out beforehand what would end in a crash or in a score of zero without a word.

    Args:
        coco: the ground truth.
        items: the samples to predict, or results in COCO's format.
        skeleton: joints and OKS constants.

    Raises:
        DataError: no items; image ids that are not in the annotations; not one triple per joint and
            annotation; an area that is not positive; an annotation id that pycocotools takes for "no match";
            values that are not finite; results of another category.
    """
    if not len(items):
        raise DataError("there are no boxes or results to evaluate")
    category = person_category(coco)
    _check_truth(coco, category, skeleton)

    ids = [item.image_id if isinstance(item, Sample) else item.get("image_id") for item in items]
    known = set(coco.imgs)
    unknown = [image_id for image_id in ids if image_id not in known]
    if len(unknown) == len(ids):
        raise DataError(
            f"no image id is in the annotations, which have ids like {next(iter(coco.imgs), None)!r}, not {ids[0]!r}"
        )
    if unknown:
        raise DataError(f"image id {unknown[0]!r} is not in the annotations ({len(unknown)} of {len(ids)} are not)")

    for number, item in enumerate(items):
        if isinstance(item, Sample):
            continue
        name = f"result {number} (image {item['image_id']})"
        if item.get("category_id") != category:
            raise DataError(f"{name}: category_id is {item.get('category_id')!r}, persons have {category}")
        keypoints, score = item.get("keypoints", ()), item.get("score")
        if len(keypoints) != 3 * len(skeleton.joints):
            raise DataError(f"{name}: {len(keypoints)} numbers for {len(skeleton.joints)} keypoints (x, y, score)")
        if not _finite([*keypoints, score]):
            raise DataError(f"{name}: keypoints or score are not finite")


def _check_truth(coco: COCO, category: int, skeleton: Skeleton) -> None:
    joints = len(skeleton.joints)
    if len(skeleton.sigmas) != joints:
        raise DataError(f"{skeleton.name} has {len(skeleton.sigmas)} OKS constants for {joints} joints")
    if len(coco.anns) != len(coco.dataset["annotations"]):
        raise DataError("two annotations have the same id")
    labelled = 0
    for annotation in coco.dataset["annotations"]:
        if annotation["category_id"] != category:
            continue
        name = f"annotation {annotation['id']}"
        missing = {"keypoints", "num_keypoints", "iscrowd", "area", "bbox"} - annotation.keys()
        if missing:
            raise DataError(f"{name} has no {min(missing)}")
        if len(annotation["keypoints"]) != 3 * joints:
            raise DataError(f"{name}: {len(annotation['keypoints'])} numbers for {joints} keypoints (x, y, visible)")
        if annotation["iscrowd"] or not annotation["num_keypoints"]:
            continue
        labelled += 1
        if not annotation["id"]:
            raise DataError("annotation id 0 means 'no match' to pycocotools: number the annotations from 1")
        if not (_finite([annotation["area"]]) and annotation["area"] > 0):
            raise DataError(f"{name}: area is {annotation['area']}, at which no prediction can match")
        if not _finite([*annotation["keypoints"], *annotation["bbox"]]):
            raise DataError(f"{name}: keypoints or bbox are not finite")
    if not labelled:
        raise DataError("no annotation has labelled keypoints")


def _finite(values: Sequence[Any]) -> bool:
    try:
        return bool(np.isfinite(np.array(values, np.float64)).all())  # null in JSON becomes NaN here
    except (TypeError, ValueError):
        return False


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
    per_joint = _per_joint(evaluator, skeleton)
    for threshold in PCK_THRESHOLDS:
        values[f"PCK@{threshold}"] = float(np.mean(list(per_joint[f"PCK@{threshold}"].values())))
    scores = tuple(Score(name, value, "%", True) for name, value in values.items())
    return Measurement(scores, per_joint, _matches(evaluator))


def _run_cocoeval(coco: COCO, results: Sequence[Result], skeleton: Skeleton) -> COCOeval:
    """pycocotools on copies, since it writes into what it is given; without its messages."""
    check_coco(coco, results, skeleton)
    truth = make_coco(
        {
            **coco.dataset,
            "annotations": [
                {key: value for key, value in annotation.items() if key != "segmentation"}
                for annotation in coco.dataset["annotations"]
            ],
        }
    )
    with redirect_stdout(io.StringIO()):
        evaluator = COCOeval(truth, truth.loadRes([dict(result) for result in results]), "keypoints")
        evaluator.params.catIds = [person_category(coco)]
        if skeleton.name != COCO17.name:  # pycocotools' own constants differ from the literals by a rounding
            evaluator.params.kpt_oks_sigmas = np.array(skeleton.sigmas)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


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
            matched.append(found["dtMatches"].T > 0)
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
