"""What exists only while a server leads: made on election, dropped on step-down, so that nothing of one leadership
can leak into another."""

from __future__ import annotations

from collections.abc import Sequence

from consensus import quorum
from consensus.core import EntryKind, NodeId, Out, Refusal, RefusalCode, SnapshotMeta, Token
from consensus.marks import sometimes
from consensus.raft.messages import AppendEntries, AppendEntriesReply, InstallSnapshot, ReadReply
from consensus.raft.persistent import PersistentState
from consensus.raft.progress import REPLICATE, SNAPSHOT, Progress, Span
from consensus.raft.reads import Asker, ReadRounds
from consensus.raft.timing import SafetyViolation, Timing


class Leading:
    """One leadership: replication to the peers, the commit rule, read rounds, check-quorum. Its term is the
    state's term, and no method is called once that has moved on."""

    __slots__ = (
        "_check_at",
        "_committed",
        "_committed_at",
        "_heartbeat_at",
        "_node",
        "_state",
        "_timing",
        "deadline",
        "progress",
        "reads",
        "term_start",
    )

    def __init__(
        self, node: NodeId, members: Sequence[NodeId], state: PersistentState, timing: Timing, now: int
    ) -> None:
        self._node = node
        self._state = state
        self._timing = timing
        next_index = state.log.last_index + 1
        self.progress = {peer: Progress(next_index, now) for peer in members if peer != node}
        self.reads = ReadRounds()
        self.term_start = next_index
        """Index of this leader's first entry."""
        self._committed = state.commit_index
        self._committed_at = now  # when that index was new, or when there was nothing more to commit
        self._check_at = now + timing.heartbeat
        self._heartbeat_at = now + timing.heartbeat
        self.deadline = now + timing.heartbeat
        """When `tick` is due."""

    # ----------------------------------------------------------------------------------------------- inputs

    def begin(self, now: int, out: Out) -> None:
        """Append an entry of its own term: only such an entry commits by counting, and those before it with it."""
        self._append([(EntryKind.NOOP, b"")], now, out)

    def propose(self, payloads: Sequence[tuple[int, bytes]], now: int, out: Out) -> Refusal | None:
        """Append entries, or refuse while too many bytes are not committed."""
        state = self._state
        uncommitted = state.log.bytes_between(state.commit_index, state.log.last_index)
        if uncommitted > self._timing.uncommitted_bytes:
            sometimes("a proposal is refused: too much is not committed")
            return Refusal(RefusalCode.BUSY, "too many bytes are appended and not yet committed", self._node)
        self._append(payloads, now, out)
        return None

    def tick(self, now: int, out: Out) -> bool:
        """See whether it may go on, and send heartbeats where they are due: whatever reached every peer since counts as one.
        False: it must lead no longer (check-quorum, thesis 6.2; or a disk that stands still, which heartbeats would hide)."""
        if self._state.stalled(now, self._timing.stall):
            sometimes("a leader steps down: its disk stands still")
            return False
        heard = [progress.heard for progress in self.progress.values()]
        heard.append(now)  # this leader itself
        if quorum.reached_by_majority(heard) < now - 2 * self._timing.election:
            sometimes("a leader steps down: it hears no majority")
            return False
        if self._commits_nothing(now):
            sometimes("a leader steps down: nothing that it appends is committed")
            return False
        self._check_at = now + self._timing.heartbeat
        if now >= self._heartbeat_at:
            self._broadcast(now, out, heartbeat=True)
            self._advance_reads(now, out)  # alone, it is the whole quorum
        self.deadline = min(self._check_at, self._heartbeat_at)
        return True

    def _commits_nothing(self, now: int) -> bool:
        """Whether entries have waited too long without any of them being committed. A majority that answers heartbeats is not yet
        one that writes: of those who answer, one may have a dead disk. As long as this server leads, whoever hears it refuses its
        vote to others, and a majority that is well but only partly connected to it can elect nobody."""
        state = self._state
        if state.commit_index != self._committed or state.commit_index >= state.log.last_index:
            self._committed, self._committed_at = state.commit_index, now
            return False
        return now - self._committed_at > 3 * self._timing.stall

    def on_reply(self, sender: NodeId, message: AppendEntriesReply, now: int, out: Out) -> None:
        """A reply of this term."""
        progress = self.progress[sender]
        progress.heard = now
        if message.round > progress.round_acked:
            progress.round_acked = message.round
            if self.reads.running:
                self._advance_reads(now, out)
        log = self._state.log
        if not message.success:
            if progress.mismatched(log, message.index, message.hint_index, message.hint_term):
                self._send(sender, progress, out, heartbeat=True)
            return
        if message.index > log.last_index:
            raise SafetyViolation(
                f"{self._node}: {sender} claims {message.index}, the log ends at {log.last_index}"
            )
        if progress.matched(message.index) and message.index > self._state.commit_index:
            self._advance_commit(now, out)
        if progress.next_index <= log.last_index or progress.mode is not REPLICATE:
            self._send(sender, progress, out)

    def persisted(self, now: int, out: Out) -> None:
        """More of its own log is durable."""
        before = self._state.commit_index
        if self._state.durable_index > before:
            self._advance_commit(now, out)
            if self._state.commit_index > before:
                sometimes("a commit waited for the leader's own disk")

    def read(self, asker: Asker, token: Token, lazy: bool, now: int, out: Out) -> None:
        """A read barrier; `asker` None is this node itself."""
        self.reads.ask(asker, token, lazy)
        if not lazy:
            self._advance_reads(now, out)

    def refuse_reads(self, refusal: Refusal, out: Out) -> None:
        """The leadership is over: nobody gets a barrier any more."""
        for asker, token in self.reads.drain():
            sometimes("a read is refused: the leadership is over")
            if asker is None:
                out.refused_reads.append((token, refusal))
            else:
                out.now.append((asker, ReadReply(self._state.term, token, False, 0)))

    def keep_for_fetchers(self, keep: int, meta: SnapshotMeta, previous: SnapshotMeta | None) -> int:
        """Up to where entries may be forgotten after snapshot `meta`, at most `keep`. `previous` is the one before."""
        log = self._state.log
        for progress in self.progress.values():
            fetching = progress.snapshot
            if fetching is None:
                continue
            # Only the newest two can be fetched: whoever was offered an older one begins anew.
            if previous is not None and fetching.index < previous.index:
                sometimes("a peer is told of a newer snapshot than the one it fetches")
                fetching = progress.snapshot = meta
            # A peer that is fetching a snapshot needs what follows it: else it would start over for ever.
            behind = max(fetching.index, log.base_index)
            if log.bytes_between(behind, log.last_index) > 4 * self._timing.retain_bytes:
                sometimes("a peer fetches for so long that the log does not wait for it")
            elif behind < keep:
                sometimes("the log keeps what a peer needs behind its snapshot")
                keep = behind
        return keep

    def check(self) -> None:
        """Raise SafetyViolation unless I3 holds."""
        for peer, progress in self.progress.items():
            if progress.match_index >= progress.next_index:
                raise SafetyViolation(f"{self._node}: match of {peer} is not below next: {progress}")

    # ------------------------------------------------------------------------------------------ replication

    def _append(self, payloads: Sequence[tuple[int, bytes]], now: int, out: Out) -> None:
        self._state.append(payloads, now, out)
        self._broadcast(now, out)

    def _broadcast(self, now: int, out: Out, heartbeat: bool = False) -> None:
        """Send every peer what it lacks; with `heartbeat`, every peer something. Those that lack the same get the same message
        object, side by side: the shell then encodes it once. The read barriers that wait ride along."""
        state = self._state
        log, commit = state.log, state.commit_index
        if commit >= self.term_start:
            self.reads.begin(commit)
        missed = False
        wanted: dict[Span, list[NodeId]] = {}
        for peer, progress in self.progress.items():
            if progress.next_index <= log.base_index or progress.mode is SNAPSHOT:
                missed = missed or not heartbeat
                self._offer_snapshot(peer, progress, out, heartbeat)
                continue
            spans = progress.spans(log, heartbeat)
            missed = missed or not spans
            for span in spans:
                wanted.setdefault(span, []).append(peer)
                progress.commit_sent = commit
        for span in sorted(wanted):  # by place, so that each peer gets its messages in order
            message = self._message(span)
            out.now += [(peer, message) for peer in wanted[span]]
        if not missed:
            # A check that is due goes on being due at its own pace: replies, not sends, say who is alive.
            self._heartbeat_at = now + self._timing.heartbeat
            self.deadline = min(self._check_at, self._heartbeat_at)

    def _send(self, peer: NodeId, progress: Progress, out: Out, heartbeat: bool = False) -> None:
        """Send what the peer lacks, within the bounds; nothing to send and no heartbeat due: nothing."""
        log = self._state.log
        if progress.next_index <= log.base_index or progress.mode is SNAPSHOT:
            self._offer_snapshot(peer, progress, out, heartbeat)
            return
        for span in progress.spans(log, heartbeat):
            out.now.append((peer, self._message(span)))
            progress.commit_sent = self._state.commit_index

    def _message(self, span: Span) -> AppendEntries:
        previous, last = span
        state = self._state
        entries = state.log.slice(previous + 1, last) if last > previous else []
        return AppendEntries(
            state.term, previous, state.log.term_at(previous), state.commit_index, self.reads.round, entries
        )

    def _offer_snapshot(self, peer: NodeId, progress: Progress, out: Out, heartbeat: bool) -> None:
        if progress.mode is SNAPSHOT and not heartbeat:
            return  # it has been told
        newest, base = self._state.snapshot, self._state.log.base_index
        if newest is None:
            raise SafetyViolation(f"{self._node}: entries up to {base} are gone without a snapshot")
        offer = progress.snapshot
        if progress.mode is not SNAPSHOT or offer is None:
            sometimes("a peer needs entries that are gone and is offered a snapshot")
            offer = newest
        elif offer.index < base:
            sometimes("a snapshot is offered in place of one behind which entries are gone")
            offer = newest
        progress.mode = SNAPSHOT
        progress.snapshot = offer
        message = InstallSnapshot(
            self._state.term,
            self.reads.round,
            offer.index,
            offer.term,
            offer.chain,
            list(offer.members),
            offer.root,
            offer.size,
        )
        out.now.append((peer, message))

    def _advance_commit(self, now: int, out: Out) -> None:
        state = self._state
        reached = [progress.match_index for progress in self.progress.values()]
        reached.append(state.durable_index)  # rule 3
        index = quorum.reached_by_majority(reached)
        if index <= state.commit_index:
            return
        # Only entries of its own term commit by counting (paper 5.4.2, figure 8).
        if state.log.term_at(index) != state.term:
            sometimes("an entry of an earlier term is not committed by counting")
            return
        state.commit_to(index, out)
        self._advance_reads(now, out)

    # ------------------------------------------------------------------------------------------------ reads

    def _advance_reads(self, now: int, out: Out) -> None:
        """Start a round if one is due, and answer what the finished rounds allow."""
        state, reads = self._state, self.reads
        # Before the term's first commit this leader does not know what is committed (etcd #7331).
        if state.commit_index < self.term_start:
            if reads.waiting:
                sometimes("a barrier waits for the first commit of the term")
            return
        while True:
            if reads.urgent and not reads.running:
                self._broadcast(now, out, heartbeat=True)  # which begins the round
            if not reads.running:
                return
            acked = [progress.round_acked for progress in self.progress.values()]
            acked.append(reads.round)
            done = reads.finish(quorum.reached_by_majority(acked))
            if not done:
                return
            for asker, token, index in done:
                if asker is None:
                    out.reads.append((token, index))
                    continue
                # The asker can answer once it has applied `index`: tell it about that commit now.
                if self.progress[asker].commit_sent < index:
                    sometimes("a barrier takes the commit index that it needs along")
                    self._send(asker, self.progress[asker], out, heartbeat=True)
                out.now.append((asker, ReadReply(state.term, token, True, index)))
