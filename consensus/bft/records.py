"""What the BFT core writes to its journal, and how a run of such records is read back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgpack

from consensus import wire
from consensus.bft.block import Block, BlockError, decode_block
from consensus.bft.messages import CheckpointVote, Timeout, Vote
from consensus.bft.rules import Safety
from consensus.core import NodeId, Record

BATCH: Final = 1
"""Kind (u8), length of the author's name (u8), the name, the payload."""
BLOCK: Final = 2
"""An encoded block; its parent stands before it, or is the base."""
SAFETY: Final = 3
"""`Spoken`: what this node has signed last, and the certificates that it stands by. One record: two could be torn apart."""
BASE: Final = 4
"""An encoded block: everything up to it is covered by a snapshot, or it is the genesis block."""
COMMIT: Final = 5
"""Digest of a committed block. A hint that saves waiting after a restart."""
CHECKPOINT: Final = 6
"""An encoded checkpoint certificate."""
OWN_CHECKPOINT: Final = 7
"""This node's vote for a checkpoint that no certificate covers yet."""

T = TypeVar("T")


@dataclass(slots=True)
class Spoken:
    """What this node has said last, word for word: after a restart it says the same again, and never anything else."""

    epoch: int
    safety: Safety
    vote: Vote | None = None
    timeout: Timeout | None = None
    proposal: tuple[int, bytes, bytes, bytes] | None = None
    """(round, digest of the block, timeout certificate or nothing, signature); the block has a record of its own."""
    high_qc: bytes = b""
    high_tc: bytes = b""

    def record(self) -> Record:
        """As a record. What was said in an earlier round than the last vote is never said again, and is left out."""
        state = self.safety
        timeout = self.timeout if self.timeout and self.timeout.round >= state.voted_round else None
        proposal = self.proposal if self.proposal and self.proposal[0] >= state.voted_round else None
        packed: bytes = msgpack.packb(
            [
                self.epoch,
                [state.voted_round, state.preferred_round, state.timeout_round, state.proposed_round],
                wire.encode(self.vote) if self.vote else b"",
                wire.encode(timeout) if timeout else b"",
                list(proposal) if proposal else [],
                self.high_qc,
                self.high_tc,
            ]
        )
        return SAFETY, packed


def batch(author: NodeId, kind: int, payload: bytes) -> Record:
    """A batch that a block may name."""
    name = author.encode()
    return BATCH, b"".join((bytes((kind, len(name))), name, payload))


def own_checkpoint(vote: CheckpointVote) -> Record:
    """A vote for a checkpoint."""
    return OWN_CHECKPOINT, wire.encode(vote)


@dataclass(slots=True)
class Replayed:
    """What a run of records says. `blocks` hang together: each one's parent stands before it, the first one's is the base."""

    base: Block | None = None
    """None: no record of it; then it is the genesis block."""
    blocks: dict[bytes, Block] = field(default_factory=dict)
    batches: list[tuple[NodeId, int, bytes]] = field(default_factory=list)
    lent: list[tuple[NodeId, int, bytes]] = field(default_factory=list)
    """Batches that wait no more, and are only there for blocks that name them."""
    spoken: Spoken | None = None
    committed: bytes = b""
    checkpoints: list[bytes] = field(default_factory=list)
    own_checkpoints: list[CheckpointVote] = field(default_factory=list)

    def add(self, record: Record, genesis: Block) -> None:
        """Take in one more record. Raises ValueError where it cannot follow."""
        kind, data = record
        if kind == BATCH:
            end = 2 + data[1]
            self.batches.append((data[2:end].decode(), data[0], data[end:]))
        elif kind == BLOCK:
            block = decode_block(data)
            root = self.base or genesis
            if block.parent.block != root.digest and block.parent.block not in self.blocks:
                raise ValueError(f"the block of round {block.round} stands here without its parent")
            self.blocks[block.digest] = block
        elif kind == SAFETY:
            self._say(_spoken(data))
        elif kind == BASE:
            self._rebase(decode_block(data), genesis)
        elif kind == COMMIT:
            self.committed = data
        elif kind == CHECKPOINT:
            self.checkpoints.append(data)
        elif kind == OWN_CHECKPOINT:
            self.own_checkpoints.append(_message(data, CheckpointVote))
        else:
            raise ValueError(f"unknown record kind {kind}; was this journal written by another protocol?")

    def _say(self, spoken: Spoken) -> None:
        if self.spoken is not None:
            old, new = self.spoken.safety, spoken.safety
            for name in ("voted_round", "preferred_round", "timeout_round", "proposed_round"):
                if getattr(new, name) < getattr(old, name):
                    raise ValueError(f"{name} goes back from {getattr(old, name)} to {getattr(new, name)}")
            vote, again = self.spoken.vote, spoken.vote
            if vote and again and vote.round == again.round and vote != again:
                raise ValueError(f"the vote of round {vote.round} changes")
        self.spoken = spoken

    def _rebase(self, base: Block, genesis: Block) -> None:
        if base.height < (self.base or genesis).height:
            return
        if base.digest not in self.blocks and base.digest != (self.base or genesis).digest:
            # A state was installed: which of the batches it holds already nobody can tell (`Payloads.stop_waiting`). Later
            # blocks may name them all the same.
            self.lent += self.batches
            self.batches = []
        kept: dict[bytes, Block] = {}
        for digest, block in self.blocks.items():
            parent = block.parent.block
            if parent == base.digest or parent in kept:
                kept[digest] = block
        self.base, self.blocks = base, kept


def _message(data: bytes, cls: type[T]) -> T:
    message = wire.decode(data)
    if type(message) is not cls:
        raise ValueError(f"a {type(message).__name__} stands where a {cls.__name__} should")
    return message


def _spoken(data: bytes) -> Spoken:
    value: Any = msgpack.unpackb(data, raw=False, use_list=True)
    epoch, rounds, vote, timeout, proposal, high_qc, high_tc = value
    return Spoken(
        epoch,
        Safety(*rounds),
        _message(vote, Vote) if vote else None,
        _message(timeout, Timeout) if timeout else None,
        (proposal[0], proposal[1], proposal[2], proposal[3]) if proposal else None,
        high_qc,
        high_tc,
    )


def replay(records: Iterable[Record], genesis: Block) -> Replayed:
    """Read a run of records, oldest first. Raises ValueError with the reason if they contradict themselves."""
    replayed = Replayed()
    for number, record in enumerate(records):
        try:
            replayed.add(record, genesis)
        except (ValueError, TypeError, IndexError, BlockError) as error:
            raise ValueError(f"journal record {number}: {error}") from None
    return replayed
