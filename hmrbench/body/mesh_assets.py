"""The fixed mesh matrices of the METRO family in one file: written, read, and checked.

The npz holds `adjacency`, `up0`, `up1`, `down0`, `down1` and `joints17`, each as `NAME.row`, `NAME.col`,
`NAME.value` and `NAME.shape`, and `template` (6890, 3) in metres, turned to the camera's orientation (y down).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array, csr_array, identity

from hmrbench.body.install import body_folder
from hmrbench.errors import DataError
from hmrbench.files import read_arrays, write_arrays
from hmrbench.nets.meshes.mesh import COARSE, FULL, MIDDLE, SHAPES, MeshMatrices
from hmrbench.records import Array

MAX_BYTES = 32 << 20  # unpacked; the public matrices take less than 2 MiB
MAX_ENTRIES = 1_000_000  # of one matrix
MAX_IN_ROW = 64  # of one that is applied to vertices; the public ones have 1 (down), 3 (up0), 7 on average (adjacency)
MISSING = (
    "the mesh assets are not here (no {path}): the fixed matrices between meshes of three sizes and the regressor of "
    "Human3.6M's joints, which METRO, Mesh Graphormer, FastMETRO and TORE are built with and some rules measure by. "
    "They are derived from SMPL and not shipped; to get them from their public repository run\n"
    "    hmrbench body fetch\n"
    "or give a file of them with --mesh-assets FILE"
)
_PARTS = ("row", "col", "value", "shape")
# Human3.6M's regressor is passed around in METRO's order, which is wanted here, and in SPIN's, where the legs are
# swapped: rows of the one in the order of the other; the same list leads back. `matrix_sha256` is that of METRO's.
SWAPPED_LEGS = (0, 4, 5, 6, 1, 2, 3, *range(7, 17))
PUBLIC_REGRESSOR = "83b29a3d8114d444b3f6e66a08120d6b24e9697668fe47c2835de3145560bd51"


@dataclass(frozen=True)
class MeshAssets:
    """Mesh assets that are here: the matrices, the file they are of, and their hash (that of the numbers).

    `smpl_template` says whether the mesh at rest is that of the installed neutral SMPL, which METRO, Mesh Graphormer
    and TORE on METRO were trained with.
    """

    matrices: MeshMatrices
    source: Path
    sha256: str
    smpl_template: bool


def mesh_assets_path(folder: Path | None = None) -> Path:
    """Where `body fetch` keeps them."""
    return (folder or body_folder()) / "mesh_assets.npz"


def find_mesh_assets(path: Path | None = None, folder: Path | None = None) -> MeshAssets:
    """The mesh assets of a file, or those that `body fetch` stored, with the template of SMPL once it is installed.

    Args:
        path: a file of `write_mesh_assets`; None for the stored one.
        folder: of installed bodies; default `body_folder()`.

    Raises:
        DataError: they are missing, which says how to get them, or broken.
    """
    where = path or mesh_assets_path(folder)
    if not where.is_file():
        raise DataError(MISSING.format(path=where))
    mesh, own = read_mesh_assets(where), smpl_template(folder)
    if path is None and own is not None:
        mesh = replace(mesh, template=own)
    same = own is not None and bool(np.abs(own - mesh.template).max() < 1e-6)
    return MeshAssets(mesh, where, content_sha256(mesh), same)


def smpl_template(folder: Path | None = None) -> Array | None:
    """The template of METRO out of the installed neutral SMPL; None where it is not installed."""
    path = (folder or body_folder()) / "smpl.npz"
    if not path.is_file():
        return None
    arrays = read_arrays(path, "the installed body")
    return turned_template(arrays["v_template"], arrays["J_regressor"])


def content_sha256(mesh: MeshMatrices) -> str:
    """Hash of all numbers, the same whatever the file."""
    digest = hashlib.sha256(np.ascontiguousarray(mesh.template, "<f4").tobytes())
    for key in SHAPES:
        digest.update(matrix_sha256(getattr(mesh, key)).encode())
    return digest.hexdigest()


def matrix_sha256(matrix: csr_array) -> str:
    """Hash of a sparse matrix' numbers, in float32."""
    matrix = csr_array(matrix, copy=True).astype(np.float32)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    digest = hashlib.sha256(f"{matrix.shape}".encode())
    for part, dtype in ((matrix.indptr, "<i8"), (matrix.indices, "<i8"), (matrix.data, "<f4")):
        digest.update(np.ascontiguousarray(part, dtype).tobytes())
    return digest.hexdigest()


def read_mesh_assets(path: Path) -> MeshMatrices:
    """The matrices in an npz of `write_mesh_assets`.

    Raises:
        DataError: the file is missing, no npz, too large, or lacks a part, or a part has the wrong shape, is not
            finite or points outside its matrix; names the file and the part.
    """
    return mesh_matrices(read_arrays(path, "mesh assets", MAX_BYTES), str(path))


def mesh_matrices(arrays: Mapping[str, Array], name: str) -> MeshMatrices:
    """The matrices of the arrays of such a file; `name` names it in messages. Raises as `read_mesh_assets`."""
    missing = [key for key in (*(f"{m}.{part}" for m in SHAPES for part in _PARTS), "template") if key not in arrays]
    if missing:
        raise DataError(f"{name}: these mesh assets lack {', '.join(missing)}")
    template = arrays["template"]
    if template.shape != (FULL, 3) or template.dtype.kind != "f" or not np.isfinite(template).all():
        raise DataError(f"{name}: template must be ({FULL}, 3) finite numbers, not {template.shape} {template.dtype}")
    matrices = {key: _sparse({part: arrays[f"{key}.{part}"] for part in _PARTS}, key, name) for key in SHAPES}
    adjacency = matrices["adjacency"]
    if (adjacency.diagonal() == 0).any():
        raise DataError(
            f"{name}: adjacency lacks the self loop of vertex {np.flatnonzero(adjacency.diagonal() == 0)[0]}"
        )
    sums = np.asarray(adjacency.sum(axis=1)).ravel()
    if (np.abs(sums - 1) > 1e-3).any():
        row = int(np.argmax(np.abs(sums - 1)))
        raise DataError(f"{name}: adjacency is not normalised: row {row} sums to {sums[row]:.4g}, not 1")
    if matrix_sha256(matrices["joints17"][list(SWAPPED_LEGS)]) == PUBLIC_REGRESSOR:
        raise DataError(
            f"{name}: joints17 is Human3.6M's regressor in SPIN's order (J_regressor_h36m.npy), in which the legs are "
            "swapped; METRO's is wanted (J_regressor_h36m_correct.npy), such as `hmrbench body fetch` makes of either"
        )
    return MeshMatrices(**matrices, template=template.astype(np.float32))


def _sparse(parts: Mapping[str, Array], key: str, name: str) -> csr_array:
    """One matrix, float32 values, entries of one place added up."""
    row, col, value, shape = (parts[part] for part in _PARTS)
    if tuple(shape.ravel()[:3].tolist()) != SHAPES[key] or shape.dtype.kind not in "iu":
        raise DataError(f"{name}: {key}.shape is {shape.tolist()}, not {list(SHAPES[key])}")
    if row.ndim != 1 or row.shape != col.shape or row.shape != value.shape or not 0 < row.size <= MAX_ENTRIES:
        found = f"{row.shape}, {col.shape}, {value.shape}"
        raise DataError(f"{name}: {key} needs as many rows as columns and values, 1 to {MAX_ENTRIES:,}, not {found}")
    if row.dtype.kind not in "iu" or col.dtype.kind not in "iu" or value.dtype.kind != "f":
        kinds = f"{row.dtype}, {col.dtype}, {value.dtype}"
        raise DataError(f"{name}: {key} needs whole numbers as rows and columns and real ones as values, not {kinds}")
    for axis, index in (("row", row), ("col", col)):
        if int(index.min()) < 0 or int(index.max()) >= SHAPES[key][axis == "col"]:
            raise DataError(f"{name}: {key}.{axis} points outside a matrix of {SHAPES[key]}")
    if not np.isfinite(value).all():
        raise DataError(f"{name}: {key}.value is not finite")
    matrix = coo_array((value.astype(np.float32), (row, col)), shape=SHAPES[key]).tocsr()
    matrix.eliminate_zeros()
    widest = int(np.diff(matrix.indptr).max())
    if key != "joints17" and widest > MAX_IN_ROW:
        raise DataError(f"{name}: a row of {key} has {widest} entries; {MAX_IN_ROW} is the most")
    return matrix


def write_mesh_assets(path: Path, mesh: MeshMatrices) -> Path:
    """Write the npz, whole or not at all; returns its path."""
    arrays = {"template": mesh.template}
    for key in SHAPES:
        arrays |= parts_of(key, getattr(mesh, key))
    return write_arrays(path, arrays)


def parts_of(key: str, matrix: csr_array) -> dict[str, Array]:
    """A sparse matrix as the four arrays of the npz."""
    matrix = matrix.tocoo()
    parts = (matrix.row, matrix.col, matrix.data, np.array(matrix.shape))
    return {f"{key}.{part}": array for part, array in zip(_PARTS, parts, strict=True)}


def normalised_adjacency(neighbours: csr_array) -> csr_array:
    """Neighbours of each vertex with a self loop, every row divided by their number: (N, N), values of any kind."""
    own = csr_array(identity(neighbours.shape[0]))
    pattern = csr_array((neighbours != 0).astype(np.float64) + own)
    pattern.data[:] = 1
    count = np.asarray(pattern.sum(axis=1)).ravel()
    return csr_array(pattern.multiply(1 / count[:, None])).astype(np.float32)


def made_mesh(template: Array | None = None) -> MeshMatrices:
    """Matrices of the right shapes by formula, owed to nobody: for costs, and wherever no accuracy is measured.

    Five neighbours in a ring, three entries in a row of `up0` and `up1`, one in a row of `down0` and `down1`, joints
    that are the mean of ten vertices. The default template is an ellipsoid of human size.
    """
    ring = np.add.outer(np.arange(COARSE), [-2, -1, 0, 1, 2]) % COARSE
    joint = np.add.outer(400 * np.arange(17), np.arange(10))
    if template is None:
        step = np.arange(FULL) + 0.5
        y, angle = 1 - 2 * step / FULL, np.pi * (1 + 5**0.5) * step
        radius = np.sqrt(1 - y * y)
        template = np.stack((0.3 * radius * np.cos(angle), 0.85 * y, 0.15 * radius * np.sin(angle)), axis=1)
    return MeshMatrices(
        adjacency=normalised_adjacency(_filled(ring, [1.0], (COARSE, COARSE))),
        up0=_filled(np.add.outer(np.arange(FULL), [0, 1, 2]) % MIDDLE, [0.5, 0.3, 0.2], (FULL, MIDDLE)),
        up1=_filled(np.add.outer(np.arange(MIDDLE), [0, 1, 2]) % COARSE, [0.5, 0.3, 0.2], (MIDDLE, COARSE)),
        down0=_filled(4 * np.arange(MIDDLE)[:, None] % FULL, [1.0], (MIDDLE, FULL)),
        down1=_filled(4 * np.arange(COARSE)[:, None] % MIDDLE, [1.0], (COARSE, MIDDLE)),
        joints17=_filled(joint, [0.1], (17, FULL)),
        template=np.asarray(template, np.float32),
    )


def _filled(columns: Array, values: list[float], shape: tuple[int, int]) -> csr_array:
    """A matrix with `values` in each row's columns (rows, K)."""
    rows = np.repeat(np.arange(len(columns)), columns.shape[1])
    value = np.broadcast_to(np.array(values, np.float32), columns.shape).ravel()
    return csr_array(coo_array((value, (rows, columns.ravel())), shape=shape))


# SMPL turned by 3.1416 about x, as its official code rounds that in single precision.
_UPSIDE_DOWN = np.array([[1, 0, 0], [0, -1, 7.23998e-6], [0, -7.23998e-6, -1]])


def turned_template(vertices: Array, joint_regressor: Array) -> Array:
    """The template that METRO takes from SMPL: the mesh at rest, turned about its root from y up to y down.

    With all betas zero and only the root turned, neither blend shapes nor skinning weights matter.

    Args:
        vertices: (6890, 3) `v_template` of neutral SMPL in metres.
        joint_regressor: (24, 6890) `J_regressor`; only its first row is used.

    Returns:
        (6890, 3) float32.

    Raises:
        DataError: a shape is another.
    """
    if vertices.shape != (FULL, 3) or joint_regressor.shape != (24, FULL):
        raise DataError(
            f"a body of {FULL} vertices and 24 joints is needed, not {vertices.shape}, {joint_regressor.shape}"
        )
    root = joint_regressor[0].astype(np.float64) @ vertices
    turned: Array = (vertices - root) @ _UPSIDE_DOWN.T + root
    return turned.astype(np.float32)
