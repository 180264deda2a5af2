"""Raft as a pure state machine: the rules of `consensus.core`, figure 2 of the paper, pre-vote and
check-quorum (thesis 9.6 and 6.2), read barriers (thesis 6.4)."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from consensus import quorum
from consensus.core import (
    NEVER,
    CoreView,
    EntryKind,
    NodeId,
    Out,
    Record,
    Refusal,
    RefusalCode,
    Role,
    SnapshotMeta,
    Token,
    encode_entry,
    entry_position,
)
from consensus.raft import records
from consensus.raft.log import Log
from consensus.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    InstallSnapshot,
    PreVote,
    PreVoteReply,
    ReadReply,
    ReadRequest,
    RequestVote,
    RequestVoteReply,
)
from consensus.raft.progress import Mode, Progress
from consensus.raft.reads import ReadRounds

FOLLOWER, PRECANDIDATE, CANDIDATE, LEADER = Role.FOLLOWER, Role.PRECANDIDATE, Role.CANDIDATE, Role.LEADER
PROBE, REPLICATE, SNAPSHOT = Mode.PROBE, Mode.REPLICATE, Mode.SNAPSHOT

MAX_APPEND_BYTES: Final = 1 << 20
"""Most bytes of entries in one message (one entry may be larger)."""
MAX_INFLIGHT_BYTES: Final = 32 << 20
"""Most bytes sent to a peer and not yet acknowledged."""


class SafetyViolation(Exception):
    """Something happened that Raft makes impossible. The node must stop: going on could lose data."""


@dataclass(slots=True, frozen=True)
class Timing:
    """Microseconds."""

    heartbeat: int = 25_000
    election: int = 120_000
    """Lowest election time-out; each one is drawn from [election, 2 * election)."""
    stall: int = 500_000
    """A leader whose own records have waited this long for the disk steps down: its heartbeats must not hide
    a dead disk (the zombie leader)."""
    retain_bytes: int = 16 << 20
    """Entries kept in memory behind a snapshot for peers that lag a little."""
    uncommitted_bytes: int = 64 << 20
    """Proposals are refused while this much is appended and not committed."""


class RaftCore:
    """A Raft server. See `consensus.core.Core` for the methods.

    Invariants (checked in `check_invariants`, and by the tests after every step):
    I1  committed handed out <= durable index <= last index; commit index <= last index.
    I2  the term never falls; the vote of a term never changes once given.
    I3  a leader's match index of a peer is below its next index.
    I4  entries at or below the commit index are never truncated.
    """

    def __init__(
        self, node: NodeId, members: Sequence[NodeId], rng: random.Random, timing: Timing | None = None
    ) -> None:
        if node not in members:
            raise ValueError(f"node {node!r} is not among the members {list(members)!r}")
        if len(set(members)) != len(members):
            raise ValueError(f"a member is named twice: {list(members)!r}")
        self.node = node
        self.members = tuple(members)
        self.peers = tuple(member for member in members if member != node)
        self.timing = timing or Timing()
        self.deadline = NEVER
        self._rng = rng

        self.role = FOLLOWER
        self.term = 0
        self.voted_for: NodeId | None = None
        self.leader: NodeId | None = None
        self.log = Log()
        self.commit_index = 0
        self.durable_index = 0
        self.delivered_index = 0
        self.snapshot: SnapshotMeta | None = None

        self._tickets: deque[list[int]] = deque()  # [ticket, last index then appended, when]
        self._hard_ticket = 0  # the ticket of the latest term and vote
        self._durable_ticket = 0
        self._recorded_commit = 0
        self._rebased = False

        self._resigned = False
        self._election_deadline = NEVER
        self._heartbeat_deadline = NEVER
        self._heard_leader = -NEVER
        self._votes: dict[NodeId, bool] = {}
        self.progress: dict[NodeId, Progress] = {}
        self.reads = ReadRounds()
        self._term_start = 0  # index of this leader's first entry
        self._now = 0
        self._asked: dict[Token, int] = {}  # a follower's barriers at its leader: token -> give-up time

        self._handlers = {
            AppendEntries: self._on_append_entries,
            AppendEntriesReply: self._on_append_entries_reply,
            PreVote: self._on_pre_vote,
            PreVoteReply: self._on_pre_vote_reply,
            RequestVote: self._on_request_vote,
            RequestVoteReply: self._on_request_vote_reply,
            InstallSnapshot: self._on_install_snapshot,
            ReadRequest: self._on_read_request,
            ReadReply: self._on_read_reply,
        }

    # ------------------------------------------------------------------------------------------ life cycle

    def recover(self, journal: Iterable[Record], snapshot: SnapshotMeta | None) -> None:
        """Rebuild from the journal and the newest snapshot. Raises ValueError if they do not fit."""
        replayed = records.replay(journal)
        if snapshot is None:
            if replayed.base_index:
                raise ValueError(
                    f"the journal starts behind entry {replayed.base_index}, and no snapshot covers that"
                )
        else:
            if snapshot.index < replayed.base_index:
                raise ValueError(
                    f"the journal starts behind entry {replayed.base_index}, "
                    f"the newest snapshot ends at {snapshot.index}"
                )
            # The power may have gone between the snapshot's installation and the record of it.
            self._rebased = snapshot.index > replayed.base_index
            replayed.rebase(snapshot.index, snapshot.term)
            self.snapshot = snapshot
        self.term, self.voted_for = replayed.term, replayed.voted_for
        self.log.restart(replayed.base_index, replayed.base_term)
        for entry in replayed.entries:
            self.log.append(entry)
        self.durable_index = self.log.last_index
        # A hint beyond the log would wait for ever for entries that nobody owes us.
        self.commit_index = max(min(replayed.commit, self.log.last_index), self.log.base_index)
        self._recorded_commit = self.commit_index
        self.delivered_index = self.log.base_index

    def start(self, now: int, out: Out) -> None:
        if self._rebased:
            self._persist(out, now, records.base(self.log.base_index, self.log.base_term))
        self._reset_election(now)
        self._deliver(out)
        out.changed = True
        self._set_deadline(now)

    def resign(self, now: int, out: Out) -> None:
        if self.role != FOLLOWER:
            self._become_follower(self.term, None, now, out)
        self._record_commit(out, now)
        self._resigned = True
        self._election_deadline = NEVER
        self._set_deadline(now)

    # ----------------------------------------------------------------------------------------------- inputs

    def receive(self, sender: NodeId, message: Any, now: int, out: Out) -> None:
        handler = self._handlers.get(type(message))
        if handler is None or sender not in self.peers:
            return
        handler(sender, message, now, out)  # type: ignore[operator]
        self._set_deadline(now)

    def timeout(self, now: int, out: Out) -> None:
        if self.role == LEADER:
            if now >= self._heartbeat_deadline:
                self._leader_tick(now, out)
        elif now >= self._election_deadline:
            self._start_pre_vote(now, out)
        self._give_up_reads(now, out)
        self._set_deadline(now)

    def propose(self, payloads: Sequence[tuple[int, bytes]], now: int, out: Out) -> Refusal | None:
        if self.role != LEADER:
            return self._not_leader()
        if self.log.bytes_between(self.commit_index, self.log.last_index) > self.timing.uncommitted_bytes:
            return Refusal(RefusalCode.BUSY, "too many bytes are appended and not yet committed", self.node)
        self._append_own(payloads, now, out)
        return None

    def read(self, token: Token, now: int, out: Out) -> None:
        if self.role == LEADER:
            self.reads.ask(None, token)
            self._advance_reads(out)
        elif self.leader is None:
            out.refused_reads.append((token, self._not_leader()))
        else:
            self._asked[token] = now + self.timing.election
            out.now.append((self.leader, ReadRequest(self.term, token)))
        self._set_deadline(now)

    def persisted(self, ticket: int, now: int, out: Out) -> None:
        if ticket <= self._durable_ticket:
            return
        before = self._durable_ticket
        self._durable_ticket = ticket
        while self._tickets and self._tickets[0][0] <= ticket:
            self.durable_index = max(self.durable_index, self._tickets.popleft()[1])
        if self.role == CANDIDATE and before < self._hard_ticket <= ticket:
            self._votes[self.node] = True  # rule 3: its own vote counts once it is durable
            self._count_votes(now, out)
        if self.role == LEADER:
            self._advance_commit(out)
            self._advance_reads(out)
        self._deliver(out)
        self._set_deadline(now)

    def applied(self, index: int, digest: bytes, now: int, out: Out) -> None:
        """Raft does not certify states; nothing to do."""

    def snapshot_taken(self, meta: SnapshotMeta, now: int, out: Out) -> None:
        if self.snapshot is not None and meta.index <= self.snapshot.index:
            return
        self.snapshot = meta
        keep = self.log.first_with_tail(meta.index, self.timing.retain_bytes)
        for peer in self.progress.values():
            # A peer that is fetching a snapshot needs what follows it: else it would start over for ever.
            if peer.snapshot is not None and (
                self.log.bytes_between(max(peer.snapshot.index, self.log.base_index), self.log.last_index)
                <= 4 * self.timing.retain_bytes
            ):
                keep = min(keep, max(peer.snapshot.index, self.log.base_index))
        self.log.compact(keep)

    def snapshot_installed(self, meta: SnapshotMeta, now: int, out: Out) -> None:
        if meta.index <= self.delivered_index:
            return
        self.snapshot = meta
        if self.log.agrees(meta.index, meta.term):
            self.log.compact(meta.index)
        else:
            self.log.restart(meta.index, meta.term)  # a conflicting tail goes too (hashicorp/raft #697)
            self.durable_index = meta.index
            for pending in self._tickets:
                pending[1] = min(pending[1], meta.index)
        self.durable_index = max(self.durable_index, meta.index)
        self.commit_index = max(self.commit_index, meta.index)
        self.delivered_index = meta.index
        self._persist(out, now, records.base(meta.index, meta.term))
        if self.leader is not None and self.role == FOLLOWER:
            out.wait.append((self.leader, AppendEntriesReply(self.term, True, meta.index, 0, 0, 0)))
        self._deliver(out)

    def state_records(self) -> list[Record]:
        """Hard state, base, every entry behind the snapshot, commit hint."""
        meta = self.snapshot
        index, term = (meta.index, meta.term) if meta else (0, 0)
        kept = self.log.slice(max(index, self.log.base_index) + 1, self.log.last_index)
        return [
            records.hard_state(self.term, self.voted_for),
            records.base(index, term),
            *((records.ENTRY, entry) for entry in kept),
            records.commit(self.commit_index),
        ]

    def observe(self) -> CoreView:
        return CoreView(
            node=self.node,
            role=self.role.name.lower(),
            term=self.term,
            voted_for=self.voted_for,
            leader=self.leader,
            commit_index=self.commit_index,
            durable_index=self.durable_index,
            first_index=self.log.base_index + 1,
            last_index=self.log.last_index,
            members=self.members,
            match_index={peer: progress.match_index for peer, progress in self.progress.items()},
            storage_stalled=self._stalled(self._now),
        )

    def check_invariants(self) -> None:
        """Raise SafetyViolation unless I1 and I3 hold (I2 and I4 compare with the past: see the tests)."""
        if not self.delivered_index <= min(self.commit_index, self.durable_index) or not (
            max(self.commit_index, self.durable_index) <= self.log.last_index
        ):
            raise SafetyViolation(
                f"{self.node}: delivered {self.delivered_index}, commit {self.commit_index}, "
                f"durable {self.durable_index}, last {self.log.last_index}"
            )
        for peer, progress in self.progress.items():
            if progress.match_index >= progress.next_index:
                raise SafetyViolation(f"{self.node}: match of {peer} is not below next: {progress}")

    # ------------------------------------------------------------------------------------------------ roles

    def _become_follower(self, term: int, leader: NodeId | None, now: int, out: Out) -> None:
        was_leader = self.role == LEADER
        if term > self.term:
            self.term = term
            self.voted_for = None
            self._persist_hard_state(out, now)
        # In the same term the vote stands: a step-down never clears it (CCF #8094).
        self.role = FOLLOWER
        self.leader = leader
        self._votes = {}
        self.progress = {}
        self._refuse_reads(out)
        if was_leader or leader is not None:
            self._reset_election(now)
        out.changed = True

    def _reset_election(self, now: int) -> None:
        if not self._resigned:
            draw = self._rng.randrange(self.timing.election)
            self._election_deadline = now + self.timing.election + draw

    def _reset_campaign(self, now: int) -> None:
        """When to try again if this round wins nothing. There is no leader to wait for any more, only rivals to get out of
        step with, and pre-votes cost nobody anything: so sooner than an election time-out."""
        if not self._resigned:
            self._election_deadline = now + self.timing.heartbeat + self._rng.randrange(self.timing.election)

    def _start_pre_vote(self, now: int, out: Out) -> None:
        self._reset_campaign(now)
        if self._stalled(now):
            return  # it could not make a vote durable, let alone an entry
        self.role = PRECANDIDATE
        self.leader = None
        self._refuse_reads(out)
        self._votes = {self.node: True}
        out.changed = True
        for peer in self.peers:
            out.now.append((peer, PreVote(self.term + 1, self.log.last_index, self.log.last_term)))
        self._count_votes(now, out)

    def _start_election(self, now: int, out: Out) -> None:
        self.role = CANDIDATE
        self.term += 1
        self.voted_for = self.node
        self.leader = None
        self._votes = {}
        self._persist_hard_state(out, now)
        self._reset_campaign(now)
        out.changed = True
        for peer in self.peers:  # rule 1: waits, see consensus.core
            out.wait.append((peer, RequestVote(self.term, self.log.last_index, self.log.last_term)))

    def _count_votes(self, now: int, out: Out) -> None:
        granted = [voter for voter, yes in self._votes.items() if yes]
        if not quorum.has_majority(self.members, granted):
            return
        if self.role == PRECANDIDATE:
            self._start_election(now, out)
        elif self.role == CANDIDATE:
            self._become_leader(now, out)

    def _become_leader(self, now: int, out: Out) -> None:
        self.role = LEADER
        self.leader = self.node
        self._votes = {}
        self.progress = {peer: Progress(self.log.last_index + 1, now) for peer in self.peers}
        self.reads = ReadRounds()
        self._asked = {}
        self._term_start = self.log.last_index + 1
        self._heartbeat_deadline = now + self.timing.heartbeat
        out.changed = True
        # An entry of its own term: only such an entry commits by counting, and those before it with it.
        self._append_own([(EntryKind.NOOP, b"")], now, out)

    def _leader_tick(self, now: int, out: Out) -> None:
        self._heartbeat_deadline = now + self.timing.heartbeat
        window = now - 2 * self.timing.election
        alive = [peer for peer, progress in self.progress.items() if progress.heard >= window]
        if self._stalled(now) or not quorum.has_majority(self.members, [self.node, *alive]):
            self._become_follower(self.term, None, now, out)
            return
        for peer, progress in self.progress.items():
            progress.probing = False
            self._send(peer, progress, out, heartbeat=True)

    # -------------------------------------------------------------------------------------------- elections

    def _hears_leader(self, now: int) -> bool:
        """Whether a leader is alive as far as this node knows: votes are then not given (thesis 4.2.3)."""
        if self.role == LEADER:
            return True  # as long as check-quorum lets it lead
        # A heartbeat less than the lowest time-out, so that the first to time out is not turned down by a
        # peer that happened to hear the last heartbeat a moment later.
        patience = self.timing.election - self.timing.heartbeat
        return self.leader is not None and now - self._heard_leader < patience

    def _log_is_current(self, last_index: int, last_term: int) -> bool:
        return (last_term, last_index) >= (self.log.last_term, self.log.last_index)

    def _on_pre_vote(self, sender: NodeId, message: PreVote, now: int, out: Out) -> None:
        granted = (
            message.term > self.term
            and not self._hears_leader(now)
            and self._log_is_current(message.last_index, message.last_term)
        )
        # Not a promise: nothing rests on it but whether the asker goes on to ask for votes. So it waits for no disk.
        out.now.append((sender, PreVoteReply(message.term if granted else self.term, granted)))

    def _on_pre_vote_reply(self, sender: NodeId, message: PreVoteReply, now: int, out: Out) -> None:
        if not message.granted:
            if message.term > self.term:
                self._become_follower(message.term, None, now, out)
        elif self.role == PRECANDIDATE and message.term == self.term + 1:
            self._votes[sender] = True
            self._count_votes(now, out)

    def _on_request_vote(self, sender: NodeId, message: RequestVote, now: int, out: Out) -> None:
        if message.term > self.term:
            if self._hears_leader(now):
                return
            self._become_follower(message.term, None, now, out)
        granted = (
            message.term == self.term
            and self.role in (FOLLOWER, PRECANDIDATE)
            and self.leader is None
            and self.voted_for in (None, sender)
            and self._log_is_current(message.last_index, message.last_term)
        )
        if granted:
            if self.voted_for is None:
                self.voted_for = sender
                self._persist_hard_state(out, now)
            self.role = FOLLOWER
            self._votes = {}
            self._reset_election(now)
            out.changed = True
        out.wait.append((sender, RequestVoteReply(self.term, granted)))

    def _on_request_vote_reply(self, sender: NodeId, message: RequestVoteReply, now: int, out: Out) -> None:
        if message.term > self.term:
            self._become_follower(message.term, None, now, out)
        elif self.role == CANDIDATE and message.term == self.term and message.granted:
            self._votes[sender] = True
            self._count_votes(now, out)

    # ------------------------------------------------------------------------------------------ replication

    def _append_own(self, payloads: Sequence[tuple[int, bytes]], now: int, out: Out) -> None:
        for kind, payload in payloads:
            entry = encode_entry(self.log.last_index + 1, self.term, kind, payload)
            self.log.append(entry)
            out.records.append((records.ENTRY, entry))
        self._record_commit(out, now)
        self._ticket(out, now)
        for peer, progress in self.progress.items():
            self._send(peer, progress, out)

    def _send(self, peer: NodeId, progress: Progress, out: Out, heartbeat: bool = False) -> None:
        """Send what the peer lacks, within the bounds; nothing to send and no heartbeat due: nothing."""
        log = self.log
        if progress.mode == SNAPSHOT or progress.next_index <= log.base_index:
            if progress.mode != SNAPSHOT or heartbeat:
                self._send_snapshot(peer, progress, out)
            return
        if progress.mode == PROBE and progress.probing:
            return
        sent = False
        while not sent or progress.mode == REPLICATE:
            previous = progress.next_index - 1
            last = previous
            if previous < log.last_index and (
                progress.mode == PROBE
                or log.bytes_between(max(progress.match_index, log.base_index), previous) < MAX_INFLIGHT_BYTES
            ):
                last = log.last_within(previous, MAX_APPEND_BYTES)
            if last == previous and (sent or not heartbeat):
                return
            entries = log.slice(previous + 1, last)
            out.now.append(
                (
                    peer,
                    AppendEntries(
                        self.term,
                        previous,
                        log.term_at(previous),
                        self.commit_index,
                        self.reads.round,
                        entries,
                    ),
                )
            )
            sent = True
            progress.commit_sent = self.commit_index
            if progress.mode == PROBE:
                progress.probing = True
            else:
                progress.next_index = last + 1

    def _send_snapshot(self, peer: NodeId, progress: Progress, out: Out) -> None:
        meta = self.snapshot
        if meta is None:
            raise SafetyViolation(
                f"{self.node}: entries up to {self.log.base_index} are gone without a snapshot"
            )
        if progress.mode != SNAPSHOT or progress.snapshot is None:
            progress.snapshot = meta
        progress.mode = SNAPSHOT
        fetch = progress.snapshot
        if fetch.index < self.log.base_index:
            fetch = progress.snapshot = meta  # what follows the older one is gone
        out.now.append(
            (
                peer,
                InstallSnapshot(
                    self.term,
                    self.reads.round,
                    fetch.index,
                    fetch.term,
                    fetch.chain,
                    list(fetch.members),
                    fetch.root,
                    fetch.size,
                ),
            )
        )

    def _follow(self, sender: NodeId, term: int, now: int, out: Out) -> bool:
        """Accept `sender` as leader of `term`. False: it is not, and has been told so."""
        if term < self.term:
            out.wait.append((sender, AppendEntriesReply(self.term, False, 0, 0, 0, 0)))
            return False
        if self.role == LEADER and term == self.term:
            raise SafetyViolation(f"{self.node} and {sender} both lead term {term}")
        if term > self.term or self.role != FOLLOWER or self.leader != sender:
            self._become_follower(term, sender, now, out)
        self._heard_leader = now
        self._reset_election(now)
        return True

    def _on_append_entries(self, sender: NodeId, message: AppendEntries, now: int, out: Out) -> None:
        if not self._follow(sender, message.term, now, out):
            return
        log = self.log
        previous, entries = message.prev_index, message.entries
        places = self._places(message)
        if places is None:
            return  # malformed: not a word that this node could stand by
        last = previous + len(entries)
        if last <= self.delivered_index:
            # All of it is committed here; it may even be compacted away.
            self._reply(sender, message, True, last, out)
            return
        if previous < log.base_index:
            skip = log.base_index - previous
            entries, places, previous = entries[skip:], places[skip:], log.base_index
        elif not log.agrees(previous, message.prev_term):
            hint = min(log.highest_with_term_at_most(previous, message.prev_term), previous - 1)
            hint = max(hint, self.commit_index)  # what is committed agrees
            out.wait.append(
                (
                    sender,
                    AppendEntriesReply(
                        self.term, False, message.prev_index, hint, log.term_at(hint), message.round
                    ),
                )
            )
            return
        # Only a real conflict truncates: a duplicate or reordered message must not (raftos #26).
        fresh = 0
        while fresh < len(entries) and log.agrees(previous + 1 + fresh, places[fresh]):
            fresh += 1
        if fresh < len(entries):
            first = previous + 1 + fresh
            if first <= log.last_index:
                self._truncate(first - 1)
            for entry in entries[fresh:]:
                log.append(entry)
                out.records.append((records.ENTRY, entry))
            self._record_commit(out, now)
            self._ticket(out, now)
        self.commit_index = max(self.commit_index, min(message.commit, last))
        self._reply(sender, message, True, last, out)
        self._deliver(out)

    def _places(self, message: AppendEntries) -> list[int] | None:
        """Terms of the entries of a message; None if they are not what the message says."""
        terms = []
        term = message.prev_term
        try:
            for offset, entry in enumerate(message.entries, 1):
                index, entry_term, _ = entry_position(entry)
                if index != message.prev_index + offset or not term <= entry_term <= message.term:
                    return None
                term = entry_term
                terms.append(term)
        except ValueError:
            return None
        return terms

    def _truncate(self, last: int) -> None:
        if last < self.commit_index:
            raise SafetyViolation(
                f"{self.node}: truncation behind {last}, but {self.commit_index} is committed"
            )
        self.log.truncate(last)
        self.durable_index = min(self.durable_index, last)
        # What is being written under these indexes is no longer what stands there.
        for pending in self._tickets:
            pending[1] = min(pending[1], last)

    def _reply(self, sender: NodeId, message: AppendEntries, success: bool, index: int, out: Out) -> None:
        out.wait.append((sender, AppendEntriesReply(self.term, success, index, 0, 0, message.round)))

    def _on_append_entries_reply(
        self, sender: NodeId, message: AppendEntriesReply, now: int, out: Out
    ) -> None:
        if message.term > self.term:
            self._become_follower(message.term, None, now, out)
            return
        if self.role != LEADER or message.term < self.term:
            return
        progress = self.progress[sender]
        progress.heard = now
        if message.round > progress.round_acked:
            progress.round_acked = message.round
            self._advance_reads(out)
        if message.success:
            self._on_match(sender, progress, message.index, out)
        else:
            self._on_mismatch(sender, progress, message, out)

    def _on_match(self, sender: NodeId, progress: Progress, index: int, out: Out) -> None:
        if index > self.log.last_index:
            raise SafetyViolation(
                f"{self.node}: {sender} claims {index}, the log ends at {self.log.last_index}"
            )
        advanced = index > progress.match_index
        if advanced:
            progress.match_index = index
            progress.next_index = max(progress.next_index, index + 1)
        if progress.mode == SNAPSHOT:
            if progress.snapshot is not None and progress.match_index < progress.snapshot.index:
                return
            progress.snapshot = None
            progress.mode = PROBE
        if progress.mode == PROBE and index >= progress.next_index - 1:
            progress.mode = REPLICATE
            progress.probing = False
        if advanced:
            self._advance_commit(out)
        self._send(sender, progress, out)

    def _on_mismatch(self, sender: NodeId, progress: Progress, message: AppendEntriesReply, out: Out) -> None:
        stale = message.index <= progress.match_index or (
            progress.mode == PROBE and message.index != progress.next_index - 1
        )
        if stale or progress.mode == SNAPSHOT:
            return
        # The highest place that both logs may share: ours at or below the hint, of no later term.
        back = self.log.highest_with_term_at_most(message.hint_index, message.hint_term)
        if message.hint_index < self.log.base_index:
            back = message.hint_index
        progress.next_index = max(min(back, message.index - 1), progress.match_index) + 1
        progress.mode = PROBE
        progress.probing = False
        self._send(sender, progress, out, heartbeat=True)

    def _advance_commit(self, out: Out) -> None:
        reached = {peer: progress.match_index for peer, progress in self.progress.items()}
        reached[self.node] = self.durable_index  # rule 3
        index = quorum.agreed(self.members, reached)
        # Only entries of its own term commit by counting (paper 5.4.2, figure 8).
        if index > self.commit_index and self.log.term_at(index) == self.term:
            self.commit_index = index
            self._deliver(out)
            self._advance_reads(out)

    def _deliver(self, out: Out) -> None:
        last = min(self.commit_index, self.durable_index)
        if last > self.delivered_index:
            out.committed.extend(self.log.slice(self.delivered_index + 1, last))
            self.delivered_index = last

    def _on_install_snapshot(self, sender: NodeId, message: InstallSnapshot, now: int, out: Out) -> None:
        if not self._follow(sender, message.term, now, out):
            return
        if message.index > self.delivered_index:
            out.install = (
                sender,
                SnapshotMeta(
                    message.index,
                    message.index_term,
                    message.chain,
                    tuple(message.members),
                    message.root,
                    message.size,
                ),
            )
        # What is delivered is committed and durable: that much is always safe to claim.
        out.wait.append(
            (sender, AppendEntriesReply(self.term, True, self.delivered_index, 0, 0, message.round))
        )

    # ------------------------------------------------------------------------------------------------ reads

    def _advance_reads(self, out: Out) -> None:
        """Start a round if one is due, and answer what the finished rounds allow."""
        # Before the term's first commit this leader does not know what is committed (etcd #7331).
        if self.commit_index < self._term_start:
            return
        if self.reads.begin(self.commit_index):
            for peer, progress in self.progress.items():
                progress.probing = False
                self._send(peer, progress, out, heartbeat=True)
        acked = {peer: progress.round_acked for peer, progress in self.progress.items()}
        acked[self.node] = self.reads.round
        done = self.reads.finish(quorum.agreed(self.members, acked))
        for asker, token, index in done:
            if asker is None:
                out.reads.append((token, index))
                continue
            # The asker can answer once it has applied `index`: tell it about that commit now.
            if self.progress[asker].commit_sent < index:
                self._send(asker, self.progress[asker], out, heartbeat=True)
            out.now.append((asker, ReadReply(self.term, token, True, index)))
        if done and self.reads.waiting:
            self._advance_reads(out)

    def _refuse_reads(self, out: Out) -> None:
        refusal = self._not_leader()
        for asker, token in self.reads.drain():
            if asker is None:
                out.refused_reads.append((token, refusal))
            else:
                out.now.append((asker, ReadReply(self.term, token, False, 0)))
        out.refused_reads.extend((token, refusal) for token in self._asked)
        self._asked = {}

    def _give_up_reads(self, now: int, out: Out) -> None:
        late = [token for token, until in self._asked.items() if until <= now]
        for token in late:
            del self._asked[token]
            refusal = Refusal(RefusalCode.NO_QUORUM, "the leader did not answer a read barrier", self.leader)
            out.refused_reads.append((token, refusal))

    def _on_read_request(self, sender: NodeId, message: ReadRequest, now: int, out: Out) -> None:
        if self.role != LEADER or message.term > self.term:
            out.now.append((sender, ReadReply(self.term, message.token, False, 0)))
            return
        self.reads.ask(sender, message.token)
        self._advance_reads(out)

    def _on_read_reply(self, sender: NodeId, message: ReadReply, now: int, out: Out) -> None:
        # Tokens are never used twice, so an answer counts only for the question that it answers.
        if self._asked.pop(message.token, None) is None:
            return
        if message.granted:
            out.reads.append((message.token, message.index))
        else:
            out.refused_reads.append((message.token, self._not_leader()))

    # ---------------------------------------------------------------------------------------------- helpers

    def _not_leader(self) -> Refusal:
        if self.leader is None or self.leader == self.node:
            return Refusal(RefusalCode.NO_QUORUM, f"{self.node} knows of no leader in term {self.term}")
        return Refusal(RefusalCode.NOT_LEADER, f"{self.leader} leads term {self.term}", self.leader)

    def _persist(self, out: Out, now: int, record: Record) -> None:
        out.records.append(record)
        self._ticket(out, now)

    def _persist_hard_state(self, out: Out, now: int) -> None:
        self._persist(out, now, records.hard_state(self.term, self.voted_for))
        self._hard_ticket = out.ticket

    def _record_commit(self, out: Out, now: int) -> None:
        """Leave a hint in the journal, in the company of records that go there anyway."""
        if self.commit_index > self._recorded_commit:
            self._recorded_commit = self.commit_index
            self._persist(out, now, records.commit(self.commit_index))

    def _ticket(self, out: Out, now: int) -> None:
        out.ticket += 1
        self._tickets.append([out.ticket, self.log.last_index, now])

    def _stalled(self, now: int) -> bool:
        return bool(self._tickets) and now - self._tickets[0][2] > self.timing.stall

    def _set_deadline(self, now: int) -> None:
        self._now = now
        due = self._heartbeat_deadline if self.role == LEADER else self._election_deadline
        if self._asked:
            due = min(due, *self._asked.values())
        self.deadline = due
