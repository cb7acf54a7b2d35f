"""Every node of small COCO files replaced by what does not belong there: done, or an error that names the file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import make_coco

from hmrbench import data, evaluation
from hmrbench.errors import HmrbenchError
from hmrbench.pictures import boxes

SPEC = data.load_spec("coco-val")
ANNOTATIONS, DETECTIONS = SPEC.annotations, str(SPEC.boxes["det"])
REMOVED = object()
DEEP: Any = 1
for _ in range(300):
    DEEP = [DEEP]
VALUES = [
    REMOVED, None, True, "", "1", "\ud800", "a\0b", [], ["x"], [[]], {}, 0, -1, 0.5, 10**400, 2**63, 1e308,
    float("nan"), float("inf"), DEEP,
]  # fmt: skip


def nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every node; of a list, the first entry speaks for all."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, child in inner:
        yield from nodes(child, (*path, key))


def mutated(content: Any) -> Iterator[tuple[tuple[Any, ...], Any, Any]]:
    """Path, new value, and the whole that it makes."""
    for path in nodes(content):
        for value in VALUES:
            if not path:
                yield path, value, {} if value is REMOVED else value
                continue
            whole = copy.deepcopy(content)
            parent = whole
            for key in path[:-1]:
                parent = parent[key]
            if value is REMOVED:
                del parent[path[-1]]
            else:
                parent[path[-1]] = value
            yield path, value, whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture with two people."""
    return make_coco(tmp_path_factory.mktemp("mutations") / "coco", (2,))


def results(folder: Path) -> list[dict[str, Any]]:
    people = json.loads((folder / ANNOTATIONS).read_text())["annotations"]
    return [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 0.5, "bbox": a["bbox"]}
        for a in people
    ]


def boxes_of(file: Path, folder: Path) -> None:
    picture = folder / "val2017" / "000000000001.jpg"
    boxes.people_in(picture, boxes.read_boxes(file, [picture]))


def try_all(
    content: Any, file: Path, tries: dict[str, Callable[[], object]], named: tuple[str, ...]
) -> tuple[int, int]:
    """How many of the tries succeeded, and how many were refused by name; anything else fails the test."""
    done = refused = 0
    for path, value, whole in mutated(content):
        file.write_text(json.dumps(whole))
        for name, attempt in tries.items():
            try:
                attempt()
                done += 1
            except HmrbenchError as e:
                if not any(n in str(e) for n in named):
                    pytest.fail(f"{path} = {str(value)[:40]}, {name}: which file? {e}")
                str(e).encode()  # can be printed
                refused += 1
            except Exception as e:
                pytest.fail(f"{path} = {str(value)[:40]}, {name}: {e!r}")
    return done, refused


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_annotations(folder: Path, tmp_path: Path) -> None:
    file, predictions = folder / ANNOTATIONS, tmp_path / "predictions.json"
    predictions.write_text(json.dumps(results(folder)))
    whole = file.read_bytes()
    tries: dict[str, Callable[[], object]] = {
        "gt": lambda: data.open_dataset(SPEC, folder, "gt"),
        "det": lambda: data.open_dataset(SPEC, folder, "det"),
        "score": lambda: evaluation.score_file(predictions, SPEC, data_root=folder),
        "names": lambda: data.named_images(SPEC, folder),
        "boxes": lambda: boxes_of(file, folder),
    }
    names = (file.name, Path(DETECTIONS).name, predictions.name, "000000000001.jpg", "coco-val")
    try:
        done, refused = try_all(json.loads(whole), file, tries, names)
    finally:
        file.write_bytes(whole)
    assert done > 500
    assert refused > 500


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_detector_boxes(folder: Path) -> None:
    file = folder / DETECTIONS
    whole = file.read_bytes()
    tries: dict[str, Callable[[], object]] = {
        "det": lambda: data.open_dataset(SPEC, folder, "det"),
        "check": lambda: data.check_dataset(SPEC, folder),
        "boxes": lambda: boxes_of(file, folder),
    }
    try:
        done, refused = try_all(json.loads(whole), file, tries, (file.name, "000000000001.jpg"))
    finally:
        file.write_bytes(whole)
    assert done > 100
    assert refused > 100


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_results_and_boxes(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "predictions.json"
    tries: dict[str, Callable[[], object]] = {
        "score": lambda: evaluation.score_file(file, SPEC, data_root=folder),
        "boxes": lambda: boxes_of(file, folder),
    }
    done, refused = try_all(results(folder), file, tries, (file.name, "000000000001.jpg"))
    assert done > 20
    assert refused > 100
    detected = {"labels": [0, 2], "scores": [0.9, 0.4], "bboxes": [[1, 1, 50, 60], [5, 5, 9, 9]]}
    for content in (detected, {"000000000001.jpg": [[1, 2, 50, 60]]}, {"000000000001.jpg": detected}):
        done, refused = try_all(content, file, {"boxes": tries["boxes"]}, (file.name, "000000000001.jpg"))
        assert done > 5
        assert refused > 20
