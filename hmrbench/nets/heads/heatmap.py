"""The "classic" heatmap decoder of ViTPose: transposed convolutions, then one 1x1 convolution.

Paper: Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018, as used by
Xu et al., "ViTPose", NeurIPS 2022.
Origin: ViTAE-Transformer/ViTPose (Apache-2.0), `mmpose/models/heads/topdown_heatmap_simple_head.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hmrbench.nets.record import HeadKind


class HeatmapHead(nn.Module):
    """Features to heatmaps, of twice the size for each transposed convolution.

    Args:
        in_channels: channels of the features.
        num_keypoints: number of heatmaps.
        num_filters: channels of each 4x4, stride-2 transposed convolution.
        groups: of the transposed convolutions.
    """

    def __init__(
        self, in_channels: int, num_keypoints: int = 17, num_filters: Sequence[int] = (256, 256), groups: int = 1
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_channels
        for filters in num_filters:
            layers += [
                nn.ConvTranspose2d(channels, filters, 4, stride=2, padding=1, groups=groups, bias=False),
                nn.BatchNorm2d(filters),
                nn.ReLU(inplace=True),
            ]
            channels = filters
        self.deconv_layers = nn.Sequential(*layers)
        self.final_layer = nn.Conv2d(channels, num_keypoints, 1)
        for module in self.modules():
            if isinstance(module, (nn.ConvTranspose2d, nn.Conv2d)):
                nn.init.normal_(module.weight, std=0.001)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) features to heatmaps, (B, K, 4h, 4w) with the two transposed convolutions of ViTPose."""
        y: Tensor = self.final_layer(self.deconv_layers(x))
        return y


def _build(channels: int, input_size: tuple[int, int], *, filters: Sequence[int], groups: int, **_: Any) -> HeatmapHead:
    return HeatmapHead(channels, num_filters=filters, groups=groups)


HEADS = (HeadKind("heatmap", _build),)
