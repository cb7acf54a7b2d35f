"""SimpleBaseline and SimCC on ResNet-50.

Paper: Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018; for SimCC see its head.
Origin: open-mmlab/mmpose (Apache-2.0), `td-hm_res50`, `simcc_res50`; microsoft/human-pose-estimation.pytorch (MIT),
whose own checkpoints, unlike mmpose's, take BGR pictures.
"""

from __future__ import annotations

from torch import nn

from hmrbench.nets.encoders.resnet import ResNet50
from hmrbench.nets.heads.heatmap import HeatmapHead
from hmrbench.nets.heads.simcc import SimCCHead
from hmrbench.nets.poses.hrnet import SIMCC
from hmrbench.nets.record import Family, Net
from hmrbench.nets.truncation import Network

FILTERS = (256, 256, 256)


def simplebaseline_res50(input_size: tuple[int, int] = (256, 192)) -> Network:
    """ResNet-50 and three transposed convolutions; any input size."""
    return Network(ResNet50(), nn.Identity(), HeatmapHead(2048, num_filters=FILTERS))


def simcc_res50(input_size: tuple[int, int] = (256, 192)) -> Network:
    """The same, with mmpose's SimCC head of two bins per pixel."""
    return Network(ResNet50(), nn.Identity(), SimCCHead(2048, input_size, num_filters=FILTERS))


FAMILY = Family("simplebaseline", "SimpleBaseline")
NETWORKS = (
    Net("simplebaseline-res50", simplebaseline_res50, FAMILY, ((256, 192), (384, 288)), ResNet50.widths),
    Net("simcc-res50", simcc_res50, SIMCC, ((256, 192),), ResNet50.widths, "simcc", 2.0),
)
