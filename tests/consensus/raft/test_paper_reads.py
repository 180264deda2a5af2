"""Read barriers, one test a sentence of the thesis (6.4)."""

from __future__ import annotations

from raft_solo import FIVE, Solo, entries

from consensus.core import RefusalCode
from consensus.raft import Timing
from consensus.raft.messages import AppendEntries, AppendEntriesReply, ReadReply, ReadRequest
from consensus.raft.reads import AskedBarriers, ReadRounds

ELECTION = Timing().election


def test_a_leader_answers_when_a_majority_has_answered_what_was_sent_after_the_read() -> None:
    solo = Solo(FIVE)
    solo.lead()
    solo.read(7)
    rounds = {message.round for _, message in solo.said(AppendEntries, "now")}
    assert rounds == {1}
    solo.ack("n2", 1, read_round=1)
    solo.ack("n3", 1, read_round=0)  # answers what was sent before
    assert solo.reads == []
    solo.ack("n3", 1, read_round=1)
    assert solo.reads == [(7, 1)]


def test_one_peer_that_answers_twice_is_one_peer() -> None:
    solo = Solo(FIVE)
    solo.lead()
    solo.read(7)
    for _ in range(3):
        solo.ack("n2", 1, read_round=1)
    assert solo.reads == []


def test_a_leader_serves_no_read_before_it_has_committed_an_entry_of_its_term() -> None:
    solo = Solo()
    solo.follow(3, entries(1, 2), commit=1)
    solo.lead(commit=False)
    solo.read(7)
    solo.ack("n2", 2)
    solo.ack("n3", 2)
    assert solo.said(ReadReply) == []
    assert solo.reads == []
    solo.ack("n2", 3)
    solo.ack("n2", 3, read_round=1)
    assert solo.reads == [(7, 3)]


def test_reads_asked_during_a_round_share_the_next() -> None:
    solo = Solo()
    solo.lead()
    solo.read(1)
    solo.read(2)
    solo.read(3)
    solo.ack("n2", 1, read_round=1)
    assert [token for token, _ in solo.reads] == [1]
    solo.ack("n2", 1, read_round=1)
    assert [token for token, _ in solo.reads] == [1]
    solo.ack("n2", 1, read_round=2)
    assert [token for token, _ in solo.reads] == [1, 2, 3]


def test_a_barrier_has_the_commit_index_of_when_its_round_began_not_an_older_one() -> None:
    solo = Solo()
    solo.lead()
    solo.read(1)
    solo.propose(b"x")
    solo.sync()
    solo.ack("n2", 2)
    solo.read(2)
    solo.ack("n2", 2, read_round=1)
    solo.ack("n2", 2, read_round=2)
    assert solo.reads == [(1, 1), (2, 2)]


def test_a_lost_round_is_answered_with_the_next_heartbeat() -> None:
    solo = Solo()
    solo.lead()
    solo.read(7)
    solo.quiet()
    solo.expire()
    beat = solo.said(AppendEntries, "now")[0][1]
    assert beat.round == 1


def test_a_lazy_barrier_sends_nothing_and_rides_on_the_next_heartbeat() -> None:
    solo = Solo()
    solo.lead()
    solo.read(7, lazy=True)
    solo.give("n3", ReadRequest(1, 50, lazy=True))
    assert solo.said(AppendEntries, "now") == []
    solo.expire()
    assert {(dest, m.round) for dest, m in solo.said(AppendEntries, "now")} == {("n2", 1), ("n3", 1)}
    assert solo.reads == []
    solo.ack("n2", 1, read_round=1)
    assert solo.reads == [(7, 1)]
    assert solo.said(ReadReply, "now") == [("n3", ReadReply(1, 50, True, 1))]


def test_a_lazy_barrier_rides_on_entries_too_and_an_answer_to_what_was_sent_before_is_none() -> None:
    solo = Solo()
    solo.lead()
    solo.read(7, lazy=True)
    solo.ack("n2", 1, read_round=0)
    solo.propose(b"x")
    assert {m.round for _, m in solo.said(AppendEntries, "now")} == {1}
    solo.ack("n2", 1, read_round=0)
    assert solo.reads == []
    solo.ack("n2", 2, read_round=1)
    assert solo.reads == [(7, 1)], "the commit index of when the round began"


def test_an_urgent_barrier_takes_the_lazy_ones_along() -> None:
    solo = Solo()
    solo.lead()
    solo.read(7, lazy=True)
    solo.read(8)
    assert {m.round for _, m in solo.said(AppendEntries, "now")} == {1}
    solo.ack("n2", 1, read_round=1)
    assert solo.reads == [(7, 1), (8, 1)]


def test_a_lazy_barrier_of_the_only_member_comes_with_its_heartbeat() -> None:
    solo = Solo(("n1",))
    solo.expire()
    solo.sync()
    solo.sync()
    solo.read(7, lazy=True)
    assert solo.reads == []
    solo.expire()
    assert solo.reads == [(7, 1)]


def test_a_lazy_barrier_waits_for_the_first_commit_of_the_term_and_is_refused_with_the_leadership() -> None:
    solo = Solo()
    solo.lead(commit=False)
    solo.read(7, lazy=True)
    solo.expire()
    assert {m.round for _, m in solo.said(AppendEntries, "now")} == {0}
    solo.append("n2", 2, 0, 0)
    assert [token for token, _ in solo.refused] == [7]


def test_a_follower_says_that_its_question_is_lazy_and_waits_a_heartbeat_longer_for_the_answer() -> None:
    solo = Solo()
    solo.follow(3)
    solo.read(7, lazy=True)
    assert solo.said(ReadRequest, "now") == [("n2", ReadRequest(3, 7, True))]
    for _ in range(4):  # the leader is not silent
        solo.later(ELECTION // 4)
        solo.append("n2", 3, 0, 0)
    assert solo.refused == []
    solo.later(Timing().heartbeat)
    assert [token for token, _ in solo.refused] == [7]


def test_a_peer_that_is_still_probed_takes_part_in_a_round() -> None:
    solo = Solo()
    solo.lead(commit=False)
    solo.ack("n2", 1)
    solo.quiet()
    solo.read(7)
    assert {(dest, m.round) for dest, m in solo.said(AppendEntries, "now")} == {("n2", 1), ("n3", 1)}
    solo.give("n3", AppendEntriesReply(1, False, 0, 0, 0, 1))
    assert solo.reads == [(7, 1)]


def test_rounds_of_an_earlier_leadership_prove_nothing() -> None:
    solo = Solo()
    solo.lead()
    for token in range(3):
        solo.read(token)
        solo.ack("n2", 1, read_round=token + 1)
    assert len(solo.reads) == 3
    solo.append("n2", 2, 1, 1)
    solo.sync()
    solo.lead()
    solo.reads.clear()
    solo.read(9)
    solo.give("n2", AppendEntriesReply(2, True, 1, 0, 0, 3))
    assert solo.reads == []
    solo.ack("n2", 2, read_round=1)
    assert solo.reads == [(9, 2)]


def test_a_deposed_leader_refuses_the_reads_that_wait() -> None:
    solo = Solo()
    solo.lead()
    solo.read(1)
    solo.give("n3", ReadRequest(1, 50))
    solo.append("n2", 2, 1, 1)
    assert [(token, refusal.code, refusal.leader) for token, refusal in solo.refused] == [
        (1, RefusalCode.NOT_LEADER, "n2")
    ]
    assert solo.said(ReadReply) == [("n3", ReadReply(2, 50, False, 0))]


def test_a_leader_without_a_majority_refuses_in_the_end() -> None:
    solo = Solo()
    solo.lead()
    solo.read(1)
    solo.later(4 * ELECTION)
    assert solo.reads == []
    assert [refusal.code for _, refusal in solo.refused] == [RefusalCode.NO_QUORUM]


def test_a_follower_asks_its_leader_and_takes_one_answer_for_one_question() -> None:
    solo = Solo()
    solo.follow(3)
    solo.read(7)
    assert solo.said(ReadRequest, "now") == [("n2", ReadRequest(3, 7))]
    solo.give("n2", ReadReply(3, 6, True, 90))
    solo.give("n2", ReadReply(3, 7, True, 99))
    solo.give("n2", ReadReply(3, 7, True, 100))
    assert solo.reads == [(7, 99)]


def test_a_follower_gives_up_on_a_silent_leader_and_when_the_leader_changes() -> None:
    solo = Solo()
    solo.follow(3)
    solo.read(7)
    solo.later(2 * ELECTION)
    assert [token for token, _ in solo.refused] == [7]
    solo.append("n2", 3, 0, 0)
    solo.read(8)
    solo.append("n3", 4, 0, 0)
    assert [token for token, _ in solo.refused] == [7, 8]
    solo.give("n2", ReadReply(3, 8, True, 1))
    assert solo.reads == []


def test_a_server_without_a_leader_refuses_at_once() -> None:
    solo = Solo()
    solo.read(7)
    assert [refusal.code for _, refusal in solo.refused] == [RefusalCode.NO_QUORUM]


def test_a_leader_answers_followers_and_refuses_who_knows_a_later_term() -> None:
    solo = Solo()
    solo.lead()
    solo.give("n2", ReadRequest(1, 50))
    solo.ack("n2", 1, read_round=1)
    assert solo.said(ReadReply, "now") == [("n2", ReadReply(1, 50, True, 1))]
    solo.give("n2", ReadRequest(2, 51))
    assert solo.said(ReadReply, "now") == [("n2", ReadReply(1, 51, False, 0))]


def test_a_follower_hears_of_the_commit_that_its_barrier_needs_together_with_the_barrier() -> None:
    solo = Solo()
    solo.lead()
    solo.propose(b"x")
    solo.sync()
    solo.quiet()
    solo.ack("n3", 2)  # committed; n2 has not been told
    solo.give("n2", ReadRequest(1, 50))
    solo.quiet()
    assert solo.core.leading is not None
    solo.core.leading.progress["n2"].commit_sent = 1
    solo.ack("n3", 2, read_round=1)
    kinds = [type(m).__name__ for dest, m in solo.now if dest == "n2"]
    assert kinds == ["AppendEntries", "ReadReply"]
    assert solo.now[-2][1].commit == 2


def test_read_rounds_begin_once_answer_once_and_can_be_given_up() -> None:
    rounds = ReadRounds()
    assert not rounds.begin(5)
    rounds.ask("n2", 1)
    assert rounds.begin(5)
    assert rounds.running
    rounds.ask(None, 2)
    assert not rounds.begin(6)
    assert rounds.finish(0) == []
    assert rounds.finish(1) == [("n2", 1, 5)]
    assert rounds.finish(1) == []
    assert rounds.begin(6)
    assert rounds.finish(1) == []  # the number of the round before
    rounds.ask("n3", 3)
    assert rounds.drain() == [(None, 2), ("n3", 3)]
    assert not rounds.running
    assert rounds.finish(2) == []


def test_asked_barriers_are_answered_once_or_given_up_once() -> None:
    asked = AskedBarriers()
    asked.ask(1, 100)
    asked.ask(2, 200)
    asked.ask(3, 50)
    assert asked.deadline == 50
    assert asked.answered(3)
    assert not asked.answered(3)
    assert asked.late(99) == []
    assert asked.late(100) == [1]
    assert asked.drain() == [2]
    assert not asked.answered(2)
