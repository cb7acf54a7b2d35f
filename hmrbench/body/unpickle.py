"""Reads the pickles in which SMPL is published, without chumpy, scipy or running anything in them.

The official files were written by Python 2 and hold numpy arrays, scipy's sparse matrices and chumpy's arrays. Layout
of the objects: chumpy (`Ch` keeps its array as `x`; `Select` picks `idxs` of the flattened `a` and gives them
`preferred_shape`; repository mattloper/chumpy, MIT licence), numpy and scipy pickling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_array

from hmrbench.errors import DataError
from hmrbench.files import describe_content, read_bytes
from hmrbench.files.pickled_data import DATA_RULES, Plain, Rule, read_data
from hmrbench.files.unpickle import Kept, Name
from hmrbench.records import Array

MAX_PICKLE = 1 << 30  # the largest official one, text of Python 2, has a quarter of it

# A sparse matrix from its shape, its values and their rows and columns
Made = Callable[[tuple[int, int], Array, tuple[Array, Array], Plain], Any]


def read_pickle(path: Path) -> Any:
    """What is in a pickle: a numpy array, or a dict of numpy arrays and texts; other values are left out.

    Raises:
        DataError: the file is missing, truncated, too large, no pickle, or names anything that is not on the list.
    """
    data = read_bytes(path, "a body file", MAX_PICKLE)
    try:
        if kind := describe_content(data[:512]):
            raise DataError(f"cannot be read, it is {kind}")
        content = read_data(data, _RULES, _BYSTANDERS)
    except DataError as e:
        raise DataError(f"{path}: {e}") from None
    if isinstance(content, dict):
        return {str(key): value for key, value in content.items() if _is_numbers(value) or isinstance(value, str)}
    return content if _is_numbers(content) else None


def read_sparse(data: bytes) -> Any:
    """What is in a pickle of arrays and scipy's sparse matrices, the latter as `coo_array`.

    Raises:
        DataError: truncated, or it names anything that is not on the list; does not name the file.
    """
    return read_data(data, _SPARSE_RULES, _BYSTANDERS)


def _is_numbers(x: object) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind in "biufc"


def _need(x: Any, plain: Plain) -> Array:
    array: Any = plain(x)
    if isinstance(array, list):
        plain.spend(8 * len(array))
        array = np.asarray(array)
    if not _is_numbers(array):
        raise DataError("cannot be read, an array is missing inside a chumpy or sparse array")
    return np.asarray(array)


def _state(note: Kept, plain: Plain) -> dict[Any, Any]:
    """The attributes of a pickled object."""
    state = note.state[0] if isinstance(note.state, tuple) and note.state else note.state
    if not isinstance(state, dict):
        raise DataError("cannot be read, an object in the pickle is damaged (no attributes)")
    plain.spend(64 * len(state))
    return {k.decode("latin1") if isinstance(k, bytes) else k: v for k, v in state.items()}


def _chumpy(note: Kept, plain: Plain) -> Any:
    state = _state(note, plain)
    if "x" in state:  # chumpy.ch.Ch
        return plain(state["x"])
    if "a" not in state or "idxs" not in state:
        return None
    source, indices = _need(state["a"], plain).ravel(), _need(state["idxs"], plain)
    plain.spend(indices.size * source.itemsize + source.nbytes)
    picked: Array = source[indices]
    return picked.reshape(state["preferred_shape"]) if "preferred_shape" in state else picked


def _old_object(note: Kept, plain: Plain) -> Any:
    """`copy_reg._reconstructor(class, ...)` makes an object of the class."""
    cls = note.args[0] if note.args else None
    if not isinstance(cls, Kept) or cls.name not in _RULES:
        return None
    made = Kept(cls.name, ())
    made.state = note.state
    return plain(made) if note.state is not None else None


def _compressed(note: Kept, plain: Plain, made: Made) -> Any:
    """csr and csc matrices: values, their columns (rows), and where each row (column) begins."""
    state = _state(note, plain)
    data, indices, starts = (_need(state[key], plain) for key in ("data", "indices", "indptr"))
    by_row = "csr" in note.name[1]
    shape = state["_shape"] if "_shape" in state else state["shape"]
    counts = np.diff(starts)
    whole = data.ndim == indices.ndim == starts.ndim == 1 and indices.dtype.kind in "iu" and starts.dtype.kind in "iu"
    lines = shape[0 if by_row else 1] if isinstance(shape, tuple) and len(shape) == 2 else -1
    if not whole or len(starts) != lines + 1 or (counts < 0).any() or starts[0] != 0 or starts[-1] != len(data):
        raise DataError("cannot be read, the pointers of a sparse matrix do not fit its values")
    plain.spend(8 * len(data))
    major = np.repeat(np.arange(len(counts)), counts)
    return _filled(state, data, (major, indices) if by_row else (indices, major), plain, made)


def _coordinates(note: Kept, plain: Plain, made: Made) -> Any:
    """coo matrices: values and where each stands."""
    state = _state(note, plain)
    data = _need(state["data"], plain)
    pair = state["coords"] if "coords" in state else (state["row"], state["col"])
    row, column = (_need(x, plain) for x in pair)
    return _filled(state, data, (row, column), plain, made)


def _lists(note: Kept, plain: Plain, made: Made) -> Any:
    """lil matrices: of each row a list of columns and one of values."""
    state = _state(note, plain)
    rows, values = plain(state["rows"]), plain(state["data"])
    plain.spend(32 * sum(len(columns) + len(line) for columns, line in zip(rows, values, strict=True)))
    row = [i for i, columns in enumerate(rows) for _ in columns]
    column = [c for columns in rows for c in columns]
    data = np.array([v for line in values for v in line], np.float64)
    return _filled(state, data, (np.array(row, np.int64), np.array(column, np.int64)), plain, made)


def _filled(state: dict[Any, Any], data: Array, places: tuple[Array, Array], plain: Plain, made: Made) -> Any:
    """A matrix of values and where each stands, once these fit its shape."""
    shape = state["_shape"] if "_shape" in state else state["shape"]
    if not isinstance(shape, tuple) or len(shape) != 2 or any(type(n) is not int or n < 0 for n in shape):
        raise DataError(f"cannot be read, a sparse matrix has the shape {str(shape)[:80]}")
    for index, size in zip(places, shape, strict=True):
        if index.shape != data.shape or index.dtype.kind not in "iu" or (index < 0).any() or (index >= size).any():
            raise DataError("cannot be read, a sparse matrix has values outside its shape")
    return made(shape, data, places, plain)


def _dense(shape: tuple[int, int], data: Array, places: tuple[Array, Array], plain: Plain) -> Array:
    plain.spend(math.prod(shape) * data.dtype.itemsize)
    dense = np.zeros(shape, data.dtype)
    np.add.at(dense, places, data)
    return dense


def _sparse(shape: tuple[int, int], data: Array, places: tuple[Array, Array], plain: Plain) -> coo_array:
    plain.spend(3 * data.nbytes)
    return coo_array((data, places), shape=shape)


def _rules(made: Made) -> dict[Name, Rule]:
    rules: dict[Name, Rule] = {**DATA_RULES, ("chumpy.ch", "Ch"): _chumpy, ("chumpy.reordering", "Select"): _chumpy}
    kinds = {"csc": _compressed, "csr": _compressed, "coo": _coordinates, "lil": _lists}
    for kind, rule in kinds.items():
        for module in ("scipy.sparse", f"scipy.sparse.{kind}", f"scipy.sparse._{kind}"):
            rules |= {(module, f"{kind}_{form}"): partial(rule, made=made) for form in ("matrix", "array")}
    return rules | {(module, "_reconstructor"): _old_object for module in ("copyreg", "copy_reg")}


_RULES = _rules(_dense)
_SPARSE_RULES = _rules(_sparse)
_BYSTANDERS = (("builtins", "object"), ("__builtin__", "object"))
