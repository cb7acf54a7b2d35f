"""Rough edges that a newcomer meets: demo weights and boxes of `predict`, the start of `train`, names of what fails."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import make_coco, prepare_training
from test_cli import hmrbench
from tiny_net import write_cards

from hmrbench import data
from hmrbench.cards import load_card
from hmrbench.errors import DataError, UsageError
from hmrbench.pictures.boxes import named_boxes, people_in

SPEC = "mine:\n  task: hpe\n  annotations: annotations/person_keypoints_val2017.json\n  images: val2017\n"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8))
    return path


def test_boxes_in_words(picture: Path) -> None:
    one, two = people_in(picture, named_boxes("10,20,100,80 0,0,50.5,60", [picture]))
    assert (one.box_xywh_px, two.box_xywh_px) == ((10, 20, 100, 80), (0, 0, 50.5, 60))
    assert len(people_in(picture, named_boxes("1,2,3,4;5,6,7,8", [picture]))) == 2
    for text in ("1,2,3", "1,2,3,4,5", "1,,2,3", "1"):
        with pytest.raises(UsageError, match="X,Y,WIDTH,HEIGHT"):
            named_boxes(text, [picture])
    for text, words in (("1,2,-3,4", "is empty"), ("500,2,3,4", "outside the picture")):
        with pytest.raises(DataError, match=words):
            people_in(picture, named_boxes(text, [picture]))
    with pytest.raises(DataError, match=r"nowhere\.json"):
        named_boxes("nowhere.json", [picture])


def test_predict_takes_demo_weights_where_there_are_no_others(picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = hmrbench("predict", "vmpose-t-s2", picture, "--boxes", "10,20,100,80", "-o", out, "--json", "--no-flip")
    assert result.exit_code == 0, result.output
    assert "demo weights, which know synthetic people alone" in " ".join(result.stderr.split())
    (found,) = json.loads(result.stdout)
    assert found["weights"] == "demo"
    assert found["people"][0]["box_xywh_px"] == [10, 20, 100, 80]


def test_training_starts_from_random_weights_where_nothing_can_be_fetched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("lightning_fabric")
    make_coco(tmp_path)
    (tmp_path / "mine.yaml").write_text(SPEC)
    spec, card = data.load_spec("mine", tmp_path / "mine.yaml"), load_card("tiny-a", [write_cards(tmp_path / "cards")])
    job = prepare_training(card, spec, data_root=tmp_path, device="cpu", dtype="fp32")
    assert job.recipe.init == "random"
    assert "it starts from random weights, which --init changes: tiny-a: its encoder: no source" in caplog.text
    assert prepare_training(card, spec, data_root=tmp_path, dtype="fp32", recipe="vitpose").recipe.init == "pretrained"


def test_a_model_of_a_glob_that_fails_is_named(tmp_path: Path) -> None:
    make_coco(tmp_path)
    (tmp_path / "mine.yaml").write_text(SPEC)
    where = ("--datasets-file", tmp_path / "mine.yaml", "--data-root", tmp_path, "--runs", tmp_path / "runs")
    command = ("eval", "tiny-*", "--models-dir", write_cards(tmp_path / "cards"), "-d", "mine", "--weights", "random")
    result = hmrbench(*command, *where, "--json")
    assert result.exit_code == 1
    assert {"tiny-a", "tiny-b"} <= {row["model"] for row in json.loads(result.stdout)}
    assert "'tiny-nan'" in result.stderr
