"""Certificates: what a quorum has signed. They travel and are stored as bytes; equal bytes are equal certificates, and whoever
has verified them once knows them by their bytes again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgpack

from consensus.bft.committee import Committee
from consensus.bft.signing import Keyring, checkpoint_statement, timeout_statement, vote_statement
from consensus.core import NodeId, SnapshotMeta

MOST_SIGNERS: Final = 64
_SIGNATURE: Final = 64
_DIGEST: Final = 32
_MOST_INT: Final = (1 << 63) - 1


class CertificateError(ValueError):
    """Bytes that are no certificate, or one that does not verify; the text says why."""


Signatures = tuple[tuple[NodeId, bytes], ...]


@dataclass(slots=True, frozen=True)
class QuorumCertificate:
    """A quorum has voted for the block with this digest in this round. That of round 0, the genesis block's, needs no votes."""

    round: int
    block: bytes
    votes: Signatures

    def encode(self) -> bytes:
        """As bytes."""
        packed: bytes = msgpack.packb([self.round, self.block, [list(vote) for vote in self.votes]])
        return packed

    def verify(self, committee: Committee, keyring: Keyring, genesis: bytes) -> None:
        """Raises CertificateError unless it holds: enough distinct members, each with a valid signature."""
        if self.round == 0:
            if self.block != genesis or self.votes:
                raise CertificateError("a certificate of round 0 is of another genesis block, or has votes")
            return
        _enough(committee, [signer for signer, _ in self.votes], "votes")
        statement = vote_statement(committee, self.round, self.block)
        for signer, signature in self.votes:
            if not keyring.verify(signer, statement, signature):
                raise CertificateError(f"{signer}'s vote in round {self.round} does not verify")


@dataclass(slots=True, frozen=True)
class TimeoutCertificate:
    """A quorum has given `round` up. `timeouts`: (signer, the round of the highest certificate that it signed, signature). The
    certificate of the highest of these rounds comes along, encoded, so that whoever extends it can."""

    round: int
    timeouts: tuple[tuple[NodeId, int, bytes], ...]
    high_qc: bytes

    @property
    def high_round(self) -> int:
        """The highest round that a signer has signed."""
        return max((high for _, high, _ in self.timeouts), default=0)

    def encode(self) -> bytes:
        """As bytes."""
        packed: bytes = msgpack.packb([self.round, [list(item) for item in self.timeouts], self.high_qc])
        return packed

    def verify(self, committee: Committee, keyring: Keyring, genesis: bytes) -> None:
        """Raises CertificateError unless it holds, its `high_qc` with it."""
        _enough(committee, [signer for signer, _, _ in self.timeouts], "timeouts")
        for signer, high, signature in self.timeouts:
            if high >= self.round:
                raise CertificateError(
                    f"{signer} gives round {self.round} up with a certificate of round {high}"
                )
            if not keyring.verify(signer, timeout_statement(committee, self.round, high), signature):
                raise CertificateError(f"{signer}'s timeout of round {self.round} does not verify")
        carried = decode_qc(self.high_qc)
        if carried.round != self.high_round:
            raise CertificateError(
                f"a timeout certificate whose signers know round {self.high_round} carries a certificate of {carried.round}"
            )
        carried.verify(committee, keyring, genesis)


@dataclass(slots=True, frozen=True)
class Checkpoint:
    """The state behind log entry `index`, which is the last one of the block with this digest."""

    height: int
    round: int
    block: bytes
    index: int
    chain: bytes
    """Chain value at `index`."""
    digest: bytes
    """Of machine and sessions there (`ReplicatedState.digest`)."""
    root: bytes
    """Of the snapshot taken there."""
    size: int
    """Bytes of that snapshot."""

    def body(self) -> bytes:
        """What members sign."""
        packed: bytes = msgpack.packb(
            [self.height, self.round, self.block, self.index, self.chain, self.digest, self.root, self.size]
        )
        return packed

    def meta(self, members: tuple[NodeId, ...]) -> SnapshotMeta:
        """The snapshot, as whoever fetches it needs to know it."""
        return SnapshotMeta(self.index, self.round, self.chain, members, self.root, self.size)


@dataclass(slots=True, frozen=True)
class CheckpointCertificate:
    """A quorum has the same state at a checkpoint. `header`: the encoded block, so that whoever starts from here can go on."""

    checkpoint: Checkpoint
    header: bytes
    signatures: Signatures

    def encode(self) -> bytes:
        """As bytes."""
        packed: bytes = msgpack.packb(
            [self.checkpoint.body(), self.header, [list(item) for item in self.signatures]]
        )
        return packed

    def verify(self, committee: Committee, keyring: Keyring) -> None:
        """Raises CertificateError unless it holds. That `header` is the block of the checkpoint is for its reader to see."""
        _enough(committee, [signer for signer, _ in self.signatures], "checkpoints")
        statement = checkpoint_statement(committee, self.checkpoint.body())
        for signer, signature in self.signatures:
            if not keyring.verify(signer, statement, signature):
                raise CertificateError(f"{signer}'s checkpoint at {self.checkpoint.index} does not verify")


def _enough(committee: Committee, signers: list[NodeId], what: str) -> None:
    distinct = set(signers)
    if len(distinct) != len(signers):
        raise CertificateError(f"{what} of the same member are counted twice: {sorted(signers)}")
    strangers = distinct.difference(committee.members)
    if strangers:
        raise CertificateError(f"{what} of {min(strangers)}, which is no member")
    if len(signers) < committee.quorum:
        raise CertificateError(f"{len(signers)} {what}; a quorum is {committee.quorum}")


def _decode(data: bytes, what: str, read: Callable[[Any], Any]) -> Any:
    try:
        return read(msgpack.unpackb(data, raw=False, use_list=True))
    except CertificateError:
        raise
    except Exception as error:
        raise CertificateError(f"no {what}: {type(error).__name__}") from None


def _int(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _MOST_INT:
        raise CertificateError("a number is none, or out of range")
    return value


def _bytes(value: Any, size: int) -> bytes:
    if type(value) is not bytes or len(value) != size:
        raise CertificateError(f"a field is not {size} bytes long")
    return value


def _name(value: Any) -> str:
    if type(value) is not str or not 0 < len(value) <= 255:
        raise CertificateError("a name is none")
    return value


def _signatures(value: Any) -> Signatures:
    if type(value) is not list or len(value) > MOST_SIGNERS:
        raise CertificateError("too many signatures, or none at all")
    return tuple((_name(signer), _bytes(signature, _SIGNATURE)) for signer, signature in value)


def decode_qc(data: bytes) -> QuorumCertificate:
    """Read a quorum certificate, without verifying it. Raises CertificateError."""

    def read(value: Any) -> QuorumCertificate:
        round, block, votes = value
        return QuorumCertificate(_int(round), _bytes(block, _DIGEST), _signatures(votes))

    found: QuorumCertificate = _decode(data, "quorum certificate", read)
    return found


def decode_tc(data: bytes) -> TimeoutCertificate:
    """Read a timeout certificate, without verifying it. Raises CertificateError."""

    def read(value: Any) -> TimeoutCertificate:
        round, timeouts, high_qc = value
        if type(timeouts) is not list or len(timeouts) > MOST_SIGNERS or type(high_qc) is not bytes:
            raise CertificateError("too many timeouts, or no certificate")
        rows = tuple((_name(who), _int(high), _bytes(sig, _SIGNATURE)) for who, high, sig in timeouts)
        return TimeoutCertificate(_int(round), rows, high_qc)

    found: TimeoutCertificate = _decode(data, "timeout certificate", read)
    return found


def decode_checkpoint(data: bytes) -> CheckpointCertificate:
    """Read a checkpoint certificate, without verifying it. Raises CertificateError."""

    def read(value: Any) -> CheckpointCertificate:
        body, header, signatures = value
        if type(header) is not bytes:
            raise CertificateError("no header")
        return CheckpointCertificate(read_checkpoint(body), header, _signatures(signatures))

    found: CheckpointCertificate = _decode(data, "checkpoint certificate", read)
    return found


def read_checkpoint(body: bytes) -> Checkpoint:
    """Read `Checkpoint.body`. Raises CertificateError."""

    def read(value: Any) -> Checkpoint:
        height, round, block, index, chain, digest, root, size = value
        hashes = (_bytes(item, _DIGEST) for item in (block, chain, digest, root))
        block, chain, digest, root = hashes
        return Checkpoint(_int(height), _int(round), block, _int(index), chain, digest, root, _int(size))

    found: Checkpoint = _decode(body, "checkpoint", read)
    return found
