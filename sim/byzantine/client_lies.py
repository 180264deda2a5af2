"""Strategies that lie about states: to clients, in digests and checkpoints, in pieces of snapshots, and about reads."""

from __future__ import annotations

import dataclasses
from hashlib import sha256
from typing import Any, Final

from consensus.bft.certificates import CertificateError, read_checkpoint
from consensus.bft.messages import Certificates, CheckpointVote, ReadReply, ReadRequest
from consensus.bft.signing import checkpoint_statement
from consensus.core import NodeId
from node.protocol import Answer, Chunk, Code, DigestReport, Outcome, QueryRefused, Refused, SessionOpened
from node.snapshot import SnapshotError, decode_manifest
from sim.byzantine.strategies import ORDERING, Whimsical
from sim.byzantine.strategy import Own, Send, Strategy
from sim.byzantine.timeout_lies import ForgeTimeouts

_STATES: Final = 64
"""Fetches of states that are remembered."""


def _other_manifest(data: bytes) -> bytes:
    """The list of pieces of a state of as many bytes, all of them zero."""
    try:
        true = decode_manifest(data)
    except SnapshotError:
        return data
    return dataclasses.replace(
        true, hashes=tuple(sha256(bytes(size)).digest() for size in true.sizes)
    ).encode()


class LiesToClients(Strategy):
    """Wrong outcomes, wrong answers, wrong sessions, refusals of what was done, or no reply at all."""

    name = "lies to clients"
    title = "wrong outcomes, answers, sessions and refusals"

    def replying(self, message: Any, now: int) -> list[Any]:
        rng = self.rng
        kind = type(message)
        if rng.random() < 0.25:
            return []
        if kind is Outcome:
            how = rng.randrange(4)
            if how == 0:
                return [dataclasses.replace(message, results=[rng.randbytes(5) for _ in message.results])]
            if how == 1:
                return [dataclasses.replace(message, index=message.index + rng.choice((-1, 1)))]
            if how == 2:
                places = [place + 1 for place in message.places]
                return [dataclasses.replace(message, places=places), message]
            return [
                Refused(
                    0, message.session, message.seqs, int(Code.UNKNOWN_SESSION), "never heard of it", None
                )
            ]
        if kind is Answer:
            how = rng.randrange(4)
            if how == 0:
                return [dataclasses.replace(message, result=rng.randbytes(4))]
            if how == 1:
                return [dataclasses.replace(message, age=0, tier="fresh", index=max(0, message.index - 1))]
            if how == 2:
                return [dataclasses.replace(message, chain=rng.randbytes(32))]
            return [QueryRefused(message.request, int(Code.BAD_QUERY), "no such thing", None)]
        if kind is SessionOpened:
            return [dataclasses.replace(message, session=message.session + 1)]
        if kind is Refused:
            return [dataclasses.replace(message, code=int(rng.choice(tuple(Code))), leader="nobody")]
        return [message]


class StateLiar(Strategy):
    """Digests and checkpoints of another state, two checkpoints at once, pieces of snapshots that are none, checkpoints that
    nobody has signed."""

    name = "state liar"
    title = "wrong digests, checkpoint votes and pieces of snapshots"

    def __init__(self, own: Own) -> None:
        super().__init__(own)
        self._bides = self.rng.random() < 0.5
        """It signs what is true, so that others come to fetch a state."""
        self._instead: dict[tuple[NodeId, int], bool] = {}
        """(who asks, for which snapshot) -> whether another state is given instead."""

    def outgoing(self, dest: NodeId, message: Any, now: int) -> list[Send]:
        rng, own = self.rng, self.own
        kind = type(message)
        if kind is DigestReport:
            how = rng.randrange(3)
            if how == 0:
                return [(dest, DigestReport(message.index, rng.randbytes(32), message.chain))]
            if how == 1:
                return [
                    (dest, DigestReport(message.index + rng.randint(0, 3), message.digest, rng.randbytes(32)))
                ]
            return []
        if kind is CheckpointVote and self._bides:
            return [(dest, message)]
        if kind is CheckpointVote:
            forged = self._vote(message)
            return [(dest, forged), (dest, message)] if rng.random() < 0.3 else [(dest, forged)]
        if kind is Chunk:
            return self._piece(dest, message)
        if kind is Certificates and message.checkpoint and not self._bides:
            data = bytearray(message.checkpoint)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return [(dest, Certificates(own.committee.epoch, message.high_qc, message.high_tc, bytes(data)))]
        return [(dest, message)]

    def _piece(self, dest: NodeId, message: Chunk) -> list[Send]:
        """A piece that is none, or a true one but for a bit; or a whole state that is none, in pieces that fit together."""
        rng = self.rng
        index, piece, pieces, data = message.index, message.piece, message.pieces, message.data
        if pieces and piece == 0:
            if len(self._instead) >= _STATES:
                self._instead.clear()
            self._instead[dest, index] = rng.random() < 0.4
            if self._instead[dest, index]:
                return [(dest, Chunk(index, 0, pieces, _other_manifest(data)))]
        elif pieces and self._instead.get((dest, index)):
            return [(dest, Chunk(index, piece, pieces, bytes(len(data))))]
        how = rng.randrange(8)
        if how == 0:
            return [(dest, Chunk(index, piece, pieces, rng.randbytes(len(data))))]
        if how == 1:
            return [(dest, Chunk(index, piece, 0, b""))]
        if how == 2:
            return [(dest, Chunk(index, piece + 1, pieces, data))]
        if how == 3:
            return [(dest, Chunk(index, piece, 1 << 40, data))]
        if how == 4 or not data:
            return []
        spoilt = bytearray(data)
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
        return [(dest, Chunk(index, piece, pieces, bytes(spoilt) if piece else data))]

    def _vote(self, message: CheckpointVote) -> CheckpointVote:
        try:
            checkpoint = read_checkpoint(message.checkpoint)
        except CertificateError:
            return message
        rng = self.rng
        change: dict[str, Any] = rng.choice((
            {"root": rng.randbytes(32)}, {"digest": rng.randbytes(32)}, {"chain": rng.randbytes(32)},
            {"index": checkpoint.index + 1}, {"block": rng.randbytes(32)}, {"height": checkpoint.height + 7},
        ))  # fmt: skip
        body = dataclasses.replace(checkpoint, **change).body()
        signature = self.own.sign(checkpoint_statement(self.own.committee, body))
        return CheckpointVote(message.epoch, body, signature)


class LiesAboutReads(Strategy):
    """Read barriers answered with what it knew long ago, with nothing, or twice."""

    name = "lies about reads"
    title = "read barriers answered with old certificates"

    def outgoing(self, dest: NodeId, message: Any, now: int) -> list[Send]:
        if type(message) is not ReadReply:
            return [(dest, message)]
        known = list(self.known.qcs)
        old = known[0] if known else b""
        draw = self.rng.random()
        if draw < 0.6:
            return [(dest, ReadReply(message.nonce, old))] * self.rng.choice((1, 3))
        if draw < 0.8:
            return [(dest, ReadReply(message.nonce + 1, message.high_qc))]
        return []

    def incoming(self, sender: NodeId, message: Any, now: int) -> list[Send]:
        if type(message) is ReadRequest and self.rng.random() < 0.2:
            return []
        return [(sender, message)]


class AnyLie(Whimsical):
    """Each moment another of all strategies."""

    of = (*ORDERING, LiesToClients, StateLiar, LiesAboutReads, ForgeTimeouts)


_KINDS: Final[tuple[type[Strategy], ...]] = (*AnyLie.of, AnyLie)
STRATEGIES: Final[dict[str, type[Strategy]]] = {kind.name: kind for kind in _KINDS}
"""Every strategy, by name."""
