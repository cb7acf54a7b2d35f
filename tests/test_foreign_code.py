"""Code of others that fails: one message that names the card or data set and the cause, and an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import make_coco
from test_cli import hmrbench
from tiny_net import TinyPose
from torch import nn

from hmrbench import zoo
from hmrbench.cards import load_cards
from hmrbench.codecs import Codec
from hmrbench.errors import HmrbenchError, UsageError, blamed_on
from hmrbench.profiling import ProfileSettings, profile_card
from hmrbench.records import Metric
from hmrbench.schema import ModelCard

FAULTS = {
    "value": ValueError("out\nof luck"),
    "key": KeyError("k"),
    "nothing": AssertionError(),
    "exit": SystemExit(0),
    "memory": MemoryError("no room"),
    "deep": RecursionError("deep"),
}
CARDS = """
family: odd
defaults: {task: hpe, size: t, input: [64, 48], licence: none, paper_name: O, build: 'test_foreign_code:fails'}
models:
  forward: {build: 'test_foreign_code:failing_forward'}
  text: {build: 'test_foreign_code:no_network'}
  list: {build: 'test_foreign_code:gives_a_list'}
  other-shape: {build: 'test_foreign_code:other_shape'}
  codec: {build: 'tiny_net:build', codec: 'test_foreign_code:CODEC'}
  plain: {build: 'tiny_net:build'}
"""
CARDS += "".join(f"  {name}: {{options: {{fault: {name}}}}}\n" for name in FAULTS)
SETS = """
mine-metric:
  {task: hpe, title: T, reader: coco, folder: ., images: val2017, metrics: ['test_foreign_code:METRIC'], licence: none,
   annotations: annotations/person_keypoints_val2017.json}
"""
SETS += "".join(
    f"mine-{name}: {{task: hpe, title: T, reader: {reader}, folder: ., annotations: a, images: ., licence: none, "
    "metrics: []}\n"
    for name, reader in (("fails", "test_foreign_code"), ("gives-text", "tiny_net"), ("is-missing", "no_such_module"))
)


def fails(card: ModelCard) -> nn.Module:
    raise FAULTS[card.options["fault"]]


def no_network(card: ModelCard) -> str:
    return "network"


class FailingForward(TinyPose):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError("by zero")


class GivesAList(TinyPose):
    def forward(self, x: torch.Tensor) -> Any:
        return [1, 2]


class OtherShape(TinyPose):
    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x)[:, :, 0]


failing_forward, gives_a_list, other_shape = (
    lambda card, made=made: made() for made in (FailingForward, GivesAList, OtherShape)
)


def _raise(*_: object) -> Any:
    raise LookupError("not in this table")


CODEC = Codec("odd", "udp", _raise, _raise)
METRIC = Metric("odd", "%", True, _raise)
read = check = images = _raise


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_coco(tmp_path)
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "odd.yaml").write_text(CARDS)
    (tmp_path / "sets.yaml").write_text(SETS)
    return tmp_path


def said(result: Any) -> str:
    """The one message of a command that failed."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (1, 2), result.output
    lines = [line for line in result.output.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, result.output
    return lines[0]


@pytest.mark.parametrize("name", FAULTS)
def test_a_builder_may_raise_anything(name: str, folder: Path) -> None:
    cards = ("--models-dir", folder / "cards")
    kind = type(FAULTS[name]).__name__
    for args in (
        ("show", name, *cards),
        ("models", name, *cards),
        ("eval", name, "-d", "demo-pose", "--weights", "random", "--runs", folder / "r", *cards),
    ):
        message = said(hmrbench(*args))
        assert f"odd.yaml: '{name}': build 'test_foreign_code:fails': {kind}" in message
    row = next(profile_card(load_cards([folder / "cards"])[name], ProfileSettings(device="cpu", repeats=0)))
    assert row.status == ("out of memory" if name == "memory" else "failed")
    assert kind in str(row.error)


def test_the_other_models_are_listed(folder: Path) -> None:
    result = hmrbench("models", "plain", "value", "--models-dir", folder / "cards")
    assert "plain" in result.stdout
    assert "value" in result.stdout
    assert "ValueError: out" in said(result)


def test_what_is_no_network_is_called_what_it_is(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"odd\.yaml: 'text': build .* gives a str, not a torch\.nn\.Module"):
        zoo.load_model("text", "random", [folder / "cards"])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("forward", r"odd\.yaml: 'forward': a forward of \(\d, 3, 64, 48\): ZeroDivisionError: by zero"),
        ("list", r"odd\.yaml: 'list': "),
        ("other-shape", r"odd\.yaml: 'other-shape': "),
        ("codec", r"odd\.yaml: 'codec': codec 'odd': LookupError: not in this table"),
    ],
)
@pytest.mark.parametrize("flip", ["--flip", "--no-flip"])
def test_what_fails_while_people_are_predicted(model: str, words: str, flip: str, folder: Path) -> None:
    args = (
        "--data-root",
        folder,
        "--weights",
        "random",
        "--models-dir",
        folder / "cards",
        "--runs",
        folder / "runs",
        flip,
    )
    message = said(hmrbench("eval", model, "-d", "coco-val", *args))
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(message)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ("mine-fails", "mine-fails: reader 'test_foreign_code': LookupError: not in this table"),
        ("mine-gives-text", "mine-gives-text: reader 'tiny_net': AttributeError"),
        ("mine-is-missing", "mine-is-missing: reader 'no_such_module' cannot be imported"),
        ("mine-metric", "mine-metric: metric 'test_foreign_code:METRIC': LookupError: not in this table"),
    ],
)
def test_readers_and_metrics_of_others(dataset: str, words: str, folder: Path) -> None:
    args = ("--datasets-file", folder / "sets.yaml", "--data-root", folder)
    eval_args = ("--weights", "random", "--models-dir", folder / "cards", "--runs", folder / "runs")
    assert words in said(hmrbench("eval", "plain", "-d", dataset, *args, *eval_args))
    if dataset != "mine-metric":
        assert words in said(hmrbench("datasets", "check", dataset, *args))


def test_counting_fails_as_a_row_of_the_gate(folder: Path) -> None:
    held = folder / "costs.json"
    rows = [
        {"kind": "counts", "model": m, "values": {"params": 68, "macs": 9792}} for m in ("forward", "value", "plain")
    ]
    held.write_text(json.dumps({"schema": 1, "kind": "baseline", "rows": rows}))
    result = hmrbench(
        "check",
        "--baseline",
        held,
        "--costs",
        "--models-dir",
        folder / "cards",
        "--runs",
        folder / "none",
        env={"COLUMNS": "300"},
    )
    assert result.exit_code == 4, result.output
    assert "ZeroDivisionError: by zero" in result.stdout
    assert "ValueError: out" in result.stdout
    assert "plain" not in result.stdout


def test_our_own_errors_stay_and_others_are_one_line() -> None:
    with pytest.raises(UsageError, match=r"^wrong flag$"), blamed_on("x"):
        raise UsageError("wrong flag")
    words = r"^x: ValueError: a b \(test_foreign_code\.py, line \d+\)$"
    with pytest.raises(HmrbenchError, match=words) as caught, blamed_on("x"):
        raise ValueError("a\nb")
    assert isinstance(caught.value.__cause__, ValueError)
    with pytest.raises(KeyboardInterrupt), blamed_on("x"):
        raise KeyboardInterrupt
