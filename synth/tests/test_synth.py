"""Synthetic people: the same bytes every time, parameters that explain keypoints, layouts, natural joints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hmrbench_synth import anatomy as an
from hmrbench_synth import demo_scene, make_demo, pose_body, render_scene
from hmrbench_synth import materials as mt
from hmrbench_synth.camera import Camera
from hmrbench_synth.limbs import KNEE_MAX_DEG, Figure, arm_clear, bend_deg, within_limits
from hmrbench_synth.meshes import Part, join
from hmrbench_synth.poses import Pose, sample_pose
from hmrbench_synth.render import scan
from hmrbench_synth.scene import visibility
from hmrbench_synth.stage import Actor, Stage
from hmrbench_synth.stances import STANCES
from hmrbench_synth.things import block
from hmrbench_synth.world import sample_setting

from hmrbench.body.model import OPENPOSE_ORDER
from hmrbench.errors import DataError, UsageError
from hmrbench.skeletons import COCO17

IMAGES, SEED = 6, 3


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pictures of the test split."""
    out = tmp_path_factory.mktemp("demo")
    make_demo(IMAGES, SEED, out, workers=1, split="test")
    return out


@pytest.fixture(scope="module")
def body() -> an.Body:
    return an.load_body()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_bytes_for_one_worker_and_two(demo: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    make_demo(IMAGES, SEED, tmp_path, workers=2, progress=lambda *done: calls.append(done), split="test")
    assert contents(tmp_path) == contents(demo)
    assert calls == [(k + 1, IMAGES) for k in range(IMAGES)]


def test_a_picture_does_not_depend_on_the_others(demo: Path, tmp_path: Path) -> None:
    make_demo(2, SEED, tmp_path, split="test")
    for name in ("000000000001.jpg", "000000000002.jpg"):
        assert (tmp_path / "test" / name).read_bytes() == (demo / "test" / name).read_bytes()


def test_splits_and_seeds_show_other_people() -> None:
    drawn = [
        demo_scene(5, "train", 0),
        demo_scene(5, "test", 0),
        demo_scene(6, "test", 0),
        demo_scene(5, "test", 1),
    ]
    betas = {scene.people[0].betas.tobytes() for scene in drawn}
    assert len(betas) == len(drawn)


@pytest.mark.parametrize(
    "options",
    [{"images": 0}, {"seed": -1}, {"workers": 0}, {"split": "nowhere"}],
    ids=lambda o: next(iter(o)),
)
def test_impossible_wishes_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    wishes: dict[str, Any] = {"images": 1, "seed": 0, "out": tmp_path, **options}
    with pytest.raises(UsageError):
        make_demo(**wishes)
    assert not list(tmp_path.iterdir())


def test_numba_missing_names_the_extra() -> None:
    code = "import sys; sys.modules['numba'] = None\nimport hmrbench_synth"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "UsageError" in done.stderr
    assert "pip install numba" in done.stderr


def test_body_file_that_is_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "body.npz", v_template=np.zeros((3, 3)))
    with pytest.raises(DataError, match=r"body\.npz"):
        an.load_body(tmp_path / "body.npz")
    with pytest.raises(DataError, match=r"nothing\.npz"):
        an.load_body(tmp_path / "nothing.npz")


def test_coco_layout_is_read_by_pycocotools(demo: Path) -> None:
    from pycocotools.coco import COCO

    coco = COCO(str(demo / "annotations" / "person_keypoints_test.json"))
    assert coco.loadCats(1)[0]["keypoints"] == list(COCO17.joints)
    assert len(coco.getImgIds()) == IMAGES
    for image in coco.loadImgs(coco.getImgIds()):
        picture = cv2.imread(str(demo / "test" / image["file_name"]))
        assert picture.shape == (image["height"], image["width"], 3)
        anns = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert anns
        for ann in anns:
            keypoints = np.array(ann["keypoints"]).reshape(17, 3)
            seen = keypoints[:, 2] > 0
            assert ann["num_keypoints"] == seen.sum() >= 8
            assert set(keypoints[:, 2]) <= {0, 1, 2}
            assert (keypoints[~seen] == 0).all()
            x, y, w, h = ann["bbox"]
            assert min(x, y) >= 0
            assert x + w <= image["width"]
            assert y + h <= image["height"]
            inside = (keypoints[seen, :2] >= [x - 3, y - 3]) & (keypoints[seen, :2] <= [x + w + 3, y + h + 3])
            assert inside.all()
            assert 0 < ann["area"] <= w * h


def test_hmr_layout_is_read_without_pickle_and_agrees_with_the_body(demo: Path) -> None:
    import torch

    from hmrbench.body import free_body

    with np.load(demo / "hmr_test.npz", allow_pickle=False) as file:
        data = {key: file[key] for key in file.files}
    count = len(data["imgname"])
    shapes = {"center": (2,), "scale": (2,), "body_keypoints_2d": (25, 3), "extra_keypoints_2d": (19, 3),
              "body_keypoints_3d": (25, 4), "extra_keypoints_3d": (19, 4), "body_pose": (72,), "betas": (10,),
              "has_body_pose": (), "has_betas": (), "translation_m": (3,), "focal_px": ()}  # fmt: skip
    for key, shape in shapes.items():
        assert data[key].shape == (count, *shape), key
        assert np.isfinite(data[key]).all(), key
    coco = json.loads((demo / "annotations" / "person_keypoints_test.json").read_text())
    boxes = np.array([a["bbox"] for a in coco["annotations"]])
    np.testing.assert_allclose(data["center"], boxes[:, :2] + boxes[:, 2:] / 2)
    np.testing.assert_allclose(data["scale"], 1.1 * boxes[:, 2:])

    rotations = torch.from_numpy(an.to_matrices(data["body_pose"].reshape(-1, 3)).reshape(count, 24, 3, 3)).float()
    betas, move = (torch.from_numpy(data[key]).float() for key in ("betas", "translation_m"))
    posed = free_body()(rotations[:, :1], rotations[:, 1:], betas, move)
    truth = np.concatenate([data["body_keypoints_3d"], data["extra_keypoints_3d"]], axis=1)
    assert (truth[..., 3] == 1).all()
    assert np.abs(posed.joints.numpy() - truth[..., :3]).max() < 1e-5  # metres
    px = truth[..., :2] / truth[..., 2:3] * data["focal_px"][:, None, None] + data["image_wh_px"][:, None] / 2
    flat = np.concatenate([data["body_keypoints_2d"], data["extra_keypoints_2d"]], axis=1)
    assert np.abs(px - flat[..., :2]).max() < 0.01
    inside = ((px >= 0) & (px <= data["image_wh_px"][:, None] - 1)).all(-1)
    np.testing.assert_array_equal(flat[..., 2], inside)


def test_joint_order_is_that_of_the_body() -> None:
    assert an.OPENPOSE_ORDER == OPENPOSE_ORDER


@pytest.mark.parametrize("index", range(4))
def test_parameters_reproject_onto_keypoints(index: int, body: an.Body) -> None:
    for person in demo_scene(SEED, "test", index).people:
        vertices, joints = pose_body(body, person.betas, person.global_orient, person.body_pose, person.translation_m)
        points = an.regress(body.keypoint_rows, vertices)[:17]
        px = points[:, :2] / points[:, 2:] * person.focal_px + np.array(person.centre_px)
        seen = person.keypoints_px[:, 2] > 0
        assert np.abs(px - person.keypoints_px[:, :2])[seen].max() < 0.01
        np.testing.assert_allclose(joints, person.joints_m, atol=1e-12)
        # SMPL's joints lie next to COCO's: hips, knees, ankles, shoulders, elbows, wrists of the same side.
        pairs = {11: 1, 12: 2, 13: 4, 14: 5, 15: 7, 16: 8, 5: 16, 6: 17, 7: 18, 8: 19, 9: 20, 10: 21}
        for coco, smpl in pairs.items():
            assert np.linalg.norm(points[coco] - joints[smpl]) < 0.07, COCO17.joints[coco]


def test_left_is_the_persons_own_left(body: an.Body) -> None:
    """Who looks into the camera has the left hand on the right of the picture."""
    still = np.zeros((23, 3))
    facing = an.to_axis_angle(np.diag([1.0, -1.0, -1.0])[None])[0]
    vertices, joints = pose_body(body, np.zeros(10), facing, still, np.array([0.0, 0.0, 4.0]))
    points = an.regress(body.keypoint_rows, vertices)
    for left, right in COCO17.flip_pairs:
        assert points[left, 0] > points[right, 0], COCO17.joints[left]
    assert points[0, 1] < points[15, 1]  # y down: the nose above the ankles
    assert points[0, 2] < joints[15, 2]  # the nose nearer than the skull


def test_images_have_content_and_the_wanted_size() -> None:
    scene = render_scene(11, (192, 160))
    assert scene.image.shape == (192, 160, 3)
    assert scene.image.dtype == np.uint8
    assert scene.image.std() > 10


@pytest.fixture(scope="module")
def mannequin(body: an.Body) -> Actor:
    """The average body in T-pose, naked, at the origin, facing the camera."""
    count = len(body.template)
    grey = mt.material(np.full(3, 0.5))
    table = (body.bones, body.weights, body.template)
    plain = np.zeros(len(body.faces), dtype=np.int64)
    skin = Part(body.template, body.faces, *table, np.ones(count), np.zeros(count), (grey,), plain)
    rotations = np.tile(np.eye(3), (24, 1, 1))
    return Actor(
        pose=Pose("stand", rotations),
        betas=np.zeros(10),
        body_pose=np.zeros((23, 3)),
        root=np.eye(3),
        rest_joints=body.joints,
        offset=np.zeros(3),
        mesh=join([skin]),
        vertices=body.template,
        joints=body.joints,
        yaw_deg=0.0,
    )


def seen_flags(body: an.Body, actor: Actor, things: tuple[Part, ...], eye_x: float = 0.0) -> dict[str, float]:
    """Visibility of each keypoint of an actor four metres before a camera at the height of the pelvis."""
    camera = Camera(300.0, (160.0, 160.0), np.diag([1.0, -1.0, -1.0]), np.array([eye_x, 0.0, 4.0]))
    stage = Stage(sample_setting(np.random.default_rng(0)), (actor,), things, camera, (320, 320))
    local = camera.to_camera(body.keypoints[:17])
    px = camera.project(body.keypoints[:17])
    flags = visibility(px, local[:, 2], body.keypoints[:17], 0, scan(stage))
    return dict(zip(COCO17.joints, flags.tolist(), strict=True))


def test_visibility_of_a_person_who_faces_us(body: an.Body, mannequin: Actor) -> None:
    assert set(seen_flags(body, mannequin, ()).values()) == {2}


def test_visibility_behind_a_box_and_outside(body: an.Body, mannequin: Actor) -> None:
    grey = mt.material(np.full(3, 0.4))
    before = block(np.array([-0.4, -1.0, 0.5]), np.array([0.4, -0.3, 0.7]), grey)
    flags = seen_flags(body, mannequin, (before,))
    hidden = {name for name, flag in flags.items() if flag == 1}
    assert hidden == {"left_knee", "right_knee", "left_ankle", "right_ankle"}
    behind = block(np.array([-0.4, -1.0, -0.9]), np.array([0.4, -0.3, -0.7]), grey)
    assert set(seen_flags(body, mannequin, (behind,)).values()) == {2}


def test_visibility_outside_the_picture(body: an.Body, mannequin: Actor) -> None:
    flags = seen_flags(body, mannequin, (), eye_x=2.2)
    x = 300.0 * (body.keypoints[:17, 0] - 2.2) / (4.0 - body.keypoints[:17, 2]) + 160.0
    assert {name for name, flag in flags.items() if flag == 0} == {COCO17.joints[k] for k in np.flatnonzero(x < 0)}
    assert 0 < (x < 0).sum() < 17


def test_visibility_of_a_person_who_turns_away(body: an.Body, mannequin: Actor) -> None:
    half_turn = an.euler(y=180.0)
    turned = body.template @ half_turn.T
    away = Actor(**{**mannequin.__dict__, "vertices": turned, "joints": body.joints @ half_turn.T})
    camera = Camera(300.0, (160.0, 160.0), np.diag([1.0, -1.0, -1.0]), np.array([0.0, 0.0, 4.0]))
    stage = Stage(sample_setting(np.random.default_rng(0)), (away,), (), camera, (320, 320))
    points = body.keypoints[:17] @ half_turn.T
    flags = visibility(camera.project(points), camera.to_camera(points)[:, 2], body.keypoints[:17], 0, scan(stage))
    assert flags[:3].tolist() == [1, 1, 1]  # nose and eyes
    assert flags[[5, 6, 7, 8, 9, 10, 13, 14, 15, 16]].min() == 2


def test_poses_keep_to_joint_limits(body: an.Body) -> None:
    names, bends = set(), []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        _, joints = an.shaped(body, rng.normal(0, 1, 10) * an.BETA_SCALE)
        pose = sample_pose(rng, joints, body.parents)
        names.add(pose.name)
        assert within_limits(pose.rotations, joints)
        figure = Figure(joints, body.parents, pose.rotations)
        assert arm_clear(figure, 0)
        assert arm_clear(figure, 1)
        stored = np.concatenate([pose.rotations[:1], an.to_matrices(an.to_axis_angle(pose.rotations[1:]))])
        for side in (0, 1):
            knee = bend_deg(stored, joints, an.KNEE + side, an.ANKLE + side, np.array([0.0, 0.0, -1.0]))
            elbow = bend_deg(stored, joints, an.ELBOW + side, an.WRIST + side, np.array([0.0, 0.0, 1.0]))
            bends += [knee, elbow]
    assert min(bends) > -7
    assert max(bends) < KNEE_MAX_DEG + 1
    assert np.std(bends) > 20
    assert len(names) >= len(STANCES) - 4


def test_limits_see_a_knee_or_elbow_that_bends_backwards(body: an.Body) -> None:
    straight = np.tile(np.eye(3), (24, 1, 1))
    assert within_limits(straight, body.joints)
    for joint, wrong in (
        (an.KNEE, an.euler(x=-40)),
        (an.ELBOW, an.euler(y=40)),
        (an.ELBOW + 1, an.euler(y=-40)),
    ):
        bent = straight.copy()
        bent[joint] = wrong
        assert not within_limits(bent, body.joints)


def test_feet_stand_on_the_ground(body: an.Body) -> None:
    """Standing people have both ankles at the same height, and nobody's knee goes through the floor."""
    standing = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        pose = sample_pose(rng, body.joints, body.parents)
        if pose.name != "stand":
            continue
        standing += 1
        _, joints = an.forward(body.parents, pose.rotations, body.joints)
        assert abs(joints[an.ANKLE, 1] - joints[an.ANKLE + 1, 1]) < 0.03
        assert joints[[an.KNEE, an.KNEE + 1], 1].min() > joints[an.ANKLE, 1] + 0.3
    assert standing > 15


def test_workers_do_not_wait_for_torch() -> None:
    code = "import sys, hmrbench_synth; assert 'torch' not in sys.modules, 'torch'"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
