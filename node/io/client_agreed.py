"""A client's queries where nodes may lie: an answer counts when so many nodes give it that one of them is honest.

Equal means: the same result from the state behind the same log entry. Replicas apply the log at their own pace, so two may differ
for a moment and both be right. Then others are asked, and then everybody for the state right after one entry that is about to
come (`node.held`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import trio

from node.held import HOLD, Meeting
from node.io.client_link import Link
from node.io.client_queries import Asked, Asking, Queries
from node.io.client_types import BadQuery, Event, EventHook, QueryResult, Settings, code_name
from node.protocol import Answer, Code, Consistency, Query, QueryRefused

_PAUSE_MIN_S: Final = 0.002
_PAUSE_MAX_S: Final = 0.02
_GIVE_UP_S: Final = 0.25
_MUTE_AFTER: Final = 2
_MUTE_S: Final = 1.0
"""A node that has left so many queries in a row without an answer is asked last, and not waited for, for so many seconds. It may
answer every ping: whoever lies can keep its connection in the best of health."""
_NEVER: Final = float("inf")

Pool = dict[tuple[Any, ...], dict[str, tuple[Consistency, Answer]]]
"""What was said, and by whom: (index, chain, result) -> node -> its answer, and under what it gave it. What was given under more
than is asked for by now counts as well."""


class AgreedQueries(Queries):
    """All queries of one client."""

    def __init__(
        self,
        need: int,
        settings: Settings,
        rng: random.Random,
        next_request: Callable[[], int],
        links: Sequence[Link],
        events: EventHook,
    ) -> None:
        """`need`: so many nodes are never all liars."""
        super().__init__(settings, rng, next_request, links, events)
        self._need = need
        self._unheard: dict[str, tuple[int, float]] = {}
        """Node -> (queries in a row that it left without an answer, until when it is taken for mute)."""

    def _silent(self, link: Link, now: float) -> bool:
        unheard = self._unheard.get(link.member.id)
        return link.suspect(now) or (unheard is not None and now < unheard[1])

    def _left(self, node: str, now: float) -> None:
        """A query was left without an answer for longer than is usual."""
        times = self._unheard.get(node, (0, 0.0))[0] + 1
        self._unheard[node] = (times, now + _MUTE_S if times >= _MUTE_AFTER else 0.0)

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
        """See `Client.query`. Of an answer's age and tier the worst that was said counts, and its node is one of those that
        agree."""
        now = trio.current_time()
        until = now + patience_ms / 1000
        fallback_at = now + fallback_after_ms / 1000 if fallback is not None else _NEVER
        # A node that is silent may be a liar; whoever wants no hedges has the slow ones given up nevertheless.
        slow_s = _GIVE_UP_S if hedge_ms is None else hedge_ms / 1000
        next_look, next_round, pause = now + slow_s, now, _PAUSE_MIN_S
        level = consistency
        first: list[str] = []
        reasons: dict[str, str] = {}
        bad: dict[str, str] = {}
        tried: dict[str, None] = {}
        slow: dict[int, None] = {}
        pool: Pool = {}
        meeting, entry, answers = Meeting(self._need), 0, 0
        asking = Asking()
        self.budget.earn(1)

        def ask() -> bool:
            """Ask the best node not tried in this round; False if there is none."""
            while (channel := self._pick(tried, asking, prefer, now)) is not None:
                tried[channel.node] = None
                request = self._next_request()
                patience_us = max(1, int((until - now) * 1e6))
                if channel.put(Query(request, int(level), max_age_ms * 1000, patience_us, query, entry)):
                    asking.asked[request] = Asked(channel, level, now, bool(slow))
                    self._by_request[request] = asking
                    if slow:
                        self.hedged += 1
                        self._events(Event(now, "hedge", channel.node, "an answer is late"))
                    elif len(first) < self._need:
                        first.append(channel.node)
                    return True
                reasons[channel.node] = "the connection takes no more"
            return False

        def quick() -> int:
            """How many copies are under way that are worth waiting for."""
            patience = slow_s + HOLD / 1e6 if entry else slow_s
            for request, asked in asking.asked.items():
                late = now - asked.at >= patience and now >= next_look
                if request not in slow and (
                    self._silent(asked.channel.link, now) or (late and self.budget.take(1, now))
                ):
                    slow[request] = None
            return sum(
                asked.consistency == level and request not in slow for request, asked in asking.asked.items()
            )

        try:
            while True:
                now = trio.current_time()
                while asking.news:
                    request, message = asking.news.pop(0)
                    if type(message) is Answer and request in asking.asked:
                        meeting.heard(asking.asked[request].channel.node, message.index)
                        answers += 1
                    found = self._weigh(asking, request, message, max_age_ms, pool, bad, reasons, now)
                    if found is not None:
                        found.hedged = found.node not in first
                        return found
                if now >= until:
                    raise self._failure(asking, reasons, patience_ms, now)
                if now >= fallback_at and fallback is not None:
                    level, fallback_at, next_round = fallback, _NEVER, now
                    tried.clear()
                    self._events(Event(now, "fallback", None, f"{consistency.name} -> {fallback.name}"))
                # As many under way as would settle it, if they say what most have said already; for one entry, everybody.
                best = max((count(who, level) for who in pool.values()), default=0)
                under_way = quick()
                if now >= next_look:
                    next_look = now + slow_s
                while now >= next_round and (entry or best + under_way < self._need) and ask():
                    under_way += 1
                hopeless = best + under_way < self._need
                if hopeless and now >= next_round:
                    # Everybody was asked who can be: another round, of those that owe nothing. Where hardly anybody answers, a
                    # little later each time.
                    tried.clear()
                    tried.update((asked.channel.node, None) for asked in asking.asked.values())
                    entry = meeting.entry()
                    pause = _PAUSE_MIN_S if answers >= self._need else min(2 * pause, _PAUSE_MAX_S)
                    next_round, answers = now + pause * self._rng.uniform(0.5, 1.0), 0
                    continue
                asking.event = trio.Event()
                with trio.move_on_at(
                    min(
                        until,
                        fallback_at,
                        next_look if under_way else _NEVER,
                        next_round if hopeless else _NEVER,
                    )
                ):
                    await asking.event.wait()
        finally:
            now = trio.current_time()
            for request, asked in asking.asked.items():
                del self._by_request[request]
                if now - asked.at >= (slow_s if request in slow else slow_s + HOLD / 1e6):
                    self._left(asked.channel.node, now)

    def _weigh(
        self,
        asking: Asking,
        request: int,
        message: Any,
        max_age_ms: int,
        pool: Pool,
        bad: dict[str, str],
        reasons: dict[str, str],
        now: float,
    ) -> QueryResult | None:
        """Take in what a node said; the result if that is enough. Raises BadQuery."""
        asked = asking.asked.pop(request, None)
        self._by_request.pop(request, None)
        if asked is None:
            return None
        node = asked.channel.node
        self._unheard.pop(node, None)
        if type(message) is Answer:
            asked.channel.link.note_latency(now - asked.at)
            limit = max_age_ms * 1000
            if asked.consistency == Consistency.BOUNDED and (message.age is None or message.age > limit):
                reasons[node] = f"answered with age {message.age} us where at most {limit} were asked for"
                return None
            found = agree(pool, node, asked.consistency, message, self._need)
            if found is not None:
                return found
            reasons[node] = f"answered from entry {message.index}, and was not confirmed"
        elif type(message) is QueryRefused:
            reasons[node] = f"{code_name(message.code)}: {message.reason}"
            if message.code == Code.BAD_QUERY:
                bad[node] = message.reason
                if len(bad) >= self._need:
                    raise BadQuery(message.reason, {})
        else:
            reasons[node] = str(message)
        return None


def agree(pool: Pool, node: str, given: Consistency, answer: Answer, need: int) -> QueryResult | None:
    """Take in what a node answered under a consistency; the result, once `need` nodes have said the same."""
    who = pool.setdefault((answer.index, answer.chain, answer.result), {})
    if node not in who or who[node][0] <= given:
        who[node] = (given, answer)
    for level in (Consistency.LINEARIZABLE, Consistency.BOUNDED, Consistency.ANY):
        if count(who, level) >= need:
            return _joined(who, level)
    return None


def count(who: dict[str, tuple[Consistency, Answer]], level: Consistency) -> int:
    """How many gave their answer under `level` or more."""
    return sum(given >= level for given, _ in who.values())


def _joined(who: dict[str, tuple[Consistency, Answer]], level: Consistency) -> QueryResult:
    """What all of those say that gave their answer under `level` or more."""
    said = {node: answer for node, (given, answer) in who.items() if given >= level}
    node, answer = next(iter(said.items()))
    ages = [other.age for other in said.values()]
    known = [age for age in ages if age is not None]
    age = max(known) if len(known) == len(ages) else None
    tier = "fresh" if all(other.tier == "fresh" for other in said.values()) else "stale"
    return QueryResult(answer.index, answer.chain, age, tier, answer.result, node, False, level)
