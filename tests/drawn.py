"""What bounds on the distance to reference numbers are worth on other processors, and with another OpenCV."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import numpy as np
import refio
import seeding
import torch

# The reference pictures were made with OpenCV 5. OpenCV 4 rounds positions to 1/32 pixel.
OPENCV_5 = cv2.__version__.startswith("5.")

_REFS = Path(__file__).parent / "refs"


def bound(where_exact: float, float32: float = 1e-4) -> float:
    """`where_exact`, and what float32 costs more where `torch.randn` draws seeded weights that are an ulp off.

    PyTorch draws normal numbers by AVX2's approximations on processors that have it, and by the C library elsewhere
    (and under `ATEN_CPU_CAPABILITY=default`): the references' README measures up to 1.3e-6 between the two.
    """
    return where_exact if _weights_are_exact() else where_exact + float32


@cache
def _weights_are_exact() -> bool:
    with np.load(_REFS / "rng_canary.npz") as canary:
        wanted = {key: canary[f"{key}.full"] for key in refio.names(canary) if f"{key}.full" in canary.files}
        drawn = {key: seeding.seeded_tensor(key, torch.empty(want.shape)).numpy() for key, want in wanted.items()}
        image = refio.error(canary, "input.256x192", seeding.seeded_input((1, 3, 256, 192)).numpy())
    return image == 0 and all(np.array_equal(drawn[key], want) for key, want in wanted.items())
