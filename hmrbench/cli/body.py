"""`hmrbench body`: the body models that turn parameters into meshes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from hmrbench.cli.options import Json, Offline, print_json, show_table, stderr, stdout

if TYPE_CHECKING:
    from hmrbench.body import Body, WholeBody

_NO_TEMPLATE = "SMPL, whose mesh at rest they start from (hmrbench body install)"
_CHECKPOINTS = (".ckpt", ".pt", ".pth", ".safetensors")


def install(
    path: Annotated[
        Path,
        typer.Argument(
            help="SMPL's .pkl, an .npz of it, an HMR2.0 checkpoint that holds it, SMPL_to_J19.pkl, or SMPL-X's .npz "
            "or .pkl."
        ),
    ],
    gender: Annotated[
        Literal["female", "male"] | None,
        typer.Option("--gender", help="Keep it as the female or male body, for rules that measure against it."),
    ] = None,
    json: Json = False,
) -> None:
    """Check SMPL, its regressor of the extra joints, or SMPL-X, and keep it. No code in it is run."""
    from hmrbench.body import find_body, install_body, whole_body_path
    from hmrbench.checkpoints import read_state
    from hmrbench.errors import DataError

    checkpoint = path.suffix.lower() in _CHECKPOINTS
    written = install_body(read_state(path) if checkpoint else path, name=str(path), gender=gender)
    missing = None
    if written != whole_body_path():
        try:
            find_body("smpl")
        except DataError as e:  # the other one of the two files is still to be installed
            missing = str(e)
    if json:
        print_json({"source": str(path), "written": str(written), "complete": missing is None})
        return
    stdout().print(f"{path} -> {written}", markup=False, soft_wrap=True)
    if missing:
        stderr().print(f"still needed: {missing}", markup=False, soft_wrap=True)


def fetch(
    given: Annotated[
        Path | None, typer.Option("--from", help="A folder that holds the public files, in place of a download.")
    ] = None,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Get the mesh matrices of METRO, Mesh Graphormer, FastMETRO and TORE, checked, and keep them as one file.

    They lie in public repositories and are derived from SMPL, so they are not shipped. The mesh at rest that METRO
    starts from is that of SMPL once it is installed.
    """
    from hmrbench.body.mesh_assets import find_mesh_assets
    from hmrbench.body.public_assets import describe_regressor, fetch_mesh_assets
    from hmrbench.cli.downloads import download_bar

    with download_bar(stderr()) as progress:
        written = fetch_mesh_assets(given, offline=offline, progress=progress)
    found = find_mesh_assets()
    regressor = describe_regressor(found.matrices.joints17)
    if json:
        row = {"written": str(written), "sha256": found.sha256, "regressor": regressor}
        print_json(row | {"smpl_template": found.smpl_template})
        return
    stdout().print(f"{written}: regressor {regressor}", markup=False, soft_wrap=True)
    if not found.smpl_template:
        stderr().print(f"still needed for METRO, Mesh Graphormer and TORE on METRO: {_NO_TEMPLATE}", soft_wrap=True)


def list_bodies(json: Json = False) -> None:
    """List the bodies and whether they are here."""
    rows = describe()
    if json:
        print_json(rows)
        return
    cells = [[r["name"], r["status"], r["vertices"], r["faces"], (r["sha256"] or "-")[:12], r["licence"]] for r in rows]
    show_table(["body", "status", "vertices", "faces", "sha256", "licence"], cells)


def describe() -> list[dict[str, Any]]:
    """Each body: name, status (installed, incomplete, missing), size, hash, file, licence, what is amiss."""
    from hmrbench.body import body_folder, find_body, load_body
    from hmrbench.body.install import FREE_BODIES
    from hmrbench.errors import DataError

    rows = []
    for name in ("smpl", *FREE_BODIES):
        body, status, detail = None, "installed", ""
        try:
            body = find_body(name)
        except DataError as e:
            status, detail = "missing", str(e)
            path = body_folder() / f"{name}.npz"
            if path.is_file():
                status, body = "incomplete", load_body(path)
        rows.append(_row(name, body, status, detail, "research only" if name == "smpl" else "Apache-2.0 and CC0"))
    return [*rows, _whole_body_row(), _assets_row()]


def _whole_body_row() -> dict[str, Any]:
    """SMPL-X among the bodies."""
    from hmrbench.body import find_whole_body, whole_body_path
    from hmrbench.errors import DataError

    found, status, detail = None, "installed", ""
    try:
        found = find_whole_body()
    except DataError as e:
        status, detail = ("corrupt" if whole_body_path().is_file() else "missing"), str(e)
    return _row("smplx", found, status, detail, "research only")


def _row(name: str, body: Body | WholeBody | None, status: str, detail: str, licence: str) -> dict[str, Any]:
    return {
        "name": name,
        "status": status,
        "vertices": None if body is None else len(body.mesh.v_template),
        "faces": None if body is None else len(body.faces),
        "sha256": None if body is None else body.sha256,
        "file": None if body is None else body.source,
        "licence": licence,
        "detail": detail,
    }


def _assets_row() -> dict[str, Any]:
    """The mesh assets among the bodies."""
    from hmrbench.body.mesh_assets import find_mesh_assets, mesh_assets_path
    from hmrbench.errors import DataError

    found, status, detail = None, "installed", ""
    try:
        found = find_mesh_assets()
        if not found.smpl_template:
            status, detail = "incomplete", f"without {_NO_TEMPLATE}"
    except DataError as e:
        status, detail = ("corrupt" if mesh_assets_path().is_file() else "missing"), str(e)
    return {
        "name": "mesh-assets",
        "status": status,
        "vertices": None if found is None else len(found.matrices.template),
        "faces": None,
        "sha256": None if found is None else found.sha256,
        "file": None if found is None else str(found.source),
        "licence": "research only",
        "detail": detail,
    }
