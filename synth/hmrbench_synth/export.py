"""Data sets of synthetic people on disk: COCO's layout and 4D-Humans' layout over the same pictures.

    OUT/{split}/000000000001.jpg ...
    OUT/annotations/person_keypoints_{split}.json    COCO keypoints, as pycocotools reads them
    OUT/hmr_{split}.npz                              4D-Humans' arrays, one row per person in the same order

The npz holds what `hmr2/datasets/image_dataset.py` of 4D-Humans reads: `imgname` (N,), `center` (N, 2) and
`scale` (N, 2) in pixels, `body_keypoints_2d` (N, 25, 3) and `extra_keypoints_2d` (N, 19, 3) with confidence 1
inside the picture and 0 outside, `body_keypoints_3d` (N, 25, 4) and `extra_keypoints_3d` (N, 19, 4) in metres
in the camera's frame with confidence 1, `body_pose` (N, 72) rotation vectors, the global orientation first,
`betas` (N, 10), `has_body_pose`, `has_betas` (N,); and besides `translation_m` (N, 3), `focal_px` (N,),
`image_wh_px` (N, 2), `annotation_id` (N,), for projecting. Pose and betas are of the free body, in SMPL's
format. All 44 joints are defined for it (25 of OpenPose from SMPL joints and picked vertices, 19 by the free
body's regressor), so no confidence in 3D is 0.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from hmrbench.errors import HmrbenchError, UsageError
from hmrbench.records import Array
from hmrbench.skeletons import COCO17
from hmrbench_synth.scene import Person, Scene, render_scene

SPLITS = {
    "train": 0,
    "val": 1,
    "test": 2,
}  # part of every seed: people of different splits are never the same
JPEG_QUALITY = 90
INFO = {"description": "synthetic people of hmrbench", "version": "1"}  # count up when pictures change
BOX_PADDING = 1.1  # margin of 4D-Humans' boxes around COCO's
_SINGLE = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def make_demo(
    images: int,
    seed: int,
    out: Path,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    split: str = "train",
) -> None:
    """Draw a data set; the bytes depend on images, seed and split only, not on the number of workers.

    Numbers are rounded before they are used, so annotations are the same on every machine; pixels may differ
    by one level between kinds of processor, and more between versions of OpenCV's JPEG encoder.

    Args:
        images: how many pictures.
        seed: 0 to 2**32 - 1; picture i of a split belongs to the seed (seed, split, i).
        out: folder, made where missing.
        workers: processes to draw with; 1 draws in this one.
        progress: called with how many pictures are done, and of how many.
        split: train, val or test.

    Raises:
        UsageError: a number that cannot be, or an unknown split.
    """
    if images < 1 or not 0 <= seed < 2**32 or workers < 1:
        raise UsageError(f"need at least one image, one worker and a seed from 0; got {images}, {workers}, {seed}")
    if split not in SPLITS:
        raise UsageError(f"unknown split '{split}'; known: {', '.join(SPLITS)}")
    folder = out / split
    folder.mkdir(parents=True, exist_ok=True)
    (out / "annotations").mkdir(exist_ok=True)
    jobs = [(seed, split, index, folder) for index in range(images)]
    scenes: list[tuple[tuple[int, int], tuple[Person, ...]]] = []
    for scene in _drawn(jobs, min(workers, images)):
        scenes.append(scene)
        if progress is not None:
            progress(len(scenes), images)
    coco = coco_layout(scenes) | {"info": {**INFO, "seed": seed, "split": split}}
    _write(out / "annotations" / f"person_keypoints_{split}.json", json.dumps(coco).encode())
    with tempfile.TemporaryDirectory(dir=out) as scratch:
        part = Path(scratch) / "part.npz"
        arrays: dict[str, Any] = dict(hmr_layout(scenes))
        np.savez_compressed(part, **arrays)
        part.replace(out / f"hmr_{split}.npz")


def demo_scene(seed: int, split: str, index: int) -> Scene:
    """Picture number `index` of a split, as `make_demo` draws it."""
    return render_scene((seed, SPLITS[split], index))


def image_name(index: int) -> str:
    """COCO's file name of picture `index`, whose id is one more."""
    return f"{index + 1:012d}.jpg"


def _draw(job: tuple[int, str, int, Path]) -> tuple[tuple[int, int], tuple[Person, ...]]:
    """Draw and store one picture; returns its size (H, W) and people."""
    seed, split, index, folder = job
    scene = demo_scene(seed, split, index)
    done, jpeg = cv2.imencode(
        ".jpg", np.ascontiguousarray(scene.image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    if not done:
        raise HmrbenchError(f"{folder / image_name(index)}: OpenCV cannot encode it")
    _write(folder / image_name(index), jpeg.tobytes())
    return (scene.image.shape[0], scene.image.shape[1]), scene.people


def _drawn(
    jobs: list[tuple[int, str, int, Path]], workers: int
) -> Iterator[tuple[tuple[int, int], tuple[Person, ...]]]:
    """Results in the order of the jobs."""
    if workers == 1:
        yield from map(_draw, jobs)
        return
    before = {name: os.environ.get(name) for name in _SINGLE}
    os.environ.update(dict.fromkeys(_SINGLE, "1"))
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, cv2.setNumThreads, (1,)) as pool:
            yield from pool.map(_draw, jobs, chunksize=max(1, min(8, len(jobs) // (4 * workers))))
    except BrokenProcessPool as error:
        raise HmrbenchError("a process that draws pictures died; is there too little memory?") from error
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _write(path: Path, content: bytes) -> None:
    """The whole file or none."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def coco_layout(scenes: list[tuple[tuple[int, int], tuple[Person, ...]]]) -> dict[str, Any]:
    """COCO's annotation file as a dictionary: people numbered from 1 in the order of the pictures."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index, ((height, width), people) in enumerate(scenes):
        images.append({"id": index + 1, "file_name": image_name(index), "height": height, "width": width})
        for person in people:
            flags = person.keypoints_px[:, 2]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": 1,
                    "iscrowd": 0,
                    "num_keypoints": int((flags > 0).sum()),
                    "keypoints": [
                        int(v) if k % 3 == 2 else float(v) for k, v in enumerate(person.keypoints_px.reshape(-1))
                    ],
                    "bbox": list(person.box_xywh_px),
                    "area": person.area_px,
                }
            )
    person_category = {
        "id": 1,
        "name": "person",
        "supercategory": "person",
        "keypoints": list(COCO17.joints),
        "skeleton": [[a + 1, b + 1] for a, b in COCO17.limbs],
    }
    return {
        "info": INFO,
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [person_category],
    }


def hmr_layout(scenes: list[tuple[tuple[int, int], tuple[Person, ...]]]) -> dict[str, Array]:
    """4D-Humans' arrays by name; see the head of this file."""
    people = [(index, size, person) for index, (size, found) in enumerate(scenes) for person in found]
    boxes = np.array([p.box_xywh_px for _, _, p in people])
    sizes_wh = np.array([(width, height) for _, (height, width), _ in people])
    joints = np.stack([p.joints44_m for _, _, p in people])  # (N, 44, 3)
    focal = np.array([p.focal_px for _, _, p in people])
    centre = np.array([p.centre_px for _, _, p in people])
    px = joints[..., :2] / joints[..., 2:] * focal[:, None, None] + centre[:, None]
    inside = ((px >= 0) & (px <= sizes_wh[:, None] - 1)).all(-1)
    flat = np.concatenate([px, inside[..., None]], axis=-1).astype(np.float32)
    solid = np.concatenate([joints, np.ones((*joints.shape[:2], 1))], axis=-1).astype(np.float32)
    ones = np.ones(len(people), dtype=np.float32)
    return {
        "imgname": np.array([image_name(index) for index, _, _ in people]),
        "center": boxes[:, :2] + boxes[:, 2:] / 2,
        "scale": boxes[:, 2:] * BOX_PADDING,
        "body_keypoints_2d": flat[:, :25],
        "extra_keypoints_2d": flat[:, 25:],
        "body_keypoints_3d": solid[:, :25],
        "extra_keypoints_3d": solid[:, 25:],
        "body_pose": np.stack([np.concatenate([p.global_orient, p.body_pose.reshape(-1)]) for _, _, p in people]),
        "has_body_pose": ones,
        "betas": np.stack([p.betas for _, _, p in people]),
        "has_betas": ones,
        "translation_m": np.stack([p.translation_m for _, _, p in people]),
        "focal_px": focal,
        "image_wh_px": sizes_wh,
        "annotation_id": np.arange(1, len(people) + 1),
    }
