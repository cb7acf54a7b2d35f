"""The crops of other families of mesh networks, each as its official code cuts it.

METRO (with Mesh Graphormer, FastMETRO and TORE), SPIN and CLIFF cut a rectangle of whole pixels out of the image, black
where it hangs over, and resize that; SMPLer-X warps as 4D-Humans does. They resize in different ways: METRO without
antialiasing, CLIFF by OpenCV, SPIN by an old SciPy function that smooths and also stretches the contrast.

Read in microsoft/MeshTransformer (MIT), nkolot/SPIN (BSD-3-Clause), huawei-noah/noah-research, CLIFF (MIT), and
caizhongang/SMPLer-X (non-commercial; read for its facts). All pictures are (H, W, 3) float32 in 0..1, RGB. But for
SMPLer-X's, networks want them normalised by ImageNet's mean and standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from hmrbench.codecs import Crops
from hmrbench.data.crop import crop_matrix, crops_of
from hmrbench.errors import DataError, UsageError
from hmrbench.records import Array, Sample
from hmrbench.schema import Crop

METRO_SIZE = SPIN_SIZE = (224, 224)
CLIFF_SIZE = (256, 192)
SMPLERX_SIZE = (512, 384)
SCALE_PX = 200.0  # boxes are stored in units of 200 pixels
CLIFF_MARGIN = 1.1
SMPLERX_MARGIN = 1.25
MAX_SIDE_PX = 16384  # of a rectangle, before it is resized


def metro_crop(image: Array, center_px: Array, scale: float) -> Array:
    """The picture (224, 224, 3) that METRO, Mesh Graphormer, FastMETRO and TORE see.

    Args:
        image: (h, w, 3) uint8, RGB.
        center_px: (2,) of the person, x then y.
        scale: side of the square in units of 200 pixels.

    Raises:
        DataError: the image is not (h, w, 3) uint8, or the square has no extent or too much.
    """
    crop = _cut(image, square_corners(center_px, scale))
    tensor = torch.from_numpy(crop).permute(2, 0, 1)[None].double()
    resized = F.interpolate(tensor, METRO_SIZE, mode="bilinear", align_corners=False)[0]
    picture: Array = (resized / 255).float().permute(1, 2, 0).numpy()
    return picture


def spin_crop(image: Array, center_px: Array, scale: float) -> Array:
    """The picture (224, 224, 3) that SPIN sees: METRO's square, resized with smoothing after its grey levels were
    stretched to 0..255 over the whole square, the black around the image included. Arguments, errors: as `metro_crop`.
    """
    crop = _cut(image, square_corners(center_px, scale)).astype(np.float64)
    low, high = crop.min(), crop.max()
    stretched = ((crop - low) * (255 / ((high - low) or 1)) + 0.5).astype(np.uint8)
    resized = Image.fromarray(stretched).resize(SPIN_SIZE[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32) / 255


def square_corners(center_px: Array, scale: float) -> Array:
    """Corners (4,) x0, y0, x1, y1 of METRO's and SPIN's square, in whole pixels, cut off towards zero."""
    return _corners(center_px, scale, METRO_SIZE, np.trunc)


def cliff_crop(image: Array, box_xyxy_px: Array, margin: float = CLIFF_MARGIN) -> Array:
    """The picture (256, 192, 3) that CLIFF sees.

    Args:
        image: (h, w, 3) uint8, RGB.
        box_xyxy_px: (4,) left, top, right, bottom of the person.
        margin: factor on the box's size.

    Raises:
        DataError: the image is not (h, w, 3) uint8, or the box is not finite or has no extent.
    """
    crop = _cut(image, cliff_corners(box_xyxy_px, margin))
    picture: Array = cv2.resize(crop.astype(np.float64), CLIFF_SIZE[::-1], interpolation=cv2.INTER_LINEAR)
    return picture.astype(np.float32) / 255


def cliff_corners(box_xyxy_px: Array, margin: float = CLIFF_MARGIN) -> Array:
    """Corners (4,) x0, y0, x1, y1 of CLIFF's rectangle, rounded to whole pixels."""
    center, scale = cliff_center_scale(box_xyxy_px, margin)
    return _corners(center, scale, CLIFF_SIZE, np.round)


def cliff_center_scale(box_xyxy_px: Array, margin: float = CLIFF_MARGIN) -> tuple[Array, np.float32]:
    """Centre (2,) in pixels and height, in units of 200 pixels, of CLIFF's rectangle around a box, in float32."""
    box = np.asarray(box_xyxy_px, np.float32)
    if box.shape != (4,) or not np.isfinite(box).all() or not (box[2:] > box[:2]).all():
        raise DataError(f"box (left, top, right, bottom) = {box.tolist()} is not finite or has no extent")
    width, height = box[2:] - box[:2]
    side = max(width * np.float32(CLIFF_SIZE[0] / CLIFF_SIZE[1]), height)
    return (box[:2] + box[2:]) / 2, np.float32(side / np.float32(SCALE_PX) * np.float32(margin))


def cliff_box_numbers(box_xyxy_px: Array, image_wh_px: Array) -> Array:
    """The three numbers (3,) float32 by which CLIFF knows where a box lies: its centre from the image's middle and its
    size, by the focal length of a camera as wide as the image's diagonal, and normalised.

    Args:
        box_xyxy_px: (4,) left, top, right, bottom of the person.
        image_wh_px: (2,) width and height of the image.
    """
    center, scale = cliff_center_scale(box_xyxy_px)
    return box_numbers(center, scale * np.float32(SCALE_PX), image_wh_px)


def box_numbers(center_px: Array, height_px: Array | np.float32, image_wh_px: Array) -> Array:
    """The same of CLIFF's rectangle, by its centre (..., 2) and its height (...): (..., 3) float32."""
    center, height, image = (np.asarray(x, np.float32) for x in (center_px, height_px, image_wh_px))
    focal = np.hypot(image[..., 0], image[..., 1])
    place = (center - image / 2) / focal[..., None] * np.float32(2.8)
    size = (height - np.float32(0.24) * focal) / (np.float32(0.06) * focal)
    return np.concatenate((place, size[..., None]), axis=-1)


def smplerx_crop(image: Array, box_xywh_px: Array, margin: float = SMPLERX_MARGIN) -> Array:
    """The picture (512, 384, 3) that SMPLer-X sees.

    Args:
        image: (h, w, 3) uint8, RGB.
        box_xywh_px: (4,) left, top, width, height of the person.
        margin: factor on the box's size; 1.25 when the network is used, 1.2 in configurations for training.

    Raises:
        DataError: the image is not (h, w, 3) uint8, or nothing of the box lies in it.
    """
    box = smplerx_box(box_xywh_px, (_checked(image).shape[1], image.shape[0]), margin)
    matrix = smplerx_matrix(box)
    picture: Array = cv2.warpAffine(image.astype(np.float32), matrix, SMPLERX_SIZE[::-1], flags=cv2.INTER_LINEAR)
    return picture / 255


def smplerx_box(box_xywh_px: Array, image_wh_px: tuple[int, int], margin: float = SMPLERX_MARGIN) -> Array:
    """The box clipped to the image, widened or heightened to 3:4, and padded: (4,) float32 left, top, width, height.

    Raises:
        DataError: the box is not finite, or nothing of it lies in the image.
    """
    box = np.asarray(box_xywh_px, np.float64)
    usable = box.shape == (4,) and np.isfinite(box).all() and (box[2:] > 0).all()
    low = np.maximum(0, box[:2])
    high = np.minimum(np.array(image_wh_px) - 1, low + np.maximum(0, box[2:] - 1)) if usable else low
    if (high <= low).any():
        raise DataError(f"box (x, y, width, height) = {box.tolist()} has no part in an image of {image_wh_px}")
    width, height = high - low
    aspect = SMPLERX_SIZE[1] / SMPLERX_SIZE[0]
    padded = margin * np.array([max(width, height * aspect), max(height, width / aspect)])
    return np.concatenate(((low + high) / 2 - padded / 2, padded)).astype(np.float32)


def smplerx_matrix(box_xywh_px: Array) -> Array:
    """The matrix (2, 3) float32 from pixels of the image to pixels of the picture of `smplerx_box`."""
    center = box_xywh_px[:2] + np.float32(0.5) * box_xywh_px[2:]
    return crop_matrix(center, box_xywh_px[2:], SMPLERX_SIZE, "square").astype(np.float32)


def _corners(
    center_px: Array, scale: float | np.float32, size: tuple[int, int], whole: Callable[[Array], Array]
) -> Array:
    """Corners of the rectangle of height 200 * scale that becomes a picture of `size`.

    By way of a matrix and its inverse, in the precision of `scale`, as in the official code: a corner that should be
    a whole number of pixels may come out just below it, and is then cut off to the one before.
    """
    center = np.asarray(center_px, np.float64)
    if center.shape != (2,) or not np.isfinite([*center, scale]).all() or not 0 < scale * SCALE_PX <= MAX_SIDE_PX:
        raise DataError(f"a crop around {center.tolist()} of scale {scale} is not finite, empty or too large")
    number = np.float32 if isinstance(scale, np.float32) else float
    height = number(SCALE_PX) * scale
    width = height / number(size[0] / size[1])
    to_picture = np.eye(3)
    to_picture[0, 0], to_picture[1, 1] = number(size[1]) / width, number(size[0]) / height
    to_picture[0, 2] = size[1] * (-center[0] / width + 0.5)
    to_picture[1, 2] = size[0] * (-center[1] / height + 0.5)
    back = np.linalg.inv(to_picture)
    corners = [whole(back @ np.array(point))[:2] for point in ((0, 0, 1.0), (size[1], size[0], 1.0))]
    found: Array = np.concatenate(corners).astype(np.int64)
    if (found[2:] <= found[:2]).any():
        raise DataError(f"a crop around {center.tolist()} of scale {scale} is smaller than a pixel")
    return found


def _cut(image: Array, corners: Array) -> Array:
    """The rectangle (height, width, 3) between corners in whole pixels, black outside the image."""
    height, width = _checked(image).shape[:2]
    x0, y0, x1, y1 = corners.tolist()
    out = np.zeros((y1 - y0, x1 - x0, 3), np.uint8)
    part = image[max(y0, 0) : max(min(y1, height), 0), max(x0, 0) : max(min(x1, width), 0)]
    top, left = max(-y0, 0), max(-x0, 0)
    out[top : top + part.shape[0], left : left + part.shape[1]] = part
    return out


def _checked(image: Array) -> Array:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(f"an image must be (height, width, 3) uint8, not {image.shape} {image.dtype}")
    return image


# --------------------------------------------------------------------------- by name


@dataclass(frozen=True)
class FamilyCrop:
    """One family's crop of a person's box (4,) left, top, width, height in pixels.

    `place(box, margin, image_wh)` gives the rectangle in the image, its centre (2,) and size (2,) in pixels, and
    `cut(image, box, margin)` the picture (H, W, 3) float32. `has_numbers`: the network is also given `box_numbers`.
    """

    input_size: tuple[int, int]
    place: Callable[[Array, float, tuple[int, int]], tuple[Array, Array]]
    cut: Callable[[Array, Array, float], Array]
    has_numbers: bool = False


def _square(box: Array, margin: float) -> tuple[Array, float]:
    """Centre and scale of METRO's and SPIN's square: its longer side, with the margin."""
    return box[:2] + box[2:] / 2, float(margin * max(box[2:])) / SCALE_PX


def _square_place(box: Array, margin: float, image_wh: tuple[int, int]) -> tuple[Array, Array]:
    corners = square_corners(*_square(box, margin))
    return (corners[:2] + corners[2:]) / 2, (corners[2:] - corners[:2]).astype(np.float64)


def _cliff_place(box: Array, margin: float, image_wh: tuple[int, int]) -> tuple[Array, Array]:
    """As it is before its corners are rounded: CLIFF's camera and its three numbers take it so."""
    center, scale = cliff_center_scale(_xyxy(box), margin)
    height = scale * np.float32(SCALE_PX)
    return center, np.array([height * np.float32(CLIFF_SIZE[1] / CLIFF_SIZE[0]), height])


def _smplerx_place(box: Array, margin: float, image_wh: tuple[int, int]) -> tuple[Array, Array]:
    found = smplerx_box(box, image_wh, margin)
    return found[:2] + found[2:] / 2, found[2:]


def _xyxy(box: Array) -> Array:
    return np.concatenate((box[:2], box[:2] + box[2:]))


FAMILY_CROPS = {
    "metro": FamilyCrop(METRO_SIZE, _square_place, lambda image, box, margin: metro_crop(image, *_square(box, margin))),
    "spin": FamilyCrop(SPIN_SIZE, _square_place, lambda image, box, margin: spin_crop(image, *_square(box, margin))),
    "cliff": FamilyCrop(
        CLIFF_SIZE, _cliff_place, lambda image, box, margin: cliff_crop(image, _xyxy(box), margin), has_numbers=True
    ),
    "smplerx": FamilyCrop(SMPLERX_SIZE, _smplerx_place, smplerx_crop),
}


def has_box_numbers(crop: Crop) -> bool:
    """Whether a network of this crop is also given `box_numbers`."""
    return crop.kind in FAMILY_CROPS and FAMILY_CROPS[crop.kind].has_numbers


def numbers_beside(crop: Crop, crops: Crops) -> tuple[torch.Tensor, ...]:
    """What a network is given beside its pictures: CLIFF's numbers (B, 3) of where each box lies; nothing for most."""
    if not has_box_numbers(crop):
        return ()
    return (torch.from_numpy(box_numbers(crops.center_px, crops.size_px[:, 1], np.asarray(crops.image_wh_px))),)


def crops_in(samples: Sequence[Sample], crop: Crop, input_size: tuple[int, int], image_wh: tuple[int, int]) -> Crops:
    """The crops of one image's samples that a card asks for, whatever the family; a box that already holds its margin
    is not padded again.

    Raises:
        DataError: a sample's box is not finite, has no extent, or no part in the image where that matters.
        UsageError: the family's pictures have another size than the card says.
    """
    sizes = np.tile(np.array(image_wh, np.float64), (len(samples), 1))
    if crop.kind not in FAMILY_CROPS:
        return replace(crops_of(samples, crop, input_size), image_wh_px=sizes)
    family = FAMILY_CROPS[crop.kind]
    if family.input_size != input_size:
        height, width = family.input_size
        raise UsageError(f"crop '{crop.kind}' gives {height}x{width}, not {input_size[0]}x{input_size[1]}")
    places = []
    for sample in samples:
        try:
            places.append(family.place(*_box_and_margin(sample, crop), image_wh))
        except DataError as e:
            raise DataError(f"sample {sample.id}: {e}") from None
    center, size = (np.stack(x).astype(np.float64) for x in zip(*places, strict=True))
    return Crops(center, size, input_size, sizes)


def family_pictures(image: Array, samples: Sequence[Sample], crop: Crop) -> Array:
    """The pictures (n, H, W, 3) float32 from 0 to 255 of one image's samples, as the card's family cuts them."""
    family = FAMILY_CROPS[crop.kind]
    return 255 * np.stack([family.cut(image, *_box_and_margin(sample, crop)) for sample in samples])


def _box_and_margin(sample: Sample, crop: Crop) -> tuple[Array, float]:
    return np.array(sample.box_xywh_px, np.float64), 1.0 if sample.padded else crop.padding
