"""The Triton kernels of the selective scan, run by Triton's interpreter on the CPU, equals the PyTorch backend."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import REFS, TESTS

from hmrbench.nets.encoders import scan_cuda, scan_torch
from hmrbench.nets.encoders import selective_scan as scan

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None and sys.platform != "linux",
    reason="triton has no build for this platform",
)

# Each case: batch, directions, channels, states, steps, shift of delta. The interpreter's tiles have 16 steps.
CASES = {
    "one step": (2, 4, 3, 1, 1, 0.0),
    "less than a tile": (1, 4, 3, 1, 15, 0.0),
    "whole tiles": (2, 2, 2, 1, 32, 0.0),
    "tiles and a rest": (1, 4, 3, 4, 37, 0.0),
    "states that are no power of 2": (1, 1, 2, 3, 17, 0.0),
    "more channels than a program has": (1, 2, 5, 1, 18, 0.0),
    "tiny steps": (1, 2, 2, 1, 20, -15.0),
    "vanishing steps": (1, 2, 2, 1, 20, -200.0),
    "around the threshold of softplus": (1, 2, 2, 1, 20, 20.0),
    "long steps": (1, 2, 2, 4, 20, 1e4),
    "endless steps": (1, 2, 2, 1, 20, 1e30),
}

SCRIPT = """
import json, math, sys
import numpy as np, torch
from hmrbench.nets.encoders import scan_torch, scan_triton
from test_selective_scan import NAMES, made_inputs

torch.set_num_threads(1)
scan_triton._TILE, scan_triton._WIDTH = 16, 4
found, gradients = {}, {}

def compare(name, inputs, expected=None):
    copies = [x.clone() for x in inputs]
    y = scan_triton.forward(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs, copies)), name
    expected = scan_torch.forward(*inputs) if expected is None else expected
    assert (y.shape, y.dtype, y.stride()) == (expected.shape, torch.float32, scan_torch.forward(*inputs).stride()), name
    scale = expected.abs().max().clamp(min=1e-30)
    found[name] = float(((y - expected).abs() / scale).nan_to_num(nan=math.inf).amax())
    compare_gradients(name, inputs)

def compare_gradients(name, inputs):
    dy = torch.cos(torch.arange(inputs[0].numel()).view_as(inputs[0])).to(inputs[0].dtype)
    wanted = scan_torch.backward(*inputs, dy=dy)
    for which, ours, theirs in zip(NAMES, scan_triton.gradients(*inputs, dy=dy), wanted, strict=True):
        assert (ours.shape, ours.dtype, ours.stride()) == (theirs.shape, theirs.dtype, theirs.stride()), (name, which)
        scale = theirs.double().abs().max().clamp(min=1e-30)
        error = float(((ours.double() - theirs.double()).abs() / scale).nan_to_num(nan=math.inf).amax())
        gradients[name] = max(gradients.get(name, 0.0), error / torch.finfo(ours.dtype).eps)

for name, (batch, directions, channels, states, steps, shift) in json.loads(sys.argv[1]).items():
    u, delta, A, B, C, D, bias = made_inputs(batch, directions, channels, states, steps)
    # Without the skip connection, whose output would hide errors of very short steps.
    compare(name, [u, delta + shift, A, B, C, torch.zeros_like(D) if shift else D, bias])

inputs = made_inputs(1, 2, 3, 2, 19)
compare("time-major", [x.movedim(-1, 1).contiguous().movedim(1, -1) if x.ndim > 2 else x for x in inputs])
compare("every second number", [x.unsqueeze(-1).expand(*x.shape, 2).contiguous()[..., 0] for x in inputs])
compare("bfloat16", [x.bfloat16() for x in inputs])
compare("mixed", [x.half() if i in (0, 3) else x for i, x in enumerate(inputs)])
inputs[1][0, 0, 7] = 500
compare("an endless step amid others", inputs)
inputs[1][0, 0, 7] = math.nan
y = scan_triton.forward(*inputs)
assert torch.isnan(y[0, 0, 7:]).all()
assert torch.isfinite(y[0, 0, :7]).all() and torch.isfinite(y[0, 1:]).all()

assert scan_triton.forward(*(x.double() for x in inputs)).dtype == torch.float64
official = {k: torch.from_numpy(v) for k, v in np.load(sys.argv[2]).items()}
for n in (1, 4):
    images = slice(0, 1)
    given = [official[f"scan_n{n}.{name}"] for name in NAMES]
    given = [x[images] if x.ndim > 2 else x for x in given]
    compare(f"official, {n} states", given, official[f"scan_n{n}.y"][images])

def broken(*inputs):
    raise RuntimeError("no compiler")

scan_triton._trial = lambda: made_inputs(1, 2, 3, 1, 19)
found["works"] = scan_triton.works_on(torch.device("cpu"))
scan_triton.works_on.cache_clear()
inputs, dy = made_inputs(1, 2, 3, 1, 19), torch.ones(1, 6, 19)
found["differentiates"] = scan_triton.differentiates_on(torch.device("cpu"))
ours = scan_triton.backward(*inputs, dy=dy)
assert all(torch.equal(a, b) for a, b in zip(ours, scan_triton.gradients(*inputs, dy=dy), strict=True))
scan_triton.differentiates_on.cache_clear()
scan_triton.gradients = lambda *inputs, dy: [g + 1 for g in scan_torch.backward(*inputs, dy=dy)]
found["wrong gradients"] = scan_triton.differentiates_on(torch.device("cpu"))
ours = scan_triton.backward(*inputs, dy=dy)
assert all(torch.equal(a, b) for a, b in zip(ours, scan_torch.backward(*inputs, dy=dy), strict=True))
scan_triton.forward = lambda *inputs: scan_torch.forward(*inputs) + 1
found["wrong"] = scan_triton.works_on(torch.device("cpu"))
scan_triton.works_on.cache_clear()
scan_triton.forward = broken
found["broken"] = scan_triton.works_on(torch.device("cpu"))
print(json.dumps({**found, **{f"gradients, {name}": error for name, error in gradients.items()}}))
"""


@pytest.fixture(scope="module")
def found() -> dict[str, float]:
    """What the interpreter found: error over the greatest output, by case."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS), str(REFS), os.environ.get("PYTHONPATH", "")])
    # The interpreter must be chosen before triton is imported. It works on the CPU: a GPU stays hidden from it.
    hidden = dict.fromkeys(("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"), "")
    env = {**os.environ, **hidden, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    arguments = [sys.executable, "-c", SCRIPT, json.dumps(CASES), str(REFS / "vmamba_scan_unit.npz")]
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, float] = json.loads(done.stdout)
    return result


LAYOUTS = ("time-major", "every second number", "bfloat16", "mixed", "an endless step amid others")


@pytest.mark.thorough
@pytest.mark.parametrize("case", [*CASES, *LAYOUTS, "official, 1 states", "official, 4 states"])
def test_kernel_equals_the_pytorch_backend(found, case):
    assert found[case] < (1e-5 if case != "endless steps" else 1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("case", [*CASES, *LAYOUTS, "official, 1 states", "official, 4 states"])
def test_gradients_equal_those_of_the_pytorch_backend(found, case):
    """In roundings of the input's precision, of the greatest gradient."""
    assert found[f"gradients, {case}"] < 30


@pytest.mark.thorough
def test_a_kernel_that_fails_or_errs_is_not_used(found):
    assert (found["works"], found["wrong"], found["broken"]) == (True, False, False)
    assert (found["differentiates"], found["wrong gradients"]) == (True, False)


@pytest.mark.parametrize(("works", "name"), [(True, "triton"), (False, "torch-chunked")])
def test_triton_is_used_on_cuda_without_a_compiled_kernel(monkeypatch, works, name):
    triton = scan._triton()
    monkeypatch.setattr(triton, "works_on", lambda device: works)
    monkeypatch.setattr(scan_cuda, "installed_kernel", lambda: ("", None))
    assert scan.scan_backend("cuda:1") == name
    assert scan.scan_backend("cpu") == "torch-chunked"
    u = torch.empty(1, device="cpu")
    assert scan._backend(u) is scan_torch
    monkeypatch.setattr(scan, "scan_backend", lambda device: name)
    assert scan._backend(u) is (triton if works else scan_torch)
    assert scan._backend(u.double()) is scan_torch
    monkeypatch.undo()
    monkeypatch.setattr(scan_cuda, "installed_kernel", lambda: ("cuda-core", None))
    assert scan.scan_backend("cuda") == "cuda-core"
