"""Every cut reaches stride 16 with the width of stage 3, and a network is encoder, neck, head."""

from __future__ import annotations

import json

import pytest
import seeding
import torch
from torch import nn

from hmrbench.errors import UsageError
from hmrbench.nets.encoders.swin import swin_s, swin_t
from hmrbench.nets.encoders.vit import ViT
from hmrbench.nets.heads.heatmap import HeatmapHead
from hmrbench.nets.truncation import Network, make_neck

SWIN = (96, 192, 384, 768)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("widths", [SWIN, (80, 160, 200, 240), (200, 240, 320, 480)])
def test_neck_brings_every_cut_to_stride_16(widths, stages, norm):
    neck, channels = make_neck(widths, stages, norm)
    side = 128 >> stages
    out = neck(torch.randn(2, widths[stages - 1], side, side * 3 // 4))
    assert channels == widths[2]
    assert out.shape == (2, widths[2], 16, 12)


def test_neck_keys_and_shapes():
    expected = {
        2: {"resample.weight": (384, 192, 3, 3), "resample.bias": (384,)},
        3: {},
        4: {"resample.weight": (768, 384, 2, 2), "resample.bias": (384,)},
    }
    for stages, shapes in expected.items():
        width = (SWIN[stages - 1],)
        norm = {"norm.weight": width, "norm.bias": width}
        for with_norm in (True, False):
            state = make_neck(SWIN, stages, with_norm)[0].state_dict()
            assert {k: tuple(v.shape) for k, v in state.items()} == shapes | (norm if with_norm else {})


@pytest.mark.parametrize(("widths", "stages"), [((200, 240, 320, 480), 3), ((384,), 4)])
def test_nothing_is_built_where_nothing_is_needed(widths, stages):
    neck, channels = make_neck(widths, stages, norm=False)
    assert type(neck) is nn.Identity
    assert channels == widths[-1 if len(widths) == 1 else 2]


@pytest.mark.parametrize(("widths", "stages"), [(SWIN, 1), (SWIN, 5), ((96, 192), 2)])
def test_no_neck_for_other_cuts(widths, stages):
    with pytest.raises(UsageError, match="stage 2, 3 or 4"):
        make_neck(widths, stages, norm=True)


def test_norm_is_over_channels_with_eps_1e_5():
    neck, _ = make_neck(SWIN, 3, norm=True)
    x = torch.randn(2, 384, 4, 3) * 1e-2
    variance, mean = torch.var_mean(x, 1, keepdim=True, correction=0)
    assert torch.allclose(neck(x), (x - mean) / (variance + 1e-5).sqrt(), atol=1e-5)


def test_swinhmr_s_has_the_papers_parameters(refs):
    """35.77 M against 52.32 M, 31.6 % fewer (arXiv 2510.12660); the head is the light SMPL decoder."""
    heads = json.loads((refs / "official_costs.json").read_text())["smpl_heads"]
    light = heads["light_ctx384_16x12"]["params"]
    with torch.device("meta"):
        s3, s4 = (
            light + sum(p.numel() for m in (swin_s(s), make_neck(SWIN, s, True)[0]) for p in m.parameters())
            for s in (3, 4)
        )
    assert (s3 / 1e6, s4 / 1e6) == (pytest.approx(35.77, abs=0.01), pytest.approx(52.32, abs=0.01))
    assert round(100 * (1 - s3 / s4), 1) == 31.6


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_network_is_encoder_neck_head(stages):
    encoder = swin_t(stages)
    neck, channels = make_neck(encoder.widths, stages, norm=True)
    net = seeding.seed_module_(Network(encoder, neck, HeatmapHead(channels)).eval())
    x = seeding.seeded_input((1, 3, 256, 192))
    with torch.no_grad():
        out = net(x)
        assert out.shape == (1, 17, 64, 48)
        assert torch.equal(out, net.head(net.neck(net.encoder(x))))
    assert {key.split(".")[0] for key in net.state_dict()} == {"encoder", "neck", "head"}
    net.train()(seeding.seeded_input((2, 3, 64, 64))).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@torch.no_grad()
def test_side_crop_drops_columns_at_either_side():
    net = Network(ViT(24, 1, 2, image_size=(64, 48)), nn.Identity(), HeatmapHead(24), side_crop=8).eval()
    x = torch.randn(1, 3, 64, 64)
    before = x.clone()
    out = net(x)
    assert torch.equal(x, before)
    assert torch.equal(net.seen(torch.arange(256.0)), torch.arange(32.0, 224))  # HMR2.0's
    net.side_crop = 0
    assert torch.equal(out, net(x[..., 8:56]))


@torch.no_grad()
def test_heads_may_give_dicts():
    class Mean(nn.Module):
        def forward(self, x):
            return {"cam": x.mean((2, 3))}

    assert Network(nn.Identity(), nn.Identity(), Mean())(torch.ones(2, 3, 4, 4))["cam"].shape == (2, 3)
