"""Replication and commitment, one test a sentence of the paper (5.3, 5.4.2, figure 8) and of consensus.core's rules."""

from __future__ import annotations

import pytest
from raft_solo import FIVE, Solo, entries

from consensus.core import EntryKind, RefusalCode, Role, entry_payload, entry_position
from consensus.raft import SafetyViolation, Timing, progress, records
from consensus.raft.messages import AppendEntries, AppendEntriesReply, RequestVoteReply

HEARTBEAT = Timing().heartbeat


def terms(solo: Solo) -> list[int]:
    return [
        entry_position(entry)[1] for entry in solo.core.state.log.slice(1, solo.core.state.log.last_index)
    ]


def ok(term: int, index: int, read_round: int = 0) -> AppendEntriesReply:
    return AppendEntriesReply(term, True, index, 0, 0, read_round)


# -- the follower


def test_a_follower_takes_entries_in_and_answers_when_they_are_durable() -> None:
    solo = Solo()
    assert solo.append("n2", 1, 0, 0, entries(1, 1)) == ok(1, 2)
    solo.give("n2", AppendEntries(1, 2, 1, 0, 0, entries(1, first=3)))
    assert solo.said(AppendEntriesReply, "now") == []
    assert [record[0] for record in solo.records] == [records.HARD_STATE, *[records.ENTRY] * 3]


def test_an_answer_to_a_duplicate_waits_for_the_disk_as_well() -> None:
    solo = Solo()
    solo.append("n2", 1, 0, 0, entries(1))
    solo.give("n2", AppendEntries(1, 0, 0, 0, 0, entries(1)))
    solo.give("n2", AppendEntries(1, 1, 1, 0, 0, []))
    assert solo.said(AppendEntriesReply, "now") == []
    assert len(solo.said(AppendEntriesReply, "wait")) == 2


def test_a_follower_refuses_entries_if_its_log_has_no_entry_of_that_term_before_them() -> None:
    solo = Solo()
    solo.follow(3, entries(1, 1))
    answer = solo.append("n2", 3, 5, 3, entries(3, first=6))
    assert answer == AppendEntriesReply(3, False, 5, 2, 1, 0)
    assert terms(solo) == [1, 1]


def test_the_hint_skips_all_entries_of_later_terms_than_the_leaders() -> None:
    solo = Solo()
    solo.follow(5, entries(1, 1, 4, 4, 4, 4))
    assert solo.append("n3", 6, 6, 2, []) == AppendEntriesReply(6, False, 6, 2, 1, 0)


def test_a_conflicting_entry_is_deleted_with_all_that_follow_it() -> None:
    solo = Solo()
    solo.follow(2, entries(1, 2, 2, 2))
    solo.append("n3", 3, 1, 1, entries(3, first=2))
    assert terms(solo) == [1, 3]
    solo.sync()
    assert terms(solo.restart()) == [1, 3]


def test_a_late_message_that_ends_before_the_log_does_truncates_nothing() -> None:
    solo = Solo()
    solo.follow(1, entries(1, 1, 1))
    assert solo.append("n2", 1, 0, 0, entries(1)) == ok(1, 1)
    assert terms(solo) == [1, 1, 1]
    assert solo.records == []


def test_the_commit_index_is_bounded_by_the_last_new_entry_not_by_the_end_of_the_log() -> None:
    solo = Solo()
    solo.follow(1, entries(1, 1, 1))
    solo.append("n3", 2, 1, 1, [], commit=3)  # entries 2 and 3 are not this leader's
    assert solo.core.state.commit_index == 1


def test_the_commit_index_never_goes_back() -> None:
    solo = Solo()
    solo.follow(1, entries(1, 1, 1), commit=3)
    solo.append("n2", 1, 3, 1, [], commit=1)
    assert solo.core.state.commit_index == 3


def test_a_committed_entry_is_never_overwritten_the_node_stops_instead() -> None:
    solo = Solo()
    solo.append("n2", 1, 0, 0, entries(1, 1), commit=2)  # committed, not yet durable here
    with pytest.raises(SafetyViolation, match="2 is committed"):
        solo.append("n3", 2, 0, 0, entries(2))


def test_nothing_is_handed_out_that_is_not_durable_here() -> None:
    solo = Solo()
    log = entries(1, 1)
    solo.append("n2", 1, 0, 0, log, commit=2)
    assert solo.core.state.commit_index == 2
    assert solo.committed == []
    solo.sync()
    assert solo.committed == log


def test_a_write_of_entries_that_were_replaced_meanwhile_makes_nothing_durable() -> None:
    solo = Solo()
    solo.append("n2", 1, 0, 0, entries(1, 1, 1))
    first = solo.out.ticket
    solo.append("n3", 2, 1, 1, entries(2, 2, first=2), commit=3)
    solo.core.persisted(first, solo.clock, solo.out)
    solo.take()
    assert solo.core.state.durable_index == 1
    assert len(solo.committed) == 1


def test_entries_that_are_not_what_the_message_says_are_not_answered() -> None:
    solo = Solo()
    for wrong in (entries(1, first=3), entries(2), entries(1, 0), [b"short"]):
        assert solo.append("n2", 1, 0, 0, wrong) is None
    assert solo.core.state.log.last_index == 0


def test_the_term_is_written_before_the_entries_of_that_term() -> None:
    solo = Solo()
    solo.append("n2", 4, 0, 0, entries(4))
    assert solo.records[0] == records.hard_state(4, None)


# -- the leader


def test_a_leader_begins_with_an_entry_of_its_own_term() -> None:
    solo = Solo()
    solo.lead(commit=False)
    assert entry_position(solo.core.state.log.slice(1, 1)[0]) == (1, 1, EntryKind.NOOP)


def test_an_entry_is_committed_when_a_majority_holds_it_durably() -> None:
    solo = Solo(FIVE)
    solo.lead()
    solo.propose(b"x")
    solo.sync()
    solo.ack("n2", 2)
    assert solo.core.state.commit_index == 1
    solo.ack("n3", 2)
    assert solo.core.state.commit_index == 2
    assert entry_payload(solo.committed[-1]) == b"x"


def test_a_leader_does_not_count_itself_before_its_own_disk_is_done() -> None:
    solo = Solo(FIVE)
    solo.lead()
    solo.propose(b"x")
    solo.ack("n2", 2)
    solo.ack("n3", 2)
    assert solo.core.state.commit_index == 1
    solo.sync()
    assert solo.core.state.commit_index == 2


def test_what_others_hold_is_committed_without_the_leaders_disk_but_not_handed_out_there() -> None:
    solo = Solo()
    solo.lead()
    solo.propose(b"x")
    solo.ack("n2", 2)
    solo.ack("n3", 2)
    assert solo.core.state.commit_index == 2
    assert len(solo.committed) == 1
    solo.sync()
    assert len(solo.committed) == 2


def test_the_same_answer_twice_is_one_member() -> None:
    solo = Solo(FIVE)
    solo.lead()
    solo.propose(b"x")
    solo.sync()
    for _ in range(4):
        solo.ack("n2", 2)
    assert solo.core.state.commit_index == 1


def test_entries_of_earlier_terms_are_not_committed_by_counting() -> None:
    """Figure 8: entry 2 of term 2 is on a majority and can still be overwritten; with an entry of term 4 it cannot."""
    solo = Solo(FIVE)
    solo.follow(3, entries(1, 2))
    solo.lead(commit=False)
    assert solo.core.term == 4
    solo.ack("n2", 2)
    solo.ack("n3", 2)
    assert solo.core.state.commit_index == 0
    solo.ack("n2", 3)
    solo.ack("n3", 3)
    assert solo.core.state.commit_index == 3


def test_a_new_leader_finds_the_place_where_a_log_agrees_and_makes_it_like_its_own() -> None:
    """Figure 7: followers that lack entries, have too many, or both."""
    for theirs in (
        [1, 1, 1, 4, 4],
        [1],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [],
    ):
        leader, follower = Solo(("n1", "n2")), Solo(("n1", "n2"))
        leader.follow(6, entries(1, 1, 1, 4, 4, 5, 5, 6, 6))
        follower.follow(6, entries(*theirs))
        leader.campaign()
        leader.give("n2", RequestVoteReply(7, True))
        exchanges = 0
        while sent := leader.said(AppendEntries):
            exchanges += 1
            for _, message in sent:
                follower.give("n2", message)
                follower.sync()
                for _, answer in follower.said(AppendEntriesReply):
                    leader.give("n2", answer)
        assert terms(follower) == terms(leader)
        assert exchanges <= 4, theirs  # one for each term that differs, not one for each entry


def test_a_leader_sends_on_without_waiting_once_the_logs_agree() -> None:
    solo = Solo()
    solo.lead()
    for number in range(5):
        solo.propose(b"%d" % number)
    assert [m.prev_index for dest, m in solo.said(AppendEntries, "now") if dest == "n3"] == [1, 2, 3, 4, 5]


def test_a_peer_that_is_probed_gets_one_message_until_it_answers_and_then_heartbeats_without_entries() -> (
    None
):
    solo = Solo()
    solo.lead(commit=False)
    solo.ack("n2", 1)
    solo.quiet()
    solo.propose(b"a")
    solo.propose(b"b")
    assert [dest for dest, _ in solo.said(AppendEntries)] == ["n2", "n2"]
    solo.expire()
    beats = [m for dest, m in solo.said(AppendEntries) if dest == "n3"]
    assert [(m.prev_index, len(m.entries)) for m in beats] == [(0, 0)]
    solo.ack("n3", 0)
    assert [(m.prev_index, len(m.entries)) for _, m in solo.said(AppendEntries)] == [(0, 3)]


def test_what_reaches_every_peer_counts_as_a_heartbeat() -> None:
    solo = Solo()
    solo.lead()
    solo.later(HEARTBEAT - 1_000)
    solo.quiet()
    solo.propose(b"x")
    solo.quiet()
    solo.later(HEARTBEAT - 1_000)
    assert solo.said(AppendEntries, "now") == []
    solo.later(1_000)
    assert {dest for dest, _ in solo.said(AppendEntries, "now")} == {"n2", "n3"}


def test_entries_that_reach_not_every_peer_are_no_heartbeat() -> None:
    solo = Solo()
    solo.lead(commit=False)
    solo.ack("n2", 1)  # n3 is still probed: it hears nothing between heartbeats
    solo.later(HEARTBEAT - 1_000)
    solo.quiet()
    solo.propose(b"x")
    assert {dest for dest, _ in solo.said(AppendEntries, "now")} == {"n2"}
    solo.later(1_000)
    assert "n3" in {dest for dest, _ in solo.said(AppendEntries, "now")}


def test_a_leader_that_is_never_quiet_looks_at_its_majority_all_the_same() -> None:
    solo = Solo()
    solo.lead()
    for _ in range(20):  # nobody answers
        solo.later(HEARTBEAT // 2)
        if solo.core.role == Role.LEADER:
            solo.propose(b"x")
            solo.sync()
    assert solo.core.role != Role.LEADER


def test_lost_entries_are_sent_again_after_the_next_heartbeat() -> None:
    solo = Solo()
    solo.lead()
    solo.propose(b"lost")
    solo.quiet()
    solo.expire()
    beat = next(m for dest, m in solo.said(AppendEntries) if dest == "n2")
    assert (beat.prev_index, beat.entries) == (2, [])
    solo.give("n2", AppendEntriesReply(1, False, 2, 1, 1, 0))
    again = next(m for dest, m in solo.said(AppendEntries) if dest == "n2")
    assert (again.prev_index, len(again.entries)) == (1, 1)


def test_an_old_refusal_does_not_move_a_peer_back() -> None:
    solo = Solo()
    solo.lead()
    solo.propose(b"x")
    solo.ack("n2", 2)
    solo.quiet()
    solo.give("n2", AppendEntriesReply(1, False, 2, 0, 0, 0))
    assert solo.said(AppendEntries) == []
    assert solo.core.leading is not None
    assert solo.core.leading.progress["n2"].mode == progress.REPLICATE


def test_answers_of_an_earlier_term_move_nothing() -> None:
    solo = Solo()
    solo.follow(3, entries(1))
    solo.lead(commit=False)
    for peer in ("n2", "n3"):
        solo.give(peer, ok(3, 2))
    assert solo.core.state.commit_index == 0
    assert set(solo.core.observe().match_index.values()) == {0}


def test_an_answer_beyond_the_log_stops_the_node() -> None:
    solo = Solo()
    solo.lead()
    with pytest.raises(SafetyViolation, match="n2 claims 9"):
        solo.ack("n2", 9)


def test_peers_that_need_the_same_get_the_same_message_side_by_side() -> None:
    solo = Solo(FIVE)
    solo.lead()
    solo.propose(b"x")
    sent = solo.said(AppendEntries, "now")
    assert [dest for dest, _ in sent] == ["n2", "n3", "n4", "n5"]
    assert len({id(message) for _, message in sent}) == 1
    assert solo.core.leading is not None
    solo.core.leading.progress["n3"].next_index = 1  # one that needs something else does not part the others
    solo.propose(b"y")
    sent = solo.said(AppendEntries, "now")
    assert [dest for dest, _ in sent] == ["n3", "n2", "n4", "n5"]
    assert len({id(message) for _, message in sent[1:]}) == 1


def test_appends_and_heartbeats_do_not_wait_for_the_leaders_disk() -> None:
    solo = Solo()
    solo.lead()
    solo.propose(b"x")
    solo.expire()
    assert solo.records
    assert solo.said(AppendEntries, "wait") == []
    assert len(solo.said(AppendEntries, "now")) == 4


def test_what_is_on_its_way_to_a_peer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "MAX_INFLIGHT_BYTES", 300)
    monkeypatch.setattr(progress, "MAX_APPEND_BYTES", 100)
    solo = Solo()
    solo.lead()
    for _ in range(20):
        solo.propose(bytes(40))
    to_n2 = [m for dest, m in solo.said(AppendEntries) if dest == "n2"]
    assert 300 <= sum(len(entry) for m in to_n2 for entry in m.entries) < 400
    solo.ack("n2", 21)
    solo.sync()
    solo.ack("n2", solo.core.state.log.last_index)
    assert solo.core.state.commit_index == 21


def test_one_message_carries_a_bounded_number_of_bytes_but_at_least_one_entry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "MAX_APPEND_BYTES", 150)
    solo = Solo()
    solo.lead()
    solo.propose(*[bytes(40)] * 4, bytes(1000), b"")
    sizes = [len(m.entries) for dest, m in solo.said(AppendEntries) if dest == "n2"]
    assert sizes == [2, 2, 1, 1]


def test_proposals_are_refused_while_too_much_is_not_committed() -> None:
    solo = Solo(timing=Timing(uncommitted_bytes=100))
    solo.lead()
    assert solo.propose(bytes(200)) is None
    refusal = solo.propose(b"x")
    assert refusal is not None
    assert refusal.code == RefusalCode.BUSY
    assert solo.core.state.log.last_index == 2


def test_who_does_not_lead_refuses_proposals_and_names_the_leader() -> None:
    solo = Solo()
    refusal = solo.propose(b"x")
    assert refusal is not None
    assert refusal.code == RefusalCode.NO_QUORUM
    solo.follow(1)
    refusal = solo.propose(b"x")
    assert refusal is not None
    assert (refusal.code, refusal.leader) == (RefusalCode.NOT_LEADER, "n2")


def test_nothing_of_one_leadership_is_left_in_the_next() -> None:
    solo = Solo()
    solo.lead()
    solo.propose(b"x")
    solo.ack("n2", 2)
    first = solo.core.leading
    solo.append("n2", 2, 2, 1)
    assert solo.core.leading is None
    assert solo.core.observe().match_index == {}
    solo.sync()
    solo.lead(commit=False)
    assert solo.core.role == Role.LEADER
    assert solo.core.leading is not first
    assert set(solo.core.observe().match_index.values()) == {0}


# -- restarts


def test_a_restarted_server_has_its_term_its_vote_its_log_and_its_commit_hint() -> None:
    solo = Solo()
    solo.follow(3, entries(1, 3, 3), commit=2)
    solo.append("n2", 3, 3, 3, entries(3, first=4), commit=2)  # writes the hint
    solo.sync()
    again = solo.restart()
    assert (again.core.term, terms(again)) == (3, [1, 3, 3, 3])
    assert again.core.state.commit_index == 2
    assert again.committed == entries(1, 3)


def test_what_was_not_synced_is_gone_and_was_never_claimed() -> None:
    solo = Solo()
    solo.follow(1, entries(1))
    solo.append("n2", 1, 1, 1, entries(1, first=2))
    assert terms(solo.restart()) == [1]


def test_a_commit_hint_beyond_the_log_does_not_wait_for_entries_that_nobody_owes() -> None:
    journal = [
        records.hard_state(1, None),
        *((records.ENTRY, entry) for entry in entries(1, 1)),
        records.commit(9),
    ]
    solo = Solo(journal=journal)
    assert solo.core.state.commit_index == 2
    assert len(solo.committed) == 2


def test_a_log_of_a_term_that_the_journal_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="ends in term 4"):
        Solo(journal=[records.hard_state(3, None), (records.ENTRY, entries(4)[0])])
