"""Samples -> batches of crops: each picture is read once, ahead of the network, by threads.

OpenCV decodes and warps without Python's lock, so threads scale like processes, and nothing is copied between them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hmrbench.codecs import Codec, Crops
from hmrbench.data.crop import Geometry, crop_people
from hmrbench.data.family_crops import FAMILY_CROPS, crops_in, family_pictures
from hmrbench.data.images import check_size, read_image
from hmrbench.records import Array, Sample
from hmrbench.schema import Crop, ModelCard


@dataclass(frozen=True)
class CropSettings:
    """What a network's input asks for: the card's crop, its input (height, width), its codec's geometry.

    Of whole pictures the size depends on the picture, see `crop.whole_picture`.
    """

    crop: Crop
    input: tuple[int, int]
    geometry: Geometry

    @classmethod
    def of(cls, card: ModelCard, codec: Codec | None) -> CropSettings:
        """What a card and its codec say."""
        classic: Geometry = "classic" if codec is None else codec.geometry
        return cls(card.crop, card.input, "square" if card.crop.kind == "square" else classic)


@dataclass(frozen=True)
class Batch:
    """Crops of some samples: `index` (B,) are their places in the data set, `images` (B, H, W, 3) RGB, uint8, or
    of some families float32, from 0 to 255 all."""

    index: Array
    images: Array
    crops: Crops


def crop_image(path: Path, samples: Sequence[Sample], settings: CropSettings) -> tuple[Array, Crops]:
    """All crops out of one picture, (n, H, W, 3) RGB, and where they lie in it.

    Raises:
        DataError: the picture is missing or corrupt, or not of the size that the data set says.
    """
    image = read_image(path)
    for sample in samples:
        check_size(sample, image)
    crops = crops_in(samples, settings.crop, settings.input, (image.shape[1], image.shape[0]))
    if settings.crop.kind in FAMILY_CROPS:
        return family_pictures(image, samples, settings.crop), crops
    return crop_people(image, crops.center_px, crops.size_px, crops.input_size, settings.geometry), crops


def batches(
    samples: Sequence[Sample], index: Sequence[int], settings: CropSettings, batch_size: int, workers: int
) -> Generator[Batch, None, None]:
    """Batches of the samples at `index`, people of one picture together, pictures in order of first appearance.

    `workers` threads (at least one) run ahead of the caller by about three batches. Of whole pictures those that the
    network sees at one size make a batch, as far as they lie within that reach of each other.

    Raises:
        DataError: a picture is missing or corrupt; raised when its batch is due.
    """
    pictures: dict[Path, list[int]] = {}
    for i in index:
        pictures.setdefault(samples[i].image, []).append(i)
    todo = iter(pictures.items())
    ahead: deque[tuple[list[int], Future[tuple[Array, Crops]]]] = deque()
    # One entry a person, of finished pictures, by the size of the input.
    waiting: dict[tuple[int, int], deque[tuple[int, Array, Array, Array, Array]]] = {}
    people_ahead = 0

    pool = ThreadPoolExecutor(max(1, workers), thread_name_prefix="crop")
    try:
        while True:
            while people_ahead < 3 * batch_size + workers and (task := next(todo, None)) is not None:
                path, people = task
                ahead.append((people, pool.submit(crop_image, path, [samples[i] for i in people], settings)))
                people_ahead += len(people)
            size = max(waiting, key=lambda s: len(waiting[s]), default=(0, 0))
            count = len(waiting.get(size, ()))
            if count >= batch_size or (count and not ahead):
                chosen = [waiting[size].popleft() for _ in range(min(batch_size, count))]
                people_ahead -= len(chosen)
                yield _collate(chosen, size)
            elif ahead:
                people, future = ahead.popleft()
                images, crops = future.result()
                of_size = waiting.setdefault(crops.input_size, deque())
                whole_px = np.asarray(crops.image_wh_px)
                of_size.extend(zip(people, images, crops.center_px, crops.size_px, whole_px, strict=True))
            else:
                return
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _collate(people: Sequence[tuple[int, Array, Array, Array, Array]], size: tuple[int, int]) -> Batch:
    index, images, centers, sizes, wholes = zip(*people, strict=True)
    crops = Crops(np.stack(centers), np.stack(sizes), size, np.stack(wholes))
    return Batch(np.array(index), np.stack(images), crops)
