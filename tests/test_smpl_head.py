"""The SMPL head equals the official one: keys, numbers, cost."""

from __future__ import annotations

import json

import numpy as np
import pytest
import refio
import seeding
import torch
from drawn import bound
from fvcore.nn import FlopCountAnalysis

from hmrbench.nets.heads.smpl import SMPLHead

LIGHT = {"in_channels": 384, "depth": 3, "heads": 4, "dim_head": 16, "mlp_dim": 128}
FULL = {"in_channels": 1280, "depth": 6, "heads": 8, "dim_head": 64, "mlp_dim": 1024}
LAYOUTS = [("d3_a4x16_m128_c384", LIGHT), ("d6_a8x64_m1024_c1280", FULL)]


@pytest.fixture(scope="module")
def head():
    return seeding.seed_module_(SMPLHead(**LIGHT).eval())


@torch.no_grad()
def run(head, x):
    return {**head(x), "token_out": head.decode(x)}


@pytest.mark.parametrize(("layout", "sizes"), LAYOUTS)
def test_keys_and_shapes_are_official(refs, layout, sizes):
    expected = json.loads((refs / "layouts" / f"hmr2_head_{layout}.json").read_text())
    assert {k: list(v.shape) for k, v in SMPLHead(**sizes).state_dict().items()} == expected


def test_outputs_equal_official(refs, head):
    ref = np.load(refs / "hmr2_head_d3_a4x16_m128_c384.npz")
    outputs = run(head, seeding.seeded_input((2, 384, 16, 12)))
    assert set(refio.names(ref)) == set(outputs)
    for name, value in outputs.items():
        assert refio.error(ref, name, value.numpy()) < 2e-4, name  # noise between processors is up to 3.6e-5


def test_outputs_equal_official_in_float64(refs, head):
    ref = np.load(refs / "hmr2_head_d3_a4x16_m128_c384_f64.npz")
    outputs = run(head.double(), seeding.seeded_input((2, 384, 16, 12)).double())
    head.float()
    for name in refio.names(ref):
        assert refio.error(ref, name, outputs[name].numpy()) < bound(2e-6), name


def test_mistakes_would_be_seen(refs, head):
    """The comparison is not blind: a context in another norm, or 6D read the other way, is far off."""
    ref = np.load(refs / "hmr2_head_d3_a4x16_m128_c384.npz")
    x = seeding.seeded_input((2, 384, 16, 12))
    normed = torch.nn.functional.layer_norm(x.mT, x.mT.shape[-1:]).mT
    assert refio.error(ref, "betas", run(head, normed)["betas"].numpy()) > 1e-2


@pytest.mark.parametrize("channels", [160, 200, 240, 320, 384, 480, 512, 768, 1024, 1280])
@pytest.mark.parametrize("kind", ["light", "full"])
def test_cost_is_official(refs, kind, channels):
    costs = json.loads((refs / "official_costs.json").read_text())["smpl_heads"]
    sizes = {**(LIGHT if kind == "light" else FULL), "in_channels": channels}
    found = [(name, cost) for name, cost in costs.items() if name.startswith(f"{kind}_ctx{channels}_")]
    assert found
    with torch.device("meta"):
        head = SMPLHead(**sizes).eval()
    for name, cost in found:
        h, w = (int(v) for v in name.rsplit("_", 1)[1].split("x"))
        assert sum(p.numel() for p in head.parameters()) == cost["params"]
        macs = FlopCountAnalysis(head, torch.zeros(1, channels, h, w, device="meta"))
        macs.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        assert macs.total() == pytest.approx(cost["flops"], rel=1e-3)


def test_published_sizes():
    counts = [sum(p.numel() for p in SMPLHead(**sizes).parameters()) for sizes in (FULL, LIGHT)]
    assert [round(c / 1e6, 3) for c in counts] == [39.547, 2.306]


def test_an_untrained_head_is_near_the_rest_pose():
    out = SMPLHead(in_channels=8, depth=1, heads=1, dim_head=4, mlp_dim=8, dim=16)
    for layer in (out.decpose, out.decshape, out.deccam):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        found = out(torch.randn(3, 8, 4, 4))
    assert torch.allclose(found["body_pose"], torch.eye(3).expand(3, 23, 3, 3))
    assert torch.allclose(found["global_orient"], torch.eye(3).expand(3, 1, 3, 3))
    assert torch.equal(found["betas"], torch.zeros(3, 10))
    assert torch.allclose(found["cam"], torch.tensor([0.9, 0.0, 0.0]).expand(3, 3))


def test_order_of_tokens_does_not_matter_and_input_is_kept(head):
    x = seeding.seeded_input((1, 384, 16, 12)).double()
    before = x.clone()
    first, second = run(head.double(), x), run(head, x.flip(-1).transpose(2, 3))
    head.float()
    assert torch.equal(x, before)
    for name in first:
        assert torch.allclose(first[name], second[name], rtol=0, atol=1e-10)
