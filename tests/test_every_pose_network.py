"""Every pose network to compare with, by the commands: official files, photographs, profile, predict, reproduce."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import make_coco
from test_cli import hmrbench
from test_tables import eval_row, profile_row, save

from hmrbench import zoo
from hmrbench.cards import load_cards
from hmrbench.codecs import CODECS
from hmrbench.files import file_sha256
from hmrbench.nets.record import MMPOSE_KEYS, REFERENCES, known_networks
from hmrbench.report import plots, tables
from hmrbench.report.references import load_references
from hmrbench.results import runs as results
from hmrbench.schema import ModelCard

REFS = Path(__file__).parent / "refs" / "poses"
LAYOUTS = json.loads(gzip.decompress((REFS / "layouts.json.gz").read_bytes()))
COSTS = json.loads((REFS / "official_costs.json").read_text())
NETS = {name: net for name, net in known_networks().items() if net.output != "mesh"}
CARDS = {name: card for name, card in load_cards().items() if card.build in NETS}
ON_BOXES = [name for name, card in CARDS.items() if card.crop.kind != "bottom-up"]
QUICK = ("simcc-vipnas-mbv3", "rtmpose-t", "litepose-auto-xs")  # one of each kind of output; the others are slow
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CARDS]
PHOTOGRAPHS, PEOPLE = 4, 12  # with keypoints


def official_name(card: ModelCard) -> str:
    return str(card.build).replace("-", "_").replace("meme_", "meme_eeffpose_")


def prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    """A file of mmpose's in one of the prefixes that its versions, and the repositories before it, gave its keys."""
    if not any(key.startswith("backbone.") for key in state):  # SimCC's own repository has bare ones
        head = r"^(final_layer|mlp_head_[xy])\."
        state = {re.sub(r"^(?!head\.)", "backbone.", re.sub(head, r"head.\1.", k)): v for k, v in state.items()}
    if prefix == "bare":
        return {re.sub(r"^(head|backbone)\.", "", k): v for k, v in state.items()}
    return {re.sub(r"^head\.", f"{prefix}.", k): v for k, v in state.items()}


@dataclass(frozen=True)
class Official:
    """A network's file of random weights with the official keys, in the official order."""

    card: ModelCard
    path: Path
    state: dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=NAMES)
def official(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Official]:
    card = CARDS[request.param]
    torch.manual_seed(0)
    own, layout = zoo.build_net(card).state_dict(), NETS[str(card.build)].layout
    for key, value in own.items():  # alike for all joints, untrained networks say nothing
        if key.startswith("head.") and value.ndim > 1:
            own[key] = value + 0.02 * torch.randn_like(value)
    state = {key: own[str(layout.ours(key))] for key in LAYOUTS[official_name(card)]}
    assert {k: list(v.shape) for k, v in state.items()} == LAYOUTS[official_name(card)]
    path = tmp_path_factory.mktemp("official") / "official.pth"
    torch.save({"meta": {"epoch": 1}, "state_dict": state}, path)
    yield Official(card, path, state)
    path.unlink()


def done(*args: object, code: int = 0) -> Any:
    result = hmrbench(*args, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def test_weights_check_takes_every_official_layout(official: Official, tmp_path: Path) -> None:
    card, layout = official.card, NETS[str(official.card.build)].layout
    files = {"own": official.path}
    for prefix in ("head", "keypoint_head", "bare") if layout is MMPOSE_KEYS else ():
        variant = prefixed(official.state, prefix)
        if variant.keys() != official.state.keys():
            files[prefix] = tmp_path / f"{prefix}.pth"
            torch.save({"state_dict": variant}, files[prefix])
    assert len(files) == (3 if layout is MMPOSE_KEYS else 1)
    for path in files.values():
        found = done("weights", "check", card.name, path)
        assert (found["model"], found["layout"]) == (card.name, layout.name)
        assert found["unexpected"] == found["unused"] == found["interpolated"] == []
        assert found["sha256"] == file_sha256(path)


def evaluated(official: Official, folder: Path, runs: Path, *args: object) -> dict[str, Any]:
    common = ("-d", "coco-val", "--data-root", folder, "--weights", official.path, "--runs", runs, "--workers", "1")
    (row,) = done("eval", official.card.name, *common, "--device", "cpu", "--batch-size", "4", *args)
    assert (row["model"], row["weights_sha256"]) == (official.card.name, file_sha256(official.path))
    assert (row["codec"], row["input"], row["flip"]) == (official.card.codec, official.card.input_text, True)
    assert all(0 <= value <= 100 for value in row["metrics"].values())
    assert {"AP", "AR", "PCK@0.1"} <= row["metrics"].keys()
    return dict(row)


def test_evaluates_photographs(official: Official, coco_mini: Path, tmp_path: Path) -> None:
    """All four with the annotated boxes, or as whole pictures; some of a detector's boxes."""
    if official.card.name not in ON_BOXES:
        row = evaluated(official, coco_mini, tmp_path)
        assert (row["boxes"], row["samples"], row["partial"]) == ("none", PHOTOGRAPHS, False)
        return
    row = evaluated(official, coco_mini, tmp_path, "--boxes", "gt")
    assert (row["boxes"], row["samples"], row["partial"]) == ("gt", PEOPLE, False)
    row = evaluated(official, coco_mini, tmp_path, "--limit", "4")
    assert (row["boxes"], row["samples"], row["partial"]) == ("det", 4, True)


def test_profiles_and_predicts(official: Official, tmp_path: Path) -> None:
    name = official.card.name
    costs = COSTS[official_name(official.card)]
    (row,) = done("profile", name, "--repeats", "0", "--device", "cpu", "--runs", tmp_path / "runs")
    assert (row["status"], row["params"]) == ("ok", costs["params"])
    assert abs(row["macs"] / costs["macs"][official.card.input_text] - 1) < 0.005
    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8))
    boxes = ("--boxes", "10,20,100,120") if name in ON_BOXES else ()
    args = ("--weights", official.path, "--device", "cpu", "-o", tmp_path / "out", *boxes)
    (found,) = done("predict", name, picture, *args)
    assert (tmp_path / "out" / found["picture"]).is_file()
    if name in ON_BOXES:
        assert len(found["people"]) == 1
    assert all(np.shape(person["keypoints_px"]) == (17, 2) for person in found["people"])
    assert all(np.isfinite(person["keypoints_px"]).all() for person in found["people"])


def test_reproduces_a_number(official: Official, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card's protocol on a small set of one's own, where the file is fetched and a number of it is published."""
    monkeypatch.setenv("HMRBENCH_CACHE", str(tmp_path / "cache"))
    make_coco(tmp_path / "coco", (1,))
    spec = {
        "task": "hpe", "folder": "coco", "annotations": "annotations/person_keypoints_val2017.json",
        "images": "val2017", "default_boxes": "det",
        "boxes": {"det": "person_detection_results/COCO_val2017_detections_AP_H_56_person.json", "gt": None},
    }  # fmt: skip
    (tmp_path / "sets.yaml").write_text(yaml.safe_dump({"small": spec}))
    fields = official.card.model_dump(mode="json", exclude_defaults=True)
    card = {k: fields[k] for k in ("task", "build", "input", "crop", "codec", "decode") if k in fields}
    number = {"dataset": "small", "metric": "PCK@0.1", "value": 40, "source": "somebody"}
    card |= {"weights": [{"url": f"file:{official.path}"}], "published": [number]}
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "x.yaml").write_text(yaml.safe_dump({"models": {"the-same": card}}))
    common = ("-d", "small", "--datasets-file", tmp_path / "sets.yaml", "--data-root", tmp_path, "--device", "cpu")
    common += ("--models-dir", tmp_path / "cards", "--runs", tmp_path / "runs", "-o", tmp_path / "page.html")
    (row,) = done("reproduce", "the-same", *common, "--tolerance", "100")
    bottom_up = official.card.name not in ON_BOXES
    assert (row["verdict"], row["boxes"]) == ("reproduced", "none" if bottom_up else "det")
    assert (row["codec"], row["weights_sha256"]) == (official.card.codec, file_sha256(official.path))
    assert row["samples"] == (1 if bottom_up else 2)
    assert row["difference"] == pytest.approx(row["measured"] - 40)


def test_demo_sets_have_numbers_of_demo_weights_alone() -> None:
    result = hmrbench("reproduce", *CARDS, "--dataset", "demo-pose")
    assert result.exit_code == 2
    assert f"none of the {len(CARDS)} models has a published number on demo-pose" in " ".join(result.stderr.split())
    assert "demo weights (gmfpose-t-s2, swinpose-t-s2, vmpose-t-s2)" in " ".join(result.stderr.split())


# --------------------------------------------------------------------------- costs, tables, plots, help


def test_the_cost_baseline_holds_them_all() -> None:
    """Which `profile --all` fills and `make test` checks; LitePose at its square input."""
    baseline = json.loads((Path(__file__).parents[1] / "baselines" / "costs.json").read_text())
    held = {row["model"]: row["values"] for row in baseline["rows"]}
    assert len(CARDS) == 35
    for name, card in CARDS.items():
        official = COSTS[official_name(card)]
        assert held[name]["params"] == official["params"], name
        assert abs(held[name]["macs"] / official["macs"][card.input_text] - 1) < 0.005, name


def test_plots_show_them_as_one_family_and_never_mix_boxes_with_none(tmp_path: Path) -> None:
    rows = [eval_row(name, boxes="det" if name in ON_BOXES else "none") for name in CARDS]
    save(tmp_path, *rows, *(profile_row(name) for name in CARDS))
    table = tables.gather(results.load_runs(tmp_path), load_cards(), references=load_references())
    shown = {}
    for key in ("coco-val:AP", "coco-val (no boxes):AP"):
        found, _ = plots.points(table, "params", key, None, "hpe")
        measured = [point for point in found if not point.published]
        assert {point.family for point in measured} == {REFERENCES.name}
        shown[key] = {point.label for point in measured}
    litepose = {card.paper_name for name, card in CARDS.items() if name not in ON_BOXES}
    assert shown["coco-val (no boxes):AP"] == litepose
    assert shown["coco-val:AP"] == {card.paper_name for card in CARDS.values()} - litepose
    assert not {r["model"] for r in table.rows if r["kind"] == "published"} & {c.paper_name for c in CARDS.values()}


def test_help_names_every_codec() -> None:
    words = hmrbench("eval", "--help", env={"COLUMNS": "200"}).stdout
    (said,) = re.findall(r"--codec (.*?) --[a-z]", " ".join(words.replace("│", " ").split()))
    assert {name for name in CODECS if not re.search(rf"(?<![\w-]){name}(?![\w-])", said)} == set()
