"""What is trusted: stated hashes, those recorded on first use, and no web pages."""

from __future__ import annotations

import errno
import json
import random
from pathlib import Path

import pytest
from bad_server import BadServer, sha256

from hmrbench.errors import DataError
from hmrbench.fetch.download import Http, NoRoomError
from hmrbench.fetch.fetch import fetch, ledger_path
from hmrbench.fetch.ledger import writing
from hmrbench.schema import Source

pytest_plugins = ["bad_server"]
pytestmark = pytest.mark.usefixtures("own_cache")

DATA = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
HTTP = Http(tries=2, stall_s=5, sleep=lambda seconds: None)


def test_trust_on_first_use(server: BadServer, tmp_path: Path) -> None:
    source = Source(url=server.serve("/net.pth", DATA))
    first = fetch([source], http=HTTP)
    assert json.loads(ledger_path().read_text()) == {source.url: sha256(DATA)}
    first.path.unlink()
    server.serve("/net.pth", OTHER)
    with pytest.raises(DataError, match="recorded on first use") as caught:
        fetch([source], http=HTTP)
    assert sha256(DATA) in str(caught.value)
    assert sha256(OTHER) in str(caught.value)
    assert [p.name for p in first.path.parent.iterdir()] == ["net.pth.lock"]
    ledger_path().unlink()
    assert fetch([source], http=HTTP).sha256 == sha256(OTHER)


def test_prefix_then_the_whole(server: BadServer) -> None:
    source = Source(url=server.serve("/net-62d7a712.pth", DATA), sha256=sha256(DATA)[:8])
    assert fetch([source], http=HTTP).sha256 == sha256(DATA)
    assert json.loads(ledger_path().read_text()) == {source.url: sha256(DATA)}
    wrong = source.model_copy(update={"sha256": "62d7a712"})
    with pytest.raises(DataError, match=f"sha256 {sha256(DATA)}, expected 62d7a712$"):
        fetch([wrong], http=HTTP)


@pytest.mark.parametrize("known", [True, False])
def test_tampered_on_disk_is_brought_anew(known: bool, server: BadServer, tmp_path: Path) -> None:
    source = Source(url=server.serve("/net.pth", DATA), sha256=sha256(DATA) if known else None)
    for into, remains in ((None, ["net.pth", "net.pth.lock"]), (tmp_path, None)):
        path = fetch([source], into, http=HTTP).path
        path.write_bytes(OTHER)
        assert fetch([source], into, http=HTTP).path.read_bytes() == DATA
        if remains:
            assert sorted(p.name for p in path.parent.iterdir()) == remains
    assert (tmp_path / "net.pth.bad").read_bytes() == OTHER  # outside the cache nothing is deleted


def test_a_web_page_is_no_file(server: BadServer) -> None:
    url = server.serve("/net.pth", b"\n<!DOCTYPE html><html>please log in</html>")
    with pytest.raises(DataError, match="is a web page"):
        fetch([Source(url=url)], http=HTTP)
    assert not ledger_path().exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}'])
def test_broken_ledger(text: str, server: BadServer) -> None:
    ledger_path().parent.mkdir()
    ledger_path().write_text(text)
    with pytest.raises(DataError, match=str(ledger_path())):
        fetch([Source(url=server.serve("/net.pth", DATA))], http=HTTP)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_full_disk_is_named_as_such(code: int, tmp_path: Path) -> None:
    part = tmp_path / "net.pth.part"
    with pytest.raises(NoRoomError, match=r"no room left on the disk for net\.pth in .*\d$"), writing(part):
        raise OSError(code, "full")
    part.write_bytes(b"12345")
    with (
        pytest.raises(NoRoomError, match=r"; 5 bytes are kept in .*net\.pth\.part for the next run"),
        writing(part),
    ):
        raise OSError(code, "full")


def test_other_refusals_name_the_file(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"cannot write .*/net\.part: Permission denied"),
        writing(tmp_path / "net.part"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied")
