"""The contract of a replicated state machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class Machine(Protocol):
    """A deterministic state machine under the log.

    Two machines of the same kind and settings that were given the same commands in the same order hold the
    same bits and give the same answers, however the commands were grouped into calls, on any CPU, in any
    process. So: integers only, no clock, no `random`, no order of a set or of a hash.
    """

    def check(self, command: bytes) -> str | None:
        """None if the command is well formed, else what is wrong with it, where, and what to do. Asked
        before a command enters the log; looks at the command alone, never at the state."""

    def apply(self, commands: Sequence[bytes]) -> list[bytes]:
        """Apply commands in order; one result each. Never raises on any bytes: a command that is malformed
        or cannot be done has a result that says so, the same on every replica."""

    def query(self, query: bytes) -> bytes:
        """Answer a read-only query about the state as it is now. Raises QueryError with a clear text."""

    def digest(self) -> bytes:
        """32 bytes that name the state: equal states, equal digests. Cheap: only what changed since the
        last call is hashed again."""

    def snapshot(self) -> list[bytes]:
        """The state as it is now, as chunks of at most 1 MiB, not affected by later commands."""

    def restore(self, chunks: Sequence[bytes]) -> None:
        """Replace the state by a snapshot's. Raises ValueError, leaving the old state, if it makes no sense."""


class QueryError(ValueError):
    """A query that cannot be answered; the text goes to whoever asked."""


MachineFactory = Callable[[], Machine]
"""Makes a fresh machine in its initial state."""


def fault_in(check: Callable[[bytes], str | None], command: bytes) -> str | None:
    """What `Machine.check` says of a command that a stranger wrote. If it trips over that, which is a bug of the machine's, the
    command is bad, and the node goes on."""
    try:
        return check(command)
    except Exception as error:
        return f"the machine trips over it ({type(error).__name__})"
