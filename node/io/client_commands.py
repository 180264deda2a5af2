"""The caller's side of a client's commands, whatever the cluster: what waits, what is open, and what its deadline ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from node.io.client_pending import Pending
from node.io.client_types import Budget, NotDone, Overloaded, Settings

_NEVER: Final = float("inf")


class Commands:
    """Commands that wait to be sent (`_fresh`) and those that are numbered and not settled (`_open`, in the order of their
    numbers)."""

    def __init__(self, settings: Settings, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        self.leader: str | None = None
        """The node that commands go to first."""
        self.session: int | None = None
        self._settings = settings
        self._clock = clock
        self._wake = wake
        self._fresh: deque[Pending] = deque()
        self._open: dict[int, Pending] = {}
        self._next_seq = 1
        self._earliest = _NEVER
        self._closed: str | None = None
        self.budget = Budget(
            settings.retry_ratio, settings.retry_floor_per_s, cap=max(64.0, settings.window * 0.25)
        )
        self.budget.start(clock())
        self.resent = 0
        """Copies sent beyond the first of each command."""

    def begin(
        self, command: bytes, deadline_s: float = 30.0, callback: Callable[[Pending], None] | None = None
    ) -> Pending:
        """See `Client.begin`."""
        fresh = self._fresh
        if self._closed is not None:
            raise NotDone(self._closed)
        if len(fresh) >= self._settings.queue:
            raise Overloaded(
                f"{len(fresh)} commands wait to be sent already; wait for some, or raise Settings.queue"
            )
        deadline = self._clock() + deadline_s
        pending = Pending(command, deadline, callback)
        if deadline < self._earliest:
            self._earliest = deadline
        fresh.append(pending)
        self._wake()
        return pending

    @property
    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._open or self._fresh)

    @property
    def in_flight(self) -> int:
        """Commands sent and not settled."""
        return len(self._open)

    def close(self, reason: str) -> None:
        """Fail everything under way."""
        self._closed = reason
        waiting = [*self._open.values(), *self._fresh]
        self._open.clear()
        self._fresh.clear()
        for pending in waiting:
            self._give_up(pending, reason)

    def _expire(self, now: float) -> None:
        earliest = _NEVER
        late: list[Pending] = []
        for pending in self._open.values():
            if pending.deadline <= now:
                late.append(pending)
            elif pending.deadline < earliest:
                earliest = pending.deadline
        for pending in late:
            del self._open[pending.seq]
        if any(pending.deadline <= now for pending in self._fresh):
            late += [pending for pending in self._fresh if pending.deadline <= now]
            self._fresh = deque(pending for pending in self._fresh if pending.deadline > now)
        self._earliest = min(earliest, min((pending.deadline for pending in self._fresh), default=_NEVER))
        for pending in late:
            self._give_up(pending, "the deadline has passed")
        if late:
            self._wake()

    def _give_up(self, pending: Pending, why: str) -> None:
        """Settle a command that has no outcome."""
        raise NotImplementedError
