"""Multiply-adds (MACs) and activations: fvcore's count, with what it misses, held against PyTorch's own.

fvcore (facebookresearch/fvcore, Apache-2.0) traces one forward and prices every operator. Its conventions
hold: one multiply-add is 1; convolutions and matrix products count without their bias; a norm costs 5 per
element (4 without weights), an evaluation-mode BatchNorm 2 (1); upsampling, adaptive pooling and grid
sampling a few per element; other element-wise work nothing. Added here: attention at its two matrix products,
fused or not; matrix products that broadcast; einsum at the products that it becomes; VMamba's selective scan
at the official price, 9 B L D N + B L D. Activations are the elements that convolutions and matrix products
put out, of attention both scores and result.

The tensors are on the meta device, so that nothing is computed, and networks count without their short cuts
(`nets.fusion`), whatever they run with. The count is held against that of
torch.utils.flop_counter, which sees other operators by other means: those below autograd, where attention has
fallen apart into products.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from hmrbench.errors import said
from hmrbench.nets.encoders.selective_scan import selective_scan_macs
from hmrbench.nets.fusion import fuse

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # fvcore compiles losses when it is imported
    from fvcore.nn import FlopCountAnalysis
    from fvcore.nn.jit_handles import conv_flop_jit

TOLERANCE = 0.01  # the two counters may differ by this before it is reported

# What costs nothing by fvcore's convention: moving data, and a few steps per element. An operator that stands
# neither here nor among the counted ones is reported by name.
_MOVING = """
    Float Int ScalarImplicit _cast_Float _cast_Half _shape_as_tensor _to_copy alias arange as_strided
    broadcast_tensors broadcast_to cat chunk clone concat constant_pad_nd contiguous copy detach diagonal
    dropout empty empty_like expand expand_as eye feature_dropout fill flatten flip full full_like gather
    index index_add index_put index_select is_nonzero item lift_fresh linspace mT masked_fill matrix_H
    meshgrid moveaxis movedim narrow new_empty new_full new_ones new_zeros nonzero numpy_T ones ones_like
    pad permute pixel_shuffle pixel_unshuffle reflection_pad2d repeat repeat_interleave replication_pad2d
    reshape reshape_as resolve_conj roll scalar_tensor scatter scatter_add select size slice split
    split_with_sizes squeeze stack swapaxes swapdims t take tensor_split tile to transpose tril triu
    type_as unbind unflatten unfold unsqueeze view view_as where zeros zeros_like
"""
_ELEMENTWISE = """
    __and__ __or__ abs add addcdiv addcmul all amax amin any argmax argmin atan2 avg_pool1d avg_pool2d
    avg_pool3d bitwise_and bitwise_not bitwise_or ceil celu clamp clamp_max clamp_min cos cumsum div elu
    eq erf exp exp2 expm1 floor floor_divide ge gelu glu gt hardsigmoid hardswish hardtanh le leaky_relu
    linalg_cross linalg_norm linalg_vector_norm log log1p log2 log_sigmoid log_softmax logical_and
    logical_not logical_or logsumexp lt max max_pool1d max_pool2d max_pool3d maximum mean min minimum mish
    mul ne neg norm pow prelu reciprocal relu relu6 remainder round rsqrt rsub selu sigmoid sign silu sin
    softmax softplus sqrt square std std_mean sub sum tan tanh topk trunc upsample_nearest1d
    upsample_nearest3d var var_mean
    linalg_det linalg_svd roi_align
"""
# The last three are of single 3x3 rotations and of pooled regions: official counts leave them out too.
FREE = frozenset((_MOVING + _ELEMENTWISE).split())
_CONVOLUTIONS = {"conv"}
# The products that both counters know; that of a matrix and a vector, PyTorch's must be told.
_PRODUCTS = frozenset(("linear", "matmul", "addmm", "mm", "bmm", "baddbmm", "mv", "dot", "einsum", "attention"))
_TOLD = dict.fromkeys((torch.ops.aten.mv, torch.ops.aten.dot), lambda a, b, **_: 2 * prod(a))
_ACTIVATIONS = "activations"  # travels with the MACs through fvcore, which adds up whatever has a name

Handle = Callable[[list[Any], list[Any]], Any]


@dataclass(frozen=True)
class Costs:
    """What one forward of one network costs.

    `by_module` maps a module's dotted name to its parameters and MACs, those of the modules in it included.
    `uncounted` maps operators that nobody has a price for to how often they ran. `disagreements` says where
    fvcore and PyTorch's counter differ by more than 1 %. `counted_on` is the device: meta, unless the network
    needs data to run; `not_on_meta` is then the error that it made there.
    """

    macs: int
    activations: int
    by_operator: Mapping[str, int]
    by_module: Mapping[str, tuple[int, int]]
    uncounted: Mapping[str, int] = field(default_factory=dict)
    disagreements: tuple[str, ...] = ()
    counted_on: str = "meta"
    not_on_meta: str | None = None


def count(net: nn.Module, input_shape: Sequence[int]) -> Costs:
    """MACs and activations of one forward in evaluation mode; the network is left as it is.

    Args:
        net: maps one float tensor to a tensor, or to a tuple, list or dict of them; on any device.
        input_shape: of that tensor, (B, 3, H, W).

    Raises:
        Exception: whatever the network, or the tracer that looks into it, makes of a forward with data.
    """
    _fill_gap_of_meta_device()
    try:
        return _count(_twin(net, "meta"), torch.empty(*input_shape, device="meta"))
    except Exception as e:
        device = next((t.device for t in (*net.parameters(), *net.buffers())), torch.device("cpu"))
        if device.type == "meta":
            raise
        # A network that looks at numbers, or holds tensors of its own, does not run without data.
        costs = _count(_twin(net), torch.zeros(*input_shape, device=device))
        return replace(costs, not_on_meta=said(e))


@cache
def _fill_gap_of_meta_device() -> None:
    """Give the meta device the operator that `_convolution` comes down to there, which PyTorch before 2.12 lacks."""
    x = torch.empty(1, 1, 1, 1, device="meta")
    try:
        torch._convolution(x, x, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, False, False, False, False)
    except NotImplementedError:
        kernel = torch.ops.aten.convolution.default
        _ATEN.impl("convolution_overrideable", kernel, "Meta")  # type: ignore[no-untyped-call]


_ATEN = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]  # what it registers lasts as long as it


def _twin(net: nn.Module, device: str | None = None) -> nn.Module:
    """A plain copy with the same parameters and buffers, or with some on the meta device, which take no memory."""
    shared: dict[int, Any] = {}
    for tensor in (*net.parameters(), *net.buffers()):
        other = tensor if device is None else torch.empty_like(tensor, device=device)
        is_parameter = isinstance(tensor, nn.Parameter)
        shared[id(tensor)] = nn.Parameter(other, requires_grad=False) if is_parameter and device else other
    twin = copy.deepcopy(net, shared).eval()
    fuse(twin, False)
    return twin


def _count(net: nn.Module, x: Tensor) -> Costs:
    analysis = FlopCountAnalysis(_Plain(net), x)
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
    analysis.set_op_handle(**_handles())
    with x.device, torch.no_grad(), _mha_slow_path(), _RecordedConvolutions():
        raw = analysis.by_module_and_operator()
    counts = {name.removeprefix("net."): found for name, found in raw.items() if name != "net"}
    with (
        x.device,
        torch.no_grad(),
        _mha_slow_path(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False, custom_mapping=_TOLD) as other,
    ):
        net(x)
    total = {k: int(v) for k, v in counts[""].items()}
    activations = total.pop(_ACTIVATIONS, 0)
    sizes = {name: sum(p.numel() for p in m.parameters()) for name, m in net.named_modules()}
    return Costs(
        macs=sum(total.values()),
        activations=activations,
        by_operator=total,
        by_module={n: (size, _macs(counts.get(n, {}))) for n, size in sizes.items()},
        uncounted={op: n for op, n in sorted(analysis.unsupported_ops().items()) if not _is_free(op)},
        disagreements=_disagreements(total, other.get_flop_counts().get("Global", {})),
        counted_on=x.device.type,
    )


def _macs(counts: Mapping[str, float]) -> int:
    return int(sum(n for name, n in counts.items() if name != _ACTIVATIONS))


class _Plain(nn.Module):
    """The network with a flat tuple of tensors as output, which the tracer asks for."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors(self.net(x)))


def tensors(output: Any) -> list[Tensor]:
    """All tensors in what a network puts out."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    return [t for part in parts for t in tensors(part)]


def _is_free(operator: str) -> bool:
    namespace, _, name = operator.partition("::")
    return namespace in ("aten", "torchvision") and (name in FREE or name.rstrip("_") in FREE)


# --------------------------------------------------------------------------- prices


def _shape(value: Any) -> list[int]:
    sizes: list[int] = value.type().sizes()
    return sizes


def _product(inner: Callable[[list[Any]], int]) -> Callable[[list[Any], list[Any]], int]:
    """A matrix product: each element put out is a sum of `inner` products."""
    return lambda inputs, outputs: prod(_shape(outputs[0])) * inner(inputs)


def _attention_parts(inputs: list[Any], outputs: list[Any]) -> tuple[int, int, int]:
    """MACs of q (..., L, E) times k (..., S, E), MACs of scores times v (..., S, F), number of scores."""
    query, keys, out = _shape(inputs[0]), _shape(inputs[1])[-2], _shape(outputs[0])
    return prod(query) * keys, prod(out) * keys, prod(query[:-1]) * keys


def _einsum_macs(inputs: list[Any], outputs: list[Any]) -> int:
    operands = [torch.empty(_shape(v), device="meta") for v in inputs[1].node().inputs()]
    with FlopCounterMode(display=False) as counter:
        torch.einsum(inputs[0].toIValue(), *operands)
    return int(counter.get_total_flops()) // 2


def _scan_macs(inputs: list[Any], outputs: list[Any]) -> int:
    batch, lanes, steps = _shape(inputs[0])
    return selective_scan_macs(batch, steps, lanes, _shape(inputs[2])[1])


def _priced(name: str, macs: Callable[[list[Any], list[Any]], int]) -> Handle:
    """A handle that counts MACs under a name, and the elements put out."""
    return lambda inputs, outputs: Counter({name: macs(inputs, outputs), _ACTIVATIONS: prod(_shape(outputs[0]))})


def _attention(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
    scores_macs, result_macs, scores = _attention_parts(inputs, outputs)
    return Counter(attention=scores_macs + result_macs, activations=scores + prod(_shape(outputs[0])))


def _convolution_macs(inputs: list[Any], outputs: list[Any]) -> int:
    counted: Counter[str] = conv_flop_jit(inputs, outputs)
    return counted["conv"]


def _handles() -> dict[str, Handle]:
    """Operator -> handle, of what puts out activations; fvcore's own stay for norms, pooling and sampling."""
    last = _product(lambda inputs: _shape(inputs[0])[-1])
    after_bias = _product(lambda inputs: _shape(inputs[1])[-1])
    products: dict[str, Callable[[list[Any], list[Any]], int]] = {
        **dict.fromkeys(("linear", "matmul", "mm", "bmm", "mv", "dot"), last),
        **dict.fromkeys(("addmm", "baddbmm", "addmv"), after_bias),
        "addbmm": _product(lambda inputs: _shape(inputs[1])[0] * _shape(inputs[1])[-1]),
        "einsum": _einsum_macs,
    }
    fused = "flash_attention flash_attention_for_cpu efficient_attention cudnn_attention attention_math"
    attention = [f"_scaled_dot_product_{kind}" for kind in (*fused.split(), "fused_attention_overrideable")]
    return {
        "aten::_convolution": _priced("conv", _convolution_macs),
        "aten::_convolution_mode": _priced("conv", _product(lambda inputs: prod(_shape(inputs[1])[1:]))),
        **{f"aten::{name}": _priced(name, macs) for name, macs in products.items()},
        **{f"aten::{name}": _attention for name in ("scaled_dot_product_attention", *attention)},
        "hmrbench::selective_scan": lambda i, o: Counter(selective_scan=_scan_macs(i, o)),
    }


# --------------------------------------------------------------------------- the second opinion


def _disagreements(counted: Mapping[str, int], other: Mapping[Any, int]) -> tuple[str, ...]:
    """Where they differ by more than 1 %, convolutions and other products apart; only one counts norms."""
    theirs = {str(op).removeprefix("aten."): flops // 2 for op, flops in other.items()}
    convolutions = {op: n for op, n in theirs.items() if "conv" in op}
    products = {op: n for op, n in theirs.items() if op not in convolutions}
    found = []
    for kind, names, there in (
        ("convolutions", _CONVOLUTIONS, convolutions),
        ("matrix products", _PRODUCTS, products),
    ):
        here = {op: n for op, n in counted.items() if op in names}
        a, b = sum(here.values()), sum(there.values())
        if abs(a - b) > TOLERANCE * max(a, b):
            found.append(f"{kind}: {a:,} MACs by fvcore ({_listed(here)}), {b:,} by PyTorch ({_listed(there)})")
    return tuple(found)


def _listed(parts: Mapping[str, int]) -> str:
    return ", ".join(f"{op} {n:,}" for op, n in sorted(parts.items(), key=lambda item: -item[1])) or "none"


# --------------------------------------------------------------------------- tracing


@contextmanager
def _mha_slow_path() -> Iterator[None]:
    """nn.MultiheadAttention by its separate operators, not by one fused one that hides them."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


_DIMENSIONS = {
    **{getattr(torch, f"conv{n}d"): n for n in (1, 2, 3)},
    **{getattr(torch, f"conv_transpose{n}d"): n for n in (1, 2, 3)},
}
_FORWARD = inspect.signature(lambda x, w, bias=None, stride=1, padding=0, dilation=1, groups=1: None)
_TRANSPOSED = inspect.signature(
    lambda x, w, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1: None
)


class _RecordedConvolutions(TorchFunctionMode):
    """Calls `_convolution` where a network calls `conv2d` and its like.

    The tracer records `_convolution`, to which a convolution comes down on a CPU. On the meta device it does
    not get there: `convolution` answers in Python, is not recorded, and trips over the tracer's sizes.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        dimensions = _DIMENSIONS.get(func) if callable(func) and getattr(func, "__hash__", None) else None
        if dimensions is None:
            return func(*args, **kwargs)
        transposed = "transpose" in func.__name__
        names = {"input": "x", "weight": "w"}
        given = (_TRANSPOSED if transposed else _FORWARD).bind(*args, **{names.get(k, k): v for k, v in kwargs.items()})
        given.apply_defaults()
        v = given.arguments
        if isinstance(v["padding"], str) or v["x"].dim() != dimensions + 2:  # recorded as something else
            return func(*args, **kwargs)

        def sizes(name: str) -> list[int]:
            value = v.get(name, 0)
            values = [value] if isinstance(value, int) else list(value)
            return values * dimensions if len(values) == 1 else values

        return torch._convolution(
            v["x"], v["w"], v["bias"], sizes("stride"), sizes("padding"), sizes("dilation"), transposed,
            sizes("output_padding"), v["groups"], False, False, False, False,
        )  # fmt: skip
