"""A node's process: one loop that drains whatever has arrived, takes one turn of the replica, and carries out its effects.

Main thread: trio with the replica, peers and clients. Two disk threads (`lanes`). One more thread, with a trio of its own, for
HTTP (`front`), so that parsing requests never stands between a leader and its heartbeats. Why, with figures:
docs/explanation/node-process.md.
"""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from node import snapshot
from node.disk import JOURNAL, SNAPSHOT, DiskError, Job
from node.finality import Proof
from node.io import frames as framing
from node.io.config import Address, Member, NodeConfig
from node.io.disk import FileDisk
from node.io.front import FrontThread
from node.io.keys import SigningKeyError
from node.io.lanes import Lane
from node.io.logs import Quiet
from node.io.peers import PeerLink, Peers
from node.io.protocols import make_core, proof_of
from node.io.reception import ClientConnection, Reception
from node.journal import Journal
from node.machine import Machine
from node.replica import Effects, Replica, Settings
from node.segment import Identity
from node.snapshot import SnapshotError
from node.state import ReplicatedState

if TYPE_CHECKING:
    from node.io.metrics import Metrics

LEAVE_S: Final = 3.0
"""Longest time for what is under way, on disk and in HTTP, when the node leaves."""
GOODBYE_S: Final = 0.3
"""Longest time for clients to read what is theirs, after that."""
LANES_S: Final = 0.5
"""Longest time for the disk threads to end, when all is said; one that hangs in a dead disk is left behind."""
SLOW_TURN_US: Final = 50_000
"""A turn that took longer is worth a line in the log: it is longer than the time between two heartbeats."""
SHORTEST_WAIT_S: Final = 0.0002
"""A deadline that has passed and that no turn moves must not become a busy loop."""

log = structlog.get_logger()


class NodeFailed(Exception):
    """The node cannot start (`code` 2) or cannot go on (1); the text says why and what to do."""

    def __init__(self, reason: str, code: int = 1) -> None:
        super().__init__(reason)
        self.code = code


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


class Node:
    """Everything of one node. `run` returns after an orderly exit and raises NodeFailed otherwise.

    Nothing of it is global: several nodes may live in one process, each in a trio loop or in the same one."""

    def __init__(self, config: NodeConfig, settled: Callable[[], None] = lambda: None) -> None:
        """Read the disk back. `settled` is called once, when everything is loaded and served, HTTP too.

        Raises DiskError, JournalError, SnapshotError, CertificateError, NodeFailed."""
        self.config = config
        self.settled = settled
        self.metrics: Metrics | None = None
        """Made by the HTTP front, which is the only one to show them."""
        self._server_tls = framing.server_context(config.tls.ca, config.tls.certificate, config.tls.key)
        self._client_tls = framing.client_context(config.tls.ca, config.tls.certificate, config.tls.key)
        if config.http_tls is not None:
            files = config.http_tls
            framing.server_context(files.ca, files.certificate, files.key)  # the front makes its own, later
        self.disk = FileDisk(config.data, config.storage.platter)
        try:
            self.replica = self._recover()
        except BaseException:
            self.disk.close()
            raise
        self.leaving = False
        self._inbox: deque[Callable[[], None]] = deque()
        self._wake = trio.Event()
        self._lanes: list[Lane] = []
        self._early: list[Job] = []
        self._failure: NodeFailed | None = None
        self._peers: Peers | None = None
        self._reception: Reception | None = None
        self._front: FrontThread | None = None
        self._front_done = True

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
        machine = make_machine(config.machine)
        try:
            core, requests = make_core(config, machine, random.Random(os.urandom(16)))
        except SigningKeyError as error:
            raise NodeFailed(str(error), code=2) from None
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
        state = ReplicatedState(machine, config.limits.max_sessions)
        try:
            return Replica(
                config.node, identity, core, journal, recovered, state, self.disk, newest, settings, requests
            )
        except ValueError as error:
            raise NodeFailed(
                f"{config.data}: journal and snapshots do not fit together: {error}. This node must not vote "
                "with what is left; keep the folder for inspection and bring the machine back as a new member",
                code=2,
            ) from None

    # ------------------------------------------------------------------------------------------------- life

    def post(self, action: Callable[[], None]) -> None:
        """Have `action` run in the next turn (from trio's thread)."""
        self._inbox.append(action)
        self._wake.set()

    def leave(self) -> None:
        """Take nothing more, finish what is under way, step down, and let `run` return (from trio's thread)."""
        self.leaving = True
        self._wake.set()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `leave`. Raises NodeFailed. Started when peers and clients are served; HTTP follows within moments, and
        its port holds back whoever connects before."""
        listeners: list[trio.SocketListener] = []
        http: list[trio.SocketListener] = []
        try:
            listeners += await _listen(self.config.listen, "listen")
            if self.config.http is not None:
                http += await _listen(self.config.http, "http")
            async with trio.open_nursery() as nursery:
                await self._start(nursery, listeners, http)
                task_status.started()
                await self._loop()
                nursery.cancel_scope.cancel()
        finally:
            if self._front_done:  # else its thread still waits on them, and ends with the process
                listeners += http
            for listener in listeners:
                listener.socket.close()
            await self._end_lanes()
        if self._failure is not None:
            raise self._failure

    async def _end_lanes(self) -> None:
        for lane in self._lanes:
            lane.stop()
        with trio.CancelScope(shield=True), trio.move_on_after(LANES_S):
            for lane in self._lanes:
                await lane.ended.wait()
        # A thread that still works on a file must not find another one behind its descriptor.
        if all(lane.ended.is_set() for lane in self._lanes):
            self.disk.close()

    async def _start(
        self, nursery: trio.Nursery, listeners: list[trio.SocketListener], http: list[trio.SocketListener]
    ) -> None:
        config = self.config
        self._replay()
        self._lanes = [
            Lane("journal", JOURNAL, self.disk, self._job_done, self._disk_failed),
            Lane("snapshots", SNAPSHOT, self.disk, self._job_done, self._disk_failed),
        ]
        seed = os.urandom(8).hex()

        def link(member: Member, role: str) -> PeerLink:
            rng = random.Random(f"{seed}/{member.id}/{role}")
            return PeerLink(
                member, role, config.cluster, self._dial, rng, log.info, self._round_trip, self._connected
            )

        self._peers = Peers(
            {member.id: link(member, "peer") for member in config.peers},
            {member.id: link(member, "bulk") for member in config.peers},
            nursery,
        )
        self._peers.start()
        self._reception = Reception(
            config, self._server_tls, self._from_peer, self.from_client, self._came, self._gone
        )
        nursery.start_soon(self._reception.run, listeners)
        if http:
            self._front = FrontThread(self, http)
            nursery.start_soon(self._run_front, self._front)
        log.info(
            "serving",
            node=config.node,
            cluster=config.cluster,
            machine=config.machine,
            listen=str(config.listen),
            http=str(config.http) if config.http else None,
            applied_index=self.replica.state.applied_index,
        )
        if not http:
            self.settled()

    def _replay(self) -> None:
        """Begin, and apply everything that this node knows to be committed, before anybody can ask."""
        self.replica.start(now_us())
        while True:
            effects = self.replica.turn(now_us())
            self._early += effects.jobs
            if not effects.again:
                return

    async def _run_front(self, front: FrontThread) -> None:
        self._front_done = False
        try:
            await front.run()
        except Exception as error:
            log.error("http_failed", reason=str(error), exc_info=error)
            self._fail(f"the HTTP front failed: {error or type(error).__name__}")
        finally:
            self._front_done = front.ended
            self._wake.set()

    # ------------------------------------------------------------------------------------------------- loop

    async def _loop(self) -> None:
        replica = self.replica
        for job in self._early:
            self._lanes[job.lane].put(job)
        self._early.clear()
        leave_by = 0.0
        quiet = Quiet(trio.current_time, every_s=1.0)
        while self._failure is None:
            # The event is renewed before the inbox is read: what is posted from here on wakes the next wait.
            self._wake = trio.Event()
            began = now_us()
            inbox, self._inbox = self._inbox, deque()
            for action in inbox:
                action()
            if self.leaving and not replica.stopping:
                leave_by = trio.current_time() + LEAVE_S
                self._begin_to_leave()
            try:
                effects = replica.turn(now_us())
            except DiskError as error:  # it reads what there is when it cleans up after a snapshot
                self._disk_failed(error)
                return
            self._carry_out(effects)
            now = now_us()
            if now - began > SLOW_TURN_US:
                quiet(log.warning, "slow_turn", "", ms=(now - began) // 1000, actions=len(inbox))
            wait = (replica.deadline - now) / 1e6
            if replica.stopping:
                wait = leave_by - trio.current_time()
                if wait <= 0 or (self._lanes[JOURNAL].idle and not replica.busy and self._front_done):
                    await self._leave_now()
                    return
            if effects.again or self._inbox:
                await trio.lowlevel.checkpoint()
                continue
            with trio.move_on_after(max(wait, SHORTEST_WAIT_S)):
                await self._wake.wait()

    def _begin_to_leave(self) -> None:
        log.info("leaving", role=self.replica.view.role)
        assert self._reception is not None
        self._reception.close()
        self.replica.leave(now_us())
        if self._front is not None:
            self._front.stop()

    async def _leave_now(self) -> None:
        flushed = self._lanes[JOURNAL].idle
        assert self._reception is not None
        await self._reception.say_goodbye(f"{self.config.node} is leaving", GOODBYE_S)
        log.info("left", flushed=flushed)
        if not flushed:
            self._fail(
                f"the journal was not written within {LEAVE_S:g} s: the disk hangs. Nothing that was not on it has been promised"
            )

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
            if self.metrics is not None:
                self.metrics.event(name, fields)
            if name == "diverged":
                log.error(name, **fields)
            else:
                log.info(name, **fields)

    def _fail(self, reason: str, code: int = 1) -> None:
        if self._failure is None:  # what came first is the cause
            self._failure = NodeFailed(reason, code)
        self._wake.set()

    def _job_done(self, lane: int, number: int, took: float) -> None:
        if lane == JOURNAL and self.metrics is not None:
            self.metrics.fsync(took)
        self.post(lambda: self.replica.job_done(lane, number, now_us()))

    def _disk_failed(self, error: Exception) -> None:
        self._fail(
            f"the disk failed: {error or type(error).__name__}. Nothing more is acknowledged; the node stops"
        )

    # --------------------------------------------------------------------------------------------- messages

    async def _dial(self, member: Member) -> framing.FrameStream:
        return await framing.connect(
            member.address.host,
            member.address.port,
            self._client_tls,
            cluster=self.config.cluster,
            expect_node=member.id,
            timeout_s=1.0,
        )

    def _round_trip(self, peer: str, seconds: float) -> None:
        if self.metrics is not None:
            self.metrics.peer_round_trip(peer, seconds)

    def _connected(self, peer: str, connected: bool) -> None:
        if self.metrics is not None:
            self.metrics.peer_connected(peer, connected)

    def _from_peer(self, peer: str, batch: list[Any]) -> None:
        def take() -> None:
            if self.replica.stopping:
                return  # under load there would be something to write for ever
            now = now_us()
            for message in batch:
                try:
                    self.replica.receive_peer(peer, message, now)
                except SnapshotError as error:
                    log.error("bad_snapshot_piece", peer=peer, reason=str(error))

        self.post(take)

    def from_client(self, connection: Any, batch: list[Any]) -> None:
        """Requests of a client, or of the HTTP front in its place (from trio's thread)."""

        def take() -> None:
            now = now_us()
            for message in batch:
                self.replica.receive_client(connection, message, now)

        self.post(take)

    def prove(self, index: int) -> Proof:
        """A finality proof of a log entry (from trio's thread). Raises NoProof."""
        return proof_of(self.replica.core, index)

    def _came(self, connection: ClientConnection) -> None:
        self.post(lambda: self.replica.client_connected(connection))
        self._count_clients()

    def _gone(self, connection: ClientConnection) -> None:
        self.post(lambda: self.replica.client_gone(connection))
        self._count_clients()

    def _count_clients(self) -> None:
        if self.metrics is not None and self._reception is not None:
            self.metrics.clients(len(self._reception.clients))


async def _listen(address: Address, key: str) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(address.port, host=address.host)
    except OSError as error:
        raise NodeFailed(
            f"cannot listen on {address} ({key}): {(error.strerror or str(error)).lower()}. "
            "Is another node running with this configuration? Choose another port otherwise",
            code=2,
        ) from None
