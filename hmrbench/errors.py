"""The errors that hmrbench raises on purpose; each knows the exit code of the command that it ends.

HmrbenchError        1  the run, or a model in it, failed
├── UsageError       2  wrong name, flag or configuration
├── DataError        3  data missing, corrupt or not usable
│   └── WeightsError 3  weights missing, corrupt or of another network
└── RegressionError  4  a score or a cost got worse
"""

from __future__ import annotations

import difflib
import signal
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class HmrbenchError(Exception):
    """A failure with a message meant for the user."""

    exit_code = 1


class UsageError(HmrbenchError):
    """A name, flag or configuration that cannot be right."""

    exit_code = 2


class DataError(HmrbenchError):
    """A file or value that is missing, corrupt or not usable."""

    exit_code = 3


class WeightsError(DataError):
    """Weights that are missing, corrupt or belong to another network."""


class RegressionError(HmrbenchError):
    """A score or a cost that got worse than its tolerance."""

    exit_code = 4


def said(error: BaseException) -> str:
    """An error in one line, with its kind, and with its place where that is neither ours nor a library's."""
    words = " ".join(str(error).split())
    text = f"{type(error).__name__}: {words}"[:_LONGEST_ERROR] if words else type(error).__name__
    inside = (str(Path(__file__).parent), "site-packages", "<frozen", str(Path(traceback.__file__).parent))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not any(part in f.filename for part in inside)]
    if not frames:
        return text
    file = Path(frames[-1].filename)
    text += f" ({file.name}, line {frames[-1].lineno})"
    name = (isinstance(error, ModuleNotFoundError) and error.name) or ""
    if name and (file.with_name(f"{name}.py").is_file() or file.with_name(name).is_dir()):
        text += f"; what lies beside {file.name} is found while that is read: import {name} at its top"
    return text


_LONGEST_ERROR = 400  # characters


@contextmanager
def blamed_on(what: str, kind: type[HmrbenchError] = HmrbenchError) -> Iterator[None]:
    """Whatever is raised inside, in code that anybody may have written, becomes one error that names `what`.

    Our own errors stay as they are: they say enough.
    """
    try:
        yield
    except HmrbenchError:
        raise
    except (Exception, SystemExit) as e:
        raise kind(f"{what}: {said(e)}") from e


# The signals that end a command; a system may lack one.
STOPPING = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end: what is done is kept, as after Ctrl-C."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def nearest(name: str, known: Iterable[str], count: int = 5, cutoff: float = 0.5) -> list[str]:
    """The known names that are most like a name, whatever their case."""
    folded = {n.lower(): n for n in sorted(known)}
    near = difflib.get_close_matches(name.lower()[:_LONGEST], folded, n=count, cutoff=cutoff)
    return [folded[n] for n in near]


def unknown_name(kind: str, name: str, known: Iterable[str], more: str = "") -> UsageError:
    """The error for a name nobody knows, listing the nearest known ones; `more` says where others may be."""
    names = sorted(known)
    near = nearest(name, names)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names[:12])}"
    if not near and len(names) > 12:
        hint += ", ..."
    return UsageError(f"unknown {kind} '{name[:_LONGEST]}'; {hint}{f' ({more})' if more else ''}")


_LONGEST = 200  # characters of a wrong name that a message repeats


def printable(text: str) -> str:
    """A text that cannot steer a terminal: control characters are written as escapes, line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
