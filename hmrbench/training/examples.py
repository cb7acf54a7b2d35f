"""People of a data set -> training examples: a varied crop and what the network should say of it.

An example is a dict of arrays without a batch dimension; which ones there are, the losses know:

- poses: image (H, W, 3) uint8, target (K, h, w), or target_x and target_y (K, bins), weight (K,)
- meshes: image; keypoints_2d (44, 3) in crop widths from the crop's centre, and confidence; keypoints_3d (44, 4) in
  metres, and confidence; global_orient (1, 3, 3), body_pose (23, 3, 3), betas (10,), has_pose (), has_betas ()

In place of the image, examples of pictures that are kept on the device have what makes a crop of them there
(`pictures.Pictures.crop`): picture (), matrix (2, 3), colour (3,).

Everything random about an example comes from the generator it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from hmrbench.codecs import Codec
from hmrbench.data.crop import crops_of, warp
from hmrbench.data.images import check_size, read_image
from hmrbench.errors import DataError, blamed_on
from hmrbench.records import Array, Dataset, Sample
from hmrbench.schema import ModelCard
from hmrbench.skeletons import COCO17, HMR44, Skeleton
from hmrbench.training.augment import View, draw_mesh, draw_pose, turn_joints, turn_keypoints, turn_params
from hmrbench.training.recipes import Augment

Example = dict[str, Array]


@dataclass(frozen=True)
class Examples:
    """`count` people; `make(i, rng)` is person i as seen this time. `pictures` are those that examples name by
    number, where they are to be kept on the device."""

    count: int
    make: Callable[[int, np.random.Generator], Example]
    pictures: tuple[Path, ...] = ()


@dataclass(frozen=True)
class MeshTruth:
    """What is known of one person's body: keypoints in the image (44, 3) and in space (44, 4), with
    confidences, and parameters as rotation matrices; what is not known has the confidence, or `has_`, 0."""

    keypoints_px: Array
    joints_m: Array
    params: Mapping[str, Array]
    has_pose: float
    has_betas: float


def upright_view(sample: Sample, card: ModelCard) -> View:
    """The crop that evaluation takes of a sample."""
    crops = crops_of([sample], card.crop, card.input)
    return View(crops.center_px[0], crops.size_px[0])


def look(image: Array | int, view: View, matrix: Array, card: ModelCard) -> Example:
    """The crop of an image that a view shows, or what makes it out of the picture with this number."""
    if isinstance(image, int):
        colour = np.array(view.colour or (1.0, 1.0, 1.0))
        return {"picture": np.array(image), "matrix": np.asarray(matrix, np.float64), "colour": colour}
    return {"image": view.recolour(warp(image, matrix, card.input))}


def _images(dataset: Dataset, cached: bool) -> tuple[Callable[[Sample], Array | int], tuple[Path, ...]]:
    """How to come by a sample's image, or by its number among the pictures that are returned too."""
    if not cached:
        return lambda sample: read_image(sample.image), ()
    number = {path: i for i, path in enumerate(dict.fromkeys(sample.image for sample in dataset.samples))}
    return lambda sample: number[sample.image], tuple(number)


# --------------------------------------------------------------------------- poses


def pose_examples(dataset: Dataset, card: ModelCard, codec: Codec, augment: Augment, cached: bool = False) -> Examples:
    """Training examples out of a COCO keypoint set with its own boxes; `cached`, of pictures kept on the device.

    Raises:
        DataError: the data set's samples are not its annotated people.
    """
    keypoints = _coco_keypoints(dataset)  # (N, K, 3)
    if dataset.skeleton.joints != COCO17.joints:  # which of them are the upper body, nobody says
        augment = augment.model_copy(update={"half_body": 0.0})
    wh = np.array([s.box_xywh_px[2:] for s in dataset.samples])
    image_of, pictures = _images(dataset, cached)

    def make(i: int, rng: np.random.Generator) -> Example:
        sample, points, visible = (
            dataset.samples[i],
            keypoints[i, :, :2].astype(np.float64),
            keypoints[i, :, 2],
        )
        view = draw_pose(rng, augment, wh[i], upright_view(sample, card), points, visible)
        image = image_of(sample)
        if not isinstance(image, int):
            check_size(sample, image)
        return pose_example(image, points, visible, view, card, codec, dataset.skeleton)

    return Examples(len(dataset.samples), make, pictures)


def pose_example(
    image: Array | int,
    keypoints_px: Array,
    visible: Array,
    view: View,
    card: ModelCard,
    codec: Codec,
    skeleton: Skeleton = COCO17,
) -> Example:
    """One view of a person as an example; see `look` for the image."""
    matrix = view.matrix(card.input, codec.geometry)
    order = skeleton.flip_order if view.mirrored else None
    points = turn_keypoints(keypoints_px, matrix, order)
    seen = visible if order is None else visible[order]
    with blamed_on(f"{card.where}: codec '{codec.name}'"):
        target, weight = codec.encode(points[None], seen[None], card.input)
    if isinstance(target, tuple):
        targets = {"target_x": target[0][0], "target_y": target[1][0]}
    else:
        targets = {"target": target[0]}
    return {**look(image, view, matrix, card), **targets, "weight": weight[0]}


def _coco_keypoints(dataset: Dataset) -> Array:
    """x, y and visibility (N, K, 3) of each sample's annotation."""
    if not isinstance(dataset.truth, COCO):
        raise DataError(f"{dataset.name}: poses are trained on data sets in COCO's layout")
    found = np.zeros((len(dataset.samples), len(dataset.skeleton.joints), 3), np.float32)
    for i, sample in enumerate(dataset.samples):
        kind, _, number = sample.id.partition(" ")
        if kind != "ann":
            raise DataError(f"{dataset.name}: '{sample.id}' is not an annotated person; train with --boxes gt")
        found[i] = np.reshape(dataset.truth.anns[int(number)]["keypoints"], (-1, 3))
    return found


# --------------------------------------------------------------------------- meshes


def mesh_examples(
    dataset: Dataset, card: ModelCard, augment: Augment, unused_joints_3d: Sequence[int], cached: bool = False
) -> Examples:
    """Training examples out of a file of 4D-Humans that holds parameters (the spec's option `pve: true`); `cached`,
    of pictures kept on the device.

    Raises:
        DataError: keypoints or parameters are missing.
    """
    truth = dataset.truth
    needed = ("keypoints_px", "confidence", "joints_m", "joints_confidence", "params")
    lacking = [k for k in needed if not isinstance(truth, Mapping) or k not in truth]
    if lacking:
        raise DataError(
            f"{dataset.name}: lacks {', '.join(lacking)}; meshes are trained on 4D-Humans' layout with 2D "
            "and 3D keypoints and parameters (option 'pve: true' of the data set's spec)"
        )

    image_of, pictures = _images(dataset, cached)

    def truth_of(i: int) -> MeshTruth:
        return MeshTruth(
            np.column_stack([truth["keypoints_px"][i], truth["confidence"][i]]),
            np.column_stack([truth["joints_m"][i], truth["joints_confidence"][i]]),
            {k: v[i] for k, v in truth["params"].items()},
            float(truth["has_body_pose"][i]),
            float(truth["has_betas"][i]),
        )

    def make(i: int, rng: np.random.Generator) -> Example:
        sample = dataset.samples[i]
        return mesh_example(image_of(sample), sample, truth_of(i), rng, card, augment, unused_joints_3d)

    return Examples(len(dataset.samples), make, pictures)


def mesh_example(
    image: Array | int,
    sample: Sample,
    truth: MeshTruth,
    rng: np.random.Generator,
    card: ModelCard,
    augment: Augment,
    unused_joints_3d: Sequence[int] = (),
) -> Example:
    """A random view of a person as an example; see `look` for the image."""
    points = truth.keypoints_px.astype(np.float64)
    view = draw_mesh(rng, augment, upright_view(sample, card), points[:, :2], points[:, 2])
    matrix = view.matrix(card.input, "square")
    order = HMR44.flip_order
    in_crop = turn_keypoints(points[:, :2], matrix, order if view.mirrored else None)
    confidence, certain = points[:, 2], truth.joints_m[:, 3].copy()
    certain[list(unused_joints_3d)] = 0
    if view.mirrored:
        confidence, certain = confidence[order], certain[order]
    height, width = card.input
    example = {
        **look(image, view, matrix, card),
        "keypoints_2d": np.column_stack([in_crop / [width, height] - 0.5, confidence]),  # (44, 3)
        "keypoints_3d": np.column_stack([turn_joints(truth.joints_m[:, :3], view, order), certain]),  # (44, 4)
        **turn_params(truth.params, view),
        "has_pose": np.array(truth.has_pose),
        "has_betas": np.array(truth.has_betas),
    }
    return {k: v if v.dtype.kind in "iu" else v.astype(np.float32) for k, v in example.items()}
