"""Elections, one test a sentence of the paper (5.1, 5.2, 5.4.1) and the thesis (4.2.3, 6.2, 9.6)."""

from __future__ import annotations

import pytest
from raft_solo import FIVE, Solo, entries

from consensus.core import Role
from consensus.raft import SafetyViolation, Timing, records
from consensus.raft.messages import (
    AppendEntries,
    AppendEntriesReply,
    PreVote,
    PreVoteReply,
    RequestVote,
    RequestVoteReply,
)

HEARTBEAT, ELECTION = Timing().heartbeat, Timing().election


def vote(solo: Solo, sender: str, term: int, last: tuple[int, int]) -> bool | None:
    """Ask for a vote; None if there is no answer."""
    solo.said(RequestVoteReply)
    solo.give(sender, RequestVote(term, *last))
    answers = solo.said(RequestVoteReply, "wait")
    return answers[0][1].granted if answers else None


def pre_vote(solo: Solo, sender: str, term: int, last: tuple[int, int]) -> PreVoteReply:
    solo.give(sender, PreVote(term, *last))
    return solo.said(PreVoteReply)[0][1]


def test_a_server_begins_as_a_follower_and_campaigns_only_after_a_whole_time_out() -> None:
    solo = Solo()
    assert solo.core.role == Role.FOLLOWER
    solo.later(ELECTION - 1)
    assert solo.now == solo.wait == []
    solo.later(ELECTION + 1)
    assert {dest for dest, _ in solo.said(PreVote)} == {"n2", "n3"}


def test_time_outs_are_drawn_anew_each_time() -> None:
    solo = Solo()
    waits = set()
    for _ in range(20):
        solo.append("n2", 1, 0, 0)
        waits.add(solo.core.deadline - solo.clock)
    assert len(waits) > 15
    assert min(waits) >= ELECTION
    assert max(waits) < 2 * ELECTION


def test_heartbeats_keep_a_follower_from_campaigning() -> None:
    solo = Solo()
    for _ in range(100):
        solo.append("n2", 1, 0, 0)
        solo.later(HEARTBEAT)
    assert solo.core.role == Role.FOLLOWER
    assert solo.said(PreVote) == []


def test_a_candidate_raises_its_term_votes_for_itself_and_asks_everybody() -> None:
    solo = Solo(FIVE)
    solo.campaign()
    assert solo.core.term == 1
    assert solo.core.state.voted_for == "n1"
    assert [dest for dest, _ in solo.said(RequestVote, "wait")] == ["n2", "n3", "n4", "n5"]
    assert solo.journal[-1] == records.hard_state(1, "n1")


def test_a_pre_vote_changes_no_term_and_writes_nothing() -> None:
    solo = Solo()
    solo.later(10 * ELECTION)
    assert solo.core.term == 0
    assert solo.records == []
    assert {message.term for _, message in solo.said(PreVote)} == {1}


def test_a_candidate_that_has_a_majority_of_the_votes_leads_and_says_so_at_once() -> None:
    solo = Solo(FIVE)
    solo.campaign()
    solo.give("n2", RequestVoteReply(1, True))
    assert solo.core.role == Role.CANDIDATE
    solo.give("n3", RequestVoteReply(1, True))
    assert solo.core.role == Role.LEADER
    assert {dest for dest, _ in solo.said(AppendEntries, "now")} == {"n2", "n3", "n4", "n5"}


def test_a_vote_counts_once_however_often_it_arrives() -> None:
    solo = Solo(FIVE)
    solo.campaign()
    for _ in range(3):
        solo.give("n2", RequestVoteReply(1, True))
    assert solo.core.role == Role.CANDIDATE


def test_a_vote_of_an_earlier_term_does_not_count() -> None:
    solo = Solo()
    solo.campaign()
    solo.later(3 * ELECTION)
    solo.campaign()
    assert solo.core.term == 2
    solo.give("n2", RequestVoteReply(1, True))
    assert solo.core.role == Role.CANDIDATE


def test_a_refusal_is_no_vote() -> None:
    solo = Solo()
    solo.campaign()
    solo.give("n2", RequestVoteReply(1, False))
    solo.give("n3", RequestVoteReply(1, False))
    assert solo.core.role == Role.CANDIDATE


def test_a_candidates_own_vote_counts_only_when_it_is_durable() -> None:
    solo = Solo()
    solo.expire()
    solo.give("n2", PreVoteReply(1, True))
    solo.give("n2", RequestVoteReply(1, True))  # cannot happen: the request is still waiting
    assert solo.core.role == Role.CANDIDATE
    solo.sync()
    assert solo.core.role == Role.LEADER


def test_a_server_votes_for_one_candidate_a_term_first_come_first_served() -> None:
    solo = Solo()
    assert vote(solo, "n2", 5, (0, 0)) is True
    assert vote(solo, "n3", 5, (9, 4)) is False
    assert vote(solo, "n2", 5, (0, 0)) is True


def test_a_vote_survives_a_power_cut() -> None:
    solo = Solo()
    vote(solo, "n2", 5, (0, 0))
    solo.sync()
    assert vote(solo.restart(), "n3", 5, (9, 4)) is False


def test_a_vote_waits_for_the_disk() -> None:
    solo = Solo()
    solo.give("n2", RequestVote(5, 0, 0))
    assert solo.said(RequestVoteReply, "now") == []
    assert records.hard_state(5, "n2") in solo.records


def test_a_candidates_request_waits_for_the_disk() -> None:
    solo = Solo()
    solo.expire()
    solo.give("n2", PreVoteReply(1, True))
    assert solo.said(RequestVote, "now") == []
    assert len(solo.said(RequestVote, "wait")) == 2


@pytest.mark.parametrize("last", [(3, 1), (2, 2), (0, 0)])
def test_a_server_denies_its_vote_to_a_log_that_is_less_up_to_date_than_its_own(
    last: tuple[int, int],
) -> None:
    solo = Solo()
    solo.follow(2, entries(1, 2, 2))
    solo.later(ELECTION - 1)
    assert pre_vote(solo, "n3", 3, last).granted is False
    assert vote(solo, "n3", 3, last) is False


@pytest.mark.parametrize("last", [(3, 2), (4, 2), (1, 3)])
def test_a_later_last_term_wins_and_with_equal_terms_the_longer_log(last: tuple[int, int]) -> None:
    solo = Solo()
    solo.follow(2, entries(1, 2, 2))
    solo.later(ELECTION - 1)
    assert pre_vote(solo, "n3", 3, last).granted is True
    assert vote(solo, "n3", 3, last) is True


def test_a_step_down_within_a_term_never_clears_the_vote() -> None:
    solo = Solo()
    solo.lead()
    solo.core.resign(solo.clock, solo.out)
    solo.take()
    assert solo.core.state.voted_for == "n1"
    assert vote(solo, "n2", 1, (9, 9)) is False


def test_a_candidate_that_hears_the_leader_of_its_term_follows_it() -> None:
    solo = Solo()
    solo.campaign()
    solo.append("n3", 1, 0, 0)
    assert solo.core.role == Role.FOLLOWER
    assert solo.core.observe().leader == "n3"
    solo.give("n2", RequestVoteReply(1, True))
    assert solo.core.role == Role.FOLLOWER


def test_a_candidate_does_not_follow_a_leader_of_an_earlier_term_and_tells_it_the_term() -> None:
    solo = Solo()
    solo.follow(4)
    solo.campaign()
    answer = solo.append("n3", 4, 0, 0)
    assert answer == AppendEntriesReply(5, False, 0, 0, 0, 0)
    assert solo.core.role == Role.CANDIDATE


def test_whoever_sees_a_later_term_becomes_a_follower_in_it() -> None:
    for message in (
        AppendEntriesReply(9, False, 0, 0, 0, 0),
        RequestVoteReply(9, False),
        PreVoteReply(9, False),
    ):
        solo = Solo()
        solo.lead()
        solo.give("n2", message)
        assert (solo.core.role, solo.core.term) == (Role.FOLLOWER, 9)
        assert records.hard_state(9, None) in solo.records


def test_two_leaders_in_one_term_stop_the_node() -> None:
    solo = Solo()
    solo.lead()
    with pytest.raises(SafetyViolation, match="both lead term 1"):
        solo.append("n2", 1, 0, 0)


def test_strangers_are_not_heard() -> None:
    solo = Solo()
    solo.give("n9", RequestVote(5, 0, 0))
    solo.give("n1", RequestVote(5, 0, 0))
    assert solo.core.term == 0
    assert solo.wait == []


# -- pre-vote, stickiness, check-quorum


def test_who_hears_a_leader_gives_neither_vote_nor_pre_vote_and_keeps_its_term() -> None:
    solo = Solo()
    solo.follow(2)
    solo.later(ELECTION - HEARTBEAT - 1)
    assert pre_vote(solo, "n3", 3, (9, 2)).granted is False
    assert vote(solo, "n3", 3, (9, 2)) is None
    assert solo.core.term == 2


def test_the_first_to_time_out_is_not_turned_down_by_who_heard_the_last_heartbeat_a_moment_later() -> None:
    solo = Solo()
    solo.follow(2)
    solo.later(ELECTION - HEARTBEAT)
    assert pre_vote(solo, "n3", 3, (9, 2)).granted is True


def test_a_leader_gives_no_votes() -> None:
    solo = Solo()
    solo.lead()
    assert pre_vote(solo, "n3", 2, (9, 9)).granted is False
    assert vote(solo, "n3", 2, (9, 9)) is None


def test_a_pre_vote_for_a_term_that_is_not_later_is_refused_with_the_own_term() -> None:
    solo = Solo()
    solo.follow(5)
    solo.later(ELECTION - 1)
    assert pre_vote(solo, "n3", 5, (9, 9)) == PreVoteReply(5, False)


def test_pre_votes_of_another_term_do_not_count() -> None:
    solo = Solo()
    solo.expire()
    solo.give("n2", PreVoteReply(3, True))
    assert solo.core.role == Role.PRECANDIDATE


def test_pre_votes_count_once_a_voter() -> None:
    solo = Solo(FIVE)
    solo.expire()
    for _ in range(3):
        solo.give("n2", PreVoteReply(1, True))
    assert solo.core.role == Role.PRECANDIDATE


def test_a_leader_that_no_majority_answers_steps_down() -> None:
    solo = Solo(FIVE)
    solo.lead()
    solo.later(2 * ELECTION - HEARTBEAT)
    assert solo.core.role == Role.LEADER
    solo.ack("n2", 1)
    solo.later(2 * HEARTBEAT)  # n1 and n2 are two of five
    assert solo.core.role == Role.FOLLOWER
    assert solo.core.observe().leader is None
    assert solo.core.leading is None


def test_a_leader_that_a_majority_answers_goes_on_leading() -> None:
    solo = Solo(FIVE)
    solo.lead()
    for _ in range(40):
        solo.later(HEARTBEAT)
        solo.ack("n2", 1)
        solo.ack("n4", 1)
    assert solo.core.role == Role.LEADER


def test_a_leader_that_was_frozen_for_long_steps_down_when_it_wakes() -> None:
    solo = Solo()
    solo.lead()
    solo.clock += 10_000_000
    solo.core.timeout(solo.clock, solo.out)
    solo.take()
    assert solo.core.role == Role.FOLLOWER
    assert solo.said(AppendEntries) == []


def test_a_leader_whose_disk_stands_still_steps_down_and_does_not_campaign() -> None:
    solo = Solo()
    solo.lead()
    solo.propose(b"never durable")
    for _ in range(40):
        solo.later(HEARTBEAT)
        if solo.core.leading is not None:
            solo.ack("n2", 1)
            solo.ack("n3", 1)
    assert solo.core.role == Role.FOLLOWER
    assert solo.core.observe().storage_stalled
    solo.later(10 * ELECTION)
    assert solo.said(PreVote) == []
    solo.sync()
    solo.later(2 * ELECTION)
    assert solo.said(PreVote) != []


def test_a_candidate_waits_for_its_own_disk_before_it_tries_a_new_term() -> None:
    """On a slow disk it would otherwise start term after term, and never live to see an answer."""
    solo = Solo()
    solo.expire()
    solo.give("n2", PreVoteReply(1, True))
    solo.later(3 * ELECTION)
    assert (solo.core.role, solo.core.term) == (Role.CANDIDATE, 1)
    assert len(solo.said(PreVote)) == 2  # those of the first round
    solo.sync()
    assert solo.core.deadline >= solo.clock + ELECTION  # the voters' disks may be as slow
    solo.give("n2", RequestVoteReply(1, True))
    assert solo.core.role == Role.LEADER


def test_a_candidate_with_a_rival_tries_again_sooner_than_a_time_out() -> None:
    solo = Solo(FIVE)
    solo.campaign()
    solo.give("n2", RequestVoteReply(1, False))
    first = solo.core.deadline
    assert solo.clock + HEARTBEAT <= first < solo.clock + HEARTBEAT + ELECTION
    solo.give("n3", RequestVoteReply(1, False))
    assert solo.core.deadline == first  # drawn once, whatever more comes in


def test_who_has_resigned_votes_and_never_campaigns() -> None:
    solo = Solo()
    solo.lead()
    solo.core.resign(solo.clock, solo.out)
    solo.take()
    solo.quiet()
    solo.later(20 * ELECTION)
    assert solo.now == []
    assert vote(solo, "n2", 2, (9, 9)) is True
    solo.append("n2", 2, 0, 0)
    solo.later(20 * ELECTION)
    assert solo.said(PreVote) == []


def test_a_single_server_elects_itself_once_its_vote_is_durable() -> None:
    solo = Solo(("n1",))
    solo.later(2 * ELECTION)
    assert solo.core.role == Role.CANDIDATE
    solo.sync()
    assert solo.core.role == Role.LEADER
    solo.sync()
    assert len(solo.committed) == 1
    solo.read(7)
    assert solo.reads == [(7, 1)]


@pytest.mark.parametrize("timing", [{"heartbeat": 120_000}, {"heartbeat": 0}, {"stall": 0}])
def test_times_that_leave_no_room_for_an_election_are_refused(timing: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be above"):
        Timing(**timing)
