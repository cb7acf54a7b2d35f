"""Reading pictures: whole, in RGB, or an error that names the file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from hmrbench.errors import DataError
from hmrbench.records import Array

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


def read_image(path: Path) -> Array:
    """A picture as (H, W, 3) uint8 RGB.

    Raises:
        DataError: missing, not a picture, or cut off (OpenCV would fill the rest with grey and say nothing).
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: image missing") from None
    except OSError as e:
        raise DataError(f"{path}: image not readable ({e.strerror})") from e
    if content.startswith(_JPEG_START) and _JPEG_END not in content[-4096:]:
        raise DataError(f"{path}: corrupt image, the JPEG is cut off after {len(content):,} bytes")
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if image is None:
        raise DataError(f"{path}: corrupt image, it cannot be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
