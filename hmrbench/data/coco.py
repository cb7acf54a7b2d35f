"""COCO keypoint annotations and detector boxes -> samples.

Follows mmpose 0.x `TopDownCocoDataset` (Apache-2.0) in which people are predicted: with ground-truth boxes everybody
with a labelled keypoint who is no crowd, on the box clipped to the image; with detector boxes every person box.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pycocotools.coco import COCO

from hmrbench.data import Check, check_images
from hmrbench.errors import DataError
from hmrbench.files import file_sha256, read_json
from hmrbench.metrics.coco_keypoints import check_coco, make_coco, restrict
from hmrbench.records import Dataset, Sample
from hmrbench.schema import DatasetSpec

_PERSON = 1


def read(spec: DatasetSpec, folder: Path, boxes: str, limit: int | None = None) -> Dataset:
    """The samples of a COCO keypoint set, in the order of its annotation file or of the detector's file.

    `truth` is a `pycocotools.coco.COCO`; with a limit, of the images on which the remaining samples lie.

    Raises:
        DataError: a file is missing, truncated, or not of COCO's form; the boxes lie on none of the images.
    """
    coco = read_annotations(folder / spec.annotations)
    images = {i: folder / spec.images / image["file_name"] for i, image in coco.imgs.items()}
    file = spec.boxes[boxes]
    samples = _from_truth(coco, images) if file is None else _from_detector(folder / file, images)
    chosen = tuple(samples[:limit])
    truth = coco if len(chosen) == len(samples) else restrict(coco, {s.image_id for s in chosen})
    if chosen:
        check_coco(truth, chosen)
    return Dataset(spec.name, chosen, truth, boxes, file_sha256(folder / spec.annotations), total=len(samples))


def read_annotations(path: Path) -> COCO:
    """COCO's index of an annotation file; unlike COCO's own reader it prints nothing and names what is wrong."""
    content = read_json(path, "annotation file")
    absent = [k for k in ("images", "annotations", "categories") if not isinstance(content, dict) or k not in content]
    if absent:
        raise DataError(f"{path}: no COCO annotation file, it lacks {', '.join(absent)}")
    try:
        return make_coco(content)
    except (KeyError, TypeError) as e:
        raise DataError(f"{path}: an entry lacks {e}") from e


def _from_truth(coco: COCO, images: dict[int, Path]) -> list[Sample]:
    samples = []
    for image_id in coco.getImgIds():
        size = coco.imgs[image_id]
        for ann in coco.loadAnns(coco.getAnnIds(imgIds=image_id, iscrowd=False)):
            if not has_keypoints(ann):
                continue
            x, y, w, h = ann["bbox"]
            x1, y1 = max(0, x), max(0, y)
            x2, y2 = min(size["width"] - 1, x1 + max(0, w - 1)), min(size["height"] - 1, y1 + max(0, h - 1))
            if ann.get("area", 1) > 0 and x2 > x1 and y2 > y1:
                box = (float(x1), float(y1), float(x2 - x1), float(y2 - y1))
                samples.append(Sample(f"ann {ann['id']}", images[image_id], image_id, box))
    return samples


def has_keypoints(ann: dict[str, Any]) -> bool:
    """Whether a person has a labelled keypoint: only these are predicted and counted."""
    return bool(max(ann.get("keypoints", [0])) > 0 and ann.get("num_keypoints", 1) > 0)


def _from_detector(path: Path, images: dict[int, Path]) -> list[Sample]:
    """Every person box on an image of the annotation file; `id` is the box's place in the detector's file."""
    found = read_json(path, "detector box file")
    samples = []
    try:
        for i, box in enumerate(found):
            if box["category_id"] == _PERSON and box["image_id"] in images:
                x, y, w, h = map(float, box["bbox"])
                if not (w > 0 and h > 0):
                    raise DataError(f"{path}: box {i} is empty ({w} x {h})")
                image_id = box["image_id"]
                samples.append(Sample(f"box {i}", images[image_id], image_id, (x, y, w, h), float(box["score"])))
    except (KeyError, TypeError, ValueError) as e:
        raise DataError(f"{path}: not a list of COCO detections ({e!r})") from e
    if not samples:
        raise DataError(f"{path}: none of its {len(found)} boxes lies on one of the {len(images)} annotated images")
    return samples


def images(spec: DatasetSpec, folder: Path) -> list[str]:
    """The pictures that the annotation file names, below the spec's `images`."""
    return [image["file_name"] for image in read_annotations(folder / spec.annotations).imgs.values()]


def check(spec: DatasetSpec, folder: Path) -> list[Check]:
    """Annotations, images and boxes against the known counts; every image is decoded."""
    checks: list[Check] = []
    try:
        coco = read_annotations(folder / spec.annotations)
    except DataError as e:
        status = "corrupt" if (folder / spec.annotations).exists() else "missing"
        return [Check("annotations", status, spec.annotations, detail=str(e))]
    people = sum(has_keypoints(a) for a in coco.anns.values())
    checks.append(Check.count("annotations", "instances", people, spec.counts.get("instances")))
    sizes = {folder / spec.images / i["file_name"]: (i["height"], i["width"]) for i in coco.imgs.values()}
    checks += check_images(sizes, spec.counts.get("images"))
    for name, file in spec.boxes.items():
        if file is None:
            continue
        try:
            found = read_json(folder / file, "detector box file")
            known = set(coco.imgs)
            boxes = [b for b in found if b["category_id"] == _PERSON]
            off = sum(b["image_id"] not in known for b in boxes)
            checks.append(
                Check.count(
                    f"boxes ({name})",
                    "boxes",
                    len(boxes),
                    spec.counts.get("boxes"),
                    f"{off} on other images" if off else "",
                )
            )
        except DataError as e:
            status = "corrupt" if (folder / file).exists() else "missing"
            checks.append(Check(f"boxes ({name})", status, file, detail=str(e)))
    return checks
