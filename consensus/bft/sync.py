"""What is not here yet: blocks that wait for their parents or their batches, what has to be asked of whom, and how much of it
is given to whom.

Bounds, whatever a liar sends: one waiting proposal a sender; of other blocks only those that were asked for by a digest which a
verified certificate names, and their ancestors, so no more than the certified chain has; a bounded number of bytes to a peer in a
time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from consensus.bft.block import Block
from consensus.bft.certificates import QuorumCertificate, TimeoutCertificate
from consensus.bft.messages import BatchRequest, BlockRequest
from consensus.core import NEVER, NodeId
from consensus.marks import sometimes

MOST_AHEAD: Final = 32
"""Blocks of a chain whose batches are asked for at the same time."""
MOST_DIGESTS: Final = 64
"""Batches asked for in one message."""
MOST_BLOCKS: Final = 256
"""Blocks asked for in one message."""
REPLY_BYTES: Final = 1 << 20
"""Bytes of blocks in one reply; the first one always goes."""
_SMALL: Final = 200

Request = tuple[NodeId, BatchRequest | BlockRequest]


@dataclass(slots=True)
class Held:
    """A block that is not in the tree yet. `tc`: as it came with its proposal."""

    block: Block
    justify: QuorumCertificate
    sender: NodeId
    proposed: bool
    tc: TimeoutCertificate | None = None
    certified: bool = False
    """Whether a verified certificate names it; then it stays until it is placed."""


@dataclass(slots=True)
class _Want:
    sources: list[NodeId]
    ask_at: int
    round: int = 0
    tries: int = 0


@dataclass(slots=True)
class Sync:
    """See the module. Times in microseconds."""

    node: NodeId
    members: tuple[NodeId, ...]
    resend: int
    served_bytes: int
    deadline: int = NEVER
    held: dict[bytes, Held] = field(default_factory=dict)
    _children: dict[bytes, list[bytes]] = field(default_factory=dict)
    _proposals: dict[NodeId, bytes] = field(default_factory=dict)
    _blocks: dict[bytes, _Want] = field(default_factory=dict)
    _batches: dict[bytes, _Want] = field(default_factory=dict)
    _needed_by: dict[bytes, list[bytes]] = field(default_factory=dict)
    """Batch -> blocks that wait for it."""
    _served: dict[NodeId, tuple[int, int]] = field(default_factory=dict)
    """Peer -> (since when, bytes since then)."""
    _helped: dict[NodeId, int] = field(default_factory=dict)

    # -------------------------------------------------------------------------------------------- waiting blocks

    def hold(self, held: Held) -> None:
        """Keep a block until its parent and its batches are there."""
        digest = held.block.digest
        before = self.held.get(digest)
        if before is not None:
            if held.proposed and not before.proposed:
                before.proposed, before.tc = True, held.tc
            return
        if held.proposed:
            old = self._proposals.get(held.sender)
            if old is not None and not self.held[old].certified:
                sometimes("a waiting proposal makes room for a later one")
                self.drop(old)
            self._proposals[held.sender] = digest
        self.held[digest] = held
        self._children.setdefault(held.justify.block, []).append(digest)
        if self._blocks.pop(digest, None) is not None:
            held.certified = True
        self.certify(held.justify.block)

    def certify(self, digest: bytes) -> bool:
        """A verified certificate names this block. Whether it is waiting here."""
        held = self.held.get(digest)
        if held is not None:
            held.certified = True
        return held is not None

    def drop(self, digest: bytes) -> None:
        """A waiting block has been placed, or is of no use."""
        held = self.held.pop(digest, None)
        if held is None:
            return
        siblings = self._children[held.justify.block]
        siblings.remove(digest)
        if not siblings:
            del self._children[held.justify.block]
        if self._proposals.get(held.sender) == digest:
            del self._proposals[held.sender]
        for batch in held.block.payload:
            blocks = self._needed_by.get(batch)
            if blocks is not None and digest in blocks:
                blocks.remove(digest)
                if not blocks:
                    del self._needed_by[batch]
                    self._batches.pop(batch, None)

    def children(self, digest: bytes) -> list[bytes]:
        """The waiting blocks whose parent is that block."""
        return list(self._children.get(digest, ()))

    def forget(self, round: int) -> None:
        """Everything up to `round` is decided: what waits of it is of no use."""
        for digest in [digest for digest, held in self.held.items() if held.block.round <= round]:
            self.drop(digest)
        for digest in [digest for digest, want in self._blocks.items() if want.round <= round]:
            del self._blocks[digest]

    def named(self) -> list[bytes]:
        """The batches of all waiting blocks."""
        return [batch for held in self.held.values() for batch in held.block.payload]

    # ------------------------------------------------------------------------------------------- what is wanted

    def want_block(self, digest: bytes, round: int, sources: Iterable[NodeId], now: int) -> None:
        """The certified block of that round is to be fetched; `sources` say that they have it."""
        if digest not in self._blocks and not self.certify(digest):
            self._blocks[digest] = _Want(self._order(sources), now, round)
            self.deadline = min(self.deadline, now)

    def wants_block(self, digest: bytes) -> bool:
        """Whether that block has been asked for."""
        return digest in self._blocks

    @property
    def behind(self) -> bool:
        """Whether certified blocks are to be fetched, or batches that nobody has."""
        return bool(self._blocks) or any(want.tries >= len(want.sources) for want in self._batches.values())

    def want_batches(self, missing: Sequence[bytes], held: Held, delay: int, now: int) -> None:
        """The batches that a waiting block lacks. They may be on their way, so nobody is asked before `delay` is over."""
        digest = held.block.digest
        for batch in missing:
            blocks = self._needed_by.setdefault(batch, [])
            if digest not in blocks:
                blocks.append(digest)
            if batch not in self._batches:
                sources = [held.sender, held.block.author, *(signer for signer, _ in held.justify.votes)]
                self._batches[batch] = _Want(self._order(sources), now + delay)
                self.deadline = min(self.deadline, now + delay)

    def wants_batch(self, digest: bytes) -> bool:
        """Whether a waiting block lacks that batch."""
        return digest in self._batches

    def got_batch(self, digest: bytes) -> list[bytes]:
        """A batch is here: the blocks that waited for it."""
        self._batches.pop(digest, None)
        return self._needed_by.pop(digest, [])

    def _order(self, sources: Iterable[NodeId]) -> list[NodeId]:
        own = self.node
        return [peer for peer in dict.fromkeys((*sources, *self.members)) if peer != own]

    def requests(self, above: int, now: int) -> list[Request]:
        """What is due to be asked, and of whom: somebody else each time. `above`: height of the last committed block."""
        if now < self.deadline:
            return []
        found: list[Request] = []
        due = NEVER
        for digest, want in self._blocks.items():
            if want.ask_at <= now:
                peer = self._next(want, now)
                if peer is not None:
                    found.append((peer, BlockRequest(digest, MOST_BLOCKS, above)))
            due = min(due, want.ask_at)
        by_peer: dict[NodeId, list[bytes]] = {}
        lacking: dict[bytes, NodeId] = {}
        for digest, want in self._batches.items():
            if want.ask_at <= now:
                peer = self._next(want, now)
                if peer is not None:
                    by_peer.setdefault(peer, []).append(digest)
                    if want.tries > len(want.sources):
                        # Perhaps it is so old that nobody has it any more; then the block is gone, too, and who is asked for
                        # that one shows its newest checkpoint.
                        sometimes("nobody seems to have a batch")
                        lacking[self._needed_by[digest][0]] = peer
            due = min(due, want.ask_at)
        found += [(peer, BlockRequest(digest, 1, above)) for digest, peer in lacking.items()]
        for peer, digests in by_peer.items():
            for start in range(0, len(digests), MOST_DIGESTS):
                found.append((peer, BatchRequest(digests[start : start + MOST_DIGESTS])))
        self.deadline = due
        return found

    def _next(self, want: _Want, now: int) -> NodeId | None:
        want.ask_at = now + self.resend
        if not want.sources:
            return None
        if want.tries:
            sometimes("something missing is asked for again, of somebody else")
        peer = want.sources[want.tries % len(want.sources)]
        want.tries += 1
        return peer

    # -------------------------------------------------------------------------------------------- what is given

    def may_serve(self, peer: NodeId, size: int, now: int) -> bool:
        """Whether a peer may have so many bytes more."""
        since, given = self._served.get(peer, (0, 0))
        if now - since >= self.resend or now < since:
            since, given = now, 0
        # What was given counts, not what would be: however large a batch is, it goes to whoever has asked for little else.
        if given >= self.served_bytes:
            sometimes("a peer asks for more than it may have at a time")
            return False
        self._served[peer] = (since, given + size + _SMALL)
        return True

    def may_help(self, peer: NodeId, now: int) -> bool:
        """Whether a peer that is behind is to be told now: once in a while."""
        if now < self._helped.get(peer, 0):
            return False
        self._helped[peer] = now + self.resend // 4
        return True
