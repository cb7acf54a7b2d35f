"""ViPNAS: two encoders found by search, with slim transposed convolutions; SimCC on the smaller one.

Paper: Xu et al., "ViPNAS: Efficient Video Pose Estimation via Neural Architecture Search", CVPR 2021.
Origin: open-mmlab/mmpose (Apache-2.0), `td-hm_vipnas-res50`, `td-hm_vipnas-mbv3`, `simcc_vipnas-mbv3`.
"""

from __future__ import annotations

from torch import nn

from hmrbench.nets.encoders.vipnas import ViPNASMobileNetV3, ViPNASRes50
from hmrbench.nets.heads.heatmap import HeatmapHead
from hmrbench.nets.heads.simcc import SimCCHead
from hmrbench.nets.poses.hrnet import SIMCC
from hmrbench.nets.record import Family, Net
from hmrbench.nets.truncation import Network

SLIM = (160, 160, 160)


def vipnas_res50(input_size: tuple[int, int] = (256, 192)) -> Network:
    """S-ViPNAS-Res50; any input size."""
    return Network(ViPNASRes50(), nn.Identity(), HeatmapHead(608, num_filters=(144, 144, 144), groups=16))


def vipnas_mbv3(input_size: tuple[int, int] = (256, 192)) -> Network:
    """S-ViPNAS-MobileNetV3; any input size."""
    return Network(ViPNASMobileNetV3(), nn.Identity(), HeatmapHead(160, num_filters=SLIM, groups=160))


def simcc_vipnas_mbv3(input_size: tuple[int, int] = (256, 192)) -> Network:
    """The same, with mmpose's SimCC head of two bins per pixel."""
    head = SimCCHead(160, input_size, num_filters=SLIM, groups=160)
    return Network(ViPNASMobileNetV3(), nn.Identity(), head)


_SIZES = ((256, 192),)
FAMILY = Family("vipnas", "ViPNAS")
NETWORKS = (
    Net("vipnas-res50", vipnas_res50, FAMILY, _SIZES, ViPNASRes50.widths),
    Net("vipnas-mbv3", vipnas_mbv3, FAMILY, _SIZES, ViPNASMobileNetV3.widths),
    Net("simcc-vipnas-mbv3", simcc_vipnas_mbv3, SIMCC, _SIZES, ViPNASMobileNetV3.widths, "simcc", 2.0),
)
