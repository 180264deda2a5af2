"""A replica: core + journal + state + queries, as one pure state machine with one turn.

The shell hands in whatever has arrived (`receive_peer`, `receive_client`, `job_done`, the time), then calls `turn` once
and carries out the `Effects`: it sends what may be sent, performs the disk jobs lane by lane in order, and reports each as
done. Everything that arrived together is proposed, written and synced together: group commit without a timer.

The parts: `node.gate` (journal and the ordering rules), `node.compaction` (snapshots), `node.writes` and `node.queries` (what
clients wait for), `node.digests` (who has diverged), `node.state` (what the log determines). This file joins them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from consensus.core import Core, CoreView, EntryKind, NodeId, Out, RefusalCode, SnapshotMeta, entry_kind
from consensus.marks import sometimes
from node.compaction import Compaction
from node.digests import DigestWatch, WaryDigestWatch
from node.disk import SNAPSHOT, Disk
from node.effects import Connection, Effects
from node.gate import Gate
from node.journal import Recorder, Recovered
from node.protocol import (
    Chunk,
    ChunkRequest,
    Code,
    DigestReport,
    Introduce,
    Leader,
    OpenSession,
    Outcome,
    Query,
    QueryRefused,
    Refused,
    SignedOpen,
    SignedSubmit,
    Status,
    StatusRequest,
    Submit,
)
from node.queries import QueryDesk, answer
from node.requests import RequestCheck
from node.segment import Identity
from node.signed import SignedDesk
from node.state import DigestDue, Keyed, Opened, ReplicatedState
from node.status import status
from node.writes import IdleWatch, WriteDesk

__all__ = ["Connection", "Effects", "Replica", "Settings"]

QUERIES_A_TURN: Final = 16
"""Queries answered in one turn: a storm of them must not keep heartbeats waiting."""
_MARK: Final = int(EntryKind.DIGEST)
APPLY_BYTES_A_TURN: Final = 32 << 10
"""Bytes of committed entries applied in one turn, for the same reason; at least one entry."""

_OWN: Final = frozenset((DigestReport, ChunkRequest, Chunk))
"""Messages between replicas that are not the core's."""
_CODES: Final = {
    RefusalCode.NOT_LEADER: Code.NOT_LEADER,
    RefusalCode.NO_QUORUM: Code.NO_QUORUM,
    RefusalCode.BUSY: Code.BUSY,
}
_NOTHING: Final = Effects()
"""What most turns ask for; nobody ever adds to it."""
_LIVES: Final = 32
"""Bits for what one life of a node numbers: barrier tokens and nonces of an earlier life, which may still be on their way or in
the log, must never be taken for one of this life's."""


@dataclass(slots=True, frozen=True)
class Settings:
    """Bounds and paces of a replica; times in microseconds."""

    barrier: int = 250_000
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


class Replica:
    """One member. `recovered` and `newest` (a snapshot's meta and chunks) are what its disk gave back; `disk` is used to look at
    snapshot files only."""

    def __init__(
        self,
        node: NodeId,
        identity: Identity,
        core: Core,
        journal: Recorder,
        recovered: Recovered,
        state: ReplicatedState,
        disk: Disk,
        newest: tuple[SnapshotMeta, list[bytes]] | None = None,
        settings: Settings | None = None,
        requests: RequestCheck | None = None,
    ) -> None:
        """`requests`: judges signed requests, which then are the only ones taken in. Raises ValueError if journal and snapshot do
        not fit together."""
        self.node = node
        self.core = core
        self.state = state
        self.settings = settings or Settings()
        self.quarantined = ""
        """Why this replica does not serve; empty while it does."""
        self.stopping = False
        self._out = Out()
        self._effects = Effects()

        if newest is not None:
            state.restore(newest[1])
        core.recover(recovered.records, newest[0] if newest else None)
        self.view: CoreView = core.observe()
        self._core_due = core.deadline  # as `_take`, which follows every call of the core, found it
        self._marked: bool = getattr(core, "snapshots_at_marks", False)  # the log says when, not the journal

        first = recovered.incarnation << _LIVES
        limits = self.settings
        self.desk = QueryDesk(limits.queries_in_queue, limits.barrier, limits.fresh, first)
        self.writes = WriteDesk(node, state.machine.check, limits.max_command_bytes, first)
        self.signed = SignedDesk(requests, self.writes, state)
        watch = DigestWatch if requests is None else WaryDigestWatch
        self.digests = watch(node, self.view.members)
        self._gate = Gate(journal)
        self._compaction = Compaction(identity, disk, state.applied_index, requests is not None)
        self._idle = IdleWatch(limits.session_ttl)
        self._to_apply: deque[bytes] = deque()
        self._queued_index = state.applied_index  # of the newest entry that the core has handed out
        self._clients: dict[Connection, None] = {}
        self._digest_at = 0
        self._digest_from = -1  # applied index behind the newest digest mark
        # Up to here the log is run again after a start; where members may lie, marks are never passed over.
        self._rerun_to = 0 if self._marked else self.view.last_index
        self._leads = False  # as `view` says
        self.started_at = 0

    # ----------------------------------------------------------------------------------------------- inputs

    def start(self, now: int) -> None:
        """Begin to take part; `turn` follows."""
        self.started_at = now
        self.core.start(now, self._out)
        self._take(now)

    def receive_peer(self, sender: NodeId, message: Any, now: int) -> None:
        """A message from another member. Raises SnapshotError for a piece that is not what was announced."""
        kind = type(message)
        if kind not in _OWN:
            self.core.receive(sender, message, now, self._out)
            self._take(now)
        elif kind is DigestReport:
            self._compare(sender, message, now)
        elif kind is ChunkRequest:
            self._serve(sender, message, now)
        else:
            self._compaction.receive(sender, message, now, self._effects)
            self._compaction.install(self._queued_index, self._effects)

    def client_connected(self, connection: Connection) -> None:
        """A client is there: it hears who leads."""
        self._clients[connection] = None
        self._effects.clients.append((connection, Leader(self.view.leader, self.view.term)))

    def client_gone(self, connection: Connection) -> None:
        """A client's connection has ended. What it asked for still happens; nobody is told."""
        self._clients.pop(connection, None)
        effects = self._effects
        effects.clients = [reply for reply in effects.clients if reply[0] != connection]
        self.writes.forget(connection)
        self.signed.forget(connection)
        self.desk.forget(lambda who: who == connection)

    def receive_client(self, connection: Connection, message: Any, now: int) -> None:
        """A request from a client. Who has been announced with `client_connected` is also told who leads."""
        kind = type(message)
        if kind is Submit or kind is SignedSubmit:
            refusal = self._cannot_take(kind is SignedSubmit)
            if refusal is not None:
                self._refuse(connection, 0, message.session, message.seqs, *refusal)
            elif kind is Submit:
                self._effects.clients += self.writes.submit(connection, message)
            else:
                self._effects.clients += self.signed.submit(connection, message)
        elif kind is Query:
            self._query(connection, message, now)
        elif kind is OpenSession or kind is SignedOpen:
            refusal = self._cannot_take(kind is SignedOpen)
            if refusal is not None:
                request = message.request if kind is OpenSession else message.nonce
                self._refuse(connection, request, 0, [], *refusal)
            elif kind is OpenSession:
                self.writes.open(connection, message)
            else:
                self._effects.clients += self.signed.open(connection, message)
        elif kind is StatusRequest:
            self._effects.clients.append((connection, Status(message.request, self.status(now))))
        elif kind is Introduce and not self.quarantined:
            self.signed.introduce(connection, message)

    def job_done(self, lane: int, number: int, now: int) -> None:
        """A disk job is done, and with it every earlier one of its lane (and of no other)."""
        if lane == SNAPSHOT:
            self._snapshot_done(number, now)
            return
        ticket = self._gate.done(number, self._effects)
        if ticket:
            self.core.persisted(ticket, now, self._out)
            self._take(now)

    def leave(self, now: int) -> None:
        """Take no more requests, and lead no more; then `turn` until no job is open, and exit."""
        self.stopping = True
        self.core.resign(now, self._out)
        self._take(now)
        self._refuse_waiting(Code.STOPPING, f"{self.node} is leaving")

    # ------------------------------------------------------------------------------------------------- turn

    @property
    def deadline(self) -> int:
        """When the next turn is due even if nothing arrives."""
        # Asked for after every turn, so spelt out: `min` of several takes five times as long.
        due = self._core_due
        other = self._compaction.deadline
        if other < due:
            due = other
        other = self._idle.deadline
        if other < due:
            due = other
        if not self.stopping:
            other = self.desk.deadline()
            if other < due:
                due = other
        if self._leads and self._digest_at < due and self._may_mark():
            due = self._digest_at
        return due

    def turn(self, now: int) -> Effects:
        """Do what is due, propose what has come together, hand over what the shell must carry out.

        A turn follows every message, and most have little to do: each part is asked only where its deadline or its queue says
        that it has something."""
        core, desk = self.core, self.desk
        if now >= self._core_due:
            core.timeout(now, self._out)
            self._take(now)
        if now >= self._compaction.deadline:
            self._compaction.timeout(now, self._effects)
        if now >= self._idle.deadline:
            for session, last_index in self._idle.sweep(self.state.sessions.last_used(), now):
                self.writes.expire(session, last_index)
        if self._leads and now >= self._digest_at and self._may_mark():
            self._digest_at = now + self.settings.digest
            # If that is refused, another time will do.
            core.propose([(EntryKind.DIGEST, b"")], now, self._out)
            self._take(now)
        if self.writes.asked:
            self._propose(now)
        desk_due = desk.deadline()
        if now >= desk_due and not self.stopping:
            token = desk.wants_barrier(now)
            if token is not None:
                core.read(token, now, self._out, desk.lazy)
                self._take(now)
        if self._to_apply:
            self._apply(now)
        if desk.returned:
            desk.caught_up(self.state.applied_index, now)
        if desk.held.items:
            desk.release(self.state.applied_index, now)
        # A quarantined replica's state is not what the log says.
        if self._gate.journal_bytes >= self.settings.snapshot_bytes and not (
            self.quarantined or self._marked
        ):
            self._compaction.take(self.state, self.view.members, self._effects)
        if desk.ready or now >= desk_due:
            self._answer_queries(now)
        if self._out.records or self._compaction.rotate:
            self._write()
        effects = self._effects
        again = bool(self._to_apply or desk.ready)
        if not (again or effects.peers or effects.jobs or effects.clients or effects.bulk or effects.events):
            return _NOTHING
        self._effects = Effects()
        effects.again = again
        return effects

    def idle_until(self, now: int) -> int:
        """`deadline` if a turn now would do nothing, because what has arrived asked for nothing and nothing is due; else 0. Most
        acknowledgements that a leader gets are of that kind, and whoever runs the node may leave the turn out."""
        effects, desk = self._effects, self.desk
        if (
            effects.peers
            or effects.clients
            or effects.jobs
            or effects.events
            or effects.bulk
            or self._out.records
            or self._to_apply
            or self.writes.asked
            or desk.returned
            or desk.ready
            or self._compaction.rotate
        ):
            return 0
        due = self.deadline
        return due if now < due else 0

    @property
    def snapshot_index(self) -> int:
        """Index of the newest durable snapshot, 0 if there is none."""
        return self._compaction.index

    @property
    def journal_bytes(self) -> int:
        """Bytes in the journal behind the state that its segment began with."""
        return self._gate.journal_bytes

    @property
    def busy(self) -> bool:
        """Whether disk jobs are open."""
        return self._gate.busy or self._compaction.busy

    # ------------------------------------------------------------------------------------------- from the core

    def _take(self, now: int) -> None:
        """Take over what the core asked for, in the order that the rules demand."""
        self._core_due = self.core.deadline
        out = self._out
        effects = self._effects
        if out.now:
            effects.peers += out.now
            out.now.clear()
        if out.wait:
            # Rule 2: behind everything that is still to be made durable; with nothing outstanding, at once.
            self._gate.hold(out.ticket, out.wait, effects)
            out.wait.clear()
        if out.committed:
            self._to_apply.extend(out.committed)
            self._queued_index += len(out.committed)
            out.committed.clear()
        if out.reads:
            for token, index in out.reads:
                self.desk.passed(token, index)
            out.reads.clear()
        if out.refused_reads:
            for token, refusal in out.refused_reads:
                self.desk.refused(token, refusal, now)
            out.refused_reads.clear()
        if out.install is not None:
            peer, meta = out.install
            out.install = None
            if meta.index > self._queued_index:
                self._compaction.offered(peer, meta, now, effects)
        if out.changed:
            out.changed = False
            self._changed(now)

    def _changed(self, now: int) -> None:
        old, self.view = self.view, self.core.observe()
        new = self.view
        self._leads = new.role == "leader"
        if (old.leader, old.term) != (new.leader, new.term):
            message = Leader(new.leader, new.term)
            self._effects.clients += [(connection, message) for connection in self._clients]
        if (old.role, old.term, old.leader) != (new.role, new.term, new.leader):
            fields = {"role": new.role, "term": new.term, "leader": new.leader}
            self._effects.events.append(("role", fields))
        if new.role != "leader":
            self._idle.end()
        elif old.role != "leader":
            self._idle.begin(self.state.sessions.last_used(), now)

    # ----------------------------------------------------------------------------------------------- writes

    def _cannot_serve(self) -> tuple[Code, str] | None:
        if self.stopping:
            sometimes("a request is refused: this node is leaving")
            return Code.STOPPING, f"{self.node} is leaving"
        if self.quarantined:
            sometimes("a request is refused: this replica is quarantined")
            return Code.QUARANTINED, self.quarantined
        return None

    def _cannot_take(self, signed: bool) -> tuple[Code, str] | None:
        if signed is self.signed.required:
            return self._cannot_serve()
        sometimes("a request is refused: it is signed where it must not be, or not where it must")
        wanted = "signed requests only" if self.signed.required else "no signed requests"
        return Code.BAD_COMMAND, f"this cluster takes {wanted}"

    def _propose(self, now: int) -> None:
        blocks = self.writes.blocks()
        refusal = self.core.propose([(EntryKind.BLOCK, block) for block in blocks], now, self._out)
        if refusal is None:
            self.writes.proposed()
        else:
            self._effects.clients += self.writes.refuse(_CODES[refusal.code], refusal.reason, refusal.leader)
        self._take(now)

    def _refuse(
        self, connection: Connection, request: int, session: int, seqs: list[int], code: Code, reason: str
    ) -> None:
        refused = Refused(request, session, seqs, int(code), reason, self._other_leader())
        self._effects.clients.append((connection, refused))

    def _refuse_waiting(self, code: Code, reason: str) -> None:
        """Refuse every request that has not been proposed, and every query."""
        self._effects.clients += self.writes.refuse(code, reason, self._other_leader())
        self._effects.clients += self.desk.refuse_all(code, reason)

    def _other_leader(self) -> NodeId | None:
        return self.view.leader if self.view.leader != self.node else None

    # ------------------------------------------------------------------------------------------------ apply

    def _apply(self, now: int) -> None:
        queue = self._to_apply
        state = self.state
        # Queries that are held for an entry are answered before the state goes past it.
        last = state.applied_index if self.desk.first else self.desk.held.entry
        budget = APPLY_BYTES_A_TURN
        while queue and budget > 0 and state.applied_index < last:
            entry = queue.popleft()
            budget -= len(entry)
            for item in state.apply(entry, not self._passed_over(entry)):
                kind = type(item)
                if kind is Outcome or kind is Refused:
                    connection = self.writes.reply_to(item)  # type: ignore[arg-type]
                    if connection is not None:
                        self._effects.clients.append((connection, item))
                elif kind is Keyed:
                    self._effects.clients += self.signed.replies(item)  # type: ignore[arg-type]
                elif kind is Opened:
                    self._effects.clients += self.writes.opened(item)  # type: ignore[arg-type]
                elif kind is DigestDue:
                    self._digest_due(item, now)  # type: ignore[arg-type]
        if budget <= 0 and queue:
            sometimes("more is committed than one turn applies")

    # ---------------------------------------------------------------------------------------------- digests

    def _may_mark(self) -> bool:
        return self._leads and not self.stopping and self._digest_from != self.state.applied_index

    def _passed_over(self, entry: bytes) -> bool:
        """Whether `entry` is a mark at which nothing is compared: the log is run again after a start, a later mark is committed
        too, and nobody has reported of this one, so that a digest here would tell nothing that the later one does not."""
        index = self.state.applied_index + 1
        if index > self._rerun_to or entry_kind(entry) != _MARK or self.digests.knows(index):
            return False
        if any(entry_kind(later) == _MARK for later in self._to_apply):
            sometimes("a digest mark is passed over for a later one")
            return True
        return False

    def _digest_due(self, item: DigestDue, now: int) -> None:
        if item.snapshot and not self.quarantined:
            self._compaction.take_marked(self.state, self.view.members, self._effects)
        self._digest_from = item.index
        self._digest_at = now + self.settings.digest
        report = DigestReport(item.index, item.digest, item.chain)
        self._effects.peers += [(peer, report) for peer in self.view.members if peer != self.node]
        self.core.applied(item.index, item.digest, now, self._out)
        self._take(now)
        self._compare(self.node, report, now)

    def _compare(self, sender: NodeId, report: DigestReport, now: int) -> None:
        for finding in self.digests.add(sender, report):
            fields = {"node": finding.node, "index": finding.index, "forked": finding.forked}
            self._effects.events.append(("diverged", fields))
            if finding.node == self.node and not self.quarantined:
                self._quarantine(f"quarantined: {finding}", now)

    def _quarantine(self, reason: str, now: int) -> None:
        """Serve nothing more and never lead: of this state nothing can be believed. Votes and the log are not touched by that, so
        this node goes on voting and following."""
        sometimes("a replica has diverged and serves no more")
        self.quarantined = reason
        self.core.resign(now, self._out)
        self._take(now)
        self._refuse_waiting(Code.QUARANTINED, reason)
        # The outcome of what is in the log already must come from somebody else, too.
        self.writes.forget_all()
        self.signed.forget_all()

    def _serve(self, sender: NodeId, request: ChunkRequest, now: int) -> None:
        # A snapshot made while this state was diverging would carry that on.
        if self.quarantined:
            sometimes("a quarantined replica gives no snapshot away")
            self._effects.bulk.append((sender, Chunk(request.index, request.piece, 0, b"")))
            return
        piece = self._compaction.serve(sender, request, now)
        if piece is not None:
            self._effects.bulk.append((sender, piece))

    # ---------------------------------------------------------------------------------------------- queries

    def _query(self, connection: Connection, query: Query, now: int) -> None:
        refusal = self._cannot_serve()
        if refusal is not None:
            code, reason = refusal
            leader = self._other_leader()
            refused: QueryRefused | None = QueryRefused(query.request, int(code), reason, leader)
        else:
            refused = self.desk.add(connection, query, now)
        if refused is not None:
            self._effects.clients.append((connection, refused))

    def _answer_queries(self, now: int) -> None:
        self._effects.clients += self.desk.give_up(now)
        if len(self.desk.ready) > QUERIES_A_TURN:
            sometimes("more queries are ready than one turn answers")
        for _ in range(min(QUERIES_A_TURN, len(self.desk.ready))):
            item = self.desk.take(self.state.applied_index, now)
            if item is None:
                return
            reply = answer(item.query, self.state, self.desk, self.node, now, self._effects)
            self._effects.clients.append((item.connection, reply))

    # ------------------------------------------------------------------------------------------------- disk

    def _write(self) -> None:
        """Hand the records of this turn to the journal, as one batch; begin a new segment behind them if one is due."""
        out = self._out
        if out.records:
            self._gate.write(out.records, out.ticket, self._effects)
            out.records.clear()
        if self._compaction.rotate:
            self._compaction.rotate = False
            self._gate.rotate(self.core.state_records(), out.ticket, self._effects)

    def _snapshot_done(self, number: int, now: int) -> None:
        written = self._compaction.done(number)
        if written is None:
            return
        meta = written.meta
        if written.chunks is not None and meta.index > self._queued_index:
            sometimes("a fetched snapshot replaces the state")
            self.state.restore(written.chunks)
            self._queued_index = meta.index
            self._to_apply.clear()  # all of it stands before the snapshot's end
            self.core.snapshot_installed(meta, now, self._out)
            self._effects.events.append(("installed", {"index": meta.index, "bytes": meta.size}))
        else:
            if written.chunks is not None:
                sometimes("a fetched snapshot is overtaken by the log while it is written")
            # This node's own; or a fetched one that the log has overtaken, which then is as good as an own one.
            self.core.snapshot_taken(meta, now, self._out)
        self._take(now)
        self._compaction.settle(meta, self.core.observe().vouched_snapshot, self._effects)
        # Another one may have come completely in the meantime.
        self._compaction.install(self._queued_index, self._effects)

    # ----------------------------------------------------------------------------------------------- status

    def status(self, now: int) -> dict[str, Any]:
        """A view for operators. Indexes are of log entries; `..._us` are microseconds; `age_us` and `tier` are what an answer
        would carry now; `digest_agreed_index` is the newest mark at which a majority, this node among it, agreed; `facts` is what
        only this protocol has to tell, if anything."""
        return status(self, now)
