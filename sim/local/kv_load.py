"""A load on a key-value machine: some clients, few keys, unique values, one operation at a time each.

Small on purpose: few keys make operations meet, unique values let a checker tell which write a read saw."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgpack
import trio

from node.io.client import Client, open_client
from node.io.client_types import ClientError, EventHook, OutcomeUnknown, QueryFailed
from node.kv import append, cas, get, put
from node.protocol import Consistency
from sim.check.history import HistoryWriter, Operation
from sim.local.layout import Cluster
from sim.local.links import now_us
from sim.scenario import Scenario, Workload

CONNECT_S: Final = 20.0
_NAMES = {Consistency.ANY: "any", Consistency.BOUNDED: "bounded", Consistency.LINEARIZABLE: "linearizable"}


class KvLoad:
    """Meets `sim.local.load.Load`."""

    def __init__(
        self, scenario: Scenario, cluster: Cluster, history: HistoryWriter, seed: int, events: EventHook
    ) -> None:
        self._plan: Workload = scenario.workload
        self._cluster = cluster
        self._history = history
        self._seed = seed
        self._events = events
        self._clients: list[Client] = []
        self._keys = [f"k{number}".encode() for number in range(self._plan.keys)]
        self._registers = self._keys[: -(-len(self._keys) // 2)]
        self.writes = 0
        self.acked = 0
        self.unknown = 0
        self.refused = 0
        self.reads = 0
        self.answered = 0

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Have the clients connected. Raises NodeUnavailable."""
        async with contextlib.AsyncExitStack() as stack:
            for number in range(1, self._plan.clients + 1):
                client = await stack.enter_async_context(
                    open_client(
                        self._cluster.members(),
                        self._cluster.client_tls(),
                        cluster=self._cluster.cluster,
                        name=f"c{number}",
                        seed=self._seed,
                        events=self._events,
                    )
                )
                self._clients.append(client)
            for client in self._clients:
                await client.wait_connected(leader=True, timeout_s=CONNECT_S)
            yield

    async def run(self, enough: Callable[[float], bool]) -> None:
        """Ask until `enough(seconds so far)` says so, and every operation has its outcome."""
        async with trio.open_nursery() as nursery:
            for number, client in enumerate(self._clients):
                nursery.start_soon(self._ask, number, client, enough)

    async def settle(self) -> None:
        """Nothing is open when `run` returns."""

    def words(self) -> str:
        """In a line."""
        return (
            f"writes {self.acked:,} acknowledged, {self.unknown} unknown, {self.refused} refused   "
            f"reads {self.answered:,} answered of {self.reads:,}"
        )

    def facts(self) -> dict[str, Any]:
        """For run.json."""
        return {
            "writes_begun": self.writes,
            "writes_unsettled": self.writes - self.acked - self.unknown - self.refused,
            "interactions_sent": 0,
        }

    async def _ask(self, number: int, client: Client, enough: Callable[[float], bool]) -> None:
        rng = random.Random(f"{self._seed}/kv/{client.name}")
        seen: dict[bytes, bytes | None] = {}
        began = trio.current_time()
        pause = self._plan.clients / self._plan.per_s
        due = began + pause * number / self._plan.clients
        count = 0
        while True:
            # What an outage held back is not made up for: a storm of clients is another scenario.
            due = max(due + pause, trio.current_time())
            await trio.sleep_until(due)
            if enough(trio.current_time() - began):
                return
            count += 1
            key = rng.choice(self._keys)
            if rng.random() < self._plan.read:
                await self._read(client, key, self._consistency(rng), seen)
            else:
                await self._write(client, key, f"{client.name}.{count}".encode(), rng, seen)

    def _consistency(self, rng: random.Random) -> Consistency:
        draw = rng.random()
        if draw < self._plan.linearizable:
            return Consistency.LINEARIZABLE
        return Consistency.BOUNDED if draw < self._plan.linearizable + self._plan.bounded else Consistency.ANY

    async def _write(
        self, client: Client, key: bytes, value: bytes, rng: random.Random, seen: dict[bytes, bytes | None]
    ) -> None:
        if key not in self._registers:
            command = append(key, value + b";")
        elif rng.random() < self._plan.cas:
            command = cas(key, seen.get(key), value)
        else:
            command = put(key, value)
        self.writes += 1
        operation = Operation("write", client.name, now_us(), None, "unknown", command=command)
        pending = None
        try:
            pending = client.begin(command, deadline_s=self._plan.deadline_s)
            outcome = await pending.wait()
        except OutcomeUnknown as error:
            operation.error = str(error)
            self.unknown += 1
        except ClientError as error:
            operation.outcome, operation.returned, operation.error = "refused", now_us(), str(error)
            self.refused += 1
        else:
            operation.outcome, operation.returned = "ok", now_us()
            operation.index, operation.place = outcome.index, outcome.place
            operation.chain, operation.result = outcome.chain, outcome.result
            self.acked += 1
            if key in self._registers:
                told = msgpack.unpackb(outcome.result)
                seen[key] = value if told[0] == 0 else told[1]
        if pending is not None:
            operation.session, operation.seq = pending.session, getattr(pending, "seq", None)
            operation.attempts = max(pending.attempts, 1)
        self._history.add(operation)

    async def _read(
        self, client: Client, key: bytes, consistency: Consistency, seen: dict[bytes, bytes | None]
    ) -> None:
        self.reads += 1
        query = get(key)
        bounded = consistency == Consistency.BOUNDED
        operation = Operation(
            "query", client.name, now_us(), None, "ok", query=query, consistency=_NAMES[consistency],
            max_age_us=self._plan.max_age_ms * 1000 if bounded else None,
        )  # fmt: skip
        try:
            answer = await client.query(
                query, consistency, max_age_ms=self._plan.max_age_ms, patience_ms=self._plan.patience_ms
            )
        except QueryFailed as error:
            operation.returned, operation.outcome, operation.error = now_us(), "failed", str(error)
        else:
            operation.returned = now_us()
            operation.index, operation.chain, operation.age_us = answer.index, answer.chain, answer.age_us
            operation.result, operation.node, operation.hedged = answer.result, answer.node, answer.hedged
            operation.tier, operation.source = answer.tier, "model"
            self.answered += 1
            if key in self._registers:
                seen[key] = msgpack.unpackb(answer.result)[0]
        self._history.add(operation)
