"""The one loop: batches of crops -> network -> predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hmrbench.data.family_crops import FAMILY_CROPS, box_numbers
from hmrbench.data.loader import Batch, CropSettings, batches
from hmrbench.device import Normalize, precision
from hmrbench.errors import HmrbenchError, blamed_on
from hmrbench.evaluation.job import Job
from hmrbench.nets.fusion import fuse, unfold
from hmrbench.records import Array, Dataset, Prediction
from hmrbench.skeletons import COCO17


@torch.inference_mode()
def predict(net: nn.Module, job: Job, index: Sequence[int]) -> Iterator[tuple[Array, list[Prediction]]]:
    """Predictions of the samples at `index`, batch by batch, in the order of their pictures."""
    with blamed_on(job.card.where):
        net = net.to(job.device).eval()
        fuse(net, job.fused)
    if job.body is not None:
        job.body.to(job.device)
    settings = CropSettings.of(job.card, job.codec)
    normalize = Normalize(job.card, job.device)
    try:
        with precision(job.dtype, job.device):
            pending: tuple[Batch, Any] | None = None
            for batch in batches(job.dataset.samples, index, settings, job.batch_size, job.workers):
                output = forward(net, normalize(batch.images), job, _box_numbers(batch, job))
                if pending is not None:  # decode the last batch while the device works on this one
                    yield pending[0].index, _decode(*pending, job)
                pending = batch, output
            if pending is not None:
                yield pending[0].index, _decode(*pending, job)
    finally:
        unfold(net)  # its weights may change, as they do in training


def _box_numbers(batch: Batch, job: Job) -> tuple[Tensor, ...]:
    """What a network is given beside its pictures: CLIFF's numbers of where each box lies; nothing for most."""
    family = FAMILY_CROPS.get(job.card.crop.kind)
    if family is None or not family.has_numbers:
        return ()
    crops = batch.crops
    numbers = box_numbers(crops.center_px, crops.size_px[:, 1], np.asarray(crops.image_wh_px))
    return (torch.from_numpy(numbers).to(job.device),)


def forward(net: nn.Module, images: Tensor, job: Job, more: Sequence[Tensor] = ()) -> Any:
    """The network's output, averaged with that for the mirrored picture if the job flips."""
    with blamed_on(f"{job.card.where}: a forward of {tuple(images.shape)}"):
        output = net(images, *more)
        mirrored = net(images.flip(3)) if job.flip else None
    if mirrored is None:
        return output
    with blamed_on(f"{job.card.where}: codec '{job.codec.name}'"):
        return job.codec.merge(output, job.codec.flip_back(mirrored, COCO17))


def _decode(batch: Batch, output: Any, job: Job) -> list[Prediction]:
    try:
        with blamed_on(f"codec '{job.codec.name}'"):
            keypoints, scores, *mesh = job.codec.decode(output, batch.crops)
            if not all(np.isfinite(values).all() for values in (keypoints, scores)):  # whoever's codec it is
                raise HmrbenchError("a keypoint or its score is not finite")
            if keypoints.shape != (len(batch.index), *scores.shape[1:], 2) or scores.ndim != 2:
                raise HmrbenchError(
                    f"codec '{job.codec.name}' gives keypoints {keypoints.shape}, scores {scores.shape}"
                )
    except HmrbenchError as e:
        raise type(e)(f"{job.card.where}: {e} ({_not_finite(batch, output, job.dataset)})") from e
    joints, params = mesh or (None, {})
    areas = batch.crops.size_px.prod(axis=1)  # (B,)
    return [
        Prediction(
            keypoints_px=keypoints[i],
            scores=scores[i],
            joints_m=None if joints is None else joints[i],
            params={name: values[i] for name, values in params.items()},
            crop_area_px2=float(areas[i]),
        )
        for i in range(len(keypoints))
    ]


def _each(output: Any) -> Iterable[Any]:
    return output if isinstance(output, (tuple, list)) else (output,)


def _not_finite(batch: Batch, output: Any, dataset: Dataset) -> str:
    """The samples whose output is not finite, for the error message."""
    tensors = list(output.values()) if isinstance(output, Mapping) else list(_each(output))
    finite = np.ones(len(batch.index), bool)
    for tensor in tensors:
        if isinstance(tensor, Tensor) and tensor.ndim and len(tensor) == len(finite):
            finite &= torch.isfinite(tensor.reshape(len(finite), -1)).all(1).cpu().numpy()
    chosen = batch.index[~finite] if not finite.all() else batch.index
    return ", ".join(f"{dataset.samples[i].id} in {dataset.samples[i].image.name}" for i in chosen[:3])
