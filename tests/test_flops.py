"""MACs: official counts of all encoders and heads, planted operators of known price, what nobody counts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmrbench import zoo
from hmrbench.cards import load_card, load_cards
from hmrbench.nets.encoders.groupmixformer import GroupMixFormer
from hmrbench.profiling import flops
from hmrbench.schema import ModelCard

pytestmark = pytest.mark.usefixtures("calm")
OFFICIAL: dict[str, Any] = json.loads((Path(__file__).parent / "refs" / "official_costs.json").read_text())
FAMILIES = {"swin": "swin", "gmf": "groupmixformer", "vmamba": "vmamba"}
SIZES = {"t": "tiny", "s": "small", "b": "base"}
CARDS = [card for card in load_cards().values() if card.build is None]
ENCODERS = sorted({(c.encoder, c.stages or 4) for c in CARDS if c.encoder})


def official(encoder: str, stages: int) -> dict[str, Any]:
    """The official entry of an encoder's first stages at 256x192; Swin as mmpose and torchvision pad it."""
    family, size = encoder.split("-")
    if family == "vit":
        return dict(OFFICIAL[f"vitpose_{size.upper()}"]["backbone"])
    entry = OFFICIAL[f"{FAMILIES[family]}_{SIZES[size]}"][f"stages1-{stages}_256x192"]
    return dict(entry.get("torchvision_pad_to_7", entry))


@cache
def encoder_costs(encoder: str, stages: int = 4) -> flops.Costs:
    with torch.device("meta"):
        net = zoo.create_encoder(encoder, stages)
    return flops.count(net, (1, 3, 256, 192))


def modules_of(encoder: str, stages: int) -> list[str]:
    """The modules that are left of a whole encoder when it is cut."""
    family = encoder.split("-")[0]
    kept = range(stages)
    return {
        "vit": [""],
        "swin": ["patch_embed", *(f"layers.{i}" for i in kept)],
        "gmf": [
            "conv_stem",
            *(f"{p}.{i}" for p in ("patch_embed_layers", "groupmixformer_backbone") for i in kept),
        ],
        "vmamba": [
            "patch_embed",
            *(f"layers.{i}.blocks" for i in kept),
            *(f"layers.{i}.downsample" for i in kept[:-1]),
        ],
    }[family]


def check(encoder: str, stages: int, found: tuple[int, int]) -> None:
    expected = official(encoder, stages)
    assert found[0] == expected["params"]
    if encoder.startswith("gmf"):  # fvcore reads the prices of the official einsums off a text with four digits
        assert found[1] == pytest.approx(expected["flops"], rel=2e-6)
    else:
        assert found[1] == expected["flops"]


@pytest.mark.parametrize(("encoder", "stages"), ENCODERS)
@pytest.mark.thorough
def test_encoders_cost_what_the_official_ones_do(encoder: str, stages: int) -> None:
    costs = encoder_costs(encoder)
    parts = [costs.by_module[name] for name in modules_of(encoder, stages)]
    check(encoder, stages, (sum(p for p, _ in parts), sum(m for _, m in parts)))
    assert (costs.uncounted, costs.disagreements, costs.counted_on) == ({}, (), "meta")


@pytest.mark.parametrize("encoder", ["swin-t", "gmf-t", "vmamba-t"])
def test_a_cut_encoder_costs_what_is_left_of_it(encoder: str) -> None:
    costs = encoder_costs(encoder, 2)
    check(encoder, 2, costs.by_module[""])
    scan = costs.by_operator.get("selective_scan", 0)
    assert costs.macs - scan == official(encoder, 2).get("flops_without_scan", costs.macs)


def test_every_operator_kind_of_a_vit_is_as_official() -> None:
    """Attention at the price of the two products that it is in the official code."""
    with torch.device("meta"):
        net = zoo.build_net(load_card("vitpose-b"))
    expected = dict(OFFICIAL["vitpose_B"]["whole_256x192"]["by_op"])
    expected["attention"] = expected.pop("matmul")
    assert flops.count(net, (1, 3, 256, 192)).by_operator == expected


def neck_macs(channels: int, out: int, stages: int, norm: bool) -> int:
    """5 per element of the LayerNorm; 3x3 to half the size, or 2x2 transposed from half the size."""
    pixels = {2: 32 * 24, 3: 16 * 12, 4: 8 * 6}[stages]
    resample = {2: 9 * channels * out * 16 * 12, 3: 0, 4: 4 * channels * out * 8 * 6}[stages]
    return 5 * channels * pixels * norm + resample


def heatmap_macs(channels: int) -> int:
    """Two 4x4 deconvolutions on 16x12 (an input pixel reaches 16), their BatchNorms, the 1x1 convolution."""
    deconvolutions = 16 * 256 * (channels * 16 * 12 + 256 * 32 * 24)
    return deconvolutions + 2 * 256 * (32 * 24 + 64 * 48) + 256 * 17 * 64 * 48


@cache
def head_costs(text: str) -> flops.Costs:
    """Costs of neck and head, once for all cards in which they are the same."""
    neck_and_head, shape = _HEADS[text]
    return flops.count(neck_and_head, shape)


_HEADS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {}


@pytest.mark.parametrize("card", CARDS, ids=lambda c: c.name)
def test_necks_and_heads_of_all_cards(card: ModelCard) -> None:
    assert card.encoder
    stages, is_vit = card.stages or 4, card.encoder.startswith("vit")
    with torch.device("meta"):
        net: Any = zoo.build_net(card)
    shape = tuple(official(card.encoder, stages)["out_shape"])
    out = shape[1] if is_vit else net.encoder.widths[2]
    neck_and_head = nn.Sequential(net.neck, net.head)
    _HEADS[text := f"{neck_and_head} {shape}"] = neck_and_head, shape
    costs = head_costs(text)
    expected = 0 if is_vit else neck_macs(shape[1], out, stages, norm=not card.encoder.startswith("gmf"))
    assert costs.by_module["0"][1] == expected
    if card.task == "hpe":
        assert costs.by_module["1"][1] == heatmap_macs(out)
    else:
        entry = OFFICIAL["smpl_heads"][f"{'full' if card.head.depth == 6 else 'light'}_ctx{out}_16x12"]
        # The official head turns its 24 rotations twice, with an einsum of 72; here once, element-wise.
        assert costs.by_module["1"] == (entry["params"], entry["flops"] - 144)
    assert (costs.uncounted, costs.disagreements) == ({}, ())


@pytest.mark.parametrize("name", ["swinhmr2-t-s2", "gmfpose-t-s2", "hmr2-s"])
def test_a_whole_network_is_the_sum_of_its_parts(name: str) -> None:
    card = load_card(name)
    with torch.device("meta"):
        net = zoo.build_net(card)
    costs = flops.count(net, (1, 3, *card.input))
    parts = [costs.by_module[part] for part in ("encoder", "neck", "head")]
    assert costs.by_module[""] == (sum(p for p, _ in parts), sum(m for _, m in parts))
    assert costs.macs == sum(m for _, m in parts)
    assert parts[0][1] == encoder_costs(card.encoder or "", card.stages or 4).macs
    assert set(costs.by_module) == {n for n, _ in net.named_modules()}
    assert sum(m for name, (_, m) in costs.by_module.items() if re.fullmatch(r"encoder\.\w+", name)) == parts[0][1]


# --------------------------------------------------------------------------- planted operators


class Does(nn.Module):
    """A network that is one function."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def like(x: Tensor, *shape: int) -> Tensor:
    return x.new_zeros(shape)


def attention(x: Tensor) -> Tensor:  # (2, 3, 8, 4): batch, heads, tokens, width
    return F.scaled_dot_product_attention(x, like(x, 2, 3, 16, 4), like(x, 2, 3, 16, 6))


def written_out(x: Tensor) -> Tensor:
    return torch.softmax(x @ like(x, 2, 3, 16, 4).mT, -1) @ like(x, 2, 3, 16, 6)


ATTENTION = (2 * 3 * 8 * 16 * 4 + 2 * 3 * 8 * 16 * 6, 2 * 3 * 8 * 16 + 2 * 3 * 8 * 6)


@pytest.mark.parametrize(
    ("net", "shape", "macs", "activations"),
    [
        (nn.Linear(5, 7), (2, 3, 5), 2 * 3 * 5 * 7, 2 * 3 * 7),
        (nn.Conv1d(4, 6, 3), (2, 4, 10), 2 * 6 * 8 * 12, 2 * 6 * 8),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (1, 4, 8, 6), 6 * 4 * 3 * 18, 6 * 4 * 3),
        (nn.Conv2d(4, 6, (3, 5), padding="same", dilation=2), (1, 4, 8, 9), 6 * 8 * 9 * 60, 6 * 8 * 9),
        (nn.Conv3d(2, 3, 2), (1, 2, 3, 3, 3), 3 * 8 * 16, 3 * 8),
        (nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, bias=False), (1, 4, 5, 3), 15 * 4 * 6 * 16, 6 * 60),
        (Does(lambda x: F.conv2d(input=x, weight=like(x, 3, 2, 1, 1))), (1, 2, 4, 4), 3 * 2 * 16, 3 * 16),
        (
            Does(lambda x: x @ like(x, 9, 5, 4)),
            (3, 5),
            9 * 3 * 5 * 4,
            9 * 3 * 4,
        ),  # fvcore alone counts a ninth
        (Does(lambda x: x @ like(x, 5)), (3, 5), 15, 3),
        (Does(lambda x: torch.bmm(x, like(x, 2, 4, 6))), (2, 3, 4), 2 * 3 * 4 * 6, 2 * 3 * 6),
        (Does(lambda x: torch.baddbmm(like(x, 2, 3, 6), x, like(x, 2, 4, 6))), (2, 3, 4), 144, 36),
        (Does(lambda x: torch.addbmm(like(x, 3, 6), x, like(x, 2, 4, 6))), (2, 3, 4), 144, 18),
        (Does(lambda x: torch.addmm(like(x, 6), x, like(x, 4, 6))), (3, 4), 72, 18),
        (Does(lambda x: torch.einsum("bij,bkj->bik", x, like(x, 2, 5, 4))), (2, 3, 4), 2 * 3 * 5 * 4, 30),
        (Does(lambda x: torch.einsum("...ij,jk->...ik", x, like(x, 4, 5))), (2, 3, 4), 2 * 3 * 4 * 5, 30),
        (Does(attention), (2, 3, 8, 4), *ATTENTION),
        (Does(written_out), (2, 3, 8, 4), *ATTENTION),
        (nn.BatchNorm2d(3), (2, 3, 4, 5), 2 * 120, 0),
        (nn.LayerNorm(5), (2, 3, 5), 5 * 30, 0),
        (nn.LayerNorm(5, elementwise_affine=False), (2, 3, 5), 4 * 30, 0),
        (Does(lambda x: {"a": [x.exp() + 1], "b": x.softmax(-1)}), (2, 3), 0, 0),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else None,
)
def test_price_of_an_operator(net: nn.Module, shape: tuple[int, ...], macs: int, activations: int) -> None:
    costs = flops.count(net, shape)
    assert (costs.macs, costs.activations) == (macs, activations)
    assert (costs.uncounted, costs.disagreements, costs.counted_on) == ({}, (), "meta")


def test_attention_modules_are_counted_in_their_parts() -> None:
    """nn.MultiheadAttention has a fused operator of its own, which would hide its products."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    costs = flops.count(layer, (1, 5, 8))
    assert (
        costs.macs == 5 * 8 * 32 + 2 * 5 * 5 * 8 + 2 * 5 * 8 * 16 + 2 * 5 * 40
    )  # four projections, attention, MLP, norms
    assert costs.uncounted == {}


class Hidden(torch.autograd.Function):
    """A product that a tracer cannot look into."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x @ x.mT


def test_an_operator_that_nobody_counts_is_named() -> None:
    lstm = flops.count(Does(nn.LSTM(4, 4)), (3, 1, 4))
    assert lstm.macs == 0
    assert lstm.uncounted == {"aten::lstm": 1}
    costs = flops.count(Does(lambda x: torch.cdist(F.linear(x, like(x, 4, 4)), x)), (8, 4))
    assert costs.macs == 8 * 4 * 4
    assert costs.uncounted == {"aten::cdist": 1}


def test_a_hidden_product_is_named_and_found_by_the_second_counter() -> None:
    costs = flops.count(Does(lambda x: Hidden.apply(F.linear(x, like(x, 4, 4)))), (8, 4))
    assert costs.macs == 8 * 4 * 4
    assert costs.uncounted == {"prim::PythonOp.Hidden": 1}
    (text,) = costs.disagreements
    assert text == "matrix products: 128 MACs by fvcore (linear 128), 384 by PyTorch (mm 384)"


def test_differences_below_one_percent_pass() -> None:
    class Op:
        def __init__(self, name: str) -> None:
            self.name = name

        def __str__(self) -> str:
            return f"aten.{self.name}"

    theirs = {Op("convolution"): 2000, Op("addmm"): 1_990_000, Op("bmm"): 8000}
    assert flops._disagreements({"conv": 1000, "linear": 990_000, "layer_norm": 5}, theirs) == ()
    (text,) = flops._disagreements({"conv": 1011, "linear": 995_000, "attention": 4000}, theirs)
    assert text == "convolutions: 1,011 MACs by fvcore (conv 1,011), 1,000 by PyTorch (convolution 1,000)"


def test_a_network_that_looks_at_numbers_is_counted_with_data() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 2), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Any:
            return self.a(x) if float(x.sum()) > 1 else self.b(x)

    costs = flops.count(Branches(), (1, 4))
    assert (costs.macs, costs.counted_on) == (12, "cpu")
    assert costs.not_on_meta is not None
    assert costs.not_on_meta.startswith("RuntimeError: Tensor.item() cannot be called on meta tensors")


class Peeks(nn.Module):
    """A network that does not run without data, around another."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        return self.net(x) if float(x.sum()) > -1 else x


def test_counters_see_the_plain_network_on_every_device() -> None:
    """In float32 on a CPU, GroupMixFormer folds norms and turns linear layers into convolutions."""
    net = GroupMixFormer((40, 40, 40, 40), (1, 1, 1, 1), (2, 2, 2, 2), stages=1)
    plain = flops.count(net, (1, 3, 256, 192))
    assert (plain.counted_on, plain.not_on_meta, plain.disagreements) == ("meta", None, ())
    assert plain.by_operator["batch_norm"] > 0
    with_data = flops.count(Peeks(net), (1, 3, 256, 192))
    assert (with_data.counted_on, with_data.disagreements) == ("cpu", ())
    assert with_data.by_operator == plain.by_operator
    assert with_data.activations == plain.activations
    assert net.conv_stem.fused


def test_convolutions_on_the_meta_device_have_the_shape_of_real_ones() -> None:
    """PyTorch before 2.12 cannot: the counter fills the gap."""
    flops._fill_gap_of_meta_device()
    x = torch.empty(2, 4, 7, 9, device="meta")
    w, b = torch.empty(6, 2, 3, 3, device="meta"), torch.empty(6, device="meta")
    options = ([2, 1], [1, 0], [1, 2], False, [0, 0], 2)
    y = torch._convolution(x, w, b, *options, False, False, False, False)
    real = torch.convolution(*(torch.zeros(t.shape) for t in (x, w, b)), *options)
    assert (y.device.type, y.shape, y.dtype) == ("meta", real.shape, torch.float32)


def test_the_network_is_left_as_it_is() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    parameters = list(map(id, net.parameters()))
    flops.count(net, (1, 3, 8, 8))
    with pytest.raises(RuntimeError):
        flops.count(net, (1, 5, 8, 8))
    assert net.training
    assert list(map(id, net.parameters())) == parameters
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert all(p.requires_grad and p.device.type == "cpu" for p in net.parameters())
