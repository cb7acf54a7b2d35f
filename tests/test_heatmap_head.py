"""The heatmap head equals ViTPose's classic decoder: keys, numbers, cost."""

from __future__ import annotations

import json

import numpy as np
import pytest
import refio
import seeding
import torch
from drawn import bound
from fvcore.nn import FlopCountAnalysis
from torch import nn

from hmrbench.nets.encoders.vit import vit_s
from hmrbench.nets.heads.heatmap import HeatmapHead

WIDTHS = {"S": 384, "B": 768, "L": 1024, "H": 1280}


@pytest.fixture(scope="module")
def vitpose():
    detector = nn.ModuleDict({"backbone": vit_s(), "keypoint_head": HeatmapHead(384)})
    seeding.seed_module_(detector.eval())
    return nn.Sequential(*detector.values())


def flip_back(heatmaps):
    """Heatmaps of a mirrored image as those of the image: left and right swapped, columns reversed."""
    swapped = [0, *(i for pair in zip(range(2, 17, 2), range(1, 17, 2), strict=True) for i in pair)]
    return heatmaps[:, swapped].flip(-1)


@pytest.mark.parametrize("size", WIDTHS)
def test_keys_and_costs_are_the_official_ones(refs, size):
    layout = json.loads((refs / "layouts" / f"vitpose_{size}.json").read_text())
    prefix = "keypoint_head."
    head, x = HeatmapHead(WIDTHS[size]).eval(), torch.zeros(1, WIDTHS[size], 16, 12)
    ours = {k: list(v.shape) for k, v in head.state_dict().items()}
    assert ours == {k.removeprefix(prefix): v for k, v in layout.items() if k.startswith(prefix)}
    official = json.loads((refs / "official_costs.json").read_text())[f"vitpose_{size}"]["classic_head"]
    assert sum(p.numel() for p in head.parameters()) == official["params"]
    assert FlopCountAnalysis(head, x).unsupported_ops_warnings(False).total() == official["flops"]


@torch.no_grad()
def test_equals_vitpose_with_and_without_flip(refs, vitpose):
    official = np.load(refs / "vitpose_S.npz")
    x = seeding.seeded_input((1, 3, 256, 192))
    heatmap, flipped = vitpose(x), flip_back(vitpose(x.flip(-1)))
    shifted = torch.cat([flipped[..., :1], flipped[..., :-1]], -1)
    results = {
        "heatmap": heatmap,
        "heatmap_flipped_back": flipped,
        "heatmap_flip_avg": (heatmap + flipped) / 2,
        "heatmap_flip_avg_shifted": (heatmap + shifted) / 2,
    }
    for name, result in results.items():
        assert refio.error(official, name, result.numpy()) < 1e-4, name


@torch.no_grad()
def test_equals_vitpose_in_float64(refs):
    detector = nn.ModuleDict({"backbone": vit_s(), "keypoint_head": HeatmapHead(384)})
    net = nn.Sequential(*seeding.seed_module_(detector.eval()).double().values())
    out = net(seeding.seeded_input((1, 3, 256, 192)).double())
    assert refio.error(np.load(refs / "vitpose_S_f64.npz"), "heatmap", out.numpy()) < bound(2e-6)


def test_starts_near_zero_and_learns():
    torch.manual_seed(0)
    head, x = HeatmapHead(32, num_keypoints=5, num_filters=(16, 8, 8)).train(), torch.randn(2, 32, 4, 3)
    before = x.clone()
    out = head(x)
    assert out.shape == (2, 5, 32, 24)
    assert out.detach().abs().max() < 0.1
    (out - 1).square().mean().backward()
    assert torch.equal(x, before)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_and_channels_last(dtype):
    head, x = seeding.seed_module_(HeatmapHead(384).eval()), seeding.seeded_input((1, 384, 16, 12))
    exact = head(x)
    assert torch.allclose(head(x.to(memory_format=torch.channels_last)), exact, atol=1e-4)
    with torch.autocast("cpu", dtype):
        assert (head(x).float() - exact).abs().max() < 0.05 * exact.std()
    assert (head.to(dtype)(x.to(dtype)).float() - exact).abs().max() < 0.05 * exact.std()
