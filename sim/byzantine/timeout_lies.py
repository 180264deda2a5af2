"""The strategy of a liar that forges what a quorum says when it gives a round up."""

from __future__ import annotations

from typing import Any

from consensus.bft.block import decode_block, genesis_qc
from consensus.bft.certificates import CertificateError, TimeoutCertificate, decode_qc, decode_tc
from consensus.bft.messages import Certificates, Proposal, Timeout
from consensus.bft.signing import timeout_statement
from consensus.core import NodeId
from sim.byzantine import forging
from sim.byzantine.strategy import Own, Send, Strategy

_SIGNATURE = 64
_KEPT = 32


class ForgeTimeouts(Strategy):
    """Timeouts under wrong signatures, or signed for another certificate than they bring; certificates of rounds given up with
    too few signers, with one of them many times, with signatures that are made up, of another round, or under other numbers
    than they stand for, or around another certificate than they speak of; and blocks that go by them."""

    name = "forge timeouts"
    title = "timeouts, and certificates of them, that must not verify"
    every = 40_000

    def __init__(self, own: Own) -> None:
        super().__init__(own)
        self._beginning = genesis_qc(own.committee).encode()
        self._tcs: dict[bytes, TimeoutCertificate] = {}
        self._given_up: dict[tuple[int, NodeId], tuple[int, bytes]] = {}
        """(round, member) -> (round of its highest certificate, its signature)."""

    def incoming(self, sender: NodeId, message: Any, now: int) -> list[Send]:
        self._note(sender, message)
        return [(sender, message)]

    def _note(self, sender: NodeId, message: Any) -> None:
        kind = type(message)
        if kind is Timeout:
            try:
                high = decode_qc(message.high_qc).round
            except CertificateError:
                return
            self._given_up[message.round, sender] = high, message.signature
            while len(self._given_up) > _KEPT:
                del self._given_up[next(iter(self._given_up))]
        encoded = (
            message.high_tc if kind is Certificates else message.tc if kind in (Proposal, Timeout) else b""
        )
        if encoded and encoded not in self._tcs:
            try:
                self._tcs[encoded] = decode_tc(encoded)
            except CertificateError:
                return
            while len(self._tcs) > _KEPT:
                del self._tcs[next(iter(self._tcs))]

    def outgoing(self, dest: NodeId, message: Any, now: int) -> list[Send]:
        self._note(self.own.node, message)
        kind, rng, own = type(message), self.rng, self.own
        if kind is Timeout and rng.random() < 0.5:
            high = decode_qc(message.high_qc).round
            forged = (
                Timeout(message.epoch, message.round, message.high_qc, message.tc, rng.randbytes(_SIGNATURE)),
                forging.timeout(own, message.round, message.high_qc, message.tc, claimed=max(0, high - 1)),
                Timeout(
                    message.epoch,
                    message.round,
                    message.high_qc,
                    self._bad(message.round - 1),
                    message.signature,
                ),
            )
            return [(dest, rng.choice(forged))]
        if kind is Proposal and rng.random() < 0.5:
            block = decode_block(message.block)
            made = forging.other_parent(own, self.known, block) or block
            return [(dest, forging.proposal(own, made, self._bad(made.round - 1)))]
        if kind is Certificates:
            return [(dest, Certificates(message.epoch, message.high_qc, self._bad(self._reached()), b""))]
        return [(dest, message)]

    def tick(self, now: int) -> list[Send]:
        forged = self._bad(self._reached() + self.rng.randrange(3))
        return [(self.rng.choice(self.own.peers), Certificates(self.own.committee.epoch, b"", forged, b""))]

    def _reached(self) -> int:
        return max((found.round for found in self.known.qcs.values()), default=1)

    def _bad(self, round: int) -> bytes:
        """A certificate that `round` was given up, of some kind that a careless verifier lets pass."""
        own, rng = self.own, self.rng
        committee = own.committee
        known = sorted(self.known.qcs, key=lambda data: self.known.qcs[data].round)
        low = next((data for data in known if 0 < self.known.qcs[data].round < round), self._beginning)
        high = decode_qc(low).round
        mine = (own.node, high, own.sign(timeout_statement(committee, round, high)))
        real = [(who, *said) for (at, who), said in self._given_up.items() if at == round and who != own.node]
        how = rng.randrange(7)
        if how == 0:  # too few
            rows = [mine, *real][: committee.quorum - 1]
        elif how == 1:  # one of them many times
            rows = [mine] * committee.quorum
        elif how == 2:  # made-up signatures of everybody
            rows = [mine, *((peer, high, rng.randbytes(_SIGNATURE)) for peer in own.peers)]
        elif how == 3:  # its own signature under every name
            rows = [(member, high, mine[2]) for member in committee.members]
        elif how == 4:  # real ones, of rounds that are not this one
            others = {who: (at_high, signature) for (_, who), (at_high, signature) in self._given_up.items()}
            rows = [mine, *((who, *said) for who, said in others.items() if who != own.node)]
        elif how == 5:  # what members have signed of this round, under lower numbers than they signed
            rows = [mine, *((who, high, signature) for who, _, signature in real)]
        elif self._tcs:  # true, around another certificate than the highest that was signed
            found = rng.choice(list(self._tcs.values()))
            return TimeoutCertificate(found.round, found.timeouts, low).encode()
        else:
            rows = []
        return TimeoutCertificate(max(0, round), tuple(rows), low).encode()
