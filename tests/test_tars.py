"""Training sets in tars: what is read, what is filtered, and that nothing in them is executed."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import small_training
from conftest import prepare_training

from hmrbench import data
from hmrbench.cards import load_card
from hmrbench.errors import DataError, UsageError
from hmrbench.records import Dataset
from hmrbench.schema import DatasetSpec
from hmrbench.training import tars, train
from hmrbench.training.examples import mesh_examples
from hmrbench.training.log import read_table
from hmrbench.training.recipes import Augment, load_recipe

CARD = load_card("swinhmr2-t-s2")
PLAIN = load_recipe("demo-mesh", CARD).model_copy(update={"augment": Augment(), "batch_size": 4})
SPEC = """
mix:
  {task: hmr, title: Mix, reader: hmrbench.training.tars, folder: ., annotations: 'a/*.tar', images: .,
   metrics: [], licence: none, options: {body: free-lite}}
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HMRBENCH_CACHE", str(tmp_path / "cache"))


def people_of(root: Path, count: int) -> tuple[Dataset, list[dict[str, Any]]]:
    """The people of `people-3d`, as a data set and as 4D-Humans stores them in tars."""
    small_training.write_solid(root, count)
    settings = small_training.write_settings(root)
    dataset = data.open_dataset(data.load_spec("people-3d", settings["datasets_file"]), root)
    with np.load(root / "solid" / "people.npz") as file:
        arrays = {k: file[k] for k in file.files}
    people = []
    for i in range(count):
        people.append(
            {
                "keypoints_2d": np.concatenate([arrays["body_keypoints_2d"][i], arrays["extra_keypoints_2d"][i]]),
                "keypoints_3d": np.concatenate([arrays["body_keypoints_3d"][i], arrays["extra_keypoints_3d"][i]]),
                "center": arrays["center"][i],
                "scale": arrays["scale"][i] / 200,
                "body_pose": arrays["body_pose"][i].astype(np.float32),
                "betas": arrays["betas"][i].astype(np.float32),
                "has_body_pose": np.float32(1),
                "has_betas": np.array(1.0),
                "extra_info": {"fitting_loss": np.array({"reprojection_loss": 3.5})},
            }
        )
    return dataset, people


def write_tar(path: Path, entries: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def entry(
    root: Path, i: int, people: Any, key: str | None = None, kind: str = "data.pyd", protocol: int = 4
) -> list[tuple[str, bytes]]:
    """Picture i of `people-3d` with people."""
    key = key or f"set/{i:05d}"
    if kind == "data.npz":
        buffer = io.BytesIO()
        np.savez(buffer, **{k: np.stack([p[k] for p in people]) for k in people[0] if k != "extra_info"})
        return [
            (f"{key}.png", (root / "solid" / f"{i}.png").read_bytes()),
            (f"{key}.{kind}", buffer.getvalue()),
        ]
    return [
        (f"{key}.{kind}", pickle.dumps(people, protocol)),
        (f"{key}.png", (root / "solid" / f"{i}.png").read_bytes()),
    ]


def spec_of(root: Path, **options: Any) -> DatasetSpec:
    (root / "tars.yaml").write_text(SPEC)
    spec = data.load_spec("mix", root / "tars.yaml")
    return spec.model_copy(update={"options": {**spec.options, **options}})


@pytest.mark.parametrize(("kind", "protocol"), [("data.pyd", 2), ("data.pyd", 4), ("data.pyd", 5), ("data.npz", 0)])
def test_people_in_tars_are_the_people_of_the_npz(kind: str, protocol: int, tmp_path: Path) -> None:
    dataset, people = people_of(tmp_path, 4)
    for shard, members in enumerate(((0, 1), (2, 3))):
        write_tar(
            tmp_path / "a" / f"{shard}.tar",
            [e for i in members for e in entry(tmp_path, i, [people[i]], kind=kind, protocol=protocol)],
        )
    found, sha256 = tars.examples(spec_of(tmp_path, max_beta=9.0), tmp_path, CARD, PLAIN)
    expected = mesh_examples(dataset, CARD, Augment(), ())
    assert (found.count, len(sha256)) == (4, 64)
    for i in range(4):
        a, b = found.make(i, np.random.default_rng(0)), expected.make(i, np.random.default_rng(0))
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], atol=1e-6, err_msg=name)


def test_several_people_of_one_picture(tmp_path: Path) -> None:
    _, people = people_of(tmp_path, 3)
    write_tar(tmp_path / "a" / "0.tar", entry(tmp_path, 0, people))
    found, _ = tars.examples(spec_of(tmp_path), tmp_path, CARD, PLAIN)
    betas = [found.make(i, np.random.default_rng(0))["global_orient"] for i in range(3)]
    assert found.count == 3
    assert not np.allclose(betas[0], betas[1])


def test_filters_are_those_of_4d_humans(tmp_path: Path) -> None:
    _, (person, *_) = people_of(tmp_path, 1)
    filters = tars.Filters()
    assert tars.keep(person, filters)
    few = person["keypoints_2d"].copy()
    few[4:, 2] = 0.29
    assert not tars.keep({**person, "keypoints_2d": few}, filters)
    few[4, 2] = 0.3
    assert tars.keep({**person, "keypoints_2d": few}, filters)
    bad = {"fitting_loss": np.array({"reprojection_loss": 31_000.0})}
    assert not tars.keep({**person, "extra_info": bad}, filters)
    assert tars.keep({k: v for k, v in person.items() if k != "extra_info"}, filters)

    cleaned = tars.clean({**person, "keypoints_2d": few, "betas": np.full(10, 3.1, np.float32)}, filters)
    assert (cleaned["keypoints_2d"][:, 2] > 0).sum() == 5
    assert (cleaned["has_body_pose"], cleaned["has_betas"]) == (0.0, 1.0)  # the betas are pulled to zero
    assert not cleaned["betas"].any()
    kept = tars.clean({**person, "betas": np.full(10, 2.9, np.float32)}, filters)
    assert (kept["has_body_pose"], kept["has_betas"]) == (1.0, 1.0)
    without = tars.clean({**person, "has_betas": 0.0}, tars.Filters(regular_betas=False))
    assert (without["has_body_pose"], without["has_betas"]) == (0.0, 0.0)


def test_a_mix_is_drawn_by_its_weights(tmp_path: Path) -> None:
    _, people = people_of(tmp_path, 3)
    write_tar(tmp_path / "a" / "0.tar", entry(tmp_path, 0, people[:1]))
    write_tar(tmp_path / "b" / "0.tar", entry(tmp_path, 1, people[1:2]) + entry(tmp_path, 2, people[2:]))
    found, _ = tars.examples(spec_of(tmp_path, mix={"a/*.tar": 3, "b/*.tar": 1}, max_beta=9.0), tmp_path, CARD, PLAIN)
    betas = np.array([found.make(i, np.random.default_rng(i))["betas"] for i in range(200)])
    share = np.isclose(betas, people[0]["betas"]).all(1).mean()
    assert share == pytest.approx(0.75, abs=0.1)


class Trap:
    """Pickled, it is a call that would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    _, people = people_of(tmp_path, 1)
    write_tar(tmp_path / "a" / "0.tar", entry(tmp_path, 0, [{**people[0], "extra_info": Trap(tmp_path / "sprung")}]))
    with pytest.raises(DataError, match=r"0\.tar: set/00000\.data\.pyd: refused: the pickle wants to use .*open"):
        tars.examples(spec_of(tmp_path), tmp_path, CARD, PLAIN)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda p: {**p, "betas": np.zeros(9)}, r"betas of person 0 is \(9,\), expected \(10,\)"),
        (lambda p: {k: v for k, v in p.items() if k != "center"}, "center of person 0 is missing"),
    ],
)
def test_a_field_that_is_not_right_is_named(break_it: Any, message: str, tmp_path: Path) -> None:
    _, people = people_of(tmp_path, 1)
    write_tar(tmp_path / "a" / "0.tar", entry(tmp_path, 0, [break_it(people[0])]))
    with pytest.raises(DataError, match=message):
        tars.examples(spec_of(tmp_path), tmp_path, CARD, PLAIN)


def test_damaged_and_missing_tars_are_named(tmp_path: Path) -> None:
    _, people = people_of(tmp_path, 1)
    with pytest.raises(DataError, match="no such tars"):
        tars.examples(spec_of(tmp_path), tmp_path, CARD, PLAIN)
    path = tmp_path / "a" / "0.tar"
    write_tar(path, entry(tmp_path, 0, people)[:1])
    with pytest.raises(DataError, match=r"0\.tar: set/00000 lacks its picture"):
        tars.examples(spec_of(tmp_path), tmp_path, CARD, PLAIN)
    write_tar(path, entry(tmp_path, 0, people))
    path.write_bytes(path.read_bytes()[:-12000])
    with pytest.raises(DataError, match=r"0\.tar"):
        tars.examples(spec_of(tmp_path), tmp_path, CARD, PLAIN)
    write_tar(
        path,
        [
            ("x.data.pyd", b"\x80\x04nonsense"),
            ("x.jpg", cv2.imencode(".jpg", np.zeros((8, 8, 3)))[1].tobytes()),
        ],
    )
    with pytest.raises(DataError, match=r"x\.data\.pyd: cannot be read"):
        tars.examples(spec_of(tmp_path), tmp_path, CARD, PLAIN)
    with pytest.raises(UsageError, match="options"):
        tars.examples(spec_of(tmp_path, min_keypoint=3), tmp_path, CARD, PLAIN)
    assert [c.status for c in tars.check(spec_of(tmp_path), tmp_path)] == ["corrupt"]


def test_the_index_is_kept_and_made_anew_when_a_tar_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, people = people_of(tmp_path, 2)
    path = tmp_path / "a" / "0.tar"
    write_tar(path, entry(tmp_path, 0, people[:1]))
    assert tars.examples(spec_of(tmp_path), tmp_path, CARD, PLAIN)[0].count == 1
    with monkeypatch.context() as patch:
        patch.setattr(tars, "_entries", lambda *_: pytest.fail("read again"))
        assert tars.examples(spec_of(tmp_path), tmp_path, CARD, PLAIN)[0].count == 1
    write_tar(path, entry(tmp_path, 0, people))
    assert tars.examples(spec_of(tmp_path), tmp_path, CARD, PLAIN)[0].count == 2


def test_corrupt_entries_can_be_left_out(tmp_path: Path) -> None:
    _, people = people_of(tmp_path, 2)
    write_tar(tmp_path / "a" / "0.tar", entry(tmp_path, 0, people[:1]) + entry(tmp_path, 1, people[1:]))
    assert tars.examples(spec_of(tmp_path, skip=["set/00001"]), tmp_path, CARD, PLAIN)[0].count == 1


def test_a_network_trains_on_tars(tmp_path: Path) -> None:
    _, people = people_of(tmp_path, 4)
    write_tar(tmp_path / "a" / "0.tar", [e for i in range(4) for e in entry(tmp_path, i, [people[i]])])
    settings = small_training.write_settings(tmp_path)
    job = prepare_training(
        "tiny-mesh", spec_of(tmp_path), recipe="demo-mesh", steps=3, batch_size=2, dtype="fp32",
        data_root=tmp_path,
        models_dirs=settings["models_dirs"], device="cpu",
    )  # fmt: skip
    train.run(job, tmp_path / "r")
    assert read_table(tmp_path / "r" / "log.csv")[-1]["step"] == "3"
    with pytest.raises(UsageError, match="training set in tars"):
        data.open_dataset(spec_of(tmp_path), tmp_path)
