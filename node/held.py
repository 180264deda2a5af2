"""Queries that are to be answered from the state right after one entry of the log.

Whoever believes only what several nodes say alike needs them to answer from the same entry, and replicas apply the log each at
its own pace. So the asker names an entry soon to come (`Meeting`); a node holds the query until its state has reached that entry,
and the replica answers before it applies the next (`Held`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from consensus.core import NEVER
from consensus.marks import sometimes

if TYPE_CHECKING:
    from node.queries import Connection, Waiting

HOLD: Final = 50_000
"""Microseconds that a query is held at most: the log may stand still, and then every node's newest state is of the same entry."""

MOST_AHEAD: Final = 64
"""Entries that a meeting lies ahead at most."""


class Held:
    """What is held, each for its entry and until its time.

    `entry` is the lowest that anybody waits for: the replica must not apply past it before it has answered. `due` is when
    somebody has been held for long enough. Both are NEVER if nothing is held."""

    def __init__(self) -> None:
        self.items: list[Waiting] = []
        self.entry = NEVER
        self.due = NEVER

    def __len__(self) -> int:
        return len(self.items)

    def takes(self, item: Waiting, applied_index: int, now: int) -> bool:
        """Hold a query if it has to be, and say whether."""
        item.hold = item.hold or min(item.until, now + HOLD)
        if item.query.entry <= applied_index or item.hold <= now:
            return False
        sometimes("a query is held for the entry that it is to be answered from")
        self.items.append(item)
        self.entry = min(self.entry, item.query.entry)
        self.due = min(self.due, item.hold)
        return True

    def release(self, applied_index: int, now: int) -> list[Waiting]:
        """Those that need not be held any longer, in the order in which they came."""
        if self.entry > applied_index and self.due > now:
            return []
        if self.entry > applied_index:
            sometimes("a query was held for an entry that does not come")
        free: list[Waiting] = []
        stay: list[Waiting] = []
        for item in self.items:
            (free if item.query.entry <= applied_index or item.hold <= now else stay).append(item)
        self._keep(stay)
        return free

    def forget(self, gone: Callable[[Connection], bool]) -> None:
        """Drop the queries of connections that are gone."""
        self._keep([item for item in self.items if not gone(item.connection)])

    def _keep(self, items: list[Waiting]) -> None:
        self.items = items
        self.entry = min((item.query.entry for item in items), default=NEVER)
        self.due = min((item.hold for item in items), default=NEVER)


class Meeting:
    """From which entry nodes that did not agree are to answer next: one a little ahead of them.

    How many entries come while a question is on its way is not known: so it lies further ahead where the nodes were past the last
    one, and less where they did not get there in time. A node far behind, or one that claims to be far ahead, does not count:
    `need` nodes at least say that they are as far as what is built upon, and one of them is honest."""

    def __init__(self, need: int) -> None:
        self._need = need
        self._ahead = 1
        self._entry = 0
        self._said: dict[str, int] = {}
        self._past: dict[str, None] = {}
        self._short: dict[str, None] = {}
        """Who was past the entry asked for last, and who did not get there in time."""

    def heard(self, node: str, index: int) -> None:
        """A node has answered from the state behind this entry."""
        self._said[node] = index
        if self._entry and index != self._entry:
            (self._past if index > self._entry else self._short)[node] = None

    def entry(self) -> int:
        """The entry to ask for next; 0, for any, while too few have answered."""
        if len(self._said) < self._need:
            return 0
        # One node alone may be slow, or lie.
        if len(self._past) >= self._need:
            self._ahead = min(2 * self._ahead, MOST_AHEAD)
        elif len(self._short) >= self._need:
            self._ahead = max(1, self._ahead // 2)
        self._past.clear()
        self._short.clear()
        self._entry = sorted(self._said.values(), reverse=True)[self._need - 1] + self._ahead
        return self._entry
