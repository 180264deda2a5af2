"""Snapshots on their way from one replica to another: pulled piece by piece, each checked against the announced root."""

from __future__ import annotations

from typing import Final

from consensus.core import NEVER, NodeId, SnapshotMeta
from consensus.marks import sometimes
from node import snapshot
from node.disk import Disk, DiskError
from node.protocol import Chunk, ChunkRequest
from node.segment import Identity

PATIENCE: Final = 1_000_000
"""Microseconds without a piece before it is asked for again."""
SERVED_BYTES: Final = 8 << 20
SERVED_EVERY: Final = 100_000
"""Where peers are not trusted: so many bytes of pieces go to one in so many microseconds, and then nothing until they are over.
A request is short, and a piece is read from the disk for it."""


class Transfer:
    """The receiving side's assembly, and the sending side's open file."""

    def __init__(self, disk: Disk, identity: Identity, distrust: bool = False) -> None:
        """`distrust`: one peer's word, or one piece of its, says nothing of what was announced (a quorum vouches for that): what
        has come is kept, and the core names the next peer to ask. Else the fetch is given up."""
        self._disk = disk
        self._distrust = distrust
        self._identity = identity
        self.assembly: snapshot.Assembly | None = None
        self.source: NodeId | None = None
        self.deadline = NEVER
        """When `timeout` is due."""
        self._sending: snapshot.Pieces | None = None
        self._served: dict[NodeId, tuple[int, int]] = {}
        """Peer -> (since when, bytes)."""
        self._asked: dict[NodeId, None] = {}
        """Who has been asked for pieces of what is being fetched."""

    def fetch(self, source: NodeId, meta: SnapshotMeta, now: int) -> list[tuple[NodeId, ChunkRequest]]:
        """Begin to fetch, or go on: the leader repeats its offer with every heartbeat. Another leader is asked at once for what
        the one before owes; if it has no such snapshot, it says so, and its own is fetched from the start."""
        moved, self.source = source != self.source, source
        if self.assembly is not None and self.assembly.meta.index >= meta.index:
            if not moved:
                return []
            sometimes("another leader is asked for the rest of a snapshot")
            return self._ask(now)
        if self.assembly is not None:
            sometimes("a half fetched snapshot is given up for a newer one")
        self.assembly = snapshot.Assembly(meta, self._identity)
        return self._ask(now)

    def timeout(self, now: int) -> list[tuple[NodeId, ChunkRequest]]:
        """Ask again for the piece that did not come."""
        if now < self.deadline:
            return []
        sometimes("a piece of a snapshot is asked for again")
        return self._ask(now)

    def _ask(self, now: int) -> list[tuple[NodeId, ChunkRequest]]:
        wanted = self.assembly.wanted if self.assembly is not None else None
        if self.assembly is None or wanted is None or self.source is None:
            self.deadline = NEVER
            return []
        self.deadline = now + PATIENCE
        self._asked[self.source] = None
        return [(self.source, ChunkRequest(self.assembly.meta.index, wanted))]

    def receive(self, sender: NodeId, chunk: Chunk, now: int) -> list[tuple[NodeId, ChunkRequest]]:
        """Take a piece in. Raises SnapshotError if it is not what was announced; the fetch is then given up."""
        # Where pieces are known by what a quorum has signed, one that was slow is as good as any: the core names another peer
        # every so often, and on a slow link that must not be the end of every piece.
        awaited = sender in self._asked if self._distrust else sender == self.source
        if self.assembly is None or not awaited or chunk.index != self.assembly.meta.index:
            sometimes("a piece comes of a snapshot that is not being fetched")
            return []
        if chunk.pieces == 0 and self._distrust:
            sometimes("a peer denies a snapshot that a quorum has")
            return []
        if chunk.pieces == 0:
            sometimes("a snapshot is gone while it is fetched")
            self.stop()  # gone over there; the leader will offer a newer one
            return []
        try:
            taken = self.assembly.offer(chunk.piece, chunk.data)
        except snapshot.SnapshotError:
            sometimes("a piece of a snapshot is not what was announced")
            if not self._distrust:
                self.stop()
            raise
        return self._ask(now) if taken else []

    def complete(self) -> snapshot.Assembly | None:
        """The snapshot, once every piece is there; it is then this caller's."""
        assembly = self.assembly
        if assembly is None or assembly.wanted is not None:
            return None
        return assembly

    def stop(self) -> None:
        """Give up, or be done with, the snapshot that is being fetched."""
        self.assembly = None
        self._asked.clear()
        self.deadline = NEVER

    def serve(self, peer: NodeId, request: ChunkRequest, now: int) -> Chunk | None:
        """The piece that a peer asks for; `pieces` 0 if there is no such snapshot (any more). None: it has had enough for now."""
        if self._distrust and self._had_enough(peer, now):
            return None
        chunk = self._piece(request)
        since, given = self._served.get(peer, (now, 0))
        self._served[peer] = (since, given + len(chunk.data) + 4096)
        return chunk

    def _had_enough(self, peer: NodeId, now: int) -> bool:
        since, given = self._served.get(peer, (now, 0))
        if now - since >= SERVED_EVERY or now < since:
            self._served[peer] = (now, 0)
            return False
        return given >= SERVED_BYTES

    def _piece(self, request: ChunkRequest) -> Chunk:
        gone = Chunk(request.index, request.piece, 0, b"")
        try:
            if self._sending is None or self._sending.meta.index != request.index:
                self._sending = snapshot.pieces(self._disk, request.index)
            data = self._sending[request.piece]
        except (FileNotFoundError, IndexError, snapshot.SnapshotError, DiskError):
            sometimes("a piece is asked for that is not here (any more)")
            self._sending = None
            return gone
        return Chunk(request.index, request.piece, len(self._sending), data)
