"""Files that are written whole or not at all, JSON without NaN, and reading with clear messages."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hmrbench.errors import DataError
from hmrbench.records import Array


def file_sha256(path: Path) -> str:
    """The file's sha256 in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomic(path: Path, content: bytes) -> None:
    """Write a whole file or none: to a temporary file beside it, then move."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(part, 0o644)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> Path:
    """Write an `.npz`, whole or not at all; returns its path."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue())
    return path


def read_arrays(path: Path, what: str) -> dict[str, Array]:
    """The arrays of an `.npz`, but those of Python objects, which are never unpickled; `what` names it in messages.

    Raises:
        DataError: the file is missing, or no npz.
    """
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            for key in file.files:
                try:
                    arrays[key] = file[key]
                except ValueError as e:
                    if "allow_pickle=False" not in str(e):
                        raise
    except FileNotFoundError:
        raise DataError(f"{path}: {what} missing") from None
    except (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as e:
        raise DataError(f"{path}: {what} is not a readable npz, truncated perhaps ({e})") from e
    return arrays


def read_json(path: Path, what: str) -> Any:
    """What a JSON file holds; `what` names it in the message.

    Raises:
        DataError: the file is missing, or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: {what} missing") from None
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
