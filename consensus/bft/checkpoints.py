"""Checkpoints: what the state is behind a mark that asks for a snapshot, signed by a quorum.

A member votes for a checkpoint when it has applied the log up to it and its snapshot of exactly that state is durable. Whoever
is behind starts from a certified one. Blocks and batches may be forgotten up to the newest *certified* checkpoint, not up to the
newest own snapshot: with fewer than a quorum of snapshots there is no certificate, and a member that is behind could then neither
fetch the blocks nor start from the state; if it is needed for a quorum, nothing would ever be ordered again.

Votes are kept as they come, a few for each member, and verified only when a quorum of them says the same: a liar fills its own
places only, and cannot make anybody verify much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from consensus.bft.block import Block, BlockError, decode_block
from consensus.bft.certificates import (
    CertificateError,
    Checkpoint,
    CheckpointCertificate,
    decode_checkpoint,
    read_checkpoint,
)
from consensus.bft.committee import Committee
from consensus.bft.messages import CheckpointVote
from consensus.bft.signing import Keyring, checkpoint_statement
from consensus.core import EntryKind, NodeId, SnapshotMeta
from consensus.marks import sometimes

MOST_OPEN: Final = 4
"""Checkpoints of a member that are kept while none of them is certified: the newest ones."""
_CHECKPOINT: Final = int(EntryKind.CHECKPOINT)


@dataclass(slots=True, frozen=True)
class CheckpointConflict:
    """A member has signed two states of the same index. It lies, or its state is not a function of the log."""

    node: NodeId
    index: int
    first: CheckpointVote
    second: CheckpointVote


@dataclass(slots=True)
class _Vote:
    body: bytes
    signature: bytes
    verified: bool = False


class Checkpoints:
    """Votes for checkpoints, as one node knows them, and the newest certificate. Whatever is called may bring a new one: ask
    `certificate`."""

    def __init__(self, committee: Committee, keyring: Keyring, node: NodeId) -> None:
        self._committee = committee
        self._keyring = keyring
        self._node = node
        self._newest: CheckpointCertificate | None = None
        self._newest_encoded = b""
        self._applied: dict[int, tuple[bytes, Block]] = {}
        """Index -> (state digest, block) of checkpoints that this node has applied."""
        self._votes: dict[NodeId, dict[int, _Vote]] = {member: {} for member in committee.members}
        self.conflicts: list[CheckpointConflict] = []
        """Verified, the first of each member."""
        self.differs: tuple[Checkpoint, Checkpoint] | None = None
        """(own, certified) checkpoint of the first index at which this node's own state was another than a quorum's."""

    @property
    def index(self) -> int:
        """That of the newest certificate; 0 while there is none."""
        return 0 if self._newest is None else self._newest.checkpoint.index

    def certificate(self) -> CheckpointCertificate | None:
        """The newest one: made here, or offered and verified. Its index never falls."""
        return self._newest

    def encoded(self) -> bytes:
        """The same as bytes; empty while there is none."""
        return self._newest_encoded

    def own_votes(self) -> list[CheckpointVote]:
        """This node's votes that no certificate covers, by index: to be sent, and sent again, to everybody."""
        epoch = self._committee.epoch
        return [
            CheckpointVote(epoch, vote.body, vote.signature)
            for _, vote in sorted(self._votes[self._node].items())
        ]

    def applied(self, index: int, digest: bytes, block: Block) -> None:
        """This node's state behind entry `index`, the last one of `block`, has that digest. Does nothing unless the entry is a
        CHECKPOINT. Raises ValueError for an index that is not the block's."""
        if index != block.index:
            raise ValueError(
                f"entry {index} is not the last one of the block at {block.height}, {block.index}"
            )
        if block.mark != _CHECKPOINT or index <= self.index:
            return
        self._applied[index] = (digest, block)
        while len(self._applied) > MOST_OPEN:
            del self._applied[min(self._applied)]
        # The others' votes may have been waiting for the block, which becomes the header.
        for body in sorted({votes[index].body for votes in self._votes.values() if index in votes}):
            self._certify(index, body)

    def taken(self, meta: SnapshotMeta) -> Checkpoint | None:
        """This node's snapshot of the state behind `meta.index` is durable: sign the checkpoint and count the vote, which is then
        among `own_votes`. None if that entry is no checkpoint that this node has applied, or one that a certificate covers."""
        found = self._applied.get(meta.index)
        if found is None:
            return None
        digest, block = found
        checkpoint = Checkpoint(
            block.height, block.round, block.digest, meta.index, meta.chain, digest, meta.root, meta.size
        )
        body = checkpoint.body()
        own = self._votes[self._node]
        # Once signed, a checkpoint stays signed: another snapshot of the same state is the same one.
        if meta.index not in own:
            signature = self._keyring.sign(checkpoint_statement(self._committee, body))
            self._keep(self._node, meta.index, _Vote(body, signature, verified=True))
            self._certify(meta.index, body)
        return checkpoint

    def vote(self, sender: NodeId, vote: CheckpointVote) -> CheckpointCertificate | None:
        """Count a member's vote; the certificate if this one made it. Raises CertificateError for a vote that is none: of no
        member, of another epoch, not readable. (One that does not verify is found out when it is needed, and dropped then.)"""
        if sender not in self._votes:
            raise CertificateError(f"a checkpoint of {sender}, which is no member")
        if vote.epoch != self._committee.epoch:
            raise CertificateError(f"a checkpoint of epoch {vote.epoch}; this is {self._committee.epoch}")
        if type(vote.signature) is not bytes or len(vote.signature) != 64:
            raise CertificateError("a checkpoint without a signature")
        if type(vote.checkpoint) is not bytes:
            raise CertificateError("a vote without a checkpoint")
        index = read_checkpoint(vote.checkpoint).index
        if index <= self.index:
            return None
        before = self._votes[sender].get(index)
        if before is not None:
            if before.body != vote.checkpoint:
                self._contradict(sender, index, before, vote)
            elif not before.verified:
                before.signature = vote.signature
        else:
            self._keep(sender, index, _Vote(vote.checkpoint, vote.signature))
        return self._certify(index, vote.checkpoint)

    def offer(self, encoded: bytes) -> CheckpointCertificate | None:
        """A certificate that somebody shows, or this node's own journal: it, if it is newer than all before. Raises
        CertificateError for one that is newer and does not hold, or is none."""
        if encoded == self._newest_encoded:
            return None
        certificate = decode_checkpoint(encoded)
        if certificate.checkpoint.index <= self.index:
            # What is fetched must never move backwards, or catching up need not end.
            return None
        self.verify(certificate)
        self._settle(certificate)
        return certificate

    def verify(self, certificate: CheckpointCertificate) -> None:
        """Raises CertificateError unless a quorum of this committee has signed it."""
        read_header(certificate)
        certificate.verify(self._committee, self._keyring)

    def resume(self, vote: CheckpointVote, block: Block) -> None:
        """This node's own vote, from its journal, and the block that it is about: it counts, and is said again. Without that, a
        power cut of everybody just before a certificate would leave none. Raises CertificateError if the vote is none, or is
        about another block."""
        checkpoint = read_checkpoint(vote.checkpoint)
        _same_block(checkpoint, block)
        if checkpoint.index > self.index:
            self._applied[checkpoint.index] = (checkpoint.digest, block)
            self._keep(self._node, checkpoint.index, _Vote(vote.checkpoint, vote.signature))
            self._certify(checkpoint.index, vote.checkpoint)

    def _keep(self, member: NodeId, index: int, vote: _Vote) -> None:
        votes = self._votes[member]
        votes[index] = vote
        while len(votes) > MOST_OPEN:
            sometimes("a member votes for more checkpoints than are kept")
            del votes[min(votes)]

    def _certify(self, index: int, body: bytes) -> CheckpointCertificate | None:
        found = self._applied.get(index)
        if found is None or index <= self.index:
            return None
        same = {
            member: votes[index]
            for member, votes in self._votes.items()
            if index in votes and votes[index].body == body
        }
        if len(same) < self._committee.quorum:
            return None
        statement = checkpoint_statement(self._committee, body)
        for member, vote in list(same.items()):
            if not vote.verified and not self._keyring.verify(member, statement, vote.signature):
                sometimes("a vote for a checkpoint does not verify")
                del same[member], self._votes[member][index]
                continue
            vote.verified = True
        if len(same) < self._committee.quorum:
            return None
        signatures = tuple((member, vote.signature) for member, vote in same.items())
        checkpoint, block = read_checkpoint(body), found[1]
        # A quorum behind another block than the committed one has more liars in it than the committee stands.
        if checkpoint.block != block.digest:
            return None
        certificate = CheckpointCertificate(checkpoint, block.encoded, signatures)
        self._settle(certificate)
        return certificate

    def _settle(self, certificate: CheckpointCertificate) -> None:
        checkpoint = certificate.checkpoint
        own = self._votes[self._node].get(checkpoint.index)
        if own is not None and own.body != checkpoint.body() and self.differs is None:
            sometimes("a quorum has another state than this node")
            self.differs = (read_checkpoint(own.body), checkpoint)
        self._newest = certificate
        self._newest_encoded = certificate.encode()
        for votes in self._votes.values():
            for index in [index for index in votes if index <= checkpoint.index]:
                del votes[index]
        for index in [index for index in self._applied if index <= checkpoint.index]:
            del self._applied[index]

    def _contradict(self, sender: NodeId, index: int, before: _Vote, vote: CheckpointVote) -> None:
        # One each is enough to show, and bounds what is verified for nothing.
        if any(conflict.node == sender for conflict in self.conflicts):
            return
        statements = [checkpoint_statement(self._committee, body) for body in (before.body, vote.checkpoint)]
        verify = self._keyring.verify
        if not verify(sender, statements[1], vote.signature):
            return
        if not before.verified and not verify(sender, statements[0], before.signature):
            before.body, before.signature, before.verified = vote.checkpoint, vote.signature, True
            return
        sometimes("a member signs two states of the same checkpoint")
        first = CheckpointVote(vote.epoch, before.body, before.signature)
        self.conflicts.append(CheckpointConflict(sender, index, first, vote))


def read_header(certificate: CheckpointCertificate) -> Block:
    """The block at which a checkpoint stands, to go on from. Raises CertificateError if the header is another."""
    try:
        block = decode_block(certificate.header)
    except BlockError as error:
        raise CertificateError(f"a checkpoint's header is no block: {error}") from None
    _same_block(certificate.checkpoint, block)
    return block


def _same_block(checkpoint: Checkpoint, block: Block) -> None:
    stated = (checkpoint.block, checkpoint.height, checkpoint.round, checkpoint.index)
    if (block.digest, block.height, block.round, block.index) != stated or block.mark != _CHECKPOINT:
        raise CertificateError(f"the checkpoint at {checkpoint.index} is not of this block, at {block.index}")
