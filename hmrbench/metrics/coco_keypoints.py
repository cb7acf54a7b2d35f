"""COCO keypoint AP and AR of top-down predictions: rescoring, OKS-NMS, COCOeval, and what lies behind the
numbers.

The ten numbers are pycocotools' own (Lin et al., "Microsoft COCO", ECCV 2014; Simplified BSD). Rescoring by
the mean joint score and suppression by OKS are as in mmpose 0.x (`topdown_coco_dataset.py` and `nms.py`, read
in the ViTPose repository, Apache-2.0). Everything ends in percent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from pycocotools.coco import COCO

from hmrbench.errors import DataError, HmrbenchError
from hmrbench.files.coco_json import Result, check_coco, person_category
from hmrbench.metrics import phi
from hmrbench.metrics.coco_eval import STATS as STATS
from hmrbench.metrics.coco_eval import Matching, match_results, stats
from hmrbench.metrics.coco_matches import PCK_THRESHOLDS, keypoint_similarity, matches, per_joint, resample
from hmrbench.metrics.pck import MEASURES as PCK_MEASURES
from hmrbench.records import NO_BOXES, Array, Dataset, Measure, Measurement, Metric, Prediction, Sample
from hmrbench.skeletons import COCO17, Skeleton

MEASURES = tuple(Measure(name, "%", True, shown=name in ("AP", "AR"), change_shown=name == "AP") for name in STATS)
JOINT_THRESHOLD = 0.2  # joints above it make up a person's score
NMS_THRESHOLD = 0.9  # OKS above which the lower of two scores is dropped


# --- similarity


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
    scores = np.asarray(scores)
    counted = scores > threshold
    number = counted.sum(1)
    means = np.zeros(len(scores))
    for count in np.unique(number[number > 0]):  # rows of one length, which add up as each does alone
        rows = number == count
        means[rows] = scores[rows][counted[rows]].reshape(-1, count).mean(1)
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
    alike = np.zeros((len(areas), len(areas)), bool)
    one, other = np.triu_indices(len(areas), 1)
    near = oks(keypoints[one], keypoints[other], None, (areas[one] + areas[other]) / 2, sigmas) > threshold
    alike[one, other] = alike[other, one] = near
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
    score_threshold: float = JOINT_THRESHOLD,
    nms_threshold: float = NMS_THRESHOLD,
) -> list[dict[str, Any]]:
    """Predictions in COCO's results format, after rescoring and OKS-NMS.

    People of whole pictures are taken as they are, with the scores that the network gave them.

    Args:
        predictions: one per sample, in order.
        samples: the people, in the order of the data set's boxes, or whole pictures.
        skeleton: joints of the predictions and their OKS constants.
        aspect: width over height of the crops; gives, padded, the area at which people are compared whose is not known.
        padding: of the crops, for samples whose box does not hold its margin yet.
        category_id: of persons in the annotations.
        score_threshold: see `rescore`.
        nms_threshold: see `oks_nms`.

    Returns:
        One dict per person kept: image_id, category_id, keypoints (x, y, score for each joint), score, and
        annotation_id where the box is that of an annotated person. Images in order of first appearance, people best
        first, those of whole pictures as they were found. No bbox: pycocotools would take the area of a person from it.

    Raises:
        DataError: numbers of predictions, samples or joints do not fit, or a sample appears twice.
        HmrbenchError: a prediction is not finite.
    """
    _check_predictions(predictions, samples, skeleton)

    def result(image_id: int | str, keypoints: Array, score: float) -> dict[str, Any]:
        flat = keypoints.ravel().tolist()
        return {"image_id": image_id, "category_id": category_id, "keypoints": flat, "score": float(score)}

    if predictions[0].people_scores is not None:
        return [
            result(sample.image_id, np.concatenate([points, values[:, None]], axis=1), score)
            for sample, p in zip(samples, predictions, strict=True)
            for points, values, score in zip(p.keypoints_px, p.scores, p.people_scores, strict=True)  # type: ignore[arg-type]
        ]
    keypoints = np.stack([prediction.keypoints_px for prediction in predictions])  # (N, K, 2)
    joint_scores = np.stack([prediction.scores for prediction in predictions])  # (N, K)
    finite = np.isfinite(keypoints).all((1, 2)) & np.isfinite(joint_scores).all(1)
    if not finite.all():
        raise HmrbenchError(f"sample {samples[int(np.argmin(finite))].id}: the prediction is not finite")
    scores = rescore(joint_scores, np.array([sample.score for sample in samples]), score_threshold)
    areas = _areas(predictions, samples, aspect, padding)
    triples = np.concatenate([keypoints, joint_scores[..., None]], axis=-1)  # (N, K, 3)
    results = []
    for index in _best_people(samples, keypoints, scores, areas, skeleton.sigmas, nms_threshold):
        person = samples[index].annotation_id
        known = {} if person is None else {"annotation_id": person}
        results.append({**result(samples[index].image_id, triples[index], scores[index]), **known})
    return results


def _areas(predictions: Sequence[Prediction], samples: Sequence[Sample], aspect: float, padding: float) -> Array:
    """At which people are compared: that of the crop where a prediction knows it, else of the padded box."""
    boxes = np.array([sample.box_xywh_px for sample in samples])
    areas = crop_areas(boxes, aspect, np.where([sample.padded for sample in samples], 1.0, padding))
    known = [prediction.crop_area_px2 for prediction in predictions]
    return np.array([area if own is None else own for own, area in zip(known, areas, strict=True)], areas.dtype)


def _best_people(
    samples: Sequence[Sample], keypoints: Array, scores: Array, areas: Array, sigmas: Sequence[float], threshold: float
) -> Iterator[int]:
    """The places of those whom OKS-NMS keeps, image after image in order of first appearance, the best first."""
    of_image: dict[int | str, list[int]] = {}
    for index, sample in enumerate(samples):
        of_image.setdefault(sample.image_id, []).append(index)
    for members in of_image.values():
        people = np.array(members)
        yield from people[oks_nms(keypoints[people], scores[people], areas[people], sigmas, threshold)]


def _check_predictions(predictions: Sequence[Prediction], samples: Sequence[Sample], skeleton: Skeleton) -> None:
    """Refuse what cannot be results, see `coco_results`."""
    if not samples:
        raise DataError("there are no boxes to evaluate")
    if len(predictions) != len(samples):
        raise DataError(f"{len(predictions)} predictions for {len(samples)} samples")
    sample_id, times = Counter(sample.id for sample in samples).most_common(1)[0]
    if times > 1:
        raise DataError(f"sample {sample_id} appears {times} times")
    joints = len(skeleton.joints)
    for sample, prediction in zip(samples, predictions, strict=True):
        own = prediction.people_scores
        of_picture = () if own is None else np.shape(own)
        shapes = np.shape(prediction.keypoints_px), np.shape(prediction.scores)
        if shapes != ((*of_picture, joints, 2), (*of_picture, joints)):
            raise DataError(
                f"sample {sample.id}: keypoints {shapes[0]} and scores {shapes[1]} do not fit the {joints} joints of "
                f"{skeleton.name}"
            )
        if own is not None and not all(np.isfinite(x).all() for x in (prediction.keypoints_px, prediction.scores, own)):
            raise HmrbenchError(f"sample {sample.id}: the prediction is not finite")


# --- results to numbers


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
    """The ten numbers of COCO's keypoint task, those of pycocotools digit by digit, in percent.

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
    return stats(_match(coco, results, skeleton))


def measure_results(
    coco: COCO, results: Sequence[Result], skeleton: Skeleton = COCO17, nobody: bool = False
) -> Measurement:
    """Everything that the metric reports, from results in COCO's format.

    The per-joint numbers look at every ground truth that counts, and at the prediction that COCOeval gives it
    at OKS 0.5; a person without one counts as missed. PCK compares the distance with the longer side of the
    ground-truth box; its overall value is the mean over the joints.

    Args:
        coco: the ground truth; every image in it counts, predicted or not.
        results: in COCO's format.
        skeleton: joints and OKS constants.
        nobody: there may be no results, of a network that found nobody.

    Returns:
        Scores AP to ARL, Phi_P_2D, PCK@0.05, PCK@0.1; per joint OKS and PCK; per sample what
        `resample` and `ap_from_matches` need.

    Raises:
        DataError: see `check_coco`.
    """
    found = _match(coco, results, skeleton, nobody)
    values = stats(found)
    values["Phi_P_2D"] = (values["AP"] + values["AR"]) / 2
    with np.errstate(over="ignore"):  # of predictions far from everything
        by_joint, kept = per_joint(found, skeleton), matches(found)
    for threshold in PCK_THRESHOLDS:
        values[f"PCK@{threshold}"] = float(np.mean(list(by_joint[f"PCK@{threshold}"].values())))
    named = {m.name: m for m in (*MEASURES, *phi.MEASURES, *PCK_MEASURES)}
    scores = tuple(named[name].score(value) for name, value in values.items())
    remarks = () if results else (f"nobody was found in any of the {len(coco.imgs):,} pictures",)
    return Measurement(scores, by_joint, kept, remarks)


def _match(coco: COCO, results: Sequence[Result], skeleton: Skeleton, nobody: bool = False) -> Matching:
    if results or not nobody:
        check_coco(coco, results, skeleton)
    return match_results(coco, results, skeleton)


def coco_keypoints(aspect: float = 192 / 256, padding: float = 1.25, skeleton: Skeleton | None = None) -> Metric:
    """The metric for a crop of that aspect (width over height) and padding, at which OKS-NMS compares
    areas; without a skeleton it takes the data set's."""
    compute = partial(_compute, aspect=aspect, padding=padding, skeleton=skeleton)
    return Metric("coco-keypoints", "%", True, compute, measures=MEASURES, resample=resample)


def _compute(
    predictions: Sequence[Prediction], dataset: Dataset, *, aspect: float, padding: float, skeleton: Skeleton | None
) -> Measurement:
    skeleton = skeleton or dataset.skeleton
    check_coco(dataset.truth, dataset.samples, skeleton)
    results = coco_results(
        predictions,
        dataset.samples,
        skeleton=skeleton,
        aspect=aspect,
        padding=padding,
        category_id=person_category(dataset.truth),
        **dataset.scoring,
    )
    return measure_results(dataset.truth, results, skeleton, nobody=dataset.boxes == NO_BOXES)


METRIC = coco_keypoints()
