"""The GroupMixFormer encoder equals the official one in keys, outputs, costs; its short cuts only round."""

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
from timm.layers import DropPath
from torch.utils.flop_counter import FlopCounterMode

from hmrbench.errors import UsageError
from hmrbench.nets.encoders import groupmixformer as gmf
from hmrbench.nets.fusion import fuse

SIZES = {"tiny": gmf.gmf_t, "small": gmf.gmf_s, "base": gmf.gmf_b}
STAGES = (1, 2, 3, 4)


def built_keys(layout, stages):
    """The part of an official state dict that an encoder of that many stages has, in the official order."""
    last = tuple(f"{part}.{i}." for part in ("patch_embed_layers", "groupmixformer_backbone") for i in range(stages))
    return {k: v for k, v in layout.items() if k.startswith(("conv_stem.", *last))}


def small_net(**kwargs):
    """All kinds of layers at little cost."""
    torch.manual_seed(0)
    return gmf.GroupMixFormer((20, 40, 40, 40), (1, 1, 2, 1), (2, 2, 4, 4), **kwargs)


def relative_error(a, b):
    return float((a - b).abs().max() / b.std())


@pytest.fixture(scope="module")
def tiny():
    """Seeded GroupMixFormer-T of 1 to 4 stages."""
    return {stages: seeding.seed_module_(gmf.gmf_t(stages).eval()) for stages in STAGES}


def stage_outputs(net, x):
    """What every stage of one run puts out, as (B, C, H, W)."""
    outs = []
    hooks = [
        stage.register_forward_hook(lambda _, args, out: outs.append(out.permute(0, 3, 1, 2).numpy()))
        for stage in net.groupmixformer_backbone
    ]
    net(x)
    for hook in hooks:
        hook.remove()
    return outs


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("size", SIZES)
def test_keys_are_official(refs, size, stages):
    layout = json.loads((refs / "layouts" / f"groupmixformer_{size}.json").read_text())
    with torch.device("meta"):
        ours = SIZES[size](stages).state_dict()
    assert list({k: list(v.shape) for k, v in ours.items()}.items()) == list(built_keys(layout, stages).items())


@pytest.mark.parametrize("stages", STAGES)
@torch.no_grad()
def test_equals_official_at_256x192(refs, tiny, stages):
    out = tiny[stages](seeding.seeded_input((1, 3, 256, 192)))
    assert refio.error(np.load(refs / "groupmixformer_tiny.npz"), f"256x192.stage{stages}", out.numpy()) < 1e-4


@torch.no_grad()
def test_equals_official_at_224x224(refs, tiny):
    want = np.load(refs / "groupmixformer_tiny.npz")
    for i, out in enumerate(stage_outputs(tiny[4], seeding.seeded_input((2, 3, 224, 224))), start=1):
        assert refio.error(want, f"224x224.stage{i}", out) < 1e-4


@torch.no_grad()
def test_equals_official_in_float64(refs, tiny):
    """Sees an eps of 1e-6 in the aggregator's LayerNorm, which float32 does not."""
    want = np.load(refs / "groupmixformer_tiny_f64.npz")
    outs = stage_outputs(copy.deepcopy(tiny[4]).double(), seeding.seeded_input((1, 3, 256, 192)).double())
    for i, out in enumerate(outs, start=1):
        assert refio.error(want, f"256x192.stage{i}", out) < bound(2e-6)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
@pytest.mark.thorough
def test_costs_are_official(refs, size):
    """Parameters and MACs of the cuts after stage 2, 3 and 4; one trace gives the MACs of all."""
    costs = json.loads((refs / "official_costs.json").read_text())[f"groupmixformer_{size}"]
    x = torch.zeros(1, 3, 256, 192)
    counter = FlopCountAnalysis(SIZES[size]().eval(), x).unsupported_ops_warnings(False)
    macs = counter.by_module()
    cut = macs["conv_stem"] + macs["patch_embed_layers.0"] + macs["groupmixformer_backbone.0"]
    for stages in (2, 3, 4):
        want = costs[f"stages1-{stages}_256x192"]
        cut += macs[f"patch_embed_layers.{stages - 1}"] + macs[f"groupmixformer_backbone.{stages - 1}"]
        assert cut == pytest.approx(want["flops"], rel=1e-5)
        assert sum(p.numel() for p in SIZES[size](stages).parameters()) == want["params"]
    assert cut == counter.total()


@torch.no_grad()
def test_short_cuts_change_only_rounding_and_can_be_turned_off(tiny):
    x = seeding.seeded_input((2, 3, 256, 192))
    fast, net = tiny[4](x), copy.deepcopy(tiny[4])
    fuse(net, False)
    with FlopCounterMode(display=False) as counter:
        plain = net(x)
    assert relative_error(fast, plain) < 1e-4
    assert torch.ops.aten.addmm in counter.get_flop_counts()["Global"]  # linear layers are convolutions otherwise
    assert not torch.equal(fast, plain)
    fuse(net)
    assert torch.equal(net(x), fast)


def test_autograd_changes_only_rounding(tiny):
    x = seeding.seeded_input((2, 3, 64, 64))
    with torch.no_grad():
        in_place = tiny[4](x)
    assert relative_error(in_place, tiny[4](x).detach()) < 1e-4


@torch.no_grad()
def test_a_batch_is_its_images(tiny):
    x = seeding.seeded_input((3, 3, 128, 96))
    single = torch.cat([tiny[4](image[None]) for image in x])
    assert relative_error(tiny[4](x), single) < 1e-4


@torch.no_grad()
def test_memory_format_does_not_matter_and_the_input_stays(tiny):
    x = seeding.seeded_input((2, 3, 64, 96))
    before = x.clone()
    out = tiny[3](x)
    net = copy.deepcopy(tiny[3]).to(memory_format=torch.channels_last)
    assert relative_error(net(x.to(memory_format=torch.channels_last)), out) < 1e-4
    assert torch.equal(x, before)


@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_of_the_short_cuts(frozen):
    """The folded BatchNorm passes the gradients that the norm itself would."""
    net = seeding.seed_module_(small_net()).train(not frozen)
    x = seeding.seeded_input((2, 3, 64, 64))

    def gradients():
        net.zero_grad()
        net(x).square().mean().backward()
        return {name: p.grad.clone() for name, p in net.named_parameters()}

    fast = gradients()
    fuse(net, False)
    slow = gradients()
    noise = 1e-6 * max(g.norm() for g in slow.values())  # a bias before a BatchNorm in training has no gradient
    for name, want in slow.items():
        assert (fast[name] - want).norm() < 1e-4 * want.norm() + noise, name


def test_training_moves_statistics_and_drops_paths():
    net = small_net(drop_path=0.4).train()
    rates = [m.drop_prob for m in net.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    cut = [m.drop_prob for m in gmf.gmf_s(3, drop_path=0.2).modules() if isinstance(m, DropPath)]
    assert len(cut) == 18
    assert cut[-1] == pytest.approx(0.2 * 17 / 21)

    x = seeding.seeded_input((8, 3, 64, 64))
    before = net.state_dict()["groupmixformer_backbone.0.gma_stage.0.att.aggregator.norm0.running_mean"].clone()
    assert not torch.equal(net(x), net(x))
    after = net.state_dict()["groupmixformer_backbone.0.gma_stage.0.att.aggregator.norm0.running_mean"]
    assert not torch.equal(before, after)
    net.eval()
    assert torch.equal(net(x), net(x))


def test_norm_of_the_first_segment_sees_q_k_and_v_together():
    """Training statistics run over q, k, v, images and pixels at once (as one batch of 3B)."""
    net = small_net(stages=1).train()
    seen = {}
    att = net.groupmixformer_backbone[0].gma_stage[0].att
    att.aggregator.register_forward_pre_hook(lambda _, args: seen.update(qkv=args[0].detach().clone()))
    net(seeding.seeded_input((2, 3, 64, 64)))
    segment = seen["qkv"].reshape(2, 16, 16, 3, 5, 4)[..., 0, :].reshape(-1, 4)
    torch.testing.assert_close(att.aggregator.norm0.running_mean, 0.1 * segment.mean(0))
    torch.testing.assert_close(att.aggregator.norm0.running_var, 0.9 + 0.1 * segment.var(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(tiny, dtype):
    x = seeding.seeded_input((1, 3, 128, 96))
    want = tiny[2](x)
    with torch.autocast("cpu", dtype=dtype):
        mixed = tiny[2](x)
    half = copy.deepcopy(tiny[2]).to(dtype)(x.to(dtype))
    assert half.dtype == dtype
    for out in (mixed, half):
        assert np.corrcoef(out.float().flatten(), want.flatten())[0, 1] > 0.999


@torch.no_grad()
def test_meta_device():
    with torch.device("meta"):
        assert gmf.gmf_b()(torch.empty(2, 3, 256, 192)).shape == (2, 480, 8, 6)


@pytest.mark.parametrize("grad", [False, True])
def test_compiles_in_one_graph(grad):
    net = seeding.seed_module_(small_net(stages=2)).eval()
    x = seeding.seeded_input((1, 3, 64, 64))
    with torch.set_grad_enabled(grad):
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True)(x)
        assert relative_error(compiled.detach(), net(x).detach()) < 1e-4


@pytest.mark.parametrize(
    ("stages", "h", "w", "ok"),
    [(1, 36, 44, True), (1, 34, 44, False), (3, 16, 48, True), (4, 256, 208, False)],
)
def test_sides_must_be_multiples_of_the_stride(stages, h, w, ok):
    net, x = small_net(stages=stages).eval(), torch.zeros(1, 3, h, w)
    if ok:
        stride = net.strides[stages - 1]
        assert net(x).shape == (1, net.widths[stages - 1], h // stride, w // stride)
    else:
        with pytest.raises(UsageError, match=f"{h}x{w}"):
            net(x)


@pytest.mark.parametrize("wrong", [{"stages": 0}, {"stages": 5}, {"num_heads": 4}])
def test_impossible_sizes(wrong):
    with pytest.raises(UsageError, match="GroupMixFormer"):
        small_net(**wrong)
    with pytest.raises(UsageError, match="GroupMixFormer"):
        gmf.GroupMixFormer((24, 40, 40, 40), (1, 1, 1, 1), (2, 2, 2, 2))
