"""From certificates to committed entries: rounds, the tree of blocks, what is handed out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from consensus.bft import chain, records, rules
from consensus.bft.base import Base
from consensus.bft.block import (
    Block,
)
from consensus.bft.certificates import QuorumCertificate, TimeoutCertificate
from consensus.bft.sync import MOST_AHEAD, Held
from consensus.bft.timing import SafetyViolation
from consensus.bft.tree import Placed
from consensus.bft.votes import WINDOW
from consensus.core import (
    NodeId,
    Out,
    Record,
    encode_entry,
)
from consensus.marks import sometimes

_FEW: Final = 32


class Ordering(Base):
    """See the module."""

    def _see_qc(self, qc: QuorumCertificate, encoded: bytes, sender: NodeId, now: int, out: Out) -> None:
        """A verified quorum certificate."""
        placed = self.tree.get(qc.block)
        if qc.round > self.high_qc.round:
            self.high_qc = qc
            self.spoken.high_qc = encoded
            rules.see(self.safety, qc.round)
            if self.high_tc is not None and self.high_tc.round <= qc.round:
                self.high_tc, self.spoken.high_tc = None, b""  # it is no reason for the round any more
            if placed is None:
                self._want(qc, (sender,), now)
        if placed is not None:
            self._certify(placed, now, out)
        if qc.round >= self.pacemaker.round:
            if qc.round == self.safety.timeout_round:
                self.pacemaker.was_hasty()
            self._enter(qc.round + 1, now)

    def _see_tc(self, tc: TimeoutCertificate, encoded: bytes, sender: NodeId, now: int, out: Out) -> None:
        """A verified timeout certificate. The certificate that it carries comes first: who acts on the one extends the other."""
        self._see_qc(self.judge.qc(tc.high_qc), tc.high_qc, sender, now, out)
        if tc.round > (self.high_tc or self.high_qc).round:
            self.high_tc = tc
            self.spoken.high_tc = encoded
        if tc.round >= self.pacemaker.round:
            self.view_changes += 1
            self.pacemaker.failed()
            self._enter(tc.round + 1, now)

    def _want(self, qc: QuorumCertificate, sources: tuple[NodeId, ...], now: int) -> None:
        """Fetch the block of a verified certificate, if it can matter."""
        if qc.round > self.tree.committed.block.round:
            self.sync.want_block(qc.block, qc.round, (*sources, *(signer for signer, _ in qc.votes)), now)

    def _enter(self, round: int, now: int) -> None:
        self.pacemaker.enter(round, self._busy(), now)
        self.timeouts.enter(round)
        self.votes.keep(max(self.tree.committed.block.round, round - WINDOW), round + WINDOW)
        if len(self._proposals) > WINDOW:
            for old in [old for old in self._proposals if old < round - WINDOW]:
                del self._proposals[old]

    def _busy(self) -> bool:
        """Whether something is to be ordered."""
        if self.payloads.waiting:
            return True
        tip = self.tree.get(self.high_qc.block)
        return tip is not None and tip.block.index > self.tree.committed.block.index

    def _certify(self, placed: Placed, now: int, out: Out) -> None:
        """A placed block is certified, by a verified certificate."""
        if placed.certified:
            return
        placed.certified = True
        parent = placed.parent
        if parent is not None and rules.commits(parent.block.round, placed.block.round):
            self._commit(parent, now, out)

    def _commit(self, target: Placed, now: int, out: Out) -> None:
        if target.block.round <= self.tree.committed.block.round:
            return
        path = self.tree.commit(target)
        if len(path) > 1:
            sometimes("a block is committed with ancestors that were not")
        self.pacemaker.committed()
        self._mark_committed(path, now)
        self.to_deliver.extend(path)
        self._decided(now, out)
        self._deliver(out)

    def _mark_committed(self, path: Sequence[Placed], now: int) -> None:
        for placed in path:
            self.payloads.ordered(placed.block.payload, placed.block.index, now)

    def _decided(self, now: int, out: Out) -> None:
        """The last committed block is another one: what is of no use any more goes."""
        round = self.tree.committed.block.round
        if len(self.sync.held) <= _FEW or now >= self._clean_at:
            # Who catches up commits a block at a time, and many wait: looking through all of them each time would take for ever.
            self._clean_at = now + self.timing.resend
            self.sync.forget(round)
            named = [digest for placed in self.tree.open.values() for digest in placed.block.payload]
            self.payloads.keep_lent({*named, *self.sync.named()})
        self.votes.keep(max(round, self.round - WINDOW), self.round + WINDOW)

    def _deliver(self, out: Out) -> None:
        """Hand out what is committed *and* durable here (rule 3)."""
        queue, durable = self.to_deliver, self._durable
        while queue and queue[0].ticket <= durable:
            placed = queue.popleft()
            block = placed.block
            index = block.index - len(block.payload) - (1 if block.mark else 0)
            for _, kind, payload in placed.batches:
                index += 1
                out.committed.append(encode_entry(index, block.round, kind, payload))
            if block.mark:
                index += 1
                out.committed.append(encode_entry(index, block.round, block.mark, b""))
            if index != block.index or index < self.delivered_index:
                raise SafetyViolation(f"{self.node}: the block of round {block.round} ends at {index}")
            self.delivered_index = index
            self.states.delivered(block)
            self.states.reached(index, self._now)
        if queue:
            sometimes("what is committed waits for this node's own disk, or for the state below it")

    # ---------------------------------------------------------------------------------------------- blocks

    def _consider(self, placed: Placed, tc: TimeoutCertificate | None, now: int, out: Out) -> None:
        """A proposed block stands in the tree."""
        raise NotImplementedError

    def _place(self, digest: bytes, now: int, out: Out) -> None:
        """Move a waiting block into the tree if its parent and its batches are there, and then those that waited for it."""
        todo = [digest]
        while todo:
            digest = todo.pop()
            held = self.sync.held.get(digest)
            if held is None:
                continue
            block = held.block
            decided = self.tree.committed.block.round
            if block.round <= decided or held.justify.round < decided:
                self.sync.drop(digest)
                continue
            parent = self.tree.get(held.justify.block)
            if parent is None:
                self._want(held.justify, (held.sender,), now)
                continue
            # Before anything is fetched for it: else whoever has no turn, or names more than a block may hold, makes everybody
            # fetch and record what comes to nothing.
            if self.leader(parent.block, block.round) != block.author:
                self.sync.drop(digest)
                self.rejected["a block by who does not lead its round"] += 1
                continue
            missing = self.payloads.missing(block.payload)
            lacks = set(missing)
            sizes = [self.payloads.size(batch) for batch in block.payload if batch not in lacks]
            if len(block.payload) > 1 and sum(sizes) > self.timing.block_bytes:
                self.sync.drop(digest)
                self.rejected["a block of more than a block may hold"] += 1
                continue
            if missing:
                self._fetch_batches(held, missing, now)
                continue
            self.sync.drop(digest)
            if chain.flaw(block, parent.block, sizes, self.committee, self.timing):
                self.rejected["a block that does not follow from its parent"] += 1
                continue
            placed = self._add(block, parent, now, out)
            self._certify(parent, now, out)
            if digest == self.high_qc.block:
                self._certify(placed, now, out)
            if held.proposed:
                self._consider(placed, held.tc, now, out)
            todo += self.sync.children(digest)

    def _add(self, block: Block, parent: Placed, now: int, out: Out) -> Placed:
        """Record a verified block, whose batches are here, and place it."""
        batches: list[tuple[NodeId, int, bytes]] = []
        made: list[Record] = []
        for digest in block.payload:
            batch = self.payloads.get(digest)
            if batch is None:
                raise SafetyViolation(f"{self.node}: a block is placed without its batch {digest.hex()[:8]}")
            batches.append(batch)
            if self.payloads.is_ordered(digest):
                sometimes("a batch stands in a second block, and is recorded again")
                made.append(records.batch(*batch))
        self._record(out, now, *made, (records.BLOCK, block.encoded))
        return self.tree.add(block, parent, batches, self._ticket)

    def _fetch_batches(self, held: Held, missing: list[bytes], now: int) -> None:
        """Ask for what a block lacks, and for what those lack that wait behind it."""
        delay = self.timing.resend // 8 if held.proposed and not held.certified else 0
        self.sync.want_batches(missing, held, delay, now)
        todo, ahead = self.sync.children(held.block.digest), 0
        while todo and ahead < MOST_AHEAD:
            ahead += 1
            later = self.sync.held[todo.pop()]
            self.sync.want_batches(self.payloads.missing(later.block.payload), later, 0, now)
            todo += self.sync.children(later.block.digest)
