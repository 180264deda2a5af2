"""What honest nodes have signed is held against itself: twice in a round, behind a timeout, forged, or never written down."""

from __future__ import annotations

from typing import Any

import pytest
from bft_chain import Growing, committee_of

from consensus import wire
from consensus.bft import records as bft
from consensus.bft.block import genesis_qc
from consensus.bft.certificates import QuorumCertificate, TimeoutCertificate
from consensus.bft.messages import Timeout, Vote
from consensus.bft.rules import Safety
from consensus.bft.signing import proposal_statement, timeout_statement, vote_statement
from consensus.bft.timing import Timing
from consensus.core import Record
from sim.check.bft_words import check_evidence, collect, judge_words
from sim.check.verdict import Check
from sim.virtual.keys import Notary

COMMITTEE = committee_of(4)
CLUSTER, EPOCH = COMMITTEE.cluster, COMMITTEE.epoch


NOTARY = Notary(COMMITTEE.members)
verify = NOTARY.verify


def sign(node: str, data: bytes) -> bytes:
    return NOTARY.signer(node).sign(data)


def block(number: int) -> bytes:
    return bytes([number]) * 32


def vote(node: str, round: int, of: bytes) -> Vote:
    return Vote(EPOCH, round, of, sign(node, vote_statement(COMMITTEE, round, of)))


def timeout(node: str, round: int, high: int = 0) -> Timeout:
    certificate = qc(high, block(high)) if high else genesis_qc(COMMITTEE).encode()
    signature = sign(node, timeout_statement(COMMITTEE, round, high))
    return Timeout(EPOCH, round, certificate, b"", signature)


def qc(round: int, of: bytes, *signers: str) -> bytes:
    votes = tuple((who, vote(who, round, of).signature) for who in signers)
    return QuorumCertificate(round, of, votes).encode()


def said(given_up: int = 0, **words: Any) -> Record:
    return bft.Spoken(EPOCH, Safety(timeout_round=given_up), **words).record()


def judged(liars: tuple[str, ...] = (), **journals: list[Record]) -> dict[str, Check]:
    found = collect({node: [("s", record) for record in records] for node, records in journals.items()})
    return {check.name: check for check in judge_words(found, CLUSTER, EPOCH, verify, liars)}


def failed(checks: dict[str, Check]) -> list[str]:
    return [name for name, check in checks.items() if not check.passed]


def test_words_that_agree_are_counted_and_pass_said_again_or_not() -> None:
    first, second = said(vote=vote("a", 1, block(1))), said(vote=vote("a", 2, block(2)))
    gone = said(vote=vote("a", 2, block(2)), timeout=timeout("a", 3))
    later = said(vote=vote("a", 4, block(4)), timeout=timeout("a", 3))
    heard = said(vote=vote("b", 1, block(1)), high_qc=qc(1, block(1), "a", "b"))
    checks = judged(a=[first, first, second, gone, gone, later], b=[heard])
    assert failed(checks) == []
    assert "4 votes, 1 timeouts" in checks["one_word_a_round"].detail
    assert checks["words_on_disk"].counted == 1


def test_two_votes_in_a_round_are_found_wherever_the_second_one_is() -> None:
    one, other = said(vote=vote("a", 1, block(1))), said(vote=vote("a", 1, block(2)))
    checks = judged(a=[one, other])
    assert failed(checks) == ["one_word_a_round"]
    # As after a power cut that took a record whose vote had left already: its own journal knows of one only.
    checks = judged(a=[one], b=[said(high_qc=qc(1, block(2), "a"))])
    assert failed(checks) == ["one_word_a_round", "words_on_disk"]
    assert "a votes twice in round 1" in checks["one_word_a_round"].detail


def test_a_vote_at_or_below_a_round_given_up_is_found_and_one_before_it_is_none() -> None:
    before = said(vote=vote("a", 5, block(5)))
    gone = said(vote=vote("a", 5, block(5)), timeout=timeout("a", 5))
    assert failed(judged(a=[before, gone])) == []
    behind = said(vote=vote("a", 5, block(5)), timeout=timeout("a", 5))
    checks = judged(a=[said(timeout=timeout("a", 5)), behind])
    assert failed(checks) == ["one_word_a_round"]
    assert "votes in round 5 after it gave round 5 up" in checks["one_word_a_round"].detail
    # The timeout itself is not repeated for ever, the round is.
    assert failed(judged(a=[said(5), said(5, vote=vote("a", 4, block(4)))])) == ["one_word_a_round"]


def test_a_round_given_up_twice_and_two_proposals_in_a_round_are_found() -> None:
    assert failed(judged(a=[said(timeout=timeout("a", 5, 1)), said(timeout=timeout("a", 5, 2))])) == [
        "one_word_a_round"
    ]
    made = [(3, block(n), b"", sign("a", proposal_statement(COMMITTEE, 3, block(n)))) for n in (1, 2)]
    assert failed(judged(a=[said(proposal=made[0]), said(proposal=made[0])])) == []
    assert failed(judged(a=[said(proposal=one) for one in made])) == ["one_word_a_round"]


def test_what_others_hold_must_stand_in_the_journal_of_who_said_it_timeouts_too() -> None:
    rows = (("a", 0, timeout("a", 7).signature),)
    high_tc = TimeoutCertificate(7, rows, genesis_qc(COMMITTEE).encode()).encode()
    checks = judged(a=[said(vote=vote("a", 1, block(1)))], b=[said(high_tc=high_tc)])
    assert failed(checks) == ["words_on_disk"]
    assert failed(judged(a=[said(timeout=timeout("a", 7))], b=[said(high_tc=high_tc)])) == []


def test_a_word_that_its_node_has_not_signed_is_found() -> None:
    stolen = Vote(EPOCH, 1, block(1), sign("b", vote_statement(COMMITTEE, 1, block(1))))
    assert failed(judged(a=[said(vote=stolen)])) == ["words_signed"]
    elsewhere = Vote(EPOCH, 1, block(1), sign("a", b"elsewhere" + vote_statement(COMMITTEE, 1, block(1))))
    assert failed(judged(a=[said(vote=elsewhere)])) == ["words_signed"]


def test_certificates_in_blocks_are_heard_as_well() -> None:
    growing = Growing(COMMITTEE, Timing())
    first, second = growing.grow(), growing.grow()
    records: list[Record] = [(bft.BLOCK, first.encoded), (bft.BLOCK, second.encoded)]
    heard = collect({"a": [("s", record) for record in records]}).heard
    assert sorted(heard) == ["b", "c", "d"]
    assert all(list(words.votes) == [first.round] for words in heard.values())


def test_liars_may_say_what_they_like() -> None:
    heard = [said(high_qc=qc(1, block(n), "d")) for n in (1, 2)]
    own = said(vote=vote("a", 1, block(1)))
    assert failed(judged(("d",), a=[own, *heard])) == []


def test_a_record_that_makes_no_sense_is_a_problem_and_no_crash() -> None:
    checks = judged(a=[(bft.SAFETY, b"\x93\x01\x02\x03"), (bft.BLOCK, b"\xff")])
    assert "makes no sense" in checks["one_word_a_round"].detail


def test_no_words_at_all_are_nothing_to_go_by() -> None:
    assert all(check.counted == 0 and check.needs_count for check in judged(a=[]).values())


# ------------------------------------------------------------------------------------------------ evidence


def piece(kind: str = "vote", **changes: Any) -> dict[str, Any]:
    one, other = (vote("d", 3, block(n)) for n in (1, 2))
    halves = [(each.block + each.signature).hex() for each in (one, other)]
    return {"node": "d", "round": 3, "kind": kind, "first": halves[0], "second": halves[1], **changes}


def blame(*pieces: dict[str, Any], liars: dict[str, str] | None = None) -> Check:
    wicked = {"d": "equivocate"} if liars is None else liars
    held = {"a": list(pieces), **{liar: [{"nonsense": 1}] for liar in wicked}}
    return check_evidence(held, CLUSTER, EPOCH, verify, wicked)


def test_evidence_of_two_signed_words_against_a_liar_counts() -> None:
    highs = [b"%d/" % high + sign("d", timeout_statement(COMMITTEE, 3, high)) for high in (1, 2)]
    made = [block(n) + sign("d", proposal_statement(COMMITTEE, 3, block(n))) for n in (1, 2)]
    found = blame(
        piece(),
        piece("timeout", first=highs[0].hex(), second=highs[1].hex()),
        piece("proposal", first=made[0].hex(), second=made[1].hex()),
    )
    assert found.passed, found.detail
    assert found.counted == 3


@pytest.mark.parametrize(
    ("pieces", "liars", "words"),
    [
        ([piece()], {}, "d does not lie"),
        ([piece(second=piece()["first"])], None, "say the same"),
        ([piece(node="b")], {"b": "equivocate"}, "has not signed"),
        ([piece("proposal")], None, "has not signed"),
        ([piece(first="xyz")], None, "cannot be read"),
        ([piece("gossip")], None, "unknown kind"),
    ],
)
def test_evidence_that_proves_nothing_fails(
    pieces: list[dict[str, Any]], liars: dict[str, str] | None, words: str
) -> None:
    found = blame(*pieces, liars=liars)
    assert not found.passed
    assert words in found.detail


def test_who_equivocates_and_leaves_no_trace_with_anybody_was_not_watched() -> None:
    assert blame().needs_count
    assert not blame(liars={"d": "silent"}).needs_count
    assert not blame(liars={}).needs_count


def test_the_records_are_read_as_the_core_writes_them() -> None:
    spoken = bft.Spoken(EPOCH, Safety(4, 3, 5, 1), vote("a", 4, block(4)), timeout("a", 5))
    found = collect({"a": [("s", spoken.record())]}).own["a"]
    assert wire.decode(wire.encode(vote("a", 4, block(4)))) == Vote(
        EPOCH, 4, block(4), found.votes[4][block(4)]
    )
    assert found.timeouts == {5: {0: timeout("a", 5).signature}}
