"""The evaluation files of 4D-Humans (`hmr2_evaluation_data/*.npz`) -> samples.

Schema, as read by `hmr2/datasets/image_dataset.py` (MIT); N people, one entry each:

    imgname                (N,)        path below the spec's `images`, text or bytes
    center                 (N, 2)      middle of the person's box in pixels of the image
    scale                  (N,) (N, 1) (N, 2)  side, or width and height, of that box in pixels, margin included
    body_keypoints_2d      (N, 25, 3)  OpenPose's 25 joints: x, y in pixels, confidence
    extra_keypoints_2d     (N, 19, 3)  the 19 joints of the extra regressor, likewise
    body_keypoints_3d      (N, 25, 4)  x, y, z in metres, confidence
    extra_keypoints_3d     (N, 19, 4)  likewise
    body_pose              (N, 72)     axis-angle, global orientation first; with has_body_pose (N,)
    betas                  (N, 10)     with has_betas (N,)

Keypoints that a file lacks count as not labelled. Nothing is unpickled: fields of Python objects (`extra_info`) are
not read, and a needed field of that kind is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmrbench.data import Check, check_images
from hmrbench.errors import DataError
from hmrbench.files import file_sha256, read_arrays
from hmrbench.geometry import axis_angle_to_matrix
from hmrbench.records import Array, Dataset, Sample
from hmrbench.schema import DatasetSpec

_JOINTS = {"body": 25, "extra": 19}


def read(spec: DatasetSpec, folder: Path, boxes: str, limit: int | None = None) -> Dataset:
    """The samples of a 4D-Humans file; `truth` is the mapping that `metrics.mpjpe` and `metrics.pck` describe.

    Spec options: `joints` are compared in 3D, after moving joint `pelvis` to the origin; `body` names the body model
    (default smpl); `pve` adds the true parameters, so that vertices are compared.

    Raises:
        DataError: the file is missing, truncated, lacks a field, or a field is not of its shape.
    """
    path = folder / spec.annotations
    content = _load(path)
    count = len(content["imgname"])
    sizes, centers = _sizes(content, path), _field(content, "center", (count, 2), path)
    images = folder / spec.images
    samples = []
    for i in range(count):
        (x, y), (w, h) = centers[i], sizes[i]
        if not (np.isfinite([x, y, w, h]).all() and w > 0 and h > 0):
            raise DataError(f"{path}: the box of person {i} ({content['imgname'][i]}) is empty or not finite")
        box = (float(x - w / 2), float(y - h / 2), float(w), float(h))
        name = _text(content["imgname"][i])
        samples.append(Sample(f"person {i}", images / name, name, box, padded=True))
    truth = _truth(content, path, spec, sizes)
    chosen = slice(0, count if limit is None else limit)
    cut: dict[str, Any] = {
        k: v[chosen] if isinstance(v, np.ndarray) and len(v) == count and k != "joint_subset" else v
        for k, v in truth.items()
    }
    if "params" in cut:
        cut["params"] = {k: v[chosen] for k, v in cut["params"].items()}
    return Dataset(spec.name, tuple(samples[chosen]), cut, boxes, file_sha256(path), total=count)


def images(spec: DatasetSpec, folder: Path) -> list[str]:
    """The pictures that the annotation file names, below the spec's `images`."""
    return list(dict.fromkeys(_text(name) for name in _load(folder / spec.annotations)["imgname"]))


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _load(path: Path) -> dict[str, Array]:
    content = read_arrays(path, "annotation file")
    lacking = [key for key in ("imgname", "center", "scale") if key not in content]
    if lacking:
        raise DataError(f"{path}: lacks {', '.join(lacking)} as plain arrays")
    return content


def _field(content: dict[str, Array], name: str, shape: tuple[int, ...], path: Path) -> Array:
    if name not in content:
        raise DataError(f"{path}: lacks {name}")
    if content[name].shape != shape:
        raise DataError(f"{path}: {name} is {content[name].shape}, expected {shape}")
    return content[name]


def _sizes(content: dict[str, Array], path: Path) -> Array:
    """Width and height of the boxes in pixels, (N, 2)."""
    count = len(content["imgname"])
    scale = content["scale"].reshape(count, -1) if content["scale"].size % max(count, 1) == 0 else content["scale"]
    if scale.shape not in ((count, 1), (count, 2)):
        raise DataError(f"{path}: scale is {content['scale'].shape}, expected one or two numbers for {count} people")
    return np.broadcast_to(scale.astype(np.float64), (count, 2))


def _keypoints(content: dict[str, Array], path: Path, dimensions: int) -> Array | None:
    """(N, 44, dimensions + 1) coordinates and confidence; None if the file has neither part."""
    count = len(content["imgname"])
    names = {part: f"{part}_keypoints_{dimensions}d" for part in _JOINTS}
    if not any(name in content for name in names.values()):
        return None
    parts = []
    for part, joints in _JOINTS.items():
        shape = (count, joints, dimensions + 1)
        parts.append(_field(content, names[part], shape, path) if names[part] in content else np.zeros(shape))
    return np.concatenate(parts, axis=1).astype(np.float64)


def _truth(content: dict[str, Array], path: Path, spec: DatasetSpec, sizes: Array) -> dict[str, Any]:
    truth: dict[str, Any] = {"box_size_px": sizes.max(axis=1)}
    in_image, in_space = _keypoints(content, path, 2), _keypoints(content, path, 3)
    if in_image is not None:
        truth |= {"keypoints_px": in_image[..., :2], "confidence": in_image[..., 2]}
    if in_space is not None:
        truth |= {"joints_m": in_space[..., :3], "joints_confidence": in_space[..., 3]}
    for metric, field in (("pck", "keypoints_px"), ("mpjpe", "joints_m")):
        if metric in spec.metrics and field not in truth:
            dimensions = "2d" if metric == "pck" else "3d"
            raise DataError(
                f"{path}: lacks body_keypoints_{dimensions} and extra_keypoints_{dimensions}, which {metric} needs"
            )
    if "joints" in spec.options:
        truth |= {"joint_subset": np.array(spec.options["joints"]), "pelvis": spec.options.get("pelvis", 39)}
    if spec.options.get("pve"):
        count = len(content["imgname"])
        pose = torch.from_numpy(_field(content, "body_pose", (count, 72), path).astype(np.float32)).view(-1, 24, 3)
        matrices = axis_angle_to_matrix(pose).numpy()  # (N, 24, 3, 3)
        betas = _field(content, "betas", (count, 10), path).astype(np.float32)
        truth["params"] = {"global_orient": matrices[:, :1], "body_pose": matrices[:, 1:], "betas": betas}
        for name in ("has_body_pose", "has_betas"):  # for training
            truth[name] = _field(content, name, (count,), path) if name in content else np.ones(count)
    return truth


def check(spec: DatasetSpec, folder: Path) -> list[Check]:
    """The annotation file and every picture it names."""
    path = folder / spec.annotations
    try:
        dataset = read(spec, folder, spec.default_boxes)
    except DataError as e:
        return [Check("annotations", "corrupt" if path.exists() else "missing", spec.annotations, detail=str(e))]
    people = Check.count("annotations", "people", len(dataset.samples), spec.counts.get("people"))
    return [people, *check_images({s.image: None for s in dataset.samples}, spec.counts.get("images"))]
