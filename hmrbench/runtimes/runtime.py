"""What a runtime is, what it is given, and how one is found: by name, or by an import path.

A file of this folder is found by its tuple `RUNTIMES`; nothing registers itself. Another package's runtime is the same
record, named by its import path, such as `mypkg.runtime:RUNTIME`, on the command line or in a card.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from hmrbench import environment
from hmrbench.device import pick_device
from hmrbench.errors import UsageError, unknown_name
from hmrbench.nets.record import find_records
from hmrbench.records import Array
from hmrbench.runtimes.outputs import INPUTS, Form, unflatten
from hmrbench.runtimes.trace import Graph
from hmrbench.schema import ModelCard
from hmrbench.schema.importing import find_part


@dataclass(frozen=True)
class Setting:
    """How a network is to run.

    Attributes:
        device: a device by the runtime's name for it, such as `cpu`, `cuda:1`, or OpenVINO's `gpu`.
        dtype: fp32, tf32, bf16, fp16, int8.
        input: height and width in pixels.
        fused: let PyTorch's network take its short cuts, see `nets.fusion`.
        compile: through torch.compile.
        channels_last: that memory format for weights and input of PyTorch's network.
        cuda_graph: replay a CUDA graph, as it must; where that is possible if None.
        threads: on the CPU; None leaves PyTorch's choice.
    """

    device: str
    dtype: str
    input: tuple[int, int]
    fused: bool = True
    compile: bool = False
    channels_last: bool = False
    cuda_graph: bool | None = False
    threads: int | None = None

    @property
    def place(self) -> torch.device:
        """Where the tensors are that go in and come out: the host, unless PyTorch knows the device."""
        return torch.device(self.device if self.device.partition(":")[0] in _PYTORCHS else "cpu")


_PYTORCHS = ("cpu", "cuda", "mps", "xpu")  # devices that have one name everywhere; others are a runtime's own


@dataclass(frozen=True)
class Network:
    """What a runtime prepares: PyTorch's network, or the file of a form that the runtime reads.

    `batch_size` is the one that a file was made for, None for any. `form` says how the file's outputs, a flat list,
    go together. `error_std` is what its check found, see `Description`. `owner` is the folder of a file that lasts as
    long as what runs it.
    """

    net: nn.Module | None = None
    card: ModelCard | None = None
    file: Path | None = None
    form: Form = None
    batch_size: int | None = None
    error_std: float | None = None
    owner: Any = None

    def in_batches(self, given: Sequence[Tensor], call: Callable[[dict[str, Array]], Sequence[Array]]) -> Any:
        """Run a file on (B, 3, H, W) and what is given beside it, whatever the file's batch size.

        `call` takes a batch by the inputs' names and gives a flat list.
        """
        size = self.batch_size or len(given[0])
        found: list[list[Array]] = []
        for parts in zip(*(torch.split(x, size) for x in given), strict=True):
            count = len(parts[0])
            filled = (torch.cat((x, x.new_zeros(size - count, *x.shape[1:]))) if count < size else x for x in parts)
            arrays = (x.cpu().contiguous().numpy() for x in filled)
            found.append([output[:count] for output in call(dict(zip(INPUTS, arrays, strict=False)))])
        whole = [np.concatenate(outputs) for outputs in zip(*found, strict=True)]  # a copy: runtimes reuse their memory
        return unflatten([torch.from_numpy(output).to(given[0].device) for output in whole], self.form)

    def size_mb(self) -> float | None:
        """What the files take, in MB of 2^20 bytes."""
        return None if self.file is None else sum(f.stat().st_size for f in parts_of(self.file)) / 2**20


def parts_of(file: Path) -> list[Path]:
    """A network's files: the one that is named, and what holds its weights where that is another."""
    beside = file.with_suffix(".bin") if file.suffix == ".xml" else Path(f"{file}.data")
    return [file, beside] if beside.is_file() else [file]


@dataclass(frozen=True)
class Description:
    """What a row says of what ran a network: `precision` and `instruction_set` are those that served, not those asked
    for; `file_mb` is the size of what was run, None where nothing lies in a file; `error_std` the largest difference to
    PyTorch that the check of a file found, in standard deviations of the output."""

    runtime: str
    runtime_version: str
    device: str
    precision: str
    instruction_set: str | None = None
    file_mb: float | None = None
    error_std: float | None = None

    def row(self) -> dict[str, Any]:
        """Its fields but the device, which rows have anyway."""
        return {k: v for k, v in asdict(self).items() if k != "device"}


class Prepared(Protocol):
    """A network ready to run. It runs inside `with`, which holds what must hold around its forwards."""

    def __enter__(self) -> Prepared: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def __call__(self, x: Tensor) -> Any:
        """(B, 3, H, W) float32 to what PyTorch's network gives: a tensor, a tuple or a dict of them.

        For a network that also knows its box, as CLIFF does, numbers (B, 3) follow.
        """

    def describe(self) -> Description: ...


class FromFile(Prepared):
    """A network's file, ready to run in batches of the size that it was made for.

    `beside` says how many numbers it takes beside pictures, see `INPUTS`; where they are not given they are zeros, as
    in PyTorch's network.
    """

    network: Network
    beside: Sequence[int] = ()

    def __enter__(self) -> Prepared:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __call__(self, x: Tensor, *more: Tensor) -> Any:
        zeros = (x.new_zeros(len(x), numbers) for numbers in self.beside[len(more) :])
        return self.network.in_batches((x, *more, *zeros), self.run)

    def run(self, given: dict[str, Array]) -> Sequence[Array]:
        """One batch by the inputs' names, `images` (B, 3, H, W), to the file's outputs, in their order."""
        raise NotImplementedError


@dataclass(frozen=True)
class Runtime:
    """One way to run networks.

    Attributes:
        name: on the command line and in rows.
        package: the distribution that does the work, whose version rows name; or several of which one does it.
        prepare: makes a network ready. It is given a file where `write` makes one, else PyTorch's network.
        devices, dtypes: what it can be asked for; no devices are all those of PyTorch.
        install: what to install where the package is missing, if that is not the package itself.
        packages: further distributions that writing a file needs.
        suffix: of the files that it reads; the first of a file's own suffixes where it has several parts.
        write: from a traced network to files of that form (see `export`); None if it reads none.
        quantise: from such a file to one in int8, by batches of what it is given and layers to leave out; None if it
            cannot.
        layers: the layers of such a file that can be in int8, in the order in which they run.
        serves: why it cannot serve a device and precision on this machine, None where it can.
    """

    name: str
    package: tuple[str, ...]
    prepare: Callable[[Network, Setting], Prepared]
    devices: tuple[str, ...] = ("cpu",)
    dtypes: tuple[str, ...] = ("fp32",)
    install: str = ""
    packages: tuple[str, ...] = ()
    suffix: str = ""
    write: Callable[[Graph, Path, str], None] | None = None
    quantise: Callable[[Path, Path, list[dict[str, Array]], list[str]], None] | None = None
    layers: Callable[[Path], list[str]] | None = None
    serves: Callable[[str, str], str | None] | None = None

    @property
    def version(self) -> str:
        """Package and version, for rows."""
        name = next(filter(None, (_installed(p) for p in self.package)))
        return f"{name} {metadata.version(name)}"

    def missing(self) -> str | None:
        """The distribution that is not installed, if one is."""
        lacking = [p for p in self.packages if _installed(p) is None]
        return self.package[0] if not any(map(_installed, self.package)) else next(iter(lacking), None)

    def check(self, what: str, device: str, dtype: str) -> str:
        """The device to use: as asked for, or for `auto` the first that the runtime has here.

        Args:
            what: whose network, for messages.

        Raises:
            UsageError: it is not installed, or has no such device or precision.
        """
        if (package := self.missing()) is not None:
            how = self.install or f"pip install {package}"
            raise UsageError(f"{what} runs on {self.name}, which needs {package}, and that is not installed: {how}")
        if dtype not in self.dtypes:
            raise UsageError(f"{what} runs on {self.name} in {', '.join(self.dtypes)}, not in {dtype}")
        if device == "auto":
            device = self.devices[0] if self.devices else str(pick_device("auto"))
        if self.devices and device.partition(":")[0] not in self.devices:
            raise UsageError(f"{what} runs on {self.name} on {', '.join(self.devices)}, not on {device}")
        if not self.devices or device.partition(":")[0] in _PYTORCHS:
            pick_device(device)
        if self.serves is not None and (reason := self.serves(device, dtype)) is not None:
            raise UsageError(f"{what}: {reason}")
        return device


def _installed(package: str) -> str | None:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
    return package


@cache
def known_runtimes() -> dict[str, Runtime]:
    """The runtimes of this folder by name, PyTorch's first."""
    found: list[Runtime] = sorted(
        find_records(str(__package__), "RUNTIMES"), key=lambda r: (r.name != "pytorch", r.name)
    )
    return {runtime.name: runtime for runtime in found}


def find_runtime(name: str) -> Runtime:
    """The runtime of that name, or the one at an import path such as `mypkg.runtime:RUNTIME`.

    Raises:
        UsageError: there is no runtime of that name, or the path leads to no Runtime.
    """
    known = known_runtimes()
    if ":" in name:
        return find_part(name, "runtime", Runtime, known)
    suffix = f".{name.lower()}"  # the form of its files, such as onnx
    found = known.get(name.lower()) or next((r for r in known.values() if r.write and r.suffix == suffix), None)
    if found is None:
        raise unknown_name("runtime", name, known, "or a file that `hmrbench export` wrote, or an import path")
    return found


# The instructions that libraries use for a precision, best first, by the names of /proc/cpuinfo.
_SERVING = {
    "fp32": ("avx512f", "avx2", "asimd"),
    "bf16": ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "asimd"),
    "fp16": ("amx_fp16", "avx512_fp16", "asimdhp", "avx512f", "avx2", "asimd"),
    "int8": ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp", "avx512f", "avx2", "asimd"),
}


def instruction_set(device: str, dtype: str) -> str | None:
    """The best instructions of this processor that libraries use for a precision; of a GPU its compute capability."""
    if device.startswith("cuda"):
        return "sm_{}{}".format(*torch.cuda.get_device_capability(torch.device(device)))
    if device != "cpu":
        return None
    flags = environment.cpu_flags()
    return next((name for name in _SERVING.get(dtype, _SERVING["fp32"]) if name in flags), None)
