"""`weights fetch`, and what `eval` then finds: against a server that misbehaves, and by hand."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path

import pytest
import torch
import yaml
from bad_server import BadServer, sha256
from test_cli import hmrbench
from torch import Tensor, nn
from typer.testing import Result

from hmrbench import data, runtimes, zoo
from hmrbench.cards import load_card, load_cards
from hmrbench.errors import UsageError, WeightsError
from hmrbench.fetch import schemes, sources
from hmrbench.fetch.download import Http
from hmrbench.fetch.fetch import cache_dir
from hmrbench.runtimes import Runtime, pytorch
from hmrbench.schema import ModelCard, Source
from hmrbench.schema.reading import share_dir

pytest_plugins = ["bad_server"]
pytestmark = pytest.mark.usefixtures("own_cache", "impatient")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Downloads that wait for nothing."""
    monkeypatch.setattr("hmrbench.fetch.fetch.Http", functools.partial(Http, tries=3, sleep=lambda seconds: None))


class Net(nn.Module):
    """(B, 3, H, W) -> heatmaps (B, 17, H / 4, W / 4), with keys in our layout."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(3, 4, 4, stride=4)
        self.head = nn.Conv2d(4, 17, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.encoder(x))
        return y


class Foreign(Net):
    """The same, with a format of its own."""

    def load_weights(self, path: Path) -> None:
        magic, content = path.read_bytes().split(b"\n", 1)
        if magic != b"FOREIGN":
            raise RuntimeError("the magic\nis missing")
        self.load_state_dict(torch.load(io.BytesIO(content), weights_only=True))


def build(card: ModelCard) -> nn.Module:
    return Foreign() if card.size == "foreign" else Net()


def checkpoint(seed: int = 0, magic: bytes = b"") -> bytes:
    torch.manual_seed(seed)
    buffer = io.BytesIO()
    torch.save(Net().state_dict(), buffer)
    return magic + buffer.getvalue()


GOOD, OTHER = checkpoint(0), checkpoint(1)


def write_cards(folder: Path, sources: dict[str, list[dict[str, str]]], **fields: object) -> Path:
    """A folder with a card for each name, whose weights have these sources."""
    folder.mkdir(exist_ok=True)
    common = {
        "paper_name": "X",
        "task": "hpe",
        "size": "t",
        "input": [64, 48],
        "licence": "MIT",
        "build": "test_weights_fetch:build",
    }
    models = {name: {**common, **fields, "weights": given} for name, given in sources.items()}
    (folder / "cards.yaml").write_text(yaml.safe_dump({"family": "net", "models": models}))
    return folder


def fetch(cards: Path, *args: object, **env: str) -> Result:
    return hmrbench("weights", "fetch", *args, "--models-dir", cards, env=env)


def evaluate(cards: Path, coco: Path, *args: object) -> Result:
    fixed = (
        "-d",
        "coco-val",
        "--data-root",
        coco,
        "--models-dir",
        cards,
        "--device",
        "cpu",
        "--runs",
        cards / "runs",
        "--json",
    )
    return hmrbench("eval", *args, *fixed)


def test_eval_finds_what_was_fetched_without_network(server: BadServer, tiny_coco: Path, tmp_path: Path) -> None:
    url = server.serve("/net.pth", GOOD)
    cards = write_cards(
        tmp_path / "c",
        {"net": [{"url": url, "sha256": sha256(GOOD)[:8], "read_in": "a test", "layout": "hmrbench"}]},
    )
    before = evaluate(cards, tiny_coco, "net")
    assert before.exit_code == 3
    assert url in before.stderr
    assert "hmrbench weights fetch net" in before.stderr
    assert not server.log
    fetched = fetch(cards, "net", "--json")
    assert fetched.exit_code == 0, fetched.stderr
    row = json.loads(fetched.stdout)[0]
    assert (row["model"], row["source"], row["sha256"], row["licence"]) == ("net", url, sha256(GOOD), "MIT")
    assert Path(row["file"]).read_bytes() == GOOD
    assert "net.pth: 0.0 of 0.0 MB" in fetched.stderr
    requests = len(server.log)
    found = evaluate(cards, tiny_coco, "net")
    assert found.exit_code == 0, found.stderr
    result = json.loads(found.stdout)[0]
    assert (result["weights"], result["weights_sha256"]) == (url, sha256(GOOD))
    assert torch.equal(
        zoo.load_model("net", models_dirs=[cards]).state_dict()["head.bias"],
        torch.load(io.BytesIO(GOOD))["head.bias"],
    )
    assert fetch(cards, "net", "--offline").exit_code == 0
    assert len(server.log) == requests


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (["truncate:3000", "ok"], 0),
        (["reset:3000", "close", "ok"], 0),
        (["status:503", "ok"], 0),
        (["chunked"], 0),
        (["truncate:500"], 3),
        (["tamper"], 3),
        (["lie-short"], 3),
        (["status:404"], 3),
        (["endless"], 3),
    ],
)
def test_a_misbehaving_server_leaves_nothing_half_written(
    server: BadServer,
    tiny_coco: Path,
    tmp_path: Path,
    script: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    impatient = functools.partial(Http, tries=3, sleep=lambda s: None, max_bytes=1 << 20)
    monkeypatch.setattr("hmrbench.fetch.fetch.Http", impatient)
    url = server.serve("/net.pth", GOOD, *script)
    cards = write_cards(tmp_path / "c", {"net": [{"url": url, "sha256": sha256(GOOD)}]})
    result = fetch(cards, "net")
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert evaluate(cards, tiny_coco, "net").exit_code == code
    whole = [p for p in cache_dir().rglob("net.pth") if p.is_file()]
    assert [p.read_bytes() for p in whole] == ([] if code else [GOOD])


def test_redirects_and_mirrors(server: BadServer, tmp_path: Path) -> None:
    there = server.serve("/there", GOOD)
    first = server.serve("/first.pth", b"", "status:404")
    second = server.serve("/second.pth", b"", f"redirect:{there}")
    cards = write_cards(tmp_path / "c", {"net": [{"url": first}, {"url": second, "sha256": sha256(GOOD)}]})
    assert json.loads(fetch(cards, "net", "--json").stdout)[0]["source"] == second
    label, path = sources.resolve_weights(load_card("net", [cards]), None)
    assert label == second
    assert path is not None
    assert path.read_bytes() == GOOD


def test_another_variant_is_never_a_mirror(server: BadServer, tiny_coco: Path, tmp_path: Path) -> None:
    gone = server.serve("/b.pth", b"", "status:404")
    other = server.serve("/a.pth", OTHER)
    cards = write_cards(tmp_path / "c", {"net": [{"url": gone, "variant": "b"}, {"url": other, "variant": "a"}]})
    assert fetch(cards, "net").exit_code == 3
    assert evaluate(cards, tiny_coco, "net").exit_code == 3
    assert fetch(cards, "net", "--variant", "c").exit_code == 2
    assert fetch(cards, "net", "--variant", "a").exit_code == 0
    assert json.loads(evaluate(cards, tiny_coco, "net").stdout)[0]["weights"] == other
    both = write_cards(
        tmp_path / "c",
        {"net": [{"url": server.serve("/b.pth", GOOD), "variant": "b"}, {"url": other, "variant": "a"}]},
    )
    assert fetch(both, "net").exit_code == 0
    row = json.loads(evaluate(both, tiny_coco, "net").stdout)[0]
    assert row["weights_sha256"] == sha256(GOOD)  # the card's first, now that it is here
    row = json.loads(evaluate(both, tiny_coco, "net", "--weights", other).stdout)[0]
    assert row["weights_sha256"] == sha256(OTHER)


def test_weights_may_be_a_source(server: BadServer, tiny_coco: Path, tmp_path: Path) -> None:
    url, free = server.serve("/net.pth", OTHER), server.serve("/free.pth", OTHER)
    cards = write_cards(tmp_path / "c", {"net": [{"url": url, "sha256": sha256(GOOD)}]})
    wrong = evaluate(cards, tiny_coco, "net", "--weights", url)  # the card's sha256 holds here as well
    assert wrong.exit_code == 3
    assert f"expected {sha256(GOOD)}" in wrong.stderr
    row = json.loads(evaluate(cards, tiny_coco, "net", "--weights", free).stdout)[0]
    assert (row["weights"], row["weights_sha256"]) == (free, sha256(OTHER))
    (tmp_path / "local.pth").write_bytes(GOOD)
    row = json.loads(evaluate(cards, tiny_coco, "net", "--weights", f"file:{tmp_path}/local.pth").stdout)[0]
    assert row["weights_sha256"] == sha256(GOOD)
    requests = len(server.log)
    assert evaluate(cards, tiny_coco, "net", "--weights", free).exit_code == 0
    assert len(server.log) == requests
    assert evaluate(cards, tiny_coco, "net", "--weights", "https:/net").exit_code == 2


def test_a_glob_goes_on_and_says_what_to_do_by_hand(server: BadServer, tiny_coco: Path, tmp_path: Path) -> None:
    cards = write_cards(
        tmp_path / "c",
        {
            "net-a": [{"url": "manual:", "page": "https://example.org/a", "licence": "registration"}],
            "net-b": [{"url": server.serve("/b.pth", GOOD)}],
            "net-c": [{"url": "manual:", "page": "https://example.org/c", "file": "theirs.pth", "variant": "big"}],
            "net-d": [],
        },
    )
    result = fetch(cards, "net-*", "--json")
    assert result.exit_code == 3
    assert [r["model"] for r in json.loads(result.stdout)] == ["net-b"]
    place = cache_dir() / "manual"
    for words in (
        "page: https://example.org/a",
        f"put it at: {place / 'net-a.pth'}",
        "licence: registration",
        f"{place / 'theirs.pth'}",
        "net-d",
    ):
        assert words in result.stderr, words
    (place / "theirs.pth").write_bytes(OTHER)
    found = fetch(cards, "net-c", "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)[0]["file"] == str(place / "theirs.pth")
    row = json.loads(evaluate(cards, tiny_coco, "net-c").stdout)[0]
    assert (row["weights"], row["weights_sha256"]) == ("manual:", sha256(OTHER))
    assert fetch(cards, "net-x").exit_code == 2


def test_encoders_are_shared_and_are_no_pose_models(server: BadServer, tiny_coco: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"model": {"conv_stem.w": torch.zeros(1), "groupmixformer_backbone.0.w": torch.zeros(1)}}, buffer)
    url = server.serve("/encoder.pth", buffer.getvalue())
    cards = write_cards(tmp_path / "c", {"net-a": [], "net-b": []}, encoder="mine")
    (cards / "encoders.yaml").write_text(yaml.safe_dump({"encoders": {"mine": [{"url": url, "read_in": "a test"}]}}))
    found = json.loads(fetch(cards, "net-*", "--encoder", "--json").stdout)
    assert [(r["model"], r["part"]) for r in found] == [("net-a", "encoder"), ("net-b", "encoder")]
    assert len(server.log) == 1
    assert fetch(cards, "net-a").exit_code == 3
    refused = evaluate(cards, tiny_coco, "net-a", "--weights", found[0]["file"])
    assert refused.exit_code == 3
    assert "encoder alone" in refused.stderr
    assert "a start for training" in refused.stderr


def test_encoder_from_another_model(tmp_path: Path) -> None:
    cards = write_cards(tmp_path / "c", {"net": [{"url": "https://example.org/x.pth"}]})
    text = yaml.safe_load((cards / "cards.yaml").read_text())
    heir = {**text["models"]["net"], "weights": [], "encoder_from": "net"}
    (cards / "more.yaml").write_text(yaml.safe_dump({"family": "net", "models": {"heir": heir}}))
    assert load_card("heir", [cards]).encoder_weights == load_card("net", [cards]).weights
    (cards / "more.yaml").unlink()
    (cards / "wrong.yaml").write_text(
        yaml.safe_dump({"family": "net", "models": {"heir": {**heir, "encoder_from": "nett"}}})
    )
    with pytest.raises(UsageError, match=r"wrong\.yaml: 'heir': model in encoder_from 'nett'.*net"):
        load_cards([cards])


@pytest.mark.parametrize(("args", "env"), [(["--offline"], {}), ([], {"HMRBENCH_OFFLINE": "1"})])
def test_offline(server: BadServer, tmp_path: Path, args: list[str], env: dict[str, str]) -> None:
    cards = write_cards(tmp_path / "c", {"net": [{"url": server.serve("/net.pth", GOOD)}]})
    result = fetch(cards, "net", *args, **env)
    assert result.exit_code == 3
    assert "offline" in result.stderr
    assert not server.log


def test_a_network_may_read_a_format_of_its_own(tmp_path: Path, tiny_coco: Path) -> None:
    good, bad = tmp_path / "good.bin", tmp_path / "bad.bin"
    good.write_bytes(b"FOREIGN\n" + GOOD)
    bad.write_bytes(GOOD)
    cards = write_cards(tmp_path / "c", {"net": [{"url": f"file:{good}"}]}, size="foreign")
    net = zoo.load_model("net", models_dirs=[cards])
    assert torch.equal(net.state_dict()["head.bias"], torch.load(io.BytesIO(GOOD))["head.bias"])
    with pytest.raises(WeightsError, match=r"net: .*bad\.bin: .*the magic is missing"):
        zoo.load_model("net", bad, [cards])
    assert evaluate(cards, tiny_coco, "net", "--weights", "random").exit_code == 0  # as it was built
    checked = hmrbench("weights", "check", "net", good, "--models-dir", cards, "--json")
    assert json.loads(checked.stdout)["layout"] == "the network's own"
    assert hmrbench("weights", "check", "net", tmp_path / "none", "--models-dir", cards).exit_code == 3


ON_NUMPY = Runtime("on-numpy", ("numpy",), pytorch.prepare)  # PyTorch under another name, on the CPU in fp32
NOT_THERE = Runtime("not-there", ("no-such-package",), pytorch.prepare)


def test_a_runtime_that_is_not_there_or_has_no_such_device(tmp_path: Path, tiny_coco: Path) -> None:
    cards = write_cards(tmp_path / "c", {"net": []}, runtime="test_weights_fetch:ON_NUMPY")
    row = json.loads(evaluate(cards, tiny_coco, "net", "--weights", "random").stdout)[0]
    assert row["runtime"] == "pytorch"  # what its `prepare` says of itself
    card = load_card("net", [cards])
    runtime, _ = runtimes.choose(card, None)
    assert runtime.check("net", "auto", "fp32") == "cpu"
    for device, dtype in (("cuda:0", "fp32"), ("cpu", "bf16")):
        with pytest.raises(UsageError, match="net runs on on-numpy"):
            runtime.check("net", device, dtype)
    with pytest.raises(UsageError, match="net runs on on-numpy alone"):
        runtimes.choose(card, "openvino")
    write_cards(tmp_path / "c", {"net-x": []}, runtime="test_weights_fetch:NOT_THERE")
    (cards / "cards.yaml").rename(cards / "x.yaml")
    missing = evaluate(cards, tiny_coco, "net-x", "--weights", "random")
    assert missing.exit_code == 2
    assert "pip install no-such-package" in missing.stderr


def test_demo_weights(tmp_path: Path) -> None:
    (tmp_path / "demo.pth").write_bytes(GOOD)
    cards = write_cards(
        tmp_path / "c", {"net": []}, demo_weights={"url": f"file:{tmp_path}/demo.pth", "sha256": sha256(GOOD)}
    )
    assert sources.resolve_weights(load_card("net", [cards]), "demo") == ("demo", tmp_path / "demo.pth")
    with pytest.raises(WeightsError, match="vitpose-s has no demo weights"):
        sources.resolve_weights(load_card("vitpose-s"), "demo")


def test_cards_of_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    write_cards(package / "models", {"net": []})
    monkeypatch.syspath_prepend(tmp_path)
    assert load_card("net", [Path("some_package")]).name == "net"
    with pytest.raises(UsageError, match="no such folder of model cards, nor a package"):
        load_cards([Path("json")])


# --------------------------------------------------------------------------- the sources that are known

OPENMMLAB = "https://download.openmmlab.com/mmpose/v1/body_2d_keypoint/topdown_heatmap/coco/td-hm_ViTPose-"
BERKELEY = "https://people.eecs.berkeley.edu/~jathushan/projects/4dhumans/"
VMAMBA = "https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/"
SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_"
KNOWN = {
    "vitpose-s": (f"{OPENMMLAB}small_8xb64-210e_coco-256x192-62d7a712_20230314.pth", "62d7a712"),
    "vitpose-b": (f"{OPENMMLAB}base_8xb64-210e_coco-256x192-216eae50_20230314.pth", "216eae50"),
    "vitpose-l": (f"{OPENMMLAB}large_8xb64-210e_coco-256x192-53609f55_20230314.pth", "53609f55"),
    "vitpose-h": (f"{OPENMMLAB}huge_8xb64-210e_coco-256x192-e32adcd4_20230314.pth", "e32adcd4"),
    "hmr2-s": (
        "gdrive:1k6kdJXQtmOtHffGamrRuig1x3HzTvwlh",
        "823728e846c901c75edb12d469fa240e07606a24cfd44c208244a94bb26fc423",
    ),
    "hmr2-h": (f"{BERKELEY}hmr2_data.tar.gz", None),
}
KNOWN_ENCODERS = {
    "swinpose-t-s3": f"{SWIN}tiny_patch4_window7_224.pth",
    "swinhmr2-s-s2": f"{SWIN}small_patch4_window7_224.pth",
    "swinpose-b-s4": f"{SWIN}base_patch4_window7_224.pth",
    "vmpose-t-s3": f"{VMAMBA}vssm1_tiny_0230s_ckpt_epoch_264.pth",
    "vmhmr2-s-s3": f"{VMAMBA}vssm_small_0229_ckpt_epoch_222.pth",
    "vmpose-b-s2": f"{VMAMBA}vssm_base_0229_ckpt_epoch_237.pth",
    "gmfpose-t-s3": "manual:",
    "vitpose-s": "manual:",
    "vitpose-b": "https://dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth",
    "hmr2-s": KNOWN["vitpose-s"][0],  # training starts from the pose model's encoder
}


def test_the_known_public_sources() -> None:
    cards = load_cards()
    assert {n: (cards[n].weights[0].url, cards[n].weights[0].sha256) for n in KNOWN} == KNOWN
    assert {n: cards[n].encoder_weights[0].url for n in KNOWN_ENCODERS} == KNOWN_ENCODERS
    older = sources.weights_sources(cards["hmr2-h"], variant="hmr2.0a")
    assert [(s.url, s.sha256) for s in older] == [
        (f"{BERKELEY}hmr2a_model.tar.gz", "2dcf79638109781d1ae5f5c44fee5f55bc83291c210653feead9b7f04fa6f20e")
    ]
    assert [s.url for s in sources.weights_sources(cards["vitpose-s"], variant="official")] == ["manual:"]
    with pytest.raises(UsageError, match="mmpose"):
        sources.weights_sources(cards["vitpose-s"], variant="mmpos")


def all_sources() -> list[tuple[str, Source]]:
    cards = load_cards().values()
    found = [(c.name, s) for c in cards for s in sources.weights_sources(c)]
    found += [(c.name, s) for c in cards for s in sources.weights_sources(c, encoder=True)]
    return found + [
        (n, s) for n, spec in data.load_specs().items() for part in spec.parts.values() for s in part.sources
    ]


def test_every_source_is_spelled_well_and_says_where_the_fact_is_from() -> None:
    found = all_sources()
    assert len(found) > 100
    for name, source in found:
        assert source.read_in, (name, source.url)
        assert schemes.file_name(source), (name, source.url)  # raises if misspelled
        if source.url == "manual:":
            assert (source.page or "").startswith("http"), name


def test_every_public_address_is_spelled_in_one_place() -> None:
    files = [share_dir() / "datasets.yaml", *(share_dir() / "models").glob("*.yaml")]
    text = "\n".join(path.read_text() for path in files)
    for url in {s.url for _, s in all_sources()} - {"manual:"}:
        assert text.count(f'"{url}"') == 1, url
