"""Heatmap codecs against mmpose's own numbers and against the slow versions."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch

from hmrbench.codecs import Codec, Crops, find_codec
from hmrbench.errors import HmrbenchError, UsageError
from hmrbench.skeletons import COCO17

NAMES = ("udp", "plain", "dark")
INPUT = (256, 192)
DEVICES = [
    "cpu",
    *(["cuda"] if torch.cuda.is_available() else []),
    *(["mps"] if torch.mps.is_available() else []),
]


def crops_for(count: int, seed: int = 0) -> Crops:
    rng = np.random.default_rng(seed)
    height = rng.uniform(80, 500, count)
    return Crops(rng.uniform(50, 600, (count, 2)), np.stack([height * 0.75, height], axis=1), INPUT)


def whole_input(count: int, name: str) -> Crops:
    """The crop for which image pixels are input pixels."""
    size = np.array([192.0, 256.0]) - (find_codec(name).geometry == "udp")
    return Crops(np.tile(size / 2, (count, 1)), np.tile(size, (count, 1)), INPUT)


def hard_heatmaps(shape: tuple[int, int], dtype: type = np.float32) -> np.ndarray:
    """Peaks inside, on and beside every border; noise, spikes, flat maps, maps without a positive value."""
    rng = np.random.default_rng(1)
    height, width = shape
    v, u = np.mgrid[:height, :width]
    maps = []
    for x in (0, 0.6, 1, 1.4, 2, 3.3, width / 2, width - 3.2, width - 2, width - 1.4, width - 1):
        for y in (0, 1.2, 2, height / 2 + 0.3, height - 2.6, height - 1):
            maps.append(np.exp(-((u - x) ** 2 + (v - y) ** 2) / 8) + 0.003 * rng.standard_normal(shape))
    for _ in range(20):
        maps.append(rng.standard_normal(shape))  # all signs beside the maximum
        maps.append(rng.uniform(0, 0.01, shape))
        maps.append(60 * rng.uniform(0, 1, shape))  # above the ceiling of the logarithm
    spike = np.full(shape, -0.02)
    spike[height // 2, width // 2] = 1  # blurred, it is negative a few pixels away
    two = np.zeros(shape)
    two[3, 3] = two[height - 4, width - 4] = 0.7  # the first of equal maxima counts
    maps += [spike, two, np.zeros(shape), np.full(shape, -0.5), np.full(shape, 0.3)]
    return np.array(maps, dtype)[None]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_decode_equals_official_numbers(refs, name, device):
    ref = np.load(refs / "codec.npz")
    heatmaps = torch.from_numpy(ref["heatmaps"]).to(device)
    before = heatmaps.clone()
    keypoints, scores = find_codec(name).decode(heatmaps, Crops(ref["center"], ref["scale"] * 200, INPUT))
    assert keypoints.dtype == np.float64
    assert np.abs(keypoints - ref[f"{name}.keypoints"]).max() < 1e-4  # pixels of the image
    np.testing.assert_array_equal(scores, ref[f"{name}.scores"][..., 0])
    assert torch.equal(heatmaps, before)


@pytest.mark.parametrize("shape", [(64, 48), (96, 72), (9, 7)], ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NAMES)
def test_decode_equals_slow_version(name, shape, device):
    heatmaps = hard_heatmaps(shape)
    crops = crops_for(1)
    keypoints, scores = find_codec(name).decode(torch.from_numpy(heatmaps).to(device), crops)
    # In float64, since noise makes the curvature, by which the step is divided, arbitrarily small.
    want, want_scores = reference.decode_heatmaps(heatmaps, crops.center_px, crops.size_px, name, np.float64)
    np.testing.assert_allclose(keypoints, want, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(scores, want_scores)


@pytest.mark.parametrize("name", NAMES)
def test_decode_of_targets_equals_float32_version(name):
    rng = np.random.default_rng(2)
    points = rng.uniform([-10, -10], [200, 265], (8, 17, 2))
    heatmaps, _ = find_codec(name).encode(points, np.ones((8, 17)), INPUT)
    crops = crops_for(8)
    keypoints, _ = find_codec(name).decode(torch.from_numpy(heatmaps), crops)
    want, _ = reference.decode_heatmaps(heatmaps, crops.center_px, crops.size_px, name)
    assert np.abs(keypoints - want).max() < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_decode_ignores_batching_strides_and_precision(name):
    heatmaps = torch.from_numpy(hard_heatmaps((64, 48))[0, :34].reshape(2, 17, 64, 48)).bfloat16()
    crops = crops_for(2)
    together, scores = find_codec(name).decode(heatmaps, crops)
    wide = heatmaps.float().to(memory_format=torch.channels_last)
    np.testing.assert_allclose(find_codec(name).decode(wide, crops)[0], together, rtol=1e-12)
    for row in range(2):
        one = Crops(crops.center_px[row : row + 1], crops.size_px[row : row + 1], INPUT)
        keypoints, score = find_codec(name).decode(heatmaps[row : row + 1], one)
        np.testing.assert_allclose(keypoints[0], together[row], rtol=1e-12)
        np.testing.assert_array_equal(score[0], scores[row])
    keypoints, scores = find_codec(name).decode(heatmaps[:0], crops_for(0))
    assert keypoints.shape == (0, 17, 2)
    assert scores.shape == (0, 17)


@pytest.mark.parametrize("name", NAMES)
def test_maps_without_a_positive_value_decode_to_minus_one(name):
    heatmaps = torch.full((1, 2, 64, 48), -0.1)
    heatmaps[0, 1] = 0
    keypoints, scores = find_codec(name).decode(heatmaps, whole_input(1, name))
    stride = np.array([191 / 47, 255 / 63]) if name == "udp" else 4.0
    np.testing.assert_allclose(keypoints[0], -np.ones((2, 2)) * stride)
    np.testing.assert_allclose(scores[0], [-0.1, 0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", NAMES)
def test_values_that_are_not_finite_raise(name, value):
    heatmaps = torch.rand(4, 17, 64, 48)
    heatmaps[2, 5, 60, 1] = value
    with pytest.raises(HmrbenchError, match="joint 5 in row 2"):
        find_codec(name).decode(heatmaps, crops_for(4))
    heatmaps[2, 5] = float("-inf")
    heatmaps[2, 5, 30, 30] = 1
    if name != "plain":  # which never looks further than one pixel
        with pytest.raises(HmrbenchError, match="joint 5 in row 2"):
            find_codec(name).decode(heatmaps, crops_for(4))


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_do_not_fit_raise(name):
    with pytest.raises(HmrbenchError, match="3 crops"):
        find_codec(name).decode(torch.rand(2, 17, 64, 48), crops_for(3))
    with pytest.raises(HmrbenchError, match=r"\(2, 17, 2\)"):
        find_codec(name).decode(torch.rand(2, 17, 2), crops_for(2))
    with pytest.raises(HmrbenchError, match="17 joints"):
        find_codec(name).flip_back(torch.rand(2, 16, 64, 48), COCO17)


def test_flip_back_swaps_pairs_and_mirrors():
    heatmaps = torch.rand(2, 17, 5, 4)
    flipped = find_codec("udp").flip_back(heatmaps, COCO17)
    mirror = {left: right for pair in COCO17.flip_pairs for left, right in (pair, pair[::-1])}
    for joint in range(17):
        for column in range(4):
            want = heatmaps[:, mirror.get(joint, joint), :, 3 - column]
            assert torch.equal(flipped[:, joint, :, column], want)
    assert torch.equal(find_codec("udp").flip_back(flipped, COCO17), heatmaps)


@pytest.mark.parametrize("name", NAMES)
def test_encode_equals_slow_version(name):
    rng = np.random.default_rng(3)
    points = np.concatenate([rng.uniform([-60, -60], [250, 320], (60, 2)), [[0, 0], [191, 255], [-26, 9], [-30, 9]]])
    targets, weights = find_codec(name).encode(points[None], np.ones((1, len(points))), INPUT)
    assert targets.dtype == weights.dtype == np.float32
    for (x, y), target, weight in zip(points, targets[0], weights[0], strict=True):
        want, want_weight = reference.encode_heatmap(x, y, INPUT, (64, 48), name)
        assert weight == want_weight
        np.testing.assert_allclose(target, want, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_encode_leaves_out_what_is_not_labelled(name):
    points = np.full((1, 3, 2), 90.0)
    points[0, 1] = np.nan
    points.setflags(write=False)
    targets, weights = find_codec(name).encode(points, np.array([[2, 0, 0]]), INPUT)
    assert weights.tolist() == [[1, 0, 0]]
    assert targets[0, 0].max() > 0.9
    assert not targets[0, 1:].any()
    with pytest.raises(HmrbenchError, match="joint 1 in row 0"):
        find_codec(name).encode(points, np.ones((1, 3)), INPUT)


@pytest.mark.parametrize(
    ("name", "margin", "tolerance"),
    [("udp", 5, 0.01), ("udp", 6, 1e-4), ("dark", 5, 0.01), ("dark", 6, 1e-3), ("plain", 0, 0.76)],
)
def test_encode_then_decode(name, margin, tolerance):
    """In heatmap pixels. Closer to a border than the kernel's reach, the official decoding itself is off."""
    rng = np.random.default_rng(4)
    points = rng.uniform(margin, np.array([47, 63]) - margin, (40, 17, 2))  # heatmap pixels
    stride = np.array([191 / 47, 255 / 63]) if name == "udp" else np.array([4.0, 4.0])
    heatmaps, weights = find_codec(name).encode(points * stride, np.ones((40, 17)), INPUT)
    keypoints, scores = find_codec(name).decode(torch.from_numpy(heatmaps), whole_input(40, name))
    assert weights.all()
    assert np.abs(keypoints / stride - points).max() < tolerance
    assert scores.min() > 0.9 if name != "plain" else (scores == 1).all()


def test_find_codec(tmp_path, monkeypatch):
    assert find_codec("udp") is find_codec("udp")
    with pytest.raises(UsageError, match="did you mean udp"):
        find_codec("upd")
    (tmp_path / "elsewhere.py").write_text(
        "import numpy as np\n"
        "from hmrbench.codecs import Codec\n"
        "def decode(output, crops):\n"
        "    xy = output[..., :2].double().numpy() * crops.size_px[:, None]\n"
        "    return xy + (crops.center_px - crops.size_px / 2)[:, None], output[..., 2].numpy()\n"
        "def flip_back(output, skeleton):\n"
        "    mirrored = output[:, skeleton.flip_order].clone()\n"
        "    mirrored[..., 0] = 1 - mirrored[..., 0]\n"
        "    return mirrored\n"
        "def encode(keypoints_px, visible, input_size):\n"
        "    return keypoints_px / np.array(input_size[::-1]), visible\n"
        "CODEC = Codec('coordinates', 'classic', decode, flip_back, encode)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    codec = find_codec("elsewhere:CODEC")
    assert isinstance(codec, Codec)
    keypoints, scores = codec.decode(torch.full((1, 17, 3), 0.5), crops_for(1))
    np.testing.assert_allclose(keypoints, np.broadcast_to(crops_for(1).center_px[:, None], (1, 17, 2)))
    assert scores.shape == (1, 17)
    for wrong in ("elsewhere:decode", "elsewhere:NOTHING", "nowhere_at_all:CODEC"):
        with pytest.raises(UsageError, match=wrong):
            find_codec(wrong)
