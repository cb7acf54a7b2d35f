"""The pose networks to compare with equal the official ones: keys, numbers, costs."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import refio
import seeding
import timm
import torch
from drawn import bound

from hmrbench.nets.encoders.hrnet import HRNet
from hmrbench.nets.fusion import fuse
from hmrbench.nets.record import MMPOSE_KEYS, known_networks
from hmrbench.profiling.flops import count

NETS = {name: net for name, net in known_networks().items() if net.output != "mesh"}
SMALLEST = (
    "simplebaseline-res50",
    "simcc-hrnet-w32",
    "rtmpose-t",
    "vipnas-res50",
    "simcc-vipnas-mbv3",
    "pvt-s",
    "pvtv2-b2",
    "litehrnet-18",
    "meme-p0",
    "litepose-auto-xs",
)
REFS = Path(__file__).parent / "refs" / "poses"
NUMBERS = {torch.float32: REFS / "networks.npz", torch.float64: REFS / "networks_f64.npz"}
LAYOUTS = json.loads(gzip.decompress((REFS / "layouts.json.gz").read_bytes()))
COSTS = json.loads((REFS / "official_costs.json").read_text())
FLOAT32, FLOAT64 = 1e-4, 2e-6  # of the README of the reference numbers


def official_name(name):
    return name.replace("-", "_").replace("meme_", "meme_eeffpose_")


def build_meta(name, size=None):
    with torch.device("meta"):
        return NETS[name].build(size or NETS[name].input_sizes[0]).eval()


def seeded(name, size=None, dtype=torch.float32):
    """The network with the weights of the references, which depend on the official keys."""
    official_key = {NETS[name].layout.ours(k): k for k in LAYOUTS[official_name(name)]}
    net = NETS[name].build(size or NETS[name].input_sizes[0])
    return seeding.seed_module_(net.eval(), official_key.__getitem__).to(dtype)


def run(name, net, x):
    """The network's maps and outputs by the names of the references."""
    maps = net.encoder(x)
    fused = net.neck(maps)
    outputs = net.head(fused)
    found = {}
    if NETS[name].output == "heatmap":
        found["heatmap"] = outputs
    elif NETS[name].output == "simcc":
        found["x"], found["y"] = outputs
    else:
        found["out0"], found["out1"] = outputs
    if isinstance(maps, torch.Tensor):
        found["backbone"] = found["backbone.stage4"] = maps
    elif name.startswith("meme"):
        found |= {f"backbone.b{i}": x for i, x in enumerate(maps)} | {f"neck.b{i}": x for i, x in enumerate(fused)}
    else:
        found |= {f"backbone.stage{i}": x for i, x in enumerate(maps)}
    return found


def cases(path):
    """Networks and input sizes that a file of reference numbers has."""
    official = {official_name(name): name for name in NETS}
    with np.load(path) as file:
        found = {tuple(key.split(".")[:2]) for key in file.files}
    return sorted((official[name], tuple(map(int, size.split("x")))) for name, size in found)


def relative_error(a, b):
    return float((a - b).abs().max() / b.std())


# --------------------------------------------------------------------------- keys


def prefixes(layout):
    """The layout as mmpose 1.x, mmpose 0.x and without prefixes."""
    if not any(key.startswith("backbone.") for key in layout):  # SimCC's own repository
        head = r"^(final_layer|mlp_head_[xy])\."
        layout = {re.sub(r"^(?!head\.)", "backbone.", re.sub(head, r"head.\1.", k)): v for k, v in layout.items()}
    return {
        "head": layout,
        "keypoint_head": {re.sub(r"^head\.", "keypoint_head.", k): v for k, v in layout.items()},
        "bare": {re.sub(r"^(head|backbone)\.", "", k): v for k, v in layout.items()},
    }


@pytest.mark.parametrize("name", NETS)
def test_official_keys_load_strictly(name):
    official = LAYOUTS[official_name(name)]
    known = NETS[name].layout
    variants = {"own": official} | (prefixes(official) if known is MMPOSE_KEYS else {})
    net = build_meta(name)
    for variant, layout in variants.items():
        state = {known.ours(k): torch.empty(v, device="meta") for k, v in layout.items()}
        assert len(state) == len(layout), variant
        net.load_state_dict(state, strict=True, assign=True)


# --------------------------------------------------------------------------- costs, records


@pytest.mark.parametrize("name", NETS)
def test_parameters_and_shapes(name):
    official = COSTS[official_name(name)]
    record = NETS[name]
    for height, width in record.input_sizes:
        net = build_meta(name, (height, width))
        assert sum(p.numel() for p in net.parameters()) == official["params"]
        outputs = net(torch.empty(2, 3, height, width, device="meta"))
        shapes = [tuple(x.shape) for x in ([outputs] if isinstance(outputs, torch.Tensor) else outputs)]
        if record.output == "heatmap":
            assert shapes == [(2, 17, height // 4, width // 4)]
        elif record.output == "simcc":
            assert shapes == [(2, 17, int(width * record.split)), (2, 17, int(height * record.split))]
        else:
            assert shapes == [(2, 34, height // 4, width // 4), (2, 17, height // 2, width // 2)]
    assert net.encoder.widths == record.widths
    assert (record.split is not None) == (record.output == "simcc")


@pytest.mark.parametrize("name", NETS)
@pytest.mark.thorough
def test_macs(name):
    official = COSTS[official_name(name)]
    height, width = NETS[name].input_sizes[0]
    costs = count(build_meta(name), (1, 3, height, width))
    assert costs.macs == official["macs"][f"{height}x{width}"]
    assert not costs.uncounted
    assert not costs.disagreements


# --------------------------------------------------------------------------- numbers


def check(name, size, dtype, tolerance):
    net = seeded(name, size, dtype)
    found = run(name, net, seeding.seeded_input((1, 3, *size)).to(dtype))
    prefix = f"{official_name(name)}.{size[0]}x{size[1]}."
    with np.load(NUMBERS[dtype]) as official:
        wanted = [key.removeprefix(prefix) for key in refio.names(official) if key.startswith(prefix)]
        wanted = [tensor for tensor in wanted if not tensor.startswith(("strong", "keypoint_feature"))]
        assert {"heatmap", "x", "out0"} & set(wanted)
        for tensor in wanted:
            assert refio.error(official, prefix + tensor, found[tensor].numpy()) < bound(tolerance), tensor


@pytest.mark.parametrize(("name", "size"), cases(NUMBERS[torch.float32]))
@torch.no_grad()
def test_equals_the_official_code_in_float32(name, size):
    check(name, size, torch.float32, FLOAT32)


@pytest.mark.parametrize(("name", "size"), cases(NUMBERS[torch.float64]))
@torch.no_grad()
def test_equals_the_official_code_in_float64(name, size):
    check(name, size, torch.float64, FLOAT64)


def test_every_kind_of_network_has_reference_numbers():
    """Sizes without any are built by the same code."""
    have = {name for name, _ in cases(NUMBERS[torch.float32])}
    assert have == {name for name, _ in cases(NUMBERS[torch.float64])}
    assert {re.sub(r"-(w\d+|t|[sml]|xs|18|30|p\d)$", "", n.removesuffix("-384x288")) for n in NETS} - {
        re.sub(r"-(w\d+|t|[sml]|xs|18|30|p\d)$", "", n) for n in have
    } == {"simcc-vipnas-mbv3"}  # encoder of vipnas-mbv3, head of simcc-res50


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, FLOAT32), (torch.float64, FLOAT64)])
@torch.no_grad()
def test_attention_of_rtmpose(dtype, tolerance):
    """The plain seeds leave so little of it that only these changed ones show a mistake."""
    net = seeded("rtmpose-t")
    net.head.mlp[0].g.fill_(1)
    net.head.gau.ln.g.fill_(1)
    net.head.gau.res_scale.scale.fill_(1)
    net.head.gau.gamma.add_(1)
    net.head.gau.uv.weight.mul_(0.625)
    net.to(dtype)
    features = net.encoder(seeding.seeded_input((1, 3, 256, 192)).to(dtype))
    tokens = net.head.mlp(net.head.final_layer(features).flatten(2))
    x, y = net.head(features)
    found = {"tokens": tokens, "gau": net.head.gau(tokens), "x": x, "y": y}
    with np.load(NUMBERS[dtype]) as official:
        for tensor, value in found.items():
            assert refio.error(official, f"rtmpose_t.256x192.strong.{tensor}", value.numpy()) < bound(tolerance), tensor


@torch.no_grad()
def test_maps_of_simcc_hrnet():
    """The 1x1 convolution before the linear layers, and the order in which its maps are flattened."""
    net = seeded("simcc-hrnet-w32")
    maps = net.head.final_layer(net.encoder(seeding.seeded_input((1, 3, 256, 192))))
    with np.load(NUMBERS[torch.float32]) as official:
        assert refio.error(official, "simcc_hrnet_w32.256x192.keypoint_feature", maps.numpy()) < bound(FLOAT32)


@torch.no_grad()
def test_hrnet_gives_the_features_of_the_imagenet_network():
    """As mesh networks take them: before the classifier's pooling, the same as timm's."""
    theirs = seeding.seed_module_(timm.create_model("hrnet_w32").eval())
    ours = HRNet(32, "features").eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("classifier.")}
    ours.load_state_dict(state, strict=True)
    x = seeding.seeded_input((1, 3, 64, 64))
    assert relative_error(ours(x), theirs.forward_features(x)) < 1e-6


# --------------------------------------------------------------------------- use


def tensors(outputs):
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


@pytest.mark.parametrize("name", SMALLEST)
@torch.no_grad()
def test_images_of_a_batch_do_not_meet_and_the_input_stays(name):
    size = (64, 64)
    torch.manual_seed(0)
    net, x = NETS[name].build(size).eval(), seeding.seeded_input((2, 3, *size))
    before = x.clone()
    together = tensors(net(x))
    assert torch.equal(x, before)
    for i, image in enumerate(x):
        for a, b in zip(tensors(net(image[None])), together, strict=True):
            assert relative_error(a[0], b[i]) < 1e-4
    changed = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    for a, b in zip(tensors(changed), together, strict=True):
        assert relative_error(a, b) < 1e-4


@pytest.mark.parametrize("name", SMALLEST)
@torch.no_grad()
def test_folded_norms_change_the_rounding_alone(name):
    net, x = seeding.seed_module_(NETS[name].build((64, 64)).eval()), seeding.seeded_input((1, 3, 64, 64))
    plain = tensors(net(x))
    fuse(net)
    for a, b in zip(tensors(net(x)), plain, strict=True):
        assert relative_error(a, b) < 1e-4


@pytest.mark.parametrize("name", SMALLEST)
def test_every_weight_learns(name):
    torch.manual_seed(0)
    net = NETS[name].build((64, 64)).train()
    outputs = tensors(net(torch.randn(2, 3, 64, 64)))
    sum((x * torch.randn_like(x)).sum() for x in outputs).backward()
    assert not [n for n, p in net.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
