"""Checkpoints of this node and of a quorum; and the state of others, for whoever is so far behind that the blocks are gone.

A target is a certified checkpoint ahead of this node. It is recorded before its snapshot is fetched: whichever of the two a power
cut spares, the journal knows the block from which to go on. What is aimed at never moves back (CVE-2025-24371).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from consensus.bft.block import Block
from consensus.bft.certificates import CheckpointCertificate, read_checkpoint
from consensus.bft.checkpoints import Checkpoints, read_header
from consensus.bft.committee import Committee
from consensus.bft.messages import CheckpointVote
from consensus.bft.signing import Keyring
from consensus.bft.tree import Placed, Tree
from consensus.core import NEVER, NodeId, Out, SnapshotMeta
from consensus.marks import sometimes

_PACE: Final = 4
"""Own votes for checkpoints are said again after so many times `resend`."""


class States:
    """See the module. Times in microseconds."""

    def __init__(self, node: NodeId, committee: Committee, keyring: Keyring, resend: int) -> None:
        self.checkpoints = Checkpoints(committee, keyring, node)
        self.snapshot_index = 0
        """Of this node's newest snapshot."""
        self.deadline = NEVER
        self._members = committee.members
        self._resend = resend
        self._anchor_index = 0
        self._anchor_digest = b""
        self._marks: dict[int, Block] = {}
        """Index -> block of the marks that were handed out and are not applied yet."""
        self._targets: dict[int, tuple[CheckpointCertificate, Block]] = {}
        self._sources: list[NodeId] = []
        self._tries = 0
        self._ticket = 0
        self._vote_at = NEVER
        self._fetch_at = NEVER

    @property
    def target(self) -> int:
        """Index of the checkpoint whose state is being fetched; 0: none."""
        return max(self._targets, default=0)

    def open_certificates(self) -> list[bytes]:
        """Encoded certificates of the checkpoints whose states are being fetched, the newest last."""
        return [self._targets[index][0].encode() for index in sorted(self._targets)]

    # ------------------------------------------------------------------------------------------- own checkpoints

    def delivered(self, block: Block) -> None:
        """A block's entries have been handed out."""
        if block.mark:
            self._marks[block.index] = block

    def applied(self, index: int, digest: bytes) -> None:
        """The state behind a mark is known."""
        block = self._marks.pop(index, None)
        for older in [older for older in self._marks if older < index]:
            del self._marks[older]
        if block is not None:
            self.checkpoints.applied(index, digest, block)

    def taken(self, meta: SnapshotMeta, now: int) -> CheckpointVote | None:
        """A snapshot is durable: this node's vote for the checkpoint there, if it is one and not certified yet."""
        self.snapshot_index = max(self.snapshot_index, meta.index)
        made = self.checkpoints.taken(meta)
        votes = self.checkpoints.own_votes()
        self._see(now)
        if made is None:
            return None
        body = made.body()
        return next((vote for vote in votes if vote.checkpoint == body), None)

    def resume(self, now: int) -> None:
        """Begin to say again what has not been certified."""
        self._see(now)

    def _see(self, now: int) -> None:
        if not self.checkpoints.own_votes():
            self._vote_at = NEVER
        elif self._vote_at == NEVER:
            self._vote_at = now + _PACE * self._resend
        self.deadline = min(self._vote_at, self._fetch_at)

    def timeout(self, now: int, peers: Sequence[NodeId], out: Out) -> None:
        """Say again and ask again what is due."""
        if now >= self._vote_at:
            self._vote_at = NEVER
            for vote in self.checkpoints.own_votes():
                sometimes("a vote for a checkpoint is said again")
                out.wait += [(peer, vote) for peer in peers]
        if now >= self._fetch_at:
            self._fetch(now, out)
        self._see(now)

    def certified(self, vote: CheckpointVote) -> bool:
        """Whether that is a vote for a checkpoint that the newest certificate covers: its sender does not know of it."""
        return read_checkpoint(vote.checkpoint).index <= self.checkpoints.index

    def evidence(self) -> list[dict[str, Any]]:
        """Members that have signed two states of one checkpoint, in the form of `votes.Evidence.show`."""
        return [
            {
                "node": conflict.node,
                "round": read_checkpoint(conflict.first.checkpoint).round,
                "kind": "checkpoint",
                "first": (conflict.first.checkpoint + conflict.first.signature).hex(),
                "second": (conflict.second.checkpoint + conflict.second.signature).hex(),
            }
            for conflict in self.checkpoints.conflicts
        ]

    # ------------------------------------------------------------------------------------------------- forgetting

    def anchor(self, tree: Tree) -> Placed | None:
        """The block of the newest certified checkpoint, if this node has a snapshot there or further on, and it is not where the
        journal counts from already."""
        certificate = self.checkpoints.certificate()
        if certificate is None:
            return None
        if not self._anchor_index < certificate.checkpoint.index <= self.snapshot_index:
            return None
        return tree.get(certificate.checkpoint.block)

    def move_anchor(self, tree: Tree, anchor: Placed) -> Placed:
        """Let the journal count from `anchor`. The block from which on others are still served: where it counted from before, so
        that who is a little behind need not fetch a whole state."""
        before = tree.get(self._anchor_digest)
        self._anchor_index, self._anchor_digest = anchor.block.index, anchor.block.digest
        return anchor if before is None else before

    def anchor_block(self, tree: Tree) -> Placed:
        """The block from which the journal counts."""
        return tree.get(self._anchor_digest) or tree.root

    def serves(self, height: int) -> bool:
        """Whether the newest certified checkpoint is above `height`."""
        certificate = self.checkpoints.certificate()
        return certificate is not None and certificate.checkpoint.height > height

    # --------------------------------------------------------------------------------------------- others' states

    def aim(self, sender: NodeId, delivered: int) -> bytes:
        """Blocks are gone over there. If the newest certified checkpoint is ahead of this node's log, fetch its state: the
        certificate, to be recorded (`recorded` follows); empty if there is nothing new to aim at."""
        certificate = self.checkpoints.certificate()
        if certificate is None or certificate.checkpoint.index <= max(delivered, self.target):
            return b""
        sometimes("a node is so far behind that it fetches the state of others")
        self._targets[certificate.checkpoint.index] = (certificate, read_header(certificate))
        signers = [signer for signer, _ in certificate.signatures]
        self._sources = [peer for peer in dict.fromkeys((sender, *signers)) if peer in self._members]
        self._tries = 0
        return self.checkpoints.encoded()

    def recorded(self, ticket: int) -> None:
        """The target's certificate is recorded under that ticket."""
        self._ticket = ticket
        self._fetch_at = NEVER

    def persisted(self, ticket: int, now: int, out: Out) -> None:
        """What is durable may be built upon."""
        if self._targets and self._ticket and ticket >= self._ticket:
            self._ticket = 0
            self._fetch(now, out)
            self._see(now)

    def _fetch(self, now: int, out: Out) -> None:
        if not self._targets:
            self._fetch_at = NEVER
            return
        certificate, _ = self._targets[self.target]
        if self._tries:
            sometimes("a state is asked for again, of somebody else")
        peer = self._sources[self._tries % len(self._sources)]
        self._tries += 1
        out.install = (peer, certificate.checkpoint.meta(self._members))
        self._fetch_at = now + self._resend

    def reached(self, index: int, now: int) -> None:
        """The log has been handed out up to `index`: nobody needs a state below that."""
        if self._targets:
            for target in [target for target in self._targets if target <= index]:
                del self._targets[target]
            if not self._targets:
                self._fetch_at = NEVER
                self._ticket = 0
                self._see(now)

    def installed(self, meta: SnapshotMeta) -> Block | None:
        """A fetched snapshot is durable and restored: the block from which to go on."""
        found = self._targets.get(meta.index)
        self.snapshot_index = max(self.snapshot_index, meta.index)
        return None if found is None else found[1]
