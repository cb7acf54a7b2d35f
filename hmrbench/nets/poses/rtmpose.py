"""RTMPose: CSPNeXt and a SimCC head with attention between the keypoints.

Paper: Jiang et al., "RTMPose: Real-Time Multi-Person Pose Estimation based on MMPose", arXiv 2303.07399.
Origin: open-mmlab/mmpose (Apache-2.0), `configs/body_2d_keypoint/rtmpose`.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from hmrbench.nets.encoders.cspnext import CSPNeXt
from hmrbench.nets.heads.rtmcc import RTMCCHead
from hmrbench.nets.poses.record import PoseFamily, PoseNet
from hmrbench.nets.truncation import Network

FACTORS = {"t": (0.167, 0.375), "s": (0.33, 0.5), "m": (0.67, 0.75), "l": (1.0, 1.0)}  # on depth and width


def rtmpose(size: str, input_size: tuple[int, int] = (256, 192)) -> Network:
    """RTMPose of a size t, s, m or l."""
    encoder = CSPNeXt(*FACTORS[size])
    return Network(encoder, nn.Identity(), RTMCCHead(encoder.widths[-1], input_size))


rtmpose_t, rtmpose_s, rtmpose_m, rtmpose_l = (partial(rtmpose, size) for size in FACTORS)

_SIZES = ((256, 192),)
FAMILY = PoseFamily(
    "RTMPose",
    "simcc",
    {
        "rtmpose-t": PoseNet(rtmpose_t, _SIZES, (48, 96, 192, 384), split=2),
        "rtmpose-s": PoseNet(rtmpose_s, _SIZES, (64, 128, 256, 512), split=2),
        "rtmpose-m": PoseNet(rtmpose_m, _SIZES, (96, 192, 384, 768), split=2),
        "rtmpose-l": PoseNet(rtmpose_l, _SIZES, (128, 256, 512, 1024), split=2),
    },
)
FAMILIES = (FAMILY,)
