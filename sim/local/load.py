"""Load for a run: an open loop of updates and one of rank requests, each operation written into the history.

Open loops: requests are made when their time has come, whether or not earlier ones have been answered. A loop that
waits for answers would stop asking during an outage and not see it.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import trio

from node.io.client import Client
from node.io.client_pending import Pending
from node.io.client_types import NotDone, QueryFailed
from node.protocol import Consistency
from node.ranking import commands, queries
from sim.check.history import HistoryWriter, Operation
from sim.local.links import now_us
from sim.scenario import Ranking, Scenario, Writing
from sim.workload.record import query_failed, query_of, ranking_answered, write_settled
from sim.workload.stream import Stream

Pair = tuple[int, int]


class Load(Protocol):
    """What a drill asks of the load on its cluster."""

    def opened(self) -> AbstractAsyncContextManager[None]:
        """Be ready to ask, for the time of `async with`."""

    async def run(self, enough: Callable[[float], bool]) -> None:
        """Ask until there is nothing left to ask, or until `enough(seconds so far)` says so."""

    async def settle(self) -> None:
        """Wait for what is open, but not for ever."""

    def words(self) -> str:
        """What was asked and answered so far, in a line."""

    def facts(self) -> dict[str, Any]:
        """`writes_begun`, `writes_unsettled`, `interactions_sent` for run.json."""


class Writer:
    """Sends the batches of a stream as OBSERVE commands at a steady pace."""

    def __init__(self, client: Client, history: HistoryWriter, plan: Writing) -> None:
        self._client = client
        self._history = history
        self._plan = plan
        self.begun = 0
        self.acked = 0
        self.failed = 0
        self.interactions = 0
        """Interactions in the commands begun."""
        self.last_ack_us = 0
        self.known_users: list[int] = []
        """Users with at least one acknowledged update, in the order in which they became known."""
        self._known: set[int] = set()
        self._settled = trio.Event()

    @property
    def open(self) -> int:
        """Commands begun and not settled."""
        return self.begun - self.acked - self.failed

    async def catalogue(self, batch: Sequence[bytes]) -> None:
        """Send commands one behind the other's back, and wait for all: what a shop loads before it opens."""
        for command in batch:
            self._begin(command, ())
        await self.settle(30)

    async def run(self, batches: Sequence[list[Pair]], enough: Callable[[float], bool]) -> None:
        """Send the batches, the n-th n / per_s seconds from now, until they end or `enough(seconds so far)` says so."""
        began = trio.current_time()
        for number, batch in enumerate(batches):
            due = number / self._plan.per_s
            if enough(due):
                break
            await trio.sleep_until(began + due)
            self._begin(commands.observe(batch), [user for user, _ in batch])

    def _begin(self, command: bytes, users: Sequence[int]) -> None:
        invoke = now_us()
        self.begun += 1
        self.interactions += len(users)

        def settled(pending: Pending) -> None:
            self._record(pending, invoke, command, users)

        try:
            self._client.begin(command, deadline_s=self._plan.deadline_s, callback=settled)
        except NotDone as error:
            self._write(
                Operation("write", self._client.name, invoke, now_us(), "refused", error=str(error)), False
            )

    def _record(self, pending: Pending, invoke: int, command: bytes, users: Sequence[int]) -> None:
        operation = Operation("write", self._client.name, invoke, None, "unknown", command=command)
        write_settled(operation, pending, now_us())
        if operation.outcome == "ok":
            self.last_ack_us = operation.returned or 0
            for user in users:
                if user not in self._known:
                    self._known.add(user)
                    self.known_users.append(user)
        self._write(operation, operation.outcome == "ok")

    def _write(self, operation: Operation, acked: bool) -> None:
        self._history.add(operation)
        if acked:
            self.acked += 1
        else:
            self.failed += 1
        if not self.open:
            self._settled.set()

    async def settle(self, seconds: float) -> None:
        """Wait until every command has its outcome, at most so long."""
        with trio.move_on_after(seconds):
            while self.open:
                self._settled = trio.Event()
                await self._settled.wait()


class Ranker:
    """Asks for rankings at a steady pace, under the mixture of consistencies of the scenario."""

    def __init__(
        self,
        client: Client,
        history: HistoryWriter,
        plan: Ranking,
        rng: random.Random,
        users: Callable[[], list[int]],
    ) -> None:
        self._client = client
        self._history = history
        self._plan = plan
        self._rng = rng
        self._users = users
        self.asked = 0
        self.answered = 0
        self.failed = 0
        self.by_tier: dict[str, int] = {}

    async def run(self, nursery: trio.Nursery) -> None:
        """Ask until cancelled (at a pace of 0, never); each request is a task of `nursery`."""
        began = trio.current_time()
        number = 0
        while self._plan.per_s:
            number += 1
            await trio.sleep_until(began + number / self._plan.per_s)
            users = self._users()
            if users:
                nursery.start_soon(self._ask, self._rng.choice(users), self._choose())

    def _choose(self) -> Consistency:
        draw = self._rng.random()
        if draw < self._plan.any:
            return Consistency.ANY
        return Consistency.BOUNDED if draw < self._plan.any + self._plan.bounded else Consistency.LINEARIZABLE

    async def _ask(self, user: int, consistency: Consistency) -> None:
        plan = self._plan
        self.asked += 1
        query = queries.rank(user, plan.k)
        operation = query_of(self._client.name, query, consistency, plan.max_age_ms * 1000, now_us())
        try:
            answer = await self._client.query(
                query,
                consistency,
                max_age_ms=plan.max_age_ms,
                patience_ms=plan.patience_ms,
                hedge_ms=plan.hedge_ms,
                fallback=None if consistency == Consistency.ANY else Consistency.ANY,
                fallback_after_ms=plan.fallback_after_ms,
            )
        except QueryFailed as error:
            query_failed(operation, str(error), now_us())
            self.failed += 1
        else:
            ranking_answered(operation, answer, now_us())
            tier = operation.tier or ""
            self.by_tier[tier] = self.by_tier.get(tier, 0) + 1
            self.answered += 1
        self._history.add(operation)


class _Frozen:
    """Users whose updates every node had durable long before the first cut can matter: those acknowledged in the first
    two seconds of the load."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._users: list[int] = []
        self._since: float | None = None

    def get(self) -> list[int]:
        known = self._writer.known_users
        if not known:
            return []
        now = trio.current_time()
        if self._since is None:
            self._since = now
        if now - self._since < 1.0:
            return []
        if not self._users:
            self._users = list(known)
        return self._users


class RankingLoad:
    """Learning from a stream and asking for rankings meanwhile. Meets `Load`."""

    def __init__(
        self, scenario: Scenario, stream: Stream, client: Client, history: HistoryWriter, seed: int
    ) -> None:
        self._stream = stream
        self._history = history
        self._client = client
        self._deadline_s = scenario.writes.deadline_s
        self._batches = list(stream.batches(scenario.writes.batch))
        self.writer = Writer(client, history, scenario.writes)
        rng = random.Random(f"{seed}/rank")
        self.ranker = Ranker(client, history, scenario.rank, rng, _Frozen(self.writer).get)
        self._asking: trio.Nursery | None = None

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Load the catalogue, what a shop does before it opens. Rank requests under way at the end of the load may still be
        answered until this is left."""
        invoke = now_us()
        await self.writer.catalogue(self._stream.catalogue_commands())
        self._history.add(
            Operation(
                "open",
                self._client.name,
                invoke,
                now_us(),
                "unknown",
                error="opened by the client on its own",
            )
        )
        async with trio.open_nursery() as self._asking:
            yield
            self._asking.cancel_scope.cancel()

    async def run(self, enough: Callable[[float], bool]) -> None:
        """See `Load.run`."""
        assert self._asking is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.ranker.run, self._asking)
            await self.writer.run(self._batches, enough)
            nursery.cancel_scope.cancel()

    async def settle(self) -> None:
        """See `Load.settle`."""
        await self.writer.settle(self._deadline_s)

    def words(self) -> str:
        """See `Load.words`."""
        writes, ranks = self.writer, self.ranker
        tiers = ", ".join(f"{tier} {count:,}" for tier, count in ranks.by_tier.items())
        return (
            f"updates {writes.acked:,} acknowledged, {writes.open} open, {writes.failed} refused   "
            f"rank requests {ranks.answered:,} answered ({tiers}), {ranks.failed} failed"
        )

    def facts(self) -> dict[str, Any]:
        """See `Load.facts`."""
        return {
            "writes_begun": self.writer.begun,
            "writes_unsettled": self.writer.open,
            "interactions_sent": self.writer.interactions,
        }
