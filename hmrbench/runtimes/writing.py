"""PyTorch's network -> a file of another runtime, with a JSON beside it; kept only if it gives PyTorch's numbers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from hmrbench import environment, files
from hmrbench.errors import HmrbenchError, UsageError
from hmrbench.files import file_sha256
from hmrbench.records import Dataset
from hmrbench.runtimes.checking import CHECKED, Check, SomeCrops, compare_networks, demo_crops, refuse
from hmrbench.runtimes.exported import SCHEMA, Exported, card_sha256, record_path
from hmrbench.runtimes.outputs import INPUTS
from hmrbench.runtimes.runtime import (
    Description,
    Network,
    Prepared,
    Runtime,
    Setting,
    find_runtime,
    known_runtimes,
    parts_of,
)  # fmt: skip
from hmrbench.runtimes.trace import traceable
from hmrbench.schema import ModelCard


def convert(
    net: nn.Module,
    card: ModelCard | None,
    runtime: Runtime,
    dtype: str,
    batch_size: int | None,
    path: Path,
    some: SomeCrops,
) -> Network:
    """Write a network in a runtime's form, in fp32 or a half precision, without a check.

    One that sees whole pictures takes them of any size.

    Raises:
        HmrbenchError: it cannot be converted; says why.
    """  # fmt: skip
    assert runtime.write is not None
    wanted = batch_size or 2
    given = tuple(x[torch.arange(wanted) % len(x)] for x in some.given)
    whole = card is not None and card.crop.kind == "bottom-up"
    try:
        with traceable(net, given, any_batch=batch_size is None, any_size=whole) as graph:
            runtime.write(graph, path, dtype)
            return Network(net, card, path, graph.form, batch_size)
    except HmrbenchError:
        raise
    except Exception as e:  # whatever a converter raises
        name = type(net).__name__ if card is None else card.name
        words = " ".join(str(e).split()) or type(e).__name__
        raise HmrbenchError(f"{name} cannot be converted for {runtime.name}: {words[:400]}") from e


def prepare(runtime: Runtime, network: Network, setting: Setting) -> Prepared:
    """A network ready to run; for a runtime with files of its own, PyTorch's network is converted and checked before.

    Raises:
        UsageError: int8, which needs crops to calibrate with.
        HmrbenchError: it cannot be converted, or gives other numbers than PyTorch.
    """
    if runtime.write is None or network.file is not None or network.net is None:
        return runtime.prepare(network, setting)
    name = type(network.net).__name__ if network.card is None else network.card.name
    if setting.dtype == "int8":
        raise UsageError(
            f"int8 needs a file that was calibrated: hmrbench export {name} --runtime {runtime.name} --dtype int8 "
            "--calibrate DATASET -o FILE, then --runtime FILE"
        )
    folder = tempfile.TemporaryDirectory(prefix="hmrbench-")
    net = network.net.to("cpu").eval()
    noise = torch.randn(CHECKED, 3, *setting.input, generator=torch.Generator().manual_seed(0))
    some = SomeCrops(noise) if network.card is None else demo_crops(network.card)
    path = Path(folder.name) / f"network{runtime.suffix}"
    made = convert(net, network.card, runtime, setting.dtype, network.batch_size, path, some)
    prepared = runtime.prepare(
        Network(file=made.file, form=made.form, batch_size=made.batch_size, owner=folder), setting
    )
    check = compare_networks(network.card, net, prepared, some)
    refuse(check, setting.dtype, f"{name} for {runtime.name}")
    return _Checked(prepared, check.max_std)


class _Checked:
    """What a runtime made ready, with what its check found, which it cannot know itself."""

    def __init__(self, prepared: Prepared, error_std: float) -> None:
        self.prepared, self.error_std = prepared, error_std

    def __enter__(self) -> Prepared:
        return self.prepared.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.prepared.__exit__(kind, error, trace)

    def __call__(self, x: Tensor, *more: Tensor) -> Any:
        return self.prepared(x, *more)

    def describe(self) -> Description:
        return replace(self.prepared.describe(), error_std=self.error_std)


@dataclass(frozen=True)
class ExportSettings:
    """What to write.

    Attributes:
        runtime: of which runtime, by name, form of its files, or import path.
        dtype: fp32, fp16, bf16, int8.
        batch_size: pictures at once; None for any.
        in_fp: layers that stay out of int8.
    """

    runtime: str
    dtype: str = "fp32"
    batch_size: int | None = None
    in_fp: Sequence[str] = ()


@dataclass(frozen=True)
class Calibration:
    """Whose crops set the ranges of int8; `crops` of them."""

    people: Dataset
    crops: SomeCrops

    def row(self) -> dict[str, Any]:
        """What a record and a row say of it."""
        sha256 = self.people.annotations_sha256
        return {"dataset": self.people.name, "annotations_sha256": sha256, "crops": len(self.crops)}


def check_export(card: ModelCard, settings: ExportSettings, path: Path, calibrated: bool) -> Runtime:
    """The runtime to export for, if it can be.

    Raises:
        UsageError: it cannot; says why.
    """
    runtime = find_runtime(settings.runtime)
    if card.runtime is not None:
        raise UsageError(f"{card.name} runs on {find_runtime(card.runtime).name} alone: there is nothing to export")
    if runtime.write is None:
        able = ", ".join(r.name for r in known_runtimes().values() if r.write is not None)
        reads = f": it runs {runtime.suffix} files that others wrote" if runtime.suffix else ""
        raise UsageError(f"nothing is exported for {runtime.name}{reads}; there is {able}")
    runtime.check(card.name, "auto", settings.dtype)
    if path.suffix != runtime.suffix:
        raise UsageError(f"{path}: a file for {runtime.name} ends in {runtime.suffix}")
    if (settings.dtype == "int8") != calibrated:
        raise UsageError(
            "int8 needs --calibrate DATASET, whose crops set its ranges"
            if settings.dtype == "int8"
            else f"--calibrate is for --dtype int8, not for {settings.dtype}"
        )
    return runtime


def export(
    net: nn.Module,
    card: ModelCard,
    settings: ExportSettings,
    path: Path,
    *,
    weights: str,
    weights_sha256: str | None,
    calibration: Calibration | None = None,
    search: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a network for a runtime, and a JSON beside it; nothing is left of one that gives other numbers.

    Args:
        net: the card's network with its weights.
        weights, weights_sha256: what they are, for the record.
        calibration: for int8.
        search: what kept the layers out of int8, for the record.

    Raises:
        UsageError: settings that cannot be.
        HmrbenchError: it cannot be converted, or gives other numbers than PyTorch.
    """
    runtime = check_export(card, settings, path, calibration is not None)
    assert runtime.write is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        made, check, told = _made(net.to("cpu").eval(), card, runtime, settings, Path(folder) / path.name, calibration)
        assert made.file is not None
        found = parts_of(made.file)
        record = {
            "schema": SCHEMA, "kind": "export", "model": card.name, "task": card.task,
            "card": card.model_dump(mode="json"), "card_sha256": card_sha256(card),
            "weights": weights, "weights_sha256": weights_sha256,
            "runtime": runtime.name, "runtime_version": told.runtime_version, "dtype": settings.dtype,
            "batch_size": settings.batch_size, "input": card.input, "form": made.form, "opset": opset(runtime),
            "calibration": None if calibration is None else {**calibration.row(), "in_fp": list(settings.in_fp)},
            "search": search, "check": asdict(check), "file_mb": told.file_mb,
            "files": {f.name: file_sha256(f) for f in found},
            "versions": environment.versions(), "commit": environment.commit(),
        }  # fmt: skip
        for f in found:
            os.replace(f, path.parent / f.name)
    for left in (f for f in parts_of(path) if f.name not in record["files"]):
        left.unlink()  # the weights of another file of this name, which was larger
    files.write_json(record_path(path), record)
    return Exported(path, record, runtime)


def _made(
    net: nn.Module,
    card: ModelCard,
    runtime: Runtime,
    settings: ExportSettings,
    path: Path,
    calibration: Calibration | None,
) -> tuple[Network, Check, Description]:
    """The network's file, how its check went, and what its runtime says of it."""
    some = demo_crops(card)
    if calibration is None:
        made = convert(net, card, runtime, settings.dtype, settings.batch_size, path, some)
    else:
        with in_fp32(net, card, runtime, settings.batch_size, path.parent) as whole:
            made = quantised(runtime, whole, path, calibration, settings)
    setting = Setting(runtime.check(card.name, "auto", settings.dtype), settings.dtype, card.input)
    prepared = runtime.prepare(made, setting)
    check = compare_networks(card, net, prepared, some)
    refuse(check, settings.dtype, f"{card.name} exported for {runtime.name}")
    return made, check, prepared.describe()


def opset(runtime: Runtime) -> int | None:
    """The version of ONNX's operators in the runtime's files."""
    from hmrbench.runtimes.onnxruntime import OPSET

    return OPSET if runtime.suffix == ".onnx" else None


@contextmanager
def in_fp32(
    net: nn.Module, card: ModelCard, runtime: Runtime, batch_size: int | None, folder: Path
) -> Iterator[Network]:
    """The network in a file in fp32, which is gone afterwards: what quantisation begins with."""
    path = folder / f"fp32{runtime.suffix}"
    try:
        yield convert(net, card, runtime, "fp32", batch_size, path, demo_crops(card))
    finally:
        for part in parts_of(path):
            part.unlink(missing_ok=True)


def quantised(
    runtime: Runtime, whole: Network, path: Path, calibration: Calibration, settings: ExportSettings
) -> Network:
    """A file in fp32 in int8, its ranges from calibration crops, without a check.

    Raises:
        UsageError: what does it is not installed.
        HmrbenchError: it cannot be done; says why.
    """
    assert runtime.quantise is not None
    assert whole.file is not None
    size = whole.batch_size or 1
    full = len(calibration.crops) // size
    if not full:
        raise UsageError(f"{len(calibration.crops)} crops do not fill a batch of {size}: calibrate with more")
    parts = zip(*(torch.split(x[: full * size], size) for x in calibration.crops.given), strict=True)
    crops = [dict(zip(INPUTS, (x.numpy() for x in part), strict=False)) for part in parts]
    try:
        runtime.quantise(whole.file, path, crops, list(settings.in_fp))
    except ImportError as e:
        raise UsageError(f"int8 on {runtime.name} needs {e.name}: pip install {e.name}") from e
    except Exception as e:  # whatever a quantiser raises
        raise HmrbenchError(f"int8 on {runtime.name}: {' '.join(str(e).split())[:400]}") from e
    return Network(file=path, form=whole.form, batch_size=whole.batch_size)
