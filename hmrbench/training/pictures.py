"""The pictures of a training set, decoded once and kept on the device, and crops that are cut out of them there.

For devices that learn faster than the cores beside them decode and cut pictures: an example then names a picture
and a view of it (`examples.look`), and costs a core a tenth of a crop.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hmrbench.data.images import read_image
from hmrbench.device import is_out_of_memory
from hmrbench.errors import UsageError


class Pictures:
    """Pictures of any sizes, one behind the other.

    Args:
        paths: the picture files, by number.
        device: where they are kept.
        workers: threads that decode them.

    Raises:
        DataError: a picture is missing or corrupt.
        UsageError: the device has too little memory for them.
    """

    def __init__(self, paths: Sequence[Path], device: torch.device, workers: int) -> None:
        with ThreadPoolExecutor(max(1, workers), thread_name_prefix="picture") as pool:
            images = list(pool.map(read_image, paths))
        sizes = np.array([image.shape[:2] for image in images], np.int64)  # (N, 2) height and width
        ends = sizes.prod(1).cumsum()
        try:
            self.pixels = torch.empty((int(ends[-1]), 3), dtype=torch.uint8, device=device)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise UsageError(
                f"{len(images):,} decoded pictures are {3 * ends[-1] / 1e9:.1f} GB, which {device} has no room for; "
                "train without --cache, or on fewer"
            ) from error
        self.start = torch.from_numpy(ends - sizes.prod(1)).to(device)
        self.height, self.width = torch.from_numpy(sizes).to(device).unbind(1)
        for image, end in zip(images, ends, strict=True):
            self.pixels[end - image[..., 0].size : end] = torch.from_numpy(image.reshape(-1, 3))

    def crop(self, picture: Tensor, matrix: Tensor, colour: Tensor, input_size: tuple[int, int]) -> Tensor:
        """Crops as `data.crop.warp` and `View.recolour` make them, but for rounding: a level with OpenCV 5,
        1/32 pixel with OpenCV 4.

        Args:
            picture: (B,) numbers of the pictures.
            matrix: (B, 2, 3) from pixels of the picture to pixels of the crop.
            colour: (B, 3) factors on the channels.
            input_size: H and W of the crops.

        Returns:
            (B, H, W, 3) float32, whole levels from 0 to 255.
        """
        matrix = matrix.double()
        back = torch.linalg.inv(matrix[:, :, :2])  # (B, 2, 2)
        y, x = (torch.arange(n, dtype=torch.float64, device=matrix.device) for n in input_size)
        moved = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1) - matrix[:, None, None, :, 2]  # (B, H, W, 2)
        at = (moved.flatten(1, 2) @ back.mT).view_as(moved).float()
        low = at.floor()
        part = at - low
        start, height, width = (t[picture][:, None, None] for t in (self.start, self.height, self.width))
        total = torch.zeros((*at.shape[:3], 3), device=matrix.device)
        for dy in (0, 1):
            for dx in (0, 1):
                column, row = low[..., 0].long() + dx, low[..., 1].long() + dy
                inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                weight = (part[..., 0] if dx else 1 - part[..., 0]) * (part[..., 1] if dy else 1 - part[..., 1])
                pixel = torch.where(inside, start + row * width + column, 0)
                total += self.pixels[pixel].float() * (weight * inside)[..., None]
        return (total.round() * colour[:, None, None].float()).clamp(0, 255).round()
