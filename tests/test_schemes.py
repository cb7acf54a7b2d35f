"""Sources that are no plain addresses, on stand-ins: Hugging Face, Drive, wheels, local files."""

from __future__ import annotations

import random
import sys
import types
import zipfile
from pathlib import Path

import huggingface_hub
import pytest
from bad_server import BadServer, sha256

from hmrbench.errors import DataError, UsageError
from hmrbench.fetch import schemes
from hmrbench.fetch.fetch import fetch, ledger_path
from hmrbench.schema import Source

pytest_plugins = ["bad_server"]
pytestmark = pytest.mark.usefixtures("own_cache")

DATA = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)


# --------------------------------------------------------------------------- Hugging Face


@pytest.fixture
def hub(server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BadServer:
    """A server that answers like a hub, with an empty cache of its own."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for revision, data, commit in (("main", DATA, "a" * 40), ("v1.0", OTHER, "b" * 40)):
        path = f"/owner/net.small/resolve/{revision}/sub/model.safetensors"
        server.serve(path, data, etag=f'"{sha256(data)}"', headers={"X-Repo-Commit": commit})
    return server


HUB = "hf:owner/net.small/sub/model.safetensors"


def test_hub(hub: BadServer, tmp_path: Path) -> None:
    source = Source(url=HUB, sha256=sha256(DATA))
    first = fetch([source])
    assert first.path.read_bytes() == DATA
    assert first.path.is_relative_to(tmp_path / "hub")  # the hub's own cache, used where it is
    requests = len(hub.log)
    assert fetch([source]) == fetch([source], offline=True) == first
    assert fetch([source], tmp_path / "into").path == tmp_path / "into" / "model.safetensors"
    assert len(hub.log) == requests
    assert fetch([Source(url=HUB + "@v1.0")]).path.read_bytes() == OTHER


def test_hub_with_another_file(hub: BadServer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"has sha256 {sha256(DATA)}, expected {sha256(OTHER)}"):
        fetch([Source(url=HUB, sha256=sha256(OTHER))])
    assert fetch([Source(url=HUB)]).sha256 == sha256(DATA)
    assert sha256(DATA) in ledger_path().read_text()


def test_damaged_hub_cache_is_brought_anew(hub: BadServer) -> None:
    source = Source(url=HUB, sha256=sha256(DATA))
    fetch([source]).path.resolve().write_bytes(OTHER)
    with pytest.raises(DataError, match=r"offline, and .* is damaged in the Hugging Face cache"):
        fetch([source], offline=True)
    assert fetch([source]).path.read_bytes() == DATA


def test_hub_without_the_file(hub: BadServer) -> None:
    with pytest.raises(DataError, match=r"hf:owner/net\.small/absent: "):
        fetch([Source(url="hf:owner/net.small/absent")])


def test_hub_with_a_name_that_cannot_be(hub: BadServer) -> None:
    with pytest.raises(DataError, match="hf:owner/-net/x: Repo id"):
        fetch([Source(url="hf:owner/-net/x")])


def test_hub_offline_variable(hub: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    getattr(huggingface_hub.utils, "reset_sessions", lambda: None)()  # older ones ask when they open a session
    with pytest.raises(DataError, match=HUB):
        fetch([Source(url=HUB)])
    assert hub.log == []


# --------------------------------------------------------------------------- Google Drive


def test_drive_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gdown", None)
    with pytest.raises(UsageError, match=r"pip install 'hmrbench\[gdrive\]'"):
        fetch([Source(url="gdrive:1k6kdJ")])


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (DATA, None),
        (OTHER, "expected"),
        (None, "gave no file"),
        (b"<html>quota", "web page"),
        (OSError("quota"), "quota"),
    ],
)
def test_drive(
    data: bytes | OSError | None, match: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(*, id: str, output: str, quiet: bool, use_cookies: bool) -> str | None:
        assert id == "1k6kdJQ-_x"
        if isinstance(data, OSError):
            raise data
        if data is not None:
            Path(output).write_bytes(data)
        return None if data is None else output

    monkeypatch.setitem(sys.modules, "gdown", types.SimpleNamespace(download=download))  # type: ignore[arg-type]
    known = sha256(DATA) if data in (DATA, OTHER) else None
    source = Source(url="gdrive:1k6kdJQ-_x", file="boxes/det.json", sha256=known)
    if match is None:
        assert fetch([source], tmp_path / "in").path == tmp_path / "in" / "boxes" / "det.json"
        return
    with pytest.raises(DataError, match=match):
        fetch([source], tmp_path / "in")
    assert [p.name for p in (tmp_path / "in" / "boxes").iterdir()] == ["det.json.lock"]


# --------------------------------------------------------------------------- wheels


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip knows, with a wheel for every Python and one for another system."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name, tag in (("anypose", "py3-none-any"), ("winpose", "cp312-cp312-win_amd64")):
        info = f"{name}-1.2.dist-info"
        with zipfile.ZipFile(folder / f"{name}-1.2-{tag}.whl", "w") as wheel:
            wheel.writestr(f"{name}/deep/net.tflite", DATA)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
            wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
            wheel.writestr(f"{info}/RECORD", "")
    for name, value in {
        "PIP_FIND_LINKS": str(folder),
        "PIP_NO_INDEX": "1",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return folder


def test_wheel(wheels: Path, tmp_path: Path) -> None:
    source = Source(url="pypi:anypose==1.2!anypose/deep/net.tflite", sha256=sha256(DATA))
    got = fetch([source])
    assert (got.path.name, got.path.read_bytes()) == ("net.tflite", DATA)
    assert sorted(p.name for p in got.path.parent.iterdir()) == ["net.tflite", "net.tflite.lock"]
    assert fetch([source], offline=True) == got
    with pytest.raises(ModuleNotFoundError):
        __import__("anypose")


def test_wheel_of_another_system(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schemes, "_OTHER_WHEEL", ("--platform=win_amd64", "--python-version=3.12"))
    got = fetch([Source(url="pypi:winpose==1.2!winpose/deep/net.tflite")])
    assert got.path.read_bytes() == DATA


@pytest.mark.parametrize(
    ("url", "sha", "match"),
    [
        ("pypi:anypose==1.2!anypose/absent", None, "has no anypose/absent"),
        ("pypi:anypose==1.2!anypose/deep/net.tflite", sha256(OTHER), f"sha256 {sha256(DATA)}, expected"),
        ("pypi:nopose==1.2!x", None, "No matching distribution found for nopose==1.2"),
    ],
)
def test_wheel_that_does_not_do(url: str, sha: str | None, match: str, wheels: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=match):
        fetch([Source(url=url, sha256=sha)], tmp_path / "in")
    assert [p.suffix for p in (tmp_path / "in").iterdir()] == [".lock"]


def test_no_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"needs pip: .* -m ensurepip"):
        fetch([Source(url="pypi:anypose==1.2!x")])


# --------------------------------------------------------------------------- local files


@pytest.mark.parametrize("spelling", ["file:{}", "file://{}"])
def test_local_file(spelling: str, tmp_path: Path) -> None:
    mine = tmp_path / "my net.pth"
    mine.write_bytes(DATA)
    path = str(mine).replace(" ", "%20") if "//" in spelling else str(mine)
    source = Source(url=spelling.format(path), sha256=sha256(DATA))
    assert fetch([source], offline=True).path == mine
    assert fetch([source], tmp_path / "in").path == tmp_path / "in" / "my net.pth"
    mine.write_bytes(OTHER)
    with pytest.raises(DataError, match=f"has sha256 {sha256(OTHER)}, expected {sha256(DATA)}"):
        fetch([source])
    assert mine.read_bytes() == OTHER  # it is the user's: never moved
