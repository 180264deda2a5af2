"""Snapshots, rotation, installation: their order, and what is left after a power cut at any moment of it."""

from __future__ import annotations

from random import Random

import pytest
from replica_bench import MEMBERS, Alone, Bench

from consensus.core import NEVER, SnapshotMeta, entry_position
from consensus.raft.records import ENTRY
from node import snapshot
from node.disk import JOURNAL, SNAPSHOT
from node.journal import read_segments
from node.kv import KvMachine, append, get
from node.protocol import Chunk, ChunkRequest, Outcome
from node.replica import Settings
from node.sessions import commands_group, open_group
from node.snapshot import SnapshotError, make_manifest
from node.state import ReplicatedState

QUIET = Settings(barrier=NEVER, digest=NEVER, snapshot_bytes=500)
SESSION = (1 << 20) + 0


def opened(settings: Settings = QUIET) -> Bench:
    bench = Bench(settings)
    bench.commit(open_group("elsewhere", 1))
    return bench


def write(bench: Bench, seq: int) -> None:
    """An entry is written and applied, with a record of 150 bytes for it."""

    def fill(out) -> None:
        out.records.append((2, bytes(150)))
        out.ticket += 1

    bench.core_says(fill)
    bench.commit(commands_group(SESSION, seq - 1, [seq], [append(b"k", b"%d;" % seq)]))


def jobs_of(bench: Bench, lane: int) -> list:
    return [job for job in bench.jobs if job.lane == lane]


def ahead(entries: int) -> tuple[SnapshotMeta, list[bytes]]:
    """A snapshot of the same log, `entries` writes on: (meta, pieces)."""
    other = opened()
    for seq in range(1, entries):
        write(other, seq)
    state = other.state
    chunks = state.snapshot()
    manifest = make_manifest(other.identity, state.applied_index, 1, state.chain, sorted(MEMBERS), chunks)
    return manifest.meta, [manifest.encode(), *chunks]


def offer(bench: Bench, meta: SnapshotMeta, source: str = "n2") -> None:
    def fill(out) -> None:
        out.install = (source, meta)

    bench.core_says(fill)


def feed(bench: Bench, meta: SnapshotMeta, pieces: list[bytes], source: str = "n2") -> None:
    for number, piece in enumerate(pieces):
        bench.replica.receive_peer(source, Chunk(meta.index, number, len(pieces), piece), bench.now)
    bench.turn()


def test_a_snapshot_is_taken_once_the_journal_has_grown_and_not_again_before_it_was_rotated() -> None:
    bench = opened()
    write(bench, 1)
    write(bench, 2)
    assert not jobs_of(bench, SNAPSHOT)
    write(bench, 3)
    write(bench, 4)
    (job,) = jobs_of(bench, SNAPSHOT)
    write(bench, 5)  # more to write, while one is being written
    assert jobs_of(bench, SNAPSHOT) == [job]
    bench.replica.job_done(SNAPSHOT, job.number, bench.now)
    bench.jobs.remove(job)
    bench.disk.perform(job.ops)
    write(bench, 6)  # still the old segment when this is applied
    assert not jobs_of(bench, SNAPSHOT), "a second snapshot, although the journal had just been rotated"
    assert bench.replica.status(bench.now)["journal_bytes"] < 500


def test_the_core_hears_of_a_snapshot_when_it_is_durable_and_the_journal_rotates_after_that() -> None:
    bench = opened()
    for seq in range(1, 5):
        write(bench, seq)
    for job in jobs_of(bench, JOURNAL):
        bench.finish(job)
    assert not any(heard[0] == "taken" for heard in bench.core.heard)
    (job,) = bench.jobs
    bench.finish(job)
    assert ("taken", 4) in bench.core.heard
    rotation = jobs_of(bench, JOURNAL)[0]
    assert any(type(op).__name__ == "Create" for op in rotation.ops)


def test_the_snapshot_before_the_newest_is_kept_and_older_ones_go() -> None:
    bench = opened()
    for seq in range(1, 20):
        write(bench, seq)
        bench.finish_all()
    kept = snapshot.snapshot_indexes(bench.disk.names())
    assert len(kept) == 2
    assert kept[1] == bench.replica.status(bench.now)["snapshot_index"]
    assert sum(1 for heard in bench.core.heard if heard[0] == "taken") > 3


def test_the_snapshot_that_a_quorum_vouches_for_is_kept_however_many_newer_ones_there_are() -> None:
    bench = opened()
    write(bench, 1)
    while bench.replica.status(bench.now)["snapshot_index"] == 0:
        write(bench, 2)
        bench.finish_all()
    vouched = bench.core.view.vouched_snapshot = bench.replica.status(bench.now)["snapshot_index"]
    for seq in range(3, 22):
        write(bench, seq)
        bench.finish_all()
    assert [vouched, *snapshot.snapshot_indexes(bench.disk.names())[-2:]] == snapshot.snapshot_indexes(
        bench.disk.names()
    )
    bench.core.view.vouched_snapshot = bench.replica.status(bench.now)["snapshot_index"]
    for seq in range(22, 40):
        write(bench, seq)
        bench.finish_all()
    assert vouched not in snapshot.snapshot_indexes(bench.disk.names())


def test_a_fetched_snapshot_is_restored_when_it_is_durable_and_queued_entries_that_it_covers_are_dropped() -> (
    None
):
    bench = opened()
    meta, pieces = ahead(9)
    offer(bench, meta)
    assert bench.effects.bulk == [("n2", ChunkRequest(meta.index, 0))]
    feed(bench, meta, pieces)
    (job,) = bench.jobs
    assert bench.state.applied_index == 1, "restored before it is durable"
    # Entries arrive while it is being written; the last of them waits, queued, when it is done.
    write(bench, 1)
    entry = bench.entry(commands_group(SESSION, 1, [2], [append(b"k", b"2;")]))
    bench.core.then(lambda out: out.committed.append(entry))
    bench.replica.receive_peer("n2", "anything", bench.now)
    bench.disk.perform(job.ops)
    bench.replica.job_done(SNAPSHOT, job.number, bench.now)
    bench.jobs.remove(job)
    bench.turn()
    assert bench.state.applied_index == meta.index
    assert bench.state.chain == meta.chain
    assert ("installed", meta.index) in bench.core.heard
    bench.log = [b""] * meta.index
    bench.commit(commands_group(SESSION, 8, [9], [append(b"k", b"9;")]))
    assert bench.state.machine.query(get(b"k")).endswith(b"1;2;3;4;5;6;7;8;9;")
    offer(bench, ahead(10)[0])
    assert bench.effects.bulk == [], "what was installed counts as delivered"


def test_a_fetched_snapshot_that_the_log_has_overtaken_is_not_restored() -> None:
    bench = opened()
    meta, pieces = ahead(3)
    offer(bench, meta)
    feed(bench, meta, pieces)
    (job,) = bench.jobs
    for seq in (1, 2, 3):
        write(bench, seq)
    bench.finish(job)
    assert bench.state.applied_index == 4
    assert not any(heard[0] == "installed" for heard in bench.core.heard)
    # It is durable and part of the history: as good as one of its own, for the core and for the journal.
    assert ("taken", meta.index) in bench.core.heard


def test_a_snapshot_that_comes_while_an_own_one_is_written_waits_for_its_turn() -> None:
    bench = opened()
    meta, pieces = ahead(30)
    offer(bench, meta)
    for seq in range(1, 5):
        write(bench, seq)
    (own,) = jobs_of(bench, SNAPSHOT)
    feed(bench, meta, pieces)
    assert jobs_of(bench, SNAPSHOT) == [own]
    bench.finish(own)
    bench.finish_all()
    assert bench.state.applied_index == meta.index
    assert [heard for heard in bench.core.heard if heard[0] in ("taken", "installed")] == [
        ("taken", 4),
        ("installed", meta.index),
    ]


def test_nothing_is_fetched_that_the_log_has_delivered_already() -> None:
    bench = opened()
    write(bench, 1)
    write(bench, 2)
    meta, _ = ahead(2)
    offer(bench, meta)
    assert bench.effects.bulk == []


def test_a_bad_piece_is_refused_and_the_core_goes_on() -> None:
    bench = opened()
    meta, pieces = ahead(5)
    offer(bench, meta)
    with pytest.raises(SnapshotError):
        bench.replica.receive_peer("n2", Chunk(meta.index, 0, 9, b"forged"), bench.now)
    offer(bench, meta)
    feed(bench, meta, pieces)
    bench.finish_all()
    assert bench.state.applied_index == meta.index


def replayed(alone: Alone) -> ReplicatedState:
    """The log, read back from all segments, run through a fresh state."""
    entries: dict[int, bytes] = {}
    for view in read_segments(alone.disk):
        assert view.end != "corrupt", view.words
        for batch in view.batches:
            for kind, data in batch.records:
                if kind == ENTRY:
                    entries[entry_position(data)[0]] = data
    state = ReplicatedState(KvMachine())
    for index in range(1, alone.replica.state.applied_index + 1):
        state.apply(entries[index])
    return state


def live(alone: Alone, session: int, upto: int) -> bool:
    """Write under the numbers up to `upto`, again where that was not answered. False if the power failed."""
    for _ in range(400):
        answered = {seq for message in alone.said if type(message) is Outcome for seq in message.seqs}
        if upto in answered:
            return True
        seq = max(answered, default=0) + 1
        alone.submit(session, seq, append(b"k", b"%d;" % seq))
        if not alone.turn():
            return False
    raise AssertionError("no progress")


@pytest.mark.parametrize("seed", [1, 2])
def test_whenever_the_power_fails_what_was_acknowledged_is_there_once_and_the_node_goes_on(seed: int) -> None:
    settings = Settings(barrier=200_000, digest=150_000, snapshot_bytes=700)
    whole = Alone(settings)
    live(whole, whole.open_session(), 24)
    operations = whole.operations
    assert len(snapshot.snapshot_indexes(whole.disk.names())) == 2
    lost = 0
    for dies_at in range(20, operations, 3 - seed % 2):
        alone = Alone(settings)
        session = alone.open_session()
        alone.dies_at = dies_at
        assert not live(alone, session, 24), "the power never failed"
        lost += alone.disk.cut(Random(seed * 1000 + dies_at)).unsynced_bytes
        alone.dies_at = None
        alone.boot()
        live(alone, session, 27)
        for _ in range(4):
            alone.turn()
        state = alone.replica.state
        expected = b"".join(b"%d;" % seq for seq in range(1, 28))
        assert state.machine.query(get(b"k")).endswith(expected), f"the power failed at operation {dies_at}"
        again = replayed(alone)
        assert (again.chain, again.digest()) == (state.chain, state.digest())
    assert lost > 0
