"""Snapshots that the log asks for: everybody takes them of exactly the same state."""

from __future__ import annotations

import pytest
from replica_bench import MEMBERS, Bench
from signers import Ring

from consensus.core import NEVER, EntryKind, SnapshotMeta
from node import snapshot
from node.digests import KEPT, WaryDigestWatch
from node.disk import JOURNAL, SNAPSHOT
from node.kv import KvMachine, append, get
from node.protocol import Chunk, ChunkRequest, DigestReport
from node.replica import Settings
from node.requests import RequestCheck
from node.sessions import PLACES
from node.snapshot import SnapshotError
from node.state import ReplicatedState

RING = Ring()
ANN = RING.signer("ann")
QUIET = Settings(barrier=NEVER, digest=NEVER, snapshot_bytes=500)


def opened() -> Bench:
    bench = Bench(QUIET, requests=RequestCheck("bench", RING.verify, KvMachine().check))
    bench.commit(ANN.open_group(1))
    return bench


def write(bench: Bench, seq: int) -> None:
    bench.commit(ANN.group(PLACES, seq - 1, [seq], [append(b"k", b"%d;" % seq)]))


def mark(bench: Bench, kind: int = EntryKind.CHECKPOINT) -> None:
    bench.commit(kind=kind)


def writing(bench: Bench) -> list:
    return [job for job in bench.jobs if job.lane == SNAPSHOT]


def taken(bench: Bench) -> list[int]:
    return [meta.index for meta in bench.core.snapshots]


def test_a_snapshot_is_of_the_state_at_its_mark_whatever_is_applied_in_the_same_turn() -> None:
    """One replica applies entry by entry, one everything at once, one after a long wait for its disk: the roots are equal."""
    log = [ANN.group(PLACES, seq - 1, [seq], [append(b"k", b"%d;" % seq)]) for seq in range(1, 9)]
    metas: list[SnapshotMeta] = []
    for how in ("one by one", "at once", "at once, with a slow disk"):
        bench = opened()
        entries = []
        for place, group in enumerate(log):
            entries.append(bench.entry(group))
            if place in (2, 5):
                entries.append(bench.entry(kind=EntryKind.CHECKPOINT))
        if how == "one by one":
            for entry in entries:
                bench.core_says(lambda out, entry=entry: out.committed.append(entry))
                bench.finish_all()
        else:
            bench.core_says(lambda out, entries=entries: out.committed.extend(entries))
            if how == "at once":
                bench.finish_all()
        assert bench.state.applied_index == 11
        bench.finish_all()
        assert taken(bench) == [5, 9]
        metas += bench.core.snapshots
    assert metas[0] == metas[2] == metas[4]
    assert metas[1] == metas[3] == metas[5]
    restored = ReplicatedState(KvMachine())
    found = snapshot.newest(bench.disk, bench.identity)
    assert found is not None
    restored.restore(found[1])
    assert (restored.applied_index, restored.chain) == (9, metas[1].chain)
    assert restored.machine.query(get(b"k")).endswith(b"5;6;")


def test_the_core_is_told_of_the_state_at_marks_of_both_kinds_and_peers_hear_the_digest() -> None:
    bench = opened()
    mark(bench, EntryKind.DIGEST)
    assert not writing(bench)
    assert {to for to, message in bench.effects.peers if type(message) is DigestReport} == {"n2", "n3", "n4"}
    mark(bench)
    assert [heard for heard in bench.core.heard if heard[0] == "applied"] == [("applied", 2), ("applied", 3)]
    assert ("taken", 3) not in bench.core.heard, "not before it is durable"
    bench.finish_all()
    assert taken(bench) == [3]


def test_the_journals_size_asks_for_no_snapshot_where_the_log_does() -> None:
    bench = opened()

    def fill(out) -> None:
        out.records.append((2, bytes(5000)))
        out.ticket += 1

    bench.core_says(fill)
    write(bench, 1)
    assert bench.replica.journal_bytes > QUIET.snapshot_bytes
    assert not writing(bench)
    mark(bench)
    bench.finish_all()
    assert taken(bench) == [3]
    assert bench.replica.journal_bytes < QUIET.snapshot_bytes, "the journal counts from the snapshot"


def test_of_snapshots_that_wait_for_a_slow_disk_only_the_newest_is_written() -> None:
    bench = opened()
    for seq in range(1, 4):
        write(bench, seq)
        mark(bench)
    (job,) = writing(bench)
    assert bench.replica.busy
    bench.finish(job)
    (job,) = writing(bench)
    bench.finish(job)
    for _ in range(3):
        bench.finish_all()
    assert taken(bench) == [3, 7]
    kept = bench.core.snapshots[-1]
    found = snapshot.newest(bench.disk, bench.identity)
    assert found is not None
    assert found[0] == kept


def test_a_quarantined_replica_takes_no_snapshot_at_a_mark() -> None:
    bench = opened()
    mark(bench, EntryKind.DIGEST)
    for peer in ("n2", "n3", "n4"):
        bench.replica.receive_peer(peer, DigestReport(2, bytes(32), bench.state.chain), bench.now)
    assert bench.replica.quarantined
    mark(bench)
    assert not writing(bench)


# ------------------------------------------------------------------------------------------- peers that may lie


def ahead(entries: int) -> tuple[SnapshotMeta, list[bytes]]:
    """A snapshot of the same log, `entries` writes on: (meta, pieces)."""
    other = opened()
    for seq in range(1, entries + 1):
        write(other, seq)
    mark(other)
    other.finish_all()
    (meta,) = other.core.snapshots
    pieces = snapshot.pieces(other.disk, meta.index)
    return meta, [pieces[number] for number in range(len(pieces))]


def offer(bench: Bench, meta: SnapshotMeta, source: str) -> list:
    def fill(out) -> None:
        out.install = (source, meta)

    return bench.core_says(fill).bulk


def test_a_liar_cannot_undo_what_has_been_fetched_of_a_snapshot_that_a_quorum_vouches_for() -> None:
    bench = opened()
    meta, pieces = ahead(9)
    assert offer(bench, meta, "n2") == [("n2", ChunkRequest(meta.index, 0))]
    bench.replica.receive_peer("n2", Chunk(meta.index, 0, len(pieces), pieces[0]), bench.now)
    bench.turn()
    assert offer(bench, meta, "n3") == [("n3", ChunkRequest(meta.index, 1))]
    with pytest.raises(SnapshotError):
        bench.replica.receive_peer("n3", Chunk(meta.index, 1, len(pieces), b"forged"), bench.now)
    bench.replica.receive_peer("n3", Chunk(meta.index, 1, 0, b""), bench.now)
    assert offer(bench, meta, "n4") == [("n4", ChunkRequest(meta.index, 1))], "not from the start again"
    for number in range(1, len(pieces)):
        bench.replica.receive_peer("n4", Chunk(meta.index, number, len(pieces), pieces[number]), bench.now)
    bench.turn()
    bench.finish_all()
    assert bench.state.applied_index == meta.index
    assert bench.state.chain == meta.chain
    assert ("installed", meta.index) in bench.core.heard


def report(index: int, value: int) -> DigestReport:
    return DigestReport(index, bytes([value]) * 32, bytes(32))


def test_a_liars_reports_of_marks_that_are_none_do_not_crowd_out_those_of_others() -> None:
    watch = WaryDigestWatch("n1", (*MEMBERS, "n4"))
    for index in range(4 * KEPT):
        assert watch.add("n4", report(10**9 + index, 1)) == []
    watch.add("n2", report(32, 2))
    watch.add("n3", report(32, 2))
    assert watch.agreed_index == 0
    assert watch.add("n1", report(32, 2)) == []
    assert watch.agreed_index == 32
    (finding,) = watch.add("n4", report(32, 3))
    assert (finding.node, finding.index) == ("n4", 32)
    assert watch.add("n2", report(32, 9)) == [], "what it said first stands"
    assert len(watch._said["n4"]) == KEPT
    assert watch.add("nobody", report(32, 3)) == []


def test_a_node_that_differs_from_all_others_finds_that_out_also_when_they_were_there_first() -> None:
    watch = WaryDigestWatch("n1", (*MEMBERS, "n4"))
    for peer in ("n2", "n3", "n4"):
        assert watch.add(peer, report(7, 2)) == []
    (finding,) = watch.add("n1", report(7, 3))
    assert finding.node == "n1"


def test_journal_jobs_are_there_for_the_rotation_behind_a_marked_snapshot() -> None:
    bench = opened()
    mark(bench)
    (job,) = writing(bench)
    bench.finish(job)
    rotation = [job for job in bench.jobs if job.lane == JOURNAL][-1]
    assert any(type(op).__name__ == "Create" for op in rotation.ops)
    assert [heard for heard in bench.core.heard if heard[0] == "taken"] == [("taken", 2)]
