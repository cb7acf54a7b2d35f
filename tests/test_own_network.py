"""A network of one's own: a Python file beside a card, its weights, and what is said where something does not fit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_cli import hmrbench
from torch import nn

from hmrbench import zoo
from hmrbench.cards import load_card
from hmrbench.errors import UsageError, WeightsError
from hmrbench.schema import ModelCard
from hmrbench.zoo import parts

NET = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, joints=17):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.Conv2d(4, joints, 1))

    def forward(self, x):
        return self.body(x)

"""


@pytest.fixture(autouse=True)
def _modules() -> Iterator[None]:
    """Each test imports its own modules."""
    before, path = set(sys.modules), list(sys.path)
    yield
    assert sys.path == path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).find("own_net") >= 0:
            del sys.modules[name]


def write(folder: Path, code: str = "def build():\n    return Net()\n", card: str = "", build: str = "build") -> Path:
    """A folder of one card, my-net, and the file own_net.py beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "own_net.py").write_text(NET + code)
    (folder / "my.yaml").write_text(f"models:\n  my-net:\n    build: 'own_net:{build}'\n    task: hpe\n{card}")
    return folder


def my_net(folder: Path) -> nn.Module:
    return zoo.build_net(load_card("my-net", [folder]))


def test_a_minimal_card_is_build_and_task(tmp_path: Path) -> None:
    card = load_card("My-Net", [write(tmp_path)])
    assert (card.paper_name, card.family, card.input, card.licence) == ("my-net", "my-net", (256, 192), "not stated")
    assert my_net(tmp_path)(torch.zeros(1, 3, 256, 192)).shape == (1, 17, 64, 48)
    shown = hmrbench("show", "my-net", "--models-dir", tmp_path)
    assert shown.exit_code == 0, shown.output
    assert "17x64x48" in shown.stdout


@pytest.mark.parametrize(
    ("code", "build"),
    [
        ("def build():\n    return Net()\n", "build"),
        ("def build(card):\n    assert card.name == 'my-net'\n    return Net()\n", "build"),
        ("def build(card=None):\n    assert card.name == 'my-net'\n    return Net()\n", "build"),
        ("def build(joints=17):\n    return Net(joints)\n", "build"),
        ("def build(*args, **kwargs):\n    assert not args\n    return Net()\n", "build"),
        ("", "Net"),
        ("import functools\nmake = functools.partial(Net, 17)\n", "make"),
        ("def build():\n    from own_net_parts import joints\n    return Net(joints)\n", "build"),
    ],
)
def test_build_takes_nothing_or_the_card(tmp_path: Path, code: str, build: str) -> None:
    (tmp_path / "own_net_parts.py").write_text("joints = 17\n")
    assert isinstance(my_net(write(tmp_path, code, build=build)), nn.Module)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def build(a, b):\n    pass\n", "needs a, b; it is called with nothing or the card"),
        ("def build(*, width):\n    pass\n", "needs width; it is called with nothing or the card"),
        ("def build():\n    return 3\n", "gives a int, not a torch.nn.Module"),
        ("def build():\n    return Net(-1)\n", ": RuntimeError: Trying to create tensor with negative dimension"),
        (
            "def build():\n    return Net(17).body[7]\n",
            ": IndexError: index 7 is out of range (own_net.py, line 13)",
        ),
        ("build = 3\n", "is no function"),
        ("def biuld():\n    pass\n", "cannot be imported: AttributeError: module 'own_net' has no attribute 'build'"),
        (
            "import nowhere_to_be_found\n",
            "cannot be imported: ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        ),
        ("raise SystemExit(0)\n", "cannot be imported: SystemExit: 0 (own_net.py, line 12)"),
        ("def build(:\n", "cannot be imported: SyntaxError"),
    ],
)
def test_a_build_that_does_not_fit_is_one_message(tmp_path: Path, code: str, message: str) -> None:
    write(tmp_path, code)
    for command in (["show", "my-net"], ["eval", "my-net", "-d", "demo-pose", "--weights", "random", "--limit", "1"]):
        result = hmrbench(
            *command, "--models-dir", tmp_path, *(["--runs", tmp_path / "runs"] if "-d" in command else [])
        )
        assert result.exit_code == (1 if message.startswith(": ") else 2), result.output
        what = f"{tmp_path / 'my.yaml'}: 'my-net': build 'own_net:build'"
        assert f"{what}{message if message.startswith(': ') else f' {message}'}" in result.stderr


def test_a_build_that_reads_its_values_is_built_with_them(tmp_path: Path) -> None:
    """Drop path rates are often made so; the meta device, on which shapes are found out, has no values."""
    code = (
        "def build():\n    rates = [x.item() for x in torch.linspace(0, 1, 3)]\n    return Net(16 + len(rates) // 3)\n"
    )
    card = load_card("my-net", [write(tmp_path, code)])
    assert parts.count_parameters(card)["params"] == 281
    assert parts.describe(card)[0]["output"] == [1, 17, 64, 48]


def test_two_folders_with_modules_of_one_name(tmp_path: Path) -> None:
    """Python would take the first one for both, without a word."""
    my_net(write(tmp_path / "a"))
    with pytest.raises(
        UsageError, match=r"there is a module 'own_net' already \(.*a.own_net\.py\); rename .*b.own_net\.py"
    ):
        my_net(write(tmp_path / "b"))
    (tmp_path / "types.py").write_text("def build():\n    pass\n")
    (tmp_path / "my.yaml").write_text("models: {mine: {task: hpe, build: 'types:build'}}\n")
    with pytest.raises(UsageError, match=r"there is a module 'types' already .*; rename .*types\.py"):
        zoo.build_net(load_card("mine", [tmp_path]))


# --------------------------------------------------------------------------- weights


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The state_dict of my-net, as PyTorch's users save it."""
    torch.manual_seed(1)
    save_file(my_net(write(tmp_path / "cards")).state_dict(), tmp_path / "my.safetensors")
    return tmp_path / "my.safetensors"


def test_a_state_dict_loads_strictly(tmp_path: Path, weights: Path) -> None:
    card = load_card("my-net", [tmp_path / "cards"])
    net, report = zoo.load_weights(card, weights)
    state = my_net(tmp_path / "cards").state_dict()
    torch.manual_seed(1)
    assert report is not None
    assert (report.layout, report.unexpected) == ("the network's own", ())
    torch.save({"model": net.state_dict(), "epoch": 3}, tmp_path / "wrapped.pt")
    again, _ = zoo.load_weights(card, tmp_path / "wrapped.pt")
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in net.state_dict().items())
    for change, words in (
        ({"body.0.weight": None}, "Of the network's 4 keys 1 are missing: body.0.weight. Save the state_dict"),
        ({"extra.w": torch.zeros(1), "n": torch.zeros(2)}, "network: 2 that it does not have: extra.w; n"),
        ({"layers.7.blocks.0.w": torch.zeros(1)}, "network: 1 that it does not have: layers.7.blocks.0.w"),
        ({"body.0.bias": torch.zeros(5)}, "1 misshapen: body.0.bias is (5,), not (4,)"),
        (dict.fromkeys(state) | {f"pose.{k}": v for k, v in state.items()}, "a method load_weights(path)"),
    ):
        torch.save({k: v for k, v in (state | change).items() if v is not None}, tmp_path / "other.pt")
        with pytest.raises(WeightsError) as caught:
            zoo.load_weights(card, tmp_path / "other.pt")
        assert words in str(caught.value)
        assert str(caught.value).startswith(f"my-net: {tmp_path / 'other.pt'}")


def test_load_weights_is_optional_and_never_called_with_none(tmp_path: Path) -> None:
    code = (
        "def build():\n    return Mapped()\n"
        "class Mapped(Net):\n    def load_weights(self, path):\n        assert path is not None\n"
        "        self.load_state_dict({'body.' + k: v for k, v in torch.load(path, weights_only=True).items()})\n"
    )
    folder = write(tmp_path, code)
    card = load_card("my-net", [folder])
    net, _ = zoo.load_weights(card, None)
    torch.save({k: v + 1 for k, v in net.body.state_dict().items()}, tmp_path / "inner.pt")  # type: ignore[union-attr]
    loaded, _ = zoo.load_weights(card, tmp_path / "inner.pt")
    assert torch.equal(loaded.state_dict()["body.0.bias"], net.state_dict()["body.0.bias"] + 1)
    torch.save({"a": torch.zeros(1)}, tmp_path / "bad.pt")
    with pytest.raises(WeightsError, match=r"my-net: .*bad\.pt: RuntimeError: .*\(own_net\.py, line 17\)"):
        zoo.load_weights(card, tmp_path / "bad.pt")


def test_weights_are_converted_for_a_network_of_ones_own(tmp_path: Path, weights: Path) -> None:
    out = tmp_path / "out.safetensors"
    args = ("weights", "convert", weights, "-o", out, "--model", "my-net", "--models-dir", tmp_path / "cards")
    assert hmrbench(*args).exit_code == 0
    assert hmrbench("weights", "check", "my-net", out, "--models-dir", tmp_path / "cards").exit_code == 0
    result = hmrbench("weights", "convert", weights, "--models-dir", tmp_path / "cards")
    assert result.exit_code == 2
    assert "where to write" in result.stderr


# --------------------------------------------------------------------------- what it puts out


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        ("x @ x", "a forward of (1, 3, 256, 192): RuntimeError"),
        ("{'maps': self.body(x)}", "codec 'udp': AttributeError: 'dict'"),
        ("self.body(x)[:, :5]", "heatmaps of shape (1, 5, 64, 48) do not fit the 17 joints of coco17"),
        ("self.body(x).mean((2, 3))", "heatmaps of shape (1, 17) do not fit"),
    ],
)
def test_an_output_that_does_not_fit_is_one_message(tmp_path: Path, forward: str, message: str) -> None:
    code = f"class Other(Net):\n    def forward(self, x):\n        return {forward}\n"
    folder = write(tmp_path, code, build="Other")
    args = ("eval", "my-net", "-d", "demo-pose", "--weights", "random", "--limit", "1", "--models-dir", folder)
    result = hmrbench(*args, "--runs", tmp_path / "runs", "--batch-size", "1")
    assert result.exit_code == 1, result.output
    assert "my-net" in result.stderr
    assert message in result.stderr
    result = hmrbench(*args, "--runs", tmp_path / "runs", "--batch-size", "1", "--no-flip")
    assert result.exit_code in (1, 3), result.output
    assert "my-net" in result.stderr


def test_a_module_beside_it_that_is_imported_too_late_is_told_with_its_cure(tmp_path: Path) -> None:
    late = "class Late(Net):\n    def forward(self, x):\n        import own_net_late\n        return self.body(x)\n"
    folder = write(tmp_path, late, build="Late")
    (folder / "own_net_late.py").write_text("")
    args = ("eval", "my-net", "-d", "demo-pose", "--weights", "random", "--limit", "1", "--models-dir", folder)
    result = hmrbench(*args, "--runs", tmp_path / "runs")
    assert result.exit_code == 1, result.output
    assert (
        "ModuleNotFoundError: No module named 'own_net_late' (own_net.py, line 14); what lies beside own_net.py is "
        "found while that is read: import own_net_late at its top"
    ) in " ".join(result.stderr.split())
    write(tmp_path / "cured", f"import own_net_late\n{late}".replace("own_net_late", "own_net_soon"), build="Late")
    (tmp_path / "cured" / "own_net_soon.py").write_text("")
    code = "import sys, torch\nfrom hmrbench import load_model\n"
    code += f"load_model('my-net', 'random', [{str(tmp_path / 'cured')!r}])(torch.zeros(1, 3, 64, 48))\n"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_cards_can_be_made_in_python() -> None:
    card = ModelCard(name="mine", task="hpe", build="test_own_network:_identity", input=(64, 48))
    assert (card.paper_name, card.family) == ("mine", "mine")
    assert isinstance(zoo.build_net(card), nn.Identity)


_identity = nn.Identity
