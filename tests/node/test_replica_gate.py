"""The ordering rules of consensus.core at the place where they are enforced."""

from __future__ import annotations

from replica_bench import Bench

from node.disk import JOURNAL, SNAPSHOT
from node.protocol import ChunkRequest


def test_a_waiting_message_leaves_only_after_the_job_that_carries_its_record() -> None:
    bench = Bench()
    assert bench.record(1, ("n2", "vote")).peers == []
    assert bench.turn().peers == []
    assert bench.finish(bench.jobs[0]).peers == [("n2", "vote")]
    assert bench.turn().peers == []


def test_a_waiting_message_without_a_record_waits_for_the_latest_ticket() -> None:
    bench = Bench()
    bench.record(1)
    bench.record(2)
    assert bench.core_says(lambda out: out.wait.append(("n3", "no"))).peers == []
    first, second = bench.jobs
    assert bench.finish(first).peers == []
    assert bench.finish(second).peers == [("n3", "no")]


def test_with_nothing_outstanding_a_waiting_message_leaves_at_once() -> None:
    bench = Bench()
    bench.record(1)
    bench.finish_all()
    assert bench.core_says(lambda out: out.wait.append(("n3", "no"))).peers == [("n3", "no")]


def test_a_message_that_may_leave_now_leaves_in_the_turn_of_its_record() -> None:
    bench = Bench()

    def both(out) -> None:
        out.records.append((1, b"entry"))
        out.ticket = 1
        out.now.append(("n2", "append"))
        out.wait.append(("n3", "vote"))

    assert bench.core_says(both).peers == [("n2", "append")]


def test_messages_behind_several_tickets_leave_ticket_by_ticket_in_order() -> None:
    bench = Bench()
    for ticket in (1, 2, 3):
        bench.record(ticket, ("n2", f"a{ticket}"), ("n3", f"b{ticket}"))
    first, _, third = bench.jobs
    assert bench.finish(first).peers == [("n2", "a1"), ("n3", "b1")]
    # The lane merges what has queued up and reports the last number only.
    bench.replica.job_done(JOURNAL, third.number, bench.now)
    assert [message for _, message in bench.turn().peers] == ["a2", "b2", "a3", "b3"]
    assert [heard for heard in bench.core.heard if heard[0] == "persisted"] == [
        ("persisted", 1),
        ("persisted", 3),
    ]


def test_a_job_of_the_snapshot_lane_opens_no_gate() -> None:
    bench = Bench()
    bench.record(1, ("n2", "vote"))
    bench.replica.job_done(SNAPSHOT, bench.jobs[0].number, bench.now)
    assert bench.turn().peers == []
    assert ("persisted", 1) not in bench.core.heard


def test_what_the_core_says_on_hearing_of_durability_waits_for_tickets_still_open() -> None:
    bench = Bench()
    bench.record(1)
    bench.record(2)
    bench.core.then(lambda out: out.wait.append(("n2", "ack")))
    assert bench.finish(bench.jobs[0]).peers == []
    assert bench.finish(bench.jobs[0]).peers == [("n2", "ack")]


def test_the_same_job_reported_twice_is_news_once() -> None:
    bench = Bench()
    bench.record(1, ("n2", "vote"))
    job = bench.jobs[0]
    bench.finish(job)
    bench.replica.job_done(job.lane, job.number, bench.now)
    assert bench.turn().peers == []
    assert bench.core.heard.count(("persisted", 1)) == 1


def test_records_of_one_turn_are_one_job_with_one_sync() -> None:
    bench = Bench()
    for ticket in (1, 2):

        def fill(out, ticket: int = ticket) -> None:
            out.records.append((1, b"x"))
            out.ticket = ticket

        bench.core.then(fill)
        bench.replica.receive_peer("n2", "anything", bench.now)
    bench.turn()
    assert len(bench.jobs) == 1
    assert [type(op).__name__ for op in bench.jobs[0].ops] == ["Append", "Sync"]


def test_pieces_of_snapshots_never_stand_in_the_queue_of_protocol_messages() -> None:
    bench = Bench()
    bench.replica.receive_peer("n2", ChunkRequest(5, 0), bench.now)
    effects = bench.turn()
    assert effects.peers == []
    assert [(dest, message.pieces) for dest, message in effects.bulk] == [("n2", 0)]
