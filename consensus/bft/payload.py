"""Batches: the payload of log entries, apart from the blocks that order it (dissemination apart from ordering, as in Narwhal and
Autobahn). Whoever votes for a block holds its batches.

A batch that a member sent of its own accord waits in that member's queue, whose bytes are bounded: what a liar sends takes no
place from anybody else. The same batch may stand in several queues, one for each member that sent it, so that a liar who
repeats another's batch cannot hide it behind its own.

A batch that was asked for, because a block names it, is lent. It is taken whatever the bounds say, or a liar that sends everybody
something else could keep honest blocks from ever being voted for. It is charged to nobody, proposed by nobody, and goes when no
block names it any more. How many blocks there are to name batches, and how many bytes they may name, the core bounds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from consensus.bft.block import batch_digest
from consensus.bft.committee import Committee
from consensus.core import NodeId
from consensus.marks import sometimes

OVERHEAD: Final = 256
"""Bytes that a waiting batch counts for beyond its payload, so that empty ones cannot fill the memory."""
MOST_REMEMBERED: Final = 1 << 15
"""Digests of ordered batches that are remembered when their bytes are gone."""
MOST_AGAIN: Final = 1 << 20
"""Payload bytes of own batches that are sent again at a time (one may be longer)."""
_MOST_DOUBLINGS: Final = 5


@dataclass(slots=True)
class _Held:
    author: NodeId
    kind: int
    payload: bytes
    index: int = 0
    """Log index up to which its bytes are needed, once it is ordered; 0 before."""
    places: int = 0
    """Queues in which it stands."""
    sent: int = 0
    again: int = 0
    """Times an own batch was sent again."""


class Payloads:
    """Batches held at one node. `author_bytes`: bound of one member's queue, in bytes with OVERHEAD; a batch always fits an empty
    queue. Times are microseconds."""

    def __init__(self, committee: Committee, node: NodeId, author_bytes: int) -> None:
        self._node = node
        self._bound = author_bytes
        self._numbers = {member: number for number, member in enumerate(committee.members)}
        self._held: dict[bytes, _Held] = {}
        self._queues: dict[NodeId, dict[bytes, None]] = {member: {} for member in committee.members}
        self._charged: dict[NodeId, int] = dict.fromkeys(committee.members, 0)
        self._served: dict[NodeId, int] = dict.fromkeys(committee.members, 0)
        """Index up to which the log had come when a batch of that member was last ordered."""
        self._lent: dict[bytes, None] = {}
        self._ordered: dict[bytes, None] = {}
        """Held and ordered, in the order of their indexes."""
        self._lately: dict[bytes, None] = {}

    @property
    def waiting(self) -> bool:
        """Whether a member has sent a batch that is in no committed block."""
        return any(self._queues.values())

    def charged(self, author: NodeId) -> int:
        """What counts against that member's bound."""
        return self._charged[author]

    def full(self, author: NodeId, size: int) -> bool:
        """Whether a batch of `size` payload bytes would be refused as one too many of that member; also if it is none."""
        charged = self._charged.get(author)
        return charged is None or 0 < charged > self._bound - size - OVERHEAD

    def known(self, digest: bytes) -> bool:
        """Whether the batch is here or was ordered lately."""
        return digest in self._held or digest in self._lately

    def get(self, digest: bytes) -> tuple[NodeId, int, bytes] | None:
        """(author, kind, payload) of a batch that is here."""
        held = self._held.get(digest)
        return None if held is None else (held.author, held.kind, held.payload)

    def size(self, digest: bytes) -> int:
        """Payload bytes of a batch that is here. Raises KeyError for another."""
        return len(self._held[digest].payload)

    def is_ordered(self, digest: bytes) -> bool:
        """Whether the batch is here and stands in a committed block: the journal need not have it any more."""
        held = self._held.get(digest)
        return held is not None and held.index > 0

    def missing(self, digests: Sequence[bytes]) -> list[bytes]:
        """Those that are not here."""
        held = self._held
        return [digest for digest in digests if digest not in held]

    def held(self) -> Iterator[tuple[bytes, NodeId, int, bytes]]:
        """(digest, author, kind, payload) of all that is here, first come first: what must be durable."""
        for digest, held in self._held.items():
            yield digest, held.author, held.kind, held.payload

    def add(
        self,
        author: NodeId,
        kind: int,
        payload: bytes,
        now: int,
        *,
        asked: bool = False,
        digest: bytes | None = None,
    ) -> bytes | None:
        """Take a batch; its digest if it is new here and so to be recorded. None: it is here already, was ordered lately, comes
        from no member, or its author's queue is full.

        `author` is charged, so it must be who the batch came from; where the batch was `asked` for because a block names it, it
        is only a label. `digest`: the batch's, where the caller has it. What is here already may come again from another member:
        that gives it a place in that member's queue, and costs nothing."""
        if author not in self._numbers:
            return None
        if digest is None:
            digest = batch_digest(kind, payload)
        held = self._held.get(digest)
        if held is not None:
            if not asked and not held.index:
                self._enqueue(author, digest, held)
            return None
        if asked:
            held = self._held[digest] = _Held(author, kind, payload)
            self._lent[digest] = None
            return digest
        if digest in self._lately:
            sometimes("a copy of a batch comes after it was ordered")
            return None
        if self.full(author, len(payload)):
            sometimes("a batch is dropped because its author has too many waiting")
            return None
        held = _Held(author, kind, payload, sent=now)
        self._enqueue(author, digest, held)
        self._held[digest] = held
        return digest

    def restore(self, author: NodeId, kind: int, payload: bytes, now: int) -> bytes:
        """Take a batch from this node's own journal, whatever the bounds; its digest. Beyond the bounds it is lent, and stays if
        a block names it (`keep_lent`)."""
        digest = batch_digest(kind, payload)
        if digest in self._held:
            return digest
        asked = digest in self._lately or self.full(author, len(payload))
        if author not in self._numbers:
            author, asked = self._node, True
        self.add(author, kind, payload, now, asked=asked, digest=digest)
        return digest

    def pick(self, limit: int, most: int, used: Collection[bytes]) -> list[tuple[bytes, int]]:
        """(digest, payload bytes) of batches for a block of at most `limit` payload bytes (one alone may have more) and `most`
        batches, none of which is among `used`, the batches of the blocks below it that are not committed.

        Members take turns, one batch each, in each queue the oldest first. The first turn has whoever was served longest ago, by
        the log's account, which all replicas share. So the head of a queue is in one of the next n blocks of leaders that hold
        it, as long as blocks are committed within n."""
        line: list[tuple[int, int, int, NodeId]] = []
        for author, queue in self._queues.items():
            if queue:
                under_way = sum(digest in queue for digest in used)
                line.append((under_way, self._served[author], self._numbers[author], author))
        turns = [(author, iter(self._queues[author])) for *_, author in sorted(line)]
        picked: dict[bytes, int] = {}
        room = limit
        while turns and len(picked) < most:
            left: list[tuple[NodeId, Iterator[bytes]]] = []
            for author, rest in turns:
                if len(picked) >= most:
                    break
                found = next((digest for digest in rest if digest not in used and digest not in picked), None)
                if found is None:
                    continue
                size = len(self._held[found].payload)
                if picked and size > room:
                    # Its queue ends here for this block: a later, smaller one must not overtake it.
                    continue
                picked[found] = size
                room -= size
                left.append((author, rest))
            turns = left
        return list(picked.items())

    def ordered(self, digests: Sequence[bytes], index: int, now: int) -> None:
        """A block with these batches is committed, and the log has come to `index` with it: they wait no longer, and are needed
        until `forget(index)`."""
        for digest in digests:
            self._lately.pop(digest, None)
            self._lately[digest] = None
            held = self._held.get(digest)
            if held is None:
                continue
            held.index = index
            self._ordered.pop(digest, None)
            self._ordered[digest] = None
            self._lent.pop(digest, None)
            if held.places:
                self._unqueue(digest, held, index)
        while len(self._lately) > MOST_REMEMBERED:
            del self._lately[next(iter(self._lately))]

    def forget(self, index: int) -> None:
        """Drop the bytes of what was ordered at or below `index`."""
        gone: list[bytes] = []
        for digest in self._ordered:
            if self._held[digest].index > index:
                break
            gone.append(digest)
        for digest in gone:
            del self._ordered[digest]
            del self._held[digest]

    def keep_lent(self, named: Collection[bytes]) -> None:
        """Drop lent batches that are not among `named`, the batches of blocks that may yet be committed or that this node has
        voted for."""
        for digest in [digest for digest in self._lent if digest not in named]:
            sometimes("a batch that was fetched for a block goes with it")
            del self._lent[digest]
            del self._held[digest]

    def stop_waiting(self) -> None:
        """Nothing waits any more: the log has come further by blocks that were never here, and which of these they ordered nobody
        can tell. What is still named by a block stays, lent (`keep_lent`); clients ask again for what was lost."""
        for digest, held in self._held.items():
            if held.places:
                sometimes("a batch waits no more: a state is installed that may hold it already")
                self._unqueue(digest, held, None)
                self._lent[digest] = None

    def stale_own(self, now: int, after: int) -> list[tuple[NodeId, int, bytes]]:
        """(author, kind, payload) of own batches that have waited for `after` since they were sent. They are to be sent again,
        each after twice as long a wait as before, the oldest first, and about MOST_AGAIN bytes at a time."""
        found: list[tuple[NodeId, int, bytes]] = []
        room = MOST_AGAIN
        for digest in self._queues[self._node]:
            held = self._held[digest]
            if now < held.sent + (after << held.again):
                continue
            size = len(held.payload)
            if found and size > room:
                break
            room -= size
            held.sent = now
            held.again = min(held.again + 1, _MOST_DOUBLINGS)
            # Whoever else sent it first, this node answers for it now.
            found.append((self._node, held.kind, held.payload))
        return found

    def _enqueue(self, author: NodeId, digest: bytes, held: _Held) -> None:
        queue = self._queues[author]
        if digest in queue or self.full(author, len(held.payload)):
            return
        if held.places:
            sometimes("two members send the same batch")
        queue[digest] = None
        held.places += 1
        self._charged[author] += len(held.payload) + OVERHEAD
        self._lent.pop(digest, None)

    def _unqueue(self, digest: bytes, held: _Held, index: int | None) -> None:
        cost = len(held.payload) + OVERHEAD
        # Whoever sent it has been served, not only who sent it first: that differs between replicas, and a liar can see to it.
        for author, queue in self._queues.items():
            if digest in queue:
                del queue[digest]
                self._charged[author] -= cost
                if index is not None:
                    self._served[author] = index
        held.places = 0
