"""An encoder, a head, a codec, a metric and a runtime of other people: their file and YAML, no file here changes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import make_coco
from test_cli import hmrbench

PARTS = """
from dataclasses import replace

import numpy as np
from torch import nn

from hmrbench.codecs import find_codec
from hmrbench.nets.encoders.record import Encoder, Family
from hmrbench.nets.record import HeadKind
from hmrbench.records import Measure, Measurement, Metric
from hmrbench.runtimes import Runtime
from hmrbench.runtimes.pytorch import PyTorch


class Patches(nn.Module):
    widths = (8,)

    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, 8, 16, stride=16)

    def forward(self, x):
        return self.proj(x)


class Maps(nn.Module):
    def __init__(self, channels, keypoints):
        super().__init__()
        self.out = nn.Conv2d(channels, keypoints, 1)

    def forward(self, x):
        return nn.functional.interpolate(self.out(x), scale_factor=4.0)


ENCODER = Encoder("patches", lambda stages: Patches(), Family("patches", "Patches"))
HEAD = HeadKind("maps", lambda channels, input_size, **options: Maps(channels, **options))
CODEC = find_codec("plain")


def compute(predictions, dataset):
    sure = np.array([p.scores.mean() for p in predictions])
    return Measurement((SURE.score(float(sure.mean())),), per_sample={"sureness": sure})


SURE = Measure("sureness", "", True, digits=3)
METRIC = Metric("sureness", "", True, compute, measures=(SURE,))


class Elsewhere(PyTorch):
    def describe(self):
        return replace(super().describe(), runtime="elsewhere")


RUNTIME = Runtime("elsewhere", ("torch",), Elsewhere, devices=("cpu",), dtypes=("fp32",))
"""
CARD = """
family: own
defaults:
  task: hpe
  input: [256, 192]
  encoder: "parts:ENCODER"
  stages: 4
  neck: none
  head: {kind: "parts:HEAD", options: {keypoints: 17}}
  codec: "parts:CODEC"
  runtime: "parts:RUNTIME"
models:
  patches-maps: {}
"""
SPEC = """
mine:
  task: hpe
  annotations: annotations/person_keypoints_val2017.json
  images: val2017
  metrics: [coco-keypoints, "parts:METRIC"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_coco(tmp_path)
    cards = tmp_path / "cards"
    cards.mkdir()
    (cards / "parts.py").write_text(PARTS)
    (cards / "own.yaml").write_text(CARD)
    (tmp_path / "datasets.yaml").write_text(SPEC)
    monkeypatch.syspath_prepend(str(cards))
    monkeypatch.delitem(sys.modules, "parts", raising=False)
    return tmp_path


def test_parts_of_others_compose_in_one_card(folder: Path) -> None:
    args = ("--models-dir", folder / "cards", "--runs", folder / "runs", "--json")
    data = ("--datasets-file", folder / "datasets.yaml", "--data-root", folder)
    result = hmrbench("eval", "patches-maps", "-d", "mine", "--boxes", "gt", "--weights", "random", *data, *args)
    assert result.exit_code == 0, result.output
    [row] = json.loads(result.stdout)
    assert 0 < row["metrics"]["sureness"] < 1
    assert {"AP", "sureness"} <= row["metrics"].keys()
    assert (row["codec"], row["runtime"]) == ("plain", "elsewhere")
    result = hmrbench("profile", "patches-maps", "--device", "cpu", "--repeats", "2", *args)
    assert result.exit_code == 0, result.output
    [row] = json.loads(result.stdout)
    assert row["params_encoder"] == 8 * 3 * 16 * 16 + 8
    assert row["params_head"] == 17 * 8 + 17
    table = hmrbench("table", "--models-dir", folder / "cards", "--runs", folder / "runs")
    assert "sureness" in table.stdout


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('kind: "parts:HEAD"', 'kind: "parts:CODEC"', "not a hmrbench.nets.record.HeadKind"),
        ('kind: "parts:HEAD"', "kind: heatmaps", "did you mean heatmap"),
        ("keypoints: 17", "keypoint: 17", "unexpected keyword argument 'keypoint'"),
        ('encoder: "parts:ENCODER"', 'encoder: "parts:HEAD"', "not a hmrbench.nets.encoders.record.Encoder"),
    ],
)
def test_parts_that_are_none_are_named(folder: Path, old: str, new: str, words: str) -> None:
    card = folder / "cards" / "own.yaml"
    card.write_text(card.read_text().replace(old, new))
    args = ("--models-dir", folder / "cards", "--repeats", "0", "--runs", folder / "runs", "--json")
    result = hmrbench("profile", "patches-maps", *args)
    assert result.exit_code == 1
    [row] = json.loads(result.stdout)
    assert "own.yaml" in row["error"]
    assert words in row["error"]
