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
from collections.abc import Iterable


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


# The signals that end a command; a system may lack one.
STOPPING = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end: what is done is kept, as after Ctrl-C."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name nobody knows, listing the nearest known ones."""
    folded = {n.lower(): n for n in sorted(known)}
    names = list(folded.values())
    near = [folded[n] for n in difflib.get_close_matches(name.lower(), folded, n=5, cutoff=0.5)]
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names[:12])}"
    if not near and len(names) > 12:
        hint += ", ..."
    return UsageError(f"unknown {kind} '{name}'; {hint}")
