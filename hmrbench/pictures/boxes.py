"""People's boxes in loose pictures, out of files or the words of a command."""

from __future__ import annotations

import logging
import os
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from hmrbench import files
from hmrbench.data.images import check_size, read_image
from hmrbench.errors import DataError, UsageError
from hmrbench.files.coco_json import find_person, numbers
from hmrbench.records import Sample

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BoxFile:
    """People's boxes out of a file: for a picture's name or id, (x, y, width, height) and score.

    `sizes_px` are the pictures' width and height, where the file says them.
    """

    path: Path
    boxes: Mapping[str, Sequence[tuple[Any, Any]]]
    sizes_px: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def of(self, image: Path) -> list[tuple[tuple[float, float, float, float], float]]:
        """The boxes of one picture.

        Raises:
            DataError: the file says nothing of this picture, or one of its boxes is none.
        """
        return [self._checked(image, i, *found) for i, found in enumerate(self.boxes[self.name_of(image)])]

    def name_of(self, image: Path) -> str:
        """What the file calls a picture: the longest end of its path, its name in any folder, or its number.

        Raises:
            DataError: the file says nothing of this picture, or has its name in several folders.
        """
        same = self._in_folders.get(image.name, [])
        whole = f"/{image.absolute().as_posix().lstrip('/')}"
        ends = [name for name in same if whole.endswith(f"/{name.lstrip('/')}")]
        if not ends and len(same) > 1:
            raise DataError(f"{self.path}: {image.name} may be each of {reprlib.repr(same)}")
        number = [str(int(image.stem))] if image.stem.isdecimal() else []
        known = [name for name in (image.stem, *number) if name in self.boxes]
        found = sorted(ends, key=len)[-1:] or same or known
        if not found:
            raise DataError(f"{self.path}: no boxes for {image.name}")
        return found[0]

    @cached_property
    def _in_folders(self) -> Mapping[str, list[str]]:
        named: dict[str, list[str]] = {}
        for name in self.boxes:
            named.setdefault(name.rpartition("/")[2], []).append(name)
        return named

    def _checked(self, image: Path, i: int, box: Any, score: Any) -> tuple[tuple[float, float, float, float], float]:
        name = f"{self.path}: box {i} of {image.name}"
        if not isinstance(box, list) or len(box) != 4:
            raise DataError(f"{name} is not [x, y, width, height]: {reprlib.repr(box)}")
        try:
            x, y, width, height, confidence = map(float, numbers(name, [*box, score], 5, "box and score"))
        except DataError:
            width = height = -1.0
        if width <= 0 or height <= 0:
            raise DataError(f"{name} is empty or not finite: {reprlib.repr(box)}, score {reprlib.repr(score)}")
        return (x, y, width, height), confidence


def named_boxes(text: str, pictures: Sequence[Path]) -> BoxFile:
    """Boxes in the words of a command, `10,20,100,200`, for each of the pictures; else those of the file of that name.

    Raises:
        DataError: see `read_boxes`.
        UsageError: numbers, but not four a box.
    """
    parts = text.replace(";", " ").split()
    if not parts or os.path.exists(text) or not all(re.fullmatch(r"[-+\d.,e]+", part) for part in parts):
        return read_boxes(Path(text), pictures)
    try:
        found = [[float(number) for number in part.split(",")] for part in parts]
    except ValueError:
        found = [[]]
    if any(len(box) != 4 for box in found):
        raise UsageError(f"a box is X,Y,WIDTH,HEIGHT in pixels, not '{text}'")
    return BoxFile(Path("--boxes"), {path.name: [(box, 1.0) for box in found] for path in pictures}, {})


def read_boxes(path: Path, pictures: Sequence[Path] = ()) -> BoxFile:
    """Boxes from JSON in pixels, x and y of the top left corner, width, height.

    One of

    - COCO results: `[{"image_id": 785, "bbox": [x, y, w, h], "score": 0.9}, ...]`, or with `file_name`
      instead of `image_id`; `score` may be missing. A person is who has the `category_name` person, else the
      `category_id` 1 (0 where ids start at 0), or no category;
    - COCO annotations: an object with `images` and `annotations`; the `categories` say who is a person; crowds are left
      out;
    - what mmdetection says of one picture: `{"labels": [0], "scores": [0.9], "bboxes": [[x1, y1, x2, y2]]}`, where 0 is
      a person. It is for the picture of the file's name, or for the only one of `pictures`;
    - an object of pictures: `{"a.jpg": [[x, y, w, h], ...], ...}`, or with mmdetection's objects.

    Raises:
        DataError: the file is missing or of no such form, or none of its boxes is a person's.
    """
    content = files.read_json(path, "file of boxes")
    sizes: dict[str, tuple[float, float]] = {}
    try:
        if isinstance(content, list):
            found = _of_results(path, content, None)
        elif not isinstance(content, dict):
            raise DataError(f"it is {reprlib.repr(content)}")
        elif {"images", "annotations"} <= set(content):
            found, sizes = _of_annotations(path, content)
        elif "bboxes" in content:
            found = _of_pictures({pictures[0].name if len(pictures) == 1 else path.stem: content})
        else:
            found = _of_pictures(content)
    except DataError as e:
        forms = "a list of objects with bbox and image_id or file_name, or an object of lists by file name"
        raise DataError(f"{path}: not a file of boxes, which is {forms} ({e})") from None
    boxes: dict[str, list[tuple[Any, Any]]] = {}
    for one in found:
        there = boxes.setdefault(one.picture, [])
        if one.person:
            there.append((one.box, one.score))
    others = sorted({one.category for one in found if one.category})
    if others and not any(boxes.values()):
        raise DataError(f"{path}: none of its boxes is a person's, they are of category {', '.join(others[:8])}")
    return BoxFile(path, boxes, sizes)


class _Found(NamedTuple):
    """One box of a file, or with neither box nor category only that the file knows the picture."""

    picture: str
    box: Any = None
    score: Any = 1.0
    category: str = ""
    person: bool = False


def _of_results(path: Path, entries: Sequence[Any], person: int | None) -> list[_Found]:
    """The boxes of a list of objects; without a known category of persons, the ids say where they start."""
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"entry {i} is {reprlib.repr(entry)}")
        if "bbox" not in entry or not {"file_name", "image_id"} & entry.keys():
            raise DataError(f"entry {i} lacks {'image_id or file_name' if 'bbox' in entry else 'bbox'}")
        if not isinstance(entry.get("category_id", 1), int):
            raise DataError(f"entry {i}: category_id is {reprlib.repr(entry['category_id'])}")
    if person is None:
        person = 0 if any(entry.get("category_id", 1) == 0 for entry in entries) else 1
        if person == 0:
            _log.warning("%s: its category ids start at 0, so 0 is taken for a person", path)
    found = []
    for i, entry in enumerate(entries):
        category = entry.get("category_name", entry.get("category_id", person))
        name = _picture_name(f"entry {i}", entry, "file_name" if "file_name" in entry else "image_id")
        is_person = category == person or str(category).strip().lower() == "person"
        found.append(_Found(name, entry["bbox"], entry.get("score", 1.0), reprlib.repr(category), is_person))
    return found


def _of_annotations(path: Path, content: Mapping[str, Any]) -> tuple[list[_Found], dict[str, tuple[float, float]]]:
    """The boxes of COCO annotations, and the sizes of their pictures."""
    for kind in ("images", "annotations", *(["categories"] if "categories" in content else [])):
        if not isinstance(content[kind], list) or not all(isinstance(entry, dict) for entry in content[kind]):
            raise DataError(f"{kind} is no list of objects")
    names, sizes = {}, {}
    for i, image in enumerate(content["images"]):
        number = _picture_name(f"image {i}", image, "id")
        if number in names:
            raise DataError(f"two images have the same id {number!r}")
        names[number] = _picture_name(f"image {i}", image, "file_name") if "file_name" in image else number
        if image.get("width") is not None and image.get("height") is not None:
            width, height = numbers(f"image {i}", [image["width"], image["height"]], 2, "width and height").tolist()
            sizes[names[number]] = (width, height)
    person = find_person(content["categories"]) if "categories" in content else None
    alone = [entry for entry in content["annotations"] if not entry.get("iscrowd")]
    found = _of_results(path, alone, person)
    known = [one._replace(picture=names.get(one.picture, one.picture)) for one in found]
    return [*map(_Found, names.values()), *known], sizes


def _of_pictures(content: Mapping[str, Any]) -> list[_Found]:
    """The boxes of an object of pictures."""
    found = []
    for picture, boxes in content.items():
        name = picture.replace("\\", "/")
        found.append(_Found(name))
        if isinstance(boxes, list):
            found += [_Found(name, box, 1.0, "", True) for box in boxes]
            continue
        if not isinstance(boxes, dict) or not isinstance(boxes.get("bboxes"), list):
            raise DataError(f"{picture!r} has no list")
        corners = boxes["bboxes"]
        labels, scores = (boxes.get(key, [value] * len(corners)) for key, value in (("labels", 0), ("scores", 1.0)))
        for key, values in (("labels", labels), ("scores", scores)):
            if not isinstance(values, list) or len(values) != len(corners):
                raise DataError(f"{picture!r}: {key} are not {len(corners)} as its bboxes are")
        for i, (corner, label, score) in enumerate(zip(corners, labels, scores, strict=True)):
            x1, y1, x2, y2 = numbers(f"{picture!r}: box {i}", corner, 4, "x1, y1, x2, y2").tolist()
            found.append(_Found(name, [x1, y1, x2 - x1, y2 - y1], score, reprlib.repr(label), label == 0))
    return found


def _picture_name(what: str, entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise DataError(f"{what}: {key} is {reprlib.repr(value)}")
    return str(value).replace("\\", "/")


def people_in(path: Path, boxes: BoxFile | None = None, min_score: float = 0.0) -> list[Sample]:
    """The people of one picture, of which the whole is one person where there are no boxes.

    Args:
        min_score: leave out boxes of lower scores.

    Raises:
        DataError: the picture or its boxes are missing or broken, a box lies outside it, or it is not of the size that
            the boxes were annotated for.
    """
    image = read_image(path)
    height, width = image.shape[:2]
    found = [((0.0, 0.0, float(width), float(height)), 1.0)] if boxes is None else boxes.of(path)
    size = boxes.sizes_px.get(boxes.name_of(path)) if boxes is not None else None
    for i, ((x, y, w, h), _) in enumerate(found):
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            raise DataError(
                f"{path}: box {i} ({x:g}, {y:g}, {w:g}, {h:g}) lies outside the picture of {width}x{height}"
            )
    people = [
        Sample(f"{path.name}#{i}", path, path.name, box, score, image_wh_px=size)
        for i, (box, score) in enumerate(found)
        if score >= min_score
    ]
    for sample in people:
        check_size(sample, image)
    return people
