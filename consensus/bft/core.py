"""Jolteon as a pure state machine, behind the contract of `consensus.core`. This module is its face. It stands on four layers,
each of which calls only those below it:

receiving   what others say: verified, then used
voting      this node's own words: votes, proposals, timeouts
ordering    certificates, rounds, the tree, commits, what is handed out
base        state, recording, telling

and on parts that know nothing of each other:

rules       what may be signed, and what is committed; nothing else decides that
chain       what a block must say, and whose turn it is
tree        verified blocks
votes       votes, timeouts, certificates, evidence
pacemaker   rounds and their ends
payload     batches
sync        what is missing here and is fetched
states      checkpoints, and the state of others where the blocks are gone
reads       read barriers
records     the journal; `recovery` makes a core of it again
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from consensus.bft import records, recovery
from consensus.bft.base import Check, Rejected, accept_all
from consensus.bft.block import (
    BlockError,
)
from consensus.bft.certificates import CertificateError
from consensus.bft.committee import Committee
from consensus.bft.messages import (
    Batch,
    BatchRequest,
    BlockRequest,
    Blocks,
    Certificates,
    CheckpointVote,
    Proposal,
    ReadReply,
    ReadRequest,
    Timeout,
    Vote,
)
from consensus.bft.payload import OVERHEAD
from consensus.bft.receiving import Receiving
from consensus.bft.signing import Keyring
from consensus.bft.timing import SafetyViolation, Timing
from consensus.core import (
    NEVER,
    CoreView,
    EntryKind,
    NodeId,
    Out,
    Record,
    Refusal,
    RefusalCode,
    SnapshotMeta,
    Token,
)
from consensus.marks import sometimes

_BLOCK: Final = int(EntryKind.BLOCK)


class BftCore(Receiving):
    """A member of `committee`. See `consensus.core.Core` for the methods.

    `check` judges the payload of a batch and must be a function of nothing but its arguments: votes depend on it.

    C1  What is sent of its own word (proposal, vote, timeout, checkpoint) is recorded first and goes to `Out.wait`; it counts
        here when it is durable.
    C2  Nothing received is used before it is verified.
    C3  Whatever the bytes, `receive` raises nothing but SafetyViolation, and that only if more members lie than the committee
        stands.
    """

    snapshots_at_marks = True
    """Snapshots are taken at entries of kind CHECKPOINT, and nowhere else."""

    def __init__(
        self,
        node: NodeId,
        committee: Committee,
        keyring: Keyring,
        rng: random.Random,
        timing: Timing | None = None,
        check: Check = accept_all,
    ) -> None:
        super().__init__(node, committee, keyring, rng, timing, check)
        self._handlers: dict[type, Callable[[NodeId, Any, int, Out], None]] = {
            Vote: self._on_vote,
            Proposal: self._on_proposal,
            Batch: self._on_batch,
            Timeout: self._on_timeout,
            Certificates: self._on_certificates,
            BatchRequest: self._on_batch_request,
            BlockRequest: self._on_block_request,
            Blocks: self._on_blocks,
            ReadRequest: self._on_read_request,
            ReadReply: self._on_read_reply,
            CheckpointVote: self._on_checkpoint_vote,
        }

    def recover(self, journal: Iterable[Record], snapshot: SnapshotMeta | None) -> None:
        """Rebuild from the journal and the newest snapshot. Raises ValueError if they do not fit."""
        self._recovered = recovery.recover(self, journal, snapshot)

    def start(self, now: int, out: Out) -> None:
        self._now = now
        self._ticket = out.ticket
        out.changed = True
        if self._recovered:
            self._record(out, now, *self._recovered)
            self._recovered = []
        self._deliver(out)
        high_tc = self.high_tc
        self.pacemaker.round = 0
        self._enter(max(self.high_qc.round, high_tc.round if high_tc else 0) + 1, now)
        if self.tree.get(self.high_qc.block) is None:
            self._want(self.high_qc, (), now)
        # What was said before the power went is said again, word for word, and counts again: if all fell silent behind it,
        # nobody else would ever say it.
        spoken = self.spoken
        if spoken.vote is not None and spoken.vote.round > self.tree.committed.block.round:
            self._own.append((0, spoken.vote))
        if spoken.timeout is not None and spoken.timeout.round == self.round:
            self.pacemaker.gave_up()
            self._own.append((0, spoken.timeout))
        self._say_again(out)
        self._count_own(now, out)
        if self.payloads.charged(self.node):
            self._stale_at = now + self.timing.resend
        self._after(now, out)

    def resign(self, now: int, out: Out) -> None:
        if not self._resigned:
            self._resigned = True
            hint = self._hint()
            if hint:
                self._record(out, now, *hint)
        self._after(now, out)

    # ---------------------------------------------------------------------------------------------- inputs

    def receive(self, sender: NodeId, message: Any, now: int, out: Out) -> None:
        handler = self._handlers.get(type(message))
        if handler is None or sender not in self._peers:
            return
        self._now = now
        try:
            handler(sender, message, now, out)
        except Rejected as error:
            self.rejected[str(error)] += 1
        except BlockError:
            self.rejected["no block"] += 1
        except CertificateError:
            self.rejected["no certificate"] += 1
        self._after(now, out)

    def timeout(self, now: int, out: Out) -> None:
        if now < self.deadline:
            return
        self._now = now
        pacemaker = self.pacemaker
        if now >= pacemaker.deadline:
            self._give_up(now, out)
        if now >= pacemaker.resend_at:
            pacemaker.resent(now)
            self._say_again(out)
        if now >= self._stale_at:
            waiting = self.payloads.charged(self.node)
            self._stale_at = now + self.timing.resend if waiting else NEVER
            for author, kind, payload in self.payloads.stale_own(now, 2 * self.timing.resend):
                sometimes("an own batch is sent again: it was not ordered for long")
                self._tell(out.now, Batch(author, kind, payload))
        if now >= self.states.deadline:
            self.states.timeout(now, self._peers, out)
        late, again = self.reads.timeout(now)
        for token in late:
            reason = f"{self.node} cannot confirm with a quorum how far the log has come"
            out.refused_reads.append((token, Refusal(RefusalCode.NO_QUORUM, reason)))
        if again:
            self._ask_reads(out)
        self._after(now, out)

    def propose(self, payloads: Sequence[tuple[int, bytes]], now: int, out: Out) -> Refusal | None:
        self._now = now
        waiting = self.payloads.charged(self.node)
        room = self.timing.author_bytes - waiting
        for kind, payload in payloads:
            if kind != _BLOCK:
                return Refusal(RefusalCode.BUSY, f"entries of kind {kind} come from the chain itself")
            if len(payload) > self.timing.batch_bytes:
                return Refusal(
                    RefusalCode.BUSY,
                    f"a payload of {len(payload)} bytes; the longest has {self.timing.batch_bytes}",
                )
            room -= len(payload) + OVERHEAD
        if room < 0 and (waiting or len(payloads) > 1):
            sometimes("a proposal is refused: too many bytes wait to be ordered")
            return Refusal(RefusalCode.BUSY, f"{waiting} bytes from {self.node} wait to be ordered")
        fresh: list[Record] = []
        for kind, payload in payloads:
            if self.payloads.add(self.node, kind, payload, now) is None:
                continue
            fresh.append(records.batch(self.node, kind, payload))
            self._tell(out.now, Batch(self.node, kind, payload))
        if fresh:
            self._record(out, now, *fresh)
        if payloads:
            self.pacemaker.hurry(now)
            self._stale_at = min(self._stale_at, now + self.timing.resend)
        self._after(now, out)
        return None

    def read(self, token: Token, now: int, out: Out, lazy: bool = False) -> None:
        self._now = now
        if self.reads.ask(token, now):
            self._ask_reads(out)
        self._after(now, out)

    def persisted(self, ticket: int, now: int, out: Out) -> None:
        if ticket <= self._durable:
            return
        self._now = now
        self._durable = ticket
        pending = self._pending
        while pending and pending[0][0] <= ticket:
            pending.popleft()
        self._count_own(now, out)
        self._deliver(out)
        self.states.persisted(ticket, now, out)
        self._after(now, out)

    def applied(self, index: int, digest: bytes, now: int, out: Out) -> None:
        self.states.applied(index, digest)
        self._forget(now, out)

    def snapshot_taken(self, meta: SnapshotMeta, now: int, out: Out) -> None:
        vote = self.states.taken(meta, now)
        if vote is not None:
            self._record(out, now, records.own_checkpoint(vote))
            self._tell(out.wait, vote)
        self._forget(now, out)
        self._after(now, out)

    def snapshot_installed(self, meta: SnapshotMeta, now: int, out: Out) -> None:
        if meta.index <= self.delivered_index:
            return
        self._now = now
        header = self.states.installed(meta)
        if header is None:
            raise SafetyViolation(f"{self.node}: a snapshot at {meta.index}, which was not asked for")
        placed = self.tree.get(header.digest)
        self.to_deliver.clear()
        self.delivered_index = meta.index
        if placed is None:
            placed = self.tree.restart(header)
            self.states.move_anchor(self.tree, placed)
            self.payloads.stop_waiting()
        elif placed.block.round > self.tree.committed.block.round:
            sometimes("a state is installed whose block is here")
            self._mark_committed(self.tree.commit(placed), now)
        else:
            # The log has come further, but was not durable yet.
            for other in reversed(self.tree.path_above(placed)):
                self.to_deliver.append(other)
        self.states.reached(meta.index, now)
        self.pacemaker.committed()
        self._record(out, now, (records.BASE, header.encoded))
        self._decided(now, out)
        for digest in self.sync.children(header.digest):
            self._place(digest, now, out)
        self._forget(now, out)
        self._deliver(out)
        self._after(now, out)

    # --------------------------------------------------------------------------------------- what it shows

    def state_records(self) -> list[Record]:
        """Base, the blocks above it and their batches, waiting batches, what was said last, checkpoints."""
        return recovery.all_records(self)

    def observe(self) -> CoreView:
        tree, high = self.tree, self.high_qc
        tip = tree.get(high.block)
        safety = self.safety
        return CoreView(
            node=self.node,
            role="replica",
            term=self.pacemaker.round,
            voted_for=None,
            leader=self.node,
            commit_index=tree.committed.block.index,
            durable_index=self.delivered_index,
            first_index=tree.root.block.index + 1,
            last_index=max(tree.last_index, self.delivered_index),
            members=self.committee.members,
            match_index={},
            storage_stalled=bool(self._pending) and self._now - self._pending[0][1] > self.timing.stall,
            vouched_snapshot=self.states.checkpoints.index,
            facts={
                "round": self.pacemaker.round,
                "leader": self.leader(tip.block, self.round) if tip is not None else None,
                "high_qc_round": high.round,
                "committed_height": tree.committed.block.height,
                "committed_round": tree.committed.block.round,
                "voted_round": safety.voted_round,
                "timeout_round": safety.timeout_round,
                "proposed_round": safety.proposed_round,
                "view_changes": self.view_changes,
                "schedule": [self.committee.members[number] for number in tree.committed.block.schedule],
                "checkpoint_index": self.states.checkpoints.index,
                "evidence": self.evidence.show() + self.states.evidence(),
                "rejected": dict(sorted(self.rejected.items())),
            },
        )

    # ----------------------------------------------------------------------------------- after every input

    def _after(self, now: int, out: Out) -> None:
        """What follows from whatever has happened."""
        self._now = now
        self._try_propose(now, out)
        if not self.reads.idle:
            self._see_reads(now, out)
        if now >= self.sync.deadline:
            out.now += self.sync.requests(self.tree.committed.block.height, now)
        pacemaker = self.pacemaker
        due = pacemaker.deadline
        # Spelt out: `min` of them all takes five times as long.
        other = pacemaker.resend_at
        if other < due:
            due = other
        other = self._propose_at
        if other < due:
            due = other
        other = self._stale_at
        if other < due:
            due = other
        other = self.sync.deadline
        if other < due:
            due = other
        other = self.states.deadline
        if other < due:
            due = other
        other = self.reads.deadline
        self.deadline = other if other < due else due
