"""The queries of a drill's client on virtual time, after `node.io.client_queries`: one that is not answered is asked of another
node as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from consensus.core import NEVER
from node.io.client_types import Budget, QueryResult, Settings, code_name
from node.protocol import Answer, Code, Consistency, Query, QueryRefused
from sim.virtual.timeline import Timeline

if TYPE_CHECKING:
    from sim.virtual.drill_client import Channel, Link

ROUND: Final = (10_000, 100_000)
"""Shortest and longest wait between two rounds of asking everybody (us)."""

Answered = Callable[[QueryResult | None, str], None]
"""Called once, with the answer, or with None and the reason."""


@dataclass(slots=True, eq=False)
class Copy:
    """Where a query was sent, what it asks for, and when (us)."""

    channel: Channel
    level: Consistency
    at: int


@dataclass(slots=True, eq=False)
class Asking:
    """One query under way. Times in microseconds."""

    query: bytes
    level: Consistency
    max_age: int
    until: int
    hedge: int
    fallback_at: int
    done: Answered
    next_round: int
    hedge_at: int
    pause: int
    entry: int = 0
    """Which entry it is to be answered from, if it matters."""
    first: list[str] = field(default_factory=list)
    """Who was asked before anybody was late."""
    timer: int = NEVER
    over: bool = False
    tried: dict[str, None] = field(default_factory=dict)
    copies: dict[int, Copy] = field(default_factory=dict)
    """By the numbers of their requests."""
    reasons: dict[str, str] = field(default_factory=dict)


class Queries:
    """All queries of one client; the first answer wins."""

    def __init__(
        self,
        timeline: Timeline,
        links: dict[str, Link],
        number: Callable[[], int],
        settings: Settings,
        rng: random.Random,
    ) -> None:
        """`number`: gives each request its own."""
        self._timeline = timeline
        self._links = links
        self._number = number
        self._rng = rng
        self._hedges = Budget(settings.hedge_ratio, settings.hedge_floor_per_s, cap=50.0)
        self._hedges.start(timeline.now / 1e6)
        self._asked: dict[int, Asking] = {}
        self._turn = 0

    @property
    def open(self) -> int:
        """Copies without an answer."""
        return len(self._asked)

    def ask(
        self,
        query: bytes,
        consistency: Consistency,
        done: Answered,
        *,
        max_age: int,
        patience: int,
        hedge: int,
        fallback_after: int | None,
    ) -> None:
        """See `DrillClient.query`."""
        now = self._timeline.now
        fallback_at = NEVER if fallback_after is None else now + fallback_after
        self._hedges.earn(1)
        self._begin(query, consistency, max_age, now + patience, hedge, fallback_at, done)

    def on_down(self, channel: Channel, why: str) -> None:
        """A link is down, and with it the answers that were to come over it."""
        for request, asking in list(self._asked.items()):
            if not asking.over and asking.copies[request].channel is channel:
                self._take_back(asking, request, why)
                self._step(asking)

    def on_answer(self, channel: Channel, message: Answer | QueryRefused) -> None:
        """An answer or a refusal; late ones are nobody's any more, and a node answers for itself alone."""
        asking = self._asked.get(message.request)
        if asking is not None and asking.copies[message.request].channel is channel:
            self._judge(asking, message)

    # ------------------------------------------------------------------------------------------- what to do next

    def _begin(
        self,
        query: bytes,
        level: Consistency,
        max_age: int,
        until: int,
        hedge: int,
        fallback_at: int,
        done: Answered,
    ) -> None:
        now = self._timeline.now
        self._step(Asking(query, level, max_age, until, hedge, fallback_at, done, now, NEVER, ROUND[0]))

    def _step(self, asking: Asking) -> None:
        if asking.over:
            return
        now = self._timeline.now
        if now >= asking.until:
            self._too_late(asking)
            return
        if now >= asking.fallback_at:
            self._fall_back(asking, now)
            self._ask(asking)
        if not asking.copies and now >= asking.next_round and not self._ask(asking):
            # Everybody was asked and refused, or nobody is there: another round, a little later each time.
            asking.tried.clear()
            asking.next_round = now + self._rng.randint(asking.pause // 2, asking.pause)
            asking.pause = min(2 * asking.pause, ROUND[1])
        elif asking.copies and now >= asking.hedge_at:
            asking.hedge_at = now + asking.hedge
            dark = all(copy.channel.link.suspect(now / 1e6) for copy in asking.copies.values())
            if dark or self._hedges.take(1, now / 1e6):
                self._ask(asking)
        later = asking.hedge_at if asking.copies else asking.next_round
        self._wake_at(asking, min(asking.until, asking.fallback_at, later))

    def _too_late(self, asking: Asking) -> None:
        for copy in asking.copies.values():
            asking.reasons[copy.channel.node] = "no answer in time"
        listed = "; ".join(f"{node}: {why}" for node, why in asking.reasons.items())
        self._finish(asking, None, f"no answer in time ({listed or 'no node is connected'})")

    def _fall_back(self, asking: Asking, now: int) -> None:
        asking.level, asking.fallback_at, asking.next_round = Consistency.ANY, NEVER, now
        asking.tried.clear()

    def _wake_at(self, asking: Asking, when: int) -> None:
        if when < asking.timer:
            asking.timer = when
            self._timeline.at(when, self._ring, (asking, when))

    def _ring(self, rung: tuple[Asking, int]) -> None:
        asking, when = rung
        if asking.timer == when:
            asking.timer = NEVER
            self._step(asking)

    # -------------------------------------------------------------------------------------------- asking, judging

    def _ask(self, asking: Asking) -> bool:
        """Ask the best node not tried in this round; False if there is none."""
        channel = self._send(asking)
        if channel is None:
            return False
        asking.first = asking.first or [channel.node]
        asking.hedge_at = self._timeline.now + asking.hedge
        return True

    def _send(self, asking: Asking) -> Channel | None:
        """Send a copy to the best node not tried in this round; who that is, None if there is none."""
        now = self._timeline.now
        domains = [copy.channel.link.domain for copy in asking.copies.values()]
        self._turn += 1
        choice = [
            (
                (link.suspect(now / 1e6), link.domain in domains, (place - self._turn) % len(self._links)),
                link.channel,
            )
            for place, link in enumerate(self._links.values())
            if link.channel is not None and link.node not in asking.tried
        ]
        if not choice:
            return None
        _, channel = min(choice, key=lambda one: one[0])
        request = self._number()
        asking.tried[channel.node] = None
        asking.copies[request] = Copy(channel, asking.level, now)
        self._asked[request] = asking
        patience = asking.until - now
        channel.put(Query(request, int(asking.level), asking.max_age, patience, asking.query, asking.entry))
        return channel

    def _take_back(self, asking: Asking, request: int, why: str) -> Copy:
        copy = asking.copies.pop(request)
        del self._asked[request]
        asking.reasons[copy.channel.node] = why
        return copy

    def _judge(self, asking: Asking, message: Answer | QueryRefused) -> None:
        if type(message) is Answer:
            copy = asking.copies[message.request]
            node = copy.channel.node
            result = QueryResult(
                message.index, message.chain, message.age, message.tier, message.result, node,
                node not in asking.first, copy.level,
            )  # fmt: skip
            self._finish(asking, result, "")
            return
        assert type(message) is QueryRefused
        self._take_back(asking, message.request, f"{code_name(message.code)}: {message.reason}")
        if message.code == Code.BAD_QUERY:
            self._finish(asking, None, message.reason)
        else:
            self._step(asking)

    def _finish(self, asking: Asking, result: QueryResult | None, why: str) -> None:
        asking.over = True
        for request in asking.copies:
            del self._asked[request]
        asking.done(result, why)
