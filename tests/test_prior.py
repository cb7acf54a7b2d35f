"""The adversarial prior: the official discriminator's numbers, who learns from what, refusals, and a whole run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import small_training
import torch
from conftest import prepare_training
from seeding import seed_module_, seeded_input
from torch import Tensor

from hmrbench.errors import DataError, UsageError
from hmrbench.geometry import axis_angle_to_matrix
from hmrbench.training import train
from hmrbench.training.log import read_table
from hmrbench.training.prior import Discriminator, Prior, RealBodies, read_bodies
from hmrbench.training.recipes import Recipe

RECIPE = Recipe(name="r", task="hmr", steps=1, batch_size=8, optimizer={"lr": 1e-2}, loss={"adversarial": 0.5})  # type: ignore[arg-type]
ONE_PROCESS = SimpleNamespace(
    device=torch.device("cpu"), global_rank=0, world_size=1, all_reduce=lambda x, reduce_op: x
)


def made_bodies(count: int = 50) -> RealBodies:
    rng = np.random.default_rng(0)
    return RealBodies(
        rng.normal(0, 0.1, (count, 23, 3)).astype(np.float32), rng.normal(0, 1, (count, 10)).astype(np.float32), "0"
    )


def predicted(count: int = 8) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    pose = axis_angle_to_matrix(torch.randn(count, 23, 3, generator=generator))
    return {"body_pose": pose.requires_grad_(), "betas": torch.randn(count, 10, generator=generator).requires_grad_()}


def test_verdicts_are_those_of_the_official_discriminator(refs: Path) -> None:
    """Of 4D-Humans' `hmr2/models/discriminator.py` at 6ec7965, seeded by the names of its parameters."""
    net = Discriminator()
    seed_module_(net)
    with torch.no_grad():
        found = net(seeded_input((4, 23, 3, 3)), seeded_input((4, 10)))
    with np.load(refs / "hmr2_discriminator.npz") as file:
        np.testing.assert_allclose(found.numpy(), file["verdicts"], rtol=0, atol=1e-5)


def test_the_penalty_moves_the_mesh_network_alone() -> None:
    prior, output = Prior(made_bodies(), RECIPE, ONE_PROCESS, seed=0), predicted()
    penalty = prior.penalty(output)
    penalty.backward()
    with torch.no_grad():
        verdicts = prior.net(output["body_pose"], output["betas"])
    assert penalty.item() == pytest.approx(float(((verdicts - 1) ** 2).sum() / 8), rel=1e-6)
    for name in ("body_pose", "betas"):
        assert output[name].grad.abs().sum() > 0
    assert all(p.grad is None for p in prior.net.parameters())


def test_the_discriminator_learns_from_both_and_moves_itself_alone() -> None:
    prior, output = Prior(made_bodies(), RECIPE, ONE_PROCESS, seed=0), predicted()
    losses = [float(prior.learn(output, step)) for step in range(100)]
    assert losses[-1] < 0.1 * losses[0]
    assert all(value.grad is None for value in output.values())
    real_pose, real_betas = prior.bodies.draw(np.random.default_rng(1), 8)
    with torch.no_grad():
        real = prior.net(axis_angle_to_matrix(torch.from_numpy(real_pose)), torch.from_numpy(real_betas))
        fake = prior.net(output["body_pose"], output["betas"])
    assert float(real[:, -1].mean()) > 0.8
    assert float(fake[:, -1].mean()) < 0.2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"body_pose": np.zeros((3, 72))}, "bodies.npz: lacks betas"),
        ({"body_pose": np.full((3, 72), "a"), "betas": np.zeros((3, 10))}, r"'body_pose' is <U1 \(3, 72\)"),
        ({"body_pose": np.zeros((3, 69)), "betas": np.zeros((3, 10))}, r"'body_pose' is float64 \(3, 69\)"),
        ({"body_pose": np.zeros((3, 72)), "betas": np.zeros((2, 10))}, r"'betas' is float64 \(2, 10\)"),
        ({"body_pose": np.full((3, 72), np.nan), "betas": np.zeros((3, 10))}, "not finite numbers"),
        ({"body_pose": np.zeros((0, 72)), "betas": np.zeros((0, 10))}, "'body_pose' is"),
    ],
)
def test_bad_files_of_bodies_are_named(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "bodies.npz", **fields)
    with pytest.raises(DataError, match=message):
        read_bodies(tmp_path / "bodies.npz")


def test_a_missing_file_of_bodies_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.npz: file of real bodies missing"):
        read_bodies(tmp_path / "none.npz")


def test_a_run_with_a_prior_logs_it_and_resumes_as_if_never_stopped(tmp_path: Path) -> None:
    small_training.write_solid(tmp_path, 6)
    settings = small_training.write_settings(tmp_path)
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "bodies.npz", body_pose=rng.normal(0, 0.2, (20, 72)), betas=rng.normal(0, 1, (20, 10)))
    weights = "loss: {keypoints_3d: 1, adversarial: ADVERSARIAL}"
    recipe = small_training.RECIPE.replace("task: hpe", "task: hmr") + weights
    for name, weight in (("with.yaml", "0.01"), ("without.yaml", "0")):
        (tmp_path / name).write_text(recipe.replace("ADVERSARIAL", weight))
    settings |= {"recipe": tmp_path / "with.yaml", "real_bodies": tmp_path / "bodies.npz"}
    train.run(prepare_training("tiny-mesh", "people-3d", **settings), tmp_path / "whole")
    assert not train.run(prepare_training("tiny-mesh", "people-3d", **settings), tmp_path / "parts", minutes=0).finished
    train.run(prepare_training("tiny-mesh", "people-3d", **settings), tmp_path / "parts", resume=True)
    whole, parts = (read_table(tmp_path / run / "log.csv") for run in ("whole", "parts"))
    for key in ("loss", "adversarial", "discriminator"):
        assert [row[key] for row in parts] == [row[key] for row in whole]
        assert all(float(row[key]) > 0 for row in whole)
    with pytest.raises(UsageError, match="real_bodies"):
        train.run(
            prepare_training("tiny-mesh", "people-3d", **{**settings, "real_bodies": None}),
            tmp_path / "parts",
            resume=True,
        )
    with pytest.raises(UsageError, match="gives the adversarial prior no weight"):
        prepare_training("tiny-mesh", "people-3d", **{**settings, "recipe": tmp_path / "without.yaml"})
