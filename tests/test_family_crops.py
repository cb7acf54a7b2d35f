"""The crops of METRO, SPIN, CLIFF and SMPLer-X, against the official ones where these were run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import refio
from drawn import OPENCV_5

from hmrbench.data import family_crops as crops
from hmrbench.errors import DataError

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
METRO = [((240, 320), (150.3, 121.7), 0.93), ((240, 320), (20, 30), 1.1), ((480, 270), (140.6, 260.2), 2.35)]
CLIFF = [((240, 320), (100, 40, 190, 190)), ((240, 320), (-10, 5, 110, 65)), ((480, 270), (30, 100, 230, 450))]
SMPLERX = [((240, 320), (100, 40, 90, 150)), ((240, 320), (-10, 5, 120, 60)), ((480, 270), (30, 100, 200, 350))]


@pytest.fixture(scope="module")
def official(refs: Path) -> dict[str, Any]:
    with np.load(refs / "meshes" / "hmr_family_crops.npz") as file:
        return dict(file)


def picture(height: int, width: int) -> Any:
    y, x, c = np.indices((height, width, 3))
    image = ((7 * x + 13 * y + 29 * c + x * y) % 256).astype(np.uint8)
    image.setflags(write=False)
    return image


def error(official: dict[str, Any], name: str, array: Any) -> float:
    """In the reference's own units."""
    return refio.error(official, name, np.asarray(array)) * float(official[f"{name}.stats"][1])


@pytest.mark.parametrize("case", range(3))
def test_metro(official: dict[str, Any], case: int) -> None:
    size, center, scale = METRO[case]
    found = crops.metro_crop(picture(*size), np.array(center), scale)
    assert error(official, f"metro.case{case}.ul_br", crops.square_corners(np.array(center), scale)) == 0
    assert error(official, f"metro.case{case}.crop", found.transpose(2, 0, 1)) < 1e-6
    assert error(official, f"metro.case{case}.normalized", ((found - MEAN) / STD).transpose(2, 0, 1)) < 2e-6


@pytest.mark.parametrize("case", range(3))
def test_cliff(official: dict[str, Any], case: int) -> None:
    size, box = CLIFF[case]
    found = crops.cliff_crop(picture(*size), np.array(box))
    center, scale = crops.cliff_center_scale(np.array(box))
    numbers = crops.cliff_box_numbers(np.array(box), np.array(size[::-1]))
    assert error(official, f"cliff.case{case}.center_scale", np.array([*center, scale])) < 1e-6
    assert error(official, f"cliff.case{case}.ul_br", crops.cliff_corners(np.array(box))) == 0
    assert error(official, f"cliff.case{case}.bbox_info", numbers) < 1e-5
    assert error(official, f"cliff.case{case}.norm_img", ((found - MEAN) / STD).transpose(2, 0, 1)) < 2e-6


@pytest.mark.parametrize("case", range(3))
def test_smplerx(official: dict[str, Any], case: int) -> None:
    size, box = SMPLERX[case]
    found = crops.smplerx_crop(picture(*size), np.array(box))
    padded = crops.smplerx_box(np.array(box), size[::-1])
    matrix = crops.smplerx_matrix(padded)
    assert error(official, f"smplerx.case{case}.bbox", padded) < 1e-6
    assert error(official, f"smplerx.case{case}.trans", matrix) < 1e-5
    assert error(official, f"smplerx.case{case}.inv_trans", cv2.invertAffineTransform(matrix)) < 1e-4
    assert error(official, f"smplerx.case{case}.img", found.transpose(2, 0, 1)) < (1e-6 if OPENCV_5 else 0.03)


def test_spin_cuts_metros_square_smooths_it_and_stretches_its_contrast() -> None:
    """Never run officially: what is known of the old SciPy function, on pictures where it can be told by hand."""
    halves = np.full((200, 200, 3), 100, np.uint8)
    halves[:, 100:] = 150
    found = crops.spin_crop(halves, np.array([100, 100]), 1.0)
    assert found.shape == (224, 224, 3)
    assert np.unique(found[:, :100]).tolist() == [0.0]  # 100, the darkest
    assert np.unique(found[:, 124:]).tolist() == [1.0]  # 150, the brightest
    beyond = crops.spin_crop(halves, np.array([100, 100]), 2.0)  # black around the image is the darkest now
    assert beyond[112, 70, 0] == pytest.approx(170 / 255)
    assert not crops.spin_crop(halves[:, :100], np.array([50, 100]), 0.4).any()  # of one colour
    stripes = np.zeros((896, 896, 3), np.uint8)
    stripes[:, ::2] = 255
    smoothed = crops.spin_crop(stripes, np.array([448, 448]), 4.48)
    assert np.ptp(smoothed[:, 8:-8]) < 0.02  # METRO, without smoothing, sees stripes or one colour
    assert smoothed.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("center", [(-500, 50), (50, 5000), (-101, -101)])
def test_a_square_beside_the_image_is_black(center: tuple[int, int]) -> None:
    assert not crops.metro_crop(picture(60, 80), np.array(center), 1.0).any()


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_other_pictures_are_refused(dtype: Any) -> None:
    image = picture(60, 80).astype(dtype)
    for cut in (
        lambda: crops.metro_crop(image, np.array([30, 30]), 0.2),
        lambda: crops.spin_crop(image, np.array([30, 30]), 0.2),
        lambda: crops.cliff_crop(image, np.array([10, 10, 40, 50])),
        lambda: crops.smplerx_crop(image, np.array([10, 10, 40, 50])),
    ):
        with pytest.raises(DataError, match=r"must be \(height, width, 3\) uint8"):
            cut()


@pytest.mark.parametrize(
    ("center", "scale", "message"),
    [
        ((30, 30), 0.0, "not finite, empty or too large"),
        ((30, 30), -1.0, "not finite, empty or too large"),
        ((30, 30), 1e6, "not finite, empty or too large"),
        ((np.nan, 30), 1.0, "not finite, empty or too large"),
        ((30, 30), np.inf, "not finite, empty or too large"),
        ((30.4, 30.4), 0.001, "smaller than a pixel"),
    ],
)
def test_squares_that_cannot_be_cut_are_refused(center: tuple[float, float], scale: float, message: str) -> None:
    for cut in (crops.metro_crop, crops.spin_crop):
        with pytest.raises(DataError, match=message):
            cut(picture(60, 80), np.array(center), scale)


@pytest.mark.parametrize("box", [(10, 10, 10, 50), (40, 10, 20, 50), (np.nan, 1, 2, 3), (1, 2, 3)])
def test_boxes_without_extent_are_refused_by_cliff(box: tuple[float, ...]) -> None:
    for use in (crops.cliff_center_scale, lambda b: crops.cliff_box_numbers(b, np.array([80, 60]))):
        with pytest.raises(DataError, match="not finite or has no extent"):
            use(np.array(box))


@pytest.mark.parametrize(
    "box", [(90, 10, 20, 20), (-30, 10, 1, 20), (10, 10, 0, 20), (10, np.inf, 5, 5), (np.nan, 1, 2, 3), (1, 2, 3)]
)
def test_boxes_outside_the_image_are_refused_by_smplerx(box: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="has no part in an image"):
        crops.smplerx_box(np.array(box), (80, 60))


def test_inputs_stay_as_they_are() -> None:
    image, box = picture(60, 80), np.array([10.0, 5.0, 40.0, 50.0])
    box.setflags(write=False)
    crops.smplerx_crop(image, box)
    crops.cliff_crop(image, box)
    crops.cliff_box_numbers(box, np.array([80, 60]))
    crops.metro_crop(image, box[:2], 0.3)
    assert np.array_equal(image, picture(60, 80))
