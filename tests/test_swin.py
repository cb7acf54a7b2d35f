"""The Swin encoder equals mmpose's, and timm's and torchvision's where these agree with it."""

from __future__ import annotations

import copy
import io
import json
import math
import re

import numpy as np
import pytest
import refio
import seeding
import torch
import torchvision
from fvcore.nn import FlopCountAnalysis
from timm.models.swin_transformer import SwinTransformer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from hmrbench.errors import UsageError
from hmrbench.nets.encoders import swin
from hmrbench.nets.fusion import fuse
from hmrbench.nets.truncation import Neck

SIZES = {"tiny": swin.swin_t, "small": swin.swin_s, "base": swin.swin_b}
CONFIGS = {
    "tiny": {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)},
    "small": {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)},
    "base": {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)},
}


def microsoft_key(key):
    """Our key (timm's) to Microsoft's, where a downsample stands at the end of the stage before."""
    return re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key)


def built_keys(state, stages):
    """The part of a full Swin's state dict that a network of that many stages has."""
    last = "".join(map(str, range(stages)))
    return {k: v for k, v in state.items() if re.match(rf"patch_embed|layers\.[{last}]\.", k)}


def seeded(stages, build=swin.swin_t):
    return seeding.seed_module_(build(stages).eval(), microsoft_key)


def relative_error(a, b):
    return float((a - b).abs().max() / b.std())


@pytest.fixture(scope="module")
def official(refs):
    return np.load(refs / "swin_tiny.npz")


@pytest.fixture(scope="module")
def costs(refs):
    return json.loads((refs / "official_costs.json").read_text())


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_keys_are_timms(refs, size, stages):
    official = built_keys(json.loads((refs / "layouts" / f"swin_{size}_timm.json").read_text()), stages)
    with torch.device("meta"):
        ours = SIZES[size](stages).state_dict()
    assert {k: list(v.shape) for k, v in ours.items()} == official


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
@torch.no_grad()
def test_equals_mmpose_at_256x192(official, stages):
    out = seeded(stages)(seeding.seeded_input((1, 3, 256, 192)))
    assert refio.error(official, f"256x192.mmpose.stage{stages}", out.numpy()) < 1e-4
    norm = Neck(out.shape[1], norm=True, resample=nn.Identity())
    seeding.seed_module_(norm, lambda key: key.replace("norm.", f"norm{stages - 1}."))
    assert refio.error(official, f"256x192.mmpose.stage{stages}.normed", norm(out).numpy()) < 1e-4


@pytest.mark.parametrize("stages", [1, 2, 3])
@torch.no_grad()
def test_equals_microsoft_at_224x224(official, stages):
    out = seeded(stages)(seeding.seeded_input((2, 3, 224, 224)))
    assert refio.error(official, f"224x224.stage{stages}", out.numpy()) < 1e-4


@torch.no_grad()
def test_stage_4_shifts_as_mmpose_even_when_one_window_covers_the_map(official):
    out = seeded(4)(seeding.seeded_input((2, 3, 224, 224)))
    assert 0.2 < refio.error(official, "224x224.stage4", out.numpy()) < 0.3


# float64 sees what noise hides in float32, which differs between processors.
DTYPES = [(torch.float32, 1e-4), (torch.float64, 2e-6)]


@pytest.mark.parametrize(("dtype", "bound"), DTYPES, ids=str)
@pytest.mark.parametrize("size", ["small", "base"])
@torch.no_grad()
def test_every_stage_equals_timm_at_224x224(size, dtype, bound):
    timm = SwinTransformer(always_partition=True, weight_init="skip", **CONFIGS[size]).eval()
    seeding.seed_module_(timm).to(dtype)
    with torch.device("meta"):
        ours = SIZES[size]().eval()
    ours.load_state_dict(built_keys(timm.state_dict(), 4), assign=True)
    outputs = []
    for stage in (*ours.layers, *timm.layers):
        stage.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    x = seeding.seeded_input((1, 3, 224, 224)).to(dtype)
    assert ours(x).shape[1:] == (8 * ours.widths[0], 7, 7)
    timm.forward_features(x)
    for out, expected in zip(outputs[:4], outputs[4:], strict=True):
        assert relative_error(out, expected) < bound


def from_torchvision(key):
    """torchvision's key to ours: features.0 is the patch embedding, then stages and mergings take turns."""
    key = re.sub(r"^features\.0\.0\.", "patch_embed.proj.", key)
    key = re.sub(r"^features\.0\.2\.", "patch_embed.norm.", key)
    key = re.sub(r"^features\.([1357])\.", lambda m: f"layers.{int(m[1]) // 2}.blocks.", key)
    key = re.sub(r"^features\.([246])\.", lambda m: f"layers.{int(m[1]) // 2}.downsample.", key)
    return key.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")


@pytest.mark.parametrize(("dtype", "bound"), DTYPES, ids=str)
@pytest.mark.parametrize("image", [(256, 192), (300, 212), (224, 148)])
@torch.no_grad()
def test_equals_torchvision_where_several_windows_cover_the_map(image, dtype, bound):
    """Grids such as 75x53, 38x27, 19x14: padded windows, padded mergings, a side without padding."""
    theirs = seeding.seed_module_(torchvision.models.swin_t().eval()).to(dtype)
    state = {from_torchvision(k): v for k, v in theirs.state_dict().items() if "position_index" not in k}
    ours = swin.swin_t(3).eval().to(dtype)
    ours.load_state_dict(built_keys(state, 3))
    x = seeding.seeded_input((1, 3, *image)).to(dtype)
    out = ours(x)
    assert out.shape[-2:] == tuple(math.ceil(side / 16) for side in image)
    assert relative_error(out, theirs.features[:6](x).permute(0, 3, 1, 2)) < bound


@torch.no_grad()
def test_images_are_padded_to_whole_patches():
    net = seeded(2)
    x = seeding.seeded_input((1, 3, 250, 190))
    assert torch.equal(net(x), net(nn.functional.pad(x, (0, 2, 0, 2))))


@torch.no_grad()
def test_images_of_a_batch_do_not_meet():
    net, x = seeded(2), seeding.seeded_input((3, 3, 128, 96))
    assert relative_error(net(x), torch.cat([net(image[None]) for image in x])) < 1e-4


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_costs_are_the_official_ones(costs, size, stages):
    official = costs[f"swin_{size}"][f"stages1-{stages}_256x192"]["timm_always_partition"]
    with torch.device("meta"):
        net = SIZES[size](stages).eval()
        assert list(net(torch.empty(1, 3, 256, 192)).shape) == official["out_shape"]
    assert sum(p.numel() for p in net.parameters()) == official["params"]
    assert count_macs(net.to_empty(device="cpu")) == official["flops"]


def count_macs(net):
    """fvcore's count at 256x192, with the two matrix products inside fused attention added."""

    def attention(inputs, outputs):
        (b, heads, n, d), keys = inputs[0].type().sizes(), inputs[1].type().sizes()[2]
        return 2 * b * heads * n * keys * d

    for parameter in net.parameters():
        parameter.data.zero_()
    analysis = FlopCountAnalysis(net, torch.zeros(1, 3, 256, 192)).unsupported_ops_warnings(False)
    return analysis.set_op_handle("aten::scaled_dot_product_attention", attention).total()


@pytest.mark.parametrize("stages", [0, 5, -1])
def test_unknown_stage_is_refused(stages):
    with pytest.raises(UsageError, match="stages 1 to 4"):
        swin.swin_t(stages)


def test_every_weight_learns_and_the_input_is_left_alone():
    torch.manual_seed(0)
    net = swin.swin_t().train()  # nothing dropped: a block that is learns nothing
    x = torch.randn(2, 3, 64, 64)
    before = x.clone()
    net(x).square().mean().backward()
    assert torch.equal(x, before)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all(p.grad.any() for n, p in net.named_parameters() if "patch_embed" in n or "bias_table" in n)


def test_drop_path_of_a_block_does_not_depend_on_the_cut():
    rates = {
        s: [getattr(b.drop_path, "drop_prob", 0.0) for stage in swin.swin_t(s, 0.3).layers for b in stage.blocks]
        for s in (2, 4)
    }
    assert rates[2] == rates[4][:4]
    assert rates[4] == pytest.approx(np.linspace(0, 0.3, 12).tolist())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype):
    net, x = seeded(3), seeding.seeded_input((2, 3, 128, 96))
    exact = net(x)
    with torch.autocast("cpu", dtype):
        assert relative_error(net(x).float(), exact) < 0.2
    out = copy.deepcopy(net).to(dtype)(x.to(dtype))
    assert out.dtype == dtype
    assert relative_error(out.float(), exact) < 0.2


@torch.no_grad()
def test_channels_last_gives_the_same():
    net, x = seeded(3), seeding.seeded_input((2, 3, 128, 96))
    exact = net(x)
    out = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert relative_error(out, exact) < 1e-4


@torch.no_grad()
def test_compiles_to_one_graph():
    net, x = seeded(2), seeding.seeded_input((2, 3, 64, 48))
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    assert relative_error(compiled(x), net(x)) < 1e-4


def test_window_layouts_are_made_once_and_kept_out_of_everything():
    net, x = seeded(2), seeding.seeded_input((1, 3, 64, 48))
    keys = set(net.state_dict())
    with torch.inference_mode():
        out = net(x)
    first = dict(net._layouts)
    assert len(first) == 2  # one for each stage's grid
    net(x).sum().backward()  # tensors of inference mode would not do here
    assert all(net._layouts[grid] is layout for grid, layout in first.items())
    assert set(net.state_dict()) == keys

    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    with torch.no_grad():
        for twin in (copy.deepcopy(net), torch.load(file, weights_only=False)):
            assert not twin._layouts
            assert torch.equal(twin(x), out)
        for side in range(4, 4 + 28 * swin.LAYOUTS_KEPT, 28):
            net(torch.zeros(1, 3, side, 28))
        assert len(net._layouts) == swin.LAYOUTS_KEPT
        assert torch.equal(net(x), out)


@pytest.mark.parametrize("size", [(256, 192), (224, 224), (61, 47)])  # the second needs no padding
def test_products_without_padded_tokens_change_nothing(size):
    net = swin.swin_t().eval()
    for name, parameter in net.named_parameters():
        if name.endswith("bias"):  # that of a padded token is all that it has
            nn.init.normal_(parameter, std=0.5)
    for batch in (1, 3, 2):
        x = torch.randn(batch, 3, *size)
        found = {}
        for fused in (False, True):
            fuse(net, fused)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                found[fused] = net(x), counter.get_total_flops()
        (plain, all_macs), (short, macs) = found[False], found[True]
        assert (short - plain).abs().max() < 1e-5 * plain.std()
        assert (macs < 0.95 * all_macs) if size != (224, 224) else (macs == all_macs)
        assert net(x).requires_grad


@torch.no_grad()
def test_fake_tensors_leave_nothing_behind():
    net = swin.swin_t(2)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert net(torch.empty(1, 3, 64, 48)).shape == (1, 192, 8, 6)
        assert not net._layouts
