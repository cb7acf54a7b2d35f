"""Small training sets with something to learn in them, a network with dropout, and recipes of a few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from conftest import make_coco
from torch import Tensor, nn

from hmrbench import geometry
from hmrbench.body import free_body
from hmrbench.nets.heads.smpl import SMPLHead
from hmrbench.schema import ModelCard

JOINTS = [25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 43]
SETS = f"""
people-2d:
  {{task: hpe, title: People, reader: coco, folder: flat, images: val2017, metrics: [coco-keypoints],
   annotations: annotations/person_keypoints_val2017.json, licence: none}}
people-3d:
  {{task: hmr, title: People, reader: hmr-npz, folder: solid, annotations: people.npz, images: .,
   metrics: [mpjpe], licence: none, options: {{body: free-lite, pve: true, pelvis: 39, joints: {JOINTS}}}}}
"""
RECIPE = """
task: hpe
steps: 6
batch_size: 4
optimizer: {lr: 0.01, weight_decay: 0.05, layer_decay: 0.9}
schedule: {kind: cosine, warmup_steps: 2}
augment: {flip: 0.5, scale: 0.3, rotation_deg: 20, shift: 0.1}
clip: 1.0
ema: 0.9
validate_every: 2
log_every: 1
"""
TINY_CARDS = """
family: learner
defaults: {task: hpe, size: t, input: [64, 48], licence: none}
models:
  learner: {paper_name: Learner, build: 'small_training:build'}
  plain: {paper_name: Plain, build: 'tiny_net:build'}
  tiny-mesh:
    {paper_name: Tiny-Mesh, task: hmr, input: [256, 256], codec: smpl, crop: {kind: square},
     build: 'small_training:build_mesh'}
  small-pose: {paper_name: Small, input: [128, 96], encoder: swin-t, stages: 2}
  small-mesh:
    {paper_name: Small, task: hmr, input: [128, 128], encoder: swin-t, stages: 2, crop: {kind: square},
     codec: smpl, head: {kind: smpl, depth: 3, heads: 4, dim_head: 16, mlp_dim: 128}}
"""


class Learner(nn.Module):
    """(B, 3, H, W) -> (B, 17, H / 4, W / 4), with everything a resumed run must bring back: norms and
    dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.2),
            nn.Conv2d(16, 17, 5, stride=2, padding=2),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y


class TinyMesh(nn.Module):
    """(B, 3, H, W) -> body parameters, by a decoder that sees sixteen mean colours."""

    def __init__(self) -> None:
        super().__init__()
        self.head = SMPLHead(3, depth=1, heads=1, dim_head=8, mlp_dim=8, dim=16)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y: dict[str, Tensor] = self.head(nn.functional.adaptive_avg_pool2d(x, 4))
        return y


def build(card: ModelCard) -> nn.Module:
    return Learner()


def build_mesh(card: ModelCard) -> nn.Module:
    return TinyMesh()


def write_flat(root: Path, people: int) -> Path:
    """`people-2d`: people of coloured dots, one picture each."""
    make_coco(root / "flat", (1,) * people)
    file = root / "flat" / "annotations" / "person_keypoints_val2017.json"
    truth = json.loads(file.read_text())
    colours = np.random.default_rng(1).integers(64, 256, (17, 3)).tolist()
    for image, person in zip(truth["images"], truth["annotations"], strict=True):
        path = str(root / "flat" / "val2017" / image["file_name"])
        picture = cv2.imread(path) // 4
        for (x, y, seen), colour in zip(np.reshape(person["keypoints"], (17, 3)), colours, strict=True):
            if seen:
                cv2.circle(picture, (round(x), round(y)), 5, colour, -1)
        cv2.imwrite(path, picture)
    return root


def write_solid(root: Path, people: int) -> Path:
    """`people-3d`: bodies of the free body, their joints drawn as dots, one picture each, seen in a square of
    160 pixels."""
    folder = root / "solid"
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    pose = 0.3 * torch.randn(people, 24, 3, generator=generator)
    pose[:, 0] = torch.tensor([torch.pi, 0, 0]) + 0.1 * torch.randn(people, 3, generator=generator)
    betas = torch.randn(people, 10, generator=generator)
    cam = torch.tensor([[0.9, 0.0, 0.2]]).repeat(people, 1)
    matrices = geometry.axis_angle_to_matrix(pose)
    joints = free_body(lite=True)(matrices[:, :1], matrices[:, 1:], betas).joints
    assert joints is not None
    focal = torch.full((people, 2), 5000 / 256)
    px = geometry.project(joints, geometry.cam_to_translation(cam), focal).numpy() * 160 + [150, 120]
    rng = np.random.default_rng(0)
    colours = rng.integers(64, 256, (44, 3)).tolist()
    for i in range(people):
        picture = cv2.resize(rng.integers(0, 64, (12, 16, 3), np.uint8), (300, 240))
        for (x, y), colour in zip(px[i], colours, strict=True):
            cv2.circle(picture, (round(x), round(y)), 3, colour, -1)
        cv2.imwrite(str(folder / f"{i}.png"), picture)
    ones = np.ones((people, 44, 1))
    flat, solid = np.concatenate([px, ones], axis=2), np.concatenate([joints.numpy(), ones], axis=2)
    fields: dict[str, Any] = {
        "imgname": np.array([f"{i}.png" for i in range(people)]),
        "center": np.tile([150.0, 120.0], (people, 1)),
        "scale": np.tile([120.0, 160.0], (people, 1)),
        "body_keypoints_2d": flat[:, :25],
        "extra_keypoints_2d": flat[:, 25:],
        "body_keypoints_3d": solid[:, :25],
        "extra_keypoints_3d": solid[:, 25:],
        "body_pose": pose.flatten(1).numpy(),
        "betas": betas.numpy(),
    }
    np.savez(folder / "people.npz", **fields)
    return root


def write_settings(root: Path) -> dict[str, Any]:
    """Cards, sets and the recipe `short` in `root`; the settings of a training that find them."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "sets.yaml").write_text(SETS)
    (root / "short.yaml").write_text(RECIPE)
    (root / "cards").mkdir(exist_ok=True)
    (root / "cards" / "learner.yaml").write_text(TINY_CARDS)
    return {
        "recipe": root / "short.yaml",
        "data_root": root,
        "datasets_file": root / "sets.yaml",
        "models_dirs": [root / "cards"],
        "device": "cpu",
    }
