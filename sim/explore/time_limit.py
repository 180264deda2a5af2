"""A limit of real time for a run that does not end by itself."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, Final

AGAIN_S: Final = 1.0
"""Seconds between two alarms. One is not enough: where the interpreter can only report an exception and not raise it (a callback
of the garbage collector, a `__del__`), the alarm that falls there is lost. They are far enough apart for none to fall into what
the one before it set off."""


class Hung(BaseException):
    """A run has taken too long. Not an Exception: nothing in a run may take it for an error of its own."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise Hung in the block after so many seconds of real time; without effect outside of a process's main thread."""
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(_number: int, _frame: Any) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:  # an alarm at the very end may fall in between
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
