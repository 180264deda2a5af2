"""Snapshots of a replica: its own, those that it fetches from a leader, and the journal segments and files they replace.

At most one is being written at a time. The order that keeps every crash point safe: a snapshot is durable before the core
hears of it, before a journal segment counts from it, and before older snapshots are removed; so whatever segment survives
a power cut, a snapshot that reaches at least as far as its base survives too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from consensus.core import NEVER, NodeId, SnapshotMeta
from consensus.marks import sometimes
from node import snapshot
from node.disk import SNAPSHOT, Disk, Job, Op
from node.effects import Effects
from node.protocol import Chunk, ChunkRequest
from node.segment import Identity
from node.state import ReplicatedState
from node.transfer import Transfer


@dataclass(slots=True)
class Written:
    """A snapshot that is durable now. `chunks`: to restore from, if it was fetched; None if it was this node's own."""

    meta: SnapshotMeta
    chunks: list[bytes] | None


class Compaction:
    """Makes the jobs of the snapshot lane. The replica asks, and does what follows for core and state."""

    def __init__(self, identity: Identity, disk: Disk, index: int, distrust: bool = False) -> None:
        """`index`: of the newest snapshot on `disk`, 0 if there is none. `distrust`: peers may lie (`Transfer`)."""
        self.index = index
        """Index of the newest durable snapshot."""
        self.rotate = False
        """Whether the journal is due for a segment that counts from the newest snapshot."""
        self.deadline = NEVER
        """When `timeout` is due."""
        self._identity = identity
        self._disk = disk
        self._transfer = Transfer(disk, identity, distrust)
        self._number = 0
        self._writing: tuple[int, Written] | None = None
        self._marked: tuple[Written, list[Op]] | None = None  # a mark's snapshot that waits for its turn

    @property
    def busy(self) -> bool:
        """Whether a snapshot is being written."""
        return self._writing is not None

    def take(self, state: ReplicatedState, members: Sequence[NodeId], effects: Effects) -> None:
        """Write a snapshot of the state as it is. Nothing happens while one is being written, while the journal has not been
        rotated behind the newest one (its size is then about to fall), or without anything new to write."""
        if self.busy or self.rotate or state.applied_index <= self.index:
            return
        self._write(*self._picture(state, members), effects)

    def take_marked(self, state: ReplicatedState, members: Sequence[NodeId], effects: Effects) -> None:
        """Write a snapshot of exactly this state, because the log asks everybody for it here. While another one is being written
        it waits; of those that wait only the newest is of use."""
        picture = self._picture(state, members)
        if not self.busy:
            self._write(*picture, effects)
            return
        if self._marked is not None:
            sometimes("a snapshot that the log asked for gives way to the next before it is written")
        self._marked = picture

    def _picture(self, state: ReplicatedState, members: Sequence[NodeId]) -> tuple[Written, list[Op]]:
        chunks = state.snapshot()
        manifest = snapshot.make_manifest(
            self._identity, state.applied_index, state.applied_term, state.chain, sorted(members), chunks
        )
        return Written(manifest.meta, None), snapshot.write_ops(manifest, chunks)

    def _write(self, written: Written, ops: list[Op], effects: Effects) -> None:
        self._writing = (self._job(ops, effects), written)

    def _job(self, ops: list[Op], effects: Effects) -> int:
        self._number += 1
        effects.jobs.append(Job(SNAPSHOT, self._number, ops))
        return self._number

    # -------------------------------------------------------------------------------------- fetching and serving

    def offered(self, peer: NodeId, meta: SnapshotMeta, now: int, effects: Effects) -> None:
        """A leader says that this node needs the snapshot `meta`. It says so with every heartbeat."""
        if self.busy:
            sometimes("a snapshot is offered while one is being written")
            return
        self._ask(self._transfer.fetch(peer, meta, now), effects)

    def _ask(self, requests: list[tuple[NodeId, ChunkRequest]], effects: Effects) -> None:
        effects.bulk += requests
        self.deadline = self._transfer.deadline

    def receive(self, sender: NodeId, chunk: Chunk, now: int, effects: Effects) -> None:
        """A piece has come. Raises SnapshotError if it is not what was announced."""
        try:
            effects.bulk += self._transfer.receive(sender, chunk, now)
        finally:
            self.deadline = self._transfer.deadline  # a bad piece ends the fetch

    def timeout(self, now: int, effects: Effects) -> None:
        """Ask again for a piece that did not come."""
        self._ask(self._transfer.timeout(now), effects)

    def serve(self, peer: NodeId, request: ChunkRequest, now: int) -> Chunk | None:
        """The piece that a peer asks for; None if it has had enough for now."""
        return self._transfer.serve(peer, request, now)

    def install(self, reached: int, effects: Effects) -> None:
        """Write down a snapshot that has come completely; the replica restores from it once it is durable. `reached`: the last
        entry that the log has delivered; a snapshot that reaches no further is of no use any more."""
        assembly = self._transfer.complete()
        if assembly is None or self.busy:
            return
        self._transfer.stop()
        self.deadline = self._transfer.deadline
        if assembly.meta.index <= reached:
            sometimes("a fetched snapshot is thrown away: the log has come further")
            return
        ops = snapshot.write_ops(assembly.manifest, assembly.chunks)
        self._write(Written(assembly.meta, assembly.chunks), ops, effects)

    # ---------------------------------------------------------------------------------------------- being done

    def done(self, number: int) -> Written | None:
        """Job `number` is done: the snapshot that it wrote, if it was one. `settle` follows."""
        if self._writing is None or self._writing[0] != number:
            return None
        written = self._writing[1]
        self._writing = None
        return written

    def settle(self, meta: SnapshotMeta, vouched: int, effects: Effects) -> None:
        """`meta` is durable and the core knows: have the journal rotated, and older files removed. `vouched`: see `CoreView`."""
        # The one before is kept: a peer may be fetching it. And the one that a quorum has signed, however many this node has
        # taken since: while the signatures of newer ones are missing, nobody who is behind has another way to come back, and
        # perhaps it is just their signature that is missing.
        older, self.index = self.index, meta.index
        self.rotate = True
        effects.events.append(("snapshot", {"index": meta.index, "bytes": meta.size}))
        ops = snapshot.clean_ops(self._disk.names(), {meta.index, older, vouched})
        if ops:
            self._job(ops, effects)
        if self._marked is not None:
            marked, self._marked = self._marked, None
            if marked[0].meta.index > meta.index:
                sometimes("a snapshot that the log asked for is written behind another")
                self._write(*marked, effects)
