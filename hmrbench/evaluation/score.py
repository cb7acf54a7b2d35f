"""Predictions to numbers: those of a network, or those of a file by whatever tool."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools.coco import COCO

from hmrbench import data, environment, files, metrics
from hmrbench.body import find_whole_body
from hmrbench.body.mesh_assets import MeshAssets
from hmrbench.body.whole_body import VERTICES as SMPLX_VERTICES
from hmrbench.errors import DataError, HmrbenchError, UsageError, blamed_on
from hmrbench.evaluation import pairing, protocols
from hmrbench.evaluation.outputs import collect_failures
from hmrbench.files import file_sha256
from hmrbench.files.coco_json import check_coco
from hmrbench.metrics import coco_keypoints
from hmrbench.records import ANY_BOXES, IMAGE_OF_SAMPLE, Array, Dataset, EvalResult, Measurement, Prediction, Score
from hmrbench.results import runs as results
from hmrbench.schema import DatasetSpec
from hmrbench.schema.importing import beside

_log = logging.getLogger(__name__)


def measure(
    predictions: Sequence[Prediction], spec: DatasetSpec, people: Dataset, assets: MeshAssets | None = None
) -> list[Measurement]:
    """What the data set's metrics say; a body is at hand where true parameters are to be compared as meshes.

    Raises:
        HmrbenchError: a metric fails, or what it gives is no Measurement; names it, and where it failed.
    """
    return measure_by_rules(predictions, spec, people, assets)[0]


def measure_by_rules(
    predictions: Sequence[Prediction], spec: DatasetSpec, people: Dataset, assets: MeshAssets | None = None
) -> tuple[list[Measurement], dict[str, Any]]:
    """The same, and what the rules of other families did, for the row's `protocol`.

    Side by side with others, a rule for which something is missing is left out, and a remark says so.
    """
    if isinstance(people.truth, Mapping) and "params" in people.truth:
        people = replace(people, truth={**people.truth, "body": protocols.body_of(spec)})
    rules = [rule.name for rule in protocols.rules_of(spec)]
    if rules:
        people = protocols.with_meshes(predictions, spec, people, assets)
    found = []
    for name in spec.metrics:
        metric = metrics.find_metric(name, spec.file)
        try:
            with blamed_on(f"{spec.name}: metric '{name}'"), beside(spec.file):
                found.append(_checked(name, metric.compute(predictions, people)))
        except DataError as e:
            if name not in rules or spec.options.get("protocol") != "all":
                raise
            found.append(Measurement((), remarks=(f"not by rule '{name}': {e}",)))
    _refuse_twins(spec, found)
    return found, protocols.said_of_rules(predictions, spec, people)


def _checked(name: str, found: Any) -> Measurement:
    """What a metric gives, its values as plain numbers.

    Raises:
        HmrbenchError: it is not what `Metric.compute` gives.
    """
    if not isinstance(found, Measurement) or not all(isinstance(s, Score) for s in found.scores):
        raise HmrbenchError(
            f"metric '{name}' gives a {type(found).__name__}, not a hmrbench.records.Measurement of Scores"
        )
    scores = tuple(replace(s, value=float(s.value), higher_is_better=bool(s.higher_is_better)) for s in found.scores)
    for score in scores if ":" in name else ():
        kept = np.asarray(found.per_sample.get(score.name, ()))
        if not np.isfinite(score.value):
            raise HmrbenchError(f"metric '{name}': {score.name} is {score.value}")
        if kept.ndim == 1 and kept.size and not np.isclose(np.nanmean(kept), score.value, rtol=1e-6, atol=1e-6):
            raise HmrbenchError(
                f"metric '{name}': per_sample['{score.name}'] has the mean {np.nanmean(kept):.6g}, the score is "
                f"{score.value:.6g}; keep the values under another name, and give the metric a function resample"
            )
    return replace(found, scores=scores)


def _refuse_twins(spec: DatasetSpec, found: Sequence[Measurement]) -> None:
    for what, names in (
        ("a score", [s.name for m in found for s in m.scores]),
        ("an array per sample", [n for m in found for n in m.per_sample]),
    ):
        twins = [name for name, times in Counter(names).items() if times > 1]
        if twins:
            raise HmrbenchError(f"two metrics of {spec.name} give {what} called {twins[0]}: {', '.join(spec.metrics)}")


def score_fields(found: Sequence[Measurement]) -> dict[str, Any]:
    """The metrics' numbers as fields of an EvalResult."""
    return {
        "metrics": {score.name: score.value for m in found for score in m.scores},
        "units": {score.name: score.unit for m in found for score in m.scores},
        "higher_is_better": {score.name: score.higher_is_better for m in found for score in m.scores},
        "per_joint": {name: values for m in found for name, values in m.per_joint.items()},
        "remarks": [remark for m in found for remark in m.remarks],
    }


def per_sample_arrays(found: Sequence[Measurement], people: Dataset) -> dict[str, Array]:
    """What the metrics keep for confidence intervals; where images are drawn, also on which each sample is."""
    arrays = {name: np.asarray(array) for m in found for name, array in m.per_sample.items()}
    if "image_ids" in arrays and people.samples:
        place = {image: i for i, image in enumerate(arrays["image_ids"].tolist())}
        arrays[IMAGE_OF_SAMPLE] = np.array([place[s.image_id] for s in people.samples], np.int64)
    return arrays


def score_file(
    file: str | Path,
    dataset: str | DatasetSpec,
    *,
    data_root: str | Path | None = None,
    boxes: str | None = None,
    model: str = "",
    runs: str | Path | None = None,
    datasets_file: str | Path | None = None,
    protocol: str | None = None,
    mesh_assets: str | Path | None = None,
) -> EvalResult:
    """Score predictions out of a file, with the numbers that `run` gives for them.

    The metrics are those of the data set, as in an evaluation, or of another family's rule.

    A file of meshes (npz) holds `id` (N,), and what the tool that wrote it has of each person: `vertices_m`
    (N, 6890, 3) of SMPL's mesh; `joints_m` (N, 44, 3), 4D-Humans' set; `joints14_m` (N, 14, 3), which METRO and SPIN
    compare; `joints24_m` (N, 24, 3), SMPL's tree; for SMPLer-X's rule `joints22_m` (N, 22, 3), the first ones of
    SMPL-X's tree, or `vertices_m` (N, 10475, 3) of its mesh, if SMPL-X is installed; `keypoints_px` (N, 44, 2) with
    `scores` (N, 44). Joints that it lacks are found on its vertices. What else it holds is left out.

    Args:
        protocol: whose rule, see `evaluation.protocols`; None is 4D-Humans'.
        mesh_assets: the file of the regressor that some rules need; None for the stored one.

    Raises:
        UsageError: a metric of the data set is not there.
        DataError: the file is missing or not of the data set's form, or the data are missing.
        HmrbenchError: a metric fails.
        NotWrittenError: the run could not be written; it holds the result.
    """
    path, runs = Path(file), None if runs is None else Path(runs)
    if runs is not None:
        results.try_writing(runs / "score.json", runs)
    spec = dataset if isinstance(dataset, DatasetSpec) else data.load_spec(dataset, datasets_file)
    spec = protocols.with_protocol(spec, protocol)
    for name in spec.metrics:
        metrics.find_metric(name, spec.file)
    assets = protocols.assets_for(spec, False, None if mesh_assets is None else Path(mesh_assets))
    people = data.open_truth(spec, data_root, boxes)
    found, people, count, said = _measure_file(path, spec, people, assets)
    result = _result(model or path.stem, path, spec, people, count, found, said)
    if runs is not None:
        _write(result, runs, per_sample_arrays(found, people), path)
    return result


def _result(
    model: str,
    path: Path,
    spec: DatasetSpec,
    people: Dataset,
    count: int,
    found: Sequence[Measurement],
    said: Mapping[str, Any],
) -> EvalResult:
    """The row of a file of so many predictions."""
    return EvalResult(
        model=model,
        task=spec.task,
        dataset=spec.name,
        weights=path.name,
        weights_sha256=file_sha256(path),
        boxes=people.boxes if spec.task == "hmr" else ANY_BOXES,
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
        protocol=said,
        **score_fields(found),
    )


def _measure_file(
    path: Path, spec: DatasetSpec, people: Dataset, assets: MeshAssets | None
) -> tuple[list[Measurement], Dataset, int, dict[str, Any]]:
    """What the data set's metrics say of a file, of whom, of how many predictions, and what other rules did."""
    if spec.task == "hpe":
        predicted = _read_results(path)
        found, people = _measure_results(path, predicted, spec, people)
        return found, people, len(predicted), {}
    meshes = _read_meshes(path, people, spec)
    spec, remarks = _measurable(path, meshes[0], spec)
    try:
        found, said = measure_by_rules(meshes, spec, people, assets)
    except DataError as e:
        raise DataError(f"{path}: {e}") from None
    return [*found, Measurement((), remarks=tuple(remarks))], people, len(meshes), said


def _write(result: EvalResult, runs: Path, arrays: Mapping[str, Array], path: Path) -> None:
    """Write the run of a file of predictions."""
    identity = {
        "file": result.weights_sha256,
        "dataset": result.dataset,
        "annotations": result.annotations_sha256,
        **result.protocol,
    }
    unwritten: list[str] = []
    with collect_failures(unwritten, f"the run in {runs}"):
        results.save(runs, "score", result.row(), results.run_key(identity), arrays)
    if unwritten:
        raise results.NotWrittenError(f"{path}: {unwritten[0]}", result)


def _measure_results(
    path: Path, predicted: Sequence[Any], spec: DatasetSpec, people: Dataset
) -> tuple[list[Measurement], Dataset]:
    """What the data set's metrics say of results in COCO's form, and the people whose results they are.

    COCO's own metric takes the results as they are; the others want one prediction for each of some people.
    """
    if not isinstance(people.truth, COCO):
        raise UsageError(
            f"{spec.name}: its reader's truth is not COCO's, so that results in COCO's form say nothing of it"
        )
    found = []
    others = tuple(name for name in spec.metrics if name != coco_keypoints.METRIC.name)
    try:
        check_coco(people.truth, predicted, people.skeleton)
        if len(others) < len(spec.metrics):
            found = [coco_keypoints.measure_results(people.truth, predicted, people.skeleton)]
    except DataError as e:  # the truth was found right before
        raise DataError(f"{path}: {e}") from None
    lost, of = coco_keypoints.unpredicted(people.truth, predicted)
    if lost:
        _log.warning("%s: %d of %d labelled people have no prediction", path, lost, of)
    if others:
        predictions, people = pairing.pair(people, predicted)
        if not predictions:
            raise DataError(f"{path}: none of its results is on the image of a labelled person")
        found += measure(predictions, spec.model_copy(update={"metrics": others}), people)
        if len(predictions) < len(predicted) or len(predictions) < of:
            _log.warning(
                "%s: %s: of %d labelled people %d have one of the %d results; the others do not count",
                path, ", ".join(others), of, len(predictions), len(predicted),
            )  # fmt: skip
        _refuse_twins(spec, found)
    return found, people


def _read_results(path: Path) -> list[Any]:
    found = files.read_json(path, "file of predictions")
    if not isinstance(found, list) or not all(isinstance(r, dict) for r in found):
        raise DataError(f"{path}: COCO results are a list of objects")
    return found


def _read_meshes(path: Path, people: Dataset, spec: DatasetSpec) -> list[Prediction]:
    room = files.MAX_ARRAYS + len(people.samples) * SMPLX_VERTICES * 3 * 8
    arrays = files.read_arrays(path, "file of predictions", room)
    arrays = {f"params.{name}" if name in _OF_OTHERS else name: array for name, array in arrays.items()}
    needed = (
        "id",
        *(("keypoints_px", "scores") if {"keypoints_px", "scores", "crop_area_px2"} & arrays.keys() else ()),
    )
    if lacking := [name for name in needed if name not in arrays]:
        raise DataError(f"{path}: file of predictions lacks {', '.join(lacking)}")
    ids = _ids(arrays.pop("id"), path)
    others = [name for name in arrays if name not in _ENTRIES and not name.startswith("params.")]
    if others and len(others) == len(arrays):
        raise DataError(f"{path}: file of predictions lacks joints_m or vertices_m; it holds {', '.join(others[:8])}")
    arrays = {name: array for name, array in arrays.items() if name not in others}
    for name, array in arrays.items():
        _check_array(path, name, array, ids)
    empty = {"keypoints_px": np.zeros((len(ids), 0, 2)), "scores": np.zeros((len(ids), 0))}
    arrays = {**empty, "crop_area_px2": np.full(len(ids), np.nan), **arrays}
    if "params.vertices_m" in arrays and arrays["params.vertices_m"].shape[1] == SMPLX_VERTICES:
        arrays["params.joints22_m"] = _smplx_joints(arrays.pop("params.vertices_m"), spec, path)
    if "params.vertices_m" in arrays and "joints_m" not in arrays:
        arrays["joints_m"] = _joints_on(arrays["params.vertices_m"], spec, path)
    predictions = results.unstack(arrays)
    place = {sample_id: i for i, sample_id in enumerate(ids)}
    missing = [s.id for s in people.samples if s.id not in place]
    if missing:
        raise DataError(f"{path}: no prediction for {missing[0]} ({len(missing)} of {len(people.samples)} samples)")
    return [predictions[place[s.id]] for s in people.samples]


def _joints_on(vertices_m: Array, spec: DatasetSpec, path: Path) -> Array:
    """The 44 joints (N, 44, 3) of meshes, some at a time."""
    body = protocols.body_of(spec)
    try:
        parts = [body.joints_of(torch.from_numpy(part)).numpy() for part in _parts(vertices_m)]
    except DataError as e:
        raise DataError(f"{path}: vertices_m: {e}") from None
    return np.concatenate(parts)


def _smplx_joints(vertices_m: Array, spec: DatasetSpec, path: Path) -> Array:
    """The first 22 joints (N, 22, 3) of SMPL-X's meshes, some at a time; meshes of it say nothing of SMPL's joints."""
    if not any(rule.whole for rule in protocols.rules_of(spec)):
        wanted = ", ".join(rule.name for rule in protocols.RULES.values() if rule.whole)
        raise DataError(
            f"{path}: vertices_m: these {SMPLX_VERTICES:,} are SMPL-X's, not SMPL's 6,890: only another rule compares "
            f"joints on them (--protocol {wanted})"
        )
    body = find_whole_body()
    return np.concatenate([body.tree_of(torch.from_numpy(part)).numpy() for part in _parts(vertices_m)])


def _parts(array: Array, size: int = 256) -> Iterator[Array]:
    return (np.asarray(array[start : start + size], np.float32) for start in range(0, len(array), size))


def _measurable(path: Path, one: Prediction, spec: DatasetSpec) -> tuple[DatasetSpec, list[str]]:
    """The data set with the metrics that a file of predictions suffices for, and remarks on the others.

    Raises:
        DataError: it suffices for none.
    """
    lacks = {} if one.keypoints_px.size else {"pck": "keypoints_px"}
    if one.joints_m is None and (spec.options.get("protocol") == "all" or not one.keypoints_px.size):
        lacks["mpjpe"] = "joints_m or vertices_m"
    left = tuple(name for name in spec.metrics if name not in lacks)
    if not left:
        held = [name for name in _OF_OTHERS if name in one.params]
        hint = f"; {', '.join(held)} are for another rule, see --protocol" if held else ""
        raise DataError(f"{path}: file of predictions lacks {', '.join(lacks[name] for name in spec.metrics)}{hint}")
    remarks = [f"no {name}: the file lacks {lacks[name]}" for name in spec.metrics if name in lacks]
    return spec.model_copy(update={"metrics": left}), remarks


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
    "params.vertices_m": (None, 3),
    "params.joints14_m": (14, 3),
    "params.joints22_m": (22, 3),
    "params.joints24_m": (24, 3),
}
# As other tools may name them; among `params` when saved here.
_OF_OTHERS = ("vertices_m", "joints14_m", "joints22_m", "joints24_m")


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
