"""What a lying node is: an honest one, and a `Strategy` between it and everybody else.

A strategy sees what its own node is about to say and what it is about to hear, and puts something else in its place. It holds
that node's key and no other: what needs somebody else's signature it can only have heard. It knows nothing of the world that it
lies to, virtual or real, and draws only from the random stream that it was given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar, Final

from consensus.bft.block import Block, BlockError, batch_digest, decode_block
from consensus.bft.certificates import CertificateError, QuorumCertificate, decode_qc
from consensus.bft.committee import Committee
from consensus.bft.messages import Batch, Blocks, Certificates, Proposal, Timeout, Vote
from consensus.bft.signing import Keyring
from consensus.bft.timing import Timing
from consensus.core import NodeId

Send = tuple[NodeId, Any]
"""(destination or sender, message)."""

Statement = Callable[[Committee], bytes]
"""What is signed, as a function of the committee that it is said to."""

KEPT: Final = 256
"""Blocks, batches and votes that a strategy remembers of each."""


@dataclass(slots=True)
class Own:
    """What a liar has. `elsewhere(node, statement)`: what an honest member with the same key has signed in another cluster or
    epoch; None if there is no such place."""

    node: NodeId
    committee: Committee
    keyring: Keyring
    rng: Random
    timing: Timing = field(default_factory=Timing)
    elsewhere: Callable[[NodeId, Statement], bytes] | None = None

    @property
    def peers(self) -> list[NodeId]:
        """Everybody else."""
        return [member for member in self.committee.members if member != self.node]

    def sign(self, statement: bytes) -> bytes:
        """With its own key."""
        return self.keyring.sign(statement)


class Knowledge:
    """What a liar has seen go by: blocks, sizes of batches, votes of others, certificates. Bounded."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, Block] = {}
        self.batches: dict[bytes, Batch] = {}
        """By the digest of the payload, as blocks name them."""
        self.votes: dict[tuple[int, bytes], dict[NodeId, bytes]] = {}
        self.qcs: dict[bytes, QuorumCertificate] = {}
        """Encoded -> decoded, in the order of arrival; unverified."""
        self.said: list[Any] = []
        """Messages of everybody, for whoever repeats them."""

    def see(self, sender: NodeId, message: Any) -> None:
        """Take note of a message, honest or not."""
        kind = type(message)
        if kind is Proposal:
            self._block(message.block)
        elif kind is Blocks:
            for data in message.blocks:
                self._block(data)
        elif kind is Batch:
            self.batches[batch_digest(message.kind & 0xFF, message.payload)] = message
            _trim(self.batches)
        elif kind is Vote:
            self.votes.setdefault((message.round, message.block), {})[sender] = message.signature
            _trim(self.votes)
        elif kind is Timeout or kind is Certificates:
            self._qc(message.high_qc)
        self.said.append(message)
        if len(self.said) > KEPT:
            del self.said[: KEPT // 2]

    def _block(self, data: bytes) -> None:
        try:
            block = decode_block(data)
        except BlockError:
            return
        self.blocks[block.digest] = block
        _trim(self.blocks)
        self._qc(block.justify)

    def _qc(self, data: bytes) -> None:
        if data and data not in self.qcs:
            try:
                self.qcs[data] = decode_qc(data)
            except CertificateError:
                return
            _trim(self.qcs)

    def parent(self, block: Block) -> Block | None:
        """The block below, if it has gone by."""
        return self.blocks.get(block.parent.block)

    def sizes(self, block: Block, parent: Block) -> list[tuple[bytes, int]] | None:
        """(digest, bytes) of a block's batches; None if that cannot be known."""
        if all(digest in self.batches for digest in block.payload):
            return [(digest, len(self.batches[digest].payload)) for digest in block.payload]
        if not block.payload or block.weight < parent.weight:
            return None
        # Only their sum is ever looked at.
        first, *rest = block.payload
        return [(first, block.weight - parent.weight), *((digest, 0) for digest in rest)]


def _trim(kept: dict[Any, Any]) -> None:
    while len(kept) > KEPT:
        del kept[next(iter(kept))]


class Strategy:
    """Honest, until methods are overridden. `every`: microseconds between two calls of `tick`."""

    name: ClassVar[str] = "honest"
    title: ClassVar[str] = ""
    every: ClassVar[int] = 20_000

    def __init__(self, own: Own) -> None:
        self.own = own
        self.rng = own.rng
        self.known = Knowledge()
        self._late: list[tuple[int, int, NodeId, Any]] = []
        self._count = 0
        self.lies = 0
        """How often it has said, or held back, what an honest node would not have."""

    # ---------------------------------------------------------------------------------- what its surroundings call

    def say(self, dest: NodeId, message: Any, now: int) -> list[Send]:
        """What leaves in place of a message of its own node."""
        self.known.see(self.own.node, message)
        sent = self.outgoing(dest, message, now)
        if len(sent) != 1 or sent[0][0] != dest or sent[0][1] is not message:
            self.lies += 1
        return sent

    def hear(self, sender: NodeId, message: Any, now: int) -> list[Send]:
        """What its own node hears in place of a message from outside: (sender, message)."""
        self.known.see(sender, message)
        return self.incoming(sender, message, now)

    def pass_time(self, now: int) -> list[Send]:
        """What leaves by itself."""
        due = [(dest, message) for at, _, dest, message in self._late if at <= now]
        self._late = [item for item in self._late if item[0] > now]
        more = self.tick(now)
        self.lies += len(more)
        return due + more

    def answer(self, message: Any, now: int) -> list[Any]:
        """What a client hears in place of a message."""
        sent = self.replying(message, now)
        if len(sent) != 1 or sent[0] is not message:
            self.lies += 1
        return sent

    # ------------------------------------------------------------------------------------------ what a liar overrides

    def outgoing(self, dest: NodeId, message: Any, now: int) -> list[Send]:
        """In place of what its node says to a peer."""
        return [(dest, message)]

    def incoming(self, sender: NodeId, message: Any, now: int) -> list[Send]:
        """In place of what its node would hear."""
        return [(sender, message)]

    def replying(self, message: Any, now: int) -> list[Any]:
        """In place of what its node says to a client."""
        return [message]

    def tick(self, now: int) -> list[Send]:
        """What it says of its own accord."""
        return []

    def later(self, delay: int, dest: NodeId, message: Any, now: int) -> list[Send]:
        """Hold a message back for so many microseconds, to the next `tick` after them."""
        self._count += 1
        self._late.append((now + delay, self._count, dest, message))
        return []
