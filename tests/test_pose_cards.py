"""The pose networks to compare with, by name: cards, official files, evaluation, training targets."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seeding
import torch
from conftest import make_coco, prepare_job
from test_cli import hmrbench

from hmrbench import checkpoints, data, evaluation, zoo
from hmrbench.cards import load_cards
from hmrbench.codecs import Crops, find_codec
from hmrbench.device import Normalize
from hmrbench.errors import UsageError, WeightsError
from hmrbench.metrics.coco_keypoints import coco_results
from hmrbench.nets.record import known_networks
from hmrbench.records import Prediction
from hmrbench.schema import ModelCard
from hmrbench.schema.faults import validate
from hmrbench.skeletons import COCO17
from hmrbench.training.losses import pose_losses, simcc_loss
from hmrbench.training.recipes import Loss
from hmrbench.zoo import parts

REFS = Path(__file__).parent / "refs" / "poses"
LAYOUTS = json.loads(gzip.decompress((REFS / "layouts.json.gz").read_bytes()))
COSTS = json.loads((REFS / "official_costs.json").read_text())
HELD = {
    row["model"]: row["values"]
    for row in json.loads((Path(__file__).parents[1] / "baselines" / "costs.json").read_text())["rows"]
}
CARDS = {
    name: card
    for name, card in load_cards().items()
    if card.build in known_networks() and known_networks()[card.build].output in ("heatmap", "simcc")
}
EVERY = pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
# The smallest with each head, codec and layout.
SMALL = ("litehrnet-18", "rtmpose-t", "simcc-vipnas-mbv3", "meme-p0")


def official_name(card: ModelCard) -> str:
    return str(card.build).replace("-", "_").replace("meme_", "meme_eeffpose_")


def official_file(card: ModelCard, path: Path, prefix: str = "own") -> Path:
    """A file of seeded weights with the official keys, mmpose's with its other prefixes too."""
    shapes = LAYOUTS[official_name(card)]
    counts = {k for k in shapes if k.endswith("num_batches_tracked")}
    state = {k: torch.tensor(7) if k in counts else seeding.seeded_tensor(k, torch.empty(s)) for k, s in shapes.items()}
    if prefix == "keypoint_head":
        state = {re.sub(r"^head\.", "keypoint_head.", k): v for k, v in state.items()}
    elif prefix == "bare":
        state = {re.sub(r"^(head|backbone)\.", "", k): v for k, v in state.items()}
    torch.save({"meta": {"epoch": 1}, "state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("official")
    return {name: official_file(CARDS[name], folder / f"{name}.pth") for name in SMALL}


# --------------------------------------------------------------------------- cards


def test_every_network_has_a_card_of_its_name() -> None:
    of_boxes = {name for name, net in known_networks().items() if net.output in ("heatmap", "simcc")}
    assert of_boxes <= CARDS.keys()
    assert len(CARDS) == 31
    for name, card in CARDS.items():
        assert name.startswith(str(card.build).removesuffix("-384x288"))
        assert card.input in known_networks()[str(card.build)].input_sizes
        assert ("384x288" in name or card.build == "meme-p2") == (card.input == (384, 288))


@EVERY
def test_costs_are_the_official_ones(card: ModelCard) -> None:
    official = COSTS[official_name(card)]
    assert HELD[card.name]["params"] == official["params"]
    assert abs(HELD[card.name]["macs"] / official["macs"][card.input_text] - 1) < 0.005


@EVERY
def test_weights_are_checked_by_the_hash_in_their_names(card: ModelCard) -> None:
    assert card.weights
    for source in card.weights + card.encoder_weights:
        assert source.read_in
        stated = re.search(r"-([0-9a-f]{8})(_\d{8})?\.pth$", source.url)
        assert source.sha256 == (stated[1] if stated else None)
        hashed = source.url.startswith("https:") and "/whai362/PVT/releases/" not in source.url
        assert bool(stated) == hashed, "an address without a hash"
        assert source.url != "manual:" or (source.page and source.page.startswith("https://"))
    assert {p.variant for p in card.published} <= {s.variant for s in card.weights}
    assert all(p.source and p.dataset == "coco-val" and 60 < p.value < 95 for p in card.published)
    assert card.headline[0].metric == "AP"


@EVERY
def test_output_is_what_the_codec_trains(card: ModelCard) -> None:
    """Bins per pixel, input and codec of a card fit the network, whose output test_pose_nets holds to its record."""
    record, (height, width) = known_networks()[str(card.build)], card.input
    keypoints = np.tile([width / 3, height / 2], (1, 17, 1))
    target, weight = zoo.codec_of(card).encode(keypoints, np.ones((1, 17)), card.input)
    targets = target if isinstance(target, tuple) else (target,)
    bins = [(1, 17, int(side * (record.split or 0))) for side in (width, height)]
    assert [x.shape for x in targets] == (bins if record.output == "simcc" else [(1, 17, height // 4, width // 4)])
    assert weight.all()


def test_protocols() -> None:
    """What differs between repositories, as the README of the reference numbers states it."""
    scoring = {name: tuple(card.decode.scoring.values()) for name, card in CARDS.items()}
    usual = (0.2, 0.9)
    unusual = {
        "simcc-hrnet-w32": (0.01, 0.9),
        "simcc-hrnet-w48": (0.01, 0.9),
        "simcc-hrnet-w48-384x288": (0.005, 0.9),
        "meme-p0": (0.2, 0.99),
        "meme-p2": (0.2, 0.99),
    }
    assert {n: s for n, s in scoring.items() if s != usual} == unusual
    assert {n for n, c in CARDS.items() if c.crop.order == "bgr"} == {n for n in CARDS if n.endswith("-bgr")}
    codecs = {name: zoo.codec_of(card) for name, card in CARDS.items()}
    assert {n for n, c in codecs.items() if c.geometry == "udp"} == {"hrnet-w32-udp", "hrnet-w48-udp"}
    maps = torch.arange(4.0).expand(1, 17, 2, 4)
    for name, codec in codecs.items():
        if known_networks()[str(CARDS[name].build)].output == "heatmap":
            back = codec.flip_back(maps, COCO17)[0, 0, 0].tolist()
            assert back == ([3, 2, 1, 0] if name.endswith("-udp") else [3, 3, 2, 1]), name


# --------------------------------------------------------------------------- the grammar


def card_of(**fields: Any) -> ModelCard:
    given = {"paper_name": "X", "task": "hpe", "family": "x", "size": "t", "licence": "x", "input": [256, 192]}
    return validate(ModelCard, Path("x.yaml"), "x", {**given, **fields})


@pytest.mark.parametrize(
    ("fields", "shapes", "params_head"),
    [
        ({"encoder": "swin-t", "stages": 3, "head": {"kind": "simcc"}, "codec": "simcc"}, [(384,), (512,)], None),
        ({"encoder": "vit-s", "head": {"kind": "simcc", "split": 3, "filters": []}, "codec": "simdr"}, None, None),
        ({"encoder": "swin-t", "stages": 2, "neck": "none", "head": {"filters": []}}, [(32, 24)], 192 * 17 + 17),
        ({"encoder": "swin-t", "stages": 4, "neck": "none", "head": {"kind": "rtmcc"}, "codec": "rtmpose"}, None, None),
    ],
)
def test_parts_compose_freely(fields: dict[str, Any], shapes: Any, params_head: int | None) -> None:
    card = card_of(**fields)
    if fields["head"].get("split") == 3:
        with pytest.raises(RuntimeError):  # 16 x 12 cells, where the head expects those of stride 4
            build_meta(card)
        return
    output = build_meta(card)
    outputs = output if isinstance(output, tuple) else (output,)
    if shapes is not None:
        assert [tuple(x.shape[2:]) for x in outputs] == shapes
    target, _ = zoo.codec_of(card).encode(np.full((1, 17, 2), 50.0), np.ones((1, 17)), card.input)
    if isinstance(target, tuple):
        assert [t.shape for t in target] == [tuple(x.shape) for x in outputs]
    if params_head is not None:
        assert parts.count_parameters(card)["params_head"] == params_head


def build_meta(card: ModelCard) -> Any:
    with torch.device("meta"):
        return zoo.build_net(card).eval()(torch.empty(1, 3, *card.input))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"build": "hrnet-w33"}, "network in build of x 'hrnet-w33'; did you mean hrnet-w3"),
        ({"encoder": "swin-t", "codec": "udp", "decode": {"score": "min"}}, "codec 'udp': unknown key score"),
        ({"build": "meme-p0", "codec": "msra-hrnett"}, "msra-hrnet"),
    ],
)
def test_what_does_not_exist_is_named(fields: dict[str, Any], message: str) -> None:
    card = card_of(**fields)
    with pytest.raises(UsageError, match=message):
        zoo.codec_of(card)


def test_options_of_decoding_reach_the_codec_and_the_row(tiny_coco: Path) -> None:
    fields = {"build": "rtmpose-t", "codec": "simcc", "decode": {"score": "max", "score_threshold": 0.5}}
    job = prepare_job(card_of(**fields), "coco-val", weights="random", data_root=tiny_coco)
    x, y = torch.zeros(1, 17, 384), torch.zeros(1, 17, 512)
    x[..., 10], y[..., 20] = 0.25, 0.75
    crops = evaluation_crops()
    assert job.codec.decode((x, y), crops)[1].max() == 0.75
    assert job.protocol == {"decode": {"score_threshold": 0.5, "score": "max"}}
    assert job.dataset.scoring == {"score_threshold": 0.5, "nms_threshold": 0.9}
    # another codec by hand is taken as it is
    other = zoo.codec_of(job.card, "sa-simdr")
    assert other.name == "sa-simdr"
    assert other.decode((x, y), crops)[1].max() == find_codec("sa-simdr").decode((x, y), crops)[1].max() < 0.01


def evaluation_crops() -> Crops:
    return Crops(np.array([[96.0, 128.0]]), np.array([[192.0, 256.0]]), (256, 192))


def test_thresholds_decide_scores_and_who_is_dropped(tiny_coco: Path) -> None:
    opened = data.open_dataset(data.load_spec("coco-val"), tiny_coco, "gt")
    samples = [s for s in opened.samples if s.image_id == opened.samples[1].image_id][:2]
    same = np.tile([[50.0, 60.0]], (17, 1)) + np.arange(17)[:, None] * 5
    moved = [evaluation_prediction(same), evaluation_prediction(same + 3.0)]
    kept = {threshold: coco_results(moved, samples, nms_threshold=threshold) for threshold in (0.5, 0.999)}
    assert [len(found) for found in kept.values()] == [1, 2]
    low = coco_results(moved[:1], samples[:1], score_threshold=0.01)[0]["score"]
    high = coco_results(moved[:1], samples[:1], score_threshold=0.4)[0]["score"]
    assert (low, high) == (pytest.approx((8 * 0.3 + 9 * 0.6) / 17), pytest.approx(0.6))


def evaluation_prediction(keypoints: Any) -> Any:

    return Prediction(keypoints, np.array([0.3] * 8 + [0.6] * 9), crop_area_px2=150.0 * 200)


def test_colours_in_the_order_that_the_card_wants() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), np.uint8)
    rgb = Normalize(CARDS["simplebaseline-res50"], torch.device("cpu"))
    bgr = Normalize(CARDS["simplebaseline-res50-bgr"], torch.device("cpu"))
    assert torch.equal(bgr(pixels), rgb(pixels[..., ::-1].copy()))
    assert not torch.equal(bgr(pixels), rgb(pixels))


# --------------------------------------------------------------------------- official files


@pytest.mark.parametrize("name", SMALL[1:])  # Lite-HRNet is slow to build; its files are loaded below
def test_official_files_check_and_convert(files: dict[str, Path], name: str, tmp_path: Path) -> None:
    found = json.loads(hmrbench("weights", "check", name, files[name], "--json").stdout)
    assert found["layout"] == known_networks()[name].layout.name
    assert found["unexpected"] == found["unused"] == found["interpolated"] == []
    done = hmrbench("weights", "convert", files[name], tmp_path / "own.safetensors", "--model", name, "--json")
    assert done.exit_code == 0, done.stderr
    net, report = zoo.load_weights(CARDS[name], tmp_path / "own.safetensors")
    assert report is not None
    assert report.layout == "hmrbench"
    official = checkpoints.read_state(files[name])
    own, layout = net.state_dict(), known_networks()[name].layout
    for key in (k for k in official if not k.endswith("num_batches_tracked")):
        assert torch.equal(own[str(layout.ours(key))], official[key]), key


@pytest.mark.parametrize("prefix", ["keypoint_head", "bare"])
def test_mmposes_older_prefixes(prefix: str, tmp_path: Path) -> None:
    card = CARDS["litehrnet-18"]
    net, _ = zoo.load_weights(card, official_file(card, tmp_path / "x.pth", prefix))
    same, _ = zoo.load_weights(card, official_file(card, tmp_path / "y.pth"))
    for (key, a), b in zip(net.state_dict().items(), same.state_dict().values(), strict=True):
        assert torch.equal(a, b), key


def test_a_file_of_another_network_is_refused(files: dict[str, Path]) -> None:
    with pytest.raises(WeightsError, match=r"rtmpose-s: .*\(mmpose layout\) is not of this network: .* misshapen"):
        zoo.load_weights(CARDS["rtmpose-s"], files["rtmpose-t"])
    done = hmrbench("weights", "check", "litehrnet-18", files["meme-p0"])
    assert done.exit_code == 3
    assert "missing" in done.stderr


def test_a_pretrained_encoder_loads_with_bare_keys(files: dict[str, Path], tmp_path: Path) -> None:
    state = checkpoints.read_state(files["rtmpose-t"])
    backbone = {k: v for k, v in state.items() if k.startswith("backbone.")}
    for name, content in (
        ("prefixed", backbone),
        ("bare", {k.removeprefix("backbone."): v for k, v in backbone.items()}),
    ):
        torch.save({"state_dict": content}, tmp_path / f"{name}.pth")
        net: Any = zoo.build_net(CARDS["rtmpose-t"])
        report = checkpoints.load_encoder(net.encoder, checkpoints.read_state(tmp_path / f"{name}.pth"))
        assert report.layout == "the encoder's own"
        assert torch.equal(net.encoder.state_dict()["stem.0.conv.weight"], state["backbone.stem.0.conv.weight"])


# --------------------------------------------------------------------------- evaluation


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_coco(tmp_path_factory.mktemp("pictures"), (2,))


@pytest.mark.parametrize("boxes", ["gt", "det"])
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.thorough
def test_evaluates_generated_pictures(files: dict[str, Path], pictures: Path, name: str, boxes: str) -> None:
    job = prepare_job(name, "coco-val", weights=files[name], data_root=pictures, boxes=boxes)
    result = evaluation.run(job)
    assert (result.boxes, result.codec, result.input) == (boxes, CARDS[name].codec, CARDS[name].input_text)
    assert result.samples == {"gt": 2, "det": 3}[boxes]
    assert all(np.isfinite(value) for value in result.metrics.values())


@pytest.mark.parametrize("boxes", ["gt", "det"])
def test_evaluates_photographs(files: dict[str, Path], coco_mini: Path, boxes: str) -> None:
    job = prepare_job("rtmpose-t", "coco-val", weights=files["rtmpose-t"], data_root=coco_mini, boxes=boxes)
    assert evaluation.run(job).samples == len(job.dataset.samples) > 4


def test_predicts_and_profiles_by_name(files: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    picture = next((pictures / "val2017").iterdir())
    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps({picture.name: [[10, 10, 100, 150]]}))
    done = hmrbench(
        "predict",
        "rtmpose-t",
        picture,
        "--weights",
        files["rtmpose-t"],
        "--boxes",
        boxes,
        "-o",
        tmp_path / "out",
        "--json",
    )
    assert done.exit_code == 0, done.stderr
    person = json.loads(done.stdout)[0]["people"][0]
    assert np.shape(person["keypoints_px"]) == (17, 2)


# --------------------------------------------------------------------------- training


def test_bins_learn_by_cross_entropy() -> None:
    torch.manual_seed(0)
    target = torch.softmax(torch.randn(2, 17, 384), -1), torch.softmax(torch.randn(2, 17, 512), -1)
    entropy = -sum(float((t * t.log()).sum(-1).mean()) for t in target) / 2
    right = target[0].log(), target[1].log()
    assert float(simcc_loss(right, target, torch.ones(2, 17))) == pytest.approx(entropy, rel=1e-5)
    scaled = 7 * target[0], 7 * target[1]  # RTMPose's targets are not normalised
    assert float(simcc_loss(right, scaled, torch.ones(2, 17))) == pytest.approx(entropy, rel=1e-5)
    wrong = right[0].flip(-1), right[1].flip(-1)
    assert float(simcc_loss(wrong, target, torch.ones(2, 17))) > entropy + 0.1
    assert float(simcc_loss(wrong, target, torch.zeros(2, 17))) == 0
    batch = {"target_x": target[0], "target_y": target[1], "weight": torch.ones(2, 17)}
    assert float(pose_losses(Loss())(right, batch)["loss"]) == pytest.approx(entropy * Loss().scale, rel=1e-5)
