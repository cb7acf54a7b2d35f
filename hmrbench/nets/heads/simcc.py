"""SimCC: a keypoint as two classifications, of its x and of its y, over bins finer than a pixel.

Paper: Li et al., "SimCC: A Simple Coordinate Classification Perspective for Human Pose Estimation", ECCV 2022.
Origin: leeyegy/SimCC (MIT), `lib/models/pose_hrnet.py`; open-mmlab/mmpose (Apache-2.0), `simcc_head.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hmrbench.nets.heads.heatmap import HeatmapHead
from hmrbench.nets.record import HeadKind


class SimCCHead(HeatmapHead):
    """One map per keypoint, flattened, then a linear layer for each axis that all keypoints share.

    Args:
        in_channels: channels of the features.
        input_size: (height, width) of the network's input in pixels.
        split: bins per pixel.
        num_keypoints, num_filters, groups: see `HeatmapHead`.
    """

    def __init__(
        self,
        in_channels: int,
        input_size: tuple[int, int],
        split: float = 2.0,
        num_keypoints: int = 17,
        num_filters: Sequence[int] = (),
        groups: int = 1,
    ) -> None:
        super().__init__(in_channels, num_keypoints, num_filters, groups)
        height, width = input_size
        cells = (height // 4) * (width // 4)
        self.mlp_head_x = nn.Linear(cells, int(width * split))
        self.mlp_head_y = nn.Linear(cells, int(height * split))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(B, C, h, w) features to logits (B, K, W * split) of x and (B, K, H * split) of y."""
        maps = super().forward(x).flatten(2)  # (B, K, H/4 * W/4)
        return self.mlp_head_x(maps), self.mlp_head_y(maps)


def _build(
    channels: int, input_size: tuple[int, int], *, filters: Sequence[int], groups: int, split: float, **_: Any
) -> SimCCHead:
    return SimCCHead(channels, input_size, split, num_filters=filters, groups=groups)


HEADS = (HeadKind("simcc", _build, bins=True),)
