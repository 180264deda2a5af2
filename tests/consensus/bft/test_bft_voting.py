"""One core among members that a test plays: what it signs, what it never signs, and what real systems got wrong there."""

from __future__ import annotations

import dataclasses

import pytest
from bft_solo import BLOCK, FOUR, NO_MARKS, Solo

from consensus.bft.block import batch_digest, decode_block, make_block
from consensus.bft.certificates import QuorumCertificate, TimeoutCertificate, decode_qc, decode_tc
from consensus.bft.committee import Committee
from consensus.bft.messages import Batch, BatchRequest, Blocks, Certificates, Proposal, Timeout, Vote
from consensus.bft.votes import WINDOW
from consensus.core import entry_payload


def rounds(votes: list[Vote]) -> list[int]:
    return [vote.round for vote in votes]


# -------------------------------------------------------------------------------------------------------- voting


def test_it_votes_for_a_leaders_block_to_everybody_once_that_is_durable() -> None:
    solo = Solo("n1")
    solo.show(solo.block(solo.genesis, 1))
    assert [dest for dest, message in solo.wait if type(message) is Vote] == ["n2", "n3", "n4"]
    assert not [message for _, message in solo.now if type(message) is Vote]
    assert solo.records


def test_a_leader_with_two_blocks_in_a_round_gets_one_vote_and_leaves_evidence() -> None:
    solo = Solo("n1")
    first, second = solo.block(solo.genesis, 1), solo.block(solo.genesis, 1, [b"other"])
    solo.show(first)
    solo.show(second, payloads=[b"other"])
    assert {vote.block for vote in solo.said(Vote)} == {first.digest}
    (proof,) = solo.core.observe().facts["evidence"]
    assert (proof["node"], proof["round"], proof["kind"]) == (first.author, 1, "proposal")
    assert proof["first"] != proof["second"]


def test_asked_again_in_a_round_it_says_the_same_vote_and_signs_nothing() -> None:
    solo = Solo("n1")
    block = solo.block(solo.genesis, 1)
    solo.show(block)
    before = solo.keys.signed
    solo.show(block)
    votes = [message for _, message in solo.wait if type(message) is Vote]
    assert len(votes) == 4
    assert all(vote == votes[0] for vote in votes)
    assert solo.keys.signed == before


def test_a_proposal_whose_signature_is_not_its_authors_moves_nothing() -> None:
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1)
    two = solo.block(one, 2)
    good = solo.proposal(two)
    solo.give(two.author, Proposal(good.block, good.tc, bytes(64)))
    assert not solo.said(Vote)
    assert solo.core.high_qc.round == 0, "a certificate was used that came in a message that does not verify"
    solo.give("n4", good)
    assert not solo.said(Vote), "somebody else's proposal counts only from its author"
    assert sum(solo.core.rejected.values()) == 2


def test_it_votes_for_nobody_who_does_not_lead_the_round() -> None:
    solo = Solo("n1")
    right = solo.block(solo.genesis, 1).author
    wrong = next(name for name in FOUR[1:] if name != right)
    solo.show(solo.block(solo.genesis, 1, author=wrong))
    assert not solo.said(Vote)


def test_it_votes_for_no_block_whose_fields_do_not_follow_from_its_parent() -> None:
    solo = Solo("n1")
    good = solo.block(solo.genesis, 1)
    bad = make_block(
        good.epoch,
        1,
        1,
        good.author,
        good.justify,
        (),
        7,
        good.weight,
        0,
        (0, 0),
        good.standing,
        good.schedule,
    )
    solo.show(bad)
    assert not solo.said(Vote)
    assert solo.core.observe().last_index == 0


@pytest.mark.parametrize("forged", ["empty", "too few", "doubled", "strangers", "other block"])
def test_a_certificate_without_a_quorum_of_valid_distinct_votes_counts_for_nothing(forged: str) -> None:
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1)
    solo.show(one)
    votes = solo.qc(one).votes
    other = solo.block(solo.genesis, 1, [b"x"])
    bad = {
        "empty": (),
        "too few": votes[:2],
        "doubled": (votes[0], votes[1], votes[1]),
        "strangers": (*votes[:2], ("n9", votes[2][1])),
        "other block": solo.qc(other).votes,
    }[forged]
    block = solo.block(one, 2, justify=QuorumCertificate(1, one.digest, bad))
    solo.show(block)
    assert rounds(solo.said(Vote)) == [1]
    assert solo.core.high_qc.round == 0


def test_a_block_that_skips_a_round_needs_a_timeout_certificate_of_the_round_before() -> None:
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1)
    solo.show(one)
    three = solo.block(one, 3)
    solo.show(three)
    assert rounds(solo.said(Vote)) == [1]
    solo.show(three, solo.tc(1, solo.genesis_qc))
    assert rounds(solo.said(Vote)) == [1]
    solo.show(three, solo.tc(2, solo.qc(one)))
    assert rounds(solo.said(Vote)) == [1, 3]


def test_a_block_below_what_a_timeout_certificate_knows_gets_no_vote() -> None:
    """A hidden lock: somebody who gave the round up knows a higher certificate than the leader extends."""
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1)
    solo.show(one)
    solo.show(solo.block(solo.genesis, 3), solo.tc(2, solo.qc(one)))
    assert solo.core.round == 3
    assert rounds(solo.said(Vote)) == [1]
    solo.show(solo.block(one, 5), solo.tc(4, solo.qc(one)))
    assert rounds(solo.said(Vote)) == [1, 5]


def test_it_is_not_bound_for_ever_by_a_block_that_was_never_certified() -> None:
    """Tendermint without unlock: it voted in round 1, nobody else did, and it votes for another block later."""
    solo = Solo("n1")
    solo.show(solo.block(solo.genesis, 1))
    other = solo.block(solo.genesis, 2, [b"other"])
    solo.show(other, solo.tc(1, solo.genesis_qc), [b"other"])
    assert rounds(solo.said(Vote)) == [1, 2]


def test_no_vote_in_a_round_that_it_has_given_up() -> None:
    solo = Solo("n1")
    solo.pass_time(2_000_000)
    assert solo.said(Timeout)[0].round == 1
    solo.show(solo.block(solo.genesis, 1))
    assert not solo.said(Vote)


def test_votes_timeouts_and_proposals_of_another_epoch_or_cluster_count_for_nothing() -> None:
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1)
    solo.show(one)
    solo.sync()
    for other in (
        Committee("solo", 2, FOUR, 1, 1),
        Committee("elsewhere", 1, FOUR, 1, 1),
    ):
        there = Solo("n1", committee=other)
        foreign = there.block(there.genesis, 1)
        solo.give(foreign.author, there.proposal(foreign))
        for name in FOUR[1:]:
            vote = there.vote(name, one)
            solo.give(name, Vote(1, vote.round, vote.block, vote.signature))
            solo.give(name, vote)
            timeout = there.timeout(name, 1, there.genesis_qc)
            solo.give(name, Timeout(1, 1, solo.genesis_qc.encode(), b"", timeout.signature))
    assert (solo.core.high_qc.round, solo.core.round) == (0, 1)
    assert solo.core.timeouts.given == {}
    for name in ("n2", "n3"):  # the true ones are heard all the same
        solo.give(name, solo.vote(name, one))
    assert solo.core.high_qc.round == 1


def test_a_signature_of_one_kind_of_statement_is_none_of_another() -> None:
    """Two phases that signed the same bytes were a real bug."""
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1)
    solo.show(one)
    solo.sync()
    for name in ("n2", "n3", "n4"):
        as_vote = solo.timeout(name, 1, solo.genesis_qc).signature
        solo.give(name, Vote(1, 1, one.digest, as_vote))
        solo.give(name, Timeout(1, 1, solo.genesis_qc.encode(), b"", solo.vote(name, one).signature))
    assert (solo.core.high_qc.round, solo.core.round, solo.core.timeouts.given) == (0, 1, {})


# ------------------------------------------------------------------------------------------------- certificates


def test_votes_of_a_quorum_make_a_certificate_and_it_counts_itself_only_once_its_vote_is_durable() -> None:
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1)
    solo.show(one)
    for name in ("n2", "n3"):
        solo.give(name, solo.vote(name, one))
    assert solo.core.high_qc.round == 0
    solo.sync()
    assert solo.core.high_qc.round == 1
    assert solo.core.round == 2


def test_an_earlier_write_that_is_done_does_not_make_its_vote_count() -> None:
    solo = Solo("n1")
    solo.give("n2", Batch("n2", BLOCK, b"a"))
    first = solo.out.ticket
    one = solo.block(solo.genesis, 1)
    solo.show(one)
    assert solo.out.ticket > first
    for name in ("n2", "n3"):
        solo.give(name, solo.vote(name, one))
    solo.core.persisted(first, solo.clock, solo.out)
    assert solo.core.high_qc.round == 0
    solo.core.persisted(solo.out.ticket, solo.clock, solo.out)
    assert solo.core.high_qc.round == 1


def test_a_vote_that_comes_twice_counts_once_and_does_no_harm() -> None:
    """A duplicate vote stopped a certificate from forming in one system and stopped another altogether."""
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1)
    solo.show(one)
    for _ in range(3):
        solo.give("n2", solo.vote("n2", one))
    solo.sync()
    assert solo.core.high_qc.round == 0
    solo.give("n3", solo.vote("n3", one))
    assert solo.core.high_qc.round == 1
    solo.give("n4", solo.vote("n4", one))
    solo.give("n2", solo.vote("n2", one))
    assert solo.core.high_qc.round == 1


def test_a_second_vote_does_not_replace_the_first_and_is_evidence() -> None:
    solo = Solo("n1")
    one, other = solo.block(solo.genesis, 1), solo.block(solo.genesis, 1, [b"x"])
    solo.show(one)
    solo.sync()
    solo.give("n2", solo.vote("n2", one))
    solo.give("n2", solo.vote("n2", other))
    solo.give("n3", solo.vote("n3", one))
    assert decode_qc(solo.core.spoken.high_qc).block == one.digest
    (proof,) = solo.core.observe().facts["evidence"]
    assert (proof["node"], proof["kind"]) == ("n2", "vote")


def test_a_vote_that_does_not_verify_spoils_neither_the_certificate_nor_its_senders_true_one() -> None:
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1)
    solo.show(one)
    solo.sync()
    good = solo.vote("n2", one)
    solo.give("n2", Vote(good.epoch, 1, one.digest, bytes(64)))
    solo.give("n3", solo.vote("n3", one))
    assert solo.core.high_qc.round == 0
    solo.give("n2", good)
    assert solo.core.high_qc.round == 1
    assert solo.core.observe().facts["evidence"] == []


def test_however_many_rounds_votes_come_for_only_a_few_are_kept() -> None:
    solo = Solo("n1")
    block = solo.block(solo.genesis, 1)
    for round in range(1, 2_000):
        for name in FOUR[1:]:
            solo.give(name, Vote(1, round, block.digest, bytes([round % 256]) * 64))
            solo.give(name, Vote(1, round, bytes(32), bytes(64)))
    assert len(solo.core.votes) <= 3 * (2 * WINDOW + 1)


def test_votes_of_rounds_that_are_over_are_forgotten() -> None:
    solo = Solo("n1")
    parent = solo.genesis
    for round in range(1, 60):
        block = solo.block(parent, round)
        if block.author != "n1":
            solo.show(block)
        for name in FOUR[1:]:
            solo.give(name, solo.vote(name, block))
        if block.author == "n1":
            solo.give("n2", Certificates(1, solo.qc(block).encode(), b"", b""))
            solo.give("n2", Blocks([block.encoded]))
        solo.sync()
        parent = block
    assert solo.core.round == 60
    assert len(solo.core.votes) <= 4 * (WINDOW + 2)


def test_nothing_is_verified_twice() -> None:
    solo = Solo("n1")
    blocks = solo.chain(1, 2)
    before = solo.keys.verified
    for name in ("n2", "n3", "n4"):
        solo.give(name, solo.vote(name, blocks[1]))
    solo.sync()
    assert solo.core.high_qc.round == 2
    grown = solo.keys.verified - before
    assert grown <= 3
    # The certificate of the same votes comes back in the next block, in other bytes.
    before = solo.keys.verified
    qc = solo.qc(blocks[1], ["n2", "n3", "n4"])
    solo.show(solo.block(blocks[1], 3, justify=qc))
    assert solo.keys.verified - before <= 2, "one for the proposal, one for a vote that was not needed before"
    assert solo.core.round == 3


def test_a_leader_puts_late_votes_into_the_certificate_that_it_extends() -> None:
    solo = Solo("n3", timing=dataclasses.replace(NO_MARKS, idle=50_000))
    one = solo.block(solo.genesis, 1)
    assert solo.core.leader(one, 2) == "n3"
    solo.show(one)
    solo.sync()
    for name in ("n1", "n2", "n4"):
        solo.give(name, solo.vote(name, one))
    solo.pass_time(60_000)
    (proposal,) = solo.said(Proposal)
    assert [name for name, _ in decode_block(proposal.block).parent.votes] == ["n1", "n2", "n3", "n4"]


# ------------------------------------------------------------------------------------------------------- commits


def test_a_certified_child_of_the_next_round_commits_and_a_later_one_does_not() -> None:
    solo = Solo("n1")
    solo.give("n2", Batch("n2", BLOCK, b"a"))
    one = solo.block(solo.genesis, 1, [b"a"])
    solo.show(one)
    solo.sync()
    three = solo.block(one, 3)
    solo.show(three, solo.tc(2, solo.qc(one)))
    solo.sync()
    for name in FOUR[1:]:
        solo.give(name, solo.vote(name, three))
    solo.sync()
    assert solo.core.high_qc.round == 3
    assert solo.committed == [], "both are certified, but a round lies between them"
    four = solo.block(three, 4)
    if four.author != "n1":
        solo.show(four)
    solo.sync()
    for name in FOUR[1:]:
        solo.give(name, solo.vote(name, four))
    solo.sync()
    assert [entry_payload(entry) for entry in solo.committed] == [b"a"], (
        "with three its ancestors are committed"
    )


def test_nothing_is_handed_out_before_it_is_durable_here() -> None:
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1, [b"a"])
    solo.show(one, payloads=[b"a"])
    two = solo.block(one, 2)
    solo.show(two)
    for name in FOUR[1:]:
        solo.give(name, solo.vote(name, two))
    assert solo.core.observe().commit_index == 1
    assert solo.committed == []
    solo.sync()
    assert [entry_payload(entry) for entry in solo.committed] == [b"a"]


# ------------------------------------------------------------------------------------------- payload and proposals


def test_a_vote_says_i_hold_the_payload() -> None:
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1, [b"a", b"b"])
    solo.show(one)
    assert not solo.said(Vote)
    solo.pass_time(solo.timing.resend // 4)
    asked = [(dest, m) for dest, m in solo.now if type(m) is BatchRequest]
    assert asked[0] == (one.author, BatchRequest([batch_digest(BLOCK, b"a"), batch_digest(BLOCK, b"b")]))
    solo.give("n3", Batch("n2", BLOCK, b"b"))
    assert not solo.said(Vote)
    solo.give("n3", Batch("n2", BLOCK, b"a"))
    assert rounds(solo.said(Vote)) == [1]
    batches = [record for record in solo.journal + solo.records if record[0] == 1]
    assert len(batches) == 2, "and it is durable with the vote"


def test_a_batch_that_nobody_asked_for_is_taken_from_its_author_only() -> None:
    solo = Solo("n1")
    solo.give("n3", Batch("n2", BLOCK, b"a"))
    solo.give("n3", Batch("n3", 2, b"a mark"))
    solo.give("n3", Batch("n3", 3, b"a mark"))
    assert not solo.core.payloads.waiting
    assert not solo.records
    solo.give("n2", Batch("n2", BLOCK, b"a"))
    assert solo.core.payloads.waiting


def test_a_batch_whose_payload_the_check_refuses_is_never_held_nor_voted_for() -> None:
    solo = Solo("n1", check=lambda kind, payload: "bad" if payload == b"bad" else None)
    one = solo.block(solo.genesis, 1, [b"bad"])
    solo.show(one, payloads=[b"bad"])
    solo.pass_time(250_000)
    solo.give(one.author, Batch(one.author, BLOCK, b"bad"))
    assert not solo.said(Vote)
    assert not solo.core.payloads.known(batch_digest(BLOCK, b"bad"))


def test_what_it_is_given_it_sends_to_everybody_at_once_and_proposes_in_its_turn() -> None:
    solo = Solo("n2")
    assert solo.propose(b"a", b"b") is None
    assert [m.payload for m in solo.said(Batch, "now")] == [b"a", b"b"]
    assert len(solo.said(Proposal)) == 1
    assert solo.said(Vote)[0].round == 1, "the leader votes for its own block"
    assert not solo.said(Proposal, "now")


def test_a_leader_with_nothing_to_order_takes_a_rest_before_an_empty_block() -> None:
    solo = Solo("n2")
    assert not solo.said(Proposal)
    solo.pass_time(solo.timing.idle - 1)
    assert not solo.said(Proposal)
    solo.pass_time(1)
    assert len(solo.said(Proposal)) == 1


def test_too_much_waiting_is_refused_with_words_and_leaves_no_trace() -> None:
    solo = Solo("n1", timing=dataclasses.replace(NO_MARKS, author_bytes=2_000))
    assert solo.propose(b"x" * 900) is None
    refusal = solo.propose(b"y" * 900)
    assert refusal is not None
    assert "wait to be ordered" in refusal.reason
    assert len(solo.said(Batch, "now")) == 1
    marks = solo.core.propose([(2, b"")], solo.clock, solo.out)
    assert marks is not None
    assert "the chain itself" in marks.reason


def test_whoever_has_resigned_proposes_nothing_and_goes_on_voting() -> None:
    solo = Solo("n2")
    solo.core.resign(solo.clock, solo.out)
    solo.take()
    solo.propose(b"a")
    solo.pass_time(solo.timing.idle * 2)
    assert not solo.said(Proposal)
    one = solo.block(solo.genesis, 2)
    solo.show(one, solo.tc(1, solo.genesis_qc))
    assert rounds(solo.said(Vote)) == [2]


# ------------------------------------------------------------------------------------------------------ timeouts


def test_a_round_is_given_up_at_its_deadline_and_said_again_word_for_word() -> None:
    solo = Solo("n1")
    solo.propose(b"a")
    solo.pass_time(solo.timing.round)
    assert [timeout.round for timeout in solo.said(Timeout)] == [1]
    signed = solo.keys.signed
    solo.pass_time(3 * solo.timing.resend)
    assert len(solo.said(Timeout)) >= 3
    assert all(timeout == solo.said(Timeout)[0] for timeout in solo.said(Timeout))
    assert solo.keys.signed == signed


def test_timeouts_of_a_quorum_end_the_round_and_the_next_one_is_longer() -> None:
    solo = Solo("n1")
    lengths = []
    for round in range(1, 8):
        assert solo.core.round == round
        tc = solo.tc(round - 1, solo.genesis_qc) if round > 1 else None
        for name in ("n2", "n3", "n4"):
            solo.give(name, solo.timeout(name, round, solo.genesis_qc, tc))
        lengths.append(solo.core.pacemaker.duration)
    most, first = solo.timing.backoff_most, 2 * solo.timing.round
    assert lengths == [min(first << doubled, most) for doubled in range(7)]
    assert lengths[-1] == most
    solo.sync()


def test_it_joins_when_one_more_than_may_lie_give_the_round_up() -> None:
    solo = Solo("n1")
    solo.give("n2", solo.timeout("n2", 1, solo.genesis_qc))
    assert not solo.said(Timeout)
    solo.give("n2", solo.timeout("n2", 1, solo.genesis_qc))
    assert not solo.said(Timeout)
    solo.give("n3", solo.timeout("n3", 1, solo.genesis_qc))
    assert [timeout.round for timeout in solo.said(Timeout)] == [1]


def test_a_timeout_that_its_sender_did_not_sign_counts_for_nothing() -> None:
    solo = Solo("n1")
    for name in ("n2", "n3", "n4"):
        stolen = solo.timeout("n2" if name != "n2" else "n3", 1, solo.genesis_qc)
        solo.give(name, stolen)
        solo.give(name, Timeout(1, 1, solo.genesis_qc.encode(), b"", bytes(64)))
    assert solo.core.round == 1
    assert not solo.said(Timeout)


def test_a_timeout_certificate_carries_the_highest_certificate_of_its_signers_and_the_leader_extends_that() -> (
    None
):
    """Without that, one member alone knows a certificate, and nobody else's block gets its vote."""
    solo = Solo("n4")
    one = solo.block(solo.genesis, 1)
    solo.show(one)
    solo.sync()
    hidden = solo.qc(one, ["n1", "n2", "n3"])
    solo.give("n1", solo.timeout("n1", 2, hidden, None))
    solo.give("n2", solo.timeout("n2", 2, hidden, None))
    solo.sync()
    assert solo.core.round == 3
    assert solo.core.high_tc is not None
    carried = decode_tc(solo.core.spoken.high_tc)
    assert carried.high_round == 1
    assert decode_qc(carried.high_qc).block == one.digest
    if solo.core.leader(one, 3) == "n4":
        solo.propose(b"x")
        assert solo.said(Proposal)


def test_two_timeouts_of_a_member_in_one_round_count_once_and_are_evidence() -> None:
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1)
    solo.show(one)
    solo.sync()
    tc = solo.tc(2, solo.genesis_qc)
    solo.give("n2", solo.timeout("n2", 3, solo.genesis_qc, tc))
    solo.give("n2", solo.timeout("n2", 3, solo.qc(one), tc))
    assert len(solo.core.timeouts.given) == 1
    (proof,) = solo.core.observe().facts["evidence"]
    assert (proof["node"], proof["kind"], proof["round"]) == ("n2", "timeout", 3)


def test_a_timeout_of_a_later_round_shows_why_that_round_has_begun() -> None:
    solo = Solo("n1")
    solo.give("n2", solo.timeout("n2", 5, solo.genesis_qc))
    assert solo.core.round == 1
    solo.give("n2", solo.timeout("n2", 5, solo.genesis_qc, solo.tc(3, solo.genesis_qc)))
    assert solo.core.round == 1
    solo.give("n2", solo.timeout("n2", 5, solo.genesis_qc, solo.tc(4, solo.genesis_qc)))
    assert solo.core.round == 5


@pytest.mark.parametrize("forged", ["too few", "doubled", "other rounds", "lower certificate"])
def test_a_timeout_certificate_that_does_not_hold_counts_for_nothing(forged: str) -> None:
    solo = Solo("n1")
    one = solo.block(solo.genesis, 1)
    good = solo.tc(4, solo.qc(one))
    rows = good.timeouts
    bad = {
        "too few": TimeoutCertificate(4, rows[:2], good.high_qc),
        "doubled": TimeoutCertificate(4, (rows[0], rows[1], rows[1]), good.high_qc),
        "other rounds": TimeoutCertificate(4, solo.tc(3, solo.qc(one)).timeouts, good.high_qc),
        "lower certificate": TimeoutCertificate(4, rows, solo.genesis_qc.encode()),
    }[forged]
    solo.give("n2", Certificates(1, b"", bad.encode(), b""))
    assert (solo.core.round, solo.core.high_qc.round) == (1, 0)
    solo.give("n2", Certificates(1, b"", good.encode(), b""))
    assert solo.core.round == 5


def test_a_member_in_an_earlier_round_is_shown_why_it_has_ended_but_not_every_time() -> None:
    solo = Solo("n1")
    solo.chain(1, 2, 3)
    assert solo.core.round == 3
    for _ in range(20):
        solo.give("n4", solo.timeout("n4", 1, solo.genesis_qc))
    shown = [m for dest, m in solo.now if type(m) is Certificates and dest == "n4"]
    assert len(shown) == 1
    assert decode_qc(shown[0].high_qc).round == 2
