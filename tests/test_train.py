"""Training: recipes, learning rates, order of people, exact resumption, and that the whole chain learns."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import small_training
import torch
import typer
from conftest import prepare_job, prepare_training
from drawn import OPENCV_5
from safetensors import safe_open
from torch import nn
from typer.testing import CliRunner, Result

from hmrbench import evaluation, zoo
from hmrbench.cards import load_card, load_cards
from hmrbench.cli import guarded
from hmrbench.cli.train import train as cli_train
from hmrbench.data.images import read_image
from hmrbench.errors import DataError, HmrbenchError, UsageError
from hmrbench.files import file_sha256
from hmrbench.nets.record import Depth
from hmrbench.training import checkpoint, train
from hmrbench.training.augment import View
from hmrbench.training.examples import Examples, look
from hmrbench.training.feed import Feed, epoch_order
from hmrbench.training.log import read_table
from hmrbench.training.optim import (
    Average,
    freeze_stages,
    layer_numbers,
    lr_factor,
    make_optimizers,
    set_lr,
    set_training,
)
from hmrbench.training.pictures import Pictures
from hmrbench.training.recipes import Optimizer, Schedule, load_recipe
from hmrbench.training.start import described, set_mean_parameters, start_net

CARDS = load_cards()


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    small_training.write_flat(tmp_path, 10)
    return small_training.write_settings(tmp_path)


# --------------------------------------------------------------------------- recipes


def test_vitposes_recipe_is_vitposes() -> None:
    recipe = load_recipe(None, CARDS["vitpose-b"])
    assert (recipe.name, recipe.epochs, recipe.steps, recipe.clip) == ("vitpose", 210, None, 1.0)
    assert (recipe.optimizer.lr, recipe.optimizer.weight_decay, recipe.optimizer.layer_decay) == (
        5e-4,
        0.1,
        0.75,
    )
    assert recipe.drop_path == 0.3
    assert recipe.schedule.milestones == (170 / 210, 200 / 210)
    assert recipe.schedule.warmup_steps == 500


def test_hmr2s_recipe_is_hmr2s() -> None:
    recipe = load_recipe(None, CARDS["swinhmr2-t-s3"])
    loss = recipe.loss
    assert (loss.keypoints_2d, loss.keypoints_3d, loss.global_orient, loss.body_pose, loss.betas) == (
        0.01, 0.05, 0.001, 0.001, 0.0005
    )  # fmt: skip
    assert (recipe.steps, recipe.batch_size, recipe.optimizer.lr) == (1_000_000, 48, 1e-5)


@pytest.mark.parametrize("name", ["vitpose", "hmr2", "demo-pose", "demo-pose-small", "demo-mesh", "demo-mesh-more"])
@pytest.mark.parametrize("model", ["vitpose-s", "vitpose-h", "hmr2-l", "gmfpose-t-s2", "vmhmr2-b-s4"])
def test_every_recipe_fits_every_model_of_its_task(name: str, model: str) -> None:
    of_meshes = name in ("hmr2", "demo-mesh", "demo-mesh-more")
    if of_meshes == (CARDS[model].task == "hmr"):
        assert load_recipe(name, CARDS[model]).name == name
    else:
        with pytest.raises(UsageError, match="is for"):
            load_recipe(name, CARDS[model])


def test_a_recipe_has_what_the_one_that_it_extends_says(tmp_path: Path) -> None:
    card, path = CARDS["vitpose-s"], tmp_path / "mine.yaml"
    path.write_text("extends: vitpose\nepochs: 3\noptimizer: {lr: 0.5}\n")
    recipe, base = load_recipe(path, card), load_recipe("vitpose", card)
    assert (recipe.name, recipe.epochs, recipe.optimizer.lr) == ("mine", 3, 0.5)
    assert recipe.optimizer.weight_decay == base.optimizer.weight_decay > 0
    assert recipe.augment == base.augment
    path.write_text("extends: vitpos\n")
    with pytest.raises(UsageError, match="did you mean vitpose"):
        load_recipe(path, card)


def test_what_is_given_replaces_what_the_recipe_says(tmp_path: Path) -> None:
    card = CARDS["vitpose-s"]
    recipe = load_recipe("vitpose", card, epochs=21, lr=1e-4, batch_size=8, dtype="bf16", init=None)
    assert (recipe.epochs, recipe.optimizer.lr, recipe.batch_size, recipe.dtype) == (21, 1e-4, 8, "bf16")
    assert recipe.schedule.milestones == (170 / 210, 200 / 210)
    assert recipe.optimizer.layer_decay == 0.8
    assert recipe.init == "pretrained"
    assert load_recipe("vitpose", card, steps=5).epochs is None
    for given, message in (({"steps": 5, "epochs": 1}, "not both"), ({"dtype": "fp8"}, "dtype")):
        with pytest.raises(UsageError, match=message):
            load_recipe("vitpose", card, **given)
    (tmp_path / "r.yaml").write_text("task: hpe\nbatch_size: 2\noptimizer: {lr: 1.0e-3}\n")
    with pytest.raises(UsageError, match="a recipe needs a length"):
        load_recipe(tmp_path / "r.yaml", card)
    (tmp_path / "r.yaml").write_text("task: hpe\nsteps: 2\nbatch_size: 2\noptimizer: {lr: 1.0e-3, nesterov: true}\n")
    with pytest.raises(UsageError, match="nesterov"):
        load_recipe(tmp_path / "r.yaml", card)
    with pytest.raises(UsageError, match="did you mean vitpose"):
        load_recipe("vitpos", card)


# --------------------------------------------------------------------------- learning rates


def depth_of(model: str) -> Depth | None:
    return zoo.find_encoder(str(CARDS[model].encoder)).family.depth


def layers_of(model: str) -> tuple[dict[str, int], int]:
    with torch.device("meta"):
        return layer_numbers([name for name, _ in zoo.build_net(CARDS[model]).named_parameters()], depth_of(model))


def test_vit_layers_are_numbered_as_in_vitpose() -> None:
    layers, last = layers_of("vitpose-s")
    assert last == 13
    assert layers["encoder.pos_embed"] == layers["encoder.patch_embed.proj.weight"] == 0
    assert layers["encoder.blocks.0.norm1.weight"] == 1
    assert layers["encoder.blocks.11.mlp.fc2.bias"] == 12
    assert layers["encoder.last_norm.weight"] == layers["head.final_layer.weight"] == 13


@pytest.mark.parametrize(
    ("model", "last", "into", "first"),
    [
        (
            "swinpose-t-s3",
            11,
            {"encoder.layers.2.downsample.reduction.weight": 5},
            "encoder.patch_embed.proj.weight",
        ),
        ("vmpose-t-s3", 13, {"encoder.layers.1.downsample.1.weight": 5}, "encoder.patch_embed.0.weight"),
        (
            "gmfpose-t-s2",
            9,
            {"encoder.patch_embed_layers.1.proj.conv1.weight": 5},
            "encoder.conv_stem.proj1.weight",
        ),
    ],
)
def test_hierarchical_layers_are_counted_through(model: str, last: int, into: dict[str, int], first: str) -> None:
    layers, found = layers_of(model)
    assert found == last
    assert layers[first] == 0
    for name, number in into.items():
        assert layers[name] == number
    behind = [n for name, n in layers.items() if name.startswith(("neck.", "head."))]
    assert set(behind) == {last}
    assert set(layers.values()) == set(range(last + 1))


def test_groups_have_their_part_of_the_rate_and_biases_no_decay() -> None:
    net = zoo.build_net(CARDS["swinpose-t-s2"])
    [optimizer] = make_optimizers(net, Optimizer(lr=1e-3, weight_decay=0.1, layer_decay=0.5), depth_of("swinpose-t-s2"))
    set_lr([optimizer], Optimizer(lr=1e-3, layer_decay=0.5), 0.1)
    found = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    assert len(found) == len(list(net.parameters()))
    parameters = dict(net.named_parameters())
    assert found[id(parameters["head.final_layer.weight"])]["lr"] == pytest.approx(1e-4)
    patch = found[id(parameters["encoder.patch_embed.proj.weight"])]
    assert patch["lr"] == pytest.approx(1e-4 * 0.5**5)
    assert patch["weight_decay"] == 0.1
    for name in (
        "encoder.patch_embed.proj.bias", "encoder.layers.0.blocks.0.norm1.weight",
        "encoder.layers.0.blocks.0.attn.relative_position_bias_table", "head.deconv_layers.1.weight",
    ):  # fmt: skip
        assert found[id(parameters[name])]["weight_decay"] == 0
    [everything] = make_optimizers(net, Optimizer(lr=1e-3, weight_decay=0.1, decay_all=True), depth_of("swinpose-t-s2"))
    assert {g["weight_decay"] for g in everything.param_groups} == {0.1}


@pytest.mark.parametrize("model", ["swinpose-t-s2", "gmfhmr2-t-s2", "vmpose-t-s2"])
def test_muon_has_the_matrices_between_hidden_layers_and_adamw_the_rest(model: str) -> None:
    net = zoo.build_net(CARDS[model])
    settings = Optimizer(lr=1e-3, muon_lr=5e-3, layer_decay=0.5)
    adamw, muon = optimizers = make_optimizers(net, settings, depth_of(model))
    set_lr(optimizers, settings, 0.1)
    names = {id(p): name for name, p in net.named_parameters()}
    by_muon = {names[id(p)]: g for g in muon.param_groups for p in g["params"]}
    by_adamw = {names[id(p)]: g for g in adamw.param_groups for p in g["params"]}
    assert by_muon.keys() | by_adamw.keys() == set(names.values())
    assert not by_muon.keys() & by_adamw.keys()
    assert all(net.get_parameter(name).ndim == 2 for name in by_muon)
    assert not [n for n in by_muon if "bias_table" in n or "A_logs" in n or n.startswith("head.dec")]
    layers, last = layers_of(model)
    for name, group in (by_muon | by_adamw).items():
        assert group["lr"] == pytest.approx((5e-4 if name in by_muon else 1e-4) * 0.5 ** (last - layers[name]))


def test_muon_is_not_in_bf16_on_the_cpu() -> None:
    """A step against Newton-Schulz in float64 with the coefficients of Jordan et al.; bf16 would be off by 1e-3."""
    net = nn.Sequential(nn.Linear(48, 32), nn.Linear(32, 64))
    weights = [p for p in net.parameters() if p.ndim == 2]
    _, muon = make_optimizers(net, Optimizer(lr=1.0, muon_lr=1.0, weight_decay=0.0), None)
    before = [p.detach().double() for p in weights]
    net(torch.randn(8, 48)).square().sum().backward()
    gradients = [p.grad.double() for p in weights if p.grad is not None]
    muon.step()
    for old, new, x in zip(before, weights, gradients, strict=True):
        x = (x if x.shape[0] <= x.shape[1] else x.T) / x.norm()
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        moved = (old - new.detach().double()) / (0.2 * max(old.shape) ** 0.5)
        torch.testing.assert_close(moved if old.shape[0] <= old.shape[1] else moved.T, x, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("model", "frozen", "learning"),
    [
        (
            "swinpose-t-s2",
            ("encoder.patch_embed.", "encoder.layers.0."),
            ("encoder.layers.1.downsample.", "encoder.layers.1.blocks."),
        ),
        (
            "vmpose-t-s2",
            ("encoder.patch_embed.", "encoder.layers.0.blocks."),
            ("encoder.layers.0.downsample.", "encoder.layers.1."),
        ),
        (
            "gmfpose-t-s2",
            ("encoder.conv_stem.", "encoder.patch_embed_layers.0.", "encoder.groupmixformer_backbone.0."),
            ("encoder.patch_embed_layers.1.", "encoder.groupmixformer_backbone.1."),
        ),
    ],
)
def test_frozen_stages_learn_nothing(model: str, frozen: tuple[str, ...], learning: tuple[str, ...]) -> None:
    net = zoo.build_net(CARDS[model])
    freeze_stages(net, 1, depth_of(model))
    still = {name for name, p in net.named_parameters() if not p.requires_grad}
    encoder = {name for name, _ in net.named_parameters() if name.startswith("encoder.")}
    assert still == {name for name in encoder if name.startswith(frozen)}
    assert encoder - still == {name for name in encoder if name.startswith(learning)}
    optimized = {
        id(p)
        for o in make_optimizers(net, Optimizer(lr=1e-3), depth_of(model))
        for g in o.param_groups
        for p in g["params"]
    }
    assert optimized == {id(p) for p in net.parameters() if p.requires_grad}


def test_statistics_of_frozen_stages_stay_as_they_are() -> None:
    net = zoo.build_net(CARDS["gmfpose-t-s2"])
    freeze_stages(net, 1, depth_of("gmfpose-t-s2"))
    set_training(net)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    with torch.no_grad():
        net(torch.randn(2, 3, 64, 64))
    changed = {name for name, buffer in net.named_buffers() if not torch.equal(buffer, before[name])}
    first = ("encoder.conv_stem.", "encoder.patch_embed_layers.0.", "encoder.groupmixformer_backbone.0.")
    means = {name for name in before if name.endswith("running_mean")}
    assert any(name.startswith(first) for name in means)
    assert {name for name in means if not name.startswith(first)} <= changed
    assert not [name for name in changed if name.startswith(first)]


def test_the_rate_warms_up_linearly_and_falls_at_the_milestones() -> None:
    schedule = Schedule(kind="steps", milestones=(0.8, 0.9), warmup_steps=10, warmup_start=0.001)
    factors = [lr_factor(i, 100, schedule) for i in range(100)]
    assert factors[0] == pytest.approx(0.001)
    assert factors[5] == pytest.approx(1 - (1 - 5 / 10) * (1 - 0.001))  # mmcv's formula
    assert factors[10:80] == [1.0] * 70
    assert factors[80:90] == pytest.approx([0.1] * 10)
    assert factors[90:] == pytest.approx([0.01] * 10)
    cosine = Schedule(kind="cosine", warmup_steps=20, floor=0.1)
    assert lr_factor(20, 100, cosine) == 1
    assert lr_factor(60, 100, cosine) == pytest.approx(0.55)
    assert lr_factor(100, 100, cosine) == pytest.approx(0.1)
    assert lr_factor(3, 100, Schedule()) == 1


def test_the_average_follows_the_weights() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Average(net, 0.5)
    with torch.no_grad():
        before = net[0].weight.clone()
        net[0].weight += 1
        net[1].num_batches_tracked += 3
    average.update(step=100)
    torch.testing.assert_close(average.net[0].weight, before + 0.5)
    assert int(average.net[1].num_batches_tracked) == 3
    assert not average.net.training
    average.update(step=0)  # early on it moves further
    torch.testing.assert_close(average.net[0].weight, before + 0.5 + 0.9 * 0.5)


# --------------------------------------------------------------------------- order of the people


def people(count: int) -> Examples:
    return Examples(count, lambda i, rng: {"who": np.array(i), "luck": rng.random(3)})


def take(feed: Feed, step: int, batches: int) -> list[dict[str, np.ndarray]]:
    stream = feed.batches(step)
    found = [next(stream) for _ in range(batches)]
    stream.close()
    return found


def test_every_epoch_sees_everybody_once_in_another_order() -> None:
    seen = np.concatenate([b["who"] for b in take(Feed(people(10), 0, 4, 2), 0, 5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    assert seen[:10].tolist() == epoch_order(0, 0, 10).tolist()
    assert not np.array_equal(epoch_order(0, 0, 10), epoch_order(1, 0, 10))


@pytest.mark.parametrize("workers", [1, 3, 9])
def test_batches_depend_on_the_step_alone(workers: int) -> None:
    whole = take(Feed(people(10), 3, 4, 2), 0, 8)
    part = take(Feed(people(10), 3, 4, workers), 5, 3)
    for a, b in zip(whole[5:], part, strict=True):
        assert all(np.array_equal(a[k], b[k]) for k in a)
    assert len({tuple(x) for b in whole for x in b["luck"]}) == 32  # the same person is seen differently each time


def test_processes_share_a_step_without_overlap() -> None:
    alone = take(Feed(people(10), 0, 4, 1), 0, 6)
    shares = [take(Feed(people(10), 0, 2, 1, process=i, processes=2), 0, 6) for i in range(2)]
    for step, batch in enumerate(alone):
        both = np.concatenate([share[step]["luck"] for share in shares])
        assert np.array_equal(both, batch["luck"])


def test_a_missing_picture_is_an_error_and_stops_the_threads() -> None:
    def make(i: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        raise DataError(f"person {i}: image missing")

    with pytest.raises(DataError, match="image missing"):
        take(Feed(Examples(3, make), 0, 2, 2), 0, 1)


# --------------------------------------------------------------------------- runs


def run(settings: dict[str, Any], out: Path, model: str = "learner", **more: Any) -> train.TrainResult:
    keys = ("resume", "minutes", "half", "progress")
    job = prepare_training(model, "people-2d", **{**settings, **{k: v for k, v in more.items() if k not in keys}})
    return train.run(job, out, **{k: v for k, v in more.items() if k in keys})


@pytest.mark.thorough
def test_small_pictures_and_muon_first_then_the_card_s_size(settings: dict[str, Any], tmp_path: Path) -> None:
    recipe = settings["recipe"].read_text().replace("optimizer: {", "optimizer: {muon_lr: 0.02, ")
    (tmp_path / "small.yaml").write_text(recipe + "input: [64, 48]\n")
    small = {"recipe": tmp_path / "small.yaml", "val_dataset": "people-2d", "steps": 4}
    job = prepare_training("small-pose", "people-2d", **{**settings, **small})
    assert job.examples.make(0, np.random.default_rng(0))["image"].shape == (64, 48, 3)
    first = run(settings, tmp_path / "a", "small-pose", **small, minutes=0)
    assert not first.finished
    first = run(settings, tmp_path / "a", "small-pose", **small, resume=True)
    whole = run(settings, tmp_path / "whole", "small-pose", **small)
    assert losses(tmp_path / "a") == losses(tmp_path / "whole")
    job = prepare_training("small-pose", "people-2d", **{**settings, "init": str(whole.weights)})
    assert job.examples.make(0, np.random.default_rng(0))["image"].shape == (128, 96, 3)
    second = run(settings, tmp_path / "b", "small-pose", init=str(first.weights), steps=1)
    with safe_open(second.weights, "pt") as file:
        assert file.metadata()["started_from"] == f"all weights of {described(str(first.weights))}"


def losses(out: Path) -> list[tuple[str, str, str]]:
    return [(row["step"], row["loss"], row["grad_norm"]) for row in read_table(out / "log.csv")]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118


def test_a_run_leaves_weights_logs_and_what_they_are(settings: dict[str, Any], tmp_path: Path) -> None:
    seen: list[train.Moment] = []
    result = run(settings, tmp_path / "r", val_dataset="people-2d", progress=seen.append, half=True)
    assert result.finished
    assert result.weights == tmp_path / "r" / "weights.safetensors"
    assert [int(r["step"]) for r in read_table(tmp_path / "r" / "log.csv")] == list(range(1, 7))
    assert [int(r["step"]) for r in read_table(tmp_path / "r" / "validation.csv")] == [
        5,
        6,
    ]  # two epochs of ten, and the end
    assert {m.step for m in seen} == set(range(1, 7))
    assert (seen[0].steps, seen[0].people_per_s > 0) == (6, True)
    assert any(m.validation for m in seen)
    with safe_open(result.weights, "pt") as file:
        metadata = file.metadata()
    assert (metadata["model"], metadata["recipe"], metadata["dataset"], metadata["people"]) == (
        "learner", "short", "people-2d", "10"
    )  # fmt: skip
    assert {"commit", "seconds", "annotations_sha256", "started_from", "settings", "step"} <= set(metadata)
    for value in tensors(result.weights).values():
        assert not value.is_floating_point() or (value.dtype == torch.float16) == (value.ndim > 1)
    best, halves = tensors(tmp_path / "r" / "best.safetensors"), tensors(result.weights)
    for name, value in best.items():
        torch.testing.assert_close(halves[name].to(value.dtype), value, atol=1e-3, rtol=1e-3)
    assert result.weights.stat().st_mode & 0o777 == 0o644


def test_nothing_that_is_written_says_where_a_file_lay(settings: dict[str, Any], tmp_path: Path) -> None:
    start = run(settings, tmp_path / "secret", steps=1).weights
    result = run(settings, tmp_path / "r", val_dataset="people-2d", steps=1, init=str(start))
    assert start is not None
    assert result.weights is not None
    with safe_open(result.weights, "pt") as file:
        metadata = file.metadata()
    name = f"weights.safetensors (sha256 {file_sha256(start)[:12]})"
    assert metadata["started_from"] == f"all weights of {name}"
    assert json.loads(metadata["settings"])["init"] == name
    written = [p for p in (tmp_path / "r").rglob("*") if p.is_file()]
    assert {"last.ckpt", "run.json", "log.csv", "best.safetensors"} <= {p.name for p in written}
    for path in written:
        assert str(tmp_path).encode() not in path.read_bytes(), path
        assert b"secret" not in path.read_bytes(), path


def test_a_file_to_start_from_may_be_moved_but_not_changed(settings: dict[str, Any], tmp_path: Path) -> None:
    files = [run(settings, tmp_path / name, steps=1, seed=seed).weights for seed, name in enumerate(("a", "b"))]
    moved = tmp_path / "moved" / "weights.safetensors"
    moved.parent.mkdir()
    run(settings, tmp_path / "r", init=str(files[0]), minutes=0)
    shutil.copy(str(files[0]), moved)
    assert run(settings, tmp_path / "r", init=str(moved), resume=True).finished
    with pytest.raises(UsageError, match="recipe"):
        run(settings, tmp_path / "r", init=str(files[1]), resume=True)


# --------------------------------------------------------------------------- pictures on the device


@pytest.mark.parametrize("rotation", [0.0, 33.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_crop_on_the_device_is_the_crop_on_the_host(tmp_path: Path, rotation: float, mirrored: bool) -> None:
    rng, paths = np.random.default_rng(0), [tmp_path / "a.png", tmp_path / "b.png"]
    for path, (h, w) in zip(paths, ((50, 70), (64, 40)), strict=True):
        cv2.imwrite(str(path), cv2.resize(rng.integers(0, 256, (h // 8, w // 8, 3), np.uint8), (w, h)))
    kept = Pictures(paths, torch.device("cpu"), 2)
    card, views = CARDS["swinpose-t-s2"].model_copy(update={"input": (32, 24)}), []
    for number, colour in ((1, (0.5, 1.0, 1.7)), (0, None), (1, None)):
        view = View(np.array([30.0 + number, 25.0]), np.array([42.0, 56.0]), rotation, mirrored, colour)
        matrix = view.matrix(card.input, "udp")
        there = look(number, view, matrix, card)
        here = look(read_image(paths[number]), view, matrix, card)["image"]
        views.append((there, here))
    batch = [torch.from_numpy(np.stack([there[k] for there, _ in views])) for k in ("picture", "matrix", "colour")]
    crops = kept.crop(batch[0], batch[1], batch[2], card.input)
    assert crops.dtype == torch.float32
    assert torch.equal(crops, crops.round())
    expected = np.stack([here for _, here in views]).astype(np.float32)
    assert expected.std() > 30
    apart = np.abs(crops.numpy() - expected)
    levels = 1 if OPENCV_5 else 6
    assert apart.max() <= 2 * levels  # colours are stretched after rounding
    assert apart.mean() < 0.1 * levels


def test_a_run_with_kept_pictures_learns_the_same(settings: dict[str, Any], tmp_path: Path) -> None:
    read = run(settings, tmp_path / "read", val_dataset="people-2d")
    kept = run(settings, tmp_path / "kept", val_dataset="people-2d", cache=True)
    numbers = [np.array([[float(x) for x in row] for row in losses(tmp_path / n)]) for n in ("read", "kept")]
    assert len(numbers[0]) == 6
    np.testing.assert_allclose(numbers[0], numbers[1], rtol=0.02)  # rounded levels apart
    assert read.best["step"] == kept.best["step"]
    with pytest.raises(UsageError, match="cached"):
        run(settings, tmp_path / "read", val_dataset="people-2d", cache=True, resume=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_with_kept_pictures_is_resumed_bit_for_bit(
    settings: dict[str, Any], tmp_path: Path, workers: int
) -> None:
    run(settings, tmp_path / "whole", cache=True, workers=2)
    assert not run(settings, tmp_path / "parts", cache=True, workers=workers, minutes=0).finished
    run(settings, tmp_path / "parts", cache=True, workers=workers, resume=True)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    ours, theirs = (tensors(tmp_path / n / "weights.safetensors") for n in ("parts", "whole"))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_meshes_learn_from_kept_pictures(tmp_path: Path) -> None:
    small_training.write_solid(tmp_path, 4)
    settings = small_training.write_settings(tmp_path)
    (tmp_path / "mesh.yaml").write_text(small_training.RECIPE.replace("task: hpe", "task: hmr\nbest: MPJPE"))
    settings |= {"recipe": tmp_path / "mesh.yaml"}
    for name, cache in (("read", False), ("kept", True)):
        train.run(prepare_training("tiny-mesh", "people-3d", **settings, cache=cache, steps=2), tmp_path / name)
    numbers = [np.array([[float(x) for x in row] for row in losses(tmp_path / n)]) for n in ("read", "kept")]
    np.testing.assert_allclose(numbers[0], numbers[1], rtol=0.02)


def test_kept_pictures_must_be_whole_and_have_room(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = prepare_training("learner", "people-2d", **settings, cache=True)
    with monkeypatch.context() as patch:

        def full(*args: object, **more: object) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

        patch.setattr("hmrbench.training.pictures.torch.empty", full)
        with pytest.raises(UsageError, match=r"10 decoded pictures are 0\.0 GB.*without --cache"):
            Pictures(job.examples.pictures, torch.device("cpu"), 1)
    job.examples.pictures[3].unlink()
    with pytest.raises(DataError, match=job.examples.pictures[3].name):
        train.run(job, tmp_path / "r")
    (tmp_path / "own.yaml").write_text(small_training.SETS.replace("reader: hmr-npz", "reader: hmrbench.training.tars"))
    with pytest.raises(UsageError, match="leave --cache out"):
        prepare_training(
            "swinhmr2-t-s2", "people-3d", data_root=tmp_path, datasets_file=tmp_path / "own.yaml", device="cpu",
            recipe="demo-mesh", cache=True,
        )  # fmt: skip


def test_weights_are_those_that_validation_measured(settings: dict[str, Any], tmp_path: Path) -> None:
    result = run(settings, tmp_path / "r", val_dataset="people-2d")
    rows = read_table(tmp_path / "r" / "validation.csv")
    best = max(float(r["AP"]) for r in rows)
    assert result.best["value"] == best
    card = load_card("learner", settings["models_dirs"])
    state = tensors(tmp_path / "r" / "weights.safetensors")
    net = zoo.build_net(card)
    net.load_state_dict(state)
    job = prepare_job(
        card,
        "people-2d",
        weights="random",
        data_root=tmp_path,
        datasets_file=settings["datasets_file"],
        device="cpu",
    )
    found = evaluation.measure(evaluation.predict_all(net, job), job.spec, job.dataset)
    assert next(s.value for m in found for s in m.scores if s.name == "AP") == pytest.approx(best)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_repeats_an_uninterrupted_one_bit_for_bit(
    stop: int, settings: dict[str, Any], tmp_path: Path
) -> None:
    run(settings, tmp_path / "whole")

    def interrupt(moment: train.Moment) -> None:
        if moment.step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "parts", progress=interrupt)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")[:stop]
    torch.rand(7)  # the state of the random numbers is brought back, too
    result = run(settings, tmp_path / "parts", resume=True, workers=3)
    assert result.finished
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    whole, parts = (tensors(tmp_path / n / "weights.safetensors") for n in ("whole", "parts"))
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_a_run_stopped_between_two_rows_of_the_log_logs_the_same(settings: dict[str, Any], tmp_path: Path) -> None:
    text = (tmp_path / "short.yaml").read_text()
    (tmp_path / "short.yaml").write_text(text.replace("log_every: 1", "log_every: 2"))
    run(settings, tmp_path / "whole")
    assert run(settings, tmp_path / "parts", minutes=0).step == 1
    run(settings, tmp_path / "parts", resume=True)
    assert len(losses(tmp_path / "whole")) == 3
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_rows_of_the_log_after_the_checkpoint_are_made_anew(settings: dict[str, Any], tmp_path: Path) -> None:
    """As after a crash: the log is ahead of the checkpoint."""
    run(settings, tmp_path / "whole")

    def interrupt(moment: train.Moment) -> None:
        if moment.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "r", progress=interrupt)
    with (tmp_path / "r" / "log.csv").open("a") as file:
        file.write("4,1.6,16,0.1,99,99,1,1\n5,2.0,20,0.1,9")
    run(settings, tmp_path / "r", resume=True)
    assert losses(tmp_path / "r") == losses(tmp_path / "whole")


def test_time_is_up(settings: dict[str, Any], tmp_path: Path) -> None:
    result = run(settings, tmp_path / "r", minutes=0)
    assert (result.finished, result.weights, result.step) == (False, None, 1)
    assert run(settings, tmp_path / "r", resume=True).finished


def test_another_run_is_not_resumed(settings: dict[str, Any], tmp_path: Path) -> None:
    run(settings, tmp_path / "r", minutes=0)
    with pytest.raises(UsageError, match="--resume goes on"):
        run(settings, tmp_path / "r")
    with pytest.raises(UsageError, match=r"recipe: .*; seed: 0 there, 1 now"):
        run(settings, tmp_path / "r", resume=True, seed=1, lr=0.5)
    (tmp_path / "r" / "last.ckpt").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="not a readable checkpoint"):
        run(settings, tmp_path / "r", resume=True)


def test_a_checkpoint_that_would_run_something_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    from test_checkpoints import Trap

    torch.save({"version": 1, "identity": Trap(tmp_path / "sprung")}, tmp_path / "last.ckpt")
    with pytest.raises(DataError, match="not a readable checkpoint"):
        checkpoint.read(tmp_path / "last.ckpt", {})
    assert not (tmp_path / "sprung").exists()


def test_a_loss_that_is_no_number_ends_the_run(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(HmrbenchError, match="loss is not finite at step"):
        run(settings, tmp_path / "r", lr=1e30)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"dtype": "fp16"}, UsageError, "fp16 is trained on a GPU"),
        ({"recipe": "demo-mesh"}, UsageError, "is for hmr"),
        ({"val_dataset": "coco-vol"}, UsageError, "did you mean coco-val"),
        ({"init": "nowhere.pth"}, DataError, "weights file missing"),
        ({"data_root": Path("nowhere")}, DataError, "no such data root"),
    ],
)
def test_bad_settings_are_named(
    change: dict[str, Any], error: type[Exception], message: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        run(settings, tmp_path / "r", **change)


def test_detector_boxes_cannot_be_trained_on(settings: dict[str, Any], tmp_path: Path) -> None:
    spec = tmp_path / "sets.yaml"
    file = "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
    det = f"boxes: {{det: {file}}}, default_boxes: det"
    spec.write_text(spec.read_text().replace("licence: none}", f"licence: none, {det}}}", 1))
    with pytest.raises(DataError, match="not an annotated person"):
        run(settings, tmp_path / "r")


def test_bf16_trains(settings: dict[str, Any], tmp_path: Path) -> None:
    run(settings, tmp_path / "r", dtype="bf16", steps=2)
    assert all(math.isfinite(float(loss)) for _, loss, _ in losses(tmp_path / "r"))
    state = tensors(tmp_path / "r" / "weights.safetensors")
    assert {v.dtype for v in state.values()} == {torch.float32, torch.int64}


# --------------------------------------------------------------------------- command


def command(settings: dict[str, Any], *args: object) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(guarded(cli_train))
    fixed = (
        "--data-root", settings["data_root"], "--datasets-file", settings["datasets_file"],
        "--models-dir", settings["models_dirs"][0], "--device", "cpu",
    )  # fmt: skip
    return CliRunner().invoke(app, [str(a) for a in (*args, *fixed)], env={"COLUMNS": "80"})


def test_the_command_trains_and_prints_where_the_weights_are(settings: dict[str, Any], tmp_path: Path) -> None:
    args = ("learner", "-d", "people-2d", "--recipe", settings["recipe"], "-o", tmp_path / "r", "--steps", 2)
    result = command(settings, *args, "--val-dataset", "people-2d", "--batch-size", 5)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == str(tmp_path / "r" / "weights.safetensors")
    assert "2 steps of 5" in result.stderr
    assert "people/s" in result.stderr
    assert "AP" in result.stderr
    again = command(settings, *args)
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    document = json.loads(command(settings, *args, "--json", "-o", tmp_path / "s", "--minutes", 0).stdout)
    assert (document["finished"], document["step"], document["weights"]) == (False, 1, None)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--recipe", "vitpos"), 2, "did you mean vitpose"),
        (("--batch-size", "0"), 2, "batch size"),
        (("--dtype", "fp16"), 2, "fp16 is trained on a GPU"),
        (("--init", "none.pth"), 3, "none.pth"),
        (("--steps", "3", "--epochs", "1"), 2, "not both"),
    ],
)
def test_bad_flags_have_their_message_and_exit_code(
    args: tuple[str, ...], code: int, words: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    result = command(
        settings, "learner", "-d", "people-2d", "--recipe", settings["recipe"], "-o", tmp_path / "r", *args
    )
    assert result.exit_code == code, result.output
    assert words in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_an_interrupt_saves_and_exits_130(settings: dict[str, Any], tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hmrbench.cli.train.Display", lambda: interrupt)
        args = ("learner", "-d", "people-2d", "--recipe", settings["recipe"], "-o", tmp_path / "r")
        result = command(settings, *args)
    assert result.exit_code == 130
    assert "--resume goes on from" in result.stderr
    assert (tmp_path / "r" / "last.ckpt").is_file()
    assert command(settings, *args, "--resume").exit_code == 0


# --------------------------------------------------------------------------- starts


def test_a_network_starts_from_a_file_whole_or_from_its_encoder(tmp_path: Path) -> None:
    from hmrbench.checkpoints import save_state

    pose, says, _ = start_net(CARDS["swinpose-t-s2"], "random", 0.1, seed=1)
    assert says == "random"
    assert pose.training
    save_state(pose.state_dict(), tmp_path / "pose.safetensors", {})
    again, says, whole = start_net(CARDS["swinpose-t-s2"], str(tmp_path / "pose.safetensors"), 0.0, seed=2)
    assert says.startswith("all weights of")
    assert whole
    assert torch.equal(again.state_dict()["head.final_layer.weight"], pose.state_dict()["head.final_layer.weight"])
    mesh, says, all_of_mesh = start_net(CARDS["swinhmr2-t-s2"], str(tmp_path / "pose.safetensors"), 0.0, seed=2)
    assert says.startswith("encoder and neck of")
    assert not all_of_mesh
    for key in ("encoder.layers.1.blocks.1.mlp.fc1.weight", "neck.resample.weight"):
        assert torch.equal(mesh.state_dict()[key], pose.state_dict()[key])
    with pytest.raises(DataError, match="missing"):
        start_net(CARDS["gmfpose-t-s2"], str(tmp_path / "pose.safetensors"), 0.0, seed=0)


def test_mean_parameters_come_from_the_training_set() -> None:
    net = zoo.build_net(CARDS["swinhmr2-t-s2"])
    set_mean_parameters(net, None)
    head: Any = net.head
    upright = [1, 0, 0, 0, -1, 0]
    assert head.init_body_pose[0, :6].tolist() == upright
    betas = np.full((5, 10), 0.3, np.float32)
    pose = np.tile(np.eye(3, dtype=np.float32), (5, 23, 1, 1))
    set_mean_parameters(net, {"betas": betas, "body_pose": pose})
    assert head.init_betas[0].tolist() == pytest.approx([0.3] * 10)
    assert head.init_body_pose[0, :12].tolist() == [*upright, 1, 0, 0, 0, 1, 0]


# --------------------------------------------------------------------------- the whole chain learns

OVERFIT = """
task: {task}
steps: {steps}
batch_size: 8
dtype: fp32  # bf16 is computed one number at a time by processors that lack it
clip: 1.0
ema: 0.9
optimizer: {{lr: {lr}, weight_decay: 0.0}}
schedule: {{kind: cosine, warmup_steps: 10, floor: 0.02}}
augment: {{flip: {flip}}}
loss: {loss}
best: {best}
validate_every: 1000
"""


def overfit(
    tmp_path: Path, task: str, model: str, dataset: str, steps: int, lr: float, loss: str, best: str
) -> dict[str, float]:
    settings = small_training.write_settings(tmp_path)
    flip = 0.5 if task == "hpe" else 0  # poses are measured with the mirrored picture, too
    text = OVERFIT.format(task=task, steps=steps, lr=lr, loss=loss, best=best, flip=flip)
    (tmp_path / "overfit.yaml").write_text(text)
    job = prepare_training(model, dataset, **{**settings, "recipe": tmp_path / "overfit.yaml", "val_dataset": dataset})
    train.run(job, tmp_path / "r")
    return {k: float(v) for k, v in read_table(tmp_path / "r" / "validation.csv")[-1].items()}


@pytest.mark.slow
def test_a_pose_network_learns_eight_people_by_heart(tmp_path: Path) -> None:
    small_training.write_flat(tmp_path, 8)
    found = overfit(tmp_path, "hpe", "small-pose", "people-2d", 250, 1e-3, "{scale: 100, foreground: 10}", "AP")
    assert found["AP"] == pytest.approx(100, abs=1e-6)


@pytest.mark.slow
def test_a_mesh_network_learns_eight_people_by_heart(tmp_path: Path) -> None:
    small_training.write_solid(tmp_path, 8)
    loss = "{keypoints_2d: 1, keypoints_3d: 5, global_orient: 1, body_pose: 1, betas: 0.1}"
    found = overfit(tmp_path, "hmr", "small-mesh", "people-3d", 360, 1e-3, loss, "MPJPE")
    assert found["MPJPE"] < 10
