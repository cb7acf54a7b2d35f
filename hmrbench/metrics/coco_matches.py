"""What lies behind COCO's AP: which detection matched which person at which threshold, for intervals and per joint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.cocoeval import COCOeval

from hmrbench.errors import DataError
from hmrbench.records import Array
from hmrbench.skeletons import Skeleton

PCK_THRESHOLDS = (0.05, 0.1)  # of the longer side of the ground-truth box


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


def _of_all_areas(evaluator: COCOeval) -> list[dict[str, Any] | None]:
    """COCOeval's findings per image at area `all`, which comes first; None for images without people or
    results."""
    found: list[dict[str, Any] | None] = evaluator.evalImgs[: len(evaluator.params.imgIds)]
    return found


def per_joint(evaluator: COCOeval, skeleton: Skeleton) -> dict[str, dict[str, float]]:
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


def matches(evaluator: COCOeval) -> dict[str, Array]:
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


def resample(arrays: Mapping[str, Array], counts: Array) -> dict[str, Array]:
    """AP and AR in all, at OKS 0.5 and at 0.75, in percent, for each row of image counts (R, I)."""
    if "truths" not in arrays:
        return {}
    thresholds = arrays["matched"].shape[1]
    at = [{**arrays, **{k: arrays[k][:, [t]] for k in ("matched", "ignored")}} for t in range(thresholds)]
    precision = np.array([[ap_from_matches(part, row) for part in at] for row in counts])  # (R, T)
    hits = arrays["matched"] & ~arrays["ignored"]  # (D, T)
    per_image = np.zeros((counts.shape[1], thresholds))
    np.add.at(per_image, arrays["detection_image"], hits)
    recall = 100 * (counts @ per_image) / (counts @ arrays["truths"])[:, None]  # (R, T)
    scores = {"AP": precision.mean(1), "AP50": precision[:, 0], "AP75": precision[:, 5]}
    scores |= {"AR": recall.mean(1), "AR50": recall[:, 0], "AR75": recall[:, 5]}
    return scores | {"Phi_P_2D": (scores["AP"] + scores["AR"]) / 2}
