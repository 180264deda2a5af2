"""Strategies: they sign with their own key alone, raise nothing whatever goes by, and are a function of their random stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from consensus.bft.block import Block, batch_digest, decode_block, genesis, genesis_qc
from consensus.bft.certificates import CertificateError, QuorumCertificate, decode_qc, decode_tc
from consensus.bft.chain import extend, flaw
from consensus.bft.messages import (
    Batch,
    BlockRequest,
    Blocks,
    Certificates,
    Proposal,
    ReadReply,
    Timeout,
    Vote,
)
from consensus.bft.signing import proposal_statement, timeout_statement, vote_statement
from consensus.bft.timing import Timing
from node.protocol import Answer, Chunk, DigestReport, Outcome, Refused, SessionOpened
from sim.byzantine import forging
from sim.byzantine.client_lies import STRATEGIES
from sim.byzantine.strategies import Equivocate, Silent
from sim.byzantine.strategy import Knowledge, Own, Strategy
from sim.byzantine.timeout_lies import ForgeTimeouts
from sim.virtual.bft_committee import committee, notary

NAMES = ("n1", "n2", "n3", "n4")
HERE = committee(NAMES)
KEYS = notary(NAMES, 2)
TIMING = Timing()


def own(seed: int = 0) -> Own:
    def elsewhere(member: str, statement: Any) -> bytes:
        return KEYS.signer(member).sign(statement(replace(HERE, cluster="elsewhere")))

    return Own("n1", HERE, KEYS.keyring("n1"), Random(seed), TIMING, elsewhere)


def certificate(round: int, block: bytes, signers: tuple[str, ...] = NAMES) -> QuorumCertificate:
    statement = vote_statement(HERE, round, block)
    return QuorumCertificate(
        round, block, tuple((name, KEYS.signer(name).sign(statement)) for name in signers)
    )


def chain(length: int) -> Iterator[tuple[Block, list[Batch]]]:
    """Blocks on top of each other, two batches each."""
    parent, justify = genesis(HERE), genesis_qc(HERE).encode()
    for round in range(1, length + 1):
        batches = [Batch("n1", 1, b"payload %d.%d" % (round, place)) for place in range(2)]
        named = [(batch_digest(1, batch.payload), len(batch.payload)) for batch in batches]
        block = extend(parent, justify, round, "n1", named, HERE, TIMING)
        yield block, batches
        parent, justify = block, certificate(round, block.digest).encode()


def life(strategy: Strategy) -> list[tuple[str, Any]]:
    """What leaves a liar while the usual messages of a cluster go by."""
    sent: list[tuple[str, Any]] = []
    now = 0
    for block, batches in chain(12):
        for batch in batches:
            for dest in NAMES[1:]:
                sent += strategy.say(dest, batch, now)
        proposal = forging.proposal(strategy.own, block)
        vote = forging.vote(strategy.own, block.round, block.digest)
        gone = forging.timeout(strategy.own, block.round, block.justify)
        for message in (
            proposal,
            vote,
            gone,
            ReadReply(7, block.justify),
            Certificates(1, block.justify, b"", b""),
        ):
            for dest in NAMES[1:]:
                sent += strategy.say(dest, message, now)
        for name in NAMES[1:]:
            theirs = KEYS.signer(name).sign(vote_statement(HERE, block.round, block.digest))
            strategy.hear(name, Vote(1, block.round, block.digest, theirs), now)
            strategy.hear(name, BlockRequest(block.digest, 3, 0), now)
        sent += strategy.say("n2", Blocks([block.encoded]), now)
        sent += strategy.say("n3", DigestReport(block.index, bytes(32), bytes(32)), now)
        sent += strategy.say("n4", Chunk(block.index, 1, 2, b"piece"), now)
        for reply in (
            Outcome(1 << 20, block.index, bytes(32), [1], [0], [b"ok"]),
            Answer(4, block.index, bytes(32), 5, "fresh", b"value"),
            SessionOpened(4, 1 << 20, block.index, bytes(32)),
            Refused(0, 1 << 20, [1], 3, "busy", None),
        ):
            sent += [("client", answer) for answer in strategy.answer(reply, now)]
        now += strategy.every
        sent += strategy.pass_time(now)
    return sent


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_lies_raises_nothing_and_is_a_function_of_its_stream(name: str) -> None:
    lies = 0
    for seed in range(6):
        strategy = STRATEGIES[name](own(seed))
        sent = life(strategy)
        assert sent == life(STRATEGIES[name](own(seed)))
        lies += strategy.lies
    assert lies, f"{name} never lied"


@pytest.mark.parametrize("name", STRATEGIES)
def test_what_verifies_as_another_members_word_that_member_has_said(name: str) -> None:
    heard = {
        signature
        for block, _ in chain(12)
        for member, signature in certificate(block.round, block.digest).votes
        if member != "n1"
    }
    checked = 0
    for seed in range(4):
        for _, message in life(STRATEGIES[name](own(seed))):
            if type(message) not in (Timeout, Certificates, ReadReply):
                continue
            try:
                found = decode_qc(message.high_qc)
            except CertificateError:
                continue
            statement = vote_statement(HERE, found.round, found.block)
            for member, signature in found.votes:
                if member != "n1" and KEYS.verify(member, statement, signature):
                    checked += 1
                    assert signature in heard
    assert checked or name == "silent"


def test_two_blocks_of_an_equivocator_are_both_well_made_and_differ() -> None:
    pairs = 0
    for seed in range(20):
        strategy = Equivocate(own(seed))
        for block, batches in chain(6):
            for batch in batches:
                strategy.say("n2", batch, 0)
            proposal = forging.proposal(strategy.own, block)
            sent = [item for dest in NAMES[1:] for item in strategy.say(dest, proposal, 0)]
            blocks = {message.block for _, message in sent}
            assert len(blocks) <= 2
            if len(blocks) == 2:
                pairs += 1
                (other,) = blocks - {block.encoded}
                found = decode_block(other)
                parent = strategy.known.parent(found)
                if parent is not None:
                    sizes = [size for _, size in strategy.known.sizes(found, parent) or []]
                    assert flaw(found, parent, sizes, HERE, TIMING) == ""
    assert pairs > 20


@pytest.mark.parametrize("seed", range(30))
def test_a_forged_certificate_never_verifies(seed: int) -> None:
    known = Knowledge()
    mine = own(seed)
    for block, _ in chain(5):
        known.see("n1", forging.proposal(mine, block))
        for name in NAMES[1:]:
            theirs = KEYS.signer(name).sign(vote_statement(HERE, block.round, block.digest))
            known.see(name, Vote(1, block.round, block.digest, theirs))
    for block in list(known.blocks.values())[1:]:
        forged = decode_qc(forging.bad_qc(mine, known, block.round + 1, bytes(32)))
        with pytest.raises(CertificateError):
            forged.verify(HERE, KEYS.keyring("n2"), genesis(HERE).digest)


def test_silence_is_kept_towards_the_same_members_all_the_time() -> None:
    for seed in range(10):
        strategy = Silent(own(seed))
        heard = {dest for dest, _ in life(strategy) if dest != "client"}
        assert len(heard) < 3


def test_a_broken_message_still_goes_through_the_wire_format() -> None:
    from consensus import wire

    mine = own(3)
    for block, _ in chain(3):
        for message in (
            forging.proposal(mine, block),
            forging.vote(mine, block.round, block.digest),
            Blocks([block.encoded]),
            BlockRequest(block.digest, 3, 0),
        ):
            for _ in range(60):
                assert wire.decode(wire.encode(forging.spoilt(mine, message)))


def test_what_a_strategy_remembers_is_bounded() -> None:
    known = Knowledge()
    for number in range(3_000):
        known.see("n2", Vote(1, number, number.to_bytes(32, "big"), bytes(64)))
        known.see("n2", Batch("n2", 1, b"%d" % number))
    assert max(len(known.votes), len(known.batches), len(known.said)) <= 256


def test_an_equivocator_signs_each_of_its_blocks() -> None:
    proposals = [message for _, message in life(Equivocate(own(1))) if type(message) is Proposal]
    assert len({message.block for message in proposals}) > 12
    for message in proposals:
        block = decode_block(message.block)
        assert KEYS.verify("n1", proposal_statement(HERE, block.round, block.digest), message.signature)


@pytest.mark.parametrize("seed", range(12))
def test_a_forged_certificate_of_timeouts_never_verifies(seed: int) -> None:
    liar = ForgeTimeouts(own(seed))
    forged = 0
    blocks = chain(5)
    for block, _ in blocks:
        liar.say("n2", forging.proposal(liar.own, block), 0)
        for name in NAMES[1:]:
            statement = timeout_statement(HERE, block.round + 1, block.round)
            said = certificate(block.round, block.digest).encode()
            liar.hear(name, Timeout(1, block.round + 1, said, b"", KEYS.signer(name).sign(statement)), 0)
    for turn in range(40):
        for _, message in liar.pass_time(turn * liar.every):
            forged += 1
            with pytest.raises(CertificateError):
                decode_tc(message.high_tc).verify(HERE, KEYS.keyring("n2"), genesis(HERE).digest)
    assert forged == 40
