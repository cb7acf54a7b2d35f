"""Loose pictures: boxes -> predictions -> a drawn picture, a record, meshes."""

from __future__ import annotations

import logging
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from hmrbench import environment, evaluation, files
from hmrbench.body import Body, WholeBody
from hmrbench.body.decode import VERTICES
from hmrbench.body.whole_body import PARAMS as WHOLE_PARAMS
from hmrbench.data.family_crops import crops_in
from hmrbench.data.images import check_size, read_image
from hmrbench.device import device_name
from hmrbench.errors import DataError, UsageError
from hmrbench.evaluation import Job
from hmrbench.files.coco_json import find_person, numbers
from hmrbench.geometry import CROP_SIZE_PX, FOCAL_LENGTH_PX, cam_crop_to_full, matrix_to_axis_angle
from hmrbench.pictures import overlay
from hmrbench.pictures.overlay import Mesh
from hmrbench.records import Array, Prediction, Sample
from hmrbench.runtimes import Prepared
from hmrbench.skeletons import COCO17, HMR44, SMPLERX65, skeleton_of

_log = logging.getLogger(__name__)

# --------------------------------------------------------------------------- boxes


@dataclass(frozen=True)
class BoxFile:
    """People's boxes out of a file: for a picture's name or id, (x, y, width, height) and score.

    `sizes_px` are the pictures' width and height, where the file says them.
    """

    path: Path
    boxes: Mapping[str, Sequence[tuple[Any, Any]]]
    sizes_px: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def of(self, image: Path) -> list[tuple[tuple[float, float, float, float], float]]:
        """The boxes of one picture.

        Raises:
            DataError: the file says nothing of this picture, or one of its boxes is none.
        """
        return [self._checked(image, i, *found) for i, found in enumerate(self.boxes[self.name_of(image)])]

    def name_of(self, image: Path) -> str:
        """What the file calls a picture: the longest end of its path, its name in any folder, or its number.

        Raises:
            DataError: the file says nothing of this picture, or has its name in several folders.
        """
        same = self._in_folders.get(image.name, [])
        whole = f"/{image.absolute().as_posix().lstrip('/')}"
        ends = [name for name in same if whole.endswith(f"/{name.lstrip('/')}")]
        if not ends and len(same) > 1:
            raise DataError(f"{self.path}: {image.name} may be each of {reprlib.repr(same)}")
        number = [str(int(image.stem))] if image.stem.isdecimal() else []
        known = [name for name in (image.stem, *number) if name in self.boxes]
        found = sorted(ends, key=len)[-1:] or same or known
        if not found:
            raise DataError(f"{self.path}: no boxes for {image.name}")
        return found[0]

    @cached_property
    def _in_folders(self) -> Mapping[str, list[str]]:
        named: dict[str, list[str]] = {}
        for name in self.boxes:
            named.setdefault(name.rpartition("/")[2], []).append(name)
        return named

    def _checked(self, image: Path, i: int, box: Any, score: Any) -> tuple[tuple[float, float, float, float], float]:
        name = f"{self.path}: box {i} of {image.name}"
        if not isinstance(box, list) or len(box) != 4:
            raise DataError(f"{name} is not [x, y, width, height]: {reprlib.repr(box)}")
        try:
            x, y, width, height, confidence = map(float, numbers(name, [*box, score], 5, "box and score"))
        except DataError:
            width = height = -1.0
        if width <= 0 or height <= 0:
            raise DataError(f"{name} is empty or not finite: {reprlib.repr(box)}, score {reprlib.repr(score)}")
        return (x, y, width, height), confidence


def named_boxes(text: str, pictures: Sequence[Path]) -> BoxFile:
    """Boxes in the words of a command, `10,20,100,200`, for each of the pictures; else those of the file of that name.

    Raises:
        DataError: see `read_boxes`.
        UsageError: numbers, but not four a box.
    """
    parts = text.replace(";", " ").split()
    if not parts or Path(text).exists() or not all(re.fullmatch(r"[-+\d.,e]+", part) for part in parts):
        return read_boxes(Path(text), pictures)
    try:
        found = [[float(number) for number in part.split(",")] for part in parts]
    except ValueError:
        found = [[]]
    if any(len(box) != 4 for box in found):
        raise UsageError(f"a box is X,Y,WIDTH,HEIGHT in pixels, not '{text}'")
    return BoxFile(Path("--boxes"), {path.name: [(box, 1.0) for box in found] for path in pictures}, {})


def read_boxes(path: Path, pictures: Sequence[Path] = ()) -> BoxFile:
    """Boxes from JSON in pixels, x and y of the top left corner, width, height. One of

    - COCO results: `[{"image_id": 785, "bbox": [x, y, w, h], "score": 0.9}, ...]`, or with `file_name`
      instead of `image_id`; `score` may be missing. A person is who has the `category_name` person, else the
      `category_id` 1 (0 where ids start at 0), or no category;
    - COCO annotations: an object with `images` and `annotations`; the `categories` say who is a person; crowds are left
      out;
    - what mmdetection says of one picture: `{"labels": [0], "scores": [0.9], "bboxes": [[x1, y1, x2, y2]]}`, where 0 is
      a person. It is for the picture of the file's name, or for the only one of `pictures`;
    - an object of pictures: `{"a.jpg": [[x, y, w, h], ...], ...}`, or with mmdetection's objects.

    Raises:
        DataError: the file is missing or of no such form, or none of its boxes is a person's.
    """
    content = files.read_json(path, "file of boxes")
    sizes: dict[str, tuple[float, float]] = {}
    try:
        if isinstance(content, list):
            found = _of_results(path, content, None)
        elif not isinstance(content, dict):
            raise DataError(f"it is {reprlib.repr(content)}")
        elif {"images", "annotations"} <= set(content):
            found, sizes = _of_annotations(path, content)
        elif "bboxes" in content:
            found = _of_pictures({pictures[0].name if len(pictures) == 1 else path.stem: content})
        else:
            found = _of_pictures(content)
    except DataError as e:
        forms = "a list of objects with bbox and image_id or file_name, or an object of lists by file name"
        raise DataError(f"{path}: not a file of boxes, which is {forms} ({e})") from None
    boxes: dict[str, list[tuple[Any, Any]]] = {}
    for one in found:
        there = boxes.setdefault(one.picture, [])
        if one.person:
            there.append((one.box, one.score))
    others = sorted({one.category for one in found if one.category})
    if others and not any(boxes.values()):
        raise DataError(f"{path}: none of its boxes is a person's, they are of category {', '.join(others[:8])}")
    return BoxFile(path, boxes, sizes)


class _Found(NamedTuple):
    """One box of a file, or with neither box nor category only that the file knows the picture."""

    picture: str
    box: Any = None
    score: Any = 1.0
    category: str = ""
    person: bool = False


def _of_results(path: Path, entries: Sequence[Any], person: int | None) -> list[_Found]:
    """The boxes of a list of objects; without a known category of persons, the ids say where they start."""
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"entry {i} is {reprlib.repr(entry)}")
        if "bbox" not in entry or not {"file_name", "image_id"} & entry.keys():
            raise DataError(f"entry {i} lacks {'image_id or file_name' if 'bbox' in entry else 'bbox'}")
        if not isinstance(entry.get("category_id", 1), int):
            raise DataError(f"entry {i}: category_id is {reprlib.repr(entry['category_id'])}")
    if person is None:
        person = 0 if any(entry.get("category_id", 1) == 0 for entry in entries) else 1
        if person == 0:
            _log.warning("%s: its category ids start at 0, so 0 is taken for a person", path)
    found = []
    for i, entry in enumerate(entries):
        category = entry.get("category_name", entry.get("category_id", person))
        name = _picture_name(f"entry {i}", entry, "file_name" if "file_name" in entry else "image_id")
        is_person = category == person or str(category).strip().lower() == "person"
        found.append(_Found(name, entry["bbox"], entry.get("score", 1.0), reprlib.repr(category), is_person))
    return found


def _of_annotations(path: Path, content: Mapping[str, Any]) -> tuple[list[_Found], dict[str, tuple[float, float]]]:
    """The boxes of COCO annotations, and the sizes of their pictures."""
    for kind in ("images", "annotations", *(["categories"] if "categories" in content else [])):
        if not isinstance(content[kind], list) or not all(isinstance(entry, dict) for entry in content[kind]):
            raise DataError(f"{kind} is no list of objects")
    names, sizes = {}, {}
    for i, image in enumerate(content["images"]):
        number = _picture_name(f"image {i}", image, "id")
        if number in names:
            raise DataError(f"two images have the same id {number!r}")
        names[number] = _picture_name(f"image {i}", image, "file_name") if "file_name" in image else number
        if image.get("width") is not None and image.get("height") is not None:
            width, height = numbers(f"image {i}", [image["width"], image["height"]], 2, "width and height").tolist()
            sizes[names[number]] = (width, height)
    person = find_person(content["categories"]) if "categories" in content else None
    alone = [entry for entry in content["annotations"] if not entry.get("iscrowd")]
    found = _of_results(path, alone, person)
    known = [one._replace(picture=names.get(one.picture, one.picture)) for one in found]
    return [*map(_Found, names.values()), *known], sizes


def _of_pictures(content: Mapping[str, Any]) -> list[_Found]:
    """The boxes of an object of pictures."""
    found = []
    for picture, boxes in content.items():
        name = picture.replace("\\", "/")
        found.append(_Found(name))
        if isinstance(boxes, list):
            found += [_Found(name, box, 1.0, "", True) for box in boxes]
            continue
        if not isinstance(boxes, dict) or not isinstance(boxes.get("bboxes"), list):
            raise DataError(f"{picture!r} has no list")
        corners = boxes["bboxes"]
        labels, scores = (boxes.get(key, [value] * len(corners)) for key, value in (("labels", 0), ("scores", 1.0)))
        for key, values in (("labels", labels), ("scores", scores)):
            if not isinstance(values, list) or len(values) != len(corners):
                raise DataError(f"{picture!r}: {key} are not {len(corners)} as its bboxes are")
        for i, (corner, label, score) in enumerate(zip(corners, labels, scores, strict=True)):
            x1, y1, x2, y2 = numbers(f"{picture!r}: box {i}", corner, 4, "x1, y1, x2, y2").tolist()
            found.append(_Found(name, [x1, y1, x2 - x1, y2 - y1], score, reprlib.repr(label), label == 0))
    return found


def _picture_name(what: str, entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise DataError(f"{what}: {key} is {reprlib.repr(value)}")
    return str(value).replace("\\", "/")


def people_in(path: Path, boxes: BoxFile | None = None, min_score: float = 0.0) -> list[Sample]:
    """The people of one picture, of which the whole is one person where there are no boxes.

    Args:
        min_score: leave out boxes of lower scores.

    Raises:
        DataError: the picture or its boxes are missing or broken, a box lies outside it, or it is not of the size that
            the boxes were annotated for.
    """
    image = read_image(path)
    height, width = image.shape[:2]
    found = [((0.0, 0.0, float(width), float(height)), 1.0)] if boxes is None else boxes.of(path)
    size = boxes.sizes_px.get(boxes.name_of(path)) if boxes is not None else None
    for i, ((x, y, w, h), _) in enumerate(found):
        if x >= width or y >= height or x + w <= 0 or y + h <= 0:
            raise DataError(
                f"{path}: box {i} ({x:g}, {y:g}, {w:g}, {h:g}) lies outside the picture of {width}x{height}"
            )
    people = [
        Sample(f"{path.name}#{i}", path, path.name, box, score, image_wh_px=size)
        for i, (box, score) in enumerate(found)
        if score >= min_score
    ]
    for sample in people:
        check_size(sample, image)
    return people


# --------------------------------------------------------------------------- predictions


@dataclass(frozen=True)
class Picture:
    """One picture with the people predicted in it.

    `image` (H, W, 3) uint8 RGB. For mesh networks also, per person, `meshes` in the frame of a camera of the
    whole picture, whose focal length is `focal_px` and whose principal point is the picture's middle, and
    `translation_m` (N, 3), which takes the body into that frame. `whole`: the network found the people itself, and the
    scores of their samples are its own.
    """

    path: Path
    image: Array
    samples: tuple[Sample, ...]
    predictions: tuple[Prediction, ...]
    meshes: tuple[Mesh, ...] = ()
    translation_m: Array | None = None
    focal_px: float | None = None
    whole: bool = False

    @property
    def center_px(self) -> tuple[float, float]:
        """The principal point, x then y."""
        return self.image.shape[1] / 2, self.image.shape[0] / 2


def predict_picture(net: nn.Module | Prepared, job: Job, path: Path, samples: Sequence[Sample]) -> Picture:
    """Predict everybody in one picture.

    Args:
        net: the job's network, ready on its runtime (`evaluation.prepare_network`), or one of PyTorch's.
        job: from `evaluation.prepare_pictures`.
        samples: its people; nobody is fine. For a bottom-up network the whole picture, in which it finds them.

    Raises:
        HmrbenchError: a prediction is not finite; names the person.
        DataError: the picture is missing or corrupt.
    """
    image = read_image(path)
    here = replace(job, dataset=replace(job.dataset, samples=tuple(samples), total=len(samples)))
    picture = Picture(path, image, tuple(samples), tuple(evaluation.predict_all(net, here)) if samples else ())
    if job.card.crop.kind == "bottom-up":
        return _with_people(picture)
    return _with_meshes(picture, job) if job.card.task == "hmr" and samples else picture


def _with_people(picture: Picture) -> Picture:
    """The picture with one sample and one prediction for each person that was found in it."""
    samples: list[Sample] = []
    predictions: list[Prediction] = []
    for sample, found in zip(picture.samples, picture.predictions, strict=True):
        assert found.people_scores is not None
        for points, scores, score in zip(found.keypoints_px, found.scores, found.people_scores, strict=True):
            samples.append(replace(sample, id=f"{picture.path.name}#{len(samples)}", score=float(score)))
            predictions.append(Prediction(points, scores))
    return replace(picture, samples=tuple(samples), predictions=tuple(predictions), whole=True)


@torch.inference_mode()
def _with_meshes(picture: Picture, job: Job) -> Picture:
    """The picture with bodies, if there is one, posed for its camera; focal length as in 4D-Humans' `demo.py` (MIT)."""
    height, width = picture.image.shape[:2]
    focal = FOCAL_LENGTH_PX / CROP_SIZE_PX * max(height, width)
    crops = crops_in(picture.samples, job.card.crop, job.card.input, (width, height))
    cam = _stacked(picture, "cam")
    center, size = (torch.from_numpy(np.asarray(x, np.float64)) for x in (crops.center_px, crops.size_px))
    wh = torch.tensor([[width, height]]).expand(len(cam), 2)
    translation = cam_crop_to_full(cam.double(), center, size[:, 1], wh, focal).numpy()
    picture = replace(picture, translation_m=translation, focal_px=focal)
    if job.body is None:
        return picture
    vertices = _meshes(picture, job.body).cpu().numpy() + translation[:, None]
    meshes = [Mesh(v, job.body.faces, overlay.SKINS[i % len(overlay.SKINS)]) for i, v in enumerate(vertices)]
    return replace(picture, meshes=tuple(meshes))


def _meshes(picture: Picture, body: Body | WholeBody) -> Tensor:
    """The vertices (N, V, 3) that the network put out, or that the body has by its parameters."""
    if VERTICES in picture.predictions[0].params:
        return _stacked(picture, VERTICES)
    device = body.mesh.v_template.device
    if isinstance(body, WholeBody):
        whole: Tensor = body({name: _stacked(picture, name).to(device) for name in WHOLE_PARAMS})[0]
        return whole
    params = (_stacked(picture, name).to(device) for name in ("global_orient", "body_pose", "betas"))
    posed: Tensor | None = body(*params, vertices=True).vertices
    assert posed is not None
    return posed


def _stacked(picture: Picture, name: str) -> Tensor:
    return torch.from_numpy(np.stack([p.params[name] for p in picture.predictions]))


# --------------------------------------------------------------------------- what is left behind


def draw(picture: Picture, side_view: bool = False, min_score: float = overlay.MIN_SCORE) -> Array:
    """The picture (H, W, 3) uint8 with meshes, or else keypoints, on it; beside it maybe a side view."""
    if picture.focal_px is None or not picture.meshes:
        points = [p.keypoints_px for p in picture.predictions]
        scores = [p.scores for p in picture.predictions]
        return overlay.draw_keypoints(
            picture.image, points, scores, skeleton_of(len(points[0]) if points else 17), min_score
        )
    drawn = overlay.overlay_meshes(picture.image, picture.meshes, picture.focal_px, picture.center_px)
    return np.hstack((drawn, overlay.side_view(picture.meshes, len(drawn)))) if side_view else drawn


def record(picture: Picture, job: Job) -> dict[str, Any]:
    """What was predicted, as a JSON object.

    `people` has for each person `box_xywh_px`, `box_score`, `keypoints_px` (K, 2) in the order of
    `joint_names` and `keypoint_scores` (K,), null for mesh networks, which give none. Box and score of it are null
    where the network found the people itself; it then gives each a `score`. For mesh networks also `cam`, the camera
    of the crop as scale, x and y; of networks that put out parameters and not vertices `betas` and the rotation
    vectors `global_orient` (1, 3) and `body_pose` (23, 3); `joints_m` (44, 3) of the body in its place; and
    `translation_m`, which takes the body into the frame of a camera of the whole picture, with focal length
    `focal_px` and its axis through the middle. Of networks for SMPL-X, where SMPL does not stand for it, the 65
    keypoints are those that the network itself finds, `body_pose` is (21, 3), there are `expression` and the rotation
    vectors of jaw and hands, and `joints_m` (55, 3) are those of SMPL-X's tree, null where it is not installed.
    """
    if isinstance(job.body, Body):
        joints = HMR44.joints
    elif picture.predictions:
        joints = skeleton_of(len(picture.predictions[0].scores)).joints
    else:
        joints = (COCO17 if job.card.task == "hpe" else SMPLERX65).joints
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
        "runtime": job.runtime.name,
        "runtime_version": job.runtime.version,
        **job.protocol,
        "joint_names": list(joints),
        "focal_px": picture.focal_px,
        "people": [_person(picture, i) for i in range(len(picture.predictions))],
        "remarks": job.remarks,
        "versions": environment.versions(),
        "commit": environment.commit(),
    }


def _person(picture: Picture, i: int) -> dict[str, Any]:
    sample, prediction = picture.samples[i], picture.predictions[i]
    person: dict[str, Any] = {
        "box_xywh_px": None if picture.whole else sample.box_xywh_px,
        "box_score": None if picture.whole else sample.score,
        "keypoints_px": prediction.keypoints_px,
        "keypoint_scores": prediction.scores if picture.translation_m is None else None,  # mesh networks give none
    }
    if picture.whole:
        person["score"] = sample.score
    if picture.translation_m is not None:
        params = prediction.params
        rotations = {k: torch.from_numpy(x) for k, x in params.items() if k in WHOLE_PARAMS and x.shape[-2:] == (3, 3)}
        person |= {
            "joints_m": prediction.joints_m,
            "cam": params["cam"],
            **{name: params[name] for name in ("betas", "expression") if name in params},
            **{name: matrix_to_axis_angle(matrix).numpy() for name, matrix in rotations.items()},
            "translation_m": picture.translation_m[i],
        }
    return person


def write_png(image: Array, path: Path) -> None:
    """Write (H, W, 3) uint8 RGB as PNG, whole or not at all."""
    _, content = cv2.imencode(".png", image[..., ::-1])
    files.write_atomic(path, content.tobytes())
