"""What an HMR network's output means: parameters and camera -> joints, and keypoints in the image.

Camera of 4D-Humans (`hmr2/models/hmr2.py`, MIT): weak perspective in the square crop, projected with a focal length of
5,000 pixels for 256 pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from hmrbench.body.model import Body
from hmrbench.errors import HmrbenchError
from hmrbench.geometry import CROP_SIZE_PX, FOCAL_LENGTH_PX, cam_to_translation, crop_to_image_px, project
from hmrbench.records import Array

PARAMS = ("global_orient", "body_pose", "betas", "cam")


@torch.inference_mode()
def decode_mesh(
    output: Mapping[str, Tensor], center_px: Array, size_px: Array, body: Body
) -> tuple[Array, Array, Array, dict[str, Array]]:
    """Keypoints, scores, joints and parameters of a batch.

    Args:
        output: `global_orient` (B, 1, 3, 3), `body_pose` (B, 23, 3, 3), `betas` (B, 10), `cam` (B, 3).
        center_px: (B, 2) and size_px: (B, 2) the square crops in the image, x then y.
        body: the body that the network was trained with.

    Returns:
        keypoints (B, 44, 2) in pixels of the image; scores (B, 44), all one, since HMR networks have none; joints
        (B, 44, 3) in metres, in the camera's orientation, the body at the origin; parameters by name.

    Raises:
        HmrbenchError: a parameter is missing or not finite; names the row of the batch.
    """
    missing = [name for name in PARAMS if name not in output]
    if missing:
        raise HmrbenchError(f"the network's output lacks {', '.join(missing)}")
    params = {name: output[name].detach().float() for name in PARAMS}
    for name, value in params.items():
        finite = torch.isfinite(value.flatten(1)).all(1)
        if not finite.all():
            raise HmrbenchError(f"{name} in row {int((~finite).nonzero()[0])} of the batch is not finite")
    joints = body(params["global_orient"], params["body_pose"], params["betas"]).joints  # (B, 44, 3)
    if joints is None:
        raise HmrbenchError(f"{body.source}: this body has no regressor of the 44 joints")
    focal = torch.full_like(joints[:, 0, :2], FOCAL_LENGTH_PX / CROP_SIZE_PX)
    in_crop = project(joints, cam_to_translation(params["cam"]), focal)  # (B, 44, 2) in [-0.5, 0.5]
    center, size = (
        torch.as_tensor(np.asarray(x), dtype=torch.float64, device=joints.device) for x in (center_px, size_px)
    )
    keypoints = crop_to_image_px(in_crop.double(), center, size[:, 0])
    scores = np.ones(keypoints.shape[:2], np.float32)
    arrays = {name: value.cpu().numpy() for name, value in params.items()}
    return keypoints.cpu().numpy(), scores, joints.cpu().numpy(), arrays
