"""Blocks, certificates and signatures of the BFT log, read and verified from outside: a reader of the oracles' own, which shares
no code with what it watches but the wire format.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import msgpack

from sim.virtual.bft_committee import CLUSTER, EPOCH, liars, notary

_TAG: Final = b"ridethrough/bft/1"
PROPOSAL: Final = 1
VOTE: Final = 2
TIMEOUT: Final = 3
CHECKPOINT: Final = 4


class Bad(Exception):
    """It does not hold; the text says why."""


@dataclass(slots=True, frozen=True)
class SeenBlock:
    """What the oracles want to know of a block."""

    digest: bytes
    epoch: int
    round: int
    height: int
    author: str
    justify: bytes
    payload: tuple[bytes, ...]
    index: int
    parent: bytes
    parent_round: int


def statement(what: int, body: bytes) -> bytes:
    """The bytes under a signature of a virtual committee."""
    name = CLUSTER.encode()
    return _TAG + struct.pack(">BQ", len(name), EPOCH) + name + bytes([what]) + body


def _u64(number: int) -> bytes:
    return struct.pack(">Q", number)


class Reader:
    """Reads for one committee. Certificates that hold are remembered by their bytes, as are blocks."""

    def __init__(self, members: list[str], clients: int, lie: int | None = None) -> None:
        """`lie`: how many of them may lie; None: as many as so many stand."""
        self.members = tuple(members)
        n, r = len(members), liars(len(members)) if lie is None else lie
        # Two quorums share 2q - n members, more than may lie.
        self.quorum = next(q for q in range(1, n + 1) if 2 * q - n > r)
        self._notary = notary(self.members, clients)
        self._blocks: dict[bytes, SeenBlock] = {}
        self._qcs: dict[bytes, tuple[int, bytes]] = {}
        self._tcs: dict[bytes, int] = {}

    def signed(self, who: str, what: int, body: bytes, signature: bytes) -> bool:
        """Whether a member has signed a statement."""
        return self._notary.verify(who, statement(what, body), signature)

    def vote(self, who: str, round: int, block: bytes, signature: bytes) -> bool:
        """Whether a vote is the member's."""
        return self.signed(who, VOTE, _u64(round) + block, signature)

    def timeout(self, who: str, round: int, high: int, signature: bytes) -> bool:
        """Whether a timeout is the member's."""
        return self.signed(who, TIMEOUT, _u64(round) + _u64(high), signature)

    def proposal(self, who: str, round: int, block: bytes, signature: bytes) -> bool:
        """Whether a proposal is the member's."""
        return self.signed(who, PROPOSAL, _u64(round) + block, signature)

    def block(self, data: bytes) -> SeenBlock:
        """Read a block. Raises Bad."""
        known = self._blocks.get(data)
        if known is None:
            try:
                value: Any = msgpack.unpackb(data, raw=False)
                _, epoch, round, height, author, justify, payload, index = value[:8]
                parent_round, parent, _ = msgpack.unpackb(justify, raw=False)
            except Exception as error:
                raise Bad(f"no block: {error}") from None
            digest = sha256(_TAG + b"/block" + data).digest()
            known = self._blocks[data] = SeenBlock(
                digest, epoch, round, height, author, justify, tuple(payload), index, parent, parent_round
            )
        return known

    def _signers(self, rows: list[Any], what: str) -> None:
        names = [row[0] for row in rows]
        if len(dict.fromkeys(names)) != len(names):
            raise Bad(f"{what} of one member counted twice: {names}")
        if any(name not in self.members for name in names):
            raise Bad(f"{what} of somebody who is no member: {names}")
        if len(names) < self.quorum:
            raise Bad(f"{len(names)} {what}; it takes {self.quorum}")

    def qc(self, data: bytes) -> tuple[int, bytes]:
        """(round, block) of a quorum certificate that holds. Raises Bad."""
        known = self._qcs.get(data)
        if known is None:
            try:
                round, block, votes = msgpack.unpackb(data, raw=False)
            except Exception as error:
                raise Bad(f"no quorum certificate: {error}") from None
            if round > 0:
                self._signers(votes, "votes")
                for name, signature in votes:
                    if not self.vote(name, round, block, signature):
                        raise Bad(f"{name} has not signed that vote of round {round}")
            elif votes:
                raise Bad("votes for the beginning")
            known = self._qcs[data] = (round, block)
        return known

    def tc(self, data: bytes) -> int:
        """The round of a timeout certificate that holds. Raises Bad."""
        known = self._tcs.get(data)
        if known is None:
            try:
                round, rows, high_qc = msgpack.unpackb(data, raw=False)
            except Exception as error:
                raise Bad(f"no timeout certificate: {error}") from None
            self._signers(rows, "timeouts")
            for name, high, signature in rows:
                if not self.timeout(name, round, high, signature):
                    raise Bad(f"{name} has not signed that timeout of round {round}")
            highest = max(high for _, high, _ in rows)
            if self.qc(high_qc)[0] != highest or highest >= round:
                raise Bad(f"it carries another certificate than that of round {highest}, the highest signed")
            known = self._tcs[data] = round
        return known

    def checkpoint(self, data: bytes) -> list[Any]:
        """The fields of a checkpoint whose certificate holds. Raises Bad."""
        try:
            body, header, rows = msgpack.unpackb(data, raw=False)
            fields: list[Any] = msgpack.unpackb(body, raw=False)
        except Exception as error:
            raise Bad(f"no checkpoint certificate: {error}") from None
        self._signers(rows, "checkpoints")
        for name, signature in rows:
            if not self.signed(name, CHECKPOINT, sha256(body).digest(), signature):
                raise Bad(f"{name} has not signed that checkpoint")
        block = self.block(header)
        if (block.height, block.round, block.digest, block.index) != tuple(fields[:4]):
            raise Bad("its header is another block than the checkpoint's")
        return fields
