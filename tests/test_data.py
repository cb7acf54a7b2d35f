"""Specs, COCO's reader, checks of what is on disk, pictures, the loader."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from hmrbench import data
from hmrbench.data import images, loader
from hmrbench.data.loader import CropSettings, batches
from hmrbench.errors import DataError, HmrbenchError, UsageError
from hmrbench.schema import Crop

SPEC = data.load_spec("coco-val")
ANNOTATIONS = "annotations/person_keypoints_val2017.json"
DETECTIONS = "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"


def test_known_counts_of_coco_val() -> None:
    assert SPEC.counts == {"images": 5000, "instances": 6352, "boxes": 104125}
    assert SPEC.default_boxes == "det"


def test_unknown_data_set_lists_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown data set 'coco-vol'; did you mean coco-val"):
        data.load_spec("coco-vol")


def test_a_users_file_adds_data_sets(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "mine: {task: hpe, title: Mine, reader: coco, folder: mine, annotations: a.json, images: p, "
        "metrics: [coco-keypoints], licence: none}\n"
    )
    assert data.load_spec("mine", path).folder == "mine"
    assert data.load_spec("coco-val", path) == SPEC
    path.write_text("mine: {task: hpe}\n")
    with pytest.raises(UsageError, match=r"mine\.yaml: 'mine' is not right at title"):
        data.load_spec("mine", path)


def test_people_with_truth_boxes_and_with_detector_boxes(tiny_coco: Path) -> None:
    truth = data.open_dataset(SPEC, tiny_coco, "gt")
    assert [s.id for s in truth.samples] == ["ann 100", "ann 200", "ann 201", "ann 202", "ann 300", "ann 301"]
    found = data.open_dataset(SPEC, tiny_coco)
    assert found.boxes == "det"
    assert len(found.samples) == 9
    assert {s.score for s in truth.samples} == {1.0}
    assert all(0 < s.score <= 1 for s in found.samples)


def test_truth_boxes_are_clipped_to_the_picture_as_mmpose_does(tiny_coco: Path) -> None:
    content = json.loads((tiny_coco / ANNOTATIONS).read_text())
    content["annotations"][0]["bbox"] = [-5, 10, 400, 100]
    (tiny_coco / ANNOTATIONS).write_text(json.dumps(content))
    sample = data.open_dataset(SPEC, tiny_coco, "gt").samples[0]
    assert sample.box_xywh_px == (0, 10, 319, 99)


def test_crowds_and_people_without_keypoints_are_left_out(tiny_coco: Path) -> None:
    content = json.loads((tiny_coco / ANNOTATIONS).read_text())
    content["annotations"][1]["iscrowd"] = 1
    content["annotations"][2] |= {"num_keypoints": 0, "keypoints": [0] * 51}
    (tiny_coco / ANNOTATIONS).write_text(json.dumps(content))
    assert len(data.open_dataset(SPEC, tiny_coco, "gt").samples) == 4


def test_the_folder_may_be_the_root_or_in_it(tiny_coco: Path) -> None:
    assert data.find_folder(SPEC, tiny_coco) == data.find_folder(SPEC, tiny_coco.parent) == tiny_coco
    with pytest.raises(DataError, match="HMRBENCH_DATA"):
        data.find_folder(SPEC, None)
    with pytest.raises(DataError, match="no such data root"):
        data.find_folder(SPEC, tiny_coco / "nowhere")


def break_annotations(folder: Path, **change: object) -> None:
    content = json.loads((folder / ANNOTATIONS).read_text())
    content["annotations"][0] |= change
    (folder / ANNOTATIONS).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / ANNOTATIONS).unlink(), "person_keypoints_val2017.json: annotation file missing"),
        (lambda d: (d / ANNOTATIONS).write_text('{"images": ['), "val2017.json: annotation file is not readable JSON"),
        (lambda d: (d / ANNOTATIONS).write_text("{}"), "lacks images, annotations, categories"),
        (lambda d: (d / DETECTIONS).unlink(), "AP_H_56_person.json: detector box file missing"),
        (lambda d: (d / DETECTIONS).write_text("[]"), "none of its 0 boxes"),
        (
            lambda d: (d / DETECTIONS).write_text(
                '[{"image_id": 77, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 1}]'
            ),
            "none of its 1 boxes lies on one of the 3",
        ),
        (
            lambda d: (d / DETECTIONS).write_text(
                '[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 0, 2], "score": 1}]'
            ),
            "box 0 is empty",
        ),
        (lambda d: (d / DETECTIONS).write_text('[{"image_id": 1}]'), "not a list of COCO detections"),
        (lambda d: (d / "val2017" / "000000000002.jpg").unlink(), "000000000002.jpg: image missing"),
        (lambda d: break_annotations(d, keypoints=[1, 1, 2] * 16), "48 numbers for 17 keypoints"),
        (lambda d: break_annotations(d, area=0), "area"),
    ],
)
def test_what_is_broken_is_named_before_anything_slow(tiny_coco: Path, damage: object, message: str) -> None:
    damage(tiny_coco)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        data.open_dataset(SPEC, tiny_coco)


def test_check_counts_and_names(tiny_coco: Path) -> None:
    found = {c.part: c for c in data.check_dataset(SPEC, tiny_coco)}
    assert [(found[p].status, found[p].found, found[p].expected) for p in ("annotations", "images", "boxes (det)")] == [
        ("partial", "6 instances", "6,352"),
        ("partial", "3 images", "5,000"),
        ("partial", "9 boxes", "104,125"),
    ]
    (tiny_coco / "val2017" / "000000000001.jpg").unlink()
    cut = tiny_coco / "val2017" / "000000000002.jpg"
    cut.write_bytes(cut.read_bytes()[:2000])
    cv2.imwrite(str(tiny_coco / "val2017" / "000000000003.jpg"), np.zeros((8, 9, 3), np.uint8))
    bad = {Path(c.found).name: c for c in data.check_dataset(SPEC, tiny_coco) if c.bad}
    assert bad["000000000001.jpg"].status == "missing"
    assert "cut off" in bad["000000000002.jpg"].detail
    assert bad["000000000003.jpg"].detail == "it is 9x8, the annotations say 320x264"


def test_check_of_photographs(coco_mini: Path) -> None:
    found = {c.part: c.found for c in data.check_dataset(SPEC, coco_mini)}
    assert found == {"annotations": "12 instances", "images": "4 images", "boxes (det)": "118 boxes"}


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff", b"GIF", b"\x89PNG\r\n\x1a\n123"])
def test_a_file_that_is_no_picture_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.jpg: corrupt image"):
        images.read_image(path)


def test_pictures_are_rgb(tmp_path: Path) -> None:
    path = tmp_path / "red.png"
    cv2.imwrite(str(path), np.full((4, 6, 3), (0, 0, 255), np.uint8))
    picture = images.read_image(path)
    assert picture.shape == (4, 6, 3)
    assert picture[0, 0].tolist() == [255, 0, 0]


# --------------------------------------------------------------------------- loader


SETTINGS = CropSettings(Crop(), (64, 48), "udp")


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
@pytest.mark.parametrize("workers", [1, 3])
def test_every_person_comes_once_whatever_the_batches(tiny_coco: Path, batch_size: int, workers: int) -> None:
    samples = data.open_dataset(SPEC, tiny_coco, "det").samples
    order = [8, 0, 3, 1, 2, 7, 5, 6, 4]
    found = list(batches(samples, order, SETTINGS, batch_size, workers))
    assert sorted(np.concatenate([b.index for b in found]).tolist()) == list(range(9))
    assert all(len(b.index) == batch_size for b in found[:-1])
    for batch in found:
        for i, picture, center in zip(batch.index, batch.images, batch.crops.center_px, strict=True):
            alone, crops = loader.crop_image(samples[i].image, [samples[i]], SETTINGS)
            np.testing.assert_array_equal(picture, alone[0])
            np.testing.assert_array_equal(center, crops.center_px[0])


def test_each_picture_is_read_once(tiny_coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = data.open_dataset(SPEC, tiny_coco, "det").samples
    reads: Counter[str] = Counter()
    lock = threading.Lock()

    def counting(path: Path) -> object:
        with lock:
            reads[path.name] += 1
        return images.read_image(path)

    monkeypatch.setattr(loader, "read_image", counting)
    shuffled = np.random.default_rng(0).permutation(len(samples)).tolist()
    list(batches(samples, shuffled, SETTINGS, 2, 2))
    assert set(reads.values()) == {1}
    assert len(reads) == 3


def test_a_corrupt_picture_ends_the_batches(tiny_coco: Path) -> None:
    samples = data.open_dataset(SPEC, tiny_coco, "gt").samples
    samples[0].image.write_bytes(b"x")
    with pytest.raises(HmrbenchError, match="corrupt image"):
        list(batches(samples, range(len(samples)), SETTINGS, 2, 2))
