"""Fixtures shared by all tests."""

from __future__ import annotations

import functools
import gc
import json
import os
import sys

if "PYTEST_XDIST_WORKER" in os.environ:  # threads that wait for those of another worker take fifty times as long
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer.testing

TESTS = Path(__file__).parent
REFS = TESTS / "refs"
sys.path[:0] = [str(REFS), str(TESTS)]  # refio, seeding; reference, bad_server


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the tests' own: what they count with parts replaced must not meet a user again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("HMRBENCH_CACHE", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def commands_made_once() -> Iterator[None]:
    """Typer makes all commands anew for each run of a test's, a tenth of a second; here once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.testing._get_command))
        yield


@pytest.fixture(scope="session")
def refs() -> Path:
    """Folder of reference numbers obtained from the official code."""
    return REFS


@pytest.fixture(scope="session")
def official(refs: Path) -> dict[str, Any]:
    """Read-only arrays: poses, and what the official evaluator says of them."""
    with np.load(refs / "metrics.npz") as file:
        arrays = dict(file)
    for array in arrays.values():
        array.setflags(write=False)
    return arrays


@pytest.fixture(scope="module")
def calm() -> Iterator[None]:
    """One thread, which waits for no other, and no garbage collection through what earlier tests left."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()
    yield
    torch.set_num_threads(threads)
    gc.unfreeze()


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """Four real COCO photographs, which lie beside the repository and are not part of it."""
    default = TESTS.parents[1] / "shared" / "data" / "coco-mini"
    folder = Path(os.environ.get("HMRBENCH_TEST_PHOTOS", default))
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"no photographs at {folder}: they must be there in CI")
        pytest.skip(f"no photographs at {folder}")
    return folder


def make_coco(
    folder: Path, people_per_image: tuple[int, ...] = (1, 3, 2), seed: int = 0, size: tuple[int, int] | None = None
) -> Path:
    """A generated data set in the layout of COCO val2017: noise pictures, (W, H) in `size`, people, detector boxes."""
    rng = np.random.default_rng(seed)
    images: list[dict[str, Any]] = []
    people: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for sub in ("val2017", "annotations", "person_detection_results"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    for i, count in enumerate(people_per_image, start=1):
        width, height = size or (320, 240 + 8 * i)
        picture = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (width, height))
        name = f"{i:012d}.jpg"
        cv2.imwrite(str(folder / "val2017" / name), picture)
        images.append({"id": i, "file_name": name, "height": height, "width": width})
        for j in range(count):
            x, y = rng.uniform(5, 120), rng.uniform(5, 60)
            w, h = rng.uniform(60, 150), rng.uniform(90, 170)
            points = np.column_stack([x + rng.uniform(0.1, 0.9, 17) * w, y + rng.uniform(0.1, 0.9, 17) * h])
            seen = np.where(rng.random(17) < 0.8, 2, 0)
            seen[5:7] = 2
            points[seen == 0] = 0
            box = [float(v) for v in (x, y, w, h)]
            people.append(
                {
                    "id": 100 * i + j,
                    "image_id": i,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": float(0.6 * w * h),
                    "bbox": box,
                    "keypoints": np.column_stack([points.round(2), seen]).ravel().tolist(),
                    "num_keypoints": int((seen > 0).sum()),
                }
            )
            boxes.append({"image_id": i, "category_id": 1, "bbox": box, "score": float(rng.uniform(0.4, 1))})
        boxes.append({"image_id": i, "category_id": 1, "bbox": [10.0, 10.0, 50.0, 60.0], "score": 0.1})
    categories = [{"id": 1, "name": "person"}]
    truth = {"images": images, "annotations": people, "categories": categories}
    (folder / "annotations" / "person_keypoints_val2017.json").write_text(json.dumps(truth))
    detections = folder / "person_detection_results" / "COCO_val2017_detections_AP_H_56_person.json"
    detections.write_text(json.dumps(boxes))
    return folder


@pytest.fixture
def tiny_coco(tmp_path: Path) -> Path:
    """A generated data set of three pictures and six people, free to be broken by a test."""
    return make_coco(tmp_path / "coco")


@pytest.fixture
def tiny_cards(tmp_path: Path) -> Path:
    """A folder with the cards of three tiny networks."""
    from tiny_net import write_cards

    return write_cards(tmp_path / "cards")


def prepare_job(model: Any, dataset: Any, opened: Any = None, **settings: Any) -> Any:
    """A job out of single settings."""
    from hmrbench.evaluation import EvaluationSettings, prepare

    return prepare(model, dataset, EvaluationSettings(**settings), opened)


def prepare_training(model: Any, dataset: Any, **settings: Any) -> Any:
    """A training job out of single settings."""
    from hmrbench.training.train import TrainingSettings, prepare

    return prepare(model, dataset, TrainingSettings(**settings))
