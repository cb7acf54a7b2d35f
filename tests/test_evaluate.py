"""The loop: what it predicts, what it writes, how it stops, continues and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import prepare_job

import hmrbench
from hmrbench import evaluation, files, zoo
from hmrbench.codecs import find_codec
from hmrbench.data.crop import crops_of
from hmrbench.data.images import read_image
from hmrbench.errors import DataError, HmrbenchError, UsageError, WeightsError
from hmrbench.evaluation import rows, unfinished
from hmrbench.nets.encoders.groupmixformer import GroupMixFormer
from hmrbench.records import Prediction
from hmrbench.results import runs as results
from hmrbench.skeletons import COCO17

Prepare = Callable[..., evaluation.Job]


@pytest.fixture
def prepare(tiny_coco: Path, tiny_cards: Path) -> Prepare:
    def make(model: str = "tiny-a", **settings: object) -> evaluation.Job:
        given = {"weights": "random", "data_root": tiny_coco, "device": "cpu", "batch_size": 2, "workers": 2}
        return prepare_job(model, "coco-val", models_dirs=[tiny_cards], **{**given, **settings})  # type: ignore[arg-type]

    return make


@pytest.mark.parametrize(("boxes", "count"), [("gt", 6), ("det", 9)])
def test_a_row_says_everything(prepare: Prepare, tmp_path: Path, boxes: str, count: int) -> None:
    result = evaluation.run(prepare(boxes=boxes), runs=tmp_path / "runs")
    row = result.row()
    keys = """model task dataset weights weights_sha256 boxes flip codec input device dtype batch_size samples partial
    metrics versions commit"""
    for key in keys.split():
        assert key in row, key
    assert (row["model"], row["task"], row["dataset"]) == ("tiny-a", "hpe", "coco-val")
    assert (row["weights"], row["weights_sha256"], row["boxes"], row["samples"]) == ("random", None, boxes, count)
    assert (row["flip"], row["codec"], row["input"], row["partial"]) == (True, "udp", "64x48", False)
    assert {"AP", "AR", "Phi_P_2D", "PCK@0.05", "PCK@0.1"} <= set(row["metrics"])
    saved = results.load_runs(tmp_path / "runs")
    assert len(saved) == 1
    assert json.loads(files.to_json(row)) == saved[0].row


def test_predictions_are_those_of_one_person_at_a_time(prepare: Prepare) -> None:
    """Batches, threads and the order of pictures change nothing: a slow obvious loop predicts the same."""
    job = prepare(boxes="det")
    net, _ = zoo.load_weights(job.card, None)
    found = evaluation.predict_all(net, job)
    codec, skeleton = find_codec("udp"), COCO17
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (job.card.crop.mean, job.card.crop.std))
    from hmrbench.data.crop import crop_people

    for sample, prediction in zip(job.dataset.samples, found, strict=True):
        crops = crops_of([sample], job.card.crop, job.card.input)
        picture = crop_people(read_image(sample.image), crops.center_px, crops.size_px, (64, 48), "udp")
        x = (torch.from_numpy(picture).permute(0, 3, 1, 2).float() / 255 - mean) / std
        with torch.inference_mode():
            heatmaps = (net(x) + codec.flip_back(net(x.flip(3)), skeleton)) / 2
        keypoints, scores = codec.decode(heatmaps, crops)
        np.testing.assert_allclose(prediction.keypoints_px, keypoints[0], atol=1e-3)
        np.testing.assert_allclose(prediction.scores, scores[0], rtol=1e-5)


def test_no_flip_and_codec_are_in_the_row(prepare: Prepare) -> None:
    plain = evaluation.run(prepare(flip=False, codec="plain"))
    assert (plain.flip, plain.codec) == (False, "plain")
    assert prepare(flip=False).key != prepare().key != prepare(codec="dark").key


@pytest.mark.parametrize("fused", [True, False])
def test_short_cuts_can_be_turned_off(prepare: Prepare, monkeypatch: pytest.MonkeyPatch, fused: bool) -> None:
    built: list[torch.nn.Module] = []

    def load(*args: object) -> tuple[torch.nn.Module, None]:
        built.append(GroupMixFormer((20, 20, 20, 20), (1, 1, 1, 1), (2, 2, 2, 2), stages=1))
        built[0].forward = lambda x: x.new_ones(len(x), 17, 16, 12)  # type: ignore[method-assign]
        return built[0], None

    monkeypatch.setattr(zoo, "load_weights", load)
    result = evaluation.run(prepare(fused=fused))
    assert (result.row()["fused"], result.flip) == (fused, True)
    assert {m.fused for m in built[0].modules() if hasattr(m, "fused")} == {fused}
    assert prepare(fused=False).key != prepare().key


def test_the_limit_makes_a_partial_row(prepare: Prepare) -> None:
    result = evaluation.run(prepare(boxes="gt", limit=2))
    assert (result.samples, result.partial) == (2, True)
    assert not evaluation.run(prepare(boxes="gt", limit=100)).partial


def test_a_stopped_run_continues_where_it_was(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, runs = prepare(boxes="det"), tmp_path / "runs"
    whole = evaluation.run(job).metrics

    def stop(label: str, done: int, total: int) -> None:
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluation.run(job, runs=runs, progress=stop)
    assert results.load_runs(runs) == []
    kept = sum(len(index) for index, _ in results.PartialRun.of(runs, job.key).load())
    assert kept == 4

    seen: list[int] = []
    original = evaluation.predict

    def counting(net: torch.nn.Module, job: evaluation.Job, index: list[int]) -> object:
        seen.extend(index)
        return original(net, job, index)

    monkeypatch.setattr(unfinished, "predict", counting)
    again = evaluation.run(job, runs=runs, resume=True)
    assert len(seen) == len(job.dataset.samples) - kept
    assert again.metrics == whole
    assert not (runs / ".partial" / job.key).exists()

    seen.clear()
    evaluation.run(job, runs=runs, resume=True)  # a finished run is taken as it is
    assert seen == []
    assert len(results.load_runs(runs)) == 1


def test_without_resume_a_run_begins_anew(prepare: Prepare, tmp_path: Path) -> None:
    job = prepare()
    store = results.PartialRun.of(tmp_path, job.key)
    store.add(np.array([0]), [Prediction(np.full((17, 2), 9.0), np.ones(17))])
    result = evaluation.run(job, runs=tmp_path)
    assert result.metrics == evaluation.run(job).metrics


def test_nan_is_an_error_that_names_the_sample(prepare: Prepare) -> None:
    with pytest.raises(HmrbenchError, match=r"tiny-nan.*not finite.*ann \d+ in 0000"):
        evaluation.run(prepare("tiny-nan", boxes="gt", flip=False, batch_size=4))


def test_saved_predictions_score_the_same_to_the_last_digit(prepare: Prepare, tmp_path: Path, tiny_coco: Path) -> None:
    path = tmp_path / "predictions.json"
    result = evaluation.run(prepare(boxes="det"), save_predictions=path)
    scored = evaluation.score_file(path, "coco-val", data_root=tiny_coco, model="tiny-a")
    assert scored.metrics == result.metrics
    assert scored.per_joint == result.per_joint
    assert (scored.flip, scored.codec, scored.weights) == (None, None, "predictions.json")


def test_truth_written_as_predictions_is_perfect(tmp_path: Path, tiny_coco: Path) -> None:
    truth = json.loads((tiny_coco / "annotations" / "person_keypoints_val2017.json").read_text())
    path = tmp_path / "truth.json"
    people = [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 1.0}
        for a in truth["annotations"]
    ]
    path.write_text(json.dumps(people))
    metrics = evaluation.score_file(path, "coco-val", data_root=tiny_coco).metrics
    assert metrics["AP"] == metrics["AR"] == metrics["Phi_P_2D"] == metrics["PCK@0.05"] == 100


def test_photographs_truth_is_perfect(tmp_path: Path, coco_mini: Path) -> None:
    truth = json.loads((coco_mini / "annotations" / "person_keypoints_val2017.json").read_text())
    people = [
        {"image_id": a["image_id"], "category_id": 1, "keypoints": a["keypoints"], "score": 1.0}
        for a in truth["annotations"]
        if a["num_keypoints"]
    ]
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(people))
    result = evaluation.score_file(path, "coco-val", data_root=coco_mini)
    assert result.metrics["AP"] == result.metrics["AR"] == 100


@pytest.mark.parametrize("boxes", ["gt", "det"])
def test_photographs_run(coco_mini: Path, tiny_cards: Path, boxes: str) -> None:
    job = prepare_job(
        "tiny-a", "coco-val", weights="random", data_root=coco_mini, boxes=boxes, models_dirs=[tiny_cards], device="cpu"
    )
    assert evaluation.run(job).samples == {"gt": 12, "det": 118}[boxes]


# --------------------------------------------------------------------------- refusals before anything slow


def test_no_weights_stops_before_the_data_are_read(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="vitpose-s has no weights here"):
        hmrbench.evaluate("vitpose-s", "coco-val", data_root=tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "fp8"}, "dtype must be one of"),
        ({"device": "cuda:99"}, "no device"),
        ({"device": "toaster"}, "no device 'toaster'"),
        ({"batch_size": "many"}, "batch size"),
        ({"batch_size": 0}, "batch size"),
        ({"cuda_graph": True}, "a CUDA graph needs PyTorch on a CUDA device, not pytorch on cpu"),
        ({"codec": "udq"}, "unknown codec 'udq'.*udp"),
        ({"boxes": "guess"}, "no 'guess' boxes; there are det, gt"),
    ],
)
def test_wrong_settings(prepare: Prepare, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prepare(**settings)


def test_a_corrupt_picture_is_named_and_finished_work_is_kept(
    prepare: Prepare, tiny_coco: Path, tmp_path: Path
) -> None:
    picture = tiny_coco / "val2017" / "000000000003.jpg"
    picture.write_bytes(picture.read_bytes()[:3000])
    job = prepare(boxes="gt")
    with pytest.raises(DataError, match=r"000000000003\.jpg: corrupt image, the JPEG is cut off"):
        evaluation.run(job, runs=tmp_path)
    kept = sum(len(index) for index, _ in results.PartialRun.of(tmp_path, job.key).load())
    assert kept == 4  # whoever is in the other pictures


def test_half_precision_runs(prepare: Prepare) -> None:
    assert evaluation.run(replace(prepare(), dtype="bf16")).dtype == "bf16"


# --------------------------------------------------------------------------- nothing is lost


def no_room(*_: object) -> None:
    raise OSError(28, "No space left on device")


def no_prediction(*_: object) -> None:
    raise AssertionError("nothing is to be predicted")


def test_a_score_keeps_its_unit_and_direction_on_disk(prepare: Prepare, tmp_path: Path) -> None:
    evaluation.run(prepare(boxes="gt"), runs=tmp_path)
    (saved,) = results.load_runs(tmp_path)
    assert saved.row["units"].keys() == saved.row["higher_is_better"].keys() == saved.row["metrics"].keys()
    assert saved.row["units"]["AP"] == "%"
    assert saved.row["higher_is_better"]["AP"] is True


def test_what_cannot_be_written_is_refused_before_anything_is_predicted(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(unfinished, "predict", no_prediction)
    with pytest.raises(HmrbenchError, match=r"file/runs cannot be written: Not a directory"):
        evaluation.run(prepare(), runs=tmp_path / "file" / "runs")
    with pytest.raises(HmrbenchError, match=r"file/p\.json cannot be written"):
        evaluation.run(prepare(), runs=tmp_path / "r", save_predictions=tmp_path / "file" / "p.json")


@pytest.mark.parametrize("which", ["run", "predictions"])
def test_a_last_write_that_fails_loses_nothing(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    job, target = prepare(boxes="det"), tmp_path / "p.json"
    whole = evaluation.run(job)
    with monkeypatch.context() as patch:
        patch.setattr(*((results, "write_json") if which == "run" else (rows, "write_predictions")), no_room)
        with pytest.raises(results.NotWrittenError, match=r"No space left.*9 of 9 predictions.*--resume") as caught:
            evaluation.run(job, runs=tmp_path / "r", save_predictions=target)
    assert caught.value.result.metrics == whole.metrics
    assert ("r could" if which == "run" else "p.json could") in str(caught.value)
    assert len(results.load_runs(tmp_path / "r")) == (which != "run")
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".") and p.is_file()]
    monkeypatch.setattr(unfinished, "predict", lambda net, job, index: iter(no_prediction() if index else ()))
    assert evaluation.run(job, runs=tmp_path / "r", save_predictions=target, resume=True).metrics == whole.metrics
    assert evaluation.score_file(target, "coco-val", data_root=job.dataset.samples[0].image.parents[1]).metrics == (
        whole.metrics
    )
    assert not list((tmp_path / "r" / ".partial").iterdir())


def test_a_metric_that_fails_keeps_the_predictions(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare(boxes="det")
    whole = evaluation.run(job)

    def fail(*_: object) -> None:
        raise RuntimeError("the metric's own fault")

    with monkeypatch.context() as patch:
        patch.setattr(rows, "measure_by_rules", fail)
        with pytest.raises(RuntimeError, match="own fault"):
            evaluation.run(job, runs=tmp_path)
    monkeypatch.setattr(unfinished, "predict", lambda net, job, index: iter(no_prediction() if index else ()))
    assert evaluation.run(job, runs=tmp_path, resume=True).metrics == whole.metrics


def test_an_unfinished_run_is_saved_by_time(prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = prepare(boxes="det", batch_size=2)
    store = results.PartialRun.of(tmp_path, job.key)
    kept: list[int] = []
    monkeypatch.setattr(unfinished, "_SAVE_SECONDS", 0.0)
    evaluation.run(job, runs=tmp_path, progress=lambda label, done, total: kept.append(store.count()))
    assert kept == [2, 4, 6, 8, 9]


def test_a_disk_that_is_full_meanwhile_is_said_and_stops_nothing(
    prepare: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = prepare(boxes="det")
    monkeypatch.setattr(unfinished, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(results.PartialRun, "add", no_room)
    assert evaluation.run(job, runs=tmp_path).metrics == evaluation.run(job).metrics
    assert "could not be kept (No space left on device)" in caplog.text


def test_a_finished_run_of_another_version_is_taken(prepare: Prepare, tmp_path: Path) -> None:
    job = prepare()
    first = evaluation.run(job, runs=tmp_path)
    (path,) = tmp_path.glob("*.json")
    content = json.loads(path.read_text())
    content["row"]["mood"] = "fine"
    del content["row"]["seconds"]
    path.write_text(json.dumps(content))
    again = evaluation.run(job, runs=tmp_path, resume=True)
    assert (again.metrics, again.seconds) == (first.metrics, 0.0)
    path.write_text("{")
    assert evaluation.run(job, runs=tmp_path, resume=True).metrics == first.metrics
    assert len(list(tmp_path.glob("*.json"))) == 2
