"""`hmrbench predict`: from picture and boxes to drawn pictures, records, meshes; what is wrong is named."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import prepare_job
from scipy.spatial.transform import Rotation
from test_data import png_header
from test_overlay import extent, in_picture, read_obj, read_ply
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from hmrbench import evaluation, zoo
from hmrbench.body import free_body
from hmrbench.cli import app
from hmrbench.data.images import read_image
from hmrbench.schema import ModelCard
from hmrbench.skeletons import COCO17, HMR44


def hmrbench(*args: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args], env={"COLUMNS": "80", **(env or {})})


class Known(nn.Module):
    """An HMR network that says the same of everybody: upright, arms at rest, left knee bent, in mid-crop."""

    def forward(self, x: Tensor) -> Mapping[str, Tensor]:
        batch = len(x)
        pose = np.zeros((24, 3))
        pose[0], pose[4], pose[16], pose[17] = (np.pi, 0, 0), (0.8, 0, 0), (0, 0, -1.0), (0, 0, 1.0)
        R = torch.tensor(Rotation.from_rotvec(pose).as_matrix(), dtype=torch.float32).expand(batch, 24, 3, 3)
        cam = torch.tensor([[0.8, 0.05, 0.1]]).expand(batch, 3)
        betas = torch.linspace(-0.5, 0.5, 10).expand(batch, 10)
        return {"global_orient": R[:, :1], "body_pose": R[:, 1:], "betas": betas, "cam": cam}


class Spot(nn.Module):
    """A pose network: every joint in the middle of the crop, score 0.9; NaN where the picture is black."""

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.zeros(len(x), 17, x.shape[2] // 4, x.shape[3] // 4)
        maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2] = 0.9
        return torch.where((x.amax((1, 2, 3)) < -1)[:, None, None, None], torch.nan, maps)


def build_known(card: ModelCard) -> nn.Module:
    return Known()


def build_spot(card: ModelCard) -> nn.Module:
    return Spot()


@pytest.fixture
def cards(tiny_cards: Path) -> Path:
    (tiny_cards / "known.yaml").write_text(
        "family: known\n"
        "defaults: {size: t, licence: none}\n"
        "models:\n"
        "  known: {paper_name: Known, task: hmr, input: [256, 256], build: 'test_predict:build_known',"
        " crop: {kind: square, padding: 1.1}}\n"
        "  spot: {paper_name: Spot, task: hpe, input: [64, 48], build: 'test_predict:build_spot'}\n"
    )
    return tiny_cards


def picture(path: Path, grey: int = 128, size: tuple[int, int] = (240, 320)) -> Path:
    cv2.imwrite(str(path), np.full((*size, 3), grey, np.uint8))
    return path


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return picture(tmp_path / "flat.png")


def predict(cards: Path, *args: object) -> Result:
    fixed = ("--weights", "random", "--device", "cpu", "--models-dir", cards)
    return hmrbench("predict", *args, *fixed)


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


BOX = [90.0, 40.0, 120.0, 170.0]


# --- meshes


@pytest.mark.parametrize("body", ["free-lite", "free"])
def test_the_drawn_mesh_is_where_the_record_says(cards: Path, flat: Path, tmp_path: Path, body: str) -> None:
    """From the record alone: vertices and joints projected by its camera fall on what was drawn."""
    boxes = write(tmp_path / "boxes.json", {"flat.png": [BOX]})
    args = ("known", flat, "--boxes", boxes, "--body", body, "-o", tmp_path / "o")
    assert predict(cards, *args).exit_code == 0
    found = json.loads((tmp_path / "o" / "flat-known.json").read_text())
    assert found["focal_px"] == 5000 / 256 * 320
    person = found["people"][0]
    pose = np.array([*person["global_orient"], *person["body_pose"]])
    R = torch.tensor(Rotation.from_rotvec(pose).as_matrix(), dtype=torch.float32)[None]
    place, betas = (torch.tensor(person[k])[None] for k in ("translation_m", "betas"))
    out = free_body(lite=body == "free-lite")(R[:, :1], R[:, 1:], betas, place, vertices=True)
    assert out.vertices is not None
    assert out.joints is not None
    drawn = read_image(tmp_path / "o" / "flat-known.png")
    mask = (drawn != 128).any(2)
    corners = in_picture(out.vertices[0].numpy(), found["focal_px"], (160, 120))
    assert extent(mask) == pytest.approx(np.concatenate([corners.min(0), corners.max(0)]), abs=1.5)
    px = in_picture(out.joints[0].numpy(), found["focal_px"], (160, 120))
    at = np.round(px).astype(int)
    assert mask[at[:, 1], at[:, 0]].mean() > 0.9
    assert np.array(person["joints_m"]) + person["translation_m"] == pytest.approx(out.joints[0].numpy(), abs=2e-5)
    # The network's own camera, of the crop, stands nearer: it sees the same within its perspective.
    assert np.array(person["keypoints_px"]) == pytest.approx(px, abs=0.01 * 260)
    assert person["keypoint_scores"] is None
    assert found["joint_names"] == list(HMR44.joints)
    assert found["body"] == {"free": "free_body.npz", "free-lite": "free_body_lite.npz"}[body]


def test_camera_of_the_whole_picture(cards: Path, flat: Path, tmp_path: Path) -> None:
    """Scale and place of the crop, carried over: the body's origin falls on one pixel in both cameras."""
    boxes = write(tmp_path / "boxes.json", [{"file_name": "flat.png", "bbox": BOX}])
    args = ("--boxes", boxes, "--body", "free-lite", "--json", "-o", tmp_path)
    rows = json.loads(predict(cards, "known", flat, *args).stdout)
    person, side = rows[0]["people"][0], 170 * 1.1 * 256 / 256
    side = max(side, 120 * 1.1 * 256 / 192)
    x, y, z = person["translation_m"]
    center = np.array([90 + 60, 40 + 85])
    scale = 0.8 * side / 2  # pixels per metre
    assert z == pytest.approx(rows[0]["focal_px"] / scale, rel=1e-6)
    expected = center + np.array([0.05, 0.1]) * scale
    assert np.array([x, y]) / z * rows[0]["focal_px"] + [160, 120] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("suffix", "read"), [("obj", read_obj), ("ply", read_ply)])
def test_saved_meshes(cards: Path, flat: Path, tmp_path: Path, suffix: str, read: Any) -> None:
    boxes = write(tmp_path / "boxes.json", {"flat.png": [BOX, [10, 60, 80, 120]]})
    out = tmp_path / "o"
    args = ("known", flat, "--boxes", boxes, "--body", "free-lite", "--save-mesh", suffix, "-o", out)
    assert predict(cards, *args).exit_code == 0
    found = json.loads((out / "flat-known.json").read_text())
    assert [p["mesh"] for p in found["people"]] == [f"flat-known-0.{suffix}", f"flat-known-1.{suffix}"]
    for person in found["people"]:
        vertices, faces = read(out / person["mesh"])
        assert (len(vertices), len(faces)) == (1229, 2454)
        middle = vertices.mean(0) * [1, -1, -1] - person["translation_m"]
        assert np.abs(middle).max() < 0.4
        assert vertices[:, 1].max() - vertices[:, 1].min() > 1.4
    assert sorted(p.suffix for p in out.iterdir()) == sorted([".json", ".png", f".{suffix}", f".{suffix}"])


def test_side_view_stands_beside_the_picture(cards: Path, flat: Path, tmp_path: Path) -> None:
    predict(cards, "known", flat, "--body", "free-lite", "-o", tmp_path / "a")
    predict(cards, "known", flat, "--body", "free-lite", "-o", tmp_path / "b", "--side-view")
    alone, both = (read_image(tmp_path / f / "flat-known.png") for f in "ab")
    assert both.shape[0] == 240
    assert both.shape[1] > 320
    assert np.array_equal(both[:, :320], alone)
    assert (both[:, 320:] < 200).any()


# --- keypoints


def test_keypoints_are_those_of_eval(cards: Path, tiny_coco: Path, tmp_path: Path) -> None:
    """The same people as in a data set get the same numbers, to the last bit."""
    job = prepare_job(
        "tiny-a",
        "coco-val",
        weights="random",
        data_root=tiny_coco,
        boxes="gt",
        device="cpu",
        models_dirs=[cards],
        batch_size=1,
    )
    expected = evaluation.predict_all(zoo.load_weights(job.card, None)[0], job)
    boxes: dict[str, list[Any]] = {}
    for sample in job.dataset.samples:
        boxes.setdefault(sample.image.name, []).append(sample.box_xywh_px)
    images, file = sorted((tiny_coco / "val2017").iterdir()), write(tmp_path / "boxes.json", boxes)
    args = ("--boxes", file, "--batch-size", 1, "--json", "-o", tmp_path)
    rows = json.loads(predict(cards, "tiny-a", *images, *args).stdout)
    people = [p for row in rows for p in row["people"]]
    assert len(people) == len(expected) == 6
    for person, prediction in zip(people, expected, strict=True):
        assert np.array_equal(person["keypoints_px"], prediction.keypoints_px)
        assert np.array_equal(np.float32(person["keypoint_scores"]), prediction.scores)
    assert rows[0]["joint_names"] == list(COCO17.joints)
    assert (rows[0]["weights"], rows[0]["flip"], rows[0]["model"]) == ("random", True, "tiny-a")


def test_keypoints_are_drawn_where_they_are(cards: Path, flat: Path, tmp_path: Path) -> None:
    result = predict(cards, "spot", flat, "--no-flip", "-o", tmp_path / "o")
    assert result.exit_code == 0, result.output
    assert "flat-spot.png" in result.stdout
    found = json.loads((tmp_path / "o" / "flat-spot.json").read_text())
    x, y = found["people"][0]["keypoints_px"][0]
    assert np.hypot(x - 160, y - 120) < 30
    assert found["people"][0]["box_xywh_px"] == [0, 0, 320, 240]
    changed = (read_image(tmp_path / "o" / "flat-spot.png") != 128).any(2)
    assert extent(changed) == pytest.approx([x - 4, y - 4, x + 4, y + 4], abs=3)


def test_it_says_when_no_keypoint_is_sure_enough(cards: Path, flat: Path, tmp_path: Path) -> None:
    result = predict(cards, "spot", flat, "--keypoint-score", 0.95, "-o", tmp_path / "o")
    assert "no keypoint scores 0.95" in " ".join(result.stderr.split())
    assert np.array_equal(read_image(tmp_path / "o" / "flat-spot.png"), read_image(flat))


# --- boxes


@pytest.mark.parametrize(
    "content",
    [
        [{"image_id": 7, "bbox": BOX, "score": 0.8}, {"image_id": 8, "bbox": [0, 0, 9, 9]}],
        [
            {"file_name": "000007.png", "bbox": BOX, "score": 0.8},
            {"file_name": "000007.png", "bbox": BOX, "score": 0.2},
        ],
        [
            {"image_id": "000007", "bbox": BOX, "score": 0.8, "category_id": 1},
            {"image_id": 7, "bbox": BOX, "category_id": 3},
        ],
        {"000007.png": [BOX], "other.png": ["not looked at"]},
        {
            "images": [{"id": 99, "file_name": "000007.png"}],
            "annotations": [
                {"image_id": 99, "bbox": BOX, "category_id": 1, "iscrowd": 0},
                {"image_id": 99, "bbox": [0, 0, 300, 200], "category_id": 1, "iscrowd": 1},
            ],
        },
    ],
)
def test_forms_of_box_files(cards: Path, tmp_path: Path, content: Any) -> None:
    path = picture(tmp_path / "000007.png")
    boxes = write(tmp_path / "boxes.json", content)
    result = predict(cards, "spot", path, "--boxes", boxes, "--json", "-o", tmp_path / "o")
    people = json.loads(result.stdout)[0]["people"]
    assert [p["box_xywh_px"] for p in people] == [BOX]


PERSON, DOG = {"id": 4, "name": "person"}, {"id": 1, "name": "dog"}
MINE, OTHER = {"image_id": 7, "bbox": BOX}, {"image_id": 7, "bbox": [0, 0, 99, 99]}
CORNERS = [BOX[0], BOX[1], BOX[0] + BOX[2], BOX[1] + BOX[3]]
DETECTED = {"labels": [0, 2], "scores": [0.8, 0.9], "bboxes": [CORNERS, [1, 1, 9, 9]]}


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ([{**MINE, "category_id": 0}, {**OTHER, "category_id": 1}], "000007.png"),  # ids that start at 0
        ([{**OTHER, "category_id": 3}, {**MINE, "category_id": 1}], "000007.png"),
        ([{**OTHER, "category_name": "dog"}, {**MINE, "category_id": 7, "category_name": "Person"}], "7.png"),
        ([{"file_name": "val/a.png", "bbox": BOX}], "a.png"),
        ([{"file_name": "val\\a.png", "bbox": BOX}], "a.png"),
        ([{"file_name": "x/a.png", "bbox": BOX}, {"file_name": "y/a.png", "bbox": [0, 0, 9, 9]}], "x/a.png"),
        ([{"file_name": "x/a.png", "bbox": BOX}, {"file_name": "a.png", "bbox": [0, 0, 9, 9]}], "x/a.png"),
        ({"y/x/a.png": [BOX], "x/a.png": [[0, 0, 9, 9]]}, "y/x/a.png"),
        ([{"image_id": 7.0, "bbox": BOX}], "7.png"),
        (
            {
                "images": [
                    {"id": 7, "file_name": "000007.png", "width": 320, "height": 240},
                    {"id": 8, "file_name": "7.png"},
                ],
                "annotations": [
                    {**MINE, "category_id": 4},
                    {**OTHER, "category_id": 1},
                    {**OTHER, "image_id": 8, "category_id": 4},
                ],
                "categories": [DOG, PERSON],
            },
            "000007.png",
        ),
        (
            {
                "images": [{"id": 8, "file_name": "000007.png"}, {"id": 7, "file_name": "x.png"}],
                "annotations": [{**MINE, "image_id": 8, "category_id": 0}, {**OTHER, "category_id": 0}],
                "categories": [{"id": 0, "name": "person"}],
            },
            "000007.png",
        ),
        (DETECTED, "a.png"),
        ({"a.png": DETECTED, "b.png": {"bboxes": [[0, 0, 9, 9]]}}, "a.png"),
    ],
)  # fmt: skip
def test_persons_and_pictures_are_found_as_other_tools_name_them(
    cards: Path, tmp_path: Path, content: Any, name: str
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    path = picture(tmp_path / name)
    boxes = write(tmp_path / "boxes.json", content)
    result = predict(cards, "spot", path, "--boxes", boxes, "--json", "-o", tmp_path / "o")
    assert result.exit_code == 0, result.output
    assert [p["box_xywh_px"] for p in json.loads(result.stdout)[0]["people"]] == [BOX]


def test_boxes_of_mmdetection_are_for_the_picture_of_the_files_name(cards: Path, flat: Path, tmp_path: Path) -> None:
    other, boxes = picture(tmp_path / "other.png"), write(tmp_path / "flat.json", DETECTED)
    result = predict(cards, "spot", flat, other, "--boxes", boxes, "--json", "-o", tmp_path / "o")
    assert result.exit_code == 3
    assert [Path(row["image"]).name for row in json.loads(result.stdout)] == ["flat.png"]
    assert "flat.json: no boxes for other.png" in " ".join(result.stderr.split())


def test_it_says_that_ids_start_at_0(cards: Path, flat: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes = write(tmp_path / "boxes.json", [{"file_name": "flat.png", "bbox": BOX, "category_id": 0}])
    assert predict(cards, "spot", flat, "--boxes", boxes, "-o", tmp_path / "o").exit_code == 0
    assert "ids start at 0, so 0 is taken for a person" in caplog.text


def test_a_picture_without_people(cards: Path, flat: Path, tmp_path: Path) -> None:
    boxes = write(tmp_path / "boxes.json", {"flat.png": []})
    for model in ("spot", "known"):
        args = (model, flat, "--boxes", boxes, "--json", "-o", tmp_path / "o")
        result = predict(cards, *args, *(("--body", "free-lite", "--side-view") if model == "known" else ()))
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)[0]["people"] == []
        assert np.array_equal(read_image(tmp_path / "o" / f"flat-{model}.png")[:, :320], read_image(flat))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"flat.png": [[10, 10, 0, 50]]}, "box 0 of flat.png is empty or not finite: [10, 10, 0, 50]"),
        ({"flat.png": [BOX, [10, 10, -5, 50]]}, "box 1 of flat.png is empty"),
        ({"flat.png": [[10, 10, 1e400, 50]]}, "box 0 of flat.png is empty or not finite"),
        ({"flat.png": [[10, 10, 50]]}, "box 0 of flat.png is not [x, y, width, height]"),
        ({"flat.png": 5}, "not a file of boxes"),
        ({"flat.png": [[400, 10, 50, 50]]}, "lies outside the picture of 320x240"),
        ({"other.png": [BOX]}, "no boxes for flat.png"),
        ([{"image_id": 3, "bbox": BOX}], "no boxes for flat.png"),
        ([{"image_id": 3}], "not a file of boxes"),
        ([BOX], "not a file of boxes"),
        (3, "not a file of boxes"),
        ({"images": [], "annotations": 3}, "not a file of boxes"),
        ([{"file_name": "flat.png", "bbox": BOX, "score": float("nan")}], "box 0 of flat.png is empty or not finite"),
        ([{"file_name": "flat.png", "bbox": BOX, "score": "0.9"}], "box 0 of flat.png is empty or not finite"),
        ([{"file_name": "flat.png", "bbox": ["1", "2", "3", "4"]}], "box 0 of flat.png is empty or not finite"),
        ({"flat.png": ["1234"]}, "box 0 of flat.png is not [x, y, width, height]"),
        ({"flat.png": [[10**400, 1, 2, 3]]}, "box 0 of flat.png is empty or not finite"),
        (
            [{"file_name": "flat.png", "bbox": BOX, "category_id": 3}],
            "none of its boxes is a person's, they are of category 3",
        ),
        (
            {"labels": [5], "scores": [0.9], "bboxes": [[1, 1, 9, 9]]},
            "none of its boxes is a person's, they are of category 5",
        ),
        ({"labels": [0], "scores": [], "bboxes": [[1, 1, 9, 9]]}, "scores are not 1 as its bboxes are"),
        ([{"file_name": "flat.png", "bbox": BOX}, {"file_name": None, "bbox": BOX}], "entry 1: file_name is None"),
        ([{"file_name": "flat.png", "bbox": BOX, "category_id": "1"}], "entry 0: category_id is '1'"),
        (
            [{"file_name": f"{folder}/flat.png", "bbox": BOX} for folder in "ab"],
            "flat.png may be each of ['a/flat.png'",
        ),
        (
            {
                "images": [{"id": 1, "file_name": "flat.png", "width": 240, "height": 320}],
                "annotations": [{"image_id": 1, "bbox": BOX}],
            },
            "the picture is 320x240 (turned by its EXIF data, perhaps), the annotations say 240x320",
        ),
        (
            {"images": [{"id": 1}, {"id": 1}], "annotations": []},
            "two images have the same id '1'",
        ),
        (
            {"images": [], "annotations": [], "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]},
            "must have one category person",
        ),
    ],
)
def test_bad_boxes(cards: Path, flat: Path, tmp_path: Path, content: Any, words: str) -> None:
    boxes = write(tmp_path / "boxes.json", content)
    result = predict(cards, "spot", flat, "--boxes", boxes, "-o", tmp_path / "o")
    assert result.exit_code == 3, result.output
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "o").exists()


# --- what goes wrong


def test_a_bad_picture_does_not_stop_the_others(cards: Path, tmp_path: Path) -> None:
    good, late = picture(tmp_path / "good.png"), picture(tmp_path / "late.png")
    (tmp_path / "junk.jpg").write_bytes(b"no picture")
    cut = tmp_path / "cut.jpg"
    picture(cut)
    cut.write_bytes(cut.read_bytes()[:-200])
    (tmp_path / "monster.png").write_bytes(png_header(40000, 40000))
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "empty.png").touch()
    names = ("missing.png", "junk.jpg", "cut.jpg", "monster.png", "pipe.png", "empty.png")
    result = predict(cards, "spot", good, *(tmp_path / n for n in names), late, "--json", "-o", tmp_path / "o")
    assert result.exit_code == 3
    assert [Path(r["image"]).name for r in json.loads(result.stdout)] == ["good.png", "late.png"]
    for name in names:
        assert name in result.stderr
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == [
        f"{name}-spot.{kind}" for name in ("good", "late") for kind in ("json", "png")
    ]


def test_a_prediction_that_is_not_finite_is_an_error_of_its_picture(cards: Path, tmp_path: Path) -> None:
    good, black = picture(tmp_path / "good.png"), picture(tmp_path / "black.png", grey=0)
    result = predict(cards, "spot", black, good, "--json", "--no-flip", "-o", tmp_path / "o")
    assert result.exit_code == 1
    assert [Path(r["image"]).name for r in json.loads(result.stdout)] == ["good.png"]
    assert "black.png" in result.stderr
    assert "not finite" in result.stderr


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("spott", "flat.png"), 2, "did you mean spot"),
        (("known", "flat.png"), 3, "free body"),
        (("known", "flat.png", "--body", "fre"), 2, "unknown body 'fre'"),
        (("spot", "flat.png", "--side-view"), 2, "predicts no meshes"),
        (("spot", "flat.png", "--save-mesh", "obj"), 2, "predicts no meshes"),
        (("known", "flat.png", "--save-mesh", "stl"), 2, "stl"),
        (("spot", "flat.png", "--boxes", "none.json"), 3, "none.json: file of boxes missing"),
        (("spot", "flat.png", "--boxes", "flat.png"), 3, "flat.png: file of boxes is not readable JSON"),
        (("spot", "flat.png", "other/flat.png"), 2, "the same name"),
        (("spot", "flat.png", "--dtype", "int8"), 2, "dtype must be one of"),
        (("spot", "flat.png", "--weights", "none.pth"), 3, "no weights file at none.pth"),
        (("spot", "other"), 3, "image is not readable"),
        (("spot", "flat.png", "-o", "flat.png"), 2, "flat.png is a file"),
        (("spot",), 2, "IMAGE"),
    ],
)
def test_bad_input_has_its_message_and_exit_code(
    args: tuple[str, ...],
    code: int,
    words: str,
    cards: Path,
    flat: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    picture(tmp_path / "other" / "flat.png")
    weights = () if "--weights" in args else ("--weights", "random")
    env = {"HMRBENCH_CACHE": str(tmp_path / "cache")}
    result = hmrbench("predict", *args, *weights, "--models-dir", cards, "--device", "cpu", env=env)
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "predictions").exists()


def test_photographs_with_people(cards: Path, coco_mini: Path, tmp_path: Path) -> None:
    """Real pictures with the boxes of their annotations, by both kinds of network."""
    images = sorted((coco_mini / "val2017").iterdir())
    annotations = coco_mini / "annotations" / "person_keypoints_val2017.json"
    for model, options in (("tiny-a", ()), ("known", ("--body", "free-lite", "--side-view"))):
        result = predict(cards, model, *images, "--boxes", annotations, *options, "--json", "-o", tmp_path)
        assert result.exit_code == 0, result.output
        rows = json.loads(result.stdout)
        assert [len(r["people"]) for r in rows] == [1, 3, 5, 5]
        for row, path in zip(rows, images, strict=True):
            drawn, image = read_image(tmp_path / row["picture"]), read_image(path)
            assert drawn.shape[0] == image.shape[0] == row["height"]
            assert (drawn[:, : row["width"]] != image).any() or model == "tiny-a"
