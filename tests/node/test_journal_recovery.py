"""What the journal recovers, refuses and says."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.core import Record
from node.disk import Append, Create, Op, Remove, Rename, Sync, SyncDirectory, Truncate
from node.journal import (
    Identity,
    Journal,
    JournalCorrupt,
    JournalForeign,
    JournalMissing,
    JournalVersion,
    Recovered,
    merge,
    read_segments,
)
from node.segment import parse_segment
from sim.virtual.disk import MemoryDisk

ME = Identity("feed", "n1")
FIRST = "journal-0000000000000001.seg"
SECOND = "journal-0000000000000002.seg"


def fresh(reserve: int = 4096) -> MemoryDisk:
    disk = MemoryDisk()
    disk.perform(Journal.create_ops(ME, reserve))
    return disk


def restart(disk: MemoryDisk, archive: bool = False, reserve: int = 4096) -> tuple[Journal, Recovered]:
    disk.restart()
    return Journal.open(disk, ME, archive, reserve)


def write(disk: MemoryDisk, journal: Journal, *records: bytes) -> None:
    ops, mark = journal.append([(7, record) for record in records])
    disk.perform(ops)
    journal.mark_synced(mark)


def with_files(files: dict[str, bytes]) -> MemoryDisk:
    disk = MemoryDisk()
    for name, data in files.items():
        disk.perform([Create(name), Append(name, data), Sync(name)])
    disk.perform([SyncDirectory()])
    return disk


def files_of(disk: MemoryDisk) -> dict[str, bytes]:
    return {name: disk.read(name) for name in disk.names()}


def data_of(recovered: Recovered) -> list[bytes]:
    return [data for _, data in recovered.records]


@given(st.binary(max_size=40), st.integers(0, 2000), st.binary(max_size=3))
@settings(max_examples=100, derandomize=True, deadline=None)
def test_bytes_in_use_end_with_the_last_that_is_not_zero(head: bytes, gap: int, tail: bytes) -> None:
    for data in (head + bytes(gap) + tail, bytes(gap), head + bytes(gap)):
        assert parse_segment(FIRST, 1, data, None).torn_bytes == len(data.rstrip(b"\0"))


def test_what_was_appended_comes_back_in_order_with_its_kinds() -> None:
    disk = fresh()
    journal, recovered = restart(disk)
    assert recovered == Recovered([], [], 0, 1)
    disk.perform(journal.append([(1, b"a"), (255, b""), (0, b"c" * 70000)])[0])
    disk.perform(journal.append([(2, b"d")])[0])
    assert restart(disk)[1] == Recovered([(1, b"a"), (255, b""), (0, b"c" * 70000), (2, b"d")], [], 0, 2)


def test_an_empty_folder_is_a_wiped_disk_and_never_an_empty_journal() -> None:
    with pytest.raises(JournalMissing, match=r"data folder of node 'n1'.*wiped"):
        Journal.open(MemoryDisk(), ME)
    archived = with_files({"archive-0000000000000004.seg": b"x"})
    with pytest.raises(JournalMissing, match="archive-0000000000000004"):
        Journal.open(archived, ME)


@pytest.mark.parametrize("other", [Identity("feed", "n2"), Identity("food", "n1")])
def test_a_folder_of_another_node_or_cluster_is_refused_with_both_names(other: Identity) -> None:
    disk = fresh()
    before = files_of(disk)
    with pytest.raises(JournalForeign) as caught:
        Journal.open(disk, other)
    for word in ("feed", "n1", other.cluster, other.node):
        assert repr(word) in str(caught.value)
    assert files_of(disk) == before


def test_a_newer_format_is_told_from_a_rotten_byte() -> None:
    data = bytearray(files_of(fresh(0))[FIRST])
    size = struct.unpack_from("<H", data, 10)[0]
    struct.pack_into("<H", data, 8, 2)
    with pytest.raises(JournalCorrupt, match="header"):
        Journal.open(with_files({FIRST: bytes(data)}), ME)
    struct.pack_into("<I", data, size - 4, crc32(data[: size - 4]))
    with pytest.raises(JournalVersion, match=r"version 2; this program reads version 1"):
        Journal.open(with_files({FIRST: bytes(data)}), ME)


def test_a_segment_begins_with_the_state_and_replaces_all_older_ones() -> None:
    disk = fresh()
    journal, _ = restart(disk)
    write(disk, journal, b"old")
    ops, mark = journal.rotate([(1, b"term"), (2, b"vote")])
    assert journal.size == 0
    disk.perform(ops)
    journal.mark_synced(mark)
    write(disk, journal, b"new")
    assert journal.size > 0
    assert disk.names() == [SECOND]
    assert restart(disk)[1].records == [(1, b"term"), (2, b"vote"), (7, b"new")]


def test_archived_segments_keep_everything_and_are_never_state() -> None:
    disk = fresh()
    journal, _ = restart(disk, archive=True)
    for number in range(3):
        write(disk, journal, b"%d" % number)
        disk.perform(journal.rotate([(1, b"s%d" % number)])[0])
    assert [name[:8] for name in disk.names()] == ["archive-"] * 3 + ["journal-"]
    views = list(read_segments(disk))
    assert [(view.number, view.archived, view.end, view.words) for view in views] == [
        (1, True, "clean", ""),
        (2, True, "clean", ""),
        (3, True, "clean", ""),
        (4, False, "clean", ""),
    ]
    assert [batch.records for batch in views[1].batches] == [[(1, b"s0")], [(7, b"1")]]
    assert views[0].identity == ME
    assert restart(disk, archive=True)[1].records == [(1, b"s2")]
    disk.perform([Remove("journal-0000000000000004.seg"), SyncDirectory()])
    with pytest.raises(JournalMissing):
        restart(disk, archive=True)


def test_an_archived_segment_proves_that_a_newer_one_is_missing() -> None:
    disk = fresh()
    journal, _ = restart(disk, archive=True)
    old = files_of(disk)[FIRST]
    disk.perform(journal.rotate([(1, b"state")])[0])
    back = with_files({FIRST: old, "archive-0000000000000001.seg": old})
    with pytest.raises(JournalCorrupt, match="segment 2 was durable once"):
        Journal.open(back, ME)


@pytest.mark.parametrize("archive", [False, True])
def test_an_old_segment_that_comes_back_does_no_harm(archive: bool) -> None:
    disk = fresh()
    journal, _ = restart(disk)
    write(disk, journal, b"old vote")
    old = files_of(disk)[FIRST]
    disk.perform(journal.rotate([(1, b"new vote")])[0])
    both = with_files({**files_of(disk), FIRST: old})
    recovered = Journal.open(both, ME, archive)[1]
    assert recovered.records == [(1, b"new vote")]
    assert recovered.notes == [f"{FIRST}: replaced by {SECOND}; {'archived' if archive else 'removed'}"]
    assert both.names() == (["archive-0000000000000001.seg", SECOND] if archive else [SECOND])


def test_an_old_segment_never_stands_in_for_a_newer_one_that_was_in_use() -> None:
    disk = fresh()
    journal, _ = restart(disk)
    write(disk, journal, b"old vote")
    old = files_of(disk)[FIRST]
    disk.perform(journal.rotate([(1, b"new vote")])[0])
    write(disk, journal, b"newer vote")
    new = files_of(disk)[SECOND]
    end = new.index(b"newer vote")
    for place in range(new.index(b"new vote") + 8):  # anywhere in the header or the state batch
        rotten = bytearray(new)
        rotten[place] ^= 0x10
        with pytest.raises(JournalCorrupt, match=SECOND):
            Journal.open(with_files({FIRST: old, SECOND: bytes(rotten)}), ME)
    assert end > 0


def test_damage_to_a_finished_segment_is_corruption_even_while_its_successor_is_unfinished() -> None:
    disk = fresh()
    journal, _ = restart(disk)
    ops, _ = journal.append([(7, b"last batch")])
    disk.perform(ops)  # synced, but nothing in this file says so
    old = files_of(disk)[FIRST].rstrip(b"\0")
    disk.perform(journal.rotate([(1, b"state")])[0])
    header_only = files_of(disk)[SECOND][:64]
    rotten = bytearray(old)
    rotten[old.index(b"last batch")] ^= 1
    cases = {
        "rotten": ({FIRST: bytes(rotten), SECOND: b""}, "was complete before"),
        "cut short": ({FIRST: old[: old.index(b"last") - 41], SECOND: header_only}, "complete up to"),
        "missing": ({SECOND: header_only}, "no older segment is left"),
    }
    for files, words in cases.values():
        with pytest.raises(JournalCorrupt, match=words):
            Journal.open(with_files(files), ME)
    good = Journal.open(with_files({FIRST: old, SECOND: header_only}), ME)[1]
    assert data_of(good) == [b"last batch"]
    assert "dropped; its first batch had not been written completely" in good.notes[0]


def test_a_torn_tail_is_dropped_with_a_note_and_gone_for_good() -> None:
    disk = fresh()
    journal, _ = restart(disk)
    write(disk, journal, b"kept")
    disk.perform(journal.append([(7, b"t" * 700)])[0][:1])
    disk.perform(journal.append([(7, b"behind it")])[0])
    torn = bytearray(files_of(disk)[FIRST])
    torn[torn.index(b"ttt") + 5] = 0
    disk = with_files({FIRST: bytes(torn)})
    journal, recovered = Journal.open(disk, ME)
    assert data_of(recovered) == [b"kept"]
    assert recovered.torn_bytes == len(torn.rstrip(b"\0")) - torn.index(b"ttt") + 41
    assert "torn tail" in recovered.notes[0]
    assert b"behind it" not in disk.read(FIRST)
    # Even a batch of just the length of the torn one does not join up with what lay behind it.
    write(disk, journal, b"n" * 700)
    assert data_of(restart(disk)[1]) == [b"kept", b"n" * 700]


def test_a_whole_batch_of_an_earlier_life_behind_the_end_does_not_rise_from_the_dead() -> None:
    """A disk that loses a truncation *and* reports its sync is outside the fault budget; the incarnation still holds."""
    disk = fresh()
    journal, _ = restart(disk)
    write(disk, journal, b"kept")
    ops_a, _ = journal.append([(7, b"")])
    ops_b, _ = journal.append([(7, b"ghost")])
    disk.perform(ops_a + ops_b)
    ghost = files_of(disk)[FIRST].rstrip(b"\0")
    start = ghost.index(b"kept") + 4  # batch A (empty data, 41 bytes) begins here, then the ghost
    disk = with_files({FIRST: ghost[:start] + bytes(41)})
    _, recovered = Journal.open(disk, ME)  # writes its opening batch of 36 bytes
    assert data_of(recovered) == [b"kept"]
    now = disk.read(FIRST).rstrip(b"\0")
    assert len(now) <= start + 36
    haunted = with_files({FIRST: now.ljust(start + 36, b"\0") + ghost[start + 41 :]})
    assert data_of(Journal.open(haunted, ME)[1]) == [b"kept"]


def _worn() -> tuple[MemoryDisk, list[Record]]:
    """A journal with a rotation, two lives, and three synced batches of which the last is in no mark."""
    disk = fresh(1024)
    journal, _ = restart(disk)
    write(disk, journal, b"before")
    disk.perform(journal.rotate([(1, b"state" * 9)])[0])
    write(disk, journal, b"one", b"two")
    journal, _ = restart(disk)
    write(disk, journal, b"three")
    write(disk, journal, b"four" * 8)
    write(disk, journal, b"five")
    return disk, [
        (1, b"state" * 9),
        *((7, data) for data in (b"one", b"two", b"three", b"four" * 8, b"five")),
    ]


def test_every_flipped_byte_below_the_last_mark_is_corruption_and_never_a_shorter_journal() -> None:
    disk, records = _worn()
    data = files_of(disk)[SECOND]
    segment = parse_segment(SECOND, 2, data, ME)
    mark = segment.batches[-1].synced_upto
    assert mark == data.index(b"five") - 41
    refusals = set()
    for place in range(len(data)):
        for flip in (0x01, 0x80, data[place] or 0xFF):
            rotten = bytearray(data)
            rotten[place] ^= flip
            try:
                found = Journal.open(with_files({SECOND: bytes(rotten)}), ME)[1]
            except JournalCorrupt as error:
                refusals.add(str(error))
                assert place < mark
            else:
                assert place >= mark, f"byte {place} of {mark} was counted away"
                # The window: what was synced last and is in no mark cannot be told from what was never synced.
                assert found.records in (records, records[:-1])
    assert all(f"{SECOND}, offset" in text and "must not vote" in text for text in refusals)
    assert len(refusals) >= 3


def test_a_lost_sector_below_the_last_mark_is_corruption() -> None:
    disk = fresh()
    journal, _ = restart(disk)
    for number in range(40):
        write(disk, journal, b"%03d" % number * 40)
    data = files_of(disk)[FIRST]
    mark = parse_segment(FIRST, 1, data, ME).batches[-1].synced_upto
    for start in range(0, mark - 512, 512):
        for sector in (bytes(512), Random(start).randbytes(512)):
            rotten = data[:start] + sector + data[start + 512 :]
            with pytest.raises(JournalCorrupt):
                Journal.open(with_files({FIRST: rotten}), ME)


def test_a_refused_open_changes_nothing() -> None:
    disk, _ = _worn()
    data = bytearray(files_of(disk)[SECOND])
    data[data.index(b"one")] ^= 1
    disk = with_files({SECOND: bytes(data)})
    with pytest.raises(JournalCorrupt):
        Journal.open(disk, ME)
    assert files_of(disk) == {SECOND: bytes(data)}


def test_a_forged_batch_header_in_a_records_data_is_not_believed_while_its_own_header_stands() -> None:
    disk = fresh()
    journal, _ = restart(disk)
    probe = fresh()
    other, _ = restart(probe)
    for _ in range(40):
        write(probe, other, b"x" * 100)
    forged = files_of(probe)[FIRST][-4096:]  # batches that say that everything before was synced
    disk.perform([journal.append([(7, b"mine" + files_of(probe)[FIRST] + forged)])[0][0]])
    torn = bytearray(files_of(disk)[FIRST])
    torn[torn.index(b"mine")] ^= 1
    assert Journal.open(with_files({FIRST: bytes(torn)}), ME)[1].records == []


def test_marks_only_grow_and_marks_of_older_segments_are_ignored() -> None:
    disk = fresh()
    journal, _ = restart(disk)
    _, first = journal.append([(7, b"a")])
    _, second = journal.append([(7, b"b")])
    _, third = journal.rotate([])
    _, fourth = journal.append([(7, b"c")])
    assert first < second < third < fourth == journal.mark
    assert journal.append([]) == ([], fourth)
    journal.mark_synced(second)
    with pytest.raises(ValueError, match="never given out"):
        journal.mark_synced(fourth + 1)


def test_a_batch_claims_only_what_was_reported_synced() -> None:
    disk = fresh()
    journal, _ = restart(disk)
    first, mark = journal.append([(7, b"synced")])
    second, _ = journal.append([(7, b"in flight")])
    disk.perform(first)
    journal.mark_synced(mark)
    third, _ = journal.append([(7, b"behind it")])
    disk.perform(merge([second, third])[:1])
    batches = parse_segment(FIRST, 1, disk.read(FIRST), ME).batches
    assert batches[-1].synced_upto == mark & ((1 << 48) - 1) == batches[-2].offset
    torn = bytearray(disk.read(FIRST))
    torn[torn.index(b"in flight")] ^= 1
    assert data_of(Journal.open(with_files({FIRST: bytes(torn)}), ME)[1]) == [b"synced"]


def test_a_rotation_syncs_the_old_segment_first_and_retires_it_last() -> None:
    disk = fresh()
    journal, _ = restart(disk)
    (append, *_), _ = journal.append([(7, b"x")])
    ops = merge([[append], journal.rotate([(1, b"s")])[0]])
    assert isinstance(append, Append)
    state = ops[3]
    assert ops == [
        append,
        Sync(FIRST),
        Create(SECOND, 4096),
        state,
        Sync(SECOND),
        SyncDirectory(),
        Remove(FIRST),
        SyncDirectory(),
    ]


def test_a_record_that_does_not_fit_is_refused_by_name() -> None:
    disk = fresh()
    journal, _ = restart(disk)
    before = journal.mark
    for kind in (-1, 256):
        with pytest.raises(ValueError, match=f"kind {kind}"):
            journal.append([(1, b""), (kind, b"x")])
    assert journal.mark == before


@pytest.mark.parametrize("name", ["", "x" * 256])
def test_an_identity_has_names_of_a_sensible_length(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 255 bytes"):
        Identity("feed", name)


def test_merge_joins_appends_to_a_file_under_one_sync_and_keeps_every_other_order() -> None:
    a, b = Append("f", b"a"), Append("f", b"b")
    assert merge([[a, Sync("f")], [b, Sync("f")]]) == [Append("f", b"ab"), Sync("f")]
    barrier: list[Op] = [Sync("f"), Create("g"), Append("g", b"s"), Sync("g"), SyncDirectory(), Remove("f")]
    assert merge([[a, Sync("f")], barrier, [Append("g", b"t"), Sync("g")]]) == [
        Append("f", b"a"),
        *barrier,
        Append("g", b"t"),
        Sync("g"),
    ]
    assert merge([[a], [Append("g", b"x"), b, Sync("f")]]) == [a, Append("g", b"x"), b, Sync("f")]
    assert merge([]) == merge([[], []]) == []


OPS = st.one_of(
    st.builds(Append, st.sampled_from("fg"), st.binary(max_size=3)),
    st.builds(Sync, st.sampled_from("fg")),
    st.builds(SyncDirectory),
    st.builds(Rename, st.just("f"), st.just("g")),
    st.builds(Truncate, st.just("f"), st.just(0)),
)


@settings(max_examples=100, deadline=None)
@given(lists=st.lists(st.lists(OPS, max_size=6), max_size=4))
def test_merged_operations_write_the_same_bytes_and_leave_no_sync_undone(lists: list[list[Op]]) -> None:
    def trace(ops: Sequence[Op]) -> tuple[list[Op], list[dict[str, bytes]], list[int]]:
        """Everything but appends and syncs; at each of those every file's bytes, and the synced lengths, f and g in turn."""
        barriers: list[Op] = []
        bytes_seen, lengths, written, synced = [], [], {"f": b"", "g": b""}, {"f": 0, "g": 0}
        for op in [*ops, SyncDirectory()]:
            if isinstance(op, Append):
                written[op.name] += op.data
            elif isinstance(op, Sync):
                synced[op.name] = len(written[op.name])
            else:
                barriers.append(op)
                bytes_seen.append(dict(written))
                lengths += [synced["f"], synced["g"]]
        return barriers, bytes_seen, lengths

    flat = [op for ops in lists for op in ops]
    *asked, least = trace(flat)
    *got, lengths = trace(merge(lists))
    assert got == asked
    assert all(length >= wanted for length, wanted in zip(lengths, least, strict=True))
