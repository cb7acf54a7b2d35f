"""Pictures that `predict` drew, small enough to travel in a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from hmrbench import files
from hmrbench.errors import DataError

WIDTH_PX = 720  # of a picture in the page


def read(folder: Path) -> list[dict[str, str]]:
    """The pictures in a folder of `predict`, by model: each as `data`, an address of a jpeg, with `model` and `alt`.

    Raises:
        DataError: there is no such folder, no picture of `predict` in it, or one that cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of pictures")
    found = [_picture(path) for path in sorted(folder.glob("*.json"))]
    if not found:
        raise DataError(f"{folder}: no pictures that `hmrbench predict` drew are here")
    return sorted(found, key=lambda p: p["model"])


def _picture(record: Path) -> dict[str, str]:
    content = files.read_json(record, "a record of predict")
    if not (isinstance(content, dict) and isinstance(content.get("picture"), str) and "model" in content):
        raise DataError(f"{record}: not a record of `hmrbench predict`")
    path = record.with_name(Path(content["picture"]).name)
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
            small.thumbnail((WIDTH_PX, 2 * WIDTH_PX))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise DataError(f"{path}: not a picture that can be read ({e})") from e
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    model = str(content["model"])
    people = len(content.get("people") or ())
    return {
        "model": model,
        "alt": f"{model} on {Path(str(content.get('image'))).name}, {people} {'person' if people == 1 else 'people'}",
        "data": f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}",
    }
