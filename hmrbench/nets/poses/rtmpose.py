"""RTMPose: CSPNeXt and a SimCC head with attention between the keypoints.

Paper: Jiang et al., "RTMPose: Real-Time Multi-Person Pose Estimation based on MMPose", arXiv 2303.07399.
Origin: open-mmlab/mmpose (Apache-2.0), `configs/body_2d_keypoint/rtmpose`.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from hmrbench.nets.encoders.cspnext import CSPNeXt
from hmrbench.nets.heads.rtmcc import RTMCCHead
from hmrbench.nets.record import Family, Net
from hmrbench.nets.truncation import Network

FACTORS = {"t": (0.167, 0.375), "s": (0.33, 0.5), "m": (0.67, 0.75), "l": (1.0, 1.0)}  # on depth and width


def rtmpose(size: str, input_size: tuple[int, int] = (256, 192)) -> Network:
    """RTMPose of a size t, s, m or l."""
    encoder = CSPNeXt(*FACTORS[size])
    return Network(encoder, nn.Identity(), RTMCCHead(encoder.widths[-1], input_size))


rtmpose_t, rtmpose_s, rtmpose_m, rtmpose_l = (partial(rtmpose, size) for size in FACTORS)

_SIZES = ((256, 192),)
FAMILY = Family("rtmpose", "RTMPose")
NETWORKS = (
    Net("rtmpose-t", rtmpose_t, FAMILY, _SIZES, (48, 96, 192, 384), "simcc", 2.0),
    Net("rtmpose-s", rtmpose_s, FAMILY, _SIZES, (64, 128, 256, 512), "simcc", 2.0),
    Net("rtmpose-m", rtmpose_m, FAMILY, _SIZES, (96, 192, 384, 768), "simcc", 2.0),
    Net("rtmpose-l", rtmpose_l, FAMILY, _SIZES, (128, 256, 512, 1024), "simcc", 2.0),
)
