"""Results in COCO's form, which do not say whose they are -> one prediction for each of the people they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hmrbench.data.coco import is_labelled
from hmrbench.files.coco_json import Result, person_category
from hmrbench.metrics.coco_keypoints import oks
from hmrbench.records import Dataset, Prediction, Sample
from hmrbench.skeletons import Skeleton


def pair(people: Dataset, results: Sequence[Result]) -> tuple[list[Prediction], Dataset]:
    """Predictions of the labelled people that have a result, in the order of the annotations, and those people.

    A result that has an `annotation_id`, as `eval --save-predictions` writes it, is of that person. The others of an
    image go, best score first, each to the person that it is most like (by OKS) and that has none yet.
    """
    coco = people.truth
    person = person_category(coco)
    of_image: dict[Any, list[Result]] = {}
    for result in results:
        of_image.setdefault(result["image_id"], []).append(result)
    samples, predictions = [], []
    for image_id in coco.getImgIds():
        wanted = [a for a in coco.imgToAnns.get(image_id, ()) if a["category_id"] == person and is_labelled(a)]
        for annotation, result in _pairs(wanted, of_image.get(image_id, ()), people.skeleton):
            points = np.array(result["keypoints"], np.float64).reshape(-1, 3)
            name, image = f"ann {annotation['id']}", Path(coco.imgs[image_id].get("file_name", ""))
            box = tuple(map(float, annotation["bbox"]))
            samples.append(Sample(name, image, image_id, box, annotation_id=annotation["id"]))  # type: ignore[arg-type]
            predictions.append(Prediction(points[:, :2], points[:, 2]))
    return predictions, replace(people, samples=tuple(samples), total=len(samples))


def _pairs(
    people: Sequence[Mapping[str, Any]], results: Sequence[Result], skeleton: Skeleton
) -> list[tuple[Mapping[str, Any], Result]]:
    """The people of one image that have a result, each with it."""
    place = {annotation["id"]: i for i, annotation in enumerate(people)}
    found: dict[int, Result] = {}
    for result in sorted(results, key=lambda r: -r["score"]):
        if result.get("annotation_id") in place:
            found.setdefault(place[result["annotation_id"]], result)
    for result in sorted(results, key=lambda r: -r["score"]):
        left = [i for i in range(len(people)) if i not in found]
        if not left or result.get("annotation_id") is not None:
            continue
        truth = np.array([people[i]["keypoints"] for i in left], np.float64).reshape(len(left), -1, 3)
        points = np.array(result["keypoints"], np.float64).reshape(-1, 3)[:, :2]
        areas = np.array([people[i]["area"] for i in left], np.float64)
        alike = oks(points, truth[..., :2], truth[..., 2], areas, skeleton.sigmas)
        found[left[int(np.argmax(alike))]] = result
    return [(people[i], found[i]) for i in sorted(found)]
