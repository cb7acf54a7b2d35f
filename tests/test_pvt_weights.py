"""ImageNet's files of PVT as its authors publish them: their keys, and features that equal those of timm's port."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import seeding
import timm
import torch
from timm.models.pvt_v2 import checkpoint_filter_fn
from torch import Tensor, nn

from hmrbench import checkpoints, zoo
from hmrbench.cards import load_card
from hmrbench.errors import WeightsError
from hmrbench.training.start import start_net

WIDTHS, DEPTHS, EXPANSIONS, REDUCTIONS = (64, 128, 320, 512), (3, 4, 6, 3), (8, 8, 4, 4), (8, 4, 2, 1)


def shapes(version: int) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of `pvt_small.pth` and `pvt_v2_b2.pth`, as the authors' classes have them."""
    found: dict[str, tuple[int, ...]] = {}

    def linear(name: str, outputs: int, *inputs: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (outputs, *inputs), (outputs,)

    for i, c in enumerate(WIDTHS):
        side = ((4, 2, 2, 2) if version == 1 else (7, 3, 3, 3))[i]
        linear(f"patch_embed{i + 1}.proj", c, 3 if i == 0 else WIDTHS[i - 1], side, side)
        linear(f"patch_embed{i + 1}.norm", c)
        if version == 1:
            found[f"pos_embed{i + 1}"] = (1, (56, 28, 14, 7)[i] ** 2 + (i == 3), c)
        for j in range(DEPTHS[i]):
            block, inner, r = f"block{i + 1}.{j}", EXPANSIONS[i] * c, REDUCTIONS[i]
            for norm in ("norm1", "norm2", *(["attn.norm"] if r > 1 else [])):
                linear(f"{block}.{norm}", c)
            for name, outputs in (("q", c), ("kv", 2 * c), ("proj", c)):
                linear(f"{block}.attn.{name}", outputs, c)
            if r > 1:
                linear(f"{block}.attn.sr", c, c, r, r)
            linear(f"{block}.mlp.fc1", inner, c)
            linear(f"{block}.mlp.fc2", c, inner)
            if version == 2:
                linear(f"{block}.mlp.dwconv.dwconv", inner, 1, 3, 3)
        if version == 2:
            linear(f"norm{i + 1}", c)
    if version == 1:
        linear("norm", WIDTHS[-1])
        found["cls_token"] = (1, 1, WIDTHS[-1])
    linear("head", 1000, WIDTHS[-1])
    return found


@pytest.fixture(params=[("pvt-s", 1), ("pvtv2-b2", 2)], ids=["pvt_small", "pvt_v2_b2"])
def given(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, dict[str, Tensor]]:
    name, version = request.param
    state = {key: seeding.seeded_tensor(key, torch.empty(shape)) for key, shape in shapes(version).items()}
    torch.save(state, tmp_path / "imagenet.pth")
    return name, tmp_path / "imagenet.pth", state


def test_training_starts_from_them(given: tuple[str, Path, dict[str, Tensor]]) -> None:
    """Every weight of the encoder comes from the file, and only the classifier's are left over."""
    name, path, state = given
    card = load_card(name)
    assert [source.layout for source in card.encoder_weights] == ["pvt"]
    net, said, whole = start_net(card, str(path), 0.0, 0)
    assert (said.startswith("encoder of imagenet.pth"), whole) == (True, False)
    encoder: nn.Module = net.encoder  # type: ignore[assignment]
    report = checkpoints.load_encoder(encoder, checkpoints.read_state(path))
    assert (report.layout, report.unexpected, report.missing, report.interpolated) == ("pvt", (), (), ())
    assert {key.partition(".")[0] for key in report.unused} <= {"head", "norm", "cls_token"}
    own = encoder.state_dict()
    left_out = sum(state[key].numel() for key in report.unused) + (WIDTHS[-1] if "cls_token" in state else 0)
    assert sum(v.numel() for v in own.values()) == sum(v.numel() for v in state.values()) - left_out
    block = "layers.1.1.2" if name == "pvtv2-b2" else "layers.1.1.3"
    q, kv = state["block2.2.attn.q.weight"], state["block2.2.attn.kv.weight"]
    assert torch.equal(own[f"{block}.attn.attn.in_proj_weight"], torch.cat([q, kv]))
    assert torch.equal(own[f"{block}.ffn.layers.0.weight"][..., 0, 0], state["block2.2.mlp.fc1.weight"])
    if name == "pvt-s":
        assert torch.equal(own["layers.3.1.0.pos_embed"], state["pos_embed4"][:, 1:])


@torch.no_grad()
def test_features_equal_those_of_timm() -> None:
    theirs = timm.create_model("pvt_v2_b2").eval()
    state = {key: seeding.seeded_tensor(key, torch.empty(shape)) for key, shape in shapes(2).items()}
    theirs.load_state_dict(checkpoint_filter_fn(state, theirs), strict=True)
    for module in theirs.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6  # mmpose's, by which the pose networks are trained
    ours = zoo.build_net(load_card("pvtv2-b2")).eval()
    checkpoints.load_encoder(ours.encoder, state)  # type: ignore[arg-type]
    x = seeding.seeded_input((1, 3, 96, 64)).double()
    a, b = ours.encoder.double()(x), theirs.double().forward_features(x)  # type: ignore[operator]
    assert float((a - b).abs().max() / b.std()) < 1e-9


def test_a_broken_file_is_one_message(given: tuple[str, Path, dict[str, Tensor]], tmp_path: Path) -> None:
    name, path, state = given
    card = load_card(name)
    with pytest.raises(WeightsError, match=r"imagenet\.pth: these are weights of an encoder alone \(pvt\)"):
        zoo.load_weights(card, path)
    for key, value, words in (
        ("block1.0.attn.kv.weight", torch.zeros(128, 3), r"in_proj_weight is \(64, 64\), not \(192, 64\)"),
        ("block1.0.attn.kv.bias", None, r"in_proj_bias is \(64,\), not \(192,\)"),
        ("block1.0.attn.q.bias", None, r"1 missing: layers\.0\.1\.\d\.attn\.attn\.in_proj_bias"),
        ("block4.3.norm1.bias", torch.zeros(512), r"of blocks that it does not have: layers\.3\.1\.\d\.norm1\.bias"),
    ):
        torch.save({k: v for k, v in (state | {key: value}).items() if v is not None}, tmp_path / "broken.pth")
        with pytest.raises(WeightsError, match=rf"{re.escape(str(tmp_path))}.*broken\.pth .*{words}"):
            start_net(card, str(tmp_path / "broken.pth"), 0.0, 0)
