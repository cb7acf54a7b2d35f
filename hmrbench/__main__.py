"""`python -m hmrbench`, and the `hmrbench` command: what a signal does to it at any moment.

Ctrl-C, SIGTERM and SIGHUP alike end a command with what is done kept, no traceback, and exit code 128 + signal. This
file imports nothing slow, so that they do so from the start.
"""

from __future__ import annotations

import _thread
import io
import os
import signal
import sys
import time
from types import FrameType
from typing import Any

_SAME_WISH_S = 1.0  # a second signal this soon after the first asks for nothing new


class _Signals:
    """Turns the first signal into `Stopped` in the main thread; a later one ends the process at once."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.since = 0.0
        self.ending = False  # nothing is left to be kept

    def listen(self) -> None:
        from hmrbench.errors import STOPPING

        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self.note)
        sys.unraisablehook = self.unraisable

    def note(self, number: int, frame: FrameType | None) -> None:
        from hmrbench.errors import Stopped

        if self.first is None:
            self.first, self.since = number, time.monotonic()
            if not self.ending:
                raise Stopped(number)
            os._exit(128 + number)
        if time.monotonic() - self.since > _SAME_WISH_S:
            os._exit(128 + self.first)

    def unraisable(self, told: Any) -> None:
        """Where Python drops exceptions, as in a finalizer, a signal comes again."""
        if isinstance(told.exc_value, KeyboardInterrupt) and self.first is not None:
            number, self.first = self.first, None
            _thread.interrupt_main(signal.Signals(number))
        else:
            sys.__unraisablehook__(told)


def main() -> None:
    """The `hmrbench` command."""
    signals = _Signals()
    try:
        signals.listen()
        from hmrbench.cli import app
        from hmrbench.cli.loading import announce

        announce()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character shows another in its place
                stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")
        try:
            app()
        finally:
            sys.stdout.flush()
            signals.ending = True
    except OSError as e:  # of our output: the commands have told of all others
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more
        if isinstance(e, BrokenPipeError):  # the reader has gone, as in `hmrbench models | head`
            sys.exit(141)
        sys.stderr.write(f"error: what is printed cannot be written: {e.strerror or e}\n")
        sys.exit(1)
    except BaseException as e:
        if signals.first is None or (isinstance(e, SystemExit) and not e.code):
            raise
        # Whatever became of the exception on its way; at once, as Python in its last steps listens to no signal.
        sys.stderr.flush()
        os._exit(128 + signals.first)


if __name__ == "__main__":
    main()
