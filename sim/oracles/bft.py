"""What a log with liars among its members promises, watched from the messages and the records of the honest ones. What a liar's
host says is held against nobody; that others may build on it is taken into account.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgpack

from consensus.bft.messages import Blocks, Certificates, CheckpointVote, Proposal, ReadReply, Timeout, Vote
from consensus.core import EntryKind, Record, entry_payload, entry_position
from sim.oracles.bft_reader import CHECKPOINT as CHECKPOINT_TYPE
from sim.oracles.bft_reader import Bad, Reader, SeenBlock
from sim.oracles.bft_reads import TrueAges
from sim.oracles.bft_rules import VoteRules
from sim.oracles.bft_words import DurableWords, Words
from sim.oracles.oracle import Oracle

if TYPE_CHECKING:
    from sim.virtual.host import Host
    from sim.virtual.world import World

_BLOCK: Final = 2
_SAFETY: Final = 3
_BUNDLE: Final = 3
_OPENING: Final = 4


class BftLog(Oracle):
    """Agreement: honest members have the same entry at an index. Validity: each command and each opening in the log was signed by
    a client, in these words and for this cluster."""

    name = "bft log"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._entries: list[bytes] = []
        self._first: list[str] = []

    def entered(self, host: Host, entry: bytes) -> None:
        if host.lied:
            return
        index, _, kind = entry_position(entry)
        known = len(self._entries)
        if index <= known:
            if self._entries[index - 1] != entry:
                other = self._first[index - 1]
                self.violated(
                    f"{host.name} takes another entry at index {index} than {other} did", host.name, other
                )
            return
        if index > known + 1:
            self.violated(f"{host.name} takes entry {index}; nobody ever had entry {known + 1}", host.name)
        self._entries.append(entry)
        self._first.append(host.name)
        if kind == EntryKind.BLOCK:
            self._signed(host, index, entry_payload(entry))
        elif kind not in (EntryKind.DIGEST, EntryKind.CHECKPOINT) or entry_payload(entry):
            self.violated(
                f"entry {index} is of kind {kind}, and no part of the chain asks for that", host.name
            )

    def _signed(self, host: Host, index: int, payload: bytes) -> None:
        for group in msgpack.unpackb(payload, raw=False):
            signature = group[-1]
            said = self.world.signed.get(signature) if type(signature) is bytes else None
            if group[0] == _BUNDLE:
                _, session, low, seqs, commands, key, _ = group
                fits = said == (key, session, low, tuple(seqs), tuple(commands))
            elif group[0] == _OPENING:
                fits = said == (group[1], group[2])
            else:
                fits = False
            if not fits:
                self.violated(f"no client has signed what stands in entry {index}: {group!r:.200}", host.name)

    def log(self) -> list[bytes]:
        """The committed entries, from index 1 on."""
        return list(self._entries)


class Chain(Oracle):
    """Every certificate that an honest member sends verifies from outside; no two blocks of a round are certified; and what is
    applied stands in a block below two certified ones of consecutive rounds."""

    name = "certified chain"
    listens: ClassVar[tuple[type, ...]] = (Proposal, Vote, Timeout, Blocks, Certificates, ReadReply)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._reader = Reader(world.names, world.plan.clients, world.may_lie)
        self._blocks: dict[bytes, SeenBlock] = {}
        self._children: dict[bytes, list[SeenBlock]] = {}
        self._votes: dict[tuple[int, bytes], dict[str, None]] = {}
        self._certified: dict[bytes, int] = {}
        self._of_round: dict[int, bytes] = {}
        self._final: dict[bytes, None] = {}
        self._at_height: dict[int, bytes] = {}
        self._round_at: dict[int, int] = {}
        """Index -> the round of its block, as the first honest member entered it."""

    # ----------------------------------------------------------------------------------------- what there is to see

    def said(self, host: Host, dest: str, message: Any) -> None:
        try:
            self._see(host.name, message, True)
        except Bad as error:
            self.violated(f"{host.name} sends {dest} a {type(message).__name__} in which {error}", host.name)

    def overheard(self, host: Host, dest: str, message: Any) -> None:
        try:
            self._see(host.name, message, False)
        except Exception:
            return  # whatever a liar sends

    def _see(self, name: str, message: Any, honest: bool) -> None:
        kind = type(message)
        reader = self._reader
        if kind is Vote:
            if reader.vote(name, message.round, message.block, message.signature):
                self._vote(name, message.round, message.block)
            elif honest:
                raise Bad("the signature is not its own")
        elif kind is Proposal:
            block = reader.block(message.block)
            self._qc(block.justify)
            if message.tc:
                reader.tc(message.tc)
            self._block(block)
        elif kind is Timeout:
            high, _ = self._qc(message.high_qc)
            if message.tc:
                reader.tc(message.tc)
            if honest and not reader.timeout(name, message.round, high, message.signature):
                raise Bad("the signature is not its own, or not under its certificate's round")
        elif kind is Blocks:
            for data in message.blocks:
                block = reader.block(data)
                self._qc(block.justify)
                self._block(block)
        elif kind is Certificates:
            if message.high_qc:
                self._qc(message.high_qc)
            if message.high_tc:
                reader.tc(message.high_tc)
            if message.checkpoint:
                reader.checkpoint(message.checkpoint)
        elif message.high_qc:
            self._qc(message.high_qc)

    def recorded(self, host: Host, records: Sequence[Record]) -> None:
        """A certificate that was made of votes before a power cut may never be sent; its node stands by it all the same."""
        if host.lied:
            return
        try:
            for kind, data in records:
                if kind == _BLOCK:
                    block = self._reader.block(data)
                    self._qc(block.justify)
                    self._block(block)
                elif kind == _SAFETY:
                    high_qc = msgpack.unpackb(data, raw=False)[5]
                    if high_qc:
                        self._qc(high_qc)
        except Bad as error:
            self.violated(f"{host.name} records {error}", host.name)

    def recovered(self, host: Host, records: Sequence[Record]) -> None:
        self.recorded(host, records)

    # ------------------------------------------------------------------------------------------------ the chain

    def _vote(self, name: str, round: int, block: bytes) -> None:
        voters = self._votes.setdefault((round, block), {})
        voters[name] = None
        if len(voters) >= self._reader.quorum:
            self._certify(round, block)

    def _qc(self, data: bytes) -> tuple[int, bytes]:
        round, block = self._reader.qc(data)
        self._certify(round, block)
        return round, block

    def _certify(self, round: int, block: bytes) -> None:
        if block in self._certified:
            return
        other = self._of_round.setdefault(round, block)
        if other != block:
            self.violated(
                f"two blocks of round {round} are certified: {other.hex()[:12]} and {block.hex()[:12]}"
            )
        self._certified[block] = round
        known = self._blocks.get(block)
        if known is not None:
            self._finalize(known)
        for child in self._children.get(block, ()):
            self._finalize(child)

    def _block(self, block: SeenBlock) -> None:
        if block.digest in self._blocks:
            return
        self._blocks[block.digest] = block
        self._children.setdefault(block.parent, []).append(block)
        self._finalize(block)
        for child in self._children.get(block.digest, ()):
            self._finalize(child)
            if child.digest in self._final:
                self._down_from(child)

    def _finalize(self, child: SeenBlock) -> None:
        """`child`, certified in the round behind its certified parent's, makes that final with all below it."""
        if child.digest not in self._certified or child.round != child.parent_round + 1:
            return
        parent = self._blocks.get(child.parent)
        if parent is not None and child.parent in self._certified:
            self._mark(parent)

    def _mark(self, block: SeenBlock) -> None:
        if block.digest not in self._final:
            self._final[block.digest] = None
            other = self._at_height.setdefault(block.height, block.digest)
            if other != block.digest:
                self.violated(
                    f"two blocks of height {block.height} are final: {other.hex()[:12]}, {block.digest.hex()[:12]}"
                )
            self._down_from(block)

    def _down_from(self, block: SeenBlock) -> None:
        below = self._blocks.get(block.parent)
        while below is not None and below.digest not in self._final:
            self._final[below.digest] = None
            other = self._at_height.setdefault(below.height, below.digest)
            if other != below.digest:
                self.violated(f"two blocks of height {below.height} are final")
            below = self._blocks.get(below.parent)

    def entered(self, host: Host, entry: bytes) -> None:
        if not host.lied:
            index, round, _ = entry_position(entry)
            self._round_at.setdefault(index, round)

    def applied(self, host: Host, index: int, chain: bytes) -> None:
        # Its own vote may leave in the same turn.
        self.world.timeline.after(0, self._due, (host, host.life, index))

    def _due(self, what: tuple[Host, int, int]) -> None:
        host, life, index = what
        round = self._round_at.get(index)
        if host.life != life or host.lied or round is None:
            return
        block = self._of_round.get(round)
        if block is None:
            self.violated(
                f"{host.name} applies entry {index} of round {round}, of which nothing is certified",
                host.name,
            )
        if block not in self._final:
            self.violated(
                f"{host.name} applies entry {index} of round {round}; no two certified blocks of consecutive rounds stand on it",
                host.name,
            )


class Checkpoints(Oracle):
    """Honest members sign one state at a checkpoint, and the same."""

    name = "checkpoints"
    listens: ClassVar[tuple[type, ...]] = (CheckpointVote,)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._reader = Reader(world.names, world.plan.clients, world.may_lie)
        self._said: dict[int, tuple[bytes, str]] = {}

    def said(self, host: Host, dest: str, message: Any) -> None:
        if host.name in self.world.harmed:
            return
        body = message.checkpoint
        if not self._reader.signed(host.name, CHECKPOINT_TYPE, sha256(body).digest(), message.signature):
            self.violated(f"{host.name}'s checkpoint does not verify", host.name)
        index = msgpack.unpackb(body, raw=False)[3]
        known, other = self._said.setdefault(index, (body, host.name))
        if known != body:
            self.violated(f"{host.name} signs another state at index {index} than {other}", host.name, other)


class Blame(Oracle):
    """Evidence of equivocation names only those that lied; and where nobody ever lied, honest members refuse nothing that others
    send them."""

    name = "blame"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._calls = 0

    def applied(self, host: Host, index: int, chain: bytes) -> None:
        self._calls += 1
        if self._calls % 64 == 0:
            self._look(host)

    def finished(self) -> None:
        for host in self.world.hosts.values():
            if not host.lied:
                self._look(host)

    def _look(self, host: Host) -> None:
        if host.replica is None:
            return
        facts = host.replica.core.observe().facts
        for item in facts.get("evidence", ()):
            if item["node"] not in self.world.liars:
                self.violated(
                    f"{host.name} blames {item['node']}, who never lied: {item['kind']} of round {item['round']}",
                    host.name, item["node"],
                )  # fmt: skip
        if not self.world.liars and facts.get("rejected"):
            self.violated(f"{host.name} refuses what honest members say: {facts['rejected']}", host.name)


BFT_ORACLES: Final[tuple[type[Oracle], ...]] = (
    BftLog,
    Words,
    DurableWords,
    VoteRules,
    TrueAges,
    Chain,
    Checkpoints,
    Blame,
)
"""All of them."""
