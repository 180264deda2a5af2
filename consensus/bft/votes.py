"""Votes and timeouts on their way to certificates, signatures that are verified once, and proof of who has signed two things.

V1  A member counts once in a round, whatever it sends.
V2  The first statement of a member in a round stays; a second, different one is evidence and counts for nothing.
V3  Nothing is counted towards a certificate that has not been verified.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from consensus.bft.certificates import (
    CertificateError,
    QuorumCertificate,
    Signatures,
    TimeoutCertificate,
    decode_qc,
    decode_tc,
)
from consensus.bft.committee import Committee
from consensus.bft.signing import Keyring, timeout_statement, vote_statement
from consensus.core import NodeId
from consensus.marks import sometimes

WINDOW: Final = 8
"""Votes are kept for so many rounds around the current one."""
MOST_SIGNATURES: Final = 1 << 13
MOST_CERTIFICATES: Final = 1 << 9
MOST_EVIDENCE: Final = 8
"""Pieces of evidence that are kept of one member."""


class Remembering:
    """A keyring that verifies nothing twice."""

    __slots__ = ("_inner", "_known")

    def __init__(self, inner: Keyring) -> None:
        self._inner = inner
        self._known: dict[tuple[NodeId, bytes, bytes], None] = {}

    def sign(self, data: bytes) -> bytes:
        """See `Keyring.sign`."""
        return self._inner.sign(data)

    def verify(self, node: NodeId, data: bytes, signature: bytes) -> bool:
        """See `Keyring.verify`. Only what verifies is remembered: what does not could be anything."""
        key = (node, data, signature)
        known = self._known
        if key in known:
            return True
        if not self._inner.verify(node, data, signature):
            return False
        if len(known) >= MOST_SIGNATURES:
            del known[next(iter(known))]
        known[key] = None
        return True


class Judge:
    """Reads and verifies certificates; those that hold are known by their bytes again."""

    def __init__(self, committee: Committee, keyring: Keyring, genesis: bytes) -> None:
        self._committee = committee
        self._keyring = keyring
        self._genesis = genesis
        self._qcs: dict[bytes, QuorumCertificate] = {}
        self._tcs: dict[bytes, TimeoutCertificate] = {}

    def qc(self, encoded: bytes) -> QuorumCertificate:
        """A quorum certificate that holds. Raises CertificateError for another."""
        found = self._qcs.get(encoded)
        if found is None:
            found = decode_qc(encoded)
            found.verify(self._committee, self._keyring, self._genesis)
            self.know(encoded, found)
        return found

    def tc(self, encoded: bytes) -> TimeoutCertificate:
        """A timeout certificate that holds, and with it the certificate that it carries. Raises CertificateError for another."""
        found = self._tcs.get(encoded)
        if found is None:
            found = decode_tc(encoded)
            found.verify(self._committee, self._keyring, self._genesis)
            _bounded(self._tcs, encoded, found)
        return found

    def know(self, encoded: bytes, qc: QuorumCertificate) -> None:
        """A certificate was made here of verified votes."""
        _bounded(self._qcs, encoded, qc)

    def know_tc(self, encoded: bytes, tc: TimeoutCertificate) -> None:
        """A timeout certificate was made here of verified timeouts."""
        _bounded(self._tcs, encoded, tc)


def _bounded(table: dict[bytes, Any], key: bytes, value: Any) -> None:
    if len(table) >= MOST_CERTIFICATES:
        del table[next(iter(table))]
    table[key] = value


class Evidence:
    """Two different statements by one member in one round: it lies. Only verified ones get here."""

    def __init__(self) -> None:
        self._found: dict[tuple[NodeId, int, str], tuple[str, str]] = {}

    def add(self, node: NodeId, round: int, kind: str, first: bytes, second: bytes) -> None:
        """`first` and `second`: what was said, with its signature. The first pieces of each member are kept."""
        key = (node, round, kind)
        if key in self._found or sum(who == node for who, _, _ in self._found) >= MOST_EVIDENCE:
            return
        self._found[key] = (first.hex(), second.hex())

    def show(self) -> list[dict[str, Any]]:
        """All that is known, oldest first."""
        return [
            {"node": node, "round": round, "kind": kind, "first": first, "second": second}
            for (node, round, kind), (first, second) in self._found.items()
        ]


@dataclass(slots=True)
class _Ballot:
    block: bytes
    signature: bytes
    verified: bool


class Votes:
    """Votes by round and member. A vote comes over its sender's own connection, so one that does not verify spoils only the
    sender's place; it is verified when there are enough for a certificate, and not at all if it comes late."""

    def __init__(self, committee: Committee, keyring: Keyring, evidence: Evidence) -> None:
        self._committee = committee
        self._keyring = keyring
        self._evidence = evidence
        self._rounds: dict[int, dict[NodeId, _Ballot]] = {}
        self._made: dict[int, bytes] = {}
        """Round -> the block for which a certificate was made here."""

    def __len__(self) -> int:
        return sum(map(len, self._rounds.values()))

    def add(
        self, member: NodeId, round: int, block: bytes, signature: bytes, verified: bool = False
    ) -> QuorumCertificate | None:
        """Count a member's vote; the certificate, if this vote completes the first one of its round."""
        ballots = self._rounds.get(round)
        if ballots is None:
            ballots = self._rounds[round] = {}
        before = ballots.get(member)
        if before is not None:
            if before.block == block and (before.verified or before.signature == signature):
                return None
            if not self._replace(member, round, before, _Ballot(block, signature, verified)):
                return None
        else:
            ballots[member] = _Ballot(block, signature, verified)
        if round in self._made or len(ballots) < self._committee.quorum:
            return None
        return self._certificate(round, block)

    def _replace(self, member: NodeId, round: int, before: _Ballot, after: _Ballot) -> bool:
        """A second vote of a member in a round. Whether it takes the place of the first, because that one is not the member's."""
        if not self._verify(member, round, after):
            return False
        if self._verify(member, round, before):
            if before.block != after.block:
                sometimes("a member votes for two blocks in one round")
                pair = [ballot.block + ballot.signature for ballot in (before, after)]
                self._evidence.add(member, round, "vote", pair[0], pair[1])
            return False
        sometimes("a vote that does not verify makes room for one that does")
        self._rounds[round][member] = after
        return True

    def _verify(self, member: NodeId, round: int, ballot: _Ballot) -> bool:
        if not ballot.verified:
            statement = vote_statement(self._committee, round, ballot.block)
            ballot.verified = self._keyring.verify(member, statement, ballot.signature)
        return ballot.verified

    def _certificate(self, round: int, block: bytes) -> QuorumCertificate | None:
        ballots = self._rounds[round]
        quorum = self._committee.quorum
        if sum(ballot.block == block for ballot in ballots.values()) < quorum:
            sometimes("a quorum has voted in a round, but not for the same block")
            return None
        votes = self._good(round, block)
        if len(votes) < quorum:
            return None
        self._made[round] = block
        return QuorumCertificate(round, block, votes)

    def _good(self, round: int, block: bytes) -> Signatures:
        """The verified votes for a block, in the order of the members; those that do not verify are dropped."""
        ballots = self._rounds.get(round, {})
        good = []
        for member in self._committee.members:
            ballot = ballots.get(member)
            if ballot is None or ballot.block != block:
                continue
            if self._verify(member, round, ballot):
                good.append((member, ballot.signature))
            else:
                sometimes("a vote is dropped when it is needed: it does not verify")
                del ballots[member]
        return tuple(good)

    def richest(self, qc: QuorumCertificate) -> QuorumCertificate:
        """A certificate of the same block by all members whose votes are here or in `qc`: who signs late shows that it lives."""
        if qc.round not in self._rounds:
            return qc
        votes = dict(qc.votes)
        votes.update(self._good(qc.round, qc.block))
        if len(votes) == len(qc.votes):
            return qc
        sometimes("a leader adds late votes to a certificate")
        ordered = tuple((member, votes[member]) for member in self._committee.members if member in votes)
        return QuorumCertificate(qc.round, qc.block, ordered)

    def keep(self, lowest: int, highest: int) -> None:
        """Forget the rounds outside."""
        for round in [round for round in self._rounds if not lowest <= round <= highest]:
            del self._rounds[round]
            self._made.pop(round, None)


@dataclass(slots=True)
class Timeouts:
    """The timeouts of one round; all of them verified, with the certificates whose rounds they sign."""

    committee: Committee
    keyring: Keyring
    evidence: Evidence
    round: int = 0
    given: dict[NodeId, tuple[int, bytes, bytes]] = field(default_factory=dict)
    """Member -> (round of its highest certificate, its signature, that certificate)."""

    def enter(self, round: int) -> None:
        """Another round begins."""
        self.round = round
        self.given = {}

    def add(self, member: NodeId, high_round: int, signature: bytes, high_qc: bytes) -> bool:
        """Count a verified timeout of the current round. False: the member's counts already."""
        before = self.given.get(member)
        if before is not None:
            if before[0] != high_round:
                sometimes("a member gives a round up with two different certificates")
                pair = [b"%d/" % before[0] + before[1], b"%d/" % high_round + signature]
                self.evidence.add(member, self.round, "timeout", pair[0], pair[1])
            return False
        self.given[member] = (high_round, signature, high_qc)
        return True

    def said(self, member: NodeId, signature: bytes) -> bool:
        """Whether this very timeout is counted."""
        before = self.given.get(member)
        return before is not None and before[1] == signature

    def verify(self, member: NodeId, high_round: int, signature: bytes) -> None:
        """Raises CertificateError unless it is the member's signature under a timeout of the current round."""
        statement = timeout_statement(self.committee, self.round, high_round)
        if not self.keyring.verify(member, statement, signature):
            raise CertificateError("timeout: signature")

    def certificate(self) -> TimeoutCertificate | None:
        """The certificate, once there are enough."""
        if len(self.given) < self.committee.quorum:
            return None
        rows = [
            (member, self.given[member][0], self.given[member][1])
            for member in self.committee.members
            if member in self.given
        ]
        _, _, carried = max(self.given.values(), key=lambda timeout: timeout[0])
        return TimeoutCertificate(self.round, tuple(rows), carried)
