"""The rules by which honest members vote and give rounds up, read off their signed messages alone: a mistake shows in the first
message that it makes possible, long before enough of them come together for two members to disagree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgpack

from consensus.bft.messages import Proposal, Timeout, Vote
from sim.oracles.bft_reader import Bad, Reader, SeenBlock
from sim.oracles.oracle import Oracle

if TYPE_CHECKING:
    from sim.virtual.host import Host
    from sim.virtual.world import World

_MARK: Final = 9
_SCHEDULE: Final = 12
"""Places of these fields in an encoded block."""


class VoteRules(Oracle):
    """A vote is for a block that follows from its parent, by whoever leads its round; whose parent is certified in the round
    before, or at least as high as a quorum that gave that round up has signed. A timeout names a certificate no lower than
    that of any block below one that its signer has voted for. (Jolteon, section 3.)"""

    name = "vote rules"
    listens: ClassVar[tuple[type, ...]] = (Proposal, Vote, Timeout)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._reader = Reader(world.names, world.plan.clients, world.may_lie)
        self._blocks: dict[bytes, SeenBlock] = {}
        self._fields: dict[bytes, tuple[int, list[int]]] = {}
        """Digest -> (mark, schedule)."""
        self._excused: dict[bytes, None] = {}
        """Blocks that came with the certificate of a round given up that lets them have an older parent."""
        self._voted: dict[tuple[str, int], None] = {}
        self._given_up: dict[tuple[str, int], None] = {}
        self._knows: dict[str, int] = {}
        """The highest round of a certificate that each member shows, by its votes, to have known."""

    def said(self, host: Host, dest: str, message: Any) -> None:
        kind, name = type(message), host.name
        if kind is Proposal:
            self._proposed(message)
        elif kind is Vote:
            if (name, message.round) not in self._voted:
                self._voted[name, message.round] = None
                self._vote(name, message)
        elif (name, message.round) not in self._given_up:
            self._given_up[name, message.round] = None
            self._timeout(name, message)

    def overheard(self, host: Host, dest: str, message: Any) -> None:
        if type(message) is Proposal:
            try:
                self._proposed(message)
            except Exception:
                return  # whatever a liar sends

    def formatted(self, host: Host) -> None:
        self._knows[host.name] = 0

    def _proposed(self, message: Proposal) -> None:
        try:
            block = self._reader.block(message.block)
            if block.digest not in self._blocks:
                value = msgpack.unpackb(message.block, raw=False)
                self._fields[block.digest] = value[_MARK], value[_SCHEDULE]
                self._blocks[block.digest] = block
            if (
                message.tc
                and block.digest not in self._excused
                and self._reader.tc(message.tc) == block.round - 1
            ):
                _, rows, _ = msgpack.unpackb(message.tc, raw=False)
                if block.parent_round >= max(high for _, high, _ in rows):
                    self._excused[block.digest] = None
        except Bad:
            return  # another oracle holds that against whoever said it

    def _vote(self, name: str, vote: Vote) -> None:
        block = self._blocks.get(vote.block)
        if block is None:
            return
        what = f"{name} votes in round {block.round}"
        if block.parent_round + 1 != block.round and block.digest not in self._excused:
            self.violated(
                f"{what} for a block whose parent is of round {block.parent_round}, and nobody shows a quorum that gave the "
                f"round before up without knowing a higher one",
                name,
            )
        self._knows[name] = max(self._knows.get(name, 0), block.parent_round)
        parent = self._blocks.get(block.parent)
        if parent is not None:
            self._follows(what, name, block, parent)

    def _follows(self, what: str, name: str, block: SeenBlock, parent: SeenBlock) -> None:
        mark, _ = self._fields[block.digest]
        index = parent.index + len(block.payload) + (1 if mark else 0)
        if (block.height, block.index) != (parent.height + 1, index):
            self.violated(
                f"{what} for a block of height {block.height} that ends at entry {block.index}; its parent says "
                f"{parent.height + 1} and {index}",
                name,
            )
        _, schedule = self._fields[parent.digest]
        leader = self._reader.members[schedule[block.round % len(schedule)]]
        if block.author != leader:
            self.violated(f"{what} for a block of {block.author}; {leader} leads it", name, block.author)

    def _timeout(self, name: str, message: Timeout) -> None:
        try:
            high, _ = self._reader.qc(message.high_qc)
        except Bad:
            return
        known = self._knows.get(name, 0)
        if high < known:
            self.violated(
                f"{name} gives round {message.round} up with a certificate of round {high}, and has voted on top of one of "
                f"round {known}",
                name,
            )
