"""Crops against mmpose's and 4D-Humans' own numbers, and against a slow bilinear version."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import reference
import torch
from drawn import OPENCV_5

from hmrbench.codecs import Crops, find_codec
from hmrbench.data.crop import (
    crop_matrix,
    crop_people,
    crop_to_image,
    crops_of,
    expand_boxes,
    image_to_crop,
    square_boxes,
    warp,
)
from hmrbench.errors import DataError
from hmrbench.records import Sample
from hmrbench.schema import Crop

GEOMETRIES = ("udp", "classic", "square")
GREY_LEVELS = 0 if OPENCV_5 else 4


def picture(height: int, width: int) -> np.ndarray:
    """A smooth picture, on which a mistake of half a pixel is many grey levels."""
    v, u = np.mgrid[:height, :width]
    waves = [np.sin(u / 9) * np.cos(v / 13), np.sin((u + v) / 15), np.cos(u / 11) * np.sin(v / 7)]
    image = np.round(127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)
    image.setflags(write=False)
    return image


def photograph(folder: Path, ann_id: int) -> tuple[np.ndarray, dict]:
    truth = json.loads((folder / "annotations" / "person_keypoints_val2017.json").read_text())
    annotation = next(a for a in truth["annotations"] if a["id"] == ann_id)
    image = cv2.imread(str(folder / "val2017" / f"{annotation['image_id']:012d}.jpg"))
    return np.ascontiguousarray(image[:, :, ::-1]), annotation


@pytest.mark.parametrize("person", range(4))
def test_udp_crop_of_photograph_equals_official(refs, coco_mini, person):
    ref = np.load(refs / "codec.npz")
    key = f"crop{person}"
    image, annotation = photograph(coco_mini, int(ref[f"{key}.ann_id"]))
    center, size = expand_boxes(np.array([annotation["bbox"]]), 192 / 256, 1.25)
    np.testing.assert_array_equal(center[0], ref[f"{key}.center"])
    np.testing.assert_array_equal(size[0], ref[f"{key}.scale"] * np.float32(200))
    np.testing.assert_array_equal(crop_matrix(center[0], size[0], (256, 192), "udp"), ref[f"{key}.matrix"])
    pictures = crop_people(image, center, size, (256, 192), "udp")
    assert pictures.dtype == np.uint8
    difference = pictures.reshape(-1)[ref[f"{key}.index"]] - ref[f"{key}.value"]
    assert np.abs(difference).max() <= GREY_LEVELS
    assert abs(pictures.mean() - ref[f"{key}.mean"]) < 1e-4 + 0.01 * GREY_LEVELS


@pytest.mark.parametrize("person", range(4))
def test_square_crop_of_photograph_equals_official(refs, coco_mini, person):
    ref = np.load(refs / "hmr_crop.npz")
    key = f"crop{person}"
    image, annotation = photograph(coco_mini, int(ref[f"{key}.ann_id"]))
    center, size = square_boxes(np.array([annotation["bbox"]]), 1.1)
    np.testing.assert_array_equal(center[0], ref[f"{key}.center"])
    np.testing.assert_allclose(size[0], ref[f"{key}.box_size"], rtol=1e-14)
    matrix = crop_matrix(center[0], size[0], (256, 256), "square")
    np.testing.assert_array_equal(matrix, ref[f"{key}.matrix"])
    pictures = crop_people(image, center, size, (256, 256), "square")
    difference = pictures.reshape(-1)[ref[f"{key}.index"]] - ref[f"{key}.value"]
    assert np.abs(difference).max() <= GREY_LEVELS
    assert abs(pictures.mean() - ref[f"{key}.mean"]) < 1e-4 + 0.01 * GREY_LEVELS
    keypoints = image_to_crop(np.array(annotation["keypoints"]).reshape(17, 3)[:, :2], matrix)
    np.testing.assert_allclose(keypoints / 256 - 0.5, ref[f"{key}.keypoints_normalised"], atol=1e-12)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    "box",
    [(40, 30, 60, 90), (-30, -20, 90, 70), (100, 60, 200, 160), (70, 50, 9.5, 21.25), (5, 5, 150, 110)],
    ids=str,
)
def test_crop_equals_slow_bilinear(geometry, box):
    """Boxes inside, across each border, much enlarged, and of the whole picture."""
    image, size = picture(120, 160), (64, 64) if geometry == "square" else (64, 48)
    boxes = np.array([box], float)
    center, extent = square_boxes(boxes) if geometry == "square" else expand_boxes(boxes, 0.75)
    matrix = crop_matrix(center[0], extent[0], size, geometry)
    got = warp(image, matrix, size)
    want = reference.warp(image, matrix, size)
    assert got.shape == (*size, 3)
    assert np.abs(got - want).max() <= 0.75 + (GREY_LEVELS and 3)
    assert np.abs(got - want).mean() < 0.5


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_matrix_sends_the_corners_of_the_crop_to_the_corners_of_the_input(geometry):
    rng = np.random.default_rng(0)
    input_size = (256, 256) if geometry == "square" else (256, 192)
    for _ in range(20):
        boxes = np.concatenate([rng.uniform(-50, 500, 2), rng.uniform(20, 400, 2)])[None]
        center, size = square_boxes(boxes, 1.2) if geometry == "square" else expand_boxes(boxes, 0.75)
        matrix = crop_matrix(center[0], size[0], input_size, geometry)
        corners = center[0] + np.array([[-0.5, -0.5], [0.5, 0.5]]) * size[0]
        last = np.array(input_size[::-1]) - (geometry == "udp")
        np.testing.assert_allclose(image_to_crop(corners, matrix), [[0, 0], last], atol=5e-3)


def test_expand_boxes_box_by_box():
    rng = np.random.default_rng(1)
    boxes = np.concatenate([rng.uniform(-50, 500, (50, 2)), rng.uniform(1, 400, (50, 2))], axis=1)
    boxes[0, 2:] = 30, 40  # already of the aspect
    boxes[1, 2] = 0  # a line
    boxes.setflags(write=False)
    center, size = expand_boxes(boxes, 0.75, 1.25)
    for (x, y, w, h), c, s in zip(boxes, center, size, strict=True):
        np.testing.assert_allclose(c, [x + w / 2, y + h / 2], rtol=1e-6)
        w, h = (w, w / 0.75) if w > 0.75 * h else (h * 0.75, h)
        np.testing.assert_allclose(s, [w * 1.25, h * 1.25], rtol=1e-6)
    np.testing.assert_allclose(size[:, 0] / size[:, 1], 0.75, rtol=1e-6)


def test_square_boxes_take_the_longer_side_after_192_to_256():
    center, size = square_boxes(np.array([[0, 0, 30, 80.0], [10, 20, 90, 80], [0, 0, 60, 80]]), 1.0)
    np.testing.assert_allclose(size, [[80, 80], [120, 120], [80, 80]])
    np.testing.assert_allclose(center, [[15, 40], [55, 60], [30, 40]])


@pytest.mark.parametrize(("kind", "shape"), [("topdown", (256, 192)), ("square", (256, 256))])
def test_crops_of_samples_pads_each_box_once(kind, shape):
    box = (10.0, 20.0, 60.0, 80.0)
    samples = [Sample(str(n), Path("x.jpg"), 1, box, padded=n == 1) for n in range(3)]
    crops = crops_of(samples, Crop(kind=kind, padding=1.5), shape)
    width = 80 if kind == "square" else 60
    np.testing.assert_allclose(crops.size_px, [[width * 1.5, 120], [width, 80], [width * 1.5, 120]], rtol=1e-6)
    np.testing.assert_allclose(crops.center_px, [[40, 60]] * 3)
    assert crops.input_size == shape
    assert crops_of([], Crop(kind=kind), shape).size_px.shape == (0, 2)
    bad = [*samples, Sample("lonely", Path("x.jpg"), 1, (0.0, 0.0, 0.0, 0.0))]
    with pytest.raises(DataError, match="lonely"):
        crops_of(bad, Crop(kind=kind), shape)


@pytest.mark.parametrize("box", [(0, 0, 0, 0), (0, 0, 5, -1), (np.nan, 0, 5, 5), (0, 0, np.inf, 5)], ids=str)
def test_boxes_without_extent_raise(box):
    boxes = np.array([(1, 1, 5, 5), box], float)
    for expand in (lambda: expand_boxes(boxes, 0.75), lambda: square_boxes(boxes)):
        with pytest.raises(DataError, match="box 1"):
            expand()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_keypoints_there_and_back(geometry):
    rng = np.random.default_rng(2)
    center, size = rng.uniform(50, 400, (5, 2)), rng.uniform(60, 300, (5, 2))
    matrices = np.stack([crop_matrix(c, s, (256, 192), geometry) for c, s in zip(center, size, strict=True)])
    keypoints = rng.uniform(0, 500, (5, 17, 2))
    keypoints.setflags(write=False)
    there = image_to_crop(keypoints, matrices)
    want = np.einsum("bij,bkj->bki", matrices.astype(float), np.concatenate([keypoints, np.ones((5, 17, 1))], -1))
    np.testing.assert_allclose(there, want)
    np.testing.assert_allclose(crop_to_image(there, matrices), keypoints, atol=1e-8)


@pytest.mark.parametrize("name", ["udp", "dark"])
def test_keypoints_survive_crop_encode_and_decode(name):
    """The codec undoes the geometry that it is built for, to far less than half a pixel of the image."""
    rng = np.random.default_rng(3)
    boxes = np.concatenate([rng.uniform(0, 300, (6, 2)), rng.uniform(60, 300, (6, 2))], axis=1)
    center, size = expand_boxes(boxes, 0.75)
    keypoints = center[:, None] + rng.uniform(-0.38, 0.38, (6, 17, 2)) * size[:, None]
    codec = find_codec(name)
    matrices = [crop_matrix(c, s, (256, 192), codec.geometry) for c, s in zip(center, size, strict=True)]
    heatmaps, weights = codec.encode(image_to_crop(keypoints, np.stack(matrices)), np.ones((6, 17)), (256, 192))
    decoded, _ = codec.decode(torch.from_numpy(heatmaps), Crops(center, size, (256, 192)))
    assert weights.all()
    assert np.abs(decoded - keypoints).max() < 0.05


def test_crop_people_crops_each_and_none():
    image = picture(120, 160)
    center, size = expand_boxes(np.array([(40, 30, 60, 90), (-30, -20, 90, 70.0)]), 0.75)
    pictures = crop_people(image, center, size, (64, 48), "udp")
    for n in range(2):
        matrix = crop_matrix(center[n], size[n], (64, 48), "udp")
        np.testing.assert_array_equal(pictures[n], warp(image, matrix, (64, 48)))
    assert crop_people(image, center[:0], size[:0], (64, 48), "udp").shape == (0, 64, 48, 3)


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 4), (0, 30, 3)], ids=str)
def test_what_is_no_rgb_image_raises(shape):
    with pytest.raises(DataError, match="uint8"):
        warp(np.zeros(shape, np.uint8), np.eye(2, 3), (8, 8))
    with pytest.raises(DataError, match="float64"):
        warp(np.zeros((20, 30, 3)), np.eye(2, 3), (8, 8))
