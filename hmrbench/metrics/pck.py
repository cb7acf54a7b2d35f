"""PCK: percentage of correct keypoints, by the rule of 4D-Humans.

A keypoint is correct when its distance to the truth, divided by the size of the person's box, is *below* the
threshold. Accuracy is computed per joint over the samples in which it is visible, then averaged over the
joints that are visible at least once. Read in 4D-Humans (Goel et al. 2023, repository shubham-goel/4D-Humans,
MIT licence; `EvaluatorPCK` in `hmr2/utils/pose_utils.py`, and `pck_accuracy.py`, which is from OpenMMLab).
Computed in float64.

The truth of a data set measured with this metric (`Dataset.truth`) is a mapping that holds

    keypoints_px    (N, K, 2)  keypoints in pixels of the whole image; K as in `Prediction.keypoints_px`
    confidence      (N, K)     annotation confidence; above 0.5 is visible
    box_size_px     (N,)       longer side of the tight box: max(200 * scale) of the 4D-Humans files
    keypoint_names  (K,)       names for the per-joint scores (absent: those of the skeleton with K joints)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from hmrbench.errors import DataError
from hmrbench.records import Array, Dataset, Measure, Measurement, Metric, Prediction
from hmrbench.skeletons import joint_names

ArrayOrTensor = TypeVar("ArrayOrTensor", Array, torch.Tensor)

THRESHOLDS = (0.05, 0.1)
MEASURES = (
    Measure("PCK@0.05", "%", True, behind="AP", change_shown=False),
    Measure("PCK@0.1", "%", True, behind="AP"),
)
VISIBLE_ABOVE = 0.5


def pck(
    pred: ArrayOrTensor, gt: ArrayOrTensor, visible: ArrayOrTensor, size: ArrayOrTensor, threshold: float
) -> tuple[float, ArrayOrTensor]:
    """Percentage of correct keypoints.

    Args:
        pred: (N, K, 2) keypoints in pixels.
        gt: (N, K, 2) keypoints in pixels.
        visible: (N, K) bool, keypoints that count.
        size: (N,) what distances are divided by, in pixels: the longer side of the person's box.
        threshold: fraction of `size` below which (strictly) a keypoint is correct.

    Returns:
        The mean over the joints that are visible at least once, and the (K,) per-joint values, NaN for a
        joint that is never visible; percent, float64, tensor or array as `pred` is.

    Raises:
        DataError: shapes do not fit, a prediction or a visible keypoint is not finite, a size is not
            positive, or no keypoint is visible at all.
    """
    mean, per_joint = pck_of_distances(normalised_distances(pred, gt, visible, size), threshold)
    return mean, (torch.from_numpy(per_joint).to(pred.device) if isinstance(pred, torch.Tensor) else per_joint)


def normalised_distances(pred: Any, gt: Any, visible: Any, size: Any, ids: Sequence[str] | None = None) -> Array:
    """Distances divided by `size`, (N, K) float64, NaN where not visible. Arguments, errors: see `pck`."""
    pred, gt, size, visible = (_float64(x) for x in (pred, gt, size, visible))
    visible = visible > 0
    n = len(pred)
    if pred.ndim != 3 or pred.shape != gt.shape or visible.shape != pred.shape[:2] or size.shape != (n,):
        shapes = f"pred {pred.shape}, gt {gt.shape}, visible {visible.shape}, size {size.shape}"
        raise DataError(f"PCK needs (N, K, 2), (N, K, 2), (N, K) and (N,), not {shapes}")
    for bad, what in (
        (~np.isfinite(pred).all((1, 2)), "predicted keypoints are not finite"),
        ((~np.isfinite(gt).all(2) & visible).any(1), "true keypoints are not finite"),
        (~(np.isfinite(size) & (size > 0)), "the size of the box is not positive"),
    ):
        rows = np.flatnonzero(bad)
        if rows.size:
            where = f"row {rows[0]}" if ids is None else f"sample {ids[rows[0]]}"
            raise DataError(f"{what}: {where} ({rows.size} in all)")
    difference = np.where(visible[..., None], pred - gt, np.nan)  # (N, K, 2)
    distances: Array = np.hypot(difference[..., 0], difference[..., 1]) / size[:, None]
    return distances


def pck_of_distances(distances: Array, threshold: float) -> tuple[float, Array]:
    """`pck` of `normalised_distances` (N, K), or of any choice of its rows."""
    count = np.isfinite(distances).sum(0)  # (K,)
    correct = (distances < threshold).sum(0)
    if not count.any():
        raise DataError("PCK of a data set without any visible keypoint")
    with np.errstate(invalid="ignore"):
        per_joint: Array = 100 * (correct / count)
    return float(per_joint[count > 0].mean()), per_joint


def _float64(x: Any) -> Array:
    return x.detach().cpu().double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, np.float64)


def compute(predictions: Sequence[Prediction], dataset: Dataset) -> Measurement:
    """PCK@0.05 and PCK@0.1, also per joint; `per_sample` keeps the normalised distances (N, K).

    Raises:
        DataError: a prediction has other keypoints than the truth, or is not finite; the sample is named.
    """
    truth = dataset.truth
    ids = [sample.id for sample in dataset.samples]
    gt = np.asarray(truth["keypoints_px"])
    if len(predictions) != len(gt) or not predictions:
        raise DataError(f"{dataset.name}: {len(predictions)} predictions for {len(gt)} samples")
    for sample_id, prediction in zip(ids, predictions, strict=True):
        if prediction.keypoints_px.shape != gt.shape[1:]:
            found = prediction.keypoints_px.shape
            raise DataError(f"sample {sample_id}: keypoints expected {gt.shape[1:]}, found {found}")
    pred = np.stack([p.keypoints_px for p in predictions])
    visible = np.asarray(truth["confidence"]) > VISIBLE_ABOVE
    distances = normalised_distances(pred, gt, visible, truth["box_size_px"], ids)
    names = joint_names(gt.shape[1], truth.get("keypoint_names"))
    scores, per_joint = [], {}
    for threshold, measure in zip(THRESHOLDS, MEASURES, strict=True):
        mean, joints = pck_of_distances(distances, threshold)
        scores.append(measure.score(mean))
        per_joint[measure.name] = {j: float(v) for j, v in zip(names, joints, strict=True) if np.isfinite(v)}
    return Measurement(scores=tuple(scores), per_joint=per_joint, per_sample={"normalised_distance": distances})


def check_truth(dataset: Dataset) -> None:
    """Refuse a truth that cannot be scored.

    Raises:
        DataError: nobody has a visible keypoint, or one that is visible is not finite; names the sample.
    """
    gt, visible = np.asarray(dataset.truth["keypoints_px"]), np.asarray(dataset.truth["confidence"]) > VISIBLE_ABOVE
    ids = [sample.id for sample in dataset.samples]
    distances = normalised_distances(np.zeros_like(gt), gt, visible, dataset.truth["box_size_px"], ids)
    pck_of_distances(distances, THRESHOLDS[0])


def resample(arrays: Mapping[str, Array], counts: Array) -> dict[str, Array]:
    """PCK of each row of sample counts (R, N), out of `normalised_distance` (N, K)."""
    if "normalised_distance" not in arrays:
        return {}
    distances = arrays["normalised_distance"]
    seen = counts @ np.isfinite(distances)  # (R, K)
    found = {}
    for threshold, measure in zip(THRESHOLDS, MEASURES, strict=True):
        with np.errstate(invalid="ignore"):  # over the joints that are seen at all
            found[measure.name] = np.nanmean(100 * (counts @ (distances < threshold)) / seen, axis=1)
    return found


METRIC = Metric("pck", "%", True, compute, check_truth, MEASURES, resample)
