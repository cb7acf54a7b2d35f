"""Selective scan, backend for CUDA: the compiled kernels of VMamba and of mamba_ssm, where one is installed.

Origin of the calls: MzeroMiko/VMamba (MIT), `classification/models/csms6s.py`. The inputs are those of
`selective_scan.selective_scan`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from typing import Any

from torch import Tensor

_MODULES = {  # best first
    "cuda-oflex": "selective_scan_cuda_oflex",
    "cuda-core": "selective_scan_cuda_core",
    "cuda-mamba": "selective_scan_cuda",
}


@functools.cache
def installed_kernel() -> tuple[str, Any]:
    """Name and module of the best kernel that can be imported, or ('', None)."""
    for name, module in _MODULES.items():
        with contextlib.suppress(ImportError):
            return name, importlib.import_module(module)
    return "", None


def forward(*inputs: Tensor) -> Tensor:
    """Output (B, K*D, L), float32."""
    _, y, _ = _run(*inputs)
    return _time_major(y.float())


def backward(*inputs: Tensor, dy: Tensor) -> list[Tensor]:
    """Gradients of the seven inputs from that of the output; a second forward run gives the states."""
    given, y, states = _run(*inputs)
    name, kernel = installed_kernel()
    options = (None, None, True, False) if name == "cuda-mamba" else (True, 1)
    grads = kernel.bwd(*given, dy.to(y.dtype).contiguous(), states, *options)[:7]
    return [(_time_major(g) if g.ndim > 2 else g).to(x.dtype).view_as(x) for g, x in zip(grads, inputs, strict=True)]


def _run(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor
) -> tuple[tuple[Tensor | None, ...], Tensor, Tensor]:
    """What the kernel was given, its output and its states."""
    name, kernel = installed_kernel()
    delta, B, C = (x.to(u.dtype).contiguous() for x in (delta, B, C))
    A, D, delta_bias = (x.float().contiguous() for x in (A, D, delta_bias))
    gate = (None,) if name == "cuda-mamba" else ()
    given = (u.contiguous(), delta, A, B, C, D, *gate, delta_bias)
    options = {"cuda-oflex": (True, 1, True), "cuda-core": (True, 1), "cuda-mamba": (True,)}[name]
    y, states, *_ = kernel.fwd(*given, *options)
    return given, y, states


def _time_major(x: Tensor) -> Tensor:
    """The same (B, ..., L) tensor with its steps before its channels in memory."""
    return x.movedim(-1, 1).contiguous().movedim(1, -1)
