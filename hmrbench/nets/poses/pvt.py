"""Pyramid Vision Transformers with the transposed convolutions of SimpleBaseline.

Papers: see the encoder. Origin: open-mmlab/mmpose (Apache-2.0), `td-hm_pvt-s`, `td-hm_pvtv2-b2`.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from hmrbench.nets.encoders.pvt import IMAGENET, PVT
from hmrbench.nets.heads.heatmap import HeatmapHead
from hmrbench.nets.record import Family, Net
from hmrbench.nets.truncation import Network


def pvt_pose(version: int, input_size: tuple[int, int] = (256, 192)) -> Network:
    """PVT-S (version 1) or PVTv2-B2 (version 2); sides in multiples of 32 pixels."""
    encoder = PVT((3, 4, 6, 3), version)
    return Network(encoder, nn.Identity(), HeatmapHead(encoder.widths[-1], num_filters=(256, 256, 256)))


pvt_s, pvtv2_b2 = partial(pvt_pose, 1), partial(pvt_pose, 2)

_WIDTHS = (64, 128, 320, 512)
FAMILY = Family("pvt", "PVT", layouts=(IMAGENET,))
NETWORKS = (
    Net("pvt-s", pvt_s, FAMILY, ((256, 192),), _WIDTHS),
    Net("pvtv2-b2", pvtv2_b2, FAMILY, ((256, 192),), _WIDTHS),
)
