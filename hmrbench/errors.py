"""The errors that hmrbench raises on purpose; each knows the exit code of the command that it ends.

HmrbenchError        1  the run, or a model in it, failed
├── UsageError       2  wrong name, flag or configuration
├── DataError        3  data missing, corrupt or not usable
│   └── WeightsError 3  weights missing, corrupt or of another network
└── RegressionError  4  a score or a cost got worse
"""

from __future__ import annotations

import difflib
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


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a name nobody knows, listing the nearest known ones."""
    names = sorted(known)
    near = difflib.get_close_matches(name.lower(), names, n=5, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names[:12])}"
    if not near and len(names) > 12:
        hint += ", ..."
    return UsageError(f"unknown {kind} '{name}'; {hint}")
