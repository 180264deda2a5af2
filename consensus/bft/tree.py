"""The blocks that this node has verified, with their batches, as a tree that grows from the newest one it may have to show to
others, and of which one path is committed.

T1  A block stands here only with its parent (but the root) and all its batches.
T2  What is committed is one path from the root; it only grows; nothing that contradicts it stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from consensus.bft.block import Block
from consensus.bft.timing import SafetyViolation

Batched = tuple[str, int, bytes]
"""(author, kind, payload)."""


class Placed:
    """A block in the tree. `ticket`: that of its record; it, and its batches before it, are durable once that is."""

    __slots__ = ("batches", "block", "certified", "parent", "ticket")

    def __init__(self, block: Block, parent: Placed | None, batches: Sequence[Batched], ticket: int) -> None:
        self.block = block
        self.parent = parent
        self.batches = batches
        self.ticket = ticket
        self.certified = False


class Tree:
    """See the module. `committed` is the last committed block."""

    def __init__(self, root: Block) -> None:
        self.restart(root)

    def restart(self, root: Block) -> Placed:
        """Forget everything, and grow from `root`, which is committed."""
        self.root = self.committed = Placed(root, None, (), 0)
        self.root.certified = True
        self._placed: dict[bytes, Placed] = {root.digest: self.root}
        self.open: dict[bytes, Placed] = {}
        """What is not committed, parents first."""
        self.last_index = root.index
        """The highest log index in any block that may yet be committed, or is."""
        return self.root

    def __len__(self) -> int:
        return len(self._placed)

    def get(self, digest: bytes) -> Placed | None:
        """The block of that name."""
        return self._placed.get(digest)

    def add(self, block: Block, parent: Placed, batches: Sequence[Batched], ticket: int) -> Placed:
        """Place a verified block."""
        placed = Placed(block, parent, batches, ticket)
        self._placed[block.digest] = self.open[block.digest] = placed
        if block.index > self.last_index:
            self.last_index = block.index
        return placed

    def above(self, digest: bytes) -> Iterator[Placed]:
        """The blocks that descend from this one, parents first."""
        inside = {digest}
        for placed in self._placed.values():
            if placed.parent is not None and placed.parent.block.digest in inside:
                inside.add(placed.block.digest)
                yield placed

    def path_above(self, low: Placed) -> list[Placed]:
        """The committed blocks above `low`, one of them, newest first."""
        found = []
        step: Placed | None = self.committed
        while step is not None and step is not low:
            found.append(step)
            step = step.parent
        return found

    def uncommitted(self, tip: Placed) -> list[Placed]:
        """`tip` and its ancestors above the last committed block, newest first. `tip` must be open, or that block."""
        found = []
        step: Placed | None = tip
        while step is not None and step is not self.committed:
            found.append(step)
            step = step.parent
        if step is None:
            raise SafetyViolation(f"the block of round {tip.block.round} contradicts what is committed")
        return found

    def commit(self, target: Placed) -> list[Placed]:
        """Commit a block and its ancestors: those newly committed, oldest first. What contradicts them goes."""
        path = self.uncommitted(target)[::-1]
        for placed in path:
            del self.open[placed.block.digest]
        self.committed = target
        alive: dict[bytes, Placed] = {}
        for digest, placed in self.open.items():
            parent = placed.parent
            if parent is target or (parent is not None and parent.block.digest in alive):
                alive[digest] = placed
            else:
                del self._placed[digest]
        self.open = alive
        self.last_index = max([target.block.index, *(placed.block.index for placed in alive.values())])
        return path

    def prune(self, root: Placed) -> None:
        """Forget what is below `root`, a committed block. (What is below it on other paths went with the commit.)"""
        step = root.parent
        while step is not None:
            del self._placed[step.block.digest]
            step = step.parent
        root.parent = None
        self.root = root
