"""All people of a picture out of heatmaps and tags: peaks are put together whose tags are alike.

Paper: Newell et al., "Associative Embedding: End-to-End Learning for Joint Detection and Grouping", NeurIPS 2017.
Behaviour as in mit-han-lab/litepose (MIT), `lib/core/group.py` and `inference.py`, which are from HigherHRNet's code,
down to its quirks: a peak between equal neighbours moves up and to the left, and two people who begin with the very
same tag are one. A network puts out two tensors: heatmaps, then tags, (B, 2K, h, w), and heatmaps (B, K, 2h, 2w).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from hmrbench.codecs.codec import Codec, Crops
from hmrbench.codecs.heatmap import to_image
from hmrbench.errors import HmrbenchError
from hmrbench.records import Array
from hmrbench.skeletons import COCO17, Skeleton

Output = tuple[Tensor, Tensor]

MAX_PEAKS = 30  # of each joint; likewise the people that further joints can join
PEAK_THRESHOLD = 0.1
TAG_THRESHOLD = 1.0  # the distance from which a peak begins a person of its own
SUPPRESSION = 5  # cells: a peak is the highest in this square around it
# The trunk comes first, since it tells people apart best.
JOINT_ORDER = (0, 1, 2, 3, 4, 5, 6, 11, 12, 7, 8, 9, 10, 13, 14, 15, 16)


class Peaks(NamedTuple):
    """The best peaks of each joint, best first: `values` (K, N), `cells` (K, N, 2) x then y, `tags` (K, N, V)."""

    values: Array
    cells: Array
    tags: Array


def decode(output: Output, crops: Crops) -> tuple[list[Array], list[Array], list[Array]]:
    """Keypoints, their scores, and the people's own scores, for each of B pictures an array; people in no order.

    Args:
        output: heatmaps and tags (B, V * 2K, h, w), heatmaps (B, V * K, h', w') of V views, see `merge`.
        crops: the B pictures, all brought to one size.

    Returns:
        (P, K, 2) float64 pixels of the whole image, (P, K) and (P,) float32, for each picture with its own P.

    Raises:
        HmrbenchError: a value is not finite, or the tensors do not fit each other or the pictures.
    """
    coarse, fine = output
    joints = len(COCO17.joints)
    views = fine.shape[1] // joints
    if coarse.ndim != 4 or fine.ndim != 4 or (coarse.shape[1], fine.shape[1]) != (2 * joints * views, joints * views):
        shapes = f"{tuple(coarse.shape)} and {tuple(fine.shape)}"
        raise HmrbenchError(f"heatmaps with tags and heatmaps of {joints} joints do not have the shapes {shapes}")
    if not len(coarse) == len(fine) == len(crops.center_px):
        raise HmrbenchError(f"{len(coarse)} outputs for {len(crops.center_px)} pictures")
    keypoints, scores, own = [], [], []
    for i in range(len(fine)):
        heatmaps, tags = full_maps(coarse[i], fine[i], crops.input_size, views)
        if not bool(heatmaps.isfinite().all() and tags.isfinite().all()):
            raise HmrbenchError(f"the heatmaps or tags in row {i} of the batch are not finite")
        cells, values, people = group(heatmaps, tags)
        where = Crops(crops.center_px[i : i + 1], crops.size_px[i : i + 1], crops.input_size)
        keypoints.append(to_image(cells.reshape(1, -1, 2), crops.input_size, where).reshape(cells.shape))
        scores.append(values)
        own.append(people)
    return keypoints, scores, own


def flip_back(output: Output, skeleton: Skeleton) -> Output:
    """The output for a mirrored picture, mirrored back: pairs swapped, of tags too, width reversed, no shift."""
    coarse, fine = output
    joints = len(skeleton.joints)
    if coarse.ndim != 4 or fine.ndim != 4 or (coarse.shape[1], fine.shape[1]) != (2 * joints, joints):
        shapes = f"{tuple(coarse.shape)} and {tuple(fine.shape)}"
        raise HmrbenchError(f"outputs of shapes {shapes} do not fit the {joints} joints of {skeleton.name}")
    order = list(skeleton.flip_order)
    return coarse[:, [*order, *(joints + i for i in order)]].flip(-1), fine[:, order].flip(-1)


def merge(output: Output, flipped_back: Output) -> Output:
    """The output for a picture and that for its mirror image as views beside each other, since each has its tags."""
    coarse, fine = (torch.cat(both, dim=1) for both in zip(output, flipped_back, strict=True))
    return coarse, fine


def full_maps(coarse: Tensor, fine: Tensor, size: tuple[int, int], views: int) -> tuple[Tensor, Tensor]:
    """Heatmaps (K, H, W), the mean of all, and the tags (K, H, W, V) of each view, at the size of the input."""

    def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
        return functional.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)

    coarse, fine = (maps.detach().float().view(views, -1, *maps.shape[1:]) for maps in (coarse, fine))
    heights, tags = resize(coarse, fine.shape[2:]).chunk(2, dim=1)  # (V, K, h', w')
    heatmaps = resize((heights + fine) / 2, size).mean(0)
    return heatmaps, resize(tags, size).permute(1, 2, 3, 0)


def group(heatmaps: Tensor, tags: Tensor) -> tuple[Array, Array, Array]:
    """The people of one picture, in the order in which they were found.

    Args:
        heatmaps: (K, H, W).
        tags: (K, H, W, V) of V views.

    Returns:
        (P, K, 2) x and y in cells, (0, 0) for a joint that is missing; (P, K) values of the heatmap there; (P,) scores
        of the people: the mean over all joints before those that were missing are looked for.
    """
    cells, values = match(find_peaks(heatmaps, tags))
    scores = np.array([row.mean() for row in values], np.float32)
    for person in range(len(values)):
        found = values[person] > 0
        cells[person], values[person] = _fill(cells[person], values[person], heatmaps, tags)
        cells[person, found] = _shifted(heatmaps, np.flatnonzero(found), cells[person, found])
    return cells, values, scores


def find_peaks(heatmaps: Tensor, tags: Tensor) -> Peaks:
    """The peaks of heatmaps (K, H, W) with their tags out of (K, H, W, V)."""
    highest = functional.max_pool2d(heatmaps, SUPPRESSION, 1, SUPPRESSION // 2)
    peaks = (heatmaps * (heatmaps == highest)).flatten(1)  # (K, H * W)
    values, at = peaks.topk(min(MAX_PEAKS, peaks.shape[1]))  # (K, N)
    own = tags.flatten(1, 2).gather(1, at[..., None].expand(-1, -1, tags.shape[3]))  # (K, N, V)
    y, x = np.divmod(at.cpu().numpy(), heatmaps.shape[2])
    return Peaks(values.cpu().numpy(), np.stack([x, y], axis=-1), own.cpu().numpy())


def match(peaks: Peaks) -> tuple[Array, Array]:
    """Peaks to people, joint by joint: cells (P, K, 2) int64 and values (P, K) float32, 0 where a joint is missing.

    The peaks of a joint and the people found so far are assigned to each other so that the sum of the rounded distances
    of their tags is least; the values of the peaks decide between equals.

    Raises:
        HmrbenchError: tags are so far apart that their distance is not finite.
    """
    people: dict[float, tuple[Array, Array]] = {}  # by the first of the tags that a person begins with
    tags_of: dict[float, list[Array]] = {}
    joints = len(peaks.values)
    for joint in JOINT_ORDER:
        found = peaks.values[joint] > PEAK_THRESHOLD
        values, cells, tags = (array[joint, found] for array in peaks)
        known = list(people)[:MAX_PEAKS]
        owner: dict[int, float] = {}
        if known and len(values):
            with np.errstate(over="ignore"):
                means = np.array([np.mean(tags_of[key], axis=0) for key in known], np.float64)  # (P, V)
            distance = np.linalg.norm(tags[:, None].astype(np.float64) - means, axis=2)  # (N, P)
            if not np.isfinite(distance).all():
                raise HmrbenchError("the tags are too far apart to be compared")
            pairs = zip(*linear_sum_assignment(100 * np.round(distance) - values[:, None]), strict=True)
            owner = {row: known[column] for row, column in pairs if distance[row, column] < TAG_THRESHOLD}
        for row in range(len(values)):
            key = owner.get(row)
            if key is None:
                key = float(tags[row, 0])
                people.setdefault(key, (np.zeros((joints, 2), np.int64), np.zeros(joints, np.float32)))
                tags_of[key] = []
            people[key][0][joint], people[key][1][joint] = cells[row], values[row]
            tags_of[key].append(tags[row])
    own = list(people.values())
    return (
        np.array([cells for cells, _ in own], np.float64).reshape(-1, joints, 2),
        np.array([values for _, values in own], np.float32).reshape(-1, joints),
    )


def _fill(cells: Array, values: Array, heatmaps: Tensor, tags: Tensor) -> tuple[Array, Array]:
    """A person's cells (K, 2) and values (K,) with each missing joint where the heatmap, less the rounded distance of
    the tag there from the person's mean tag, is highest, if the heatmap is positive there."""
    found, missing = np.flatnonzero(values > 0), np.flatnonzero(values <= 0)
    if not len(missing):
        return cells, values
    x, y = cells[found].astype(np.int64).T
    own = tags[found, y, x].mean(0)  # (V,)
    maps = heatmaps[missing]  # (M, H, W)
    likely = (maps - ((tags[missing] - own) ** 2).sum(-1).sqrt().round()).flatten(1)
    place = torch.arange(likely.shape[1], device=likely.device)
    highest = likely == likely.amax(1, keepdim=True)
    at = torch.where(highest, place, likely.shape[1]).amin(1, keepdim=True)  # the first, whatever the device
    heights = maps.flatten(1).gather(1, at)[:, 0].cpu().numpy()
    y, x = np.divmod(at[:, 0].cpu().numpy(), heatmaps.shape[2])
    taken = heights > 0
    cells, values = cells.copy(), values.copy()
    cells[missing[taken]] = _shifted(heatmaps, missing[taken], np.stack([x, y], axis=-1)[taken])
    values[missing[taken]] = heights[taken]
    return cells, values


def _shifted(heatmaps: Tensor, joints: Array, cells: Array) -> Array:
    """The middle of each joint's cell (M, 2), a quarter of a cell towards its higher neighbour on each axis."""
    x, y = cells.astype(np.int64).T
    height, width = heatmaps.shape[1:]

    def heights(x: Array, y: Array) -> Array:
        values: Array = heatmaps[joints, y.clip(0, height - 1), x.clip(0, width - 1)].cpu().numpy()
        return values

    rises = [heights(x + 1, y) > heights(x - 1, y), heights(x, y + 1) > heights(x, y - 1)]
    shifted: Array = np.stack([x, y], axis=-1) + 0.5 + np.where(np.stack(rises, axis=-1), 0.25, -0.25)
    return shifted


GROUPING = Codec("grouping", "classic", decode, flip_back, merge=merge, whole=True)
