"""Where files end up: mirrors, cache, archives, by hand; other processes, interruptions, full disks."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bad_server import BadServer, sha256
from test_archives import write

from hmrbench.errors import DataError, UsageError
from hmrbench.fetch.download import Http
from hmrbench.fetch.fetch import cache_dir, fetch
from hmrbench.files import file_sha256
from hmrbench.schema import Source

pytest_plugins = ["bad_server"]
pytestmark = pytest.mark.usefixtures("own_cache")

DATA = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
HTTP = Http(tries=2, stall_s=5, sleep=lambda seconds: None)
ROOT = Path(__file__).parents[1]


def process(code: str) -> subprocess.Popen[str]:
    """A second Python that has `fetch`, `Source`, `HTTP`."""
    lines = (
        "from pathlib import Path",
        "from hmrbench.fetch.fetch import fetch, Http",
        "from hmrbench.schema import Source",
        "HTTP = Http(tries=2, sleep=lambda seconds: None)",
        code,
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "\n".join(lines)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


# --------------------------------------------------------------------------- cache, mirrors, spelling


def test_cache_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HMRBENCH_CACHE", "~/own")
    assert cache_dir() == Path.home() / "own"
    monkeypatch.delenv("HMRBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == Path("/xdg/hmrbench")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "hmrbench"


def test_a_good_copy_is_used_without_network(server: BadServer) -> None:
    good = Source(url=server.serve("/a/last.pth", DATA), sha256=sha256(DATA))
    other = Source(url=server.serve("/b/last.pth", OTHER), sha256=sha256(OTHER)[:8].upper())
    first = fetch([good], http=HTTP)
    assert first.path.name == "last.pth"
    assert first.path.is_relative_to(cache_dir())
    assert fetch([other], http=HTTP).path.read_bytes() == OTHER  # the same name, another file
    assert fetch([good]) == fetch([Source(url="http://127.0.0.1:9/x"), good], offline=True) == first
    assert len(server.log) == 2


def test_mirrors_in_order_each_failure_named(server: BadServer, tmp_path: Path) -> None:
    sources = [
        Source(url=server.serve("/a/net.pth", DATA, "status:404")),
        Source(url=server.serve("/b/net.pth", OTHER), sha256=sha256(DATA)),
        Source(url=f"file:{tmp_path}/absent.pth"),
        Source(url="manual:", file="net.pth", page="https://page.example", licence="CC-BY-NC-4.0"),
    ]
    with pytest.raises(DataError) as caught:
        fetch(sources, tmp_path / "into", http=HTTP)
    wanted = ["/a/net.pth: HTTP 404", f"/b/net.pth has sha256 {sha256(OTHER)}", "absent.pth: no such file"]
    wanted += ["https://page.example", "CC-BY-NC-4.0", str(tmp_path / "into" / "net.pth")]
    assert [part for part in wanted if part not in str(caught.value)] == []
    good = Source(url=server.serve("/c/net.pth", DATA), sha256=sha256(DATA))
    assert fetch([*sources, good], tmp_path / "into", http=HTTP).source == good


@pytest.mark.parametrize(
    "source",
    [
        Source(url="ftp://host/file"),
        Source(url="/plain/path"),
        Source(url="https://host"),
        Source(url="https://host/folder/.."),
        Source(url="https://host/x", file="../x"),
        Source(url="https://host/x", file="/x"),
        Source(url="https://host/x.zip", member="a/../../x"),
        Source(url="https://host/x", sha256="123"),
        Source(url="https://host/x", sha256="g" * 64),
        Source(url="https://[bad/x"),
        Source(url="https://host:port/x"),
        Source(url="https://host:99999/x"),
        Source(url="file://[bad/x"),
        Source(url="https://host/x", file="x" * 300),
        Source(url="https://host/x", file="a\0b"),
        Source(url="hf:owner/repo"),
        Source(url="pypi:name!member"),
        Source(url="pypi:name>=1!member"),
        Source(url="gdrive:"),
    ],
)
def test_misspelled(source: Source, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        fetch([source], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_sources() -> None:
    with pytest.raises(UsageError, match="no source"):
        fetch([])


@pytest.mark.parametrize("by", ["flag", "variable"])
@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9/net.pth", "gdrive:1k6kdJ", "pypi:name==1.0!a/net.pth", "hf:owner/repo/net.pth"],
)
def test_offline(url: str, by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    if by == "variable":
        monkeypatch.setenv("HMRBENCH_OFFLINE", "1")
    with pytest.raises(DataError, match=r"offline, and .*run once without --offline") as caught:
        fetch([Source(url=url)], tmp_path / "into", offline=by == "flag")
    assert url in str(caught.value)


# --------------------------------------------------------------------------- archives, by hand


@pytest.mark.parametrize("kind", ["a.zip", "a.tar.gz"])
def test_member(kind: str, server: BadServer, tmp_path: Path) -> None:
    archive = write(tmp_path / kind, {"top/x/net.ckpt": DATA, "top/y.npz": OTHER, "net.ckpt.txt": b"no"})
    url = server.serve("/" + kind, archive.read_bytes(), "truncate:1000", "ok")
    net = fetch([Source(url=url, member="x/net.ckpt", sha256=sha256(DATA))], http=HTTP)
    assert (net.path.name, net.sha256) == ("net.ckpt", sha256(DATA))
    assert fetch([Source(url=url, member="top/y.npz")], tmp_path / "in", offline=True).path.read_bytes() == OTHER
    assert (tmp_path / "in/top/y.npz").is_file()
    assert len(server.log) == 2  # both from one archive
    with pytest.raises(DataError, match="one file should be z"):
        fetch([Source(url=url, member="z")], http=HTTP)


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_bad_archive_is_not_kept(damage: str, server: BadServer, tmp_path: Path) -> None:
    good = write(tmp_path / "a.tar.gz", {"net.ckpt": DATA}).read_bytes()
    bad = good[:-2000] if damage == "cut" else write(tmp_path / "b.tar.gz", {"net.ckpt": OTHER}).read_bytes()
    source = Source(url=server.serve("/a.tar.gz", bad), member="net.ckpt", sha256=sha256(DATA))
    with pytest.raises(DataError, match="truncated" if damage == "cut" else "expected"):
        fetch([source], http=HTTP)
    server.serve("/a.tar.gz", good)
    assert fetch([source], http=HTTP).path.read_bytes() == DATA


def test_manual(tmp_path: Path) -> None:
    source = Source(url="manual:", file="net.zip", page="https://p.example", licence="SMPL", sha256=sha256(DATA))
    with pytest.raises(DataError) as caught:
        fetch([source])
    assert caught.value.exit_code == 3
    place = cache_dir() / "manual" / "net.zip"
    assert [
        word for word in ("https://p.example", "net.zip", str(place), "SMPL") if word not in str(caught.value)
    ] == []
    place.write_bytes(OTHER)
    with pytest.raises(DataError, match="moved to") as caught:
        fetch([source])
    assert sha256(OTHER) in str(caught.value)
    assert sha256(DATA) in str(caught.value)
    assert not place.exists()
    place.write_bytes(DATA)
    assert fetch([source], offline=True).path == place
    unnamed = Source(url="manual:", page="https://p.example")
    with pytest.raises(DataError, match=r"https://p\.example"):
        fetch([unnamed])


def test_manual_archive_with_a_member(tmp_path: Path) -> None:
    source = Source(url="manual:", file="one drive.zip", member="net.ckpt", page="https://p.example")
    with pytest.raises(DataError, match=r"manual/one drive\.zip"):
        fetch([source], tmp_path)
    write(cache_dir() / "manual" / "one drive.zip", {"net.ckpt": DATA})
    assert fetch([source], tmp_path).path == tmp_path / "net.ckpt"


# --------------------------------------------------------------------------- other processes, interruptions


def test_two_processes_bring_it_once(server: BadServer, tmp_path: Path) -> None:
    url = server.serve("/net.pth", DATA, "slow")
    code = f"print(fetch([Source(url={url!r})], Path({str(tmp_path)!r}), http=HTTP).sha256)"
    both = [process(code), process(code)]
    assert [p.communicate(timeout=30)[0] for p in both] == [sha256(DATA) + "\n"] * 2
    assert len(server.log) == 1
    assert (tmp_path / "net.pth").read_bytes() == DATA


def test_killed_then_resumed(server: BadServer, tmp_path: Path) -> None:
    url = server.serve("/net.pth", DATA, "hang:200000", "ok")
    part = tmp_path / "net.pth.part"
    victim = process(f"fetch([Source(url={url!r})], Path({str(tmp_path)!r}), http=HTTP)")
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size >= 100_000) and time.monotonic() < deadline:
        time.sleep(0.02)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    kept = part.stat().st_size
    assert not (tmp_path / "net.pth").exists()
    assert fetch([Source(url=url)], tmp_path, http=HTTP).path.read_bytes() == DATA
    assert server.ranges() == [None, f"bytes={kept}-"]


def test_interrupted_then_resumed(server: BadServer, tmp_path: Path) -> None:
    def interrupt(done: int, total: int | None, name: str) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    source = Source(url=server.serve("/net.pth", DATA, "slow", "ok"))
    with pytest.raises(KeyboardInterrupt):
        fetch([source], tmp_path, progress=interrupt, http=HTTP)
    assert not (tmp_path / "net.pth").exists()
    assert fetch([source], tmp_path, http=HTTP).sha256 == sha256(DATA)
    assert str(server.ranges()[1]).startswith("bytes=1")


# --------------------------------------------------------------------------- full disks


def test_no_room_in_the_middle(server: BadServer, tmp_path: Path) -> None:
    """The kernel refuses every byte after the 200,000th: the beginning is kept, said so, and used later."""
    url = server.serve("/net.pth", DATA)
    code = f"""import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    fetch([Source(url={url!r})] * 2, Path({str(tmp_path)!r}), http=HTTP)
except Exception as error:
    print(type(error).__name__, error)"""
    said = process(code).communicate(timeout=30)[0]
    assert said.startswith("NoRoomError no room left on the disk for net.pth"), said
    assert f"bytes are kept in {tmp_path / 'net.pth.part'}" in said
    assert not (tmp_path / "net.pth").exists()
    assert fetch([Source(url=url)], tmp_path, http=HTTP).sha256 == sha256(DATA)
    assert server.ranges() == [None, "bytes=200000-"]


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA)
    assert file_sha256(tmp_path / "x") == sha256(DATA)
