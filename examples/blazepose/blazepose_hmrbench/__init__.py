"""BlazePose for hmrbench: a network that is not PyTorch's, whose output is keypoints and not heatmaps.

Bazarevsky et al., "BlazePose: On-device Real-time Body Pose tracking", 2020 (arXiv 2006.10204). The rows of
the output are those of google-ai-edge/mediapipe, mediapipe/modules/pose_landmark (Apache-2.0).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hmrbench.codecs import Codec, Crops
from hmrbench.codecs.heatmap import to_image
from hmrbench.records import Array
from hmrbench.schema import ModelCard
from hmrbench.skeletons import Skeleton

INPUT = (256, 256)
COCO17 = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)  # rows of the output in COCO's order


class BlazePose(nn.Module):
    """(B, 3, 256, 256) RGB in [0, 1] -> (B, 17, 3): x, y in pixels of the input, logit of visibility."""

    def __init__(self) -> None:
        super().__init__()
        self.interpreter: Any = None

    def load_weights(self, path: Path) -> None:
        """Read the .tflite file, which holds the graph as well."""
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(model_path=str(path), num_threads=torch.get_num_threads())
        self.interpreter.allocate_tensors()

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self._one(image) for image in x])

    def _one(self, image: Tensor) -> Tensor:
        run = self.interpreter
        run.set_tensor(run.get_input_details()[0]["index"], image.permute(1, 2, 0)[None].numpy())  # (1, 256, 256, 3)
        run.invoke()
        rows = run.get_tensor(run.get_output_details()[0]["index"]).reshape(39, 5)  # x, y, z, visibility, presence
        return torch.from_numpy(rows[COCO17, :][:, [0, 1, 3]])


def build(card: ModelCard) -> nn.Module:
    """The card's network."""
    return BlazePose()


def decode(output: Tensor, crops: Crops) -> tuple[Array, Array]:
    """Keypoints (B, 17, 2) in pixels of the whole image, and the probability (B, 17) that each is visible."""
    rows = output.double().numpy()
    return to_image(rows[..., :2], INPUT, crops), 1 / (1 + np.exp(-rows[..., 2]))


def flip_back(output: Tensor, skeleton: Skeleton) -> Tensor:
    """Keypoints of the mirrored picture, mirrored back."""
    back = output[:, skeleton.flip_order].clone()
    back[..., 0] = INPUT[1] - 1 - back[..., 0]
    return back


CODEC = Codec("blazepose", "classic", decode, flip_back)
