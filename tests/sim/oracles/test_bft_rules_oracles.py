"""The oracles of votes, timeouts and ages, each shown what must never happen, and what looks like it and is fine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from consensus.bft.block import Block, batch_digest, genesis, genesis_qc, make_block
from consensus.bft.certificates import QuorumCertificate, TimeoutCertificate
from consensus.bft.chain import extend
from consensus.bft.messages import Proposal, Timeout, Vote
from consensus.bft.signing import proposal_statement, timeout_statement, vote_statement
from consensus.bft.timing import Timing
from node.protocol import Answer
from sim.check.history import Operation
from sim.oracles.bft_reads import TrueAges
from sim.oracles.bft_rules import VoteRules
from sim.oracles.oracle import Violation
from sim.virtual.bft_committee import committee, notary
from sim.virtual.clock import Clock

NAMES = ["n1", "n2", "n3", "n4"]
HERE = committee(NAMES)
KEYS = notary(tuple(NAMES), 1)
ROOT = genesis(HERE)


def world(*liars: str) -> Any:
    """As much of a world as these oracles look at."""
    made = SimpleNamespace(
        names=NAMES, plan=SimpleNamespace(clients=1), may_lie=1, diverged={}, timeline=SimpleNamespace(now=0)
    )
    made.hosts = {
        name: SimpleNamespace(name=name, lied=name in liars, clock=Clock(), world=made) for name in NAMES
    }
    return made


def sign(name: str, statement: bytes) -> bytes:
    return KEYS.signer(name).sign(statement)


def vote(name: str, block: Block) -> Vote:
    return Vote(1, block.round, block.digest, sign(name, vote_statement(HERE, block.round, block.digest)))


def qc(block: Block) -> bytes:
    if block.round == 0:
        return genesis_qc(HERE).encode()
    votes = tuple((name, vote(name, block).signature) for name in NAMES[:3])
    return QuorumCertificate(block.round, block.digest, votes).encode()


def child(parent: Block, round: int, author: str = "") -> Block:
    leader = NAMES[parent.schedule[round % len(parent.schedule)]]
    return extend(parent, qc(parent), round, author or leader, [(batch_digest(1, b"x"), 1)], HERE, Timing())


def proposal(block: Block, tc: bytes = b"") -> Proposal:
    return Proposal(
        block.encoded, tc, sign(block.author, proposal_statement(HERE, block.round, block.digest))
    )


def tc(round: int, *highs: Block) -> bytes:
    rows = tuple(
        (name, high.round, sign(name, timeout_statement(HERE, round, high.round)))
        for name, high in zip(NAMES, highs, strict=False)
    )
    carried = max(highs, key=lambda block: block.round)
    return TimeoutCertificate(round, rows, qc(carried)).encode()


def timeout(name: str, round: int, high: Block) -> Timeout:
    return Timeout(1, round, qc(high), b"", sign(name, timeout_statement(HERE, round, high.round)))


class Said:
    """An oracle that hears all of it in order."""

    def __init__(self, *liars: str) -> None:
        self.world = world(*liars)
        self.oracle = VoteRules(self.world)

    def __call__(self, name: str, *messages: Any) -> None:
        host = self.world.hosts[name]
        for message in messages:
            (self.oracle.overheard if host.lied else self.oracle.said)(host, "n1", message)


def test_votes_for_blocks_of_consecutive_rounds_are_fine_and_may_be_said_again() -> None:
    said = Said()
    parent = ROOT
    for round in range(1, 6):
        block = child(parent, round)
        said(block.author, proposal(block))
        for name in NAMES:
            said(name, vote(name, block), vote(name, block))
        parent = block


def test_an_older_parent_needs_a_quorum_that_gave_the_round_before_up_and_knew_nothing_higher() -> None:
    one = child(ROOT, 1)
    two = child(one, 2)
    late = child(one, 4)
    for shown, fine in (
        (b"", False),
        (tc(3, one, ROOT, one), True),
        (tc(3, one, two, one), False),  # n2 knew of round 2
        (tc(2, one, ROOT, one), False),  # that is another round
        (tc(3, one, ROOT), False),  # and these are too few
    ):
        said = Said("n3")
        for block, reason in ((one, b""), (two, b""), (late, shown)):
            said("n3", proposal(block, reason))
        if fine:
            said("n1", vote("n1", late))
            continue
        with pytest.raises(Violation, match="nobody shows a quorum that gave the round before up"):
            said("n1", vote("n1", late))


def test_a_vote_is_for_a_block_of_who_leads_its_round() -> None:
    said = Said("n4")
    wrong = child(ROOT, 1, author="n4")
    said("n4", proposal(child(ROOT, 1)), proposal(wrong))
    said.oracle._proposed(proposal(child(ROOT, 1)))
    one = child(ROOT, 1)
    two = child(one, 2, author="n4")
    said("n4", proposal(one), proposal(two))
    with pytest.raises(Violation, match=r"n1 votes in round 2 for a block of n4; n3 leads it"):
        said("n1", vote("n1", two))


@pytest.mark.parametrize(("height", "index"), [(3, 2), (2, 9)])
def test_a_vote_is_for_a_block_that_follows_from_its_parent(height: int, index: int) -> None:
    said = Said("n3")
    one = child(ROOT, 1)
    good = child(one, 2)
    bad = make_block(
        good.epoch, good.round, height, good.author, good.justify, good.payload, index, good.weight,
        good.mark, good.marked, good.standing, good.schedule,
    )  # fmt: skip
    said("n3", proposal(one), proposal(bad))
    with pytest.raises(Violation, match=f"of height {height} that ends at entry {index}"):
        said("n1", vote("n1", bad))


def test_a_timeout_names_no_lower_certificate_than_those_below_the_blocks_voted_for() -> None:
    said = Said()
    one = child(ROOT, 1)
    two = child(one, 2)
    said("n2", timeout("n2", 1, ROOT), proposal(one), proposal(two))
    said("n1", vote("n1", one), vote("n1", two))
    said("n1", timeout("n1", 2, one), timeout("n1", 2, one))
    said("n2", timeout("n2", 2, ROOT))  # it has not voted on top of anything
    with pytest.raises(Violation, match="has voted on top of one of round 1"):
        said("n1", timeout("n1", 3, ROOT))


def test_what_a_liar_says_is_held_against_nobody() -> None:
    said = Said("n4")
    late = child(child(ROOT, 1), 3, author="n4")
    said("n4", proposal(late), Proposal(b"\xc1", b"\xc1", b""), Proposal(late.encoded, b"junk", b""))
    said("n4", vote("n4", late), timeout("n4", 9, ROOT))


# --------------------------------------------------------------------------------------------------------------- ages


def told(index: int, op: str = "write", consistency: str | None = None) -> Operation:
    return Operation(op, "c1", 0, 1, "ok", index=index, consistency=consistency)


def test_an_answer_holds_what_had_been_shown_before_its_age() -> None:
    at = world("n4")
    oracle = TrueAges(at)
    at.timeline.now = 1_000
    oracle.returned(told(7))
    at.timeline.now = 2_000
    oracle.returned(told(9, "query", "linearizable"))
    oracle.returned(told(50, "query", "any"))  # that shows nothing to anybody
    at.timeline.now = 2_500
    n1 = at.hosts["n1"]
    oracle.replied(n1, Answer(1, 9, bytes(32), 0, "fresh", b""))
    oracle.replied(n1, Answer(1, 7, bytes(32), 600, "fresh", b""))
    oracle.replied(n1, Answer(1, 0, bytes(32), 1_600, "stale", b""))
    oracle.replied(n1, Answer(1, 0, bytes(32), None, "stale", b""))  # it claims nothing
    oracle.replied(at.hosts["n4"], Answer(1, 0, bytes(32), 0, "fresh", b""))  # it lies
    with pytest.raises(Violation, match="answers from index 7 and claims an age of 400 us; index 9 had been"):
        oracle.replied(n1, Answer(1, 7, bytes(32), 400, "fresh", b""))


def test_a_slow_clock_makes_ages_look_shorter_and_that_is_allowed_for() -> None:
    at = world()
    oracle = TrueAges(at)
    at.timeline.now = 1_000_000
    oracle.returned(told(7))
    at.timeline.now = 2_000_000
    n1 = at.hosts["n1"]
    n1.clock = Clock(drift=-100_000)
    oracle.replied(n1, Answer(1, 0, bytes(32), 905_000, "stale", b""))
    with pytest.raises(Violation, match="n1 answers from index 0"):
        oracle.replied(n1, Answer(1, 0, bytes(32), 890_000, "stale", b""))
