"""Codecs of the networks to compare with: quarter offsets, SimCC, their flips and training targets, officially."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hmrbench.codecs import Crops, find_codec, msra, simcc
from hmrbench.errors import HmrbenchError
from hmrbench.skeletons import COCO17

INPUT = (256, 192)
MSRA = {"hrnet": msra.HRNET, "mmpose0": msra.MMPOSE0, "mmpose1": msra.MMPOSE1}
SIMCC = {
    "simdr": (simcc.SIMDR, simcc.SIMDR_RULE),
    "sa_simdr": (simcc.SA_SIMDR, simcc.SA_SIMDR_RULE),
    "mmpose1": (simcc.SIMCC, simcc.MMPOSE_RULE),
}


def whole_input(count=1, size=INPUT):
    """The crop for which image pixels are input pixels."""
    extent = np.array([size[1], size[0]], float)
    return Crops(np.tile(extent / 2, (count, 1)), np.tile(extent, (count, 1)), size)


def crops_of(ref):
    return Crops(ref["center"], ref["size_px"], INPUT)


# --------------------------------------------------------------------------- heatmaps


@pytest.mark.parametrize("version", MSRA)
def test_heatmaps_decode_as_officially(refs, version):
    ref = np.load(refs / "poses/msra_codec.npz")
    heatmaps = torch.from_numpy(ref["heatmaps"])
    before = heatmaps.clone()
    keypoints, scores = MSRA[version].decode(heatmaps, crops_of(ref))
    assert np.abs(keypoints - ref[f"msra.{version}.image"]).max() < 1e-3
    np.testing.assert_array_equal(scores, ref[f"msra.{version}.scores"])
    assert torch.equal(heatmaps, before)


@pytest.mark.parametrize(
    ("x", "y", "hrnet", "mmpose1"),
    [
        (5, 7, (5.25, 7.25), (5.25, 7.25)),
        (5, 1, (5, 1), (5.25, 1)),  # beside the border
        (5, 0, (5, 0), (5, 0)),  # on it
        (1, 7, (1, 7), (1, 7.25)),
        (46, 62, (46.25, 62.25), (46.25, 62.25)),
        (47, 7, (47, 7), (47, 7.25)),
        (5, 63, (5, 63), (5.25, 63)),
    ],
)
def test_where_the_versions_add_a_quarter(x, y, hrnet, mmpose1):
    heatmaps = torch.zeros(1, 1, 64, 48)
    for dx, dy, value in ((1, 0, 0.5), (0, 1, 0.5), (0, 0, 1.0)):
        heatmaps[0, 0, min(y + dy, 63), min(x + dx, 47)] = value
    for version, expected in (("hrnet", hrnet), ("mmpose0", hrnet), ("mmpose1", mmpose1)):
        keypoints, _ = MSRA[version].decode(heatmaps, whole_input())
        np.testing.assert_allclose(keypoints[0, 0], np.array(expected) * 4)


def test_maps_without_a_positive_value():
    heatmaps = torch.full((1, 1, 64, 48), -0.1)
    assert MSRA["hrnet"].decode(heatmaps, whole_input())[0].tolist() == [[[0, 0]]]
    for version in ("mmpose0", "mmpose1"):
        assert MSRA[version].decode(heatmaps, whole_input())[0].tolist() == [[[-4, -4]]]


def test_hrnet_measures_both_axes_by_the_width():
    heatmaps = torch.zeros(1, 1, 64, 48)
    heatmaps[0, 0, 32, 24] = 1
    crops = Crops(np.array([[100.0, 100.0]]), np.array([[48.0, 640.0]]), INPUT)
    heatmaps[0, 0, 42, 24] = 2
    assert MSRA["hrnet"].decode(heatmaps, crops)[0].tolist() == [[[100, 110]]]
    assert MSRA["mmpose1"].decode(heatmaps, crops)[0].tolist() == [[[100, 200]]]


def test_flipped_heatmaps_move_one_cell_right():
    heatmaps = torch.randn(2, 17, 64, 48)
    plain = find_codec("plain").flip_back(heatmaps, COCO17)
    shifted = msra.HRNET.flip_back(heatmaps, COCO17)
    assert torch.equal(shifted[..., 1:], plain[..., :-1])
    assert torch.equal(shifted[..., 0], plain[..., 0])


def test_target_heatmaps_are_the_official_ones(refs):
    ref = np.load(refs / "poses/msra_codec.npz")
    heatmaps, weights = msra.encode(ref["target.keypoints"], ref["target.visible"], INPUT)
    np.testing.assert_allclose(heatmaps[0], ref["target.heatmaps"], atol=1e-6)
    np.testing.assert_array_equal(weights, ref["target.weights"])


def test_target_heatmaps_grow_with_the_input():
    heatmaps, _ = msra.encode(np.full((1, 1, 2), 144.0), np.ones((1, 1)), (384, 288))
    assert heatmaps.shape == (1, 1, 96, 72)
    assert heatmaps[0, 0, 36, 39] == pytest.approx(math.exp(-0.5))  # one sigma of 3 cells
    assert heatmaps[0, 0, 36, 45] == pytest.approx(math.exp(-4.5))  # the last of the window
    assert heatmaps[0, 0, 36, 46] == 0


# --------------------------------------------------------------------------- SimCC


@pytest.mark.parametrize("flip", [False, True], ids=["single", "flip"])
@pytest.mark.parametrize("version", SIMCC)
def test_simcc_decodes_as_officially(refs, version, flip):
    ref = np.load(refs / "poses/simcc_codec.npz")
    codec, rule = SIMCC[version]
    output = (torch.from_numpy(ref["x"]), torch.from_numpy(ref["y"]))
    if flip:
        mirrored = (torch.from_numpy(ref["x_of_flipped_image"]), torch.from_numpy(ref["y_of_flipped_image"]))
        output = simcc.merge(output, codec.flip_back(mirrored, COCO17), rule)
    keypoints, scores = codec.decode(output, crops_of(ref))
    name = f"{version}.{'flip' if flip else 'single'}"
    assert keypoints.dtype == np.float64
    assert np.abs(keypoints - ref[f"{name}.image"]).max() < 1e-3
    assert np.abs(scores - ref[f"{name}.scores"]).max() < 1e-6


def test_mean_of_outputs_and_mean_of_probabilities_differ():
    a, b = torch.tensor([[[4.0, 0.0, 3.0]]]), torch.tensor([[[0.0, 3.9, 3.0]]])
    x, _ = simcc.merge((a, a), (b, b), simcc.SA_SIMDR_RULE)
    torch.testing.assert_close(x, torch.tensor([[[2.0, 1.95, 3.0]]]))
    x, _ = simcc.merge((a, a), (b, b), simcc.SIMDR_RULE)
    torch.testing.assert_close(x.softmax(-1), (a.softmax(-1) + b.softmax(-1)) / 2)
    assert int(x.argmax()) == 0


@pytest.mark.parametrize(("size", "split"), [((256, 192), 2.0), ((384, 288), 1.5)])
@pytest.mark.parametrize("version", SIMCC)
def test_bins_are_fractions_of_a_pixel(version, size, split):
    x, y = torch.zeros(1, 2, int(size[1] * split)), torch.zeros(1, 2, int(size[0] * split))
    x[0, 0, 30] = y[0, 0, 60] = x[0, 1, -1] = y[0, 1, 0] = 9
    keypoints, _ = SIMCC[version][0].decode((x, y), whole_input(size=size))
    np.testing.assert_allclose(keypoints[0], [[30 / split, 60 / split], [size[1] - 1 / split, 0]])


def test_axis_without_a_positive_value_gives_no_place_in_mmpose():
    x, y = torch.full((1, 1, 384), -1.0), torch.ones(1, 1, 512)
    keypoints, scores = simcc.SIMCC.decode((x, y), whole_input())
    assert keypoints.tolist() == [[[-0.5, -0.5]]]
    assert scores.tolist() == [[-1]]


@pytest.mark.parametrize("version", SIMCC)
def test_bad_simcc_outputs_are_refused(version):
    codec, _ = SIMCC[version]
    x, y = torch.zeros(2, 17, 384), torch.zeros(2, 17, 512)
    broken = y.clone()
    broken[1, 4, 3] = float("nan")
    with pytest.raises(HmrbenchError, match="the y of joint 4 in row 1"):
        codec.decode((x, broken), whole_input(2))
    with pytest.raises(HmrbenchError, match="2 outputs for 3 crops"):
        codec.decode((x, y), whole_input(3))
    with pytest.raises(HmrbenchError, match="two of"):
        codec.decode((x[:, :3], y), whole_input(2))
    with pytest.raises(HmrbenchError, match="17 joints of"):
        codec.flip_back((x[:, :3], y[:, :3]), COCO17)


@pytest.mark.parametrize("version", SIMCC)
def test_half_precision_is_read_in_single(version):
    torch.manual_seed(0)
    output = torch.randn(1, 17, 384).bfloat16(), torch.randn(1, 17, 512).bfloat16()
    codec, _ = SIMCC[version]
    wide = codec.decode((output[0].float(), output[1].float()), whole_input())
    for a, b in zip(codec.decode(output, whole_input()), wide, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "encode"),
    [
        ("simcc_mmpose", simcc.SIMCC.encode),
        ("rtmpose", simcc.RTMPOSE.encode),
        ("sa_simdr", simcc.SA_SIMDR.encode),
    ],
)
def test_simcc_targets_are_the_official_ones(refs, name, encode):
    ref = np.load(refs / "poses/msra_codec.npz")
    (x, y), weights = encode(ref["target.keypoints"], ref["target.visible"], INPUT)
    assert x.dtype == y.dtype == weights.dtype == np.float32
    np.testing.assert_allclose(x[0], ref[f"target.{name}.x.full"].reshape(17, 384), atol=1e-6)
    np.testing.assert_allclose(y[0], ref[f"target.{name}.y.full"].reshape(17, 512), atol=1e-6)
    np.testing.assert_array_equal(weights[0], ref[f"target.{name}.weights"].reshape(17))


@pytest.mark.parametrize("encode", [msra.encode, simcc.encode, simcc.encode_sa_simdr])
def test_targets_need_finite_keypoints_where_labelled(encode):
    keypoints = np.full((1, 2, 2), 50.0)
    keypoints[0, 1] = np.nan
    assert encode(keypoints, np.array([[1, 0]]), INPUT)[1].tolist() == [[1, 0]]
    with pytest.raises(HmrbenchError, match="joint 1 in row 0"):
        encode(keypoints, np.ones((1, 2)), INPUT)
