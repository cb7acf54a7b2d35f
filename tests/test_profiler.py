"""What a network costs: rows, batch sizes, failures, resuming, statistics of planted times, the command."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import json
import math
import platform
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from test_cli import hmrbench
from torch import Tensor, nn

from hmrbench import device as devices
from hmrbench import environment, files, profile_model, profiling, zoo
from hmrbench.cards import load_card, load_cards
from hmrbench.cli.profile import _news, profile_view
from hmrbench.errors import HmrbenchError, UsageError
from hmrbench.profiling import ProfileSettings, counts, end2end, flops, latency
from hmrbench.profiling.quick import BIG, load_untrained
from hmrbench.records import ProfileResult
from hmrbench.results import runs as results
from hmrbench.runtimes import Runtime, pytorch
from hmrbench.schema import ModelCard
from hmrbench.zoo import parts

pytestmark = pytest.mark.usefixtures("calm")
CPU = torch.device("cpu")
_DESIGN = """model params params_encoder params_neck params_head macs flops activations latency_ms
latency_ms_p90 latency_ms_p99 images_per_s batch_size dtype device runtime file_mb peak_memory_mb
energy_mj status error"""
_MORE = "task input weights spread stable samples backend threads scope uncounted hardware versions commit"
KEYS, MORE = _DESIGN.split(), _MORE.split()


# --------------------------------------------------------------------------- networks


class Net(nn.Module):
    """(B, 3, H, W) -> heatmaps (B, 17, H / 4, W / 4); a subclass misbehaves, on real data only."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 8, 4, stride=4)
        self.neck = nn.Identity()
        self.head = nn.Conv2d(8, 17, 1)

    def forward(self, x: Tensor) -> Any:
        if x.device.type != "meta":
            type(self).calls += 1
            self.misbehave(x)
        return self.head(self.neck(self.encoder(x)))

    def misbehave(self, x: Tensor) -> None:
        pass


class Broken(Net):
    def misbehave(self, x: Tensor) -> None:
        raise ValueError("a wire came loose")


class Greedy(Net):
    def misbehave(self, x: Tensor) -> None:
        if len(x) >= 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


class Huge(Net):
    def misbehave(self, x: Tensor) -> None:
        torch.ones(len(x), 2**26)  # 256 MB a picture


class Nan(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x) * torch.nan


class Mesh(Net):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x).flatten(1)
        return {"betas": y[:, :10], "cam": y[:, :3]}


class Scripted(Net):
    """A tracer cannot look into its neck, and hooks cannot be put on it."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = torch.jit.trace(nn.Conv2d(8, 8, 1), torch.zeros(1, 8, 2, 2))


class Lazy(Net):
    """Its head has no parameters before the first forward."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LazyConv2d(17, 1)


class Cuts(Net):
    """Notes how it was run; with its short cut it would cost nothing."""

    fused = True
    was: ClassVar[list[bool]] = []

    def forward(self, x: Tensor) -> Any:
        if x.device.type != "meta":
            self.was.append(self.fused)
        return x.new_zeros(len(x), 17, 16, 12) if self.fused else super().forward(x)


class Sleeper(Net):
    def misbehave(self, x: Tensor) -> None:
        time.sleep(0.02)


def build(card: ModelCard) -> nn.Module:
    if card.name == "unbuilt":
        raise RuntimeError("no such layer")
    kinds = (Net, Broken, Greedy, Huge, Nan, Mesh, Sleeper, Scripted, Lazy, Cuts)
    return {k.__name__.lower(): k for k in kinds}[card.name.rstrip("2")]()


@pytest.fixture
def cards(tmp_path: Path) -> Path:
    """A folder of cards, one for each of the networks above."""
    folder = tmp_path / "cards"
    folder.mkdir()
    names = ("net", "broken", "greedy", "huge", "nan", "sleeper", "unbuilt", "scripted", "lazy", "cuts")
    (folder / "test.yaml").write_text(
        "family: test\n"
        "defaults: {task: hpe, size: t, input: [64, 48], licence: none, build: 'test_profiler:build'}\n"
        "models:\n" + "".join(f"  {name}: {{paper_name: {name}}}\n" for name in names) + "  mesh: "
        "{paper_name: Mesh, task: hmr, input: [64, 64], codec: smpl, crop: {kind: square}}\n"
    )
    Net.calls = Broken.calls = 0
    return folder


def measure(name: str, cards: Path, **settings: Any) -> dict[str, Any]:
    settings = {"device": "cpu", "repeats": 3, **settings}
    return profile_model(name, models_dirs=[cards], **settings).row()


def run(cards: Path, runs: Path, *args: object) -> Any:
    return hmrbench(
        "profile", *args, "--device", "cpu", "--models-dir", cards, "--runs", runs, "--repeats", 3
    )  # fmt: skip


# --------------------------------------------------------------------------- rows


def test_a_row_says_what_a_network_costs(cards: Path) -> None:
    row = measure("net", cards, batch_size=2)
    assert list(row)[: len(KEYS)] == KEYS
    assert set(MORE) <= set(row)
    pixels = 16 * 12
    assert (row["params"], row["params_encoder"], row["params_neck"], row["params_head"]) == (
        545,
        392,
        0,
        153,
    )
    assert row["macs"] == pixels * (8 * 48 + 17 * 8)  # of one image, whatever the batch
    assert (row["flops"], row["activations"]) == (2 * row["macs"], pixels * 25)
    assert (row["macs_encoder"], row["macs_neck"], row["macs_head"]) == (pixels * 384, 0, pixels * 136)
    assert 0 < row["latency_ms"] <= row["latency_ms_p90"] <= row["latency_ms_p99"]
    assert row["images_per_s"] == pytest.approx(2000 / row["latency_ms"])
    assert (row["status"], row["error"], row["energy_mj"]) == ("ok", None, None)
    assert (row["weights"], row["input"], row["task"], row["scope"]) == ("random", "64x48", "hpe", "model")
    assert row["device"] == row["hardware"]["name"] == environment.cpu_name()
    assert (row["samples"], row["stable"], row["median_error"]) == (
        3,
        False,
        None,
    )  # three samples bound nothing
    assert ProfileResult.from_row(row).row() == row
    json.loads(files.to_json(row))


def test_a_network_of_anybody_can_be_profiled() -> None:
    net = Net().train()
    row = profile_model(net, device="cpu", repeats=2, input_size=(32, 32), batch_size=3).row()
    assert (row["model"], row["task"], row["weights"], row["batch_size"]) == ("Net", None, "given", 3)
    assert row["macs"] == 8 * 8 * (8 * 48 + 17 * 8)
    with pytest.raises(UsageError, match="card"):
        profile_model(net, device="cpu", scope="end2end")


def test_counting_alone_needs_no_forward(cards: Path) -> None:
    row = measure("broken", cards, repeats=0)
    assert (row["status"], row["latency_ms"], row["peak_memory_mb"], Broken.calls) == ("ok", None, None, 0)
    assert row["macs"] == 192 * (8 * 48 + 17 * 8)


def test_vmamba_names_its_scan() -> None:
    row = profile_model("vmpose-t-s2", device="cpu", repeats=0).row()
    assert row["backend"] == "torch-chunked"
    assert row["macs_by_operator"]["selective_scan"] == 2 * 10 * 4 * 96 * 64 * 48 + 2 * 10 * 4 * 192 * 32 * 24


ON_NUMPY = Runtime("on-numpy", ("numpy",), pytorch.prepare)  # PyTorch under another name, on the CPU in fp32


def test_what_another_runtime_computes_is_not_counted_as_zero(cards: Path) -> None:
    (cards / "other.yaml").write_text(
        "family: other\nmodels:\n  net2: {paper_name: N, task: hpe, size: t, input: [64, 48], licence: none, "
        "build: 'test_profiler:build', runtime: 'test_profiler:ON_NUMPY'}\n"
    )
    row = measure("net2", cards)
    assert (row["status"], row["macs"]) == ("ok", None), row["error"]
    assert row["uncounted"] == {f"numpy {np.__version__}": 1}
    assert row["latency_ms"] > 0
    assert measure("net2", cards, dtype="bf16")["status"] == "failed"


def test_counting_that_fails_costs_the_row_its_macs_alone(cards: Path, tmp_path: Path) -> None:
    row = measure("scripted", cards)
    assert (row["status"], row["error"], row["params"], row["params_neck"]) == ("ok", None, 545 + 72, 72)
    assert (row["macs"], row["flops"], row["activations"]) == (None, None, None)
    assert row["latency_ms"] > 0
    assert "ScriptModules" in row["count_error"]
    result = run(cards, tmp_path, "scripted")
    assert result.exit_code == 0
    assert "MACs cannot be counted (RuntimeError: register_forward" in " ".join(result.stderr.split())
    assert profile_view([row]).cells[0][-1] == "unstable, MACs?"
    row = measure("scripted", cards, repeats=0)  # where nothing else was asked for
    assert (row["status"], row["params"]) == ("failed", 617)
    assert row["error"].startswith("MACs cannot be counted: RuntimeError: register_forward")


def test_parameters_that_are_not_there_yet_are_not_counted_as_zero(cards: Path) -> None:
    row = measure("lazy", cards)
    assert (row["status"], row["params"], row["params_head"]) == ("ok", 545, 153), row["error"]
    assert row["latency_ms"] > 0
    assert parts.count_parameters(load_card("lazy", [cards]))["params"] is None


@pytest.mark.parametrize("fused", [True, False])
def test_short_cuts_can_be_turned_off_and_do_not_change_the_count(fused: bool, cards: Path, tmp_path: Path) -> None:
    Cuts.was.clear()
    row = measure("cuts", cards, fused=fused)
    assert set(Cuts.was) == {fused}
    assert (row["fused"], row["macs"], row["count_disagreements"]) == (fused, 192 * (8 * 48 + 17 * 8), [])
    result = run(cards, tmp_path, "cuts", "--fuse" if fused else "--no-fuse", "--json")
    assert json.loads(result.stdout)[0]["fused"] is fused
    assert set(Cuts.was) == {fused}
    assert ("not fused" in profile_view([row]).caption) is not fused


def test_a_row_says_why_its_macs_were_counted_with_data(cards: Path, tmp_path: Path) -> None:
    class Peeks(Net):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x) if float(x.sum()) > -math.inf else x

    row = profile_model(Peeks(), device="cpu", repeats=0, input_size=(64, 48)).row()
    assert (row["macs"], row["counted_on"]) == (192 * (8 * 48 + 17 * 8), "cpu")
    assert row["not_on_meta"].startswith("RuntimeError: Tensor.item() cannot be called on meta tensors")
    assert "counted on cpu with data, not on the meta device (RuntimeError: Tensor.item()" in _news(row)
    assert measure("net", cards, repeats=0)["not_on_meta"] is None


def test_an_output_that_is_not_finite_is_said(cards: Path) -> None:
    row = measure("nan", cards)
    assert (row["status"], row["output_finite"]) == ("ok", False)
    assert measure("net", cards)["output_finite"] is True


@pytest.mark.parametrize(
    ("name", "error"),
    [("broken", "ValueError: a wire came loose"), ("unbuilt", "RuntimeError: no such layer")],
)
def test_a_failing_model_is_a_row(name: str, error: str, cards: Path) -> None:
    row = measure(name, cards)
    assert (row["status"], row["latency_ms"]) == ("failed", None)
    assert error in row["error"]
    assert (row["macs"] is None) == (name == "unbuilt")


def test_out_of_memory_is_a_row_and_the_next_batch_goes_on(cards: Path) -> None:
    settings = ProfileSettings(device="cpu", repeats=2)
    found = list(profiling.profile_card(load_card("greedy", [cards]), settings, (1, 8, 2)))
    assert [(r.batch_size, r.status) for r in found] == [(1, "ok"), (8, "out of memory"), (2, "ok")]
    assert found[1].latency_ms is None
    assert "20.00 GiB" in (found[1].error or "")
    assert found[1].macs == found[0].macs


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="Linux alone tells what is free")
def test_the_host_running_out_of_memory_is_a_row_too(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    available = devices.available_mb()
    assert available is not None
    assert available > 600
    assert measure("huge", cards, batch_size=1, repeats=1)["status"] == "ok"
    monkeypatch.setattr(devices, "available_mb", lambda: 600.0)
    # 4 GB in one block: more than a heap keeps from earlier tests
    row = measure("huge", cards, batch_size=16, repeats=1)
    assert row["status"] == "out of memory", row["error"]
    assert torch.ones(2**27).numel() == 2**27  # the bound is gone


def test_memory_of_a_container_that_holds_files_read_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"max": f"{512 * 2**20}\n", "current": f"{500 * 2**20}\n"}
    stat = f"anon {90 * 2**20}\nactive_file {100 * 2**20}\ninactive_file {300 * 2**20}\nslab 4\n"
    for name, text in {**counts, "stat": stat}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr(devices, "_CGROUP", tmp_path)
    assert devices.available_mb() == 412
    (tmp_path / "memory.max").write_text("max\n")
    assert devices.available_mb() != 412


def test_memory_holds_weights_input_and_what_a_forward_takes(cards: Path) -> None:
    row = measure("huge", cards, batch_size=1, repeats=1)
    if Path("/proc/self/clear_refs").exists():
        assert 250 <= row["peak_memory_mb"] <= 300
    else:
        assert row["peak_memory_mb"] is None


@pytest.mark.parametrize(("name", "size"), [("net", "64x48"), ("mesh", "64x64")])
def test_end_to_end_reads_crops_and_decodes(name: str, size: str, cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, batches = [], end2end.batches
    monkeypatch.setattr(end2end, "batches", lambda *args: read.append(args[3]) or batches(*args))
    row = measure(name, cards, scope="end2end", batch_size=2)
    assert (row["status"], row["scope"], row["input"]) == ("ok", "end2end", size), row["error"]
    assert read == [2] * (1 + row["warm_up"] + row["samples"])


def test_options_are_used_and_named(cards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda net: compiled.append(net) or net)
    before = torch.get_num_threads()
    row = measure("net", cards, compile=True, channels_last=True, threads=2, dtype="bf16")
    assert torch.get_num_threads() == before
    assert len(compiled) == 1
    assert compiled[0].encoder.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr, operator]
    used = {k: row[k] for k in ("compile", "channels_last", "cuda_graph", "threads", "dtype", "status")}
    assert used == {
        "compile": True,
        "channels_last": True,
        "cuda_graph": False,
        "threads": 2,
        "dtype": "bf16",
        "status": "ok",
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dtype": "fp8"}, "dtype must be one of"),
        ({"dtype": "tf32"}, "tf32 is a precision of NVIDIA"),
        ({"scope": "all"}, "scope must be one of"),
        ({"cuda_graph": True}, "needs a CUDA device"),
        ({"threads": 0}, "threads must be"),
        ({"repeats": -1}, "repeats must be"),
        ({"seconds": math.inf}, "seconds must be"),
        ({"device": "cuda:99"}, "no device 'cuda:99'"),
        ({"batch_size": 0}, "batch size must be"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], words: str, cards: Path) -> None:
    with pytest.raises(UsageError, match=words):
        measure("net", cards, **settings)


def test_the_function_has_every_setting_by_name_with_its_default() -> None:
    wanted = {f.name: f.default for f in dataclasses.fields(ProfileSettings)}
    offered = inspect.signature(profile_model).parameters
    assert {name: offered[name].default for name in wanted} == wanted
    assert all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in offered.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        ProfileSettings().dtype = "bf16"  # type: ignore[misc]


def test_paths_may_be_strings(cards: Path, tmp_path: Path) -> None:
    net = zoo.load_model("net", weights="random", models_dirs=[cards])
    zoo_file = tmp_path / "net.pt"
    torch.save(net.state_dict(), zoo_file)
    rows = [
        profile_model(
            "net", models_dirs=[kind(cards)], weights=kind(zoo_file), runs=kind(tmp_path / "r"), device="cpu", repeats=1
        )
        for kind in (str, Path)
    ]
    assert [row.row()["weights_sha256"] for row in rows] == [files.file_sha256(zoo_file)] * 2
    assert {kept.row["model"] for kept in results.load_runs(tmp_path / "r", "profile")} == {"net"}


def test_modules_are_listed_where_asked_for(cards: Path) -> None:
    assert measure("net", cards, repeats=0).get("by_module") is None
    listed = measure("net", cards, repeats=0, by_module=True)
    assert listed["by_module"][""] == [listed["params"], listed["macs"]]


# --------------------------------------------------------------------------- runs


def test_each_row_is_kept_with_its_samples_as_soon_as_it_is_there(cards: Path, tmp_path: Path) -> None:
    rows = profiling.profile_card(
        load_card("net", [cards]), ProfileSettings(device="cpu", repeats=4), (1, 2), runs=tmp_path / "r"
    )
    first = next(rows)
    (kept,) = results.load_runs(tmp_path / "r", "profile")
    assert kept.row == json.loads(files.to_json(first.row()))
    samples = kept.arrays()["samples_ms"]
    assert samples.shape == (4,)
    assert first.latency_ms == np.median(samples)
    next(rows)
    assert len(results.load_runs(tmp_path / "r", "profile")) == 2


def test_resume_keeps_what_is_there_and_tries_what_failed_again(cards: Path, tmp_path: Path) -> None:
    runs = tmp_path / "r"
    first = measure("net", cards, runs=runs)
    calls = Net.calls
    assert measure("net", cards, runs=runs, resume=True) == first
    assert Net.calls == calls
    assert measure("net", cards, runs=runs, resume=True, batch_size=2)["batch_size"] == 2
    assert measure("net", cards, runs=runs)["latency_ms"] != first["latency_ms"]
    assert Net.calls > calls
    assert measure("broken", cards, runs=runs)["status"] == "failed"
    calls = Broken.calls
    assert measure("broken", cards, runs=runs, resume=True)["status"] == "failed"
    assert Broken.calls > calls


def test_resume_keeps_every_batch_size_of_a_sweep(cards: Path, tmp_path: Path) -> None:
    assert run(cards, tmp_path, "net", "--batch-size", "1,2").exit_code == 0
    calls = Net.calls
    assert run(cards, tmp_path, "net", "--batch-size", "1,2", "--resume").exit_code == 0
    assert Net.calls == calls


def test_unstable_rows_run_again_for_longer_and_the_better_row_stays(
    cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    times = iter(([1.0, 2.0] * 20, [1.0, 3.0] * 20, [1.0] * 40))

    def planted(watch: Any, repeats: Any, seconds: float, settled_s: float) -> tuple[list[float], int]:
        asked.append(seconds)
        return next(times), 3

    monkeypatch.setattr(latency, "sample_times", planted)
    settings = ProfileSettings(device="cpu", seconds=2.0)

    def rows(**how: bool) -> ProfileResult:
        return next(profiling.profile_card(load_card("net", [cards]), settings, runs=tmp_path, **how))

    first = rows()
    assert first.row()["stable"] is False
    assert rows(resume=True) == first
    assert asked == [2.0]
    assert rows(resume=True, unstable=True) == first  # the second try was worse
    last = rows(resume=True, unstable=True)
    assert (last.row()["stable"], last.latency_ms, asked) == (True, 1.0, [2.0, 6.0, 6.0])
    assert rows(resume=True, unstable=True) == rows(resume=True) == last
    assert len(asked) == 3
    assert run(cards, tmp_path, "net", "--unstable").exit_code == 2


# --------------------------------------------------------------------------- counts that are kept


def test_counts_are_kept_by_card_and_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HMRBENCH_CACHE", str(tmp_path / "cache"))
    counted: list[int] = []
    monkeypatch.setattr(flops, "count", lambda *a, count=flops.count: counted.append(1) or count(*a))
    rows = [profile_model("swinpose-t-s2", device="cpu", repeats=0, by_module=by).row() for by in (True, False, True)]
    assert (len(counted), rows[0]) == (1, rows[2])
    assert rows[1] == {k: v for k, v in rows[0].items() if k != "by_module"}
    (kept,) = (tmp_path / "cache" / "counts").iterdir()

    kept.write_text(kept.read_text().replace(str(rows[0]["macs"]), "1"))  # damaged
    assert profile_model("swinpose-t-s2", device="cpu", repeats=0).macs == rows[0]["macs"]
    kept.write_text("[")
    assert profile_model("swinpose-t-s2", device="cpu", repeats=0).macs == rows[0]["macs"]
    assert len(counted) == 3
    other = load_card("swinpose-t-s2").model_copy(update={"input": (128, 96)})
    assert profile_model(other, device="cpu", repeats=0).macs < rows[0]["macs"] / 3
    monkeypatch.setattr(counts, "_code_sha256", lambda: "other code")
    assert profile_model("swinpose-t-s2", device="cpu", repeats=0).macs == rows[0]["macs"]
    assert len(counted) == 5
    (tmp_path / "file").touch()
    monkeypatch.setenv("HMRBENCH_CACHE", str(tmp_path / "file"))  # no place for a cache
    assert profile_model("swinpose-t-s2", device="cpu", repeats=0).macs == rows[0]["macs"]


def test_counts_of_other_packages_networks_are_not_kept(
    cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HMRBENCH_CACHE", str(tmp_path / "cache"))
    assert measure("net", cards, repeats=0)["macs"] > 0
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["vitpose-s", "swinpose-t-s2", "gmfpose-t-s2", "vmhmr2-t-s2"])
def test_untrained_networks_to_be_timed_are_whole(name: str) -> None:
    card = load_card(name)
    net, drawn = load_untrained(card), zoo.load_weights(card, None)[0]
    buffers, big = dict(drawn.named_buffers()), 0
    for key, tensor in net.state_dict().items():
        want = drawn.state_dict()[key]
        assert (tensor.shape, tensor.dtype, tensor.device) == (want.shape, want.dtype, want.device)
        if key in buffers:
            torch.testing.assert_close(tensor, want, rtol=0, atol=0)
        elif tensor.numel() < BIG:
            assert (tensor.std() > 0) == (want.std() > 0)
        else:
            big += 1
            assert tensor.std() == pytest.approx((len(tensor) / tensor.numel()) ** 0.5, rel=0.02)
            assert tensor.abs().min() > torch.finfo(torch.float32).tiny
            assert not (tensor[0] == tensor[1]).any()
    assert big
    with torch.inference_mode():
        for out in flops.tensors(net(torch.randn(1, 3, *card.input))):
            assert out.isfinite().all()
            assert out.abs().max() > 1e-6


def test_networks_go_by_size(cards: Path) -> None:
    names = ("vitpose-b", "net", "swinpose-t-s2", "vitpose-s", "hmr2-b")
    assert [c.name for c in profiling.by_size([load_card(n, [cards]) for n in names])] == [
        "net", "swinpose-t-s2", "vitpose-s", "hmr2-b", "vitpose-b"
    ]  # fmt: skip


# --------------------------------------------------------------------------- statistics


def test_statistics_of_planted_times() -> None:
    rng = np.random.default_rng(0)
    timing = latency.summarise(rng.permutation(np.arange(1.0, 102.0)))
    assert (timing.median_ms, timing.p90_ms, timing.p99_ms) == (51, 91, 100)
    assert timing.spread == pytest.approx(50 / 51)
    assert timing.error == pytest.approx((62 - 51) / 51)  # the values of ranks 40 and 61 are 41 and 62
    assert not timing.stable
    quiet = latency.summarise(10 + 0.2 * rng.random(50))
    assert quiet.stable
    assert quiet.error < 0.01


def test_the_confidence_of_a_median_holds_it() -> None:
    """In 95 of 100 series of a skewed distribution the true median lies within the stated error."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(400):
        timing = latency.summarise(rng.exponential(1.0, 60) + 1)
        held.append(abs(timing.median_ms - (1 + math.log(2))) <= timing.error * timing.median_ms)
    assert np.mean(held) > 0.94


def test_drift_widens_the_confidence_of_a_median() -> None:
    """The same samples, shuffled and in an order as of a machine that slows down: medians of tenths 1.1, 1.2 ... 2."""
    steps = np.repeat(np.arange(1.1, 2.05, 0.1), 100)
    drifting = latency.summarise(steps)
    assert drifting.error == pytest.approx(2.262 * 0.302765 / math.sqrt(10) / 1.55, rel=1e-5)
    shuffled = latency.summarise(np.random.default_rng(2).permutation(steps))
    assert shuffled.error < drifting.error / 2
    assert shuffled.median_ms == drifting.median_ms


@pytest.mark.parametrize("times", [[], [1.0, math.nan], [1.0, math.inf], [1.0, 0.0], [-1.0]])
def test_times_that_are_none(times: list[float]) -> None:
    with pytest.raises(HmrbenchError, match="positive numbers"):
        latency.summarise(times)


@pytest.mark.parametrize("count", [1, 4])
def test_few_samples_are_never_stable(count: int) -> None:
    timing = latency.summarise([3.0] * count)
    assert (timing.spread, timing.error, timing.stable) == (0, math.inf, False)


class Watch:
    """A stopwatch with planted times; `gc_on` notes whether the garbage collector was on."""

    def __init__(self, *times: float) -> None:
        self.times, self.calls, self.gc_on = times, 0, set[bool]()

    def __call__(self) -> float:
        self.calls += 1
        self.gc_on.add(gc.isenabled())
        return self.times[min(self.calls, len(self.times)) - 1]


def test_warming_up_ends_when_times_are_stable() -> None:
    watch = Watch(90, 50, 20, 10, 10.2, 10.1, 10)
    samples, warm_up = latency.sample_times(watch, repeats=7, seconds=10)
    assert warm_up == 6
    assert samples == [10.0] * 7
    assert gc.isenabled()
    assert watch.gc_on == {True, False}


def test_sampling_ends_when_the_median_is_known_or_the_time_is_up() -> None:
    start = time.monotonic()
    steady, _ = latency.sample_times(Watch(10), None, seconds=30)
    assert time.monotonic() - start < 10
    assert len(steady) >= 20
    assert len(steady) % 20 == 0
    slow = Watch(1)
    samples, warm_up = latency.sample_times(lambda: (time.sleep(0.05), slow())[1], None, seconds=0.1)
    assert (len(samples), warm_up) == (latency.FEWEST, 1)


def test_the_rate_is_that_of_a_bare_loop() -> None:
    net = Sleeper().eval()
    row = profile_model(net, device="cpu", repeats=15, input_size=(16, 16))
    bare = latency.bare_rate(net, torch.zeros(1, 3, 16, 16), seconds=0.4)
    assert row.images_per_s == pytest.approx(bare, rel=0.4)  # `make bench` shows it to a few percent


# --------------------------------------------------------------------------- devices


class Nvml:
    """NVIDIA's library as far as it is asked; one question has no answer on this GPU."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.open = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        assert uuid == "GPU-1234"
        return "gpu"

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: str) -> int:  # noqa: N802
        assert gpu == "gpu"
        return 5000

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        raise self.NVMLError


def test_nvml_is_asked_about_the_right_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml, gpu = Nvml(), torch.device("cuda:0")
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))
    assert devices.energy_mj(gpu) == 5000
    answers = devices._ask_nvml(gpu, driver=lambda nvml, gpu: nvml.nvmlSystemGetDriverVersion(), me=lambda *_: 1)
    assert answers == {"driver": None, "me": 1}
    assert nvml.open == 0
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert devices.energy_mj(gpu) is None
    assert devices.energy_mj(CPU) is None


def test_a_gpu_is_timed_between_two_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of calls alone: no GPU is needed."""
    calls: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            calls.append("record")

        def synchronize(self) -> None:
            calls.append("wait")

        def elapsed_time(self, end: Event) -> float:
            assert end is not self
            return 1.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    watch = latency.stopwatch(lambda: calls.append("run"), torch.device("cuda"), by_events=True)
    assert watch() == 1.5
    assert calls == ["record", "run", "record", "wait"]
    calls.clear()
    monkeypatch.setattr(latency, "synchronize", lambda device: calls.append("wait"))
    assert latency.stopwatch(lambda: calls.append("run"), torch.device("cuda"), by_events=False)() > 0
    assert calls == ["wait", "run", "wait"]


@pytest.fixture
def fake_graphs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The calls of a CUDA graph that replays by the function `replays` of this list; no GPU is needed."""
    calls: list[str] = []
    stream = SimpleNamespace(wait_stream=lambda other: calls.append("wait"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: calls.append("replay")))
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **options: calls.append("capture") or nullcontext())
    return calls


def test_a_cuda_graph_is_captured_once_and_replayed(fake_graphs: list[str]) -> None:
    x = torch.zeros(3, 2)
    forward = pytorch.graphed(lambda x: fake_graphs.append("forward") or x, x)
    assert fake_graphs == ["wait", *["forward"] * 3, "wait", "capture", "forward"]
    fake_graphs.clear()
    assert forward(x).tolist() == [[0, 0]] * 3
    first = forward(torch.ones(3, 2))  # a new input goes where the graph reads
    assert forward(torch.full((1, 2), 2.0)).tolist() == [[2, 2]]  # a smaller batch is filled up
    assert x.tolist() == [[2, 2], [1, 1], [1, 1]]
    assert first.tolist() == [[1, 1]] * 3  # no output is overwritten by a later batch
    assert fake_graphs == ["replay"] * 3
    fake_graphs.clear()
    for other in (torch.ones(4, 2), torch.ones(3, 5)):
        assert forward(other) is other
    assert fake_graphs == ["forward"] * 2


def test_a_graph_that_cannot_be_captured_or_errs_is_not_used(
    fake_graphs: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def double(x: Tensor) -> dict[str, Tensor]:
        return {"y": 2 * x, "size": torch.tensor(5.0)}

    x = torch.ones(3, 2)
    graph = pytorch.checked_graph(double, x)
    assert graph is not double
    assert graph(torch.ones(1, 2))["y"].shape == (1, 2)
    assert graph(x)["size"] == 5
    assert caplog.text == ""
    once = iter([x, *[2 * x] * 4])
    wrong = lambda x: next(once)  # noqa: E731
    assert pytorch.checked_graph(wrong, x) is wrong
    assert "gave another output" in caplog.text

    def refuse(graph: Any, **options: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    assert pytorch.checked_graph(double, x) is double
    assert "could not be captured (operation not permitted when stream is capturing)" in caplog.text
    with pytest.raises(RuntimeError, match="not permitted"):  # who demands a graph is told
        pytorch.graphed(double, x)


def test_precision_is_put_back() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with devices.precision("bf16", CPU):
        assert torch.ones(2, 2).matmul(torch.ones(2, 2)).dtype == torch.bfloat16
        assert not torch.backends.cudnn.allow_tf32
    with devices.precision("tf32", CPU):
        assert torch.backends.cuda.matmul.allow_tf32
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


@pytest.mark.parametrize(
    ("error", "so"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("Exception from src/inference/src/dev/plugin.cpp:59: Resource temporarily unavailable"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of memory of a better time"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, so: bool) -> None:
    assert devices.is_out_of_memory(error) is so


# --------------------------------------------------------------------------- the command


def test_profile_prints_one_json_document(cards: Path, tmp_path: Path) -> None:
    result = run(cards, tmp_path / "r", "net", "mesh", "--batch-size", "1,4", "--json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert [(r["model"], r["batch_size"]) for r in rows] == [("net", 1), ("net", 4), ("mesh", 1), ("mesh", 4)]
    assert all(list(r)[: len(KEYS)] == KEYS for r in rows)
    assert "[2/2] mesh, batch size 4" in result.stderr
    assert len(results.load_runs(tmp_path / "r", "profile")) == 4


def test_a_failing_model_does_not_stop_the_others(cards: Path, tmp_path: Path) -> None:
    result = run(cards, tmp_path / "r", "broken", "net", "greedy", "--batch-size", "1,8", "--json")
    assert result.exit_code == 1
    statuses = [r["status"] for r in json.loads(result.stdout)]
    assert statuses == ["failed", "failed", "ok", "ok", "ok", "out of memory"]
    assert "a wire came loose" in result.stderr
    assert len(results.load_runs(tmp_path / "r")) == 6
    assert run(cards, tmp_path / "r", "greedy", "--batch-size", "1,8").exit_code == 0


def test_the_table_fits_80_columns_and_says_what_is_wrong(cards: Path, tmp_path: Path) -> None:
    result = run(cards, tmp_path / "r", "net", "broken", "greedy", "nan", "--batch-size", "1,8")
    text = " ".join(result.stdout.split())
    for words in ("failed", "no memory", "not finite", "weights random", environment.cpu_name(), "fp32"):
        assert words in text, words
    assert max(map(len, result.stdout.splitlines())) <= 80
    row = profile_model("vitpose-h", device="cpu", repeats=0).row()
    row |= {"latency_ms": 12345.6, "latency_ms_p90": 23456.7, "images_per_s": 0.08, "peak_memory_mb": 54321.0}
    row |= {"model": "gmfhmr2-b-s4", "stable": False, "uncounted": {"aten::lstm": 3}}
    view = profile_view([row, {**row, "batch_size": 512}])
    assert view.columns == ["model", "batch", "M par.", "GMACs", "ms", "p90", "img/s", "MB", "note"]
    assert view.cells[1] == ["gmfhmr2-b-s4", 512, 637, 126, 12346, 23457, 0.08, 54321, "unstable, MACs?"]


def test_by_module_shows_a_tree(cards: Path, tmp_path: Path) -> None:
    result = hmrbench("profile", "vitpose-s", "--by-module", "--repeats", 0, "--runs", tmp_path, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if "blocks" in line or "each of" in line]
    assert "0 to 11  each of 12:  1.77 M  0.369 G  6.6 %" in lines[1]
    assert max(map(len, result.stdout.splitlines())) <= 80
    (kept,) = results.load_runs(tmp_path, "profile")
    assert kept.row["by_module"]["head"] == [2_626_833, 1_122_631_680]


@pytest.mark.thorough
def test_all_takes_every_card(cards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(profiling, "profile_card", lambda card, *_, **__: asked.append(card.name) or ())
    assert run(cards, tmp_path, "--all", "--json").stdout.strip() == "[]"
    assert len(asked) == len(load_cards([cards]))
    assert {"swinpose-s-s3", "hmr2-h", "net"} <= set(asked)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ((), 2, "names of models, or --all"),
        (("net", "--all"), 2, "not both"),
        (("nett",), 2, "did you mean net"),
        (("net", "--batch-size", "1,x"), 2, "batch sizes are numbers"),
        (("net", "--batch-size", "0"), 2, "batch sizes are numbers"),
        (("net", "--dtype", "fp8"), 2, "dtype must be one of"),
        (("net", "--weights", "nowhere.pth"), 3, "no weights file at nowhere.pth"),
    ],
)
def test_bad_input_has_its_message_and_exit_code(
    args: tuple[str, ...], code: int, words: str, cards: Path, tmp_path: Path
) -> None:
    result = run(cards, tmp_path / "r", *args)
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.split())
    assert not (tmp_path / "r").exists()


_FAULTS = """
import resource, sys, torch
from hmrbench import device as devices

cpu = torch.device("cpu")
devices.keep_freed_memory(cpu)
if sys.argv[1] == "before":
    devices.available_mb = lambda: 600.0
    try:
        with devices.bounded_memory(cpu):
            torch.ones(2**30)
    except RuntimeError:
        pass
    else:
        sys.exit("4 GB were to be had")

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    # 16 MiB each and one of 64: with its defaults glibc gives such a lot back, and maps more than 32 anew
    held = [torch.zeros(numbers << 20) for numbers in (4, 4, 4, 16)]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

found = [faults() for _ in range(8)][4:]  # the heap has grown by then
print(min(found) * resource.getpagesize())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
@pytest.mark.parametrize("out_of_memory", ["never", "before"])
def test_memory_that_a_forward_freed_is_there_for_the_next(out_of_memory: str) -> None:
    # in a process of its own, since earlier tests leave their heap
    result = subprocess.run([sys.executable, "-c", _FAULTS, out_of_memory], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < (112 << 20) / 10
