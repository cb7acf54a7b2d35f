"""Heatmaps to keypoints and back: what a pose network's output means.

`udp` is the setting of ViTPose: unbiased crop geometry, and a Newton step on the logarithm of the map after
an 11-pixel Gaussian (Huang et al., "The Devil is in the Details", CVPR 2020). `dark` is the classic geometry
with the step of Zhang et al., "Distribution-Aware Coordinate Representation", CVPR 2020; `plain` moves a
quarter pixel towards the higher neighbour. Behaviour as in mmpose 0.x
(`mmpose/core/evaluation/top_down_eval.py` and `TopDownGenerateTarget`, read in the ViTPose repository,
Apache-2.0). Where a whole map is blurred there, here only the few pixels around the maximum are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hmrbench.codecs.codec import Codec, CropGeometry, Crops
from hmrbench.errors import HmrbenchError
from hmrbench.records import Array
from hmrbench.skeletons import Skeleton

SIGMA = 2.0  # of the target Gaussian, in heatmap pixels
KERNEL = 11  # pixels of the decoder's Gaussian, whose sigma OpenCV takes as 0.3 * ((k - 1) / 2 - 1) + 0.8 = 2
STRIDE = 4  # input pixels per heatmap pixel

Border = Literal["reflect", "zero"]


def flip_back(output: Tensor, skeleton: Skeleton, shift: int = 0) -> Tensor:
    """Heatmaps (B, K, H, W) of a mirrored picture, mirrored back: pairs swapped, width reversed.

    Args:
        shift: cells that they move to the right; the first columns stay where they are.
    """
    if output.ndim != 4 or output.shape[1] != len(skeleton.joints):
        raise HmrbenchError(
            f"heatmaps of shape {tuple(output.shape)} do not fit the {len(skeleton.joints)} joints of {skeleton.name}"
        )
    flipped = output[:, skeleton.flip_order].flip(-1)
    return torch.cat([flipped[..., :shift], flipped[..., :-shift]], dim=-1) if shift else flipped


# --- decoding


def decode_udp(output: Tensor, crops: Crops) -> tuple[Array, Array]:
    """Keypoints and scores by UDP: the maximum, then a Newton step on the logarithm of the blurred map.

    Args:
        output: (B, K, H, W) heatmaps on any device.
        crops: the B crops, cut in UDP geometry.

    Returns:
        (B, K, 2) float64 pixels of the whole image, (B, K) float32 values of the maxima.

    Raises:
        HmrbenchError: a heatmap is not finite, or there are not as many crops as heatmaps.
    """
    heatmaps, x, y, scores = _peaks(output, crops)
    v = np.log(_blurred(heatmaps, x, y, 1, "reflect").clip(0.001, 50))  # (B, K, 3, 3)
    middle, left, right, up, down = v[..., 1, 1], v[..., 1, 0], v[..., 1, 2], v[..., 0, 1], v[..., 2, 1]
    dx = 0.5 * (right - left)
    dy = 0.5 * (down - up)
    regular = float(np.finfo(np.float32).eps)
    dxx = right - 2 * middle + left + regular
    dyy = down - 2 * middle + up + regular
    dxy = 0.5 * (v[..., 2, 2] - right - down + 2 * middle - left - up + v[..., 0, 0])
    # At a map without a positive value the official step reads maps of other joints; here there is none.
    step = _newton_step(dx, dy, dxx, dxy, dyy, x >= 0)
    return to_image(np.stack([x, y], axis=-1) + step, output.shape[2:], crops, "udp"), scores


def decode_plain(output: Tensor, crops: Crops) -> tuple[Array, Array]:
    """Keypoints and scores by the maximum and a quarter pixel to the higher side; see `decode_udp`."""
    heatmaps, x, y, scores = _peaks(output, crops)
    height, width = output.shape[2:]
    near = np.arange(-1, 2)
    rows = (y[..., None] + near).clip(0, height - 1)
    columns = (x[..., None] + near).clip(0, width - 1)
    v = _pixels(heatmaps, rows, columns)  # (B, K, 3, 3)
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    slope = np.stack([v[..., 1, 2] - v[..., 1, 0], v[..., 2, 1] - v[..., 0, 1]], axis=-1)
    position = np.stack([x, y], axis=-1) + 0.25 * np.sign(slope) * inside[..., None]
    return to_image(position, output.shape[2:], crops, "classic"), scores


def decode_dark(output: Tensor, crops: Crops) -> tuple[Array, Array]:
    """Keypoints and scores by DARK, which blurs with zeros outside the map; see `decode_udp`."""
    heatmaps, x, y, scores = _peaks(output, crops)
    height, width = output.shape[2:]
    inside = (x > 1) & (x < width - 2) & (y > 1) & (y < height - 2)
    v = _blurred(heatmaps, x, y, 2, "zero")  # (B, K, 5, 5)
    # Officially the blurred map is scaled to its old maximum, then floored at 1e-10. The scale, never between
    # 0 and 1, drops out of the derivatives of the logarithm, so it matters only where the floor does.
    floored = inside & (v <= 1e-10).any((-2, -1))
    if floored.any():
        whole = heatmaps[torch.from_numpy(floored).to(heatmaps.device)].cpu().numpy().astype(np.float64)
        blurred = _blur_matrix(height, "zero") @ whole @ _blur_matrix(width, "zero").T  # (M, H, W)
        v[floored] *= (whole.max((1, 2)) / blurred.max((1, 2)))[:, None, None]
    v = np.log(v.clip(1e-10, None))
    dx = 0.5 * (v[..., 2, 3] - v[..., 2, 1])
    dy = 0.5 * (v[..., 3, 2] - v[..., 1, 2])
    dxx = 0.25 * (v[..., 2, 4] - 2 * v[..., 2, 2] + v[..., 2, 0])
    dyy = 0.25 * (v[..., 4, 2] - 2 * v[..., 2, 2] + v[..., 0, 2])
    dxy = 0.25 * (v[..., 3, 3] - v[..., 1, 3] - v[..., 3, 1] + v[..., 1, 1])
    step = _newton_step(dx, dy, dxx, dxy, dyy, inside)
    return to_image(np.stack([x, y], axis=-1) + step, output.shape[2:], crops, "classic"), scores


def _peaks(output: Tensor, crops: Crops) -> tuple[Tensor, Array, Array, Array]:
    """Heatmaps as float32, x, y (-1 without a positive value) and value of their maxima, each (B, K)."""
    if output.ndim != 4 or len(output) != len(crops.center_px):
        raise HmrbenchError(
            f"heatmaps must be (B, K, H, W) for {len(crops.center_px)} crops, not {tuple(output.shape)}"
        )
    heatmaps = output.detach().float()
    flat = heatmaps.flatten(2)
    if flat.device.type == "cpu":  # NumPy finds maxima several times faster than torch
        index = flat.numpy().argmax(-1)
        scores = np.take_along_axis(flat.numpy(), index[..., None], -1)[..., 0]
    else:
        peak, at = flat.max(-1)
        index, scores = at.cpu().numpy(), peak.cpu().numpy()
    if not np.isfinite(scores).all():  # a NaN anywhere in a map becomes its maximum
        row, joint = np.argwhere(~np.isfinite(scores))[0]
        raise HmrbenchError(f"the heatmap of joint {joint} in row {row} of the batch is not finite")
    y, x = np.divmod(index, heatmaps.shape[3])
    return heatmaps, np.where(scores > 0, x, -1), np.where(scores > 0, y, -1), scores


def _pixels(heatmaps: Tensor, rows: Array, columns: Array) -> Array:
    """The pixels (B, K, h, w) at these rows (B, K, h) and columns (B, K, w), float64 on the CPU."""
    index = rows[..., :, None] * heatmaps.shape[3] + columns[..., None, :]
    at, flat = index.reshape(*index.shape[:2], rows.shape[2] * columns.shape[2]), heatmaps.flatten(2)
    if flat.device.type == "cpu":
        values = np.take_along_axis(flat.numpy(), at, -1)
    else:
        values = flat.gather(2, torch.from_numpy(at).to(flat.device)).cpu().numpy()
    pixels: Array = values.reshape(index.shape).astype(np.float64)
    return pixels


def _blurred(heatmaps: Tensor, x: Array, y: Array, reach: int, border: Border) -> Array:
    """The maps after the 11-pixel Gaussian, at the pixels up to `reach` from (x, y).

    Beyond the border stands the pixel on the border. Only what the Gaussian reaches is read.

    Returns:
        (B, K, 2 reach + 1, 2 reach + 1) float64.
    """
    near, window = np.arange(-reach, reach + 1), 2 * (reach + KERNEL // 2) + 1
    weights, read = [], []
    for middle, length in ((y, heatmaps.shape[2]), (x, heatmaps.shape[3])):
        wanted = (middle.clip(0)[..., None] + near).clip(0, length - 1)  # (B, K, 2 reach + 1)
        # Where the window crosses the border it is moved inside; it then holds what the border mirrors.
        first = (middle - window // 2).clip(0, max(length - window, 0))
        within = first[..., None] + np.arange(min(window, length))  # (B, K, h or w)
        weights.append(_blur_matrix(length, border)[wanted[..., :, None], within[..., None, :]])
        read.append(within)
    with np.errstate(invalid="ignore"):  # minus infinity is found out at the end
        blurred: Array = weights[0] @ _pixels(heatmaps, *read) @ weights[1].swapaxes(-1, -2)
    return blurred


@lru_cache(maxsize=16)
def _blur_matrix(length: int, border: Border) -> Array:
    """The 11-pixel Gaussian along one axis as a matrix (length, length) float64.

    `reflect` mirrors about the outermost pixel, OpenCV's default; `zero` sees zeros outside.
    """
    reach = KERNEL // 2
    sigma = 0.3 * (reach - 1) + 0.8
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    source = np.pad(np.arange(length), reach, mode="reflect" if length > 1 else "edge")
    matrix = np.zeros((length, length))
    for row in range(length):
        for tap in range(KERNEL):
            outside = not 0 <= row + tap - reach < length
            if not (outside and border == "zero"):
                matrix[row, source[row + tap]] += taps[tap]
    return matrix


def _newton_step(dx: Array, dy: Array, dxx: Array, dxy: Array, dyy: Array, where: Array) -> Array:
    """The step (B, K, 2) to where a second-order expansion is stationary; 0 if nowhere or outside `where`."""
    determinant = dxx * dyy - dxy**2
    usable = where & (determinant != 0)
    step = np.stack([dxy * dy - dyy * dx, dxy * dx - dxx * dy], axis=-1)
    moved: Array = np.where(usable[..., None], step / np.where(usable, determinant, 1)[..., None], 0)
    return moved


def to_image(position: Array, size: Sequence[int], crops: Crops, geometry: CropGeometry = "classic") -> Array:
    """Positions in a picture of each crop as float64 pixels of the whole image.

    Args:
        position: (B, K, 2) x and y in pixels of that picture: a heatmap, or the network's input.
        size: its height and width.
        crops: the B crops.
        geometry: the codec's; square crops are measured as `classic` ones.

    Raises:
        HmrbenchError: a position is not finite.
    """
    height, width = size
    cells = np.array([width, height], np.float64) - (1.0 if geometry == "udp" else 0.0)
    center = np.asarray(crops.center_px, np.float64)[:, None]  # (B, 1, 2)
    extent = np.asarray(crops.size_px, np.float64)[:, None]
    keypoints: Array = position * (extent / cells) + center - 0.5 * extent
    if not np.isfinite(keypoints).all():
        row, joint = np.argwhere(~np.isfinite(keypoints))[0][:2]
        raise HmrbenchError(f"the keypoint of joint {joint} in row {row} of the batch is not finite")
    return keypoints


# --- encoding


def encode_udp(
    keypoints_px: Array,
    visible: Array,
    input_size: tuple[int, int],
    heatmap_size: tuple[int, int] | None = None,
) -> tuple[Array, Array]:
    """Target heatmaps: a Gaussian of sigma 2 around the exact position, cut off 6 pixels from it.

    Args:
        keypoints_px: (B, K, 2) x and y in pixels of the input picture.
        visible: (B, K) above 0 for labelled keypoints.
        input_size: height and width of the input picture.
        heatmap_size: height and width of the heatmap; a quarter of the input if not given.

    Returns:
        (B, K, H, W) float32 targets, (B, K) float32 weights; both 0 for what is not labelled or out of reach.

    Raises:
        HmrbenchError: a labelled keypoint is not finite.
    """
    return _encode(keypoints_px, visible, input_size, heatmap_size, "udp", snap=False, cut=True)


def encode_plain(
    keypoints_px: Array,
    visible: Array,
    input_size: tuple[int, int],
    heatmap_size: tuple[int, int] | None = None,
) -> tuple[Array, Array]:
    """Target heatmaps around the nearest pixel in classic geometry (mmpose's MSRA); else as `encode_udp`."""
    return _encode(keypoints_px, visible, input_size, heatmap_size, "classic", snap=True, cut=True)


def encode_dark(
    keypoints_px: Array,
    visible: Array,
    input_size: tuple[int, int],
    heatmap_size: tuple[int, int] | None = None,
) -> tuple[Array, Array]:
    """Target heatmaps around the exact position in classic geometry, not cut off; else as `encode_udp`."""
    return _encode(keypoints_px, visible, input_size, heatmap_size, "classic", snap=False, cut=False)


def _encode(
    keypoints_px: Array,
    visible: Array,
    input_size: tuple[int, int],
    heatmap_size: tuple[int, int] | None,
    geometry: CropGeometry,
    *,
    snap: bool,
    cut: bool,
    sigma: float = SIGMA,
) -> tuple[Array, Array]:
    height, width = heatmap_size or (input_size[0] // STRIDE, input_size[1] // STRIDE)
    labelled = np.asarray(visible) > 0
    keypoints = np.where(labelled[..., None], np.asarray(keypoints_px, np.float64), 0.0)  # (B, K, 2)
    if not np.isfinite(keypoints).all():
        row, joint = np.argwhere(~np.isfinite(keypoints))[0][:2]
        raise HmrbenchError(f"the keypoint of joint {joint} in row {row} of the batch is not finite")
    less = 1.0 if geometry == "udp" else 0.0
    stride = (np.array(input_size[::-1]) - less) / (np.array([width, height]) - less)
    exact = keypoints / stride
    nearest = np.trunc(exact + 0.5)
    reach = int(3 * sigma)
    first, last = (nearest if cut else exact) - reach, (nearest if cut else exact) + reach + 1
    reachable = (np.trunc(first) < [width, height]).all(-1) & (np.trunc(last) >= 0).all(-1)
    weight = (labelled & reachable).astype(np.float32)  # (B, K)

    centre = nearest if snap else exact
    axes = []
    for axis, length in enumerate((width, height)):
        pixels = np.arange(length)
        profile = np.exp(-((pixels - centre[..., axis, None]) ** 2) / (2 * sigma**2))  # (B, K, length)
        if cut:
            profile *= np.abs(pixels - nearest[..., axis, None]) <= reach
        axes.append(profile)
    across, down = axes
    target = down[..., :, None] * (across * weight[..., None])[..., None, :]  # (B, K, H, W)
    return target.astype(np.float32), weight


def heatmap_codec(
    name: str,
    geometry: CropGeometry,
    decode: Callable[[Tensor, Crops], tuple[Array, Array]],
    encode: Callable[..., tuple[Array, Array]],
    flip_shift: int = 0,
) -> Codec:
    """A codec of heatmaps; its option `flip_shift` are the cells that a mirror image's maps move to the right."""

    def vary(flip_shift: int = flip_shift) -> Codec:
        return heatmap_codec(name, geometry, decode, encode, flip_shift)

    return Codec(name, geometry, decode, partial(flip_back, shift=flip_shift), encode, vary=vary)


UDP = heatmap_codec("udp", "udp", decode_udp, encode_udp)
PLAIN = heatmap_codec("plain", "classic", decode_plain, encode_plain)
DARK = heatmap_codec("dark", "classic", decode_dark, encode_dark)
