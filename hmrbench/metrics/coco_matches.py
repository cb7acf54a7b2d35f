"""What lies behind COCO's numbers: which detection matched which person at which threshold, for intervals and per
joint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hmrbench.errors import DataError
from hmrbench.metrics.coco_eval import Matching
from hmrbench.records import Array
from hmrbench.skeletons import Skeleton

PCK_THRESHOLDS = (0.05, 0.1)  # of the longer side of the ground-truth box
SIZES = ("", "M", "L")  # the ranges of area as they end the names of scores and of arrays, in pycocotools' order


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
    apart = np.asarray(pred_px, np.float64) - np.asarray(gt_px, np.float64)
    squared = apart[..., 0] ** 2 + apart[..., 1] ** 2
    area = np.asarray(area_px2, np.float64)[..., None] + np.spacing(1)
    similarity: Array = np.exp(-(squared / (2 * np.asarray(sigmas)) ** 2 / area / 2))
    return similarity


def _found_people(found: Matching) -> tuple[Array, Array, Array]:
    """Who counts (G,), and of these M people whether any prediction got them at the lowest threshold, (M,), and its
    keypoints (M, K, 2)."""
    match = found.match[0, 0]  # (D,)
    finder = np.full(len(found.truth_image), -1)
    finder[match[match >= 0]] = np.flatnonzero(match >= 0)
    counted = ~found.truth_ignored[0]
    finder = finder[counted]
    nowhere = np.zeros((1, *found.keypoints_px.shape[1:]))  # for -1: there may be no predictions at all
    return counted, finder >= 0, np.concatenate([found.keypoints_px, nowhere])[finder]


def _right(found: Matching) -> tuple[Array, Array, dict[str, Array]]:
    """Image (M,) of everybody who counts, their labelled joints (M, K), and which of them are right, by PCK's name."""
    counted, hit, pred = _found_people(found)
    keypoints, size = found.truth_keypoints[counted], found.truth_box_xywh_px[counted, 2:].max(1)
    labelled = keypoints[..., 2] > 0
    near = np.linalg.norm(pred - keypoints[..., :2], axis=-1)
    right = {f"PCK@{t}": (near < t * size[:, None]) & hit[:, None] & labelled for t in PCK_THRESHOLDS}
    return found.truth_image[counted], labelled, right


def per_joint(found: Matching, skeleton: Skeleton) -> dict[str, dict[str, float]]:
    """OKS and PCK in percent of each joint over everybody who counts, found at the lowest threshold or missed."""
    counted, hit, pred = _found_people(found)
    gt, area = found.truth_keypoints[counted, :, :2], found.truth_area_px2[counted]
    similarity = keypoint_similarity(pred, gt, area, skeleton.sigmas) * hit[:, None]  # (M, K)
    _, labelled, right = _right(found)
    return {
        name: {
            joint: float(value[labelled[:, k], k].mean()) * 100
            for k, joint in enumerate(skeleton.joints)
            if labelled[:, k].any()
        }
        for name, value in {"OKS": similarity, **right}.items()
    }


# --- resampling


def matches(found: Matching) -> dict[str, Array]:
    """What the scores are made of, with 20 results per image; detections sorted as pycocotools sorts them.

    image_ids (I,), detection_image (D,) index into image_ids, detection_score (D,). For each range of area, whose
    letter ends the name: truths (I,) people that count per image, matched (D, 10) and ignored (D, 10) at each OKS
    threshold. labelled (I, K) joints of the people that count, and how many of them are right, by the PCK's name with
    `right.` before it.
    """
    order = np.argsort(-found.score, kind="stable")
    images = len(found.image_ids)
    kept = {
        "image_ids": found.image_ids,
        "detection_image": found.image[order],
        "detection_score": found.score[order],
    }
    for size, match, ignored, left_out in zip(SIZES, found.match, found.ignored, found.truth_ignored, strict=True):
        kept[f"truths{size}"] = np.bincount(found.truth_image[~left_out], minlength=images)
        kept |= {f"matched{size}": (match >= 0).T[order], f"ignored{size}": ignored.T[order]}
    image, labelled, right = _right(found)
    for name, flags in {"labelled": labelled, **{f"right.{name}": flags for name, flags in right.items()}}.items():
        kept[name] = np.zeros((images, flags.shape[1]), np.int32)
        np.add.at(kept[name], image, flags)
    return kept


def ap_from_matches(per_sample: Mapping[str, Array], image_counts: Array | None = None) -> float:
    """AP when each image is taken so many times, equal to pycocotools' for every image once.

    Args:
        per_sample: of a Measurement of this metric.
        image_counts: (I,) how often each image is taken, for example `numpy.bincount(drawn, minlength=I)`;
            None for once.

    Returns:
        AP in percent.

    Raises:
        DataError: see `ap_of_resamples`.
    """
    counts = np.ones(len(per_sample["truths"])) if image_counts is None else np.asarray(image_counts)
    return float(ap_of_resamples(per_sample, counts[None]).mean())


def ap_of_resamples(per_sample: Mapping[str, Array], image_counts: Array, size: str = "") -> Array:
    """AP at each OKS threshold, (R, T) in percent, when images are taken so many times, (R, I) whole numbers.

    Args:
        size: of the people, one of SIZES.

    Raises:
        DataError: the counts do not fit, or no person that counts is in the images taken.
    """
    truths, image = per_sample[f"truths{size}"], per_sample["detection_image"]
    counts = np.asarray(image_counts, np.float64)
    if counts.shape[1:] != truths.shape:
        raise DataError(f"{counts.shape[1:]} counts for {len(truths)} images")
    people = counts @ truths  # (R,)
    if not (people > 0).all():
        raise DataError("no person that counts is in the images taken")
    found = []  # at each threshold: hits, ignored detections, and how many of these come before each hit
    for matched, ignored in zip(per_sample[f"matched{size}"].T, per_sample[f"ignored{size}"].T, strict=True):
        hits, skipped = np.flatnonzero(matched & ~ignored), np.flatnonzero(ignored)
        found.append((hits, skipped, np.searchsorted(skipped, hits)))
    recalls = np.linspace(0.0, 1.0, 101)
    scores = np.empty((len(counts), len(found)))
    for row, (each, of) in enumerate(zip(counts, people, strict=True)):
        weight = each[image]  # (D,)
        so_far = np.cumsum(weight)
        for column, (hits, skipped, before) in enumerate(found):
            right = np.cumsum(weight[hits])  # precision can only peak, recall only rise, at a hit
            given = so_far[hits] - np.append(0.0, np.cumsum(weight[skipped]))[before]
            precision = right / (given + np.spacing(1))
            best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
            at = np.searchsorted(right / of, recalls, side="left")
            scores[row, column] = np.append(best_from_here, 0.0)[at].mean()  # 0 at a recall never reached
    return 100 * scores


def resample(arrays: Mapping[str, Array], counts: Array) -> dict[str, Array]:
    """All scores of this metric, in percent, for each row of image counts (R, I), as far as the arrays give them.

    NaN for a row in whose images nobody counts: whole pictures without people, or of another size, are drawn as well.
    """
    scores: dict[str, Array] = {}
    for size in SIZES:
        if f"truths{size}" not in arrays:  # of a run that was saved before these were kept
            continue
        people = counts @ arrays[f"truths{size}"]  # (R,)
        precision = np.full((len(counts), arrays[f"matched{size}"].shape[1]), np.nan)
        precision[people > 0] = ap_of_resamples(arrays, counts[people > 0], size)  # (R, T)
        hits = arrays[f"matched{size}"] & ~arrays[f"ignored{size}"]  # (D, T)
        per_image = np.array([np.bincount(arrays["detection_image"], h, counts.shape[1]) for h in hits.T]).T  # (I, T)
        with np.errstate(invalid="ignore"):
            recall = 100 * (counts @ per_image) / people[:, None]  # (R, T)
        scores |= {f"AP{size}": precision.mean(1), f"AR{size}": recall.mean(1)}
        if not size:
            scores |= {"AP50": precision[:, 0], "AP75": precision[:, 5], "AR50": recall[:, 0], "AR75": recall[:, 5]}
            scores["Phi_P_2D"] = (scores["AP"] + scores["AR"]) / 2
    for name in (f"PCK@{t}" for t in PCK_THRESHOLDS):
        if f"right.{name}" in arrays:
            labelled = counts @ arrays["labelled"]  # (R, K)
            with np.errstate(invalid="ignore"):  # over the joints that are seen at all
                right = 100 * (counts @ arrays[f"right.{name}"]) / labelled
                scores[name] = np.nansum(right, axis=1) / (labelled > 0).sum(1)
    return scores
