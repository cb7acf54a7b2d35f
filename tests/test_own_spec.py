"""YAML that explains itself: minimal cards and specs, complete ones, schemas, and other joints than COCO's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import make_coco
from pycocotools.cocoeval import COCOeval
from test_cli import hmrbench

from hmrbench import data, zoo
from hmrbench.cards import _read_cards, load_cards
from hmrbench.errors import UsageError
from hmrbench.files.coco_json import make_coco as coco_of
from hmrbench.schema import DatasetSpec, JointSet, ModelCard
from hmrbench.schema.faults import validate_all
from hmrbench.schema.writing import as_yaml, cards_schema, datasets_schema
from hmrbench.skeletons import mirrored

LINES = "mine:\n  task: hpe\n  annotations: annotations/person_keypoints_val2017.json\n  images: val2017\n"


def test_a_minimal_data_set_is_four_lines(tmp_path: Path) -> None:
    make_coco(tmp_path)
    (tmp_path / "mine.yaml").write_text(LINES)
    spec = data.load_spec("mine", tmp_path / "mine.yaml")
    assert (spec.title, spec.licence, spec.reader, spec.metrics) == ("mine", "not stated", "coco", ("coco-keypoints",))
    where = ("--datasets-file", tmp_path / "mine.yaml", "--data-root", tmp_path)
    assert hmrbench("datasets", "check", "mine", *where).exit_code == 0
    (tmp_path / "mesh.yaml").write_text("mesh: {task: hmr, annotations: a.npz, images: i}\n")
    assert data.load_spec("mesh", tmp_path / "mesh.yaml").metrics == ("mpjpe", "pck")
    (tmp_path / "mine.yaml").write_text(LINES + "  metrics: [coco-keypoint]\n")
    result = hmrbench("datasets", "check", "mine", *where)
    assert result.exit_code == 2
    assert "did you mean coco-keypoints" in result.stderr


# --------------------------------------------------------------------------- a complete one, and a schema


def test_a_printed_card_is_the_card(tmp_path: Path) -> None:
    for card in load_cards().values():
        (tmp_path / "c.yaml").write_text(as_yaml(card), encoding="utf-8")
        _read_cards.cache_clear()
        (again,), _ = _read_cards(tmp_path / "c.yaml")
        assert again.model_dump() == card.model_dump()
    text = hmrbench("show", "vitpose-s", "--yaml").stdout
    assert yaml.safe_load(text)["models"]["vitpose-s"]["encoder"] == "vit-s"


def test_a_printed_spec_is_the_spec(tmp_path: Path) -> None:
    for spec in data.load_specs().values():
        (tmp_path / "d.yaml").write_text(as_yaml(spec), encoding="utf-8")
        assert data.load_spec(spec.name, tmp_path / "d.yaml").model_dump() == spec.model_dump()
    result = hmrbench("datasets", "show", "coco-val", "--yaml")
    assert yaml.safe_load(result.stdout)["coco-val"]["boxes"]["gt"] is None
    assert json.loads(hmrbench("datasets", "show", "coco-val", "--json").stdout)["reader"] == "coco"
    assert "5,000 images" in hmrbench("datasets", "show", "coco-val").stdout


def accepts(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> bool:
    """Whether a value fits, as far as objects, their keys and alternatives go."""
    if "$ref" in schema:
        return accepts(root["$defs"][schema["$ref"].rpartition("/")[2]], value, root)
    if "allOf" in schema:  # how older versions of pydantic write a `$ref` with a default
        return all(accepts(one, value, root) for one in schema["allOf"])
    if "anyOf" in schema:
        return any(accepts(one, value, root) for one in schema["anyOf"])
    if schema.get("type") == "null" or value is None:
        return value is None and schema.get("type") in (None, "null")
    if isinstance(value, dict):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        inner = {k: known.get(k, rest) for k in value}
        return (
            schema.get("type") == "object"
            and set(schema.get("required", ())) <= value.keys()
            and all(s is not False and (s is True or accepts(s, value[k], root)) for k, s in inner.items())
        )
    if isinstance(value, list):
        item = schema.get("items", {})
        return schema.get("type") == "array" and all(not item or accepts(item, v, root) for v in value)
    kinds = {"string": str, "integer": int, "number": (int, float), "boolean": bool}
    return isinstance(value, kinds.get(schema.get("type", ""), object)) and value in schema.get("enum", [value])


def test_schemas_take_our_files_and_no_mistyped_key() -> None:
    folder = Path(__file__).parents[1]
    assert json.loads(hmrbench("models", "--schema").stdout) == cards_schema()
    assert json.loads(hmrbench("datasets", "--schema").stdout) == datasets_schema()
    for path in sorted((folder / "models").glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert accepts(cards_schema(), content, cards_schema()), path
        assert not accepts(cards_schema(), {**content, "modles": {}}, cards_schema())
    specs = yaml.safe_load((folder / "datasets.yaml").read_text(encoding="utf-8"))
    assert accepts(datasets_schema(), specs, datasets_schema())
    mine: dict[str, Any] = {"mine": {"task": "hpe", "annotations": "a", "images": "i"}}
    assert accepts(datasets_schema(), mine, datasets_schema())
    for wrong in ({"license": "x"}, {"task": "hpo"}, {"images": None}, {"skeleton": {"joint": []}}):
        assert not accepts(datasets_schema(), {"mine": {**mine["mine"], **wrong}}, datasets_schema())


# --------------------------------------------------------------------------- joints


def joints_of(count: int) -> list[str]:
    half = count // 2
    return [f"{side}_{i}" for i in range(half) for side in ("left", "right")] + ["middle"] * (count % 2)


@pytest.fixture(autouse=True)
def _modules() -> Iterator[None]:
    yield
    for name in [n for n in sys.modules if n.startswith("net1") or n.startswith("net2")]:
        del sys.modules[name]


NET = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, COUNT, 4, 4)

    def forward(self, x):
        return self.body(x)
"""


def own_joints(folder: Path, count: int) -> tuple[object, ...]:
    """A data set and a network of that many joints; the arguments with which commands find them."""
    make_coco(folder)
    path = folder / "annotations" / "person_keypoints_val2017.json"
    content = json.loads(path.read_text())
    rng = np.random.default_rng(count)
    for person in content["annotations"]:
        x, y, w, h = person["bbox"]
        points = np.column_stack([x + rng.random(count) * w, y + rng.random(count) * h, rng.choice([0, 2], count)])
        points[0, 2] = 2
        person |= {"keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum())}
    path.write_text(json.dumps(content))
    skeleton = {"joints": joints_of(count), "sigmas": [0.05] * count}
    (folder / "mine.yaml").write_text(
        LINES + yaml.safe_dump({"skeleton": skeleton}).replace("\n", "\n  ").join(["  ", "\n"])
    )
    (folder / f"net{count}.py").write_text(NET.replace("COUNT", str(count)))
    (folder / "cards").mkdir(exist_ok=True)
    (folder / "cards" / f"net{count}.py").write_text(NET.replace("COUNT", str(count)))
    (folder / "cards" / "c.yaml").write_text(
        f"models: {{net{count}: {{task: hpe, build: 'net{count}:Net', input: [64, 48]}}}}\n"
    )
    return ("--datasets-file", folder / "mine.yaml", "--data-root", folder)


@pytest.mark.parametrize("count", [12, 14, 21, 26, 133])
def test_a_pose_network_of_other_joints(tmp_path: Path, count: int) -> None:
    where = own_joints(tmp_path, count)
    assert hmrbench("datasets", "check", "mine", *where).exit_code == 0
    saved = tmp_path / "p.json"
    command = ("eval", f"net{count}", "--models-dir", tmp_path / "cards", "-d", "mine", "--weights", "random")
    result = hmrbench(*command, *where, "--json", "--runs", tmp_path / "runs", "--save-predictions", saved)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert set(row["per_joint"]["OKS"]) <= set(joints_of(count))
    assert {"AP", "AR", "PCK@0.1"} <= row["metrics"].keys()
    (again,) = json.loads(hmrbench("score", saved, "-d", "mine", *where, "--json").stdout)
    assert again["metrics"] == row["metrics"]

    # results near the truth have the AP that pycocotools gives with these constants
    truth = json.loads((tmp_path / "annotations" / "person_keypoints_val2017.json").read_text())
    rng = np.random.default_rng(1)
    found = []
    for person in truth["annotations"]:
        points = np.reshape(person["keypoints"], (-1, 3)) + np.column_stack(
            [rng.normal(0, 8, (count, 2)), np.ones(count)]
        )
        fields = {"image_id": person["image_id"], "category_id": 1, "score": float(rng.random())}
        found.append({**fields, "keypoints": points.ravel().tolist()})
    saved.write_text(json.dumps(found))
    (row,) = json.loads(hmrbench("score", saved, "-d", "mine", *where, "--json").stdout)
    coco = coco_of(truth)
    evaluator = COCOeval(coco, coco.loadRes(found), "keypoints")
    evaluator.params.kpt_oks_sigmas = np.full(count, 0.05)
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    assert row["metrics"]["AP"] == pytest.approx(100 * evaluator.stats[0], abs=1e-9)
    assert 0 < row["metrics"]["AP"] < 100


def test_what_eval_refuses_check_refuses(tmp_path: Path) -> None:
    """Joints that nobody named are no COCO joints; a network of others does not fit the set's."""
    where = own_joints(tmp_path, 14)
    spec = (tmp_path / "mine.yaml").read_text()
    command = ("eval", "net14", "--models-dir", tmp_path / "cards", "-d", "mine", "--weights", "random")
    for text, words in (
        (LINES, "42 numbers for 17 keypoints"),
        (spec.replace("14", "x").replace("- left_6\n", ""), "joints"),
    ):
        (tmp_path / "mine.yaml").write_text(text)
        codes = set()
        for args in (("datasets", "check", "mine"), (*command, "--runs", tmp_path / "runs")):
            result = hmrbench(*args, *where)
            codes.add(result.exit_code)
            assert words in " ".join(result.output.split()), result.output
        assert codes in ({3}, {2})
    own_joints(tmp_path, 12)
    result = hmrbench("eval", "vitpose-s", "-d", "mine", "--weights", "random", *where, "--runs", tmp_path / "runs")
    assert result.exit_code == 1
    assert "do not fit the 12 joints of mine" in " ".join(result.stderr.split())


def test_training_on_other_joints(tmp_path: Path) -> None:
    pytest.importorskip("lightning_fabric")
    where = own_joints(tmp_path, 12)
    args = ("train", "net12", "--models-dir", tmp_path / "cards", "-d", "mine", *where, "--init", "random")
    result = hmrbench(
        *args, "--steps", "2", "--batch-size", "2", "--dtype", "fp32", "--device", "cpu", "-o", tmp_path / "t"
    )
    assert result.exit_code == 0, result.output
    weights = tmp_path / "t" / "weights.safetensors"
    checked = hmrbench("weights", "check", "net12", weights, "--models-dir", tmp_path / "cards")
    assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sigmas": [0.1]}, "1 sigmas for 4 joints"),
        ({"joints": ["a", "a", "b", "c"]}, "two joints have one name"),
        ({"flip_pairs": [["left_a", "right_c"]]}, "there is no joint right_c; did you mean right_b?"),
        ({"flip_pairs": [[0, 1], [1, 2]]}, "a joint stands in two of them"),
        ({"limbs": [[0, 9]]}, "limbs: there is no joint 9"),
        ({"sigmas": [0, 1, 1, 1]}, "greater than 0"),
        ({"joint": []}, "did you mean 'joints'"),
    ],
)
def test_joint_sets_that_cannot_be(change: dict[str, Any], words: str) -> None:
    fields = {"joints": ["left_a", "right_a", "left_b", "right_b"], "sigmas": [0.1] * 4, **change}
    entry = {"task": "hpe", "annotations": "a", "images": "i", "skeleton": fields}
    _, (fault,) = validate_all(DatasetSpec, {"mine": entry})
    assert fault.startswith("'mine' is not right at skeleton")
    assert words in fault


def test_left_and_right_are_found_by_name() -> None:
    assert mirrored(["nose", "left_eye", "right_eye", "l_hip", "r_hip", "Left Foot", "Right Foot", "left_odd"]) == (
        (1, 2), (3, 4), (5, 6),
    )  # fmt: skip
    joints = JointSet(joints=("a", "b", "c"), sigmas=(1, 1, 1), flip_pairs=(("a", 2),), limbs=(("a", "b"),))
    found = joints.named("mine")
    assert (found.flip_pairs, found.limbs, found.flip_order) == (((0, 2),), ((0, 1),), [2, 1, 0])


def test_fields_with_defaults() -> None:
    with pytest.raises(ValueError, match="task"):
        ModelCard(name="mine", build="x:y")  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="'encoder' or 'build'"):
        zoo.build_net(ModelCard(name="mine", task="hpe"))
