"""BlazePose for hmrbench: a network that is not PyTorch's, whose output is keypoints and not heatmaps.

Bazarevsky et al., "BlazePose: On-device Real-time Body Pose tracking", 2020 (arXiv 2006.10204). The rows of
the output are those of google-ai-edge/mediapipe, mediapipe/modules/pose_landmark (Apache-2.0).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor, nn

from hmrbench.codecs import Codec, Crops
from hmrbench.codecs.heatmap import to_image
from hmrbench.records import Array
from hmrbench.runtimes import Network, Prepared, Runtime, Setting, litert
from hmrbench.schema import ModelCard
from hmrbench.skeletons import Skeleton

INPUT = (256, 256)
COCO17 = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)  # rows of the output in COCO's order


class BlazePose(nn.Module):
    """Where the .tflite file lies, which holds the graph as well: PyTorch has no part in it."""

    def __init__(self) -> None:
        super().__init__()
        self.file: Path | None = None

    def load_weights(self, path: Path) -> None:
        """Look at the file, so that one that is none is refused here.

        Raises:
            ValueError: it is no file of TensorFlow Lite.
        """
        if path.read_bytes()[4:8] != b"TFL3":
            raise ValueError("not a file of TensorFlow Lite")
        self.file = path


class Running(litert.Interpreter):
    """(B, 3, 256, 256) RGB in [0, 1] -> (B, 17, 3): x, y in pixels of the input, logit of visibility."""

    def __call__(self, x: Tensor) -> Tensor:
        rows = super().__call__(x)[0].reshape(len(x), 39, 5)  # x, y, z, visibility, presence
        return rows[:, COCO17][..., [0, 1, 3]]


def prepare(network: Network, setting: Setting) -> Prepared:
    """The file in LiteRT's interpreter."""
    file = getattr(network.net, "file", None)
    count = 5  # outputs of the file, of which the first is used
    return Running(Network(file=file, form=[None] * count), setting)


RUNTIME = Runtime("litert", ("ai-edge-litert",), prepare, install="pip install ai-edge-litert")


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
