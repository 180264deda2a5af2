"""What one member that lies may cost the others: little before it is found out, and nothing for a while after."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
from bft_chain import committee_of
from bft_solo import BLOCK, NO_MARKS, Solo

from consensus.bft.block import MOST_ENCODED, BlockError, batch_digest, decode_block, genesis
from consensus.bft.messages import Batch, BatchRequest, Proposal

TIMING = dataclasses.replace(NO_MARKS, block_bytes=1000, batch_bytes=600)


class Judge:
    """Calls every batch bad that says so, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, kind: int, payload: bytes) -> str | None:
        self.asked += 1
        return "bad" if payload.startswith(b"bad") else None


def asked_for(solo: Solo) -> set[bytes]:
    return {digest for _, m in solo.now if type(m) is BatchRequest for digest in m.digests}


def test_of_a_member_that_has_brought_a_bad_batch_nothing_unasked_is_judged_for_a_while() -> None:
    judge = Judge()
    solo = Solo("n1", timing=TIMING, check=judge)
    solo.give("n2", Batch("n2", BLOCK, b"bad 0"))
    for number in range(50):
        solo.give("n2", Batch("n2", BLOCK, b"bad %d" % number))
        solo.give("n2", Batch("n2", BLOCK, b"good %d" % number))
    assert judge.asked == 1
    solo.give("n3", Batch("n3", BLOCK, b"good of another"))
    assert judge.asked == 2
    solo.clock += 10_000_001
    solo.give("n2", Batch("n2", BLOCK, b"good again"))
    assert solo.core.payloads.known(batch_digest(BLOCK, b"good again"))


def test_what_a_block_names_is_taken_even_of_a_member_that_was_bad_before() -> None:
    """Or a liar's one bad batch would cost an honest leader its turn."""
    solo = Solo("n1", timing=TIMING, check=Judge())
    block = solo.block(solo.genesis, 1, [b"good"])
    solo.give(block.author, Batch(block.author, BLOCK, b"bad"))
    solo.show(block)
    solo.give(block.author, Batch(block.author, BLOCK, b"good"))
    assert solo.core.tree.get(block.digest) is not None


def test_a_block_that_names_a_bad_batch_is_given_up_and_the_batch_asked_for_no_more() -> None:
    judge = Judge()
    solo = Solo("n1", timing=TIMING, check=judge)
    block = solo.block(solo.genesis, 1, [b"bad", b"good"])
    solo.show(block)
    bad = batch_digest(BLOCK, b"bad")
    assert solo.core.sync.wants_batch(bad)
    solo.give(block.author, Batch(block.author, BLOCK, b"bad"))
    assert not solo.core.sync.wants_batch(bad)
    assert not solo.core.sync.wants_batch(batch_digest(BLOCK, b"good"))
    for _ in range(20):
        solo.give("n3", Batch("n3", BLOCK, b"bad"))
    assert judge.asked == 2, "the second time it was a batch of its own, unasked"


def test_for_a_block_of_who_has_no_turn_nothing_is_fetched() -> None:
    solo = Solo("n1", timing=TIMING)
    right = solo.block(solo.genesis, 1).author
    other = next(name for name in ("n2", "n3", "n4") if name != right)
    solo.show(solo.block(solo.genesis, 1, [b"%d" % n for n in range(9)], author=other))
    solo.pass_time(2 * TIMING.resend)
    assert asked_for(solo) == set()
    assert solo.core.rejected["a block by who does not lead its round"] == 1


def test_of_a_block_that_names_more_than_a_block_may_hold_no_more_than_that_is_taken() -> None:
    solo = Solo("n1", timing=TIMING)
    payloads = [b"%02d" % number + bytes(500) for number in range(20)]
    block = solo.block(solo.genesis, 1, payloads)
    solo.show(block)
    before = len(solo.records)
    for payload in payloads:
        solo.give(block.author, Batch(block.author, BLOCK, payload))
    taken = sum(len(data) for _, data in solo.records[before:])
    assert not solo.core.sync.held
    assert not any(solo.core.sync.wants_batch(batch_digest(BLOCK, payload)) for payload in payloads)
    assert solo.core.rejected["a block of more than a block may hold"] == 1
    assert solo.core.tree.get(block.digest) is None
    # They are batches of its author as well, and within the bound of those.
    lent = [payload for payload in payloads if not solo.core.payloads.known(batch_digest(BLOCK, payload))]
    assert taken <= TIMING.author_bytes + TIMING.block_bytes
    assert lent == []


def test_a_block_of_one_batch_may_be_as_long_as_a_batch() -> None:
    solo = Solo("n1", timing=dataclasses.replace(TIMING, block_bytes=100))
    block = solo.block(solo.genesis, 1, [bytes(500)])
    solo.show(block, payloads=[bytes(500)])
    assert solo.core.tree.get(block.digest) is not None


@pytest.mark.parametrize("size", [4, 100])
def test_what_is_too_long_to_be_a_block_is_not_even_read(size: int) -> None:
    block = genesis(committee_of(size))
    assert len(block.encoded) < MOST_ENCODED / 4
    with pytest.raises(BlockError, match=r"a block of 70,?000 bytes"):
        decode_block(bytes(70_000))
    solo = Solo("n1", timing=TIMING)
    names = itertools.cycle(("n2", "n3"))
    for _ in range(4):
        solo.give(next(names), Proposal(bytes(70_000), b"", bytes(64)))
    assert solo.core.rejected["no block"] == 4
