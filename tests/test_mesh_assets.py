"""The matrices of the METRO family: made, written, read back, and refused when they cannot be right."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import refio
import seeding
import torch
from drawn import bound
from scipy.sparse import csr_array

from hmrbench.body import mesh_assets
from hmrbench.body.mesh_assets import made_mesh, normalised_adjacency, read_mesh_assets, write_mesh_assets
from hmrbench.errors import DataError
from hmrbench.nets.meshes.mesh import SHAPES, SparseRows


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = write_mesh_assets(tmp_path_factory.mktemp("assets") / "mesh.npz", made_mesh())
    with np.load(path) as file:
        return dict(file)


def saved(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    mesh = made_mesh()
    again = read_mesh_assets(write_mesh_assets(tmp_path / "mesh.npz", mesh))
    for name, shape in SHAPES.items():
        ours, theirs = getattr(mesh, name), getattr(again, name)
        assert theirs.shape == shape
        assert theirs.dtype == np.float32
        assert (ours != theirs).nnz == 0
    assert np.array_equal(mesh.template, again.template)
    assert np.array_equal(mesh.template_tokens(), again.template_tokens())


def test_the_file_has_the_documented_parts(arrays: dict[str, Any]) -> None:
    parts = {f"{name}.{part}" for name in SHAPES for part in ("row", "col", "value", "shape")}
    assert set(arrays) == parts | {"template"}


def test_made_matrices_follow_their_formula() -> None:
    mesh = made_mesh()
    ring = mesh.adjacency.toarray()
    i, j = np.indices(ring.shape)
    assert np.array_equal(ring != 0, np.isin((i - j) % 431, [0, 1, 2, 429, 430]))
    assert ring[ring != 0] == pytest.approx(0.2)
    up = mesh.up0.toarray()
    assert up[5000, [1554, 1555, 1556]] == pytest.approx([0.5, 0.3, 0.2])  # 5000 modulo 1723
    assert (np.count_nonzero(up, axis=1) == 3).all()
    assert np.array_equal(mesh.down0.toarray().argmax(1), 4 * np.arange(1723))
    assert np.array_equal(mesh.down1.toarray().argmax(1), 4 * np.arange(431))
    assert mesh.joints17.toarray()[3, 1200:1210] == pytest.approx(0.1)
    assert mesh.joints17.nnz == 170


def test_template_tokens_of_a_made_body_are_the_official_ones(refs: Path) -> None:
    """The official body model, turned by its pose, against two lines of arithmetic."""
    ref = np.load(refs / "meshes" / "metro_template_unit.npz")
    vertices = (0.5 * seeding.seeded_input((6890, 3), seed=1)).numpy()
    regressor = np.zeros((24, 6890))
    for joint in range(24):
        regressor[joint, 280 * joint : 280 * joint + 10] = 0.1
    turned = mesh_assets.turned_template(vertices, regressor)
    assert refio.error(ref, "template_vertices", turned[None]) < bound(1e-6)
    assert refio.error(ref, "rotation", mesh_assets._UPSIDE_DOWN[None]) < 1e-6
    assert refio.error(ref, "tokens", made_mesh(turned).template_tokens()[None]) < bound(1e-6)
    with pytest.raises(DataError, match="6890 vertices and 24 joints"):
        mesh_assets.turned_template(vertices[:-1], regressor)


def test_adjacency_is_normalised_with_self_loops() -> None:
    neighbours = csr_array(np.array([[0, 7, 0], [7, 0, -2], [0, -2, 5]]))
    expected = [[1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3], [0, 1 / 2, 1 / 2]]
    assert normalised_adjacency(neighbours).toarray() == pytest.approx(np.array(expected))


@pytest.mark.parametrize("rows", [1, 7])
def test_sparse_rows_are_a_matrix_product(rows: int) -> None:
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((rows, 9)) < 0.3, rng.normal(size=(rows, 9)), 0)
    dense[0] = 0  # a row without entries
    x = torch.tensor(rng.normal(size=(2, 9, 3)), dtype=torch.float32)
    out = SparseRows(csr_array(dense))(x)
    assert out.numpy() == pytest.approx(dense @ x.numpy(), abs=1e-6)


def test_entries_of_one_place_are_added_up(tmp_path: Path, arrays: dict[str, Any]) -> None:
    twice = {
        "up0.row": np.append(arrays["up0.row"], 0),
        "up0.col": np.append(arrays["up0.col"], 0),
        "up0.value": np.append(arrays["up0.value"], 0.25),
    }
    mesh = read_mesh_assets(saved(tmp_path / "mesh.npz", arrays | twice))
    assert mesh.up0[0, 0] == 0.75


def changed(arrays: dict[str, Any], key: str, place: int, value: float) -> dict[str, Any]:
    array = arrays[key].copy()
    array.flat[place] = value
    return arrays | {key: array}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {k: v for k, v in a.items() if k not in ("up1.row", "template")}, r"lack up1\.row, template"),
        (lambda a: a | {"template": a["template"][:-1]}, r"template must be \(6890, 3\).*\(6889, 3\)"),
        (lambda a: changed(a, "template", 5, np.nan), "template must be .* finite"),
        (lambda a: a | {"down0.shape": np.array([6890, 1723])}, r"down0\.shape is \[6890, 1723\], not \[1723, 6890\]"),
        (lambda a: a | {"down0.shape": np.array(1723)}, r"down0\.shape is 1723"),
        (lambda a: a | {"up0.value": a["up0.value"][:-1]}, "up0 needs as many rows as columns and values"),
        (lambda a: a | {"up0.row": a["up0.row"].astype(float)}, "up0 needs whole numbers as rows"),
        (lambda a: a | {"up0.value": np.array(["x"] * a["up0.value"].size)}, "real ones as values"),
        (lambda a: changed(a, "up0.row", 3, 6890), r"up0\.row points outside"),
        (lambda a: changed(a, "up0.col", 3, 1723), r"up0\.col points outside"),
        (lambda a: changed(a, "joints17.col", 0, -1), r"joints17\.col points outside"),
        (lambda a: changed(a, "joints17.value", 0, np.inf), r"joints17\.value is not finite"),
        (lambda a: changed(a, "adjacency.value", 3, 0.9), "adjacency is not normalised: row 0 sums to 1.7, not 1"),
        (lambda a: changed(a, "up1.row", slice(0, 1000), 7), r"a row of up1 has \d+ entries; 64 is the most"),
        (
            lambda a: a | {f"up0.{p}": np.zeros(0, a[f"up0.{p}"].dtype) for p in ("row", "col", "value")},
            r"up0 needs .* 1 to 1,000,000",
        ),
    ],
)
def test_what_cannot_be_right_is_refused(tmp_path: Path, arrays: dict[str, Any], change: Any, message: str) -> None:
    path = saved(tmp_path / "mesh.npz", change(arrays))
    with pytest.raises(DataError, match=message) as caught:
        read_mesh_assets(path)
    assert str(path) in str(caught.value)


def test_an_adjacency_without_self_loops_is_refused(tmp_path: Path, arrays: dict[str, Any]) -> None:
    apart = arrays["adjacency.row"] != arrays["adjacency.col"]
    parts = {f"adjacency.{p}": arrays[f"adjacency.{p}"][apart] for p in ("row", "col", "value")}
    with pytest.raises(DataError, match="lacks the self loop of vertex 0"):
        read_mesh_assets(saved(tmp_path / "mesh.npz", arrays | parts))


def test_a_missing_and_a_broken_file(tmp_path: Path, arrays: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="mesh assets missing"):
        read_mesh_assets(tmp_path / "none.npz")
    path = saved(tmp_path / "mesh.npz", arrays)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match="not a readable npz"):
        read_mesh_assets(path)


def test_a_file_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("template.npy", "w") as member:
        np.save(member, np.zeros(mesh_assets.MAX_BYTES // 8 + 1))
    with pytest.raises(DataError, match=r"bomb\.npz: .*template declares .* more than the"):
        read_mesh_assets(path)


def test_an_array_that_claims_more_than_there_is(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**14, 3)})
    path = tmp_path / "mesh.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("template.npy", header.getvalue())
    with pytest.raises(DataError, match=r"declares .* bytes, and holds 0"):
        read_mesh_assets(path)


def test_the_public_regressor_with_the_legs_swapped_is_known_by_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of whatever file: made assets whose regressor stands for the public one, in METRO's order and in SPIN's."""
    mesh = mesh_assets.made_mesh()
    monkeypatch.setattr(mesh_assets, "PUBLIC_REGRESSOR", mesh_assets.matrix_sha256(mesh.joints17))
    right = mesh_assets.write_mesh_assets(tmp_path / "metro.npz", mesh)
    assert abs(mesh_assets.read_mesh_assets(right).joints17 - mesh.joints17).max() == 0
    swapped = replace(mesh, joints17=mesh.joints17[list(mesh_assets.SWAPPED_LEGS)])
    wrong = mesh_assets.write_mesh_assets(tmp_path / "spin.npz", swapped)
    with pytest.raises(DataError, match=r"spin\.npz: joints17 is .* in SPIN's order .* legs are swapped"):
        mesh_assets.read_mesh_assets(wrong)
