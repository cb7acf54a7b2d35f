"""Specs, COCO's reader, checks of what is on disk, pictures, the loader."""

from __future__ import annotations

import json
import os
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from hmrbench import data, evaluation
from hmrbench.data import images, loader
from hmrbench.data.loader import CropSettings, batches
from hmrbench.errors import DataError, HmrbenchError, UsageError
from hmrbench.schema import Crop

SPEC = data.load_spec("coco-val")
ANNOTATIONS = "annotations/person_keypoints_val2017.json"
NAME = "person_keypoints_val2017.json"
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
    with pytest.raises(UsageError, match=r"mine\.yaml: 2 faults\n  'mine' is not right at annotations"):
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


def break_annotations(folder: Path, kind: str = "annotations", **change: object) -> None:
    content = json.loads((folder / ANNOTATIONS).read_text())
    content[kind][0] |= change
    (folder / ANNOTATIONS).write_text(json.dumps(content))


def break_boxes(folder: Path, **change: object) -> None:
    content = json.loads((folder / DETECTIONS).read_text())
    content[0] |= change
    (folder / DETECTIONS).write_text(json.dumps(content))


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
        (lambda d: break_boxes(d, score=float("nan")), "box 0: score: not finite numbers"),
        (lambda d: break_boxes(d, bbox=[1, 1, "5", 2]), "box 0: bbox .*not finite numbers"),
        (lambda d: break_boxes(d, image_id=[1]), "box 0: image_id is"),
        (lambda d: (d / DETECTIONS).write_text('{"a": 1}'), "not a list of COCO detections"),
        (
            lambda d: (d / DETECTIONS).write_text(
                '[{"image_id": 1, "category_id": 0, "bbox": [1, 1, 3, 2], "score": 1}]'
            ),
            r"none of its 1 boxes is of category 1 \(person\), but 0",
        ),
        (lambda d: (d / DETECTIONS).write_text('[{"image_id": 1}]'), "not a list of COCO detections"),
        (lambda d: (d / "val2017" / "000000000002.jpg").unlink(), "000000000002.jpg: image missing"),
        (lambda d: break_annotations(d, keypoints=[1, 1, 2] * 16), "48 numbers for 17 keypoints"),
        (lambda d: break_annotations(d, keypoints=[1, 1, 2] * 16), "in the data set's spec, under 'skeleton'"),
        (lambda d: break_annotations(d, area=0), "area"),
        (
            lambda d: break_annotations(d, keypoints=[5, 5, 0] * 17),
            f"{NAME}: annotation 100: num_keypoints is .*visible",
        ),
        (lambda d: break_annotations(d, bbox=[20, 20, 0, 0]), f"{NAME}: annotation 100: its box has no extent"),
        (lambda d: break_annotations(d, bbox=None), f"{NAME}: annotation 100: None instead of 4 numbers for bbox"),
        (lambda d: break_annotations(d, id=200), f"{NAME}: two annotations have the same id 200"),
        (lambda d: break_annotations(d, id="a"), r"annotations\[0\]: id is 'a', no whole number"),
        (lambda d: break_annotations(d, category_id=None), r"annotations\[0\]: category_id is None"),
        (lambda d: break_annotations(d, "images", id=2), f"{NAME}: two images have the same id 2"),
        (lambda d: break_annotations(d, "images", id=True), r"images\[0\]: id is True, no whole number or text"),
        (lambda d: break_annotations(d, "images", file_name=""), "image 1: file_name is '', no name of a file"),
        (lambda d: break_annotations(d, "images", file_name=5), "image 1: file_name is 5, no name of a file"),
        (lambda d: break_annotations(d, "images", width=0), "image 1: width is 0"),
        (lambda d: break_annotations(d, "images", height="5"), "image 1: height: not finite numbers"),
        (lambda d: (d / ANNOTATIONS).write_text("[" * 100_000 + "]" * 100_000), f"{NAME}: .* nested too deep"),
        (lambda d: (d / ANNOTATIONS).write_text('{"images": {}, "annotations": [], "categories": []}'), "images is {}"),
        (
            lambda d: (d / ANNOTATIONS).write_text('{"images": [3], "annotations": [], "categories": []}'),
            "is 3, no object",
        ),
    ],
)
def test_what_is_broken_is_named_before_anything_slow(tiny_coco: Path, damage: object, message: str) -> None:
    damage(tiny_coco)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        data.open_dataset(SPEC, tiny_coco)


def edit(folder: Path, change: Callable[[dict[str, Any]], object], file: str = ANNOTATIONS) -> None:
    content = json.loads((folder / file).read_text())
    change(content)
    (folder / file).write_text(json.dumps(content))


def test_only_persons_are_predicted_whatever_their_category(tiny_coco: Path) -> None:
    def three(content: dict[str, Any]) -> None:
        content["categories"] = [{"id": 1, "name": "dog"}, {"id": 3, "name": "person"}]
        content["annotations"] = [{**a, "category_id": 3} for a in content["annotations"]]
        content["annotations"] += [{**content["annotations"][0], "id": 900, "category_id": 1}]

    edit(tiny_coco, three)
    edit(tiny_coco, lambda boxes: [b.update(category_id=3) for b in boxes[:5]], DETECTIONS)
    assert [s.id for s in data.open_dataset(SPEC, tiny_coco, "gt").samples][0::5] == ["ann 100", "ann 301"]
    assert [s.id for s in data.open_dataset(SPEC, tiny_coco, "det").samples] == [f"box {i}" for i in range(5)]
    assert {c.part: c.found for c in data.check_dataset(SPEC, tiny_coco)} == {
        "annotations": "6 instances", "images": "3 images", "boxes (det)": "5 boxes",
    }  # fmt: skip


def test_a_box_without_extent_is_left_out_and_named(tiny_coco: Path, caplog: pytest.LogCaptureFixture) -> None:
    break_boxes(tiny_coco, bbox=[5, 5, 0, 10])
    assert [s.id for s in data.open_dataset(SPEC, tiny_coco, "det").samples] == [f"box {i}" for i in range(1, 9)]
    assert f"{DETECTIONS}: box 0 is empty (0 x 10) and left out (1 in all)" in caplog.text


def test_somebody_whose_box_lies_outside_the_picture_is_named(
    tiny_coco: Path, caplog: pytest.LogCaptureFixture
) -> None:
    break_annotations(tiny_coco, bbox=[900, 5, 10, 10])
    assert len(data.open_dataset(SPEC, tiny_coco, "gt").samples) == 5
    assert "the box of annotation 100 has no extent within its image" in caplog.text


def test_text_for_image_ids(tiny_coco: Path) -> None:
    before = data.open_dataset(SPEC, tiny_coco, "gt").samples

    def text(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["id"] = f"im{image['id']}"
        for person in content["annotations"]:
            person["image_id"] = f"im{person['image_id']}"

    edit(tiny_coco, text)
    after = data.open_dataset(SPEC, tiny_coco, "gt").samples
    assert [replace(s, image_id=f"im{s.image_id}") for s in before] == list(after)


def test_what_can_be_told_may_be_missing(tiny_coco: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Counts of keypoints, crowds, sizes: the same samples and the same truth without them."""
    before = data.open_dataset(SPEC, tiny_coco, "gt")

    def shorten(content: dict[str, Any]) -> None:
        for person in content["annotations"]:
            del person["num_keypoints"], person["iscrowd"]
        for image in content["images"]:
            del image["width"], image["height"]
        content["annotations"] += [
            {"id": 900, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 5, "keypoints": []},
            {"id": 901, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 5},
        ]

    edit(tiny_coco, shorten)
    after = data.open_dataset(SPEC, tiny_coco, "gt")
    assert after.samples == before.samples
    for number, person in before.truth.anns.items():
        assert after.truth.anns[number] == person
    assert after.truth.anns[900]["keypoints"] == after.truth.anns[901]["keypoints"] == [0] * 51
    assert not caplog.text
    edit(tiny_coco, lambda content: [person.pop("area") for person in content["annotations"]])
    areas = {n: a["area"] for n, a in data.open_dataset(SPEC, tiny_coco, "gt").truth.anns.items()}
    assert areas == {n: a["bbox"][2] * a["bbox"][3] for n, a in after.truth.anns.items()}
    assert "annotation 100 has no area" in caplog.text
    assert "(8 in all)" in caplog.text


def test_keypoints_that_a_count_of_zero_hides_are_named(tiny_coco: Path, caplog: pytest.LogCaptureFixture) -> None:
    break_annotations(tiny_coco, num_keypoints=0)
    assert len(data.open_dataset(SPEC, tiny_coco, "gt").samples) == 5
    assert "num_keypoints of annotation 100 is 0 though" in caplog.text


def test_scoring_needs_the_annotation_file_only(tiny_coco: Path) -> None:
    content = json.loads((tiny_coco / ANNOTATIONS).read_text())
    (tiny_coco / DETECTIONS).unlink()
    for picture in (tiny_coco / "val2017").iterdir():
        picture.unlink()
    opened = data.open_truth(SPEC, tiny_coco)
    assert (opened.samples, opened.partial, sorted(opened.truth.imgs)) == ((), False, [1, 2, 3])
    assert [a["id"] for a in opened.truth.dataset["annotations"]] == [a["id"] for a in content["annotations"]]
    with pytest.raises(UsageError, match="no 'mine' boxes"):
        data.open_truth(SPEC, tiny_coco, "mine")
    with pytest.raises(DataError, match="detector box file missing"):
        data.open_dataset(SPEC, tiny_coco)


def test_score_says_whom_nobody_predicted(tiny_coco: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    people = json.loads((tiny_coco / ANNOTATIONS).read_text())["annotations"]
    found = [{k: a[k] for k in ("image_id", "category_id", "keypoints")} | {"score": 1.0} for a in people]
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(found))
    assert evaluation.score_file(path, SPEC, data_root=tiny_coco).metrics["PCK@0.1"] == pytest.approx(100)
    assert not caplog.text
    path.write_text(json.dumps(found[2:]))
    assert evaluation.score_file(path, SPEC, data_root=tiny_coco).metrics["AP"] < 70
    assert "predictions.json: 2 of 6 labelled people have no prediction" in caplog.text
    for wrong, message in (([], "there are no boxes or results"), ([{**found[0], "score": "1"}], "result 0 .*score")):
        path.write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=rf"predictions\.json: {message}"):
            evaluation.score_file(path, SPEC, data_root=tiny_coco)


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


def test_a_jpeg_ends_where_its_marker_says(tmp_path: Path) -> None:
    """A phone's film behind the picture, zeros, another JPEG, a thumbnail before it: whole. Cut anywhere: refused."""
    rng = np.random.default_rng(0)
    picture = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (160, 120))
    plain = cv2.imencode(".jpg", picture)[1].tobytes()
    progressive = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    thumbnail = cv2.imencode(".jpg", picture[:40, :60])[1].tobytes()
    app = b"\xff\xe1" + (len(thumbnail) + 8).to_bytes(2, "big") + b"Exif\0\0" + thumbnail
    path = tmp_path / "x.jpg"
    for content in (plain, progressive, plain[:2] + app + plain[2:], plain[:-2] + b"\xff\xff" + plain[-2:]):
        for behind in (b"", bytes(9000), rng.bytes(9000), plain, b"\xff" * 9000):
            path.write_bytes(content + behind)
            assert images.read_image(path).shape == (120, 160, 3)
        for end in (*range(2, len(content) - 2, 97), len(content) - 2):
            path.write_bytes(content[:end])
            with pytest.raises(DataError, match=r"x\.jpg: corrupt image"):
                images.read_image(path)


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 2, 0, 0, 0)
    data_chunk = b"IDAT" + zlib.compress(bytes(1000))
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data_chunk)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("size", [(60000, 60000), (30000, 30000), (13378, 13378), (2**31 - 1, 1), (1, 2**31 - 1)])
def test_pictures_beyond_the_bound_are_not_decoded(
    tmp_path: Path, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images.cv2, "imdecode", None)
    path = tmp_path / "x.png"
    path.write_bytes(png_header(*size))
    with pytest.raises(DataError, match=r"x\.png: image not read, .* more than 178,956,970 pixels"):
        images.read_image(path)


def test_a_file_beyond_the_bound_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with path.open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)
    with pytest.raises(DataError, match=r"x\.png: image is not read: its 1,073,741,825 bytes"):
        images.read_image(path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(DataError, match="image is not readable"):
            images.read_image(path)
    for path in (tmp_path / "none.png", tmp_path / "a\0b.png", Path(__file__) / "x.png"):
        with pytest.raises(DataError, match="image missing"):
            images.read_image(path)


def turned(path: Path, size: tuple[int, int]) -> None:
    """A picture of that width and height, to be shown turned by 90 degrees."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", size).save(path, exif=exif)


def test_a_picture_of_another_size_than_annotated_is_refused(tiny_coco: Path) -> None:
    name = "000000000001.jpg"
    turned(tiny_coco / "val2017" / name, (320, 248))
    samples = data.open_dataset(SPEC, tiny_coco, "gt").samples
    message = rf"{name}: the picture is 248x320 \(turned by its EXIF data, perhaps\), the annotations say 320x248"
    with pytest.raises(DataError, match=message):
        list(batches(samples, range(6), SETTINGS, 2, 2))
    edit(tiny_coco, lambda content: content["images"][0].pop("width"))  # then the picture says it
    samples = data.open_dataset(SPEC, tiny_coco, "gt").samples
    assert samples[0].image_wh_px == (248, 320)
    assert len(list(batches(samples, range(6), SETTINGS, 2, 2))) == 3


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
