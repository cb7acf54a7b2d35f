"""The one loop: batches of crops -> network -> predictions."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hmrbench.data.family_crops import numbers_beside
from hmrbench.data.loader import Batch, CropSettings, batches
from hmrbench.device import Normalize, keep_freed_memory, precision
from hmrbench.errors import HmrbenchError, blamed_on
from hmrbench.evaluation.job import Job
from hmrbench.records import Array, Dataset, Prediction
from hmrbench.runtimes import Network, Prepared, known_runtimes

Decoded = tuple[Array, list[Prediction]]  # places in the data set, and what was found there


@torch.inference_mode()
def predict(net: nn.Module | Prepared, job: Job, index: Sequence[int]) -> Iterator[Decoded]:
    """Predictions of the samples at `index`, batch by batch, in the order of their pictures.

    Args:
        net: the job's network, ready on its runtime, or one of PyTorch's.
    """
    with blamed_on(job.card.where):
        ready = known_runtimes()["pytorch"].prepare(Network(net), job.setting) if isinstance(net, nn.Module) else net
    for body in (job.body, job.whole):
        if body is not None:
            body.to(job.device)
    keep_freed_memory(job.device)
    settings = CropSettings.of(job.card, job.codec)
    normalize = Normalize(job.card, job.device)
    with ready as network:
        yield from overlapped(
            batches(job.dataset.samples, index, settings, job.batch_size, job.workers),
            lambda batch: forward(network, normalize(batch.images), job, numbers_beside(job.card.crop, batch.crops)),
            lambda batch, output: (batch.index, _decode(batch, output, job)),
            job,
        )


def overlapped(
    ahead: Generator[Batch, None, None], run: Callable[[Batch], Any], decode: Callable[[Batch, Any], Decoded], job: Job
) -> Iterator[Decoded]:
    """What `decode` makes of what `run` makes of each batch, in order.

    While a batch runs, one thread has the next one made and another decodes the last one, on a GPU on a stream of its
    own. What was decoded before an error comes is yielded first.
    """
    decoding: Future[Decoded] | None = None
    stream = torch.cuda.Stream(job.device) if job.device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def decode_apart(batch: Batch, output: Any, ran: Any) -> Decoded:
        with ExitStack() as stack:  # these hold for one thread each
            stack.enter_context(torch.inference_mode())
            stack.enter_context(precision(job.dtype, job.device))
            if stream is not None:
                stack.enter_context(torch.cuda.stream(stream))
                stream.wait_event(ran)
                for tensor in output.values() if isinstance(output, Mapping) else _each(output):
                    if isinstance(tensor, Tensor):
                        tensor.record_stream(stream)
            return decode(batch, output)

    with closing(ahead), ThreadPoolExecutor(2, thread_name_prefix="loop") as pool:
        coming = pool.submit(next, ahead, None)
        try:
            while (batch := coming.result()) is not None:
                coming = pool.submit(next, ahead, None)
                output = run(batch)
                ran = None if stream is None else torch.cuda.current_stream(job.device).record_event()
                if decoding is not None:
                    last, decoding = decoding, None
                    yield last.result()
                decoding = pool.submit(decode_apart, batch, output, ran)
        except HmrbenchError:
            if decoding is not None:
                yield decoding.result()
            raise
        if decoding is not None:
            yield decoding.result()


def forward(net: Prepared, images: Tensor, job: Job, more: Sequence[Tensor] = ()) -> Any:
    """The network's output, averaged with that for the mirrored picture if the job flips."""
    with blamed_on(f"{job.card.where}: a forward of {tuple(images.shape)}"):
        output = net(images, *(numbers.to(images.device) for numbers in more))
        mirrored = net(images.flip(3)) if job.flip else None
    if mirrored is None:
        return output
    try:
        with blamed_on(f"codec '{job.codec.name}'"):
            return job.codec.merge(output, job.codec.flip_back(mirrored, job.dataset.skeleton))
    except HmrbenchError as e:
        raise type(e)(f"{job.card.where}: {e}") from e


def _decode(batch: Batch, output: Any, job: Job) -> list[Prediction]:
    try:
        with blamed_on(f"codec '{job.codec.name}'"):
            keypoints, scores, *more = job.codec.decode(output, batch.crops)
            # Whoever's codec it is. Of whole pictures there is an array for each, else one for all.
            for points, values in zip(keypoints, scores, strict=True) if job.codec.whole else [(keypoints, scores)]:
                if not (np.isfinite(points).all() and np.isfinite(values).all()):
                    raise HmrbenchError("a keypoint or its score is not finite")
                if points.shape != (*values.shape, 2) or values.ndim != 2:
                    raise HmrbenchError(
                        f"codec '{job.codec.name}' gives keypoints {points.shape}, scores {values.shape}"
                    )
            if len(keypoints) != len(batch.index):
                raise HmrbenchError(f"codec '{job.codec.name}' gives {len(keypoints)} for {len(batch.index)} samples")
    except HmrbenchError as e:
        raise type(e)(f"{job.card.where}: {e} ({_not_finite(batch, output, job.dataset)})") from e
    people = more[0] if job.codec.whole else None
    joints, params = more if job.card.task == "hmr" else (None, {})
    areas = batch.crops.size_px.prod(axis=1)  # (B,)
    return [
        Prediction(
            keypoints_px=keypoints[i],
            scores=scores[i],
            joints_m=None if joints is None else joints[i],
            params={name: values[i] for name, values in params.items()},
            crop_area_px2=float(areas[i]),
            people_scores=None if people is None else people[i],
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
