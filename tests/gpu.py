"""What a GPU must show, in one command of a few minutes and offline: `make gpu`; `--dry` goes the same way on a CPU.

Every family in every precision and way of running against the CPU, the backends of the selective scan against each
other with their gradients, the evaluation loop against bare forwards, a training step, then `profile` of as much as
time allows. Leaves `gpu.json` and `gpu.md`; exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(__file__).parent / "refs")]

from conftest import make_coco, prepare_job
from test_selective_scan import made_inputs

from hmrbench import device as devices
from hmrbench import environment, evaluation, files, profiling, zoo
from hmrbench.cards import load_cards
from hmrbench.nets.encoders import scan_cuda, scan_torch, selective_scan
from hmrbench.nets.fusion import fuse
from hmrbench.profiling import ProfileSettings, flops, latency
from hmrbench.runtimes.pytorch import graphed
from hmrbench.schema import ModelCard

Row = dict[str, Any]
# Ways to run a network, and the error relative to the greatest output up to which it is right.
WAYS = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.02, "cuda graph": 1e-4, "compile": 1e-3}
DRY = ("swinpose-t-s2", "gmfpose-t-s2", "vmpose-t-s2")  # on pictures of 64 x 64


def smallest_of_families(cards: list[ModelCard]) -> list[ModelCard]:
    """One network of ours for every family, the smallest."""
    first: dict[str, ModelCard] = {}
    for card in profiling.by_size([c for c in cards if not c.foreign and c.backend is None]):
        first.setdefault(card.family, card)
    return list(first.values())


def as_way(net: nn.Module, x: Tensor, way: str) -> Callable[[Tensor], Any]:
    """The network's forward in a way of running; on a CPU nothing is captured, and compiled code stays Python."""
    if way == "compile":
        return torch.compile(net, backend="inductor" if x.is_cuda else "eager")
    return graphed(net, x) if way == "cuda graph" and x.is_cuda else net


def check_networks(
    cards: list[ModelCard], device: torch.device, batch_size: int, seconds: float = float("inf")
) -> Iterator[Row]:
    """Outputs on the device against those of the plain network on the CPU; what there is no time for says so.

    Compilers take most of the time, so they get the first 0.7 of it.
    """
    start = time.monotonic()
    for card in cards:
        net = zoo.load_weights(card, None)[0]
        fuse(net, False)
        x = torch.randn(batch_size, 3, *card.input, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            wanted = [t.clone() for t in flops.tensors(net(x))]
        for way, tolerance in WAYS.items():
            about = {"model": card.name, "way": way}
            if time.monotonic() - start > seconds * (0.7 if way == "compile" else 1):
                yield {**about, "skipped": "no time left"}
                continue
            yield guarded(about, partial(difference, net, x, wanted, way, device), tolerance)
        devices.free(device)


def difference(net: nn.Module, x: Tensor, wanted: list[Tensor], way: str, device: torch.device) -> Row:
    """The greatest difference over the greatest output, of the output where it is largest."""
    net, x = copy.deepcopy(net).to(device), x.to(device)
    fuse(net, True)
    with torch.inference_mode(), devices.precision(way if way in devices.DTYPES else "fp32", device):
        found = [t.float().cpu() for t in flops.tensors(as_way(net, x, way)(x))]
    assert len(found) == len(wanted)
    errors = [float((a - b).abs().max() / b.abs().max().clamp(min=1e-9)) for a, b in zip(found, wanted, strict=True)]
    return {"error": max(errors)}


def check_scans(device: torch.device) -> Iterator[Row]:
    """Every backend of the selective scan that this machine has against float64, outputs and gradients."""
    backends = {"torch-chunked": scan_torch}
    if device.type == "cuda":
        if scan_cuda.installed_kernel()[0]:
            backends[scan_cuda.installed_kernel()[0]] = scan_cuda
        if selective_scan._triton().works_on(device):
            backends["triton"] = selective_scan._triton()
    for states in (1, 4):
        inputs = [x.to(device) for x in made_inputs(2, 4, 48, states, 300)]
        exact = [x.double() for x in inputs]
        y = scan_torch.forward(*exact)
        dy = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device)
        wanted = [y, *scan_torch.backward(*exact, dy=dy)]
        for name, backend in backends.items():
            errors = partial(scan_errors, backend, inputs, wanted, dy)
            yield guarded({"backend": name, "states": states}, errors, 1e-4)


def scan_errors(backend: Any, inputs: list[Tensor], wanted: list[Tensor], dy: Tensor) -> Row:
    """The greatest difference of the output or of a gradient, over its greatest element."""
    found = [backend.forward(*inputs), *backend.backward(*inputs, dy=dy.float())]
    return {
        "error": max(float((a.double() - b).abs().max() / b.abs().max()) for a, b in zip(found, wanted, strict=True))
    }


def check_loop(card: ModelCard, device: torch.device, people: int, batch_size: int) -> Iterator[Row]:
    """People per second of an evaluation against forwards alone, the mirrored picture included."""

    def rates() -> Row:
        with tempfile.TemporaryDirectory() as folder:
            root = make_coco(Path(folder), (7,) * max(1, people // 8))
            job = prepare_job(
                card, "coco-val", weights="random", data_root=root, boxes="det", device=str(device),
                batch_size=batch_size, dtype="bf16" if device.type == "cuda" else "fp32",
            )  # fmt: skip
            net = zoo.load_weights(card, None)[0]
            evaluation.predict_all(net, job)  # warms up
            start = time.perf_counter()
            count = len(evaluation.predict_all(net, job))
            loop = count / (time.perf_counter() - start)
            with devices.precision(job.dtype, device):
                x = torch.randn(batch_size, 3, *card.input, device=device)
                bare = latency.bare_rate(net.to(device).eval(), x, seconds=1.0) / 2
        return {"people_per_s": loop, "bare_per_s": bare, "share": loop / bare}

    yield guarded({"model": card.name, "batch_size": batch_size}, rates)


def check_training(card: ModelCard, device: torch.device, batch_size: int) -> Iterator[Row]:
    """Gradients of one step on the device against the CPU's, and how long a step takes."""

    def step(place: torch.device) -> tuple[list[Tensor], float]:
        for _ in range(1 if place.type == "cpu" else 2):  # the first one warms up
            net = zoo.load_weights(card, None)[0].to(place).train()
            optimizer = torch.optim.AdamW(net.parameters(), 1e-4)
            x = torch.randn(batch_size, 3, *card.input, generator=torch.Generator().manual_seed(0)).to(place)
            devices.synchronize(place)
            start = time.perf_counter()
            torch.stack([t.square().mean() for t in flops.tensors(net(x))]).sum().backward()
            optimizer.step()
            devices.synchronize(place)
            seconds = time.perf_counter() - start
        return [p.grad.cpu() for p in net.parameters() if p.grad is not None], seconds

    def compared() -> Row:
        (wanted, _), (found, seconds) = step(torch.device("cpu")), step(device)
        norm = torch.stack([g.norm() for g in wanted]).norm()
        apart = torch.stack([(a - b).norm() for a, b in zip(found, wanted, strict=True)]).norm()
        return {"error": float(apart / norm), "step_ms": 1000 * seconds}

    yield guarded({"model": card.name, "batch_size": batch_size}, compared, 1e-2)


def measure(cards: list[ModelCard], device: torch.device, until: float, sizes: tuple[int, ...]) -> Iterator[Row]:
    """Rows of `profile` from small to large until the time is up."""
    settings = ProfileSettings(device=str(device), seconds=min(3.0, max(1.0, until - time.monotonic())))
    keys = ("model", "batch_size", "latency_ms", "images_per_s", "macs", "peak_memory_mb", "stable", "status", "error")
    for card in profiling.by_size(cards):
        if time.monotonic() > until:
            return
        for result in profiling.profile_card(card, settings, sizes):
            row = result.row()
            yield {**{key: row.get(key) for key in keys}, "ok": row["status"] == "ok"}


def guarded(about: Row, check: Callable[[], Row], tolerance: float | None = None) -> Row:
    """A row that says what came out, or what went wrong."""
    try:
        row = {**about, **check()}
    except Exception as e:  # one thing that is wrong must not hide the others
        return {**about, "ok": False, "failed": f"{type(e).__name__}: {e}"[:300]}
    return row if tolerance is None else {**row, "tolerance": tolerance, "ok": bool(row["error"] <= tolerance)}


def markdown(report: Row) -> str:
    """The report as tables, one a section."""
    lines = [f"# {report['device']}", "", ", ".join(f"{k} {v}" for k, v in report["hardware"].items() if v), ""]
    for title, rows in report["sections"].items():
        lines += [f"## {title}", ""]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        for row in rows:
            cells = (row.get(c) for c in columns)
            texts = (f"{v:.4g}" if isinstance(v, float) else "" if v is None else str(v) for v in cells)
            lines.append("| " + " | ".join(text.replace("|", "/").replace("\n", " ") for text in texts) + " |")
        lines.append("")
    return "\n".join(lines)


def write(report: Row, folder: Path) -> None:
    files.write_json(folder / "gpu.json", report)
    files.write_atomic(folder / "gpu.md", markdown(report).encode())


def main(argv: list[str] | None = None) -> int:
    """All sections; what is there is written after each row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=7.5, help="until profiling stops")
    parser.add_argument("--dry", action="store_true", help="a few small networks on the CPU")
    parser.add_argument("--models", nargs="*", help="networks, in place of the smallest of each family")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/gpu"))
    args = parser.parse_args(argv)
    until = time.monotonic() + 60 * args.minutes
    if not args.dry and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --dry goes the same way on the CPU")
    device = torch.device("cpu" if args.dry else "cuda")
    every = load_cards([])
    names = args.models or (DRY if args.dry else None)
    cards = [every[n] for n in names] if names else smallest_of_families(list(every.values()))
    if args.dry:
        cards = [card.model_copy(update={"input": (64, 64)}) for card in cards]
    pose = next(c for c in cards if c.task == "hpe")
    size, people = (2, 8) if args.dry else (64, 2048)
    sections: dict[str, Iterator[Row]] = {
        "Networks against the CPU": check_networks(cards, device, 2, 60 * max(args.minutes, 1) / 2),
        "Selective scan against float64": check_scans(device),
        "Evaluation against bare forwards": check_loop(pose, device, people, size),
        "A training step against the CPU": check_training(pose, device, 2 if args.dry else 8),
        "Profile": measure(cards if args.dry else list(every.values()), device, until, (1,) if args.dry else (1, 64)),
    }
    report: Row = {
        "device": devices.device_name(device),
        "hardware": devices.describe_device(device),
        "versions": environment.versions(),
        "commit": environment.commit(),
        "sections": {},
    }
    for title, rows in sections.items():
        report["sections"][title] = []
        for row in rows:
            report["sections"][title].append(row)
            print(title, row, flush=True)
            write(report, args.output)
        write(report, args.output)
    wrong = [row for rows in report["sections"].values() for row in rows if row.get("ok") is False]
    print(f"{len(wrong)} wrong; {args.output}/gpu.json, gpu.md")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
