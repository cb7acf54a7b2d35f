"""Archives that are well, broken or hostile, all made here."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hmrbench.errors import DataError
from hmrbench.fetch import archives
from hmrbench.fetch.archives import CorruptArchiveError, extract

FILES = {"set/a.txt": b"alpha" * 1000, "set/deep/b.bin": os.urandom(200_000), "read me.md": b""}
KINDS = ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.tar.bz2"]


def write(path: Path, files: dict[str, bytes]) -> Path:
    """An archive of the kind that its name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    mode = {".tar": "w", ".gz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}[path.suffix]
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def tar_of(path: Path, **fields: object) -> Path:
    """A tar whose single member has these TarInfo fields."""
    info = tarfile.TarInfo("evil")
    for name, value in fields.items():
        setattr(info, name, value)
    with tarfile.open(path, "w") as archive:
        archive.addfile(info)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(archive: Path, root: Path, match: str, **how: object) -> DataError:
    """Extraction fails with this message and leaves nothing at all behind."""
    before = set(root.rglob("*"))
    with pytest.raises(DataError, match=match) as caught:
        extract(archive, root / "out", **how)  # type: ignore[arg-type]
    assert set(root.rglob("*")) == before
    assert str(archive) in str(caught.value)
    return caught.value


@pytest.mark.parametrize("kind", KINDS)
def test_whole_archive(kind: str, tmp_path: Path) -> None:
    paths = extract(write(tmp_path / kind, FILES), tmp_path / "x" / "out")
    assert paths == [tmp_path / "x" / "out" / name for name in FILES]
    assert tree(tmp_path / "x" / "out") == FILES
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["out"]


@pytest.mark.parametrize("wanted", [lambda name: name.endswith(".bin"), ["*/b.*", "none"], "set/deep/*"])
@pytest.mark.parametrize("kind", KINDS[:3])
def test_only_wanted(kind: str, wanted: Callable[[str], bool] | list[str] | str, tmp_path: Path) -> None:
    extract(write(tmp_path / kind, FILES), tmp_path / "out", wanted)
    assert tree(tmp_path / "out") == {"set/deep/b.bin": FILES["set/deep/b.bin"]}
    assert extract(tmp_path / kind, tmp_path / "out", ["absent"]) == []


def test_kind_is_told_by_content_and_dot_slash_is_dropped(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.tar.gz", {"./set/a": b"1"}).rename(tmp_path / "1ygw57X")
    assert extract(plain, tmp_path / "out", ["set/a"]) == [tmp_path / "out" / "set" / "a"]


def test_a_stored_zip_inside_a_tar_does_not_make_it_a_zip(tmp_path: Path) -> None:
    inner = write(tmp_path / "in.zip", {"x": b"inner"}).read_bytes()
    extract(write(tmp_path / "a.tar", {"in.zip": inner}), tmp_path / "out")
    assert tree(tmp_path / "out") == {"in.zip": inner}


def test_existing_folder_keeps_its_other_files(tmp_path: Path) -> None:
    for name, text in {"mine": "kept", "set/a.txt": "old"}.items():
        (tmp_path / "out" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "out" / name).write_text(text)
    extract(write(tmp_path / "a.zip", FILES), tmp_path / "out")
    assert tree(tmp_path / "out") == {**FILES, "mine": b"kept"}


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("kind", KINDS)
def test_truncated(kind: str, keep: float, tmp_path: Path) -> None:
    archive = write(tmp_path / kind, FILES)
    end = archive.stat().st_size - (10_240 if kind == "a.tar" else 0)  # less what may be padding
    archive.write_bytes(archive.read_bytes()[: int(end * keep)])
    for wanted in (None, ["set/a.txt"]):
        assert isinstance(refused(archive, tmp_path, "truncated or corrupt", wanted=wanted), CorruptArchiveError)


def test_tar_cut_between_two_members(tmp_path: Path) -> None:
    archive = write(tmp_path / "a.tar", FILES)
    archive.write_bytes(archive.read_bytes()[: 512 + 5120])  # the first header and its data
    refused(archive, tmp_path, "no end-of-archive mark")


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz", "a.tar.xz", "a.tar.bz2"])
def test_flipped_byte(kind: str, tmp_path: Path) -> None:
    archive = write(tmp_path / kind, FILES)
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 255
    archive.write_bytes(data)
    refused(archive, tmp_path, "corrupt")


@pytest.mark.parametrize("data", [b"", b"no archive at all", b"PK\3\4 but no zip", bytes(100)])
def test_no_archive(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    refused(tmp_path / "a.zip", tmp_path, "corrupt")


def test_missing_archive(tmp_path: Path) -> None:
    refused(tmp_path / "a.zip", tmp_path, "archive missing")


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/evil", "//evil", "..", "C:evil", "c:\\evil", "..\\evil", "\\evil"]
)
@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_no_escape(kind: str, name: str, tmp_path: Path) -> None:
    refused(write(tmp_path / kind, {"good": b"1", name: b"bad"}), tmp_path, "outside the target")


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.FIFOTYPE, "device"),
    ],
)
def test_tar_links_and_devices(kind: bytes, word: str, tmp_path: Path) -> None:
    archive = tar_of(tmp_path / "a.tar", type=kind, linkname="/etc/passwd")
    refused(archive, tmp_path, word)
    assert extract(archive, tmp_path / "other", ["good"]) == []


@pytest.mark.parametrize(("mode", "word"), [(stat.S_IFLNK, "link"), (stat.S_IFIFO, "device")])
def test_zip_links_and_devices(mode: int, word: str, tmp_path: Path) -> None:
    info = zipfile.ZipInfo("evil")
    info.create_system, info.external_attr = 3, (mode | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    refused(tmp_path / "a.zip", tmp_path, word)


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_limits(kind: str, tmp_path: Path) -> None:
    bomb = write(tmp_path / kind, {"zeros": bytes(5_000_000), "more": b"12345"})
    assert bomb.stat().st_size < 50_000
    refused(bomb, tmp_path, "more than 4999999 bytes", max_bytes=4_999_999)
    refused(bomb, tmp_path, "more than 5000004 bytes", max_bytes=5_000_004)
    refused(bomb, tmp_path, "more than 1 files", max_files=1)
    assert len(extract(bomb, tmp_path / "out", max_bytes=5_000_005, max_files=2)) == 2
    assert len(extract(bomb, tmp_path / "few", ["more"], max_bytes=5, max_files=1)) == 1


def test_zip_that_states_a_smaller_size(tmp_path: Path) -> None:
    """What is written counts, not what the directory says."""
    archive = write(tmp_path / "a.zip", {"zeros": bytes(1_000_000)})
    archive.write_bytes(archive.read_bytes().replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    refused(archive, tmp_path, "corrupt", max_bytes=100)


def test_written_bytes_count_whatever_is_stated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lie = ("liar", "", 1, lambda: io.BytesIO(bytes(1000)))
    monkeypatch.setattr(archives, "_members", lambda _: iter([lie]))
    refused(write(tmp_path / "a.zip", FILES), tmp_path, "more than 999 bytes", max_bytes=999)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_twice(kind: str, tmp_path: Path) -> None:
    archive = write(tmp_path / kind, {"a": b"1", "./a": b"2"})
    refused(archive, tmp_path, "twice")


def test_encrypted_zip(tmp_path: Path) -> None:
    archive = write(tmp_path / "a.zip", {"a": b"12345"})
    data = bytearray(archive.read_bytes())
    data[6] |= 1  # the flag in the local header
    data[data.index(b"PK\1\2") + 8] |= 1  # and in the directory
    archive.write_bytes(data)
    refused(archive, tmp_path, "encrypted")


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives, "_publish", full)
    refused(write(tmp_path / "a.zip", FILES), tmp_path, "No space left on device")
