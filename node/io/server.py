"""A node's process: one loop that drains whatever has arrived, takes one turn of the replica, and carries out its effects.

Main thread: trio with the replica, peers and clients. Two disk threads (`lanes`). One more thread, with a trio of its own, for
HTTP (`front`), so that parsing requests never stands between a leader and its heartbeats.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import structlog
import trio

from consensus import wire
from consensus.raft import RaftCore, Timing
from node import snapshot
from node.disk import JOURNAL, SNAPSHOT, Job
from node.io import frames as framing
from node.io.config import Member, NodeConfig
from node.io.disk import FileDisk
from node.io.lanes import Lane
from node.io.metrics import Metrics
from node.io.peers import PeerLink, Peers
from node.journal import Journal
from node.machine import Machine
from node.protocol import (
    Goodbye,
    Hello,
    OpenSession,
    Ping,
    Pong,
    Query,
    StatusRequest,
    Submit,
)
from node.replica import Effects, Replica, Settings
from node.segment import Identity
from node.snapshot import SnapshotError
from node.state import ReplicatedState

LEAVE_S: Final = 3.0
"""Longest time for an orderly exit."""
HELLO_S: Final = 5.0
CLIENT_SILENCE_S: Final = 30.0
CLIENT_QUEUE_BYTES: Final = 32 << 20

_PEER_KINDS: Final = frozenset({*range(1, 40), 45, 46, 47})
"""Protocol messages, digest reports, snapshot pieces (see `consensus.wire`)."""
_CLIENT_KINDS: Final = frozenset({OpenSession, Submit, Query, StatusRequest})

log = structlog.get_logger()


class NodeFailed(Exception):
    """The node cannot go on; the text says why and what to do."""


def make_machine(name: str) -> Machine:
    """The machine that a configuration names. Imported here: the ranking model's compiled loops take a moment."""
    if name == "ranking":
        from node.ranking import RankingMachine

        return RankingMachine()
    from node.kv import KvMachine

    return KvMachine()


def now_us() -> int:
    """The replica's clock: monotonic, microseconds, comparable between processes of one machine."""
    return time.monotonic_ns() // 1000


class ClientConnection:
    """A client at the other end of a framed connection."""

    __slots__ = ("name", "outbox")

    def __init__(self, name: str, outbox: framing.Outbox) -> None:
        self.name = name
        self.outbox = outbox

    def deliver(self, message: Any) -> None:
        """Queue a message. A client that does not read loses its connection, not the node its memory."""
        if not self.outbox.put(wire.encode(message)):
            self.outbox.finish()


class Node:
    """Everything of one node. `run` returns after an orderly exit and raises NodeFailed otherwise."""

    def __init__(self, config: NodeConfig) -> None:
        """Read the disk back. Raises DiskError, JournalError, SnapshotError, NodeFailed."""
        self.config = config
        self.metrics = Metrics(config.node, config.cluster)
        self.disk = FileDisk(config.data, config.storage.platter)
        self.replica = self._recover()
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = trio.Event()
        self._lanes: list[Lane] = []
        self._early: list[Job] = []
        self._failure: str | None = None
        self._leaving = False
        self._left = False
        self._clients = 0
        self._peers: Peers | None = None
        self._server_tls = framing.server_context(config.tls.ca, config.tls.certificate, config.tls.key)
        self._client_tls = framing.client_context(config.tls.ca, config.tls.certificate, config.tls.key)

    def _recover(self) -> Replica:
        config = self.config
        identity = Identity(config.cluster, config.node)
        notes: list[str] = []
        journal, recovered = Journal.open(
            self.disk, identity, config.storage.archive, config.storage.reserve_bytes
        )
        newest = snapshot.newest(self.disk, identity, notes)
        for note in [*recovered.notes, *notes]:
            log.warning("recovery", note=note)
        timing = Timing(
            heartbeat=config.timing.heartbeat_ms * 1000,
            election=config.timing.election_ms * 1000,
            stall=max(4 * config.timing.election_ms * 1000, 500_000),
            uncommitted_bytes=config.limits.max_inflight_bytes,
        )
        members = [member.id for member in config.members]
        core = RaftCore(config.node, members, random.Random(os.urandom(16)), timing)
        settings = Settings(
            barrier=config.timing.barrier_ms * 1000,
            fresh=config.timing.fresh_ms * 1000,
            digest=config.timing.digest_ms * 1000,
            session_ttl=config.timing.session_ttl_s * 1_000_000,
            max_command_bytes=config.limits.max_command_bytes,
            max_sessions=config.limits.max_sessions,
            queries_in_queue=config.limits.queries_in_queue,
            snapshot_bytes=config.storage.snapshot_bytes,
        )
        state = ReplicatedState(make_machine(config.machine), config.limits.max_sessions)
        try:
            return Replica(
                config.node, identity, core, journal, recovered, state, self.disk, newest, settings
            )
        except ValueError as error:
            raise NodeFailed(
                f"{config.data}: journal and snapshots do not fit together: {error}. This node must not vote "
                "with what is left; keep the folder for inspection and bring the machine back as a new member"
            ) from None

    # ------------------------------------------------------------------------------------------------- loop

    def post(self, action: Callable[[], None]) -> None:
        """Have `action` run in the next turn (from trio's thread)."""
        self._inbox.append(action)
        self._wake.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until SIGTERM or SIGINT. Raises NodeFailed, or OSError if a port is in use."""
        try:
            async with trio.open_nursery() as nursery:
                await self._start(nursery)
                task_status.started()
                await self._loop()
                nursery.cancel_scope.cancel()
        finally:
            for lane in self._lanes:
                lane.stop()
        if self._failure is not None:
            raise NodeFailed(self._failure)
        self.disk.close()

    async def _start(self, nursery: trio.Nursery) -> None:
        config = self.config
        self._replay()
        listeners = await _listen(config.listen.host, config.listen.port, "listen")
        self._lanes = [
            Lane("journal", JOURNAL, self.disk, self._job_done, self._disk_failed),
            Lane("snapshots", SNAPSHOT, self.disk, self._job_done, self._disk_failed),
        ]
        seed = os.urandom(8).hex()

        def link(member: Member, role: str) -> PeerLink:
            rng = random.Random(f"{seed}/{member.id}/{role}")
            return PeerLink(
                member, role, config.cluster, self._dial, rng, log.info, self.metrics.peer_round_trip
            )

        self._peers = Peers(
            {member.id: link(member, "peer") for member in config.peers},
            {member.id: link(member, "bulk") for member in config.peers},
            nursery,
        )
        self._peers.start()
        nursery.start_soon(trio.serve_listeners, self._accept, listeners)
        nursery.start_soon(self._signals)
        if config.http is not None:
            from node.io.front import run_front

            await nursery.start(run_front, self)
        log.info(
            "serving",
            node=config.node,
            cluster=config.cluster,
            machine=config.machine,
            listen=str(config.listen),
            http=str(config.http) if config.http else None,
            applied_index=self.replica.state.applied_index,
        )

    def _replay(self) -> None:
        """Begin, and apply everything that this node knows to be committed, before anybody can ask."""
        self.replica.start(now_us())
        while True:
            effects = self.replica.turn(now_us())
            self._early += effects.jobs
            if not effects.again:
                return

    async def _loop(self) -> None:
        replica = self.replica
        for job in self._early:
            self._lanes[job.lane].put(job)
        self._early.clear()
        leave_by = trio.current_time() + 1e9
        while self._failure is None:
            # The event is renewed before the inbox is read: what is posted from here on wakes the next wait.
            self._wake = trio.Event()
            inbox, self._inbox = self._inbox, deque()
            for action in inbox:
                action()
            if self._leaving and not replica.stopping:
                log.info("leaving", reason="asked to stop")
                replica.leave(now_us())
                leave_by = trio.current_time() + LEAVE_S
            effects = replica.turn(now_us())
            self._carry_out(effects)
            if replica.stopping and (not replica.busy or trio.current_time() > leave_by):
                await trio.sleep(0.05)  # let the outboxes run empty
                log.info("left", flushed=not replica.busy)
                return
            if effects.again or self._inbox:
                await trio.lowlevel.checkpoint()
                continue
            wait = (replica.deadline - now_us()) / 1e6
            if replica.stopping:
                wait = min(wait, 0.05)
            with trio.move_on_after(max(wait, 0)):
                await self._wake.wait()

    def _carry_out(self, effects: Effects) -> None:
        assert self._peers is not None
        for job in effects.jobs:
            self._lanes[job.lane].put(job)
        if effects.peers:
            self._peers.send(effects.peers)
        if effects.bulk:
            self._peers.send_bulk(effects.bulk)
        for connection, message in effects.clients:
            connection.deliver(message)  # type: ignore[attr-defined]
        for name, fields in effects.events:
            if name == "diverged":
                log.error(name, **fields)
            else:
                log.info(name, **fields)

    def _job_done(self, lane: int, number: int, took: float) -> None:
        if lane == JOURNAL:
            self.metrics.fsync(took)
        self.post(lambda: self.replica.job_done(lane, number, now_us()))

    def _disk_failed(self, error: Exception) -> None:
        self._failure = (
            f"the disk failed: {error or type(error).__name__}. Nothing more is acknowledged; the node stops"
        )
        self._wake.set()

    async def _signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                self._leaving = True
                self._wake.set()

    # ------------------------------------------------------------------------------------------ connections

    async def _dial(self, member: Member) -> framing.FrameStream:
        return await framing.connect(
            member.address.host,
            member.address.port,
            self._client_tls,
            cluster=self.config.cluster,
            expect_node=member.id,
            timeout_s=1.0,
        )

    async def _accept(self, tcp: trio.SocketStream) -> None:
        try:
            frames = await framing.accept(tcp, self._server_tls, cluster=self.config.cluster)
        except framing.HandshakeError as error:
            log.warning("connection_refused", reason=str(error))
            return
        reason = ""
        try:
            reason = await self._converse(frames)
        except framing.FrameError as error:
            reason = f"bad frame: {error}"
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            reason = ""  # the other side is gone, which is its business and nobody else's
        finally:
            with trio.CancelScope(shield=True):
                if reason:
                    log.warning("connection_closed", who=str(frames.identity), reason=reason)
                    await frames.farewell(reason)
                else:
                    await frames.aclose()

    async def _converse(self, frames: framing.FrameStream) -> str:
        """Serve one connection to its end. Returns why this node ends it; empty: the other side did."""
        identity = frames.identity
        assert identity is not None
        messages: list[Any] = []
        with trio.move_on_after(HELLO_S) as waiting:
            messages = await frames.receive()
        if waiting.cancelled_caught:
            return f"no Hello within {HELLO_S:g} s"
        if not messages:
            return ""
        hello = messages[0]
        if type(hello) is not Hello:
            return f"the first message must be Hello, not {type(hello).__name__}"
        if hello.version != wire.VERSION:
            return f"wire version {hello.version}; this node speaks version {wire.VERSION}"
        if hello.cluster != self.config.cluster:
            return f"cluster {hello.cluster}; this node belongs to {self.config.cluster}"
        await frames.send([wire.encode(Hello(wire.VERSION, self.config.cluster, "node"))])
        if hello.role in ("peer", "bulk"):
            if identity.role != "node" or identity.name not in {m.id for m in self.config.peers}:
                return f"{identity.role} {identity.name!r} is not a peer of {self.config.node}"
            return await self._hear_peer(frames, identity.name, messages[1:])
        if hello.role == "client":
            return await self._serve_client(frames, identity.name, messages[1:])
        return f"unknown role {hello.role!r}; known: peer, bulk, client"

    async def _hear_peer(self, frames: framing.FrameStream, peer: str, messages: list[Any]) -> str:
        while True:
            pongs = []
            batch = []
            for message in messages:
                if type(message) is Ping:
                    pongs.append(wire.encode(Pong(message.stamp)))
                elif type(message) is Goodbye:
                    return ""
                elif wire.kind_of(message) in _PEER_KINDS:
                    batch.append(message)
                else:
                    return f"a peer does not send {type(message).__name__}"
            if batch:
                self._inbox.append(lambda batch=batch: self._from_peer(peer, batch))  # type: ignore[misc]
                self._wake.set()
            if pongs:
                await frames.send(pongs[-1:])
            messages = await frames.receive()
            if not messages:
                return ""

    def _from_peer(self, peer: str, batch: list[Any]) -> None:
        now = now_us()
        for message in batch:
            try:
                self.replica.receive_peer(peer, message, now)
            except SnapshotError as error:
                log.error("bad_snapshot_piece", peer=peer, reason=str(error))

    async def _serve_client(self, frames: framing.FrameStream, name: str, messages: list[Any]) -> str:
        if self._clients >= self.config.limits.max_clients:
            return f"{self._clients} clients are connected, which is the limit; try another node"
        outbox = framing.Outbox(frames, CLIENT_QUEUE_BYTES)
        connection = ClientConnection(name, outbox)
        self._clients += 1
        self.post(lambda: self.replica.client_connected(connection))
        reason = ""
        try:
            async with trio.open_nursery() as nursery:

                async def write() -> None:
                    nonlocal reason
                    await outbox.run()
                    reason = "the client does not read what it is sent" if outbox.dropped else ""
                    nursery.cancel_scope.cancel()

                nursery.start_soon(write)
                reason = await self._hear_client(frames, connection, messages)
                nursery.cancel_scope.cancel()
        finally:
            self._clients -= 1
            self.post(lambda: self.replica.client_gone(connection))
        return reason

    async def _hear_client(
        self, frames: framing.FrameStream, connection: ClientConnection, messages: list[Any]
    ) -> str:
        while True:
            batch = []
            for message in messages:
                kind = type(message)
                if kind in _CLIENT_KINDS:
                    batch.append(message)
                elif kind is Ping:
                    connection.deliver(Pong(message.stamp))
                elif kind is Goodbye:
                    return ""
                else:
                    return f"a client does not send {kind.__name__}"
            if batch:
                self._inbox.append(lambda batch=batch: self._from_client(connection, batch))  # type: ignore[misc]
                self._wake.set()
            messages = []
            with trio.move_on_after(CLIENT_SILENCE_S):
                messages = await frames.receive()
                if not messages:
                    return ""
            if not messages:
                return f"silent for {CLIENT_SILENCE_S:g} s"

    def _from_client(self, connection: ClientConnection, batch: list[Any]) -> None:
        now = now_us()
        for message in batch:
            self.replica.receive_client(connection, message, now)


async def _listen(host: str, port: int, key: str) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        raise NodeFailed(
            f"cannot listen on {host}:{port} ({key}): {(error.strerror or str(error)).lower()}. "
            "Is another node running with this configuration? Choose another port otherwise"
        ) from None
