"""The selective scan equals the official one and a plain loop, also in gradients; tracers see one operator."""

from __future__ import annotations

import math
import sys
import types

import numpy as np
import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from reference import selective_scan_loop
from torch.utils.flop_counter import FlopCounterMode

from hmrbench.errors import UsageError
from hmrbench.nets.encoders import scan_cuda, scan_torch
from hmrbench.nets.encoders.selective_scan import (
    cross_merge,
    cross_scan,
    scan_backend,
    selective_scan,
    selective_scan_macs,
)

NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def made_inputs(batch=2, directions=4, channels=3, states=1, steps=37, dtype=torch.float32, seed=0):
    """Inputs at full strength: decays from almost 0 to almost 1."""
    g = torch.Generator().manual_seed(seed)
    lanes = directions * channels

    def draw(*shape):
        return torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)

    return [
        draw(batch, lanes, steps),
        draw(batch, lanes, steps) * 2 - 1,
        -draw(lanes, states).exp(),
        draw(batch, directions, states, steps),
        draw(batch, directions, states, steps),
        draw(lanes),
        draw(lanes) / 2,
    ]


@pytest.fixture(scope="module")
def official(refs):
    return {k: torch.from_numpy(v) for k, v in np.load(refs / "vmamba_scan_unit.npz").items()}


@pytest.mark.parametrize("states", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_official_scan(official, states, dtype):
    inputs = [official[f"scan_n{states}.{name}"].to(dtype) for name in NAMES]
    y = selective_scan(*inputs)
    assert y.dtype == dtype
    assert (y - official[f"scan_n{states}.y"]).abs().max() < 1e-5


def test_official_cross_scan_and_merge(official):
    assert torch.equal(cross_scan(official["cross_scan.x"]), official["cross_scan.y"])
    assert torch.equal(cross_merge(official["cross_merge.x"]), official["cross_merge.y"])


@pytest.mark.parametrize("channels_last", [False, True])
def test_cross_merge_is_the_transpose_of_cross_scan(channels_last):
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    ys = torch.randn(2, 4, 3, 5, 4, dtype=torch.float64)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    scanned, merged = cross_scan(x), cross_merge(ys)
    assert scanned.shape == (2, 4, 3, 20)
    torch.testing.assert_close((scanned * ys.flatten(3)).sum(), (x.flatten(2) * merged).sum())


# Lengths around the chunks (isqrt(3 L / 4) steps each): one step, whole chunks, chunks and a rest.
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 7, 12, 13, 48, 61, 192, 199, 257])
@pytest.mark.parametrize("states", [1, 3])
def test_equals_the_loop(steps, states):
    inputs = made_inputs(steps=steps, states=states, seed=steps)
    expected = selective_scan_loop(*inputs)
    error = np.abs(selective_scan(*inputs).numpy() - expected).max() / expected.std()
    assert error < 2e-6 * math.sqrt(steps)
    exact = selective_scan(*(x.double() for x in inputs)).numpy()
    np.testing.assert_allclose(exact, expected, rtol=1e-9, atol=1e-12 * math.sqrt(steps))


@pytest.mark.parametrize("part", [1, 150, 700, 2**20])
def test_parts_do_not_change_the_result(monkeypatch, part):
    inputs = made_inputs(batch=3, steps=50)
    expected = selective_scan(*inputs)
    monkeypatch.setattr(scan_torch, "_PART", part)
    torch.testing.assert_close(selective_scan(*inputs), expected, rtol=1e-6, atol=1e-6)


def test_memory_layout_does_not_change_the_result():
    inputs = made_inputs(steps=50, states=2)
    time_major = [x.movedim(-1, 1).contiguous().movedim(1, -1) if x.ndim > 2 else x for x in inputs]
    wide = [x.unsqueeze(-1).expand(*x.shape, 2).contiguous()[..., 0] for x in inputs]
    expected = selective_scan(*inputs)
    assert torch.equal(selective_scan(*time_major), expected)
    assert torch.equal(selective_scan(*wide), expected)


@pytest.mark.parametrize("shift", [-200.0, -50.0, 30.0, 100.0, 1e4, 1e30])
def test_extreme_steps_stay_finite(shift):
    """Steps so short that nothing happens, or so long that every decay, and any product of them, is 0."""
    u, delta, *rest = made_inputs(steps=70, states=2)
    delta = delta + shift
    y = selective_scan(u, delta, *rest)
    expected = selective_scan_loop(u, delta, *rest)
    assert torch.isfinite(y).all()
    np.testing.assert_allclose(y.numpy(), expected, rtol=2e-5, atol=2e-6 * np.abs(expected).max())
    inputs = [x.requires_grad_() for x in (u, delta, *rest)]
    grads = torch.autograd.grad(selective_scan(*inputs).mean(), inputs)
    assert all(torch.isfinite(g).all() for g in grads)


def test_extreme_steps_amid_ordinary_ones():
    """A single endless step forgets everything before it and nothing after it."""
    u, delta, *rest = made_inputs(steps=70)
    delta[:, :, 33] = 500
    y = selective_scan(u, delta, *rest)
    expected = selective_scan_loop(u, delta, *rest)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-4, atol=1e-4)
    u[:, :, :33] = 0
    torch.testing.assert_close(selective_scan(u, delta, *rest)[:, :, 33:], y[:, :, 33:], rtol=1e-4, atol=1e-4)


def test_nan_comes_through():
    inputs = made_inputs(steps=40)
    inputs[1][0, 0, 7] = math.nan
    y = selective_scan(*inputs)
    assert torch.isnan(y[0, 0, 7:]).all()
    assert torch.isfinite(y[0, 0, :7]).all()
    assert torch.isfinite(y[0, 1:]).all()


@pytest.mark.parametrize("states", [1, 2])
@pytest.mark.parametrize("steps", [1, 2, 11])
def test_gradients(states, steps):
    inputs = [x.requires_grad_() for x in made_inputs(2, 2, 2, states, steps, torch.float64)]
    assert torch.autograd.gradcheck(selective_scan, inputs)


def test_gradients_of_a_long_scan():
    """Against autograd through the recurrence, step by step."""
    inputs = [x.requires_grad_() for x in made_inputs(2, 2, 3, 2, 90, torch.float64)]
    weights = torch.randn(2, 6, 90, dtype=torch.float64)
    u, delta, A, B, C, D, delta_bias = inputs
    B, C = (x.repeat_interleave(3, dim=1) for x in (B, C))
    dt = torch.nn.functional.softplus(delta + delta_bias[:, None])
    h, ys = torch.zeros(2, 6, 2, dtype=torch.float64), []
    for t in range(90):
        h = (dt[:, :, t, None] * A).exp() * h + dt[:, :, t, None] * B[..., t] * u[:, :, t, None]
        ys.append((h * C[..., t]).sum(-1) + D * u[:, :, t])
    expected = torch.autograd.grad((torch.stack(ys, -1) * weights).sum(), inputs)
    found = torch.autograd.grad((selective_scan(*inputs) * weights).sum(), inputs)
    for name, a, b in zip(NAMES, found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=name)


def test_the_operator_is_sound():
    """Schema, autograd registration and the shapes and strides that compilers are told."""
    inputs = [x.requires_grad_() for x in made_inputs(steps=6)]
    torch.library.opcheck(torch.ops.hmrbench.selective_scan.default, inputs)
    dy = torch.randn(2, 12, 6)
    inputs = made_inputs(steps=6, states=2)
    torch.library.opcheck(torch.ops.hmrbench.selective_scan_backward.default, (*inputs, dy))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_scanned_in_float32(dtype):
    inputs = [x.to(dtype) for x in made_inputs(steps=60)]
    y = selective_scan(*inputs)
    assert y.dtype == torch.float32
    assert torch.equal(y, selective_scan(*(x.float() for x in inputs)))
    inputs = [x.requires_grad_() for x in inputs]
    grads = torch.autograd.grad(selective_scan(*inputs).sum(), inputs)
    assert all(g.dtype == dtype for g in grads)


def test_inputs_are_not_edited():
    inputs = made_inputs(steps=30)
    copies = [x.clone() for x in inputs]
    selective_scan(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))


@pytest.mark.parametrize("wrong", range(7))
def test_shapes_that_do_not_fit(wrong):
    inputs = made_inputs(steps=6)
    inputs[wrong] = inputs[wrong].repeat(2, *[1] * (inputs[wrong].ndim - 1))
    with pytest.raises(UsageError, match="do not fit together"):
        selective_scan(*inputs)


def test_lanes_that_the_directions_do_not_divide():
    u, delta, A, B, C, D, bias = made_inputs(steps=6)
    with pytest.raises(UsageError, match="do not fit together"):
        selective_scan(u[:, :10], delta[:, :10], A[:10], B, C, D[:10], bias[:10])


# --- what others see of it


class Scan(torch.nn.Module):
    def forward(self, *inputs):
        return selective_scan(*inputs) * 2


def test_meta_device():
    y = selective_scan(*(x.to("meta") for x in made_inputs()))
    assert (y.shape, y.device.type, y.dtype) == ((2, 12, 37), "meta", torch.float32)


def test_fvcore_sees_one_operator():
    def handle(inputs, outputs):
        batch, lanes, steps = inputs[0].type().sizes()
        return selective_scan_macs(batch, steps, lanes, inputs[2].type().sizes()[1])

    counter = FlopCountAnalysis(Scan(), tuple(made_inputs(states=2)))
    counter.set_op_handle("hmrbench::selective_scan", handle)
    assert counter.by_operator() == {"selective_scan": 9 * 2 * 37 * 12 * 2 + 2 * 37 * 12}
    assert set(counter.unsupported_ops()) <= {"aten::mul"}


def test_flop_counter_mode_sees_one_operator():
    def formula(u_shape, delta_shape, a_shape, *_, **__):
        return 2 * selective_scan_macs(u_shape[0], u_shape[2], u_shape[1], a_shape[1])

    mapping = {torch.ops.hmrbench.selective_scan: formula}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        Scan()(*made_inputs())
    assert counter.get_total_flops() == 2 * (9 + 1) * 2 * 37 * 12


@pytest.mark.parametrize("grad", [False, True])
def test_compiles_to_one_graph(grad):
    inputs = [x.requires_grad_(grad) for x in made_inputs(steps=20)]
    compiled = torch.compile(Scan(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), Scan()(*inputs))
    if grad:
        compiled(*inputs).sum().backward()
        found = [x.grad for x in inputs]
        expected = torch.autograd.grad(Scan()(*inputs).sum(), inputs)
        torch.testing.assert_close(found, list(expected))


# --- compiled kernels, played by stand-ins


def stand_in(kind):
    """A module with the call signature of one of the kernels, which runs the PyTorch backend."""

    def split(arguments):
        tensors = [*arguments[:6], arguments[7] if kind == "cuda-mamba" else arguments[6]]
        assert all(x.is_contiguous() for x in tensors)
        assert len({tensors[i].dtype for i in (0, 1, 3, 4)}) == 1
        assert all(tensors[i].dtype == torch.float32 for i in (2, 5, 6))
        return tensors, arguments[8 if kind == "cuda-mamba" else 7 :]

    def fwd(*arguments):
        tensors, options = split(arguments)
        assert options == {"cuda-oflex": (True, 1, True), "cuda-core": (True, 1), "cuda-mamba": (True,)}[kind]
        y = scan_torch.forward(*tensors).contiguous()
        return (y if kind == "cuda-oflex" else y.to(tensors[0].dtype)), torch.tensor(5.0)

    def bwd(*arguments):
        tensors, (dy, states, *options) = split(arguments)
        assert dy.is_contiguous()
        assert states == 5
        assert options == ([None, None, True, False] if kind == "cuda-mamba" else [True, 1])
        return (*scan_torch.backward(*tensors, dy=dy), None)

    return types.SimpleNamespace(fwd=fwd, bwd=bwd)


@pytest.mark.parametrize("kind", ["cuda-oflex", "cuda-core", "cuda-mamba"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_are_called_as_they_want(monkeypatch, kind, dtype):
    monkeypatch.setattr(scan_cuda, "installed_kernel", lambda: (kind, stand_in(kind)))
    inputs = [x.to(dtype) if x.ndim == 3 else x for x in made_inputs(states=2)]
    inputs = [x.to(dtype).to(x.dtype) if x.ndim == 4 else x for x in inputs]  # rounded as the kernels are given them
    y = scan_cuda.forward(*inputs)
    assert y.dtype == torch.float32
    near = {"rtol": 0.01, "atol": 1e-5} if dtype == torch.bfloat16 else {"rtol": 0, "atol": 0}  # results are rounded
    torch.testing.assert_close(y, scan_torch.forward(*inputs), **near)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(dtype).float()
    found, expected = scan_cuda.backward(*inputs, dy=dy), scan_torch.backward(*inputs, dy=dy)
    for name, x, a, b in zip(NAMES, inputs, found, expected, strict=True):
        assert (a.shape, a.dtype) == (x.shape, x.dtype), name
        torch.testing.assert_close(a.float(), b.float(), **near)


@pytest.fixture
def no_triton(monkeypatch):
    """So that the backends' names are the same on a machine with a GPU."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_backend_names(monkeypatch, no_triton):
    assert scan_backend("cpu") == "torch-chunked"
    monkeypatch.setattr(scan_cuda, "installed_kernel", lambda: ("", None))
    assert scan_backend(torch.device("cuda", 1)) == "torch-chunked"
    monkeypatch.setattr(scan_cuda, "installed_kernel", lambda: ("cuda-core", None))
    assert scan_backend("cuda") == "cuda-core"
    assert scan_backend("cpu") == "torch-chunked"


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ((), "torch-chunked"),
        (("selective_scan_cuda",), "cuda-mamba"),
        (("selective_scan_cuda", "selective_scan_cuda_core"), "cuda-core"),
        (("selective_scan_cuda_oflex", "selective_scan_cuda"), "cuda-oflex"),
    ],
)
def test_the_best_installed_kernel_is_chosen(monkeypatch, no_triton, modules, expected):
    for name in ("selective_scan_cuda_oflex", "selective_scan_cuda_core", "selective_scan_cuda"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name) if name in modules else None)
    scan_cuda.installed_kernel.cache_clear()
    try:
        assert scan_backend("cuda") == expected
    finally:
        scan_cuda.installed_kernel.cache_clear()
