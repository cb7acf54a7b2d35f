"""One network while it is measured: parameters, MACs, latency, memory, energy."""

from __future__ import annotations

import math
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hmrbench import device as devices
from hmrbench import environment, runtimes, zoo
from hmrbench.errors import HmrbenchError, said
from hmrbench.fetch import sources
from hmrbench.files import file_sha256
from hmrbench.nets.encoders.selective_scan import scan_backend
from hmrbench.profiling import counts, flops, latency
from hmrbench.profiling.end2end import end_to_end
from hmrbench.profiling.quick import load_untrained
from hmrbench.profiling.settings import ProfileSettings, check_settings
from hmrbench.records import Array, ProfileResult
from hmrbench.runtimes import Exported, Network, Prepared, Runtime, Setting, known_runtimes
from hmrbench.schema import ModelCard
from hmrbench.zoo import parts


class Session:
    """One network while it is measured, a card's or a given one: counted and built when first needed."""

    def __init__(
        self,
        card: ModelCard | None,
        net: nn.Module | None,
        size: tuple[int, int],
        settings: ProfileSettings,
    ) -> None:
        self.card, self.net, self.size, self.settings = card, net, size, settings
        self.device = check_settings(settings)
        self.runtime, self.exported, self.setting, self.fault = self._choose()
        self.about: dict[str, Any] = {
            "model": type(net).__name__ if card is None else card.name,
            "task": None if card is None else card.task,
            "input": "{}x{}".format(*size),
            "weights": "given" if card is None else settings.weights_of(card) or "own",
            "device": devices.device_name(self.device),
            **settings.row(),
            "dtype": self.setting.dtype,
            "runtime": self.runtime.name,
        }
        self.loaded: dict[str, Any] = {}
        self.counted: dict[str, Any] | None = None

    def _choose(self) -> tuple[Runtime, Exported | None, Setting, HmrbenchError | None]:
        """What runs the network and how; or why it cannot, which the row is to say."""
        s, exported, fault = self.settings, None, None
        runtime, place, dtype = known_runtimes()["pytorch"], str(self.device), s.dtype
        try:
            if self.card is not None:
                runtime, exported = runtimes.choose(self.card, s.runtime)
            elif s.runtime is not None:
                runtime = runtimes.find_runtime(s.runtime)
            dtype = dtype if exported is None else exported.precision(dtype)
            place = runtime.check("the network" if self.card is None else self.card.name, s.device, dtype)
        except HmrbenchError as e:
            fault = e
        setting = Setting(place, dtype, self.size, s.fused, s.compile, s.channels_last, s.cuda_graph, s.threads)
        self.device = setting.place
        return runtime, exported, setting, fault

    def identity(self, batch_size: int) -> dict[str, Any]:
        """What two rows share only if everything that decides their numbers is the same."""
        return {
            **self.about,
            "card": None if self.card is None else self.card.model_dump(mode="json"),
            "batch_size": batch_size,
            "repeats": self.settings.repeats,
            "seconds": self.settings.seconds,
            "by_module": self.settings.by_module,
            "scan": scan_backend(self.device),
            "place": self.setting.device,
            "file": None if self.exported is None else dict(self.exported.record["files"]),
            "versions": environment.versions(),
            "commit": environment.commit(),
        }

    def measure(self, batch_size: int, longer: float = 1) -> tuple[ProfileResult, Array | None]:
        """One row and its samples, within so many times the time that is set. Whatever goes wrong is in the row."""
        known: dict[str, Any] = {"status": "ok", "error": None}
        samples: Array | None = None
        try:
            with devices.bounded_memory(self.device):
                if self.fault is not None:
                    raise self.fault
                self.counted = self.counted or self._count()
                known |= self.counted
                if self.settings.repeats == 0 and known.get("count_error"):  # nothing else was asked for
                    raise HmrbenchError(f"MACs cannot be counted: {known['count_error']}")
                if self.settings.repeats != 0:
                    measured, samples = self._time(batch_size, longer)
                    known |= measured
        except Exception as e:
            known["status"] = "out of memory" if devices.is_out_of_memory(e) else "failed"
            known["error"] = str(e) if isinstance(e, HmrbenchError) else said(e)
        if known["status"] != "ok":  # the error held what was in memory
            devices.free(self.device)
        more = {
            "hardware": devices.describe_device(self.device),  # soon, while the clocks are still those of the run
            "versions": environment.versions(),
            "commit": environment.commit(),
        }
        return ProfileResult.from_row({**self.about, **self.loaded, "batch_size": batch_size, **known, **more}), samples

    def close(self) -> None:
        """Let go of the network, if there was one."""
        if self.net is None:
            return
        self.net = None
        if self.settings.compile:
            torch._dynamo.reset()
        devices.free(self.device)

    def _network(self) -> nn.Module:
        if self.net is None:
            assert self.card is not None
            label, path = sources.resolve_weights(self.card, self.settings.weights_of(self.card))
            self.loaded = {"weights": label, "weights_sha256": None if path is None else file_sha256(path)}
            mesh = zoo.made_mesh()
            self.net = load_untrained(self.card) if path is None else zoo.load_weights(self.card, path, mesh)[0]
        return self.net

    def _count(self) -> dict[str, Any]:
        """Parameters, MACs and activations of one image, as fields of a row; parameters alone if counting fails."""
        if self.card is not None and self.card.runtime is not None:  # whose work PyTorch does not see
            return {**parts.count_parameters(self.card), "backend": None, "uncounted": {self.runtime.version: 1}}
        own = None if self.net is not None or self.card is None else self.card
        own = own if own is not None and counts.are_of_this_package(own) else None
        known = None if own is None else counts.find(own)
        if known is None:
            known = self._count_anew()
            if own is not None and known.get("counted_on") == "meta":
                counts.keep(own, known)
        scans = "selective_scan" in known.get("macs_by_operator", {})
        known |= {"backend": scan_backend(self.device) if scans and self.runtime.name == "pytorch" else None}
        return known if self.settings.by_module else {k: v for k, v in known.items() if k != "by_module"}

    def _count_anew(self) -> dict[str, Any]:
        """The same, whatever the device and the settings."""
        net, costs = self._counted_net()
        parameters: dict[str, Any] = parts.parameters_by_part(net)
        if self.card is not None and (unread := parts.unread_parameters(self.card, net)):
            parameters["params_unread"] = unread
        if isinstance(costs, Exception):
            return {**parameters, "count_error": said(costs)}
        return {
            **parameters,
            "macs": costs.macs,
            "flops": 2 * costs.macs,
            "activations": costs.activations,
            **{f"macs_{part}": costs.by_module.get(part, (0, 0))[1] for part in ("encoder", "neck", "head")},
            "macs_by_operator": dict(costs.by_operator),
            "uncounted": dict(costs.uncounted),
            "count_disagreements": list(costs.disagreements),
            "counted_on": costs.counted_on,
            "not_on_meta": costs.not_on_meta,
            "by_module": {name: list(both) for name, both in costs.by_module.items()},
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

    def _prepared(self, batch_size: int) -> tuple[Prepared, int]:
        """The network ready for a batch size, and the bytes of its weights."""
        if self.exported is not None:
            assert self.card is not None
            weights = self.settings.weights
            label, path = ("", None) if weights is None else sources.resolve_weights(self.card, str(weights))
            self.exported.check_source(self.card, label, None if path is None else file_sha256(path), timed=True)
            self.loaded = {k: self.exported.record[k] for k in ("weights", "weights_sha256", "calibration")}
            network = self.exported.network
            return runtimes.prepare(self.runtime, network, self.setting), int((network.size_mb() or 0) * devices.MB)
        net = self._network()
        held = sum(t.nbytes for t in (*net.parameters(), *net.buffers()))
        return runtimes.prepare(self.runtime, Network(net, self.card, batch_size=batch_size), self.setting), held

    def _time(self, batch_size: int, longer: float) -> tuple[dict[str, Any], Array]:
        """Latency, peak memory and energy at one batch size, as fields of a row, and the samples in ms."""
        settings, device = self.settings, self.device
        devices.keep_freed_memory(device)
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        prepared, held = self._prepared(batch_size)
        x = torch.randn(batch_size, 3, *self.size, generator=torch.Generator().manual_seed(0))
        x = x.to(device).contiguous(memory_format=layout)
        with ExitStack() as stack:
            forward = stack.enter_context(prepared)
            memory, start = devices.PeakMemory(device), time.monotonic()
            finite = all(bool(t.isfinite().all()) for t in flops.tensors(forward(x)))
            first_s = time.monotonic() - start
            if settings.scope == "end2end":
                assert self.card is not None
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                run = end_to_end(self.card, forward, batch_size, device, layout, folder)
            else:
                run = lambda: forward(x)  # noqa: E731
            if device.type == "cpu":  # the first forward also brought libraries into memory
                memory = devices.PeakMemory(device)
            run()
            grown_mb = memory.grown_mb()
            watch = latency.stopwatch(run, device, by_events=settings.scope == "model")
            energy = devices.energy_mj(device)
            settled_s = 1.0 if device.type == "cuda" else 2.0  # nothing else runs there
            samples, warm_up = latency.sample_times(watch, settings.repeats, longer * settings.seconds, settled_s)
            used, ran = devices.energy_mj(device), (warm_up + len(samples)) * batch_size
        timing = latency.summarise(samples)
        held_mb = (held + x.nbytes) / devices.MB
        return {
            **prepared.describe().row(),
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
