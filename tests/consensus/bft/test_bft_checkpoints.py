"""A checkpoint is certified by a quorum of equal states, never goes back, and a liar spoils its own votes only."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from bft_chain import Growing, batch, checkpoint_at, checkpoint_vote, committee_of
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.bft.block import Block
from consensus.bft.certificates import CertificateError, Checkpoint, CheckpointCertificate, decode_checkpoint
from consensus.bft.checkpoints import MOST_OPEN, Checkpoints, read_header
from consensus.bft.messages import CheckpointVote
from consensus.bft.timing import Timing
from consensus.core import EntryKind, SnapshotMeta
from sim.virtual.keys import Notary

FOUR = committee_of(4)
STATE = b"s" * 32
TIMING = Timing(snapshot_bytes=100)


def marked_blocks(count: int) -> list[Block]:
    """Blocks that end in a CHECKPOINT, in the order of the chain."""
    chain = Growing(FOUR, TIMING)
    blocks = [chain.grow([batch(str(number), 100)]) for number in range(count)]
    assert {block.mark for block in blocks} == {EntryKind.CHECKPOINT}
    return blocks


BLOCKS = marked_blocks(7)
ONE, TWO, *_ = BLOCKS


class Counting:
    """A keyring that counts what it verifies."""

    def __init__(self, node: str) -> None:
        self._ring = Notary(FOUR.members).keyring(node)
        self.verified = 0

    def sign(self, data: bytes) -> bytes:
        return self._ring.sign(data)

    def verify(self, node: str, data: bytes, signature: bytes) -> bool:
        self.verified += 1
        return self._ring.verify(node, data, signature)


def checkpoints(node: str = "a") -> tuple[Checkpoints, Counting]:
    ring = Counting(node)
    return Checkpoints(FOUR, ring, node), ring


def meta_of(block: Block) -> SnapshotMeta:
    return checkpoint_at(block).meta(FOUR.members)


def true_vote(name: str, block: Block = ONE, digest: bytes = STATE) -> CheckpointVote:
    return checkpoint_vote(FOUR, name, checkpoint_at(block, digest))


def certified(block: Block = ONE) -> CheckpointCertificate:
    held, _ = checkpoints()
    held.applied(block.index, STATE, block)
    made = [held.vote(name, true_vote(name, block)) for name in "bcd"][-1]
    assert made is not None
    return made


def test_a_quorum_of_equal_votes_is_a_certificate_that_verifies_from_outside() -> None:
    held, _ = checkpoints()
    held.applied(ONE.index, STATE, ONE)
    assert held.own_votes() == []
    assert held.taken(meta_of(ONE)) == checkpoint_at(ONE)
    assert held.own_votes() == [true_vote("a")]
    assert held.vote("b", true_vote("b")) is None
    assert held.certificate() is None
    made = held.vote("c", true_vote("c"))
    assert made is not None
    assert made is held.certificate()
    assert decode_checkpoint(held.encoded()) == made
    made.verify(FOUR, Notary(FOUR.members).keyring("d"))
    assert read_header(made) == ONE
    assert made.checkpoint.meta(FOUR.members) == meta_of(ONE)
    assert held.index == ONE.index
    assert held.own_votes() == [], "the certificate says it now"


@pytest.mark.parametrize("order", list(permutations(["applied", "b", "c", "d"])))
def test_in_whatever_order_votes_and_block_come_the_certificate_forms_once(order: tuple[str, ...]) -> None:
    held, _ = checkpoints()
    made = []
    for step in order:
        if step == "applied":
            held.applied(ONE.index, STATE, ONE)
        else:
            held.vote(step, true_vote(step))
        made.append(held.certificate() is not None)
    # It takes three votes and the block: all four steps, as this node has not taken its snapshot.
    assert made == [False, False, False, True]


def test_a_vote_says_nothing_before_the_snapshot_is_durable() -> None:
    held, _ = checkpoints()
    held.applied(ONE.index, STATE, ONE)
    for name in "bc":
        held.vote(name, true_vote(name))
    assert held.certificate() is None, "this node's own vote is missing"
    assert held.taken(meta_of(TWO)) is None, "that state it has not applied"
    held.taken(meta_of(ONE))
    assert held.certificate() is not None


def test_only_the_entry_of_a_checkpoint_counts() -> None:
    held, _ = checkpoints()
    plain = Growing(FOUR, TIMING).grow([batch("x", 99)])
    held.applied(plain.index, STATE, plain)
    assert held.taken(meta_of(plain)) is None
    with pytest.raises(ValueError, match="not the last one"):
        held.applied(ONE.index - 1, STATE, ONE)


def test_the_same_vote_again_counts_once() -> None:
    held, _ = checkpoints()
    held.applied(ONE.index, STATE, ONE)
    for _ in range(5):
        assert held.vote("b", true_vote("b")) is None
        assert held.vote("c", true_vote("c")) is None
    held.taken(meta_of(ONE))
    held.taken(meta_of(ONE))
    certificate = held.certificate()
    assert certificate is not None
    assert [name for name, _ in certificate.signatures] == ["a", "b", "c"]


def test_votes_for_different_states_make_no_certificate_together() -> None:
    held, _ = checkpoints()
    held.applied(ONE.index, STATE, ONE)
    held.taken(meta_of(ONE))
    held.vote("b", true_vote("b"))
    assert held.vote("c", true_vote("c", digest=b"x" * 32)) is None
    assert held.vote("d", true_vote("d", digest=b"y" * 32)) is None
    assert held.certificate() is None


def test_a_forged_vote_is_found_out_when_it_is_needed_and_the_true_one_is_still_taken() -> None:
    held, ring = checkpoints()
    held.applied(ONE.index, STATE, ONE)
    held.taken(meta_of(ONE))
    held.vote("b", true_vote("b"))
    assert ring.verified == 0, "nothing is verified that is not needed"
    forged = replace(true_vote("c"), signature=true_vote("d").signature)
    assert held.vote("c", forged) is None
    assert ring.verified == 2
    assert held.vote("c", forged) is None
    assert ring.verified == 3, "b's was verified before"
    assert held.vote("c", true_vote("c")) is not None


@pytest.mark.parametrize(
    ("sender", "changes", "text"),
    [
        ("x", {}, "no member"),
        ("b", {"epoch": 2}, "epoch 2"),
        ("b", {"signature": b""}, "without a signature"),
        ("b", {"signature": "s" * 64}, "without a signature"),
        ("b", {"checkpoint": b"junk"}, "no checkpoint|a field"),
        ("b", {"checkpoint": "text"}, "without a checkpoint"),
    ],
)
def test_what_is_no_vote_is_refused_with_the_reason(
    sender: str, changes: dict[str, object], text: str
) -> None:
    held, _ = checkpoints()
    vote = true_vote("b")
    for name, value in changes.items():
        setattr(vote, name, value)
    with pytest.raises(CertificateError, match=text):
        held.vote(sender, vote)


def test_a_vote_of_another_cluster_or_epoch_does_not_count() -> None:
    for other in (committee_of(4, cluster="other"), committee_of(4, epoch=2)):
        held, _ = checkpoints()
        held.applied(ONE.index, STATE, ONE)
        held.taken(meta_of(ONE))
        for name in "bcd":
            vote = replace(checkpoint_vote(other, name, checkpoint_at(ONE)), epoch=FOUR.epoch)
            assert held.vote(name, vote) is None


def test_two_states_signed_by_one_member_are_evidence_against_it_and_the_first_counts() -> None:
    held, _ = checkpoints()
    held.vote("d", true_vote("d"))
    held.vote("d", true_vote("d", digest=b"x" * 32))
    held.vote("d", true_vote("d", digest=b"y" * 32))
    [conflict] = held.conflicts
    assert (conflict.node, conflict.index) == ("d", ONE.index)
    assert (conflict.first, conflict.second) == (true_vote("d"), true_vote("d", digest=b"x" * 32))
    held.applied(ONE.index, STATE, ONE)
    held.vote("b", true_vote("b"))
    assert held.vote("c", true_vote("c")) is not None


def test_a_forged_vote_is_no_evidence_and_does_not_stand_in_the_way() -> None:
    held, _ = checkpoints()
    wrong = true_vote("d", digest=b"x" * 32)
    held.vote("d", replace(wrong, signature=b"f" * 64))
    held.vote("d", true_vote("d"))
    held.vote("d", replace(wrong, signature=b"f" * 64))
    assert held.conflicts == []
    held.applied(ONE.index, STATE, ONE)
    held.vote("b", true_vote("b"))
    assert held.vote("c", true_vote("c")) is not None


def test_the_true_signature_takes_the_place_of_a_damaged_one() -> None:
    held, _ = checkpoints()
    held.vote("d", replace(true_vote("d"), signature=b"f" * 64))
    held.vote("d", true_vote("d"))
    held.vote("b", true_vote("b"))
    held.vote("c", true_vote("c"))
    held.applied(ONE.index, STATE, ONE)
    assert held.index == ONE.index


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.binary(min_size=32, max_size=32)), max_size=60))
@settings(max_examples=30, derandomize=True, deadline=None)
def test_a_liars_votes_take_a_bounded_place_and_cost_no_verification(floods: list[tuple[int, bytes]]) -> None:
    held, ring = checkpoints()
    for index, digest in floods:
        checkpoint = replace(checkpoint_at(ONE, digest), index=ONE.index + 1 + index)
        held.vote("d", CheckpointVote(1, checkpoint.body(), b"f" * 64))
    assert ring.verified <= 2 * len(floods)
    if len({index for index, _ in floods}) == len(floods):
        assert ring.verified == 0
    held.applied(ONE.index, STATE, ONE)
    held.taken(meta_of(ONE))
    held.vote("b", true_vote("b"))
    made = held.vote("c", true_vote("c"))
    assert made is not None
    assert [name for name, _ in made.signatures] == ["a", "b", "c"]


def test_a_member_far_ahead_still_counts_for_the_newest_few() -> None:
    held, _ = checkpoints()
    for block in BLOCKS:
        held.vote("b", true_vote("b", block))
        held.vote("c", true_vote("c", block))
    for block in BLOCKS:
        held.applied(block.index, STATE, block)
        held.taken(meta_of(block))
        kept = block in BLOCKS[-MOST_OPEN:]
        assert held.index == (block.index if kept else 0)


def test_the_newest_certificate_never_goes_back() -> None:
    held, ring = checkpoints()
    newer, older = certified(TWO), certified(ONE)
    assert held.offer(newer.encode()) == newer
    verified = ring.verified
    assert held.offer(older.encode()) is None
    assert held.offer(newer.encode()) is None
    assert ring.verified == verified, "what is not newer is not verified either"
    held.applied(ONE.index, STATE, ONE)
    assert held.taken(meta_of(ONE)) is None
    for digest in (STATE, b"x" * 32):
        assert held.vote("b", true_vote("b", digest=digest)) is None
    assert held.conflicts == [], "nothing is kept of what is covered"
    assert held.certificate() == newer
    assert held.encoded() == newer.encode()


def remade(certificate: CheckpointCertificate, **changes: object) -> bytes:
    checkpoint: Checkpoint = replace(certificate.checkpoint, **changes)  # type: ignore[arg-type]
    return replace(certificate, checkpoint=checkpoint).encode()


def test_an_offered_certificate_that_does_not_hold_is_refused_and_changes_nothing() -> None:
    held, _ = checkpoints()
    good = certified(TWO)
    shorter = replace(good, signatures=good.signatures[:2])
    doubled = replace(good, signatures=(good.signatures[0], *good.signatures[:2]))
    cases = [
        (b"", "no checkpoint certificate"),
        (b"junk", "no checkpoint certificate|a field"),
        (shorter.encode(), "2 checkpoints; a quorum is 3"),
        (doubled.encode(), "counted twice"),
        (replace(good, header=ONE.encoded).encode(), "is not of this block"),
        (replace(good, header=b"junk").encode(), "header is no block"),
        (remade(good, digest=b"x" * 32), "does not verify"),
        (remade(good, root=b"x" * 32), "does not verify"),
        (remade(good, size=1), "does not verify"),
        (remade(good, chain=b"x" * 32), "does not verify"),
        (remade(good, index=TWO.index + 1), "is not of this block"),
        (remade(good, height=9), "is not of this block"),
        (remade(good, round=9), "is not of this block"),
    ]
    for encoded, text in cases[1:]:
        with pytest.raises(CertificateError, match=text):
            held.offer(encoded)
    assert held.offer(b"") is None, "no certificate is offered"
    assert held.certificate() is None
    assert held.offer(good.encode()) == good


def test_a_quorum_with_another_state_than_this_nodes_is_seen() -> None:
    held, _ = checkpoints()
    held.applied(ONE.index, b"x" * 32, ONE)
    held.taken(meta_of(ONE))
    for name in "bcd":
        held.vote(name, true_vote(name))
    assert held.index == ONE.index
    assert held.differs is not None
    own, others = held.differs
    assert (own.digest, others.digest) == (b"x" * 32, STATE)


def test_own_votes_come_back_from_the_journal_and_still_make_a_certificate() -> None:
    # Everybody lost power before anybody had a quorum of votes: what was applied is not applied again.
    restarted = [checkpoints(name)[0] for name in "abc"]
    for name, held in zip("abc", restarted, strict=True):
        held.resume(true_vote(name), ONE)
        assert held.own_votes() == [true_vote(name)]
    said = [(name, vote) for name, held in zip("abc", restarted, strict=True) for vote in held.own_votes()]
    for held in restarted:
        for name, vote in said:
            held.vote(name, vote)
        assert held.index == ONE.index


def test_a_vote_from_the_journal_is_for_the_block_that_it_names() -> None:
    held, _ = checkpoints()
    with pytest.raises(CertificateError, match="is not of this block"):
        held.resume(true_vote("a", TWO), ONE)
    plain = Growing(FOUR, TIMING).grow([batch("x", 99)])
    with pytest.raises(CertificateError, match="is not of this block"):
        held.resume(true_vote("a", plain), plain)
    held.offer(certified(TWO).encode())
    held.resume(true_vote("a", ONE), ONE)
    assert held.own_votes() == [], "a newer one is certified"


def test_a_vote_once_signed_is_not_signed_differently_after_a_restart() -> None:
    held, _ = checkpoints()
    held.resume(true_vote("a"), ONE)
    held.applied(ONE.index, b"x" * 32, ONE)
    held.taken(meta_of(ONE))
    assert held.own_votes() == [true_vote("a")]


def test_a_state_of_another_block_than_the_committed_one_is_not_certified_here() -> None:
    held, _ = checkpoints()
    held.applied(ONE.index, STATE, ONE)
    for name in "bcd":
        other = replace(checkpoint_at(ONE), block=b"x" * 32)
        assert held.vote(name, checkpoint_vote(FOUR, name, other)) is None
    assert held.certificate() is None
