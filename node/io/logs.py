"""Structured logs: one JSON object a line, to standard error or to a file.

Import this before anything that imports structlog: see `_import_structlog`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from typing import IO, Any, Final

from node.io.config import Log


def _import_structlog() -> Any:
    # structlog loads rich, if there is one, to draw tracebacks in colour: a tenth of a second of every start for what a
    # node never prints. Hidden while structlog is imported, and only then.
    hidden = "rich" not in sys.modules
    if hidden:
        sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog
    finally:
        if hidden:
            del sys.modules["rich"]
    return structlog


structlog: Final = _import_structlog()


class _Stream:
    """A text stream whose failures stop nobody: a full disk or a reader that has gone costs lines, not the node."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def set_up_logging(settings: Log) -> None:
    """For the whole process. Raises OSError if the log file cannot be opened."""
    stream = settings.file.open("a", encoding="utf-8") if settings.file else sys.stderr
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.level.upper())),
        logger_factory=structlog.PrintLoggerFactory(_Stream(stream)),
        cache_logger_on_first_use=True,
    )


class Quiet:
    """Says the same thing at most once in a while, and then how often it was held back: what strangers do to a port must not
    fill a disk."""

    MOST: Final = 256

    def __init__(self, clock: Callable[[], float], every_s: float = 10.0) -> None:
        self._clock = clock
        self._every = every_s
        self._said: dict[tuple[str, str], tuple[float, int]] = {}  # -> (not again before, held back)

    def __call__(self, write: Callable[..., Any], event: str, subject: str, **fields: Any) -> None:
        """Log `event` with `fields` through `write`, unless the same event about `subject` was just logged."""
        now = self._clock()
        until, held = self._said.pop((event, subject), (now, 0))
        if now < until:
            self._said[event, subject] = (until, held + 1)
            return
        if len(self._said) >= self.MOST:
            del self._said[next(iter(self._said))]
        self._said[event, subject] = (now + self._every, 0)
        if held:
            fields["held_back"] = held
        write(event, **fields)
