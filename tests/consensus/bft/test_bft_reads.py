"""Read barriers of one core among members that a test plays."""

from __future__ import annotations

from bft_solo import BLOCK, FOUR, Solo

from consensus.bft.messages import Batch, ReadReply, ReadRequest
from consensus.core import RefusalCode


def ask(solo: Solo, token: int) -> None:
    solo.core.read(token, solo.clock, solo.out)
    solo.take()


def nonces(solo: Solo) -> list[int]:
    return [question.nonce for question in solo.said(ReadRequest, "now")]


def test_a_barrier_is_safe_once_a_quorum_has_answered_and_not_before() -> None:
    solo = Solo("n1")
    ask(solo, 1)
    (nonce,) = nonces(solo)
    for _ in range(3):
        solo.give("n2", ReadReply(nonce, solo.genesis_qc.encode()))
    assert solo.reads == []
    solo.give("n3", ReadReply(nonce, solo.genesis_qc.encode()))
    assert solo.reads == [(1, 0)]
    solo.give("n4", ReadReply(nonce, solo.genesis_qc.encode()))
    assert solo.reads == [(1, 0)]


def test_it_waits_until_the_entries_below_the_highest_certificate_are_committed_here() -> None:
    """Somebody else may have handed them out, and told a client."""
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1, [b"a"])
    two = solo.block(one, 2)
    ask(solo, 1)
    (nonce,) = nonces(solo)
    solo.give("n2", ReadReply(nonce, solo.qc(one).encode()))
    solo.give("n3", ReadReply(nonce, solo.genesis_qc.encode()))
    assert solo.reads == []
    solo.show(one, payloads=[b"a"])
    assert solo.reads == []
    solo.show(two)
    for name in FOUR[1:]:
        solo.give(name, solo.vote(name, two))
    assert solo.reads == [(1, 1)]


def test_certified_blocks_without_entries_are_not_waited_for() -> None:
    solo = Solo("n1")
    solo.chain(1, 2, 3)
    solo.sync()
    assert solo.core.observe().commit_index == 0
    ask(solo, 1)
    for name in FOUR[1:]:
        solo.give(name, ReadReply(nonces(solo)[0], solo.core.spoken.high_qc))
    assert solo.reads == [(1, 0)]


def test_a_forged_certificate_in_an_answer_counts_for_nothing_nor_does_the_answer() -> None:
    solo = Solo("n1")
    ask(solo, 1)
    (nonce,) = nonces(solo)
    good = solo.qc(solo.block(solo.genesis, 1), ["n1", "n2", "n3"])
    forged = type(good)(good.round, good.block, good.votes[:2])
    for name in FOUR[1:]:
        solo.give(name, ReadReply(nonce, forged.encode()))
        solo.give(name, ReadReply(nonce, b"garbage"))
    assert solo.reads == []
    assert solo.core.high_qc.round == 0


def test_a_late_answer_to_an_earlier_question_does_not_make_a_later_barrier_safe() -> None:
    solo = Solo("n1")
    ask(solo, 1)
    first = nonces(solo)[0]
    solo.pass_time(3_000_000)
    assert [(token, refusal.code) for token, refusal in solo.refused] == [(1, RefusalCode.NO_QUORUM)]
    ask(solo, 2)
    for name in FOUR[1:]:
        solo.give(name, ReadReply(first, solo.genesis_qc.encode()))
    assert solo.reads == []
    for name in FOUR[1:]:
        solo.give(name, ReadReply(nonces(solo)[-1], solo.genesis_qc.encode()))
    assert [token for token, _ in solo.reads] == [2]


def test_barriers_that_come_during_a_question_share_the_next_one() -> None:
    solo = Solo("n1")
    for token in range(1, 6):
        ask(solo, token)
    assert len(nonces(solo)) == 1
    for name in ("n2", "n3"):
        solo.give(name, ReadReply(nonces(solo)[0], solo.genesis_qc.encode()))
    assert [token for token, _ in solo.reads] == [1]
    assert len(nonces(solo)) == 2
    for name in ("n2", "n3"):
        solo.give(name, ReadReply(nonces(solo)[1], solo.genesis_qc.encode()))
    assert [token for token, _ in solo.reads] == [1, 2, 3, 4, 5]


def test_who_does_not_answer_is_asked_again() -> None:
    solo = Solo("n1")
    ask(solo, 1)
    solo.give("n2", ReadReply(nonces(solo)[0], solo.genesis_qc.encode()))
    solo.pass_time(solo.timing.resend)
    again = [dest for dest, message in solo.now if type(message) is ReadRequest]
    assert again == ["n2", "n3", "n4", "n3", "n4"]
    solo.give("n4", Batch("n4", BLOCK, b"x"))
    solo.give("n4", ReadReply(nonces(solo)[0], solo.genesis_qc.encode()))
    assert [token for token, _ in solo.reads] == [1]
