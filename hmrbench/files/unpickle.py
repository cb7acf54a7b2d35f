"""The one reader of pickles: it builds plain data and calls nothing.

Pickle is a program that may call whatever it names. Here a name, once it is allowed, becomes a `Kept`: an inert note of
what was to be called and with what. Turning notes into arrays is a second step, `Plain`, by rules that the caller
gives; NumPy's are here. Nothing is imported, no class is made, and sets are lists, so that nothing is hashed but plain
keys. Opcodes: Python's `pickletools`, protocols 0 to 5.

Bounds: a pickle has at most `MAX_OPCODES` steps and nests `MAX_DEPTH` deep; a text or array is never longer than the
bytes that are there; arrays that are computed (sparse matrices, selections) have `MAX_BYTES` in all.
"""

from __future__ import annotations

import codecs
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hmrbench.errors import DataError
from hmrbench.records import Array

MAX_OPCODES = 4_000_000
MAX_DEPTH = 200
MAX_BYTES = 1 << 30

Name = tuple[str, str]
Rule = Callable[["Kept", "Plain"], Any]

PERSISTENT: Name = ("", "persistent")  # stands for what lies outside the pickle

_MARK = object()
_CONSTANTS: dict[int, Any] = {0x4E: None, 0x88: True, 0x89: False}
_NUMBERS = {0x4A: "<i", 0x4B: "<B", 0x4D: "<H", 0x47: ">d"}
_TEXTS = {0x54: "<I", 0x55: "<B", 0x58: "<I", 0x8C: "<B", 0x8D: "<Q"}
_BYTES = {0x42: "<I", 0x43: "<B", 0x8E: "<Q", 0x96: "<Q"}
_LONGS = {0x8A: "<B", 0x8B: "<I"}
_GETS = {0x68: "<B", 0x6A: "<I"}
_PUTS = {0x71: "<B", 0x72: "<I"}
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}
_LINES = frozenset(b"ILFSVgpPc")  # opcodes whose argument is a line of text


class Kept:
    """What a pickle wanted to make: `name` of the class or function, `args`, the `state` set afterwards, and what was
    put into it as into a list or dict."""

    __slots__ = ("args", "items", "name", "state")

    def __init__(self, name: Name, args: Any = None) -> None:
        self.name, self.args = name, args  # no args: the bare name
        self.state: Any = None
        self.items: list[Any] = []


def unpickle(data: bytes, allowed: Callable[[Name], bool], at: int = 0) -> tuple[Any, int]:
    """What a pickle describes, with `Kept` for all that is not plain data, and where it ends.

    Args:
        allowed: whether a class or function, by module and name, may stand in it at all.
        at: where in `data` it begins.

    Raises:
        DataError: damaged, beyond a bound, or it names what is not allowed; does not name the file.
    """
    try:
        return _Machine(data, allowed, at).run()
    except DataError:
        raise
    except (IndexError, KeyError, ValueError, TypeError, struct.error, OverflowError, SyntaxError, MemoryError) as e:
        raise DataError(f"cannot be read, the pickle in it is damaged ({type(e).__name__}: {str(e)[:200]})") from e


class _Machine:
    """One run of a pickle: a stack, marks in it, and the memo, a dict, for which a number is no size."""

    def __init__(self, data: bytes, allowed: Callable[[Name], bool], at: int) -> None:
        self.data, self.allowed, self.at = data, allowed, at
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> tuple[Any, int]:
        for _ in range(MAX_OPCODES):
            code = self.take(1)[0]
            if code == 0x2E:  # STOP
                return self.stack.pop(), self.at
            if code in _LINES:
                self.do_line(code, self.line())
            else:
                self.do(code)
        raise DataError(f"refused: a pickle of more than {MAX_OPCODES} steps")

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise DataError("cannot be read, it is truncated: the pickle in it ends too early")
        self.at = end
        return bytes(self.data[end - count : end])

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.at)
        if end < 0:
            raise DataError("cannot be read, it is truncated: the pickle in it ends too early")
        return self.take(end + 1 - self.at)[:-1]

    def marked(self) -> list[Any]:
        """What stands above the last mark; taken off with it."""
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                found = self.stack[at + 1 :]
                del self.stack[at:]
                return found
        raise DataError("cannot be read, the pickle in it is damaged (no mark)")

    def named(self, module: Any, name: Any) -> Kept:
        if not self.allowed((module, name)):
            raise DataError(
                f"refused: the pickle wants to use {module}.{name}, which is not data; nothing of it was run"
            )
        return Kept((module, name))

    def do_line(self, code: int, line: bytes) -> None:
        push = self.stack.append
        match chr(code):
            case "I":
                push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))
            case "L":
                push(int(line.rstrip(b"L")))
            case "F":
                push(float(line))
            case "S":
                if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
                    raise ValueError("a string without quotes")
                push(codecs.escape_decode(line[1:-1])[0].decode("latin1"))
            case "V":
                push(line.decode("raw-unicode-escape"))
            case "g":
                push(self.memo[int(line)])
            case "p":
                self.memo[int(line)] = self.stack[-1]
            case "P":
                push(self.outside((line.decode(),)))
            case "c":
                push(self.named(line.decode(), self.line().decode()))

    def do(self, code: int) -> None:
        stack, push = self.stack, self.stack.append
        if code in _CONSTANTS:
            push(_CONSTANTS[code])
        elif code in _NUMBERS:
            push(self.number(_NUMBERS[code]))
        elif code in _TEXTS:
            text = self.take(self.number(_TEXTS[code]))
            push(text.decode("latin1") if code in (0x54, 0x55) else text.decode("utf-8", "surrogatepass"))
        elif code in _BYTES:
            push(self.take(self.number(_BYTES[code])))
        elif code in _LONGS:
            push(int.from_bytes(self.take(self.number(_LONGS[code])), "little", signed=True))
        elif code in _GETS:
            push(self.memo[self.number(_GETS[code])])
        elif code in _PUTS:
            self.memo[self.number(_PUTS[code])] = stack[-1]
        elif code in _TUPLES:
            count = _TUPLES[code]
            if len(stack) < count:
                raise IndexError("stack is empty")
            stack[-count:] = [tuple(stack[-count:])]
        elif code == 0x80:
            if (version := self.number("<B")) > 5:
                raise DataError(f"cannot be read: no pickle, or one of an unknown protocol ({version})")
        elif code == 0x95:  # FRAME: how long what follows is
            self.number("<Q")
        elif code == 0x98:  # READONLY_BUFFER
            pass
        else:
            self.do_other(code)

    def do_other(self, code: int) -> None:
        stack, push = self.stack, self.stack.append
        match chr(code):
            case "(":
                push(_MARK)
            case "0":
                stack.pop()
            case "1":
                self.marked()
            case "2":
                push(stack[-1])
            case "]" | "\x8f":
                push([])
            case ")":
                push(())
            case "}":
                push({})
            case "l" | "\x91":
                push(self.marked())
            case "t":
                push(tuple(self.marked()))
            case "d":
                pairs = self.marked()
                push({})
                self.set_items(pairs)
            case "a":
                self.add([stack.pop()])
            case "e" | "\x90":
                self.add(self.marked())
            case "s":
                value, key = stack.pop(), stack.pop()
                self.set_items([key, value])
            case "u":
                self.set_items(self.marked())
            case "R" | "\x81":
                args = stack.pop()
                stack[-1] = self.called(stack[-1], args)
            case "\x92":
                _, args = stack.pop(), stack.pop()
                stack[-1] = self.called(stack[-1], args)
            case "o":
                cls, *args = self.marked()
                push(self.called(cls, tuple(args)))
            case "i":
                name = self.named(self.line().decode(), self.line().decode())
                push(self.called(name, tuple(self.marked())))
            case "b":
                state = stack.pop()
                if not isinstance(stack[-1], Kept):
                    raise DataError(f"refused: the pickle sets the state of a {type(stack[-1]).__name__}")
                stack[-1].state = state
            case "\x93":
                name_text, module = stack.pop(), stack.pop()
                push(self.named(module, name_text))
            case "\x94":
                self.memo[len(self.memo)] = stack[-1]
            case "Q":
                push(self.outside(stack.pop()))
            case "\x82" | "\x83" | "\x84" | "\x97":
                raise DataError("refused: the pickle refers to objects outside the file; nothing of it was run")
            case _:
                raise DataError("cannot be read, it is no pickle or a damaged one")

    def outside(self, args: Any) -> Kept:
        """A note of what the pickle says lies outside it, such as a storage of torch's."""
        if not self.allowed(PERSISTENT) or not isinstance(args, tuple):
            raise DataError("refused: the pickle refers to objects outside the file; nothing of it was run")
        return Kept(PERSISTENT, args)

    def called(self, what: Any, args: Any) -> Kept:
        if not isinstance(what, Kept) or what.args is not None or not isinstance(args, tuple):
            raise DataError("refused: the pickle calls what is no name; nothing of it was run")
        return Kept(what.name, args)

    def add(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, (list, Kept)):
            raise DataError(f"cannot be read, the pickle in it adds to a {type(target).__name__}")
        (target.items if isinstance(target, Kept) else target).extend(values)

    def set_items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if len(pairs) % 2 or not isinstance(target, (dict, Kept)):
            raise DataError(f"cannot be read, the pickle in it sets entries of a {type(target).__name__}")
        if isinstance(target, Kept):
            target.items.extend(zip(pairs[::2], pairs[1::2], strict=True))
            return
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if isinstance(key, tuple):  # hashing nested ones can take for ever
                key = str(key) if all(isinstance(k, (str, int, float)) for k in key) else Kept(("", "key"), key)
            elif not isinstance(key, (str, bytes, int, float, Kept, type(None))):
                raise DataError(f"refused: a {type(key).__name__} is the key of an entry of the pickle")
            target[key] = value


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
