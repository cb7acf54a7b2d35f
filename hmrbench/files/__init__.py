"""Files that are written whole or not at all, JSON without NaN, and reading with clear messages."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import math
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from hmrbench.errors import DataError
from hmrbench.records import Array

MAX_ARRAYS = 1 << 30  # bytes of arrays that one file may hold


def file_sha256(path: Path) -> str:
    """The file's sha256 in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def in_place_of(path: Path) -> Iterator[Path]:
    """A new file beside `path` to write to, which takes its place when all went well, and is gone when not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, content: bytes) -> None:
    """Write a whole file or none: to a temporary file beside it, then move."""
    with in_place_of(path) as part:
        part.write_bytes(content)


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> Path:
    """Write an `.npz`, whole or not at all; returns its path."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())
    return path


def read_arrays(path: Path, what: str, max_bytes: int = MAX_ARRAYS) -> dict[str, Array]:
    """The arrays of an `.npz`, but those of Python objects, which are never unpickled; `what` names it in messages.

    Raises:
        DataError: the file is missing, no npz, or holds more than `max_bytes`, which is known before they are read.
    """
    try:
        return arrays_of(path, str(path), what, max_bytes)
    except FileNotFoundError:
        raise DataError(f"{path}: {what} missing") from None
    except OSError as e:
        raise DataError(f"{path}: {what} is not readable ({e.strerror or e})") from e


def arrays_of(file: Path | IO[bytes], source: str, what: str, max_bytes: int = MAX_ARRAYS) -> dict[str, Array]:
    """As `read_arrays`, of a file that is open already; `source` names it.

    Raises:
        DataError: no npz, or beyond the bound.
        OSError: the system cannot read it.
    """
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            left = max_bytes
            for info in archive.infolist():
                key = info.filename.removesuffix(".npy")
                with archive.open(info) as member:
                    array = _read_npy(member, info.file_size, left, key)
                if array is not None:
                    left -= array.nbytes
                    arrays[key] = array
    except DataError as e:
        raise DataError(f"{source}: {e}") from None
    except (
        ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, MemoryError, SyntaxError, zipfile.BadZipFile,
        zlib.error, lzma.LZMAError,
    ) as e:  # fmt: skip
        kind = describe_content(_head(file))
        said = f"truncated perhaps ({e})" if kind in (None, "a zip archive") else f"it is {kind}"
        raise DataError(f"{source}: {what} is not a readable npz, {said}") from e
    return arrays


def read_npy(path: Path, what: str) -> Array:
    """The array of an `.npy` file.

    Raises:
        DataError: the file cannot be read, holds objects, or declares more than it holds.
    """
    try:
        with path.open("rb") as file:
            array = _read_npy(file, path.stat().st_size, MAX_ARRAYS, what)
    except DataError as e:
        raise DataError(f"{path}: {e}") from None
    except (OSError, ValueError, EOFError, RuntimeError, MemoryError, SyntaxError) as e:
        raise DataError(f"{path}: {what} is not a readable npy, truncated perhaps ({e})") from e
    if array is None:
        raise DataError(f"{path}: {what} holds Python objects, which are not read")
    return array


def _read_npy(file: Any, size: int, room: int, name: str) -> Array | None:
    """An array in NumPy's format whose header declares what the file's `size` holds; None if of Python objects."""
    version = np.lib.format.read_magic(file)
    if version not in _NPY_HEADERS:
        raise ValueError(f"{name}: version {version} of the format")
    try:
        shape, fortran, dtype = _NPY_HEADERS[version](file)
    except Exception as e:  # NumPy's parser of the header fails in every way there is, tokenize's errors among them
        raise ValueError(f"{name}: its header cannot be read ({type(e).__name__}: {str(e)[:100]})") from e
    if dtype.hasobject:
        return None
    declared, held = dtype.itemsize * math.prod(shape), size - file.tell()
    if declared > held or min(shape, default=0) < 0:
        raise DataError(
            f"{name} declares {shape} {dtype}, {declared} bytes, and holds {held}; the file is cut or hostile"
        )
    if declared > room:
        raise DataError(
            f"{name} declares {shape} {dtype}: more than the {MAX_ARRAYS >> 20} MiB that are read of a file"
        )
    count = math.prod(shape)
    array = np.empty(count, dtype)
    view = memoryview(array.view(np.uint8).data) if declared else memoryview(b"")
    at = 0
    while at < declared:
        got = file.readinto(view[at:])
        if not got:
            raise EOFError(f"{name} ends too early")
        at += got
    result: Array = array.reshape(shape, order="F" if fortran else "C")
    return result


_NPY_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _head(file: Path | IO[bytes]) -> bytes:
    """How a file begins."""
    try:
        if isinstance(file, Path):
            with file.open("rb") as opened:
                return opened.read(512)
        file.seek(0)
        return file.read(512)
    except (OSError, ValueError):
        return b""


def describe_content(head: bytes) -> str | None:
    """What a file is that was given in the place of another, by its first bytes; None if that is not known."""
    start = head.lstrip()[:256].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head")) or (start[:1] == b"<" and b"<html" in start):
        return "a web page (HTML): the download was of a page that asks or warns, as Google Drive's, not of the file"
    if start.startswith(b"<?xml"):
        return "an XML text, perhaps a server's error"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself: fetch it with 'git lfs pull'"
    if len(head) > 16 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100 << 20:
        return "a safetensors file"
    if (
        head[:1] == b"\x08"
        and head[1:2]
        and head[1] < 32
        and (b"pytorch" in head or b"onnx" in head.lower() or head[2:3] == b"\x12")
    ):
        return "an ONNX model"
    signs = (
        (b"\x89HDF", "an HDF5 file"), (b"\x93NUMPY", "a NumPy array (.npy)"), (b"PK", "a zip archive"),
        (b"\x1f\x8b", "a gzip archive"), (b"%PDF", "a PDF"), (b"\x89PNG", "a PNG picture"), (b"\xff\xd8\xff", "a JPEG"),
        (b"GGUF", "a GGUF file"), (b"7z\xbc\xaf", "a 7z archive"), (b"Rar!", "a RAR archive"),
    )  # fmt: skip
    kind = next((kind for sign, kind in signs if head.startswith(sign)), None)
    if kind is None and not head:
        return "an empty file"
    if kind is None and start[:1] in (b"{", b"["):
        return "a JSON text"
    return kind


def read_json(path: Path, what: str) -> Any:
    """What a JSON file holds; `what` names it in the message.

    Raises:
        DataError: the file is missing, or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: {what} missing") from None
    except RecursionError:
        raise DataError(f"{path}: {what} is JSON nested too deep") from None
    except (ValueError, OSError) as e:
        raise DataError(f"{path}: {what} is not readable JSON, truncated perhaps ({e})") from e


def to_json(value: Any) -> str:
    """JSON text of rows; a number that does not exist is null, never NaN."""
    return json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    write_atomic(path, (to_json(value) + "\n").encode())


def plain(value: Any) -> Any:
    """A value in JSON's own types."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
