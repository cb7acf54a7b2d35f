"""Reads the files of `torch.save` without torch's own unpickler: nothing in them is called, and only the tensors that
are asked for take memory.

A file is a zip with a pickle of everything but numbers, `NAME/data.pkl`, and one uncompressed member a storage,
`NAME/data/KEY`; or, as torch wrote before 1.6, five pickles and the storages one after the other. Read off
`torch/serialization.py` and `torch/_utils.py` (BSD-3-Clause).

Bounds: a storage is as long as its bytes in the file; compressed ones have `MAX_INFLATED` bytes in all; the pickle has
`MAX_PICKLE`.
"""

from __future__ import annotations

import math
import mmap
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from hmrbench.errors import DataError, WeightsError
from hmrbench.files import describe_content, open_zip, opened
from hmrbench.files.pickled_data import DATA_RULES, Plain, Rule
from hmrbench.files.unpickle import PERSISTENT, Kept, Name, unpickle

MAX_INFLATED = 512 << 20
MAX_PICKLE = 256 << 20
_MAX_EXPANDED = 1 << 20  # numbers of a tensor that repeats those of its storage

_MAGIC = 0x1950A86A20F9469CFC6C  # begins a file as of before torch 1.6
_DTYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16, "BFloat16": torch.bfloat16,
    "Long": torch.int64, "Int": torch.int32, "Short": torch.int16, "Char": torch.int8, "Byte": torch.uint8,
    "Bool": torch.bool, "ComplexFloat": torch.complex64, "ComplexDouble": torch.complex128, "Untyped": torch.uint8,
}  # fmt: skip
# Configuration and records that frameworks store beside the weights: they may be named, and nothing is made of them.
_BYSTANDERS = re.compile(
    r"^(torch|numpy|mmengine|mmcv|mmpose|yacs|omegaconf|argparse|pytorch_lightning|lightning|lightning_fabric|hydra"
    r"|typing|collections|pathlib|datetime|easydict|addict|ml_collections|fvcore)(\.|$)"
)


@dataclass(eq=False)
class Storage:
    """Numbers of one type in a row, read when they are first wanted."""

    dtype: torch.dtype
    count: int
    read: Callable[[int], bytearray]  # at most so many bytes
    loaded: Tensor | None = None

    def numbers(self) -> Tensor:
        """All of them, (count,).

        Raises:
            DataError: the file holds fewer.
        """
        if self.loaded is None:
            size = self.count * self.dtype.itemsize
            content = self.read(size)
            if len(content) < size:
                raise DataError(f"its storage declares {size} bytes and {len(content)} are there")
            self.loaded = torch.frombuffer(content, dtype=self.dtype) if size else torch.empty(0, dtype=self.dtype)
        return self.loaded


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: a view of a storage; sizes in numbers."""

    storage: Storage
    offset: Any
    size: Any
    stride: Any
    dtype: torch.dtype

    def tensor(self) -> Tensor:
        """The tensor itself.

        Raises:
            DataError: it cannot be one: sizes or strides are negative, or reach beyond the storage.
        """
        whole = all(
            isinstance(x, tuple) and all(type(n) is int and n >= 0 for n in x) for x in (self.size, self.stride)
        )
        if not whole or type(self.offset) is not int or self.offset < 0 or len(self.size) != len(self.stride):
            raise DataError(f"its size {str(self.size)[:80]} or stride {str(self.stride)[:80]} cannot be")
        count = math.prod(self.size)
        there = self.storage.count * self.storage.dtype.itemsize // self.dtype.itemsize
        last = self.offset + sum((n - 1) * s for n, s in zip(self.size, self.stride, strict=True)) if count else 0
        if (count and last >= there) or (count > there and count > _MAX_EXPANDED) or len(self.size) > 64:
            raise DataError(f"it declares {count} numbers, and its storage has {there}")
        numbers = self.storage.numbers().view(self.dtype)
        return torch.as_strided(numbers, self.size, self.stride, self.offset if count else 0)


@dataclass(frozen=True)
class Odd:
    """What stands in the place of a tensor and has no plain numbers: `kind` says what it is."""

    kind: str


@dataclass
class _Source:
    """Where the bytes of storages are found, by key."""

    find: Callable[[str, int], bytearray]
    storages: dict[str, Storage] = field(default_factory=dict)

    def storage(self, note: Kept, plain: Plain) -> Any:
        _, kind, key, _, count = note.args[:5]
        dtype = _DTYPES.get(kind.name[1].removesuffix("Storage")) if isinstance(kind, Kept) else None
        if dtype is None or not isinstance(key, str) or type(count) is not int or count < 0:
            return Odd("of a type that is not read")
        if key not in self.storages:
            self.storages[key] = Storage(dtype, count, lambda size: self.find(key, size))
        return self.storages[key]


def _tensor(note: Kept, plain: Plain) -> Any:
    storage, offset, size, stride = map(plain, note.args[:4])
    if not isinstance(storage, Storage):
        return storage if isinstance(storage, Odd) else Odd("without a storage")
    dtype = storage.dtype
    if note.name[1] == "_rebuild_tensor_v3":
        named = getattr(torch, note.args[6].name[1], None)
        if not isinstance(named, torch.dtype) or named.itemsize == 0:
            return Odd("of a type that is not read")
        dtype = named
    return Stored(storage, offset, size, stride, dtype)


def _first(note: Kept, plain: Plain) -> Any:
    return plain(note.args[0])


def _typed(note: Kept, plain: Plain) -> Any:
    """A tensor with its class: of those that only mark it, its content."""
    function, kind, args = note.args[:3]
    if kind.name not in {("torch", "Tensor"), ("torch.nn.parameter", "Parameter"), ("torch.nn.parameter", "Buffer")}:
        return Odd(f"of the class {'.'.join(kind.name)}")
    return plain(Kept(function.name, args))


def _odd(kind: str) -> Rule:
    return lambda note, plain: Odd(kind)


_RULES: dict[Name, Rule] = {
    **DATA_RULES,
    **{("torch._utils", f"_rebuild_tensor{version}"): _tensor for version in ("", "_v2", "_v3")},
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _typed,
    ("torch._utils", "_rebuild_sparse_tensor"): _odd("sparse"),
    ("torch._utils", "_rebuild_sparse_csr_tensor"): _odd("sparse"),
    ("torch._utils", "_rebuild_qtensor"): _odd("quantised"),
    ("torch._utils", "_rebuild_meta_tensor_no_storage"): _odd("without values, on the meta device"),
    ("torch._utils", "_rebuild_nested_tensor"): _odd("nested"),
    ("torch._utils", "_rebuild_wrapper_subclass"): _odd("of a class of its own"),
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): _odd("of another kind of device"),
    ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): _odd("of another kind of device"),
    ("torch", "Size"): lambda note, plain: tuple(plain(note.args[0])) if note.args else (),
}


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote: plain data in which tensors are `Stored`, or `Odd` where they have no plain numbers.

    Raises:
        WeightsError: no such file, truncated, or it names what is not data; says what it is instead, if known.
    """
    try:
        with opened(path, "checkpoint") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if data[:2] == b"PK":
                return _from_zip(path, file)
            if data[:1] not in (b"\x80", b"(", b"}", b"]", b"c", b"I", b"L"):
                kind = describe_content(data[:512])
                raise DataError(f"not a PyTorch checkpoint{f' but {kind}' if kind else ''}")
            return _from_stream(path, data)
    except DataError as e:
        raise WeightsError(f"{path}: {str(e).removeprefix(f'{path}: ')}") from None
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as e:
        raise WeightsError(f"{path}: not a readable PyTorch checkpoint ({str(e) or type(e).__name__})") from e


def _allowed(name: Any) -> bool:
    return name == PERSISTENT or name in _RULES or (isinstance(name[0], str) and bool(_BYSTANDERS.match(name[0])))


def _plain(source: _Source, content: Any) -> Any:
    plain = Plain({**_RULES, PERSISTENT: source.storage})
    if isinstance(content, Kept) and content.name not in _RULES:
        raise DataError(f"holds a whole {'.'.join(content.name)}, not weights: save its state_dict() instead")
    return plain(content)


def _from_zip(path: Path, source: IO[bytes]) -> Any:
    with open_zip(source) as file:
        members = {info.filename: info for info in file.infolist()}
        root = next(
            (name.removesuffix("data.pkl") for name in members if re.fullmatch(r"([^/]+/)?data\.pkl", name)), None
        )
        if root is None:
            kind = (
                "an npz of NumPy's" if all(n.endswith(".npy") for n in members) else "a zip archive of something else"
            )
            raise DataError(f"not a PyTorch checkpoint but {kind}")
        if f"{root}constants.pkl" in members:
            raise DataError("a TorchScript archive, not weights: save the state_dict() of the network instead")
        if members[f"{root}data.pkl"].file_size > MAX_PICKLE:
            raise DataError(f"refused: its pickle is longer than {MAX_PICKLE >> 20} MiB")
        order = file.read(f"{root}byteorder")[:8] if members.get(f"{root}byteorder") is not None else b"little"
        if order != b"little":
            raise DataError("written on a big-endian machine, which is not read")
        content, _ = unpickle(file.read(f"{root}data.pkl"), _allowed)
    room = {"stored": path.stat().st_size, "inflated": MAX_INFLATED}
    archive = zipfile.ZipFile(path)  # is read when tensors are asked for, and closed when none can be any more

    def find(key: str, size: int) -> bytearray:
        info = members.get(f"{root}data/{key}")
        if info is None:
            raise DataError(f"its storage {key} is not in the file")
        kind = "stored" if info.compress_type == zipfile.ZIP_STORED else "inflated"
        size = min(size, info.file_size)
        room[kind] -= size
        if room[kind] < 0:
            raise DataError(f"refused: storage {key} declares {info.file_size} bytes, compressed or more than the file")
        out = bytearray(size)
        with archive.open(info) as member:
            view, at = memoryview(out), 0
            while at < size and (count := member.readinto(view[at:])):  # type: ignore[attr-defined]
                at += count
        return out[:at] if at < size else out

    return _plain(_Source(find), content)


def _from_stream(path: Path, data: Any) -> Any:
    """A file as of before torch 1.6; or a bare pickle, which can hold no tensors, but be refused by name."""
    content, at = unpickle(data, _allowed)
    if content != _MAGIC:
        return _plain(_Source(lambda key, size: bytearray()), content)
    for _ in range(2):  # version of the format, sizes of the machine's numbers
        _, at = unpickle(data, _allowed, at)
    content, at = unpickle(data, _allowed, at)
    keys, at = unpickle(data, _allowed, at)
    places: dict[str, int] = {}

    def find(key: str, size: int) -> bytearray:
        if key not in places:
            raise DataError(f"its storage {key} is not in the file")
        with path.open("rb") as file:
            file.seek(places[key])
            return bytearray(file.read(min(size, path.stat().st_size)))

    source = _Source(find)
    made = _plain(source, content)
    for key in keys if isinstance(keys, list) else []:
        storage = source.storages.get(key)
        if storage is None or at + 8 > len(data):
            raise DataError("cannot be read, it is truncated: a storage is missing")
        places[key] = at + 8
        at += 8 + int.from_bytes(data[at : at + 8], "little") * storage.dtype.itemsize
    return made


def load_all(path: Path, content: Any) -> Any:
    """The same data with its tensors.

    Raises:
        WeightsError: a tensor is odd or damaged; names it by its place.
    """

    def load(x: Any, place: str) -> Any:
        if isinstance(x, Mapping):
            return {k: load(v, f"{place}.{k}" if place else str(k)) for k, v in x.items()}
        if isinstance(x, (list, tuple)):
            return type(x)(load(v, f"{place}.{i}") for i, v in enumerate(x))
        return as_tensor(path, place, x) if isinstance(x, (Stored, Odd)) else x

    return load(content, "")


def as_tensor(path: Path, key: str, x: Stored | Odd) -> Tensor:
    """A tensor of the file, by its key in messages.

    Raises:
        WeightsError: it is odd or damaged.
    """
    if isinstance(x, Odd):
        raise WeightsError(f"{path}: {key} is a tensor {x.kind}: weights are dense numbers")
    try:
        return x.tensor()
    except DataError as e:
        raise WeightsError(f"{path}: {key}: {e}") from None
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as e:
        reason = (str(e) or type(e).__name__).splitlines()[0]
        raise WeightsError(f"{path}: {key}: its storage cannot be read ({reason})") from e
