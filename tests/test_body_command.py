"""`hmrbench body`: what is installed, what is refused."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_bodies import PARENTS, make_parts, smpl_sized
from typer.testing import CliRunner, Result

from hmrbench.body import free_body
from hmrbench.cli import app


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HMRBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def body(*args: object) -> Result:
    return CliRunner().invoke(app, ["body", *map(str, args)], env={"COLUMNS": "80"})


def listed() -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(body("list", "--json").stdout)}


def test_the_free_bodies_are_always_here(cache: Path) -> None:
    rows = listed()
    assert list(rows) == ["smpl", "free", "free-lite", "smplx", "mesh-assets"]
    assert (rows["mesh-assets"]["status"], rows["mesh-assets"]["vertices"]) == ("missing", None)
    assert "hmrbench body fetch" in rows["mesh-assets"]["detail"]
    assert (rows["free"]["status"], rows["free"]["vertices"], rows["free"]["faces"]) == (
        "installed",
        13718,
        27420,
    )
    assert rows["free-lite"]["sha256"] == free_body(lite=True).sha256
    assert (rows["smpl"]["status"], rows["smpl"]["sha256"]) == ("missing", None)
    assert "smpl.is.tue.mpg.de" in rows["smpl"]["detail"]
    text = body("list").stdout
    assert "free-lite" in text
    assert max(map(len, text.splitlines())) <= 80


def test_install_body_then_regressor(cache: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "body.npz", **smpl_sized())
    result = body("install", tmp_path / "body.npz")
    assert result.exit_code == 0, result.output
    assert "SMPL_to_J19.pkl" in result.stderr
    assert listed()["smpl"]["status"] == "incomplete"
    (tmp_path / "SMPL_to_J19.pkl").write_bytes(pickle.dumps(np.eye(19, 6890)))
    result = body("install", tmp_path / "SMPL_to_J19.pkl", "--json")
    assert json.loads(result.stdout)["complete"] is True
    row = listed()["smpl"]
    assert (row["status"], row["vertices"], row["detail"]) == ("installed", 6890, "")
    assert Path(row["file"]).parent == cache / "bodies"


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".safetensors"])
def test_install_from_a_checkpoint(cache: Path, tmp_path: Path, suffix: str) -> None:
    parts = smpl_sized(joint_regressor_extra=np.eye(19, 6890))
    renamed = {"weights": "lbs_weights", "f": "faces_tensor"}
    state = {f"smpl.{renamed.get(k, k)}": torch.tensor(v) for k, v in parts.items() if k != "kintree_table"}
    state |= {"smpl.parents": torch.tensor(PARENTS), "smpl_head.init_cam": torch.zeros(1, 3)}
    path = tmp_path / f"last{suffix}"
    if suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 35}, path)
    result = body("install", path)
    assert result.exit_code == 0, result.output
    assert listed()["smpl"]["status"] == "installed"


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_refused(cache: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "small.npz", **make_parts())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "small.npz").read_bytes()[:1000])
    torch.save({"state_dict": {"smpl_head.init_cam": torch.zeros(1, 3)}}, tmp_path / "headonly.ckpt")
    (tmp_path / "notes.txt").write_text("hello")
    for name in ("trap.pkl", "trap.ckpt"):
        (tmp_path / name).write_bytes(pickle.dumps({"v_template": Trap(tmp_path / "sprung")}, 2))
    for name, words in (
        ("small.npz", "another topology"),
        ("cut.npz", "cut.npz"),
        ("headonly.ckpt", "lacks"),
        ("notes.txt", "a body is a .pkl or .npz file"),
        ("nowhere.pkl", "no such file"),
        ("nowhere.ckpt", "weights file missing"),
        ("trap.pkl", "trap.pkl"),
        ("trap.ckpt", "trap.ckpt"),
    ):
        result = body("install", tmp_path / name)
        assert result.exit_code == 3, (name, result.output)
        assert words in " ".join(result.stderr.split()), name
        assert "Traceback" not in result.output
    assert not (tmp_path / "sprung").exists()
    assert not cache.exists()
