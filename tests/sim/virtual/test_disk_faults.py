"""Each fault's law: what it does, what it never does, what it counts, and what recovery makes of it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.disk import Append, Create, DiskError, Op, Remove, Rename, Sync, SyncDirectory, Truncate
from node.journal import Identity, Journal, JournalMissing
from sim.virtual.disk import Condition, MemoryDisk
from sim.virtual.disk_faults import (
    FOREVER,
    FullDisk,
    Latency,
    LostWrite,
    LyingSync,
    MisdirectedWrite,
    ReadError,
    SlowDisk,
    Stall,
    SyncError,
    WriteError,
    make_unreadable,
)

ME = Identity("feed", "n1")


def written(synced: bytes = b"s" * 700, unsynced: bytes = b"", reserve: int = 0) -> MemoryDisk:
    disk = MemoryDisk()
    disk.perform([Create("a", reserve), Append("a", synced), Sync("a"), SyncDirectory()])
    if unsynced:
        disk.perform([Append("a", unsynced)])
    return disk


def contents(disk: MemoryDisk) -> dict[str, bytes]:
    return {name: disk.contents(name) for name in disk.listing()}


OPS: st.SearchStrategy[Op] = st.one_of(
    st.builds(Create, st.sampled_from("ab"), st.sampled_from([0, 900])),
    st.builds(
        Append, st.sampled_from("ab"), st.integers(1, 5000).map(lambda size: bytes([size % 255 + 1]) * size)
    ),
    st.builds(Append, st.sampled_from("ab"), st.binary(min_size=1, max_size=30)),
    st.builds(Sync, st.sampled_from("ab")),
    st.builds(SyncDirectory),
    st.builds(Rename, st.sampled_from("ab"), st.sampled_from("ab")),
    st.builds(Remove, st.just("b")),
    st.builds(Truncate, st.sampled_from("ab"), st.integers(0, 50), st.sampled_from([0, 700])),
)


def play(disk: MemoryDisk, ops: list[Op]) -> bool:
    """Whether all of it was done."""
    for op in ops:
        names = disk.listing()
        name = getattr(op, "old", getattr(op, "name", ""))
        if isinstance(op, Create) == (name in names) and not isinstance(op, SyncDirectory | Remove):
            continue
        if isinstance(op, Truncate) and op.size > disk.file(name).size:
            continue
        try:
            disk.perform([op])
        except DiskError:
            return False
    return True


MAKERS: dict[str, Callable[[Random], Condition]] = {
    "write error": lambda rng: WriteError(rng, 0.2),
    "failed fsync": lambda rng: SyncError(rng, 0.3),
    "full disk": lambda rng: FullDisk(rng, 6000),
    "lost write": lambda rng: LostWrite(rng, 0.3),
    "misdirected write": lambda rng: MisdirectedWrite(rng, 0.3),
    "lying fsync": lambda rng: LyingSync(rng, 0.3),
}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    ops=st.lists(OPS, min_size=3, max_size=25),
    seed=st.integers(0, 1 << 20),
    fault=st.sampled_from(sorted(MAKERS)),
)
def test_the_same_seed_gives_the_same_damage(ops: list[Op], seed: int, fault: str) -> None:
    def run() -> tuple[Any, ...]:
        disk = MemoryDisk()
        disk.perform([Create("a"), Append("a", b"first"), Sync("a"), SyncDirectory()])
        disk.lay(MAKERS[fault](Random(seed)))
        done = play(disk, ops)
        disk.clear()
        loss = disk.cut(Random(seed))
        return done, loss, contents(disk), disk.bites, disk.damaged

    assert run() == run()


@settings(max_examples=80, deadline=None, derandomize=True)
@given(ops=st.lists(OPS, max_size=25))
def test_unsynced_bytes_are_those_of_the_files_that_there_are(ops: list[Op]) -> None:
    disk = MemoryDisk()
    for op in ops:
        play(disk, [op])
        files = [disk.file(name) for name in disk.listing()]
        assert disk.unsynced_bytes == sum(max(0, len(file.data) - file.synced) for file in files)
    disk.cut(Random(1))
    assert disk.unsynced_bytes == 0


def test_unsynced_bytes_follow_a_file_to_its_new_name_and_end_with_it() -> None:
    disk = written(unsynced=b"u" * 30)
    disk.perform([Create("b"), Append("b", b"gone"), Rename("a", "b")])
    assert disk.unsynced_bytes == 30
    disk.perform([Create("a"), Append("a", b"more")])
    assert disk.unsynced_bytes == 34
    disk.perform([Remove("b"), Truncate("a", 1)])
    assert disk.unsynced_bytes == 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    ops=st.lists(OPS, max_size=20),
    seed=st.integers(0, 1 << 20),
    fault=st.sampled_from(["write error", "full disk", "failed fsync"]),
)
def test_after_an_error_every_call_fails_and_what_was_synced_survives_restart_and_cut(
    ops: list[Op], seed: int, fault: str
) -> None:
    disk = MemoryDisk()
    disk.perform([Create("keep"), Append("keep", b"k" * 900), Sync("keep"), SyncDirectory()])
    disk.lay(MAKERS[fault](Random(seed)))
    if play(disk, ops):
        return
    assert disk.bites[fault] == 1
    for call in (disk.names, lambda: disk.read("keep"), lambda: disk.perform([Sync("keep")])):
        with pytest.raises(DiskError, match="injected"):
            call()
    disk.clear()
    disk.restart()
    assert disk.read("keep") == b"k" * 900
    disk.cut(Random(seed))
    assert disk.read("keep") == b"k" * 900
    assert disk.damaged == []


def test_a_write_error_leaves_whole_sectors_of_the_append_or_nothing() -> None:
    lengths = set()
    for seed in range(40):
        disk = written()
        disk.lay(WriteError(Random(seed)))
        with pytest.raises(DiskError, match=r"a: append failed: EIO"):
            disk.perform([Append("a", b"u" * 2000)])
        found = disk.contents("a")
        assert found == b"s" * 700 + b"u" * (len(found) - 700)
        lengths.add(len(found))
    assert lengths == {700, 1024, 1536, 2048, 2560}


def test_a_full_disk_keeps_the_earlier_bytes_and_at_most_a_part_of_the_new_ones() -> None:
    lengths = set()
    for seed in range(60):
        disk = written()
        disk.lay(FullDisk(Random(seed), 1000))
        disk.perform([Append("a", b"t" * 200), Sync("a")])
        with pytest.raises(DiskError, match="ENOSPC"):
            disk.perform([Append("a", b"u" * 200)])
        found = disk.contents("a")
        assert found[:900] == b"s" * 700 + b"t" * 200
        assert found[900:] == b"u" * (len(found) - 900)
        assert len(found) <= 1000
        lengths.add(len(found))
    assert min(lengths) < 920
    assert max(lengths) > 980


def test_a_reserve_counts_against_the_capacity_and_a_node_starts_again_once_there_is_room() -> None:
    disk = MemoryDisk()
    disk.perform(Journal.create_ops(ME, 4096))
    full = FullDisk(Random(1), 5000)
    disk.lay(full)
    journal, _ = Journal.open(disk, ME, reserve=4096)
    ops, mark = journal.append([(1, b"x" * 1000)])
    disk.perform(ops)
    journal.mark_synced(mark)
    with pytest.raises(DiskError, match="ENOSPC"):
        disk.perform(journal.rotate([(1, b"y")])[0])
    disk.restart()
    with pytest.raises(DiskError, match="ENOSPC"):
        Journal.open(disk, ME, reserve=4096)
    disk.restart()
    disk.lift(full)
    assert Journal.open(disk, ME, reserve=4096)[1].records == [(1, b"x" * 1000)]


def test_a_failed_fsync_leaves_the_node_unable_to_claim_and_loses_what_was_dirty() -> None:
    shown = set()
    for seed in range(40):
        disk = MemoryDisk()
        disk.perform(Journal.create_ops(ME, 4096))
        journal, _ = Journal.open(disk, ME, reserve=4096)
        first, mark = journal.append([(1, b"synced")])
        disk.perform(first)
        journal.mark_synced(mark)
        disk.lay(SyncError(Random(seed)))
        with pytest.raises(DiskError, match="fsync failed"):
            disk.perform(journal.append([(1, b"dirty")])[0])
        assert disk.bites["failed fsync with dirty bytes"] == 1
        with pytest.raises(DiskError, match="fsync failed"):
            disk.perform([Sync("journal-0000000000000001.seg")])
        shown.add(b"dirty" in disk.contents("journal-0000000000000001.seg"))
        disk.clear()
        disk.cut(Random(seed))
        assert Journal.open(disk, ME, reserve=4096)[1].records == [(1, b"synced")], (
            "it came back from nowhere"
        )
        assert disk.damaged == []
    assert shown == {True, False}, "the kernel shows either"


def test_a_second_fsync_that_succeeds_after_a_failed_one_is_damage_once_somebody_relies_on_it() -> None:
    """The limit that docs/explanation/durability.md names: restart without a power cut after a failed fsync."""
    disk = written(unsynced=b"u" * 100)
    fault = SyncError(Random(1), shows="new")
    disk.lay(fault)
    with pytest.raises(DiskError):
        disk.perform([Sync("a")])
    disk.lift(fault)
    disk.restart()
    assert disk.read("a")[700:] == b"u" * 100
    assert disk.damaged == []
    disk.perform([Sync("a")])
    assert disk.damaged == ["a: bytes 700 to 800: never written: an earlier fsync of them had failed"]
    disk.cut(Random(1))
    assert disk.read("a") == b"s" * 700 + bytes(100)
    assert disk.bites["acknowledged bytes gone after a cut"] == 1


def test_a_failed_fsync_of_the_folder_makes_no_name_durable() -> None:
    names = set()
    for seed in range(20):
        disk = written()
        disk.lay(SyncError(Random(seed)))
        with pytest.raises(DiskError):
            disk.perform([Rename("a", "b"), SyncDirectory()])
        disk.cut(Random(seed))
        names.add(*disk.listing())
    assert names == {"a", "b"}


def test_a_lying_fsync_is_damage_at_once_and_shows_at_the_cut() -> None:
    disk = written()
    lie = LyingSync(Random(1))
    disk.lay(lie)
    disk.perform([Sync("a")])
    assert not disk.damaged, "there was nothing to lie about"
    disk.perform([Append("a", b"u" * 50), Sync("a")])
    assert len(disk.damaged) == disk.bites["lying fsync"] == 1
    assert disk.read("a") == b"s" * 700 + b"u" * 50
    disk.cut(Random(1))
    assert disk.read("a") == b"s" * 700 + bytes(50)


def test_a_lost_write_counts_as_damage_from_the_sync_on_that_covered_it() -> None:
    disk = written(reserve=2000)
    disk.lay(LostWrite(Random(1)))
    disk.perform([Append("a", b"u" * 50)])
    assert disk.damaged == [], "nobody has promised it yet"
    disk.clear()
    disk.perform([Append("a", b"v"), Sync("a")])
    assert disk.damaged == ["a: bytes 700 to 750: a write that never reached the disk"]
    assert disk.read("a").rstrip(b"\0") == b"s" * 700 + bytes(50) + b"v"
    disk.perform([Sync("a")])
    assert len(disk.damaged) == 1


def test_a_lost_write_that_is_truncated_before_a_sync_harms_nobody() -> None:
    disk = written(reserve=2000)
    disk.lay(LostWrite(Random(1)))
    disk.perform([Append("a", b"u" * 50), Truncate("a", 700), Sync("a")])
    assert disk.damaged == []


def test_a_misdirected_write_leaves_its_place_as_it_was_and_lands_on_a_sector_elsewhere() -> None:
    landed = set()
    untouched = 0
    for seed in range(60):
        disk = written(b"s" * 1500, reserve=4096)
        disk.perform([Create("b"), Append("b", b"b" * 3000), Sync("b"), SyncDirectory()])
        before = contents(disk)
        disk.lay(MisdirectedWrite(Random(seed)))
        disk.perform([Append("a", b"u" * 600), Sync("a")])
        after = contents(disk)
        assert after["a"][1500:2100] != b"u" * 600
        untouched += after["a"][1500:2100] == bytes(600)
        assert {name: len(data) for name, data in after.items()} == {
            name: len(data) for name, data in before.items()
        }
        changed = [
            (name, place // 512)
            for name, data in after.items()
            for place, byte in enumerate(data)
            if byte != before[name][place]
        ]
        assert changed
        first = min(changed)
        landed.add(first)
        assert any("another place" in words for words in disk.damaged)
        on_synced = first[0] == "b" or first[1] < 2
        assert any("belonged elsewhere" in words for words in disk.damaged) >= on_synced
        assert len({sector for _, sector in changed}) <= 3
    assert {name for name, _ in landed} == {"a", "b"}
    assert len(landed) > 5
    assert untouched > 30, "its own place keeps what it had, unless the stray sectors reach into it"


def test_appends_go_on_behind_the_last_one_even_where_a_stray_write_has_landed_further_on() -> None:
    for seed in range(30):
        disk = written(b"s" * 512, reserve=4096)
        fault = MisdirectedWrite(Random(seed))
        disk.lay(fault)
        disk.perform([Append("a", b"u" * 512)])
        disk.lift(fault)
        disk.perform([Append("a", b"v" * 100), Sync("a")])
        assert disk.read("a", 1024, 100) == b"v" * 100
        assert disk.file("a").synced == 1124


def test_a_read_error_is_final_for_the_process_and_a_lasting_one_for_its_sector() -> None:
    disk = written()
    passing = ReadError(Random(1))
    disk.lay(passing)
    with pytest.raises(DiskError, match="pread failed: EIO"):
        disk.read("a")
    with pytest.raises(DiskError):
        disk.names()
    disk.lift(passing)
    disk.restart()
    assert disk.read("a") == b"s" * 700
    assert disk.damaged == []
    disk.lay(ReadError(Random(1), lasting=True))
    with pytest.raises(DiskError):
        disk.read("a")
    assert len(disk.damaged) == 1
    disk.clear()
    for _ in range(2):
        disk.cut(Random(1))
        with pytest.raises(DiskError, match="cannot be read"):
            disk.read("a")
    disk.restart()
    disk.perform([Truncate("a", 0), Append("a", b"anew")])
    assert disk.read("a") == b"anew", "a sector that is written anew can be read again"


def test_only_reads_of_the_bad_sector_fail() -> None:
    disk = written(b"s" * 2000)
    make_unreadable(disk, "a", 600)
    assert disk.read("a", 0, 512) == b"s" * 512
    assert disk.read("a", 1024) == b"s" * 976
    with pytest.raises(DiskError, match="bytes 512 to 1024"):
        disk.read("a", 1000, 100)
    assert disk.damaged == ["a: bytes 512 to 1024: cannot be read any more"]


def test_a_wiped_node_refuses_to_start() -> None:
    disk = MemoryDisk()
    disk.perform(Journal.create_ops(ME, 4096))
    disk.wipe()
    assert disk.names() == []
    assert len(disk.damaged) == disk.bites["wiped"] == 1
    with pytest.raises(JournalMissing, match="wiped"):
        Journal.open(disk, ME)
    disk.cut(Random(1))
    assert disk.names() == [], "no old name comes back"


def test_delays_come_from_the_pace_and_grow_with_slowness_until_it_is_lifted() -> None:
    disk = MemoryDisk(Latency(Random(3), low=100, high=200, tail=0.0, write=7, kib=2))
    syncs = {disk.delay(Sync("a")) for _ in range(500)}
    assert min(syncs) == 100
    assert max(syncs) == 200
    assert disk.delay(Append("a", bytes(4096))) == 15
    assert disk.delay(Create("a")) == 7
    slow = SlowDisk(Random(4), factor=10, low=5, high=50)
    disk.lay(slow)
    assert all(1005 <= disk.delay(Sync("a")) <= 2050 for _ in range(100))
    assert disk.bites["slow disk"] == 100
    stall = Stall(Random(5))
    disk.lay(stall)
    assert disk.delay(Sync("a")) == disk.delay(SyncDirectory()) == FOREVER
    assert disk.delay(Append("a", b"")) < 1000
    disk.lift(stall)
    disk.lift(slow)
    assert disk.delay(Sync("a")) <= 200
    assert MemoryDisk().delay(Sync("a")) == 0
    tails = MemoryDisk(Latency(Random(3), low=100, high=100, tail=0.3))
    drawn = [tails.delay(Sync("a")) for _ in range(1000)]
    assert set(drawn) == {100, 1000}
    assert 200 < drawn.count(1000) < 400


def test_a_condition_befalls_only_its_files_tells_who_laid_it_and_ends_when_lifted() -> None:
    told: list[str] = []
    disk = written()
    disk.perform([Create("journal-1"), SyncDirectory()])
    fault = LostWrite(Random(1), files=["journal-"], by=told.append)
    disk.lay(fault)
    disk.perform([Append("a", b"x"), Append("journal-1", b"y")])
    assert told == ["lost write"]
    disk.lift(fault)
    disk.lift(fault)
    disk.perform([Append("journal-1", b"z")])
    assert disk.read("journal-1") == b"\0z"
    assert disk.bites == {"lost write": 1}


def test_conditions_meet_in_one_operation() -> None:
    disk = written()
    disk.lay(FullDisk(Random(1), 10_000))
    disk.lay(LostWrite(Random(2)))
    disk.perform([Append("a", b"u" * 100)])
    assert disk.read("a")[700:] == bytes(100)
    with pytest.raises(DiskError, match="ENOSPC"):
        disk.perform([Append("a", b"u" * 10_000)])


@pytest.mark.parametrize(
    "make",
    [
        lambda: WriteError(Random(1), 1.5),
        lambda: SyncError(Random(1), shows="all"),
        lambda: SlowDisk(Random(1), 0),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="not"):
        make()


def test_a_mutant_disk_replaces_one_method() -> None:
    class NeverLoses(MemoryDisk):
        def _lose(self, rng: Random, file: Any, loss: Any) -> tuple[bytes, int]:
            return bytes(file.data), file.size

    for seed in range(20):
        disk = NeverLoses()
        disk.perform([Create("a"), SyncDirectory(), Append("a", b"u" * 5000)])
        disk.cut(Random(seed))
        assert disk.read("a") == b"u" * 5000
