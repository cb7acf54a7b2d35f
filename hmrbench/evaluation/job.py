"""The one loop: batches -> predictions -> metrics -> EvalResult."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hmrbench import data, distributed, environment, files, metrics, zoo
from hmrbench.body import Body, find_body
from hmrbench.body.decode import decode_mesh
from hmrbench.cards import load_card
from hmrbench.codecs import Codec, Crops, find_codec
from hmrbench.data.loader import Batch, CropSettings, batches
from hmrbench.device import DTYPES, Normalize, device_name, pick_device, precision
from hmrbench.errors import DataError, HmrbenchError, UsageError
from hmrbench.fetch import sources
from hmrbench.files import coco_json, file_sha256
from hmrbench.metrics import coco_keypoints
from hmrbench.nets.fusion import fuse
from hmrbench.records import Array, Dataset, EvalResult, Measurement, Prediction, Sample
from hmrbench.results import runs as results
from hmrbench.schema import DatasetSpec, ModelCard
from hmrbench.skeletons import COCO17

_log = logging.getLogger(__name__)

_SHARD = 512  # people between two saves of an unfinished run, at most
_SAVE_SECONDS = 30.0  # likewise: what a run loses that is killed
Progress = Callable[[str, int, int], None]  # label, people done, people in all


@dataclass(frozen=True)
class Job:
    """One evaluation, with everything checked that can be checked before anything slow starts."""

    card: ModelCard
    spec: DatasetSpec
    dataset: Dataset
    weights: str
    weights_path: Path | None
    weights_sha256: str | None
    codec: Codec
    body: Body | None
    flip: bool
    device: torch.device
    dtype: str
    batch_size: int
    workers: int
    fused: bool = True

    @property
    def key(self) -> str:
        """What two runs share only if everything that decides their numbers is the same."""
        return results.run_key(
            {
                "card": self.card.model_dump(mode="json"),
                "dataset": self.dataset.name,
                "annotations": self.dataset.annotations_sha256,
                "boxes": self.dataset.boxes,
                "samples": [s.id for s in self.dataset.samples],
                "weights": self.weights_sha256 or self.weights,
                "codec": self.codec.name,
                "protocol": self.protocol,
                "flip": self.flip,
                "device": device_name(self.device),
                "dtype": self.dtype,
                "fused": self.fused,
                "batch_size": self.batch_size,
                "versions": environment.versions(),
                "commit": environment.commit(),
            }
        )

    @property
    def protocol(self) -> dict[str, Any]:
        """What else decided the numbers: the body model with its regressors, for meshes; a backend of its own."""
        body = {} if self.body is None else {"body": Path(self.body.source).name, "body_sha256": self.body.sha256}
        backend = zoo.backend_of(self.card)
        return body if backend is None else {**body, "backend": backend}


def body_of(spec: DatasetSpec) -> Body:
    """The body model that a data set is measured with: its option `body`, else SMPL.

    Raises:
        DataError: SMPL is not installed; says how to get it.
    """
    return find_body(spec.options.get("body", "smpl"))


def mesh_codec(body: Body) -> Codec:
    """How the output of an HMR network is read; such networks are not averaged with the mirrored picture."""

    def decode(output: Any, crops: Crops) -> tuple[Array, Array, Array, dict[str, Array]]:
        return decode_mesh(output, crops.center_px, crops.size_px, body)

    def unused(*_: Any) -> Any:
        raise HmrbenchError("a mesh network has no heatmaps to flip or to encode")

    return Codec(name="smpl", geometry="classic", decode=decode, flip_back=unused, encode=unused)


def pick_batch_size(wanted: str | int, device: torch.device) -> int:
    """A batch size from what was asked for; `auto` is 64 on a GPU, else 8: larger ones gain nothing on a CPU."""
    if wanted == "auto":
        return 64 if device.type == "cuda" else 8
    try:
        size = int(wanted)
    except ValueError:
        size = 0
    if size < 1:
        raise UsageError(f"batch size must be 'auto' or a number above 0, not '{wanted}'")
    return size


def card_and_spec(
    model: str | ModelCard, dataset: str | DatasetSpec, models_dirs: Sequence[Path], datasets_file: Path | None
) -> tuple[ModelCard, DatasetSpec]:
    """A network and a data set of the same task, by their names where they are not given themselves.

    Raises:
        UsageError: an unknown name, or two tasks.
    """
    card = model if isinstance(model, ModelCard) else load_card(model, models_dirs)
    spec = dataset if isinstance(dataset, DatasetSpec) else data.load_spec(dataset, datasets_file)
    if card.task != spec.task:
        raise UsageError(f"{card.name} is a network for {card.task}, {spec.name} a data set for {spec.task}")
    return card, spec


def prepare(
    model: str | ModelCard,
    dataset: str | DatasetSpec,
    *,
    weights: str | Path | None = None,
    data_root: Path | None = None,
    boxes: str | None = None,
    flip: bool = True,
    codec: str | None = None,
    device: str = "auto",
    dtype: str = "fp32",
    fused: bool = True,
    batch_size: str | int = "auto",
    workers: int = 2,
    limit: int | None = None,
    models_dirs: Sequence[Path] = (),
    datasets_file: Path | None = None,
    opened: Dataset | None = None,
) -> Job:
    """Check everything cheap and return what `run` needs.

    Args:
        weights: see `sources.resolve_weights`; None for the data set's default where the card has it.
        fused: let the network take its short cuts, see `nets.fusion`.
        opened: the data set, if it was opened before for another model.

    Raises:
        UsageError: an unknown name, a model of another task, a flag that cannot be.
        DataError: data or weights are missing or broken.
    """
    card, spec = card_and_spec(model, dataset, models_dirs, datasets_file)
    if dtype not in DTYPES:
        raise UsageError(f"dtype must be one of {', '.join(DTYPES)}, not '{dtype}'")
    for name in spec.metrics:
        metrics.find_metric(name)
    body = body_of(spec) if card.task == "hmr" else None
    found = mesh_codec(body) if body is not None else find_codec(codec or card.codec)
    if weights is None and card.demo_weights is not None:
        weights = spec.default_weights
    label, path = sources.resolve_weights(card, weights)
    place = pick_device(zoo.fit_backend(card, device, dtype))
    people = opened or data.open_dataset(spec, data_root, boxes, limit)
    _check_truth(spec, people)
    return Job(
        card=card,
        spec=spec,
        dataset=people,
        weights=label,
        weights_path=path,
        weights_sha256=None if path is None else file_sha256(path),
        codec=found,
        body=body,
        flip=flip and card.task == "hpe",
        device=place,
        dtype=dtype,
        batch_size=pick_batch_size(batch_size, place),
        workers=workers,
        fused=fused,
    )


def prepare_pictures(model: str | ModelCard, body: str = "smpl", **settings: Any) -> Job:
    """`prepare` for pictures of no data set; who is in them comes later, see `pictures.predict_picture`.

    Args:
        body: for a mesh network: smpl, free or free-lite.
        settings: those of `prepare` that speak of network and device.
    """
    card = model if isinstance(model, ModelCard) else load_card(model, settings.get("models_dirs", ()))
    none: dict[str, Any] = dict.fromkeys(("reader", "folder", "annotations", "images", "licence"), "")
    spec = DatasetSpec(
        name="pictures", task=card.task, title="loose pictures", metrics=(), options={"body": body}, **none
    )
    return prepare(card, spec, opened=Dataset("pictures", (), None, "given", "", 0), **settings)


def run(
    job: Job,
    *,
    runs: Path | None = None,
    resume: bool = False,
    save_predictions: Path | None = None,
    progress: Progress | None = None,
) -> EvalResult:
    """Predict everybody, score, and write the run.

    Args:
        runs: the folder for the run's record; None writes nothing.
        resume: take a finished run with the same key as it is, and continue an unfinished one.
        save_predictions: also write the predictions here (COCO result json, or npz for meshes).

    Raises:
        HmrbenchError: a prediction is not finite; names the sample. Or a folder or file cannot be written, which is
            tried before anything slow.
        NotWrittenError: the same in the end; it holds the result.
        DataError: a picture is corrupt, or the weights are of another network.
    """
    if runs is not None and resume and save_predictions is None:
        done = results.finished(runs, "eval", job.key)
        if done is not None:
            results.PartialRun.of(runs, job.key).discard()  # it was stopped between its two last steps
        row = distributed.from_first(files.to_json(done.row) if done else "")
        if row:
            return EvalResult.from_row(json.loads(row))
    store = None if runs is None else results.PartialRun.of(runs, job.key)
    with distributed.together():
        if distributed.is_first():
            try_outputs(job, runs, save_predictions)
            if store is not None and not resume:
                store.discard()
    net, report = zoo.load_weights(job.card, job.weights_path)
    part = f" ({report.part})" if report is not None and report.part else ""
    start = time.monotonic()
    predictions = predict_all(net, job, store, progress)
    seconds = time.monotonic() - start
    found = measure(predictions, job.spec, job.dataset)
    result = EvalResult(
        model=job.card.name,
        task=job.card.task,
        dataset=job.spec.name,
        weights=f"{job.weights}{part}",
        weights_sha256=job.weights_sha256,
        boxes=job.dataset.boxes,
        flip=job.flip,
        codec=job.codec.name,
        input=job.card.input_text,
        device=device_name(job.device),
        dtype=job.dtype,
        batch_size=job.batch_size,
        samples=len(job.dataset.samples),
        partial=job.dataset.partial,
        versions=environment.versions(),
        commit=environment.commit(),
        annotations_sha256=job.dataset.annotations_sha256,
        seconds=round(seconds, 3),
        protocol=job.protocol,
        fused=job.fused,
        **_numbers(found),
    )
    if not distributed.is_first():
        return result
    unwritten: list[str] = []
    if runs is not None:
        with _unwritten(unwritten, f"the run in {runs}"):
            results.save(runs, "eval", result.row(), job.key, _per_sample(found))
    if save_predictions is not None:
        with _unwritten(unwritten, str(save_predictions)):
            write_predictions(predictions, job, save_predictions)
    if unwritten:
        kept = 0 if store is None else store.count()
        retry = f"{kept} of {len(predictions)} predictions are kept{f' in {store.folder}' if store and kept else ''}"
        retry += ": --resume goes on from there" if kept else ", so repeat it with another folder"
        raise NotWrittenError(f"{job.card.name} on {job.spec.name}: {'; '.join(unwritten)}; {retry}", result)
    if store is not None:
        store.discard()
    return result


class NotWrittenError(HmrbenchError):
    """All is measured, but a file could not be written: the numbers are in `result`."""

    def __init__(self, message: str, result: EvalResult) -> None:
        super().__init__(message)
        self.result = result


@contextmanager
def _unwritten(failures: list[str], what: str) -> Iterator[None]:
    """Add to `failures` why `what` could not be written inside."""
    try:
        yield
    except OSError as e:
        failures.append(f"{what} could not be written ({e.strerror or e})")


def try_outputs(job: Job, runs: Path | None, save_predictions: Path | None) -> None:
    """Whether what `run` leaves behind can be written.

    Raises:
        HmrbenchError: it cannot; names the folder or file.
    """
    if runs is not None:
        results.try_runs(runs, job.key)
    if save_predictions is not None:
        results.try_writing(save_predictions)


def write_predictions(predictions: Sequence[Prediction], job: Job, path: Path) -> None:
    """Write predictions for others to score: COCO result json for pose, after rescoring and NMS; npz for meshes."""
    if job.card.task == "hpe":
        coco = coco_json.person_category(job.dataset.truth)
        found = coco_keypoints.coco_results(predictions, job.dataset.samples, category_id=coco)
        files.write_atomic(path, json.dumps(found).encode())
    else:
        ids = np.array([s.id for s in job.dataset.samples])
        files.write_arrays(path, {"id": ids, **results.stack(predictions)})


def score_file(
    path: Path,
    dataset: str | DatasetSpec,
    *,
    data_root: Path | None = None,
    boxes: str | None = None,
    model: str = "",
    runs: Path | None = None,
    datasets_file: Path | None = None,
) -> EvalResult:
    """Score predictions out of a file, with the numbers that `run` gives for them.

    Raises:
        DataError: the file is missing or not of the data set's form, or the data are missing.
        NotWrittenError: the run could not be written; it holds the result.
    """
    if runs is not None:
        results.try_writing(runs / "score.json", runs)
    spec = dataset if isinstance(dataset, DatasetSpec) else data.load_spec(dataset, datasets_file)
    people = data.open_truth(spec, data_root, boxes)
    if spec.task == "hpe":
        predicted = _read_results(path)
        try:
            found = [coco_keypoints.measure_results(people.truth, predicted)]
        except DataError as e:  # the truth was found right before
            raise DataError(f"{path}: {e}") from None
        lost, of = coco_keypoints.unpredicted(people.truth, predicted)
        if lost:
            _log.warning("%s: %d of %d labelled people have no prediction", path, lost, of)
        count = len(predicted)
    else:
        meshes = _read_meshes(path, people)
        found = measure(meshes, spec, people)
        count = len(meshes)
    result = EvalResult(
        model=model or path.stem,
        task=spec.task,
        dataset=spec.name,
        weights=path.name,
        weights_sha256=file_sha256(path),
        boxes=people.boxes if spec.task == "hmr" else "of the file",
        flip=None,
        codec=None,
        input=None,
        device=None,
        dtype=None,
        batch_size=None,
        samples=count,
        partial=False,
        versions=environment.versions(),
        commit=environment.commit(),
        annotations_sha256=people.annotations_sha256,
        **_numbers(found),
    )
    if runs is not None:
        identity = {"file": result.weights_sha256, "dataset": spec.name, "annotations": people.annotations_sha256}
        unwritten: list[str] = []
        with _unwritten(unwritten, f"the run in {runs}"):
            results.save(runs, "score", result.row(), results.run_key(identity), _per_sample(found))
        if unwritten:
            raise NotWrittenError(f"{path}: {unwritten[0]}", result)
    return result


def _check_truth(spec: DatasetSpec, people: Dataset) -> None:
    """Refuse (DataError) a truth that a metric of the data set cannot score, before anything slow."""
    for check in (metrics.find_metric(name).check for name in spec.metrics):
        if check is not None:
            check(people)


def measure(predictions: Sequence[Prediction], spec: DatasetSpec, people: Dataset) -> list[Measurement]:
    """What the data set's metrics say; a body is at hand where true parameters are to be compared as meshes."""
    if isinstance(people.truth, Mapping) and "params" in people.truth:
        people = replace(people, truth={**people.truth, "body": body_of(spec)})
    return [metrics.find_metric(name).compute(predictions, people) for name in spec.metrics]


def _read_results(path: Path) -> list[Any]:
    found = files.read_json(path, "file of predictions")
    if not isinstance(found, list) or not all(isinstance(r, dict) for r in found):
        raise DataError(f"{path}: COCO results are a list of objects")
    return found


def _read_meshes(path: Path, people: Dataset) -> list[Prediction]:
    arrays = files.read_arrays(path, "file of predictions")
    lacking = [name for name in ("id", "keypoints_px", "scores", "crop_area_px2") if name not in arrays]
    if lacking:
        raise DataError(f"{path}: file of predictions lacks {', '.join(lacking)}")
    ids = _ids(arrays.pop("id"), path)
    for name, array in arrays.items():
        _check_array(path, name, array, ids)
    predictions = results.unstack(arrays)
    place = {sample_id: i for i, sample_id in enumerate(ids)}
    missing = [s.id for s in people.samples if s.id not in place]
    if missing:
        raise DataError(f"{path}: no prediction for {missing[0]} ({len(missing)} of {len(people.samples)} samples)")
    return [predictions[place[s.id]] for s in people.samples]


def _ids(array: Array, path: Path) -> list[str]:
    """Whose predictions a file holds, each person once."""
    if array.dtype.kind not in "US" or array.ndim == 0 or array.size != len(array):
        raise DataError(f"{path}: id is {array.shape} of {array.dtype}, expected one text for each prediction")
    try:
        ids = [i.decode() if isinstance(i, bytes) else str(i) for i in array.ravel()]
    except ValueError as e:
        raise DataError(f"{path}: id is not readable as text ({e})") from e
    twice = [i for i, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(f"{path}: {twice[0]} is there more than once ({len(twice)} people in all)")
    return ids


# The shape of one person's entry in a file of mesh predictions; None is any number.
_ENTRIES: Mapping[str, tuple[int | None, ...]] = {
    "keypoints_px": (None, 2),
    "scores": (None,),
    "crop_area_px2": (),
    "joints_m": (None, 3),
}


def _check_array(path: Path, name: str, array: Array, ids: Sequence[str]) -> None:
    """Refuse an array that does not hold one entry of finite numbers for each person; areas may be NaN."""
    wanted = _ENTRIES.get(name, (None,) * (array.ndim - 1))
    fits = array.ndim == 1 + len(wanted) and all(w in (None, n) for w, n in zip(wanted, array.shape[1:], strict=True))
    if not fits or len(array) != len(ids) or 0 in array.shape:
        shape = ", ".join([str(len(ids)), *("any" if w is None else str(w) for w in wanted)])
        raise DataError(f"{path}: {name} is {array.shape}, expected ({shape})")
    if array.dtype.kind not in "fiub":
        raise DataError(f"{path}: {name} holds {array.dtype}, expected numbers")
    if name != "crop_area_px2":
        wrong = np.flatnonzero(~np.isfinite(array.reshape(len(ids), -1)).all(1))
        if wrong.size:
            raise DataError(f"{path}: {name} of {ids[wrong[0]]} is not finite ({wrong.size} people in all)")


def _numbers(found: Sequence[Measurement]) -> dict[str, Any]:
    """The metrics' numbers as fields of an EvalResult."""
    return {
        "metrics": {score.name: score.value for m in found for score in m.scores},
        "units": {score.name: score.unit for m in found for score in m.scores},
        "higher_is_better": {score.name: score.higher_is_better for m in found for score in m.scores},
        "per_joint": {name: values for m in found for name, values in m.per_joint.items()},
        "remarks": [remark for m in found for remark in m.remarks],
    }


def _per_sample(found: Sequence[Measurement]) -> dict[str, Array]:
    return {name: array for m in found for name, array in m.per_sample.items()}


def evaluate(
    model: str | ModelCard, dataset: str | DatasetSpec, *, runs: Path | None = None, **settings: Any
) -> EvalResult:
    """Evaluate one model on one data set: `prepare`, then `run`; takes the settings of `prepare`."""
    return run(prepare(model, dataset, **settings), runs=runs)


# --------------------------------------------------------------------------- the loop


def predict_all(
    net: nn.Module, job: Job, store: results.PartialRun | None = None, progress: Progress | None = None
) -> list[Prediction]:
    """Predictions for all samples of a job, in their order; what `store` holds already is not predicted again.

    Several processes share the samples, and each gets all predictions in the end.
    """
    samples = job.dataset.samples
    done: dict[int, Prediction] = {}
    for index, kept in store.load() if store is not None and distributed.is_first() else ():
        done.update((i, p) for i, p in zip(index.tolist(), kept, strict=True) if 0 <= i < len(samples))
    todo = json.loads(distributed.from_first(json.dumps([i for i in range(len(samples)) if i not in done])))
    mine = distributed.my_share(_by_picture(samples, todo), job.batch_size)
    total = len(done) + len(mine)
    fresh: dict[int, Prediction] = {}
    saved = time.monotonic()
    with distributed.together():
        try:
            for index, predictions in predict(net, job, mine):
                found = dict(zip(index.tolist(), predictions, strict=True))
                done |= found
                fresh |= found
                if store is not None and (len(fresh) >= _SHARD or time.monotonic() - saved >= _SAVE_SECONDS):
                    fresh = _keep(store, fresh)
                    saved = time.monotonic()
                if progress is not None:
                    progress(f"{job.card.name} on {job.spec.name}", len(done), total)
        finally:  # scoring may fail as well
            if store is not None:
                _keep(store, fresh)
    if distributed.size() > 1:
        own = {"index": np.array(list(done)), **results.stack(list(done.values()))} if done else {}
        for part in filter(None, distributed.gather_arrays(own)):
            done.update(zip(part.pop("index").tolist(), results.unstack(part), strict=True))
    return [done[i] for i in range(len(samples))]


def _keep(store: results.PartialRun, fresh: Mapping[int, Prediction]) -> dict[int, Prediction]:
    """Write predictions into an unfinished run. What cannot be written now, with a warning, is left for later."""
    try:
        if fresh:
            store.add(np.array(list(fresh)), list(fresh.values()))
    except OSError as e:
        _log.warning("%s: what is done so far could not be kept (%s)", store.folder, e.strerror or e)
        return dict(fresh)
    return {}


def _by_picture(samples: Sequence[Sample], index: Sequence[int]) -> list[int]:
    """The order in which `predict` works: people of one picture together, pictures in order of first appearance."""
    first: dict[Path, int] = {}
    for i in index:
        first.setdefault(samples[i].image, len(first))
    return sorted(index, key=lambda i: first[samples[i].image])


@torch.inference_mode()
def predict(net: nn.Module, job: Job, index: Sequence[int]) -> Iterator[tuple[Array, list[Prediction]]]:
    """Predictions of the samples at `index`, batch by batch, in the order of their pictures."""
    net = net.to(job.device).eval()
    fuse(net, job.fused)
    if job.body is not None:
        job.body.to(job.device)
    geometry = "square" if job.card.crop.kind == "square" else job.codec.geometry
    settings = CropSettings(job.card.crop, job.card.input, geometry)
    normalize = Normalize(job.card, job.device)
    with precision(job.dtype, job.device):
        pending: tuple[Batch, Any] | None = None
        for batch in batches(job.dataset.samples, index, settings, job.batch_size, job.workers):
            output = forward(net, normalize(batch.images), job)
            if pending is not None:  # decode the last batch while the device works on this one
                yield pending[0].index, _decode(*pending, job)
            pending = batch, output
        if pending is not None:
            yield pending[0].index, _decode(*pending, job)


def forward(net: nn.Module, images: Tensor, job: Job) -> Any:
    """The network's output, averaged with that for the mirrored picture if the job flips."""
    output = net(images)
    if not job.flip:
        return output
    return (output + job.codec.flip_back(net(images.flip(3)), COCO17)) / 2


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


def _not_finite(batch: Batch, output: Any, dataset: Dataset) -> str:
    """The samples whose output is not finite, for the error message."""
    tensors = list(output.values()) if isinstance(output, Mapping) else [output]
    finite = np.ones(len(batch.index), bool)
    for tensor in tensors:
        if isinstance(tensor, Tensor):
            finite &= torch.isfinite(tensor.flatten(1)).all(1).cpu().numpy()
    chosen = batch.index[~finite] if not finite.all() else batch.index
    return ", ".join(f"{dataset.samples[i].id} in {dataset.samples[i].image.name}" for i in chosen[:3])


class _Callable(ModuleType):
    """`hmrbench.evaluate` is this module and, called, the function of the same name."""

    def __call__(self, *args: Any, **kwargs: Any) -> EvalResult:
        return evaluate(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable

__all__ = ["Job", "evaluate", "predict_all", "prepare", "prepare_pictures", "run", "score_file", "write_predictions"]
