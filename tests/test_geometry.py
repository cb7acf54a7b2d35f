"""Rotations, cameras and alignment against the official numbers, and planted answers recovered."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from scipy.spatial.transform import Rotation

from hmrbench import geometry


@pytest.fixture(scope="module")
def official(refs):
    return np.load(refs / "metrics.npz")


def rotations(seed, count):
    return torch.from_numpy(Rotation.random(count, random_state=seed).as_matrix())


def test_rot6d_is_two_columns_one_after_the_other(official):
    matrix = geometry.rot6d_to_matrix(torch.from_numpy(official["rot6d.x"]))
    assert np.abs(matrix.numpy() - official["rot6d.R"]).max() < 1e-6
    R = rotations(0, 100)
    assert torch.allclose(geometry.rot6d_to_matrix(geometry.matrix_to_rot6d(R)), R, atol=1e-12)


def test_axis_angle_equals_official_and_scipy(official):
    matrix = geometry.axis_angle_to_matrix(torch.from_numpy(official["aa.x"]))
    assert np.abs(matrix.numpy() - official["aa.R"]).max() < 1e-6
    vectors = np.random.default_rng(0).normal(0, 2, (200, 3))
    expected = Rotation.from_rotvec(vectors).as_matrix()
    assert np.abs(geometry.axis_angle_to_matrix(torch.from_numpy(vectors)).numpy() - expected).max() < 1e-12


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.5, 3.0, np.pi - 1e-6, np.pi])
def test_axis_angle_survives_the_way_there_and_back(angle):
    axes = torch.from_numpy(Rotation.random(50, random_state=1).as_matrix()[:, 0])
    vectors = axes * angle
    back = geometry.matrix_to_axis_angle(geometry.axis_angle_to_matrix(vectors))
    # at pi, the axis may point either way
    other_way = (back + vectors).abs().amax(1) if angle == np.pi else torch.full((50,), torch.inf)
    error = torch.minimum((back - vectors).abs().amax(1), other_way)
    assert error.max() < 1e-9


def test_matrix_to_axis_angle_keeps_leading_shape_and_input():
    R = rotations(2, 24).reshape(4, 6, 3, 3)
    before = R.clone()
    assert geometry.matrix_to_axis_angle(R).shape == (4, 6, 3)
    assert torch.equal(R, before)


def test_projection_equals_official(official):
    points, translation, focal = (torch.from_numpy(official[f"proj.{k}"]) for k in ("points", "translation", "focal"))
    xy = geometry.project(points, translation, focal)
    assert np.abs(xy.numpy() - official["proj.xy"]).max() < 1e-6
    center = torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    assert torch.allclose(geometry.project(points, translation, focal, center), xy + center[:, None])


def test_cam_to_translation():
    cam = torch.tensor([[0.9, 0.1, -0.2], [0.5, 0.0, 0.3]], dtype=torch.float64)
    translation = geometry.cam_to_translation(cam)
    for (s, x, y), t in zip(cam.tolist(), translation.tolist(), strict=True):
        assert t == pytest.approx([x, y, 2 * 5000 / (256 * s + 1e-9)], rel=1e-12)


def test_camera_of_the_whole_image_sees_what_the_crop_camera_sees():
    """Points seen in the crop, moved to the image, are where the image's camera sees them (they are far)."""
    points = torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-3
    cam = torch.tensor([[0.9, 0.1, -0.2], [0.7, 0.0, 0.3]], dtype=torch.float64)
    center = torch.tensor([[200.0, 150.0], [400.0, 300.0]], dtype=torch.float64)
    size = torch.tensor([180.0, 333.0], dtype=torch.float64)
    image = torch.tensor([[640.0, 480.0], [800.0, 600.0]], dtype=torch.float64)
    focal = torch.full((2, 2), 5000.0, dtype=torch.float64)
    in_crop = geometry.project(points, geometry.cam_to_translation(cam), focal / 256)
    expected = geometry.crop_to_image_px(in_crop, center, size)
    translation = geometry.cam_crop_to_full(cam, center, size, image, 5000.0)
    found = geometry.project(points, translation, focal, image / 2)
    assert (found - expected).abs().max() < 1e-2


def test_alignment_equals_official(official):
    aligned = geometry.similarity_align(official["pred"], official["gt"])
    assert np.abs(aligned - official["aligned"]).max() < 2e-6


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_similarity_is_recovered(seed):
    rng = np.random.default_rng(seed)
    source = rng.normal(0, 0.5, (20, 14, 3))
    R = Rotation.random(20, random_state=seed).as_matrix()
    scale, shift = rng.uniform(0.2, 5, 20), rng.normal(0, 10, (20, 3))
    target = scale[:, None, None] * source @ R.swapaxes(1, 2) + shift[:, None]
    source.setflags(write=False)
    found = geometry.similarity(source, target)
    for planted, value in zip((scale, R, shift), found, strict=True):
        assert np.abs(value - planted).max() < 1e-9


def test_alignment_never_reflects():
    pose = np.random.default_rng(0).normal(0, 1, (10, 14, 3))
    _, rotation, _ = geometry.similarity(pose, pose * [-1, 1, 1])
    assert np.linalg.det(rotation) == pytest.approx(np.ones(10))


@pytest.mark.parametrize("flatten", [(2,), (1, 2)], ids=["planar", "collinear"])
def test_flat_poses_are_aligned(flatten):
    rng = np.random.default_rng(1)
    source = rng.normal(0, 1, (30, 14, 3))
    source[..., flatten] = 0
    R = Rotation.random(30, random_state=3).as_matrix()
    target = 1.7 * source @ R.swapaxes(1, 2) + 2
    assert np.abs(geometry.similarity_align(source, target) - target).max() < 1e-9


BODY = np.random.default_rng(7).normal(0, 1, (200, 14, 3)) * [0.1, 0.5, 0.08]
NOISE = np.random.default_rng(8).normal(0, 1, BODY.shape)
ROUND = np.concatenate((np.eye(3), -np.eye(3)))[None].repeat(200, 0)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (BODY + 0.05 * NOISE, BODY),
        (BODY + 1e-9 * NOISE, BODY),
        (NOISE, BODY),
        (BODY * [-1, 1, 1] + 0.02 * NOISE, BODY),
        (BODY * [-1, 1, 1], BODY),
        (BODY * [1, 1, 0], BODY),
        (BODY + 0.03 * NOISE, BODY * [1, 1, 0]),
        (BODY[:, :1] + ROUND, BODY[:, :1] + 2 * ROUND[:, ::-1]),
        (ROUND, ROUND * [-1, 1, 1]),
        (1000 + BODY + 0.05 * NOISE, BODY - 1000),
    ],
    ids=[
        "noisy",
        "close",
        "unlike",
        "mirrored-noisy",
        "mirrored",
        "flat",
        "flat-truth",
        "round",
        "round-mirrored",
        "far-away",
    ],
)
def test_alignment_equals_singular_value_decomposition(source, target):
    """The same squared error for every pose, and the same pose where the best one is unique."""
    found = geometry.similarity_align(source, target)
    expected = np.stack([reference.align(*pair) for pair in zip(source, target, strict=True)])
    assert np.abs(((found - target) ** 2).sum((1, 2)) - ((expected - target) ** 2).sum((1, 2))).max() < 1e-9
    if target.shape[1] == 14:
        assert np.abs(found - expected).max() < 1e-7


def test_a_source_without_extent_gives_nan_for_its_row_only():
    source = BODY[:3].copy()
    source[1] = 5.0
    aligned = geometry.similarity_align(source, BODY[:3])
    assert np.isnan(aligned[1]).all()
    assert np.isfinite(aligned[[0, 2]]).all()
