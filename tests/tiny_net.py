"""A network small enough to run in any test, reached like anybody's: by an import path in a card."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from hmrbench.schema import ModelCard


class TinyPose(nn.Module):
    """(B, 3, H, W) -> heatmaps (B, 17, H / 4, W / 4): an average and a projection. `calls` counts forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, 17, 1)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y: Tensor = self.project(nn.functional.avg_pool2d(x, 4))
        return y


class NanPose(TinyPose):
    """Puts a NaN into the second person's heatmaps."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        if len(y) > 1:
            y[1, 3] = torch.nan
        return y


class TinyCrowd(nn.Module):
    """(B, 3, H, W) -> heatmaps and tags (B, 34, H / 4, W / 4), heatmaps (B, 17, H / 2, W / 2): finds many people."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse, self.fine = nn.Conv2d(3, 34, 1), nn.Conv2d(3, 17, 1)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.sizes.append(tuple(x.shape))
        coarse = self.coarse(nn.functional.avg_pool2d(x, 4))
        alike = torch.cat([coarse[:, :17], 0.2 * coarse[:, 17:]], dim=1)  # tags, so that people share their joints
        return alike, self.fine(nn.functional.avg_pool2d(x, 2))


class TinyNobody(TinyCrowd):
    """Finds nobody."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        coarse, fine = super().forward(x)
        return coarse * 0, fine * 0


class TinyLost(TinyCrowd):
    """Puts a NaN into a tag of the last picture of a batch."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        coarse, fine = super().forward(x)
        coarse[-1, 20, 3, 3] = torch.nan
        return coarse, fine


def build(card: ModelCard) -> nn.Module:
    return TinyPose()


def build_crowd(card: ModelCard) -> nn.Module:
    return {"tiny-crowd": TinyCrowd, "tiny-nobody": TinyNobody, "tiny-lost": TinyLost}[card.name]()


def build_nan(card: ModelCard) -> nn.Module:
    return NanPose()


def write_cards(folder: Path) -> Path:
    """A folder of cards: tiny-a, tiny-b, tiny-nan, which predicts what is no number, and three of whole pictures:
    tiny-crowd, tiny-nobody, tiny-lost."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.yaml").write_text(
        "family: tiny\n"
        "defaults: {task: hpe, size: t, input: [64, 48], licence: none, build: 'tiny_net:build'}\n"
        "models:\n"
        "  tiny-a: {paper_name: Tiny-A, published: [{dataset: coco-val, metric: AP, value: 12.5, source: nobody}]}\n"
        "  tiny-b: {paper_name: Tiny-B}\n"
        "  tiny-nan: {paper_name: Tiny-NaN, build: 'tiny_net:build_nan'}\n"
    )
    (folder / "crowd.yaml").write_text(
        "family: crowd\n"
        "defaults:\n"
        "  {task: hpe, size: t, input: [64, 64], licence: none, build: 'tiny_net:build_crowd', codec: grouping,\n"
        "   crop: {kind: bottom-up}}\n"
        "models:\n"
        "  tiny-crowd:\n"
        "    {paper_name: Tiny-Crowd, published: [{dataset: coco-val, metric: AP, value: 7.5, source: nobody}]}\n"
        "  tiny-nobody: {paper_name: Tiny-Nobody}\n"
        "  tiny-lost: {paper_name: Tiny-Lost}\n"
    )
    return folder
