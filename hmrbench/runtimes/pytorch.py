"""PyTorch itself: eager, through torch.compile, or as a CUDA graph; half precisions by autocast."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from hmrbench import device as devices
from hmrbench.nets.fusion import fuse, unfold
from hmrbench.runtimes.runtime import Description, Network, Prepared, Runtime, Setting, instruction_set

_log = logging.getLogger(__name__)


class PyTorch:
    """The network on its device; its first batch is captured where it is to run as a CUDA graph."""

    def __init__(self, network: Network, setting: Setting) -> None:
        assert network.net is not None
        self.setting, self.device = setting, setting.place
        net = network.net.to(self.device).eval()
        fuse(net, setting.fused)
        self.net = net.to(memory_format=torch.channels_last) if setting.channels_last else net
        self.forward: Callable[..., Any] = torch.compile(self.net) if setting.compile else self.net
        self.to_capture = setting.cuda_graph is not False and self.device.type == "cuda" and not setting.compile
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
        if self.to_capture and not more:
            self.to_capture = False
            self.forward = graphed(self.forward, x) if self.setting.cuda_graph else checked_graph(self.forward, x)
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


def graphed(forward: Callable[..., Any], x: Tensor) -> Callable[..., Any]:
    """The forward as a CUDA graph, warmed up on a stream of its own as capturing demands.

    It takes batches of x's size or smaller, which are filled up with what was there before; others, and those with
    more inputs, run plainly. Its outputs are copies, which later batches leave alone.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            forward(x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads read pictures and decode
        output = forward(x)

    def replay(given: Tensor, *more: Tensor) -> Any:
        if more or given.shape[1:] != x.shape[1:] or len(given) > len(x):
            return forward(given, *more)
        if given is not x:
            x[: len(given)].copy_(given)
        graph.replay()
        return tree_map_only(Tensor, lambda y: (y[: len(given)] if y.ndim and len(y) == len(x) else y).clone(), output)

    return replay


def checked_graph(forward: Callable[..., Any], x: Tensor) -> Callable[..., Any]:
    """The forward as a CUDA graph if it can be captured and then gives the same; else as it was, with a warning."""
    expected = forward(x)
    try:
        graph = graphed(forward, x.clone())
        found = graph(x)
    except RuntimeError as e:  # it waits for the device, or allocates in a way that cannot be captured
        _log.warning("runs without a CUDA graph, since it could not be captured (%s)", str(e).partition("\n")[0])
        return forward
    for ours, theirs in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        if isinstance(theirs, Tensor) and not torch.allclose(
            ours, theirs, rtol=0, atol=1e-2 * float(theirs.abs().max())
        ):
            _log.warning("runs without a CUDA graph, which gave another output")
            return forward
    return graph


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
