"""PyTorch itself: eager, through torch.compile, or as a CUDA graph; half precisions by autocast."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from hmrbench import device as devices
from hmrbench.nets.fusion import fuse, unfold
from hmrbench.runtimes.runtime import Description, Network, Prepared, Runtime, Setting, instruction_set


class PyTorch:
    """The network on its device. As a CUDA graph it runs plainly the first time, and is captured the second."""

    def __init__(self, network: Network, setting: Setting) -> None:
        assert network.net is not None
        self.setting, self.device = setting, setting.place
        net = network.net.to(self.device).eval()
        fuse(net, setting.fused)
        self.net = net.to(memory_format=torch.channels_last) if setting.channels_last else net
        self.forward: Callable[..., Any] = torch.compile(self.net) if setting.compile else self.net
        self.to_capture = -1
        self.stack = ExitStack()

    def __enter__(self) -> PyTorch:
        self.stack.enter_context(torch.inference_mode())
        self.stack.enter_context(_threads(self.setting.threads))
        self.stack.enter_context(devices.precision(self.setting.dtype, self.device))
        if self.device.type == "cuda":  # events, streams and graphs are of the current device
            self.stack.enter_context(torch.cuda.device(self.device))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()
        unfold(self.net)  # its weights may change, as they do in training

    def __call__(self, x: Tensor, *more: Tensor) -> Any:
        if self.setting.cuda_graph and not more:
            self.to_capture += 1
            if self.to_capture == 1:
                self.forward = graphed(self.forward, x)
        return self.forward(x, *more)

    def describe(self) -> Description:
        dtype = self.setting.dtype
        return Description(
            PYTORCH.name,
            PYTORCH.version,
            devices.device_name(self.device),
            f"{dtype} autocast" if dtype in ("bf16", "fp16") else dtype,
            instruction_set(self.device.type if self.device.index is None else str(self.device), dtype),
        )


def graphed(forward: Callable[[Tensor], Any], x: Tensor) -> Callable[[Tensor], Any]:
    """The forward as a CUDA graph, warmed up on a stream of its own as capturing demands."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            forward(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = forward(x)

    def replay(given: Tensor) -> Any:
        if given.shape != x.shape:
            return forward(given)
        if given is not x:
            x.copy_(given)
        graph.replay()
        return output

    return replay


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prepare(network: Network, setting: Setting) -> Prepared:
    """The network on its device, with what the setting asks for."""
    return PyTorch(network, setting)


PYTORCH = Runtime("pytorch", ("torch",), prepare, devices=(), dtypes=("fp32", "tf32", "bf16", "fp16"))
RUNTIMES = (PYTORCH,)
