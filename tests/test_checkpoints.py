"""Every known layout, from files of that layout with seeded weights; and files that must be refused."""

from __future__ import annotations

import json
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import refio
import seeding
import torch

import hmrbench
from hmrbench import checkpoints, zoo
from hmrbench.cards import load_card
from hmrbench.errors import WeightsError

LAYOUTS = Path(__file__).parent / "refs" / "layouts"
REFS = Path(__file__).parent / "refs"


def seeded_layout(name: str) -> dict[str, torch.Tensor]:
    """The state dict that an official file of this layout holds, with seeded weights."""
    shapes = json.loads((LAYOUTS / f"{name}.json").read_text())
    state = {}
    for key, shape in shapes.items():
        whole = key.endswith(("num_batches_tracked", "relative_position_index"))
        state[key] = torch.zeros(shape, dtype=torch.int64 if whole else torch.float32)
    return seeding.seeded_state_dict(state)


def save(state: object, path: Path) -> Path:
    torch.save(state, path)
    return path


@pytest.mark.parametrize(
    ("encoder", "layout", "wrapper", "file", "stage"),
    [
        ("swin-t", "swin_tiny_microsoft", "model", "swin_tiny", "256x192.mmpose.stage{}"),
        ("gmf-t", "groupmixformer_tiny", "model", "groupmixformer_tiny", "256x192.stage{}"),
        ("vmamba-t", "vmamba_tiny", "model", "vmamba_tiny", "256x192.stage{}.pre"),
        ("vmamba-t", "vmamba_tiny_backbone", "state_dict", "vmamba_tiny", "256x192.stage{}.pre"),
    ],
)
@pytest.mark.parametrize("stages", [2, 4])
def test_official_encoder_file_gives_official_output(
    tmp_path: Path, encoder: str, layout: str, wrapper: str, file: str, stage: str, stages: int
) -> None:
    path = save({wrapper: seeded_layout(layout), "epoch": 3}, tmp_path / "official.pth")
    net = hmrbench.create_encoder(encoder, stages=stages, checkpoint=path)
    with torch.inference_mode():
        out = net(seeding.seeded_input((1, 3, 256, 192)))
    assert refio.error(np.load(REFS / f"{file}.npz"), stage.format(stages), out.numpy()) < 1e-4


def test_timm_swin_is_microsofts(tmp_path: Path) -> None:
    state = seeded_layout("swin_tiny_microsoft")
    timm_state = {}
    for key in json.loads((LAYOUTS / "swin_tiny_timm.json").read_text()):
        official = key.replace("head.fc.", "head.")
        if ".downsample." in key:
            number = int(key.split(".")[1])
            official = key.replace(f"layers.{number}", f"layers.{number - 1}")
        if official in state:
            timm_state[key] = state[official]
    a = hmrbench.create_encoder("swin-t", 3, save(timm_state, tmp_path / "timm.pth"))
    b = hmrbench.create_encoder("swin-t", 3, save({"model": state}, tmp_path / "microsoft.pth"))
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize("wrapped", [True, False])
def test_vitpose_file_gives_official_heatmaps(tmp_path: Path, wrapped: bool) -> None:
    state = seeded_layout("vitpose_S")
    path = save({"state_dict": state, "meta": {"epoch": 210}} if wrapped else state, tmp_path / "vitpose.pth")
    net = hmrbench.load_model("vitpose-s", weights=path)
    with torch.inference_mode():
        heatmaps = net(seeding.seeded_input((1, 3, 256, 192)))
    assert refio.error(np.load(REFS / "vitpose_S.npz"), "heatmap", heatmaps.numpy()) < 1e-4


def to_mmpose1(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A ViTPose state in the names of mmpose 1.x, whose ViT has no class position to add."""
    out = {}
    for key, value in state.items():
        key = key.replace("keypoint_head.", "head.").replace("patch_embed.proj.", "patch_embed.projection.")
        key = key.replace("backbone.last_norm.", "backbone.ln1.").replace(".blocks.", ".layers.")
        key = key.replace(".norm1.", ".ln1.").replace(".norm2.", ".ln2.")
        key = key.replace(".mlp.fc1.", ".ffn.layers.0.0.").replace(".mlp.fc2.", ".ffn.layers.1.")
        out[key] = value[:, 1:] + value[:, :1] if key == "backbone.pos_embed" else value
    return out


def test_mmpose1_file_gives_the_same_heatmaps(tmp_path: Path) -> None:
    state = to_mmpose1(seeded_layout("vitpose_S"))
    assert "backbone.layers.0.ffn.layers.0.0.weight" in state
    content = {"meta": {"dataset_meta": {"sigmas": np.ones(17)}, "epoch": np.float64(210)}, "state_dict": state}
    net = hmrbench.load_model("vitpose-s", weights=save(content, tmp_path / "mmpose1.pth"))
    with torch.inference_mode():
        heatmaps = net(seeding.seeded_input((1, 3, 256, 192)))
    assert refio.error(np.load(REFS / "vitpose_S.npz"), "heatmap", heatmaps.numpy()) < 1e-4


def test_mae_backbone_starts_a_vit_and_its_positions_are_interpolated(tmp_path: Path) -> None:
    ours = hmrbench.create_encoder("vit-s").state_dict()
    mae = {k: torch.randn_like(v) for k, v in ours.items() if not k.startswith("last_norm.")}
    mae |= {"cls_token": torch.zeros(1, 1, 384), "mask_token": torch.zeros(1, 1, 512), "norm.weight": torch.ones(384)}
    mae["pos_embed"] = torch.randn(1, 1 + 14 * 14, 384)
    mae["decoder_embed.weight"] = torch.zeros(512, 384)
    net = hmrbench.create_encoder("vit-s")
    report = checkpoints.load_encoder(net, mae)
    assert report.layout == "mae"
    assert report.interpolated == ("pos_embed",)
    assert set(report.missing) == {"last_norm.weight", "last_norm.bias"}
    assert torch.equal(net.pos_embed[:, 0], mae["pos_embed"][:, 0])
    grid = mae["pos_embed"][0, 1:].T.reshape(1, 384, 14, 14)
    expected = torch.nn.functional.interpolate(grid, (16, 12), mode="bicubic").flatten(2)[0].T
    torch.testing.assert_close(net.pos_embed[0, 1:], expected)


def test_relative_position_tables_of_another_window_are_interpolated() -> None:
    state = dict(hmrbench.create_encoder("swin-t", 4).state_dict())
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    state[table] = torch.full((23 * 23, 3), 0.25)  # window 12
    report = checkpoints.load_encoder(net := hmrbench.create_encoder("swin-t", 2), state)
    assert report.interpolated == (table,)
    torch.testing.assert_close(net.state_dict()[table], torch.full((169, 3), 0.25))


def test_ours_round_trips_through_safetensors(tmp_path: Path) -> None:
    net = hmrbench.load_model("gmfpose-t-s2", weights="random")
    path = tmp_path / "ours.safetensors"
    checkpoints.save_state(net.state_dict(), path, {"model": "gmfpose-t-s2"})
    again = hmrbench.load_model("gmfpose-t-s2", weights=path)
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in net.state_dict().items())
    assert list(tmp_path.iterdir()) == [path]


def test_half_precision_and_data_parallel_files_load(tmp_path: Path) -> None:
    net = hmrbench.load_model("gmfpose-t-s2", weights="random")
    state = {f"module.{k}": v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    again = hmrbench.load_model("gmfpose-t-s2", weights=save(state, tmp_path / "half.pth"))
    assert next(again.parameters()).dtype == torch.float32


# --------------------------------------------------------------------------- refusals


def test_missing_misshapen_and_unexpected_keys_are_listed(tmp_path: Path) -> None:
    state = seeded_layout("vitpose_S")
    del state["backbone.blocks.3.attn.qkv.weight"]
    state["keypoint_head.final_layer.bias"] = torch.zeros(21)
    state["backbone.extra"] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        hmrbench.load_model("vitpose-s", weights=save(state, tmp_path / "broken.pth"))
    message = str(caught.value)
    assert "1 missing: encoder.blocks.3.attn.qkv.weight" in message
    assert "head.final_layer.bias is (21,), not (17,)" in message
    assert "broken.pth" in message

    state = seeded_layout("vitpose_S") | {"backbone.extra": torch.zeros(1)}
    _, report = zoo.load_weights(load_card("vitpose-s"), save(state, tmp_path / "extra.pth"))
    assert report is not None
    assert report.unexpected == ("encoder.extra",)
    own = zoo.build_net(load_card("vitpose-s")).state_dict() | {"extra": torch.zeros(1)}
    with pytest.raises(
        WeightsError, match=r"\(hmrbench layout\) is not of this network: 1 that it does not have: extra"
    ):
        zoo.load_weights(load_card("vitpose-s"), save(own, tmp_path / "own.pth"))


def test_an_imagenet_encoder_is_no_pose_network(tmp_path: Path) -> None:
    path = save({"model": seeded_layout("swin_tiny_microsoft")}, tmp_path / "swin.pth")
    with pytest.raises(WeightsError, match=r"encoder alone.*a start for training"):
        hmrbench.load_model("swinpose-t-s3", weights=path)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    path = save(seeded_layout("vitpose_S"), tmp_path / "s.pth")
    with pytest.raises(WeightsError, match="misshapen"):
        hmrbench.load_model("vitpose-b", weights=path)


def test_a_deeper_network_of_the_same_widths_is_refused(tmp_path: Path) -> None:
    """Swin-S has Swin-T's widths and more blocks: loading its first ones would be a network nobody trained."""
    path = save({"model": seeded_layout("swin_small_microsoft")}, tmp_path / "small.pth")
    with pytest.raises(WeightsError, match=r"of blocks that it does not have: layers\.2\.blocks\.6\."):
        hmrbench.create_encoder("swin-t", 3, path)
    hmrbench.create_encoder("swin-t", 2, path)  # the first two stages are the same


def hmr2_file(tmp_path: Path, head: str, encoder: str, **more: torch.Tensor) -> Path:
    """A checkpoint as 4D-Humans writes it, with seeded weights."""
    state = {f"smpl_head.{k}": v for k, v in seeded_layout(head).items()}
    vit = {k: v for k, v in seeded_layout(encoder).items() if k.startswith("backbone.")}
    extra = {"smpl.v_template": torch.zeros(6890, 3), "discriminator.fc.weight": torch.zeros(2, 2)}
    return save(
        {"state_dict": {**vit, **state, **extra, **more}, "epoch": 35, "global_step": 1}, tmp_path / "last.ckpt"
    )


def test_hmr2_checkpoint_gives_official_parameters(tmp_path: Path) -> None:
    path = hmr2_file(tmp_path, "hmr2_head_d3_a4x16_m128_c384", "vitpose_S")
    net, report = zoo.load_weights(load_card("hmr2-s"), path)
    assert report is not None
    assert (report.layout, report.unexpected) == ("hmr2", ())
    reference = np.load(REFS / "hmr2_head_d3_a4x16_m128_c384.npz")
    with torch.inference_mode():
        out = net.head(seeding.seeded_input((2, 384, 16, 12)))
        features = net.encoder(seeding.seeded_input((1, 3, 256, 192)))
    for name in ("global_orient", "body_pose", "betas", "cam"):
        assert refio.error(reference, name, out[name].numpy()) < 2e-4
    assert refio.error(np.load(REFS / "vitpose_S.npz"), "backbone", features.numpy()) < 1e-4


def test_a_decoder_that_is_not_the_cards_is_refused(tmp_path: Path) -> None:
    state = seeded_layout("hmr2_head_d3_a4x16_m128_c384")
    deeper = {f"smpl_head.{k}".replace("layers.2.", "layers.3."): v for k, v in state.items() if "layers.2." in k}
    path = hmr2_file(tmp_path, "hmr2_head_d3_a4x16_m128_c384", "vitpose_S", **deeper)
    with pytest.raises(WeightsError, match=r"its decoder has depth 4, .* the card says depth 3"):
        hmrbench.load_model("hmr2-s", weights=path)


class Trap:
    """Pickled, it calls a function when it is read."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"open({str(self.target)!r}, 'w').close()",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_trapped_pickle_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    target = tmp_path / "sprung"
    path = tmp_path / "trap.pth"
    torch.save({"state_dict": {"a": torch.zeros(1), "b": Trap(target)}}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="refused") as caught:
        checkpoints.read_state(path)
    assert not target.exists()
    assert "nothing of it was run" in str(caught.value).lower()
    bare = tmp_path / "bare.pkl"
    bare.write_bytes(pickle.dumps(Trap(target)))
    with pytest.raises(WeightsError):
        checkpoints.read_state(bare)
    assert not target.exists()


def test_a_frameworks_bystanders_do_not_hinder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("mmengine.logging.history_buffer")
    kind = type("HistoryBuffer", (), {"__module__": module.__name__})
    module.HistoryBuffer = kind  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = save({"message_hub": {"loss": kind()}, "state_dict": {"w": torch.ones(2)}}, tmp_path / "train.pth")
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.delitem(sys.modules, name)
    assert checkpoints.read_state(path)["w"].tolist() == [1, 1]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=f"bad{suffix}"):
        checkpoints.read_state(path)


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    path = save({"w": torch.randn(1000)}, tmp_path / "cut.pth")
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(WeightsError, match=r"cut\.pth"):
        checkpoints.read_state(path)


def test_an_unknown_layout_shows_its_keys(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"unknown checkpoint layout \(keys begin: conv1"):
        hmrbench.load_model("vitpose-s", weights=save({"conv1.weight": torch.zeros(1)}, tmp_path / "x.pth"))
