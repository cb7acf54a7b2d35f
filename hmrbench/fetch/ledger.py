"""Which sha256 a source's file must have: stated by the source, or recorded in the cache on first use."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from hmrbench.errors import DataError
from hmrbench.fetch.download import NO_ROOM, NoRoomError
from hmrbench.files import read_json
from hmrbench.schema import Source


def cache_dir() -> Path:
    """HMRBENCH_CACHE, else `hmrbench` in the XDG cache folder."""
    if own := os.environ.get("HMRBENCH_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hmrbench"


def ledger_path() -> Path:
    """The JSON file of the values that were recorded on first use: one object, source key to sha256."""
    return cache_dir() / "sha256.json"


def key(source: Source) -> str:
    """What tells this source's file from all others, in the ledger and in the cache."""
    manual = f" {source.page or ''} {source.file or ''}" if source.url == "manual:" else ""
    return source.url + manual + (f" {source.member}" if source.member else "")


def expected(source: Source) -> str:
    """The whole sha256, its known beginning, or '' if nothing is known yet."""
    stated = (source.sha256 or "").lower()
    recorded = "" if len(stated) == 64 else _read().get(key(source), "")
    return recorded if recorded.startswith(stated) else stated


def fault(source: Source, path: Path, digest: str) -> str:
    """Why the file with this sha256 is not the source's: another hash, or a web page; '' if it is."""
    wanted = expected(source)
    name = path.name.removesuffix(".part")
    if not digest.startswith(wanted):
        stated = (source.sha256 or "").lower() == wanted
        whence = "" if stated else f" (recorded on first use in {ledger_path()}; remove it there to trust the new one)"
        return f"{name} from {source.url} has sha256 {digest}, expected {wanted}{whence}"
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if not wanted and head.startswith((b"<!doctype html", b"<html")) and not name.endswith((".html", ".htm")):
        return f"{name} from {source.url} is a web page"
    return ""


def record(source: Source, path: Path, digest: str) -> None:
    """Demand this sha256 of the source from now on, if it was not wholly known.

    Raises:
        DataError: another process has just recorded another one, or the ledger cannot be written.
    """
    if len(expected(source)) == 64:
        return
    ledger = ledger_path()
    with writing(ledger):
        ledger.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{ledger}.lock"):
            if reason := fault(source, path, digest):
                raise DataError(reason)
            part = ledger.with_name(ledger.name + ".part")
            with part.open("w", encoding="utf-8") as file:
                json.dump({**_read(), key(source): digest}, file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, ledger)


def _read() -> dict[str, str]:
    path = ledger_path()
    if not os.path.lexists(path):
        return {}
    try:
        values = read_json(path, "the ledger")
    except DataError as error:
        raise DataError(f"{error}; mend or remove it") from error
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise DataError(f"{path} is not an object of sha256 values; mend or remove it")
    return values


@contextmanager
def writing(part: Path) -> Iterator[None]:
    """Turn the disk's refusals into a DataError that names the file, NoRoomError where it is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise DataError(f"cannot write {part}: {error.strerror or error}") from error
        kept = f"; {part.stat().st_size} bytes are kept in {part} for the next run" if part.is_file() else ""
        name = part.name.removesuffix(".part")
        raise NoRoomError(f"no room left on the disk for {name} in {part.parent}{kept}") from error
