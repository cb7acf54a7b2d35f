"""What training minimises, for poses and for meshes.

Poses: the joints' mean squared error of mmpose 0.x (`mmpose/models/losses/mse_loss.py`, read in the ViTPose
repository, Apache-2.0). Meshes: the keypoint and parameter losses of HMR2.0 (`hmr2/models/losses.py` and
`hmr2.py` of 4D-Humans, MIT), as sums over joints and numbers but means over people, so that a weight means
the same for every batch size; the official code sums over the 48 people of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hmrbench.body import Body
from hmrbench.errors import HmrbenchError
from hmrbench.geometry import CROP_SIZE_PX, FOCAL_LENGTH_PX, cam_to_translation, project
from hmrbench.skeletons import HMR44_PELVIS
from hmrbench.training.recipes import Loss

LossFunction = Callable[[Any, Mapping[str, Tensor]], dict[str, Tensor]]


def heatmap_loss(output: Tensor, target: Tensor, weight: Tensor, foreground: float = 0.0) -> Tensor:
    """Mean squared error of heatmaps over everything, unlabelled joints counting as right.

    Args:
        output: (B, K, h, w); target: (B, K, h, w) from 0 to 1; weight: (B, K).
        foreground: how much more a pixel counts where the target is 1.

    Raises:
        HmrbenchError: the network's heatmaps are of another shape.
    """
    if output.shape != target.shape:
        raise HmrbenchError(
            f"the network gives heatmaps {tuple(output.shape[1:])}, the codec {tuple(target.shape[1:])}"
        )
    error = ((output.float() - target) * weight[..., None, None]).square()
    return (error * (1 + foreground * target)).mean() if foreground else error.mean()


def simcc_loss(output: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor], weight: Tensor) -> Tensor:
    """Cross-entropy of both axes with the target distributions, each brought to a sum of 1, over labelled joints.

    Args:
        output: logits (B, K, bins) of x and of y; targets: the same shapes; weight: (B, K).

    Raises:
        HmrbenchError: the network's bins are not those of the targets.
    """
    total = weight.new_zeros(())
    for axis, scores, target in zip("xy", output, targets, strict=True):
        if scores.shape != target.shape:
            raise HmrbenchError(
                f"the network gives {tuple(scores.shape[1:])} for {axis}, the codec {tuple(target.shape[1:])}"
            )
        wanted = target / target.sum(-1, keepdim=True).clamp(min=1e-12)
        total = total - (weight * (wanted * scores.float().log_softmax(-1)).sum(-1)).mean()
    return total / 2


def keypoint_2d_loss(predicted: Tensor, truth: Tensor) -> Tensor:
    """L1 distance of keypoints (B, J, 2) to (B, J, 3), whose last number is the confidence; see the file's
    head."""
    return (truth[..., 2:] * (predicted - truth[..., :2]).abs()).sum() / len(truth)


def keypoint_3d_loss(predicted: Tensor, truth: Tensor, pelvis: int = HMR44_PELVIS) -> Tensor:
    """L1 distance of joints (B, J, 3) to (B, J, 4) in metres, both moved to their own pelvis."""
    apart = (predicted - predicted[:, pelvis, None]) - (truth[..., :3] - truth[:, pelvis, None, :3])
    return (truth[..., 3:] * apart.abs()).sum() / len(truth)


def parameter_loss(predicted: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Squared difference of parameters (B, ...) of the people whose are known (B,)."""
    return (known * (predicted - truth).square().flatten(1).sum(1)).sum() / len(truth)


def pose_losses(weights: Loss) -> LossFunction:
    """The losses of a pose network: output heatmaps, or scores of both axes, and examples of `examples.pose_example`,
    to named losses."""

    def losses(output: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if "target_x" in batch:
            error = simcc_loss(output, (batch["target_x"], batch["target_y"]), batch["weight"])
        else:
            error = heatmap_loss(output, batch["target"], batch["weight"], weights.foreground)
        return {"loss": weights.scale * weights.heatmap * error}

    return losses


def mesh_losses(weights: Loss, body: Body) -> LossFunction:
    """The losses of a mesh network: its output, and examples of `examples.mesh_example`, to named losses."""
    known = {"global_orient": "has_pose", "body_pose": "has_pose", "betas": "has_betas"}

    def losses(output: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        output = {name: value.float() for name, value in output.items()}
        joints = body(output["global_orient"], output["body_pose"], output["betas"]).joints  # (B, 44, 3)
        if joints is None:
            raise HmrbenchError(f"{body.source}: this body has no regressor of the 44 joints")
        focal = torch.full_like(joints[:, 0, :2], FOCAL_LENGTH_PX / CROP_SIZE_PX)
        in_crop = project(joints, cam_to_translation(output["cam"]), focal)  # (B, 44, 2)
        parts = {
            "keypoints_2d": keypoint_2d_loss(in_crop, batch["keypoints_2d"]),
            "keypoints_3d": keypoint_3d_loss(joints, batch["keypoints_3d"]),
            **{name: parameter_loss(output[name], batch[name], batch[has]) for name, has in known.items()},
        }
        total = torch.stack([getattr(weights, name) * part for name, part in parts.items()]).sum()
        return {"loss": weights.scale * total, **{name: part.detach() for name, part in parts.items()}}

    return losses
