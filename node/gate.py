"""The gate of the ordering rules (consensus.core, 1, 2 and 4): journal writes under way, and the messages behind them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from consensus.core import NodeId, Record
from consensus.marks import sometimes
from node.disk import JOURNAL, Job, Op
from node.effects import Effects
from node.journal import Recorder


class Gate:
    """Writes the records of a core and lets its waiting messages pass when everything they assert is durable.

    Tickets are the core's (`Out.ticket`) and only grow, and so do job numbers: both queues are in order, and one look at
    their heads decides."""

    def __init__(self, journal: Recorder) -> None:
        self._journal = journal
        self.journal_bytes = journal.size
        """Bytes in the journal behind the state that its segment began with."""
        self._durable = 0
        self._number = 0
        self._open: deque[tuple[int, int, int]] = deque()  # (job, ticket, mark)
        self._held: deque[tuple[int, NodeId, Any]] = deque()  # (ticket, destination, message)

    @property
    def busy(self) -> bool:
        """Whether a write is under way."""
        return bool(self._open)

    def hold(self, ticket: int, messages: Sequence[tuple[NodeId, Any]], effects: Effects) -> None:
        """Let messages that assert what was recorded up to `ticket` leave, now or once that is durable."""
        if ticket > self._durable:
            sometimes("a message waits until what it asserts is durable")
            self._held += [(ticket, dest, message) for dest, message in messages]
        else:
            effects.peers += messages

    def write(self, records: Sequence[Record], ticket: int, effects: Effects) -> None:
        """Hand records to the journal as one batch; `ticket` is that of the latest of them."""
        self._job(*self._journal.append(records), ticket, effects)

    def rotate(self, state_records: Sequence[Record], ticket: int, effects: Effects) -> None:
        """Begin a new journal segment with the core's whole state, behind everything written so far."""
        self._job(*self._journal.rotate(state_records), ticket, effects)

    def _job(self, ops: list[Op], mark: int, ticket: int, effects: Effects) -> None:
        self.journal_bytes = self._journal.size
        self._number += 1
        self._open.append((self._number, ticket, mark))
        effects.jobs.append(Job(JOURNAL, self._number, ops))

    def done(self, number: int, effects: Effects) -> int:
        """Job `number`, and with it every earlier one, is done. The ticket that is durable by that, 0 if none is newly so."""
        ticket = 0
        while self._open and self._open[0][0] <= number:
            _, ticket, mark = self._open.popleft()
            self._journal.mark_synced(mark)
        if ticket <= self._durable:
            return 0
        self._durable = ticket
        while self._held and self._held[0][0] <= ticket:
            _, dest, message = self._held.popleft()
            effects.peers.append((dest, message))
        return ticket
