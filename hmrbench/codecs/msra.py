"""Heatmaps as HRNet and SimpleBaseline read them: the maximum and a quarter of a cell, in three official versions.

Papers: Xiao et al., "Simple Baselines for Human Pose Estimation and Tracking", ECCV 2018; Sun et al., "Deep
High-Resolution Representation Learning for Human Pose Estimation", CVPR 2019.
Behaviour as in leoxiaobin/deep-high-resolution-net.pytorch (MIT), by which HRNet's numbers were published, and in
open-mmlab/mmpose 0.x and 1.x (Apache-2.0). The 0.x version is `plain`'s decoding, with the flip shift of this file.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from hmrbench.codecs.codec import Crops
from hmrbench.codecs.heatmap import _encode, _peaks, _pixels, decode_plain, heatmap_codec, to_image
from hmrbench.records import Array

FLIP_SHIFT = 1  # cells: a mirrored picture's cell stands three quarters of one too far left


def decode_hrnet(output: Tensor, crops: Crops) -> tuple[Array, Array]:
    """Keypoints and scores as HRNet's own code; see `hmrbench.codecs.heatmap.decode_udp`.

    A quarter of a cell towards the higher neighbour where the maximum is inside on both axes. A map without a positive
    value gives the corner (0, 0), and both axes are measured by the width of the crop.
    """
    heatmaps, x, y, scores = _peaks(output, crops)
    height, width = heatmaps.shape[2:]
    x, y = x.clip(0), y.clip(0)  # without a positive value at (0, 0), where no quarter is added
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    position = np.stack([x, y], axis=-1) + _quarter(heatmaps, x, y) * inside[..., None]
    size_px = np.asarray(crops.size_px, np.float64)[:, :1] * [1.0, height / width]
    square = Crops(crops.center_px, size_px, crops.input_size)
    return to_image(position, (height, width), square), scores


def decode_mmpose1(output: Tensor, crops: Crops) -> tuple[Array, Array]:
    """Keypoints and scores as mmpose 1.x: each axis moves where the maximum is inside on this one, not on the border
    of the other; see `hmrbench.codecs.heatmap.decode_udp`."""
    heatmaps, x, y, scores = _peaks(output, crops)
    height, width = heatmaps.shape[2:]
    moves_x = (x > 1) & (x < width - 1) & (y > 0) & (y < height)
    moves_y = (y > 1) & (y < height - 1) & (x > 0) & (x < width)
    position = np.stack([x, y], axis=-1) + _quarter(heatmaps, x, y) * np.stack([moves_x, moves_y], axis=-1)
    return to_image(position, (height, width), crops), scores


def _quarter(heatmaps: Tensor, x: Array, y: Array) -> Array:
    """A quarter towards the higher of the two neighbours on each axis (B, K, 2), 0 where they are equal."""
    height, width = heatmaps.shape[2:]
    near = np.arange(-1, 2)
    v = _pixels(heatmaps, (y[..., None] + near).clip(0, height - 1), (x[..., None] + near).clip(0, width - 1))
    slope = np.stack([v[..., 1, 2] - v[..., 1, 0], v[..., 2, 1] - v[..., 0, 1]], axis=-1)
    quarter: Array = 0.25 * np.sign(slope)
    return quarter


def encode(keypoints_px: Array, visible: Array, input_size: tuple[int, int]) -> tuple[Array, Array]:
    """Target heatmaps around the nearest cell; see `hmrbench.codecs.heatmap.encode_plain`.

    As published the Gaussian grows with the input: sigma 2 cells at a height of 256 pixels, 3 at 384.
    """
    sigma = input_size[0] / 128
    return _encode(keypoints_px, visible, input_size, None, "classic", snap=True, cut=True, sigma=sigma)


HRNET = heatmap_codec("msra-hrnet", "classic", decode_hrnet, encode, FLIP_SHIFT)
MMPOSE0 = heatmap_codec("msra-mmpose0", "classic", decode_plain, encode, FLIP_SHIFT)
MMPOSE1 = heatmap_codec("msra-mmpose1", "classic", decode_mmpose1, encode, FLIP_SHIFT)
