"""A snapshot on its way from one replica to another, piece by piece."""

from __future__ import annotations

import pytest

from consensus.core import NEVER, SnapshotMeta
from node.disk import Remove
from node.protocol import Chunk, ChunkRequest
from node.segment import Identity
from node.snapshot import SnapshotCorrupt, make_manifest, snapshot_name, write_ops
from node.transfer import PATIENCE, Transfer
from sim.virtual.disk import MemoryDisk

ME = Identity("c", "me")
CHUNKS = [b"first" * 100, b"second" * 200, b""]


def source(index: int = 9, chunks: list[bytes] = CHUNKS) -> tuple[Transfer, SnapshotMeta, MemoryDisk]:
    disk = MemoryDisk()
    manifest = make_manifest(Identity("c", "you"), index, 3, bytes(32), ["me", "you"], chunks)
    disk.perform(write_ops(manifest, chunks))
    return Transfer(disk, ME), manifest.meta, disk


def receiver() -> Transfer:
    return Transfer(MemoryDisk(), ME)


def test_a_snapshot_is_pulled_piece_by_piece_until_it_is_whole() -> None:
    far, meta, _ = source()
    here = receiver()
    asked = here.fetch("you", meta, 0)
    pieces = []
    while asked:
        ((dest, request),) = asked
        assert dest == "you"
        pieces.append(request.piece)
        asked = here.receive("you", far.serve(request), 1)
    assert pieces == [0, 1, 2, 3]
    whole = here.complete()
    assert whole is not None
    assert whole.chunks == CHUNKS
    assert here.deadline == NEVER
    here.stop()
    assert here.complete() is None


def test_the_leaders_repeated_offer_asks_for_nothing_twice() -> None:
    far, meta, _ = source()
    here = receiver()
    first = here.fetch("you", meta, 0)
    assert here.fetch("you", meta, 1) == []
    here.receive("you", far.serve(first[0][1]), 2)
    assert here.fetch("you", meta, 3) == []
    assert here.assembly is not None
    assert here.assembly.wanted == 1


def test_a_piece_that_does_not_come_is_asked_for_again_after_a_while() -> None:
    _, meta, _ = source()
    here = receiver()
    first = here.fetch("you", meta, 0)
    assert here.deadline == PATIENCE
    assert here.timeout(PATIENCE - 1) == []
    assert here.timeout(PATIENCE) == first
    assert here.deadline == 2 * PATIENCE


def test_repeated_late_and_foreign_pieces_change_nothing() -> None:
    far, meta, _ = source()
    here = receiver()
    here.fetch("you", meta, 0)
    manifest = far.serve(ChunkRequest(9, 0))
    assert here.receive("stranger", manifest, 1) == []
    assert here.receive("you", Chunk(8, 0, 4, manifest.data), 1) == []
    assert here.receive("you", far.serve(ChunkRequest(9, 2)), 1) == []
    assert here.receive("you", manifest, 1) == [("you", ChunkRequest(9, 1))]
    assert here.receive("you", manifest, 1) == []


def test_a_piece_that_is_not_what_was_announced_ends_the_fetch() -> None:
    far, meta, _ = source()
    here = receiver()
    here.fetch("you", meta, 0)
    here.receive("you", far.serve(ChunkRequest(9, 0)), 1)
    good = far.serve(ChunkRequest(9, 1))
    forged = Chunk(9, 1, 4, good.data[:-1] + b"!")
    with pytest.raises(SnapshotCorrupt, match="does not match its hash"):
        here.receive("you", forged, 2)
    assert here.assembly is None
    assert here.fetch("you", meta, 3) == [("you", ChunkRequest(9, 0))], "the next offer begins anew"


def test_a_snapshot_that_is_gone_is_given_up_until_the_leader_offers_one() -> None:
    far, meta, disk = source()
    here = receiver()
    (request,) = here.fetch("you", meta, 0)
    disk.perform([Remove(snapshot_name(9))])
    gone = far.serve(request[1])
    assert (gone.pieces, gone.data) == (0, b"")
    assert here.receive("you", gone, 1) == []
    assert (here.assembly, here.deadline) == (None, NEVER)


def test_a_newer_offer_replaces_the_older_fetch_and_an_older_one_does_not() -> None:
    _, old, _ = source(9)
    _, new, _ = source(12)
    here = receiver()
    here.fetch("you", old, 0)
    assert here.fetch("you", new, 1) == [("you", ChunkRequest(12, 0))]
    assert here.fetch("you", old, 2) == []
    assert here.assembly is not None
    assert here.assembly.meta == new


def test_another_leader_is_asked_at_once_for_the_pieces_that_the_one_before_still_owes() -> None:
    far, meta, _ = source()
    here = receiver()
    here.fetch("you", meta, 0)
    here.receive("you", far.serve(ChunkRequest(9, 0)), 1)
    assert here.fetch("other", meta, 2) == [("other", ChunkRequest(9, 1))]
    late = far.serve(ChunkRequest(9, 1))
    assert here.receive("you", late, 3) == [], "only who is asked is believed"
    assert here.receive("other", late, 3) == [("other", ChunkRequest(9, 2))]


def test_a_damaged_file_is_not_passed_on() -> None:
    far, _, disk = source()
    name = snapshot_name(9)
    data = disk.read(name)
    disk._files[name].data[-3] ^= 1
    assert disk.read(name) != data
    served = [far.serve(ChunkRequest(9, piece)).pieces for piece in range(4)]
    assert 0 in served
    assert far.serve(ChunkRequest(9, 99)).pieces == 0
    assert far.serve(ChunkRequest(8, 0)).pieces == 0
