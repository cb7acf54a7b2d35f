"""Networks on other runtimes: the same numbers as PyTorch's, files that are refused, rows that say what ran."""

from __future__ import annotations

import ctypes
import gc
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_coco
from runtime_nets import Boxed, Doubling, Hands, Layers, Mesh, Nested, Pair, Rotations, Shown, Vertices, scanning
from test_cli import hmrbench
from torch import Tensor, nn
from typer.testing import Result

from hmrbench.cards import load_card, load_cards
from hmrbench.codecs import Crops
from hmrbench.errors import DataError, HmrbenchError, UsageError
from hmrbench.nets.encoders import scan_standard
from hmrbench.nets.encoders.selective_scan import selective_scan
from hmrbench.nets.meshes.fastmetro import nearest_rotation
from hmrbench.results import runs as results
from hmrbench.runtimes import (
    Network,
    Setting,
    checking,
    find_runtime,
    known_runtimes,
    onnxruntime,
    openvino,
    prepare,
    read_exported,
    writing,
)
from hmrbench.runtimes.openvino import _signal_stack_kept, _StackT
from hmrbench.runtimes.outputs import flatten, names, unflatten
from hmrbench.runtimes.runtime import instruction_set

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

ROOT = Path(__file__).parents[1]
BOTH = pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
SUFFIX = {"onnxruntime": ".onnx", "openvino": ".xml"}
CARD = (
    "family: own\nmodels:\n  layers: {paper_name: L, task: hpe, size: t, input: [64, 48], licence: none, "
    "build: 'runtime_nets:build'%s}\n"
)


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "own.yaml").write_text(CARD % "")
    return tmp_path / "cards"


def export(cards: Path, output: Path, *args: object) -> Result:
    runtime = "onnx" if output.suffix == ".onnx" else "openvino"
    fixed = ("--runtime", runtime, "-o", output, "--models-dir", cards, "--weights", "random")
    return hmrbench("export", "layers", *fixed, *args)


def evaluate(cards: Path, root: Path, runs: Path, *args: object) -> Result:
    fixed = ("-d", "coco-val", "--data-root", root, "--runs", runs, "--models-dir", cards, "--boxes", "gt", "--json")
    return hmrbench("eval", "layers", "--weights", "random", *fixed, *args)


# --------------------------------------------------------------------------- the scan


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 63, 64, 65, 520])
@pytest.mark.parametrize("states", [1, 3])
def test_the_scan_by_standard_operators_is_the_scan(steps: int, states: int) -> None:
    torch.manual_seed(steps)
    B, K, D = 2, 4, 6
    u, delta = torch.randn(2, B, K * D, steps)
    b, c = torch.randn(2, B, K, states, steps)
    given = (u, delta, -8 * torch.rand(K * D, states), b, c, torch.randn(K * D), torch.randn(K * D))
    want, found = selective_scan(*given), scan_standard.forward(*given)
    assert found.shape == want.shape
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
    exact = scan_standard.forward(*(x.double() for x in given))
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact, selective_scan(*(x.double() for x in given)), rtol=1e-10, atol=1e-10)


def test_the_scan_forgets_without_dividing() -> None:
    """Decays of zero, after which a state is the newest input alone."""
    u = torch.ones(1, 4, 30)
    one = torch.ones(1, 4, 1, 30)
    y = scan_standard.forward(u, 9 * u, torch.full((4, 1), -1e4), one, one, torch.zeros(4), torch.zeros(4))
    torch.testing.assert_close(y, torch.nn.functional.softplus(9 * u))


# --------------------------------------------------------------------------- outputs


def test_outputs_come_apart_and_together() -> None:
    a, b, c = torch.zeros(1), torch.ones(2), torch.ones(3)
    nested = {"maps": a, "more": (b, {"x": c})}
    tensors, form = flatten(nested)
    assert [len(t) for t in tensors] == [1, 2, 3]
    assert form == {"maps": None, "more": [None, {"x": None}]}
    assert names(form) == ["maps", "more_0", "more_1.x"]
    assert (names(None), names([None, None])) == (["output"], ["output_0", "output_1"])
    back = unflatten(tensors, json.loads(json.dumps(form)))
    assert back["maps"] is a
    assert back["more"][0] is b
    assert back["more"][1]["x"] is c
    with pytest.raises(HmrbenchError, match="puts out a NoneType"):
        flatten({"maps": None})


# --------------------------------------------------------------------------- the same numbers


def on_runtime(net: nn.Module, runtime: str, x: Tensor, folder: Path, batch_size: int | None) -> tuple[Any, Any]:
    """What PyTorch and the runtime say, of a file for this batch size."""
    torch.manual_seed(0)
    net = net.eval()
    with torch.inference_mode():
        want = net(x)
    kind = find_runtime(runtime)
    made = writing.convert(net, None, kind, "fp32", batch_size, folder / f"n{kind.suffix}", checking.SomeCrops(x))
    with kind.prepare(made, Setting("cpu", "fp32", (64, 48))) as forward:
        found = forward(x)
        again = forward(x.flip(0))
    np.testing.assert_allclose(*(flatten(o)[0][0].numpy() for o in (found, again)), rtol=9, atol=9)  # both are whole
    assert not net.training
    assert flatten(found)[1] == flatten(want)[1]
    return want, found


@BOTH
@pytest.mark.parametrize(
    ("make", "batch_size"),
    [
        (Layers, None),
        (Pair, 2),
        (Nested, None),
        (Mesh, None),
        (scanning, None),
        (Shown, 2),
        (Hands, 1),
        (Rotations, None),
    ],
)
def test_a_runtime_gives_pytorchs_numbers(
    runtime: str, make: Callable[[], nn.Module], batch_size: int | None, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    x = torch.randn(3, 3, 64, 48)  # a batch that neither 2 nor the tracing's example divides
    want, found = on_runtime(make(), runtime, x, tmp_path, batch_size)
    largest, rms = checking.compare_outputs(want, found)
    assert rms <= largest <= 1e-4
    assert largest < 5e-5


@BOTH
def test_whole_pictures_are_of_any_size(runtime: str, tmp_path: Path) -> None:
    """A file that was traced on pictures of one size, as a network of whole pictures is given others."""
    net, card, kind = Layers().eval(), load_card("litepose-auto-xs"), find_runtime(runtime)
    some = checking.SomeCrops(torch.randn(1, 3, 64, 96))
    made = writing.convert(net, card, kind, "fp32", 1, tmp_path / f"n{kind.suffix}", some)
    with kind.prepare(made, Setting("cpu", "fp32", card.input)) as forward:
        for size in ((64, 96), (128, 64), (64, 48)):
            x = torch.randn(2, 3, *size)
            with torch.inference_mode():
                assert checking.compare_outputs(net(x), forward(x))[0] < 1e-4


@BOTH
@pytest.mark.parametrize("batch_size", [2, None])
def test_numbers_beside_the_picture_go_into_the_file(runtime: str, batch_size: int | None, tmp_path: Path) -> None:
    """As CLIFF's of the place of each box; without them they are zeros, as in PyTorch's network."""
    net, kind = Boxed().eval(), find_runtime(runtime)
    x, box = torch.randn(3, 3, 64, 48), torch.randn(3, 3)
    some = checking.SomeCrops(x, (box,))
    made = writing.convert(net, None, kind, "fp32", batch_size, tmp_path / f"n{kind.suffix}", some)
    prepared = kind.prepare(made, Setting("cpu", "fp32", (64, 48)))
    check = checking.compare_networks(None, net, prepared, some)
    assert (check.crops, check.max_std < 1e-4, check.keypoints_px) == (3, True, None)
    with prepared as forward, torch.inference_mode():
        assert checking.compare_outputs(net(x), forward(x))[0] < 1e-4
        assert checking.compare_outputs(net(x, box), forward(x))[0] > 0.1


def test_who_gives_cliff_its_numbers() -> None:
    from hmrbench.evaluation.job import EvaluationSettings, prepare

    def job(runtime: str) -> Any:
        return prepare("cliff-r50", "demo-mesh", EvaluationSettings(weights="random", runtime=runtime, device="cpu"))

    assert job("onnx").runtime.name == "onnxruntime"
    with pytest.raises(UsageError, match="cliff-r50 is given the place of its box beside the picture, which doubling"):
        job("runtime_nets:RUNTIME")


@BOTH
def test_what_was_put_out_stays_as_it_is(runtime: str, tmp_path: Path) -> None:
    """Runtimes use their memory again; the loop decodes an output while the next one is computed."""
    net, x = Layers().eval(), torch.randn(2, 3, 64, 48)
    kind = find_runtime(runtime)
    made = writing.convert(net, None, kind, "fp32", None, tmp_path / f"n{kind.suffix}", checking.SomeCrops(x))
    with kind.prepare(made, Setting("cpu", "fp32", (64, 48))) as forward:
        first = forward(x)
        kept = first.clone()
        forward(10 * x)
    assert torch.equal(first, kept)


@BOTH
@pytest.mark.parametrize("name", ["cliff-r50", "vmpose-t-s2"])
@pytest.mark.slow
def test_the_batch_stays_open(name: str, runtime: str, tmp_path: Path) -> None:
    """Traced on two pictures, run on four; `len` of a tensor would be a constant of the graph."""
    file = tmp_path / f"net{SUFFIX[runtime]}"
    args = ("--runtime", runtime, "--batch-size", "dynamic", "-o", file, "--weights", "random", "--json")
    made = hmrbench("export", name, *args)
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["check"]["max_std"] < 1e-4


class Softplus(nn.Module):
    """At some numbers times x, relative to what comes out where x is 1."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = torch.linspace(-60, 30, 46)
        self.sharp = 1 / nn.functional.softplus(self.numbers.double()).float()
        self.soft = 1 / nn.functional.softplus(self.numbers.double(), beta=0.5).float()

    def forward(self, x: Tensor) -> Tensor:
        given = x * self.numbers
        sharp, soft = nn.functional.softplus(given), nn.functional.softplus(given, beta=0.5)
        return torch.cat((sharp * self.sharp, soft * self.soft), -1)


@BOTH
def test_softplus_is_exact_where_it_is_small(runtime: str, tmp_path: Path) -> None:
    """The steps of a trained selective scan are: OpenVINO's own operator was off by a tenth of them."""
    _, found = on_runtime(Softplus(), runtime, torch.ones(1, 3, 4, 1), tmp_path, None)
    assert found.numpy() == pytest.approx(1, rel=2e-6)


def test_the_nearest_rotation_without_a_decomposition() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(500, 3, 3) * torch.logspace(-3, 3, 500)[:, None, None]
    u, _, vh = torch.linalg.svd(matrices.double())
    want = u @ vh * torch.linalg.det(u @ vh)[:, None, None]
    torch.testing.assert_close(nearest_rotation(matrices).double(), want, rtol=0, atol=2e-6)
    torch.testing.assert_close(nearest_rotation(matrices.double()), want, rtol=0, atol=1e-12)


def test_meshes_are_read_by_the_networks_own_codec() -> None:
    """Of vertices, an orthographic camera sees a shift of 0.01 as 0.01 of half the crop's height in x and in y."""
    card = load_card("fastmetro-s-r50")
    place = np.array([[100.0, 100.0]]), np.array([[300.0, 400.0]])
    some = checking.SomeCrops(torch.zeros(1, 3, 8, 8), (), Crops(*place, (8, 8), np.array([[640, 480]])))
    moved = known_runtimes()["pytorch"].prepare(Network(Vertices(0.01)), Setting("cpu", "fp32", (8, 8)))
    check = checking.compare_networks(card, Vertices(), moved, some)
    assert check.keypoints_px == pytest.approx(2**0.5 * 0.01 * 200, rel=1e-3)
    assert check.max_std == pytest.approx(0.01 / 3**-0.5, rel=1e-2)  # of numbers spread evenly from -1 to 1


def test_differences_are_in_standard_deviations() -> None:
    a = torch.tensor([[0.0, 2.0, 0.0, 2.0]])
    assert checking.compare_outputs(a, a + torch.tensor([[0.5, 0, 0, 0]])) == pytest.approx((0.5, 0.25))
    assert checking.compare_outputs((a, 4 * a), (a, 4 * a + 1)) == pytest.approx((0.25, 0.25))
    flat = torch.full((1, 4), 5.0)  # rounding is not large because nothing varies
    assert checking.compare_outputs(flat, flat + 1e-5) == pytest.approx((2e-4, 2e-4), rel=1e-2)
    with pytest.raises(HmrbenchError, match="is not finite"):
        checking.compare_outputs(a, a / 0)
    with pytest.raises(HmrbenchError, match=r"is \(1, 3\), PyTorch's \(1, 4\)"):
        checking.compare_outputs(a, a[:, :3])


# --------------------------------------------------------------------------- files


@BOTH
def test_export_then_eval(runtime: str, cards: Path, tmp_path: Path) -> None:
    root, file = make_coco(tmp_path / "coco"), tmp_path / f"net{SUFFIX[runtime]}"
    made = export(cards, file, "--batch-size", "4", "--json")
    assert made.exit_code == 0, made.stderr
    record = json.loads(made.stdout)
    assert json.loads(Path(f"{file}.json").read_text()) == record
    assert (record["model"], record["runtime"], record["dtype"], record["batch_size"]) == ("layers", runtime, "fp32", 4)
    assert (record["weights"], record["weights_sha256"], record["calibration"]) == ("random", None, None)
    assert record["opset"] == (17 if runtime == "onnxruntime" else None)
    assert record["check"]["max_std"] < 1e-4
    assert record["check"]["keypoints_px"] < 1  # near-equal peaks of an untrained network
    assert set(record["files"]) == ({"net.onnx"} if runtime == "onnxruntime" else {"net.xml", "net.bin"})
    result = evaluate(cards, root, tmp_path / "runs", "--runtime", file)
    assert result.exit_code == 0, result.stderr
    row = json.loads(result.stdout)[0]
    plain = json.loads(evaluate(cards, root, tmp_path / "runs").stdout)[0]
    assert (row["runtime"], row["dtype"], row["precision"], row["weights"]) == (runtime, "fp32", "fp32", "random")
    assert (plain["runtime"], plain["file_mb"], plain["precision"]) == ("pytorch", None, "fp32")
    assert row["runtime_version"].split(",")[0].split()[0] == runtime
    size = sum((tmp_path / name).stat().st_size for name in record["files"])
    assert row["file_mb"] == record["file_mb"] == size / 2**20
    assert row["instruction_set"]
    assert row["error_std"] == record["check"]["max_std"]
    assert row["metrics"] == pytest.approx(plain["metrics"], abs=1e-6)
    arrays = [run.arrays() for run in results.load_runs(tmp_path / "runs", "eval")]
    assert len(arrays) == 2  # each has a key of its own


@BOTH
def test_a_runtime_by_name_converts_on_the_way(runtime: str, cards: Path, tmp_path: Path) -> None:
    root = make_coco(tmp_path / "coco")
    row = json.loads(evaluate(cards, root, tmp_path / "runs", "--runtime", runtime).stdout)[0]
    plain = json.loads(evaluate(cards, root, tmp_path / "runs").stdout)[0]
    # on one thread of some processors it is PyTorch's to the bit
    assert (row["runtime"], row["file_mb"] > 0, 0 <= row["error_std"] < 1e-4) == (runtime, True, True)
    assert row["metrics"] == pytest.approx(plain["metrics"], abs=1e-6)
    profiled = hmrbench(
        "profile",
        "layers",
        "--models-dir",
        cards,
        "--runtime",
        runtime,
        "--repeats",
        3,
        "--runs",
        tmp_path / "r",
        "--json",
    )
    assert profiled.exit_code == 0, profiled.stderr
    cost = json.loads(profiled.stdout)[0]
    assert (cost["runtime"], cost["status"], cost["macs"] > 0, cost["file_mb"] > 0) == (runtime, "ok", True, True)
    assert cost["latency_ms"] > 0


def test_predict_on_a_file(cards: Path, tmp_path: Path) -> None:
    picture = make_coco(tmp_path / "coco") / "val2017" / "000000000001.jpg"
    assert export(cards, tmp_path / "net.onnx").exit_code == 0
    args = ("predict", "layers", picture, "--models-dir", cards, "--weights", "random", "--json", "-o")
    found = json.loads(hmrbench(*args, tmp_path / "a", "--runtime", tmp_path / "net.onnx").stdout)[0]
    plain = json.loads(hmrbench(*args, tmp_path / "b").stdout)[0]
    assert (found["runtime"], plain["runtime"]) == ("onnxruntime", "pytorch")
    np.testing.assert_allclose(found["people"][0]["keypoints_px"], plain["people"][0]["keypoints_px"], atol=1e-2)


def changed(file: Path, **fields: Any) -> None:
    beside = Path(f"{file}.json")
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **fields}))


def test_a_file_of_something_else_is_refused(cards: Path, tmp_path: Path) -> None:
    root, file = make_coco(tmp_path / "coco"), tmp_path / "net.onnx"
    assert export(cards, file).exit_code == 0
    good = Path(f"{file}.json").read_text()

    def said(*args: object) -> tuple[int, str]:
        result = evaluate(cards, root, tmp_path / "runs", "--runtime", file, *args)
        Path(f"{file}.json").write_text(good)
        return result.exit_code, " ".join(result.stderr.split())

    changed(file, commit="0123456789abcdef")
    code, words = said()
    assert code == 2
    assert "was exported at 0123456789ab, this is" in words
    assert f"hmrbench export layers --runtime onnxruntime --dtype fp32 -o {file} --weights random" in words
    changed(file, weights_sha256="f" * 64, weights="best.pth")
    code, words = said()
    assert code == 2
    assert "it holds the weights best.pth (ffffffffffff), not random" in words
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "own.yaml").write_text(CARD % ", crop: {padding: 1.5}")
    fixed = ("-d", "coco-val", "--data-root", root, "--boxes", "gt", "--weights", "random")
    newer = hmrbench("eval", "layers", "--models-dir", tmp_path / "newer", *fixed, "--runtime", file)
    assert newer.exit_code == 2
    assert "the model's card has changed" in " ".join(newer.stderr.split())
    changed(file, model="other")
    assert "it is other, not layers" in said()[1]
    changed(file, files={"net.onnx": "0" * 64})
    code, words = said()
    assert code == 3
    assert "not as `hmrbench export` wrote it" in words
    changed(file, schema=99)
    assert said()[0] == 3
    Path(f"{file}.json").unlink()
    code, words = said()
    assert code == 3
    assert "net.onnx.json is not beside it" in words
    Path(f"{file}.json").write_text(good)
    unsaid = hmrbench(
        "eval",
        "layers",
        "-d",
        "coco-val",
        "--data-root",
        root,
        "--boxes",
        "gt",
        "--models-dir",
        cards,
        "--runtime",
        file,
    )
    assert unsaid.exit_code == 2
    assert "untrained weights" in unsaid.stderr
    for broken in ("[]", "{", '{"kind": "export"}'):
        Path(f"{file}.json").write_text(broken)
        with pytest.raises(DataError):
            read_exported(file)


@BOTH
def test_a_wrong_constant_is_refused(
    runtime: str, cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bias that a converter gets wrong by a hundredth; nothing is left of the file."""
    write = find_runtime(runtime).write
    assert write is not None

    def spoilt(graph: Any, path: Path, dtype: str) -> None:
        net: Any = graph.net.net
        net.head.bias += 0.01
        write(graph, path, dtype)
        net.head.bias -= 0.01

    known = known_runtimes()
    monkeypatch.setitem(known, runtime, replace(known[runtime], write=spoilt))
    out = tmp_path / "out"
    result = export(cards, out / f"net{SUFFIX[runtime]}")
    assert result.exit_code == 1, result.output
    assert "is off: the largest difference to PyTorch" in " ".join(result.stderr.split())
    assert list(out.iterdir()) == []
    root = make_coco(tmp_path / "coco")
    refused = evaluate(cards, root, tmp_path / "runs", "--runtime", runtime)
    assert refused.exit_code == 1
    assert "is off" in refused.stderr


def test_a_file_that_does_not_run_says_why(cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one whose batch a converter has closed though it was to be any."""
    write = find_runtime("onnx").write
    assert write is not None
    known = known_runtimes()
    closed = replace(known["onnxruntime"], write=lambda graph, *rest: write(replace(graph, any_batch=False), *rest))
    monkeypatch.setitem(known, "onnxruntime", closed)
    result = export(cards, tmp_path / "net.onnx", "--batch-size", "dynamic")
    assert result.exit_code == 1
    assert "what was written does not run: [ONNXRuntimeError]" in " ".join(result.stderr.split())
    assert not list(tmp_path.glob("net*"))


def test_a_converter_that_fails_says_why(cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(graph: Any, path: Path, dtype: str) -> None:
        raise RuntimeError("no rule\nfor aten::foo")

    known = known_runtimes()
    monkeypatch.setitem(known, "onnxruntime", replace(known["onnxruntime"], write=fails))
    result = export(cards, tmp_path / "net.onnx")
    assert result.exit_code == 1
    assert "layers cannot be converted for onnxruntime: no rule for aten::foo" in " ".join(result.stderr.split())
    assert not list(tmp_path.glob("net*"))


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("net.xml", ["--runtime", "onnx"], "ends in .onnx"),
        (
            "net.onnx",
            ["--runtime", "litert"],
            "litert: it runs .tflite files that others wrote; there is onnx",
        ),
        ("net.onnx", ["--runtime", "onyx"], "unknown runtime 'onyx'; known: litert, onnxruntime"),
        ("net.onnx", ["--runtime", "onnx", "--dtype", "bf16"], "in fp32, fp16, int8, not in bf16"),
        ("net.onnx", ["--runtime", "onnx", "--dtype", "int8"], "int8 needs --calibrate"),
        ("net.onnx", ["--runtime", "onnx", "--calibrate", "demo-pose"], "--calibrate is for --dtype int8"),
        ("net.onnx", ["--runtime", "onnx", "--max-drop", "AP=1"], "--max-drop is for int8"),
        ("net.onnx", ["--runtime", "onnx", "--batch-size", "0"], "batch size is a number above 0"),
    ],
)
def test_what_cannot_be_exported(cards: Path, tmp_path: Path, name: str, args: list[str], words: str) -> None:
    result = hmrbench("export", "layers", "-o", tmp_path / name, "--models-dir", cards, "--weights", "random", *args)
    assert result.exit_code == 2, result.output
    assert words in " ".join(result.stderr.split())
    assert not (tmp_path / name).exists()


# --------------------------------------------------------------------------- int8


@BOTH
def test_int8_is_calibrated_on_other_people(runtime: str, cards: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    other, root = make_coco(tmp_path / "other", seed=1), make_coco(tmp_path / "coco")
    file = tmp_path / f"net{SUFFIX[runtime]}"
    calibrate = ("--dtype", "int8", "--calibrate", "coco-val", "--data-root", other, "--boxes", "gt")
    made = export(cards, file, *calibrate, "--calibration-crops", "4", "--batch-size", "dynamic", "--json")
    assert made.exit_code == 0, made.stderr
    record = json.loads(made.stdout)
    assert (record["calibration"]["dataset"], record["calibration"]["crops"]) == ("coco-val", 4)
    assert 1e-4 < record["check"]["rms_std"] < 0.5
    evaluated = evaluate(cards, root, tmp_path / "runs", "--runtime", file)
    assert evaluated.exit_code == 0, evaluated.stderr
    row = json.loads(evaluated.stdout)[0]
    assert (row["dtype"], row["precision"].split(",")[0], row["calibration"]["crops"]) == ("int8", "int8", 4)
    refused = evaluate(cards, other, tmp_path / "runs", "--runtime", file)
    assert refused.exit_code == 2
    assert "was calibrated on coco-val, which cannot score it" in " ".join(refused.stderr.split())
    changed(file, commit="0123456789abcdef")
    older = evaluate(cards, root, tmp_path / "runs", "--runtime", file)
    assert older.exit_code == 2
    command = " ".join(older.stderr.split()).partition("export it again: hmrbench ")[2]
    assert "--batch-size dynamic --calibrate coco-val --calibration-crops 4" in command
    again = hmrbench(*shlex.split(command), "--models-dir", cards, "--data-root", other, "--boxes", "gt")
    assert again.exit_code == 0, again.stderr
    assert evaluate(cards, root, tmp_path / "runs", "--runtime", file).exit_code == 0
    unmade = evaluate(cards, root, tmp_path / "runs", "--runtime", runtime, "--dtype", "int8")
    assert unmade.exit_code == 2
    assert "int8 needs a file that was calibrated: hmrbench export layers" in " ".join(unmade.stderr.split())


@pytest.mark.parametrize("here", [True, False])
def test_what_is_not_in_int8_is_in_bf16_where_the_processor_has_it(
    here: bool, cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if here and not openvino._capable("CPU", "bf16"):
        pytest.skip("a processor without bf16")
    assert export(cards, tmp_path / "net.xml").exit_code == 0
    monkeypatch.setattr(openvino, "_capable", lambda device, dtype: here)
    setting = Setting("cpu", "int8", (64, 48))
    with prepare(find_runtime("openvino"), Network(file=tmp_path / "net.xml"), setting) as forward:
        assert forward.describe().precision == f"int8, the rest {'bf16' if here else 'fp32'}"


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_the_precision_of_a_row_is_the_one_that_served(dtype: str, cards: Path, tmp_path: Path) -> None:
    """OpenVINO takes another than was asked for where the processor lacks it, such as bf16 for fp16."""
    if dtype != "fp32" and not openvino._capable("CPU", "bf16"):
        pytest.skip("a processor without 16 bits")
    assert export(cards, tmp_path / "net.xml").exit_code == 0
    setting = Setting("cpu", dtype, (64, 48))
    with prepare(find_runtime("openvino"), Network(file=tmp_path / "net.xml"), setting) as forward:
        nodes = [node.get_rt_info() for node in forward.model.get_runtime_model().get_ordered_ops()]
        kernels = {n["runtimePrecision"].astype(str) for n in nodes if n["layerType"].astype(str) == "Convolution"}
        served = {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}[kernels.pop()]
        assert not kernels
        assert forward.describe().precision == (served if served == dtype else f"{served}, weights {dtype}")


@pytest.mark.parametrize(("drops", "in_fp"), [([0.3], 0), ([9, 0.2, 0.6, 0.4], 2), ([9, 9], None)])
def test_the_search_leaves_the_fewest_costly_layers(
    drops: list[float], in_fp: int | None, cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores are given; which layers are costly is measured."""
    other = make_coco(tmp_path / "other", seed=1)
    from hmrbench.evaluation import export as search

    told = iter([50.0, *(50.0 - d for d in drops)])
    monkeypatch.setattr(search._Scorer, "__call__", lambda self, net: (next(told), True))
    calibrate = ("--dtype", "int8", "--calibrate", "coco-val", "--data-root", other, "--boxes", "gt")
    made = export(cards, tmp_path / "net.onnx", *calibrate, "--max-drop", "AP=0.5", "--json")
    if in_fp is None:
        assert made.exit_code == 2
        assert "int8 cannot keep that bound" in " ".join(made.stderr.split())
        return
    assert made.exit_code == 0, made.stderr
    record = json.loads(made.stdout)
    found = record["search"]
    assert (found["score"], found["bound"], found["fp32"], found["layers"], found["in_fp"]) == (
        "AP",
        0.5,
        50.0,
        4,
        in_fp,
    )
    assert found["drop"] <= 0.5
    assert len(found["stretches"]) == (4 if in_fp else 0)  # ranked only where some must stay
    left = sorted((s["rms_std"] for s in found["stretches"] if s["in_fp"]), reverse=True)
    assert left == sorted((s["rms_std"] for s in found["stretches"]), reverse=True)[:in_fp]
    assert len(record["calibration"]["in_fp"]) == in_fp
    assert "--calibration-crops 6 --max-drop AP=0.5 " in read_exported(tmp_path / "net.onnx")._command("layers", "")
    import onnx

    graph = onnx.load(tmp_path / "net.onnx").graph
    quantised = {n.name for n in graph.node if any("DequantizeLinear" in name for name in n.input)}
    assert not quantised & set(record["calibration"]["in_fp"])


# --------------------------------------------------------------------------- side by side


@pytest.fixture
def runs(cards: Path, tmp_path: Path) -> Path:
    """Runs of one network on PyTorch and on ONNX Runtime: accuracy and speed."""
    root, folder = make_coco(tmp_path / "coco"), tmp_path / "runs"
    for runtime in ("pytorch", "onnxruntime"):
        assert evaluate(cards, root, folder, "--runtime", runtime).exit_code == 0
    return folder


def test_compare_across_runtimes(runs: Path) -> None:
    result = hmrbench("compare", "layers@pytorch", "layers@onnxruntime:fp32", "--runs", runs, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["differences"]
    assert {d["metric"] for d in found} >= {"AP", "AR"}
    assert all(abs(d["difference"]) < 1e-6 for d in found)
    shown = hmrbench("compare", "layers@pytorch", "layers@onnxruntime", "--runs", runs)
    assert "layers, random, onnxruntime fp32, 20" in shown.stdout
    none = hmrbench("compare", "layers@openvino", "layers", "--runs", runs)
    assert none.exit_code == 3
    assert "no run of 'layers@openvino'" in none.stderr


def test_check_gates_an_export(runs: Path, tmp_path: Path) -> None:
    baseline = tmp_path / "baseline.json"
    assert hmrbench("check", "--baseline", baseline, "--runs", runs, "--update").exit_code == 0
    held = json.loads(baseline.read_text())
    assert {r.get("runtime") for r in held["rows"]} == {None, "onnxruntime"}
    held["rows"] = [r for r in held["rows"] if "runtime" not in r]
    held["rows"][0]["values"]["AR"] += 3.0
    baseline.write_text(json.dumps(held))

    def check(*args: str) -> Result:
        return hmrbench("check", "--baseline", baseline, "--runs", runs, *args)

    strict = check("--runtime", "onnxruntime")
    assert strict.exit_code == 4
    assert "first layers on coco-val: AR" in " ".join(strict.stderr.split())
    assert check("--runtime", "onnxruntime", "--tolerance", "AR=3.1").exit_code == 0
    assert check("--runtime", "onnxruntime", "--tolerance", "AR=2.9").exit_code == 4
    absent = check("--runtime", "openvino", "--tolerance", "AR=9")
    assert absent.exit_code == 4  # what was not run does not pass
    assert "missing" in absent.stdout
    for wrong, words in ((["AR"], "NAME=NUMBER"), (["AR=-1"], "NAME=NUMBER"), (["ARR=1"], "did you mean AR")):
        refused = check("--tolerance", *wrong)
        assert refused.exit_code == 2
        assert words in " ".join(refused.stderr.split())
    assert check("--update", "--runtime", "onnxruntime").exit_code == 2


def test_rows_of_before_are_pytorchs() -> None:
    from hmrbench.compare import baselines, gate

    old = {
        "kind": "speed",
        "model": "m",
        "device": "d",
        "dtype": "fp32",
        "batch_size": 1,
        "values": {"latency_ms": 9.0},
    }
    baseline = {"rows": [old]}
    now = {**old, "values": {"latency_ms": 3.0}, "runtime": "openvino", "dtype": "int8"}
    assert [v.verdict for v in gate.check(baseline, [{**old, "runtime": "pytorch"}])] == ["ok"]
    assert [v.verdict for v in gate.check(baseline, [now])] == ["missing"]
    held, moved = baselines.on_runtime(baseline, [old, now], "openvino")
    assert [v.verdict for v in gate.check(held, moved)] == ["improved"]
    with pytest.raises(UsageError, match="openvino in fp32, int8: say which"):
        baselines.on_runtime(baseline, [now, {**now, "dtype": "fp32"}], "openvino")


def test_ranking_table_and_plot(cards: Path, runs: Path, tmp_path: Path) -> None:
    profiled = hmrbench(
        "profile", "layers", "--models-dir", cards, "--runtime", "pytorch", "--runtime", "onnxruntime",
        "--device", "cpu", "--repeats", 3, "--runs", runs, "--json",
    )  # fmt: skip
    assert profiled.exit_code == 0, profiled.stderr
    rows = json.loads(profiled.stdout)
    assert {r["runtime"] for r in rows} == {"pytorch", "onnxruntime"}
    assert rows[0]["latency_ms"] <= rows[1]["latency_ms"]
    table = json.loads(hmrbench("table", "--runs", runs, "--models-dir", cards, "--by", "runtime", "--json").stdout)
    by = {r["runtime"]: r for r in table}
    assert len(table) == 2
    for row in rows:
        joined = by[row["runtime"]]
        assert (joined["latency_ms"], joined["macs"], joined["dtype"]) == (row["latency_ms"], row["macs"], "fp32")
        assert joined["coco-val:AP"] is not None
    text = hmrbench("table", "--runs", runs, "--models-dir", cards, "--by", "runtime").stdout
    assert "onnxruntime" in text
    assert "pytorch" in text
    args = (
        "plot",
        "--runs",
        runs,
        "--models-dir",
        cards,
        "--x",
        "latency",
        "--y",
        "AP",
        "--untrained",
        "--size",
        "none",
    )
    drawn = hmrbench(*args, "--by", "runtime", "-o", tmp_path / "p.svg", "--json")
    assert drawn.exit_code == 0, drawn.stderr
    assert {p["cut"] for p in json.loads(drawn.stdout)["points"]} == {"pytorch fp32", "onnxruntime fp32"}


def test_all_are_those_that_serve_here(monkeypatch: pytest.MonkeyPatch) -> None:
    from hmrbench.profiling import ProfileSettings, variants

    found = [(s.runtime, s.dtype) for s in variants(ProfileSettings(device="cpu"), ["all"])]
    assert found[:2] == [("pytorch", "fp32"), ("pytorch", "bf16")]
    assert {("onnxruntime", "fp32"), ("openvino", "fp32")} <= set(found)
    assert not [f for f in found if f[0] in ("tensorrt", "litert") or f[1] == "fp16"]
    with pytest.raises(UsageError, match="unknown runtime 'tvm'"):
        variants(ProfileSettings(device="cpu"), ["tvm"])


# --------------------------------------------------------------------------- others' runtimes, and missing ones


def test_a_runtime_of_another_package_is_one_file(cards: Path, tmp_path: Path) -> None:
    root = make_coco(tmp_path / "coco")
    plain = json.loads(evaluate(cards, root, tmp_path / "runs").stdout)[0]
    before = Doubling.ran
    row = json.loads(evaluate(cards, root, tmp_path / "runs", "--runtime", "runtime_nets:RUNTIME").stdout)[0]
    assert Doubling.ran - before == 2 * 6  # six people, and their mirrored pictures
    assert (row["runtime"], row["device"], row["file_mb"]) == ("doubling", "some device", 0.5)
    assert row["metrics"] == plain["metrics"]
    (tmp_path / "by-card").mkdir()
    (tmp_path / "by-card" / "own.yaml").write_text(CARD % ", runtime: 'runtime_nets:RUNTIME'")
    assert json.loads(evaluate(tmp_path / "by-card", root, tmp_path / "runs").stdout)[0]["runtime"] == "doubling"
    other = evaluate(tmp_path / "by-card", root, tmp_path / "runs", "--runtime", "openvino")
    assert other.exit_code == 2
    assert "layers runs on doubling alone, not on openvino" in other.stderr
    assert "is a str, not a hmrbench.runtimes.Runtime" in evaluate(
        cards, root, tmp_path / "runs", "--runtime", "runtime_nets:NOT_ONE"
    ).stderr.replace("\n", " ")


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "litert", "tensorrt"])
def test_a_missing_package_is_named_with_its_cure(name: str) -> None:
    absent = replace(known_runtimes()[name], package=("no-such-package",))
    with pytest.raises(
        UsageError, match=r"net runs on .*needs no-such-package, and that is not installed: pip install"
    ):
        absent.check("net", "auto", "fp32")


def test_a_precision_that_no_instructions_serve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    runtime = find_runtime("openvino")
    runtime.check("net", "cpu", "fp32")  # its one Core is made
    monkeypatch.setattr(openvino.Core, "get_property", lambda self, *names: ["FP32", "INT8"])
    with pytest.raises(UsageError, match="OpenVINO has no bf16 on this CPU, it would compute in fp32"):
        runtime.check("net", "cpu", "bf16")
    assert runtime.check("net", "auto", "int8") == "cpu"
    with pytest.raises(UsageError, match="OpenVINO sees no GPU here"):
        runtime.check("net", "gpu", "fp32")
    with pytest.raises(UsageError, match="no device 'gpu'"):
        find_runtime("pytorch").check("net", "gpu", "fp32")
    with pytest.raises(UsageError, match=r"no device 'cuda|has no CUDAExecutionProvider"):
        find_runtime("onnx").check("net", "cuda", "fp32")


def test_the_best_instructions_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from hmrbench import environment

    flags = frozenset({"avx2", "avx512f", "avx512_vnni"})
    monkeypatch.setattr(environment, "cpu_flags", lambda: flags)
    found = {dtype: instruction_set("cpu", dtype) for dtype in ("fp32", "bf16", "int8")}
    assert found == {"fp32": "avx512f", "bf16": "avx512f", "int8": "avx512_vnni"}
    monkeypatch.setattr(environment, "cpu_flags", lambda: flags | {"amx_bf16", "amx_int8", "avx512_bf16"})
    assert (instruction_set("cpu", "bf16"), instruction_set("cpu", "int8")) == ("amx_bf16", "amx_int8")
    monkeypatch.setattr(environment, "cpu_flags", frozenset)
    assert instruction_set("cpu", "fp32") is None


def _signal_stack() -> tuple[int | None, int]:
    found = _StackT()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    return found.ss_sp, found.ss_size


@pytest.mark.skipif(sys.platform != "linux", reason="OpenVINO gives the thread a stack for signals on Linux alone")
def test_signals_find_their_stack_after_openvino(cards: Path, tmp_path: Path) -> None:
    """Of two networks let go in the order they came, the second gave back the first one's, which was gone: SIGSEGV."""
    import openvino

    assert export(cards, tmp_path / "net.xml").exit_code == 0
    find_runtime("openvino").check("net", "cpu", "fp32")
    before = _signal_stack()
    network = Network(file=tmp_path / "net.xml", card=load_card("layers", [cards]))
    first, second = (prepare(find_runtime("openvino"), network, Setting("cpu", "fp32", (64, 48))) for _ in range(2))
    del first
    gc.collect()
    del second
    gc.collect()
    assert _signal_stack() == before
    with _signal_stack_kept():  # other people's code makes a Core each time
        first, second = (openvino.Core().compile_model(str(tmp_path / "net.xml"), "CPU") for _ in range(2))
        del first
        gc.collect()
        del second
    assert _signal_stack() == before


def test_litert_runs_files_alone() -> None:
    pytest.importorskip("ai_edge_litert")
    with pytest.raises(UsageError, match=r"litert runs \.tflite files"):
        prepare(find_runtime("litert"), Network(Layers()), Setting("cpu", "fp32", (64, 48)))


def test_a_smaller_file_takes_the_place_of_a_larger_one(cards: Path, tmp_path: Path) -> None:
    """Of which nothing is left that would count as its weights; and the words of `eval` name what ran."""
    root, file = make_coco(tmp_path / "coco"), tmp_path / "net.onnx"
    Path(f"{file}.data").write_bytes(bytes(2**20))
    assert export(cards, file).exit_code == 0
    assert sorted(f.name for f in tmp_path.glob("net*")) == ["net.onnx", "net.onnx.json"]
    args = ("-d", "coco-val", "--data-root", root, "--models-dir", cards, "--boxes", "gt", "--weights", "random")
    both = [hmrbench("eval", "layers", *args, *more).stdout for more in ((), ("--runtime", file))]
    assert "onnxruntime, fp32" in " ".join(both[1].split())
    assert "pytorch" not in both[0]


def test_large_weights_lie_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "_LARGE", 1000)
    x = torch.randn(2, 3, 64, 48)
    want, found = on_runtime(Layers(), "onnxruntime", x, tmp_path, None)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["n.onnx", "n.onnx.data"]
    assert checking.compare_outputs(want, found)[0] < 1e-4
    assert Network(file=tmp_path / "n.onnx").size_mb() == sum(f.stat().st_size for f in tmp_path.iterdir()) / 2**20


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize(
    ("name", "weights"),
    [*((name, "demo") for name in ("gmfpose-t-s2", "swinhmr2-t-s2", "vmpose-t-s2")), ("vitpose-s", "random")],
)
def test_networks_of_each_family_export(name: str, weights: str, runtime: str, tmp_path: Path) -> None:
    file = tmp_path / f"net{SUFFIX[runtime]}"
    made = hmrbench("export", name, "--runtime", runtime, "-o", file, "--weights", weights, "--json")
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["check"]["max_std"] < 1e-4


# --------------------------------------------------------------------------- the table of the documentation


@pytest.mark.thorough
def test_the_table_of_the_documentation(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    import runtimes_table

    row = {"device": "cpu", "threads": 2, "runtime_version": "v 1", "status": "ok", "error": None, "samples": 40}
    rows = {
        "vitpose-s": {
            "pytorch": [{**row, "latency_ms": 12.34, "stable": False, "error_std": None}],
            "onnxruntime": [
                {**row, "latency_ms": 5.0, "stable": True, "error_std": 1e-5},
                {**row, "latency_ms": 9.0, "stable": False, "error_std": 2.5e-5},
                {**row, "latency_ms": 7.0, "stable": False, "error_std": 2.5e-5, "samples": 1},
            ],
            "openvino": [{**row, "latency_ms": None, "status": "failed", "error": "no rule for aten::foo"}],
        }
    }
    lines = runtimes_table.table(rows).splitlines()
    assert "| `vitpose-s` | 256x192 | ~12.3 | 5.0 |  | 2.5e-05 | failed: no rule for aten::foo |" in lines
    assert "| `vitpose-b` | 256x192 |  |  |  | not measured | not measured |" in lines
    assert len([line for line in lines if line.startswith("| `")]) == len(load_cards())
    assert lines[-1] == "Latency: cpu, 2 threads, v 1. One with ~ varied too much to be known to 1 %."


@pytest.mark.thorough
def test_the_tables_command_keeps_rows_and_writes_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- the table of docs/runtimes_table.py -->\nold\n<!-- its end -->\nbelow\n")
    profiled = ("profile", "litehrnet-18", "--runtime", "onnx", "--device", "cpu", "--repeats", 1, "--runs", tmp_path)
    assert hmrbench(*profiled).exit_code == 0
    args = [sys.executable, "docs/runtimes_table.py", "--kept", "--runs", str(tmp_path), "--page", str(page)]
    subprocess.run(args, cwd=ROOT, check=True)
    above, *lines, below = page.read_text().splitlines()
    assert (above, below) == ("above", "below")
    assert "old" not in lines
    own = next(line for line in lines if "`litehrnet-18`" in line)
    assert re.fullmatch(r"\| `litehrnet-18` \| 256x192 \|  \|  \|  \| \d\.\de-0[56] \| not measured \|", own)
