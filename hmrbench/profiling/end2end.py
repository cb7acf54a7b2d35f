"""One measured round from JPEG files to keypoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from hmrbench import device as devices
from hmrbench import zoo
from hmrbench.data.loader import CropSettings, batches
from hmrbench.profiling import flops
from hmrbench.records import Sample
from hmrbench.schema import ModelCard


def end_to_end(
    card: ModelCard,
    forward: Callable[[Tensor], Any],
    batch_size: int,
    device: torch.device,
    layout: torch.memory_format,
    folder: Path,
) -> Callable[[], Any]:
    """JPEG files in, keypoints out; of a mesh network its parameters, since its body model is not counted."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    whole = card.crop.kind == "bottom-up"
    height, width = card.input if whole else (480, 640)
    box = (0.0, 0.0, float(width), float(height)) if whole else (180.0, 60.0, 220.0, 360.0)
    picture = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    people = []
    for i in range(batch_size):
        path = folder / f"{i}.jpg"
        cv2.imwrite(str(path), picture)
        people.append(Sample(str(i), path, i, box))
    codec = zoo.codec_of(card) if card.task == "hpe" else None
    settings = CropSettings.of(card, codec)
    normalize = devices.Normalize(card, device, layout)

    def run() -> Any:
        workers = torch.get_num_threads()
        batch = next(batches(people, range(batch_size), settings, batch_size, workers))
        output = forward(normalize(batch.images))
        return codec.decode(output, batch.crops) if codec else [t.cpu() for t in flops.tensors(output)]

    return run
