"""The ViT encoder equals ViTPose's: keys, numbers, cost."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import refio
import seeding
import torch
from drawn import bound
from fvcore.nn import FlopCountAnalysis

from hmrbench.errors import UsageError
from hmrbench.nets.encoders import vit

SIZES = {"S": vit.vit_s, "B": vit.vit_b, "L": vit.vit_l, "H": vit.vit_h}


def seeded():
    return seeding.seed_module_(vit.vit_s().eval(), lambda key: f"backbone.{key}")


def relative_error(a, b):
    return float((a - b).abs().max() / b.std())


@pytest.mark.parametrize("size", SIZES)
def test_keys_are_vitposes(refs, size):
    layout = json.loads((refs / "layouts" / f"vitpose_{size}.json").read_text())
    official = {k.removeprefix("backbone."): v for k, v in layout.items() if k.startswith("backbone.")}
    with torch.device("meta"):
        ours = SIZES[size]().state_dict()
    assert {k: list(v.shape) for k, v in ours.items()} == official


@torch.no_grad()
def test_equals_vitpose_s(refs):
    out = seeded()(seeding.seeded_input((1, 3, 256, 192)))
    assert refio.error(np.load(refs / "vitpose_S.npz"), "backbone", out.numpy()) < 1e-4


@torch.no_grad()
def test_equals_vitpose_s_in_float64(refs):
    """Sees a LayerNorm eps of 1e-5, which float32 does not."""
    out = seeded().double()(seeding.seeded_input((1, 3, 256, 192)).double())
    assert refio.error(np.load(refs / "vitpose_S_f64.npz"), "backbone", out.numpy()) < bound(2e-6)


@pytest.mark.parametrize(
    ("size", "heads"), [("S", 12), ("B", 12), ("L", 16), pytest.param("H", 16, marks=pytest.mark.slow)]
)
def test_costs_and_heads_are_the_official_ones(refs, size, heads):
    official = json.loads((refs / "official_costs.json").read_text())[f"vitpose_{size}"]["backbone"]
    with torch.device("meta"):
        net = SIZES[size]().eval()
        assert list(net(torch.empty(1, 3, 256, 192)).shape) == official["out_shape"]
    assert sum(p.numel() for p in net.parameters()) == official["params"]
    assert {block.attn.num_heads for block in net.blocks} == {heads}
    assert count_macs(net.to_empty(device="cpu")) == official["flops"]


def count_macs(net):
    """fvcore's count at 256x192, with the two matrix products inside fused attention added."""

    def attention(inputs, outputs):
        b, heads, n, d = inputs[0].type().sizes()
        return 2 * b * heads * n * n * d

    for parameter in net.parameters():
        parameter.data.zero_()
    analysis = FlopCountAnalysis(net, torch.zeros(1, 3, 256, 192)).unsupported_ops_warnings(False)
    return analysis.set_op_handle("aten::scaled_dot_product_attention", attention).total()


@pytest.mark.parametrize("build", SIZES.values())
def test_cuts_are_refused(build):
    with pytest.raises(UsageError, match="stages must be 4, not 3"):
        build(stages=3)


def test_other_image_sizes():
    net = vit.ViT(24, 2, 2, image_size=(64, 96)).eval()
    assert net.pos_embed.shape == (1, 1 + 4 * 6, 24)
    assert net(torch.zeros(1, 3, 64, 96)).shape == (1, 24, 4, 6)
    with pytest.raises(UsageError, match=r"64x96 .* not 96x64"):
        net(torch.zeros(1, 3, 96, 64))
    with pytest.raises(UsageError, match="multiples of 16"):
        vit.vit_s(image_size=(250, 192))


def test_every_weight_learns_and_the_input_is_left_alone():
    torch.manual_seed(0)
    net = vit.ViT(24, 3, 2, image_size=(64, 48), drop_path=0.2).train()
    x = torch.randn(4, 3, 64, 48)
    before = x.clone()
    net(x).pow(4).mean().backward()
    assert torch.equal(x, before)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.pos_embed.grad.abs().amin(-1).all()
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for block in net.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype):
    net, x = seeded(), seeding.seeded_input((1, 3, 256, 192))
    exact = net(x)
    with torch.autocast("cpu", dtype):
        assert relative_error(net(x).float(), exact) < 0.1
    out = copy.deepcopy(net).to(dtype)(x.to(dtype))
    assert out.dtype == dtype
    assert relative_error(out.float(), exact) < 0.1


@torch.no_grad()
def test_channels_last_and_compiled_give_the_same():
    net, x = vit.ViT(48, 2, 2, image_size=(64, 48)).eval(), seeding.seeded_input((2, 3, 64, 48))
    exact = net(x)
    assert relative_error(torch.compile(net, backend="aot_eager", fullgraph=True)(x), exact) < 1e-4
    out = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert relative_error(out, exact) < 1e-4
