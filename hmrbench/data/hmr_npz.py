"""The evaluation files of 4D-Humans (`hmr2_evaluation_data/*.npz`) -> samples.

Schema, as read by `hmr2/datasets/image_dataset.py` (MIT); N people, one entry each:

    imgname                (N,) (N, 1) path below the spec's `images`, text or bytes (UTF-8, else Latin-1)
    center                 (N, 2)      middle of the person's box in pixels of the image
    scale                  (N,) (N, 1) (N, 2)  side, or width and height, of that box in pixels, margin included
    body_keypoints_2d      (N, 25, 3)  OpenPose's 25 joints: x, y in pixels, confidence
    extra_keypoints_2d     (N, 19, 3)  the 19 joints of the extra regressor, likewise
    body_keypoints_3d      (N, 25, 4)  x, y, z in metres, confidence (0: not labelled, the position may be anything)
    extra_keypoints_3d     (N, 19, 4)  likewise
    body_pose              (N, 72)     axis-angle, global orientation first; with has_body_pose (N,), 0: not known
    betas                  (N, 10)     with has_betas (N,), likewise
    gender                 (N,)        m, f or n, or the words; only some files have it

Keypoints that a file lacks count as not labelled. Nothing is unpickled: fields of Python objects (`extra_info`) are
not read, and a needed field of that kind is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    (default smpl); `pve` adds the true parameters, so that vertices are compared (`labelled`: of those who have some);
    `meshes` adds them for the rules of other families (`metrics.protocols`), where the file has them.

    Raises:
        DataError: the file is missing, truncated, holds nobody, lacks a field, or a field is not of its shape or type.
    """
    path = folder / spec.annotations
    content = _load(path, _needed(spec))
    names = _names(content, path)
    count = len(names)
    sizes, centers = _sizes(content, path, count), _field(content, "center", (count, 2), path)
    images = folder / spec.images
    samples = []
    for i, name in enumerate(names):
        (x, y), (w, h) = centers[i], sizes[i]
        if not (np.isfinite([x, y, w, h]).all() and w > 0 and h > 0):
            raise DataError(f"{path}: the box of person {i} ({name}) is empty or not finite")
        box = (float(x - w / 2), float(y - h / 2), float(w), float(h))
        samples.append(Sample(f"person {i}", images / name, name, box, padded=True, annotation_id=i))
    truth = _truth(content, path, spec, sizes)
    chosen = slice(0, count if limit is None else limit)
    cut: dict[str, Any] = {
        k: v[chosen] if isinstance(v, np.ndarray) and len(v) == count and k != "joint_subset" else v
        for k, v in truth.items()
    }
    for name in ("params", "mesh_params"):
        if name in cut:
            cut[name] = {k: v[chosen] for k, v in cut[name].items()}
    return Dataset(spec.name, tuple(samples[chosen]), cut, boxes, file_sha256(path), total=count)


def images(spec: DatasetSpec, folder: Path) -> list[str]:
    """The pictures that the annotation file names, below the spec's `images`."""
    path = folder / spec.annotations
    return list(dict.fromkeys(_names(_load(path, ("imgname",)), path)))


def _needed(spec: DatasetSpec) -> tuple[str, ...]:
    return ("imgname", "center", "scale", *(("body_pose", "betas") if spec.options.get("pve") else ()))


def _load(path: Path, needed: Sequence[str]) -> dict[str, Array]:
    content = read_arrays(path, "annotation file")
    lacking = [key for key in needed if key not in content]
    if lacking:
        raise DataError(f"{path}: lacks {', '.join(lacking)} as plain arrays")
    return content


def _names(content: dict[str, Array], path: Path) -> list[str]:
    """The pictures' names, one a person."""
    names = content["imgname"]
    if names.dtype.kind not in "US" or names.ndim == 0 or names.size != len(names):
        raise DataError(f"{path}: imgname is {names.shape} of {names.dtype}, expected one text for each person")
    if not names.size:
        raise DataError(f"{path}: holds nobody (imgname is empty)")
    try:
        found = [_text(name) for name in names.ravel()]
        "".join(found).encode()
    except ValueError as e:  # a code point that is none
        raise DataError(f"{path}: imgname is not readable as text ({e})") from e
    for i, name in enumerate(found):
        if not name or "\0" in name:
            raise DataError(f"{path}: imgname of person {i}, {name!r}, names no file")
    return found


def _text(name: Any) -> str:
    if not isinstance(name, bytes):
        return str(name)
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")


def _field(content: dict[str, Array], name: str, shape: tuple[int, ...], path: Path) -> Array:
    """A field of numbers as float64; (N, 1) is as good as (N,)."""
    if name not in content:
        raise DataError(f"{path}: lacks {name}")
    found = content[name]
    if found.shape not in (shape, (*shape, 1) if len(shape) == 1 else shape):
        raise DataError(f"{path}: {name} is {found.shape}, expected {shape}")
    if found.dtype.kind not in "fiub":
        raise DataError(f"{path}: {name} holds {found.dtype}, expected numbers")
    return found.reshape(shape).astype(np.float64)


def _sizes(content: dict[str, Array], path: Path, count: int) -> Array:
    """Width and height of the boxes in pixels, (N, 2)."""
    shape = content["scale"].shape
    if shape not in ((count,), (count, 1), (count, 2)):
        raise DataError(f"{path}: scale is {shape}, expected one or two numbers for {count} people")
    scale = _field(content, "scale", shape, path).reshape(count, -1)
    return np.broadcast_to(scale, (count, 2))


def _keypoints(content: dict[str, Array], path: Path, dimensions: int, count: int) -> Array | None:
    """(N, 44, dimensions + 1) coordinates and confidence; None if the file has neither part."""
    names = {part: f"{part}_keypoints_{dimensions}d" for part in _JOINTS}
    if not any(name in content for name in names.values()):
        return None
    parts = []
    for part, joints in _JOINTS.items():
        shape = (count, joints, dimensions + 1)
        parts.append(_field(content, names[part], shape, path) if names[part] in content else np.zeros(shape))
    return np.concatenate(parts, axis=1)


def _truth(content: dict[str, Array], path: Path, spec: DatasetSpec, sizes: Array) -> dict[str, Any]:
    count = len(sizes)
    truth: dict[str, Any] = {"box_size_px": sizes.max(axis=1)}
    in_image, in_space = _keypoints(content, path, 2, count), _keypoints(content, path, 3, count)
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
    meshes = spec.options.get("meshes") and {"body_pose", "betas"} <= content.keys()
    if spec.options.get("pve") or meshes:
        known = {name: _known(content, name, count, path) for name in ("body_pose", "betas")}
        pose = torch.from_numpy(known["body_pose"][0].astype(np.float32)).view(-1, 24, 3)
        matrices = axis_angle_to_matrix(pose).numpy()  # (N, 24, 3, 3)
        betas = known["betas"][0].astype(np.float32)
        params = {"global_orient": matrices[:, :1], "body_pose": matrices[:, 1:], "betas": betas}
        if spec.options.get("pve"):
            truth |= {"params": params, "pve_of_some": spec.options["pve"] == "labelled"}
            truth |= {f"has_{name}": has for name, (_, has) in known.items()}
        if meshes:
            whole = np.all([has > 0 for _, has in known.values()], axis=0)
            truth |= {"mesh_params": params, "mesh_known": whole, "genders": _genders(content, path, count)}
    return truth


_GENDERS = {"m": "male", "f": "female", "n": "neutral"}


def _genders(content: dict[str, Array], path: Path, count: int) -> Array:
    """`male`, `female` or `neutral` (N,); empty where the file says nothing."""
    given = content.get("gender", np.full(count, ""))
    if given.size != count or given.dtype.kind not in "US":
        raise DataError(
            f"{path}: gender is {given.shape} of {given.dtype}, expected one text for each of {count} people"
        )
    words = [_text(word).lower() for word in given.ravel()]
    wrong = [i for i, word in enumerate(words) if word and word not in (*_GENDERS, *_GENDERS.values())]
    if wrong:
        raise DataError(f"{path}: gender of person {wrong[0]} is {words[wrong[0]]!r}, not m, f or n")
    return np.array([_GENDERS.get(word, word) for word in words])


def _known(content: dict[str, Array], name: str, count: int, path: Path) -> tuple[Array, Array]:
    """Body parameters and whose are known, (N,); what is not finite of the others is 0."""
    values = _field(content, name, (count, {"body_pose": 72, "betas": 10}[name]), path)
    has = _field(content, f"has_{name}", (count,), path) if f"has_{name}" in content else np.ones(count)
    finite = np.isfinite(values)
    wrong = np.flatnonzero(~np.isfinite(has) | (~finite.all(1) & (has != 0)))
    if wrong.size:
        raise DataError(f"{path}: {name} of person {wrong[0]} is not finite ({wrong.size} people in all)")
    return np.where(finite, values, 0), has


def check(spec: DatasetSpec, folder: Path) -> list[Check]:
    """The annotation file and every picture it names."""
    path = folder / spec.annotations
    try:
        dataset = read(spec, folder, spec.default_boxes)
    except DataError as e:
        return [Check("annotations", "corrupt" if path.exists() else "missing", spec.annotations, detail=str(e))]
    people = Check.count("annotations", "people", len(dataset.samples), spec.counts.get("people"))
    return [people, *check_images({s.image: None for s in dataset.samples}, spec.counts.get("images"))]
