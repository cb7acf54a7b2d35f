"""ResNet-50 as of torchvision, without its classifier.

Paper: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; the stride is in the 3x3 convolution.
Origin: pytorch/vision (BSD-3-Clause), whose key names mmpose shares.
"""

from __future__ import annotations

from collections import OrderedDict

import torchvision
from torch import nn


class ResNet50(nn.Sequential):
    """(B, 3, H, W) normalised images to (B, 2048, H/32, W/32) features."""

    widths = (256, 512, 1024, 2048)
    strides = (4, 8, 16, 32)

    def __init__(self) -> None:
        layers = torchvision.models.resnet50().named_children()
        super().__init__(OrderedDict((name, layer) for name, layer in layers if name not in ("avgpool", "fc")))
