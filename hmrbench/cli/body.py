"""`hmrbench body`: the body models that turn parameters into meshes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hmrbench.cli.options import Json, print_json, show_table, stderr, stdout

_CHECKPOINTS = (".ckpt", ".pt", ".pth", ".safetensors")


def install(
    path: Annotated[
        Path,
        typer.Argument(help="SMPL's .pkl, an .npz of it, an HMR2.0 checkpoint that holds it, or SMPL_to_J19.pkl."),
    ],
    json: Json = False,
) -> None:
    """Check the SMPL body model, or its regressor of the extra joints, and keep it. No code in it is run."""
    from hmrbench.body import find_body, install_body
    from hmrbench.checkpoints import read_state
    from hmrbench.errors import DataError

    checkpoint = path.suffix.lower() in _CHECKPOINTS
    written = install_body(read_state(path), name=str(path)) if checkpoint else install_body(path)
    missing = None
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
        rows.append(
            {
                "name": name,
                "status": status,
                "vertices": None if body is None else len(body.mesh.v_template),
                "faces": None if body is None else len(body.faces),
                "sha256": None if body is None else body.sha256,
                "file": None if body is None else body.source,
                "licence": "research only" if name == "smpl" else "Apache-2.0 and CC0",
                "detail": detail,
            }
        )
    return rows
