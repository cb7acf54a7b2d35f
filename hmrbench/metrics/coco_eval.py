"""COCO's keypoint evaluation, many images at a time: the OKS, matches and averages of pycocotools, digit by digit.

Rules and constants are those of `pycocotools.cocoeval.COCOeval` (Lin et al., "Microsoft COCO", ECCV 2014; Simplified
BSD), which goes pair by pair in Python. Sums are taken over the same numbers in the same order, so that they round
alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import Params

from hmrbench.files.coco_json import Result, area_source, mask_area, person_category
from hmrbench.records import Array
from hmrbench.skeletons import COCO17, Skeleton

STATS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")  # in pycocotools' order
_PAIRS = 1 << 16  # of a prediction and a person, compared at a time


@dataclass(frozen=True)
class Matching:
    """Which prediction pycocotools gives to whom, for A ranges of area (the first is `all`) and T thresholds of OKS.

    Attributes:
        image_ids: (I,) in pycocotools' order.
        truth_image: (G,) index into image_ids of each person, rising.
        truth_keypoints: (G, K, 3) x, y in pixels, and visibility.
        truth_area_px2: (G,).
        truth_box_xywh_px: (G, 4).
        truth_ignored: (A, G) people that do not count.
        image: (D,) index into image_ids of each prediction that counts, rising; at most 20 an image, best first.
        score: (D,).
        keypoints_px: (D, K, 2).
        match: (A, T, D) index of the person that it got, -1 for nobody.
        ignored: (A, T, D) predictions that count neither as right nor as wrong.
    """

    image_ids: Array
    truth_image: Array
    truth_keypoints: Array
    truth_area_px2: Array
    truth_box_xywh_px: Array
    truth_ignored: Array
    image: Array
    score: Array
    keypoints_px: Array
    match: Array
    ignored: Array


def match_results(coco: COCO, results: Sequence[Result], skeleton: Skeleton) -> Matching:
    """Match checked results (see `check_coco`) with the people of the annotations."""
    params = Params("keypoints")
    joints, category = len(skeleton.joints), person_category(coco)
    image_ids = np.unique(list(coco.imgs))
    place = {image_id: n for n, image_id in enumerate(image_ids.tolist())}

    people = [a for a in coco.dataset["annotations"] if a["category_id"] == category and a["image_id"] in place]
    people.sort(key=lambda person: place[person["image_id"]])
    triples = np.array([person["keypoints"] for person in people], np.float64).reshape(-1, joints, 3)
    area = np.array([person["area"] for person in people], np.float64)
    box = np.array([person["bbox"] for person in people], np.float64).reshape(-1, 4)
    crowd = np.array([bool(person["iscrowd"]) for person in people], bool)
    low, high = np.array(params.areaRng, np.float64).T[..., None]  # (A, 1)
    not_counted = crowd | np.array([person["num_keypoints"] == 0 for person in people], bool)
    truth_ignored = not_counted | (area < low) | (area > high)  # (A, G)
    truth_image = np.array([place[person["image_id"]] for person in people], np.intp)

    image = np.array([place[result["image_id"]] for result in results], np.intp)
    score = np.array([result["score"] for result in results], np.float64)
    order = np.lexsort((-score, image))  # stable, as in pycocotools
    rank = np.arange(len(order)) - np.searchsorted(image[order], image[order])
    order, rank = order[rank < params.maxDets[-1]], rank[rank < params.maxDets[-1]]
    image, score = image[order], score[order]
    found = np.array([results[n]["keypoints"] for n in order], np.float64).reshape(-1, joints, 3)[..., :2]
    # pycocotools' own constants of COCO's joints differ from the literals by a rounding
    sigmas = params.kpt_oks_sigmas if skeleton.name == COCO17.name else np.array(skeleton.sigmas)
    with np.errstate(over="ignore", invalid="ignore"):  # of predictions far from everything
        own_area = _areas([results[n] for n in order], found, area_source(results))
        pair_of, pair_with = _pairs(image, truth_image, len(image_ids))
        similarity = _oks(found, triples, area, box, sigmas, pair_of, pair_with)

    thresholds = np.minimum(params.iouThrs, 1 - 1e-10)
    near = similarity >= thresholds.min()
    pairs = pair_of[near], pair_with[near], similarity[near]
    match = _assign(pairs, rank, truth_image, truth_ignored, crowd, thresholds)
    outside = (own_area < low) | (own_area > high)  # (A, D)
    ignored = np.where(match < 0, outside[:, None], np.take_along_axis(truth_ignored[:, None], match, axis=2))
    return Matching(image_ids, truth_image, triples, area, box, truth_ignored, image, score, found, match, ignored)


def _areas(results: Sequence[Result], found: Array, source: str) -> Array:
    """Areas (D,) of predictions, by which those that match nobody are sorted into ranges."""
    if source == "bbox":
        width, height = np.array([result["bbox"] for result in results], np.float64)[:, 2:].T
    elif source == "segmentation":
        return np.array([mask_area("result", result) for result in results])
    else:
        width, height = (found.max(1) - found.min(1)).T
    areas: Array = width * height
    return areas


def _pairs(image: Array, truth_image: Array, images: int) -> tuple[Array, Array]:
    """Every prediction with every person of its image: their indices, (P,) each."""
    people = np.bincount(truth_image, minlength=images)
    first = np.cumsum(people) - people
    each = people[image]  # (D,)
    pair_of = np.repeat(np.arange(len(image)), each)
    within = np.arange(len(pair_of)) - np.repeat(np.cumsum(each) - each, each)
    return pair_of, first[image][pair_of] + within


def _oks(
    found: Array, triples: Array, area: Array, box: Array, sigmas: Array, pair_of: Array, pair_with: Array
) -> Array:
    """OKS (P,) of pairs. Of a person without visible joints what is around its box counts as right."""
    similarity = np.zeros(len(pair_of))
    seen = triples[..., 2] > 0  # (G, K)
    visible = seen.sum(1)
    first = np.argsort(~seen, axis=1, kind="stable")  # the visible joints before the others, each in order
    variances = (sigmas * 2) ** 2
    corner, size = box[:, None, :2], box[:, None, 2:]
    for count in np.unique(visible[pair_with]):
        chosen = np.flatnonzero(visible[pair_with] == count)
        for start in range(0, len(chosen), _PAIRS):
            part = chosen[start : start + _PAIRS]
            of, by = pair_of[part], pair_with[part]
            if count:  # the same number of joints in each row, so that sums add up as for one pair alone
                joint = first[by, :count]  # (n, count)
                apart = np.take_along_axis(found[of], joint[..., None], 1) - triples[by[:, None], joint, :2]
                spread = variances[joint]
            else:
                low, high = corner[by] - size[by], corner[by] + size[by] * 2
                apart = np.maximum(0, low - found[of]) + np.maximum(0, found[of] - high)
                spread = variances
            squared = apart[..., 0] ** 2 + apart[..., 1] ** 2
            error = squared / spread / (area[by] + np.spacing(1))[:, None] / 2
            similarity[part] = np.exp(-error).sum(1) / error.shape[1]
    return similarity


def _assign(
    pairs: tuple[Array, Array, Array],
    rank: Array,
    truth_image: Array,
    truth_ignored: Array,
    crowd: Array,
    thresholds: Array,
) -> Array:
    """Who gets whom, (A, T, D): in order of scores, the most similar person still free.

    Somebody who counts goes before whoever does not, and of equals the last wins. A crowd is never used up.

    Args:
        pairs: predictions, people and their OKS, (P,) each, of pairs that may match at all.
        rank: (D,) place of each prediction within its image.
        truth_image: (G,), truth_ignored: (A, G) and crowd: (G,) of the people.
        thresholds: (T,) of OKS.
    """
    of, by, similarity = pairs
    match = np.full((len(truth_ignored), len(thresholds), len(rank)), -1, np.intp)
    wanted = np.unique(by)  # (N,) people that anything resembles, image by image
    start = np.flatnonzero(np.diff(truth_image[wanted], prepend=-1))  # of each image, in `wanted`
    size = np.diff(start, append=len(wanted))
    group = np.repeat(np.arange(len(start)), size)  # (N,) image of each of them
    place = np.searchsorted(wanted, by)
    for count in np.unique(size):  # images with as many people at once
        groups = np.flatnonzero(size == count)
        row = np.full(len(start), -1)
        row[groups] = np.arange(len(groups))
        inside = np.flatnonzero(row[group[place]] >= 0)
        image, turn = row[group[place[inside]]], rank[of[inside]]
        people = wanted[start[groups][:, None] + np.arange(count)]  # (n, count)
        table = np.full((len(groups), rank.max() + 1, count), -1.0)
        who = np.full(table.shape[:2], -1)
        table[image, turn, place[inside] - start[group[place[inside]]]] = similarity[inside]
        who[image, turn] = of[inside]
        counts, endless = ~truth_ignored[:, people][:, None], crowd[people]  # (A, 1, n, count), (n, count)
        free = np.ones((len(truth_ignored), len(thresholds), *people.shape), bool)
        for at in range(table.shape[1]):
            here = np.flatnonzero(who[:, at] >= 0)
            close = table[here, at]  # (n, count)
            fits = (close >= thresholds[:, None, None]) & free[:, :, here]  # (A, T, n, count)
            better = fits & counts[:, :, here]
            fits = np.where(better.any(-1, keepdims=True), better, fits)
            last_best = count - 1 - np.where(fits, close, -1)[..., ::-1].argmax(-1)  # (A, T, n)
            got: Array = fits.any(-1)
            match[:, :, who[here, at]] = np.where(got, people[here][np.arange(len(here)), last_best], -1)
            taken = (np.arange(count) == last_best[..., None]) & got[..., None] & ~endless[here]
            free[:, :, here] &= ~taken
    return match


def stats(found: Matching) -> dict[str, float]:
    """The ten numbers in percent; without those that are not defined, for lack of medium or large people."""
    params = Params("keypoints")
    order = np.argsort(-found.score, kind="stable")
    values = {}
    for size, match, ignored, truth_ignored in zip(
        ("", "M", "L"), found.match, found.ignored, found.truth_ignored, strict=True
    ):
        people = np.count_nonzero(~truth_ignored)
        if not people:
            continue
        hit, counts = match[:, order] >= 0, ~ignored[:, order]
        right, wrong = np.cumsum(hit & counts, axis=1), np.cumsum(~hit & counts, axis=1)
        recall = right / people  # (T, D)
        precision = right / (wrong + right + np.spacing(1))
        best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        at = [np.searchsorted(row, params.recThrs) for row in recall]
        reached = np.array([np.append(row, 0.0)[i] for row, i in zip(best_from_here, at, strict=True)])  # (T, 101)
        for name, table in (("AP", reached), ("AR", recall.max(1, initial=0.0))):  # 0 without any results
            values[name + size] = float(table.mean(None)) * 100
            if not size:
                values |= {f"{name}{100 * t:.0f}": float(table[params.iouThrs == t].mean()) * 100 for t in (0.5, 0.75)}
    return {name: values[name] for name in STATS if name in values}
