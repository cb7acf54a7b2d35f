"""MPJPE, PA-MPJPE and PVE: official numbers, planted answers, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from scipy.spatial.transform import Rotation

from hmrbench.errors import DataError
from hmrbench.metrics.mpjpe import METRIC, mpjpe, pa_mpjpe, pelvis_centred, pve
from hmrbench.records import Dataset, Prediction, Sample
from hmrbench.skeletons import HMR44, HMR44_EVAL14, HMR44_PELVIS


def poses(seed=0, n=50, joints=14):
    rng = np.random.default_rng(seed)
    gt = rng.normal(0, 0.4, (n, joints, 3))
    pred = gt + rng.normal(0, 0.05, gt.shape)
    for array in (pred, gt):
        array.setflags(write=False)
    return pred, gt


def dataset(truth, n):
    samples = tuple(Sample(f"person-{i}", Path("a.jpg"), i, (0, 0, 1, 1)) for i in range(n))
    return Dataset("three-d", samples, truth, "gt", "", n)


def predictions(joints, params=None):
    return [
        Prediction(np.zeros((44, 2)), np.ones(44), joints_m=j, params={} if params is None else params[i])
        for i, j in enumerate(joints)
    ]


def test_equal_official(official):
    assert mpjpe(official["pred"], official["gt"]) == pytest.approx(official["mpjpe_mm"], rel=0, abs=2e-3)
    found = pa_mpjpe(official["pred"], official["gt"])
    # the official code's own rounding: identical poses are 1.7e-4 mm apart there
    assert found == pytest.approx(official["pa_mpjpe_mm"], rel=0, abs=2e-3)
    assert found[list(official["case"]).index("identical")] < 1e-9
    mirrored = list(official["case"]).index("mirror image (x negated) plus noise")
    assert found[mirrored] == pytest.approx(339.12, abs=0.01)


def test_metric_equals_official_evaluator(official):
    """A full run of 4D-Humans' Evaluator: 44 joints, moved to the pelvis, 14 compared."""
    gt = official["eval.gt_keypoints_3d"]
    truth = {
        "joints_m": gt,
        "joint_subset": official["eval.keypoint_list"],
        "pelvis": int(official["eval.pelvis_ind"]),
    }
    assert tuple(truth["joint_subset"]) == HMR44_EVAL14
    assert truth["pelvis"] == HMR44_PELVIS
    found = METRIC.compute(predictions(official["eval.pred_keypoints_3d"]), dataset(truth, len(gt)))
    assert found.per_sample["MPJPE"] == pytest.approx(official["eval.mode_mpjpe"], rel=0, abs=2e-3)
    assert found.per_sample["PA-MPJPE"] == pytest.approx(official["eval.mode_re"], rel=0, abs=2e-3)
    values = {score.name: score.value for score in found.scores}
    assert values == pytest.approx(
        {"MPJPE": official["eval.mode_mpjpe"].mean(), "PA-MPJPE": official["eval.mode_re"].mean()},
        rel=0,
        abs=2e-3,
    )
    assert all(score.unit == "mm" and not score.higher_is_better for score in found.scores)
    for name, per_joint in found.per_joint.items():
        assert list(per_joint) == [HMR44.joints[j] for j in HMR44_EVAL14]
        assert np.mean(list(per_joint.values())) == pytest.approx(values[name])


def test_equal_the_slow_version():
    pred, gt = poses(3)
    expected = [reference.pa_error_mm(p, q) for p, q in zip(pred, gt, strict=True)]
    assert pa_mpjpe(pred, gt) == pytest.approx(expected, rel=1e-9)


def test_torch_in_torch_out():
    pred, gt = poses()
    tensors = torch.from_numpy(pred.copy()), torch.from_numpy(gt.copy())
    for function in (mpjpe, pa_mpjpe, pve):
        found = function(*tensors)
        assert isinstance(found, torch.Tensor)
        assert found.numpy() == pytest.approx(function(pred, gt), rel=1e-12)
    assert mpjpe(tensors[0].bfloat16(), tensors[1].bfloat16()).dtype == torch.float64


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_similarity_gives_pa_0_and_the_right_mpjpe(seed):
    rng = np.random.default_rng(seed)
    _, gt = poses(seed)
    R = Rotation.random(len(gt), random_state=seed).as_matrix()
    pred = rng.uniform(0.3, 3, (len(gt), 1, 1)) * gt @ R.swapaxes(1, 2) + rng.normal(0, 2, (len(gt), 1, 3))
    assert pa_mpjpe(pred, gt).max() < 1e-9
    assert mpjpe(pred, gt) == pytest.approx(1000 * np.linalg.norm(pred - gt, axis=-1).mean(1))
    shifted = gt + np.array([0.03, 0.04, 0])
    assert mpjpe(shifted, gt) == pytest.approx(np.full(len(gt), 50.0))
    assert mpjpe(pelvis_centred(shifted, 0), pelvis_centred(gt, 0)).max() < 1e-9


def test_truth_as_prediction_is_zero():
    _, gt = poses()
    assert mpjpe(gt, gt).max() == 0
    assert pa_mpjpe(gt, gt).max() < 1e-9


def test_pelvis_may_be_the_middle_of_several_joints():
    _, gt = poses()
    centred = pelvis_centred(gt, [2, 3])
    assert np.abs(centred[:, [2, 3]].mean(1)).max() < 1e-12
    assert centred.shape == gt.shape


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("function", [mpjpe, pa_mpjpe])
def test_what_is_not_finite_is_refused_by_row(function, side, value):
    arrays = [array.copy() for array in poses()]
    arrays[side][[7, 11], 3, 1] = value
    with pytest.raises(DataError, match=r"(prediction|truth) is not finite: row 7, 11$"):
        function(*arrays)


@pytest.mark.parametrize("side", [0, 1])
def test_a_pose_without_extent_is_refused_by_row(side):
    arrays = [array.copy() for array in poses()]
    arrays[side][4] = [1.0, 2.0, 3.0]
    with pytest.raises(DataError, match=r"no extent.*row 4$"):
        pa_mpjpe(*arrays)


@pytest.mark.parametrize("shape", [(50, 13, 3), (49, 14, 3), (50, 14, 2)])
def test_other_shapes_are_refused(shape):
    pred, _ = poses()
    with pytest.raises(DataError, match="must both be"):
        mpjpe(pred, np.zeros(shape))


def test_the_metric_names_the_sample():
    pred, gt = poses()
    bad = pred.copy()
    bad[13] = np.nan
    with pytest.raises(DataError, match="prediction is not finite: sample person-13"):
        METRIC.compute(predictions(bad), dataset({"joints_m": gt}, 50))
    bad[13] = 0
    with pytest.raises(DataError, match=r"no extent.*sample person-13"):
        METRIC.compute(predictions(bad), dataset({"joints_m": gt}, 50))
    with pytest.raises(DataError, match=r"sample person-2: 3D joints expected \(14, 3\), found none"):
        METRIC.compute(predictions([*pred[:2], None, *pred[3:]]), dataset({"joints_m": gt}, 50))
    with pytest.raises(DataError, match="49 predictions for 50 poses"):
        METRIC.compute(predictions(pred[1:]), dataset({"joints_m": gt}, 50))


def test_scores_can_be_computed_again_from_a_choice_of_samples():
    pred, gt = poses()
    rows = np.array([3, 3, 17, 40])
    whole = METRIC.compute(predictions(pred), dataset({"joints_m": gt}, 50))
    part = METRIC.compute(predictions(pred[rows]), dataset({"joints_m": gt[rows]}, 4))
    for score in part.scores:
        assert whole.per_sample[score.name][rows].mean() == pytest.approx(score.value)


def test_pve_of_given_vertices():
    rng = np.random.default_rng(0)
    pred, gt = poses()
    true = rng.normal(0, 0.5, (50, 300, 3))
    found = true + rng.normal(0, 0.02, true.shape) + pred[:, :1]
    truth = {"joints_m": gt, "vertices_m": true + gt[:, :1]}
    params = [{"vertices_m": v} for v in found]
    measured = METRIC.compute(predictions(pred, params), dataset(truth, 50))
    expected = 1000 * np.linalg.norm(found - pred[:, :1] - true, axis=-1).mean()
    assert {s.name: s.value for s in measured.scores}["PVE"] == pytest.approx(expected)
    assert "PVE" not in {s.name for s in METRIC.compute(predictions(pred), dataset(truth, 50)).scores}


def test_pve_of_body_parameters():
    from hmrbench.body import free_body

    body = free_body(lite=True)
    rng = np.random.default_rng(0)

    def random_params(n):
        R = Rotation.from_rotvec(rng.normal(0, 0.2, (24 * n, 3))).as_matrix().reshape(n, 24, 3, 3)
        return {"global_orient": R[:, :1], "body_pose": R[:, 1:], "betas": rng.normal(0, 1, (n, 10))}

    def pose(params):
        return body(**{k: torch.tensor(v, dtype=torch.float32) for k, v in params.items()}, vertices=True)

    n = 300  # more than one chunk
    true, guess = random_params(n), random_params(n)
    posed, guessed = pose(true), pose(guess)
    truth = {"joints_m": posed.joints.numpy(), "joint_subset": HMR44_EVAL14, "pelvis": HMR44_PELVIS}
    truth |= {"body": body, "params": true}
    params = [{k: v[i] for k, v in guess.items()} for i in range(n)]
    measured = METRIC.compute(predictions(guessed.joints.numpy(), params), dataset(truth, n))
    difference = (guessed.vertices - guessed.joints[:, [HMR44_PELVIS]]) - (
        posed.vertices - posed.joints[:, [HMR44_PELVIS]]
    )
    expected = 1000 * difference.norm(dim=-1).mean().item()
    assert {s.name: s.value for s in measured.scores}["PVE"] == pytest.approx(expected, rel=1e-5)
    params = [{k: v[i] for k, v in true.items()} for i in range(n)]
    perfect = METRIC.compute(predictions(posed.joints.numpy(), params), dataset(truth, n))
    assert {s.name for s in perfect.scores} == {"MPJPE", "PA-MPJPE", "PVE"}
    assert max(s.value for s in perfect.scores) < 1e-6
