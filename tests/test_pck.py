"""PCK: official numbers, the strict threshold, joints that are never seen, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import reference
import torch

from hmrbench.errors import DataError
from hmrbench.metrics.pck import METRIC, pck, pck_of_distances
from hmrbench.records import Dataset, Prediction, Sample


def case(seed=0, n=40, joints=17):
    rng = np.random.default_rng(seed)
    gt = rng.uniform(0, 300, (n, joints, 2))
    pred = gt + rng.normal(0, 12, gt.shape)
    return pred, gt, rng.random((n, joints)) > 0.3, rng.uniform(80, 300, n)


def measure(pred, gt, confidence, size, **more):
    samples = tuple(
        Sample(id=f"person-{i}", image=Path("a.jpg"), image_id=i, box_xywh_px=(0, 0, 1, 1)) for i in range(len(gt))
    )
    truth = {"keypoints_px": gt, "confidence": confidence, "box_size_px": size, **more}
    predictions = [Prediction(keypoints_px=p, scores=np.ones(len(p))) for p in pred]
    return METRIC.compute(predictions, Dataset("two-d", samples, truth, "gt", "", len(gt)))


@pytest.mark.parametrize("threshold", [0.05, 0.1])
def test_equal_official(official, threshold):
    """The official evaluator has coordinates in the crop, [-0.5, 0.5]: the tight box is a part of that."""
    size = (200 * official["pck.scale"]).max(-1) / official["pck.box_size"]
    visible = official["pck.conf"] > 0.5
    mean, per_joint = pck(official["pck.pred"], official["pck.gt"], visible, size, threshold)
    assert mean == pytest.approx(100 * official[f"pck.avg_{threshold}"], rel=1e-6)
    expected = official[f"pck.acc_{threshold}"]
    assert np.isnan(per_joint[expected < 0]).all()
    assert np.isfinite(per_joint).sum() == official[f"pck.count_{threshold}"]
    seen = visible.sum(0)
    assert np.array_equal(np.rint(per_joint / 100 * seen)[seen > 0], np.rint(expected * seen)[seen > 0])
    assert per_joint[seen > 0] == pytest.approx(100 * expected[seen > 0], rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_equal_the_slow_version(seed):
    arrays = case(seed)
    arrays[2][:, 5] = False
    for threshold in (0.02, 0.05, 0.1):
        mean, per_joint = pck(*arrays, threshold)
        slow_mean, slow = reference.pck_percent(*arrays, threshold)
        assert mean == pytest.approx(slow_mean, rel=1e-12)
        assert np.array_equal(np.isnan(per_joint), np.isnan(slow))
        assert np.nan_to_num(per_joint) == pytest.approx(np.nan_to_num(slow))


def test_torch_in_torch_out():
    arrays = case()
    mean, per_joint = pck(*(torch.from_numpy(a) for a in arrays), 0.05)
    assert isinstance(per_joint, torch.Tensor)
    assert (mean, per_joint.numpy().tolist()) == (pck(*arrays, 0.05)[0], pck(*arrays, 0.05)[1].tolist())


def test_a_distance_at_the_threshold_is_not_below_it():
    gt = np.zeros((2, 1, 2))
    pred = np.array([[[3.0, 4.0]], [[3.0, 3.999]]])
    mean, _ = pck(pred, gt, np.ones((2, 1), bool), np.array([100.0, 100.0]), 0.05)
    assert mean == 50.0


def test_mean_is_over_joints_not_over_keypoints():
    gt = np.zeros((4, 2, 2))
    pred = gt.copy()
    pred[0, 1] = 50
    visible = np.array([[True, True], [True, False], [True, False], [True, False]])
    mean, per_joint = pck(pred, gt, visible, np.full(4, 100.0), 0.05)
    assert (mean, per_joint.tolist()) == (50.0, [100.0, 0.0])


def test_truth_as_prediction_is_100_and_inputs_are_kept():
    _, gt, visible, size = case()
    kept = [a.copy() for a in (gt, visible, size)]
    assert pck(gt, gt, visible, size, 0.05)[0] == 100.0
    assert all(np.array_equal(a, b) for a, b in zip(kept, (gt, visible, size), strict=True))


def test_confidence_must_be_above_a_half():
    pred, gt, _, size = case()
    pred[:, 0] += 1000
    confidence = np.ones(gt.shape[:2])
    confidence[:, 0] = 0.5
    found = measure(pred, gt, confidence, size)
    assert "nose" not in found.per_joint["PCK@0.05"]
    confidence[:, 0] = 0.51
    assert measure(pred, gt, confidence, size).per_joint["PCK@0.05"]["nose"] == 0.0


def test_metric_reports_both_thresholds_and_what_to_compute_them_from():
    pred, gt, visible, size = case()
    found = measure(pred, gt, visible.astype(float), size)
    assert [(s.name, s.unit, s.higher_is_better) for s in found.scores] == [
        ("PCK@0.05", "%", True),
        ("PCK@0.1", "%", True),
    ]
    rows = np.array([0, 0, 5, 9])
    again = measure(pred[rows], gt[rows], visible[rows].astype(float), size[rows])
    for score in again.scores:
        threshold = float(score.name.removeprefix("PCK@"))
        distances = found.per_sample["normalised_distance"][rows]
        assert pck_of_distances(distances, threshold)[0] == pytest.approx(score.value)
    named = measure(pred, gt, visible.astype(float), size, keypoint_names=[f"k{i}" for i in range(17)])
    assert list(named.per_joint["PCK@0.1"]) == [f"k{i}" for i in range(17)]


def test_a_hidden_keypoint_may_be_anything_a_visible_one_may_not():
    pred, gt, visible, size = case()
    gt[3, 2] = np.nan
    visible[3, 2] = False
    pck(pred, gt, visible, size, 0.05)
    visible[3, 2] = True
    with pytest.raises(DataError, match="true keypoints are not finite: row 3"):
        pck(pred, gt, visible, size, 0.05)


def test_refusals_name_the_row_or_the_sample():
    pred, gt, visible, size = case()
    bad = pred.copy()
    bad[6, 1, 0] = np.inf
    with pytest.raises(DataError, match="predicted keypoints are not finite: row 6"):
        pck(bad, gt, visible, size, 0.05)
    with pytest.raises(DataError, match="predicted keypoints are not finite: sample person-6"):
        measure(bad, gt, visible, size)
    for value in (0.0, -3.0, np.nan):
        with pytest.raises(DataError, match="size of the box is not positive: row 2"):
            pck(pred, gt, visible, np.where(np.arange(40) == 2, value, size), 0.05)
    with pytest.raises(DataError, match="without any visible keypoint"):
        pck(pred, gt, np.zeros_like(visible), size, 0.05)
    with pytest.raises(DataError, match="PCK needs"):
        pck(pred, gt[:, :16], visible, size, 0.05)
    with pytest.raises(DataError, match=r"sample person-0: keypoints expected \(17, 2\), found \(16, 2\)"):
        measure(pred[:, :16], gt, visible, size)
    with pytest.raises(DataError, match="39 predictions for 40 samples"):
        measure(pred[1:], gt, visible, size)
