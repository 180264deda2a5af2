"""What is signed, and by whom. The bytes under a signature begin with what they are: a domain tag, the cluster, the epoch, the
type of the statement; so no signature says anything in another cluster, in another epoch, or of another kind (two kinds of
statement over the same bytes were a real bug, and so was an acknowledgement that named no epoch).
"""

from __future__ import annotations

import struct
from enum import IntEnum
from hashlib import sha256
from typing import Final, Protocol

from consensus.bft.committee import Committee
from consensus.core import NodeId

DOMAIN: Final = b"ridethrough/bft/1"
_HEAD: Final = struct.Struct(">BQ")
_U64: Final = struct.Struct(">Q")


class Keyring(Protocol):
    """Signs as this node, and verifies as whoever knows the members' public keys. Handed to a core; the core holds no key."""

    def sign(self, data: bytes) -> bytes:
        """This node's signature under `data`."""

    def verify(self, node: NodeId, data: bytes, signature: bytes) -> bool:
        """Whether `signature` is `node`'s under `data`. False for an unknown node, and for bytes that are no signature."""


class Statement(IntEnum):
    """Types of signed statements."""

    PROPOSAL = 1
    VOTE = 2
    TIMEOUT = 3
    CHECKPOINT = 4


def _statement(committee: Committee, what: Statement, body: bytes) -> bytes:
    cluster = committee.cluster.encode()
    return b"".join((DOMAIN, _HEAD.pack(len(cluster), committee.epoch), cluster, bytes((what,)), body))


def proposal_statement(committee: Committee, round: int, block: bytes) -> bytes:
    """By a proposer, of the block with that digest (which covers all its fields)."""
    return _statement(committee, Statement.PROPOSAL, _U64.pack(round) + block)


def vote_statement(committee: Committee, round: int, block: bytes) -> bytes:
    """By a voter: I hold the block with that digest and its payload, and vote for nothing else in its round."""
    return _statement(committee, Statement.VOTE, _U64.pack(round) + block)


def timeout_statement(committee: Committee, round: int, high_round: int) -> bytes:
    """By who gives `round` up: I vote in no round up to it any more; the highest certificate I know is of `high_round`."""
    return _statement(committee, Statement.TIMEOUT, _U64.pack(round) + _U64.pack(high_round))


def checkpoint_statement(committee: Committee, body: bytes) -> bytes:
    """By who has applied the log up to a checkpoint: this is the state there (`Checkpoint.body`)."""
    return _statement(committee, Statement.CHECKPOINT, sha256(body).digest())
