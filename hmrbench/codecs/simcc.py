"""SimCC: a keypoint as the best of the bins of each axis, by three official rules.

Paper: Li et al., "SimCC: A Simple Coordinate Classification Perspective for Human Pose Estimation", ECCV 2022.
Behaviour as in leeyegy/SimCC (MIT), `simdr` for networks trained on one bin per axis and `sa-simdr` for those trained
on a Gaussian, and as in open-mmlab/mmpose 1.x (Apache-2.0), RTMPose included. A network puts out two tensors, x then y.
Their scores differ by construction: those of mmpose are no probabilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hmrbench.codecs.codec import Codec, Crops
from hmrbench.codecs.heatmap import to_image
from hmrbench.errors import HmrbenchError
from hmrbench.records import Array
from hmrbench.skeletons import Skeleton

Output = tuple[Tensor, Tensor]  # (B, K, bins of x), (B, K, bins of y)


@dataclass(frozen=True)
class Rule:
    """How one official code reads the two axes.

    `softmax`: bins are compared as probabilities, or as they are. `mean_of` says whether a picture and its mirror image
    meet as outputs or as probabilities. `shift`: bins that x of the mirror image moves to the left. `score` is the
    larger or the smaller of the two maxima.
    """

    softmax: bool
    mean_of: Literal["outputs", "probabilities"]
    shift: int
    score: Literal["max", "min"]


SIMDR_RULE = Rule(softmax=True, mean_of="probabilities", shift=1, score="max")
SA_SIMDR_RULE = Rule(softmax=True, mean_of="outputs", shift=1, score="min")
MMPOSE_RULE = Rule(softmax=False, mean_of="outputs", shift=0, score="min")


def decode(output: Output, crops: Crops, rule: Rule) -> tuple[Array, Array]:
    """Keypoints and scores: the bin of the maximum on each axis.

    Args:
        output: two tensors (B, K, bins) on any device, of x and of y; as many bins per pixel of the input on both.
        crops: the B crops, cut in classic geometry.
        rule: how the bins are read.

    Returns:
        (B, K, 2) float64 pixels of the whole image, (B, K) float32 scores.

    Raises:
        HmrbenchError: a value is not finite, or the tensors do not fit each other or the crops.
    """
    x, y = _checked(output)
    if len(x) != len(crops.center_px):
        raise HmrbenchError(f"{len(x)} outputs for {len(crops.center_px)} crops")
    peaks, places = [], []
    for axis, values in zip("xy", (x, y), strict=True):
        values = values.detach().float()
        peak, place = (values.softmax(-1) if rule.softmax else values).max(-1)
        peaks.append(peak.cpu().numpy())
        places.append(place.cpu().numpy())
        bad = np.argwhere(~np.isfinite(peaks[-1]))  # a NaN anywhere becomes the maximum
        if len(bad):
            raise HmrbenchError(f"the {axis} of joint {bad[0][1]} in row {bad[0][0]} of the batch is not finite")
    scores: Array = np.maximum(*peaks) if rule.score == "max" else np.minimum(*peaks)
    position = np.stack(places, axis=-1).astype(np.float64)
    position[scores <= 0] = -1  # only without softmax
    return to_image(position, (y.shape[-1], x.shape[-1]), crops), scores


def flip_back(output: Output, skeleton: Skeleton, rule: Rule) -> Output:
    """The output for a mirrored picture, mirrored back: pairs swapped, x reversed, and moved if the rule says so.

    A bin is finer than a pixel, so that a mirrored x stands one bin too far right; the last bins stay where they are.
    """
    x, y = _checked(output)
    if x.shape[1] != len(skeleton.joints):
        raise HmrbenchError(
            f"outputs of shape {tuple(x.shape)} do not fit the {len(skeleton.joints)} joints of {skeleton.name}"
        )
    x, y = x[:, skeleton.flip_order].flip(-1), y[:, skeleton.flip_order]
    if rule.shift:
        x = torch.cat([x[..., rule.shift :], x[..., -rule.shift :]], dim=-1)
    return x, y


def merge(output: Output, flipped_back: Output, rule: Rule) -> Output:
    """The mean of a picture's output and that of its mirror image, as the rule takes it; `decode` reads the result.

    A mean of probabilities is given as its logarithm, whose softmax it is.
    """
    merged = []
    for a, b in zip(output, flipped_back, strict=True):
        if rule.mean_of == "outputs":
            merged.append((a + b) / 2)
        else:
            merged.append(((a.float().softmax(-1) + b.float().softmax(-1)) / 2).log())
    return merged[0], merged[1]


def _checked(output: Output) -> Output:
    x, y = output
    if x.ndim != 3 or y.ndim != 3 or x.shape[:2] != y.shape[:2]:
        raise HmrbenchError(f"SimCC outputs must be two of (B, K, bins), not {tuple(x.shape)} and {tuple(y.shape)}")
    return x, y


# --- encoding


def encode(
    keypoints_px: Array,
    visible: Array,
    input_size: tuple[int, int],
    *,
    split: float = 2.0,
    sigma: tuple[float, float] = (6.0, 6.0),
    normalised: bool = True,
    snap: bool = True,
) -> tuple[tuple[Array, Array], Array]:
    """Target distributions of mmpose: a Gaussian over the bins of each axis.

    Args:
        keypoints_px: (B, K, 2) x and y in pixels of the input picture.
        visible: (B, K) above 0 for labelled keypoints.
        input_size: height and width of the input picture.
        split: bins per pixel.
        sigma: of x and y, in bins; RTMPose has (4.9, 5.66) at 256x192.
        normalised: the Gaussian integrates to 1, else its peak is 1 (RTMPose).
        snap: the Gaussian stands around the nearest bin (mmpose), else around the exact place.

    Returns:
        Targets (B, K, W * split) of x and (B, K, H * split) of y, and their weights (B, K), all float32 and 0 for what
        is not labelled or more than three sigma outside.

    Raises:
        HmrbenchError: a labelled keypoint is not finite.
    """
    keypoints, labelled = _labelled(keypoints_px, visible)
    bins = [int(input_size[1] * split), int(input_size[0] * split)]
    place = np.round(keypoints * split) if snap else keypoints * split
    reach = 3 * np.asarray(sigma)
    reached = ((place - reach < bins) & (place + reach + 1 >= 0)).all(-1)
    return _gaussians(place, labelled & reached, bins, sigma, normalised)


def encode_sa_simdr(
    keypoints_px: Array, visible: Array, input_size: tuple[int, int], *, split: float = 2.0, sigma: float = 4.0
) -> tuple[tuple[Array, Array], Array]:
    """Target distributions of leeyegy's `sa-simdr`: around the exact place, 0 from three sigma, taken for pixels of the
    picture, outside of it; else as `encode`."""
    keypoints, labelled = _labelled(keypoints_px, visible)
    height, width = input_size
    nearest = np.trunc(keypoints + 0.5)
    reach = 3 * sigma
    reached = ((nearest - reach < [width, height]) & (nearest + reach + 1 >= 0)).all(-1)
    bins = [int(width * split), int(height * split)]
    return _gaussians(keypoints * split, labelled & reached, bins, (sigma, sigma), True)


def _labelled(keypoints_px: Array, visible: Array) -> tuple[Array, Array]:
    labelled = np.asarray(visible) > 0
    keypoints: Array = np.where(labelled[..., None], np.asarray(keypoints_px, np.float64), 0.0)  # (B, K, 2)
    if not np.isfinite(keypoints).all():
        row, joint = np.argwhere(~np.isfinite(keypoints))[0][:2]
        raise HmrbenchError(f"the keypoint of joint {joint} in row {row} of the batch is not finite")
    return keypoints, labelled


def _gaussians(
    place: Array, given: Array, bins: list[int], sigma: tuple[float, float], normalised: bool
) -> tuple[tuple[Array, Array], Array]:
    targets = []
    for axis in range(2):
        target = np.exp(-((np.arange(bins[axis]) - place[..., axis, None]) ** 2) / (2 * sigma[axis] ** 2))
        if normalised:
            target /= sigma[axis] * np.sqrt(2 * np.pi)
        targets.append((target * given[..., None]).astype(np.float32))
    return (targets[0], targets[1]), given.astype(np.float32)


def encode_simdr(
    keypoints_px: Array, visible: Array, input_size: tuple[int, int], *, split: float = 2.0
) -> tuple[tuple[Array, Array], Array]:
    """Target distributions of leeyegy's `simdr`: all of it in the nearest bin, 0 for what lies outside; else as
    `encode`."""
    keypoints, labelled = _labelled(keypoints_px, visible)
    bins = [int(input_size[1] * split), int(input_size[0] * split)]
    place = np.round(keypoints * split)
    given = labelled & ((place >= 0) & (place < bins)).all(-1)
    targets = [((np.arange(n) == place[..., axis, None]) * given[..., None]) for axis, n in enumerate(bins)]
    return (targets[0].astype(np.float32), targets[1].astype(np.float32)), given.astype(np.float32)


def encode_rtmpose(
    keypoints_px: Array, visible: Array, input_size: tuple[int, int], *, split: float = 2.0
) -> tuple[tuple[Array, Array], Array]:
    """Target distributions of RTMPose, not normalised; as published their sigmas are (4.9, 5.66) bins at 256x192 and
    (6, 6.93) at 384x288. Else as `encode`."""
    height, width = (round(float(np.sqrt(side / 8)), 2) for side in input_size)
    return encode(keypoints_px, visible, input_size, split=split, sigma=(width, height), normalised=False)


def simcc_codec(name: str, rule: Rule, encode: Callable[..., tuple[Any, Array]], split: float = 2.0) -> Codec:
    """A codec of two axes, with the options of `vary` below."""

    def vary(split: float = split, flip_shift: int = rule.shift, score: Literal["max", "min"] = rule.score) -> Codec:
        """The same with other bins per pixel, bins that a mirror image moves to the left, or joint score."""
        return simcc_codec(name, replace(rule, shift=flip_shift, score=score), encode, split)

    return Codec(
        name,
        "classic",
        partial(decode, rule=rule),
        partial(flip_back, rule=rule),
        partial(encode, split=split),
        partial(merge, rule=rule),
        vary,
    )


SIMDR = simcc_codec("simdr", SIMDR_RULE, encode_simdr)
SA_SIMDR = simcc_codec("sa-simdr", SA_SIMDR_RULE, encode_sa_simdr)
SIMCC = simcc_codec("simcc", MMPOSE_RULE, encode)
RTMPOSE = simcc_codec("rtmpose", MMPOSE_RULE, encode_rtmpose)
