"""LiteRT on the CPU; files in TensorFlow Lite's form, which others write: `NAME.tflite`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hmrbench import device as devices
from hmrbench.errors import UsageError
from hmrbench.records import Array
from hmrbench.runtimes.runtime import Description, FromFile, Network, Prepared, Runtime, Setting, instruction_set


class Interpreter(FromFile):
    """A file in LiteRT's interpreter. It takes pictures one by one, in the layout that the file has."""

    def __init__(self, network: Network, setting: Setting) -> None:
        from ai_edge_litert.interpreter import Interpreter as Reader

        self.network, self.setting = network, setting
        threads = setting.threads or torch.get_num_threads()
        self.reader: Any = Reader(model_path=str(network.file), num_threads=threads)
        self.reader.allocate_tensors()
        self.input = self.reader.get_input_details()[0]
        self.outputs = [detail["index"] for detail in self.reader.get_output_details()]
        self.channels_last = int(self.input["shape"][-1]) == 3

    def run(self, given: dict[str, Array]) -> list[Array]:
        found, images = [], given["images"]
        for image in images.transpose(0, 2, 3, 1) if self.channels_last else images:
            self.reader.set_tensor(self.input["index"], np.ascontiguousarray(image[None]))
            self.reader.invoke()
            found.append([self.reader.get_tensor(index) for index in self.outputs])
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def describe(self) -> Description:
        return Description(
            LITERT.name,
            LITERT.version,
            devices.device_name(self.setting.place),
            "fp32",
            instruction_set("cpu", "fp32"),
            self.network.size_mb(),
        )


def prepare(network: Network, setting: Setting) -> Prepared:
    """A file in an interpreter.

    Raises:
        UsageError: there is no file: nothing here writes one of PyTorch's network.
    """
    if network.file is None:
        raise UsageError("litert runs .tflite files, which hmrbench does not write; onnxruntime and openvino run all")
    return Interpreter(network, setting)


LITERT = Runtime("litert", ("ai-edge-litert",), prepare, install="pip install ai-edge-litert", suffix=".tflite")
RUNTIMES = (LITERT,)
