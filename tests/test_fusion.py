"""Short cuts change the rounding of a result, not its meaning, in all families; weights and keys stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hmrbench.nets.fusion import fuse
from hmrbench.zoo import build_net, load_card

SMALL = ("simplebaseline-res50", "rtmpose-t", "litehrnet-18", "vipnas-mbv3", "meme-p0", "pvtv2-b2")


def give_statistics(net: nn.Module) -> int:
    """Norms that are not the identity; says how many there are."""
    norms = [m for m in net.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    for norm in norms:
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.1)
    return len(norms)


def values(output: Any) -> Tensor:
    """All that a network puts out, in one vector."""
    parts = [output] if isinstance(output, Tensor) else output.values() if isinstance(output, dict) else output
    return torch.cat([part.flatten() for part in parts])


def folded(net: nn.Module) -> int:
    return sum("forward" in m.__dict__ for m in net.modules() if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)))


def build(name: str) -> tuple[nn.Module, tuple[int, int]]:
    torch.manual_seed(0)
    card = load_card(name)
    return build_net(card), card.input


@pytest.mark.parametrize("name", ["swinpose-t-s2", "gmfpose-t-s2", "vmpose-t-s2", *SMALL])
def test_folded_norms_give_the_same_output(name: str) -> None:
    net, size = build(name)
    norms = give_statistics(net)
    net = net.double().eval()
    keys = list(net.state_dict())
    if name not in ("rtmpose-t", "vmpose-t-s2", "swinpose-t-s2"):  # those of a fixed size
        size = (64, 64)
    picture = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        plain = values(net(picture))
        fuse(net)
        assert 0 < folded(net) <= norms
        assert (values(net(picture)) - plain).abs().max() < 1e-10 * plain.std()
        assert list(net.state_dict()) == keys
        fuse(net, False)
        assert folded(net) == 0
        assert torch.equal(values(net(picture)), plain)


@pytest.mark.parametrize(("name", "left"), [("simplebaseline-res50", 0), ("meme-p0", 4)])
def test_norms_after_convolutions_are_nearly_all_folded(name: str, left: int) -> None:
    """Also those of timm that end in an activation; not behind its convolutions that pad as TensorFlow's do."""
    net, _ = build(name)
    fuse(net.eval())
    assert folded(net) == give_statistics(net) - left


def test_weights_that_come_later_are_folded_anew() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).eval()
    fuse(net)
    give_statistics(net)
    picture = torch.randn(1, 3, 8, 8)
    fuse(net)
    with torch.inference_mode():
        found = net(picture)
        fuse(net, False)
        torch.testing.assert_close(found, net(picture))


class Foreign(nn.Module):
    """A norm registered next to a convolution that it does not follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(self.norm(x))
        return y


def test_of_an_unknown_module_nothing_is_assumed_nor_in_training() -> None:
    net = Foreign().eval()
    fuse(net)
    assert folded(net) == 0
    training = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    fuse(training)
    assert folded(training) == 0
