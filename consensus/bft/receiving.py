"""What others say: verified first, used then."""

from __future__ import annotations

from typing import Final

from consensus.bft import records
from consensus.bft.base import Rejected
from consensus.bft.block import (
    MOST_BATCHES,
    batch_digest,
    decode_block,
)
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
from consensus.bft.signing import proposal_statement, timeout_statement
from consensus.bft.sync import MOST_BLOCKS, REPLY_BYTES, Held
from consensus.bft.tree import Placed
from consensus.bft.votes import WINDOW
from consensus.bft.voting import Voting
from consensus.core import (
    EntryKind,
    NodeId,
    Out,
)
from consensus.marks import sometimes

_BLOCK: Final = int(EntryKind.BLOCK)
_SIGNATURE: Final = 64
_DIGEST: Final = 32
_SHUNNED: Final = 10_000_000
"""Microseconds for which nothing unasked is taken of a member that has brought a bad batch: judging one may cost some ten
milliseconds, and no honest member brings any."""


class Receiving(Voting):
    """A handler for each kind of message. They raise Rejected, BlockError or CertificateError for what is not used, before
    anything of it has been."""

    def _on_proposal(self, sender: NodeId, message: Proposal, now: int, out: Out) -> None:
        block = decode_block(message.block)
        if block.author != sender:
            raise Rejected("a proposal of somebody else")
        if block.epoch != self.committee.epoch:
            raise Rejected("a proposal of another epoch")
        vote = self.spoken.vote
        if vote is not None and vote.block == block.digest:
            sometimes("a proposal comes again, and has its vote again")
            out.wait.append((sender, vote))
            return
        if block.round < max(self.round - WINDOW, self.tree.committed.block.round + 1):
            sometimes("a proposal comes for a round that is decided or long over")
            self._help(sender, now, out)
            return
        statement = proposal_statement(self.committee, block.round, block.digest)
        if not self._keyring.verify(sender, statement, message.signature):
            raise Rejected("a proposal whose signature does not verify")
        justify = self.judge.qc(block.justify)
        tc = None
        if justify.round >= block.round:
            raise Rejected("a proposal below its parent")
        if justify.round + 1 != block.round:
            tc = self.judge.tc(message.tc) if message.tc else None
            if tc is None or tc.round + 1 != block.round:
                raise Rejected("a proposal that does not show why its round has begun")
        self._see_qc(justify, block.justify, sender, now, out)
        if tc is not None:
            self._see_tc(tc, message.tc, sender, now, out)
        # From here on its round is no later than this node's.
        if block.round < self.round:
            self._help(sender, now, out)
        said = self._proposals.setdefault(block.round, {})
        first = said.setdefault(sender, (block.digest, message.signature))
        if first[0] != block.digest:
            sometimes("a leader proposes two blocks in one round")
            self.evidence.add(
                sender, block.round, "proposal", first[0] + first[1], block.digest + message.signature
            )
            raise Rejected("a second proposal in one round")
        placed = self.tree.get(block.digest)
        if placed is not None:
            self._consider(placed, tc, now, out)
            return
        if justify.round < self.tree.committed.block.round:
            # No lie: the round before was given up in its eyes and certified in those of others, and who leads a round follows
            # from the parent, so that there may be two.
            self._help(sender, now, out)
            return
        self.sync.hold(Held(block, justify, sender, True, tc))
        self._place(block.digest, now, out)

    def _on_vote(self, sender: NodeId, message: Vote, now: int, out: Out) -> None:
        if message.epoch != self.committee.epoch:
            raise Rejected("a vote of another epoch")
        round = message.round
        if len(message.block) != _DIGEST or len(message.signature) != _SIGNATURE:
            raise Rejected("a vote that is none")
        if not max(self.tree.committed.block.round, self.round - WINDOW) <= round <= self.round + WINDOW:
            sometimes("a vote comes for a round far from this one")
            return
        qc = self.votes.add(sender, round, message.block, message.signature)
        if qc is not None:
            self._made(qc, sender, now, out)

    def _on_timeout(self, sender: NodeId, message: Timeout, now: int, out: Out) -> None:
        if message.epoch != self.committee.epoch:
            raise Rejected("a timeout of another epoch")
        round = message.round
        if round < self.round:
            self._help(sender, now, out)
            return
        if round == self.round and self.timeouts.said(sender, message.signature):
            return
        qc = self.judge.qc(message.high_qc)
        if qc.round >= round:
            raise Rejected("a timeout with a certificate of a later round")
        statement = timeout_statement(self.committee, round, qc.round)
        if not self._keyring.verify(sender, statement, message.signature):
            raise Rejected("a timeout whose signature does not verify")
        tc = None
        if qc.round + 1 != round and round > self.round:
            tc = self.judge.tc(message.tc) if message.tc else None
            if tc is None or tc.round + 1 != round:
                raise Rejected("a timeout that does not show why its round has begun")
        self._see_qc(qc, message.high_qc, sender, now, out)
        if tc is not None:
            self._see_tc(tc, message.tc, sender, now, out)
        if round == self.round and self.timeouts.add(sender, qc.round, message.signature, message.high_qc):
            self._count_timeouts(sender, now, out)

    def _on_certificates(self, sender: NodeId, message: Certificates, now: int, out: Out) -> None:
        if message.epoch != self.committee.epoch:
            raise Rejected("certificates of another epoch")
        if message.high_qc:
            self._see_qc(self.judge.qc(message.high_qc), message.high_qc, sender, now, out)
        if message.high_tc:
            self._see_tc(self.judge.tc(message.high_tc), message.high_tc, sender, now, out)
        if message.checkpoint:
            self.states.checkpoints.offer(message.checkpoint)
            self._forget(now, out)
            if self.sync.behind:
                certificate = self.states.aim(sender, self.tree.committed.block.index)
                if certificate:
                    self._record(out, now, (records.CHECKPOINT, certificate))
                    self.states.recorded(self._ticket)

    def _help(self, peer: NodeId, now: int, out: Out) -> None:
        """A peer is in an earlier round: show it why it has ended."""
        if self.sync.may_help(peer, now):
            sometimes("a peer in an earlier round is shown the certificates that ended it")
            out.now.append((peer, self._certificates(b"")))

    def _certificates(self, checkpoint: bytes) -> Certificates:
        return Certificates(self.committee.epoch, self.spoken.high_qc, self.spoken.high_tc, checkpoint)

    # ---------------------------------------------------------------------------------- batches and blocks

    def _on_batch(self, sender: NodeId, message: Batch, now: int, out: Out) -> None:
        kind, payload, payloads = message.kind, message.payload, self.payloads
        if kind != _BLOCK or len(payload) > self.timing.batch_bytes:
            raise Rejected("a batch of a kind or size that there is not")
        digest = batch_digest(kind, payload)
        wanted = self.sync.wants_batch(digest)
        own = message.author == sender
        if payloads.known(digest) and not wanted:
            if own:
                payloads.add(sender, kind, payload, now, digest=digest)
            return
        if not wanted and (
            not own or payloads.full(sender, len(payload)) or now < self._shunned.get(sender, 0)
        ):
            sometimes("a batch is not taken: nobody asked for it, or its author has too many waiting")
            return
        if self._check(kind, payload) is not None:
            if wanted:
                # No block that names it is worth anything, whoever sends the batch.
                for block in self.sync.got_batch(digest):
                    self.sync.drop(block)
            else:
                self._shunned[sender] = now + _SHUNNED
            raise Rejected("a batch whose payload is not what it should be")
        taken = payloads.add(sender, kind, payload, now, digest=digest) if own else None
        if taken is None and wanted:
            author = message.author if message.author in self.committee.members else sender
            taken = payloads.add(author, kind, payload, now, asked=True, digest=digest)
        if taken is not None:
            self._record(out, now, records.batch(message.author if own else sender, kind, payload))
            self.pacemaker.hurry(now)
        if wanted:
            for block in self.sync.got_batch(digest):
                self._place(block, now, out)

    def _on_batch_request(self, sender: NodeId, message: BatchRequest, now: int, out: Out) -> None:
        for digest in message.digests[:MOST_BATCHES]:
            found = self.payloads.get(digest)
            if found is not None:
                if not self.sync.may_serve(sender, len(found[2]), now):
                    return
                out.now.append((sender, Batch(*found)))

    def _on_block_request(self, sender: NodeId, message: BlockRequest, now: int, out: Out) -> None:
        placed, root = self.tree.get(message.block), self.tree.root
        if placed is None or placed is root:  # of the root the batches are gone
            checkpoint = self.states.checkpoints
            if checkpoint.index and self.states.serves(message.above) and self.sync.may_help(sender, now):
                sometimes("a peer asks for blocks that are gone, and is shown the newest checkpoint")
                out.now.append((sender, self._certificates(checkpoint.encoded())))
            return
        found: list[bytes] = []
        size = 0
        step: Placed | None = placed
        while (
            step is not None
            and step is not root
            and step.block.height > message.above
            and len(found) < message.count
        ):
            size += len(step.block.encoded)
            if (found and size > REPLY_BYTES) or len(found) >= MOST_BLOCKS:
                break
            found.append(step.block.encoded)
            step = step.parent
        if found and self.sync.may_serve(sender, size, now):
            out.now.append((sender, Blocks(found)))

    def _on_blocks(self, sender: NodeId, message: Blocks, now: int, out: Out) -> None:
        # All of the reply is judged before any of it is used: what is held is not asked for any more, so a block that stayed
        # behind when a later one of the reply was garbage would wait for ever.
        taken: list[Held] = []
        expected = b""
        for encoded in message.blocks[:MOST_BLOCKS]:
            block = decode_block(encoded)
            if block.digest != expected and not self.sync.wants_block(block.digest):
                break
            if self.tree.get(block.digest) is not None or block.epoch != self.committee.epoch:
                break
            justify = self.judge.qc(block.justify)
            if justify.round >= block.round:
                raise Rejected("a block below its parent")
            taken.append(Held(block, justify, sender, False))
            expected = justify.block
        for held in taken:
            self.sync.hold(held)
            if self.tree.get(held.justify.block) is None:
                self._want(held.justify, (sender,), now)
        if taken:
            self._place(taken[-1].block.digest, now, out)

    # ----------------------------------------------------------------------------------------- checkpoints

    def _on_checkpoint_vote(self, sender: NodeId, message: CheckpointVote, now: int, out: Out) -> None:
        checkpoints = self.states.checkpoints
        if checkpoints.vote(sender, message) is not None:
            self._forget(now, out)
        elif self.states.certified(message) and self.sync.may_help(sender, now):
            out.now.append((sender, self._certificates(checkpoints.encoded())))

    def _forget(self, now: int, out: Out) -> None:
        """Where a newer checkpoint is certified and this node has a snapshot of it, too: forget what is covered."""
        self.states.resume(now)
        anchor = self.states.anchor(self.tree)
        if anchor is None:
            return
        self._record(out, now, (records.CHECKPOINT, self.states.checkpoints.encoded()))
        root = self.states.move_anchor(self.tree, anchor)
        self.tree.prune(root)
        self.payloads.forget(root.block.index)
        # A batch may stand in a later block again, and whoever has voted for that one holds it.
        for placed in self.tree.open.values():
            for author, kind, payload in placed.batches:
                self.payloads.add(author, kind, payload, now, asked=True)

    # ----------------------------------------------------------------------------------------------- reads

    def _on_read_request(self, sender: NodeId, message: ReadRequest, now: int, out: Out) -> None:
        out.now.append((sender, ReadReply(message.nonce, self.spoken.high_qc)))

    def _on_read_reply(self, sender: NodeId, message: ReadReply, now: int, out: Out) -> None:
        if not self.reads.wants(sender, message.nonce):
            return
        if message.high_qc != self.spoken.high_qc:
            self._see_qc(self.judge.qc(message.high_qc), message.high_qc, sender, now, out)
        self.reads.answered(sender)

    def _ask_reads(self, out: Out) -> None:
        question = ReadRequest(self.reads.nonce)
        out.now += [(peer, question) for peer in self.reads.silent()]

    def _is_safe(self, round: int, block: bytes) -> bool:
        """Whether what is committed here has all the entries up to that certified block."""
        committed = self.tree.committed.block
        if committed.round >= round:
            return True
        placed = self.tree.get(block)
        return placed is not None and placed.block.index <= committed.index

    def _see_reads(self, now: int, out: Out) -> None:
        high = self.high_qc
        while self.reads.settle(high.round, high.block, now):
            self._ask_reads(out)
        index = self.tree.committed.block.index
        out.reads += [(token, index) for token in self.reads.reached(self._is_safe)]
