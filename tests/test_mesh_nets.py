"""The mesh networks that others compare with give the official numbers, load official layouts, and cost the same."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import refio
import seeding
import torch
from torch import Tensor, nn

from hmrbench import flops
from hmrbench.body.mesh_assets import made_mesh
from hmrbench.errors import UsageError
from hmrbench.nets.meshes import fastmetro, graphormer, metro, tore
from hmrbench.nets.meshes.layout import OfficialLayout
from hmrbench.nets.meshes.mesh import COARSE, JOINTS
from hmrbench.nets.truncation import Network

pytestmark = pytest.mark.usefixtures("calm")
REFS = Path(__file__).parent / "refs" / "meshes"
COSTS: dict[str, Any] = json.loads((REFS / "official_costs.json").read_text())
LAYOUTS: dict[str, dict[str, list[int]]] = json.loads(gzip.decompress((REFS / "layouts.json.gz").read_bytes()))
Taps = Callable[[Any, Any], dict[str, Tensor]]


def token_first(*names: str) -> Taps:
    """Outputs of a transformer under the names of the references, whose order is tokens, batch, channels."""
    return lambda i, o: {name: x.transpose(0, 1) for name, x in zip(names, o, strict=True) if name}


@dataclass(frozen=True)
class Case:
    """A network: how it is built, and which of its inner tensors the references hold.

    `taps` maps a module of the head to a function of its inputs and outputs.
    """

    build: Callable[[], nn.Module]
    layout: OfficialLayout
    head_inputs: Callable[[], Any] = lambda: seeding.seeded_input((1, 2048, 7, 7))
    taps: dict[str, Taps] = field(default_factory=dict)
    tolerance: float = 1e-4
    tolerance_f64: float = 1e-6
    image: tuple[int, int] = (224, 224)


MESH = made_mesh((0.5 * seeding.seeded_input((1, 6890, 3), seed=1))[0].numpy())


FASTMETRO_TAPS: dict[str, Taps] = {
    "transformer_1": lambda i, o: {"img_tokens": i[0].transpose(0, 1)} | token_first("cam1", "img1", "jv1")(i, o),
    "transformer_2": token_first("cam2", "", "jv2"),
}
TORE_TAPS: dict[str, Taps] = {
    "token_selector_fc": lambda i, o: {"token_heatmap": o.softmax(1).mT},
    "transformer_1": lambda i, o: {"img_tokens": i[0].transpose(0, 1)} | token_first("cam1", "img1", "j1")(i, o),
    "transformer_2": token_first("cam2", "", "j2"),
    "transformer_3": token_first("", "", "v3"),
}
METRO_TAPS: dict[str, Taps] = {
    "conv_learn_tokens": lambda i, o: {"img_tokens": o},
    "trans_encoder.0": lambda i, o: {"ref_vertices": i[0][..., :3], "block1": o[0]},
    "trans_encoder.1": lambda i, o: {"block2": o[0]},
}
GRAPHORMER_TAPS: dict[str, Taps] = {
    "trans_encoder.0": lambda i, o: {"tokens_in": i[0], "ref_vertices": i[0][:, :445, :3], "block1": o[0]},
    "trans_encoder.1": lambda i, o: {"block2": o[0]},
    "trans_encoder.2.bert.encoder.layer.0.graph_conv": lambda i, o: {"graph_conv0_in": i[0], "graph_conv0_out": o},
}
TORE_METRO_TAPS: dict[str, Taps] = {
    "conv_learn_tokens": lambda i, o: {"img_tokens": o},
    "trans_encoder.0": lambda i, o: {"ref_joints": i[0][..., :3], "block1": o[0]},
    "trans_encoder.1": lambda i, o: {"block2": o[0]},
    "trans_encoder.2": lambda i, o: {"hidden3": o[1].transpose(0, 1)},
    "transformer_3": token_first("", "", "v3"),
}


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for backbone in ("r50", "h64"):
        for size in ("s", "m", "l"):
            found[f"fastmetro_{size}_{backbone}"] = Case(
                lambda s=size, b=backbone: fastmetro.fastmetro(s, b, MESH),
                fastmetro.official_layout(backbone),
                taps=FASTMETRO_TAPS,
            )
        found[f"metro_{backbone}"] = Case(
            lambda b=backbone: metro.metro(b, MESH), metro.official_layout(backbone), taps=METRO_TAPS
        )
        found[f"tore_metro_{backbone}"] = Case(
            lambda b=backbone: tore.tore_metro(b, MESH),
            tore.official_layout(backbone),
            taps=TORE_METRO_TAPS,
            tolerance=5e-4,
        )
    for backbone in ("r50", "h64", "effb0"):
        channels = 1280 if backbone == "effb0" else 2048
        found[f"tore_fastmetro_l_{backbone}"] = Case(
            lambda b=backbone: tore.tore_fastmetro(b, MESH),
            tore.official_layout(backbone),
            lambda c=channels: seeding.seeded_input((1, c, 7, 7)),
            TORE_TAPS,
            tolerance_f64=2e-6,
        )
    found["graphormer_h64"] = Case(
        lambda: graphormer.graphormer("h64", MESH),
        graphormer.official_layout(),
        lambda: (seeding.seeded_input((1, 2048)), seeding.seeded_input((1, 1024, 7, 7))),
        GRAPHORMER_TAPS,
    )
    return found


CASES = cases()


def ours_to_official(name: str) -> dict[str, str]:
    pairs = {CASES[name].layout.ours(key): key for key in LAYOUTS[name]}
    return {ours: key for ours, key in pairs.items() if ours is not None}


@cache
def on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return CASES[name].build().eval()


@pytest.mark.parametrize("name", CASES)
def test_keys_and_shapes_are_the_official_ones(name: str) -> None:
    """Every official key has its place, none is left over on either side."""
    official, renamed = LAYOUTS[name], ours_to_official(name)
    shapes = {key: list(tensor.shape) for key, tensor in on_meta(name).state_dict().items()}
    assert shapes == {ours: official[key] for ours, key in renamed.items()}
    assert len(renamed) == len(official)


@pytest.mark.parametrize("name", CASES)
def test_costs_are_the_official_ones(name: str) -> None:
    official, net = COSTS[name], on_meta(name)
    costs = flops.count(net, (1, 3, *CASES[name].image))
    assert sum(p.numel() for p in net.parameters()) == official["params"]
    assert costs.macs == pytest.approx(1e9 * official["macs_G"], rel=5e-3)
    assert costs.uncounted == {}
    assert costs.disagreements == ()
    assert costs.counted_on == "meta"
    encoder = sum(p.numel() for p in net.encoder.parameters())
    assert encoder == official["backbone"]


@cache
def seeded(name: str, dtype: torch.dtype) -> nn.Module:
    """The network with the weights of the references; kept for the tests of one network, which follow each other."""
    torch.set_default_dtype(dtype)
    try:
        net = CASES[name].build().eval()
    finally:
        torch.set_default_dtype(torch.float32)
    return seeding.seed_module_(net, ours_to_official(name).__getitem__)


@torch.no_grad()
def outputs(name: str, start: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs, and inner tensors by the names of the references."""
    case, net = CASES[name], seeded(name, dtype)
    found: dict[str, Tensor] = {}

    def listen(read: Taps) -> Callable[..., None]:
        return lambda module, inputs, output: found.update(read(inputs, output))

    hooks = [net.get_submodule(f"head.{path}").register_forward_hook(listen(read)) for path, read in case.taps.items()]
    given = case.head_inputs() if start == "head" else seeding.seeded_input((1, 3, *case.image))
    given = tuple(x.to(dtype) for x in given) if isinstance(given, tuple) else given.to(dtype)
    out = net.head(given) if start == "head" else net(given)
    for hook in hooks:
        hook.remove()
    found |= {"v6890" if key == "vertices" else key: value for key, value in out.items()}
    found["joints17_from_mesh"] = torch.tensor(MESH.joints17.toarray()).to(dtype) @ out["vertices"]
    return found


def known(ref: Any, start: str, name: str) -> str | None:
    """The reference of an inner tensor: asset-free ones have no `formula` in their name."""
    names = (f"{start}.formula.{name}", f"{start}.{name}")
    return next((key for key in names if f"{key}.stats" in ref), None)


STARTS = [(name, dtype, start) for name in CASES for dtype in ("", "_f64") for start in ("head", "e2e")]


@pytest.mark.parametrize(
    ("name", "dtype", "start"), [(n, d, s) for n, d, s in STARTS if (REFS / f"{n}{d}.npz").is_file()]
)
def test_outputs_are_the_official_ones(name: str, dtype: str, start: str) -> None:
    case = CASES[name]
    limit = case.tolerance_f64 if dtype else case.tolerance
    with np.load(REFS / f"{name}{dtype}.npz") as file:
        ref = dict(file)
    found = outputs(name, start, torch.float64 if dtype else torch.float32)
    errors = {key: refio.error(ref, place, x.numpy()) for key, x in found.items() if (place := known(ref, start, key))}
    missed = {key for key in refio.names(ref) if key.startswith(f"{start}.")} - {known(ref, start, k) for k in found}
    assert not missed, "references that nothing was compared with"
    assert max(errors.values()) < limit, errors
