"""One BFT core on its own: a test plays the other members (with their keys), the disk and the clock."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, TypeVar

from consensus.bft import chain
from consensus.bft.block import Block, batch_digest, genesis, genesis_qc
from consensus.bft.certificates import QuorumCertificate, TimeoutCertificate
from consensus.bft.committee import Committee
from consensus.bft.core import BftCore
from consensus.bft.messages import Batch, Proposal, Timeout, Vote
from consensus.bft.signing import (
    Keyring,
    proposal_statement,
    timeout_statement,
    vote_statement,
)
from consensus.bft.timing import Timing
from consensus.core import EntryKind, Out, Record, Refusal, SnapshotMeta
from sim.virtual.keys import Notary

T = TypeVar("T")
FOUR = ("n1", "n2", "n3", "n4")
NO_MARKS = Timing(mark_heights=1 << 40, turns=1 << 40)
BLOCK = int(EntryKind.BLOCK)


class Counting:
    """A keyring that counts."""

    def __init__(self, inner: Keyring) -> None:
        self.inner = inner
        self.signed = self.verified = 0

    def sign(self, data: bytes) -> bytes:
        self.signed += 1
        return self.inner.sign(data)

    def verify(self, node: str, data: bytes, signature: bytes) -> bool:
        self.verified += 1
        return self.inner.verify(node, data, signature)


class Solo:
    """Member `node`. `now` and `wait` hold what it wants to send, `records` what it wants written; `sync` writes it."""

    def __init__(
        self,
        node: str = "n1",
        members: Sequence[str] = FOUR,
        timing: Timing = NO_MARKS,
        journal: Sequence[Record] = (),
        snapshot: SnapshotMeta | None = None,
        committee: Committee | None = None,
        **options: Any,
    ) -> None:
        self.committee = committee or Committee.usual("solo", 1, members)
        self.notary = Notary(tuple(members))
        self.keys = Counting(self.notary.keyring(node))
        self.core = BftCore(node, self.committee, self.keys, random.Random(1), timing, **options)
        self.timing = timing
        self.clock = 1_000_000
        self.out = Out()
        self.journal = list(journal)
        self.records: list[Record] = []
        self.now: list[tuple[str, Any]] = []
        self.wait: list[tuple[str, Any]] = []
        self.committed: list[bytes] = []
        self.reads: list[tuple[int, int]] = []
        self.refused: list[tuple[int, Refusal]] = []
        self.installs: list[tuple[str, SnapshotMeta]] = []
        self.core.recover(self.journal, snapshot)
        self.core.start(self.clock, self.out)
        self.take()

    def take(self) -> None:
        out = self.out
        self.now += out.now
        self.wait += out.wait
        self.records += out.records
        self.committed += out.committed
        self.reads += out.reads
        self.refused += out.refused_reads
        if out.install is not None:
            self.installs.append(out.install)
        out.clear()

    def give(self, sender: str, message: Any) -> None:
        self.core.receive(sender, message, self.clock, self.out)
        self.take()

    def sync(self) -> None:
        """Everything written so far becomes durable, and so does what follows from that."""
        while self.records:
            self.journal += self.records
            self.records = []
            self.core.persisted(self.out.ticket, self.clock, self.out)
            self.take()

    def pass_time(self, duration: int) -> None:
        """Let deadlines pass, one by one."""
        end = self.clock + duration
        while self.core.deadline <= end:
            self.clock = max(self.clock, self.core.deadline)
            self.core.timeout(self.clock, self.out)
            self.take()
            self.sync()
        self.clock = end

    def propose(self, *payloads: bytes) -> Refusal | None:
        refusal = self.core.propose([(BLOCK, payload) for payload in payloads], self.clock, self.out)
        self.take()
        return refusal

    def said(self, kind: type[T], box: str = "wait") -> list[T]:
        """The messages of a kind so far, one for each time it was said, not for each receiver."""
        first = next(member for member in self.committee.members if member != self.core.node)
        return [m for dest, m in getattr(self, box) if type(m) is kind and dest == first]

    def again(self, snapshot: SnapshotMeta | None = None, **options: Any) -> Solo:
        """What comes back after a power cut."""
        options = {"timing": self.timing, "committee": self.committee} | options
        return Solo(
            self.core.node, self.committee.members, journal=self.journal, snapshot=snapshot, **options
        )

    # ----------------------------------------------------------------------------------------------- what others say

    @property
    def genesis(self) -> Block:
        return genesis(self.committee)

    @property
    def genesis_qc(self) -> QuorumCertificate:
        return genesis_qc(self.committee)

    def block(
        self,
        parent: Block,
        round: int,
        payloads: Sequence[bytes] = (),
        author: str | None = None,
        justify: QuorumCertificate | None = None,
    ) -> Block:
        """A child of `parent`, by who leads the round."""
        author = author or chain.leader_of(parent, round, self.committee)
        justify = justify or self.qc(parent)
        batches = [(batch_digest(BLOCK, payload), len(payload)) for payload in payloads]
        return chain.extend(parent, justify.encode(), round, author, batches, self.committee, self.timing)

    def qc(self, block: Block, signers: Sequence[str] | None = None) -> QuorumCertificate:
        """A certificate of a block."""
        if block.round == 0:
            return self.genesis_qc
        signers = signers or self.committee.members[: self.committee.quorum]
        statement = vote_statement(self.committee, block.round, block.digest)
        votes = tuple((name, self.notary.keyring(name).sign(statement)) for name in signers)
        return QuorumCertificate(block.round, block.digest, votes)

    def tc(
        self, round: int, high: QuorumCertificate, signers: Sequence[str] | None = None
    ) -> TimeoutCertificate:
        """A timeout certificate all of whose signers know `high`."""
        signers = signers or self.committee.members[: self.committee.quorum]
        statement = timeout_statement(self.committee, round, high.round)
        rows = tuple((name, high.round, self.notary.keyring(name).sign(statement)) for name in signers)
        return TimeoutCertificate(round, rows, high.encode())

    def proposal(self, block: Block, tc: TimeoutCertificate | None = None) -> Proposal:
        statement = proposal_statement(self.committee, block.round, block.digest)
        signature = self.notary.keyring(block.author).sign(statement)
        return Proposal(block.encoded, tc.encode() if tc else b"", signature)

    def vote(self, name: str, block: Block) -> Vote:
        statement = vote_statement(self.committee, block.round, block.digest)
        return Vote(
            self.committee.epoch, block.round, block.digest, self.notary.keyring(name).sign(statement)
        )

    def timeout(
        self, name: str, round: int, high: QuorumCertificate, tc: TimeoutCertificate | None = None
    ) -> Timeout:
        signature = self.notary.keyring(name).sign(timeout_statement(self.committee, round, high.round))
        return Timeout(self.committee.epoch, round, high.encode(), tc.encode() if tc else b"", signature)

    def show(
        self, block: Block, tc: TimeoutCertificate | None = None, payloads: Sequence[bytes] = ()
    ) -> None:
        """Let a block's author propose it, with its batches ahead of it."""
        for payload in payloads:
            self.give(block.author, Batch(block.author, BLOCK, payload))
        self.give(block.author, self.proposal(block, tc))

    def chain(self, *rounds: int, parent: Block | None = None) -> list[Block]:
        """Blocks of these rounds, each the parent of the next, all shown to the core."""
        parent = parent or self.genesis
        made = []
        for round in rounds:
            tc = self.tc(round - 1, self.qc(parent)) if round != parent.round + 1 else None
            block = self.block(parent, round)
            if block.author != self.core.node:
                self.show(block, tc)
            made.append(block)
            parent = block
        return made
