"""The whole path for meshes: npz file with pictures -> crop -> network -> body -> joints -> metrics -> row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from test_cli import hmrbench

from hmrbench import data, geometry, zoo
from hmrbench.body import free_body
from hmrbench.data import hmr_npz
from hmrbench.errors import DataError
from hmrbench.evaluation import job as evaluate
from hmrbench.records import Dataset, Prediction
from hmrbench.results import runs as results
from hmrbench.schema import DatasetSpec, ModelCard

JOINTS = [25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 43]
SPEC = f"""
free-3d:
  {{task: hmr, title: Free, reader: hmr-npz, folder: free, annotations: people.npz, images: pictures, licence: none,
   metrics: [mpjpe, pck], options: {{body: free-lite, pve: true, pelvis: 39, joints: {JOINTS}}}}}
"""
CENTERS, SIZE = [(120.0, 110.0), (150.0, 100.0), (90.5, 130.25)], 160.0


def truth_params(count: int = 3) -> dict[str, torch.Tensor]:
    """Plausible parameters: a person upright in the camera's frame (y down), arms and legs a little bent."""
    generator = torch.Generator().manual_seed(0)
    pose = 0.2 * torch.randn(count, 24, 3, generator=generator)
    pose[:, 0] = torch.tensor([torch.pi, 0, 0])
    return {
        "pose": pose,
        "betas": torch.randn(count, 10, generator=generator),
        "cam": torch.tensor([[0.9, 0.02, 0.1]] * count),
    }


def predictions_of_truth(params: dict[str, torch.Tensor], centers: Any, size: float) -> list[Prediction]:
    """What a perfect network predicts."""
    matrices = geometry.axis_angle_to_matrix(params["pose"])
    output = {
        "global_orient": matrices[:, :1],
        "body_pose": matrices[:, 1:],
        "betas": params["betas"],
        "cam": params["cam"],
    }
    sizes = np.full((len(centers), 2), size)
    keypoints, scores, joints, arrays = evaluate.decode_mesh(output, np.array(centers), sizes, free_body(lite=True))
    return [
        Prediction(keypoints[i], scores[i], joints[i], {k: v[i] for k, v in arrays.items()})
        for i in range(len(centers))
    ]


def write_people(folder: Path, **change: Any) -> Path:
    """A data set in 4D-Humans' layout whose truth is the free body's; `change` replaces or (None) removes fields."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.jpg"):
        cv2.imwrite(str(folder / "pictures" / name), rng.integers(0, 256, (240, 320, 3), np.uint8))
    params = truth_params()
    width = 0.75 * SIZE  # expands to a square of SIZE
    people = predictions_of_truth(params, CENTERS, SIZE)
    in_image = np.stack([np.column_stack([p.keypoints_px, np.ones(44)]) for p in people])
    in_space = np.stack([np.column_stack([np.asarray(p.joints_m), np.ones(44)]) for p in people])
    fields = {
        "imgname": np.array(["a.jpg", "b.jpg", "a.jpg"]),
        "center": np.array(CENTERS),
        "scale": np.array([[width, SIZE]] * 3),
        "body_keypoints_2d": in_image[:, :25],
        "extra_keypoints_2d": in_image[:, 25:],
        "body_keypoints_3d": in_space[:, :25],
        "extra_keypoints_3d": in_space[:, 25:],
        "body_pose": params["pose"].flatten(1).numpy(),
        "betas": params["betas"].numpy(),
    } | change
    np.savez(folder / "people.npz", **{k: v for k, v in fields.items() if v is not None})
    return folder


@pytest.fixture
def people(tmp_path: Path) -> Path:
    (tmp_path / "sets.yaml").write_text(SPEC)
    write_people(tmp_path / "free")
    return tmp_path


def spec_of(root: Path) -> DatasetSpec:
    return data.load_spec("free-3d", root / "sets.yaml")


def opened(root: Path, **settings: Any) -> Dataset:
    return data.open_dataset(spec_of(root), root, **settings)


def numbers(predictions: list[Prediction], root: Path) -> dict[str, float]:
    found = evaluate.measure(predictions, spec_of(root), opened(root))
    return {score.name: score.value for m in found for score in m.scores}


def test_predictions_equal_to_the_truth_are_perfect(people: Path) -> None:
    found = numbers(predictions_of_truth(truth_params(), CENTERS, SIZE), people)
    assert found["MPJPE"] == pytest.approx(0, abs=1e-9)
    assert found["PA-MPJPE"] == pytest.approx(0, abs=1e-3)
    assert found["PVE"] == pytest.approx(0, abs=1e-3)
    assert found["PCK@0.05"] == found["PCK@0.1"] == 100


def test_people_who_stand_away_from_the_origin_have_no_vertex_error(people: Path) -> None:
    """The truth's joints are in the camera's frame, metres away; parameters say nothing of that."""
    in_space = np.load(people / "free" / "people.npz")
    away = np.array([0.3, -0.2, 5.0, 0.0])
    moved = {k: in_space[k] + away for k in ("body_keypoints_3d", "extra_keypoints_3d")}
    write_people(people / "free", **moved)
    found = numbers(predictions_of_truth(truth_params(), CENTERS, SIZE), people)
    assert found["PVE"] == pytest.approx(0, abs=1e-3)
    assert found["MPJPE"] == pytest.approx(0, abs=1e-3)


def test_a_planted_similarity_gives_pa_mpjpe_zero_and_the_right_mpjpe(people: Path) -> None:
    rotation = geometry.axis_angle_to_matrix(torch.tensor([0.1, 0.4, -0.2])).double().numpy()
    predictions = predictions_of_truth(truth_params(), CENTERS, SIZE)
    moved, expected = [], []
    for p in predictions:
        joints = np.asarray(p.joints_m, np.float64)
        centred = joints - joints[39]
        expected.append(1000 * np.linalg.norm((1.3 * centred @ rotation.T - centred)[JOINTS], axis=1).mean())
        moved.append(Prediction(p.keypoints_px, p.scores, 1.3 * joints @ rotation.T + [1, 2, 3], {}))
    found = numbers(moved, people)
    assert found["PA-MPJPE"] == pytest.approx(0, abs=1e-4)
    assert found["MPJPE"] == pytest.approx(np.mean(expected), rel=1e-6)
    assert "PVE" not in found


def build_truth(card: ModelCard) -> torch.nn.Module:
    """A network that knows the answers by heart, in the order of the people."""
    return _ByHeart()


class _ByHeart(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        assert x.shape[1:] == (3, 256, 256)
        order = [0, 2, 1]  # the people of one picture come together
        rows = [order[self.seen + i] for i in range(len(x))]
        self.seen += len(x)
        params = {k: v[rows] for k, v in truth_params().items()}
        matrices = geometry.axis_angle_to_matrix(params["pose"])
        return {
            "global_orient": matrices[:, :1],
            "body_pose": matrices[:, 1:],
            "betas": params["betas"],
            "cam": params["cam"],
        }


def write_card(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "heart.yaml").write_text(
        "family: heart\nmodels:\n  by-heart: {paper_name: By-Heart, task: hmr, size: t, input: [256, 256], "
        "codec: smpl, "
        "crop: {kind: square}, licence: none, build: 'test_hmr_path:build_truth'}\n"
    )
    return folder


def test_the_whole_path_recovers_the_truth(people: Path, tmp_path: Path) -> None:
    result = evaluate.evaluate(
        "by-heart", spec_of(people), weights="random", data_root=people, models_dirs=[write_card(tmp_path / "cards")],
        device="cpu", runs=tmp_path / "runs", batch_size=2,
    )  # fmt: skip
    assert result.metrics["MPJPE"] < 1e-3
    assert result.metrics["PVE"] < 1e-3
    assert result.metrics["PCK@0.05"] == 100
    assert (result.task, result.flip, result.codec, result.input) == ("hmr", False, "smpl", "256x256")
    assert result.protocol["body"] == "free_body_lite.npz"
    assert len(result.protocol["body_sha256"]) == 64
    run = results.load_runs(tmp_path / "runs")[0]
    assert set(run.arrays()) == {"MPJPE", "PA-MPJPE", "PVE", "normalised_distance"}


def test_saved_predictions_score_the_same(people: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.npz"
    common = ("--data-root", people, "--datasets-file", people / "sets.yaml", "--json")
    made = hmrbench(
        "eval", "by-heart", "-d", "free-3d", "--weights", "random", "--models-dir", write_card(tmp_path / "cards"),
        "--runs", tmp_path / "runs", "--save-predictions", file, "--device", "cpu", *common,
    )  # fmt: skip
    assert made.exit_code == 0, made.stderr
    scored = hmrbench("score", file, "-d", "free-3d", *common)
    assert json.loads(scored.stdout)[0]["metrics"] == json.loads(made.stdout)[0]["metrics"]
    with np.load(file) as saved:
        np.savez(tmp_path / "less.npz", **{k: saved[k] for k in saved.files if k not in ("id", "scores")})
    refused = hmrbench("score", tmp_path / "less.npz", "-d", "free-3d", *common)
    assert refused.exit_code == 3
    assert "less.npz: file of predictions lacks id, scores" in refused.stderr


def test_a_real_network_runs_on_it(people: Path) -> None:
    job = evaluate.prepare("swinhmr2-t-s2", spec_of(people), weights="random", data_root=people, device="cpu")
    found = evaluate.run(job).metrics
    assert all(np.isfinite(list(found.values())))
    assert found["MPJPE"] > 10


def test_photographs_in_4d_humans_layout_run(coco_mini: Path, tmp_path: Path) -> None:
    truth = json.loads((coco_mini / "annotations" / "person_keypoints_val2017.json").read_text())
    chosen = [a for a in truth["annotations"] if a["num_keypoints"]][:4]
    names = {i["id"]: i["file_name"] for i in truth["images"]}
    boxes = np.array([a["bbox"] for a in chosen])
    keypoints = np.zeros((4, 19, 3))
    keypoints[:, :17] = np.array([a["keypoints"] for a in chosen]).reshape(-1, 17, 3)
    np.savez(
        tmp_path / "people.npz",
        imgname=np.array([f"val2017/{names[a['image_id']]}" for a in chosen]).astype("S"),
        center=boxes[:, :2] + boxes[:, 2:] / 2,
        scale=boxes[:, 2:].max(1),
        extra_keypoints_2d=keypoints,
    )
    spec = data.load_spec("coco-val-hmr").model_copy(
        update={"annotations": str(tmp_path / "people.npz"), "images": ".", "options": {"body": "free-lite"}}
    )
    result = evaluate.evaluate("gmfhmr2-t-s2", spec, weights="random", data_root=coco_mini, device="cpu")
    assert result.samples == 4
    assert 0 <= result.metrics["PCK@0.1"] <= 100


def test_samples_and_limit(people: Path) -> None:
    whole = opened(people)
    assert whole.samples[0].box_xywh_px == (60.0, 30.0, 120.0, 160.0)
    assert all(s.padded for s in whole.samples)
    assert whole.truth["box_size_px"].tolist() == [SIZE] * 3
    part = opened(people, limit=2)
    assert part.partial
    assert len(part.truth["joints_m"]) == len(part.truth["params"]["betas"]) == 2
    assert len(part.truth["joint_subset"]) == len(JOINTS)


def test_one_scale_per_person_and_names_in_bytes(people: Path) -> None:
    write_people(people / "free", scale=np.full(3, 160.0), imgname=np.array([b"a.jpg", b"b.jpg", b"a.jpg"]))
    assert opened(people).samples[1].box_xywh_px == (70.0, 20.0, 160.0, 160.0)
    assert opened(people).samples[1].image.name == "b.jpg"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"center": None}, "lacks center"),
        ({"scale": np.ones(2)}, "scale is"),
        ({"body_keypoints_3d": np.zeros((3, 24, 4))}, r"body_keypoints_3d is \(3, 24, 4\), expected \(3, 25, 4\)"),
        ({"body_pose": np.zeros((3, 69))}, r"body_pose is \(3, 69\)"),
        ({"imgname": np.array(["a.jpg", None, "b.jpg"], object)}, "lacks imgname as plain arrays"),
        ({"scale": np.array([1.0, 0.0, 1.0])}, "person 1"),
        ({"body_keypoints_3d": None, "extra_keypoints_3d": None}, "which mpjpe needs"),
        ({"imgname": np.array(["a.jpg", "c.jpg", "a.jpg"])}, r"c\.jpg: image missing"),
    ],
)
def test_a_file_that_is_not_right_gives_one_clear_error(people: Path, change: dict[str, Any], message: str) -> None:
    write_people(people / "free", **change)
    with pytest.raises(DataError, match=message):
        opened(people)


def test_a_truncated_file_is_named(people: Path) -> None:
    path = people / "free" / "people.npz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"people\.npz: annotation file is not a readable npz"):
        opened(people)
    path.unlink()
    with pytest.raises(DataError, match=r"people\.npz: annotation file missing"):
        opened(people)


def test_python_objects_are_never_unpickled(people: Path, tmp_path: Path) -> None:
    from test_checkpoints import Trap

    write_people(people / "free", extra_info=np.array([Trap(tmp_path / "sprung")] * 3, object))
    assert len(opened(people).samples) == 3
    assert not (tmp_path / "sprung").exists()


def test_check(people: Path) -> None:
    (people / "free" / "pictures" / "b.jpg").unlink()
    found = hmr_npz.check(spec_of(people), people / "free")
    assert [(c.part, c.status) for c in found] == [
        ("annotations", "present"),
        ("images", "present"),
        ("image", "missing"),
    ]
    assert found[2].found.endswith("b.jpg")


def test_without_smpl_the_error_says_what_it_is(people: Path, tmp_path: Path) -> None:
    (people / "sets.yaml").write_text(SPEC.replace("free-lite", "smpl"))
    result = hmrbench(
        "eval", "hmr2-s", "-d", "free-3d", "--weights", "random", "--data-root", people,
        "--datasets-file", people / "sets.yaml", env={"HMRBENCH_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert result.exit_code == 3
    for words in ("SMPL", "smpl.is.tue.mpg.de", "hmrbench body install", "free body"):
        assert words in result.stderr


def test_the_five_benchmarks_are_there() -> None:
    specs = data.load_specs()
    assert {"3dpw-test", "h36m-val-p2", "lsp-extended", "posetrack-val", "coco-val-hmr"} <= set(specs)
    for name in ("3dpw-test", "h36m-val-p2"):
        assert specs[name].options["joints"] == JOINTS
        assert specs[name].metrics == ("mpjpe",)
    assert specs["3dpw-test"].counts["people"] == 35515


HMR = [c for c in zoo.load_cards().values() if c.task == "hmr"]


def test_the_31_mesh_models_are_there() -> None:
    truncated = {f"{f}hmr2-{s}-s{n}" for f in ("swin", "gmf", "vm") for s in "tsb" for n in (2, 3, 4)}
    assert {c.name for c in HMR} == truncated | {f"hmr2-{s}" for s in "sblh"}


@pytest.mark.parametrize("card", HMR, ids=lambda c: c.name)
def test_mesh_model_maps_a_picture_to_parameters(card: ModelCard) -> None:
    with torch.device("meta"):
        output = zoo.build_net(card).eval()(torch.empty(2, 3, 256, 256))
    shapes = {"global_orient": (2, 1, 3, 3), "body_pose": (2, 23, 3, 3), "betas": (2, 10), "cam": (2, 3)}
    assert {k: tuple(v.shape) for k, v in output.items()} == shapes


def test_parameters_the_paper_states() -> None:
    cards = zoo.load_cards()
    params = {n: zoo.count_parameters(cards[n])["params"] for n in ("gmfhmr2-s-s3", "swinhmr2-s-s3", "swinhmr2-s-s4")}
    assert 19.1e6 <= params["gmfhmr2-s-s3"] <= 19.4e6
    assert round(100 * (1 - params["swinhmr2-s-s3"] / params["swinhmr2-s-s4"]), 1) == 31.6


@pytest.mark.parametrize("name", ["SwinHMR2.0-S-S3", "HMR2.0-S", "HMR2.0 (ViT-H)", "gmfhmr2.0-t-s2"])
def test_the_papers_spelling(name: str) -> None:
    assert zoo.load_card(name).task == "hmr"
