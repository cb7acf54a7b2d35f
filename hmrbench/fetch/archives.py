"""Takes wanted files out of zip and tar archives without trusting the archive.

Nothing is written outside the target folder, no links or devices are made, sizes are counted as the bytes
are written, and the target gets whole files or none: they are extracted into a hidden folder, then moved.
Formats: the PKWARE zip note (APPNOTE) and POSIX ustar/pax, as read by Python's `zipfile` and `tarfile`.
"""

from __future__ import annotations

import bisect
import fnmatch
import io
import itertools
import lzma
import os
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, TYPE_CHECKING, Any

from hmrbench.errors import DataError
from hmrbench.files import open_zip, opened

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_BYTES = 64 << 30
MAX_FILES = 1_000_000
MAX_LISTED = 256 << 20  # bytes of a zip archive's list of its files
STAGING = ".extract."  # begins the name of the folder in which files wait until all are there

Wanted = Callable[[str], bool | str | None] | Sequence[str] | None
_Member = tuple[str, str, int, Callable[[], IO[bytes]]]  # name, what it is if not a plain file, size, opener

_CHUNK = 1 << 20
MAX_TAR_HEADER = 1 << 20  # bytes
_TAR_HEADERS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip


class CorruptArchiveError(DataError):
    """The archive itself is truncated, damaged or of no known kind: a new copy may be good."""


_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    UnicodeError,
    NotImplementedError,  # a zip compression that Python lacks
    RuntimeError,  # an encrypted zip member
    MemoryError,  # a header that declares more than there is
    OverflowError,
)


def extract(
    archive: Path | Sequence[Path],
    into: Path,
    wanted: Wanted = None,
    max_bytes: int = MAX_BYTES,
    max_files: int = MAX_FILES,
) -> list[Path]:
    """Extract the wanted plain files of a zip or tar(.gz, .xz, .bz2) archive, keeping their paths.

    The whole archive is read, so that a truncated one is noticed even where the wanted files come first. If
    `into` does not exist it appears complete in one rename; otherwise each file is moved into it, replacing
    one of that name, after all were extracted.

    Args:
        archive: the file, or the pieces of a split one in their order; its kind is told by its content.
        into: folder that receives the files.
        wanted: a function of the member's name, or fnmatch patterns of which one must match ('*' also matches
            '/'), or None for all. Names have forward slashes and no leading './'. The function says whether
            the member is wanted, or under which path.
        max_bytes: most bytes to write, whatever sizes the archive states.
        max_files: most files to write.

    Returns:
        The extracted files under `into`, in the archive's order; empty if none matched.

    Raises:
        DataError: the archive is missing, truncated, corrupt, encrypted or of no known kind; a wanted member
            leaves the folder, is a link or a device, is there twice, or exceeds a limit; the disk is full.
    """
    pieces = [archive] if isinstance(archive, Path) else list(archive)
    for piece in pieces:
        with opened(piece, "archive"):
            pass
    archive = pieces[0]  # the name of the whole
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        beside = into if into.is_dir() else into.parent  # `into` may be a disk of its own
        with tempfile.TemporaryDirectory(prefix=STAGING, suffix=".tmp", dir=beside) as folder:
            staging = Path(folder) / "files"
            staging.mkdir()
            names = _extract_to(pieces, staging, _predicate(wanted), max_bytes, max_files)
            _publish(staging, into, names)
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CorruptArchiveError(f"{archive}: truncated or corrupt archive: {reason}") from error
    except OSError as error:
        if error.errno is None:  # the decompressors' own complaints carry no errno
            raise CorruptArchiveError(f"{archive}: truncated or corrupt archive: {error}") from error
        raise DataError(f"{archive}: cannot extract into {into}: {error.strerror}") from error
    return [into / name for name in names]


def _predicate(wanted: Wanted) -> Callable[[str], bool | str | None]:
    if wanted is None:
        return lambda name: True
    if callable(wanted):
        return wanted
    patterns = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    return lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _extract_to(
    pieces: Sequence[Path],
    staging: Path,
    wanted: Callable[[str], bool | str | None],
    max_bytes: int,
    max_files: int,
) -> list[str]:
    """Write the wanted members below `staging`; their cleaned names there."""
    names: list[str] = []
    room = max_bytes
    archive = pieces[0]
    for raw, odd, size, opener in _members(pieces):
        name = _plain(raw)
        chosen = wanted(name)
        if not chosen:
            continue
        if odd:
            raise DataError(f"{archive}: '{raw}' is a {odd}; only plain files are extracted")
        _check_name(archive, raw)
        if isinstance(chosen, str):
            _check_name(archive, chosen)
            name = _plain(chosen)
        if len(names) >= max_files:
            raise DataError(f"{archive}: more than {max_files} files to extract")
        if size > room:
            raise DataError(f"{archive}: more than {max_bytes} bytes to extract")
        target = staging / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with opener() as source, target.open("xb") as out:
                while chunk := source.read(_CHUNK):
                    room -= len(chunk)
                    if room < 0:
                        raise DataError(f"{archive}: more than {max_bytes} bytes to extract")
                    out.write(chunk)
        except FileExistsError as error:
            raise DataError(f"{archive}: '{raw}' is there twice") from error
        if (written := target.stat().st_size) != size:
            raise CorruptArchiveError(f"{archive}: '{raw}' has {written} bytes instead of {size}")
        names.append(name)
    return names


def _plain(name: str) -> str:
    """A member's name without './' and doubled slashes; '..' and a leading '/' stay to be refused."""
    return str(PurePosixPath(name))


def _check_name(archive: Path, name: str) -> None:
    """Refuse names that leave the folder, on this or another system."""
    windows = PureWindowsPath(name)
    parts = {*PurePosixPath(name).parts, *windows.parts}
    absolute = name.startswith(("/", "\\")) or windows.drive
    if absolute or ".." in parts or "\0" in name or _plain(name) in ("", "."):
        raise DataError(f"{archive}: '{name}' would be written outside the target folder")


class _Joined(io.RawIOBase):
    """The pieces of a split file, read as the one file that they are."""

    def __init__(self, pieces: Sequence[Path]) -> None:
        self.files = [piece.open("rb") for piece in pieces]
        sizes = [piece.stat().st_size for piece in pieces]
        self.starts = [0, *itertools.accumulate(sizes)]  # the last is the end of all
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.starts[-1]}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: Any) -> int:
        if self.at >= self.starts[-1]:
            return 0
        piece = bisect.bisect_right(self.starts, self.at) - 1
        self.files[piece].seek(self.at - self.starts[piece])
        count = self.files[piece].readinto(buffer)
        self.at += count
        return count

    def close(self) -> None:
        for file in self.files:
            file.close()
        super().close()


def _members(pieces: Sequence[Path]) -> Iterator[_Member]:
    with io.BufferedReader(_Joined(pieces), _CHUNK) as whole:
        is_zip = whole.peek(4)[:4] in (b"PK\3\4", b"PK\5\6")
        yield from _zip_members(whole) if is_zip else _tar_members(whole)


def _zip_members(whole: IO[bytes]) -> Iterator[_Member]:
    with open_zip(whole, MAX_LISTED) as opened:
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind == stat.S_IFDIR:
                continue
            odd = "" if kind in (0, stat.S_IFREG) else "link" if kind == stat.S_IFLNK else "device"
            yield info.filename, odd, info.file_size, lambda info=info: opened.open(info)  # type: ignore[misc]


class StrictTarInfo(tarfile.TarInfo):
    """Ends at the end-of-archive block only: `tarfile` itself stops quietly at cut or junk headers.

    Long names and pax headers, which it reads whole, have `MAX_TAR_HEADER` bytes.
    """

    @classmethod
    def frombuf(cls, *args: Any) -> Self:
        """The header in a block; refuses one that declares what would be read without a bound."""
        found = super().frombuf(*args)
        if found.type in _TAR_HEADERS and found.size > MAX_TAR_HEADER:
            raise tarfile.ReadError(f"a header of {found.size:,} bytes, which is not read")
        return found

    @classmethod
    def fromtarfile(cls, source: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(source)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # not among the type stubs' names
                raise
            raise tarfile.ReadError(f"{error}, no end-of-archive mark") from error


def _tar_members(whole: IO[bytes]) -> Iterator[_Member]:
    with tarfile.open(fileobj=whole, mode="r:*", tarinfo=StrictTarInfo) as opened:
        for info in opened:
            if info.isdir():
                continue
            odd = (
                "sparse file"
                if info.issparse()
                else ""
                if info.isreg()
                else "link"
                if info.issym() or info.islnk()
                else "device"
            )
            yield info.name, odd, info.size, lambda info=info: opened.extractfile(info)  # type: ignore[misc]
        while opened.fileobj is not None and opened.fileobj.read(_CHUNK):
            pass  # to the end of the stream, where the compressor's checksum stands


def _publish(staging: Path, into: Path, names: Sequence[str]) -> None:
    if not into.exists():
        os.rename(staging, into)
        return
    for name in names:
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(staging / name, target)
