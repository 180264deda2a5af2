"""A client's queries: which node is asked, when a second one is asked as well, and what counts as an answer.

A slow or dark node must not cost a rank request its deadline: after `hedge_ms` without an answer a node in another power
domain is asked too, and the first answer wins (Dean, Barroso: The Tail at Scale, 2013). A budget keeps hedges few; asking
elsewhere because a node refused, is gone, or has missed a heartbeat costs nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import trio

from node.io.client_link import Channel, Link
from node.io.client_types import (
    BadQuery,
    Budget,
    Event,
    EventHook,
    QueryFailed,
    QueryResult,
    Settings,
    code_name,
)
from node.protocol import Answer, Code, Consistency, Query, QueryRefused

_ROUND_MIN_S: Final = 0.01
_ROUND_MAX_S: Final = 0.1
_NEVER: Final = float("inf")


@dataclass(slots=True)
class Asked:
    """One copy of a query under way."""

    channel: Channel
    consistency: Consistency
    at: float
    hedge: bool


class Asking:
    """One query under way: its copies, and the news about them."""

    __slots__ = ("asked", "event", "news")

    def __init__(self) -> None:
        self.asked: dict[int, Asked] = {}
        self.news: list[tuple[int, Any]] = []
        self.event = trio.Event()

    def tell(self, request: int, message: Any) -> None:
        self.news.append((request, message))
        self.event.set()


class Queries:
    """All queries of one client."""

    def __init__(
        self,
        settings: Settings,
        rng: random.Random,
        next_request: Callable[[], int],
        links: Sequence[Link],
        events: EventHook,
    ) -> None:
        self._rng = rng
        self._next_request = next_request
        self._links = links
        self._events = events
        self._by_request: dict[int, Asking] = {}
        self._turn = 0
        self.hedged = 0
        """Copies sent while another one was under way."""
        self.budget = Budget(settings.hedge_ratio, settings.hedge_floor_per_s, cap=50.0)
        self.budget.start(trio.current_time())

    # ------------------------------------------------------------------------------------------- what nodes say

    def on_answer(self, channel: Channel, message: Answer | QueryRefused) -> None:
        """An answer or a refusal; late ones are nobody's any more, and a node answers for itself alone."""
        asking = self._by_request.get(message.request)
        asked = None if asking is None else asking.asked.get(message.request)
        if asking is not None and asked is not None and asked.channel is channel:
            asking.tell(message.request, message)

    def on_up(self, channel: Channel) -> None:
        """Whoever waits for any node looks again."""
        for asking in {id(a): a for a in self._by_request.values()}.values():
            asking.event.set()

    def on_down(self, channel: Channel, reason: str) -> None:
        """Copies on this connection will not be answered."""
        for request, asking in self._by_request.items():
            asked = asking.asked.get(request)
            if asked is not None and asked.channel is channel:
                asking.tell(request, reason)

    # ------------------------------------------------------------------------------------------------ asking

    async def query(
        self,
        query: bytes,
        consistency: Consistency,
        *,
        max_age_ms: int,
        patience_ms: int,
        hedge_ms: int | None,
        prefer: str | None,
        fallback: Consistency | None,
        fallback_after_ms: int,
    ) -> QueryResult:
        """See `Client.query`."""
        now = trio.current_time()
        until = now + patience_ms / 1000
        fallback_at = now + fallback_after_ms / 1000 if fallback is not None else _NEVER
        hedge_s = _NEVER if hedge_ms is None else hedge_ms / 1000
        hedge_at = _NEVER
        next_round, pause = now, _ROUND_MIN_S
        level = consistency
        first: str | None = None
        reasons: dict[str, str] = {}
        tried: dict[str, None] = {}
        asking = Asking()
        self.budget.earn(1)

        def ask(hedge: bool) -> bool:
            """Ask the best node not tried in this round; False if there is none."""
            nonlocal first, hedge_at
            while (channel := self._pick(tried, asking, prefer, now)) is not None:
                tried[channel.node] = None
                request = self._next_request()
                patience_us = max(1, int((until - now) * 1e6))
                if channel.put(Query(request, int(level), max_age_ms * 1000, patience_us, query)):
                    asking.asked[request] = Asked(channel, level, now, hedge)
                    self._by_request[request] = asking
                    first = first or channel.node
                    hedge_at = now + hedge_s
                    return True
                reasons[channel.node] = "the connection takes no more"
            return False

        try:
            while True:
                now = trio.current_time()
                while asking.news:
                    request, message = asking.news.pop(0)
                    result = self._judge(asking, request, message, max_age_ms, reasons, now)
                    if result is not None:
                        result.hedged = result.node != first
                        return result
                if now >= until:
                    raise self._failure(asking, reasons, patience_ms, now)
                if now >= fallback_at and fallback is not None:
                    level, fallback_at, next_round = fallback, _NEVER, now
                    tried.clear()
                    self._events(Event(now, "fallback", None, f"{consistency.name} -> {fallback.name}"))
                    ask(hedge=False)
                if not asking.asked and now >= next_round and not ask(hedge=False):
                    # Everybody was asked and refused, or nobody is there: another round, a little later each time.
                    tried.clear()
                    next_round = now + pause * self._rng.uniform(0.5, 1.0)
                    pause = min(2 * pause, _ROUND_MAX_S)
                elif asking.asked and now >= hedge_at:
                    hedge_at = now + hedge_s
                    dark = all(asked.channel.link.suspect(now) for asked in asking.asked.values())
                    if (dark or self.budget.take(1, now)) and ask(hedge=True):
                        self.hedged += 1
                        self._events(
                            Event(
                                now, "hedge", next(reversed(tried)), "a heartbeat is missing" if dark else ""
                            )
                        )
                wake = min(until, fallback_at, hedge_at if asking.asked else next_round)
                asking.event = trio.Event()
                with trio.move_on_at(wake):
                    await asking.event.wait()
        finally:
            for request in asking.asked:
                del self._by_request[request]

    def _judge(
        self,
        asking: Asking,
        request: int,
        message: Any,
        max_age_ms: int,
        reasons: dict[str, str],
        now: float,
    ) -> QueryResult | None:
        asked = asking.asked.pop(request, None)
        self._by_request.pop(request, None)
        if asked is None:
            return None
        node = asked.channel.node
        if type(message) is Answer:
            asked.channel.link.note_latency(now - asked.at)
            too_old = message.age is None or message.age > max_age_ms * 1000
            if asked.consistency == Consistency.BOUNDED and too_old:
                # The node broke its promise; what we were asked for is still to be found.
                reasons[node] = (
                    f"answered with age {message.age} us where at most {max_age_ms * 1000} were asked for"
                )
                return None
            return QueryResult(
                message.index,
                message.chain,
                message.age,
                message.tier,
                message.result,
                node,
                False,
                asked.consistency,
            )
        if type(message) is QueryRefused:
            reasons[node] = f"{code_name(message.code)}: {message.reason}"
            if message.code == Code.BAD_QUERY:
                raise BadQuery(message.reason, {})
        else:
            reasons[node] = str(message)
        return None

    def _failure(self, asking: Asking, reasons: dict[str, str], patience_ms: int, now: float) -> QueryFailed:
        for asked in asking.asked.values():
            reasons[asked.channel.node] = f"no answer within {(now - asked.at) * 1000:.0f} ms"
        for link in self._links:
            if link.channel is None:
                reasons.setdefault(link.member.id, f"not connected: {link.last_error}")
        return QueryFailed(f"no answer within {patience_ms} ms", reasons)

    def _silent(self, link: Link, now: float) -> bool:
        """Whether an answer of that node is hardly to be hoped for."""
        return link.suspect(now)

    def _pick(self, tried: dict[str, None], asking: Asking, prefer: str | None, now: float) -> Channel | None:
        """The best node not tried yet: one that is heard before one that is silent, the preferred node or domain, a domain
        not asked yet, no slower than twice the fastest; in turn among equals."""
        best: tuple[bool, bool, bool, bool, int] | None = None
        chosen: Channel | None = None
        links = self._links
        known = [link.latency for link in links if link.channel is not None and link.latency > 0.0]
        slow = 2.0 * min(known) + 0.001 if known else _NEVER
        asked_domains = [asked.channel.link.member.domain for asked in asking.asked.values()]
        self._turn += 1
        for position, link in enumerate(links):
            channel = link.channel
            member = link.member
            if channel is None or member.id in tried:
                continue
            rank = (
                self._silent(link, now),
                member.domain in asked_domains,
                prefer is not None and prefer not in (member.id, member.domain),
                link.latency > slow,
                (position - self._turn) % len(links),
            )
            if best is None or rank < best:
                best, chosen = rank, channel
        return chosen
