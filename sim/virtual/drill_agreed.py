"""The queries of a drill's client on virtual time where nodes may lie, after `node.io.client_agreed`: what counts as agreement is
that very code.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from consensus.core import NEVER
from node.held import HOLD, Meeting
from node.io.client_agreed import Pool, agree, count
from node.io.client_types import Settings, code_name
from node.protocol import Answer, Code, Consistency, QueryRefused
from sim.virtual.drill_queries import Answered, Asking, Queries
from sim.virtual.timeline import Timeline

if TYPE_CHECKING:
    from sim.virtual.drill_client import Link

PAUSE: Final = (2_000, 20_000)
"""Shortest and longest wait until everybody is asked again (us): nodes that apply the log at their own pace may differ for a
moment, and all be right."""


@dataclass(slots=True, eq=False)
class AgreedAsking(Asking):
    """One query under way, and what was said. `hedge_at` is when it is looked for late ones next; `answers` counts those of this
    round."""

    meeting: Meeting = field(kw_only=True)
    answers: int = 0
    pool: Pool = field(default_factory=dict)
    slow: dict[int, None] = field(default_factory=dict)
    """Requests that are not waited for any more; their answers count nevertheless."""
    bad: dict[str, str] = field(default_factory=dict)
    """Nodes that call the query malformed."""


class AgreedQueries(Queries):
    """All queries of one client; an answer counts when so many nodes give it that one of them is honest."""

    def __init__(
        self,
        need: int,
        timeline: Timeline,
        links: dict[str, Link],
        number: Callable[[], int],
        settings: Settings,
        rng: random.Random,
    ) -> None:
        """`need`: so many nodes are never all liars."""
        super().__init__(timeline, links, number, settings, rng)
        self._need = need

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
        look = now + hedge
        meeting = Meeting(self._need)
        self._step(
            AgreedAsking(
                query, level, max_age, until, hedge, fallback_at, done, now, look, PAUSE[0], meeting=meeting
            )
        )

    def _step(self, asking: Asking) -> None:
        assert isinstance(asking, AgreedAsking)
        if asking.over:
            return
        now = self._timeline.now
        if now >= asking.until:
            self._too_late(asking)
            return
        if now >= asking.fallback_at:
            self._fall_back(asking, now)
        # As many under way as would settle it, if they say what most have said already; for one entry, everybody.
        best = max((count(who, asking.level) for who in asking.pool.values()), default=0)
        under_way = self._quick(asking, now)
        if now >= asking.hedge_at:
            asking.hedge_at = now + asking.hedge
        while (
            now >= asking.next_round and (asking.entry or best + under_way < self._need) and self._ask(asking)
        ):
            under_way += 1
        hopeless = best + under_way < self._need
        if hopeless and now >= asking.next_round:
            # Everybody was asked who can be: another round, of those that owe nothing. Where hardly anybody answers, a little
            # later each time.
            asking.tried.clear()
            asking.tried.update((copy.channel.node, None) for copy in asking.copies.values())
            asking.entry = asking.meeting.entry()
            asking.pause = PAUSE[0] if asking.answers >= self._need else min(2 * asking.pause, PAUSE[1])
            asking.next_round, asking.answers = now + self._rng.randint(asking.pause // 2, asking.pause), 0
        look = asking.hedge_at if under_way else NEVER
        later = asking.next_round if hopeless else NEVER
        self._wake_at(asking, min(asking.until, asking.fallback_at, look, later))

    def _quick(self, asking: AgreedAsking, now: int) -> int:
        """How many copies are under way that are worth waiting for."""
        patience = asking.hedge + (HOLD if asking.entry else 0)
        for request, copy in asking.copies.items():
            late = now - copy.at >= patience and now >= asking.hedge_at
            if request not in asking.slow and (
                copy.channel.link.suspect(now / 1e6) or (late and self._hedges.take(1, now / 1e6))
            ):
                asking.slow[request] = None
        return sum(
            copy.level == asking.level and request not in asking.slow
            for request, copy in asking.copies.items()
        )

    def _ask(self, asking: Asking) -> bool:
        assert isinstance(asking, AgreedAsking)
        channel = self._send(asking)
        if channel is None:
            return False
        if not asking.slow and len(asking.first) < self._need:
            asking.first.append(channel.node)
        return True

    def _judge(self, asking: Asking, message: Answer | QueryRefused) -> None:
        assert isinstance(asking, AgreedAsking)
        if type(message) is Answer:
            copy = self._take_back(
                asking, message.request, f"answered from entry {message.index}, and was not confirmed"
            )
            node = copy.channel.node
            asking.meeting.heard(node, message.index)
            asking.answers += 1
            if copy.level == Consistency.BOUNDED and (message.age is None or message.age > asking.max_age):
                asking.reasons[node] = (
                    f"answered with age {message.age} us where at most {asking.max_age} were asked for"
                )
            else:
                found = agree(asking.pool, node, copy.level, message, self._need)
                if found is not None:
                    found.hedged = found.node not in asking.first
                    self._finish(asking, found, "")
                    return
        else:
            assert type(message) is QueryRefused
            words = f"{code_name(message.code)}: {message.reason}"
            node = self._take_back(asking, message.request, words).channel.node
            if message.code == Code.BAD_QUERY:
                asking.bad[node] = message.reason
                if len(asking.bad) >= self._need:
                    self._finish(asking, None, message.reason)
                    return
        self._step(asking)
