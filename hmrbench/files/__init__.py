"""Files that are written whole or not at all, JSON without NaN, and reading with clear messages."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import math
import os
import re
import stat
import sys
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
MAX_JSON = 1 << 30  # bytes of a JSON text; COCO's largest has a quarter of it
MAX_DIRECTORY = 8 << 20  # bytes of a zip archive's list of members, which is kept in memory at ten times that
_HEAD = 512  # bytes by which a kind of file is known


@contextmanager
def opened(path: Path, what: str) -> Iterator[IO[bytes]]:
    """An ordinary file, to be read; `what` names it in messages, also in those of errors of the system inside.

    Raises:
        DataError: it is missing, cannot be read, or is a folder, a device, or a pipe, which would be waited for.
    """
    try:
        mode = _mode(path)
        if not stat.S_ISREG(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
            raise DataError(f"{path}: {what} is not readable (it is {kind})")
        with path.open("rb") as file:
            yield file
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path}: {what} missing") from None
    except OSError as e:
        raise DataError(f"{path}: {what} is not readable ({e.strerror or e})") from e


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except ValueError as e:  # no file system has such a name
        raise FileNotFoundError(str(e)) from e


_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}  # fmt: skip


def read_bytes(path: Path, what: str, max_bytes: int) -> bytes:
    """All of an ordinary file; see `opened`.

    Raises:
        DataError: it cannot be read, or has more than `max_bytes`.
    """
    with opened(path, what) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise DataError(f"{path}: {what} is not read: its {size:,} bytes are more than {max_bytes:,}")
        try:
            return file.read(size)
        except MemoryError:
            raise DataError(f"{path}: {what} is not read: its {size:,} bytes do not fit into memory") from None


def file_sha256(path: Path) -> str:
    """The file's sha256 in hex.

    Raises:
        DataError: it is missing, cannot be read, or is no regular file.
    """
    digest = hashlib.sha256()
    with opened(path, "file") as file:
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


def open_zip(file: IO[bytes], max_directory: int = MAX_DIRECTORY) -> zipfile.ZipFile:
    """A zip archive to read, whose list of members has at most `max_directory` bytes.

    Raises:
        DataError: it says that its list is longer.
        zipfile.BadZipFile: it is no zip archive, or damaged.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _ZIP_END))
    tail = file.read()
    without_comment = tail[-22:-18] == b"PK\5\6" and tail[-2:] == b"\0\0"
    at = len(tail) - 22 if without_comment else tail.rfind(b"PK\5\6")
    size = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    if at >= 20 and tail[at - 20 : at - 16] == b"PK\6\7":  # the sizes of a large archive are in a record before,
        size %= 0xFFFFFFFF  # where its locator points or, as Python reads it, directly before that
        for place in (int.from_bytes(tail[at - 12 : at - 4], "little"), end - len(tail) + at - 76):
            file.seek(max(0, min(end, place)))
            record = file.read(48)
            size = max(size, int.from_bytes(record[40:], "little") if record[:4] == b"PK\6\6" else 0)
    if size > max_directory:
        raise DataError(f"lists {size:,} bytes of members; more than {max_directory:,} are not read")
    file.seek(0)
    return zipfile.ZipFile(file)


_ZIP_END = 22 + 0xFFFF + 20  # bytes: the last record with the longest comment, and what a large archive has before it


def read_arrays(path: Path, what: str, max_bytes: int = MAX_ARRAYS) -> dict[str, Array]:
    """The arrays of an `.npz`, but those of Python objects, which are never unpickled; `what` names it in messages.

    Raises:
        DataError: the file is missing, no npz, or holds more than `max_bytes`, which is known before they are read.
    """
    with opened(path, what) as file:
        return arrays_of(file, str(path), what, max_bytes)


def arrays_of(file: IO[bytes], source: str, what: str, max_bytes: int = MAX_ARRAYS) -> dict[str, Array]:
    """As `read_arrays`, of a file that is open already; `source` names it.

    Raises:
        DataError: no npz, or beyond the bound.
        OSError: the system cannot read it.
    """
    arrays: dict[str, Array] = {}
    try:
        with open_zip(file) as archive:
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
        ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, MemoryError, OverflowError,
        zipfile.BadZipFile, zlib.error, lzma.LZMAError,
    ) as e:  # fmt: skip
        file.seek(0)
        kind = describe_content(file.read(_HEAD))
        said = f"truncated perhaps ({e})" if kind in (None, "a zip archive") else f"it is {kind}"
        raise DataError(f"{source}: {what} is not a readable npz, {said}") from e
    return arrays


def read_npy(path: Path, what: str) -> Array:
    """The array of an `.npy` file.

    Raises:
        DataError: the file cannot be read, holds objects, or declares more than it holds.
    """
    with opened(path, what) as file:
        try:
            array = _read_npy(file, os.fstat(file.fileno()).st_size, MAX_ARRAYS, what)
        except DataError as e:
            raise DataError(f"{path}: {e}") from None
        except (ValueError, EOFError, RuntimeError, MemoryError, OverflowError) as e:
            file.seek(0)
            kind = describe_content(file.read(_HEAD))
            said = f"it is {kind}" if kind not in (None, _NPY) else f"truncated perhaps ({e})"
            raise DataError(f"{path}: {what} is not a readable npy, {said}") from e
    if array is None:
        raise DataError(f"{path}: {what} holds Python objects, which are not read")
    return array


def _read_npy(file: Any, size: int, room: int, name: str) -> Array | None:
    """An array in NumPy's format whose header declares what the file's `size` holds; None if of Python objects."""
    version = np.lib.format.read_magic(file)
    if version not in _NPY_HEADERS:
        raise ValueError(f"{name}: version {version} of the format")
    read_header, size_bytes = _NPY_HEADERS[version]
    length = file.read(size_bytes)
    if (count := int.from_bytes(length, "little")) > _MAX_HEADER:
        raise DataError(f"{name} declares a header of {count:,} bytes; the file is damaged or hostile")
    try:
        shape, fortran, dtype = read_header(io.BytesIO(length + file.read(count)))
    except Exception as e:  # NumPy's parser of the header fails in every way there is, tokenize's errors among them
        raise ValueError(f"{name}: its header cannot be read ({type(e).__name__}: {str(e)[:100]})") from e
    if dtype.hasobject:
        return None
    declared, held = max(1, dtype.itemsize) * math.prod(shape), size - file.tell()
    if declared > held or min(shape, default=0) < 0:
        raise DataError(
            f"{name} declares {shape} {dtype}, {declared} bytes, and holds {held}; the file is cut or hostile"
        )
    if declared > room:
        raise DataError(
            f"{name} declares {shape} {dtype}, {declared:,} bytes: more than the {room:,} that are left to it"
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
    if dtype.kind == "U" and (array.view(dtype.byteorder.replace("|", "=") + "u4") > sys.maxunicode).any():
        raise DataError(f"{name} holds text whose characters are none of Unicode's; the file is damaged")
    result: Array = array.reshape(shape, order="F" if fortran else "C")
    return result


_NPY_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): (np.lib.format.read_array_header_1_0, 2),
    (2, 0): (np.lib.format.read_array_header_2_0, 4),
}
_MAX_HEADER = 10_000  # bytes; NumPy, which takes no longer one either, reads it whole before it says so


_NPY, _JSON = "a NumPy array (.npy)", "a JSON text"


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
        (b"\x89HDF", "an HDF5 file"), (b"\x93NUMPY", _NPY), (b"PK", "a zip archive"),
        (b"\x1f\x8b", "a gzip archive"), (b"%PDF", "a PDF"), (b"\x89PNG", "a PNG picture"), (b"\xff\xd8\xff", "a JPEG"),
        (b"GGUF", "a GGUF file"), (b"7z\xbc\xaf", "a 7z archive"), (b"Rar!", "a RAR archive"),
    )  # fmt: skip
    kind = next((kind for sign, kind in signs if head.startswith(sign)), None)
    if kind is None and not head:
        return "an empty file"
    if kind is None and start[:1] in (b"{", b"["):
        return _JSON
    return kind


def read_json(path: Path, what: str) -> Any:
    """What a JSON file holds; `what` names it in the message.

    Raises:
        DataError: the file is missing, no JSON, or larger than `MAX_JSON`; says what it is instead, if known.
    """
    content = read_bytes(path, what, MAX_JSON)
    try:
        return json.loads(content)
    except RecursionError:
        raise DataError(f"{path}: {what} is JSON nested too deep") from None
    except MemoryError:
        raise DataError(f"{path}: {what} holds more than fits into memory") from None
    except ValueError as e:
        kind = describe_content(content[:_HEAD])
        said = f"truncated perhaps ({e})" if kind in (None, _JSON) else f"it is {kind}"
        raise DataError(f"{path}: {what} is not readable JSON, {said}") from e


def to_json(value: Any) -> str:
    """JSON text of rows; a number that does not exist is null, never NaN, and half of a character an escape."""
    text = json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_SURROGATE = re.compile("[\ud800-\udfff]")  # which UTF-8 has not; JSON's escapes and odd names of files have


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all; half of a character becomes a question mark."""
    write_atomic(path, text.encode(errors="replace"))


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
