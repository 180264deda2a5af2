"""Damage to synced bytes, and what recovery makes of it: it is detected, or lies in the window that is documented."""

from __future__ import annotations

import struct
from collections import Counter
from random import Random
from zlib import crc32

import pytest

from node.disk import Append, Create, Sync, SyncDirectory
from node.journal import Identity, Journal, JournalCorrupt
from node.snapshot import SnapshotCorrupt, make_manifest, newest, snapshot_name, write_ops
from sim.virtual.disk import Condition, MemoryDisk
from sim.virtual.disk_faults import LostWrite, LyingSync, MisdirectedWrite, overwrite
from sim.virtual.disk_rot import PARTS, in_window, places, rot

ME = Identity("feed", "n1")
NEWEST = "journal-0000000000000002.seg"


class Node:
    """A journal of numbered records, all promised; its state is the list of them."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = Random(seed)
        self.archive = self.rng.random() < 0.5
        self.disk = MemoryDisk()
        self.disk.perform(Journal.create_ops(ME, 4096))
        self.promised: list[bytes] = []
        self.open()

    def open(self) -> list[bytes]:
        self.disk.restart()
        self.journal, recovered = Journal.open(self.disk, ME, self.archive, 4096)
        return [data for _, data in recovered.records]

    def append(self, size: int) -> None:
        self.promised.append(b"%d:" % len(self.promised) + b"#" * size)
        ops, mark = self.journal.append([(3, self.promised[-1])])
        self.disk.perform(ops)
        self.journal.mark_synced(mark)

    def rotate(self) -> None:
        ops, mark = self.journal.rotate([(3, data) for data in self.promised])
        self.disk.perform(ops)
        self.journal.mark_synced(mark)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            if self.rng.random() < 0.1:
                self.rotate()
            else:
                self.append(self.rng.choice([0, 3, 100, 600, 2000]))


def snapshots(disk: MemoryDisk, *indexes: int) -> None:
    for index in indexes:
        chunks = [bytes([index]) * 900, b"c" * 300]
        disk.perform(write_ops(make_manifest(ME, index, 1, bytes(32), ["n1"], chunks), chunks))


@pytest.mark.parametrize("sector", [False, True])
def test_rot_in_a_journal_is_corruption_or_lies_in_the_documented_window(sector: bool) -> None:
    parts = ("segment header", "segment state", "batch header", "batch records")
    seen: Counter[str] = Counter()
    for seed in range(300):
        node = Node(seed)
        node.run(seed % 20)
        done = rot(node.disk, node.rng, parts, bits=node.rng.choice([1, 2, 8]), sector=sector)
        assert done is not None
        assert node.disk.damaged == [f"{done.name}: bytes {_span(node.disk.damaged[0])}: rot ({done.part})"]
        assert node.disk.bites == {f"rot: {done.part}": 1}
        try:
            found = node.open()
        except JournalCorrupt:
            assert not done.window, "the window is drawn too wide"
            seen[f"corrupt: {done.part}"] += 1
            continue
        assert done.window, f"seed {seed}: promised records were lost without a word"
        assert found == node.promised[: len(found)]
        seen["window"] += 1
    assert {f"corrupt: {part}" for part in parts} | {"window"} == set(seen)
    assert seen["window"] < 90, "the window is a few batches, not the journal"


def _span(words: str) -> str:
    return words.split("bytes ")[1].split(":")[0]


def test_rot_can_be_aimed_at_every_part_and_flips_as_many_bits_as_asked() -> None:
    node = Node()
    node.archive = True
    node.open()
    node.append(50)
    older = node.disk.contents("journal-0000000000000001.seg")
    node.rotate()
    node.append(50)
    node.disk.perform([Create("journal-0000000000000001.seg"), Append("journal-0000000000000001.seg", older)])
    node.disk.perform([Sync("journal-0000000000000001.seg"), SyncDirectory()])
    snapshots(node.disk, 4, 7)
    for part in PARTS:
        before = {name: node.disk.contents(name) for name in node.disk.listing()}
        done = rot(node.disk, Random(3), [part], bits=3)
        assert done is not None, part
        assert done.part == part
        flipped = 0
        for name, data in before.items():
            after = node.disk.contents(name)
            flipped += sum((x ^ y).bit_count() for x, y in zip(data, after, strict=True))
            assert name == done.name or data == after
            changed = [place for place, (x, y) in enumerate(zip(data, after, strict=True)) if x != y]
            assert all(done.start <= place < done.stop for place in changed)
        assert flipped == 3
        node.disk.file(done.name).data[:] = before[done.name][: len(node.disk.file(done.name).data)]


def test_rot_finds_nothing_in_what_is_not_there_or_was_never_synced() -> None:
    disk = MemoryDisk()
    assert rot(disk, Random(1)) is None
    disk.perform([*Journal.create_ops(ME, 4096)[:2], Create("other"), Append("other", b"x"), Sync("other")])
    assert rot(disk, Random(1)) is None
    assert places(disk) == []
    assert disk.bites == {}
    with pytest.raises(ValueError, match="'cable' is no part"):
        places(disk, ["cable"])


@pytest.mark.parametrize("part", ["snapshot head", "manifest", "chunk length", "chunk"])
@pytest.mark.parametrize("sector", [False, True])
def test_rot_in_the_newest_snapshot_is_noticed_and_never_restored_from(part: str, sector: bool) -> None:
    for seed in range(15):
        disk = MemoryDisk()
        snapshots(disk, 4, 7)
        assert rot(disk, Random(seed), [part], sector=sector)
        notes: list[str] = []
        found = newest(disk, ME, notes)
        assert found is not None
        assert found[0].index == 4
        assert "snapshot-0000000000000007.snap" in notes[0]
        disk.perform([Append(snapshot_name(4), b"x")])
        with pytest.raises(SnapshotCorrupt, match="no whole snapshot"):
            newest(disk, ME)


@pytest.mark.parametrize("make", [MisdirectedWrite, LostWrite, LyingSync])
def test_bytes_that_never_arrived_are_noticed_unless_they_were_the_newest(make: type) -> None:
    """Recovery refuses, or has everything, or lacks a tail behind which nothing on the disk proves that it was promised."""
    seen: Counter[str] = Counter()
    for seed in range(250):
        node = Node(seed)
        node.run(seed % 7)
        fault: Condition = make(Random(seed), 0.3)
        node.disk.lay(fault)
        node.run(4)
        node.disk.lift(fault)
        node.run(seed % 3)
        if seed % 2 or make is LyingSync:
            node.disk.cut(Random(seed))
        name = [name for name in node.disk.listing() if name.startswith("journal-")][-1]
        before = node.disk.contents(name)
        try:
            found = node.open()
        except JournalCorrupt:
            assert node.disk.damaged, f"seed {seed}: refused over nothing"
            seen["corrupt"] += 1
            continue
        if found == node.promised:
            seen["whole"] += 1
            continue
        assert found == node.promised[: len(found)]
        assert node.disk.damaged
        opening = places(node.disk, ["batch header"])[
            -1
        ]  # what recovery has just written where the intact part ended
        assert not proven(before, opening.start, int(name[8:24])), f"seed {seed}: a silent loss"
        seen["short"] += 1
    assert seen["corrupt"] > 40
    assert seen["whole"] > 10
    assert 0 < seen["short"] < seen["corrupt"]


def proven(data: bytes, end: int, number: int) -> bool:
    """Whether a batch header behind `end` says that bytes at `end` had been synced. Laid out as the format's page says, by
    hand; what an intact header at `end` calls record data is left out, because a client may have made it."""
    seed = crc32(b"feed\0n1\0%d" % number)

    def header(at: int) -> tuple[int, int] | None:
        if data[at : at + 4] != b"\xb5RTb" or len(data) < at + 36:
            return None
        length, _, _, synced, _, check = struct.unpack_from("<IIQQII", data, at + 4)
        return (length, synced) if check == crc32(data[at : at + 32], seed) else None

    own = header(end)
    start = end if own is None else end + 36 + own[0]
    return any((found := header(at)) and found[1] > end for at in range(start, len(data)))


def test_the_finder_of_proofs_finds_them() -> None:
    node = Node()
    for _ in range(3):
        node.append(100)
    name, data = "journal-0000000000000001.seg", node.disk.contents("journal-0000000000000001.seg")
    *_, before, last = places(node.disk, ["batch header"])
    assert proven(data, before.start, 1)
    assert not proven(data, last.start, 1)
    assert not proven(data, before.start, 2), f"a batch of {name} proves nothing elsewhere"


def test_a_misdirected_write_over_promised_records_is_noticed_on_recovery() -> None:
    corrupt = 0
    for seed in range(80):
        node = Node(seed)
        for _ in range(12):
            node.append(200)
        fault = MisdirectedWrite(Random(seed))
        node.disk.lay(fault)
        node.append(200)
        node.disk.lift(fault)
        node.append(200)
        with pytest.raises(JournalCorrupt):
            node.open()
        corrupt += 1
    assert corrupt == 80


@pytest.mark.parametrize("inside", [True, False])
def test_one_stray_write_can_take_the_last_two_batches_and_that_is_a_stated_limit(inside: bool) -> None:
    node = Node()
    node.append(0)
    node.append(2000)
    name = node.disk.listing()[-1]
    before = node.disk.file(name).end
    node.append(40)
    end = node.disk.file(name).end
    first = before // 512 * 512
    moved = node.disk.contents(name)[first:end].ljust(512, b"\0")
    node.disk.file(name).blank(before, end)
    overwrite(node.disk, name, 1024 if inside else 4096 - 512, moved, "overwritten by a stray write")
    assert node.open() == node.promised[: 1 if inside else 2]
    assert len(node.disk.damaged) == inside


def test_the_window_is_what_no_later_mark_covers() -> None:
    node = Node(1)
    node.append(100)
    node.rotate()
    for _ in range(3):
        node.append(100)
    *_, before, last = [place for place in places(node.disk, ["batch records"]) if place.name == NEWEST]
    assert in_window(node.disk, NEWEST, last.start, last.start + 1)
    assert not in_window(node.disk, NEWEST, before.start, before.start + 1)
    assert in_window(node.disk, NEWEST, before.start, last.stop), "damage that takes its own proof with it"
    assert not in_window(node.disk, NEWEST, 0, 1)
    assert not in_window(node.disk, "other", 0, 1)
