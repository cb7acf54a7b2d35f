"""Networks for the tests of runtimes, small ones with all kinds of outputs, and a runtime of another package."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hmrbench.nets.encoders.eeffnet import WeightedSum
from hmrbench.nets.encoders.swin import Swin
from hmrbench.nets.encoders.vmamba import VMamba
from hmrbench.nets.heads.smpl import SMPLHead
from hmrbench.nets.meshes.fastmetro import MIDDLE, ParameterRegressor
from hmrbench.nets.meshes.smplerx import HandRoI
from hmrbench.runtimes import Description, Network, Prepared, Runtime, Setting
from hmrbench.schema import ModelCard


class Layers(nn.Module):
    """(B, 3, H, W) -> heatmaps (B, 17, H / 4, W / 4), by four layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.second = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.mixer = nn.Linear(32, 32)
        self.head = nn.Conv2d(32, 17, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x))))
        x = x + F.gelu(self.mixer(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        y: Tensor = self.head(x)
        return y


class Pair(Layers):
    """The same as two tensors (B, 17, bins), as SimCC networks put them out."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y = super().forward(x)
        return y.amax(2), y.amax(3)


class Nested(Layers):
    """The same in a dict that holds a tuple; `T` of a matrix is what converters do not know."""

    def forward(self, x: Tensor) -> dict[str, Any]:  # type: ignore[override]
        y = super().forward(x)
        return {"maps": y, "more": (y.mT, y.mean((2, 3)))}


class Boxed(Layers):
    """The same plus the sum of three numbers that it is given beside the pictures, zeros if it is not."""

    def forward(self, x: Tensor, box: Tensor | None = None) -> Tensor:
        box = x.new_zeros(len(x), 3) if box is None else box
        return super().forward(x) + box.sum(1)[:, None, None, None]


class Shown(nn.Module):
    """MEMe's weighted sum of two maps, whose weights `state_dict` shows in another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1, stride=2)
        self.sum = WeightedSum([8, 8], 8, 0)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.sum([self.fine(x), self.coarse(x)])
        return y


class Hands(nn.Module):
    """SMPLer-X's features of two hands, one box of which is small, the other large and partly beside the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.hands = nn.Conv2d(3, 8, 4, stride=4), HandRoI(8)
        self.register_buffer("boxes", torch.tensor([[90.0, 100.0, 97.0, 107.0], [-60.0, 20.0, 180.0, 260.0]]))

    def forward(self, x: Tensor) -> Tensor:
        moved = self.boxes[:, None] + 20 * x.mean((1, 2, 3))[:, None]  # (2, B, 4)
        left, right = self.hands(self.features(x), *moved).chunk(2)
        y: Tensor = torch.cat((left, right), dim=1)
        return y


class Rotations(nn.Module):
    """SMPL's parameters as FastMETRO finds them, from numbers of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.points, self.found = nn.Conv2d(3, 3 * MIDDLE, 16, stride=64), ParameterRegressor(16)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y: dict[str, Tensor] = self.found(self.points(x).reshape(-1, MIDDLE, 3))
        return y


class Vertices(nn.Module):
    """A mesh of SMPL's size and a camera, moved by `shift`."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        grid = torch.linspace(-1, 1, 6890 * 3).view(1, 6890, 3)
        return {"vertices": grid + self.shift + x.mean((1, 2, 3))[:, None, None], "cam": x.new_ones(len(x), 3)}


class Mesh(nn.Module):
    """Swin's first two stages and the head of HMR2.0, both small."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Swin(8, (1, 2, 1, 1), (1, 2, 4, 8), stages=2, window=3)
        self.head = SMPLHead(16, depth=1, heads=2, dim_head=8, mlp_dim=16, dim=32)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.head(self.encoder(x))
        return found


def scanning() -> nn.Module:
    """VMamba's first two stages, narrow."""
    return VMamba(8, (1, 1, 1, 1), 1.0, stages=2)


def build(card: ModelCard) -> nn.Module:
    return Layers()


class Doubling:
    """PyTorch's network, its output doubled and halved again; counts what it ran."""

    ran = 0

    def __init__(self, network: Network, setting: Setting) -> None:
        assert network.net is not None
        self.net, self.setting = network.net.eval(), setting

    def __enter__(self) -> Doubling:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def __call__(self, x: Tensor) -> Any:
        Doubling.ran += len(x)
        with torch.inference_mode():
            return 2 * self.net(x) / 2

    def describe(self) -> Description:
        return Description("doubling", "numpy 0", "some device", "fp32", None, 0.5)


def prepare(network: Network, setting: Setting) -> Prepared:
    return Doubling(network, setting)


RUNTIME = Runtime("doubling", ("numpy",), prepare)
NOT_ONE = "a text"
