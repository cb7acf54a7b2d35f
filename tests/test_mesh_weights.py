"""Official checkpoints of the mesh networks: every layout loads strictly, and the public mesh files become one."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from test_cli import hmrbench
from test_mesh_nets import LAYOUTS

from hmrbench import checkpoints, zoo
from hmrbench.body import public_assets
from hmrbench.body.mesh_assets import find_mesh_assets, made_mesh, smpl_template
from hmrbench.cards import load_card, load_cards
from hmrbench.errors import DataError, WeightsError
from hmrbench.nets.encoders.record import known_encoders
from hmrbench.nets.meshes.mesh import SHAPES
from hmrbench.nets.record import known_networks
from hmrbench.zoo import convert

OFFICIAL = {"spin-r50": "spin_hmr_r50", "cliff-r50": "cliff_res50"}
NETS = {name: net for name, net in known_networks().items() if net.output == "mesh"}


def official_state(name: str) -> dict[str, torch.Tensor]:
    """Tensors of the official shapes under the official keys, without data."""
    keys = dict(LAYOUTS[OFFICIAL.get(name, name.removesuffix("-smpl").replace("-", "_"))])
    if name.endswith("-smpl"):
        keys |= LAYOUTS["fastmetro_smpl_regressor"]
    return {key: torch.empty(shape, device="meta") for key, shape in keys.items()}


def load(name: str, state: dict[str, torch.Tensor]) -> checkpoints.LoadReport:
    """Keys and shapes alone: there are no numbers whose kind could be looked at."""
    with (
        torch.device("meta"),
        pytest.MonkeyPatch.context() as patch,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        patch.setattr(checkpoints.loading, "cannot_be_meant", lambda *_: "")
        return checkpoints.load_network(zoo.build_net(load_card(name)), state, "file.bin", NETS[name].layout)


@pytest.mark.parametrize("name", NETS)
def test_official_layouts_load_strictly(name: str) -> None:
    report = load(name, official_state(name))
    assert report.layout == NETS[name].layout.name
    assert (report.unexpected, report.unused, report.missing) == ((), (), ())


def test_a_missing_key_is_named_and_one_that_nothing_reads_may_be_missing() -> None:
    state = official_state("graphormer-h64")
    less = {k: v for k, v in state.items() if ".bert.embeddings." not in k and ".pooler." not in k}
    report = load("graphormer-h64", less)
    assert len(report.missing) == len(state) - len(less) > 0
    key = "trans_encoder.1.bert.img_embedding.weight"
    with pytest.raises(WeightsError, match=r"1 missing: head\.trans_encoder\.1\.bert\.img_embedding\.weight"):
        load("graphormer-h64", {k: v for k, v in state.items() if k != key})
    with pytest.raises(WeightsError, match="misshapen"):
        load("graphormer-h64", state | {key: torch.empty(3, 3, device="meta")})


def test_keys_without_a_place_are_listed_as_unused() -> None:
    regressor = {k: torch.empty(s, device="meta") for k, s in LAYOUTS["fastmetro_smpl_regressor"].items()}
    report = load("fastmetro-l-h64", official_state("fastmetro-l-h64") | regressor)
    assert set(report.unused) == set(regressor)
    assert report.unexpected == ()
    body = {"smplx_layer.betas": torch.empty(1, 10, device="meta")}
    assert load("smplerx-s", official_state("smplerx-s") | body).unused == ("smplx_layer.betas",)


def test_weights_check_and_convert_of_a_training_file(tmp_path: Path) -> None:
    """SMPLer-X keeps an optimizer beside its weights, in a wrapper, and its encoder alone looks like another's."""
    state = {f"module.{k}": torch.zeros(v.shape, dtype=torch.float16) for k, v in official_state("smplerx-s").items()}
    source = tmp_path / "smpler_x_s32.pth.tar"
    torch.save({"epoch": 1, "network": state, "optimizer": {"state": {}}}, source)
    checked = hmrbench("weights", "check", "smplerx-s", source, "--json")
    assert checked.exit_code == 0, checked.stderr
    assert json.loads(checked.stdout)["layout"] == "smplerx"
    wrong = hmrbench("weights", "check", "spin-r50", source)
    assert wrong.exit_code == 3
    assert "missing" in wrong.stderr
    target = tmp_path / "ours.safetensors"
    made = hmrbench("weights", "convert", source, target, "--model", "smplerx-s", "--json")
    assert made.exit_code == 0, made.stderr
    again = hmrbench("weights", "check", "smplerx-s", target, "--json")
    assert json.loads(again.stdout)["layout"] == "hmrbench"


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_weights_check_takes_the_official_file_of_every_network(name: str, tmp_path: Path) -> None:
    source = tmp_path / "official.pth"
    torch.save({k: torch.zeros(v.shape, dtype=torch.float16) for k, v in official_state(name).items()}, source)
    checked = hmrbench("weights", "check", name, source, "--json")
    source.unlink()  # of up to 1.3 GB
    assert checked.exit_code == 0, checked.stderr
    report = json.loads(checked.stdout)
    assert not report["unexpected"]
    assert report["layout"] != "hmrbench"


@pytest.mark.parametrize("name", NETS)
def test_a_file_is_looked_for_among_networks_of_its_kind(name: str) -> None:
    """By sizes and keys, without building any: its own network is among them, and most others are not."""
    cards = load_cards()
    candidates = [*known_encoders(), *cards]
    likely = list(convert._likely(candidates, cards, official_state(name)))
    assert name in likely
    assert len(likely) < len(candidates) / 3


def test_no_network_is_built_that_cannot_have_a_file_that_names_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {k: torch.zeros(v.shape, dtype=torch.float16) for k, v in official_state("tore-fastmetro-l-effb0").items()}
    torch.save(state, tmp_path / "official.bin")
    built: list[str] = []
    build = zoo.build_net
    monkeypatch.setattr(convert, "build_net", lambda card, *a, **k: built.append(card.name) or build(card, *a, **k))
    made = hmrbench("weights", "convert", tmp_path / "official.bin", tmp_path / "ours.safetensors", "--json")
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["model"] == "tore-fastmetro-l-effb0"
    assert len(built) < 20
    assert not [name for name in built if name.startswith(("swin", "vm", "gmf", "hmr2", "vitpose"))]


# --------------------------------------------------------------------------- the public files


def public_files(folder: Path, monkeypatch: pytest.MonkeyPatch, swapped: bool = False) -> Path:
    """Made files in the form of the public ones, whose hashes stand for the known ones."""
    mesh = made_mesh()
    folder.mkdir(parents=True, exist_ok=True)
    coarse = scipy.sparse.csc_matrix(mesh.adjacency.toarray() != 0, dtype=np.float64)
    coarse.setdiag(0)
    coarse.eliminate_zeros()

    def objects(*matrices: Any) -> Any:
        out = np.empty(len(matrices), object)
        out[:] = matrices
        return out

    down, up = ([scipy.sparse.csc_matrix(getattr(mesh, f"{way}{i}")) for i in (0, 1)] for way in ("down", "up"))
    arrays = {"A": objects(coarse, coarse, coarse), "U": objects(*up), "D": objects(*down), "M": objects(Mesh())}
    np.savez(folder / public_assets.DOWNSAMPLING, **arrays)
    regressor = mesh.joints17.toarray().astype(np.float64)
    name = "J_regressor_h36m.npy" if swapped else public_assets.REGRESSOR
    np.save(folder / name, regressor[list(public_assets.SWAPPED_LEGS)] if swapped else regressor)
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    order = public_assets.SPIN_ORDER if swapped else public_assets.METRO_ORDER
    monkeypatch.setitem(public_assets.REGRESSOR_FILES, hashes[name], order)  # type: ignore[misc]
    monkeypatch.setattr(
        public_assets,
        "_SHA256",
        {public_assets.DOWNSAMPLING: hashes[public_assets.DOWNSAMPLING], public_assets.REGRESSOR: hashes[name]},
    )
    return folder


class Mesh:
    """What the public file holds beside matrices: an object of a class that is not read."""


@pytest.mark.parametrize("swapped", [False, True])
def test_body_fetch_makes_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: bool) -> None:
    folder = public_files(tmp_path / "public", monkeypatch, swapped)
    env = {"HMRBENCH_CACHE": str(tmp_path / "cache")}
    made = hmrbench("body", "fetch", "--from", folder, "--json", env=env)
    assert made.exit_code == 0, made.stderr
    row = json.loads(made.stdout)
    assert row["smpl_template"] is False
    assert "not the public one" in row["regressor"]
    found, mesh = find_mesh_assets(Path(row["written"])), made_mesh()
    for key in SHAPES:
        assert abs(getattr(found.matrices, key) - getattr(mesh, key)).max() < 1e-6, key
    listed = {r["name"]: r for r in json.loads(hmrbench("body", "list", "--json", env=env).stdout)}
    assert listed["mesh-assets"]["status"] == "incomplete"
    assert "SMPL" in listed["mesh-assets"]["detail"]


def test_smpls_template_takes_its_place_once_smpl_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_mesh_path import made_body

    from hmrbench.body import install_body

    monkeypatch.setenv("HMRBENCH_CACHE", str(tmp_path / "cache"))
    public_assets.fetch_mesh_assets(public_files(tmp_path / "public", monkeypatch))
    before = find_mesh_assets()
    assert not before.smpl_template
    install_body(made_body())
    after, own = find_mesh_assets(), smpl_template()
    assert after.smpl_template
    assert own is not None
    assert np.array_equal(after.matrices.template, own)
    assert after.sha256 != before.sha256


def test_a_regressor_that_nobody_knows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = public_files(tmp_path / "public", monkeypatch)
    np.save(folder / public_assets.REGRESSOR, np.ones((17, 6890)))
    with pytest.raises(DataError, match="which leg is which is not known"):
        public_assets.fetch_mesh_assets(folder, tmp_path)
    assert not (tmp_path / "mesh_assets.npz").exists()


@pytest.mark.parametrize("kind", ["another", "cut", "trap", "lacks", "none"])
def test_what_is_not_the_public_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    folder = public_files(tmp_path / "public", monkeypatch)
    path = folder / public_assets.DOWNSAMPLING
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "trap":
        np.savez(path, **dict.fromkeys("AUD", np.array([Trap(tmp_path / "sprung")] * 3, object)))
    elif kind == "lacks":
        np.savez(path, A=np.zeros(3))
    elif kind == "none":
        path.unlink()
    else:
        np.savez(path, A=np.zeros(1), U=np.zeros(1), D=np.zeros(1))
    made = hmrbench("body", "fetch", "--from", folder, env={"HMRBENCH_CACHE": str(tmp_path / "cache")})
    assert made.exit_code == 3
    assert public_assets.DOWNSAMPLING in made.stderr
    with pytest.raises(DataError, match=public_assets.DOWNSAMPLING):
        public_assets.read_downsampling(path)
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_sources_are_addresses_with_hashes() -> None:
    for name, sources in public_assets.SOURCES.items():
        assert len({s.sha256 for s in sources}) == 1
        assert all(s.url.startswith("https://") and s.url.endswith(name) and s.licence for s in sources)
