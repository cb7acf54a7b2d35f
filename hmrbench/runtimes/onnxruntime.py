"""ONNX Runtime on the CPU, on CUDA, and on TensorRT as its provider; files in ONNX."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hmrbench import device as devices
from hmrbench.records import Array
from hmrbench.runtimes.outputs import names
from hmrbench.runtimes.runtime import Description, FromFile, Network, Prepared, Runtime, Setting, instruction_set
from hmrbench.runtimes.trace import Graph

OPSET = 17  # the first with LayerNormalization
_LARGE = 2**31 - 2**20  # bytes of weights that one protocol buffer cannot hold
_QUANTISED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class Session(FromFile):
    """A file in a session of ONNX Runtime."""

    def __init__(self, network: Network, setting: Setting, runtime: Runtime, provider: str) -> None:
        import onnxruntime

        self.network, self.setting, self.runtime, self.provider = network, setting, runtime, provider
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = setting.threads or torch.get_num_threads()
        options.log_severity_level = 3
        first = [] if provider == _PROVIDERS["cpu"] else [(provider, {"device_id": setting.place.index or 0})]
        self.session = onnxruntime.InferenceSession(str(network.file), options, providers=[*first, _PROVIDERS["cpu"]])
        self.beside = [given.shape[1] for given in self.session.get_inputs()[1:]]

    def run(self, given: dict[str, Array]) -> list[Array]:
        found: list[Array] = self.session.run(None, given)
        return found

    def describe(self) -> Description:
        place = self.setting.place
        return Description(
            self.runtime.name,
            f"{self.runtime.version}, {self.provider}",
            devices.device_name(place),
            self.setting.dtype,
            instruction_set(self.setting.device, self.setting.dtype),
            self.network.size_mb(),
            self.network.error_std,
        )


def _prepare(network: Network, setting: Setting) -> Prepared:
    return Session(network, setting, ONNXRUNTIME, _PROVIDERS[setting.device.partition(":")[0]])


def _prepare_tensorrt(network: Network, setting: Setting) -> Prepared:
    return Session(network, setting, TENSORRT, "TensorrtExecutionProvider")


def _serves(device: str, dtype: str) -> str | None:
    return _has(_PROVIDERS[device.partition(":")[0]])


def _serves_tensorrt(device: str, dtype: str) -> str | None:
    return _has("TensorrtExecutionProvider")


def _has(provider: str) -> str | None:
    import onnxruntime

    known = onnxruntime.get_available_providers()
    if provider in known:
        return None
    return f"this ONNX Runtime has no {provider} (it has {', '.join(known)}): pip install onnxruntime-gpu"


def write(graph: Graph, path: Path, dtype: str) -> None:
    """A traced network as ONNX; weights above 2 GB lie beside it in `NAME.onnx.data`.

    In fp16 its input and outputs stay fp32.
    """
    import onnx

    outputs, inputs = names(graph.form), graph.named()
    batch = {0: "batch"} if graph.any_batch else {}
    axes = {"images": graph.open_axes(), **dict.fromkeys((*list(inputs)[1:], *outputs), batch)}
    # There is a newer exporter, which takes ten times as long and cannot leave the batch of Swin's windows open.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        first = Path(folder) / path.name
        torch.onnx.export(
            graph.net, graph.given, str(first), dynamo=False, opset_version=OPSET, input_names=list(inputs),
            output_names=outputs, dynamic_axes={name: open_axes for name, open_axes in axes.items() if open_axes},
        )  # fmt: skip
        model = onnx.load(first)
    if dtype == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=model.ByteSize() > _LARGE)
    save(model, path)


def save(model: Any, path: Path) -> None:
    """Write a model, its weights beside it where one file cannot hold them."""
    import onnx

    held = sum(len(t.raw_data) for t in model.graph.initializer)
    beside = held > _LARGE
    onnx.save(model, path, save_as_external_data=beside, location=f"{path.name}.data" if beside else None)


def layers(path: Path) -> list[str]:
    """The nodes that can be in int8: products with weights, in the order in which they run."""
    import onnx

    graph = onnx.load(path, load_external_data=False).graph
    weights = {t.name for t in graph.initializer}
    return [n.name for n in graph.node if n.op_type in _QUANTISED and len(n.input) > 1 and n.input[1] in weights]


class _Crops:
    """Crops as ONNX Runtime's calibration reads them."""

    def __init__(self, crops: Sequence[dict[str, Array]]) -> None:
        self.rest = iter(crops)

    def get_next(self) -> dict[str, Array] | None:
        return next(self.rest, None)


def quantise(source: Path, target: Path, crops: list[dict[str, Array]], in_fp: list[str]) -> None:
    """Static quantisation: activations in 8 bits, weights per channel in 7, since 8 overflow on CPUs without VNNI."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    logging.getLogger().setLevel(logging.getLogger().level or logging.WARNING)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        inferred = Path(folder) / "inferred.onnx"
        quant_pre_process(str(source), str(inferred), skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            str(inferred), str(target), _Crops(crops), quant_format=QuantFormat.QDQ, op_types_to_quantize=_QUANTISED,
            per_channel=True, reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            nodes_to_exclude=in_fp, calibrate_method=CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": True},
        )  # fmt: skip


_PACKAGE = ("onnxruntime", "onnxruntime-gpu")
_INSTALL = "pip install 'hmrbench[onnx]', on a GPU also onnxruntime-gpu in place of onnxruntime"
ONNXRUNTIME = Runtime(
    "onnxruntime", _PACKAGE, _prepare, devices=("cpu", "cuda"), dtypes=("fp32", "fp16", "int8"), install=_INSTALL,
    packages=("onnx",), suffix=".onnx", write=write, quantise=quantise, layers=layers, serves=_serves,
)  # fmt: skip
TENSORRT = Runtime(
    "tensorrt", _PACKAGE, _prepare_tensorrt, devices=("cuda",), dtypes=("fp32", "fp16", "int8"),
    install="pip install onnxruntime-gpu tensorrt onnx", packages=("tensorrt", "onnx"), suffix=".onnx", write=write,
    quantise=quantise, layers=layers, serves=_serves_tensorrt,
)  # fmt: skip
RUNTIMES = (ONNXRUNTIME, TENSORRT)
