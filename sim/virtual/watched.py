"""What stands between a replica and its parts, so that oracles hear of every record and every entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from consensus.core import Record
from node.disk import Op
from node.journal import Journal
from node.machine import Machine
from node.state import Applied, ReplicatedState

if TYPE_CHECKING:
    from sim.virtual.host import Host


class WatchedJournal:
    """A journal whose every batch the oracles hear of before it is written: what the core wants durable."""

    def __init__(self, host: Host, journal: Journal) -> None:
        self._host = host
        self._journal = journal
        self.rotate = journal.rotate
        self.mark_synced = journal.mark_synced

    @property
    def size(self) -> int:
        """As the journal's."""
        return self._journal.size

    def append(self, records: Sequence[Record]) -> tuple[list[Op], int]:
        """As the journal's."""
        self._host.asserted.clear()
        for hook in self._host.world.on_recorded:
            hook(self._host, records)
        return self._journal.append(records)


class WatchedState(ReplicatedState):
    """`hooks` are called with each encoded entry before it is applied."""

    def __init__(self, machine: Machine, max_sessions: int, hooks: Sequence[Callable[[bytes], None]]) -> None:
        super().__init__(machine, max_sessions)
        self._hooks = hooks

    def apply(self, entry: bytes, compare: bool = True) -> list[Applied]:
        for hook in self._hooks:
            hook(entry)
        return super().apply(entry, compare)
