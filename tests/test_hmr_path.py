"""The whole path for meshes: npz file with pictures -> crop -> network -> body -> joints -> metrics -> row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from conftest import prepare_job
from test_cli import hmrbench

from hmrbench import data, evaluation, geometry, zoo
from hmrbench.body import free_body
from hmrbench.body.decode import decode_mesh
from hmrbench.cards import load_card, load_cards
from hmrbench.data import hmr_npz
from hmrbench.errors import DataError
from hmrbench.records import Dataset, Prediction
from hmrbench.results import runs as results
from hmrbench.schema import DatasetSpec, ModelCard
from hmrbench.zoo import parts

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
    keypoints, scores, joints, arrays = decode_mesh(output, np.array(centers), sizes, free_body(lite=True))
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
    found = evaluation.measure(predictions, spec_of(root), opened(root))
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
    result = evaluation.evaluate(
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
    job = prepare_job("swinhmr2-t-s2", spec_of(people), weights="random", data_root=people, device="cpu")
    found = evaluation.run(job).metrics
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
    result = evaluation.evaluate("gmfhmr2-t-s2", spec, weights="random", data_root=coco_mini, device="cpu")
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
        ({"center": None}, r"people\.npz: lacks center"),
        ({"center": None, "scale": None, "betas": None}, r"people\.npz: lacks center, scale, betas"),
        ({"center": np.zeros((2, 2))}, r"people\.npz: center is \(2, 2\), expected \(3, 2\)"),
        ({"center": np.zeros((3, 2), complex)}, r"people\.npz: center holds complex128, expected numbers"),
        ({"betas": np.array([["1"] * 10] * 3)}, r"people\.npz: betas holds <U1, expected numbers"),
        ({"betas": np.full((3, 10), np.nan)}, r"people\.npz: betas of person 0 is not finite \(3 people in all\)"),
        ({"imgname": np.array([], "U3")}, r"people\.npz: holds nobody"),
        ({"imgname": np.arange(3)}, r"people\.npz: imgname is \(3,\) of int64, expected one text"),
        ({"imgname": np.array("a.jpg")}, r"people\.npz: imgname is \(\) of <U5"),
        ({"imgname": np.array(["a.jpg", "", "b.jpg"])}, r"people\.npz: imgname of person 1, '', names no file"),
        ({"has_betas": np.ones(2)}, r"people\.npz: has_betas is \(2,\), expected \(3,\)"),
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


HMR = [c for c in load_cards().values() if c.task == "hmr" and c.build is None]


def test_the_31_mesh_models_are_there() -> None:
    truncated = {f"{f}hmr2-{s}-s{n}" for f in ("swin", "gmf", "vm") for s in "tsb" for n in (2, 3, 4)}
    assert {c.name for c in HMR} == truncated | {f"hmr2-{s}" for s in "sblh"}


@pytest.mark.parametrize("card", HMR, ids=lambda c: c.name)
@pytest.mark.thorough
def test_mesh_model_maps_a_picture_to_parameters(card: ModelCard) -> None:
    with torch.device("meta"):
        output = zoo.build_net(card).eval()(torch.empty(2, 3, 256, 256))
    shapes = {"global_orient": (2, 1, 3, 3), "body_pose": (2, 23, 3, 3), "betas": (2, 10), "cam": (2, 3)}
    assert {k: tuple(v.shape) for k, v in output.items()} == shapes


def test_parameters_the_paper_states() -> None:
    cards = load_cards()
    params = {n: parts.count_parameters(cards[n])["params"] for n in ("gmfhmr2-s-s3", "swinhmr2-s-s3", "swinhmr2-s-s4")}
    assert 19.1e6 <= params["gmfhmr2-s-s3"] <= 19.4e6
    assert round(100 * (1 - params["swinhmr2-s-s3"] / params["swinhmr2-s-s4"]), 1) == 31.6


@pytest.mark.parametrize("name", ["SwinHMR2.0-S-S3", "HMR2.0-S", "HMR2.0 (ViT-H)", "gmfhmr2.0-t-s2"])
def test_the_papers_spelling(name: str) -> None:
    assert load_card(name).task == "hmr"


# --------------------------------------------------------------------------- files as they are found


@pytest.mark.parametrize(
    "names",
    [
        np.array([["a.jpg"], ["b.jpg"], ["a.jpg"]]),
        np.array([[b"a.jpg"], [b"b.jpg"], [b"a.jpg"]]),
        np.array(["a.jpg", "b.jpg", "a.jpg"], "<U40"),
        np.array(["a.jpg", "b.jpg", "a.jpg"], ">U5"),
        np.array([b"a.jpg", b"b.jpg", b"a.jpg"], "S64"),
    ],
    ids=lambda n: f"{n.dtype}{n.shape}",
)
def test_names_in_any_shape_and_type_of_text(people: Path, names: np.ndarray) -> None:
    write_people(people / "free", imgname=names)
    assert [s.image.name for s in opened(people).samples] == ["a.jpg", "b.jpg", "a.jpg"]
    assert hmr_npz.images(spec_of(people), people / "free") == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_names_in_bytes_of_any_encoding(people: Path, encoding: str) -> None:
    folder = people / "free" / "pictures"
    (folder / "a.jpg").rename(folder / "café.jpg")
    write_people(people / "free", imgname=np.array(["café.jpg".encode(encoding)] * 3))
    assert {s.image.name for s in opened(people).samples} == {"café.jpg"}


def test_who_has_no_body_parameters_does_not_count_in_pve(people: Path) -> None:
    params = truth_params()
    pose, betas = params["pose"].flatten(1).numpy().copy(), params["betas"].numpy().copy()
    pose[1], betas[2] = np.nan, 0
    write_people(people / "free", body_pose=pose, betas=betas, has_body_pose=np.array([1, 0, 1]),
                 has_betas=np.array([[1.0], [1.0], [0.0]]))  # fmt: skip
    predictions = predictions_of_truth(params, CENTERS, SIZE)
    with pytest.raises(
        DataError, match=r"people.npz: .*'pve: labelled' in the set's options: sample person 1, person 2"
    ):
        prepare_job("swinhmr2-t-s2", spec_of(people), weights="random", data_root=people)
    spec = spec_of(people)
    spec = spec.model_copy(update={"options": {**spec.options, "pve": "labelled"}})
    prepare_job("swinhmr2-t-s2", spec, weights="random", data_root=people)
    mesh = evaluation.measure(predictions, spec, data.open_dataset(spec, people))[0]
    assert np.isfinite(mesh.per_sample["PVE"]).tolist() == [True, False, False]
    assert {s.name: s.value for s in mesh.scores}["PVE"] == pytest.approx(0, abs=1e-3)
    assert mesh.remarks == ("PVE is that of 1 of 3 people: the others have no body parameters",)


def test_joints_of_confidence_0_count_and_are_told(people: Path) -> None:
    """The protocol of 4D-Humans: all joints of its set count. A row says how many were not labelled."""
    space = np.load(people / "free" / "people.npz")["extra_keypoints_3d"].copy()
    space[1, 3] = 0
    write_people(people / "free", extra_keypoints_3d=space)
    found = evaluation.measure(predictions_of_truth(truth_params(), CENTERS, SIZE), spec_of(people), opened(people))[0]
    assert found.per_sample["MPJPE"][[0, 2]] == pytest.approx(0, abs=1e-9)
    away = 1000 * np.linalg.norm(predictions_of_truth(truth_params(), CENTERS, SIZE)[1].joints_m[28])  # type: ignore[index]
    assert found.per_sample["MPJPE"][1] == pytest.approx(away / len(JOINTS), rel=1e-6)
    assert len(found.remarks) == 1
    assert found.remarks[0].startswith("1 of 42 compared 3D joints have confidence 0")


def test_what_a_joint_that_is_not_compared_holds_does_not_matter(people: Path) -> None:
    space = np.load(people / "free" / "people.npz")["body_keypoints_3d"].copy()
    space[:, 0] = [np.nan, np.inf, np.nan, 0]
    write_people(people / "free", body_keypoints_3d=space)
    assert numbers(predictions_of_truth(truth_params(), CENTERS, SIZE), people)["MPJPE"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("joint", "value", "message"),
    [
        (14, 0, "true pelvis, from which all joints are measured, has confidence 0: sample person 1"),
        (3, np.nan, "truth is not finite: sample person 1"),
        (14, np.nan, "truth is not finite: sample person 1"),
    ],
)
def test_a_truth_that_cannot_be_scored_is_refused_before_the_weights(
    people: Path, joint: int, value: float, message: str
) -> None:
    space = np.load(people / "free" / "people.npz")["extra_keypoints_3d"].copy()
    space[1, joint] = value
    write_people(people / "free", extra_keypoints_3d=space)
    with pytest.raises(DataError, match=message):
        prepare_job("swinhmr2-t-s2", spec_of(people), weights="random", data_root=people, device="cpu")


def test_nobody_visible_is_refused_before_the_weights(people: Path) -> None:
    write_people(people / "free", body_keypoints_2d=np.zeros((3, 25, 3)), extra_keypoints_2d=np.zeros((3, 19, 3)))
    with pytest.raises(DataError, match="without any visible keypoint"):
        prepare_job("swinhmr2-t-s2", spec_of(people), weights="random", data_root=people, device="cpu")


def saved_predictions(people: Path, **change: Any) -> Path:
    ids = np.array([s.id for s in opened(people).samples])
    arrays = {"id": ids, **results.stack(predictions_of_truth(truth_params(), CENTERS, SIZE)), **change}
    np.savez(people / "p.npz", **{k: v for k, v in arrays.items() if v is not None})
    return people / "p.npz"


def test_predictions_of_others_score(people: Path) -> None:
    order = [2, 0, 1]
    whole = np.load(saved_predictions(people))
    moved = {k: whole[k][order] for k in whole.files}
    path = saved_predictions(people, **{**moved, "id": moved["id"].astype("S")})
    found = evaluation.score_file(path, spec_of(people), data_root=people)
    assert found.metrics["MPJPE"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": np.array(["person 0", "person 1", "person 0"])}, "person 0 is there more than once"),
        ({"id": np.array(["person 0", "person 1", "person 9"])}, "no prediction for person 2"),
        ({"id": np.arange(3)}, "id is .* of int64, expected one text"),
        ({"id": np.array(["person 0", "person 1"])}, r"is \(3, .*expected \(2"),
        ({"id": np.array(["person 0", None, "person 2"], object)}, "lacks id"),
        ({"joints_m": np.zeros((3, 44))}, r"joints_m is \(3, 44\), expected \(3, any, 3\)"),
        ({"joints_m": np.zeros((3, 24, 3))}, r"person 0: 3D joints expected \(44, 3\), found \(24, 3\)"),
        ({"joints_m": np.zeros((2, 44, 3))}, r"joints_m is \(2, 44, 3\)"),
        ({"joints_m": np.array([[["x"] * 3] * 44] * 3)}, "joints_m holds <U1, expected numbers"),
        ({"joints_m": np.ones((3, 44, 3), complex)}, "joints_m holds complex128"),
        ({"joints_m": np.stack([np.ones((44, 3)), np.full((44, 3), np.nan), np.ones((44, 3))])}, "of person 1 is not"),
        ({"joints_m": None}, "person 0: 3D joints expected"),
        ({"keypoints_px": np.zeros((3, 44, 3))}, r"keypoints_px is \(3, 44, 3\), expected \(3, any, 2\)"),
        ({"scores": np.zeros(3)}, r"scores is \(3,\)"),
        ({"crop_area_px2": np.float64(3)}, r"crop_area_px2 is \(\)"),
        ({"params.betas": np.zeros((3, 9))}, r"person 0: betas expected \(10,\), found \(9,\)"),
        ({"params.body_pose": np.float32(1)}, r"params.body_pose is \(\)"),
        ({"params.betas": np.full((3, 10), np.inf)}, "params.betas of person 0 is not finite"),
    ],
)
def test_predictions_that_are_not_right_are_refused_by_entry(
    people: Path, change: dict[str, Any], message: str
) -> None:
    path = saved_predictions(people, **change)
    with pytest.raises(DataError, match=message):
        evaluation.score_file(path, spec_of(people), data_root=people)


def mutate(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The array as a careless hand would have it: another type, shape, length or content."""
    with np.errstate(all="ignore"):
        match rng.integers(12):
            case 0:
                kinds = ["f2", "f4", "i1", "i8", "u1", "c8", "?", "U3", "S3", "M8[s]", "V4", ">f8"]
                kind = kinds[rng.integers(len(kinds))]
                return array.astype(kind) if array.dtype.kind in "fi" and kind != "V4" else np.zeros(array.shape, kind)
            case 1:
                return array[: rng.integers(len(array))] if array.ndim else array
            case 2:
                return array[..., None]
            case 3:
                return array.reshape(-1)
            case 4:
                return array[0] if array.ndim else array
            case 5:
                return array.T
            case 6:
                return array.astype(object)
            case 7:
                return np.repeat(array, 2, axis=0) if array.ndim else array
            case 8:
                return np.zeros((0, *array.shape[1:]), array.dtype)
            case 9 if array.dtype.kind == "f":
                hit = rng.random(array.shape) < 0.1
                return np.where(hit, [np.nan, np.inf, -1.0, 0.0, 1e300][rng.integers(5)], array)
            case 10 if array.dtype.kind in "US":
                odd = ["", "\0", "é", "../x", "/", "b.jpg\n", "x" * 300, " a.jpg"][rng.integers(8)]
                return np.array([odd, *array.ravel()[1:].tolist()])
            case _:
                return np.flip(array)


def test_a_mutated_file_is_read_or_refused_by_name(people: Path) -> None:
    """Every field, changed in type, shape, length or content: numbers come out, or one error that names the file."""
    rng = np.random.default_rng(0)
    with np.load(people / "free" / "people.npz") as file:
        good = {k: file[k] for k in file.files} | {"has_body_pose": np.ones(3), "has_betas": np.ones(3)}
    predictions = predictions_of_truth(truth_params(), CENTERS, SIZE)
    spec, read = spec_of(people), 0
    messages: list[str] = []
    for _ in range(200):
        changed = dict(good)
        for name in rng.choice(list(good), rng.integers(1, 3), replace=False):
            changed[name] = mutate(good[name], rng)
            if rng.random() < 0.1:
                del changed[name]
        np.savez(people / "free" / "people.npz", **changed)
        try:
            dataset = data.open_dataset(spec, people)
            found = evaluation.measure(predictions[: len(dataset.samples)], spec, dataset)
            assert all(np.isfinite(s.value) for m in found for s in m.scores)
            read += 1
        except DataError as e:
            messages.append(str(e))
    assert all(str(people) in m or "person" in m or "free-3d" in m for m in messages)
    assert min(read, len(messages)) > 20


@pytest.mark.parametrize("keep", [0, 1, 30, 500, 4000, -30, -1])
def test_a_file_cut_anywhere_is_named(people: Path, keep: int) -> None:
    path = people / "free" / "people.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"people\.npz: annotation file"):
        opened(people)
