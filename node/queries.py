"""Queries waiting for their turn, and the read barriers that they wait for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from consensus.core import NEVER, NodeId, Refusal, RefusalCode, Token
from consensus.marks import sometimes
from node.effects import Effects
from node.held import Held
from node.machine import QueryError
from node.protocol import Answer, Code, Consistency, Query, QueryRefused
from node.state import ReplicatedState

RETRY: Final = 20_000
"""Microseconds after a refused barrier before the next one is asked for."""
LONGEST_PATIENCE: Final = 60_000_000
MOST_FIRST: Final = 64
"""Most queries of one entry that the next entry waits for: whoever asks more at once must not hold the log up."""

Connection = Any
"""Whatever the shell uses to name a client's connection; hashable."""


@dataclass(slots=True)
class Waiting:
    """A query, who asked it, and until when it waits: for its turn, and, once that has come, for its entry."""

    connection: Connection
    query: Query
    until: int
    hold: int = 0


@dataclass(slots=True, eq=False)
class Barrier:
    """A read barrier, what waits for it, and the index that it came back with."""

    asked_at: int
    queries: list[Waiting]
    lazy: bool
    """Nobody waited when it was asked for."""
    index: int | None = None


class QueryDesk:
    """Decides when a query may be answered; the replica answers the `ready` ones, a bounded number a turn.

    At most one barrier is under way: what arrives meanwhile shares the next. Barriers are also asked for at a regular pace
    without any query, so that a node knows its age; those are `lazy` (`consensus.core.Core.read`), and a query that comes to wait
    has another one asked for in their place. `fresh_at` is when the newest barrier that this node has caught up
    with was *asked for*: everything acknowledged before that moment is in the state.
    """

    def __init__(self, capacity: int, pace: int, fresh: int, first_token: Token) -> None:
        self.capacity = capacity
        self.pace = pace
        self.fresh = fresh
        self.fresh_at: int | None = None
        self.ready: deque[Waiting] = deque()
        self.returned: list[Barrier] = []
        """Barriers that came back; the state has yet to reach their index."""
        self.held = Held()
        self.first = 0
        """So many of the `ready` ones are of the entry that was applied last: the next must wait for them."""
        self._waiting: list[Waiting] = []
        self._asked: Barrier | None = None
        self._token = first_token
        self._due: int | None = None  # what `deadline` says, until something changes
        self._next_pace = 0
        self._not_before = 0
        self._refusal = Refusal(RefusalCode.NO_QUORUM, "no read barrier has succeeded yet")

    def __len__(self) -> int:
        asked = len(self._asked.queries) if self._asked else 0
        returned = sum(len(b.queries) for b in self.returned)
        return len(self.ready) + len(self.held) + len(self._waiting) + asked + returned

    def age(self, now: int) -> int | None:
        """Microseconds since this node asked for its last successful barrier."""
        return None if self.fresh_at is None else now - self.fresh_at

    def tier(self, now: int) -> str:
        """`fresh` or `stale`."""
        age = self.age(now)
        return "fresh" if age is not None and age <= self.fresh else "stale"

    def add(self, connection: Connection, query: Query, now: int) -> QueryRefused | None:
        """Take a query in, or refuse it."""
        if len(self) >= self.capacity:
            sometimes("a query is refused: too many wait")
            reason = f"{self.capacity} queries are waiting already; try again later or elsewhere"
            return QueryRefused(query.request, Code.BUSY, reason, None)
        if query.consistency not in (0, 1, 2):
            reason = f"unknown consistency {query.consistency}; known: any 0, bounded 1, linearizable 2"
            return QueryRefused(query.request, Code.BAD_QUERY, reason, None)
        until = now + min(query.patience, LONGEST_PATIENCE)
        item = Waiting(connection, query, until)
        self._due = None
        if query.consistency == Consistency.ANY or (
            query.consistency == Consistency.BOUNDED and self._young_enough(item, now)
        ):
            self.ready.append(item)
        else:
            self._waiting.append(item)
        return None

    def _young_enough(self, item: Waiting, now: int) -> bool:
        age = self.age(now)
        return age is not None and age <= item.query.max_age

    def wants_barrier(self, now: int) -> Token | None:
        """The token of a barrier to ask for now, or None; `lazy` says of which kind it is."""
        if now < self._not_before:
            return None
        if self._asked is not None:
            if not self._asked.lazy or not self._waiting:
                return None
            sometimes("a query does not wait for a lazy barrier but has its own")
        if not self._waiting and now < self._next_pace:
            return None
        self._token += 1
        self._next_pace = now + self.pace
        self._asked = Barrier(now, self._waiting, lazy=not self._waiting)
        self._waiting = []
        self._due = None
        return self._token

    @property
    def lazy(self) -> bool:
        """Whether nobody waits for the barrier that was asked for last."""
        return self._asked is not None and self._asked.lazy

    def passed(self, token: Token, index: int) -> None:
        """A barrier came back."""
        if self._asked is not None and token == self._token:
            self._asked.index = index
            self.returned.append(self._asked)
            self._asked = None
            self._due = None

    def refused(self, token: Token, refusal: Refusal, now: int) -> None:
        """A barrier was refused: those who wait go on waiting, for as long as their patience lasts."""
        if self._asked is not None and token == self._token:
            if self._asked.queries:
                sometimes("a barrier with queries behind it is refused and asked for again")
            self._due = None
            self._waiting = self._asked.queries + self._waiting
            self._asked = None
            self._not_before = now + RETRY
            self._refusal = refusal

    def caught_up(self, applied_index: int, now: int) -> None:
        """The state has reached `applied_index`: release whoever waited for that."""
        while self.returned:
            if (self.returned[0].index or 0) > applied_index:
                sometimes("a barrier came back and the state has yet to reach its index")
                return
            barrier = self.returned.pop(0)
            self.fresh_at = barrier.asked_at
            self._due = None
            for item in barrier.queries:
                if item.query.consistency == Consistency.BOUNDED and not self._young_enough(item, now):
                    sometimes("a barrier took so long that a bounded query needs another one")
                    self._waiting.append(item)
                else:
                    self.ready.append(item)

    def release(self, applied_index: int, now: int) -> None:
        """The state has reached `applied_index`: what is held for that is ready, and what was held for long enough."""
        free = self.held.release(applied_index, now)
        if free:
            self.ready.extendleft(reversed(free))
            self.first = min(self.first + len(free), MOST_FIRST)
            self._due = None

    def take(self, applied_index: int, now: int) -> Waiting | None:
        """The next query to answer now from the state at `applied_index`, or None. What has grown too old while it stood in line
        waits once more; what is to be answered from a later entry is held."""
        while self.ready:
            item = self.ready.popleft()
            self.first = max(0, self.first - 1)
            if item.query.entry and self.held.takes(item, applied_index, now):
                self._due = None
                continue
            if item.query.consistency != Consistency.BOUNDED or self._young_enough(item, now):
                return item
            sometimes("a bounded query has grown too old while it stood in line")
            self._waiting.append(item)
            self._due = None
        return None

    def give_up(self, now: int) -> Iterable[tuple[Connection, QueryRefused]]:
        """Those whose patience has ended, with the reason."""
        if now < self.deadline():
            return
        for items in self._queues():
            late = [item for item in items if item.until <= now]
            if late:
                sometimes("the patience of a query ends")
                items[:] = [item for item in items if item.until > now]
                self._due = None
            for item in late:
                yield item.connection, self._late(item.query, now)

    def _queues(self) -> list[list[Waiting]]:
        asked = [self._asked.queries] if self._asked else []
        return [self._waiting, *asked, *(barrier.queries for barrier in self.returned)]

    def _late(self, query: Query, now: int) -> QueryRefused:
        age = self.age(now)
        if query.consistency == Consistency.BOUNDED and age is not None:
            reason = f"the state here is {age // 1000} ms old, {query.max_age // 1000} ms were asked for"
            return QueryRefused(query.request, Code.TOO_OLD, reason, self._refusal.leader)
        reason = f"no read barrier within {query.patience // 1000} ms: {self._refusal.reason}"
        return QueryRefused(query.request, Code.NO_QUORUM, reason, self._refusal.leader)

    def refuse_all(self, code: Code, reason: str) -> Iterable[tuple[Connection, QueryRefused]]:
        """Refuse everything that waits."""
        ready = [*self.ready, *self.held.items]
        self.ready.clear()
        self.held, self.first = Held(), 0
        self._due = None
        for items in [ready, *self._queues()]:
            for item in items:
                yield item.connection, QueryRefused(item.query.request, code, reason, None)
            items.clear()

    def forget(self, gone: Callable[[Connection], bool]) -> None:
        """Drop the queries of connections that are gone."""
        self.ready = deque(item for item in self.ready if not gone(item.connection))
        self.held.forget(gone)
        self.first = min(self.first, len(self.ready))
        self._due = None
        for items in self._queues():
            items[:] = [item for item in items if not gone(item.connection)]

    def deadline(self) -> int:
        """When a barrier is to be asked for, or somebody's patience ends."""
        if self._due is not None:
            return self._due
        due = NEVER
        if self._waiting and (self._asked is None or self._asked.lazy):
            due = self._not_before
        elif self._asked is None:
            due = max(self._not_before, self._next_pace)
        if self._waiting or self._asked is not None or self.returned:
            for items in self._queues():
                for item in items:
                    if item.until < due:
                        due = item.until
        self._due = due = min(due, self.held.due)
        return due


def answer(
    query: Query, state: ReplicatedState, desk: QueryDesk, node: NodeId, now: int, effects: Effects
) -> Answer | QueryRefused:
    """The answer to a query from the state as it is now."""
    try:
        result = state.query(query.query)
    except QueryError as refusal:
        return QueryRefused(query.request, Code.BAD_QUERY, str(refusal), None)
    except Exception as error:
        # A query changes nothing. What the machine trips over is a bug of its own, and must not stop this replica:
        # the client would ask the next one, and stop them all.
        effects.events.append(
            ("query_failed", {"error": repr(error)[:300], "query": query.query.hex()[:200]})
        )
        reason = f"the machine failed on this query ({type(error).__name__}); see the log of {node}"
        return QueryRefused(query.request, Code.BAD_QUERY, reason, None)
    return Answer(query.request, state.applied_index, state.chain, desk.age(now), desk.tier(now), result)
