"""Views: pictures, keypoints and bodies must move alike; distributions as in mmpose and 4D-Humans."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch

from hmrbench.body import free_body
from hmrbench.cards import load_card
from hmrbench.codecs import find_codec
from hmrbench.data.crop import Geometry, crop_matrix, warp
from hmrbench.geometry import axis_angle_to_matrix
from hmrbench.records import Array, Sample
from hmrbench.skeletons import COCO17, HMR44
from hmrbench.training.augment import (
    View,
    draw_mesh,
    draw_pose,
    extreme_crop,
    turn_in_space,
    turn_joints,
    turn_keypoints,
    turn_params,
)
from hmrbench.training.examples import MeshTruth, mesh_example, pose_example, upright_view
from hmrbench.training.recipes import Augment, load_recipe

SIZE = (256, 192)
CENTER, EXTENT = np.array([150.0, 130.0]), np.array([150.0, 200.0])
VIEWS = [(0.0, False), (0.0, True), (37.0, False), (-25.0, True)]


def view_of(rotation: float, mirrored: bool, extent: Array = EXTENT) -> View:
    return View(CENTER, extent, rotation, mirrored)


def mmpose_udp_matrix(theta_deg: float, center: Array, extent: Array) -> Array:
    """UDP's matrix with rotation, as the sum it is: turn about the centre, scale, move to the middle."""
    a, (w, h) = np.deg2rad(theta_deg), extent
    sx, sy = (SIZE[1] - 1) / w, (SIZE[0] - 1) / h
    (cx, cy), c, s = center, np.cos(a), np.sin(a)
    return np.array(
        [
            [c * sx, -s * sx, sx * (-cx * c + cy * s + 0.5 * w)],
            [s * sy, c * sy, sy * (-cx * s - cy * c + 0.5 * h)],
        ]
    )


@pytest.mark.parametrize("theta", [0.0, 12.5, -80.0])
def test_the_matrix_is_that_of_udp(theta: float) -> None:
    matrix = view_of(theta, False).matrix(SIZE, "udp")
    np.testing.assert_allclose(matrix, mmpose_udp_matrix(theta, CENTER, EXTENT), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("geometry", ["udp", "classic", "square"])
def test_a_plain_view_is_the_crop_of_evaluation(geometry: Geometry) -> None:
    matrix = view_of(0.0, False).matrix(SIZE, geometry)
    assert np.array_equal(matrix, np.asarray(crop_matrix(CENTER, EXTENT, SIZE, geometry), np.float64))


@pytest.mark.parametrize("geometry", ["udp", "classic", "square"])
@pytest.mark.parametrize("rotation", [0.0, 37.0])
def test_mirroring_is_that_of_the_whole_image(geometry: Geometry, rotation: float) -> None:
    """As officially: the image is reversed, the centre moves to the other side, then the crop is turned."""
    image = cv2.resize(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8), (300, 260))
    ours = warp(image, view_of(rotation, True).matrix(SIZE, geometry), SIZE)
    moved = View(np.array([300 - 1 - CENTER[0], CENTER[1]]), EXTENT, rotation)
    theirs = warp(np.ascontiguousarray(image[:, ::-1]), moved.matrix(SIZE, geometry), SIZE)
    difference = np.abs(ours.astype(int) - theirs)
    assert difference.max() <= 8  # OpenCV rounds positions to a 32nd of a pixel
    assert difference.mean() < 0.5


@pytest.mark.parametrize(("rotation", "mirrored"), VIEWS)
@pytest.mark.parametrize("geometry", ["udp", "classic", "square"])
def test_a_dot_lands_where_its_keypoint_does(rotation: float, mirrored: bool, geometry: Geometry) -> None:
    image = np.zeros((260, 300, 3), np.uint8)
    point = np.array([[163.0, 101.0]])
    cv2.circle(image, (163, 101), 6, (255, 255, 255), -1)
    matrix = view_of(rotation, mirrored).matrix(SIZE, geometry)
    picture = warp(image, matrix, SIZE)[..., 0].astype(float)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    found = np.array([(x * picture).sum(), (y * picture).sum()]) / picture.sum()
    np.testing.assert_allclose(found, turn_keypoints(point, matrix, None)[0], atol=0.15)


@pytest.mark.parametrize(("rotation", "mirrored"), VIEWS)
def test_targets_are_where_the_picture_has_the_keypoints(rotation: float, mirrored: bool) -> None:
    """A disc of its own colour for every joint: the target's maximum of a joint lies on its mirror partner's
    disc."""
    card = load_card("swinpose-t-s2")
    rng = np.random.default_rng(3)
    points = np.column_stack([rng.uniform(100, 200, 17), rng.uniform(70, 190, 17)]).round()
    visible = np.full(17, 2.0)
    visible[4] = 0
    order = COCO17.flip_order if mirrored else list(range(17))
    example = pose_example(
        np.zeros((260, 300, 3), np.uint8),
        points,
        visible,
        view_of(rotation, mirrored),
        card,
        find_codec("udp"),
    )
    assert example["target"].shape == (17, 64, 48)
    assert example["weight"][order.index(4)] == 0
    for joint in (0, 5, 10, 15):
        image = np.zeros((260, 300, 3), np.uint8)
        cv2.circle(image, (int(points[joint, 0]), int(points[joint, 1])), 3, (255, 255, 255), -1)
        one = pose_example(image, points, visible, view_of(rotation, mirrored), card, find_codec("udp"))
        y, x = np.unravel_index(one["target"][order.index(joint)].argmax(), (64, 48))
        assert one["image"][4 * y - 2 : 4 * y + 6, 4 * x - 2 : 4 * x + 6].max() > 100


# --------------------------------------------------------------------------- distributions


def draws(augment: Augment, count: int = 2000, visible: int = 17) -> list[View]:
    rng = np.random.default_rng(0)
    points = np.column_stack([np.linspace(110, 190, 17), np.linspace(50, 210, 17)])
    seen = np.where(np.arange(17) < visible, 2.0, 0.0)
    return [draw_pose(rng, augment, np.array([100.0, 160.0]), View(CENTER, EXTENT), points, seen) for _ in range(count)]


def test_the_recipe_of_vitpose_draws_like_mmpose() -> None:
    augment = load_recipe("vitpose", load_card("vitpose-s")).augment
    whole = draws(augment.model_copy(update={"half_body": 0.0}))
    scales = np.array([v.size_px[1] / EXTENT[1] for v in whole])
    angles = np.array([v.rotation_deg for v in whole])
    assert 0.5 <= scales.min() < 0.51 < 1.49 < scales.max() <= 1.5
    assert np.isclose(scales, 0.5).mean() == pytest.approx(0.159, abs=0.03)  # everything beyond one deviation
    assert (angles == 0).mean() == pytest.approx(0.4, abs=0.04)
    assert angles[angles != 0].std() == pytest.approx(40, rel=0.08)
    assert np.abs(angles).max() <= 80
    assert np.mean([v.mirrored for v in whole]) == pytest.approx(0.5, abs=0.04)
    moved = np.array([(v.center_px - CENTER) / [100, 160] for v in whole])
    assert (moved != 0).all(axis=1).mean() == pytest.approx(0.3, abs=0.04)
    assert np.abs(moved).max() <= 0.2
    half = draws(augment)
    shrunk = np.mean(
        [
            not np.isclose(v.size_px[0] / v.size_px[1], EXTENT[0] / EXTENT[1], atol=1e-9) or v.center_px[1] != CENTER[1]
            for v in half
        ]
    )
    assert shrunk > 0.4  # 0.3 half bodies besides 0.3 shifts
    assert all(v.size_px[0] / v.size_px[1] == pytest.approx(0.75) for v in half)
    few = draws(augment.model_copy(update={"shift": 0.0}), visible=8)  # eight joints are not more than eight
    assert all(np.array_equal(v.center_px, CENTER) for v in few)


def test_half_bodies_hold_the_upper_or_the_lower_joints() -> None:
    views = draws(Augment(half_body=1.0))
    centers = np.array([v.center_px[1] for v in views])
    joints = np.linspace(50, 210, 17)
    upper, lower = joints[:11].mean(), joints[11:].mean()
    assert set(centers.round(3)) == {round(upper, 3), round(lower, 3)}
    assert np.isclose(centers, upper).mean() == pytest.approx(0.6915, abs=0.04)  # a normal number below 0.5


def test_nothing_happens_where_nothing_is_asked_for() -> None:
    for view in draws(Augment(), 20):
        assert np.array_equal(view.center_px, CENTER)
        assert np.array_equal(view.size_px, EXTENT)
        assert (view.rotation_deg, view.mirrored, view.colour) == (0.0, False, None)


def test_colours_change_within_their_bounds() -> None:
    views = draws(Augment(colour=0.2), 300)
    factors = np.array([v.colour for v in views])
    assert 0.8 <= factors.min() < 0.82 < 1.18 < factors.max() <= 1.2
    picture = np.full((2, 2, 3), 200, np.uint8)
    brighter = View(CENTER, EXTENT, colour=(0.5, 1.0, 2.0)).recolour(picture)
    assert brighter[0, 0].tolist() == [100, 200, 255]
    assert (picture == 200).all()


# --------------------------------------------------------------------------- meshes


def mesh_truth() -> tuple[MeshTruth, Sample, Array]:
    """A person in a square crop of 160 pixels, exact in the crop camera; also the camera's translation."""
    generator = torch.Generator().manual_seed(4)
    pose = 0.3 * torch.randn(1, 24, 3, generator=generator)
    pose[:, 0] = torch.tensor([torch.pi, 0.1, 0.2])
    rotations = axis_angle_to_matrix(pose)
    betas = torch.randn(1, 10, generator=generator)
    joints = free_body(lite=True)(rotations[:, :1], rotations[:, 1:], betas).joints
    assert joints is not None
    translation = np.array([0.03, 0.2, 2 * 5000 / (256 * 0.9)])
    seen = joints[0].numpy().astype(np.float64) + translation
    px = seen[:, :2] / seen[:, 2:] * (5000 / 256) * 160 + CENTER
    sample = Sample("person 0", None, "x", (CENTER[0] - 60, CENTER[1] - 80, 120, 160), padded=True)  # type: ignore[arg-type]
    truth = MeshTruth(
        np.column_stack([px, np.ones(44)]),
        np.column_stack([joints[0].numpy(), np.full(44, 0.5)]),
        {
            "global_orient": rotations[0, :1].numpy(),
            "body_pose": rotations[0, 1:].numpy(),
            "betas": betas[0].numpy(),
        },
        1.0,
        0.0,
    )
    return truth, sample, translation


def fixed(monkeypatch: pytest.MonkeyPatch, view: View) -> None:
    monkeypatch.setattr("hmrbench.training.examples.draw_mesh", lambda *_: view)


@pytest.mark.parametrize(("rotation", "mirrored"), VIEWS)
def test_a_turned_body_projects_onto_its_turned_keypoints(
    rotation: float, mirrored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, sample, translation = mesh_truth()
    view = view_of(rotation, mirrored, np.array([160.0, 160.0]))
    fixed(monkeypatch, view)
    card = load_card("swinhmr2-t-s2")
    image = np.zeros((260, 300, 3), np.uint8)
    example = mesh_example(image, sample, truth, np.random.default_rng(0), card, Augment(), [3])
    seen = example["keypoints_3d"][:, :3] + turn_in_space(view) @ translation
    projected = seen[:, :2] / seen[:, 2:] * (5000 / 256)
    np.testing.assert_allclose(example["keypoints_2d"][:, :2], projected, atol=2e-5)
    assert (example["keypoints_2d"][:, 2] == 1).all()
    confidence = np.full(44, 0.5, np.float32)
    confidence[6 if mirrored else 3] = 0
    assert np.array_equal(example["keypoints_3d"][:, 3], confidence)
    assert (float(example["has_pose"]), float(example["has_betas"])) == (1.0, 0.0)
    assert example["image"].shape == (256, 256, 3)


@pytest.mark.parametrize(
    ("rotation", "mirrored", "within_mm"), [(33.0, False, 0.01), (0.0, True, 12), (-20.0, True, 12)]
)
def test_turned_parameters_pose_the_turned_body(rotation: float, mirrored: bool, within_mm: float) -> None:
    """Exact without mirroring; with it up to the asymmetry of the free body."""
    truth, _, _ = mesh_truth()
    view = view_of(rotation, mirrored)
    params = {k: torch.tensor(v, dtype=torch.float32)[None] for k, v in turn_params(truth.params, view).items()}
    joints = free_body(lite=True)(**params).joints
    assert joints is not None
    error = joints[0].numpy() - turn_joints(truth.joints_m[:, :3], view, HMR44.flip_order)
    error -= error[39]
    assert 1000 * np.linalg.norm(error, axis=1).max() < within_mm
    assert np.linalg.det(params["body_pose"][0].numpy()) == pytest.approx(np.ones(23), abs=1e-5)


def test_inputs_are_left_alone() -> None:
    truth, sample, _ = mesh_truth()
    for array in (truth.keypoints_px, truth.joints_m, *truth.params.values()):
        array.setflags(write=False)
    image = np.zeros((260, 300, 3), np.uint8)
    image.setflags(write=False)
    recipe = load_recipe("hmr2", load_card("hmr2-s"))
    card = load_card("swinhmr2-t-s2")
    for seed in range(20):
        mesh_example(
            image,
            sample,
            truth,
            np.random.default_rng(seed),
            card,
            recipe.augment,
            recipe.loss.unused_joints_3d,
        )


def test_the_recipe_of_hmr2_draws_like_4d_humans() -> None:
    augment = load_recipe("hmr2", load_card("hmr2-s")).augment.model_copy(update={"extreme_crop": 0.0})
    truth, sample, _ = mesh_truth()
    rng = np.random.default_rng(0)
    upright = upright_view(sample, load_card("swinhmr2-t-s2"))
    assert upright.size_px.tolist() == [160, 160]
    views = [draw_mesh(rng, augment, upright, truth.keypoints_px[:, :2], truth.keypoints_px[:, 2]) for _ in range(2000)]
    scales = np.array([v.size_px[0] / 160 for v in views])
    angles = np.array([v.rotation_deg for v in views])
    assert (scales.min(), scales.max()) == pytest.approx((0.7, 1.3))
    assert np.abs(angles).max() == pytest.approx(60)
    assert (angles == 0).mean() == pytest.approx(0.4, abs=0.04)
    assert np.abs([(v.center_px - CENTER) / 160 for v in views]).max() == pytest.approx(0.02)


def test_extreme_crops_hold_the_joints_they_are_named_for() -> None:
    rng = np.random.default_rng(0)
    points, seen = rng.uniform(0, 200, (44, 2)), np.ones(44)

    def crop(chance: float, confidence: Any = seen) -> tuple[Array, float]:
        found = extreme_crop(chance, points, confidence)
        assert found is not None
        return found

    right_arm = points[[2, 3, 4, 25 + 6, 25 + 7, 25 + 8]]
    center, side = crop(0.55)
    np.testing.assert_allclose(center, (right_arm.min(0) + right_arm.max(0)) / 2)
    assert side == pytest.approx(1.1 * 1.2 * np.ptp(right_arm, axis=0).max())
    left_leg = points[[12, 13, 14, 19, 20, 21, 28, 29, 30]]
    np.testing.assert_allclose(crop(0.95)[0], (left_leg.min(0) + left_leg.max(0)) / 2)
    upper = seen.copy()
    upper[[10, 11, 13, 14, 25, 26, 29, 30]] = 0
    head = points[[0, 1, 2, 5, 15, 16, 17, 18, 37, 38, 42, 43]]
    np.testing.assert_allclose(crop(0.3, upper)[0], (head.min(0) + head.max(0)) / 2)
    nothing = np.zeros(44)
    assert extreme_crop(0.3, points, nothing) is None
