"""Loose pictures: boxes -> predictions -> a drawn picture, a record, meshes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from hmrbench import environment, files
from hmrbench.data.crop import crops_of
from hmrbench.data.images import read_image
from hmrbench.device import device_name
from hmrbench.errors import DataError
from hmrbench.evaluation import job as evaluate
from hmrbench.evaluation.job import Job
from hmrbench.geometry import CROP_SIZE_PX, FOCAL_LENGTH_PX, cam_crop_to_full, matrix_to_axis_angle
from hmrbench.pictures import overlay
from hmrbench.pictures.overlay import Mesh
from hmrbench.records import Array, Prediction, Sample
from hmrbench.skeletons import COCO17, HMR44

# --------------------------------------------------------------------------- boxes


@dataclass(frozen=True)
class BoxFile:
    """People's boxes out of a file: for a picture's name or id, (x, y, width, height) and score."""

    path: Path
    boxes: Mapping[str, Sequence[tuple[Any, Any]]]

    def of(self, image: Path) -> list[tuple[tuple[float, float, float, float], float]]:
        """The boxes of one picture, found by its file's name, or by a COCO image id that is the number in it.

        Raises:
            DataError: the file says nothing of this picture, or one of its boxes is none.
        """
        names = [image.name, image.stem, str(image)]
        if image.stem.isdigit():
            names.append(str(int(image.stem)))
        found = next((self.boxes[name] for name in names if name in self.boxes), None)
        if found is None:
            raise DataError(f"{self.path}: no boxes for {image.name}")
        return [self._checked(image, i, box, score) for i, (box, score) in enumerate(found)]

    def _checked(self, image: Path, i: int, box: Any, score: Any) -> tuple[tuple[float, float, float, float], float]:
        try:
            x, y, width, height = (float(v) for v in box)
            confidence = float(score)
        except (TypeError, ValueError):
            raise DataError(f"{self.path}: box {i} of {image.name} is not [x, y, width, height]: {box}") from None
        if not np.isfinite([x, y, width, height, confidence]).all() or width <= 0 or height <= 0:
            raise DataError(f"{self.path}: box {i} of {image.name} is empty or not finite: {box}")
        return (x, y, width, height), confidence


def read_boxes(path: Path) -> BoxFile:
    """Boxes from JSON in pixels, x and y of the top left corner, width, height. One of

    - COCO results: `[{"image_id": 785, "bbox": [x, y, w, h], "score": 0.9}, ...]`, or with `file_name`
      instead of `image_id`; `score` may be missing, other categories than 1 (person) are left out;
    - COCO annotations: an object with `images` and `annotations`; crowds are left out;
    - an object of pictures: `{"a.jpg": [[x, y, w, h], ...], ...}`.

    Raises:
        DataError: the file is missing or of no such form.
    """
    content = files.read_json(path, "file of boxes")
    boxes: dict[str, list[tuple[Any, Any]]] = {}
    try:
        if isinstance(content, dict) and not {"images", "annotations"} <= set(content):
            if not all(isinstance(found, list) for found in content.values()):
                raise TypeError("not every picture has a list")
            return BoxFile(path, {name: [(box, 1.0) for box in found] for name, found in content.items()})
        entries = content["annotations"] if isinstance(content, dict) else content
        if isinstance(content, dict):
            boxes = {str(image["id"]): [] for image in content["images"]}
        for entry in entries:
            if entry.get("category_id", 1) == 1 and not entry.get("iscrowd"):
                name = entry["file_name"] if "file_name" in entry else entry["image_id"]
                boxes.setdefault(str(name), []).append((entry["bbox"], entry.get("score", 1.0)))
        if isinstance(content, dict):
            for image in content["images"]:
                boxes[Path(image["file_name"]).name] = boxes[str(image["id"])]
    except (TypeError, KeyError, AttributeError) as e:
        forms = "a list of objects with bbox and image_id or file_name, or an object of lists by file name"
        raise DataError(f"{path}: not a file of boxes, which is {forms} ({e!r})") from e
    return BoxFile(path, boxes)


def people_in(path: Path, boxes: BoxFile | None = None, min_score: float = 0.0) -> list[Sample]:
    """The people of one picture, of which the whole is one person where there are no boxes.

    Args:
        min_score: leave out boxes of lower scores.

    Raises:
        DataError: the picture or its boxes are missing or broken, or a box lies outside it.
    """
    height, width = read_image(path).shape[:2]
    found = [((0.0, 0.0, float(width), float(height)), 1.0)] if boxes is None else boxes.of(path)
    for i, ((x, y, w, h), _) in enumerate(found):
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            raise DataError(
                f"{path}: box {i} ({x:g}, {y:g}, {w:g}, {h:g}) lies outside the picture of {width}x{height}"
            )
    return [
        Sample(id=f"{path.name}#{i}", image=path, image_id=path.name, box_xywh_px=box, score=score, padded=False)
        for i, (box, score) in enumerate(found)
        if score >= min_score
    ]


# --------------------------------------------------------------------------- predictions


@dataclass(frozen=True)
class Picture:
    """One picture with the people predicted in it.

    `image` (H, W, 3) uint8 RGB. For mesh networks also, per person, `meshes` in the frame of a camera of the
    whole picture, whose focal length is `focal_px` and whose principal point is the picture's middle, and
    `translation_m` (N, 3), which takes the body into that frame.
    """

    path: Path
    image: Array
    samples: tuple[Sample, ...]
    predictions: tuple[Prediction, ...]
    meshes: tuple[Mesh, ...] = ()
    translation_m: Array | None = None
    focal_px: float | None = None

    @property
    def center_px(self) -> tuple[float, float]:
        """The principal point, x then y."""
        return self.image.shape[1] / 2, self.image.shape[0] / 2


def predict_picture(net: nn.Module, job: Job, path: Path, samples: Sequence[Sample]) -> Picture:
    """Predict everybody in one picture.

    Args:
        net: the job's network with its weights.
        job: from `evaluate.prepare_pictures`.
        samples: its people; nobody is fine.

    Raises:
        HmrbenchError: a prediction is not finite; names the person.
        DataError: the picture is missing or corrupt.
    """
    image = read_image(path)
    here = replace(job, dataset=replace(job.dataset, samples=tuple(samples), total=len(samples)))
    picture = Picture(path, image, tuple(samples), tuple(evaluate.predict_all(net, here)) if samples else ())
    return picture if job.body is None or not samples else _with_meshes(picture, job)


@torch.inference_mode()
def _with_meshes(picture: Picture, job: Job) -> Picture:
    """The picture with bodies posed for its camera; focal length as in 4D-Humans' `demo.py` (MIT)."""
    assert job.body is not None
    height, width = picture.image.shape[:2]
    focal = FOCAL_LENGTH_PX / CROP_SIZE_PX * max(height, width)
    crops = crops_of(picture.samples, job.card.crop, job.card.input)
    cam, orient, pose, betas = (_stacked(picture, name) for name in ("cam", "global_orient", "body_pose", "betas"))
    center, size = (torch.from_numpy(np.asarray(x, np.float64)) for x in (crops.center_px, crops.size_px))
    wh = torch.tensor([[width, height]]).expand(len(cam), 2)
    translation = cam_crop_to_full(cam.double(), center, size[:, 0], wh, focal).numpy()
    posed = job.body(*(x.to(job.device) for x in (orient, pose, betas)), vertices=True).vertices
    assert posed is not None
    vertices = posed.cpu().numpy() + translation[:, None]
    meshes = [Mesh(v, job.body.faces, overlay.SKINS[i % len(overlay.SKINS)]) for i, v in enumerate(vertices)]
    return replace(picture, meshes=tuple(meshes), translation_m=translation, focal_px=focal)


def _stacked(picture: Picture, name: str) -> Tensor:
    return torch.from_numpy(np.stack([p.params[name] for p in picture.predictions]))


# --------------------------------------------------------------------------- what is left behind


def draw(picture: Picture, side_view: bool = False, min_score: float = overlay.MIN_SCORE) -> Array:
    """The picture (H, W, 3) uint8 with meshes, or else keypoints, on it; beside it maybe a side view."""
    if picture.focal_px is None:
        points = [p.keypoints_px for p in picture.predictions]
        scores = [p.scores for p in picture.predictions]
        return overlay.draw_keypoints(picture.image, points, scores, COCO17, min_score)
    drawn = overlay.overlay_meshes(picture.image, picture.meshes, picture.focal_px, picture.center_px)
    return np.hstack((drawn, overlay.side_view(picture.meshes, len(drawn)))) if side_view else drawn


def record(picture: Picture, job: Job) -> dict[str, Any]:
    """What was predicted, as a JSON object.

    `people` has for each person `box_xywh_px`, `box_score`, `keypoints_px` (K, 2) in the order of
    `joint_names` and `keypoint_scores` (K,), null for mesh networks, which give none. For these also `cam`,
    the weak-perspective camera of the crop, by which the keypoints were projected; `betas`; the rotation
    vectors `global_orient` (1, 3) and `body_pose` (23, 3); `joints_m` (44, 3) of the body in its place; and
    `translation_m`, which takes the body into the frame of a camera of the whole picture, with focal length
    `focal_px` and its axis through the middle.
    """
    joints = COCO17.joints if job.body is None else HMR44.joints
    return {
        "image": str(picture.path),
        "width": picture.image.shape[1],
        "height": picture.image.shape[0],
        "model": job.card.name,
        "task": job.card.task,
        "weights": job.weights,
        "weights_sha256": job.weights_sha256,
        "flip": job.flip,
        "dtype": job.dtype,
        "device": device_name(job.device),
        **job.protocol,
        "joint_names": list(joints),
        "focal_px": picture.focal_px,
        "people": [_person(picture, i) for i in range(len(picture.predictions))],
        "versions": environment.versions(),
        "commit": environment.commit(),
    }


def _person(picture: Picture, i: int) -> dict[str, Any]:
    sample, prediction = picture.samples[i], picture.predictions[i]
    person: dict[str, Any] = {
        "box_xywh_px": sample.box_xywh_px,
        "box_score": sample.score,
        "keypoints_px": prediction.keypoints_px,
        "keypoint_scores": prediction.scores if prediction.joints_m is None else None,  # mesh networks give none
    }
    if picture.translation_m is not None:
        rotations = {name: torch.from_numpy(prediction.params[name]) for name in ("global_orient", "body_pose")}
        person |= {
            "joints_m": prediction.joints_m,
            "cam": prediction.params["cam"],
            "betas": prediction.params["betas"],
            **{name: matrix_to_axis_angle(matrix).numpy() for name, matrix in rotations.items()},
            "translation_m": picture.translation_m[i],
        }
    return person


def write_png(image: Array, path: Path) -> None:
    """Write (H, W, 3) uint8 RGB as PNG, whole or not at all."""
    _, content = cv2.imencode(".png", image[..., ::-1])
    files.write_atomic(path, content.tobytes())
