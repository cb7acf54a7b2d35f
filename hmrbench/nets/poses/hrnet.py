"""HRNet for heatmaps, and for SimCC.

Papers: Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation", CVPR 2019; for SimCC see
its head.
Origin: leoxiaobin/deep-high-resolution-net.pytorch (MIT), leeyegy/SimCC (MIT), open-mmlab/mmpose (Apache-2.0).
"""

from __future__ import annotations

from functools import partial

from torch import nn

from hmrbench.nets.encoders.hrnet import HRNet
from hmrbench.nets.heads.heatmap import HeatmapHead
from hmrbench.nets.heads.simcc import SimCCHead
from hmrbench.nets.record import Family, Net
from hmrbench.nets.truncation import Network


def hrnet(width: int, input_size: tuple[int, int] = (256, 192)) -> Network:
    """HRNet-W`width` and one 1x1 convolution; any input size."""
    return Network(HRNet(width), nn.Identity(), HeatmapHead(width, num_filters=()))


def simcc_hrnet(width: int, split: float, input_size: tuple[int, int] = (256, 192)) -> Network:
    """The same, with two linear layers behind it: `split` bins per pixel."""
    return Network(HRNet(width), nn.Identity(), SimCCHead(width, input_size, split))


hrnet_w32, hrnet_w48 = partial(hrnet, 32), partial(hrnet, 48)
simcc_hrnet_w32, simcc_hrnet_w48 = partial(simcc_hrnet, 32, 2.0), partial(simcc_hrnet, 48, 2.0)
simcc_hrnet_w48_384x288 = partial(simcc_hrnet, 48, 1.5)

_W32, _W48 = (32, 64, 128, 256), (48, 96, 192, 384)
_SIZES = ((256, 192), (384, 288))
FAMILY, SIMCC = Family("hrnet", "HRNet"), Family("simcc", "SimCC")
NETWORKS = (
    Net("hrnet-w32", hrnet_w32, FAMILY, _SIZES, _W32),
    Net("hrnet-w48", hrnet_w48, FAMILY, _SIZES, _W48),
    Net("simcc-hrnet-w32", simcc_hrnet_w32, SIMCC, ((256, 192),), _W32, "simcc", 2.0),
    Net("simcc-hrnet-w48", simcc_hrnet_w48, SIMCC, ((256, 192),), _W48, "simcc", 2.0),
    Net("simcc-hrnet-w48-384x288", simcc_hrnet_w48_384x288, SIMCC, ((384, 288),), _W48, "simcc", 1.5),
)
