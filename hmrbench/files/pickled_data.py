"""What a pickle described -> plain data and NumPy's arrays, by rules.

An array is never longer than the bytes that are there; those that are computed (sparse matrices, selections) have
`MAX_BYTES` in all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hmrbench.errors import DataError
from hmrbench.files.unpickle import MAX_DEPTH, MAX_OPCODES, Kept, Name, unpickle
from hmrbench.records import Array

MAX_BYTES = 1 << 30
Rule = Callable[["Kept", "Plain"], Any]


class Plain:
    """Turns what `unpickle` gave into lists, dicts, texts, numbers and whatever the rules make; each note once.

    A rule is called with the note and this object; what has no rule becomes None.
    """

    def __init__(self, rules: Mapping[Name, Rule]) -> None:
        self.rules = rules
        self.known: dict[int, tuple[Any, Any]] = {}  # what was converted, kept so that its id stays its own
        self.bytes = 0
        self.depth = 0

    def spend(self, size: int) -> None:
        """Account for memory that a rule is about to take.

        Raises:
            DataError: it is too much.
        """
        self.bytes += size
        if size < 0 or self.bytes > MAX_BYTES:
            raise DataError(f"refused: what the pickle describes takes more than {MAX_BYTES >> 20} MiB of memory")

    def __call__(self, x: Any) -> Any:
        """The plain value of a part."""
        if not isinstance(x, (Kept, dict, list, tuple)):
            return x
        if id(x) in self.known:
            found = self.known[id(x)][1]
            if found is self:
                raise DataError("cannot be read, an object in the pickle holds itself")
            return found
        if self.depth > MAX_DEPTH:
            raise DataError(f"refused: the pickle nests more than {MAX_DEPTH} deep")
        self.known[id(x)] = (x, self)
        self.depth += 1
        try:
            made = self._made(x)
        except (IndexError, KeyError, ValueError, TypeError, OverflowError, AttributeError, MemoryError) as e:
            raise DataError(f"cannot be read, an object in the pickle is damaged ({str(e)[:200]})") from e
        self.depth -= 1
        self.known[id(x)] = (x, made)
        return made

    def _made(self, x: Any) -> Any:
        if isinstance(x, Kept):
            rule = self.rules.get(x.name)
            return None if rule is None or x.args is None else rule(x, self)
        if isinstance(x, dict):
            return {k: self(v) for k, v in x.items() if not isinstance(k, Kept)}
        return type(x)(self(v) for v in x)


# --------------------------------------------------------------------------- NumPy

_SPEC = re.compile(r"^[<>|=]?([biufcSUO]\d{0,4}|\?)$")


def _dtype(note: Kept, plain: Plain) -> Any:
    spec = note.args[0]
    if not isinstance(spec, str) or not _SPEC.match(spec):
        return None  # times, structures: nothing that is read here
    order = note.state[1] if isinstance(note.state, tuple) else "="
    dtype = np.dtype(spec)
    return dtype if order not in ("<", ">") else dtype.newbyteorder(">" if order == ">" else "<")


def as_array(shape: Any, dtype: Any, raw: Any, fortran: bool) -> Array | None:
    """An array on the bytes that were pickled, or None of a kind that is not read.

    Raises:
        DataError: the shape and the bytes do not agree.
    """
    if dtype is None or dtype.itemsize == 0:
        return None
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    count = math.prod(shape)
    if len(shape) > 32 or any(not isinstance(n, int) or n < 0 for n in shape):
        raise DataError(f"cannot be read, an array in the pickle has the shape {str(shape)[:100]}")
    if dtype.hasobject:
        if not isinstance(raw, list) or len(raw) != count:
            raise DataError("cannot be read, an array in the pickle does not hold what it declares")
        if count > MAX_OPCODES:
            raise DataError(f"refused: an array of {count} objects in the pickle")
        objects: Array = np.empty(count, object)
        for i, value in enumerate(raw):
            objects[i] = value
        return np.reshape(objects, shape)
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if not isinstance(raw, bytes) or dtype.itemsize * count != len(raw):
        held = len(raw) if isinstance(raw, bytes) else 0
        raise DataError(f"cannot be read, an array in the pickle declares {count} numbers and holds {held} bytes")
    if not raw:
        return np.zeros(shape, dtype)
    array: Array = np.frombuffer(raw, dtype)
    return np.reshape(array, shape, order="F" if fortran else "C")


def _array(note: Kept, plain: Plain) -> Any:
    if not note.state:
        return None
    _, shape, dtype, fortran, raw = note.state
    dtype = plain(dtype)
    plain.spend(len(raw) if isinstance(raw, (str, list)) else 0)
    return as_array(shape, dtype, plain(raw), bool(fortran))


def _from_buffer(note: Kept, plain: Plain) -> Any:
    raw, dtype, shape, order = note.args[:4]
    return as_array(shape, plain(dtype), plain(raw), order == "F")


def _scalar(note: Kept, plain: Plain) -> Any:
    dtype, raw = (plain(x) for x in note.args[:2])
    found = None if dtype is None or dtype.hasobject else as_array((), dtype, raw, False)
    return None if found is None else found[()]


def _encode(note: Kept, plain: Plain) -> bytes | None:
    text = note.args[0]
    if not isinstance(text, str):
        return None
    plain.spend(len(text))
    return text.encode("latin1")


def _bytes(note: Kept, plain: Plain) -> bytes:
    found = plain(note.args[0]) if note.args else b""
    return found if isinstance(found, bytes) else b""


def _sequence(note: Kept, plain: Plain) -> list[Any]:
    found = plain(note.args[0]) if note.args else []
    plain.spend(8 * len(found) if isinstance(found, (list, tuple)) else 0)
    return [*(found if isinstance(found, (list, tuple)) else []), *map(plain, note.items)]


def _mapping(note: Kept, plain: Plain) -> dict[Any, Any]:
    given = note.args[-1] if note.args else []
    pairs = given.items() if isinstance(given, dict) else given if isinstance(given, list) else []
    plain.spend(64 * len(pairs))
    found = {}
    for key, value in [*pairs, *note.items]:
        if isinstance(key, (str, bytes, int, float, type(None))):
            found[key] = plain(value)
    return found


def _rules() -> dict[Name, Rule]:
    rules: dict[Name, Rule] = {("numpy", "dtype"): _dtype, ("numpy", "ndarray"): _array, ("_codecs", "encode"): _encode}
    for core in ("numpy.core", "numpy._core"):
        rules[f"{core}.multiarray", "_reconstruct"] = _array
        rules[f"{core}.multiarray", "scalar"] = _scalar
        rules[f"{core}.numeric", "_frombuffer"] = _from_buffer
    for module in ("builtins", "__builtin__"):
        rules |= {(module, name): _sequence for name in ("set", "frozenset", "list", "tuple")}
        rules |= {(module, "dict"): _mapping, (module, "bytes"): _bytes, (module, "bytearray"): _bytes}
    rules |= {("collections", name): _mapping for name in ("OrderedDict", "defaultdict", "Counter")}
    return rules


DATA_RULES = _rules()  # containers and NumPy's arrays and numbers: what every reader allows


def read_data(data: bytes, rules: Mapping[Name, Rule] = DATA_RULES, bystanders: Sequence[Name] = ()) -> Any:
    """What a pickle holds, as plain data and arrays.

    Args:
        rules: what may be made, and how.
        bystanders: names that may stand in it, and of which nothing is made.

    Raises:
        DataError: see `unpickle`; an array does not hold what it declares.
    """
    content, _ = unpickle(data, lambda name: name in rules or name in bystanders)
    return Plain(rules)(content)
