"""A replica: core + journal + state + queries, as one pure state machine with one turn.

The shell hands in whatever has arrived (`receive_peer`, `receive_client`, `job_done`, the time), then calls `turn` once
and carries out the `Effects`: it sends what may be sent, performs the disk jobs lane by lane in order, and reports each as
done. Everything that arrived together is proposed, written and synced together: group commit without a timer.

The gate of the ordering rules (consensus.core, 1 to 4) stands here: a message in `Out.wait` becomes an effect only after
the jobs that carry all records before it are done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final

from consensus.core import (
    NEVER,
    Core,
    CoreView,
    EntryKind,
    NodeId,
    Out,
    RefusalCode,
    SnapshotMeta,
    entry_position,
)
from node import sessions, snapshot
from node.digests import DigestWatch
from node.disk import JOURNAL, SNAPSHOT, Disk, Job
from node.journal import Journal, Recovered
from node.machine import QueryError
from node.protocol import (
    Answer,
    Chunk,
    ChunkRequest,
    Code,
    DigestReport,
    Leader,
    OpenSession,
    Outcome,
    Query,
    QueryRefused,
    Refused,
    Status,
    StatusRequest,
    Submit,
)
from node.queries import QueryDesk
from node.segment import Identity
from node.state import DigestDue, Opened, ReplicatedState
from node.transfer import Transfer

Connection = Hashable

QUERIES_A_TURN: Final = 16
"""Queries answered in one turn: a storm of them must not keep heartbeats waiting."""
APPLY_BYTES_A_TURN: Final = 256 << 10
"""Bytes of committed entries applied in one turn, for the same reason; at least one entry."""
BLOCK_BYTES: Final = 512 << 10
"""A block is closed when it has grown to this."""

_CODES: Final = {
    RefusalCode.NOT_LEADER: Code.NOT_LEADER,
    RefusalCode.NO_QUORUM: Code.NO_QUORUM,
    RefusalCode.BUSY: Code.BUSY,
}


@dataclass(slots=True, frozen=True)
class Settings:
    """Bounds and paces of a replica; times in microseconds."""

    barrier: int = 100_000
    """Pace of the read barriers by which a node knows its age."""
    fresh: int = 1_000_000
    """Answers up to this age are called `fresh`."""
    digest: int = 1_000_000
    """Pace of digest comparisons while there is something new to compare."""
    session_ttl: int = 600_000_000
    max_command_bytes: int = 65_536
    max_sessions: int = 4096
    queries_in_queue: int = 512
    snapshot_bytes: int = 8 << 20
    """Journal bytes after which a snapshot is taken."""


class Effects:
    """What a turn asks of the shell. `jobs` of one lane are performed in order. Messages to one peer leave in order;
    those in `bulk` over a connection of their own. `again`: there is more to do at once, without waiting for anything."""

    __slots__ = ("again", "bulk", "clients", "events", "jobs", "peers")

    def __init__(self) -> None:
        self.peers: list[tuple[NodeId, Any]] = []
        self.bulk: list[tuple[NodeId, Any]] = []
        self.clients: list[tuple[Connection, Any]] = []
        self.jobs: list[Job] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        """(name, fields): what an operator wants to read in the log."""
        self.again = False


class Replica:
    """One member. `recovered` and `snapshot_chunks` are what its disk gave back; `disk` is used to read snapshot pieces only."""

    def __init__(
        self,
        node: NodeId,
        identity: Identity,
        core: Core,
        journal: Journal,
        recovered: Recovered,
        state: ReplicatedState,
        disk: Disk,
        newest: tuple[SnapshotMeta, list[bytes]] | None = None,
        settings: Settings | None = None,
    ) -> None:
        """Raises ValueError if journal and snapshot do not fit together."""
        self.node = node
        self.identity = identity
        self.core = core
        self.journal = journal
        self.state = state
        self.settings = settings or Settings()
        self.quarantined = ""
        """Why this replica does not serve; empty while it does."""
        self.stopping = False
        self._disk = disk
        self._out = Out()
        self._effects = Effects()
        # Barrier tokens and nonces of an earlier life must never be taken for one of this life's.
        first = recovered.incarnation << 24
        self.desk = QueryDesk(
            self.settings.queries_in_queue, self.settings.barrier, self.settings.fresh, first
        )
        self._nonce = first

        if newest is not None:
            state.restore(newest[1])
        core.recover(recovered.records, newest[0] if newest else None)
        self._snapshot_index = state.applied_index
        self._queued_index = state.applied_index
        self.view: CoreView = core.observe()

        self.digests = DigestWatch(node, self.view.members)
        self._transfer = Transfer(disk, identity)
        self._to_apply: deque[bytes] = deque()
        self._gate: deque[tuple[int, NodeId, Any]] = deque()
        self._durable_ticket = 0
        self._written_ticket = 0
        self._next_job = 0
        self._journal_jobs: deque[tuple[int, int, int]] = deque()  # (job, ticket, mark)
        self._snapshot_job: tuple[int, SnapshotMeta, list[bytes] | None] | None = None
        self._rotate = False

        self._groups: list[sessions.Group] = []
        self._senders: list[
            tuple[Connection, int, int, list[int]]
        ] = []  # parallel: (who, request, session, seqs)
        self._group_bytes = 0
        self._reply_to: dict[int, Connection] = {}  # session -> the connection that last used it here
        self._opening: dict[int, tuple[Connection, int]] = {}  # nonce -> (who, request)
        self._clients: dict[Connection, None] = {}
        self._seen: dict[int, tuple[int, int]] = {}  # session -> (last index, when this leader saw that)
        self._sweep_at = NEVER
        self._digest_at = 0
        self._digest_from = -1  # applied index behind the newest digest mark
        self._started_at = 0

    # ----------------------------------------------------------------------------------------------- inputs

    def start(self, now: int) -> None:
        """Begin to take part; `turn` follows."""
        self._started_at = now
        self.core.start(now, self._out)
        self._take(now)

    def receive_peer(self, sender: NodeId, message: Any, now: int) -> None:
        """A message from another member. Raises SnapshotError for a piece that is not what was announced."""
        kind = type(message)
        if kind is DigestReport:
            self._compare(sender, message)
        elif kind is ChunkRequest:
            self._effects.bulk.append((sender, self._transfer.serve(message)))
        elif kind is Chunk:
            self._effects.bulk += self._transfer.receive(sender, message, now)
            self._install(now)
        else:
            self.core.receive(sender, message, now, self._out)
            self._take(now)

    def client_connected(self, connection: Connection) -> None:
        """A client is there: it hears who leads."""
        self._clients[connection] = None
        self._effects.clients.append((connection, Leader(self.view.leader, self.view.term)))

    def client_gone(self, connection: Connection) -> None:
        """A client's connection has ended. What it asked for still happens; nobody is told."""
        self._clients.pop(connection, None)
        for session in [name for name, who in self._reply_to.items() if who == connection]:
            del self._reply_to[session]
        for nonce in [nonce for nonce, (who, _) in self._opening.items() if who == connection]:
            del self._opening[nonce]
        self.desk.forget(lambda who: who == connection)

    def receive_client(self, connection: Connection, message: Any, now: int) -> None:
        """A request from a client that has been announced with `client_connected`."""
        kind = type(message)
        if kind is Submit:
            self._submit(connection, message)
        elif kind is Query:
            self._query(connection, message, now)
        elif kind is OpenSession:
            if self._cannot_write():
                self._refuse_write(connection, message.request, 0, [], *self._cannot_write())
                return
            self._nonce += 1
            self._opening[self._nonce] = (connection, message.request)
            self._add_group(
                sessions.open_group(self.node, self._nonce), 64, (connection, message.request, 0, [])
            )
        elif kind is StatusRequest:
            self._effects.clients.append((connection, Status(message.request, self.status(now))))

    def job_done(self, lane: int, number: int, now: int) -> None:
        """A disk job is done, and with it every earlier one of its lane (and of no other)."""
        if lane == SNAPSHOT:
            if self._snapshot_job is not None and self._snapshot_job[0] == number:
                self._snapshot_durable(now)
            return
        ticket = 0
        while self._journal_jobs and self._journal_jobs[0][0] <= number:
            _, ticket, mark = self._journal_jobs.popleft()
            self.journal.mark_synced(mark)
        if ticket > self._durable_ticket:
            self._durable_ticket = ticket
            while self._gate and self._gate[0][0] <= ticket:
                _, dest, message = self._gate.popleft()
                self._effects.peers.append((dest, message))
            self.core.persisted(ticket, now, self._out)
            self._take(now)

    def leave(self, now: int) -> None:
        """Take no more requests, and lead no more; then `turn` until no job is open, and exit."""
        self.stopping = True
        self.core.resign(now, self._out)
        self._take(now)
        self._refuse_groups(Code.STOPPING, f"{self.node} is leaving")
        self._effects.clients += self.desk.refuse_all(Code.STOPPING, f"{self.node} is leaving")

    # ------------------------------------------------------------------------------------------------- turn

    @property
    def deadline(self) -> int:
        """When the next turn is due even if nothing arrives."""
        due = min(self.core.deadline, self.desk.deadline(), self._transfer.deadline, self._sweep_at)
        if self._may_mark():
            due = min(due, self._digest_at)
        return due

    def turn(self, now: int) -> Effects:
        """Do what is due, propose what has come together, hand over what the shell must carry out."""
        if now >= self.core.deadline:
            self.core.timeout(now, self._out)
            self._take(now)
        self._effects.bulk += self._transfer.timeout(now)
        if now >= self._sweep_at:
            self._sweep_sessions(now)
        if now >= self._digest_at and self._may_mark():
            self._digest_at = now + self.settings.digest
            self._propose([(EntryKind.DIGEST, b"")], now)
        self._propose_groups(now)
        if not self.stopping:
            token = self.desk.wants_barrier(now)
            if token is not None:
                self.core.read(token, now, self._out)
                self._take(now)
        self._apply(now)
        self._answer_queries(now)
        self._write(now)
        effects, self._effects = self._effects, Effects()
        effects.again = bool(self._to_apply or self.desk.ready)
        return effects

    @property
    def busy(self) -> bool:
        """Whether disk jobs are open."""
        return bool(self._journal_jobs) or self._snapshot_job is not None

    # ------------------------------------------------------------------------------------------- from the core

    def _take(self, now: int) -> None:
        """Take over what the core asked for, in the order that the rules demand."""
        out = self._out
        effects = self._effects
        if out.now:
            effects.peers += out.now
            out.now.clear()
        if out.wait:
            # Rule 2: behind everything that is still to be made durable; with nothing outstanding, at once.
            if out.ticket > self._durable_ticket:
                self._gate.extend((out.ticket, dest, message) for dest, message in out.wait)
            else:
                effects.peers += out.wait
            out.wait.clear()
        if out.committed:
            self._to_apply.extend(out.committed)
            self._queued_index += len(out.committed)
            out.committed.clear()
        for token, index in out.reads:
            self.desk.passed(token, index)
        out.reads.clear()
        for token, refusal in out.refused_reads:
            self.desk.refused(token, refusal, now)
        out.refused_reads.clear()
        if out.install is not None:
            peer, meta = out.install
            out.install = None
            if meta.index > self._queued_index and self._snapshot_job is None:
                effects.bulk += self._transfer.fetch(peer, meta, now)
        if out.changed:
            out.changed = False
            self._changed(now)

    def _changed(self, now: int) -> None:
        old, self.view = self.view, self.core.observe()
        new = self.view
        if (old.leader, old.term) != (new.leader, new.term):
            message = Leader(new.leader, new.term)
            self._effects.clients += [(connection, message) for connection in self._clients]
        if (old.role, old.term, old.leader) != (new.role, new.term, new.leader):
            fields = {"role": new.role, "term": new.term, "leader": new.leader}
            self._effects.events.append(("role", fields))
        if new.role == "leader" and old.role != "leader":
            # A new leader has not seen when a session was last used: everybody gets a full term.
            self._seen = {name: (used, now) for name, used in self.state.sessions.last_used().items()}
            self._sweep_at = now + self.settings.session_ttl // 4
            if self.quarantined:
                self.core.resign(now, self._out)
                self._take(now)
        elif new.role != "leader":
            self._sweep_at = NEVER

    # ----------------------------------------------------------------------------------------------- writes

    def _cannot_write(self) -> tuple[Code, str] | tuple[()]:
        if self.stopping:
            return Code.STOPPING, f"{self.node} is leaving"
        if self.quarantined:
            return Code.QUARANTINED, self.quarantined
        return ()

    def _submit(self, connection: Connection, message: Submit) -> None:
        self._reply_to[message.session] = connection
        seqs, commands = message.seqs, message.commands
        refusal = self._cannot_write()
        if refusal:
            self._refuse_write(connection, 0, message.session, seqs, *refusal)
            return
        if len(seqs) != len(commands):
            reason = f"{len(seqs)} numbers for {len(commands)} commands"
            self._refuse_write(connection, 0, message.session, seqs, Code.BAD_COMMAND, reason)
            return
        if not seqs:
            return
        if max(seqs) > message.low + sessions.WINDOW or min(seqs) < 1:
            reason = (
                f"numbers must lie between 1 and {sessions.WINDOW} above the settled ones ({message.low})"
            )
            self._refuse_write(connection, 0, message.session, seqs, Code.FORGOTTEN, reason)
            return
        bad = self._bad_commands(commands)
        if bad:
            for place, reason in bad.items():
                self._refuse_write(connection, 0, message.session, [seqs[place]], Code.BAD_COMMAND, reason)
            seqs = [seq for place, seq in enumerate(seqs) if place not in bad]
            commands = [command for place, command in enumerate(commands) if place not in bad]
            if not seqs:
                return
        group = sessions.commands_group(message.session, message.low, seqs, commands)
        size = sum(map(len, commands)) + 8 * len(commands)
        self._add_group(group, size, (connection, 0, message.session, seqs))

    def _bad_commands(self, commands: list[bytes]) -> dict[int, str]:
        limit = self.settings.max_command_bytes
        check = self.state.machine.check
        bad: dict[int, str] = {}
        for place, command in enumerate(commands):
            if len(command) > limit:
                bad[place] = f"the command has {len(command)} bytes; the limit is {limit}"
            else:
                problem = check(command)
                if problem is not None:
                    bad[place] = problem
        return bad

    def _add_group(
        self, group: sessions.Group, size: int, sender: tuple[Connection, int, int, list[int]]
    ) -> None:
        self._groups.append(group)
        self._senders.append(sender)
        self._group_bytes += size

    def _propose_groups(self, now: int) -> None:
        if not self._groups:
            return
        if self._group_bytes <= BLOCK_BYTES:
            payloads = [(int(EntryKind.BLOCK), sessions.encode_block(self._groups))]
        else:
            payloads = [(int(EntryKind.BLOCK), sessions.encode_block(part)) for part in self._parts()]
        refusal = self.core.propose(payloads, now, self._out)
        if refusal is not None:
            self._refuse_groups(_CODES[refusal.code], refusal.reason, refusal.leader)
        self._groups, self._senders, self._group_bytes = [], [], 0
        self._take(now)

    def _parts(self) -> list[list[sessions.Group]]:
        """The groups, cut into blocks of bounded size (a group is never cut: a frame bounds it)."""
        parts: list[list[sessions.Group]] = [[]]
        size = 0
        for group in self._groups:
            weight = sum(map(len, group[4])) if group[0] == sessions.COMMANDS else 64
            if size and size + weight > BLOCK_BYTES:
                parts.append([])
                size = 0
            parts[-1].append(group)
            size += weight
        return parts

    def _propose(self, payloads: list[tuple[int, bytes]], now: int) -> None:
        """Propose something of the replica's own; if that is refused, another time will do."""
        self.core.propose(payloads, now, self._out)
        self._take(now)

    def _refuse_groups(self, code: Code, reason: str, leader: NodeId | None = None) -> None:
        for connection, request, session, seqs in self._senders:
            self._refuse_write(connection, request, session, seqs, code, reason, leader)
            # Whoever leads answers this session from now on; two answers would only cost twice.
            self._reply_to.pop(session, None)
        refused = {(connection, request) for connection, request, _, _ in self._senders}
        for nonce in [nonce for nonce, asker in self._opening.items() if asker in refused]:
            del self._opening[nonce]
        self._groups, self._senders, self._group_bytes = [], [], 0

    def _refuse_write(
        self,
        connection: Connection,
        request: int,
        session: int,
        seqs: list[int],
        code: Code,
        reason: str,
        leader: NodeId | None = None,
    ) -> None:
        if connection is not None:
            refused = Refused(request, session, seqs, int(code), reason, leader)
            self._effects.clients.append((connection, refused))

    def _sweep_sessions(self, now: int) -> None:
        """Propose to forget the sessions that nobody has used for their time to live."""
        ttl = self.settings.session_ttl
        self._sweep_at = now + ttl // 4
        used = self.state.sessions.last_used()
        seen = self._seen
        self._seen = {
            name: seen[name] if name in seen and seen[name][0] == index else (index, now)
            for name, index in used.items()
        }
        for name, (index, when) in self._seen.items():
            if now - when >= ttl:
                self._add_group(sessions.expire_group(name, index), 64, (None, 0, 0, []))

    # ------------------------------------------------------------------------------------------------ apply

    def _apply(self, now: int) -> None:
        queue = self._to_apply
        state = self.state
        budget = APPLY_BYTES_A_TURN
        while queue and budget > 0:
            entry = queue.popleft()
            if entry_position(entry)[0] <= state.applied_index:
                continue  # covered by a snapshot that was installed meanwhile
            budget -= len(entry)
            for item in state.apply(entry):
                kind = type(item)
                if kind is Outcome or kind is Refused:
                    connection = self._reply_to.get(item.session)  # type: ignore[union-attr]
                    if connection is not None:
                        self._effects.clients.append((connection, item))
                elif kind is Opened:
                    self._opened(item)  # type: ignore[arg-type]
                elif kind is DigestDue:
                    self._digest_due(item, now)  # type: ignore[arg-type]
        self.desk.caught_up(state.applied_index, now)
        self._maybe_snapshot()

    def _opened(self, item: Opened) -> None:
        if item.origin != self.node:
            return
        connection, request = self._opening.pop(item.message.request, (None, 0))
        if connection is not None:
            item.message.request = request
            self._reply_to[item.message.session] = connection
            self._effects.clients.append((connection, item.message))

    # ---------------------------------------------------------------------------------------------- digests

    def _may_mark(self) -> bool:
        return (
            self.view.role == "leader" and not self.stopping and self._digest_from != self.state.applied_index
        )

    def _digest_due(self, item: DigestDue, now: int) -> None:
        self._digest_from = item.index
        self._digest_at = now + self.settings.digest
        report = DigestReport(item.index, item.digest, item.chain)
        self._effects.peers += [(peer, report) for peer in self.view.members if peer != self.node]
        self.core.applied(item.index, item.digest, now, self._out)
        self._take(now)
        self._compare(self.node, report)
        if self.quarantined and self.view.role == "leader":
            self.core.resign(now, self._out)
            self._take(now)

    def _compare(self, sender: NodeId, report: DigestReport) -> None:
        for finding in self.digests.add(sender, report):
            fields = {"node": finding.node, "index": finding.index, "forked": finding.forked}
            self._effects.events.append(("diverged", fields))
            if finding.node == self.node and not self.quarantined:
                self.quarantined = f"quarantined: {finding}"
                refusals = self.desk.refuse_all(Code.QUARANTINED, self.quarantined)
                self._effects.clients += refusals

    # ---------------------------------------------------------------------------------------------- queries

    def _query(self, connection: Connection, query: Query, now: int) -> None:
        if self.stopping or self.quarantined:
            code = Code.STOPPING if self.stopping else Code.QUARANTINED
            reason = self.quarantined or f"{self.node} is leaving"
            refused: QueryRefused | None = QueryRefused(query.request, code, reason, self.view.leader)
        else:
            refused = self.desk.add(connection, query, now)
        if refused is not None:
            self._effects.clients.append((connection, refused))

    def _answer_queries(self, now: int) -> None:
        self._effects.clients += self.desk.give_up(now)
        for _ in range(min(QUERIES_A_TURN, len(self.desk.ready))):
            item = self.desk.take(now)
            if item is None:
                return
            self._effects.clients.append((item.connection, self._answer(item.query, now)))

    def _answer(self, query: Query, now: int) -> Answer | QueryRefused:
        state = self.state
        try:
            result = state.query(query.query)
        except QueryError as error:
            return QueryRefused(query.request, Code.BAD_QUERY, str(error), None)
        tier = self.desk.tier(now)
        return Answer(query.request, state.applied_index, state.chain, self.desk.age(now), tier, result)

    # ------------------------------------------------------------------------------------------------- disk

    def _write(self, now: int) -> None:
        """Hand the records of this turn to the journal, as one batch."""
        out = self._out
        if out.records:
            ops, mark = self.journal.append(out.records)
            out.records.clear()
            self._journal_job(ops, mark)
        if self._rotate:
            self._rotate = False
            ops, mark = self.journal.rotate(self.core.state_records())
            self._journal_job(ops, mark)

    def _journal_job(self, ops: list[Any], mark: int) -> None:
        self._next_job += 1
        self._written_ticket = self._out.ticket
        self._journal_jobs.append((self._next_job, self._written_ticket, mark))
        self._effects.jobs.append(Job(JOURNAL, self._next_job, ops))

    def _maybe_snapshot(self) -> None:
        state = self.state
        if (
            self.journal.size < self.settings.snapshot_bytes
            or self._snapshot_job is not None
            or self.quarantined  # its state is not what the log says
            or state.applied_index <= self._snapshot_index
        ):
            return
        self._save(state.applied_index, state.applied_term, state.chain, state.snapshot())

    def _save(self, index: int, term: int, chain: bytes, chunks: list[bytes]) -> None:
        manifest = snapshot.make_manifest(
            self.identity, index, term, chain, sorted(self.view.members), chunks
        )
        self._next_job += 1
        self._snapshot_job = (self._next_job, manifest.meta, None)
        self._effects.jobs.append(Job(SNAPSHOT, self._next_job, snapshot.write_ops(manifest, chunks)))

    def _install(self, now: int) -> None:
        """Write a fetched snapshot down; it is restored once it is durable."""
        assembly = self._transfer.complete()
        if assembly is None or self._snapshot_job is not None:
            return
        self._transfer.stop()
        if assembly.meta.index <= self._queued_index:
            return  # the log got there first
        self._next_job += 1
        self._snapshot_job = (self._next_job, assembly.meta, assembly.chunks)
        ops = snapshot.write_ops(assembly.manifest, assembly.chunks)
        self._effects.jobs.append(Job(SNAPSHOT, self._next_job, ops))

    def _snapshot_durable(self, now: int) -> None:
        assert self._snapshot_job is not None
        _, meta, chunks = self._snapshot_job
        self._snapshot_job = None
        if chunks is None:
            self.core.snapshot_taken(meta, now, self._out)
        elif meta.index > self._queued_index:
            self.state.restore(chunks)
            self._queued_index = meta.index
            self._to_apply.clear()
            self.core.snapshot_installed(meta, now, self._out)
            self._effects.events.append(("installed", {"index": meta.index, "bytes": meta.size}))
        self._take(now)
        older, self._snapshot_index = self._snapshot_index, meta.index
        self._rotate = True
        self._effects.events.append(("snapshot", {"index": meta.index, "bytes": meta.size}))
        # The one before is kept: a peer may be fetching it.
        ops = snapshot.clean_ops(self._disk.names(), {meta.index, older})
        if ops:
            self._next_job += 1
            self._effects.jobs.append(Job(SNAPSHOT, self._next_job, ops))
        self._install(now)  # one that became complete in the meantime

    # ----------------------------------------------------------------------------------------------- status

    def status(self, now: int) -> dict[str, Any]:
        """A view for operators; see docs/reference/status.md."""
        view = self.core.observe()
        own = self.digests.own
        return {
            "node": self.node,
            "role": view.role,
            "term": view.term,
            "leader": view.leader,
            "commit_index": view.commit_index,
            "applied_index": self.state.applied_index,
            "durable_index": view.durable_index,
            "first_index": view.first_index,
            "last_index": view.last_index,
            "chain": self.state.chain.hex(),
            "digest": own.digest.hex() if own else None,
            "digest_index": own.index if own else None,
            "digest_agreed_index": self.digests.agreed_index,
            "age_us": self.desk.age(now),
            "tier": self.desk.tier(now),
            "quarantined": self.quarantined or None,
            "sessions": len(self.state.sessions),
            "commands_applied": self.state.commands_applied,
            "snapshot_index": self._snapshot_index,
            "journal_bytes": self.journal.size,
            "queries_waiting": len(self.desk),
            "match_index": view.match_index,
            "storage_stalled": view.storage_stalled,
            "uptime_us": now - self._started_at,
        }
