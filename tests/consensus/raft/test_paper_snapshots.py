"""Snapshots and compaction: section 7 of the paper, and what the power can do in the middle of it."""

from __future__ import annotations

import pytest
from raft_solo import Solo, entries, snapshot

from consensus.raft import SafetyViolation, Timing, records
from consensus.raft.messages import AppendEntries, AppendEntriesReply, InstallSnapshot

SMALL = Timing(retain_bytes=0)


def offer(term: int, index: int, index_term: int, read_round: int = 0) -> InstallSnapshot:
    return InstallSnapshot(term, read_round, index, index_term, bytes(32), ["n1", "n2", "n3"], bytes(32), 0)


def install(solo: Solo, index: int, term: int) -> None:
    solo.core.snapshot_installed(snapshot(index, term), solo.clock, solo.out)
    solo.take()


def taken(solo: Solo, index: int) -> None:
    meta = snapshot(index, solo.core.state.log.term_at(index))
    solo.core.snapshot_taken(meta, solo.clock, solo.out)
    solo.take()


def leader_with_a_compacted_log(size: int = 5) -> Solo:
    solo = Solo(timing=SMALL)
    solo.lead()
    for number in range(size):
        solo.propose(b"%d" % number)
    solo.sync()
    solo.ack("n2", size + 1)
    solo.expire()  # without a mismatch n3 counts as following
    taken(solo, size + 1)
    solo.quiet()
    return solo


def test_a_peer_that_needs_entries_that_are_gone_is_offered_a_snapshot() -> None:
    solo = leader_with_a_compacted_log()
    solo.give("n3", AppendEntriesReply(1, False, 6, 1, 1, 0))
    assert [(dest, m.index) for dest, m in solo.said(InstallSnapshot, "now")] == [("n3", 6)]
    solo.propose(b"more")
    assert [dest for dest, _ in solo.said(AppendEntries)] == ["n2"]
    solo.expire()
    assert [dest for dest, _ in solo.said(InstallSnapshot, "now")] == ["n3"]  # the heartbeat of that peer


def test_a_peer_that_has_the_snapshot_gets_what_follows_it() -> None:
    solo = leader_with_a_compacted_log()
    solo.give("n3", AppendEntriesReply(1, False, 6, 1, 1, 0))
    solo.propose(b"more")
    solo.quiet()
    solo.ack("n3", 2)
    assert solo.said(AppendEntries) == []
    solo.ack("n3", 6)
    assert [(m.prev_index, len(m.entries)) for _, m in solo.said(AppendEntries)] == [(6, 1)]


def test_what_follows_a_fetched_snapshot_is_kept_within_four_tails() -> None:
    solo = Solo(timing=Timing(retain_bytes=30))
    solo.lead()
    solo.propose(*[b"0123456789"] * 5)
    solo.sync()
    solo.ack("n2", 6)
    taken(solo, 6)
    base = solo.core.state.log.base_index
    assert base == 5
    solo.give("n3", AppendEntriesReply(1, False, 6, 1, 1, 0))
    assert solo.said(InstallSnapshot)[0][1].index == 6
    solo.propose(*[b"0123456789"] * 4)
    solo.sync()
    solo.ack("n2", 10)
    taken(solo, 10)
    assert solo.core.state.log.base_index == 6
    solo.expire()
    assert solo.said(InstallSnapshot)[0][1].index == 6  # it may go on fetching


def test_a_peer_is_never_held_to_a_snapshot_that_can_not_be_fetched_any_more() -> None:
    solo = Solo(timing=Timing(retain_bytes=1000))
    solo.lead()
    for _ in range(3):
        solo.propose(bytes(600))
        solo.propose(bytes(600))
        solo.sync()
        solo.ack("n2", solo.core.state.log.last_index)
        taken(solo, solo.core.state.log.last_index)
        if solo.core.leading is not None and solo.core.leading.progress["n3"].snapshot is None:
            solo.give("n3", AppendEntriesReply(1, False, 3, 0, 0, 0))
    solo.quiet()
    solo.expire()
    held = [m.index for dest, m in solo.said(InstallSnapshot) if dest == "n3"]
    assert held == [7]  # 3, 5 and 7 were taken; 3 has been removed by whoever took 7


def test_entries_behind_a_snapshot_stay_for_peers_that_lag_a_little() -> None:
    solo = Solo(timing=Timing(retain_bytes=60))
    solo.follow(1, entries(*[1] * 10), commit=10)
    taken(solo, 10)
    assert solo.core.state.log.base_index == 8
    taken(solo, 9)  # an older one changes nothing
    assert solo.core.state.snapshot == snapshot(10, 1)


def test_a_follower_fetches_what_is_offered_and_claims_only_what_it_has() -> None:
    solo = Solo()
    solo.follow(1, entries(1, 1), commit=2)
    solo.give("n2", offer(1, 9, 1, read_round=4))
    assert solo.install == ("n2", snapshot(9, 1))
    assert solo.said(AppendEntriesReply) == [("n2", AppendEntriesReply(1, True, 2, 0, 0, 4))]
    install(solo, 9, 1)
    assert solo.said(AppendEntriesReply, "now") == []
    assert solo.said(AppendEntriesReply, "wait") == [("n2", AppendEntriesReply(1, True, 9, 0, 0, 0))]
    assert solo.core.state.log.last_index == 9


def test_a_snapshot_of_what_is_applied_already_is_not_fetched() -> None:
    solo = Solo()
    solo.follow(1, entries(1, 1, 1), commit=3)
    solo.give("n2", offer(1, 2, 1))
    assert solo.install is None
    install(solo, 2, 1)
    assert solo.core.state.log.base_index == 0


def test_an_offer_of_an_earlier_term_is_refused() -> None:
    solo = Solo()
    solo.follow(3)
    solo.give("n3", offer(2, 9, 2))
    assert solo.install is None
    assert solo.said(AppendEntriesReply, "wait") == [("n3", AppendEntriesReply(3, False, 0, 0, 0, 0))]


def test_entries_that_follow_an_installed_snapshot_stay() -> None:
    solo = Solo()
    solo.follow(1, entries(1, 1, 1, 1))
    install(solo, 2, 1)
    assert (solo.core.state.log.base_index, solo.core.state.log.last_index) == (2, 4)
    solo.sync()
    assert solo.restart().core.state.log.last_index == 4


def test_a_conflicting_tail_goes_with_an_installed_snapshot() -> None:
    solo = Solo()
    solo.follow(2, entries(1, 1, 2, 2))
    install(solo, 3, 3)
    assert (solo.core.state.log.last_index, solo.core.state.log.last_term) == (3, 3)
    assert solo.core.state.durable_index == 3
    assert solo.append("n3", 3, 3, 3, entries(3, first=4)) == AppendEntriesReply(3, True, 4, 0, 0, 0)


def test_writes_of_a_tail_that_a_snapshot_replaced_make_nothing_durable() -> None:
    solo = Solo()
    solo.append("n2", 2, 0, 0, entries(1, 1, 2, 2, 2))
    install(solo, 3, 3)
    old = solo.out.ticket
    solo.append("n3", 3, 3, 3, entries(3, 3, first=4), commit=5)
    solo.core.persisted(old, solo.clock, solo.out)
    solo.take()
    assert solo.core.state.durable_index == 3
    assert solo.committed == []


def test_a_leader_never_drops_entries_for_a_snapshot_it_stops_instead() -> None:
    solo = Solo()
    solo.lead()
    with pytest.raises(SafetyViolation, match="without committed entry 9"):
        install(solo, 9, 1)


def test_the_power_may_go_between_a_snapshot_and_the_record_of_it() -> None:
    solo = Solo()
    solo.follow(2, entries(1, 1, 2, 2))
    for index, term, last in ((3, 2, 4), (3, 3, 3), (9, 3, 9)):
        again = Solo(journal=solo.journal, snap=snapshot(index, term))
        assert again.core.state.log.base_index == index
        assert again.core.state.log.last_index == last
        assert records.base(index, term) in again.records
        again.sync()
        assert again.restart().core.state.log.last_index == last


def test_a_snapshot_may_be_durable_before_the_term_that_it_was_fetched_in() -> None:
    """Journal and snapshots are written side by side. A last log term above the current term is no state of Raft."""
    solo = Solo(journal=[records.hard_state(2, "n3")], snap=snapshot(9, 5))
    assert (solo.core.term, solo.core.state.voted_for) == (5, None)
    assert records.hard_state(5, None) in solo.records
    solo.expire()
    assert all(message.term == 6 for _, message in solo.now)


def test_a_journal_that_starts_behind_entries_that_no_snapshot_covers_is_refused() -> None:
    journal = [records.hard_state(1, None), records.base(5, 1)]
    with pytest.raises(ValueError, match="no snapshot covers"):
        Solo(journal=journal)
    with pytest.raises(ValueError, match="the newest snapshot ends at 4"):
        Solo(journal=journal, snap=snapshot(4, 1))


def test_the_state_records_rebuild_the_same_server() -> None:
    solo = Solo(journal=[records.hard_state(3, "n2")], timing=SMALL)
    solo.follow(3, entries(1, 1, 3, 3, 3), commit=3)
    taken(solo, 2)
    solo.append("n2", 3, 5, 3, entries(3, first=6))  # in memory, not yet durable: in the new segment as well
    again = Solo(journal=solo.core.state_records(), snap=solo.core.state.snapshot)
    assert again.core.state.voted_for == "n2"
    for name in ("term", "voted_for", "commit_index"):
        assert getattr(again.core.state, name) == getattr(solo.core.state, name)
    assert (again.core.state.log.base_index, again.core.state.log.last_index) == (2, 6)
    assert again.core.state.log.last_term == 3
