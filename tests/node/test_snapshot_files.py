"""Snapshot files and their way over the wire in pieces."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.disk import Append, Create, Remove, SyncDirectory
from node.segment import Identity
from node.snapshot import (
    MAX_CHUNK,
    Assembly,
    Manifest,
    SnapshotCorrupt,
    SnapshotForeign,
    SnapshotVersion,
    clean_ops,
    decode_manifest,
    make_manifest,
    newest,
    pieces,
    read,
    snapshot_indexes,
    snapshot_name,
    write_ops,
)
from sim.virtual.disk import MemoryDisk

ME = Identity("feed", "n1")
CHUNKS = [b"weights" * 100, b"", b"history"]


def manifest_at(index: int, chunks: list[bytes] = CHUNKS, identity: Identity = ME) -> Manifest:
    return make_manifest(identity, index, 3, bytes(range(32)), ["n1", "n2", "n3"], chunks)


def disk_with(*indexes: int) -> MemoryDisk:
    disk = MemoryDisk()
    for index in indexes:
        disk.perform(write_ops(manifest_at(index), CHUNKS))
    return disk


def rewritten(disk: MemoryDisk, name: str, data: bytes) -> MemoryDisk:
    disk.perform([Remove(name), Create(name), Append(name, data)])
    return disk


def test_a_snapshot_comes_back_with_its_meta() -> None:
    disk = disk_with(7, 40)
    found = newest(disk, ME)
    assert found == (manifest_at(40).meta, CHUNKS)
    assert found[0].size == sum(map(len, CHUNKS))
    assert read(disk, snapshot_name(7)) == (manifest_at(7), CHUNKS)
    assert newest(MemoryDisk(), ME) is None


def test_replicas_with_the_same_state_make_the_same_bytes() -> None:
    assert manifest_at(7).encode() == manifest_at(7, identity=Identity("feed", "n2")).encode()


def test_every_flipped_byte_is_found_and_named() -> None:
    whole = disk_with(7).read(snapshot_name(7))
    for place in range(len(whole)):
        rotten = bytearray(whole)
        rotten[place] ^= 1 << (place % 8)
        disk = rewritten(disk_with(7), snapshot_name(7), bytes(rotten))
        with pytest.raises((SnapshotCorrupt, SnapshotVersion), match=r"snapshot-0000000000000007\.snap"):
            read(disk, snapshot_name(7))


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: data[:30]]
)
def test_a_file_too_short_or_too_long_is_corrupt(change: object) -> None:
    assert callable(change)
    disk = disk_with(7)
    rewritten(disk, snapshot_name(7), change(disk.read(snapshot_name(7))))
    with pytest.raises(SnapshotCorrupt):
        read(disk, snapshot_name(7))


def test_a_damaged_snapshot_is_passed_over_with_a_note_but_never_for_nothing() -> None:
    disk = disk_with(7, 40)
    rewritten(disk, snapshot_name(40), disk.read(snapshot_name(40))[:-1] + b"?")
    notes: list[str] = []
    found = newest(disk, ME, notes)
    assert found is not None
    assert found[0].index == 7
    assert len(notes) == 1
    assert "chunk 2 does not match its hash; passed over" in notes[0]
    disk.perform([Remove(snapshot_name(7))])
    with pytest.raises(SnapshotCorrupt, match="no whole snapshot is left"):
        newest(disk, ME)


def test_a_snapshot_under_the_name_of_another_index_is_corrupt() -> None:
    disk = disk_with(7)
    rewritten(disk, snapshot_name(8), disk.read(snapshot_name(7)))
    with pytest.raises(SnapshotCorrupt, match="says index 7"):
        read(disk, snapshot_name(8))


def test_a_snapshot_of_another_cluster_or_version_is_refused() -> None:
    with pytest.raises(SnapshotForeign, match=r"'feed'.*'food'"):
        newest(disk_with(7), Identity("food", "n1"))
    fields = manifest_at(7).encode()
    assert fields[1] == 1
    with pytest.raises(SnapshotVersion, match="version 2"):
        decode_manifest(fields[:1] + b"\x02" + fields[2:])


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x90", b"\x91\x01", b"\xc1", manifest_at(7).encode()[:-1]])
def test_a_manifest_that_is_none_is_corrupt(data: bytes) -> None:
    with pytest.raises(SnapshotCorrupt):
        decode_manifest(data)


def test_chunks_that_no_reader_would_accept_are_refused_when_written() -> None:
    with pytest.raises(ValueError, match="chunk 1 has"):
        manifest_at(7, [b"", bytes(MAX_CHUNK + 1)])
    with pytest.raises(ValueError, match="not those of the manifest"):
        write_ops(manifest_at(7), CHUNKS[:2])
    with pytest.raises(ValueError, match="32 bytes"):
        make_manifest(ME, 1, 1, b"", [], [])


def test_power_cuts_leave_the_old_snapshot_and_a_whole_new_one_or_none() -> None:
    outcomes = set()
    ops = write_ops(manifest_at(40), CHUNKS)
    for count in range(len(ops) + 1):
        for seed in range(30):
            disk = disk_with(7)
            disk.perform(ops[:count])
            disk.cut(Random(seed))
            notes: list[str] = []
            found = newest(disk, ME, notes)
            assert found is not None
            assert found[1] == CHUNKS
            assert notes == []
            assert count < len(ops) or found[0].index == 40
            outcomes.add((count == len(ops), found[0].index))
            disk.perform(write_ops(manifest_at(40), CHUNKS))  # over whatever the cut left
            assert read(disk, snapshot_name(40))[1] == CHUNKS
    assert outcomes == {(False, 7), (False, 40), (True, 40)}


def test_cleaning_removes_old_and_unfinished_files_and_nothing_else() -> None:
    names = [
        snapshot_name(7),
        snapshot_name(40),
        snapshot_name(9) + ".partial",
        snapshot_name(41) + ".partial",
    ]
    names += ["journal-0000000000000001.seg", "snapshot-notes.txt"]
    assert clean_ops(names, {40, 41}) == [
        Remove(snapshot_name(7)),
        Remove(snapshot_name(9) + ".partial"),
        SyncDirectory(),
    ]
    assert clean_ops(names, {7, 9, 40, 41}) == []
    assert snapshot_indexes(names) == [7, 40]


def test_pieces_travel_and_assemble_over_interruptions() -> None:
    source = pieces(disk_with(7), 7)
    assert len(source) == 4
    assembly = Assembly(source.meta, Identity("feed", "n2"))
    assert (assembly.wanted, assembly.total) == (0, None)
    with pytest.raises(ValueError, match="not come yet"):
        _ = assembly.manifest
    asked = []
    while (piece := assembly.wanted) is not None:
        asked.append(piece)
        assert not assembly.offer(piece + 1, b"late answer")
        assert assembly.offer(piece, source[piece])
        assert not assembly.offer(piece, source[piece]), "a repeat changes nothing"
    assert asked == [0, 1, 2, 3]
    assert (assembly.total, assembly.chunks) == (4, CHUNKS)
    disk = MemoryDisk()
    disk.perform(write_ops(assembly.manifest, assembly.chunks))
    assert newest(disk, ME) == (source.meta, CHUNKS)
    with pytest.raises(IndexError):
        _ = source[4]
    with pytest.raises(FileNotFoundError):
        pieces(disk, 8)


def test_a_wrong_piece_is_refused_and_stays_wanted() -> None:
    source = pieces(disk_with(7), 7)
    assembly = Assembly(source.meta, ME)
    with pytest.raises(SnapshotCorrupt, match="does not match the root"):
        assembly.offer(0, manifest_at(8).encode())
    assert assembly.wanted == 0
    assembly.offer(0, source[0])
    for wrong in (b"", source[1][:-1], source[1][:-1] + b"?", bytes(MAX_CHUNK + 1)):
        with pytest.raises(SnapshotCorrupt, match="piece 1"):
            assembly.offer(1, wrong)
    assert assembly.wanted == 1
    with pytest.raises(SnapshotForeign):
        Assembly(source.meta, Identity("food", "n1")).offer(0, source[0])


@pytest.mark.parametrize("field", ["index", "term", "size", "members", "chain"])
def test_a_manifest_that_contradicts_the_announcement_is_refused(field: str) -> None:
    meta = manifest_at(7).meta
    lies = {"index": 8, "term": 4, "size": 1, "members": ("n1",), "chain": bytes(32)}
    with pytest.raises(SnapshotCorrupt, match="announced"):
        Assembly(replace(meta, **{field: lies[field]}), ME).offer(0, manifest_at(7).encode())


def test_rot_is_not_passed_on() -> None:
    disk = disk_with(7)
    data = disk.read(snapshot_name(7))
    rewritten(disk, snapshot_name(7), data.replace(b"history", b"hlstory"))
    source = pieces(disk, 7)
    assert source[1] == CHUNKS[0]
    with pytest.raises(SnapshotCorrupt, match="chunk 2"):
        _ = source[3]


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_as_a_manifest_are_refused_or_read(data: bytes) -> None:
    meta = replace(manifest_at(7).meta, root=sha256(data).digest())
    with pytest.raises((SnapshotCorrupt, SnapshotVersion, SnapshotForeign)):
        Assembly(meta, ME).offer(0, data)
