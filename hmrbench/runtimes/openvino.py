"""OpenVINO on the CPU or on Intel's GPU; files in its own form, `NAME.xml` and beside it `NAME.bin`."""

from __future__ import annotations

import ctypes
import functools
import gc
import logging
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hmrbench import environment
from hmrbench.records import Array
from hmrbench.runtimes.outputs import names
from hmrbench.runtimes.runtime import Description, FromFile, Network, Prepared, Runtime, Setting
from hmrbench.runtimes.trace import Graph

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_CAPABILITIES = {"bf16": "BF16"}  # fp16 is a form of file as well, which any device reads
_QUANTISED = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")


@functools.cache
def _core() -> Any:
    """The one `Core` of this process, its CPU plugin loaded for good.

    A plugin gives the thread a stack for signals and takes it away when it goes (2026.4). Of two that go in the order
    in which they came, the second gives the thread the first one's back, which is gone: the next signal that a handler
    waits for, Ctrl-C or the end of a worker, is a SIGSEGV.
    """
    import openvino

    core = openvino.Core()
    if "CPU" in core.available_devices:
        core.get_property("CPU", "FULL_DEVICE_NAME")
    return core


class _StackT(ctypes.Structure):  # sigaltstack(2)
    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


@contextmanager
def _signal_stack_kept() -> Iterator[None]:
    """For a block in which a library makes `Core`s of its own: the thread has its stack for signals back afterwards."""
    if sys.platform != "linux":
        yield
        return
    libc, before = ctypes.CDLL(None), _StackT()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        gc.collect()  # plugins that are held by cycles would take it away later
        libc.sigaltstack(ctypes.byref(before), None)


class Compiled(FromFile):
    """A file compiled for a device."""

    def __init__(self, network: Network, setting: Setting) -> None:
        core = _core()
        self.network, self.setting = network, setting
        self.device = setting.device.upper()
        dtype = setting.dtype
        if dtype == "int8":  # OpenVINO's own choice for what is not in int8; a GPU keeps fp32
            dtype = "bf16" if setting.device == "cpu" and _capable(self.device, "bf16") else "fp32"
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _HINTS[dtype], "PERFORMANCE_HINT": "LATENCY"}
        if setting.device == "cpu":
            options["INFERENCE_NUM_THREADS"] = setting.threads or torch.get_num_threads()
        self.model = core.compile_model(str(network.file), self.device, options)
        self.beside = [given.partial_shape[1].get_length() for given in self.model.inputs[1:]]
        self.name = str(core.get_property(self.device, "FULL_DEVICE_NAME"))

    def run(self, given: dict[str, Array]) -> list[Array]:
        found = self.model(given)
        return [found[i] for i in range(len(self.model.outputs))]

    def describe(self) -> Description:
        cpu = self.setting.device == "cpu"
        return Description(
            OPENVINO.name,
            OPENVINO.version,
            environment.cpu_name() if cpu else self.name,
            self.precision(),
            self.instruction_set() if cpu else None,
            self.network.size_mb(),
            self.network.error_std,
        )

    def precision(self) -> str:
        """What it computes in, which the device may choose otherwise: fp32 for lack of bf16, bf16 in place of fp16."""
        served = str(self.model.get_property("INFERENCE_PRECISION_HINT").to_string())
        found = next((dtype for dtype, hint in _HINTS.items() if hint == served), "fp32")
        if self.setting.dtype == "int8":
            return f"int8, the rest {found}"
        return found if found == self.setting.dtype else f"{found}, weights {self.setting.dtype}"

    def instruction_set(self) -> str | None:
        """The instructions of most products in the compiled network, as OpenVINO names its kernels."""
        used: Counter[str] = Counter()
        for node in self.model.get_runtime_model().get_ordered_ops():
            told = node.get_rt_info()
            kernel = told["primitiveType"].astype(str) if "primitiveType" in told else ""
            if found := re.search(
                r"(?:brgemm|brgconv|jit|gemm)_(avx\w*?|sse\w*?|asimd|sve\w*?)(?:_1x1|_dw)?_[a-z]+\d+$", kernel
            ):
                used[found[1]] += 1
        return used.most_common(1)[0][0] if used else None


def _prepare(network: Network, setting: Setting) -> Prepared:
    return Compiled(network, setting)


def _serves(device: str, dtype: str) -> str | None:
    core, name = _core(), device.upper()
    if name not in core.available_devices:
        return f"OpenVINO sees no {name} here (it has {', '.join(core.available_devices)})"
    if dtype in _CAPABILITIES and not _capable(name, dtype):
        capable = ", ".join(core.get_property(name, "OPTIMIZATION_CAPABILITIES"))
        return f"OpenVINO has no {dtype} on this {name}, it would compute in fp32 (it has {capable})"
    return None


def _capable(device: str, dtype: str) -> bool:
    return _CAPABILITIES[dtype] in _core().get_property(device, "OPTIMIZATION_CAPABILITIES")


def write(graph: Graph, path: Path, dtype: str) -> None:
    """A traced network in OpenVINO's form: weights in fp16 for fp16, else in fp32."""
    import openvino
    from openvino.frontend.pytorch import ConversionExtension

    given = graph.named()
    shapes = [[-1 if graph.any_batch else len(x), *x.shape[1:]] for x in given.values()]
    shapes[0] = [-1 if axis in graph.open_axes() else length for axis, length in enumerate(graph.x.shape)]
    script = torch.jit.trace(graph.net, graph.given, check_trace=False)  # type: ignore[no-untyped-call]
    softplus = ConversionExtension("aten::softplus", _softplus)
    model = openvino.convert_model(script, example_input=graph.given, input=shapes, extension=softplus)
    for taken, name in zip(model.inputs, given, strict=True):
        taken.get_tensor().set_names({name})
    for output, name in zip(model.outputs, names(graph.form), strict=True):
        output.get_tensor().set_names({name})
    openvino.save_model(model, path, compress_to_fp16=dtype == "fp16")


def _softplus(node: Any) -> list[Any]:
    """log(1 + exp(x)) by operators that keep its relative precision.

    OpenVINO's own SoftPlus is a tenth off at -10, where steps of a trained selective scan lie, since it takes the
    logarithm of what has become 1. For u = exp(-|x|) the logarithm of 1 + u is twice the area tangent of u / (2 + u),
    at most 1/3: seven terms of its series are enough for float32.
    """
    from openvino import opset13 as ops

    beta = float(node.get_values_from_const_input(1, 1.0, float))

    def number(value: float) -> Any:
        return ops.convert_like(ops.constant(value, np.float32), node.get_input(0))

    x = ops.multiply(node.get_input(0), number(beta))
    u = ops.exp(ops.negative(ops.abs(x)))
    s = ops.divide(u, ops.add(u, number(2)))
    square, series = ops.multiply(s, s), number(1 / 13)
    for power in range(11, 0, -2):
        series = ops.add(ops.multiply(series, square), number(1 / power))
    found = ops.add(ops.relu(x), ops.multiply(ops.multiply(s, number(2)), series))
    return ops.divide(found, number(beta)).outputs()  # type: ignore[no-any-return]


def layers(path: Path) -> list[str]:
    """The operations that can be in int8: products with weights, in the order in which they run."""
    return [
        op.get_friendly_name()
        for op in _core().read_model(path).get_ordered_ops()
        if op.get_type_name() in _QUANTISED and _is_weight(op.input_value(1).get_node())
    ]


def _is_weight(node: Any) -> bool:
    """Whether a value comes from constants alone."""
    kind = node.get_type_name()
    inputs = [node.input_value(i).get_node() for i in range(node.get_input_size())]
    return kind == "Constant" or (bool(inputs) and all(map(_is_weight, inputs)))


def quantise(source: Path, target: Path, crops: list[dict[str, Array]], in_fp: list[str]) -> None:
    """NNCF's post-training quantisation, for transformers."""
    import nncf
    import openvino

    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own way also changes handlers that it shares with others
    model = _core().read_model(source)
    with _signal_stack_kept():
        found = nncf.quantize(
            model, nncf.Dataset(crops), subset_size=len(crops), model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(names=in_fp) if in_fp else None,
        )  # fmt: skip
    openvino.save_model(found, target, compress_to_fp16=False)


OPENVINO = Runtime(
    "openvino", ("openvino",), _prepare, devices=("cpu", "gpu"), dtypes=("fp32", "bf16", "fp16", "int8"),
    install="pip install 'hmrbench[openvino]'", suffix=".xml", write=write, quantise=quantise, layers=layers,
    serves=_serves,
)  # fmt: skip
RUNTIMES = (OPENVINO,)
