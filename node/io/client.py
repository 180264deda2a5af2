"""The client of a cluster: finds the leader, pipelines commands with exactly one outcome each, hedges queries.

    async with open_client(members, tls, cluster="3f2a9c01") as client:
        result = await client.submit(command)
        answer = await client.query(query, Consistency.LINEARIZABLE)

With `signing=Signing(lie=1)`, for a cluster one of whose nodes may lie, requests are signed and nothing is believed that
fewer than two nodes say; all else is the same.

Everything runs in the task tree of `async with`; `node.io.client_sync.SyncClient` is the same for scripts and notebooks.
"""

from __future__ import annotations

import itertools
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from node.io.client_agreed import AgreedQueries
from node.io.client_link import Channel, Dial, Link
from node.io.client_pending import Pending
from node.io.client_queries import Queries
from node.io.client_signed import SignedWrites
from node.io.client_types import (
    BadCommand,
    BadQuery,
    ClientError,
    Event,
    EventHook,
    NodeUnavailable,
    NotDone,
    OutcomeUnknown,
    Overloaded,
    QueryFailed,
    QueryResult,
    Result,
    SessionLost,
    Settings,
    Signing,
)
from node.io.client_writes import Writes
from node.io.config import Member, TlsFiles
from node.io.frames import FrameStream, connect
from node.io.tls import client_context
from node.protocol import (
    Answer,
    Consistency,
    Leader,
    Outcome,
    QueryRefused,
    Refused,
    SessionOpened,
    Status,
    StatusRequest,
)

__all__ = [
    "BadCommand",
    "BadQuery",
    "Client",
    "ClientError",
    "Consistency",
    "Event",
    "Member",
    "NodeUnavailable",
    "NotDone",
    "OutcomeUnknown",
    "Overloaded",
    "Pending",
    "QueryFailed",
    "QueryResult",
    "Result",
    "SessionLost",
    "Settings",
    "Signing",
    "open_client",
]

_TICK_S: Final = 0.01


class Client:
    """A client of one cluster; made by `open_client`. All methods belong to the thread that runs trio."""

    def __init__(
        self,
        members: Sequence[Member],
        dial: Dial,
        cluster: str,
        name: str,
        settings: Settings,
        seed: int | None,
        events: EventHook | None,
        signing: Signing | None = None,
    ) -> None:
        self.name = name
        self.members = tuple(members)
        self.events: EventHook | None = events
        self._numbers = itertools.count(1)
        self._statuses: dict[int, tuple[Channel, trio.Event, list[Status]]] = {}
        self._changed = trio.Event()
        self._sleeping: trio.Event | None = None
        self._woken = False
        base = seed if seed is not None else random.SystemRandom().getrandbits(64)

        def rng(of: str) -> random.Random:
            return random.Random(f"{base}/{name}/{of}")

        handlers: dict[type, Callable[[Channel, Any], None]] = {}
        self.links = tuple(
            Link(
                member, dial, cluster, settings, rng(f"link/{member.id}"), handlers,
                up=self._on_up, down=self._on_down, events=self._emit,
            )
            for member in self.members
        )  # fmt: skip
        self._by_name = {link.member.id: link for link in self.links}
        clock, number = trio.current_time, self._numbers.__next__
        self.writes: Writes | SignedWrites
        self.queries: Queries
        if signing is None:
            self.writes = Writes(
                settings, rng("writes"), clock, number, self._channel_of, self._channels, self._wake,
                self._emit,
            )  # fmt: skip
            self.queries = Queries(settings, rng("queries"), number, self.links, self._emit)
        else:
            # A key may have been used before, by a process that is gone: time goes on where that left off.
            nonce = time.time_ns() // 1000
            self.writes = SignedWrites(
                settings,
                signing,
                cluster,
                nonce,
                rng("writes"),
                clock,
                self._channels,
                self._wake,
                self._emit,
            )
            self.queries = AgreedQueries(
                signing.lie + 1, settings, rng("queries"), number, self.links, self._emit
            )
        handlers[Outcome] = self.writes.on_outcome
        handlers[Refused] = self.writes.on_refused
        handlers[Leader] = self._on_leader
        handlers[SessionOpened] = self.writes.on_opened
        handlers[Answer] = self.queries.on_answer
        handlers[QueryRefused] = self.queries.on_answer
        handlers[Status] = self._on_status

    # ------------------------------------------------------------------------------------------------ commands

    def begin(
        self, command: bytes, *, deadline_s: float = 30.0, callback: Callable[[Pending], None] | None = None
    ) -> Pending:
        """Start a command and return at once; for load generators.

        `callback`, if given, is called once with the settled `Pending`, by the task that reads from the network: it must
        be quick and must not raise. Commands begun at one instant leave in one frame. Raises Overloaded, or NotDone after
        the client was closed."""
        return self.writes.begin(command, deadline_s, callback)

    async def submit(self, command: bytes, *, deadline_s: float = 30.0) -> Result:
        """Have a command applied exactly once, and wait for its result. Many tasks may call at once.

        Raises BadCommand; NotDone (certainly not applied) or OutcomeUnknown after `deadline_s`; SessionLost (a kind of
        OutcomeUnknown); Overloaded (a kind of NotDone). Cancelling the wait does not call the command back."""
        return await self.writes.begin(command, deadline_s).wait()

    async def submit_many(self, commands: Sequence[bytes], *, deadline_s: float = 30.0) -> list[Result]:
        """Submit commands in order, pipelined, and wait for all. Raises the first one's error, after all have settled."""
        pendings = [self.writes.begin(command, deadline_s) for command in commands]
        for pending in pendings:
            if not pending.done:
                try:
                    await pending.wait()
                except ClientError:
                    continue
        return [pending.outcome() for pending in pendings]

    # ------------------------------------------------------------------------------------------------- queries

    async def query(
        self,
        query: bytes,
        consistency: Consistency = Consistency.ANY,
        *,
        max_age_ms: int = 0,
        patience_ms: int = 500,
        hedge_ms: int | None = 50,
        prefer: str | None = None,
        fallback: Consistency | None = None,
        fallback_after_ms: int = 200,
    ) -> QueryResult:
        """Ask one replica, and others when it does not answer, refuses, or is gone; the first answer wins.

        `max_age_ms` counts for `Consistency.BOUNDED`. `hedge_ms`: ask a node in another domain as well after so long (None:
        never). `prefer`: a node's or domain's name. `fallback`: settle for this weaker consistency when nothing better came
        within `fallback_after_ms`; without it an answer is never weaker than asked for. Raises BadQuery; QueryFailed, with
        every node's reason, after `patience_ms`."""
        return await self.queries.query(
            query, consistency, max_age_ms=max_age_ms, patience_ms=patience_ms, hedge_ms=hedge_ms,
            prefer=prefer, fallback=fallback, fallback_after_ms=fallback_after_ms,
        )  # fmt: skip

    async def status(self, node: str, *, timeout_s: float = 1.0) -> dict[str, Any]:
        """What a node says about itself. Raises NodeUnavailable; KeyError for a name that is no member's."""
        link = self._by_name[node]
        with trio.move_on_after(timeout_s) as scope:
            while link.channel is None:
                await self._changed.wait()
            channel = link.channel
            request = next(self._numbers)
            event, answer = trio.Event(), list[Status]()
            self._statuses[request] = (channel, event, answer)
            try:
                if channel.put(StatusRequest(request)):
                    await event.wait()
            finally:
                del self._statuses[request]
            if answer:
                return answer[0].status
        if link.channel is None:
            raise NodeUnavailable(f"{node} is not connected: {link.last_error}")
        late = f"within {timeout_s:g} s" if scope.cancelled_caught else "before the connection was lost"
        raise NodeUnavailable(f"{node} did not answer {late}")

    # -------------------------------------------------------------------------------------------------- state

    @property
    def leader(self) -> str | None:
        """The node that leads as far as this client knows; where requests are signed and any node takes them, the one that
        it turns to first."""
        return self.writes.leader

    @property
    def connected(self) -> tuple[str, ...]:
        """The nodes with a connection, in the members' order."""
        return tuple(link.member.id for link in self.links if link.channel is not None)

    async def wait_connected(
        self, count: int | None = None, *, leader: bool = False, timeout_s: float = 10.0
    ) -> None:
        """Wait for connections to `count` nodes (default: all), and with `leader` for one to the leader.

        Raises NodeUnavailable with each missing node's last error."""
        wanted = len(self.links) if count is None else count
        with trio.move_on_after(timeout_s):
            while len(self.connected) < wanted or (leader and self._channel_of(self.leader or "") is None):
                await self._changed.wait()
            return
        missing = "; ".join(
            f"{link.member.id}: {link.last_error}" for link in self.links if link.channel is None
        )
        if missing:
            raise NodeUnavailable(
                f"{len(self.connected)} of {wanted} nodes within {timeout_s:g} s ({missing})"
            )
        raise NodeUnavailable(f"no leader is known after {timeout_s:g} s")

    # ---------------------------------------------------------------------------------------------- the inside

    def _channel_of(self, node: str) -> Channel | None:
        link = self._by_name.get(node)
        return None if link is None else link.channel

    def _channels(self) -> list[Channel]:
        return [link.channel for link in self.links if link.channel is not None]

    def _emit(self, event: Event) -> None:
        if self.events is not None:
            self.events(event)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _on_up(self, channel: Channel) -> None:
        self.writes.on_up(channel)
        self.queries.on_up(channel)
        self._notify()

    def _on_down(self, channel: Channel, reason: str) -> None:
        self.writes.on_down(channel, reason)
        self.queries.on_down(channel, reason)
        for asked, event, _ in self._statuses.values():
            if asked is channel:
                event.set()
        self._notify()

    def _on_leader(self, channel: Channel, message: Leader) -> None:
        self.writes.on_leader(channel, message)
        self._notify()

    def _on_status(self, channel: Channel, message: Status) -> None:
        waiting = self._statuses.get(message.request)
        if waiting is not None and waiting[0] is channel:
            waiting[2].append(message)
            waiting[1].set()

    def _wake(self) -> None:
        if self._sleeping is None:
            self._woken = True
        else:
            self._sleeping.set()
            self._sleeping = None

    async def _send(self) -> None:
        while True:
            if self._woken:
                await trio.lowlevel.checkpoint()
            else:
                self._sleeping = event = trio.Event()
                await event.wait()
            self._woken = False
            self.writes.flush()

    async def _tick(self) -> None:
        while True:
            await trio.sleep(_TICK_S)
            self.writes.tick()


@asynccontextmanager
async def open_client(
    members: Sequence[Member],
    tls: ssl.SSLContext | TlsFiles | None = None,
    *,
    cluster: str,
    name: str = "client",
    settings: Settings | None = None,
    seed: int | None = None,
    events: EventHook | None = None,
    dial: Dial | None = None,
    signing: Signing | None = None,
) -> AsyncIterator[Client]:
    """A client for the time of `async with`; connections to all members are made and kept in the background.

    `signing`: for a cluster with `protocol = "bft"`, which takes signed requests only. `seed` and `name` fix the jitter.
    `dial` replaces TCP and TLS (tests, simulated networks). On leaving, what is under way fails with NotDone or
    OutcomeUnknown. Raises CertificateError for files that are no good, ValueError for members that are none."""
    names = [member.id for member in members]
    if not names or len({*names}) != len(names):
        raise ValueError(f"members need at least one node and different ids, got {names}")
    settings = settings or Settings()
    if dial is None:
        if tls is None:
            raise ValueError("open_client needs `tls` (files or a context), or `dial`")
        context = client_context(tls.ca, tls.certificate, tls.key) if isinstance(tls, TlsFiles) else tls
        dial = _dial_with(context, cluster, settings.dial_ms / 1000)
    client = Client(members, dial, cluster, name, settings, seed, events, signing)
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        for link in client.links:
            nursery.start_soon(link.run)
        nursery.start_soon(client._send)
        nursery.start_soon(client._tick)
        try:
            yield client
        except (Exception, KeyboardInterrupt) as error:
            # Raised again outside the nursery, which would wrap it in a group.
            failure = error
        finally:
            client.writes.close("the client was closed")
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _dial_with(context: ssl.SSLContext, cluster: str, timeout_s: float) -> Dial:
    async def dial(member: Member) -> FrameStream:
        return await connect(
            member.address.host, member.address.port, context,
            cluster=cluster, expect_node=member.id, timeout_s=timeout_s,
        )  # fmt: skip

    return dial
