"""One evaluation from its job to its row: predict everybody, score, write the run."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from hmrbench import data, distributed, environment, files, runtimes, zoo
from hmrbench.codecs import Codec
from hmrbench.errors import HmrbenchError, UsageError
from hmrbench.evaluation.job import EvaluationSettings, Job, prepare
from hmrbench.evaluation.outputs import collect_failures, try_outputs, write_predictions
from hmrbench.evaluation.score import measure_by_rules, per_sample_arrays, score_fields
from hmrbench.evaluation.unfinished import Progress, predict_all
from hmrbench.records import EvalResult, Measurement, Prediction
from hmrbench.results import runs as results
from hmrbench.runtimes import Description, Network, Prepared
from hmrbench.schema import Crop, DatasetSpec, ModelCard

_log = logging.getLogger(__name__)


def evaluate(
    model: str | ModelCard | nn.Module,
    dataset: str | DatasetSpec,
    *,
    input_size: tuple[int, int] | None = None,
    weights: str | Path | None = None,
    data_root: str | Path | None = None,
    boxes: str | None = None,
    flip: bool = True,
    codec: str | Codec | None = None,
    device: str = "auto",
    dtype: str = "fp32",
    runtime: str | Path | None = None,
    fused: bool = True,
    cuda_graph: bool | None = None,
    batch_size: str | int = "auto",
    workers: int | None = None,
    limit: int | None = None,
    models_dirs: Sequence[str | Path] = (),
    datasets_file: str | Path | None = None,
    protocol: str | None = None,
    mesh_assets: str | Path | None = None,
    runs: str | Path | None = None,
    resume: bool = False,
) -> EvalResult:
    """Evaluate one network on one data set, as `hmrbench eval` does.

    On the CPU the process keeps freed memory from then on (`device.keep_freed_memory`).

    Args:
        model: a name, the paper's spelling of it, a card, or a network with its weights, which is left on the device
            that it was evaluated on.
        dataset: a name or a spec.
        input_size: H and W in pixels of the pictures that a given network takes; a card has its own. None is 256x192,
            for meshes 256x256.
        weights: `random`, `demo`, a file, or a source; None for the card's own.
        data_root: the folder of the data sets.
        boxes: `gt` or `det`, where the data set has them; None for its default; none for a bottom-up network.
        flip: average pose networks with the mirrored picture.
        codec: in place of the card's: a name, an import path or a Codec; for a given network `udp` if None.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        dtype: fp32, bf16 or fp16; a file has its own.
        runtime: what runs the network, by name or import path, or the file to run; None for PyTorch.
        fused: let the network take its short cuts.
        cuda_graph: replay a CUDA graph of the forward; None: on a CUDA device, where it can be captured.
        batch_size: people, or whole pictures, at once; `auto` is 64 on a GPU, else 8.
        workers: threads that read and crop pictures; as many as there are cores if None.
        limit: the first people, or whole pictures, only; the row is then partial.
        models_dirs: folders of further model cards.
        datasets_file: a further file of data sets.
        protocol: for meshes, whose rule: metro, spin, smplerx, smpl24, `all` side by side; None is 4D-Humans'.
        mesh_assets: file of the matrices that METRO and its kin, and some rules, need; None for the stored one.
        runs: the folder for the run's record; None writes nothing.
        resume: take a finished run as it is and continue an unfinished one.

    Returns:
        The row: scores, and everything needed to obtain them again.

    Raises:
        UsageError: an unknown name or invalid settings.
        DataError: data are missing or broken.
        WeightsError: weights are missing or of another network.
        HmrbenchError: a prediction is not finite, or nothing can be written into `runs`.
    """
    settings = EvaluationSettings(
        weights="random" if isinstance(model, nn.Module) else weights,
        data_root=as_path(data_root),
        boxes=boxes,
        flip=flip,
        codec=codec if isinstance(codec, str) else None,
        device=device,
        dtype=dtype,
        runtime=None if runtime is None else str(runtime),
        fused=fused,
        cuda_graph=cuda_graph,
        batch_size=batch_size,
        workers=environment.usable_cpus() if workers is None else workers,
        limit=limit,
        models_dirs=[Path(folder) for folder in models_dirs],
        datasets_file=as_path(datasets_file),
        protocol=protocol,
        mesh_assets=as_path(mesh_assets),
    )
    net = model if isinstance(model, nn.Module) else None
    if net is None and input_size is not None:
        raise UsageError("input_size is that of a network; a card has its own")
    if net is not None and weights is not None:
        raise UsageError("a network that is given has its weights; leave weights out")
    spec = dataset if isinstance(dataset, DatasetSpec) else data.load_spec(dataset, settings.datasets_file)
    job = prepare(model if not isinstance(model, nn.Module) else card_of(model, spec, input_size), spec, settings)
    if isinstance(codec, Codec):
        job = replace(job, codec=codec)
    if net is not None:
        job = replace(job, weights="given", weights_sha256=state_sha256(net))
    return run(job, runs=as_path(runs), resume=resume, net=net)


def card_of(net: nn.Module, spec: DatasetSpec, input_size: tuple[int, int] | None = None) -> ModelCard:
    """A card for a network that has none, to be evaluated on a data set.

    Raises:
        UsageError: a size that cannot be.
    """
    mesh = spec.task == "hmr"
    try:
        return ModelCard(
            name=type(net).__name__,
            task=spec.task,
            input=input_size or ((256, 256) if mesh else (256, 192)),
            crop=Crop(kind="square" if mesh else "topdown"),
        )
    except ValidationError as e:
        raise UsageError(f"input_size must be two numbers of pixels, not {input_size!r}") from e


def state_sha256(net: nn.Module) -> str:
    """The sha256 of a network's weights: of names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def as_path(given: str | Path | None) -> Path | None:
    """A path, or None as it is."""
    return None if given is None else Path(given)


def run(
    job: Job,
    *,
    runs: Path | None = None,
    resume: bool = False,
    save_predictions: Path | None = None,
    progress: Progress | None = None,
    net: nn.Module | None = None,
) -> EvalResult:
    """Predict everybody, score, and write the run.

    Args:
        net: the network with its weights; None for that of the job's card.
        runs: the folder for the run's record; None writes nothing.
        resume: take a finished run with the same key as it is, and continue an unfinished one.
        save_predictions: also write the predictions here (COCO result json, or npz for meshes).

    Raises:
        HmrbenchError: a prediction is not finite; names the sample. Or a folder or file cannot be written, which is
            tried before anything slow.
        NotWrittenError: the same in the end; it holds the result.
        DataError: a picture is corrupt, or the weights are of another network.
    """
    if runs is not None and resume and save_predictions is None and (done := _finished(job, runs)) is not None:
        return done
    store = None if runs is None else results.PartialRun.of(runs, job.key)
    with distributed.together():
        if distributed.is_first():
            try_outputs(job, runs, save_predictions)
            if store is not None and not resume:
                store.discard()
    training = net is not None and net.training
    ready, part = prepare_network(job, net)
    start = time.monotonic()
    predictions = predict_all(ready, job, store, progress)
    if net is not None:
        net.train(training)
    seconds = time.monotonic() - start
    try:
        found, said = measure_by_rules(predictions, job.spec, job.dataset, job.assets)
    except HmrbenchError as e:
        kept = 0 if store is None or not distributed.is_first() else store.count()
        raise type(e)(
            f"{e}{f'; {kept:,} predictions are kept: --resume goes straight to scoring' if kept else ''}"
        ) from e
    found = [*found, Measurement((), remarks=tuple(job.remarks))]
    result = _result(job, ready.describe(), part, round(seconds, 3), found, said)
    if not distributed.is_first():
        return result
    _write(result, predictions, found, job, runs, save_predictions, store)
    if store is not None:
        store.discard()
    return result


def _finished(job: Job, runs: Path) -> EvalResult | None:
    """The result of a finished run with the job's key, for all processes alike."""
    done = results.finished(runs, "eval", job.run_key)
    if done is not None:
        results.PartialRun.of(runs, job.key).discard()  # it was stopped between its two last steps
    row = distributed.from_first(files.to_json(done.row) if done else "")
    return EvalResult.from_row(json.loads(row)) if row else None


def _result(
    job: Job, told: Description, part: str, seconds: float, found: Sequence[Measurement], said: Mapping[str, Any]
) -> EvalResult:
    """The row of a job: what was measured and said, and everything that decided it."""
    return EvalResult(
        model=job.card.name,
        task=job.card.task,
        dataset=job.spec.name,
        weights=job.weights + part,
        weights_sha256=job.weights_sha256,
        boxes=job.dataset.boxes,
        flip=job.flip,
        codec=job.codec.name,
        input=job.card.input_text,
        device=told.device,
        dtype=job.dtype,
        batch_size=job.batch_size,
        samples=len(job.dataset.samples),
        partial=job.dataset.partial,
        versions=environment.versions(),
        commit=environment.commit(),
        annotations_sha256=job.dataset.annotations_sha256,
        seconds=seconds,
        protocol={**job.protocol, **said},
        fused=job.fused,
        calibration=None if job.exported is None else job.exported.record["calibration"],
        **told.row(),
        **score_fields(found),
    )


def prepare_network(job: Job, net: nn.Module | None = None) -> tuple[Prepared, str]:
    """The job's network with its weights, ready on its runtime; and which part the weights are for, if not all.

    Args:
        net: the network, where it was given.
    """
    if job.exported is not None:
        return runtimes.prepare(job.runtime, job.exported.network, job.setting), ""
    if net is not None:
        return runtimes.prepare(job.runtime, Network(net, job.card), job.setting), ""
    matrices = None if job.assets is None else job.assets.matrices
    net, report = zoo.load_weights(job.card, job.weights_path, matrices)
    if report is not None and report.unexpected:
        some = ", ".join(report.unexpected[:8]) + (", ..." if len(report.unexpected) > 8 else "")
        _log.warning("%s: keys that the network does not have were left out: %s", job.weights_path, some)
    part = f" ({report.part})" if report is not None and report.part else ""
    return runtimes.prepare(job.runtime, Network(net, job.card), job.setting), part


def _write(
    result: EvalResult,
    predictions: Sequence[Prediction],
    found: Sequence[Measurement],
    job: Job,
    runs: Path | None,
    save_predictions: Path | None,
    store: results.PartialRun | None,
) -> None:
    """Write the run and the predictions; what fails leaves the other and the unfinished run as they are."""
    unwritten: list[str] = []
    if runs is not None:
        with collect_failures(unwritten, f"the run in {runs}"):
            results.save(runs, "eval", result.row(), job.run_key, per_sample_arrays(found, job.dataset))
    if save_predictions is not None:
        with collect_failures(unwritten, str(save_predictions)):
            write_predictions(predictions, job, save_predictions)
    if unwritten:
        kept = 0 if store is None else store.count()
        retry = f"{kept} of {len(predictions)} predictions are kept{f' in {store.folder}' if store and kept else ''}"
        retry += ": --resume goes on from there" if kept else ", so repeat it with another folder"
        raise results.NotWrittenError(f"{job.card.name} on {job.spec.name}: {'; '.join(unwritten)}; {retry}", result)
