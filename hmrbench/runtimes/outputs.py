"""What networks are given and put out, as files name it: flat lists of tensors, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from hmrbench.errors import HmrbenchError

INPUTS = ("images", "box")  # the names of what a network is given: pictures, and of a few numbers of each box

# None for a tensor, a list of forms for a tuple, a dict of forms by name: JSON holds it as it is.
Form: TypeAlias = Any


def flatten(output: Any) -> tuple[list[Tensor], Form]:
    """All tensors in an output, in order, and the form by which `unflatten` puts them together again.

    Raises:
        HmrbenchError: it holds something that is no tensor, tuple, list or mapping.
    """
    if isinstance(output, Tensor):
        return [output], None
    if isinstance(output, Mapping):
        parts = [flatten(value) for value in output.values()]
        form: Form = {str(name): part[1] for name, part in zip(output, parts, strict=True)}
    elif isinstance(output, (tuple, list)):
        parts = [flatten(value) for value in output]
        form = [part[1] for part in parts]
    else:
        raise HmrbenchError(f"a network that puts out a {type(output).__name__} cannot be exported")
    return [tensor for part in parts for tensor in part[0]], form


def unflatten(tensors: Sequence[Tensor], form: Form) -> Any:
    """The inverse of `flatten`; what was a list comes back as a tuple."""
    rest = iter(tensors)
    return _built(rest, form)


def _built(rest: Iterator[Tensor], form: Form) -> Any:
    if form is None:
        return next(rest)
    if isinstance(form, Mapping):
        return {name: _built(rest, inner) for name, inner in form.items()}
    return tuple(_built(rest, inner) for inner in form)


def names(form: Form, name: str = "output") -> list[str]:
    """A name for each tensor of the list: `output`, or the way to it, such as `cam` or `output_0`."""
    if form is None:
        return [name]
    head = "" if name == "output" else f"{name}."
    if isinstance(form, Mapping):
        return [n for key, inner in form.items() for n in names(inner, f"{head}{key}")]
    return [n for i, inner in enumerate(form) for n in names(inner, f"{name}_{i}")]
