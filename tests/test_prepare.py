"""`datasets fetch` and `datasets prepare`: from servers, archives and folders to the specs' layout."""

from __future__ import annotations

import functools
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from bad_server import BadServer, sha256
from conftest import make_coco
from test_archives import tree, write
from test_cli import hmrbench
from typer.testing import Result

from hmrbench import data
from hmrbench.data.prepare import prepare_dataset
from hmrbench.errors import DataError, UsageError
from hmrbench.fetch.download import Http
from hmrbench.fetch.fetch import cache_dir

pytest_plugins = ["bad_server"]
pytestmark = pytest.mark.usefixtures("own_cache", "impatient")

ANNOTATIONS = "annotations/person_keypoints_val2017.json"
DETECTIONS = "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
IMAGES = [f"val2017/{i:012d}.jpg" for i in (1, 2, 3)]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads that wait for nothing."""
    monkeypatch.setattr("hmrbench.fetch.fetch.Http", functools.partial(Http, tries=2, sleep=lambda seconds: None))


def datasets(verb: str, *args: object, root: Path, **env: str) -> Result:
    return hmrbench("datasets", verb, *args, "--data-root", root, env=env)


# --------------------------------------------------------------------------- fetch


class Coco:
    """A small COCO on a server, and the spec that fetches it."""

    def __init__(self, server: BadServer, folder: Path) -> None:
        self.server, self.root = server, folder / "data"
        made = make_coco(folder / "made")
        self.files = tree(made)
        self.files[ANNOTATIONS.replace("person", "other")] = b"{}"
        others = {n: d for n, d in self.files.items() if n.startswith("annotations")}
        self.zip = write(
            folder / "val2017.zip", {n: self.files[n] for n in IMAGES} | {"val2017/unnamed.jpg": b"?"}
        ).read_bytes()
        self.annotations = write(folder / "annotations.zip", others).read_bytes()
        self.images_url = server.serve("/zips/val2017.zip", self.zip)
        self.annotations_url = server.serve("/annotations.zip", self.annotations)
        self.detections_url = server.serve("/boxes", self.files[DETECTIONS])
        spec = yaml.safe_load(Path(data.share_dir() / "datasets.yaml").read_text())["coco-val"]
        spec["parts"] = {
            "annotations": {"sources": [{"url": self.annotations_url, "member": ANNOTATIONS}]},
            "det": {"sources": [{"url": self.detections_url}]},
            "images": {"sources": [{"url": self.images_url, "note": "small"}]},
        }
        spec["counts"] = {"images": 3, "instances": 6, "boxes": 9}
        self.spec, self.file = spec, folder / "sets.yaml"
        self.write()

    def write(self) -> None:
        self.file.write_text(yaml.safe_dump({"small-coco": self.spec}))

    def fetch(self, *args: object, **env: str) -> Result:
        return datasets("fetch", "small-coco", "--datasets-file", self.file, *args, root=self.root, **env)

    def requests(self) -> list[str]:
        return [path for method, path, _ in self.server.log if method == "GET"]

    def whole(self) -> bool:
        wanted = (ANNOTATIONS, DETECTIONS, *IMAGES)
        return {n: d for n, d in tree(self.root / "coco").items() if not n.endswith(".lock")} == {
            n: self.files[n] for n in wanted
        }


@pytest.fixture
def coco(server: BadServer, tmp_path: Path) -> Coco:
    return Coco(server, tmp_path)


def test_fetch_from_nothing(coco: Coco) -> None:
    result = coco.fetch("--json")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert [(p["part"], p["status"], p["files"], p["total"]) for p in content["parts"]] == [
        ("annotations", "taken", 1, 1),
        ("det", "taken", 1, 1),
        ("images", "taken", 3, 3),
    ]
    assert content["parts"][2]["source"] == coco.images_url
    assert "Flickr" in content["licence"]
    assert {c["status"] for c in content["check"]} == {"present"}
    assert coco.whole()
    assert "val2017.zip: " in result.stderr
    assert not list(cache_dir().rglob("*val2017.zip"))  # the wrapping does not stay
    again = coco.fetch()
    assert again.exit_code == 0, again.stderr
    assert again.stdout.count("present") >= 6
    assert "licence: annotations CC BY 4.0" in again.stdout
    assert len(coco.requests()) == 3


def test_fetch_takes_only_what_is_missing(coco: Coco) -> None:
    assert coco.fetch().exit_code == 0
    kept = coco.root / "coco" / IMAGES[0]
    before = kept.stat().st_ino
    (coco.root / "coco" / IMAGES[1]).unlink()
    content = json.loads(coco.fetch("--json").stdout)
    assert [p["status"] for p in content["parts"]] == ["present", "present", "taken"]
    assert kept.stat().st_ino == before
    assert coco.whole()
    assert coco.requests().count("/zips/val2017.zip") == 2
    assert coco.requests().count("/annotations.zip") == 1


@pytest.mark.parametrize("script", [["truncate:5000", "ok"], ["reset:5000", "ok"], ["status:503", "ok"], ["chunked"]])
def test_fetch_recovers(coco: Coco, script: list[str]) -> None:
    coco.server.files["/zips/val2017.zip"].script = list(script)
    result = coco.fetch()
    assert result.exit_code == 0, result.stderr
    assert coco.whole()


@pytest.mark.parametrize("script", ["truncate:5000", "tamper", "chunked-cut", "status:404"])
def test_fetch_fails_whole_and_goes_on_later(coco: Coco, script: str) -> None:
    coco.server.files["/zips/val2017.zip"].script = [script]
    result = coco.fetch("--json")
    assert result.exit_code == 3, result.output
    assert "images" in result.stderr
    assert "Traceback" not in result.output
    assert [p["status"] for p in json.loads(result.stdout)["parts"]] == ["taken", "taken", "failed"]
    assert not (coco.root / "coco" / "val2017").exists()
    assert not list((coco.root / "coco").glob(".extract*"))
    coco.server.files["/zips/val2017.zip"].script = ["ok"]
    assert coco.fetch().exit_code == 0
    assert coco.whole()


def test_a_changed_archive_is_refused_once_it_is_known(coco: Coco, tmp_path: Path) -> None:
    assert coco.fetch().exit_code == 0
    (coco.root / "coco" / IMAGES[1]).unlink()
    other = write(tmp_path / "other.zip", {IMAGES[1]: b"another picture"}).read_bytes()
    coco.server.serve("/zips/val2017.zip", other)
    result = coco.fetch()
    assert result.exit_code == 3
    assert f"has sha256 {sha256(other)}, expected {sha256(coco.zip)} (recorded on first use" in result.stderr
    assert not (coco.root / "coco" / IMAGES[1]).exists()


def test_fetch_does_not_learn_from_files_that_were_there(coco: Coco, tmp_path: Path) -> None:
    """Somebody's own excerpt in the data folder is used, and says nothing about the official file."""
    made = make_coco(tmp_path / "data" / "coco", (2,), seed=1)
    assert coco.fetch().exit_code == 0
    assert coco.requests() == []
    shutil.rmtree(made)
    assert coco.fetch().exit_code == 0
    assert coco.whole()


def test_fetch_offline(coco: Coco) -> None:
    for result in (coco.fetch("--offline"), coco.fetch(HMRBENCH_OFFLINE="1")):
        assert result.exit_code == 3
        assert "offline" in result.stderr
    assert coco.requests() == []
    assert coco.fetch().exit_code == 0
    assert coco.fetch("--offline").exit_code == 0


def test_fetch_of_what_needs_a_licence_says_what_to_do(coco: Coco) -> None:
    coco.spec["parts"]["images"]["sources"] = [
        {
            "url": "manual:",
            "file": "val.zip",
            "page": "https://example.org/register",
            "licence": "registration",
            "note": "9 GB",
        }
    ]
    coco.write()
    result = coco.fetch()
    assert result.exit_code == 3
    for words in (
        "page: https://example.org/register",
        "file: val.zip",
        "licence: registration",
        "note: 9 GB",
    ):
        assert words in result.stderr
    assert "hmrbench datasets prepare small-coco --from FOLDER" in result.stderr
    assert (coco.root / "coco" / ANNOTATIONS).is_file()  # the rest was fetched


def test_fetch_without_data_root_or_parts(tmp_path: Path) -> None:
    assert hmrbench("datasets", "fetch", "coco-val", env={"HMRBENCH_DATA": ""}).exit_code == 3
    spec = data.load_spec("coco-val").model_copy(update={"parts": {}})
    with pytest.raises(UsageError, match="coco-val: its `parts` must be annotations"):
        prepare_dataset(spec, tmp_path, tmp_path)
    with pytest.raises(UsageError, match="demo-pose comes with hmrbench"):
        prepare_dataset(data.load_spec("demo-pose"), tmp_path, tmp_path)


# --------------------------------------------------------------------------- prepare


def people(names: list[str]) -> bytes:
    """A file in 4D-Humans' layout."""
    n = len(names)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        imgname=np.array(names),
        center=np.full((n, 2), 20.0),
        scale=np.full((n, 2), 30.0),
        body_keypoints_2d=np.zeros((n, 25, 3)),
        extra_keypoints_2d=np.ones((n, 19, 3)),
        body_keypoints_3d=np.zeros((n, 25, 4)),
        extra_keypoints_3d=np.ones((n, 19, 4)),
    )
    return buffer.getvalue()


def picture(seed: int, suffix: str = ".jpg") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (90, 90, 3), np.uint8)
    return bytes(cv2.imencode(suffix, pixels)[1])


# data set -> the pictures that its npz names, what stands before them in the official archive, its name
OFFICIAL = {
    "3dpw-test": (
        ["imageFiles/downtown_00/image_00000.jpg", "imageFiles/courtyard_01/image_00010.jpg"],
        "",
        "imageFiles.zip",
    ),
    "lsp-extended": (["im00001.png", "im00007.png"], "hr-lspet/", "hr-lspet.zip"),
    "posetrack-val": (
        ["images/val/000342_mpii_test/000000.jpg", "images/val/000522_mpii_test/000001.jpg"],
        "posetrack_data/",
        "posetrack18_images.tar",
    ),
    "h36m-val-p2": (["S9_Directions_1.54138969_000001.jpg", "S11_Walking_1.60457274_000501.jpg"], "", ""),
    "coco-val-hmr": (["val2017/000000000139.jpg", "val2017/000000000785.jpg"], "", "val2017.zip"),
}
FILES = {
    "3dpw-test": "3dpw_test.npz",
    "lsp-extended": "hr-lspet_train.npz",
    "posetrack-val": "posetrack_2018_val.npz",
    "h36m-val-p2": "h36m_val_p2.npz",
    "coco-val-hmr": "coco_val.npz",
}


def hand_out(folder: Path, name: str, unpacked: bool = False) -> dict[str, bytes]:
    """The official files of a data set, with pictures that nobody wants among them; what should be taken."""
    folder.mkdir(parents=True, exist_ok=True)
    names, prefix, archive = OFFICIAL[name]
    suffix = Path(names[0]).suffix
    pictures = {n: picture(i, suffix) for i, n in enumerate(names)}
    extra = {
        names[0].replace("0", "9"): picture(7, suffix),
        f"__MACOSX/._{Path(names[0]).name}": b"junk",
        "readme.txt": b"x",
    }
    everybody = {f"hmr2_evaluation_data/{file}": people(OFFICIAL[n][0]) for n, file in FILES.items()}
    write(folder / "hmr2_evaluation_data.tar.gz", everybody)
    inside = {prefix + n: d for n, d in {**pictures, **extra}.items()}
    if unpacked or not archive:
        for n, content in inside.items():
            (folder / "images" / n).parent.mkdir(parents=True, exist_ok=True)
            (folder / "images" / n).write_bytes(content)
    elif archive.endswith(".tar"):
        whole = write(folder / archive, inside).read_bytes()
        (folder / archive).unlink()
        for i, end in enumerate(("aa", "ab", "ac")):
            third = len(whole) // 3 + 1
            (folder / f"{archive}.{end}").write_bytes(whole[i * third : (i + 1) * third])
    else:
        write(folder / archive, inside)
    spec = data.load_spec(name)
    return {f"{spec.images}/{n}": d for n, d in pictures.items()} | {
        spec.annotations: everybody[f"hmr2_evaluation_data/{FILES[name]}"]
    }


def laid_out(root: Path) -> dict[str, bytes]:
    return {n: d for n, d in tree(root).items() if not n.endswith(".lock")}


@pytest.mark.parametrize("name", OFFICIAL)
def test_prepare_from_the_official_archives(name: str, tmp_path: Path) -> None:
    wanted = hand_out(tmp_path / "got", name)
    before = tree(tmp_path / "got")
    result = datasets("prepare", name, "--from", tmp_path / "got", "--json", root=tmp_path / "data")
    assert result.exit_code == 0, result.stderr
    content = json.loads(result.stdout)
    assert [(p["part"], p["status"], p["files"]) for p in content["parts"]] == [
        ("annotations", "taken", 1),
        ("images", "taken", 2),
    ]
    assert {c["part"] for c in content["check"]} == {"annotations", "images"}
    assert content["licence"] == data.load_spec(name).licence
    assert laid_out(tmp_path / "data") == wanted
    assert tree(tmp_path / "got") == before
    assert len(data.open_dataset(data.load_spec(name), tmp_path / "data").samples) == 2
    again = datasets("prepare", name, "--from", tmp_path / "got", "--json", root=tmp_path / "data")
    assert [p["status"] for p in json.loads(again.stdout)["parts"]] == ["present", "present"]


def test_prepare_coco(tmp_path: Path) -> None:
    made = make_coco(tmp_path / "made")
    files, got = tree(made), tmp_path / "got"
    got.mkdir()
    write(
        got / "annotations_trainval2017.zip",
        {ANNOTATIONS: files[ANNOTATIONS], "annotations/captions_val2017.json": b"{}"},
    )
    write(got / "val2017.zip", {n: files[n] for n in IMAGES})
    (got / Path(DETECTIONS).name).write_bytes(files[DETECTIONS])
    result = datasets("prepare", "coco-val", "--from", got, root=tmp_path / "data")
    assert result.exit_code == 0, result.stderr
    assert "licence: annotations CC BY 4.0" in result.stdout
    assert laid_out(tmp_path / "data" / "coco") == files
    shutil.rmtree(tmp_path / "data")  # and from a folder that is laid out as ours
    assert datasets("prepare", "coco-val", "--from", made, root=tmp_path / "data").exit_code == 0
    assert laid_out(tmp_path / "data" / "coco") == files


def test_prepare_from_one_archive_and_then_another(tmp_path: Path) -> None:
    wanted = hand_out(tmp_path / "got", "3dpw-test")
    first = datasets(
        "prepare",
        "3dpw-test",
        "--from",
        tmp_path / "got" / "hmr2_evaluation_data.tar.gz",
        root=tmp_path / "data",
    )
    assert first.exit_code == 3
    assert "imageFiles.zip" in first.stderr
    second = datasets("prepare", "3dpw-test", "--from", tmp_path / "got" / "imageFiles.zip", root=tmp_path / "data")
    assert second.exit_code == 0, second.stderr
    assert laid_out(tmp_path / "data") == wanted


def test_pictures_that_lie_unpacked_are_linked_or_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = hand_out(tmp_path / "got", "h36m-val-p2")
    source = tmp_path / "got" / "images" / OFFICIAL["h36m-val-p2"][0][0]
    place = tmp_path / "data" / "h36m" / "images" / source.name
    assert datasets("prepare", "h36m-val-p2", "--from", tmp_path / "got", root=tmp_path / "data").exit_code == 0
    assert place.samefile(source)
    shutil.rmtree(tmp_path / "data")

    def refuse(*_: object, **__: object) -> None:
        raise OSError("another file system")

    monkeypatch.setattr("os.link", refuse)
    assert datasets("prepare", "h36m-val-p2", "--from", tmp_path / "got", root=tmp_path / "data").exit_code == 0
    assert laid_out(tmp_path / "data") == wanted
    assert not place.samefile(source)


def test_prepare_takes_what_there_is_and_says_what_is_missing(tmp_path: Path) -> None:
    hand_out(tmp_path / "got", "h36m-val-p2")
    (tmp_path / "got" / "images" / OFFICIAL["h36m-val-p2"][0][1]).unlink()
    result = datasets("prepare", "h36m-val-p2", "--from", tmp_path / "got", "--json", root=tmp_path / "data")
    assert result.exit_code == 3
    assert [(p["status"], p["files"], p["total"]) for p in json.loads(result.stdout)["parts"]] == [
        ("taken", 1, 1),
        ("partial", 1, 2),
    ]
    assert OFFICIAL["h36m-val-p2"][0][1] in result.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing = datasets("prepare", "posetrack-val", "--from", empty, root=tmp_path / "other")
    assert nothing.exit_code == 3
    assert "looked for: hmr2_evaluation_data*.tar.gz" in nothing.stderr
    assert datasets("prepare", "posetrack-val", "--from", tmp_path / "no", root=tmp_path / "other").exit_code == 3


@pytest.mark.parametrize(
    ("lost", "words"),
    [("aa", "before it is missing"), ("ab", "before it is missing"), ("ac", "truncated or corrupt archive")],
)
def test_a_missing_piece_of_a_split_archive_is_noticed(tmp_path: Path, lost: str, words: str) -> None:
    hand_out(tmp_path / "got", "posetrack-val")
    (tmp_path / "got" / f"posetrack18_images.tar.{lost}").unlink()
    result = datasets("prepare", "posetrack-val", "--from", tmp_path / "got", root=tmp_path / "data")
    assert result.exit_code == 3
    assert words in result.stderr
    assert set(laid_out(tmp_path / "data")) == {"hmr2_evaluation_data/posetrack_2018_val.npz"}


def evil_tar(path: Path, **fields: object) -> None:
    """An archive whose member for a wanted picture is something else."""
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("posetrack_data/" + OFFICIAL["posetrack-val"][0][0])
        for field, value in fields.items():
            setattr(info, field, value)
        archive.addfile(info)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "../../" + OFFICIAL["posetrack-val"][0][0]}, "outside the target folder"),
        ({"name": "/" + OFFICIAL["posetrack-val"][0][0]}, "outside the target folder"),
        ({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is a link"),
        ({"type": tarfile.LNKTYPE, "linkname": "x"}, "is a link"),
        ({"type": tarfile.FIFOTYPE}, "is a device"),
    ],
)
def test_hostile_archives_are_refused(tmp_path: Path, fields: dict[str, object], words: str) -> None:
    hand_out(tmp_path / "got", "posetrack-val")
    for piece in (tmp_path / "got").glob("posetrack*"):
        piece.unlink()
    evil_tar(tmp_path / "got" / "posetrack18_images.tar", **fields)
    result = datasets("prepare", "posetrack-val", "--from", tmp_path / "got", root=tmp_path / "data")
    assert result.exit_code == 3
    assert words in result.stderr
    assert set(laid_out(tmp_path / "data")) == {"hmr2_evaluation_data/posetrack_2018_val.npz"}
    assert {p.name for p in tmp_path.iterdir()} <= {"got", "data", "cache"}


@pytest.mark.parametrize("name", ["../../evil.jpg", "/evil.jpg", "a\\b.jpg", ""])
def test_annotations_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    got = tmp_path / "got"
    got.mkdir()
    (got / "evil.jpg").write_bytes(picture(0))
    write(got / "hmr2_evaluation_data.tar.gz", {"hmr2_evaluation_data/hr-lspet_train.npz": people([name])})
    result = datasets("prepare", "lsp-extended", "--from", got, root=tmp_path / "data")
    assert result.exit_code == 3
    assert ("is no picture below hr-lspet" if name else "imgname") in result.stderr
    assert set(laid_out(tmp_path / "data")) == {"hmr2_evaluation_data/hr-lspet_train.npz"}


def prepare_process(got: Path, root: Path) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "hmrbench",
        "datasets",
        "prepare",
        "3dpw-test",
        "--from",
        str(got),
        "--data-root",
        str(root),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_at_once_and_one_killed(tmp_path: Path) -> None:
    got, root = tmp_path / "got", tmp_path / "data"
    wanted = hand_out(got, "3dpw-test")
    with prepare_process(got, root) as killed:
        deadline = time.monotonic() + 60
        while not (root / ".hmrbench.lock").exists() and killed.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
    left = root / ".extract.left.tmp" / "files"
    left.mkdir(parents=True, exist_ok=True)  # as a killed extraction leaves it
    (left / "half.jpg").write_bytes(b"half")
    with prepare_process(got, root) as one, prepare_process(got, root) as two:
        for process in (one, two):
            _, errors = process.communicate(timeout=100)
            assert process.returncode == 0, errors
    assert laid_out(root) == wanted
    assert not list(root.glob(".extract*"))


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hand_out(tmp_path / "got", "lsp-extended")
    original = Path.open

    def full(self: Path, mode: str = "r", *args: object, **kwargs: object) -> object:
        if "x" in mode and self.suffix == ".png":
            raise OSError(28, "No space left on device")
        return original(self, mode, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", full)
    result = datasets("prepare", "lsp-extended", "--from", tmp_path / "got", root=tmp_path / "data")
    assert result.exit_code == 3
    assert "No space left on device" in result.stderr
    assert set(laid_out(tmp_path / "data")) == {"hmr2_evaluation_data/hr-lspet_train.npz"}


def test_a_reader_names_the_pictures(tmp_path: Path) -> None:
    made = make_coco(tmp_path)
    spec = data.load_spec("coco-val")
    assert data.named_images(spec, made) == [Path(n).name for n in IMAGES]
    with pytest.raises(DataError, match="annotation file missing"):
        data.named_images(spec, tmp_path / "no")
