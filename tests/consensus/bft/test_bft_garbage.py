"""Whatever the bytes, `receive` raises nothing, asserts nothing of its own, and what is kept stays small."""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

import msgpack
import pytest
from bft_solo import BLOCK, FOUR, NO_MARKS, Solo
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.bft import messages
from consensus.bft.block import decode_block
from consensus.bft.messages import (
    Batch,
    BatchRequest,
    BlockRequest,
    Blocks,
    Certificates,
    CheckpointVote,
    Proposal,
    ReadReply,
    ReadRequest,
    Timeout,
    Vote,
)

KINDS = [
    Proposal,
    Vote,
    Timeout,
    Batch,
    BatchRequest,
    BlockRequest,
    Blocks,
    Certificates,
    ReadRequest,
    ReadReply,
    CheckpointVote,
]

JUNK = st.binary(max_size=80) | st.recursive(
    st.none()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.binary(max_size=70)
    | st.text(max_size=4)
    | st.floats(),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=12,
).map(lambda value: bytes(msgpack.packb(value)))

NUMBERS = st.integers(0, 4) | st.integers(0, (1 << 63) - 1)


def real() -> list[Any]:
    """True messages of every kind, from which parts are taken."""
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1, [b"a"])
    two = solo.block(one, 2)
    tc = solo.tc(2, solo.qc(one))
    three = solo.block(one, 3)
    return [
        solo.proposal(one),
        solo.proposal(two),
        solo.proposal(three, tc),
        solo.vote("n2", one),
        solo.vote("n3", two),
        solo.timeout("n2", 2, solo.qc(one)),
        solo.timeout("n3", 3, solo.qc(one), tc),
        Batch("n2", BLOCK, b"a"),
        BatchRequest(list(one.payload)),
        BlockRequest(two.digest, 5, 0),
        Blocks([two.encoded, one.encoded]),
        Certificates(1, solo.qc(two).encode(), tc.encode(), b""),
        ReadRequest(5),
        ReadReply(5, solo.qc(one).encode()),
        CheckpointVote(1, b"", bytes(64)),
    ]


REAL = real()
PARTS = {
    kind: [
        getattr(m, f.name) for m in REAL for f in dataclasses.fields(m) if type(getattr(m, f.name)) is kind
    ]
    for kind in (bytes, int, str)
}


def field(hint: Any) -> st.SearchStrategy[Any]:
    if hint is int:
        return NUMBERS | st.sampled_from(PARTS[int])
    if hint is bytes:
        part = st.sampled_from(PARTS[bytes])
        flipped = st.tuples(part, st.integers(0, 4000)).map(lambda pair: _flip(*pair))
        return part | flipped | JUNK
    if hint is str:
        return st.sampled_from([*FOUR, "", "n9"])
    return st.lists(field(bytes), max_size=4)


def _flip(data: bytes, place: int) -> bytes:
    if not data:
        return data
    place %= len(data)
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def message() -> st.SearchStrategy[Any]:
    made = []
    for kind in KINDS:
        hints = get_type_hints(kind)
        made.append(st.builds(kind, *(field(hints[f.name]) for f in dataclasses.fields(kind))))
    return st.one_of(*made) | st.sampled_from(REAL)


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([*FOUR, "n9"]), message()), max_size=16), st.sampled_from(FOUR))
def test_no_bytes_make_a_core_raise_or_vote_twice(heard: list[tuple[str, Any]], node: str) -> None:
    solo = Solo(node)
    for sender, what in heard:
        solo.give(sender, what)
        solo.clock += 10_000
        solo.core.timeout(solo.clock, solo.out)
        solo.take()
        solo.sync()
    votes: dict[int, bytes] = {}
    for vote in solo.said(Vote):
        assert votes.setdefault(vote.round, vote.block) == vote.block
    for proposal in solo.said(Proposal):
        assert decode_block(proposal.block).author == node
    assert len(solo.core.rejected) <= 24
    back, state = solo.again().core.safety, solo.core.safety
    assert (back.voted_round, back.timeout_round) == (state.voted_round, state.timeout_round)


def test_every_kind_of_message_is_tried_above() -> None:
    registered = {value for value in vars(messages).values() if dataclasses.is_dataclass(value)}
    assert registered == set(KINDS)


@pytest.mark.parametrize("count", [400])
def test_a_leader_that_proposes_without_end_fills_no_memory(count: int) -> None:
    solo = Solo("n1", timing=dataclasses.replace(NO_MARKS, author_bytes=20_000))
    for number in range(count):
        block = solo.block(solo.genesis, 1, [b"%d" % number])
        solo.give("n2", solo.proposal(block))
        solo.give("n2", Batch("n2", BLOCK, b"waiting %d" % number + bytes(500)))
        solo.give("n2", Blocks([block.encoded]))
        solo.give("n2", CheckpointVote(1, b"%d" % number, bytes(64)))
    core = solo.core
    assert len(core.sync.held) <= 1
    assert len(core.tree) <= 2
    assert core.payloads.charged("n2") <= 20_000
    assert len(core.evidence.show()) <= 8
    assert solo.propose(b"somebody else's") is None


def test_a_peer_that_asks_without_end_is_not_answered_without_end() -> None:
    solo = Solo("n1")
    big = bytes(1 << 20)
    one = solo.block(solo.genesis, 1, [big])
    solo.show(one, payloads=[big])
    for _ in range(100):
        solo.give("n4", BatchRequest([one.payload[0]] * 50))
        solo.give("n4", BlockRequest(one.digest, 1 << 60, 0))
    sent = sum(len(m.payload) for dest, m in solo.now if dest == "n4" and type(m) is Batch)
    assert 0 < sent <= 8 << 20
    solo.clock += solo.timing.resend
    before = len(solo.now)
    solo.give("n4", BatchRequest([one.payload[0]]))
    assert len(solo.now) == before + 1, "and later it is answered again"


def test_blocks_that_came_before_garbage_in_the_same_reply_are_asked_for_again_and_not_lost() -> None:
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1, author="n2")
    two = solo.block(one, 2)
    three = solo.block(two, 3)
    solo.give("n2", Certificates(1, solo.qc(three).encode(), b"", b""))
    for rest in (b"garbage", solo.block(solo.genesis, 1, [b"not its parent"]).encoded[:-1]):
        solo.give("n2", Blocks([three.encoded, two.encoded, rest]))
        assert not solo.core.sync.held
    solo.now.clear()
    solo.pass_time(solo.core.timing.resend)
    asked = [message for _, message in solo.now if type(message) is BlockRequest]
    assert three.digest in [message.block for message in asked]
    solo.give("n3", Blocks([three.encoded, two.encoded, one.encoded]))
    assert [solo.core.tree.get(block.digest) is not None for block in (one, two, three)] == [True] * 3


def test_a_proposal_of_who_was_shown_that_the_round_before_was_given_up_is_no_lie() -> None:
    """Others were shown that it was certified, and went on with a block of the same round by somebody else."""
    solo = Solo("n1")
    one, *_ = solo.chain(1, 2, 3)
    assert solo.core.tree.committed.block.digest == one.digest
    solo.now.clear()
    beside = solo.block(solo.genesis, 3, author="n2")
    solo.give("n2", solo.proposal(beside, solo.tc(2, solo.genesis_qc)))
    assert not solo.core.rejected
    assert not [vote for vote in solo.said(Vote) if vote.block == beside.digest]
    assert [dest for dest, message in solo.now if type(message) is Certificates] == ["n2"]
