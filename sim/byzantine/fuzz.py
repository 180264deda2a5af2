"""The liar of ByzzFuzz: changes what its node was about to say, in a few rounds, to some, and signs it again.

A change of small scope keeps close to what an honest program could say: a round more or less, another value that stands for
something, nothing at all. One of any scope puts anything in the place of a field. What only others can sign stays as it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from consensus.bft.block import Block, decode_block, make_block
from consensus.bft.chain import extend
from consensus.bft.messages import Batch, Blocks, Certificates, Proposal, ReadReply, Timeout, Vote
from consensus.bft.signing import timeout_statement, vote_statement
from consensus.core import NodeId
from sim.byzantine import forging
from sim.byzantine.strategy import Own, Send, Strategy

SMALL, ANY = "small", "any"
SCOPES: Final = (SMALL, ANY)


@dataclass(slots=True, frozen=True)
class Lie:
    """In `round`, what goes to these nodes is changed, in ways that `seed` chooses."""

    round: int
    receivers: tuple[NodeId, ...]
    seed: int


class Fuzz(Strategy):
    """The liar. `round`: as far as its own node has said that it is."""

    name = "byzzfuzz"
    title = "changes what it says in a few rounds, to some"

    def __init__(self, own: Own, scope: str, lies: Sequence[Lie]) -> None:
        super().__init__(own)
        self._scope = scope
        self._lies = [(lie, random.Random(lie.seed)) for lie in lies]
        self._changed: dict[int, tuple[Any, Any]] = {}
        self._told: dict[int, bytes] = {}
        """Round -> the block that it proposed in place of its node's."""
        self.round = 1

    def outgoing(self, dest: str, message: Any, now: int) -> list[Send]:
        """Changed, where the case says so; every receiver of a message is told the same lie."""
        kind = type(message)
        if kind is Vote or kind is Timeout:
            self.round = max(self.round, message.round)
        elif kind is Proposal:
            self.round = max(self.round, decode_block(message.block).round)
        for place, (lie, rng) in enumerate(self._lies):
            if lie.round == self.round and dest in lie.receivers:
                original, changed = self._changed.get(place, (None, None))
                if original is not message:
                    changed = self._change(message, rng)
                    self._changed[place] = (message, changed)
                return [] if changed is None else [(dest, changed)]
        return [(dest, message)]

    def _change(self, message: Any, rng: random.Random) -> Any:
        if type(message) is Vote and message.round in self._told and rng.random() < 0.6:
            # Without its own vote a lie seldom finds a quorum.
            return forging.vote(self.own, message.round, self._told[message.round])
        if self._scope == ANY and rng.random() < 0.7:
            return self._anything(message, rng)
        changes = _SMALL.get(type(message))
        if changes is None or rng.random() < 0.2:
            return None
        return rng.choice(changes)(self, message, rng)

    # --------------------------------------------------------------------------------------------------- small scope

    def _sign(self, block: Block, tc: bytes) -> Proposal:
        self._told[self.round] = block.digest
        return forging.proposal(self.own, block, tc)

    def other_round(self, message: Any, rng: random.Random) -> Any:
        """A round more or less, everything else as it was."""
        step = rng.choice((-1, 1))
        if type(message) is Vote:
            return forging.vote(self.own, max(0, message.round + step), message.block)
        if type(message) is Timeout:
            return forging.timeout(self.own, max(0, message.round + step), message.high_qc, message.tc)
        block = decode_block(message.block)
        return self._sign(_with(block, round=max(0, block.round + step)), message.tc)

    def other_payload(self, message: Proposal, rng: random.Random) -> Any:
        """Another batch, the same ones in another order, or none; with all that follows from it, where that can be known."""
        block = decode_block(message.block)
        digests = [digest for digest in self.known.batches if digest not in block.payload]
        chosen = rng.choice(((), block.payload[::-1], tuple(rng.sample(digests, min(1, len(digests))))))
        parent = self.known.parent(block)
        known = all(digest in self.known.batches for digest in chosen)
        if parent is None or not known or rng.random() < 0.2:
            return self._sign(_with(block, payload=chosen), message.tc)
        return self._sign(self._child(parent, block.justify, block.round, chosen), message.tc)

    def other_parent(self, message: Proposal, rng: random.Random) -> Any:
        """On top of an older block that is certified, too."""
        block = decode_block(message.block)
        choices = [
            (qc, self.known.blocks[read.block])
            for qc, read in self.known.qcs.items()
            if read.block in self.known.blocks and read.round < block.round and qc != block.justify
        ]
        if not choices:
            return None
        justify, parent = rng.choice(choices)
        payload = tuple(digest for digest in block.payload if digest in self.known.batches)
        return self._sign(self._child(parent, justify, block.round, payload), message.tc)

    def _child(self, parent: Block, justify: bytes, round: int, payload: tuple[bytes, ...]) -> Block:
        sizes = [(digest, len(self.known.batches[digest].payload)) for digest in payload]
        own = self.own
        return extend(parent, justify, round, own.node, sizes, own.committee, own.timing)

    def no_reason(self, message: Any, rng: random.Random) -> Any:
        """Without the timeout certificate that it goes by."""
        if type(message) is Certificates:
            return replace(message, high_tc=b"")
        return replace(message, tc=b"")

    def other_block(self, message: Vote, rng: random.Random) -> Any:
        """For another block."""
        blocks = [digest for digest in self.known.blocks if digest != message.block]
        return forging.vote(self.own, message.round, rng.choice(blocks)) if blocks else None

    def other_qc(self, message: Any, rng: random.Random) -> Any:
        """With another certificate that holds."""
        known = [qc for qc in self.known.qcs if qc != message.high_qc]
        if not known:
            return None
        chosen = rng.choice(known)
        if type(message) is Timeout:
            claimed = None if rng.random() < 0.5 else self.known.qcs[message.high_qc].round
            return forging.timeout(self.own, message.round, chosen, message.tc, claimed)
        return replace(message, high_qc=chosen)

    def other_batch(self, message: Batch, rng: random.Random) -> Any:
        """Another's name under it, or other bytes."""
        if rng.random() < 0.5:
            return replace(message, author=rng.choice(self.own.committee.members))
        return replace(message, payload=message.payload + b"!")

    def other_blocks(self, message: Blocks, rng: random.Random) -> Any:
        """Some of them, or in another order."""
        blocks = list(message.blocks)
        return Blocks(rng.choice((blocks[1:], blocks[:-1], blocks[::-1])))

    # ----------------------------------------------------------------------------------------------------- any scope

    def _anything(self, message: Any, rng: random.Random) -> Any:
        kind = type(message)
        if kind is Proposal:
            if rng.random() < 0.25:
                return replace(message, tc=_junk(message.tc, rng))
            return self._sign(self._any_block(decode_block(message.block), rng), message.tc)
        name = rng.choice([entry.name for entry in fields(message) if entry.name != "signature"])
        old = getattr(message, name)
        if name == "high_qc" and rng.random() < 0.5:
            changed = replace(message, high_qc=self._false_qc(rng))
        else:
            changed = replace(message, **{name: _any_value(old, rng)})
        return self._signed(changed)

    def _false_qc(self, rng: random.Random) -> bytes:
        blocks = list(self.known.blocks)
        block = rng.choice(blocks) if blocks else rng.randbytes(32)
        return forging.bad_qc(self.own, self.known, self.round + rng.randint(0, 2), block)

    def _any_block(self, block: Block, rng: random.Random) -> Block:
        names = [entry.name for entry in fields(block) if entry.name not in ("encoded", "digest")]
        name = rng.choice(names)
        old = getattr(block, name)
        new: Any
        if name == "justify":
            new = self._false_qc(rng)
        elif name in ("marked", "schedule"):
            new = tuple(rng.randrange(1 << rng.choice((1, 3, 40))) for _ in range(rng.randint(0, 5)))
            new = (*new, 0, 0)[:2] if name == "marked" else new
        elif name == "standing":
            new = tuple((rng.randrange(9), rng.randrange(9)) for _ in range(rng.randint(0, 6)))
        elif name == "payload":
            new = tuple(rng.randbytes(32) for _ in range(rng.randint(0, 3)))
        elif name == "author":
            new = rng.choice((*self.own.committee.members, "nobody"))
        else:
            new = _any_value(old, rng)
        return _with(block, **{name: new})

    def _signed(self, message: Any) -> Any:
        """The same with its own signature under what it says now."""
        own = self.own
        kind = type(message)
        if kind is Vote:
            return replace(
                message, signature=own.sign(vote_statement(own.committee, message.round, message.block))
            )
        if kind is Timeout:
            qc = self.known.qcs.get(message.high_qc)
            high = qc.round if qc is not None else max(0, message.round - 1)
            return replace(message, signature=own.sign(timeout_statement(own.committee, message.round, high)))
        return message


_SMALL: Final[Mapping[type, tuple[Callable[[Fuzz, Any, random.Random], Any], ...]]] = {
    Proposal: (Fuzz.other_round, Fuzz.other_payload, Fuzz.other_parent, Fuzz.other_parent, Fuzz.no_reason),
    Vote: (Fuzz.other_round, Fuzz.other_block),
    Timeout: (Fuzz.other_round, Fuzz.other_qc, Fuzz.no_reason),
    Batch: (Fuzz.other_batch,),
    Blocks: (Fuzz.other_blocks,),
    Certificates: (Fuzz.other_qc, Fuzz.no_reason),
    ReadReply: (Fuzz.other_qc,),
}


def _any_value(old: Any, rng: random.Random) -> Any:
    """Something of the same type."""
    if isinstance(old, int):
        return rng.choice((0, rng.getrandbits(3), old + rng.randint(1, 5), rng.getrandbits(62)))
    if type(old) is bytes:
        return _junk(old, rng)
    if type(old) is str:
        return rng.choice(("", "nobody", old + "'"))
    if type(old) is list:
        return [_junk(item, rng) if type(item) is bytes else item for item in old] * rng.randint(0, 3)
    raise TypeError(f"a field of a message is a {type(old).__name__}")


def _junk(old: bytes, rng: random.Random) -> bytes:
    """Other bytes: of the same length, cut off, or with one bit flipped."""
    how = rng.randrange(3)
    if how == 0 or not old:
        return rng.randbytes(len(old) or 32)
    if how == 1:
        return old[: rng.randrange(len(old))]
    place = rng.randrange(len(old))
    return old[:place] + bytes((old[place] ^ 1 << rng.randrange(8),)) + old[place + 1 :]


def _with(block: Block, **changes: Any) -> Block:
    """A block with other fields, encoded anew: whether they fit together is for others to see."""
    values = {entry.name: getattr(block, entry.name) for entry in fields(block)} | changes
    del values["encoded"], values["digest"]
    return make_block(**values)
