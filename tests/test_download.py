"""One address on a server that misbehaves: the right file in the end, or none and a reason."""

from __future__ import annotations

import random
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from bad_server import BadServer, sha256

from hmrbench.errors import DataError
from hmrbench.fetch import download as download_module
from hmrbench.fetch.download import Http, NoRoomError, next_hop
from hmrbench.fetch.fetch import fetch
from hmrbench.schema import Source

pytest_plugins = ["bad_server"]
pytestmark = pytest.mark.usefixtures("own_cache")

DATA = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)


@pytest.fixture
def naps() -> list[float]:
    """The waits that were asked for and not slept."""
    return []


@pytest.fixture
def http(naps: list[float]) -> Http:
    return Http(tries=3, stall_s=0.3, sleep=naps.append, max_bytes=10_000_000)


def get(url: str, folder: Path, http: Http, data: bytes | None = DATA, **how: Any) -> Path:
    """Fetch it and see that exactly these bytes, and no remains, are in the folder."""
    source = Source(url=url, file="net.pth", sha256=sha256(data) if data is not None else None)
    fetched = fetch([source], folder, http=http, **how)
    assert fetched.path == folder / "net.pth"
    assert fetched.path.read_bytes() == (DATA if data is None else data)
    assert fetched.sha256 == sha256(fetched.path.read_bytes())
    assert {path.name for path in folder.iterdir()} == {"net.pth", "net.pth.lock"}
    return fetched.path


def fails(url: str, folder: Path, http: Http, match: str, data: bytes | None = DATA) -> str:
    """Fetching fails with this reason, names the address, and leaves nothing under the file's name."""
    with pytest.raises(DataError, match=match) as caught:
        get(url, folder, http, data)
    assert not (folder / "net.pth").exists()
    assert url in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        (["ok"], [None]),
        (["truncate:100000", "ok"], [None, "bytes=100000-"]),
        (["truncate:100000", "truncate:50000", "ok"], [None, "bytes=100000-", "bytes=150000-"]),
        (["truncate:0", "ok"], [None, None]),
        (["close", "ok"], [None, None]),
        (["hang:100000", "ok"], [None, "bytes=100000-"]),
        (["hang:0", "ok"], [None, None]),
        (["drip", "ok"], None),
        (["slow"], [None]),
        (["lie-long", "ok"], [None, "bytes=300000-", None]),  # 416: nothing after the end, so once more
        (["status:503", "status:429", "ok"], [None] * 3),
        (["status:500", "status:502", "ok"], [None] * 3),
        (["truncate:100000", "no-range"], [None, "bytes=100000-"]),
        (["truncate:100000", "status:416", "ok"], [None, "bytes=100000-", None]),
        (["truncate:100000", "wrong-range", "ok"], [None, "bytes=100000-", None]),
        (["truncate:100000", "short-range", "ok"], [None, "bytes=100000-", "bytes=200000-"]),
        (["truncate:100000", "status:503", "ok"], [None, "bytes=100000-", "bytes=100000-"]),
        (["no-length"], [None]),
        (["chunked"], [None]),
        (["chunked-cut", "ok"], [None, "bytes=150000-"]),
        (["no-length-cut", "ok"], [None, None]),
    ],
)
def test_right_in_the_end(
    script: list[str], ranges: list[str | None] | None, server: BadServer, tmp_path: Path, http: Http
) -> None:
    url = server.serve("/net.pth", DATA, *script)
    if script[0] == "no-length-cut":  # looks whole; only its sha256 tells
        fails(url, tmp_path / "into", http, "expected")
    get(url, tmp_path / "into", http)
    if ranges is not None:
        assert server.ranges() == ranges


def test_reset(server: BadServer, tmp_path: Path, http: Http) -> None:
    get(server.serve("/net.pth", DATA, "reset:100000", "ok"), tmp_path / "into", http)
    assert len(server.log) == 2


@pytest.mark.parametrize(
    ("script", "match", "requests"),
    [
        ("status:404", "HTTP 404", 1),
        ("status:403", "HTTP 403", 1),
        ("status:503", r"HTTP 503 \(3 attempts\)", 3),
        ("close", "3 attempts", 3),
        ("truncate:0", "3 attempts", 3),
        ("hang:0", "[Rr]ead timed out.* 3 attempts|3 attempts", 3),
        ("drip", "too slow.*3 attempts.*kept in", 3),
        ("tamper", f"has sha256 [0-9a-f]{{64}}, expected {sha256(DATA)}", 1),
        ("lie-short", f"expected {sha256(DATA)}", 1),
        ("chunked-cut", "3 attempts", 3),
        ("endless", "does not end: more than 10000000 bytes", 1),
        ("gzip", "sent as gzip", 1),
        ("redirect:/net.pth", "more than 10 redirects", 11),
        ("redirect:ftp://127.0.0.1/net.pth", "redirected from http to ftp", 1),
        ("redirect:file:///etc/passwd", "redirected from http to file", 1),
        ("redirect:http://[bad", "not an address.*Invalid IPv6 URL", 1),
        ("redirect:http://[::1", "not an address.*Invalid IPv6 URL", 1),
        ("redirect:http:///net.pth", "which is no address .no host", 1),
        ("redirect:http://", "which is no address .no host", 1),
        ("redirect:http://host:99999/x", "which is no address", 1),
        ("redirect:http://host:port/x", "which is no address", 1),
        (f"redirect:http://{'a' * 64}.example/x", "which is no address", 1),
        ("redirect:http://a..b/x", "which is no address", 1),
    ],
)
def test_wrong_to_the_end(
    script: str, match: str, requests: int, server: BadServer, tmp_path: Path, http: Http
) -> None:
    fails(server.serve("/net.pth", DATA, script), tmp_path / "into", http, match)
    assert len(server.log) == requests


def test_lie_long_to_the_end(server: BadServer, tmp_path: Path, http: Http) -> None:
    fails(server.serve("/net.pth", DATA, "lie-long"), tmp_path / "into", http, "3 attempts")


def test_nobody_listens(tmp_path: Path, http: Http, naps: list[float]) -> None:
    fails("http://127.0.0.1:9/net.pth", tmp_path / "into", http, r"refused \(3 attempts\)")
    assert len(naps) == 2


def test_no_length_and_no_sha256(server: BadServer, tmp_path: Path, http: Http) -> None:
    fails(server.serve("/net.pth", DATA, "no-length"), tmp_path / "into", http, "a cut file", data=None)
    get(server.serve("/net.pth", DATA, "chunked"), tmp_path / "into", http, data=None)


def test_unknown_sha256_needs_the_whole_length(server: BadServer, tmp_path: Path, http: Http) -> None:
    url = server.serve("/net.pth", DATA, "truncate:100000", "ok")
    get(url, tmp_path / "into", http, data=None)
    assert server.ranges() == [None, "bytes=100000-"]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("step", ["ok", "new-range"])
def test_the_file_changes_between(step: str, known: bool, server: BadServer, tmp_path: Path, http: Http) -> None:
    """The second half of another file is never put behind the first, does the server heed If-Range or not."""
    url = server.serve("/net.pth", OTHER, "truncate:100000")
    fails(url, tmp_path / "into", Http(tries=1), "100000 bytes kept in")
    server.serve("/net.pth", DATA, step, "ok", etag='"2"')
    get(url, tmp_path / "into", http, data=DATA if known else None)


def test_bad_first_half_is_not_kept_for_ever(server: BadServer, tmp_path: Path, http: Http) -> None:
    """The etag is the same, the bytes are not: a resumed file that fails its check is brought once more."""
    url = server.serve("/net.pth", OTHER, "truncate:100000")
    fails(url, tmp_path / "into", Http(tries=1), "kept in")
    server.serve("/net.pth", DATA)
    get(url, tmp_path / "into", http)
    assert server.ranges() == [None, "bytes=100000-", None]


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_without_a_strong_validator_all_is_brought_anew(
    etag: str | None, server: BadServer, tmp_path: Path, http: Http
) -> None:
    get(server.serve("/net.pth", DATA, "truncate:100000", "ok", etag=etag), tmp_path / "into", http)
    assert server.ranges() == [None, None]


def test_redirects_are_followed(server: BadServer, tmp_path: Path, http: Http) -> None:
    server.serve("/c/net.pth", DATA, "truncate:100000", "ok")
    server.serve("/b", b"", f"redirect:{server.url}/c/net.pth")
    get(server.serve("/a", b"", "redirect:b"), tmp_path / "into", http)
    assert [path for _, path, _ in server.log] == ["/a", "/b", "/c/net.pth"] * 2


@pytest.mark.parametrize(
    ("url", "location", "result"),
    [
        ("https://a/x/y", "z", "https://a/x/z"),
        ("https://a/x", "https://b/y", "https://b/y"),
        ("http://a/x", "https://b/y", "https://b/y"),
        ("https://a/x", "//b/y", "https://b/y"),
        ("https://a/x", "http://a/x", None),
        ("https://a/x", "file:///etc/passwd", None),
        ("https://a/x", "data:,x", None),
    ],
)
def test_next_hop(url: str, location: str, result: str | None) -> None:
    if result:
        assert next_hop(url, location) == result
    else:
        with pytest.raises(DataError, match="redirected from https to"):
            next_hop(url, location)


def test_waits_double_with_jitter_and_heed_retry_after(server: BadServer, tmp_path: Path, naps: list[float]) -> None:
    late = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=40), usegmt=True)
    steps = ["status:503"] * 4 + [
        "status:429:7",
        "status:503:100000",
        f"status:503:{late}",
        "status:503:soon",
        "ok",
    ]
    url = server.serve("/net.pth", DATA, *steps)
    get(url, tmp_path / "into", Http(tries=9, sleep=naps.append))
    for nap, middle in zip(naps[:4] + naps[7:], [1, 2, 4, 8, 128], strict=True):
        assert min(120, middle * 0.5) <= nap <= min(120, middle * 1.5)
    assert naps[4:6] == [7, 120]
    assert 35 < naps[6] <= 40


def test_progress_and_percent_in_the_path(server: BadServer, tmp_path: Path, http: Http) -> None:
    calls: list[tuple[int, int | None, str]] = []
    url = server.serve("/releases/%23v2cls/net.pth", DATA, "truncate:100000", "ok")
    get(url, tmp_path / "into", http, progress=lambda *call: calls.append(call))
    assert calls[-1] == (300_000, 300_000, "net.pth")
    assert [done for done, _, _ in calls] == sorted(done for done, _, _ in calls)


def test_attempts_that_bring_much_do_not_count(
    server: BadServer, tmp_path: Path, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "_FRUITFUL", 50_000)
    get(server.serve("/net.pth", DATA, *["truncate:50000"] * 5, "ok"), tmp_path / "into", http)
    assert len(server.log) == 6


def test_proxy_of_the_environment(
    server: BadServer, tmp_path: Path, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    server.serve("http://files.example/net.pth", DATA)
    get("http://files.example/net.pth", tmp_path / "into", http)
    assert server.log[0][1] == "http://files.example/net.pth"


def test_no_room_by_the_stated_length(
    server: BadServer, tmp_path: Path, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 299_999}))
    url = server.serve("/net.pth", DATA)
    with pytest.raises(NoRoomError, match="300000 bytes needed, 299999 free"):
        get(url, tmp_path / "into", http)
    assert not (tmp_path / "into" / "net.pth").exists()
