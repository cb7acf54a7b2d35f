"""A real network with real weights, in another package that uses the public surface only."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from bad_server import sha256
from conftest import make_coco
from test_cli import hmrbench
from typer.testing import Result

import hmrbench as package
from hmrbench import skeletons
from hmrbench.cards import load_card
from hmrbench.codecs import Crops, find_codec
from hmrbench.errors import HmrbenchError, UsageError
from hmrbench.runtimes import Network, Setting, choose

EXAMPLE = Path(__file__).parents[1] / "examples" / "blazepose"
CARDS = ("--models-dir", "blazepose_hmrbench")
SOURCE = "pypi:mediapipe==0.10.14!mediapipe/modules/pose_landmark/pose_landmark_full.tflite"
SHA256 = "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f"


def cannot(why: str) -> None:
    """Skip where there is no network; in CI there is one."""
    if os.environ.get("CI"):
        pytest.fail(f"{why}: it must be possible in CI")
    pytest.skip(why)


@pytest.fixture(scope="module")
def blazepose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package installed by pip into a folder, and its weights fetched; the file of weights."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        cannot("ai-edge-litert is not installed")
    folder = tmp_path_factory.mktemp("blazepose")
    patch = pytest.MonkeyPatch()
    patch.setenv("HMRBENCH_CACHE", str(folder / "cache"))
    patch.delenv("HMRBENCH_OFFLINE", raising=False)
    patch.syspath_prepend(EXAMPLE)
    fetched = hmrbench("weights", "fetch", "blazepose-full", *CARDS, "--json")
    if "cannot reach the package index" in fetched.stderr:
        cannot("PyPI cannot be reached")
    assert fetched.exit_code == 0, fetched.stderr
    patch.undo()
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-input",
        "--no-deps",
        "--target",
        str(folder / "site"),
        str(EXAMPLE),
    ]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    row = json.loads(fetched.stdout)[0]
    assert (row["source"], row["sha256"], row["licence"]) == (SOURCE, SHA256, "Apache-2.0")
    return Path(row["file"])


def importable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this copy of the package the one that is imported, for one test."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "blazepose_hmrbench"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package as it lies here, without weights and without network."""
    importable(EXAMPLE, monkeypatch)


@pytest.fixture
def installed(blazepose: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The installed package importable, and the cache in which its weights lie; the file of weights."""
    importable(blazepose.parents[3] / "site", monkeypatch)
    monkeypatch.setenv("HMRBENCH_CACHE", str(blazepose.parents[2]))
    monkeypatch.setenv("HMRBENCH_OFFLINE", "1")
    return blazepose


def evaluate(root: Path, runs: Path, *args: object) -> Result:
    fixed = ("-d", "coco-val", "--data-root", root, "--boxes", "gt", "--runs", runs, "--json")
    return hmrbench("eval", "blazepose-full", *CARDS, *fixed, *args)


def test_the_package_is_what_was_installed(installed: Path) -> None:
    import blazepose_hmrbench

    assert not Path(blazepose_hmrbench.__file__).is_relative_to(EXAMPLE)
    assert installed.stat().st_size == 6_440_512
    assert sha256(installed.read_bytes()) == SHA256


def test_models_and_show_do_not_invent_parameters(on_path: None) -> None:
    row = json.loads(hmrbench("models", "blaze*", *CARDS, "--json").stdout)[0]
    assert (row["name"], row["params"], row["input"]) == ("blazepose-full", None, "256x256")
    shown = hmrbench("show", "blazepose-full", *CARDS)
    assert shown.exit_code == 0, shown.output
    assert "mediapipe==0.10.14" in shown.stdout
    assert "0.00" not in shown.stdout


def test_eval_on_made_pictures(installed: Path, tmp_path: Path) -> None:
    made = make_coco(tmp_path / "coco")
    result = evaluate(made, tmp_path / "runs")
    assert result.exit_code == 0, result.stderr
    row = json.loads(result.stdout)[0]
    assert (row["weights"], row["weights_sha256"]) == (SOURCE, SHA256)
    assert (row["runtime"], row["runtime_version"].split()[0]) == ("litert", "ai-edge-litert")
    assert (row["codec"], row["input"], row["samples"], row["flip"], row["dtype"]) == (
        "blazepose",
        "256x256",
        6,
        True,
        "fp32",
    )


def test_eval_on_photographs(installed: Path, coco_mini: Path, tmp_path: Path) -> None:
    result = evaluate(coco_mini, tmp_path / "runs", "--save-predictions", tmp_path / "p.json")
    assert result.exit_code == 0, result.stderr
    row = json.loads(result.stdout)[0]
    assert row["samples"] == 12
    assert row["metrics"]["AP"] > 40  # 43.9
    assert row["metrics"]["AP50"] > 70
    scored = hmrbench("score", tmp_path / "p.json", "-d", "coco-val", "--data-root", coco_mini, "--json")
    assert json.loads(scored.stdout)[0]["metrics"]["AP"] == row["metrics"]["AP"]


def test_predict_on_a_photograph(installed: Path, coco_mini: Path, tmp_path: Path) -> None:
    boxes = coco_mini / "annotations" / "person_keypoints_val2017.json"
    picture = coco_mini / "val2017" / "000000000785.jpg"
    args = ("predict", "blazepose-full", picture, *CARDS, "--boxes", boxes, "-o", tmp_path / "out", "--json")
    result = hmrbench(*args)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)[0]
    assert (found["weights_sha256"], len(found["people"])) == (SHA256, 1)
    assert found["runtime_version"].startswith("ai-edge-litert ")
    drawn = cv2.imread(str(tmp_path / "out" / "000000000785-blazepose-full.png"))
    assert (drawn != cv2.imread(str(picture))).any()


def test_predict_on_a_made_picture(installed: Path, tmp_path: Path) -> None:
    picture = make_coco(tmp_path / "coco") / "val2017" / "000000000001.jpg"
    result = hmrbench("predict", "blazepose-full", picture, *CARDS, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    assert np.array(json.loads(result.stdout)[0]["people"][0]["keypoints_px"]).shape == (17, 2)


def test_profile_counts_nothing_that_it_cannot_see(installed: Path, tmp_path: Path) -> None:
    args = ("--device", "cpu", "--repeats", 3, "--runs", tmp_path, "--json")
    result = hmrbench("profile", "blazepose-full", *CARDS, *args)
    assert result.exit_code == 0, result.output
    row = json.loads(result.stdout)[0]
    assert (row["status"], row["error"], row["weights"], row["weights_sha256"]) == ("ok", None, SOURCE, SHA256)
    assert 0 < row["latency_ms"] < 10_000
    assert [row[name] for name in ("params", "macs", "flops", "activations")] == [None] * 4
    assert row["runtime_version"].startswith("ai-edge-litert ")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--weights", "random"], "no random weights"),
        (["--device", "cuda"], "on cpu, not on cuda"),
        (["--dtype", "bf16"], "in fp32, not in bf16"),
        (["--weights", __file__], "blazepose-full: "),
    ],
)
def test_what_it_cannot_do_is_said(installed: Path, tmp_path: Path, args: list[str], words: str) -> None:
    result = evaluate(make_coco(tmp_path / "coco"), tmp_path / "runs", *args)
    assert result.exit_code in (2, 3)
    assert words in result.stderr
    assert result.stdout in ("", "[]\n")


def test_a_mirrored_picture_gives_the_mirrored_person(installed: Path, coco_mini: Path) -> None:
    """On the person whom it sees best, both views agree after `flip_back` to a few pixels of 256."""
    from hmrbench.data.images import read_image
    from hmrbench.data.loader import CropSettings, crop_image
    from hmrbench.records import Sample

    card = load_card("blazepose-full", [Path("blazepose_hmrbench")])
    net, codec = package.load_model(card), find_codec(card.codec)
    truth = json.loads((coco_mini / "annotations" / "person_keypoints_val2017.json").read_text())
    skier = next(a for a in truth["annotations"] if a["image_id"] == 785 and a["num_keypoints"] > 12)
    path = coco_mini / "val2017" / "000000000785.jpg"
    assert read_image(path).shape[2] == 3
    sample = Sample("skier", path, 785, tuple(skier["bbox"]))
    images, crops = crop_image(path, [sample], CropSettings(card.crop, card.input, "square"))
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)
    with choose(card, None)[0].prepare(Network(net), Setting("cpu", "fp32", card.input)) as run:
        straight, mirrored = run(x), codec.flip_back(run(x.flip(3)), skeletons.COCO17)
    assert straight.shape == (1, 17, 3)
    assert (straight - mirrored)[..., :2].abs().median() < 4
    found, scores = codec.decode(straight, crops)
    labelled = np.array(skier["keypoints"]).reshape(17, 3)
    distance = np.linalg.norm(found[0] - labelled[:, :2], axis=1)[labelled[:, 2] > 0]
    assert np.median(distance) < 0.03 * max(skier["bbox"][2:])
    assert ((scores >= 0) & (scores <= 1)).all()


def test_positions_in_the_input_go_back_to_the_picture(on_path: None) -> None:
    codec = find_codec("blazepose_hmrbench:CODEC")
    crops = Crops(np.array([[100.0, 50.0]]), np.array([[128.0, 128.0]]), (256, 256))
    output = torch.tensor([[[128.0, 128.0, 0.0], [0.0, 256.0, 100.0]]])
    keypoints, scores = codec.decode(output, crops)
    np.testing.assert_allclose(keypoints, [[[100, 50], [36, 114]]])
    np.testing.assert_allclose(scores, [[0.5, 1]])
    with pytest.raises(HmrbenchError, match="no training target"):
        codec.encode(keypoints, scores, (256, 256))


def test_without_the_backend_it_says_what_to_install(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = load_card("blazepose-full", [Path("blazepose_hmrbench")])
    runtime, _ = choose(card, None)
    with pytest.raises(UsageError, match="pip install no-such-package"):
        replace(runtime, package=("no-such-package",), install="").check(card.name, "auto", "fp32")
