"""Reads the pickles in which SMPL is published, without chumpy and without running anything in them.

The official files were written by Python 2 and hold numpy arrays, scipy's sparse matrices and chumpy's
arrays. Pickle is a program that may call whatever it names; here every name it may use is replaced by a
harmless stand-in that only keeps data, and every other name is an error. What the stand-ins keep is then
turned into numpy arrays.

Layout of the objects: chumpy (`Ch` keeps its array as `x`; `Select` picks `idxs` of the flattened `a` and
gives them `preferred_shape`; repository mattloper/chumpy, MIT licence), numpy and scipy pickling.
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from hmrbench.errors import DataError
from hmrbench.records import Array

_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_SPARSE_CLASSES = ("csc_matrix", "csr_matrix", "csc_array", "csr_array")
_SPARSE_MODULES = (
    "scipy.sparse.csc",
    "scipy.sparse._csc",
    "scipy.sparse.csr",
    "scipy.sparse._csr",
    "scipy.sparse",
)


def read_pickle(path: Path) -> Any:
    """What is in a pickle: a numpy array, or a dict of numpy arrays; other values are left out.

    Raises:
        DataError: the file is missing, truncated, no pickle, or names anything that is not on the list.
    """
    try:
        with path.open("rb") as file:
            content = _Reader(file, encoding="latin1").load()
        if isinstance(content, dict):
            pairs = ((key, _as_array(value)) for key, value in content.items())
            return {str(key): array for key, array in pairs if array is not None}
        return _as_array(content)
    except DataError as e:
        raise DataError(f"{path}: {e}") from None
    except Exception as e:
        # Broken pickles fail in every way there is: EOFError, UnpicklingError, KeyError, ValueError,
        # MemoryError ...
        raise DataError(f"{path}: cannot be read, it is damaged or no body file ({type(e).__name__}: {e})") from e


class _Reader(pickle.Unpickler):
    """An unpickler that finds stand-ins instead of classes and functions."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._names = _stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._names[module, name]
        except KeyError:
            raise DataError(f"refused: the pickle wants to use {module}.{name}, which no body file needs") from None

    def persistent_load(self, pid: Any) -> Any:
        raise DataError("refused: the pickle refers to objects outside the file")


class _Kept:
    """What a stand-in made: `vars()` of it is the pickled state."""


class _KeptArray(_Kept):
    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, self.shape, self.dtype, self.fortran, self.raw = state


def _fill(array: Any, raw: Any, dtype: Any, shape: Any, order: str) -> Any:
    array.__setstate__((1, shape, dtype, order == "F", raw))
    return array


class _KeptSparse(_Kept):
    pass


class _KeptDtype(_Kept):
    def __init__(self, spec: str, *_: Any) -> None:
        self.spec, self.order = spec, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _stand_ins() -> dict[tuple[str, str], Any]:
    """Names a body file may use; made anew for each file, since a hostile one may change these classes."""
    array = type("ndarray", (_KeptArray,), {})
    dtype = type("dtype", (_KeptDtype,), {})
    names: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): array,
        ("numpy", "dtype"): dtype,
        ("chumpy.ch", "Ch"): type("Ch", (_Kept,), {}),
        ("chumpy.reordering", "Select"): type("Select", (_Kept,), {}),
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): lambda text, encoding="latin1": text.encode("latin1"),
    }
    for module in _ARRAY_MODULES:
        names[module, "_reconstruct"] = lambda *_: array()
        names[module, "scalar"] = lambda *_: None
    for module in ("numpy.core.numeric", "numpy._core.numeric"):
        names[module, "_frombuffer"] = lambda raw, dtype, shape, order: _fill(array(), raw, dtype, shape, order)
    for module in _SPARSE_MODULES:
        for name in _SPARSE_CLASSES:
            names[module, name] = type(name, (_KeptSparse,), {"by_row": name.startswith("csr")})
    for module in ("builtins", "__builtin__"):
        names |= {(module, kind.__name__): kind for kind in (object, set, list, dict, tuple)}
    kept = tuple(x for x in names.values() if isinstance(x, type) and issubclass(x, _Kept))
    for module in ("copyreg", "copy_reg"):
        names[module, "_reconstructor"] = lambda cls, *_: cls.__new__(cls) if cls in kept else None
    return names


def _as_array(x: Any) -> Array | None:
    """The array that was pickled, or None where it was none."""
    if isinstance(x, _KeptArray):
        return _dense(x)
    if isinstance(x, _KeptSparse):
        return _from_sparse(x)
    if isinstance(x, _Kept):
        state = vars(x)
        if "x" in state:  # chumpy.ch.Ch
            return _as_array(state["x"])
        if "a" in state and "idxs" in state:  # chumpy.reordering.Select
            picked: Array = _need(state["a"]).ravel()[_need(state["idxs"])]
            return picked.reshape(state["preferred_shape"]) if "preferred_shape" in state else picked
    return None


def _need(x: Any) -> Array:
    array = _as_array(x)
    if array is None:
        raise DataError("an array is missing inside a chumpy or sparse array")
    return array


def _dense(x: _KeptArray) -> Array | None:
    dtype = np.dtype(x.dtype.spec)
    if dtype.kind not in "biuf":
        return None  # strings, objects: nothing a body needs
    if x.dtype.order in ("<", ">"):
        dtype = dtype.newbyteorder(x.dtype.order)
    raw = x.raw.encode("latin1") if isinstance(x.raw, str) else x.raw
    array: Array = np.frombuffer(raw, dtype).reshape(x.shape, order="F" if x.fortran else "C")
    return array


def _from_sparse(x: Any) -> Array:
    state = vars(x)
    data, indices, indptr = (_need(state[key]) for key in ("data", "indices", "indptr"))
    shape = state["_shape"] if "_shape" in state else state["shape"]
    major = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))  # row of each value (csr), column (csc)
    dense = np.zeros(shape, data.dtype)
    np.add.at(dense, (major, indices) if x.by_row else (indices, major), data)
    return dense
