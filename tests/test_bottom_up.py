"""Networks that see whole pictures: who is in them, what the rows say, and that nothing is mixed with boxes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import seeding
import torch
from conftest import make_coco, prepare_job, prepare_training
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_cli import hmrbench, run_eval
from tiny_net import TinyCrowd

from hmrbench import data, evaluation, files, zoo
from hmrbench.cards import load_card, load_cards
from hmrbench.codecs import grouping
from hmrbench.data.crop import crop_people, crops_of, whole_picture
from hmrbench.data.images import read_image
from hmrbench.data.loader import CropSettings, batches
from hmrbench.errors import DataError, HmrbenchError, UsageError
from hmrbench.profiling import profile_model
from hmrbench.records import NO_BOXES, Prediction, Sample
from hmrbench.report import formats, plots, references, tables, views
from hmrbench.results import runs as results
from hmrbench.schema import Crop
from hmrbench.skeletons import COCO17

SPEC = data.load_spec("coco-val")
ANNOTATIONS = "annotations/person_keypoints_val2017.json"
REFS = Path(__file__).parent / "refs" / "poses"
PEOPLE = (1, 0, 3, 2)  # in the four pictures, of which the third is upright
Prepare = Callable[..., evaluation.Job]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Pictures of three sizes as a network sees them, one without people."""
    folder = make_coco(tmp_path / "coco", PEOPLE)
    content = json.loads((folder / ANNOTATIONS).read_text())
    for image, (width, height) in zip(content["images"], ((320, 248), (320, 256), (264, 400), (320, 320)), strict=True):
        path = folder / "val2017" / image["file_name"]
        cv2.imwrite(str(path), cv2.resize(read_image(path)[..., ::-1], (width, height)))
        image |= {"width": width, "height": height}
    (folder / ANNOTATIONS).write_text(json.dumps(content))
    return folder


@pytest.fixture
def prepare(coco: Path, tiny_cards: Path) -> Prepare:
    def make(model: str = "tiny-crowd", **settings: object) -> evaluation.Job:
        given = {"weights": "random", "data_root": coco, "device": "cpu", "batch_size": 2, "workers": 2}
        return prepare_job(model, "coco-val", models_dirs=[tiny_cards], **{**given, **settings})  # type: ignore[no-any-return]

    return make


def alone(job: evaluation.Job, sample: Sample, net: torch.nn.Module) -> tuple[Any, ...]:
    """What the network says of one picture, step by step."""
    crops = crops_of([sample], job.card.crop, job.card.input)
    picture = crop_people(read_image(sample.image), crops.center_px, crops.size_px, crops.input_size, "classic")
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (job.card.crop.mean, job.card.crop.std))
    x = (torch.from_numpy(picture).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.inference_mode():
        output = net(x)
        if job.flip:
            output = grouping.merge(output, grouping.flip_back(net(x.flip(3)), COCO17))
    return tuple(values[0] for values in grouping.decode(output, crops))


# --------------------------------------------------------------------------- data set, loader


def test_every_picture_is_a_sample_with_people_or_without(coco: Path) -> None:
    opened = data.open_dataset(SPEC, coco, NO_BOXES)
    assert [s.id for s in opened.samples] == [f"image {i}" for i in (1, 2, 3, 4)]
    assert [s.box_xywh_px for s in opened.samples][2] == (0.0, 0.0, 264.0, 400.0)
    assert (opened.boxes, opened.partial, opened.total) == ("none", False, 4)
    assert opened.annotations_sha256 == data.open_dataset(SPEC, coco, "gt").annotations_sha256
    some = data.open_dataset(SPEC, coco, NO_BOXES, limit=2)
    assert (len(some.samples), some.partial, some.total) == (2, True, 4)
    assert sorted(some.truth.imgs) == [1, 2]


def test_the_size_of_a_picture_may_not_be_said(coco: Path) -> None:
    content = json.loads((coco / ANNOTATIONS).read_text())
    for image in content["images"]:
        del image["width"], image["height"]
    (coco / ANNOTATIONS).write_text(json.dumps(content))
    assert data.open_dataset(SPEC, coco, NO_BOXES).samples[2].box_xywh_px == (0.0, 0.0, 264.0, 400.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["images"][1].pop("file_name"), "image 2 has no file_name"),
        (lambda c: c["images"][1].update(file_name="x.jpg"), r"x\.jpg: image missing"),
        (lambda c: c["images"][1].update(width=300), r"the picture is 320x256, the annotations say 300x256"),
        (lambda c: c["images"][1].update(width=1), r"000000000002\.jpg: 1x256 is too long and thin"),
        (lambda c: c.update(annotations=[]), "no annotation has labelled keypoints"),
    ],
)
def test_what_is_wrong_is_named(coco: Path, prepare: Prepare, change: Callable[[Any], Any], message: str) -> None:
    content = json.loads((coco / ANNOTATIONS).read_text())
    change(content)
    (coco / ANNOTATIONS).write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        evaluation.run(prepare())


def test_a_limit_that_leaves_nobody_to_score(coco: Path, prepare: Prepare) -> None:
    content = json.loads((coco / ANNOTATIONS).read_text())
    content["images"].insert(0, content["images"].pop(1))  # the one without people
    (coco / ANNOTATIONS).write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"person_keypoints_val2017\.json: no annotation .* one of the 1 images"):
        prepare(limit=1)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_batch_has_pictures_of_one_size(coco: Path, batch_size: int, workers: int) -> None:
    samples = data.open_dataset(SPEC, coco, NO_BOXES).samples * 5
    settings = CropSettings(Crop(kind="bottom-up"), (64, 64), "classic")
    order = np.random.default_rng(0).permutation(len(samples)).tolist()
    found = list(batches(samples, order, settings, batch_size, workers))
    assert sorted(np.concatenate([b.index for b in found]).tolist()) == list(range(len(samples)))
    assert {b.images.shape[1:3] for b in found} == {(64, 128), (128, 64), (64, 64)}
    assert max(len(b.index) for b in found) == min(batch_size, 10)  # of two pictures in four, five times
    for batch in found:
        assert batch.crops.input_size == batch.images.shape[1:3]
        for i, picture in zip(batch.index, batch.images, strict=True):
            assert whole_picture(samples[i].box_xywh_px[2:], (64, 64)).input_size == batch.crops.input_size
            np.testing.assert_array_equal(picture, batch_of_one(samples[i], settings))


def batch_of_one(sample: Sample, settings: CropSettings) -> Any:
    (batch,) = batches([sample], [0], settings, 1, 1)
    return batch.images[0]


def test_many_sizes_do_not_pile_up(tmp_path: Path) -> None:
    """Each picture of a size of its own: the reader still stays about three batches ahead."""
    samples = []
    for i in range(60):
        width = 64 * (1 + i)
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), np.zeros((64, width, 3), np.uint8))
        samples.append(Sample(str(i), path, i, (0.0, 0.0, float(width), 64.0)))
    settings = CropSettings(Crop(kind="bottom-up"), (64, 64), "classic")
    seen = [int(batch.index[0]) for batch in batches(samples, range(60), settings, 4, 2)]
    assert seen == list(range(60))


# --------------------------------------------------------------------------- predictions


@pytest.mark.parametrize("flip", [True, False])
def test_predictions_are_those_of_one_picture_at_a_time(prepare: Prepare, flip: bool) -> None:
    job = prepare(flip=flip)
    net, _ = zoo.load_weights(job.card, None)
    found = evaluation.predict_all(net, job)
    assert len(found) == 4
    assert all(len(p.scores) for p in found)
    for sample, prediction in zip(job.dataset.samples, found, strict=True):
        keypoints, scores, own = alone(job, sample, net)
        assert prediction.people_scores is not None
        np.testing.assert_allclose(prediction.keypoints_px, keypoints, atol=1e-3)
        np.testing.assert_allclose(prediction.scores, scores, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(prediction.people_scores, own, rtol=1e-4)
    assert isinstance(net, TinyCrowd)
    assert {size[2:] for size in net.sizes} == {(64, 128), (128, 64), (64, 64)}


def test_a_row_says_that_there_were_no_boxes(prepare: Prepare, tmp_path: Path) -> None:
    row = evaluation.run(prepare(), runs=tmp_path / "runs").row()
    assert (row["boxes"], row["samples"], row["partial"], row["flip"]) == ("none", 4, False, True)
    assert (row["codec"], row["input"]) == ("grouping", "64x64")
    assert {"AP", "AR", "Phi_P_2D", "PCK@0.05"} <= set(row["metrics"])
    assert evaluation.run(prepare(limit=3)).partial
    shown = views.evaluation_view([row]).caption
    assert "whole pictures, no boxes" in shown


def test_scores_are_pycocotools_own(prepare: Prepare, coco: Path, tmp_path: Path) -> None:
    """No rescoring, no suppression: what the network says goes to COCOeval as it is."""
    job, path = prepare(), tmp_path / "found.json"
    row = evaluation.run(job, runs=tmp_path / "runs", save_predictions=path)
    net, _ = zoo.load_weights(job.card, None)
    expected = []
    for sample in job.dataset.samples:
        for points, values, score in zip(*alone(job, sample, net), strict=True):
            triples = np.concatenate([points, values[:, None]], axis=1).ravel().tolist()
            expected.append(
                {"image_id": sample.image_id, "category_id": 1, "keypoints": triples, "score": float(score)}
            )
    written = json.loads(path.read_text())
    assert [r["image_id"] for r in written] == [r["image_id"] for r in expected]
    for a, b in zip(written, expected, strict=True):
        np.testing.assert_allclose(a["keypoints"], b["keypoints"], atol=1e-3)
        assert a["score"] == pytest.approx(b["score"], rel=1e-4)
    with redirect_stdout(StringIO()):
        truth = COCO(str(coco / ANNOTATIONS))
        evaluator = COCOeval(truth, truth.loadRes(str(path)), "keypoints")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    assert row.metrics["AP"] == 100 * evaluator.stats[0]
    assert row.metrics["AR"] == 100 * evaluator.stats[5]
    again = evaluation.score_file(path, SPEC, data_root=coco, runs=tmp_path / "runs")
    assert again.metrics == row.metrics
    a, b = results.load_runs(tmp_path / "runs")
    args = ("--dataset", "coco-val", "--runs", tmp_path / "runs", "--json")
    compared = hmrbench("compare", a.path, b.path, *args)
    assert compared.exit_code == 0, compared.output
    assert {d["verdict"] for d in json.loads(compared.stdout)["differences"] if d["low"] is not None} == {"equal"}


def test_planted_people_score_fully(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through samples, results and pycocotools: who is found where the truth says, and only they, is AP 100."""
    job = prepare()
    predictions = []
    for sample in job.dataset.samples:
        people = [a for a in job.dataset.truth.dataset["annotations"] if a["image_id"] == sample.image_id]
        triples = np.array([a["keypoints"] for a in people], float).reshape(-1, 17, 3)
        predictions.append(Prediction(triples[..., :2], np.ones(triples.shape[:2]), people_scores=np.ones(len(people))))
    monkeypatch.setattr("hmrbench.evaluation.rows.predict_all", lambda *_: predictions)
    row = evaluation.run(job)
    assert (row.metrics["AP"], row.metrics["AR"], row.metrics["PCK@0.05"]) == (100, 100, 100)


def test_nobody_found_anywhere_is_said(prepare: Prepare, tmp_path: Path) -> None:
    row = evaluation.run(prepare("tiny-nobody"), runs=tmp_path / "runs", save_predictions=tmp_path / "found.json")
    assert (row.metrics["AP"], row.metrics["AR"], row.metrics["PCK@0.1"]) == (0, 0, 0)
    assert list(row.remarks) == ["nobody was found in any of the 4 pictures"]
    assert json.loads((tmp_path / "found.json").read_text()) == []


def test_a_tag_that_is_no_number_names_the_picture(prepare: Prepare) -> None:
    with pytest.raises(HmrbenchError, match=r"tiny-lost': .*not finite \(image 1 in 000000000001\.jpg\)"):
        evaluation.run(prepare("tiny-lost", batch_size=1, flip=False))


def test_a_stopped_run_continues_with_the_pictures_left(prepare: Prepare, tmp_path: Path) -> None:
    job, runs = prepare(batch_size=1), tmp_path / "runs"
    whole = evaluation.run(job).metrics

    def stop(label: str, done: int, total: int) -> None:
        assert total == 4
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluation.run(job, runs=runs, progress=stop)
    assert results.PartialRun.of(runs, job.key).count() == 3
    counts: list[int] = []
    again = evaluation.run(job, runs=runs, resume=True, progress=lambda label, done, total: counts.append(done))
    assert counts == [4]
    assert again.metrics == whole


@pytest.mark.parametrize("people", [(2, 0, 1), (0, 0), (0,), (3,)])
def test_what_is_kept_comes_back(tmp_path: Path, people: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    found = [
        Prediction(rng.random((n, 17, 2)), rng.random((n, 17)), crop_area_px2=9.0, people_scores=rng.random(n))
        for n in people
    ]
    store = results.PartialRun(tmp_path)
    store.add(np.arange(len(people)), found)
    ((index, back),) = store.load()
    assert index.tolist() == list(range(len(people)))
    for a, b in zip(found, back, strict=True):
        for name in ("keypoints_px", "scores", "people_scores"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@pytest.mark.parametrize("people", [[1, 1], [3, -1], [1.0, 1.0], [9]])
def test_kept_people_who_do_not_add_up_are_passed_over(
    tmp_path: Path, people: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    found = [Prediction(np.zeros((n, 17, 2)), np.zeros((n, 17)), people_scores=np.zeros(n)) for n in (2, 1)]
    arrays = results.stack(found) | {"people": np.array(people)}
    if isinstance(people[0], float):
        arrays = results.stack([found[1], found[1]]) | {"people": np.array(people)}
    files.write_arrays(tmp_path / "000000-0.npz", {"index": np.array([0, 1]), **arrays})
    assert list(results.PartialRun(tmp_path).load()) == []
    assert "000000-0.npz" in caplog.text


def test_a_data_set_opened_for_others_is_opened_anew(coco: Path, tiny_cards: Path) -> None:
    common = {"models_dirs": [tiny_cards], "data_root": coco, "weights": "random", "device": "cpu"}
    people, whole = data.open_dataset(SPEC, coco, "gt"), data.open_dataset(SPEC, coco, NO_BOXES)
    for model, opened, boxes in (
        ("tiny-crowd", people, "none"),
        ("tiny-crowd", whole, "none"),
        ("tiny-a", whole, "det"),
        ("tiny-a", people, "gt"),
    ):
        job = prepare_job(model, "coco-val", opened, **common)
        assert job.dataset.boxes == boxes
    assert prepare_job("tiny-crowd", "coco-val", whole, **common).dataset.samples is whole.samples


# --------------------------------------------------------------------------- LitePose

LAYOUTS = json.loads(gzip.decompress((REFS / "layouts.json.gz").read_bytes()))
COSTS = json.loads((REFS / "official_costs.json").read_text())


@pytest.mark.parametrize(("size", "ap"), [("xs", 40.6), ("s", 56.8), ("m", 59.8), ("l", 62.5)])
def test_cards_of_litepose(size: str, ap: float) -> None:
    """All four out of the official layouts: keys and shapes, parameters, MACs at the card's input."""
    card = load_card(f"LitePose-Auto-{size.upper()}")
    official, costs = LAYOUTS[f"litepose_auto_{size}"], COSTS[f"litepose_auto_{size}"]
    with torch.device("meta"):
        net = zoo.build_net(card)
    record = zoo.find_network(card)
    assert record is not None
    named = {record.layout.ours(key): tuple(shape) for key, shape in official.items()}
    assert named == {key: tuple(value.shape) for key, value in net.state_dict().items()}
    row = profile_model(card, device="cpu", repeats=0).row()
    assert (row["params"], row["macs"]) == (costs["params"], costs["macs"][card.input_text])
    assert (card.crop.kind, card.codec, card.input) == ("bottom-up", "grouping", record.input_sizes[0])
    assert [(p.dataset, p.metric, p.value) for p in card.published] == [("coco-val", "AP", ap)]
    assert [s.url.partition(":")[0] for s in card.weights] == ([] if size == "xs" else ["gdrive"])


def test_litepose_from_an_official_file_to_scores(coco: Path, tmp_path: Path) -> None:
    """XS in full, on one picture, with weights under the official keys, whose heatmaps reach the threshold."""
    record = zoo.find_network(load_card("litepose-auto-xs"))
    assert record is not None
    official_key = {record.layout.ours(key): key for key in LAYOUTS["litepose_auto_xs"]}
    net = seeding.seed_module_(record.build(record.input_sizes[0]).eval(), official_key.__getitem__)
    path = tmp_path / "official.pth"
    torch.save({official_key[key]: value for key, value in net.state_dict().items()}, path)
    checked = hmrbench("weights", "check", "litepose-auto-xs", path)
    assert checked.exit_code == 0, checked.output
    args = ("--weights", path, "--limit", 1, "--no-flip", "--json", "--save-predictions", tmp_path / "found.json")
    result = run_eval(coco, tmp_path, tmp_path / "r", "litepose-auto-xs", *args)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert (row["model"], row["boxes"], row["samples"], row["partial"]) == ("litepose-auto-xs", "none", 1, True)
    found = json.loads((tmp_path / "found.json").read_text())
    job = prepare_job("litepose-auto-xs", "coco-val", weights=path, data_root=coco, device="cpu", flip=False)
    keypoints, _, own = alone(job, job.dataset.samples[0], net)
    assert len(found) == len(own) > 0
    np.testing.assert_allclose([r["score"] for r in found], own, rtol=1e-3)
    np.testing.assert_allclose(
        np.array([r["keypoints"] for r in found]).reshape(-1, 17, 3)[..., :2], keypoints, atol=1e-2
    )


# --------------------------------------------------------------------------- commands


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("tiny-crowd", "--boxes", "gt"),
            "tiny-crowd finds the people in whole pictures itself: it takes no 'gt' boxes",
        ),
        (("tiny-a", "--boxes", "none"), "tiny-a does not find people itself: it needs boxes"),
        (("tiny-crowd", "--codec", "udp"), "codec 'udp' is for people in boxes, tiny-crowd sees whole pictures"),
        (("tiny-a", "--codec", "grouping"), "codec 'grouping' is for whole pictures, tiny-a sees people in boxes"),
    ],
)
def test_what_does_not_fit_is_refused(
    coco: Path, tiny_cards: Path, tmp_path: Path, args: tuple[str, ...], message: str
) -> None:
    result = run_eval(coco, tiny_cards, tmp_path / "r", *args, "--weights", "random")
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "r").exists()


def test_a_reader_without_whole_pictures() -> None:
    spec = data.load_spec("3dpw-test")
    with pytest.raises(UsageError, match="3dpw-test: reader 'hmr-npz' gives no whole pictures"):
        data.open_dataset(spec, Path(__file__).parent, NO_BOXES)


def test_boxes_and_no_boxes_never_share_a_column(coco: Path, tiny_cards: Path, tmp_path: Path) -> None:
    runs = tmp_path / "r"
    result = run_eval(coco, tiny_cards, runs, "tiny-a", "tiny-crowd", "--weights", "random", "--json")
    assert result.exit_code == 0, result.stderr
    assert [(r["boxes"], r["samples"]) for r in json.loads(result.stdout)] == [("det", 10), ("none", 4)]
    table = tables.gather(results.load_runs(runs), load_cards([tiny_cards]), references=references.load_references())
    mine = {r["model"]: r for r in table.rows if r["model"].startswith("tiny")}
    for model, own, other in (
        ("tiny-a", "coco-val", "coco-val (no boxes)"),
        ("tiny-crowd", "coco-val (no boxes)", "coco-val"),
    ):
        assert mine[model][f"{own}:AP"] is not None
        assert mine[model][f"{other}:AP"] is None
        assert mine[model][f"published:{other}:AP"] is None
    assert (mine["tiny-a"]["published:coco-val:AP"], mine["tiny-crowd"]["published:coco-val (no boxes):AP"]) == (
        12.5,
        7.5,
    )
    assert mine["tiny-a"]["Phi_P_2D"] is not None
    assert mine["tiny-crowd"]["Phi_P_2D"] is None
    assert mine["tiny-crowd"]["coco-val (no boxes):Phi_P_2D"] is not None
    published = {r["model"]: r for r in table.rows if r["kind"] == "published"}
    assert published["LitePose-Auto-L"]["coco-val (no boxes):AP"] == 62.5
    assert published["LitePose-Auto-L"]["coco-val:AP"] is None
    assert "coco-val (no boxes)" in formats.render(table, "markdown")
    measured = tables.gather(results.load_runs(runs), load_cards([tiny_cards]))
    assert plots.find_key(measured, "AP") == "coco-val:AP"
    assert plots.find_key(measured, "coco-val (no boxes):ap") == "coco-val (no boxes):AP"
    paths = [str(r.path) for r in results.load_runs(runs)]
    refused = hmrbench("compare", *paths, "--runs", runs)
    assert refused.exit_code == 2
    assert "different samples: det and none boxes" in " ".join(refused.stderr.split())


def test_a_gate_over_whole_pictures(coco: Path, tiny_cards: Path, tmp_path: Path) -> None:
    runs, baseline = tmp_path / "r", tmp_path / "base.json"
    assert run_eval(coco, tiny_cards, runs, "tiny-crowd", "--weights", "random").exit_code == 0
    for args in (("--update",), ()):
        result = hmrbench("check", "--baseline", baseline, "--runs", runs, *args)
        assert result.exit_code == 0, result.output
    (row,) = json.loads(baseline.read_text())["rows"]
    assert (row["boxes"], row["samples"]) == ("none", 4)


def test_predict_draws_everybody(coco: Path, tiny_cards: Path, tmp_path: Path) -> None:
    pictures = sorted((coco / "val2017").glob("*.jpg"))
    args = ("--weights", "random", "--models-dir", tiny_cards, "--device", "cpu", "-o", tmp_path / "out", "--json")
    result = hmrbench("predict", "tiny-crowd", *pictures, *args)
    assert result.exit_code == 0, result.output
    records = json.loads(result.stdout)
    job = prepare_job(
        "tiny-crowd", "coco-val", models_dirs=[tiny_cards], weights="random", data_root=coco, device="cpu"
    )
    net, _ = zoo.load_weights(job.card, None)
    for found, sample in zip(records, job.dataset.samples, strict=True):
        keypoints, scores, own = alone(job, sample, net)
        np.testing.assert_allclose([p["keypoints_px"] for p in found["people"]], keypoints, atol=1e-3)
        np.testing.assert_allclose([p["keypoint_scores"] for p in found["people"]], scores, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose([p["score"] for p in found["people"]], own, rtol=1e-4)
        assert {p["box_xywh_px"] for p in found["people"]} == {None}
        drawn = read_image(tmp_path / "out" / found["picture"])
        assert drawn.shape == read_image(sample.image).shape
        assert (drawn != read_image(sample.image)).any()


def test_predict_where_nobody_is(coco: Path, tiny_cards: Path, tmp_path: Path) -> None:
    picture = coco / "val2017" / "000000000001.jpg"
    args = ("--weights", "random", "--models-dir", tiny_cards, "--device", "cpu", "-o", tmp_path / "out")
    result = hmrbench("predict", "tiny-nobody", picture, *args)
    assert result.exit_code == 0, result.output
    assert "nobody was found" in " ".join(result.stderr.split())
    record = json.loads((tmp_path / "out" / "000000000001-tiny-nobody.json").read_text())
    assert record["people"] == []
    np.testing.assert_array_equal(read_image(tmp_path / "out" / record["picture"]), read_image(picture))
    boxes = tmp_path / "boxes.json"
    boxes.write_text("{}")
    refused = hmrbench("predict", "tiny-nobody", picture, "--boxes", boxes, *args)
    assert refused.exit_code == 2
    assert "finds the people in whole pictures itself" in " ".join(refused.stderr.split())


def test_training_is_refused(coco: Path, tiny_cards: Path) -> None:
    with pytest.raises(UsageError, match="tiny-crowd sees whole pictures; what can be trained"):
        prepare_training("tiny-crowd", "coco-val", models_dirs=[tiny_cards], data_root=coco, recipe="vitpose")


@pytest.mark.parametrize("scope", ["model", "end2end"])
def test_profile(tiny_cards: Path, scope: str) -> None:
    row = profile_model(
        "tiny-crowd", models_dirs=[tiny_cards], device="cpu", repeats=2, batch_size=2, scope=scope
    ).row()
    assert (row["status"], row["error"]) == ("ok", None)
    assert row["macs"] == 3 * 34 * 16 * 16 + 3 * 17 * 32 * 32
    assert row["latency_ms"] > 0
