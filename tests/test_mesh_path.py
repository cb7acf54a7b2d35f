"""The mesh networks by name: eval, score, predict and profile on a made body of SMPL's format, and every rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from made_bodies import smpl_sized
from scipy.sparse import csr_array
from test_cli import hmrbench

from hmrbench import evaluation, geometry, zoo
from hmrbench.body import Body, find_body, find_gendered, install_body
from hmrbench.body.mesh_assets import made_mesh, matrix_sha256, write_mesh_assets
from hmrbench.cards import load_card, load_cards
from hmrbench.data import load_spec
from hmrbench.errors import DataError, UsageError
from hmrbench.metrics.protocols import ANNOTATED_TO_14
from hmrbench.nets.meshes.mesh import H36M_TO_14
from hmrbench.nets.record import known_networks

pytestmark = pytest.mark.usefixtures("calm")
JOINTS = [25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 43]
SPEC = f"""
people-3d:
  {{task: hmr, title: People, reader: hmr-npz, folder: people, annotations: people.npz, images: pictures, licence: none,
   metrics: [mpjpe, pck], options: {{pve: true, pelvis: 39, joints: {JOINTS}, gendered_truth: true}}}}
"""
CENTERS, SIZE = np.array([(120.0, 110.0), (150.0, 100.0), (90.5, 130.25)]), 160.0
MESH_CARDS = [name for name, card in load_cards().items() if card.build in known_networks() and card.task == "hmr"]
# One of each family, the smallest.
SMALL = ["fastmetro-s-r50", "tore-fastmetro-l-effb0", "spin-r50", "cliff-r50", "smplerx-s"]
HELD = [name for name in MESH_CARDS if name not in (*SMALL, "smplerx-l", "smplerx-h")]  # what 3 GB of memory hold


def made_body(shift: float = 0.0) -> dict[str, Any]:
    """A body of SMPL's format in which every regressor finds the same joints, so that all rules can agree."""
    extra = np.zeros((19, 6890))
    h36m = made_mesh().joints17.toarray()
    extra[list(ANNOTATED_TO_14)] = h36m[list(H36M_TO_14)]
    extra[14] = h36m[0]
    extra[13, 5000] = extra[15, 5100] = extra[16, 5200] = extra[17, 5300] = 1
    parts = smpl_sized(joint_regressor_extra=extra)
    rng = np.random.default_rng(3)
    regressor = np.zeros((24, 6890))
    for joint in range(24):
        regressor[joint, 280 * joint : 280 * joint + 10] = 0.1
    parts["v_template"] = made_mesh().template * [1, -1, 1] + rng.normal(0, 0.01, (6890, 3)) + shift
    return parts | {"J_regressor": regressor, "f": rng.integers(0, 6890, (400, 3))}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with a made SMPL and mesh assets, and a data set of three people in two pictures: that body's truth."""
    root = tmp_path_factory.mktemp("home")
    bodies = root / "cache" / "bodies"
    install_body(made_body(), bodies)
    write_mesh_assets(bodies / "mesh_assets.npz", made_mesh())
    (root / "sets.yaml").write_text(SPEC)
    write_people(root / "people", find_body("smpl", bodies))
    return root


@pytest.fixture(autouse=True)
def cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HMRBENCH_CACHE", str(home / "cache"))


def params() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pose = 0.2 * torch.randn(3, 24, 3, generator=generator)
    pose[:, 0] = torch.tensor([torch.pi, 0, 0])
    return {"pose": pose, "betas": 0.5 * torch.randn(3, 10, generator=generator)}


def posed(body: Body) -> Any:
    matrices = geometry.axis_angle_to_matrix(params()["pose"])
    with torch.no_grad():
        vertices = body(matrices[:, :1], matrices[:, 1:], params()["betas"], vertices=True).vertices
    assert vertices is not None
    return vertices.numpy()


def write_people(folder: Path, body: Body, **change: Any) -> None:
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.jpg"):
        noise = rng.integers(0, 256, (12, 16, 3), np.uint8)
        cv2.imwrite(str(folder / "pictures" / name), cv2.resize(noise, (320, 240), interpolation=cv2.INTER_CUBIC))
    joints = body.joints_of(torch.from_numpy(posed(body))).numpy()
    in_space = np.concatenate([joints, np.ones((3, 44, 1))], axis=2)
    in_image = np.concatenate([CENTERS[:, None] + 60 * joints[..., :2], np.ones((3, 44, 1))], axis=2)
    fields = {
        "imgname": np.array(["a.jpg", "b.jpg", "a.jpg"]),
        "center": CENTERS,
        "scale": np.array([[0.75 * SIZE, SIZE]] * 3),
        "body_keypoints_2d": in_image[:, :25],
        "extra_keypoints_2d": in_image[:, 25:],
        "body_keypoints_3d": in_space[:, :25],
        "extra_keypoints_3d": in_space[:, 25:],
        "body_pose": params()["pose"].flatten(1).numpy(),
        "betas": params()["betas"].numpy(),
    }
    np.savez(folder / "people.npz", **{k: v for k, v in (fields | change).items() if v is not None})


def common(home: Path) -> tuple[Any, ...]:
    return ("-d", "people-3d", "--data-root", home, "--datasets-file", home / "sets.yaml", "--json")


def spec_of(home: Path, protocol: str | None = None) -> Any:
    return evaluation.with_protocol(load_spec("people-3d", home / "sets.yaml"), protocol)


# --------------------------------------------------------------------------- cards


def test_there_is_a_card_for_every_network_and_a_network_for_every_card() -> None:
    built = {load_card(name).build for name in MESH_CARDS}
    assert built == {net.name for net in known_networks().values() if net.output == "mesh"}
    assert len(MESH_CARDS) == 22  # the 21, and FastMETRO-L-H64 with its SMPL regressor
    for name in MESH_CARDS:
        card = load_card(name)
        assert card.weights
        assert card.input in known_networks()[name].input_sizes
        assert all(p.source and (p.metric == "MPE" or "@" in p.metric) for p in card.published), name


def test_published_numbers_of_other_rules_have_names_of_their_own() -> None:
    from hmrbench.report.references import load_references

    for row in load_references():
        if row.model.startswith(("METRO", "FastMETRO", "TORE", "MeshGraphormer", "CLIFF", "SPIN", "PARE")):
            assert all("@" in metric for scores in row.metrics.values() for metric in scores), row


# --------------------------------------------------------------------------- eval


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in HELD)])
def test_eval_on_pictures(home: Path, tmp_path: Path, name: str) -> None:
    ran = hmrbench("eval", name, "--weights", "random", "--device", "cpu", "--runs", tmp_path, *common(home))
    assert ran.exit_code == 0, ran.stderr
    row = json.loads(ran.stdout)[0]
    assert row["samples"] == 3
    assert row["metrics"]["MPJPE"] > 10
    assert set(row["metrics"]) >= {"MPJPE", "PA-MPJPE", "PCK@0.05"}
    assert ("PVE" in row["metrics"]) != name.startswith("smplerx")  # whose vertices are SMPL-X's
    assert row["input"] == load_card(name).input_text
    assert row["codec"] == load_card(name).codec
    needs = known_networks()[name].mesh
    assert ("mesh_assets_sha256" in row["protocol"]) == bool(needs)
    assert row["protocol"].get("template") == ("SMPL's" if needs == "template" else None)
    assert any("approximation" in remark for remark in row["remarks"]) == name.startswith("smplerx")
    assert bool(row["remarks"]) == name.startswith("smplerx")


def job_of(home: Path, name: str, **settings: Any) -> evaluation.Job:
    made = evaluation.EvaluationSettings(weights="random", device="cpu", data_root=home, **settings)
    return evaluation.prepare(name, spec_of(home), made)


def test_the_row_says_when_the_template_is_not_smpls(home: Path, tmp_path: Path) -> None:
    stored = job_of(home, "metro-r50")  # whose template is that of the installed body
    assert stored.protocol["template"] == "SMPL's"
    assert stored.remarks == []
    own = write_mesh_assets(tmp_path / "own.npz", made_mesh())
    given = job_of(home, "metro-r50", mesh_assets=own)
    assert given.protocol["template"] == "not SMPL's"
    assert "not the official one" in given.remarks[0]
    assert given.protocol["mesh_assets"] == "own.npz"
    assert given.protocol["mesh_assets_sha256"] != stored.protocol["mesh_assets_sha256"]
    assert given.key != stored.key
    assert "template" not in job_of(home, "fastmetro-s-r50").protocol


def test_missing_mesh_assets_stop_with_the_cure(home: Path, tmp_path: Path) -> None:
    for command in (("eval", "metro-r50", "--runs", tmp_path), ("eval", "tore-fastmetro-l-r50", "--runs", tmp_path)):
        ran = hmrbench(*command, "--weights", "random", "--mesh-assets", tmp_path / "none.npz", *common(home))
        assert ran.exit_code == 3
        assert "hmrbench body fetch" in ran.stderr
        assert "none.npz" in ran.stderr
    with pytest.raises(DataError, match="body fetch"):
        zoo.load_model("fastmetro-s-r50", "random", mesh_assets=tmp_path / "none.npz")
    rule = hmrbench("eval", "spin-r50", "--weights", "random", "--mesh-assets", tmp_path / "none.npz", "--runs",
                    tmp_path, "--protocol", "metro", *common(home))  # fmt: skip
    assert rule.exit_code == 3
    assert "body fetch" in rule.stderr


def test_a_body_of_another_topology_cannot_tell_joints(tmp_path: Path) -> None:
    ran = hmrbench("eval", "fastmetro-s-r50", "-d", "demo-mesh", "--weights", "random", "--runs", tmp_path)
    assert ran.exit_code == 3
    assert "6,890 vertices of SMPL" in ran.stderr
    rule = hmrbench("eval", "swinhmr2-t-s2", "-d", "demo-mesh", "--protocol", "all", "--runs", tmp_path)
    assert rule.exit_code == 3
    assert "6,890 vertices" in rule.stderr


def test_a_network_loads_with_the_assets_that_are_given(tmp_path: Path) -> None:
    shifted = made_mesh(made_mesh().template + np.float32(0.1) * np.arange(6890)[:, None] / 6890)
    net: Any = zoo.load_model("metro-r50", "random", mesh_assets=write_mesh_assets(tmp_path / "m.npz", shifted))
    expected = torch.tensor(shifted.template_tokens(), dtype=torch.float32)
    assert torch.allclose(net.head.template, expected, atol=1e-6)


# --------------------------------------------------------------------------- rules


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, id=np.array([f"person {i}" for i in range(3)]), **arrays)
    return path


def scored(home: Path, file: Path, *args: Any) -> dict[str, Any]:
    ran = hmrbench("score", file, *args, *common(home))
    assert ran.exit_code == 0, ran.stderr
    row: dict[str, Any] = json.loads(ran.stdout)[0]
    return row


def test_vertices_equal_to_the_truth_are_perfect_by_every_rule(home: Path, tmp_path: Path) -> None:
    file = saved(tmp_path / "p.npz", vertices_m=posed(find_body("smpl")))
    row = scored(home, file, "--protocol", "all")
    names = {"MPJPE", "PA-MPJPE", "PVE"}
    rules = {"metro": names, "spin": names - {"PVE"}, "smplerx": names, "smpl24": names}
    expected = names | {f"{name}@{rule}" for rule, own in rules.items() for name in own}
    assert set(row["metrics"]) == expected
    assert max(row["metrics"].values()) < 2e-3
    said = row["protocol"]["rules"]
    assert list(said) == ["4d-humans", *rules]
    assert [said[rule]["joints"] for rule in said] == [14, 14, 14, 14, 24]
    assert "midpoint of the hips" in said["metro"]["pelvis"]
    parts = made_body()
    hashes = {name: matrix_sha256(csr_array(parts[name])) for name in ("J_regressor", "joint_regressor_extra")}
    assert said["4d-humans"]["regressor"] == f"SMPL_to_J19 ({hashes['joint_regressor_extra'][:12]})"
    assert said["smplerx"]["regressor"] == said["smpl24"]["regressor"] == f"SMPL's own ({hashes['J_regressor'][:12]})"
    h36m = matrix_sha256(made_mesh().joints17)[:12]
    assert said["metro"]["regressor"] == said["spin"]["regressor"] == f"not the public one ({h36m})"
    assert "not the public one" in said["metro"]["regressor"]
    assert "not the gendered mesh's" in said["spin"]["truth"]
    assert "no pck: the file lacks keypoints_px" in row["remarks"]


@pytest.mark.parametrize("rule", ["metro", "spin", "smplerx", "smpl24"])
def test_a_planted_similarity_gives_the_right_values(home: Path, tmp_path: Path, rule: str) -> None:
    """A turn, a scale and a shift: PA-MPJPE 0, the others by arithmetic on the mesh."""
    truth = posed(find_body("smpl")).astype(np.float64)
    turn = geometry.axis_angle_to_matrix(torch.tensor([0.1, 0.4, -0.2])).double().numpy()
    moved = 1.2 * truth @ turn.T + [0.3, -2.0, 4.0]
    row = scored(home, saved(tmp_path / "p.npz", vertices_m=moved), "--protocol", rule)
    assert {name.partition("@")[2] for name in row["metrics"]} == {rule}
    found = {name.partition("@")[0]: value for name, value in row["metrics"].items()}
    tree = rule in ("smplerx", "smpl24")
    regressor = made_body()["J_regressor"] if tree else made_mesh().joints17.toarray()
    joints = np.einsum("jv,nvc->njc", regressor, truth)
    chosen = {"smplerx": [1, 2, 4, 5, 7, 8, 12, *range(15, 22)], "smpl24": list(range(24))}.get(rule, list(H36M_TO_14))
    origin = joints[:, chosen][:, 2:4].mean(1) if rule == "metro" else joints[:, 0]
    about = joints[:, chosen] - origin[:, None]
    expected = 1000 * np.linalg.norm(1.2 * about @ turn.T - about, axis=2).mean()
    assert found["MPJPE"] == pytest.approx(expected, rel=1e-4)
    assert found["PA-MPJPE"] == pytest.approx(0, abs=2e-3)
    if rule != "spin":
        mesh = truth - joints[:, :1]
        expected = 1000 * np.linalg.norm(1.2 * mesh @ turn.T - mesh, axis=2).mean()
        assert found["PVE"] == pytest.approx(expected, rel=1e-4)
    else:
        assert "PVE" not in found


def test_rules_of_parameters_and_of_their_vertices_agree(home: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    pose = geometry.axis_angle_to_matrix(params()["pose"] + 0.1 * torch.from_numpy(rng.normal(size=(3, 24, 3))).float())
    given = {"global_orient": pose[:, :1], "body_pose": pose[:, 1:], "betas": params()["betas"]}
    body = find_body("smpl")
    with torch.no_grad():
        out = body(**given, vertices=True)
    arrays = {f"params.{name}": value.numpy() for name, value in given.items()}
    by_params = scored(home, saved(tmp_path / "a.npz", joints_m=out.joints.numpy(), **arrays), "--protocol", "all")
    by_mesh = scored(home, saved(tmp_path / "b.npz", vertices_m=out.vertices.numpy()), "--protocol", "all")
    assert by_params["metrics"].keys() == by_mesh["metrics"].keys()
    for name, value in by_params["metrics"].items():
        assert by_mesh["metrics"][name] == pytest.approx(value, abs=1e-2), name
    assert by_mesh["metrics"]["MPJPE"] > 10


def test_joints_of_any_tool(home: Path, tmp_path: Path) -> None:
    truth = posed(find_body("smpl"))
    h36m = np.einsum("jv,nvc->njc", made_mesh().joints17.toarray(), truth)
    file = saved(tmp_path / "p.npz", joints14_m=(h36m - h36m[:, :1])[:, list(H36M_TO_14)])
    row = scored(home, file, "--protocol", "all")
    assert set(row["metrics"]) == {f"{name}@{rule}" for name in ("MPJPE", "PA-MPJPE") for rule in ("metro", "spin")}
    assert max(row["metrics"].values()) < 2e-3
    assert any(remark.startswith("not by rule 'smpl24'") for remark in row["remarks"])
    assert row["protocol"]["rules"]["metro"]["predicted"] == "joints of the file"
    tree = np.einsum("jv,nvc->njc", made_body()["J_regressor"], truth)
    row = scored(home, saved(tmp_path / "t.npz", joints24_m=tree - tree[:, :1]), "--protocol", "smpl24")
    assert row["metrics"]["MPJPE@smpl24"] < 2e-3


@pytest.mark.parametrize(
    ("arrays", "args", "message"),
    [
        ({}, (), "lacks joints_m or vertices_m, keypoints_px"),
        ({"vertices_m": np.zeros((3, 100, 3))}, (), r"vertices_m: a mesh of (100, 3)"),
        ({"vertices_m": np.full((3, 6890, 3), np.nan)}, (), "not finite"),
        ({"joints14_m": np.zeros((3, 13, 3))}, (), "expected (3, 14, 3)"),
        ({"joints_m": np.zeros((3, 44, 3))}, ("--protocol", "metro"), "nothing that rule 'metro' can compare"),
        ({"pred_vertices": np.zeros((3, 6890, 3))}, (), "lacks joints_m or vertices_m; it holds pred_vertices"),
        ({"joints24_m": np.zeros((3, 24, 3))}, (), "joints24_m are for another rule, see --protocol"),
    ],
)
def test_files_that_do_not_do(home: Path, tmp_path: Path, arrays: dict[str, Any], args: Any, message: str) -> None:
    ran = hmrbench("score", saved(tmp_path / "p.npz", **arrays), *args, *common(home))
    assert ran.exit_code == 3
    assert "p.npz" in ran.stderr
    assert message in ran.stderr


def test_the_order_the_type_and_what_else_a_tool_wrote_do_not_matter(home: Path, tmp_path: Path) -> None:
    truth = posed(find_body("smpl"))
    moved = truth + np.array([0.0, 3.0, 40.0], np.float32) * np.arange(3, dtype=np.float32)[:, None, None]
    order = [2, 0, 1]
    np.savez_compressed(
        tmp_path / "tool.npz",
        imgname=np.array(["b.jpg", "c.jpg", "a.jpg"]),
        focal_length=np.float64(5000),
        vertices_m=np.asfortranarray(moved[order].astype(np.float64)),
        id=np.array([f"person {i}".encode() for i in order]),
    )
    row = scored(home, tmp_path / "tool.npz", "--protocol", "all")
    assert {"MPJPE", "PVE", "PVE@metro", "MPJPE@smpl24"} <= set(row["metrics"])
    assert max(row["metrics"].values()) < 1e-1  # as far from the origin as float32 tells
    np.savez(tmp_path / "half.npz", id=np.array(["person 0", "person 1", "person 2"]), vertices_m=truth.astype("f2"))
    assert 0 < scored(home, tmp_path / "half.npz")["metrics"]["MPJPE"] < 1


def test_unknown_rules_and_rules_for_keypoints_are_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="did you mean metro"):
        spec_of(home, "metroo")
    with pytest.raises(UsageError, match="rule for meshes"):
        evaluation.with_protocol(load_spec("coco-val"), "metro")
    assert spec_of(home, "4d-humans") == spec_of(home)


def test_spins_truth_is_the_gendered_mesh(home: Path, tmp_path: Path) -> None:
    """Where the file says genders and the bodies are installed; the women's mesh differs here."""
    bodies = home / "cache" / "bodies"
    paths = [install_body({**made_body(), "gender": "male"}, bodies, gender="male")]
    female = made_body()
    female["v_template"] = female["v_template"] * [1.1, 1, 1]
    paths.append(install_body({**female, "gender": "female"}, bodies, gender="female"))
    try:
        assert list(find_gendered()) == ["female", "male"]
        folder = tmp_path / "people"
        write_people(folder, find_body("smpl"), gender=np.array(["m", "f", "m"]))
        meshes = posed(find_body("smpl"))
        meshes[1] = posed(find_gendered()["female"])[1]
        file = saved(tmp_path / "p.npz", vertices_m=meshes)
        args = ("-d", "people-3d", "--data-root", tmp_path, "--datasets-file", home / "sets.yaml", "--json")
        row = json.loads(hmrbench("score", file, "--protocol", "all", *args).stdout)[0]
        assert row["metrics"]["MPJPE@spin"] < 2e-3
        assert row["metrics"]["MPJPE@smpl24"] < 2e-3
        assert row["metrics"]["MPJPE@metro"] > 1  # whose truth is annotated, by the neutral body here
        assert row["protocol"]["rules"]["spin"]["truth"] == "the gendered mesh's joints"
    finally:
        for path in paths:
            path.unlink()


def test_the_female_body_is_not_kept_as_the_neutral_or_the_male_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--gender female"):
        install_body({**made_body(), "gender": "female"}, tmp_path)
    with pytest.raises(DataError, match="not the male one"):
        install_body({**made_body(), "gender": "female"}, tmp_path, gender="male")
    assert not list(tmp_path.iterdir())


def test_rules_side_by_side_are_printed(home: Path, tmp_path: Path) -> None:
    file = saved(tmp_path / "p.npz", vertices_m=posed(find_body("smpl")))
    shown = hmrbench("score", file, "--protocol", "all", *common(home)[:-1], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.stderr
    for word in ("4d-humans", "metro", "spin", "smplerx", "smpl24", "midpoint of the hips", "annotated joints"):
        assert word in " ".join(shown.stdout.split()), word


def test_eval_by_all_rules_scores_as_its_saved_predictions(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "p.npz"
    ran = hmrbench("eval", "tore-fastmetro-l-effb0", "--weights", "random", "--device", "cpu", "--runs", tmp_path / "r",
                   "--protocol", "all", "--save-predictions", file, *common(home))  # fmt: skip
    assert ran.exit_code == 0, ran.stderr
    row = json.loads(ran.stdout)[0]
    again = scored(home, file, "--protocol", "all")
    assert again["metrics"] == pytest.approx(row["metrics"], abs=1e-3)
    assert {"MPJPE@metro", "PVE@metro", "MPJPE@spin", "MPJPE@smpl24", "PCK@0.1"} <= set(row["metrics"])


# --------------------------------------------------------------------------- predict


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in HELD)])
def test_predict_draws_everybodys_mesh(home: Path, tmp_path: Path, name: str) -> None:
    picture = home / "people" / "pictures" / "a.jpg"
    drawn = hmrbench("predict", name, picture, "--weights", "random", "--device", "cpu", "--boxes", "60,10,150,200",
                     "-o", tmp_path, "--save-mesh", "ply", "--json")  # fmt: skip
    assert drawn.exit_code == 0, drawn.stderr
    row = json.loads(drawn.stdout)[0]
    assert (row["model"], row["body"]) == (name, "smpl.npz")
    person = row["people"][0]
    assert np.isfinite(person["keypoints_px"]).all()
    assert np.shape(person["keypoints_px"]) == (*np.shape(person["joints_m"])[:1], 2)
    assert b"element vertex 6890\n" in (tmp_path / person["mesh"]).read_bytes()
    assert cv2.imread(str(tmp_path / row["picture"])).shape == (240, 320, 3)


def test_predict_draws_a_regressed_mesh(home: Path, tmp_path: Path) -> None:
    picture = home / "people" / "pictures" / "a.jpg"
    drawn = hmrbench("predict", "tore-fastmetro-l-effb0", picture, "--weights", "random", "--save-mesh", "obj",
                     "--device", "cpu", "-o", tmp_path, "--json")  # fmt: skip
    assert drawn.exit_code == 0, drawn.stderr
    person = json.loads(drawn.stdout)[0]["people"][0]
    assert len(person["keypoints_px"]) == 44
    assert "betas" not in person
    lines = (tmp_path / person["mesh"]).read_text().splitlines()
    assert sum(line.startswith("v ") for line in lines) == 6890
    assert (tmp_path / "a-tore-fastmetro-l-effb0.png").is_file()


# --------------------------------------------------------------------------- profile


def test_profile_counts_as_the_papers_do_and_says_what_nothing_reads(tmp_path: Path) -> None:
    ran = hmrbench("profile", "tore-fastmetro-l-effb0", "--repeats", "0", "--runs", tmp_path, "--json",
                   env={"HMRBENCH_CACHE": str(tmp_path / "none")})  # fmt: skip
    assert ran.exit_code == 0, ran.stderr
    row = json.loads(ran.stdout)[0]
    assert (row["params"], row["params_unread"]) == (31_624_084, 1_281_000)
    assert row["macs"] == pytest.approx(1.563835e9, rel=2e-3)
    assert "1.28 M of 31.62 M parameters" in ran.stderr


@pytest.mark.slow
def test_profile_of_every_name_gives_the_official_counts(tmp_path: Path) -> None:
    """From the names alone, the largest too: nothing is allocated where only counts are asked for."""
    costs = json.loads((Path(__file__).parent / "refs" / "meshes" / "official_costs.json").read_text())
    names = [name for name in MESH_CARDS if not name.endswith("-smpl")]
    ran = hmrbench("profile", *names, "--repeats", "0", "--runs", tmp_path, "--json")
    assert ran.exit_code == 0, ran.stderr
    rows = {row["model"]: row for row in json.loads(ran.stdout)}
    official = {"spin-r50": "spin_hmr_r50", "cliff-r50": "cliff_res50"}
    for name in names:
        expected = costs[official.get(name, name.replace("-", "_"))]
        assert rows[name]["params"] == expected["params"], name
        assert rows[name]["params_encoder"] == expected["backbone"], name
        assert rows[name]["macs"] == pytest.approx(1e9 * expected["macs_G"], rel=5e-3), name
        # BERT's tables, HRNet's classifier and EfficientNet's
        unread = name.endswith(("h64", "effb0")) or name.startswith(("metro", "tore-metro"))
        assert ((rows[name].get("params_unread") or 0) > 0) == unread, name


# --------------------------------------------------------------------------- one table


def test_all_mesh_networks_are_the_papers_31_and_the_22_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hmrbench import profiling

    names: list[str] = []
    monkeypatch.setattr(profiling, "profile_card", lambda card, *_, **__: names.append(card.name) or [])
    ran = hmrbench("profile", "--all", "--task", "hmr", "--device", "cpu", "--runs", tmp_path, "--json")
    assert ran.exit_code == 0, ran.stderr
    assert set(names) == {name for name, card in load_cards().items() if card.task == "hmr"}
    assert len([name for name in names if "hmr2" in name]) == 31
    assert sorted(name for name in names if "hmr2" not in name) == sorted(MESH_CARDS)
    none = hmrbench("profile", "swinpose-t-s2", "--task", "hmr", "--runs", tmp_path)
    assert none.exit_code == 2
    assert "none of these networks is for hmr" in none.stderr


def test_one_table_shows_costs_rates_and_published_numbers_apart(tmp_path: Path) -> None:
    """The lines that the documentation gives for all mesh networks, on small ones of both kinds."""
    small = ("swinhmr2-t-s2", "spin-r50", "cliff-r50", "fastmetro-s-r50")
    ran = hmrbench("profile", *small, "swinpose-t-s2", "--device", "cpu", "--repeats", "1", "--runs", tmp_path)
    assert ran.exit_code == 0, ran.stderr
    rows = json.loads(hmrbench("table", "--task", "hmr", "--runs", tmp_path, "--json").stdout)
    assert {row["model"] for row in rows} == set(small)
    for row in rows:
        assert row["params"] > 0 < row["macs"]
        assert row["images_per_s"] > 0
        assert not [key for key in row if key.endswith("MPJPE") and not key.startswith("published:")]
    by_name = {row["model"]: row for row in rows}
    assert by_name["cliff-r50"]["published:3dpw-test:MPJPE@spin"] == 72.0
    assert by_name["fastmetro-s-r50"]["published:h36m-val-p2:PA-MPJPE@metro"] == 38.8
    assert by_name["spin-r50"]["published:3dpw-test:MPJPE@spin"] is None
    hmrbench("table", "--task", "hmr", "--runs", tmp_path, "-f", "markdown", "-o", tmp_path / "mesh.md")
    written = (tmp_path / "mesh.md").read_text()
    for words in (*small, "params (M)", "MACs (G)", "images/s", "published, 3dpw-test MPJPE@spin"):
        assert words in written, words
    assert "swinpose" not in written
    both = json.loads(hmrbench("table", "--task", "hmr", "--runs", tmp_path, "--with-published", "--json").stdout)
    assert {"PARE", "METRO-H64"} <= {row["model"] for row in both if row["kind"] == "published"}
    assert not [row["model"] for row in both if row["kind"] == "published" and row["model"].startswith("CLIFF-R50")]
