"""The load of a drill on virtual time: the same operations, at the same pace, as `sim.local.kv_load` and `sim.local.load`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Final, Protocol

from node.io.client_pending import Pending
from node.io.client_types import NotDone, QueryResult
from node.protocol import Consistency
from node.ranking import commands, queries
from sim.check.history import Operation
from sim.scenario import Ranking, Scenario
from sim.virtual.drill_client import DrillClient
from sim.virtual.world import World
from sim.workload.kv import Ask, KvMix
from sim.workload.record import query_answered, query_failed, query_of, ranking_answered, write_settled
from sim.workload.stream import Stream

Enough = Callable[[float], bool]
"""Whether the load may end after so many seconds."""

KNOWN: Final = 1_000_000
"""From the first acknowledgement for so long (us) users are taken up into those who are asked for."""


class VirtualLoad(Protocol):
    """What a drill asks of the load on its cluster."""

    over: bool
    """Nothing more will be begun."""

    def open(self) -> None:
        """Get ready: ask for what has to be there before the load."""

    def begin(self, enough: Enough) -> None:
        """Ask until there is nothing left to ask, or until `enough` says so."""

    @property
    def unsettled(self) -> int:
        """Writes without an outcome."""

    def facts(self) -> dict[str, Any]:
        """`writes_begun`, `writes_unsettled`, `interactions_sent` for run.json."""


class Book:
    """Keeps the history of a world: what was asked, and what came of it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def asked(self, operation: Operation) -> Operation:
        """Something was asked of the cluster."""
        self.world.history.append(operation)
        for hook in self.world.on_invoked:
            hook(operation)
        return operation

    def settled(self, operation: Operation) -> None:
        """It has its outcome."""
        for hook in self.world.on_returned:
            hook(operation)

    def write(
        self, client: DrillClient, command: bytes, deadline_s: float, done: Callable[[Operation], None]
    ) -> None:
        """Ask for a command to be applied; `done` is called once, when it has its outcome."""
        operation = self.asked(
            Operation("write", client.name, self.world.timeline.now, None, "unknown", command=command)
        )

        def settled(pending: Pending) -> None:
            write_settled(operation, pending, self.world.timeline.now)
            client.done += operation.outcome == "ok"
            self.settled(operation)
            done(operation)

        try:
            client.begin(command, deadline_s, settled)
        except NotDone as error:
            operation.outcome, operation.returned = "refused", self.world.timeline.now
            operation.error = str(error)
            done(operation)

    def query(
        self,
        client: DrillClient,
        operation: Operation,
        consistency: Consistency,
        fill: Callable[[Operation, QueryResult, int], None],
        done: Callable[[Operation], None],
        **how: Any,
    ) -> None:
        """Ask a query; `fill` writes its answer down, `done` is called once at the end. `how`: for `DrillClient.query`."""
        self.asked(operation)

        def settled(answer: QueryResult | None, why: str) -> None:
            if answer is None:
                query_failed(operation, why, self.world.timeline.now)
            else:
                fill(operation, answer, self.world.timeline.now)
            self.settled(operation)
            done(operation)

        client.query(operation.query or b"", consistency, settled, **how)


class KvLoad:
    """Some clients, one operation at a time each. Meets `VirtualLoad`."""

    def __init__(self, world: World, scenario: Scenario, clients: list[DrillClient], seed: int) -> None:
        self._world = world
        self._plan = scenario.workload
        self._clients = clients
        self._book = Book(world)
        self._mixes = [KvMix(self._plan, client.name, seed) for client in clients]
        self._due = [0.0] * len(clients)
        self._busy = len(clients)
        self._begin_us = 0
        self._enough: Enough = lambda seconds: True
        self.writes = 0
        self.unsettled = 0
        self.over = False

    def open(self) -> None:
        """Sessions open with the first write."""

    def begin(self, enough: Enough) -> None:
        """See `VirtualLoad`."""
        self._enough = enough
        self._begin_us = self._world.timeline.now
        pause = self._plan.clients / self._plan.per_s * 1e6
        for place in range(len(self._clients)):
            self._due[place] = self._begin_us + pause * place / len(self._clients)
            self._wait(place)

    def facts(self) -> dict[str, Any]:
        """See `VirtualLoad`."""
        return {"writes_begun": self.writes, "writes_unsettled": self.unsettled, "interactions_sent": 0}

    def _wait(self, place: int) -> None:
        # What an outage held back is not made up for: a storm of clients is another scenario.
        now = self._world.timeline.now
        self._due[place] = max(self._due[place] + self._plan.clients / self._plan.per_s * 1e6, now)
        self._world.timeline.at(max(now, round(self._due[place])), self._ask, place)

    def _ask(self, place: int) -> None:
        now = self._world.timeline.now
        if self._enough((now - self._begin_us) / 1e6):
            self._busy -= 1
            self.over = not self._busy
            return
        plan, client, mix = self._plan, self._clients[place], self._mixes[place]
        ask = mix.next()

        def done(operation: Operation) -> None:
            if ask.command is not None:
                self.unsettled -= 1
            if operation.outcome == "ok":
                mix.told(ask, operation.result or b"")
            self._wait(place)

        if ask.command is not None:
            self.writes += 1
            self.unsettled += 1
            self._book.write(client, ask.command, plan.deadline_s, done)
        else:
            self._read(client, ask, done)

    def _read(self, client: DrillClient, ask: Ask, done: Callable[[Operation], None]) -> None:
        max_age = self._plan.max_age_ms * 1000
        operation = query_of(client.name, ask.query, ask.consistency, max_age, self._world.timeline.now)
        self._book.query(
            client, operation, ask.consistency, query_answered, done,
            max_age=max_age, patience=self._plan.patience_ms * 1000,
        )  # fmt: skip


class RankingLoad:
    """Learning from a stream and asking for rankings meanwhile, both open loops. Meets `VirtualLoad`."""

    def __init__(
        self, world: World, scenario: Scenario, client: DrillClient, stream: Stream, seed: int
    ) -> None:
        self._world = world
        self._scenario = scenario
        self._client = client
        self._stream = stream
        self._batches = list(stream.batches(scenario.writes.batch))
        self._rng = random.Random(f"{seed}/rank")
        self._book = Book(world)
        self._begin_us = 0
        self._enough: Enough = lambda seconds: True
        self._known: dict[int, None] = {}
        self._known_since = 0
        self._users: list[int] = []
        self.over = False
        self.begun = 0
        self.unsettled = 0
        self.interactions = 0

    def open(self) -> None:
        """Load the catalogue, what a shop does before it opens."""
        for command in self._stream.catalogue_commands():
            self._write(command, [])

    def begin(self, enough: Enough) -> None:
        """See `VirtualLoad`."""
        self._enough = enough
        self._begin_us = self._world.timeline.now
        self._send(0)
        self._rank(1)

    def facts(self) -> dict[str, Any]:
        """See `VirtualLoad`."""
        return {
            "writes_begun": self.begun,
            "writes_unsettled": self.unsettled,
            "interactions_sent": self.interactions,
        }

    def _send(self, number: int) -> None:
        if number >= len(self._batches) or self._enough(number / self._scenario.writes.per_s):
            self.over = True
            return
        batch = self._batches[number]
        self._write(commands.observe(batch), [user for user, _ in batch])
        due = self._begin_us + round((number + 1) / self._scenario.writes.per_s * 1e6)
        self._world.timeline.at(due, self._send, number + 1)

    def _write(self, command: bytes, users: list[int]) -> None:
        self.begun += 1
        self.unsettled += 1
        self.interactions += len(users)

        def done(operation: Operation) -> None:
            self.unsettled -= 1
            if operation.outcome == "ok" and users:
                self._known_since = self._known_since or self._world.timeline.now
                self._known.update(dict.fromkeys(users))

        self._book.write(self._client, command, self._scenario.writes.deadline_s, done)

    def _rank(self, number: int) -> None:
        """Ask for somebody whose updates every node had durable long before the first cut can matter."""
        if self.over:
            return
        plan, now = self._scenario.rank, self._world.timeline.now
        if not self._users and self._known_since and now - self._known_since >= KNOWN:
            self._users = list(self._known)
        if self._users and number > 1:
            self._ask(plan, self._rng.choice(self._users))
        if plan.per_s:
            self._world.timeline.at(self._begin_us + round(number / plan.per_s * 1e6), self._rank, number + 1)

    def _ask(self, plan: Ranking, user: int) -> None:
        draw = self._rng.random()
        consistency = Consistency.LINEARIZABLE
        if draw < plan.any + plan.bounded:
            consistency = Consistency.ANY if draw < plan.any else Consistency.BOUNDED
        max_age = plan.max_age_ms * 1000
        query = queries.rank(user, plan.k)
        operation = query_of(self._client.name, query, consistency, max_age, self._world.timeline.now)
        self._book.query(
            self._client, operation, consistency, ranking_answered, lambda operation: None,
            max_age=max_age, patience=plan.patience_ms * 1000, hedge=plan.hedge_ms * 1000,
            fallback_after=None if consistency == Consistency.ANY else plan.fallback_after_ms * 1000,
        )  # fmt: skip
