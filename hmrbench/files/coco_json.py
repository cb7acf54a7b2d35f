"""The form of COCO's keypoint json, annotations and results alike: who is a person, and what contradicts itself."""

from __future__ import annotations

import io
import reprlib
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from itertools import chain
from typing import Any

import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO

from hmrbench.errors import DataError
from hmrbench.records import Array, Sample
from hmrbench.skeletons import COCO17, Skeleton

BOX = "bbox (x, y, width, height)"
MAX_AREA_PX2 = 1e10  # of a person; COCOeval leaves out what is larger

Result = Mapping[str, Any]


def make_coco(dataset: Mapping[str, Any]) -> COCO:
    """The content of a COCO annotation file as a `pycocotools.coco.COCO`, without its messages."""
    coco = COCO()
    coco.dataset = dataset
    with redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def restrict(coco: COCO, image_ids: Iterable[int | str]) -> COCO:
    """The annotations of those images only."""
    wanted = set(image_ids)
    return make_coco(
        {
            **coco.dataset,
            "images": [image for image in coco.dataset["images"] if image["id"] in wanted],
            "annotations": [a for a in coco.dataset["annotations"] if a["image_id"] in wanted],
        }
    )


def person_category(coco: COCO) -> int:
    """The id of the category `person`, or of the only category: see `find_person`."""
    return find_person(coco.dataset.get("categories", []))


def find_person(categories: Sequence[Mapping[str, Any]]) -> int:
    """The id of the category `person`, or of the only category.

    Raises:
        DataError: there is neither, or its id is no whole number.
    """
    people = [category for category in categories if str(category.get("name")).strip().lower() == "person"]
    if len(people or categories) != 1:
        names = reprlib.repr([category.get("name") for category in categories])
        raise DataError(f"the annotations must have one category person, not {names}")
    found = (people or categories)[0].get("id")
    if not isinstance(found, int):
        raise DataError(f"category person: its id is {reprlib.repr(found)}, no whole number")
    return int(found)


def check_coco(coco: COCO, items: Sequence[Sample | Result], skeleton: Skeleton = COCO17) -> None:
    """Find out beforehand what would end in a crash or in a wrong score without a word.

    Args:
        coco: the ground truth.
        items: the samples to predict, or results in COCO's format.
        skeleton: joints and OKS constants.

    Raises:
        DataError: see `check_truth`; no items; image ids that are not in the annotations; results of another category,
            or with anything but finite numbers in their keypoints, their score, or the box or segmentation from which
            pycocotools takes their area.
    """
    if not len(items):
        raise DataError("there are no boxes or results to evaluate")
    category = person_category(coco)
    check_truth(coco, skeleton)

    ids = [item.image_id if isinstance(item, Sample) else item.get("image_id") for item in items]
    unknown = [n for n, image_id in enumerate(ids) if not isinstance(image_id, Hashable) or image_id not in coco.imgs]
    if len(unknown) == len(ids):
        like = f"have ids like {next(iter(coco.imgs), None)!r}, not {reprlib.repr(ids[0])}"
        raise DataError(f"no image id is in the annotations, which {like}")
    if unknown:
        first = f"number {unknown[0]}: image id {reprlib.repr(ids[unknown[0]])}"
        raise DataError(f"{first} is not in the annotations ({len(unknown)} of {len(ids)} are not)")

    results = [(n, item) for n, item in enumerate(items) if not isinstance(item, Sample)]
    area_of = area_source([result for _, result in results])
    if _plain([result for _, result in results], category, area_of, len(skeleton.joints)):
        return
    for number, result in results:  # which one it is, and whether it is that bad
        _check_result(f"result {number} (image {result['image_id']})", result, category, area_of, skeleton)


def check_truth(coco: COCO, skeleton: Skeleton = COCO17) -> None:
    """Find out what in the annotations would end in a crash, or in a wrong score without a word.

    Only people on one of the images are looked at, as pycocotools does; ids are looked at everywhere.

    Raises:
        DataError: an id that stands twice, or that pycocotools takes for "no match"; image ids of which some are text;
            not one triple per joint; something that is no finite number; somebody with labelled keypoints of which none
            is visible, with a box of no extent, or with an area at which no prediction counts; nobody with any.
    """
    joints = len(skeleton.joints)
    if len(skeleton.sigmas) != joints:
        raise DataError(f"{skeleton.name} has {len(skeleton.sigmas)} OKS constants for {joints} joints")
    for kind in ("images", "annotations", "categories"):
        twice = [i for i, times in Counter(entry["id"] for entry in coco.dataset.get(kind, [])).items() if times > 1]
        if twice:
            raise DataError(f"two {kind} have the same id {twice[0]!r}")
    if len({isinstance(image_id, str) for image_id in coco.imgs}) > 1:
        raise DataError("some image ids are text and some are numbers: pycocotools would make all of them text")
    category = person_category(coco)
    people = [a for a in coco.dataset["annotations"] if a["category_id"] == category and a["image_id"] in coco.imgs]
    if not sum([_check_person(f"annotation {person['id']}", person, joints) for person in people]):
        raise DataError(f"no annotation has labelled keypoints on one of the {len(coco.imgs)} images")


class OtherJointsError(DataError):
    """Somebody is annotated with other joints than the data set's."""


def labelled_keypoints(name: str, person: Mapping[str, Any], joints: int) -> Array:
    """(3 * joints,) x, y, visible of each joint.

    Raises:
        OtherJointsError: there are not so many.
        DataError: they are no finite numbers.
    """
    return numbers(name, person["keypoints"], 3 * joints, f"{joints} keypoints (x, y, visible)", OtherJointsError)


def _check_person(name: str, person: Mapping[str, Any], joints: int) -> bool:
    """Whether a person counts, which asks more of it."""
    missing = {"keypoints", "num_keypoints", "iscrowd", "area", "bbox"} - person.keys()
    if missing:
        raise DataError(f"{name} has no {min(missing)}")
    keypoints = labelled_keypoints(name, person, joints)
    box = numbers(name, person["bbox"], 4, BOX)
    for key in ("num_keypoints", "area"):
        if numbers(name, [person[key]], 1, key)[0] < 0:
            raise DataError(f"{name}: {key} is {person[key]}")
    if person["iscrowd"] not in (0, 1):
        raise DataError(f"{name}: iscrowd is {reprlib.repr(person['iscrowd'])}, not 0 or 1")
    if person["iscrowd"] or not person["num_keypoints"]:
        return False
    if not person["id"]:
        raise DataError("annotation id 0 means 'no match' to pycocotools: number the annotations from 1")
    if not (keypoints[2::3] > 0).any():  # COCOeval would compare the box instead: everything in it is right
        raise DataError(f"{name}: num_keypoints is {person['num_keypoints']}, but none of its keypoints is visible")
    if not 0 < person["area"] <= MAX_AREA_PX2:
        raise DataError(f"{name}: area is {person['area']}, at which no prediction can match")
    if not (box[2:] > 0).all():
        raise DataError(f"{name}: its box has no extent: {person['bbox']}")
    return True


def area_source(results: Sequence[Result]) -> str:
    """Where pycocotools takes the area of results from, told by the first one: their bbox, segmentation or keypoints.

    Only whether unmatched results count among medium and large people depends on it.
    """
    first = results[0] if results else {}
    return next((key for key in ("bbox", "segmentation") if key in first and first[key] != []), "keypoints")


def _plain(results: Sequence[Result], category: int, area_of: str, joints: int) -> bool:
    """Whether all results hold lists of finite numbers, and nothing in them needs a look of its own."""
    widths = {"keypoints": 3 * joints, **({"bbox": 4} if area_of == "bbox" else {})}
    if area_of == "segmentation" or any(result.get("category_id") != category for result in results):
        return False
    rows: dict[str, list[Any]] = {key: [result.get(key) for result in results] for key in widths}
    if any(type(row) is not list or len(row) != width for key, width in widths.items() for row in rows[key]):
        return False
    values = [result.get("score") for result in results]
    for lists in rows.values():
        values += chain.from_iterable(lists)
    try:
        return set(map(type, values)) <= {int, float} and bool(np.isfinite(np.array(values, np.float64)).all())
    except OverflowError:
        return False


def _check_result(name: str, result: Result, category: int, area_of: str, skeleton: Skeleton) -> None:
    missing = {"category_id", "keypoints", "score", area_of} - result.keys()
    if missing:
        because = " (the first result has one)" if area_of in missing - {"keypoints"} else ""
        raise DataError(f"{name} has no {min(missing)}{because}")
    if result["category_id"] != category:
        raise DataError(f"{name}: category_id is {reprlib.repr(result['category_id'])}, persons have {category}")
    joints = len(skeleton.joints)
    numbers(name, result["keypoints"], 3 * joints, f"{joints} keypoints (x, y, score)")
    numbers(name, [result["score"]], 1, "score")
    if area_of == "bbox":
        numbers(name, result["bbox"], 4, BOX)
    elif area_of == "segmentation":
        mask_area(name, result)


def mask_area(name: str, result: Result) -> float:
    """The area in square pixels of a result's segmentation; DataError if it is no code of COCO's."""
    try:
        return float(mask.area(result["segmentation"]))
    except Exception as e:  # pycocotools checks nothing
        raise DataError(f"{name}: segmentation is no run-length code of COCO's") from e


def numbers(name: str, values: Any, count: int, what: str, other: type[DataError] = DataError) -> Array:
    """(count,) finite numbers out of a JSON list.

    Args:
        other: what is raised where there are not so many.

    Raises:
        DataError: they are not; says for `what` of `name` they are.
    """
    if not isinstance(values, (list, tuple, np.ndarray)):
        raise other(f"{name}: {reprlib.repr(values)} instead of {count} numbers for {what}")
    if len(values) != count:
        raise other(f"{name}: {len(values)} numbers for {what}")
    try:
        found: Array = np.array(values)
    except ValueError:  # lists in it, of different lengths
        found = np.zeros(0)
    if found.shape != (count,) or found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        raise DataError(f"{name}: {what}: not finite numbers: {reprlib.repr(values)}")
    return found
