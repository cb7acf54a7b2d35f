"""PyTorch's network -> a file of another runtime, with a JSON beside it; kept only if it gives PyTorch's numbers.

The check runs both on crops of the demo's pictures, or of the data set that calibrates it. What differs is said as the
largest and as the root mean square difference, both in standard deviations of PyTorch's output, of the output that is
worst; and in pixels of the picture, how far keypoints move. `LIMITS` say what is refused.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hmrbench import data, environment, files, zoo
from hmrbench.body import find_body
from hmrbench.body.decode import decode_mesh
from hmrbench.codecs import Crops
from hmrbench.data.loader import CropSettings, batches
from hmrbench.device import Normalize
from hmrbench.errors import DataError, HmrbenchError, UsageError
from hmrbench.files import file_sha256
from hmrbench.records import NO_BOXES, Array, Dataset
from hmrbench.runtimes.outputs import flatten
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

_log = logging.getLogger(__name__)

SCHEMA = 1
# How far a file may be off: the largest difference where rounding is the only one, else the root mean square.
LIMITS: Mapping[str, tuple[str, float]] = {
    "fp32": ("max_std", 1e-4),
    "fp16": ("rms_std", 0.02),
    "bf16": ("rms_std", 0.1),
    "int8": ("rms_std", 0.5),
}
CHECKED = 4  # crops


@dataclass(frozen=True)
class Check:
    """How a file's outputs differ from PyTorch's, in standard deviations of these, and its keypoints in pixels."""

    crops: int
    max_std: float
    rms_std: float
    keypoints_px: float | None


@dataclass(frozen=True)
class Exported:
    """A file that `export` wrote, and what the JSON beside it says."""

    path: Path
    record: Mapping[str, Any]
    runtime: Runtime

    @property
    def network(self) -> Network:
        """What its runtime prepares."""
        r = self.record
        return Network(
            file=self.path, form=r["form"], batch_size=r["batch_size"], error_std=(r.get("check") or {}).get("max_std")
        )

    def precision(self, asked: str) -> str:
        """What to run it in: as it was exported, or by a hint to a runtime that takes one, what was asked for instead.

        Raises:
            UsageError: it cannot.
        """
        own: str = self.record["dtype"]
        if asked in ("fp32", own):
            return own
        if own == "fp32" and asked == "bf16" and "bf16" in self.runtime.dtypes:
            return asked
        raise UsageError(f"{self.path} was exported in {own}: for {asked} export it again with --dtype {asked}")

    def check_source(self, card: ModelCard, weights: str, sha256: str | None, timed: bool = False) -> None:
        """Refuse a file of another model, card, commit or other weights.

        Args:
            weights: those asked for, "" where nobody did: then the file's own will do, unless they are untrained.
            sha256: of those asked for.
            timed: only the cost is wanted, which does not depend on the weights.

        Raises:
            UsageError: says what differs and how to export it again.
        """
        r = self.record
        again = f"hmrbench export {card.name} --runtime {r['runtime']} --dtype {r['dtype']} -o {self.path}"
        again += f" --weights {weights or r['weights']}"
        wrong = None
        if r["model"] != card.name:
            wrong = f"it is {r['model']}, not {card.name}"
        elif r["card_sha256"] != card_sha256(card):
            wrong = "the model's card has changed since"
        elif r["commit"] != environment.commit() or r["versions"].get("hmrbench") != environment.versions()["hmrbench"]:
            here, there = environment.commit() or environment.versions()["hmrbench"], r["commit"] or "a release"
            wrong = f"it was exported at {there[:12]}, this is {here[:12]}"
        elif not weights and r["weights_sha256"] is None and not timed:
            raise UsageError(f"{self.path} holds untrained weights: --weights random says that this is meant")
        elif weights and r["weights_sha256"] != sha256:
            wrong = f"it holds the weights {r['weights']} ({str(r['weights_sha256'])[:12]}), not {weights}"
        if wrong is not None:
            raise UsageError(f"{self.path}: {wrong}; export it again: {again}")

    def check_scored(self, people: Dataset) -> None:
        """Refuse to score a file on the people that it was calibrated on (UsageError)."""
        calibration = self.record.get("calibration")
        if calibration and calibration["annotations_sha256"] == people.annotations_sha256:
            raise UsageError(
                f"{self.path} was calibrated on {calibration['dataset']}, which cannot score it as well: "
                "calibrate on another data set (hmrbench export ... --calibrate DATASET)"
            )


def record_path(path: Path) -> Path:
    """Where the JSON of an exported file lies."""
    return Path(f"{path}.json")


# What a card says that decides a network's numbers.
_DECIDING = (
    "name", "task", "encoder", "build", "stages", "options", "neck", "head", "input", "crop", "codec", "decode",
    "skeleton",
)  # fmt: skip


def card_sha256(card: ModelCard) -> str:
    """What changes when a card does that decides a network's numbers."""
    text = json.dumps({k: v for k, v in card.model_dump(mode="json").items() if k in _DECIDING}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_exported(path: Path, runtime: Runtime | None = None) -> Exported:
    """A file that `export` wrote.

    Raises:
        DataError: it, or the JSON beside it, is missing, broken, or of another file.
    """
    beside = record_path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file of an exported network")
    if not beside.is_file():
        raise DataError(f"{path}: {beside.name} is not beside it, which says whose network it is (`hmrbench export`)")
    record = files.read_json(beside, "record of an exported network")
    kinds = {"model": str, "runtime": str, "dtype": str, "card_sha256": str, "files": dict, "versions": dict}
    known = isinstance(record, dict) and record.get("kind") == "export" and "form" in record
    if not known or any(not isinstance(record.get(k), kind) for k, kind in kinds.items()):
        raise DataError(f"{beside}: not the record of an exported network")
    for key in ("weights", "weights_sha256", "commit", "batch_size", "calibration"):
        record.setdefault(key, None)
    if record.get("schema") != SCHEMA:
        raise DataError(f"{beside}: of another version (schema {record.get('schema')}, this one reads {SCHEMA})")
    for name, sha256 in record["files"].items():
        part = path.parent / name
        if Path(name).name != name or not part.is_file() or file_sha256(part) != sha256:
            raise DataError(f"{part}: missing, or not as `hmrbench export` wrote it")
    if path.name not in record["files"]:
        raise DataError(f"{beside}: says nothing of {path.name}")
    return Exported(path, record, runtime or find_runtime(record["runtime"]))


def choose(card: ModelCard, asked: str | None) -> tuple[Runtime, Exported | None]:
    """What runs a card's network: by name, import path, or a file that is to be run; None for its own, or PyTorch.

    Raises:
        UsageError: there is no such runtime, or the card's network runs on another alone.
        DataError: the file cannot be used.
    """
    if card.runtime is not None:
        own = find_runtime(card.runtime)
        if asked not in (None, card.runtime, own.name):
            raise UsageError(f"{card.name} runs on {own.name} alone, not on {asked}")
        return own, None
    return (known_runtimes()["pytorch"], None) if asked is None else find(asked)


def find(asked: str) -> tuple[Runtime, Exported | None]:
    """The runtime that a name or an import path means, or that of a file with the file.

    Raises:
        UsageError: there is no such runtime.
        DataError: the file cannot be used.
    """
    if os.sep in asked or Path(asked).suffix in {r.suffix for r in known_runtimes().values() if r.suffix}:
        found = read_exported(Path(asked))
        return found.runtime, found
    return find_runtime(asked), None


# --------------------------------------------------------------------------- crops


@dataclass(frozen=True)
class SomeCrops:
    """Crops of people as a network sees them: `x` (N, 3, H, W) normalised, and where they lie in the pictures."""

    x: Tensor
    crops: Crops


def crops_of_people(card: ModelCard, people: Dataset, count: int) -> SomeCrops:
    """Crops of people spread over a data set, at most `count`."""
    index = np.unique(np.linspace(0, len(people.samples) - 1, min(count, len(people.samples))).astype(int))
    settings = CropSettings.of(card, zoo.codec_of(card) if card.task == "hpe" else None)
    batch = next(batches(people.samples, index.tolist(), settings, len(index), 1))
    return SomeCrops(Normalize(card, torch.device("cpu"))(batch.images), batch.crops)


def demo_crops(card: ModelCard, count: int = CHECKED) -> SomeCrops:
    """Crops of the demo's pictures, which ship with this package."""
    spec = data.load_spec("demo-pose" if card.task == "hpe" else "demo-mesh")
    boxes = NO_BOXES if card.crop.kind == "bottom-up" else None
    return crops_of_people(card, data.open_dataset(spec, None, boxes, None), count)


# --------------------------------------------------------------------------- the check


def compare_outputs(expected: Any, found: Any) -> tuple[float, float]:
    """The largest and the root mean square difference of the worst output, in standard deviations of what is expected.

    Raises:
        HmrbenchError: they are of other shapes, or what was found is not finite.
    """
    pairs = list(zip(flatten(expected)[0], flatten(found)[0], strict=True))
    for a, b in pairs:
        if a.shape != b.shape:
            raise HmrbenchError(f"an output is {tuple(b.shape)}, PyTorch's {tuple(a.shape)}")
        if not bool(b.isfinite().all()):
            raise HmrbenchError("an output is not finite")
    differences = [((a.double() - b.double()).abs(), a.double().std(correction=0).clamp_min(1e-6)) for a, b in pairs]
    return (
        max(float(d.max() / std) for d, std in differences),
        max(float(d.square().mean().sqrt() / std) for d, std in differences),
    )


def compare_networks(card: ModelCard | None, net: nn.Module, prepared: Prepared, given: SomeCrops | Tensor) -> Check:
    """Run both on the same crops."""
    x = given if isinstance(given, Tensor) else given.x
    with torch.inference_mode():
        expected = net(x)
        with prepared as forward:
            found = forward(x)
    largest, rms = compare_outputs(expected, found)
    moved = None
    if card is not None and isinstance(given, SomeCrops):
        with torch.inference_mode():
            a, b = (_keypoints(card, output, given.crops) for output in (expected, found))
        if a is not None and b is not None:
            moved = float(np.linalg.norm(a - b, axis=-1).max())
    return Check(len(x), largest, rms, moved)


def _keypoints(card: ModelCard, output: Any, crops: Crops) -> Array | None:
    """Keypoints in pixels of the picture; None for whole pictures, in which both may find other numbers of people."""
    if card.crop.kind == "bottom-up":
        return None
    if card.task == "hmr":
        keypoints: Array = decode_mesh(output, crops.center_px, crops.size_px, find_body("free-lite"))[0]
        return keypoints
    found: Array = zoo.codec_of(card).decode(output, crops)[0]
    return found


def _refuse(check: Check, dtype: str, what: str) -> None:
    name, limit = LIMITS[dtype]
    value = getattr(check, name)
    if not value <= limit:
        kind = "largest" if name == "max_std" else "root mean square"
        moved = "" if check.keypoints_px is None else f", keypoints by up to {check.keypoints_px:.2f} px"
        raise HmrbenchError(
            f"{what} is off: the {kind} difference to PyTorch is {value:.2g} standard deviations of the output, "
            f"more than {limit:g}{moved}; it is not kept"
        )


# --------------------------------------------------------------------------- writing


def convert(
    net: nn.Module,
    card: ModelCard | None,
    runtime: Runtime,
    dtype: str,
    batch_size: int | None,
    path: Path,
    given: SomeCrops | Tensor,
) -> Network:
    """Write a network in a runtime's form, in fp32 or a half precision, without a check.

    Raises:
        HmrbenchError: it cannot be converted; says why.
    """  # fmt: skip
    assert runtime.write is not None
    x = given if isinstance(given, Tensor) else given.x
    wanted = batch_size or 2
    x = x.repeat(-(-wanted // len(x)), 1, 1, 1)[:wanted]
    try:
        with traceable(net, x, any_batch=batch_size is None) as graph:
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
    given = noise if network.card is None else demo_crops(network.card)
    path = Path(folder.name) / f"network{runtime.suffix}"
    made = convert(net, network.card, runtime, setting.dtype, network.batch_size, path, given)
    prepared = runtime.prepare(
        Network(file=made.file, form=made.form, batch_size=made.batch_size, owner=folder), setting
    )
    check = compare_networks(network.card, net, prepared, given)
    _refuse(check, setting.dtype, f"{name} for {runtime.name}")
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

    def __call__(self, x: Tensor) -> Any:
        return self.prepared(x)

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
        return {"dataset": self.people.name, "annotations_sha256": sha256, "crops": len(self.crops.x)}


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
        raise UsageError(f"nothing is exported for {runtime.name}; there is {able}")
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
    net = net.to("cpu").eval()
    given = demo_crops(card)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        part = Path(folder) / path.name
        if calibration is None:
            made = convert(net, card, runtime, settings.dtype, settings.batch_size, part, given)
        else:
            with in_fp32(net, card, runtime, settings.batch_size, Path(folder)) as whole:
                made = quantised(runtime, whole, part, calibration, settings)
        setting = Setting(runtime.check(card.name, "auto", settings.dtype), settings.dtype, card.input)
        prepared = runtime.prepare(made, setting)
        check = compare_networks(card, net, prepared, given)
        _refuse(check, settings.dtype, f"{card.name} exported for {runtime.name}")
        told = prepared.describe()
        del prepared
        found = parts_of(part)
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
    files.write_json(record_path(path), record)
    return Exported(path, record, runtime)


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
    x = calibration.crops.x.numpy()
    crops = [x[i : i + size] for i in range(0, len(x) - size + 1, size)]
    if not crops:
        raise UsageError(f"{len(x)} crops do not fill a batch of {size}: calibrate with more")
    try:
        runtime.quantise(whole.file, path, crops, list(settings.in_fp))
    except ImportError as e:
        raise UsageError(f"int8 on {runtime.name} needs {e.name}: pip install {e.name}") from e
    except Exception as e:  # whatever a quantiser raises
        raise HmrbenchError(f"int8 on {runtime.name}: {' '.join(str(e).split())[:400]}") from e
    return Network(file=path, form=whole.form, batch_size=whole.batch_size)
