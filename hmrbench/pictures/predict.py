"""Loose pictures: boxes -> predictions -> a drawn picture, a record, meshes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from hmrbench import environment, evaluation, files
from hmrbench.body import Body, WholeBody
from hmrbench.body.decode import VERTICES
from hmrbench.body.whole_body import PARAMS as WHOLE_PARAMS
from hmrbench.data.family_crops import crops_in
from hmrbench.data.images import read_image
from hmrbench.device import device_name
from hmrbench.evaluation import Job
from hmrbench.geometry import CROP_SIZE_PX, FOCAL_LENGTH_PX, cam_crop_to_full, matrix_to_axis_angle
from hmrbench.pictures import overlay
from hmrbench.pictures.rendering import SKINS, Mesh
from hmrbench.records import Array, Prediction, Sample
from hmrbench.runtimes import Prepared
from hmrbench.skeletons import COCO17, HMR44, SMPLERX65, skeleton_of

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
    meshes = [Mesh(v, job.body.faces, SKINS[i % len(SKINS)]) for i, v in enumerate(vertices)]
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
