"""ResNet-50 as of timm, without its classifier.

Paper: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; the stride is in the 3x3 convolution.
Origin: huggingface/pytorch-image-models (Apache-2.0); torchvision and mmpose share its key names and numbers.
"""

from __future__ import annotations

from collections import OrderedDict

from timm.models.resnet import Bottleneck, ResNet
from torch import nn


class ResNet50(nn.Sequential):
    """(B, 3, H, W) normalised images to (B, 2048, H/32, W/32) features."""

    widths = (256, 512, 1024, 2048)
    strides = (4, 8, 16, 32)

    def __init__(self) -> None:
        layers = ResNet(Bottleneck, (3, 4, 6, 3)).named_children()  # type: ignore[arg-type]
        super().__init__(OrderedDict((name, layer) for name, layer in layers if name not in ("global_pool", "fc")))
