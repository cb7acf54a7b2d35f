"""COCO keypoint annotations and detector boxes -> samples.

Follows mmpose 0.x `TopDownCocoDataset` (Apache-2.0) in which people are predicted: with ground-truth boxes everybody
with a labelled keypoint who is no crowd, on the box clipped to the image; with detector boxes every person box. Who is
a person, the annotation file's categories say.
"""

from __future__ import annotations

import logging
import os
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from hmrbench.data import Check, check_images
from hmrbench.data.images import image_size
from hmrbench.errors import DataError
from hmrbench.files import file_sha256, read_json
from hmrbench.files.coco_json import (
    BOX,
    OtherJointsError,
    check_coco,
    check_truth,
    labelled_keypoints,
    make_coco,
    numbers,
    person_category,
    restrict,
)
from hmrbench.records import NO_BOXES, Dataset, Sample
from hmrbench.schema import DatasetSpec
from hmrbench.skeletons import COCO17, Skeleton

_log = logging.getLogger(__name__)


def read(spec: DatasetSpec, folder: Path, boxes: str, limit: int | None = None) -> Dataset:
    """The samples of a COCO keypoint set, in the order of its annotation file or of the detector's file.

    `truth` is a `pycocotools.coco.COCO`; with a limit, of the images on which the remaining samples lie.

    Raises:
        DataError: a file is missing, truncated, not of COCO's form, or contradicts itself; the boxes lie on none of the
            images.
    """
    path = folder / spec.annotations
    coco, images = _with_images(spec, folder)
    file = spec.boxes[boxes]
    samples = _from_truth(path, coco, images) if file is None else _from_detector(folder / file, coco, images)
    return _dataset(spec, path, coco, samples, boxes, limit)


def pictures(spec: DatasetSpec, folder: Path, limit: int | None = None) -> Dataset:
    """Every image of a COCO keypoint set as one sample, in the order of its annotation file, with people or without.

    For networks that look at whole pictures; else as `read`.
    """
    path = folder / spec.annotations
    coco, images = _with_images(spec, folder)
    samples = []
    for image_id in coco.getImgIds():
        size = _said_size(coco.imgs[image_id]) or image_size(images[image_id])
        box = (0.0, 0.0, float(size[0]), float(size[1]))
        samples.append(Sample(f"image {image_id}", images[image_id], image_id, box, image_wh_px=size))
    return _dataset(spec, path, coco, samples, NO_BOXES, limit)


def _with_images(spec: DatasetSpec, folder: Path) -> tuple[COCO, dict[int | str, Path]]:
    """The truth, and where each of its images lies."""
    path = folder / spec.annotations
    coco = _read_truth(path, spec.joint_set)
    for image in coco.dataset["images"]:
        if "file_name" not in image:
            raise DataError(f"{path}: image {image['id']} has no file_name")
    return coco, {i: folder / spec.images / image["file_name"] for i, image in coco.imgs.items()}


def _dataset(
    spec: DatasetSpec, path: Path, coco: COCO, samples: list[Sample], boxes: str, limit: int | None
) -> Dataset:
    """The first samples, with the truth of the images on which they lie."""
    chosen = tuple(samples[:limit])
    truth = coco if len(chosen) == len(samples) else restrict(coco, {s.image_id for s in chosen})
    if chosen:
        try:
            check_coco(truth, chosen, spec.joint_set)
        except DataError as e:
            raise DataError(f"{path}: {e}") from None
    return Dataset(spec.name, chosen, truth, boxes, file_sha256(path), total=len(samples), skeleton=spec.joint_set)


def truth(spec: DatasetSpec, folder: Path) -> Dataset:
    """The truth alone, without samples: neither pictures nor detector boxes are needed.

    Raises:
        DataError: the annotation file is missing, truncated, not of COCO's form, or contradicts itself.
    """
    path = folder / spec.annotations
    truth = _read_truth(path, spec.joint_set)
    return Dataset(spec.name, (), truth, "", file_sha256(path), total=0, skeleton=spec.joint_set)


def _read_truth(path: Path, skeleton: Skeleton) -> COCO:
    coco = read_annotations(path, skeleton)
    with _named(path, skeleton):
        check_truth(coco, skeleton)
    people = _people(coco)
    unsure = [a for a in people if not a["num_keypoints"] and any(v > 0 for v in a["keypoints"][2::3])]
    if unsure:
        _log.warning(
            "%s: num_keypoints of annotation %s is 0 though some of its keypoints are visible; as for COCOeval, such "
            "people do not count (%d in all)", path, unsure[0]["id"], len(unsure)
        )  # fmt: skip
    return coco


def _people(coco: COCO) -> list[dict[str, Any]]:
    """The annotated people, crowds too, that are on one of the images."""
    person = person_category(coco)
    return [a for a in coco.dataset["annotations"] if a["category_id"] == person and a["image_id"] in coco.imgs]


# --------------------------------------------------------------------------- the annotation file


def read_annotations(path: Path, skeleton: Skeleton = COCO17) -> COCO:
    """COCO's index of an annotation file; unlike COCO's own reader it prints nothing and names what is wrong.

    What people lack is filled in as far as the rest of the file says it: `num_keypoints` is counted; who has no
    `keypoints` has none that are labelled; without `iscrowd` it is one person; the `area` is that of the box, as in
    pycocotools' reader of results.

    Raises:
        DataError: missing, truncated, or not of COCO's form; the entry is named.
    """
    content = read_json(path, "annotation file")
    kinds = ("images", "annotations", "categories")
    absent = [k for k in kinds if not isinstance(content, dict) or k not in content]
    if absent:
        raise DataError(f"{path}: no COCO annotation file, it lacks {', '.join(absent)}")
    with _named(path, skeleton):
        for kind in kinds:
            _check_entries(kind, content[kind])
        coco = make_coco(content)
        without_area = [a for a in _people(coco) if _complete(a, len(skeleton.joints))]
    if without_area:
        _log.warning(
            "%s: annotation %s has no area, on which OKS depends; that of its box is taken (%d in all)",
            path, without_area[0]["id"], len(without_area),
        )  # fmt: skip
    return coco


@contextmanager
def _named(path: Path, skeleton: Skeleton) -> Iterator[None]:
    """What is wrong with annotations names their file, and where to say that they have other joints than COCO's."""
    try:
        yield
    except DataError as e:
        other = isinstance(e, OtherJointsError) and skeleton is COCO17
        hint = "; other joints than COCO's are named in the data set's spec, under 'skeleton'" if other else ""
        raise DataError(f"{path}: {e}{hint}") from None


def _check_entries(kind: str, entries: Any) -> None:
    """That what COCO's index and the reader rely on is there, with the types that JSON leaves open."""
    if not isinstance(entries, list):
        raise DataError(f"{kind} is {_shown(entries)}, no list")
    for place, entry in enumerate(entries):
        name = f"{kind}[{place}]"
        if not isinstance(entry, dict):
            raise DataError(f"{name} is {_shown(entry)}, no object")
        for key in ("id", *(("image_id", "category_id") if kind == "annotations" else ())):
            if key not in entry:
                raise DataError(f"{name} has no {key}")
            text = kind == "images" or key == "image_id"
            entry[key] = _checked_id(f"{name}: {key}", entry[key], text)
        if kind == "images":
            name = f"image {entry['id']}"
            if "file_name" in entry and not _is_path(entry["file_name"]):
                raise DataError(f"{name}: file_name is {_shown(entry['file_name'])}, no name of a file")
            for key in ("width", "height"):
                if entry.get(key) is None:
                    entry.pop(key, None)
                elif numbers(name, [entry[key]], 1, key)[0] <= 0:
                    raise DataError(f"{name}: {key} is {entry[key]}")


def _checked_id(name: str, value: Any, text: bool) -> int | str:
    """An id as pycocotools can hold it: within int64, or text where that is allowed."""
    if isinstance(value, float) and value.is_integer():  # pandas writes such
        value = int(value)
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if not (whole or (text and isinstance(value, str) and "\0" not in value)):
        raise DataError(f"{name} is {_shown(value)}, no whole number{' or text' if text else ''}")
    found: int | str = value
    return found


def _is_path(value: Any) -> bool:
    try:
        return isinstance(value, str) and value.strip("./") != "" and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _complete(person: dict[str, Any], joints: int) -> bool:
    """Fill in what a person lacks (see `read_annotations`); whether the area was one of it."""
    name = f"annotation {person['id']}"
    for key in ("keypoints", "num_keypoints", "iscrowd", "area"):
        if person.get(key) is None:
            person.pop(key, None)
    if not person.get("keypoints"):
        person["keypoints"] = [0] * 3 * joints
    if "num_keypoints" not in person:
        person["num_keypoints"] = int((labelled_keypoints(name, person, joints)[2::3] > 0).sum())
    person.setdefault("iscrowd", 0)
    if "area" in person:
        return False
    _, _, w, h = numbers(name, person.get("bbox"), 4, BOX).tolist()
    person["area"] = w * h
    return True


def _shown(value: Any) -> str:
    return reprlib.repr(value)


# --------------------------------------------------------------------------- samples


def _from_truth(path: Path, coco: COCO, images: dict[int | str, Path]) -> list[Sample]:
    samples, outside = [], []
    person = person_category(coco)
    for image_id in coco.getImgIds():
        people = [a for a in coco.imgToAnns.get(image_id, ()) if a["category_id"] == person and is_labelled(a)]
        if not people:
            continue
        said = _said_size(coco.imgs[image_id])
        width, height = said or image_size(images[image_id])
        for ann in people:
            x, y, w, h = ann["bbox"]
            x1, y1 = max(0, x), max(0, y)
            x2, y2 = min(width - 1, x1 + max(0, w - 1)), min(height - 1, y1 + max(0, h - 1))
            if x2 > x1 and y2 > y1:
                box = (float(x1), float(y1), float(x2 - x1), float(y2 - y1))
                name, size = f"ann {ann['id']}", (width, height)
                samples.append(Sample(name, images[image_id], image_id, box, image_wh_px=size, annotation_id=ann["id"]))
            else:
                outside.append(ann["id"])
    if outside:
        _log.warning(
            "%s: the box of annotation %s has no extent within its image, so nobody is predicted there (%d in all)",
            path, outside[0], len(outside),
        )  # fmt: skip
    return samples


def is_labelled(ann: dict[str, Any]) -> bool:
    """Whether somebody is one person with a labelled keypoint: only these are predicted and counted."""
    return bool(ann["num_keypoints"] > 0 and not ann["iscrowd"])


def _said_size(image: dict[str, Any]) -> tuple[float, float] | None:
    """Width and height of an image, where the annotation file says both."""
    return (image["width"], image["height"]) if {"width", "height"} <= image.keys() else None


def _person_boxes(path: Path, coco: COCO) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every person box of a detector's file with its place there."""
    found = read_json(path, "detector box file")
    wrong = f"{path}: not a list of COCO detections"
    if not isinstance(found, list):
        raise DataError(f"{wrong} but {_shown(found)}")
    person = person_category(coco)
    for i, box in enumerate(found):
        if not isinstance(box, dict):
            raise DataError(f"{wrong}: box {i} is {_shown(box)}")
        for key in ("category_id", "image_id", "bbox", "score"):
            if key not in box:
                raise DataError(f"{wrong}: box {i} has no {key}")
        _checked_id(f"{path}: box {i}: image_id", box["image_id"], text=True)
        if box["category_id"] == person:
            yield i, box
    if found and not any(box["category_id"] == person for box in found):
        others = ", ".join(sorted({_shown(box["category_id"]) for box in found})[:8])
        raise DataError(f"{path}: none of its {len(found)} boxes is of category {person} (person), but {others}")


def _from_detector(path: Path, coco: COCO, images: dict[int | str, Path]) -> list[Sample]:
    """Every person box on an image of the annotation file; `id` is the box's place in the detector's file."""
    boxes = list(_person_boxes(path, coco))
    samples, empty = [], []
    for i, box in boxes:
        image_id = box["image_id"]
        if image_id not in images:
            continue
        name = f"{path}: box {i}"
        x, y, w, h = numbers(name, box["bbox"], 4, BOX).tolist()
        score = float(numbers(name, [box["score"]], 1, "score")[0])
        if not (w > 0 and h > 0):
            empty.append(f"{name} is empty ({w} x {h})")
            continue
        size = _said_size(coco.imgs[image_id])
        xywh = (float(x), float(y), float(w), float(h))
        samples.append(Sample(f"box {i}", images[image_id], image_id, xywh, score, image_wh_px=size))
    if not samples:
        also = f"; {empty[0]}" if empty else ""
        raise DataError(
            f"{path}: none of its {len(boxes)} boxes lies on one of the {len(images)} annotated images{also}"
        )
    if empty:
        _log.warning("%s and left out (%d in all)", empty[0], len(empty))
    return samples


# --------------------------------------------------------------------------- what is there


def images(spec: DatasetSpec, folder: Path) -> list[str]:
    """The pictures that the annotation file names, below the spec's `images`."""
    found = read_annotations(folder / spec.annotations, spec.joint_set).imgs.values()
    return [image["file_name"] for image in found if "file_name" in image]


def check(spec: DatasetSpec, folder: Path) -> list[Check]:
    """Annotations, images and boxes against the known counts; every image is decoded."""
    checks: list[Check] = []
    try:
        coco = _read_truth(folder / spec.annotations, spec.joint_set)
    except DataError as e:
        status = "corrupt" if (folder / spec.annotations).exists() else "missing"
        return [Check("annotations", status, spec.annotations, detail=str(e))]
    people = sum(map(is_labelled, _people(coco)))
    checks.append(Check.count("annotations", "instances", people, spec.counts.get("instances")))
    sizes: dict[Path, tuple[float, float] | None] = {}
    for image in coco.imgs.values():
        if "file_name" not in image:
            checks.append(Check("image", "corrupt", f"image {image['id']}", detail="it has no file_name"))
            continue
        said = _said_size(image)
        sizes[folder / spec.images / image["file_name"]] = None if said is None else (said[1], said[0])
    checks += check_images(sizes, spec.counts.get("images"))
    for name, file in spec.boxes.items():
        if file is None:
            continue
        part = f"boxes ({name})"
        try:
            boxes = [box for _, box in _person_boxes(folder / file, coco)]
            off = sum(box["image_id"] not in coco.imgs for box in boxes)
            detail = f"{off} on other images" if off else ""
            checks.append(Check.count(part, "boxes", len(boxes), spec.counts.get("boxes"), detail))
        except DataError as e:
            status = "corrupt" if (folder / file).exists() else "missing"
            checks.append(Check(part, status, file, detail=str(e)))
    return checks
