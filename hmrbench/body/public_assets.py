"""The public files that mesh assets are made of: where they are, what they hold, which regressor is which.

Matrices of Kolotouros et al., "Convolutional Mesh Regression" (CVPR 2019), and the regressor of Human3.6M's joints, as
they lie in microsoft/MeshTransformer (MIT) and elsewhere. They are derived from SMPL, so they are fetched by who needs
them and never shipped.

`mesh_downsampling.npz` holds pickled sparse matrices: `A`, neighbours at three resolutions, `U`, upsampling, and `D`,
downsampling between them. The regressor exists twice, with left and right legs swapped, under nearly the same name.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array

from hmrbench.body.mesh_assets import (
    PUBLIC_REGRESSOR,
    SWAPPED_LEGS,
    made_mesh,
    matrix_sha256,
    mesh_assets_path,
    mesh_matrices,
    normalised_adjacency,
    parts_of,
    smpl_template,
    write_mesh_assets,
)
from hmrbench.body.unpickle import read_sparse
from hmrbench.errors import DataError
from hmrbench.fetch.fetch import FetchProgress, fetch
from hmrbench.files import file_sha256, open_zip, opened, read_npy
from hmrbench.nets.meshes.mesh import FULL, MeshMatrices
from hmrbench.records import Array
from hmrbench.schema import Source

DOWNSAMPLING, REGRESSOR = "mesh_downsampling.npz", "J_regressor_h36m_correct.npy"
_LICENCE = "MIT repository; derived from SMPL: non-commercial research"
_PLACES = {
    "microsoft/MeshTransformer": "cefc4af50ca0fa4f58e677ad1836ed09a64b4d9a/metro/modeling/data",
    "microsoft/MeshGraphormer": "main/src/modeling/data",
    "postech-ami/FastMETRO": "main/src/modeling/data",
}
_SHA256 = {
    DOWNSAMPLING: "5683b656d9acd7f1558db832527beb0cc6b3b45388cf41a7979dab52e2c57477",
    REGRESSOR: "1835d64133d5f66bd80a814ab1c1dc0900ef01950f568320acf5f9390c1f2c8c",
}
SOURCES: Mapping[str, tuple[Source, ...]] = {
    name: tuple(
        Source(
            url=f"https://raw.githubusercontent.com/{repository}/{folder}/{name}",
            sha256=digest,
            licence=_LICENCE,
            read_in=f"{repository} {folder.partition('/')[2]}",
        )
        for repository, folder in _PLACES.items()
    )
    for name, digest in _SHA256.items()
}

# Files of the regressor by their sha256: METRO's, and SPIN's and CLIFF's `J_regressor_h36m.npy`.
METRO_ORDER, SPIN_ORDER = "METRO's order", "SPIN's order"
REGRESSOR_FILES = {
    _SHA256[REGRESSOR]: METRO_ORDER,
    "c655cd7013d7829eb9acbebf0e43f952a3fa0305a53c35880e39192bfb6444a0": SPIN_ORDER,
}

_MAX_MEMBER = 32 << 20  # bytes of one array of matrices; the largest public one has 0.7 MiB


def fetch_mesh_assets(
    given: Path | None = None, folder: Path | None = None, offline: bool = False, progress: FetchProgress | None = None
) -> Path:
    """Make the stored mesh assets of the public files, with SMPL's template where SMPL is installed.

    Args:
        given: a folder that holds the public files; None gets them from where they are public.
        folder: of installed bodies; default `body_folder()`.
        offline: use no network.

    Returns:
        The npz that was written.

    Raises:
        DataError: a file cannot be had, is not the public one, or is damaged.
    """
    if given is None:
        files = [fetch(SOURCES[name], offline=offline, progress=progress).path for name in (DOWNSAMPLING, REGRESSOR)]
    else:
        regressors = [path for path in sorted(given.glob("J_regressor_h36m*.npy")) if path.is_file()]
        if not regressors:
            raise DataError(f"{given}: no {REGRESSOR}, nor SPIN's J_regressor_h36m.npy")
        files = [given / DOWNSAMPLING, regressors[-1]]
        if (digest := file_sha256(files[0])) != _SHA256[DOWNSAMPLING]:
            raise DataError(f"{files[0]}: sha256 {digest[:12]}, expected {_SHA256[DOWNSAMPLING][:12]}: another file")
    own = smpl_template(folder)
    mesh = read_public_assets(files[0], files[1], made_mesh().template if own is None else own)
    return write_mesh_assets(mesh_assets_path(folder), mesh)


def read_public_assets(downsampling: Path, regressor: Path, template: Array) -> MeshMatrices:
    """The matrices in the public files.

    Args:
        regressor: either of the two files, told apart by their hashes.
        template: (6890, 3) the mesh at rest in metres, turned as METRO takes it.

    Raises:
        DataError: a file cannot be read, wants to run something, or its matrices are not those of SMPL's mesh.
    """
    return assembled(read_downsampling(downsampling), read_joint_regressor(regressor), template, str(downsampling))


def assembled(
    matrices: Mapping[str, csr_array], joints17: csr_array, template: Array, name: str = "mesh assets"
) -> MeshMatrices:
    """Mesh assets of their parts, checked; `name` names them in messages. Raises as `read_public_assets`."""
    arrays: dict[str, Array] = {"template": np.asarray(template, np.float32)}
    for key, matrix in {**matrices, "joints17": joints17}.items():
        arrays |= parts_of(key, matrix)
    return mesh_matrices(arrays, name)


def read_downsampling(path: Path) -> dict[str, csr_array]:
    """`adjacency`, `up0`, `up1`, `down0`, `down1` out of `mesh_downsampling.npz`; float32, neighbours normalised.

    Raises:
        DataError: the file cannot be read, is damaged, or holds no such matrices.
    """
    found: dict[str, list[Any]] = {}
    with opened(path, DOWNSAMPLING) as file:
        try:
            with open_zip(file) as archive:
                for name, count in (("A", 3), ("U", 2), ("D", 2)):
                    found[name] = _objects(archive, name)
                    if len(found[name]) < count or not all(isinstance(x, coo_array) for x in found[name]):
                        raise DataError(f"its array {name} does not hold {count} sparse matrices")
        except DataError as e:
            raise DataError(f"{path}: {e}") from None
        except (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as e:
            raise DataError(f"{path}: not a readable {DOWNSAMPLING}, truncated perhaps ({e})") from e
    coarse = found["A"][2]
    return {
        "adjacency": normalised_adjacency(csr_array(coarse)) if coarse.shape[0] == coarse.shape[1] else coarse,
        **{f"up{i}": csr_array(found["U"][i]).astype(np.float32) for i in (0, 1)},
        **{f"down{i}": csr_array(found["D"][i]).astype(np.float32) for i in (0, 1)},
    }


def _objects(archive: zipfile.ZipFile, name: str) -> list[Any]:
    """The Python objects in an array of an npz, by the reader that runs nothing."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise DataError(f"lacks the array {name}") from None
    if info.file_size > _MAX_MEMBER:
        raise DataError(f"refused: its array {name} has {info.file_size:,} bytes")
    data = archive.read(info)
    file = io.BytesIO(data)
    if np.lib.format.read_magic(file) != (1, 0):
        raise DataError(f"its array {name} is of an unknown version")
    _, _, dtype = np.lib.format.read_array_header_1_0(file)
    if not dtype.hasobject:
        raise DataError(f"its array {name} holds {dtype}, not sparse matrices")
    content = read_sparse(data[file.tell() :])
    return content.ravel().tolist() if isinstance(content, np.ndarray) else list(content or ())


def read_joint_regressor(path: Path) -> csr_array:
    """The regressor of Human3.6M's joints (17, 6890) in METRO's order, out of either public file.

    Raises:
        DataError: the file is neither: its order, and so which leg is which, is not known.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    order = REGRESSOR_FILES.get(digest := file_sha256(path))
    if order is None:
        raise DataError(
            f"{path}: sha256 {digest[:12]} is that of neither public regressor of Human3.6M's joints "
            f"({REGRESSOR} of METRO, J_regressor_h36m.npy of SPIN): which leg is which is not known"
        )
    array = read_npy(path, "the joint regressor")
    if array.shape != (17, FULL):
        raise DataError(f"{path}: the joint regressor is {array.shape}, not (17, {FULL})")
    rows = SWAPPED_LEGS if order == SPIN_ORDER else range(17)
    return csr_array(array[list(rows)].astype(np.float32))


def describe_regressor(joints17: csr_array) -> str:
    """A regressor in words: the public one, or another."""
    digest = matrix_sha256(joints17)
    return f"{'Human3.6M, public' if digest == PUBLIC_REGRESSOR else 'not the public one'} ({digest[:12]})"
