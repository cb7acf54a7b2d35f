"""`hmrbench reproduce`: published numbers against what the public weights give here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import make_coco
from test_cli import hmrbench
from tiny_net import TinyPose

from hmrbench import data
from hmrbench.cards import load_cards
from hmrbench.compare import bootstrap
from hmrbench.compare.reproduce import Claim, find_claims
from hmrbench.errors import UsageError
from hmrbench.results import runs as results

CARDS = load_cards()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a data set, a file of data sets, a file of weights, a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HMRBENCH_CACHE", str(tmp_path / "cache"))
    make_coco(tmp_path / "coco")
    spec = {
        "task": "hpe", "title": "tiny", "reader": "coco", "folder": "coco", "licence": "none",
        "annotations": "annotations/person_keypoints_val2017.json", "images": "val2017",
        "boxes": {"det": "person_detection_results/COCO_val2017_detections_AP_H_56_person.json", "gt": None},
        "default_boxes": "det", "metrics": ["coco-keypoints"], "counts": {"images": 3, "boxes": 9},
    }  # fmt: skip
    Path("sets.yaml").write_text(yaml.safe_dump({"tiny": spec, "half": {**spec, "counts": {"images": 5000}}}))
    torch.manual_seed(0)
    torch.save(TinyPose().state_dict(), "tiny.pth")
    return tmp_path


def write_cards(place: Path, published: dict[str, list[dict[str, Any]]], weights: list[dict[str, str]]) -> None:
    common = {"task": "hpe", "size": "t", "input": [64, 48], "licence": "none", "build": "tiny_net:build"}
    models = {
        name: {**common, "paper_name": name.upper(), "weights": weights, "published": numbers}
        for name, numbers in published.items()
    }
    folder = place / f"cards{len(list(place.glob('cards*')))}"  # files of cards are read once
    folder.mkdir()
    (folder / "x.yaml").write_text(yaml.safe_dump({"family": "x", "models": models}))


def cards() -> Path:
    return max(Path.cwd().glob("cards*"))


def claim(metric: str, value: float, dataset: str = "tiny", **more: str) -> dict[str, Any]:
    return {"dataset": dataset, "metric": metric, "value": value, "source": "somebody", **more}


def run(*args: object, dataset: str = "tiny") -> Any:
    return hmrbench(
        "reproduce", *args, "--dataset", dataset, "--data-root", ".", "--datasets-file", "sets.yaml",
        "--models-dir", cards(), "--device", "cpu",
    )  # fmt: skip


def here(place: Path, **more: str) -> dict[str, str]:
    return {"url": f"file:{place / 'tiny.pth'}", **more}


def measured(place: Path) -> dict[str, float]:
    """What the tiny network gives, by the data set's boxes and its own codec."""
    done = hmrbench(
        "eval", "a", "-d", "tiny", "--data-root", ".", "--datasets-file", "sets.yaml", "--models-dir", cards(),
        "--device", "cpu", "--runs", "other", "--weights", "tiny.pth", "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    row = json.loads(done.stdout)[0]
    assert (row["boxes"], row["flip"]) == ("det", True)
    metrics: dict[str, float] = row["metrics"]
    return metrics


def test_numbers_are_reproduced_kept_and_told_apart(place: Path) -> None:
    write_cards(place, {"a": []}, [here(place)])
    true = measured(place)
    pck = round(true["PCK@0.1"], 1)
    write_cards(place, {"a": [claim("PCK@0.1", pck), claim("AR", true["AR"] + 0.05)]}, [here(place)])
    done = run("--json")
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [(r["metric"], r["verdict"], r["published"]) for r in rows] == [
        ("PCK@0.1", "reproduced", pck),
        ("AR", "reproduced", true["AR"] + 0.05),
    ]
    assert rows[0]["measured"] == pytest.approx(true["PCK@0.1"])
    assert rows[0]["difference"] == pytest.approx(true["PCK@0.1"] - pck)
    assert (rows[0]["boxes"], rows[0]["codec"], rows[0]["samples"], rows[0]["tolerance"]) == ("det", "udp", 9, 0.2)
    assert rows[1]["low"] <= rows[1]["measured"] <= rows[1]["high"]
    page = Path("reproduce.html").read_text()
    assert "2 reproduced" in page
    assert f"{pck:.1f}" in page
    assert "somebody" in page

    # a number that is off is told from one that is not; what was evaluated is taken as it is
    write_cards(place, {"a": [claim("PCK@0.1", pck + 0.3), claim("AR", true["AR"] + 0.05)]}, [here(place)])
    done = run("-o", "off.html")
    assert done.exit_code == 4
    assert f"1 of 2 numbers are off, first a: PCK@0.1 {true['PCK@0.1']:.1f}, published {pck + 0.3:.1f}" in done.stderr
    assert "off: by more than 0.2" in Path("off.html").read_text()
    assert run("--tolerance", "0.5").exit_code == 0


def test_a_finished_evaluation_is_not_repeated(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cards(place, {"a": [claim("AR", 50)]}, [here(place)])
    assert run("--tolerance", "100").exit_code == 0
    monkeypatch.setattr("hmrbench.evaluation.rows.predict_all", lambda *_: pytest.fail("predicted again"))
    assert run("--tolerance", "100").exit_code == 0
    assert len([r for r in results.load_runs(Path("runs")) if r.kind == "eval"]) == 1


def test_weights_by_hand_are_not_run_and_say_why(place: Path) -> None:
    by_hand = {"url": "manual:", "page": "https://example.org/weights", "variant": "official"}
    write_cards(place, {"a": [claim("AR", 0, variant="here")], "b": [claim("AP", 70, variant="official")]}, [
        here(place, variant="here"), by_hand,
    ])  # fmt: skip
    done = run("--tolerance", "100", "--json")
    assert done.exit_code == 0, done.stderr
    assert [(r["model"], r["variant"], r["verdict"]) for r in json.loads(done.stdout)] == [
        ("a", "here", "reproduced"),
        ("b", "official", "not run"),
    ]
    assert "https://example.org/weights" in json.loads(done.stdout)[1]["reason"]
    assert "b: not run: its weights are got by hand" in done.stderr
    alone = run("b")
    assert alone.exit_code == 3
    assert "not run" in Path("reproduce.html").read_text()


def test_a_broken_file_stops_only_its_model(place: Path) -> None:
    write_cards(place, {"a": [claim("AR", 0)]}, [here(place)])
    text = (cards() / "x.yaml").read_text()
    (cards() / "y.yaml").write_text(
        text.replace("a:\n", "z:\n").replace("tiny.pth", "broken.pth").replace("name: A", "name: Z")
    )
    Path("broken.pth").write_bytes(b"no weights")
    done = run("--tolerance", "100", "--json")
    found = {r["model"]: r for r in json.loads(done.stdout)}
    assert found["a"]["verdict"] == "reproduced"
    assert found["z"]["verdict"] == "not run"
    assert "broken.pth" in found["z"]["reason"]


def test_a_part_of_the_data_set_is_not_comparable(place: Path) -> None:
    write_cards(place, {"a": [claim("AR", 99, dataset="half")]}, [here(place)])
    done = run("--json", dataset="half")
    assert done.exit_code == 0, done.stderr
    row = json.loads(done.stdout)[0]
    assert (row["verdict"], row["reason"]) == ("not comparable", "the data here have 3 of the 5,000 images")
    assert row["measured"] is not None


def test_where_nothing_is_published(place: Path) -> None:
    write_cards(place, {"a": []}, [here(place)])
    done = run("a")
    assert done.exit_code == 2
    assert "none of the 1 models has a published number on tiny" in done.stderr


def test_a_missing_data_set_is_told_before_anything_is_fetched(place: Path) -> None:
    write_cards(place, {"a": [claim("AR", 0)]}, [{"url": "https://example.invalid/x.pth"}])
    (place / "coco" / "val2017" / "000000000002.jpg").unlink()
    done = run()
    assert done.exit_code == 3
    assert "000000000002.jpg: image missing" in done.stderr


# --------------------------------------------------------------------------- claims


def told(claims: list[Claim]) -> dict[tuple[str, str, str | None], float]:
    return {(c.card.name, c.variant, c.codec): next(iter(c.values.values())) for c in claims}


def test_each_file_of_weights_has_its_own_numbers() -> None:
    coco = data.load_spec("coco-val")
    found = told(find_claims([CARDS[n] for n in ("hrnet-w32", "vitpose-s", "rtmpose-t")], coco))
    assert found == {
        ("hrnet-w32", "mmpose", None): 74.9,
        ("hrnet-w32", "official", "msra-hrnet"): 74.4,
        ("vitpose-s", "official", None): 73.8,
        ("vitpose-s", "mmpose", None): 73.9,
        ("rtmpose-t", "coco", None): 68.2,
        ("rtmpose-t", "aic-coco", None): 68.5,
        ("rtmpose-t", "body8", None): 65.9,
    }
    meshes = find_claims(CARDS.values(), data.load_spec("3dpw-test"))
    assert ("hmr2-h", "hmr2.0b", None) in told(meshes)
    assert {c.card.name for c in find_claims(CARDS.values(), coco)} >= {"vitpose-h", "hrnet-w48-384x288", "meme-p2"}


def test_demo_weights_are_held_against_the_baseline() -> None:
    for name, model in (("demo-pose", "swinpose-t-s2"), ("demo-mesh", "vmhmr2-t-s2")):
        claims = {c.card.name: c for c in find_claims(CARDS.values(), data.load_spec(name))}
        assert claims[model].variant == "demo"
        assert set(claims[model].tolerances.values()) == {0.1}
        assert len(claims[model].values) >= 2


def test_a_rounded_number_is_held_to_half_of_its_last_digit() -> None:
    meshes = find_claims([CARDS["hmr2-h"]], data.load_spec("coco-val-hmr"))
    assert meshes[0].tolerances == {"PCK@0.05": 0.5, "PCK@0.1": 0.5}
    poses = find_claims([CARDS["hrnet-w32-udp"]], data.load_spec("coco-val"))
    assert set(poses[0].tolerances.values()) == {0.2}
    wide = find_claims([CARDS["hrnet-w32-udp"]], data.load_spec("coco-val"), 1.5)
    assert set(wide[0].tolerances.values()) == {1.5}
    with pytest.raises(UsageError):
        find_claims([CARDS["hrnet-w32-udp"]], data.load_spec("demo-mesh"))


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "model"), [("demo-mesh", "vmhmr2-t-s2")])
def test_the_demo_weights_give_their_numbers(
    dataset: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = hmrbench("reproduce", model, "-d", dataset, "--device", "cpu", "--json")
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {r["verdict"] for r in rows} == {"reproduced"}
    assert {r["weights"] for r in rows} == {"demo"}


def test_an_interval_of_one_run_holds_its_scores(place: Path) -> None:
    write_cards(place, {"a": [claim("AR", 50)]}, [here(place)])
    run("--tolerance", "100")
    kept = results.load_runs(Path("runs"), "eval")[0]
    found = bootstrap.intervals(kept, bootstrap.Draw(resamples=200))
    assert found["AR"][0] <= kept.row["metrics"]["AR"] <= found["AR"][1]
    assert bootstrap.intervals(kept, bootstrap.Draw(resamples=200)) == found
