"""Lite-HRNet for heatmaps.

Paper: Yu et al., "Lite-HRNet: A Lightweight High-Resolution Network", CVPR 2021.
Origin: HRNet/Lite-HRNet (Apache-2.0); open-mmlab/mmpose (Apache-2.0), `td-hm_litehrnet-18`, `td-hm_litehrnet-30`.
"""

from __future__ import annotations

from functools import partial

from torch import nn

from hmrbench.nets.encoders.litehrnet import WIDTHS, LiteHRNet
from hmrbench.nets.heads.heatmap import HeatmapHead
from hmrbench.nets.record import Family, Net
from hmrbench.nets.truncation import Network

MODULES = {18: (2, 4, 2), 30: (3, 8, 3)}


def litehrnet(depth: int, input_size: tuple[int, int] = (256, 192)) -> Network:
    """Lite-HRNet-18 or -30 and one 1x1 convolution; sides in multiples of 32 pixels."""
    return Network(LiteHRNet(MODULES[depth]), nn.Identity(), HeatmapHead(WIDTHS[0], num_filters=()))


litehrnet_18, litehrnet_30 = partial(litehrnet, 18), partial(litehrnet, 30)

_SIZES = ((256, 192), (384, 288))
FAMILY = Family("litehrnet", "Lite-HRNet")
NETWORKS = (
    Net("litehrnet-18", litehrnet_18, FAMILY, _SIZES, WIDTHS),
    Net("litehrnet-30", litehrnet_30, FAMILY, _SIZES, WIDTHS),
)
