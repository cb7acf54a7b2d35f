"""Where bodies come from: the free one in this package, and licensed ones that a person has installed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hmrbench import files
from hmrbench.body.arrays import BETAS, SMPL_VERTICES, BodyArrays, read_arrays, read_body, read_regressor
from hmrbench.body.model import Body
from hmrbench.body.whole_body import WholeBody, is_whole_body, read_whole_body
from hmrbench.errors import DataError, unknown_name
from hmrbench.fetch.fetch import cache_dir

GENDERS = ("female", "male")
ASSETS = Path(__file__).parent / "assets"
FREE_BODIES = {"free": "free_body.npz", "free-lite": "free_body_lite.npz"}

MISSING_SMPL = (
    "the SMPL body model is not installed (no {path}). It turns the parameters that HMR networks predict "
    "into joints and a mesh. Its licence, free for non-commercial research, does not allow it to be shipped: "
    "register at https://smpl.is.tue.mpg.de and download the neutral model (4D-Humans uses "
    "basicModel_neutral_lbs_10_207_0_v1.0.0.pkl from https://smplify.is.tue.mpg.de), then run\n"
    "    hmrbench body install PATH\n"
    "PATH may also be an HMR2.0 checkpoint that holds the smpl.* buffers. Meanwhile the embedded free body "
    "serves: --dataset demo-mesh"
)

MISSING_REGRESSOR = (
    "SMPL is installed ({path}), but not the regressor of the 19 joints that the benchmarks compare. It is "
    "SMPL_to_J19.pkl in the hmr2_data.tar.gz of 4D-Humans (https://github.com/shubham-goel/4D-Humans); run\n"
    "    hmrbench body install SMPL_to_J19.pkl"
)

MISSING_WHOLE = (
    "the SMPL-X body model is not installed (no {path}). It turns what SMPLer-X predicts into a mesh with hands and a "
    "face. Its licence, free for non-commercial research, does not allow it to be shipped: register at "
    "https://smpl-x.is.tue.mpg.de, download SMPLX_NEUTRAL.npz (or .pkl), then run\n"
    "    hmrbench body install SMPLX_NEUTRAL.npz"
)


def load_body(
    source: str | Path | Mapping[str, Any], regressor: str | Path | None = None, update_hips: bool = False
) -> Body:
    """A body from a file or from arrays; see `read_body` for what is accepted and what is refused."""
    return Body(read_body(source, regressor), update_hips)


def free_body(lite: bool = False) -> Body:
    """The free body of this package: 13,718 vertices, or 1,229 with `lite`.

    It has SMPL's format and kinematic tree, but is not SMPL: it has other vertices and other betas. Licence
    and
    origin: `assets/LICENSE-free-body.txt`.
    """
    return load_body(ASSETS / FREE_BODIES["free-lite" if lite else "free"])


def find_body(name: str = "smpl", folder: Path | None = None, update_hips: bool = False) -> Body:
    """The body called `name`: `smpl` as installed, `free` or `free-lite`.

    Raises:
        DataError: SMPL, or its regressor of the extra joints, is not installed; says how to get it.
        UsageError: there is no body of that name.
    """
    if name in FREE_BODIES:
        return load_body(ASSETS / FREE_BODIES[name], update_hips=update_hips)
    if name != "smpl":
        raise unknown_name("body", name, ("smpl", *FREE_BODIES))
    folder = folder or body_folder()
    path, regressor = folder / "smpl.npz", folder / "smpl_joints.npz"
    if not path.is_file():
        raise DataError(MISSING_SMPL.format(path=path))
    body = load_body(path, regressor if regressor.is_file() else None, update_hips)
    if not body.has_joints:
        raise DataError(MISSING_REGRESSOR.format(path=path))
    return body


def find_gendered(folder: Path | None = None) -> dict[str, Body]:
    """The female and the male body, those of them that are installed, by these words."""
    paths = {gender: (folder or body_folder()) / f"smpl_{gender}.npz" for gender in GENDERS}
    return {gender: load_body(path) for gender, path in paths.items() if path.is_file()}


def whole_body_path(folder: Path | None = None) -> Path:
    """Where SMPL-X is kept once a person has installed it."""
    return (folder or body_folder()) / "smplx.npz"


def find_whole_body(folder: Path | None = None) -> WholeBody:
    """SMPL-X as installed.

    Raises:
        DataError: it is not installed, which says how to get it, or broken.
    """
    path = whole_body_path(folder)
    if not path.is_file():
        raise DataError(MISSING_WHOLE.format(path=path))
    return WholeBody(read_whole_body(path))


def install_body(
    source: str | Path | Mapping[str, Any],
    folder: Path | None = None,
    name: str | None = None,
    gender: str | None = None,
) -> Path:
    """Check SMPL, its regressor of the extra joints, or SMPL-X, and keep it for `find_body` or `find_whole_body`.

    Args:
        source: an official `.pkl`, an `.npz`, the state dict of an HMR2.0 checkpoint, `SMPL_to_J19.pkl`, or SMPL-X's
            `.npz` or `.pkl`.
        folder: where to keep it; default `body_folder()`.
        name: the file that a mapping came from, for messages.
        gender: `female` or `male`: keep it as that body, which rules such as SPIN's take true meshes from, and not as
            the neutral one.

    Returns:
        The file that was written.

    Raises:
        DataError: the file cannot be read, does not hold SMPL or SMPL-X, or holds the female or male one.
    """
    name = str(source) if isinstance(source, (str, Path)) else name or "body"
    content = dict(source) if isinstance(source, Mapping) else read_arrays(Path(source))
    folder = folder or body_folder()
    if content and set(content) <= {"array", "joint_regressor_extra"}:
        regressor = read_regressor(name)
        if regressor.shape[1] != SMPL_VERTICES:
            raise DataError(f"{name}: for {regressor.shape[1]} vertices; SMPL has {SMPL_VERTICES}")
        return files.write_arrays(folder / "smpl_joints.npz", {"joint_regressor_extra": regressor})
    its = _gender(Path(name).stem, content.get("gender"))
    if is_whole_body(content):
        whole = read_whole_body(content, name)
        if gender or its:
            raise DataError(f"{name}: of SMPL-X the neutral body alone is used, not the {gender or its} one")
        return files.write_arrays(whole_body_path(folder), whole.as_npz())
    body = read_body(content, name=name)
    if len(body.v_template) != SMPL_VERTICES:
        found = f"{len(body.v_template)} vertices; SMPL has {SMPL_VERTICES}"
        raise DataError(f"{body.source}: {found}: this is another topology")
    if gender is not None and its != gender:
        said = f"the {its} body" if its else "the neutral body, or one that does not say"
        raise DataError(f"{name}: by its name or content this is {said}, not the {gender} one")
    if gender is None and its:
        raise DataError(
            f"{name}: by its name or content this is the {its} body. HMR2.0 and the benchmarks use the neutral one, "
            "and another gives other numbers; give the neutral file (if it is this one, rename it), or keep this one "
            f"beside it with --gender {its}, for rules that measure against it"
        )
    return files.write_arrays(folder / (f"smpl_{gender}.npz" if gender else "smpl.npz"), _as_npz(body))


def _gender(stem: str, said: Any) -> str | None:
    """`female` or `male` if a file says so, by what is in it or by its name; None for the neutral body."""
    said = said.item() if isinstance(said, np.ndarray) and said.size == 1 else said
    said = said.decode("latin1") if isinstance(said, bytes) else said
    if not isinstance(said, str) or not said:
        found = re.search(r"(?i)(?:^|[^a-z])(female|male|f|m)(?:[^a-z]|$)", stem)
        said = found[1] if found else ""
    return {"f": "female", "m": "male"}.get(said[:1].lower())


def check_same_body(state: Mapping[str, Any], source: str, folder: Path | None = None) -> None:
    """The body inside an HMR2.0 checkpoint must be the installed one, by which its output is turned into meshes.

    Args:
        state: the checkpoint's tensors, of which `smpl.*` are the body's.

    Raises:
        DataError: they differ by more than a millimetre, or a thousandth; names the part.
    """
    path = (folder or body_folder()) / "smpl.npz"
    if "smpl.v_template" not in state or not path.is_file():
        return
    installed = files.read_arrays(path, "the installed body")
    for part, called in (("v_template",) * 2, ("shapedirs",) * 2, ("J_regressor",) * 2, ("lbs_weights", "weights")):
        if f"smpl.{part}" not in state or called not in installed:
            continue
        there, here = np.asarray(state[f"smpl.{part}"].float()), installed[called]
        there = there[..., :BETAS] if part == "shapedirs" else there
        if there.shape != here.shape or not np.abs(there - here).max() < 1e-3:
            raise DataError(
                f"{source}: the SMPL body in it is not the one installed ({path}): {part} differs; the female or male "
                "one perhaps. `hmrbench body install` of this checkpoint installs its own"
            )


def body_folder() -> Path:
    """Folder of installed bodies, in the cache."""
    return cache_dir() / "bodies"


def _as_npz(body: BodyArrays) -> dict[str, Any]:
    named = {
        "v_template": body.v_template,
        "shapedirs": body.shapedirs,
        "posedirs": body.posedirs,
        "J_regressor": body.J_regressor,
        "weights": body.weights,
        "f": body.faces,
        "kintree_table": np.stack((body.parents, np.arange(len(body.parents)))),
        "joint_vertices": body.joint_vertices,
        "joint_regressor_extra": body.joint_regressor_extra,
    }
    return {name: array for name, array in named.items() if array is not None}
