"""What an honest member has said it stands by, whatever befalls it: one vote and one proposal a round, no vote in a round that it
has given up, not even across power cuts; and nothing is said before a disk holds it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgpack

from consensus.bft.messages import Proposal, Timeout, Vote
from consensus.core import Record, entry_position
from sim.oracles.bft_reader import Bad, Reader
from sim.oracles.oracle import Oracle

if TYPE_CHECKING:
    from sim.virtual.host import Host
    from sim.virtual.world import World

_BATCH: Final = 1
_BLOCK: Final = 2
_SAFETY: Final = 3
_BASE: Final = 4
VOTED: Final = 0
PREFERRED: Final = 1
GIVEN_UP: Final = 2
PROPOSED: Final = 3
_NAMES: Final = ("voted", "preferred", "given up", "proposed")


class Words(Oracle):
    """From the signed messages alone: identical ones may be said again, at any time."""

    name = "one word a round"
    listens: ClassVar[tuple[type, ...]] = (Vote, Timeout, Proposal)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._reader = Reader(world.names, world.plan.clients, world.may_lie)
        self._votes: dict[tuple[str, int], bytes] = {}
        self._timeouts: dict[tuple[str, int], bytes] = {}
        self._proposals: dict[tuple[str, int], bytes] = {}

    def said(self, host: Host, dest: str, message: Any) -> None:
        name, kind = host.name, type(message)
        if kind is Vote:
            known = self._votes.setdefault((name, message.round), message.block)
            if known != message.block:
                self.violated(
                    f"{name} votes twice in round {message.round}: {known.hex()[:12]}, now {message.block.hex()[:12]}",
                    name,
                )
        elif kind is Timeout:
            known = self._timeouts.setdefault((name, message.round), message.signature)
            if known != message.signature:
                self.violated(
                    f"{name} gives round {message.round} up twice, with different certificates", name
                )
        else:
            try:
                block = self._reader.block(message.block)
            except Bad as error:
                self.violated(f"{name} proposes {error}", name)
            if (name, block.round) not in self._proposals:
                self.world.count("leaders")  # each proposal is a turn taken
            known = self._proposals.setdefault((name, block.round), block.digest)
            if known != block.digest:
                self.violated(f"{name} proposes two blocks in round {block.round}", name)
            if block.author != name or not self._reader.proposal(
                name, block.round, block.digest, message.signature
            ):
                self.violated(f"{name} proposes a block of {block.author}, or does not sign it", name)


@dataclass(slots=True)
class _Kept:
    """What a disk holds, or is to hold. `rounds`: voted, preferred, given up, proposed."""

    rounds: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    vote: bytes = b""
    base_round: int = 0
    blocks: dict[bytes, tuple[bytes, ...]] = field(default_factory=dict)
    block_rounds: dict[int, None] = field(default_factory=dict)
    batches: dict[bytes, None] = field(default_factory=dict)


class DurableWords(Oracle):
    """Durability before speech (rules 1 and 2 of the contract), and no vote at or below a round that was given up, by the order
    in which the records were made. What is applied is on this node's own disk (rule 3). What comes back after a power cut
    stands by everything that was said."""

    name = "words on disk"
    listens: ClassVar[tuple[type, ...]] = (Vote, Timeout, Proposal)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._reader = Reader(world.names, world.plan.clients, world.may_lie)
        self._wanted: dict[str, _Kept] = {}
        self._durable: dict[str, _Kept] = {}
        self._unwritten: dict[str, list[Record]] = {}
        self._waiting: dict[str, deque[tuple[int, list[Record]]]] = {}
        self._said: dict[str, list[int]] = {}
        """The highest rounds of what each node has said: voted, (nothing), given up, proposed."""
        self._first: dict[tuple[str, int], None] = {}

    def formatted(self, host: Host) -> None:
        self._wanted[host.name], self._durable[host.name] = _Kept(), _Kept()
        self._unwritten[host.name], self._waiting[host.name] = [], deque()
        self._said.setdefault(host.name, [0, 0, 0, 0])

    def recorded(self, host: Host, records: Sequence[Record]) -> None:
        if host.lied:
            return
        self._read(self._wanted[host.name], records, host.name, True)
        self._unwritten[host.name] += records

    def written(self, host: Host, job: int) -> None:
        records = self._unwritten[host.name]
        if records:
            self._waiting[host.name].append((job, records))
            self._unwritten[host.name] = []

    def synced(self, host: Host, job: int) -> None:
        waiting = self._waiting[host.name]
        while waiting and waiting[0][0] <= job:
            self._read(self._durable[host.name], waiting.popleft()[1], host.name, False)

    def went_down(self, host: Host) -> None:
        self._unwritten[host.name] = []
        self._waiting[host.name].clear()

    def recovered(self, host: Host, records: Sequence[Record]) -> None:
        if host.lied:
            return
        name = host.name
        found, again = _Kept(), _Kept()
        self._read(found, records, name, False)
        self._read(again, records, name, False)
        for place, (back, said) in enumerate(zip(found.rounds, self._said[name], strict=True)):
            if back < said:
                self.violated(
                    f"{name} had {_NAMES[place]} in round {said} for all to hear and comes back with {back}",
                    name,
                )
        self._wanted[name], self._durable[name] = found, again

    def _read(self, kept: _Kept, records: Sequence[Record], name: str, judge: bool) -> None:
        for kind, data in records:
            if kind == _SAFETY:
                value = msgpack.unpackb(data, raw=False)
                rounds, vote = value[1], value[2]
                if judge:
                    self._judge(kept, rounds, vote, name)
                kept.rounds, kept.vote = rounds, vote
            elif kind == _BLOCK:
                block = self._reader.block(data)
                kept.blocks[block.digest] = block.payload
                kept.block_rounds[block.round] = None
            elif kind == _BATCH:
                batch, end = data[0], 2 + data[1]
                kept.batches[sha256(b"ridethrough/bft/1/batch" + bytes((batch,)) + data[end:]).digest()] = (
                    None
                )
            elif kind == _BASE:
                kept.base_round = max(kept.base_round, self._reader.block(data).round)

    def _judge(self, kept: _Kept, rounds: list[int], vote: bytes, name: str) -> None:
        for place, (before, now) in enumerate(zip(kept.rounds, rounds, strict=True)):
            if now < before:
                self.violated(f"{name}'s last round {_NAMES[place]} goes back from {before} to {now}", name)
        if rounds[VOTED] > kept.rounds[VOTED] and rounds[VOTED] <= kept.rounds[GIVEN_UP]:
            self.violated(
                f"{name} votes in round {rounds[VOTED]} after it gave round {kept.rounds[GIVEN_UP]} up", name
            )
        if rounds[VOTED] == kept.rounds[VOTED] and kept.vote and vote != kept.vote:
            self.violated(f"{name} changes its vote of round {rounds[VOTED]}", name)

    def said(self, host: Host, dest: str, message: Any) -> None:
        name, kind = host.name, type(message)
        disk = self._durable[name]
        if kind is Vote:
            place, round = VOTED, message.round
        elif kind is Timeout:
            place, round = GIVEN_UP, message.round
        else:
            place, round = PROPOSED, self._reader.block(message.block).round
        if disk.rounds[place] < round:
            self.violated(
                f"{name} tells {dest} that it has {_NAMES[place]} in round {round}; its disk knows {disk.rounds[place]}",
                name,
            )
        self._said[name][place] = max(self._said[name][place], round)
        if kind is Vote and (name, round) not in self._first:
            self._first[name, round] = None
            if round > disk.base_round:
                self._held(name, message, disk)

    def entered(self, host: Host, entry: bytes) -> None:
        disk = self._durable[host.name]
        index, round, _ = entry_position(entry)
        if not host.lied and round > disk.base_round and round not in disk.block_rounds:
            self.violated(
                f"{host.name} applies entry {index}; its disk holds no block of round {round}", host.name
            )

    def _held(self, name: str, vote: Vote, disk: _Kept) -> None:
        payload = disk.blocks.get(vote.block)
        if payload is None:
            self.violated(f"{name} votes for a block of round {vote.round} that is not on its disk", name)
        missing = [digest for digest in payload if digest not in disk.batches]
        if missing:
            self.violated(
                f"{name} votes in round {vote.round} for payload that is not on its disk: {missing[0].hex()[:12]}",
                name,
            )
