"""One command under way, as small as it can be: tens of thousands a second are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from node.io.client_link import Channel
from node.io.client_types import ClientError, Result


class Pending:
    """A command under way. `done` turns true once; then either `error` is set or index, place, chain and result are."""

    __slots__ = (
        "_event", "at", "attempts", "callback", "chain", "command", "deadline", "done", "error", "index", "last_word",
        "place", "result", "said", "sent_at", "seq", "session", "unsure",
    )  # fmt: skip

    seq: int
    """Its number, once it has been sent; not there before."""
    sent_at: float
    index: int
    place: int
    chain: bytes
    result: bytes

    def __init__(self, command: bytes, deadline: float, callback: Callable[[Pending], None] | None) -> None:
        self.command = command
        self.deadline = deadline
        self.callback = callback
        self.done = False
        self.error: ClientError | None = None
        self.attempts = 0
        self.session: int | None = None
        """The session in which `seq` numbers it, once it has been sent."""
        self.at: Channel | None = None
        """Where the last copy went that is not answered yet."""
        self.unsure = False
        """Whether some copy may have been applied, apart from the one at `at`."""
        self.last_word = ""
        self.said: dict[str, Any] | None = None
        """Where one node's word is not enough: what each has said became of it."""
        self._event: trio.Event | None = None

    def outcome(self) -> Result:
        """The result, once `done`. Raises `error`."""
        if self.error is not None:
            raise self.error
        return Result(self.index, self.place, self.chain, self.result, self.attempts)

    async def wait(self) -> Result:
        """Wait until done. Raises NotDone, OutcomeUnknown or one of their kinds. Cancelling the wait does not call the
        command back."""
        if not self.done:
            if self._event is None:
                self._event = trio.Event()
            await self._event.wait()
        return self.outcome()

    def settle(self) -> None:
        """Mark as done and tell whoever waits."""
        self.done = True
        self.at = None
        if self._event is not None:
            self._event.set()
        if self.callback is not None:
            self.callback(self)

    def fail(self, error: ClientError) -> None:
        """Settle with an error."""
        self.error = error
        self.settle()
