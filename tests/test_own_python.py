"""From Python: a network that is at hand, paths as text or Path, and what the package shows of itself."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch
from conftest import make_coco
from tiny_net import TinyPose, write_cards
from torch import nn

import hmrbench
from hmrbench.codecs.heatmap import PLAIN
from hmrbench.errors import HmrbenchError, UsageError
from hmrbench.evaluation import score_file

SPEC = "mine:\n  task: hpe\n  annotations: annotations/person_keypoints_val2017.json\n  images: val2017\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_coco(tmp_path / "data")
    (tmp_path / "mine.yaml").write_text(SPEC)
    return tmp_path


def test_a_network_at_hand(place: Path) -> None:
    torch.manual_seed(0)
    net = TinyPose().train()
    where = {"data_root": str(place / "data"), "datasets_file": str(place / "mine.yaml"), "device": "cpu"}
    result = hmrbench.evaluate(net, "mine", input_size=(64, 48), codec="plain", runs=str(place / "runs"), **where)  # type: ignore[arg-type]
    assert (result.model, result.input, result.codec, result.weights) == ("TinyPose", "64x48", "plain", "given")
    assert result.samples == 6
    assert net.training
    again = hmrbench.evaluate(net, "mine", input_size=(64, 48), codec=PLAIN, **where)  # type: ignore[arg-type]
    assert again.metrics == result.metrics
    assert again.weights_sha256 == result.weights_sha256
    with torch.no_grad():
        net.project.bias += 1
    assert hmrbench.evaluate(net, "mine", input_size=(64, 48), **where).weights_sha256 != result.weights_sha256  # type: ignore[arg-type]
    (row,) = hmrbench.load_results(str(place / "runs")).to_dict("records")
    assert row["model"] == "TinyPose"
    assert list(hmrbench.make_table(str(place / "runs"))["", "model"]) == ["TinyPose"]


def test_what_does_not_go_with_a_network(place: Path) -> None:
    where = {"data_root": place / "data", "datasets_file": place / "mine.yaml"}
    with pytest.raises(UsageError, match="leave weights out"):
        hmrbench.evaluate(TinyPose(), "mine", weights="random", **where)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="two numbers of pixels"):
        hmrbench.evaluate(TinyPose(), "mine", input_size=(0, 48), **where)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a card has its own"):
        hmrbench.evaluate("vitpose-s", "mine", input_size=(64, 48), **where)  # type: ignore[arg-type]
    with pytest.raises(HmrbenchError, match="Identity"):
        hmrbench.evaluate(nn.Identity(), "mine", **where)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [str, Path])
def test_paths_are_text_or_path(place: Path, kind: type) -> None:
    cards = write_cards(place / "cards")
    where = {"data_root": kind(place / "data"), "datasets_file": kind(place / "mine.yaml")}
    assert isinstance(hmrbench.load_model("tiny-a", "random", [kind(cards)]), nn.Module)
    result = hmrbench.evaluate(
        "tiny-a", "mine", weights="random", models_dirs=[kind(cards)], runs=kind(place / "r"), **where
    )
    assert result.model == "tiny-a"
    cost = hmrbench.profile_model("tiny-a", models_dirs=[kind(cards)], repeats=0, device="cpu", runs=kind(place / "r"))
    assert cost.status == "ok"
    assert len(hmrbench.load_results(kind(place / "r"))) == 2
    assert len(hmrbench.make_table(kind(place / "r"), models_dirs=[kind(cards)])) == 1
    (place / "p.json").write_text("[]")
    with pytest.raises(HmrbenchError, match="no boxes or results"):
        score_file(kind(place / "p.json"), "mine", runs=kind(place / "r"), **where)


def test_what_the_package_shows() -> None:
    assert {n for n in dir(hmrbench) if not n.startswith("_")} == {n for n in hmrbench.__all__ if not n.startswith("_")}
    for name in ("evaluate", "profile_model", "load_model", "create_encoder", "load_results", "make_table"):
        kinds = {p.kind for p in inspect.signature(getattr(hmrbench, name)).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds
