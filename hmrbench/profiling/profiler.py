"""What a network costs: parameters, MACs, latency, memory, energy -> one ProfileResult per batch size."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from hmrbench import device as devices
from hmrbench import environment, zoo
from hmrbench.cards import load_card
from hmrbench.codecs import find_codec
from hmrbench.data.loader import CropSettings, batches
from hmrbench.errors import HmrbenchError, UsageError
from hmrbench.fetch import sources
from hmrbench.files import file_sha256
from hmrbench.nets.encoders.selective_scan import scan_backend
from hmrbench.nets.fusion import fuse
from hmrbench.profiling import flops, latency
from hmrbench.records import Array, ProfileResult, Sample
from hmrbench.results import runs as results
from hmrbench.schema import ModelCard

SCOPES = ("model", "end2end")

# --------------------------------------------------------------------------- what is measured


@dataclass(frozen=True)
class Setup:
    """How networks are run while they are measured."""

    device: torch.device
    dtype: str = "fp32"
    repeats: int | None = None
    seconds: float = 10.0
    scope: str = "model"
    compile: bool = False
    channels_last: bool = False
    cuda_graph: bool = False
    threads: int | None = None
    weights: str | None = None
    fused: bool = True

    def row(self) -> dict[str, Any]:
        """What a row says of it; the device stands there under its product name."""
        said = {k: v for k, v in asdict(self).items() if k not in ("device", "repeats", "seconds", "weights")}
        return said | {"threads": self.threads or torch.get_num_threads()}

    def weights_of(self, card: ModelCard) -> str | None:
        """What `sources.resolve_weights` is to find; what PyTorch does not compute may have no weights but its own."""
        return self.weights or (None if card.backend and card.weights else "random")


def prepare(
    device: str = "auto",
    dtype: str = "fp32",
    *,
    repeats: int | None = None,
    seconds: float = 10.0,
    scope: str = "model",
    compile: bool = False,
    channels_last: bool = False,
    cuda_graph: bool = False,
    threads: int | None = None,
    weights: str | Path | None = None,
    fused: bool = True,
) -> Setup:
    """Check how networks are to be run.

    Args:
        dtype: fp32, tf32, or for autocast fp16, bf16, as in an evaluation.
        repeats: number of timed forwards; 0 counts only; None samples until the median is known to 1 %.
        seconds: time for warm-up and sampling per row, where `repeats` is None.
        scope: `model` times the network alone, `end2end` also reading a JPEG, crop and decoding the output.
        compile: run through torch.compile.
        channels_last: use that memory format for weights and input.
        cuda_graph: replay a CUDA graph.
        threads: of PyTorch on the CPU; None leaves its own choice.
        weights: None for untrained ones, which cost the same (the card's where another backend computes it); else
            as for `sources.resolve_weights`.
        fused: let the network take its short cuts, see `nets.fusion`; MACs are those of the plain network anyway.

    Raises:
        UsageError: something that cannot be.
    """
    place = devices.pick_device(device)
    checks = (
        (dtype in devices.DTYPES, f"dtype must be one of {', '.join(devices.DTYPES)}, not '{dtype}'"),
        (dtype != "tf32" or place.type == "cuda", f"tf32 is a precision of NVIDIA GPUs, not of {place.type}"),
        (scope in SCOPES, f"scope must be one of {', '.join(SCOPES)}, not '{scope}'"),
        (not cuda_graph or place.type == "cuda", f"a CUDA graph needs a CUDA device, not {place.type}"),
        (repeats is None or repeats >= 0, f"repeats must be 0 or more, not {repeats}"),
        (0 < seconds < math.inf, f"seconds must be above 0, not {seconds}"),
        (threads is None or threads > 0, f"threads must be 1 or more, not {threads}"),
    )
    for fine, message in checks:
        if not fine:
            raise UsageError(message)
    return Setup(
        place,
        dtype,
        repeats,
        seconds,
        scope,
        compile,
        channels_last,
        cuda_graph,
        threads,
        None if weights is None else str(weights),
        fused,
    )


def pick_batch_sizes(text: str) -> tuple[int, ...]:
    """`1,8,64` as numbers; `auto` is 1.

    Raises:
        UsageError: not numbers above 0.
    """
    try:
        sizes = tuple(dict.fromkeys(int(part) for part in text.replace("auto", "1").split(",")))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise UsageError(f"batch sizes are numbers above 0 such as 1,8,64, not '{text}'")
    return sizes


def profile_model(
    model: str | ModelCard | nn.Module,
    *,
    batch_size: int = 1,
    input_size: tuple[int, int] = (256, 192),
    models_dirs: Sequence[Path] = (),
    runs: Path | None = None,
    resume: bool = False,
    **settings: Any,
) -> ProfileResult:
    """What one network costs at one batch size.

    A network that fails gives a result too: `status` is `failed` or `out of memory` and `error` says why. On the CPU
    the process keeps freed memory from then on (`device.keep_freed_memory`).

    Args:
        model: a name, a card, or a network that maps (B, 3, H, W) to a tensor or several; it is left on the
            device that it was measured on.
        input_size: H and W, for a network; a card has its own.
        runs: the folder for the row and its samples; None writes nothing.
        resume: take a finished row from there.
        settings: those of `prepare`.

    Raises:
        UsageError: unknown name, or settings that cannot be.
    """
    setup = prepare(**settings)
    if isinstance(batch_size, bool) or batch_size < 1:
        raise UsageError(f"batch size must be above 0, not {batch_size}")
    if isinstance(model, str):
        model = load_card(model, models_dirs)
    if isinstance(model, nn.Module) and setup.scope == "end2end":
        raise UsageError("end2end needs a model card, which knows crop and codec")
    card, net = (model, None) if isinstance(model, ModelCard) else (None, model.eval())
    return next(
        _rows(
            _Session(card, net, input_size if card is None else card.input, setup),
            (batch_size,),
            runs,
            resume,
        )
    )


def profile_card(
    card: ModelCard,
    setup: Setup,
    batch_sizes: Sequence[int] = (1,),
    *,
    runs: Path | None = None,
    resume: bool = False,
    by_module: bool = False,
) -> Iterator[ProfileResult]:
    """A row for each batch size, written as soon as it is measured; the network is built once, then freed.

    Args:
        by_module: rows also say how parameters and MACs spread over all modules, as {name: [params, macs]}.
    """
    return _rows(_Session(card, None, card.input, setup, by_module), batch_sizes, runs, resume)


# --------------------------------------------------------------------------- measuring


def _rows(session: _Session, batch_sizes: Sequence[int], runs: Path | None, resume: bool) -> Iterator[ProfileResult]:
    """Rows of one network, each saved before the next is measured; one that failed before is tried again."""
    try:
        for batch_size in batch_sizes:
            key = results.run_key(session.identity(batch_size))
            done = results.finished(runs, "profile", key) if runs is not None and resume else None
            if done is not None and done.row["status"] != "failed":
                yield ProfileResult.from_row(done.row)
                continue
            result, samples = session.measure(batch_size)
            if runs is not None:
                arrays = None if samples is None else {"samples_ms": samples}
                try:
                    results.save(runs, "profile", result.row(), key, arrays)
                except OSError as e:
                    raise NotWrittenError(f"{runs}: the row could not be written ({e.strerror or e})", result) from e
            yield result
    finally:
        session.close()


class NotWrittenError(HmrbenchError):
    """A row was measured but could not be written: it is in `result`."""

    def __init__(self, message: str, result: ProfileResult) -> None:
        super().__init__(message)
        self.result = result


class _Session:
    """One network while it is measured, a card's or a given one: counted and built when first needed."""

    def __init__(
        self,
        card: ModelCard | None,
        net: nn.Module | None,
        size: tuple[int, int],
        setup: Setup,
        by_module: bool = False,
    ) -> None:
        self.card, self.net, self.size, self.setup, self.by_module = card, net, size, setup, by_module
        self.about: dict[str, Any] = {
            "model": type(net).__name__ if card is None else card.name,
            "task": None if card is None else card.task,
            "input": "{}x{}".format(*size),
            "weights": "given" if card is None else setup.weights_of(card) or "own",
            "device": devices.device_name(setup.device),
            **setup.row(),
        }
        self.loaded: dict[str, Any] = {}
        self.counted: dict[str, Any] | None = None

    def identity(self, batch_size: int) -> dict[str, Any]:
        """What two rows share only if everything that decides their numbers is the same."""
        return {
            **self.about,
            "card": None if self.card is None else self.card.model_dump(mode="json"),
            "batch_size": batch_size,
            "repeats": self.setup.repeats,
            "seconds": self.setup.seconds,
            "by_module": self.by_module,
            "scan": scan_backend(self.setup.device),
            "versions": environment.versions(),
            "commit": environment.commit(),
        }

    def measure(self, batch_size: int) -> tuple[ProfileResult, Array | None]:
        """One row and its samples. Whatever goes wrong in the network is in the row."""
        known: dict[str, Any] = {"status": "ok", "error": None}
        samples: Array | None = None
        try:
            with devices.bounded_memory(self.setup.device):
                self.counted = self.counted or self._count()
                known |= self.counted
                if self.setup.repeats == 0 and known.get("count_error"):  # nothing else was asked for
                    raise HmrbenchError(f"MACs cannot be counted: {known['count_error']}")
                if self.setup.repeats != 0:
                    measured, samples = self._time(batch_size)
                    known |= measured
        except Exception as e:
            known["status"] = "out of memory" if devices.is_out_of_memory(e) else "failed"
            known["error"] = str(e) if isinstance(e, HmrbenchError) else f"{type(e).__name__}: {e}"
        if known["status"] != "ok":  # the error held what was in memory
            devices.free(self.setup.device)
        more = {
            "hardware": devices.describe(self.setup.device),  # soon, while the clocks are still those of the run
            "versions": environment.versions(),
            "commit": environment.commit(),
        }
        return ProfileResult.from_row({**self.about, **self.loaded, "batch_size": batch_size, **known, **more}), samples

    def close(self) -> None:
        """Let go of the network, if there was one."""
        if self.net is None:
            return
        self.net = None
        if self.setup.compile:
            torch._dynamo.reset()
        devices.free(self.setup.device)

    def _network(self) -> nn.Module:
        if self.net is None:
            assert self.card is not None
            zoo.fit_backend(self.card, self.setup.device.type, self.setup.dtype)
            label, path = sources.resolve_weights(self.card, self.setup.weights_of(self.card))
            self.loaded = {"weights": label, "weights_sha256": None if path is None else file_sha256(path)}
            self.net = zoo.load_weights(self.card, path)[0]
        return self.net

    def _count(self) -> dict[str, Any]:
        """Parameters, MACs and activations of one image, as fields of a row; parameters alone if counting fails."""
        backend = None if self.card is None else zoo.backend_of(self.card)
        if self.card is not None and backend is not None:  # whose work PyTorch does not see
            return {**zoo.count_parameters(self.card), "backend": backend, "uncounted": {backend: 1}}
        net, costs = self._counted_net()
        if isinstance(costs, Exception):
            return {**zoo.parameters_by_part(net), "count_error": flops.said(costs), "backend": None}
        scans = "selective_scan" in costs.by_operator
        return {
            **zoo.parameters_by_part(net),
            "macs": costs.macs,
            "flops": 2 * costs.macs,
            "activations": costs.activations,
            **{f"macs_{part}": costs.by_module.get(part, (0, 0))[1] for part in ("encoder", "neck", "head")},
            "macs_by_operator": dict(costs.by_operator),
            "uncounted": dict(costs.uncounted),
            "count_disagreements": list(costs.disagreements),
            "counted_on": costs.counted_on,
            "not_on_meta": costs.not_on_meta,
            "backend": scan_backend(self.setup.device) if scans else None,
            **({"by_module": {name: list(both) for name, both in costs.by_module.items()}} if self.by_module else {}),
        }

    def _counted_net(self) -> tuple[nn.Module, flops.Costs | Exception]:
        """The network and its costs, or why they cannot be counted: custom operators, compiled parts."""
        shape = (1, 3, *self.size)
        if self.card is not None and self.net is None:
            with suppress(Exception):  # it may need data to be built; any other fault comes up again below
                with torch.device("meta"):
                    net = zoo.build_net(self.card).eval()
                return net, flops.count(net, shape)
        net = self._network()
        try:
            return net, flops.count(net, shape)
        except Exception as e:
            if devices.is_out_of_memory(e):
                raise
            return net, e

    def _time(self, batch_size: int) -> tuple[dict[str, Any], Array]:
        """Latency, peak memory and energy at one batch size, as fields of a row, and the samples in ms."""
        setup, device = self.setup, self.setup.device
        devices.keep_freed_memory(device)
        layout = torch.channels_last if setup.channels_last else torch.contiguous_format
        net = self._network().to(device)
        fuse(net, setup.fused)
        net = net.to(memory_format=layout) if setup.channels_last else net
        x = torch.randn(batch_size, 3, *self.size, generator=torch.Generator().manual_seed(0))
        x = x.to(device).contiguous(memory_format=layout)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(_threads(setup.threads))
            stack.enter_context(devices.precision(setup.dtype, device))
            if device.type == "cuda":  # events, streams and graphs are of the current device
                stack.enter_context(torch.cuda.device(device))
            forward: Callable[[Tensor], Any] = torch.compile(net) if setup.compile else net
            memory, start = devices.PeakMemory(device), time.monotonic()
            finite = all(bool(t.isfinite().all()) for t in flops.tensors(forward(x)))
            first_s = time.monotonic() - start
            forward = latency.graphed(forward, x) if setup.cuda_graph else forward
            if setup.scope == "end2end":
                assert self.card is not None
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                run = _end_to_end(self.card, forward, batch_size, device, layout, folder)
            else:
                run = lambda: forward(x)  # noqa: E731
            if device.type == "cpu":  # the first forward also brought libraries into memory
                memory = devices.PeakMemory(device)
            run()
            grown_mb = memory.grown_mb()
            watch = latency.stopwatch(run, device, by_events=setup.scope == "model")
            energy = devices.energy_mj(device)
            samples, warm_up = latency.sample_times(watch, setup.repeats, setup.seconds)
            used, ran = devices.energy_mj(device), (warm_up + len(samples)) * batch_size
        timing = latency.summarise(samples)
        held_mb = sum(t.nbytes for t in (*net.parameters(), *net.buffers(), x)) / devices.MB
        return {
            "latency_ms": timing.median_ms,
            "latency_ms_p90": timing.p90_ms,
            "latency_ms_p99": timing.p99_ms,
            "images_per_s": 1000 * batch_size / timing.median_ms,
            "spread": timing.spread,
            "median_error": timing.error if math.isfinite(timing.error) else None,
            "stable": timing.stable,
            "samples": len(samples),
            "warm_up": warm_up,
            "first_forward_s": first_s,
            "peak_memory_mb": None if grown_mb is None else held_mb + grown_mb,
            "energy_mj": None if used is None or energy is None else (used - energy) / ran,
            "output_finite": finite,
        }, timing.samples_ms


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _end_to_end(
    card: ModelCard,
    forward: Callable[[Tensor], Any],
    batch_size: int,
    device: torch.device,
    layout: torch.memory_format,
    folder: Path,
) -> Callable[[], Any]:
    """JPEG files in, keypoints out; of a mesh network its parameters, since its body model is not counted."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    picture = cv2.resize(noise, (640, 480), interpolation=cv2.INTER_CUBIC)
    people = []
    for i in range(batch_size):
        path = folder / f"{i}.jpg"
        cv2.imwrite(str(path), picture)
        people.append(Sample(str(i), path, i, (180.0, 60.0, 220.0, 360.0)))
    codec = find_codec(card.codec) if card.task == "hpe" else None
    geometry = "square" if card.crop.kind == "square" else codec.geometry if codec else "classic"
    settings = CropSettings(card.crop, card.input, geometry)
    normalize = devices.Normalize(card, device, layout)

    def run() -> Any:
        workers = torch.get_num_threads()
        batch = next(batches(people, range(batch_size), settings, batch_size, workers))
        output = forward(normalize(batch.images))
        return codec.decode(output, batch.crops) if codec else [t.cpu() for t in flops.tensors(output)]

    return run
