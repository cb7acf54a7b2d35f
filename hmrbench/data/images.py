"""Reading pictures: whole, in RGB, within bounds, or an error that names the file."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from hmrbench.errors import DataError
from hmrbench.files import read_bytes
from hmrbench.records import Array, Sample

MAX_PIXELS = 178_956_970  # where Pillow takes a picture for a decompression bomb: 0.5 GiB once decoded
MAX_BYTES = 1 << 30  # of a file

_JPEG_START, _JPEG_END = b"\xff\xd8", 0xD9
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # those that stand alone within the data are passed over
_EXIF_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # by 90 degrees

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # our own bound is an error


def read_image(path: Path) -> Array:
    """A picture as (H, W, 3) uint8 RGB, turned as its EXIF data say.

    Raises:
        DataError: missing, no regular file, no picture, cut off (OpenCV would fill the rest with grey and say nothing),
            or beyond `MAX_PIXELS` or `MAX_BYTES`.
    """
    return decode_image(read_bytes(path, "image", MAX_BYTES), str(path))


def decode_image(content: bytes, source: str) -> Array:
    """As `read_image`, of a file's content; `source` names it."""
    _header(source, content)
    if content.startswith(_JPEG_START) and not _jpeg_ends(content):
        raise DataError(f"{source}: corrupt image, the JPEG is cut off after {len(content):,} bytes")
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as e:
        raise DataError(f"{source}: corrupt image, it cannot be decoded ({e.err})") from None
    if image is None:
        raise DataError(f"{source}: corrupt image, it cannot be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def image_size(path: Path) -> tuple[int, int]:
    """Width and height that `read_image` would give, out of the header.

    Raises:
        DataError: see `read_image`.
    """
    image = _header(str(path), read_bytes(path, "image", MAX_BYTES))
    try:
        turned = image.getexif().get(_EXIF_ORIENTATION) in _TURNED
    except Exception:  # EXIF data that Pillow cannot read; those who decode find out whether it matters
        turned = False
    return (image.height, image.width) if turned else image.size


def check_size(sample: Sample, image: Array) -> None:
    """Refuse a decoded picture (H, W, 3) that has not the size for which the sample's box was annotated.

    Raises:
        DataError: names the picture and both sizes.
    """
    wh = image.shape[1::-1]
    if sample.image_wh_px not in (None, wh):
        said = "{:g}x{:g}".format(*sample.image_wh_px)
        turned = " (turned by its EXIF data, perhaps)" if sample.image_wh_px == wh[::-1] else ""
        raise DataError(f"{sample.image}: the picture is {wh[0]}x{wh[1]}{turned}, the annotations say {said}")


def _header(source: str, content: bytes) -> Image.Image:
    """A picture of which only the header was read, so that nothing beyond the bound is ever decoded."""
    try:
        image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError:
        raise DataError(f"{source}: image not read, it has more than {MAX_PIXELS:,} pixels") from None
    except Exception as e:  # at broken headers Pillow's plugins raise what they like
        raise DataError(f"{source}: corrupt image, its header is not readable") from e
    if image.width * image.height > MAX_PIXELS:
        raise DataError(f"{source}: image not read, {image.width}x{image.height} is more than {MAX_PIXELS:,} pixels")
    return image


def _jpeg_ends(content: bytes) -> bool:
    """Whether a JPEG reaches its end marker; what stands behind that (a phone's film, padding) does not matter."""
    at = len(_JPEG_START)
    while found := _JPEG_MARKER.search(content, at):
        at = found.end()
        if content[at - 1] == _JPEG_END:
            return True
        at += int.from_bytes(content[at : at + 2], "big")  # the segment, thumbnails in it and all
    return False
