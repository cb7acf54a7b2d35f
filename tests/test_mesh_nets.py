"""The mesh networks that others compare with give the official numbers, load official layouts, and cost the same."""

from __future__ import annotations

import copy
import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import refio
import seeding
import torch
from drawn import bound
from torch import Tensor, nn

from hmrbench.body.mesh_assets import made_mesh
from hmrbench.errors import UsageError
from hmrbench.geometry import axis_angle_to_matrix
from hmrbench.nets.meshes import fastmetro, graphormer, iterative, metro, smplerx, tore
from hmrbench.nets.meshes.layout import OfficialLayout
from hmrbench.nets.transformers.encoder_decoder import sine_positions
from hmrbench.profiling import flops

pytestmark = pytest.mark.usefixtures("calm")
REFS = Path(__file__).parent / "refs" / "meshes"
COSTS: dict[str, Any] = json.loads((REFS / "official_costs.json").read_text())
LAYOUTS: dict[str, dict[str, list[int]]] = json.loads(gzip.decompress((REFS / "layouts.json.gz").read_bytes()))
Taps = Callable[[Any, Any], dict[str, Tensor]]


def token_first(*names: str) -> Taps:
    """Outputs of a transformer under the names of the references, whose order is tokens, batch, channels."""
    return lambda i, o: {name: x.transpose(0, 1) for name, x in zip(names, o, strict=True) if name}


def named(*names: str) -> Taps:
    """A tuple of outputs, or the only one, under the names of the references."""
    return lambda i, o: dict(zip(names, o if isinstance(o, tuple) else (o,), strict=True))


def regressed_mesh(net: Any, start: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Joints, meshes and camera of a network, or of its head alone, from the references' input."""
    out = net(seeding.seeded_input((1, 3, 224, 224)).to(dtype)) if start == "e2e" else net.head(head_input(net, dtype))
    found = {"v6890" if key == "vertices" else key: value for key, value in out.items()}
    return found | {"joints17_from_mesh": torch.tensor(MESH.joints17.toarray()).to(dtype) @ out["vertices"]}


def head_input(net: Any, dtype: torch.dtype) -> Any:
    """Seeded features in place of the encoder's."""
    if isinstance(net.head, graphormer.GraphormerHead):
        return tuple(seeding.seeded_input(shape).to(dtype) for shape in ((1, 2048), (1, 1024, 7, 7)))
    channels = net.head.conv_1x1.in_channels if hasattr(net.head, "conv_1x1") else 2048
    return seeding.seeded_input((1, channels, 7, 7)).to(dtype)


@dataclass(frozen=True)
class Case:
    """A network: how it is built, how it is run, and which of its inner tensors the references hold.

    `run` gives outputs by the names of the references; `taps` maps a module to a function of its inputs and outputs.
    """

    build: Callable[[], nn.Module]
    layout: OfficialLayout
    taps: dict[str, Taps] = field(default_factory=dict)
    run: Callable[[Any, str, torch.dtype], dict[str, Tensor]] = regressed_mesh
    tolerance: float = 1e-4
    tolerance_f64: float = 1e-6
    image: tuple[int, int] = (224, 224)


MESH = made_mesh((0.5 * seeding.seeded_input((1, 6890, 3), seed=1))[0].numpy())


FASTMETRO_TAPS: dict[str, Taps] = {
    "encoder": named("backbone"),
    "head.transformer_1": lambda i, o: {"img_tokens": i[0].transpose(0, 1)} | token_first("cam1", "img1", "jv1")(i, o),
    "head.transformer_2": token_first("cam2", "", "jv2"),
}
TORE_TAPS: dict[str, Taps] = {
    "encoder": named("backbone"),
    "head.token_selector_fc": lambda i, o: {"token_heatmap": o.softmax(1).mT},
    "head.transformer_1": lambda i, o: {"img_tokens": i[0].transpose(0, 1)} | token_first("cam1", "img1", "j1")(i, o),
    "head.transformer_2": token_first("cam2", "", "j2"),
    "head.transformer_3": token_first("", "", "v3"),
}
METRO_TAPS: dict[str, Taps] = {
    "encoder": named("backbone"),
    "head.conv_learn_tokens": lambda i, o: {"img_tokens": o},
    "head.trans_encoder.0": lambda i, o: {"ref_vertices": i[0][..., :3], "block1": o[0]},
    "head.trans_encoder.1": lambda i, o: {"block2": o[0]},
}
GRAPHORMER_TAPS: dict[str, Taps] = {
    "encoder": named("backbone.global", "backbone.grid"),
    "head.trans_encoder.0": lambda i, o: {"tokens_in": i[0], "ref_vertices": i[0][:, :445, :3], "block1": o[0]},
    "head.trans_encoder.1": lambda i, o: {"block2": o[0]},
    "head.trans_encoder.2.bert.encoder.layer.0.graph_conv": lambda i, o: {"graph_conv0_in": i[0], "graph_conv0_out": o},
}
TORE_METRO_TAPS: dict[str, Taps] = {
    "encoder": named("backbone"),
    "head.conv_learn_tokens": lambda i, o: {"img_tokens": o},
    "head.trans_encoder.0": lambda i, o: {"ref_joints": i[0][..., :3], "block1": o[0]},
    "head.trans_encoder.1": lambda i, o: {"block2": o[0]},
    "head.trans_encoder.2": lambda i, o: {"hidden3": o[1].transpose(0, 1)},
    "head.transformer_3": token_first("", "", "v3"),
}


SMPLERX_TAPS: dict[str, Taps] = {
    "encoder": named("img_feat", "task_tokens"),
    "head.body_position_net": named("body_joint_hm", "body_joint_img"),
    "head.body_regressor": named("root_pose_6d", "body_pose_6d", "shape", "cam_param"),
    "head.box_net": lambda i, o: o._asdict(),
    "head.hand_roi_net": lambda i, o: {"lhand_bbox": i[1], "rhand_bbox": i[2], "hand_feat": o},
    "head.hand_position_net": lambda i, o: {"hand_joint_img": o[1]},
    "head.hand_regressor": named("hand_pose_6d"),
    "head.face_regressor": named("expr", "jaw_pose_6d"),
}


def spin_rounds(net: Any, start: str, dtype: torch.dtype) -> dict[str, Tensor]:
    features = net.encoder(seeding.seeded_input((1, 3, 224, 224)).to(dtype))
    found = {"layer4": features, "pooled": features.mean((2, 3))}
    return found | rounds(net, features)


def cliff_rounds(net: Any, start: str, dtype: torch.dtype) -> dict[str, Tensor]:
    box = seeding.seeded_input((1, 3), seed=1).to(dtype)
    if start == "head":
        return regressed(net.head(seeding.seeded_input((1, 2048)).to(dtype)[..., None, None], box), "")
    x = seeding.seeded_input((1, 3, 256, 192)).to(dtype)
    features = net.encoder(x)
    whole = regressed(net(x, box), "iter3.")
    found = rounds(net, features, box)
    assert all(torch.equal(value, found[key]) for key, value in whole.items())
    return found | {"bbox": box, "feat": features.mean((2, 3))}


def rounds(net: Any, features: Tensor, *box: Tensor) -> dict[str, Tensor]:
    """After the first and the last round; the 6D pose of the last is what its read-outs add up to."""
    corrections: list[Tensor] = []
    hook = net.head.decpose.register_forward_hook(lambda module, inputs, output: corrections.append(output))
    last = regressed(net.head(features, *box), "iter3.")
    hook.remove()
    first = regressed(net.head(features, *(box or (None,)), rounds=1), "iter1.")
    return last | first | {"iter3.pose6d": net.head.init_pose + sum(corrections)}


def regressed(out: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    rotations = torch.cat((out["global_orient"], out["body_pose"]), dim=1)
    return {f"{prefix}rotmat": rotations, f"{prefix}betas": out["betas"], f"{prefix}cam": out["cam"]}


def whole_body(net: Any, start: str, dtype: torch.dtype) -> dict[str, Tensor]:
    width = net.encoder.widths[0]
    if start == "e2e":
        out = net(seeding.seeded_input((1, 3, 512, 384)).to(dtype))
    else:
        tokens = seeding.seeded_input((1, 31, width), seed=1)
        out = net.head((seeding.seeded_input((1, width, 16, 12)).to(dtype), tokens.to(dtype)))
    return {
        "out.joint_img": out["joints_cells"],
        "out.cam_trans": out["cam"],
        **{f"out.{side}_bbox": 2 * out[ours] for side, ours in BOXES.items()},  # there in pixels of the crop
        **{f"out.smplx_{part}_pose": out[ours] for part, ours in ROTATIONS.items()},
    }


BOXES = {"lhand": "left_hand_box", "rhand": "right_hand_box", "face": "face_box"}
ROTATIONS = {
    "root": "global_orient",
    "body": "body_pose",
    "lhand": "left_hand_pose",
    "rhand": "right_hand_pose",
    "jaw": "jaw_pose",
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
        found[f"tore_fastmetro_l_{backbone}"] = Case(
            lambda b=backbone: tore.tore_fastmetro(b, MESH),
            tore.official_layout(backbone),
            TORE_TAPS,
            tolerance_f64=2e-6,
        )
    found["graphormer_h64"] = Case(
        lambda: graphormer.graphormer("h64", MESH),
        graphormer.official_layout(),
        GRAPHORMER_TAPS,
    )
    found["spin_hmr_r50"] = Case(iterative.spin, iterative.spin_layout(), run=spin_rounds)
    for backbone in ("r50", "hr48"):
        found[f"cliff_{backbone.replace('r50', 'res50')}"] = Case(
            lambda b=backbone: iterative.cliff(b),
            iterative.cliff_layout(),
            run=cliff_rounds,
            image=(256, 192),
        )
    for size in ("s", "b", "l", "h"):
        found[f"smplerx_{size}"] = Case(
            lambda s=size: smplerx.smplerx(s),
            smplerx.official_layout(),
            SMPLERX_TAPS,
            whole_body,
            tolerance=5e-4,
            tolerance_f64=5e-6,
            image=(512, 384),
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
@pytest.mark.thorough
def test_costs_are_the_official_ones(name: str) -> None:
    official, net = COSTS[name], on_meta(name)
    costs = flops.count(net, (1, 3, *CASES[name].image))
    assert sum(p.numel() for p in net.parameters()) == official["params"]
    assert costs.macs == pytest.approx(1e9 * official["macs_G"], rel=5e-3)
    assert not costs.uncounted  # regions are cut out, which counts as copying
    assert costs.disagreements == ()
    assert costs.counted_on == "meta"
    encoder = sum(p.numel() for p in net.encoder.parameters())
    assert encoder == official["backbone"]


@lru_cache(maxsize=1)
def seeded(name: str) -> nn.Module:
    """The network with the weights of the references; kept, since the tests of one network follow each other."""
    return seeding.seed_module_(CASES[name].build().eval(), ours_to_official(name).__getitem__)


@lru_cache(maxsize=1)
def seeded_f64(name: str) -> nn.Module:
    """The same in double precision, with fixed numbers that never were rounded to single."""
    torch.set_default_dtype(torch.float64)
    try:
        net = CASES[name].build().eval()
    finally:
        torch.set_default_dtype(torch.float32)
    net.load_state_dict(seeded(name).state_dict())
    return net


@torch.no_grad()
def outputs(name: str, start: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Outputs, and inner tensors by the names of the references."""
    case = CASES[name]
    net = seeded(name) if dtype == torch.float32 else seeded_f64(name)
    found: dict[str, Tensor] = {}

    def listen(read: Taps) -> Callable[..., None]:
        return lambda module, inputs, output: found.update(read(inputs, output))

    hooks = [net.get_submodule(path).register_forward_hook(listen(read)) for path, read in case.taps.items()]
    found |= case.run(net, start, dtype)
    for hook in hooks:
        hook.remove()
    return found


def wanted(ref: Any, start: str) -> set[str]:
    """Names of the references from one starting point, which every name has that does not depend on it."""
    apart = ("head.", "pos", "roi_unit.") if start == "e2e" else ()
    names = refio.names(ref)
    return {n for n in names if n.startswith(f"{start}.") or (apart and not n.startswith((*apart, "e2e.")))}


def place(names: set[str], start: str, name: str) -> str | None:
    """Where the references keep a tensor: what depends on the mesh matrices has `formula` in its name."""
    return next((n for n in (f"{start}.formula.{name}", f"{start}.{name}", name) if n in names), None)


def reference_error(ref: Any, name: str, x: Tensor) -> float:
    """`refio.error`; rotations that the references keep as vectors are compared as matrices."""
    if name.endswith("_pose"):
        x, vectors = x.flatten(1), torch.tensor(ref[f"{name}.full"]).to(x.dtype).unflatten(1, (-1, 3))
        return float((axis_angle_to_matrix(vectors).flatten(1) - x).abs().max())
    return refio.error(ref, name, x.numpy())


def rounding(ref: Any, name: str) -> float:
    """What storing a float64 reference in float32 may cost, in the units of the error."""
    _, std, largest = ref[f"{name}.stats"]
    return float(2.0**-24 * largest / std)


def starts() -> Iterator[Any]:
    for name in CASES:
        for dtype in ("", "_f64"):
            for start in ("head", "e2e"):
                path = REFS / f"{name}{dtype}.npz"
                if path.is_file() and not (name.startswith("spin") and start == "head"):
                    yield pytest.param(name, dtype, start, marks=[pytest.mark.slow] if "h64" in name else [])


@pytest.mark.parametrize(("name", "dtype", "start"), starts())
def test_outputs_are_the_official_ones(name: str, dtype: str, start: str) -> None:
    with np.load(REFS / f"{name}{dtype}.npz") as file:
        ref = dict(file)
    found = outputs(name, start, torch.float64 if dtype else torch.float32)
    names = wanted(ref, start)
    places = {key: at for key in found if (at := place(names, start, key))}
    assert set(places.values()) == names, "references that nothing was compared with"
    case = CASES[name]
    for key, at in places.items():
        error = reference_error(ref, at, found[key])
        if key.endswith("_size"):  # two numbers that nearly coincide: their spread is no unit
            assert error * ref[f"{at}.stats"][1] < 1e-5, key
        else:
            limit = case.tolerance_f64 + rounding(ref, at) if dtype else case.tolerance
            assert error < bound(limit, case.tolerance), f"{key}: {error}"


# --------------------------------------------------------------------------- parts on their own


@pytest.mark.parametrize(("grid", "channels", "name"), [((7, 7), 512, "pos1"), ((7, 7), 128, "pos2")])
def test_positions_of_a_grid_are_the_official_ones(grid: tuple[int, int], channels: int, name: str) -> None:
    ref = np.load(REFS / "fastmetro_s_r50.npz")
    found = sine_positions(*grid, channels, torch.device("cpu"))
    assert found.dtype == torch.float32
    assert refio.error(ref, name, found[:, None].numpy()) < 1e-6


@pytest.mark.parametrize(("rows", "channels", "name"), [(39, 512, "pos1"), (14, 128, "pos3")])
def test_positions_of_a_column_are_the_official_ones(rows: int, channels: int, name: str) -> None:
    ref = np.load(REFS / "tore_fastmetro_l_r50.npz")
    found = sine_positions(rows, 1, channels, torch.device("cpu"))
    assert refio.error(ref, name, found[:, None].numpy()) < 1e-6


@pytest.fixture(scope="module")
def regressor() -> fastmetro.ParameterRegressor:
    net = fastmetro.ParameterRegressor().eval()
    return seeding.seed_module_(net, lambda key: f"smpl_parameter_regressor.{key}")


@torch.no_grad()
def test_parameters_from_a_mesh_are_the_official_ones(regressor: fastmetro.ParameterRegressor) -> None:
    for dtype, suffix, limit in ((torch.float32, "", 1e-4), (torch.float64, "_f64", 1e-6)):
        ref = np.load(REFS / f"fastmetro_smpl_regressor{suffix}.npz")
        net = copy.deepcopy(regressor).to(dtype)
        vertices = (0.5 * seeding.seeded_input((2, 1723, 3))).to(dtype)
        out = net(vertices)
        rotations = torch.cat((out["global_orient"], out["body_pose"]), dim=1)
        assert refio.error(ref, "raw", net.regressor(vertices.flatten(1)).numpy()) < bound(limit)
        assert refio.error(ref, "rotmat", rotations.numpy()) < bound(limit)
        assert refio.error(ref, "betas", out["betas"].numpy()) < bound(limit)
        assert torch.linalg.det(rotations).numpy() == pytest.approx(1, abs=1e-5)


def test_fastmetro_with_parameters_has_the_official_keys_and_count() -> None:
    official = LAYOUTS["fastmetro_l_h64"] | LAYOUTS["fastmetro_smpl_regressor"]
    layout = fastmetro.official_layout("h64", parameters=True)
    with torch.device("meta"):
        net = fastmetro.fastmetro("l", "h64", MESH, parameters=True)
    shapes = {key: list(tensor.shape) for key, tensor in net.state_dict().items()}
    assert shapes == {layout.ours(key): shape for key, shape in official.items()}
    extra = sum(p.numel() for p in net.head.smpl_parameter_regressor.parameters())
    assert extra == COSTS["fastmetro_smpl_regressor"]["params"]


@torch.no_grad()
def test_fastmetro_regresses_parameters_from_its_middle_mesh() -> None:
    net = fastmetro.FastMETROHead(2048, 1, MESH, parameters=True).eval()
    out = net(seeding.seeded_input((2, 2048, 7, 7)))
    expected = net.smpl_parameter_regressor(out["v1723"])
    assert set(expected) == {"global_orient", "body_pose", "betas"}
    assert all(torch.equal(out[key], value) for key, value in expected.items())
    assert out["global_orient"].shape == (2, 1, 3, 3)
    assert out["body_pose"].shape == (2, 23, 3, 3)


@torch.no_grad()
def test_hands_are_cut_out_as_by_the_official_code() -> None:
    """Boxes of a size that matters: those of the seeded network are tiny."""
    for dtype, suffix, limit in ((torch.float32, "", 5e-4), (torch.float64, "_f64", 5e-6)):
        ref = np.load(REFS / f"smplerx_s{suffix}.npz")
        net = seeding.seed_module_(smplerx.HandRoI(384).eval(), lambda key: f"hand_roi_net.{key}").to(dtype)
        features = seeding.seeded_input((1, 384, 16, 12)).to(dtype)
        left, right = torch.tensor([[[30, 50, 90, 130]], [[100, 40, 170, 150]]], dtype=dtype)
        assert refio.error(ref, "roi_unit.hand_feat", net(features, left, right).numpy()) < bound(limit)


def test_a_rotation_in_the_mirror() -> None:
    vector = torch.tensor([[0.3, -0.8, 1.1], [0.0, 2.0, 0.1]])
    mirrored = axis_angle_to_matrix(vector * torch.tensor([1.0, -1.0, -1.0]))
    assert torch.allclose(smplerx.mirrored_rotation(axis_angle_to_matrix(vector)), mirrored, atol=1e-6)


def test_an_identity_in_six_numbers() -> None:
    """The untrained regressors start at the rest pose."""
    net = iterative.IterativeRegressor()
    pose = iterative.interleaved_rot6d_to_matrix(net.init_pose.unflatten(1, (24, 6)))
    assert torch.equal(pose, torch.eye(3).expand(1, 24, 3, 3))


# --------------------------------------------------------------------------- use


SMALL = ["fastmetro_s_r50", "metro_r50", "tore_metro_r50", "tore_fastmetro_l_effb0", "graphormer_h64"]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("batch", [1, 3])
def test_shapes_of_a_regressed_mesh(name: str, batch: int) -> None:
    with torch.device("meta"), torch.no_grad():
        out = on_meta(name)(torch.empty(batch, 3, 224, 224))
    shapes = {"vertices": (6890, 3), "cam": (3,), "joints14": (14, 3), "v431": (431, 3), "v1723": (1723, 3)}
    assert {key: tuple(x.shape) for key, x in out.items()} == {key: (batch, *s) for key, s in shapes.items()}


@torch.no_grad()
def test_images_of_a_batch_do_not_meet() -> None:
    features = seeding.seeded_input((3, 2048, 7, 7))
    for head in (fastmetro.FastMETROHead(2048, 1, MESH), tore.ToreFastMETROHead(2048, MESH), metro.MetroHead(MESH)):
        head.eval()
        together = head(features)
        apart = [head(one[None]) for one in features]
        for key, value in together.items():
            assert torch.allclose(value, torch.cat([out[key] for out in apart]), atol=1e-4), key


@torch.no_grad()
def test_fastmetro_runs_at_another_size() -> None:
    for head in (fastmetro.FastMETROHead(8, 1, MESH), tore.ToreFastMETROHead(8, MESH)):
        out = head.eval()(seeding.seeded_input((1, 8, 8, 6)))
        assert out["vertices"].shape == (1, 6890, 3)
        assert out["vertices"].isfinite().all()


@pytest.mark.parametrize("name", ["metro_r50", "tore_metro_r50", "graphormer_h64"])
def test_networks_with_49_positions_refuse_another_size(name: str) -> None:
    with torch.device("meta"), pytest.raises(UsageError, match="224x224, not about 256x192"):
        on_meta(name)(torch.empty(1, 3, 256, 192))


def test_cliff_without_box_numbers_takes_zeros_and_refuses_others() -> None:
    net: Any = on_meta("cliff_res50")
    with torch.device("meta"):
        assert net(torch.empty(2, 3, 256, 192))["body_pose"].shape == (2, 23, 3, 3)
        with pytest.raises(UsageError, match=r"3 numbers of each box, not \(1, 3\) for 2 images"):
            net(torch.empty(2, 3, 256, 192), torch.empty(1, 3))


@pytest.mark.parametrize(
    "build",
    [
        lambda: fastmetro.fastmetro("xl", "r50", MESH),
        lambda: fastmetro.fastmetro("s", "effb0", MESH),
        lambda: metro.metro("hr48", MESH),
        lambda: graphormer.graphormer("r50", MESH),
        lambda: tore.tore_metro("effb0", MESH),
        lambda: tore.tore_fastmetro("b0", MESH),
        lambda: iterative.spin("hr48"),
        lambda: iterative.cliff("h64"),
        lambda: smplerx.smplerx("xl"),
    ],
)
def test_an_unknown_size_or_backbone_is_refused(build: Callable[[], nn.Module]) -> None:
    with pytest.raises(UsageError, match=r"unknown (backbone|size)"):
        build()


@pytest.mark.parametrize(
    ("layout", "official", "ours"),
    [
        (fastmetro.official_layout("r50"), "smpl_parameter_regressor.init_pose", None),
        (fastmetro.official_layout("r50", True), "smpl_parameter_regressor.x", "head.smpl_parameter_regressor.x"),
        (fastmetro.official_layout("r50"), "backbone.7.2.bn3.bias", "encoder.layer4.2.bn3.bias"),
        (metro.official_layout("h64"), "module.backbone.conv1.weight", "encoder.conv1.weight"),
        (smplerx.official_layout(), "module.smplx_layer.betas", None),
        (smplerx.official_layout(), "module.backbone.last_norm.bias", "encoder.last_norm.bias"),
        (smplerx.official_layout(), "body_rotation_net.cam_out.0.bias", "head.body_regressor.cam_out.0.bias"),
        (smplerx.official_layout(), "hand_rotation_net.x", "head.hand_regressor.x"),
        (iterative.cliff_layout(), "module.encoder.conv1.weight", "encoder.conv1.weight"),
        (iterative.spin_layout(), "layer1.0.conv1.weight", "encoder.layer1.0.conv1.weight"),
    ],
)
def test_keys_of_official_checkpoints(layout: OfficialLayout, official: str, ours: str | None) -> None:
    assert layout.ours(official) == ours


@pytest.mark.parametrize(
    ("name", "unread"),
    [
        ("metro_h64", 44_833_408 + 2_049_000),
        ("graphormer_h64", 42_834_624 + 2_049_000 + 4 * (64 * 64 + 64)),
        ("tore_metro_r50", 44_833_408),
        ("fastmetro_l_h64", 2_049_000),
        ("tore_fastmetro_l_effb0", 1_281_000),
        ("tore_fastmetro_l_r50", 0),
    ],
)
def test_parameters_that_no_forward_reads(name: str, unread: int) -> None:
    """As many as the official counts say, and none else: their gradients stay empty."""
    pattern = re.compile(CASES[name].layout.never_read or "$^")
    net = on_meta(name)
    assert sum(p.numel() for key, p in net.named_parameters() if pattern.search(key)) == unread
    with torch.device("meta"):
        out = net(torch.empty(1, 3, 224, 224))
        sum(x.sum() for x in out.values()).backward()
    assert {key for key, p in net.named_parameters() if p.grad is None} == {
        key for key, _ in net.named_parameters() if pattern.search(key)
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    head = fastmetro.FastMETROHead(64, 1, MESH).eval()
    features = seeding.seeded_input((1, 64, 7, 7))
    exact = head(features)["v431"]
    with torch.autocast("cpu", dtype):
        assert (head(features)["v431"] - exact).abs().max() < 0.1 * exact.std()
    out = head.to(dtype)(features.to(dtype))
    assert {x.dtype for x in out.values()} == {dtype}
    assert (out["v431"].float() - exact).abs().max() < 0.1 * exact.std()


EXPORTED: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "fastmetro": lambda: (fastmetro.FastMETROHead(8, 1, MESH), seeding.seeded_input((1, 8, 7, 7))),
    "tore": lambda: (tore.ToreFastMETROHead(8, MESH), seeding.seeded_input((1, 8, 7, 7))),
    "spin": lambda: (iterative.IterativeRegressor(), seeding.seeded_input((1, 2048, 7, 7))),
    "smplerx": lambda: (
        smplerx.SMPLerXHead(64),
        (seeding.seeded_input((1, 64, 16, 12)), seeding.seeded_input((1, 31, 64), seed=1)),
    ),
}


@pytest.mark.parametrize("name", EXPORTED)
@torch.no_grad()
def test_exports_as_one_graph(name: str) -> None:
    head, features = EXPORTED[name]()
    expected = head.eval()(features)
    found = torch.export.export(head, (features,)).module()(features)
    assert all(torch.allclose(found[key], value, atol=1e-6) for key, value in expected.items())


@torch.no_grad()
def test_three_people_are_turned_as_each_alone() -> None:
    """A cross product without a given axis takes the batch for one when there are three."""
    features = seeding.seeded_input((3, 64, 16, 12)), seeding.seeded_input((3, 31, 64), seed=1)
    head = smplerx.SMPLerXHead(64).eval()
    together = head(features)
    for row in range(3):
        alone = head(tuple(x[row : row + 1] for x in features))
        for key, value in alone.items():
            assert torch.allclose(together[key][row : row + 1], value, atol=1e-4), key
