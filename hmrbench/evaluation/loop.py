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
from hmrbench.errors import HmrbenchError
from hmrbench.evaluation.job import Job
from hmrbench.nets.fusion import fuse
from hmrbench.records import Array, Dataset, Prediction
from hmrbench.skeletons import COCO17


@torch.inference_mode()
def predict(net: nn.Module, job: Job, index: Sequence[int]) -> Iterator[tuple[Array, list[Prediction]]]:
    """Predictions of the samples at `index`, batch by batch, in the order of their pictures."""
    net = net.to(job.device).eval()
    fuse(net, job.fused)
    if job.body is not None:
        job.body.to(job.device)
    settings = CropSettings.of(job.card, job.codec)
    normalize = Normalize(job.card, job.device)
    with precision(job.dtype, job.device):
        pending: tuple[Batch, Any] | None = None
        for batch in batches(job.dataset.samples, index, settings, job.batch_size, job.workers):
            output = forward(net, normalize(batch.images), job, _box_numbers(batch, job))
            if pending is not None:  # decode the last batch while the device works on this one
                yield pending[0].index, _decode(*pending, job)
            pending = batch, output
        if pending is not None:
            yield pending[0].index, _decode(*pending, job)


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
    output = net(images, *more)
    if not job.flip:
        return output
    return job.codec.merge(output, job.codec.flip_back(net(images.flip(3)), COCO17))


def _decode(batch: Batch, output: Any, job: Job) -> list[Prediction]:
    try:
        decoded = job.codec.decode(output, batch.crops)
        if not all(np.isfinite(values).all() for values in decoded[:2]):  # whoever's codec it is
            raise HmrbenchError("a keypoint or its score is not finite")
    except HmrbenchError as e:
        raise type(e)(f"{job.card.name}: {e} ({_not_finite(batch, output, job.dataset)})") from e
    keypoints, scores, *mesh = decoded
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
        if isinstance(tensor, Tensor):
            finite &= torch.isfinite(tensor.flatten(1)).all(1).cpu().numpy()
    chosen = batch.index[~finite] if not finite.all() else batch.index
    return ", ".join(f"{dataset.samples[i].id} in {dataset.samples[i].image.name}" for i in chosen[:3])
