"""The VMamba encoder equals the official one in keys, parameters, outputs and cost."""

from __future__ import annotations

import copy
import io
import json
import re

import numpy as np
import pytest
import refio
import seeding
import torch
from drawn import bound
from fvcore.nn import FlopCountAnalysis
from timm.layers import DropPath

from hmrbench.errors import UsageError
from hmrbench.nets.encoders import vmamba
from hmrbench.nets.encoders.selective_scan import selective_scan_macs

BUILDERS = {"tiny": vmamba.vmamba_t, "small": vmamba.vmamba_s, "base": vmamba.vmamba_b}
IMAGES = {"256x192": (1, 3, 256, 192), "224x224": (2, 3, 224, 224)}
STAGES = [1, 2, 3, 4]


def built_keys(layout, stages):
    """Official keys of what an encoder of that many stages has, in official order."""
    unbuilt = "".join(str(i) for i in range(stages, 4)) or "-"
    left_out = rf"classifier|layers\.[{unbuilt}]|layers\.{stages - 1}\.downsample"
    return {k: tuple(v) for k, v in layout.items() if not re.match(left_out, k)}


def small(stages=4, drop_path=0.0):
    """A network of the same making that is fast."""
    torch.manual_seed(0)
    return vmamba.VMamba(16, (1, 1, 2, 1), 2.0, stages, drop_path)


@pytest.fixture(scope="module")
def tiny():
    """VMamba-T with seeded weights; do not edit."""
    with torch.device("meta"):
        net = vmamba.vmamba_t()
    return seeding.seed_module_(net.to_empty(device="cpu").eval())


def run(net, image):
    """All outputs that the references name."""
    with torch.no_grad():
        x = net.patch_embed(image)
        found = {"patch_embed": x}
        for i, stage in enumerate(net.layers):
            x = found[f"stage{i + 1}.pre"] = stage.blocks(x)
            norm = vmamba.LayerNorm2d(x.shape[1])  # the official dense-prediction version has it after a stage
            seeding.seed_module_(norm, lambda key, i=i: f"outnorm{i}.{key}")
            found[f"stage{i + 1}.backbone"] = norm.to(x.dtype)(x)
            if i < 3:
                x = found[f"stage{i + 1}.post"] = stage.downsample(x)
    return found


@pytest.mark.parametrize("size", IMAGES)
def test_official_outputs(refs, tiny, size):
    reference = np.load(refs / "vmamba_tiny.npz")
    found = run(tiny, seeding.seeded_input(IMAGES[size]))
    names = [n for n in refio.names(reference) if n.startswith(size)]
    assert len(names) == len(found) == 12
    for name in names:
        assert refio.error(reference, name, found[name.removeprefix(f"{size}.")].numpy()) < 1e-4, name


def test_official_outputs_in_float64(refs, tiny):
    """Fine enough to tell a wrong epsilon."""
    reference = np.load(refs / "vmamba_tiny_f64.npz")
    found = run(copy.deepcopy(tiny).double(), seeding.seeded_input(IMAGES["256x192"]).double())
    for name in refio.names(reference):
        error = refio.error(reference, name, found[name.removeprefix("256x192.")].numpy())
        assert error < bound(2e-6), name


@pytest.mark.parametrize("stages", STAGES)
def test_a_cut_network_gives_the_raw_output_of_its_last_stage(refs, tiny, stages):
    with torch.device("meta"):
        net = vmamba.vmamba_t(stages).eval()
    kept = {k: v for k, v in tiny.state_dict().items() if k in net.state_dict()}
    net.load_state_dict(kept, assign=True)
    with torch.no_grad():
        y = net(seeding.seeded_input(IMAGES["256x192"]))
    assert y.shape == (
        1,
        net.widths[stages - 1],
        256 // net.strides[stages - 1],
        192 // net.strides[stages - 1],
    )
    assert refio.error(np.load(refs / "vmamba_tiny.npz"), f"256x192.stage{stages}.pre", y.numpy()) < 1e-4


@pytest.mark.parametrize("stages", STAGES)
@pytest.mark.parametrize("size", BUILDERS)
def test_official_keys_and_parameters(refs, size, stages):
    with torch.device("meta"):
        net = BUILDERS[size](stages)
    layout = json.loads((refs / "layouts" / f"vmamba_{size}.json").read_text())
    found = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    assert sorted(found.items()) == sorted(built_keys(layout, stages).items())
    assert net.widths == tuple((128 if size == "base" else 96) * 2**i for i in range(4))
    if stages > 1:
        costs = json.loads((refs / "official_costs.json").read_text())
        official = costs[f"vmamba_{size}"][f"stages1-{stages}_256x192"]
        assert sum(p.numel() for p in net.parameters()) == official["params"]


def scan_handle(inputs, outputs):
    batch, lanes, steps = inputs[0].type().sizes()
    return selective_scan_macs(batch, steps, lanes, inputs[2].type().sizes()[1])


@pytest.mark.parametrize("size", BUILDERS)
def test_official_macs(refs, size):
    with torch.device("meta"):
        net = BUILDERS[size]()
    net = net.to_empty(device="cpu").eval()
    counter = FlopCountAnalysis(net, torch.zeros(1, 3, 256, 192))
    counter.set_op_handle("hmrbench::selective_scan", scan_handle).unsupported_ops_warnings(False)
    macs, scans = counter.by_module(), counter.by_module_and_operator()
    costs = json.loads((refs / "official_costs.json").read_text())[f"vmamba_{size}"]
    total, scan = macs["patch_embed"], 0
    for i in range(4):
        total += macs[f"layers.{i}.blocks"]
        scan += scans[f"layers.{i}.blocks"]["selective_scan"]
        if i > 0:
            official = costs[f"stages1-{i + 1}_256x192"]
            assert scan == official["flops"] - official["flops_without_scan"]
            assert abs(total / official["flops"] - 1) < 0.005
        if i < 3:
            total += macs[f"layers.{i}.downsample"]
    assert total == counter.total()


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (33, 47), (97, 64), (5, 7), (1, 1), (4, 200)])
def test_any_input_size(size):
    net = small().eval()
    with torch.no_grad():
        y = net(torch.randn(2, 3, *size))
    assert y.shape == (2, 128, -(-size[0] // 32), -(-size[1] // 32))
    assert torch.isfinite(y).all()


def test_images_of_a_batch_are_independent():
    net = small().eval()
    images = torch.randn(3, 3, 64, 48)
    with torch.no_grad():
        together = net(images)
        alone = torch.cat([net(image) for image in images.split(1)])
        channels_last = net(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together, channels_last, rtol=1e-4, atol=1e-5)


def test_official_checkpoints_of_all_stages_hold_what_a_cut_network_needs():
    whole, cut = small().state_dict(), small(stages=3)
    missing, unexpected = cut.load_state_dict(whole, strict=False)
    assert not missing
    assert all(re.match(r"layers\.(3|2\.downsample)", k) for k in unexpected)


@pytest.mark.parametrize("wrong", [0, 5, -1])
def test_stages_that_do_not_exist(wrong):
    with pytest.raises(UsageError, match="stages"):
        vmamba.vmamba_t(wrong)


# --- training


def test_drop_path_grows_linearly_over_the_full_depth():
    net = vmamba.VMamba(16, (2, 2, 8, 2), 1.0, stages=3, drop_path=0.26)
    rates = [m.drop_prob for m in net.modules() if isinstance(m, DropPath)]
    np.testing.assert_allclose(rates, np.arange(12) * 0.02, atol=1e-12)


def test_initial_values():
    net = vmamba.vmamba_t(2)
    op = net.layers[1].blocks[0].op
    steps = torch.nn.functional.softplus(op.dt_projs_bias)
    assert 1e-3 * 0.999 < steps.min() < 2e-3
    assert 0.05 < steps.max() < 0.1 * 1.001
    assert abs(float(steps.detach().log().mean()) - np.log(0.01)) < 0.15
    assert torch.equal(op.A_logs, torch.zeros(768, 1))
    assert torch.equal(op.Ds, torch.ones(768))
    assert 0.018 < op.in_proj.weight.std() < 0.022
    assert op.dt_projs_weight.abs().max() <= 12**-0.5


def test_every_parameter_gets_a_gradient():
    net = small(drop_path=0.1).train()
    net(torch.randn(2, 3, 64, 48)).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_a_step_of_gradient_descent_lowers_the_loss():
    net, images = small(2).train(), torch.randn(2, 3, 64, 48)
    target = torch.randn_like(net(images))
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    losses = []
    for _ in range(5):
        loss = (net(images) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)


# --- precision and devices


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grad", [False, True])
def test_autocast(dtype, grad):
    net, images = small().train(grad), torch.randn(2, 3, 64, 48)
    expected = net(images)
    with torch.autocast("cpu", dtype):
        y = net(images)
    assert torch.isfinite(y).all()
    assert (y - expected).std() < (0.05 if dtype == torch.bfloat16 else 0.01) * expected.std()
    if grad:
        y.float().square().mean().backward()
        assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights(dtype):
    net, images = small().eval(), torch.randn(2, 3, 64, 48)
    with torch.no_grad():
        expected = net(images)
        y = copy.deepcopy(net).to(dtype)(images.to(dtype))
    assert y.dtype == dtype
    assert (y - expected).std() < (0.1 if dtype == torch.bfloat16 else 0.02) * expected.std()


def test_compiles_to_one_graph():
    net, images = small(3).eval(), torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        torch.testing.assert_close(
            torch.compile(net, backend="aot_eager", fullgraph=True)(images), net(images), rtol=1e-4, atol=1e-5
        )


def test_saves_and_loads():
    net, images = small().eval(), torch.randn(1, 3, 64, 48)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = vmamba.VMamba(16, (1, 1, 2, 1), 2.0).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        assert torch.equal(net(images), copy.deepcopy(other)(images))
