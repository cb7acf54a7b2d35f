"""MEMe (EEffPose): EfficientNet with maps side by side, fusions, and a product of what three scales say.

Paper: Li et al., "Mutually Enhanced Modeling for Human Pose Estimation", Sensors 2022, 22(2), 632.
Origin: igodogi/EEffPose, `experiments/coco/eeffpose`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from hmrbench.nets.encoders.eeffnet import BatchNorm, EEffNet, Fusion
from hmrbench.nets.record import Family, Net, OfficialLayout
from hmrbench.nets.truncation import Network

# Widths and depths of the encoder's stages, width and number of the neck's fusions.
SIZES = {
    0: ((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), 64, 3),
    2: ((16, 24, 48, 88, 120, 208, 352), (2, 3, 3, 4, 4, 5, 2), 112, 5),
}


class ProductHead(nn.Module):
    """One 1x1 convolution and a sigmoid for each map; the heatmaps are the products over the maps.

    Args:
        in_channels: channels of every map.
        scales: number of maps, each half as fine as the one before.
        num_keypoints: number of heatmaps.
    """

    def __init__(self, in_channels: int, scales: int = 3, num_keypoints: int = 17) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(in_channels, num_keypoints, 1, bias=False),
                BatchNorm(num_keypoints),
                nn.Sigmoid(),
                nn.Upsample(scale_factor=2.0**scale, mode="nearest"),
            )
            for scale in range(scales)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, h, w), finest first, to heatmaps (B, K, h, w) between 0 and 1."""
        first, *rest = (layer(x) for layer, x in zip(self.layers, maps, strict=True))
        for x in rest:
            first = first * x
        y: Tensor = first
        return y


def meme(size: int, input_size: tuple[int, int] = (256, 192)) -> Network:
    """EEffPose-P0 or -P2; sides in multiples of 16 pixels."""
    widths, depths, channels, repeats = SIZES[size]
    encoder = EEffNet(widths, depths)
    neck = [channels] * len(encoder.widths)
    fusions = [Fusion(encoder.widths if i == 0 else neck, neck) for i in range(repeats)]
    return Network(encoder, nn.Sequential(*fusions), ProductHead(channels))


meme_p0, meme_p2 = partial(meme, 0), partial(meme, 2)

FAMILY = Family("meme", "MEMe")
LAYOUT = OfficialLayout(((r"^hr_backbone\.", "encoder."), (r"^fpn\.", "neck."), (r"^final_layer\.", "head.")))
NETWORKS = (
    Net("meme-p0", meme_p0, FAMILY, ((256, 192),), (40, 112, 320), layout=LAYOUT),
    Net("meme-p2", meme_p2, FAMILY, ((384, 288),), (48, 120, 352), layout=LAYOUT),
)
