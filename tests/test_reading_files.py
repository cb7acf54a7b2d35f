"""The shared readers: what is no ordinary file is not waited for, nothing is read beyond a bound, text may be odd."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from hmrbench import checkpoints, files
from hmrbench.body.unpickle import read_pickle
from hmrbench.compare import baselines
from hmrbench.data.images import decode_image, read_image
from hmrbench.errors import DataError
from hmrbench.fetch.archives import MAX_TAR_HEADER, CorruptArchiveError, extract
from hmrbench.results import runs as results
from hmrbench.schema.reading import read_yaml
from hmrbench.training.prior import read_bodies

READERS: dict[str, Callable[[Path], Any]] = {
    "json": lambda path: files.read_json(path, "what"),
    "npz": lambda path: files.read_arrays(path, "what"),
    "npy": lambda path: files.read_npy(path, "what"),
    "sha256": files.file_sha256,
    "picture": read_image,
    "weights": checkpoints.read_state,
    "pickle": read_pickle,
    "run": results.load_run,
    "baseline": baselines.read_baseline,
    "bodies": read_bodies,
}


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_ordinary_file_is_called_what_it_is(reader: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "pipe", "it is a pipe"),
        (Path("/dev/zero"), "it is a device"),
        (tmp_path, "a folder"),
    ):
        with pytest.raises(DataError, match=said) as caught:
            READERS[reader](path)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("reader", READERS)
def test_what_is_missing_is_named(reader: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    for path in (tmp_path / "none", tmp_path / "link", Path(__file__) / "none", tmp_path / "a\0b"):
        if reader == "baseline" and path.name in ("none", "a\0b"):
            continue  # where there is none, it says how to write one
        with pytest.raises(DataError, match="missing") as caught:
            READERS[reader](path)
        assert str(caught.value).startswith(f"{path}: ")


def test_json_beyond_the_bound_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1, 2]")
    monkeypatch.setattr(files, "MAX_JSON", 6)
    assert files.read_json(path, "list") == [1, 2]
    monkeypatch.setattr(files, "MAX_JSON", 5)
    with pytest.raises(DataError, match=r"a\.json: list is not read: its 6 bytes are more than 5"):
        files.read_json(path, "list")


def test_memory_that_is_not_there_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    path = tmp_path / "a.json"
    path.write_text("[]")
    monkeypatch.setattr(files.json, "loads", full)
    with pytest.raises(DataError, match=r"a\.json: list holds more than fits into memory"):
        files.read_json(path, "list")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"<html><p>", "a web page"), (b"PK\3\4", "a zip archive"), (b"version https://git-lfs", "LFS pointer")],
)
def test_what_was_given_for_json_is_called_what_it_is(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        files.read_json(path, "list")


def test_half_a_character_is_an_escape_in_json_and_a_question_mark_in_text(tmp_path: Path) -> None:
    value = {"\ud800": ["a\udfffb", "ä"]}
    files.write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_bytes()) == value
    assert "ä" in (tmp_path / "a.json").read_text()
    files.write_text(tmp_path / "a.txt", "a\udfffbä")
    assert (tmp_path / "a.txt").read_text() == "a?bä"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b"(" * 100, "a header of 2,147,483,647 bytes"),
        (b"{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000000,)}", "cut or hostile"),
        (b"{'descr': '<f8', 'fortran_order': False, 'shape': (0, 10000000000000000000000)}", "not a readable np"),
    ],
)
def test_a_header_is_believed_within_bounds(header: bytes, said: str, tmp_path: Path) -> None:
    content = header if header[:1] == b"\x93" else b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=said):
        files.read_npy(tmp_path / "a.npy", "array")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("a.npy", content)
    with pytest.raises(DataError, match=said):
        files.read_arrays(tmp_path / "a.npz", "arrays")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_long_tar_header_is_not_read(kind: bytes, tmp_path: Path) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, MAX_TAR_HEADER + 1
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf() + bytes(4 << 20)))
    with pytest.raises(CorruptArchiveError, match=r"a header of 1,048,577 bytes"):
        extract(path, tmp_path / "out")


def test_a_cut_jpeg_is_refused_wherever_it_was() -> None:
    content = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))[1].tobytes()
    assert decode_image(content, "a.tar at 512").shape == (60, 80, 3)
    for wrong, said in (
        (content[:-2], "the JPEG is cut off"),
        (content[:900], "the JPEG is cut off"),
        (b"", "its header"),
    ):
        with pytest.raises(DataError, match=f"a.tar at 512: corrupt image, {said}"):
            decode_image(wrong, "a.tar at 512")


def test_a_yaml_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(Exception, match="no regular file"):
        read_yaml(tmp_path / "a.yaml")


def test_arrays_of_processes_are_read_without_pickles() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(3), b=np.array([{}], object))
    size = len(buffer.getvalue())
    assert list(files.arrays_of(buffer, "process 1", "what it sent", size)) == ["a"]
    with pytest.raises(DataError, match="process 1: a declares"):
        files.arrays_of(buffer, "process 1", "what it sent", 8)
    assert torch.from_numpy(files.arrays_of(buffer, "process 1", "what it sent", size)["a"]).tolist() == [0, 1, 2]


@pytest.mark.parametrize("count", [3, 70_000])  # more than 65,535 need the record of large archives
def test_a_zip_archive_with_too_long_a_list_is_refused_unread(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for i in range(count):
            archive.writestr(zipfile.ZipInfo(str(i)), b"")
        archive.comment = b"a comment"
    directory = sum(46 + len(str(i)) for i in range(count))
    with files.open_zip(whole, directory) as archive:
        assert len(archive.namelist()) == count
    monkeypatch.setattr(zipfile, "ZipFile", lambda *args: pytest.fail("was read"))
    with pytest.raises(DataError, match=f"lists {directory:,} bytes"):
        files.open_zip(whole, directory - 1)


def test_every_reader_of_zip_archives_bounds_their_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "many.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(9_000):
            archive.writestr(zipfile.ZipInfo("x" * 1_000 + str(i)), b"")
    for name in ("npz", "weights", "bodies"):
        with pytest.raises(DataError, match=r"many\.npz: .*lists 9,\d+,\d+ bytes"):
            READERS[name](path)


@pytest.mark.parametrize("order", "<>")
def test_text_that_is_not_unicode_is_refused(order: str, tmp_path: Path) -> None:
    text = np.array([["a", ""], ["\U0010ffff", "b"]], f"{order}U5")
    np.savez(tmp_path / "good.npz", text=text, empty=np.array([], "U1"), none=np.array(["", ""], "U0"))
    assert files.read_arrays(tmp_path / "good.npz", "what")["text"].tolist() == text.tolist()
    text.view(f"{order}u4")[0, 3] = 0x110000
    np.savez(tmp_path / "bad.npz", text=text)
    with pytest.raises(DataError, match=r"bad\.npz: text holds text whose characters are none of Unicode's"):
        files.read_arrays(tmp_path / "bad.npz", "what")
