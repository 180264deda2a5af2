"""A load on a key-value machine of real processes: some clients, one operation at a time each."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import trio

from node.io.client import Client, open_client
from node.io.client_types import ClientError, EventHook, NotDone, QueryFailed
from sim.check.history import HistoryWriter, Operation
from sim.local.layout import Cluster
from sim.local.links import now_us
from sim.scenario import Scenario, Workload
from sim.workload.kv import Ask, KvMix
from sim.workload.record import query_answered, query_failed, query_of, write_settled

CONNECT_S: Final = 20.0


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
                        signing=self._cluster.signing,
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
        mix = KvMix(self._plan, client.name, self._seed)
        began = trio.current_time()
        pause = self._plan.clients / self._plan.per_s
        due = began + pause * number / self._plan.clients
        while True:
            # What an outage held back is not made up for: a storm of clients is another scenario.
            due = max(due + pause, trio.current_time())
            await trio.sleep_until(due)
            if enough(trio.current_time() - began):
                return
            ask = mix.next()
            if ask.command is None:
                operation = await self._read(client, ask)
            else:
                operation = await self._write(client, ask.command)
            if operation.outcome == "ok":
                mix.told(ask, operation.result or b"")

    async def _write(self, client: Client, command: bytes) -> Operation:
        self.writes += 1
        operation = Operation("write", client.name, now_us(), None, "unknown", command=command)
        try:
            pending = client.begin(command, deadline_s=self._plan.deadline_s)
        except NotDone as error:
            operation.outcome, operation.returned, operation.error = "refused", now_us(), str(error)
        else:
            with contextlib.suppress(ClientError):
                await pending.wait()
            write_settled(operation, pending, now_us())
        self.acked += operation.outcome == "ok"
        self.unknown += operation.outcome == "unknown"
        self.refused += operation.outcome == "refused"
        self._history.add(operation)
        return operation

    async def _read(self, client: Client, ask: Ask) -> Operation:
        plan = self._plan
        self.reads += 1
        operation = query_of(client.name, ask.query, ask.consistency, plan.max_age_ms * 1000, now_us())
        try:
            answer = await client.query(
                ask.query, ask.consistency, max_age_ms=plan.max_age_ms, patience_ms=plan.patience_ms
            )
        except QueryFailed as error:
            query_failed(operation, str(error), now_us())
        else:
            query_answered(operation, answer, now_us())
            self.answered += 1
        self._history.add(operation)
        return operation
