"""A snapshot on its way from one replica to another, piece by piece."""

from __future__ import annotations

import pytest

from consensus.core import NEVER, SnapshotMeta
from node.disk import Remove
from node.protocol import Chunk, ChunkRequest
from node.segment import Identity
from node.snapshot import SnapshotCorrupt, make_manifest, snapshot_name, write_ops
from node.transfer import PATIENCE, SERVED_EVERY, Transfer
from sim.virtual.disk import MemoryDisk

ME = Identity("c", "me")
CHUNKS = [b"first" * 100, b"second" * 200, b""]


def source(index: int = 9, chunks: list[bytes] = CHUNKS) -> tuple[Transfer, SnapshotMeta, MemoryDisk]:
    disk = MemoryDisk()
    manifest = make_manifest(Identity("c", "you"), index, 3, bytes(32), ["me", "you"], chunks)
    disk.perform(write_ops(manifest, chunks))
    return Transfer(disk, ME), manifest.meta, disk


def served(far: Transfer, request: ChunkRequest) -> Chunk:
    piece = far.serve("me", request, 0)
    assert piece is not None
    return piece


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
        asked = here.receive("you", served(far, request), 1)
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
    here.receive("you", served(far, first[0][1]), 2)
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
    manifest = served(far, ChunkRequest(9, 0))
    assert here.receive("stranger", manifest, 1) == []
    assert here.receive("you", Chunk(8, 0, 4, manifest.data), 1) == []
    assert here.receive("you", served(far, ChunkRequest(9, 2)), 1) == []
    assert here.receive("you", manifest, 1) == [("you", ChunkRequest(9, 1))]
    assert here.receive("you", manifest, 1) == []


def test_a_piece_that_is_not_what_was_announced_ends_the_fetch() -> None:
    far, meta, _ = source()
    here = receiver()
    here.fetch("you", meta, 0)
    here.receive("you", served(far, ChunkRequest(9, 0)), 1)
    good = served(far, ChunkRequest(9, 1))
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
    gone = served(far, request[1])
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
    here.receive("you", served(far, ChunkRequest(9, 0)), 1)
    assert here.fetch("other", meta, 2) == [("other", ChunkRequest(9, 1))]
    late = served(far, ChunkRequest(9, 1))
    assert here.receive("you", late, 3) == [], "only who is asked is believed"
    assert here.receive("other", late, 3) == [("other", ChunkRequest(9, 2))]


def test_a_damaged_file_is_not_passed_on() -> None:
    far, _, disk = source()
    name = snapshot_name(9)
    data = disk.read(name)
    disk._files[name].data[-3] ^= 1
    assert disk.read(name) != data
    pieces = [served(far, ChunkRequest(9, piece)).pieces for piece in range(4)]
    assert 0 in pieces
    assert served(far, ChunkRequest(9, 99)).pieces == 0
    assert served(far, ChunkRequest(8, 0)).pieces == 0


def test_where_peers_may_lie_one_gets_so_much_at_a_time_and_the_others_all_the_same() -> None:
    _, _, disk = source(chunks=[bytes(1 << 20)])
    far = Transfer(disk, ME, distrust=True)
    request = ChunkRequest(9, 1)
    given = [far.serve("greedy", request, 5) is not None for _ in range(40)]
    assert 8 <= sum(given) <= 9
    assert given == sorted(given, reverse=True)
    assert far.serve("modest", request, 5) is not None
    assert far.serve("greedy", request, 4 + SERVED_EVERY) is None
    assert far.serve("greedy", request, 5 + SERVED_EVERY) is not None


def test_requests_for_what_is_not_here_are_not_answered_without_end_either() -> None:
    far = Transfer(MemoryDisk(), ME, distrust=True)
    answers = [far.serve("greedy", ChunkRequest(7, 0), 5) for _ in range(10_000)]
    assert answers[0] is not None
    assert answers[-1] is None


def test_where_peers_may_lie_a_piece_counts_whichever_of_those_asked_it_comes_from() -> None:
    """The core names another one every so often. On a link where a piece takes longer than that nothing would ever come."""
    far, meta, _ = source()
    here = Transfer(MemoryDisk(), ME, distrust=True)
    peers = ["you", "he", "she"]
    under_way: list[tuple[str, ChunkRequest]] = []
    for turn in range(30):
        # The answer comes when the next one has been asked already.
        under_way += here.fetch(peers[turn % 3], meta, turn)
        if turn and under_way:
            peer, request = under_way.pop(0)
            under_way += here.receive(peer, served(far, request), turn)
        if here.complete() is not None:
            break
    assert here.complete() is not None
    stranger = Transfer(MemoryDisk(), ME, distrust=True)
    stranger.fetch("you", meta, 0)
    assert stranger.receive("nobody asked", served(far, ChunkRequest(9, 0)), 1) == []
