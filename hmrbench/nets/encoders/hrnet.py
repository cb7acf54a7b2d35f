"""HRNet: branches of stride 4 to 32 side by side, which exchange what they see again and again.

Paper: Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation", CVPR 2019.
Origin: leoxiaobin/deep-high-resolution-net.pytorch (MIT), HRNet/HRNet-Image-Classification (MIT). The blocks and
their key names are those of timm's port (huggingface/pytorch-image-models, Apache-2.0).
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from timm.models.hrnet import HighResolutionNet
from torch import Tensor, nn

Output = Literal["finest", "features"]


def _stages(width: int) -> dict[str, object]:
    """Modules, blocks and widths of the four stages, in timm's terms."""
    stages: dict[str, object] = {"stem_width": 64}
    for number, modules in enumerate((1, 1, 4, 3), start=1):
        stages[f"stage{number}"] = {
            "num_modules": modules,
            "num_branches": number,
            "block_type": "BOTTLENECK" if number == 1 else "BASIC",
            "num_blocks": (4,) * number,
            "num_channels": (64,) if number == 1 else tuple(width << branch for branch in range(number)),
            "fuse_method": "SUM",
        }
    return stages


class HRNet(nn.Module):
    """Four stages of one to four branches, of widths `width` to 8 * `width`.

    Args:
        width: channels of the finest branch: 32, 48 or 64.
        output: `finest`, the map of stride 4, where the last module has no other fusion (pose networks); `features`,
            all four brought to one map of stride 32 and 2048 channels by what stands before the classifier of the
            ImageNet network (mesh networks).
        classes: keep that classifier, of so many classes, with `features`. No forward reads it: official checkpoints of
            mesh networks and the published numbers of parameters include it.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, width: int, output: Output = "finest", classes: int = 0) -> None:
        super().__init__()
        self.widths = tuple(width << branch for branch in range(4))
        self.output = output
        head = "classification" if output == "features" else ""
        net = HighResolutionNet(_stages(width), num_classes=classes, head=head)
        if output == "finest":
            last = net.stage4[-1]
            last.fuse_layers, last.multi_scale_output = last.fuse_layers[:1], False
        self.conv1, self.bn1, self.conv2, self.bn2, self.layer1 = net.conv1, net.bn1, net.conv2, net.bn2, net.layer1
        self.transition1, self.stage2 = net.transition1, net.stage2
        self.transition2, self.stage3 = net.transition2, net.stage3
        self.transition3, self.stage4 = net.transition3, net.stage4
        if output == "features":
            self.incre_modules, self.downsamp_modules = net.incre_modules, net.downsamp_modules
            self.final_layer = net.final_layer
            if classes:
                self.classifier = net.classifier

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) normalised images to the map (B, C, h, w) that `output` says."""
        maps = self.branches(x)
        if self.output == "finest":
            return maps[0]
        y: Tensor = self.final_layer(self.brought_together(maps))
        return y

    def branches(self, x: Tensor) -> list[Tensor]:
        """The maps of the last stage, from the finest to the coarsest."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        maps: list[Tensor] = [self.layer1(x)]
        for transition, stage in (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        ):
            # A new branch begins at the coarsest map so far; the first two both begin at the only one.
            maps = stage([layer(maps[min(branch, len(maps) - 1)]) for branch, layer in enumerate(transition)])
        return maps

    def brought_together(self, maps: list[Tensor]) -> Tensor:
        """All four maps as one of stride 32 and 1024 channels: what `final_layer` widens."""
        y: Tensor = self.incre_modules[0](maps[0])
        for branch, down in enumerate(self.downsamp_modules, start=1):
            y = self.incre_modules[branch](maps[branch]) + down(y)
        return y
