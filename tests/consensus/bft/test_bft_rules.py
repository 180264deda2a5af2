"""The safety rules alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.bft import rules
from consensus.bft.certificates import TimeoutCertificate
from consensus.bft.rules import Safety
from consensus.bft.timing import SafetyViolation

SIGNATURE = bytes(64)
ROUNDS = st.integers(0, 12)


def tc(round: int, *highs: int) -> TimeoutCertificate:
    rows = tuple((f"n{number}", high, SIGNATURE) for number, high in enumerate(highs, 1))
    return TimeoutCertificate(round, rows, b"")


def test_s1_no_vote_in_a_round_in_which_it_voted_or_below() -> None:
    safety = Safety()
    rules.vote(safety, 5, 4, None)
    assert rules.why_no_vote(safety, 5, 4, None)
    assert rules.why_no_vote(safety, 4, 3, None)
    assert not rules.why_no_vote(safety, 6, 5, None)


def test_s1_no_vote_in_a_round_that_was_given_up_or_below() -> None:
    safety = Safety()
    rules.give_up(safety, 7, 3)
    assert rules.why_no_vote(safety, 7, 6, None)
    assert rules.why_no_vote(safety, 6, 5, None)
    assert not rules.why_no_vote(safety, 8, 7, None)


def test_s2_a_gap_in_the_rounds_needs_a_timeout_certificate_of_the_round_before() -> None:
    safety = Safety()
    assert rules.why_no_vote(safety, 9, 6, None)
    assert rules.why_no_vote(safety, 9, 6, tc(7, 6, 6, 6))
    assert rules.why_no_vote(safety, 9, 6, tc(9, 6, 6, 6))
    assert not rules.why_no_vote(safety, 9, 6, tc(8, 6, 6, 6))


def test_s2_the_parent_is_as_high_as_the_highest_certificate_in_the_timeout_certificate() -> None:
    safety = Safety()
    assert rules.why_no_vote(safety, 9, 5, tc(8, 3, 6, 2))
    assert not rules.why_no_vote(safety, 9, 6, tc(8, 3, 6, 2))
    assert not rules.why_no_vote(safety, 9, 7, tc(8, 3, 6, 2))


def test_s3_a_timeout_never_hides_a_certificate_that_was_seen_or_voted_upon() -> None:
    safety = Safety()
    rules.vote(safety, 5, 4, None)
    with pytest.raises(SafetyViolation, match="has been seen"):
        rules.give_up(safety, 5, 3)
    rules.see(safety, 6)
    with pytest.raises(SafetyViolation, match="has been seen"):
        rules.give_up(safety, 7, 5)
    rules.give_up(safety, 7, 6)


def test_s3_one_timeout_a_round() -> None:
    safety = Safety()
    rules.give_up(safety, 3, 0)
    with pytest.raises(SafetyViolation, match="second time"):
        rules.give_up(safety, 3, 1)


def test_s4_one_proposal_a_round_and_none_behind_a_vote_or_a_timeout() -> None:
    safety = Safety()
    rules.propose(safety, 2)
    with pytest.raises(SafetyViolation):
        rules.propose(safety, 2)
    rules.vote(safety, 3, 2, None)
    assert not rules.may_propose(safety, 3)
    rules.give_up(safety, 4, 2)
    assert not rules.may_propose(safety, 4)
    assert rules.may_propose(safety, 5)


def test_s5_only_consecutive_rounds_commit() -> None:
    assert rules.commits(4, 5)
    assert not rules.commits(4, 6)
    assert not rules.commits(5, 5)
    assert not rules.commits(5, 4)


def test_signing_against_a_rule_stops_the_process() -> None:
    with pytest.raises(SafetyViolation, match="round before"):
        rules.vote(Safety(), 5, 2, None)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["vote", "give up", "see"]), ROUNDS, ROUNDS), max_size=30))
def test_whatever_is_asked_the_state_only_rises_and_no_round_is_voted_in_twice(
    asked: list[tuple[str, int, int]],
) -> None:
    safety, voted, given_up = Safety(), [], 0
    for what, round, parent in asked:
        before = (safety.voted_round, safety.preferred_round, safety.timeout_round)
        if what == "vote" and not rules.why_no_vote(safety, round, parent, tc(round - 1, parent)):
            rules.vote(safety, round, parent, tc(round - 1, parent))
            assert round > given_up
            voted.append(round)
        elif what == "give up" and round > max(safety.timeout_round, safety.voted_round - 1):
            if parent >= safety.preferred_round:
                rules.give_up(safety, round, parent)
                given_up = round
        elif what == "see":
            rules.see(safety, round)
        after = (safety.voted_round, safety.preferred_round, safety.timeout_round)
        assert all(new >= old for new, old in zip(after, before, strict=True))
    assert len(voted) == len(set(voted))
    assert voted == sorted(voted)
