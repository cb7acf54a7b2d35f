"""From a person's box to the network's input picture, and back for keypoints.

Three geometries. `udp` and `classic` are those of mmpose 0.x (`_xywh2cs`, `get_warp_matrix`,
`get_affine_transform`, read in the ViTPose repository, Apache-2.0): UDP measures a picture from the centre of
its first to the centre of its last pixel, the classic one by its number of pixels. `square` is that of
4D-Humans (`hmr2/datasets/utils.py`, MIT). All interpolate bilinearly with OpenCV and see black outside the
image. Steps that the official code computes in float32 are computed in float32 here, so that matrices are
equal to the last bit, and so are pictures from the same OpenCV (4 and 5 differ by up to 3 grey levels).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np

from hmrbench.codecs import CropGeometry, Crops
from hmrbench.errors import DataError
from hmrbench.records import Array, Sample
from hmrbench.schema import Crop

Geometry = CropGeometry | Literal["square"]

PIXEL_STD = 200.0  # mmpose stores sizes in units of 200 pixels; only the float32 rounding of that remains
BODY_SHAPE = (256, 192)  # height and width to which 4D-Humans expands a box before it takes the longer side
PICTURE_STEP = 64  # the sides of a whole picture become multiples of it
MAX_SIDE = 8192  # of a whole picture as a network sees it; bounds the memory that a long and thin one takes


def expand_boxes(boxes_xywh_px: Array, aspect: float, padding: float = 1.25) -> tuple[Array, Array]:
    """The crop around each box: the box widened or heightened to the aspect of the input, then padded.

    Args:
        boxes_xywh_px: (N, 4) left, top, width, height.
        aspect: width over height of the network's input.
        padding: factor on the size; 1 for boxes that already hold their margin.

    Returns:
        center_px (N, 2) and size_px (N, 2), float32, x then y.

    Raises:
        DataError: a box is not finite or has no extent.
    """
    boxes = _checked_boxes(boxes_xywh_px)
    left, top, width, height = boxes.T
    center = np.stack([left + width * 0.5, top + height * 0.5], axis=1).astype(np.float32)
    wide, tall = width > aspect * height, width < aspect * height
    size = np.stack([np.where(tall, height * aspect, width), np.where(wide, width / aspect, height)], axis=1)
    scale = (size / PIXEL_STD).astype(np.float32) * np.float32(padding)
    return center, scale * np.float32(PIXEL_STD)


def square_boxes(boxes_xywh_px: Array, padding: float = 1.0) -> tuple[Array, Array]:
    """The crop of 4D-Humans: the padded box expanded to 192:256, then a square of its longer side.

    Args:
        boxes_xywh_px: (N, 4) left, top, width, height.
        padding: factor on the size; 1 for the boxes of the 4D-Humans files, which already hold their margin.

    Returns:
        center_px (N, 2) and size_px (N, 2), float64, both sides equal.

    Raises:
        DataError: a box is not finite or has no extent.
    """
    left, top, width, height = _checked_boxes(boxes_xywh_px).T
    center = np.stack([left + width / 2, top + height / 2], axis=1)
    width, height = width * padding, height * padding
    side = np.maximum(np.maximum(width * BODY_SHAPE[0] / BODY_SHAPE[1], height), width)
    return center, np.stack([side, side], axis=1)


def whole_picture(wh_px: Sequence[float], input_size: tuple[int, int]) -> Crops:
    """A whole picture as LitePose sees it, in classic geometry (`lib/utils/transforms.py`, MIT).

    The shorter side becomes that of the input, the longer one the next multiple of 64 pixels. What this adds at both
    ends is black, around the picture's middle rounded to a pixel.

    Args:
        wh_px: width and height of the picture.
        input_size: height and width of the card's input; the shorter one counts.

    Raises:
        DataError: the longer side would be longer than 8192 pixels.
    """
    short = -(-min(input_size) // PICTURE_STEP) * PICTURE_STEP
    first, second = sorted(map(float, wh_px))
    long = int((short / first * second + PICTURE_STEP - 1) // PICTURE_STEP * PICTURE_STEP)
    if long > MAX_SIDE:
        raise DataError(
            f"{wh_px[0]:g}x{wh_px[1]:g} is too long and thin for a network that sees it whole: with a shorter side of "
            f"{short} pixels the longer one has {long}, more than {MAX_SIDE}"
        )
    upright = wh_px[0] < wh_px[1]
    sides = (first, long / short * first)
    center = [int(side / 2.0 + 0.5) for side in wh_px]
    size = np.array(sides if upright else sides[::-1]) / PIXEL_STD * PIXEL_STD
    return Crops(np.array([center], np.float64), size[None], (long, short) if upright else (short, long))


def crops_of(samples: Sequence[Sample], crop: Crop, input_size: tuple[int, int]) -> Crops:
    """The crops of samples that a card asks for; a box that already holds its margin is not padded again.

    Where the card asks for whole pictures, all samples must be of pictures of one size, and the size of the crops
    depends on it.

    Raises:
        DataError: a sample's box is not finite or has no extent, or a picture is too long and thin.
    """
    names = [f"box of sample {sample.id}" for sample in samples]
    boxes = _checked_boxes(np.array([sample.box_xywh_px for sample in samples]), names)
    if crop.kind == "bottom-up" and samples:
        try:
            one = whole_picture(boxes[0, 2:].tolist(), input_size)
        except DataError as e:
            raise DataError(f"{samples[0].image}: {e}") from None
        center, size = (np.repeat(values, len(samples), axis=0) for values in (one.center_px, one.size_px))
        return Crops(center, size, one.input_size)
    padded = np.array([sample.padded for sample in samples], bool)
    center, size = np.empty((len(boxes), 2)), np.empty((len(boxes), 2))
    for chosen, padding in ((padded, 1.0), (~padded, crop.padding)):
        if crop.kind == "square":
            center[chosen], size[chosen] = square_boxes(boxes[chosen], padding)
        else:
            center[chosen], size[chosen] = expand_boxes(boxes[chosen], input_size[1] / input_size[0], padding)
    return Crops(center, size, input_size)


def crop_matrix(center_px: Array, size_px: Array, input_size: tuple[int, int], geometry: Geometry) -> Array:
    """The matrix (2, 3) from pixels of the image to pixels of the input picture.

    Args:
        center_px: (2,) of the crop, x then y.
        size_px: (2,) width and height of the crop.
        input_size: height and width of the input picture.
        geometry: `udp`, `classic` or `square`.
    """
    height, width = input_size
    if geometry == "udp":
        center, size = np.float64(np.float32(center_px)), np.float64(np.float32(size_px))
        scale = np.array([width - 1.0, height - 1.0]) / size
        shift = scale * (0.5 * size - center)
        return np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]], np.float32)
    # OpenCV solves for the matrix from three points: the centre and two more, chosen and rounded officially.
    source, target = np.empty((3, 2), np.float32), np.empty((3, 2), np.float32)
    middle_px, whole_px = (width / 2, height / 2), (width, height)
    for points, middle, whole in ((source, center_px, size_px), (target, middle_px, whole_px)):
        (x, y), (w, h) = map(float, middle), map(float, whole)
        points[0] = x, y
        if geometry == "classic":  # half the width upwards, then to the left: only the width sets the scale
            points[1] = x, y - 0.5 * w
            points[2] = points[1, 0] - (points[0, 1] - points[1, 1]), points[1, 1]
        else:  # half the height downwards, half the width to the right
            points[1] = x, y + float(np.float32(0.5 * h))
            points[2] = x + float(np.float32(0.5 * w)), y
    matrix: Array = cv2.getAffineTransform(source, target)
    return matrix


def warp(image: Array, matrix: Array, input_size: tuple[int, int]) -> Array:
    """The input picture (H, W, 3) uint8 cut out of an image: bilinear, black outside.

    Args:
        image: (h, w, 3) uint8, RGB.
        matrix: (2, 3) from pixels of the image to pixels of the input picture.
        input_size: H and W.

    Raises:
        DataError: the image is not (h, w, 3) uint8.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"an image must be (height, width, 3) uint8, not {image.shape} {image.dtype}")
    picture: Array = cv2.warpAffine(image, matrix, input_size[::-1], flags=cv2.INTER_LINEAR)
    return picture


def crop_people(
    image: Array, center_px: Array, size_px: Array, input_size: tuple[int, int], geometry: Geometry
) -> Array:
    """The input pictures (N, H, W, 3) uint8 of the N people in one image.

    Args:
        image: (h, w, 3) uint8, RGB.
        center_px: (N, 2) of the crops.
        size_px: (N, 2) of the crops.
        input_size: H and W.
        geometry: `udp` or `classic` as the codec says, or `square`.

    Raises:
        DataError: the image is not (h, w, 3) uint8.
    """
    pictures = np.empty((len(center_px), *input_size, 3), np.uint8)
    for picture, center, size in zip(pictures, center_px, size_px, strict=True):
        picture[:] = warp(image, crop_matrix(center, size, input_size, geometry), input_size)
    return pictures


def image_to_crop(keypoints_px: Array, matrix: Array) -> Array:
    """Keypoints (..., K, 2) in pixels of the image as pixels of the input picture; matrix (..., 2, 3)."""
    wide = np.asarray(matrix, np.float64)
    turned: Array = np.asarray(keypoints_px, np.float64) @ wide[..., :2].swapaxes(-1, -2)
    return turned + wide[..., None, :, 2]


def crop_to_image(keypoints_px: Array, matrix: Array) -> Array:
    """Keypoints (..., K, 2) in pixels of the input picture as pixels of the image; matrix (..., 2, 3)."""
    wide = np.asarray(matrix, np.float64)
    back: Array = np.linalg.inv(wide[..., :2])
    moved: Array = (np.asarray(keypoints_px, np.float64) - wide[..., None, :, 2]) @ back.swapaxes(-1, -2)
    return moved


def _checked_boxes(boxes_xywh_px: Array, names: Sequence[str] | None = None) -> Array:
    boxes = np.asarray(boxes_xywh_px, np.float64).reshape(-1, 4)
    # One side may be 0, since the crop has an aspect of its own.
    bad = ~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0).any(axis=1) | (boxes[:, 2:] == 0).all(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        name = names[row] if names else f"box {row}"
        raise DataError(f"{name} (x, y, width, height) = {boxes[row].tolist()} is not finite or has no extent")
    return boxes
