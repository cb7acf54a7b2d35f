"""The one reader of pickles: it builds plain data and calls nothing.

Pickle is a program that may call whatever it names. Here a name, once it is allowed, becomes a `Kept`: an inert note of
what was to be called and with what. Turning notes into arrays is a second step, `Plain`, by rules that the caller
gives (`pickled_data`). Nothing is imported, no class is made, and sets are lists, so that nothing is hashed but plain
keys. Opcodes: Python's `pickletools`, protocols 0 to 5.

Bounds: a pickle has at most `MAX_OPCODES` steps and nests `MAX_DEPTH` deep; a text or array is never longer than the
bytes that are there.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any

from hmrbench.errors import DataError

MAX_OPCODES = 4_000_000
MAX_DEPTH = 200

Name = tuple[str, str]

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
            case "\x94":
                self.memo[len(self.memo)] = stack[-1]
            case _:
                self.do_named(code)

    def do_named(self, code: int) -> None:
        """What names a class or function, or uses one."""
        stack, push = self.stack, self.stack.append
        match chr(code):
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
