"""All cards: names, shapes, parameters, honesty about what is assumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import hmrbench
from hmrbench import zoo
from hmrbench.cards import find_cards, load_card, load_cards
from hmrbench.errors import UsageError, WeightsError
from hmrbench.schema import ModelCard
from hmrbench.zoo import parts

CARDS = load_cards()
FAMILIES = {"swinpose": "SwinPose", "gmfpose": "GMFPose", "vmpose": "VMPose"}
POSE = [c for c in CARDS.values() if c.task == "hpe"]
PAPER = [c for c in POSE if c.family in (*FAMILIES, "vitpose")]


def test_the_31_pose_models_are_there() -> None:
    truncated = {f"{f}-{s}-s{n}" for f in FAMILIES for s in "tsb" for n in (2, 3, 4)}
    assert {c.name for c in PAPER} == truncated | {f"vitpose-{s}" for s in "sblh"}


@pytest.mark.parametrize("card", POSE, ids=lambda c: c.name)
@pytest.mark.thorough
def test_pose_model_maps_a_picture_to_heatmaps(card: ModelCard) -> None:
    assert card.input == (256, 192) or card not in PAPER
    height, width = card.input
    with torch.device("meta"):
        net = zoo.build_net(card).eval()
        output = net(torch.empty(2, 3, height, width))
    shapes = [tuple(x.shape) for x in (output if isinstance(output, (tuple, list)) else (output,))]
    if card.family == "litepose":  # maps and tags, then maps of twice the size
        assert shapes == [(2, 34, height // 4, width // 4), (2, 17, height // 2, width // 2)]
    elif len(shapes) == 2:  # bins of x and of y
        record = zoo.find_network(card)
        split = card.head.split if record is None else record.split
        assert split is not None
        assert shapes == [(2, 17, int(side * split)) for side in (width, height)]
    else:
        assert shapes == [(2, 17, height // 4, width // 4)]


@pytest.mark.parametrize("name", ["swinpose-t-s2", "gmfpose-t-s3", "vmpose-t-s4", "vitpose-s"])
def test_pose_model_runs(name: str) -> None:
    net = hmrbench.load_model(name, weights="random")
    assert not net.training
    with torch.inference_mode():
        heatmaps = net(torch.randn(1, 3, 256, 192))
    assert heatmaps.shape == (1, 17, 64, 48)
    assert torch.isfinite(heatmaps).all()
    assert heatmaps.std() > 0


def test_random_weights_are_reproducible() -> None:
    torch.manual_seed(5)
    first = hmrbench.load_model("gmfpose-t-s2", weights="random").state_dict()
    second = hmrbench.load_model("gmfpose-t-s2", weights="random").state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("card", [c for c in POSE if c.family in FAMILIES], ids=lambda c: c.name)
def test_card_names_what_is_assumed_and_where_facts_are_from(card: ModelCard) -> None:
    assert card.paper_name.startswith(FAMILIES[card.family])
    assert card.paper_name.lower() == card.name
    assert any("neck" in text for text in card.assumed)
    assert card.sources
    assert card.licence
    assert card.weights
    assert all(s.read_in for s in (*card.weights, *card.encoder_weights))
    assert all(p.source for p in card.published)


def test_truncation_drops_the_parts_it_should() -> None:
    s2, s3, s4 = (parts.count_parameters(CARDS[f"swinpose-s-s{n}"]) for n in (2, 3, 4))
    assert s2["params"] < s3["params"] < s4["params"]
    assert s2["params_head"] == s3["params_head"] == s4["params_head"]
    assert 0.3 <= 1 - s3["params"] / s4["params"] <= 0.5  # paper: 30 to 50 % fewer on average


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("SwinPose-S-S3", ["swinpose-s-s3"]),
        ("VITPOSE-H", ["vitpose-h"]),
        ("gmfpose*-s3", ["gmfpose-t-s3", "gmfpose-s-s3", "gmfpose-b-s3"]),
    ],
)
def test_names_globs_and_the_papers_spelling(pattern: str, expected: list[str]) -> None:
    assert sorted(c.name for c in find_cards([pattern], CARDS)) == sorted(expected)


def test_unknown_model_lists_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown model 'swinpos-s-s3'.*swinpose-s-s3"):
        load_card("swinpos-s-s3")


def test_weights_that_are_not_here_say_where_they_come_from() -> None:
    with pytest.raises(WeightsError, match=r"download\.openmmlab\.com"):
        hmrbench.load_model("vitpose-s")
    with pytest.raises(WeightsError, match="no weights file"):
        hmrbench.load_model("vitpose-s", weights="nowhere.pth")


@pytest.mark.parametrize("name", ["swin-t", "gmf-t", "vmamba-t"])
@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_create_encoder_gives_the_stage(name: str, stages: int) -> None:
    encoder = hmrbench.create_encoder(name, stages=stages)
    with torch.inference_mode():
        out = encoder(torch.randn(1, 3, 64, 64))
    assert out.shape == (1, encoder.widths[stages - 1], 64 >> (stages + 1), 64 >> (stages + 1))


def test_create_encoder_refuses_what_is_not() -> None:
    with pytest.raises(UsageError, match=r"unknown encoder 'swim-t'.*swin-t"):
        hmrbench.create_encoder("swim-t")
    with pytest.raises(UsageError, match="1 to 4"):
        hmrbench.create_encoder("swin-t", stages=5)
    with pytest.raises(UsageError):
        hmrbench.create_encoder("vit-s", stages=3)


def test_cards_of_others(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "family: mine\n"
        "models:\n"
        "  mine-t: {paper_name: Mine, task: hpe, size: t, build: 'test_zoo:build_constant', input: [64, 48], "
        "licence: MIT}\n"
    )
    card = load_card("mine-t", [tmp_path])
    assert zoo.build_net(card)(torch.zeros(1, 3, 64, 48)).shape == (1, 17, 16, 12)
    assert parts.describe(card) == [{"part": "network", "output": [1, 17, 16, 12], "params": 17}]


def build_constant(card: ModelCard) -> torch.nn.Module:
    return _Constant()


class _Constant(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(17))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value.view(1, 17, 1, 1).expand(len(x), 17, x.shape[2] // 4, x.shape[3] // 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("family: x\nmodels: {a: {size: t}}\n", "'a' is not right at"),
        ("family: x\nmodel: {}\n", "unknown key model"),
        ("models: [", "not readable as YAML"),
        ("- 1\n", "must map"),
        (
            "family: x\nmodels: {swinpose-t-s2: {paper_name: X, task: hpe, size: t, input: [1, 1], licence: x}}\n",
            "already a model",
        ),
        (
            "family: x\nmodels: {a: {paper_name: X, task: hpe, size: t, input: [1, 1], licence: x, colour: red}}\n",
            "colour",
        ),
    ],
)
def test_a_wrong_card_names_file_entry_and_field(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        load_cards([tmp_path])
    assert "bad.yaml" in str(caught.value)
