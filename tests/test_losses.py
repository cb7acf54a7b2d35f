"""Losses against slow, obvious versions and against planted answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hmrbench.body import free_body
from hmrbench.errors import HmrbenchError
from hmrbench.geometry import axis_angle_to_matrix
from hmrbench.training.losses import (
    heatmap_loss,
    keypoint_2d_loss,
    keypoint_3d_loss,
    mesh_losses,
    parameter_loss,
    pose_losses,
)
from hmrbench.training.recipes import Loss


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_heatmap_loss_is_mmposes_joint_by_joint() -> None:
    output, target, weight = (
        random(3, 17, 8, 6),
        random(3, 17, 8, 6, seed=1),
        (random(3, 17, seed=2) > 0.3).float(),
    )
    expected = 0.0
    for joint in range(17):
        w = weight[:, joint, None]
        difference = output[:, joint].flatten(1) * w - target[:, joint].flatten(1) * w
        expected += float((difference**2).mean())
    assert float(heatmap_loss(output, target, weight)) == pytest.approx(expected / 17, rel=1e-6)


def test_the_foreground_counts_more() -> None:
    target = torch.zeros(1, 1, 2, 2)
    target[..., 0, 0] = 1
    zero, weight = torch.zeros_like(target), torch.ones(1, 1)
    assert float(heatmap_loss(zero, target, weight)) == pytest.approx(1 / 4)
    assert float(heatmap_loss(zero, target, weight, foreground=9)) == pytest.approx(10 / 4)


def test_heatmaps_of_another_size_are_an_error() -> None:
    with pytest.raises(HmrbenchError, match=r"\(17, 8, 8\).*\(17, 8, 6\)"):
        heatmap_loss(torch.zeros(1, 17, 8, 8), torch.zeros(1, 17, 8, 6), torch.ones(1, 17))


def test_keypoint_losses_are_4d_humans_divided_by_the_batch() -> None:
    predicted, truth = random(4, 44, 2), random(4, 44, 3, seed=1)
    by_hand = sum(
        float(truth[b, j, 2] * (predicted[b, j] - truth[b, j, :2]).abs().sum()) for b in range(4) for j in range(44)
    )
    assert float(keypoint_2d_loss(predicted, truth)) == pytest.approx(by_hand / 4, rel=1e-5)
    predicted, truth = random(4, 44, 3), random(4, 44, 4, seed=1)
    by_hand = 0.0
    for b in range(4):
        p, t = predicted[b] - predicted[b, 39], truth[b, :, :3] - truth[b, 39, :3]
        by_hand += float((truth[b, :, 3:] * (p - t).abs()).sum())
    assert float(keypoint_3d_loss(predicted, truth)) == pytest.approx(by_hand / 4, rel=1e-5)


def test_unknown_parameters_do_not_count() -> None:
    predicted, truth = random(2, 23, 3, 3), random(2, 23, 3, 3, seed=1)
    one = float((predicted[0] - truth[0]).square().sum())
    assert float(parameter_loss(predicted, truth, torch.tensor([1.0, 0.0]))) == pytest.approx(one / 2, rel=1e-5)


def test_pose_losses_are_scaled() -> None:
    batch = {"target": random(2, 17, 4, 4), "weight": torch.ones(2, 17)}
    output = random(2, 17, 4, 4, seed=5)
    plain, scaled = (
        pose_losses(Loss())(output, batch)["loss"],
        pose_losses(Loss(scale=7))(output, batch)["loss"],
    )
    assert float(scaled) == pytest.approx(7 * float(plain), rel=1e-6)


def truth_batch() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a perfect network gives, and the examples it is perfect for."""
    body = free_body(lite=True)
    rotations = axis_angle_to_matrix(0.3 * torch.randn(3, 24, 3, generator=torch.Generator().manual_seed(0)))
    output = {
        "global_orient": rotations[:, :1],
        "body_pose": rotations[:, 1:],
        "betas": random(3, 10),
        "cam": torch.tensor([[0.9, 0.1, -0.05]]).repeat(3, 1),
    }
    joints = body(output["global_orient"], output["body_pose"], output["betas"]).joints
    assert joints is not None
    t = np.array([0.1, -0.05, 2 * 5000 / (256 * 0.9 + 1e-9)], np.float32)
    seen = joints + torch.from_numpy(t)
    in_crop = seen[..., :2] / seen[..., 2:] * (5000 / 256)
    batch = {
        "keypoints_2d": torch.cat([in_crop, torch.ones(3, 44, 1)], dim=-1),
        "keypoints_3d": torch.cat(
            [joints + 5.0, torch.ones(3, 44, 1)], dim=-1
        ),  # only the pose about the pelvis counts
        **{k: output[k] for k in ("global_orient", "body_pose", "betas")},
        "has_pose": torch.ones(3),
        "has_betas": torch.ones(3),
    }
    return output, batch


def test_mesh_losses_vanish_at_the_truth_and_pull_towards_it() -> None:
    output, batch = truth_batch()
    weights = Loss(keypoints_2d=0.01, keypoints_3d=0.05, global_orient=0.001, body_pose=0.001, betas=0.0005)
    losses = mesh_losses(weights, free_body(lite=True))
    assert {k: float(v) for k, v in losses(output, batch).items()} == pytest.approx(
        dict.fromkeys(("loss", "keypoints_2d", "keypoints_3d", "global_orient", "body_pose", "betas"), 0.0),
        abs=1e-3,
    )
    off = {k: v.clone().requires_grad_() for k, v in output.items()}
    wrong = {**off, "betas": off["betas"] + 1}
    found = losses(wrong, batch)
    assert float(found["betas"]) == pytest.approx(10.0, rel=1e-4)
    parts = {k: float(v.detach()) for k, v in found.items()}
    expected = sum(getattr(weights, k) * v for k, v in parts.items() if k != "loss")
    assert parts["loss"] == pytest.approx(expected, rel=1e-5)
    found["loss"].backward()
    assert all(v.grad is not None and torch.isfinite(v.grad).all() for v in off.values())


def test_without_any_labels_there_is_nothing_to_learn() -> None:
    output, batch = truth_batch()
    blind = {k: torch.zeros_like(v) for k, v in batch.items()}
    weights = Loss(keypoints_2d=1, keypoints_3d=1, global_orient=1, body_pose=1, betas=1)
    assert float(mesh_losses(weights, free_body(lite=True))(output, blind)["loss"]) == 0
