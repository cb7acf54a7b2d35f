"""Brings the parts of a data set to where its spec expects them: fetched, or out of what a person got.

What is there already is left alone, only what is missing is taken, and files appear whole or not at all, so
that an interrupted run is simply run again. What an archive is recognised by stands in the spec's `parts`.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock

from hmrbench.data import missing_images, named_images
from hmrbench.errors import DataError, HmrbenchError, UsageError
from hmrbench.fetch import archives, fetch, ledger
from hmrbench.fetch.archives import CorruptArchiveError
from hmrbench.schema import DatasetSpec, Part

Say = Callable[[str], None]  # what is being done, for a person who waits

_PIECE = re.compile(r"\.(?!gz|xz|7z)([a-z]{2}|\d{2,3})$")  # how `split` and its like end the names of pieces


@dataclass(frozen=True)
class PartReport:
    """What became of one part of a data set.

    `status` is `present` (nothing was to do), `taken`, `partial` (some files are still missing), `by hand` (a
    person has to get it) or `failed`; `files` of its `total` are there now. `error` is what failed.
    """

    part: str
    status: str
    files: int
    total: int | None
    source: str = ""
    detail: str = ""
    error: HmrbenchError | None = None

    @property
    def whole(self) -> bool:
        """Whether all its files are there."""
        return self.status in ("present", "taken")


def fetch_dataset(
    spec: DatasetSpec,
    data_root: Path | None,
    *,
    offline: bool = False,
    progress: fetch.FetchProgress | None = None,
    http: fetch.Http | None = None,
    say: Say = lambda text: None,
) -> list[PartReport]:
    """Fetch what of a data set can be fetched; parts that need a person are reported `by hand`.

    Raises:
        UsageError: the spec does not say where its parts are.
        DataError: no data root.
    """

    def get(name: str, part: Part, folder: Path, missing: Mapping[str, str]) -> str:
        sources = [s for s in part.sources if s.url != "manual:"]
        if name != "images":
            target = next(iter(missing))
            return fetch.fetch(sources, folder, name=target, offline=offline, progress=progress, http=http).source.url
        found = fetch.fetch(sources, record=False, offline=offline, progress=progress, http=http)
        ours = found.path.is_relative_to(fetch.cache_dir())
        say(f"extracting {len(missing):,} pictures of {found.path.name}")
        try:
            archives.extract(found.path, folder, _chooser(missing))
        except CorruptArchiveError:
            if ours:
                found.path.unlink(missing_ok=True)
            raise
        ledger.record(found.source, found.path, found.sha256)
        if ours:  # it was only the wrapping
            found.path.unlink(missing_ok=True)
        return found.source.url

    def by_hand(part: Part) -> bool:
        return all(s.url == "manual:" for s in part.sources)

    return _each_part(spec, data_root, get, by_hand)


def prepare_dataset(
    spec: DatasetSpec, given: Path, data_root: Path | None, *, say: Say = lambda text: None
) -> list[PartReport]:
    """Take what of a data set is missing out of the archives and folders that a person got.

    Files that lie unpacked are linked where the file system allows that, else copied.

    Args:
        given: the folder that holds the archives or their contents, or one archive.

    Raises:
        UsageError: the spec does not say what its parts are handed out as.
        DataError: no data root, or nothing at `given`.
    """
    if not given.exists():
        raise DataError(f"{given}: no such folder or archive")

    def get(name: str, part: Part, folder: Path, missing: Mapping[str, str]) -> str:
        left, used = dict(missing), []
        for base in _folders(given, part):
            found = _unpacked(base, left)
            for target, source in found.items():
                _bring(source, folder / target)
                del left[target]
            if found:
                used.append(str(base))
        for pieces in _archives(given, part):
            if not left:
                break
            more = f" and {len(pieces) - 1} more pieces" if len(pieces) > 1 else ""
            say(f"looking for {len(left):,} files of {name} in {pieces[0].name}{more}")
            taken = archives.extract(pieces, folder, _chooser(left))
            for path in taken:
                left.pop(path.relative_to(folder).as_posix())
            if taken:
                used.append(f"{pieces[0]}{more}")
        if len(left) == len(missing):
            looked = ", ".join([*part.archives, "the files themselves"])
            raise DataError(f"{given} holds none of {len(left):,} files of {name}; looked for: {looked}")
        return ", ".join(used)

    return _each_part(spec, data_root, get, lambda part: False)


def target_folder(spec: DatasetSpec, data_root: Path | None) -> Path:
    """Where a data set's files belong: as `data.find_folder`, or the folder that is to be made.

    Raises:
        DataError: no root was given.
    """
    if data_root is None:
        raise DataError(f"{spec.name}: where shall the data go? Give --data-root DIR or set HMRBENCH_DATA")
    inner = data_root / spec.folder
    root_is_it = not inner.is_dir() and ((data_root / spec.annotations).exists() or (data_root / spec.images).is_dir())
    return data_root if root_is_it else inner


# --------------------------------------------------------------------------- parts


def _each_part(
    spec: DatasetSpec,
    data_root: Path | None,
    get: Callable[[str, Part, Path, Mapping[str, str]], str],
    by_hand: Callable[[Part], bool],
) -> list[PartReport]:
    """What becomes of each part: `get` brings the missing files and says from where."""
    if spec.embedded:
        raise UsageError(f"{spec.name} comes with hmrbench: there is nothing to get")
    known = ("annotations", *(name for name, file in spec.boxes.items() if file), "images")
    if "annotations" not in spec.parts or not set(spec.parts) <= set(known):
        raise UsageError(f"{spec.name}: its `parts` must be annotations and some of {', '.join(known[1:])}")
    folder = target_folder(spec, data_root)
    reports: list[PartReport] = []
    with _alone(folder):
        for name in known:
            if name not in spec.parts:
                continue
            part = spec.parts[name]
            if name == "images" and not (folder / spec.annotations).is_file():
                status = "by hand" if by_hand(part) else "failed"
                reports.append(PartReport(name, status, 0, None, detail="which ones, the annotations say"))
                continue
            reports.append(_one_part(spec, name, part, folder, get, by_hand))
    return reports


def _one_part(
    spec: DatasetSpec,
    name: str,
    part: Part,
    folder: Path,
    get: Callable[[str, Part, Path, Mapping[str, str]], str],
    by_hand: Callable[[Part], bool],
) -> PartReport:
    try:
        files = _files(spec, name, folder)
    except HmrbenchError as e:
        return PartReport(name, "failed", 0, None, detail=str(e), error=e)
    missing = _missing(folder, files)
    there, total = len(files) - len(missing), len(files)
    if not missing:
        return PartReport(name, "present", there, total)
    if by_hand(part):
        return PartReport(name, "by hand", there, total)
    try:
        source = get(name, part, folder, missing)
    except HmrbenchError as e:
        return PartReport(name, "failed", total - len(_missing(folder, files)), total, detail=str(e), error=e)
    left = _missing(folder, files)
    detail = f"{next(iter(left))} and {len(left) - 1:,} more are still missing" if left else ""
    return PartReport(name, "partial" if left else "taken", total - len(left), total, source, detail)


def _files(spec: DatasetSpec, name: str, folder: Path) -> dict[str, str]:
    """The files of a part: where each belongs below the data set's folder -> its name in an archive."""
    if name == "images":
        names = dict.fromkeys(named_images(spec, folder))
        return {PurePosixPath(spec.images, n).as_posix(): n for n in names}
    file = spec.annotations if name == "annotations" else str(spec.boxes[name])
    return {file: PurePosixPath(file).name}


def _missing(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    absent = set(missing_images({folder / target for target in files}))
    return {target: called for target, called in files.items() if folder / target in absent}


def _chooser(missing: Mapping[str, str]) -> Callable[[str], str | None]:
    """Where a member of an archive belongs, told by the end of its path; None if it is not missing."""
    target_of = {called: target for target, called in missing.items()}

    def choose(member: str) -> str | None:
        parts = member.split("/")
        ends = ("/".join(parts[i:]) for i in range(len(parts)))
        return next((target_of[end] for end in ends if end in target_of), None)

    return choose


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time in a data set's folder; clears what a killed one left there."""
    with ledger.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".hmrbench.lock"):
        for left in folder.glob(f"{archives.STAGING}*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        yield


# --------------------------------------------------------------------------- what a person got


def _folders(given: Path, part: Part) -> list[Path]:
    return [given / inner for inner in part.folders if (given / inner).is_dir()] if given.is_dir() else []


def _unpacked(base: Path, missing: Mapping[str, str]) -> dict[str, Path]:
    """The missing files that lie below `base`, under their names in an archive or those of the layout."""
    found: dict[str, Path] = {}
    for names in (
        {called: target for target, called in missing.items()},
        {target: target for target in missing},
    ):
        absent = set(missing_images({base / name for name in names}))
        found |= {target: base / name for name, target in names.items() if base / name not in absent}
    return found


def _archives(given: Path, part: Part) -> list[Sequence[Path]]:
    """The archives of a part that are at `given`; the pieces of a split one together, in their order."""
    found: list[Sequence[Path]] = []
    for pattern in part.archives:
        paths = (
            sorted(given.glob(pattern)) if given.is_dir() else [given] if fnmatch.fnmatch(given.name, pattern) else []
        )
        pieces = [path for path in paths if _PIECE.search(path.name)]
        found += [[path] for path in paths if path not in pieces and not path.is_dir()]
        if pieces:
            _check_pieces(pieces)
            found.append(pieces)
    return found


def _check_pieces(pieces: Sequence[Path]) -> None:
    """Refuse pieces between which one is missing: a tar has no checksum that would tell."""
    ends = [path.name.rpartition(".")[2] for path in pieces]
    places = [int(e) if e.isdigit() else 26 * (ord(e[0]) - 97) + ord(e[1]) - 97 for e in ends]
    first = 1 if ends[0].isdigit() and places[0] == 1 else 0
    if places != list(range(first, first + len(places))):
        lost = next(i for i, place in enumerate(places) if place != first + i)
        raise DataError(f"{pieces[lost]}: the piece before it is missing")


def _bring(source: Path, target: Path) -> None:
    """Link a file to its place, or copy it where that cannot be done."""
    part = target.with_name(f".{target.name}.part")
    with ledger.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        try:
            os.link(source.resolve(), part)
        except OSError:
            shutil.copyfile(source, part)
        os.replace(part, target)


def instructions(spec: DatasetSpec, reports: Collection[PartReport]) -> str:
    """What a person has to get for the parts that nothing else brings, and what to type then."""
    lines = []
    for report in reports:
        part = spec.parts[report.part]
        if report.status == "failed" and part.archives:
            lines.append(f"{report.part} may also be got by hand: {', '.join(part.archives)}")
        for source in part.sources if report.status == "by hand" else ():
            lines.append(f"{report.part} of {spec.name} have to be got by hand:")
            lines.append(f"  page: {source.page or 'not known'}")
            lines.append(f"  file: {source.file or 'see the page'}")
            lines.append(f"  licence: {source.licence or spec.licence}")
            lines += [f"  note: {source.note}"] if source.note else []
    if lines:
        lines.append(f"Put them into one folder; then: hmrbench datasets prepare {spec.name} --from FOLDER")
    return "\n".join(lines)
