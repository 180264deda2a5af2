"""The strategies of liars, by name: what can be said about the order of the log. `client_lies` has those that lie to clients and
about states.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgpack

from consensus.bft.block import Block, batch_digest, decode_block, make_block
from consensus.bft.certificates import decode_qc
from consensus.bft.chain import extend
from consensus.bft.messages import (
    Batch,
    BatchRequest,
    BlockRequest,
    Blocks,
    Certificates,
    CheckpointVote,
    Proposal,
    ReadReply,
    ReadRequest,
    Timeout,
    Vote,
)
from consensus.core import EntryKind, NodeId
from sim.byzantine import forging
from sim.byzantine.strategy import Own, Send, Strategy

CORE: Final = (
    Proposal, Vote, Timeout, Batch, BatchRequest, BlockRequest, Blocks, Certificates, ReadRequest, ReadReply, CheckpointVote,
)  # fmt: skip
"""What a core says."""


class Silent(Strategy):
    """Hears everything and says nothing to anybody but clients, or nothing to some members."""

    name = "silent"
    title = "says nothing to some of the members, or to none"

    def __init__(self, own: Own) -> None:
        super().__init__(own)
        peers = own.peers
        self._shunned = (
            peers if self.rng.random() < 0.4 else self.rng.sample(peers, self.rng.randint(1, len(peers)))
        )

    def outgoing(self, dest: NodeId, message: Any, now: int) -> list[Send]:
        return [] if dest in self._shunned else [(dest, message)]


class Equivocate(Strategy):
    """Proposes two blocks in a round, one to each half, and votes for both: each half gets the vote that fits; some get both."""

    name = "equivocate"
    title = "two blocks in a round, and votes for both"

    def __init__(self, own: Own) -> None:
        super().__init__(own)
        self._twins: dict[bytes, Block] = {}
        self._other_half: list[NodeId] = []
        self._round = -1

    def _halves(self, round: int) -> None:
        if round != self._round:
            self._round = round
            peers = self.own.peers
            self._other_half = self.rng.sample(peers, self.rng.randint(1, max(1, len(peers) - 1)))

    def outgoing(self, dest: NodeId, message: Any, now: int) -> list[Send]:
        kind = type(message)
        if kind is Proposal:
            return self._propose(dest, message)
        if kind is Vote:
            twin = self._twins.get(message.block)
            if twin is not None:
                other = forging.vote(self.own, message.round, twin.digest)
            elif self.rng.random() < 0.3:
                other = forging.vote(self.own, message.round, self._another(message))
            else:
                return [(dest, message)]
            self._halves(message.round)
            pair = [(dest, message), (dest, other)]
            if self.rng.random() < 0.3:
                return pair if self.rng.random() < 0.5 else pair[::-1]
            return pair[1:] if dest in self._other_half else pair[:1]
        return [(dest, message)]

    def _another(self, message: Vote) -> bytes:
        """Another block of that round, if there is one, or a block that nobody has."""
        rivals = [
            block.digest
            for block in self.known.blocks.values()
            if block.round == message.round and block.digest != message.block
        ]
        return self.rng.choice(rivals) if rivals else self.rng.randbytes(32)

    def _propose(self, dest: NodeId, message: Proposal) -> list[Send]:
        block = decode_block(message.block)
        twin = self._twins.get(block.digest)
        if twin is None:
            twin = forging.sibling(self.own, self.known, block)
            if twin is None:
                return [(dest, message)]
            self._twins[block.digest] = twin
            while len(self._twins) > 16:
                del self._twins[next(iter(self._twins))]
        self._halves(block.round)
        other = forging.proposal(self.own, twin, message.tc)
        if self.rng.random() < 0.2:
            return [(dest, message), (dest, other)]
        return [(dest, other if dest in self._other_half else message)]


class Late(Strategy):
    """Votes, timeouts and certificates come late, or to a few only, or never."""

    name = "late"
    title = "votes and timeouts withheld, or late"

    def outgoing(self, dest: NodeId, message: Any, now: int) -> list[Send]:
        if type(message) in (Vote, Timeout, CheckpointVote):
            draw = self.rng.random()
            if draw < 0.4:
                return []
            if draw < 0.8:
                return self.later(self.rng.randrange(5_000, 800_000), dest, message, now)
        return [(dest, message)]


class SlowLeader(Strategy):
    """Proposes at the last moment, and votes when it no longer matters: it would keep its turn and cost everybody time."""

    name = "slow leader"
    title = "proposals just before the others give up, or just after"

    def outgoing(self, dest: NodeId, message: Any, now: int) -> list[Send]:
        if type(message) is Proposal:
            patience = self.own.timing.round
            return self.later(self.rng.randint(patience // 2, patience + patience // 8), dest, message, now)
        return [(dest, message)]


class Stale(Strategy):
    """Goes back in time: blocks that fork off an old certificate, timeouts and answers with old certificates, votes in rounds
    that it has given up."""

    name = "stale"
    title = "forks off old certificates, and old certificates as the highest"

    def _old(self, encoded: bytes) -> bytes:
        older = [data for data in self.known.qcs if data != encoded]
        return self.rng.choice(older) if older else encoded

    def outgoing(self, dest: NodeId, message: Any, now: int) -> list[Send]:
        kind = type(message)
        if kind is Proposal:
            made = forging.other_parent(self.own, self.known, decode_block(message.block))
            if made is not None and self.rng.random() < 0.7:
                return [(dest, forging.proposal(self.own, made, message.tc))]
        elif kind is Timeout:
            old = self._old(message.high_qc)
            sent: list[Send] = [(dest, forging.timeout(self.own, message.round, old, message.tc))]
            # And a vote in a round that it gives up in the same breath.
            rounds = [block for block in self.known.blocks.values() if block.round <= message.round]
            if rounds and self.rng.random() < 0.5:
                block = rounds[-1]
                sent.append((dest, forging.vote(self.own, block.round, block.digest)))
            return sent
        elif kind is Certificates:
            return [(dest, Certificates(message.epoch, self._old(message.high_qc), b"", message.checkpoint))]
        elif kind is ReadReply:
            return [(dest, ReadReply(message.nonce, self._old(message.high_qc)))]
        return [(dest, message)]


class Forge(Strategy):
    """Certificates that do not verify: too few votes, doubled ones, none, strangers', borrowed from another block, round, epoch
    or cluster; around blocks that do not exist, in every message that carries one."""

    name = "forge"
    title = "certificates that must not verify"
    every = 60_000

    def _bad(self, ahead: int = 3) -> bytes:
        rounds = [certificate.round for certificate in self.known.qcs.values()] or [1]
        round = max(rounds) + self.rng.randint(0, ahead)
        rivals = [block.digest for block in self.known.blocks.values() if block.round >= round]
        block = self.rng.choice(rivals) if rivals and self.rng.random() < 0.6 else self.rng.randbytes(32)
        return forging.bad_qc(self.own, self.known, round, block)

    def outgoing(self, dest: NodeId, message: Any, now: int) -> list[Send]:
        kind = type(message)
        if kind is Timeout and self.rng.random() < 0.5:
            return [(dest, forging.timeout(self.own, message.round, self._bad(), message.tc))]
        if kind is ReadReply:
            return [(dest, ReadReply(message.nonce, self._bad()))]
        if kind is Proposal and self.rng.random() < 0.5:
            made = self._block(decode_block(message.block))
            if made is not None:
                return [(dest, forging.proposal(self.own, made, message.tc))]
        return [(dest, message)]

    def _block(self, block: Block) -> Block | None:
        own = self.own
        parent = self.known.parent(block)
        if parent is None:
            return None
        justify = forging.bad_qc(own, self.known, parent.round, parent.digest)
        return extend(parent, justify, block.round, own.node, [], own.committee, own.timing)

    def tick(self, now: int) -> list[Send]:
        dest = self.rng.choice(self.own.peers)
        return [(dest, Certificates(self.own.committee.epoch, self._bad(30), b"", b""))]


class BadPayload(Strategy):
    """Blocks of payload that nobody gets, or gets late, or that no client has signed; requests for payload answered wrongly."""

    name = "bad payload"
    title = "payload that is missing, made up, or unsigned"

    def outgoing(self, dest: NodeId, message: Any, now: int) -> list[Send]:
        kind = type(message)
        if kind is Batch:
            draw = self.rng.random()
            if draw < 0.4:
                return []  # it may ask for it
            if draw < 0.6:
                return [(dest, self._made_up(message)), (dest, message)]
            if draw < 0.7:
                other = self.rng.choice(self.own.peers)
                return [(dest, Batch(other, message.kind, message.payload))]  # in somebody else's name
        elif kind is Proposal and self.rng.random() < 0.5:
            made = self._block(decode_block(message.block), message.block)
            if made is not None:
                return [(dest, forging.proposal(self.own, made, message.tc))]
        elif kind is Blocks and self.rng.random() < 0.5:
            blocks = list(self.known.blocks.values())
            return [
                (dest, Blocks([self.rng.choice(blocks).encoded for _ in message.blocks] if blocks else []))
            ]
        return [(dest, message)]

    def incoming(self, sender: NodeId, message: Any, now: int) -> list[Send]:
        if type(message) is BatchRequest and self.rng.random() < 0.6:
            return []
        return [(sender, message)]

    def _made_up(self, batch: Batch) -> Batch:
        how = self.rng.randrange(5)
        if how == 0:
            return Batch(batch.author, batch.kind, self.rng.randbytes(40))
        if how == 1:  # as if a leader had gathered it, with no signature anywhere
            return Batch(
                self.own.node,
                int(EntryKind.BLOCK),
                msgpack.packb([[0, 1 << 20, 0, [1], [b"x"]], [1, "n1", 5]]),
            )
        if how == 2:
            return Batch(self.own.node, self.rng.choice((0, 2, 3, 9)), batch.payload)
        if how == 3:
            return Batch("nobody", batch.kind, batch.payload)
        return Batch(self.own.node, batch.kind, _altered(batch.payload, self.rng.randrange(1 << 30)))

    def _block(self, block: Block, encoded: bytes) -> Block | None:
        from consensus.bft.chain import extend

        own = self.own
        parent = self.known.parent(block)
        if parent is None:
            return None
        if self.known.batches and self.rng.random() < 0.5:
            made = self._made_up(self.rng.choice(list(self.known.batches.values())))
            batches = [(batch_digest(made.kind & 0xFF, made.payload), len(made.payload))]
        elif block.payload and self.rng.random() < 0.5:
            sizes = self.known.sizes(block, parent)
            batches = [*sizes, sizes[0]] if sizes else []  # the same twice
        else:
            batches = [(self.rng.randbytes(32), self.rng.randrange(1, 5_000))]
        return extend(parent, block.justify, block.round, own.node, batches, own.committee, own.timing)


def _altered(payload: bytes, draw: int) -> bytes:
    if not payload:
        return b"\x90"
    changed = bytearray(payload)
    changed[draw % len(changed)] ^= 1 + draw % 255
    return bytes(changed)


class Replay(Strategy):
    """Says old things again: what it and others have said, in its own name; what members have signed in another cluster or
    epoch."""

    name = "replay"
    title = "old messages, and those of another cluster or epoch, said again"
    every = 15_000

    def tick(self, now: int) -> list[Send]:
        own, rng, known = self.own, self.rng, self.known
        sent: list[Send] = []
        if known.said:
            sent.append((rng.choice(own.peers), rng.choice(known.said)))
        if known.blocks and rng.random() < 0.4:
            block = rng.choice(list(known.blocks.values()))
            forged = forging.bad_qc(own, known, block.round + rng.randint(0, 2), block.digest)
            epoch = own.committee.epoch + rng.randint(0, 1)
            sent.append((rng.choice(own.peers), Certificates(epoch, forged, b"", b"")))
        return sent


class Garbage(Strategy):
    """Messages with broken fields, and nonsense of every kind."""

    name = "garbage"
    title = "broken fields and made-up messages"

    def outgoing(self, dest: NodeId, message: Any, now: int) -> list[Send]:
        if type(message) in CORE and self.rng.random() < 0.4:
            return [(dest, forging.spoilt(self.own, message))]
        return [(dest, message)]

    def tick(self, now: int) -> list[Send]:
        rng, own = self.rng, self.own
        number = rng.choice((0, 1, rng.getrandbits(16), (1 << 63) - 1))
        junk = rng.randbytes(rng.choice((0, 1, 32, 64, 300)))
        made: Any = rng.choice((
            Proposal(junk, junk, junk),
            Vote(own.committee.epoch, number, junk, rng.randbytes(64)),
            Timeout(own.committee.epoch, number, junk, junk, junk),
            Batch(own.node, number % 300, junk),
            BatchRequest([rng.randbytes(32) for _ in range(rng.choice((0, 5, 500)))]),
            BlockRequest(junk, number, number),
            Blocks([junk] * rng.choice((0, 1, 50))),
            Certificates(number, junk, junk, junk),
            ReadReply(number, junk),
            ReadRequest(number),
            CheckpointVote(own.committee.epoch, junk, junk),
        ))  # fmt: skip
        return [(rng.choice(own.peers), made)]


class Hasty(Strategy):
    """Gives every round up at once, votes in rounds to come, and asks everybody for everything."""

    name = "hasty"
    title = "timeouts and votes for rounds to come, and floods of requests"
    every = 10_000

    def tick(self, now: int) -> list[Send]:
        own, rng, known = self.own, self.rng, self.known
        if not known.qcs:
            return []
        encoded = max(known.qcs, key=lambda data: known.qcs[data].round)
        round = decode_qc(encoded).round
        peers = own.peers
        sent: list[Send] = []
        draw = rng.random()
        if draw < 0.4:
            ahead = round + rng.choice((1, 1, 2, 3, 50, 10**9))
            gone = forging.timeout(own, ahead, encoded)
            sent += [(peer, gone) for peer in peers]
        elif draw < 0.7:
            ahead = round + rng.randint(1, 40)
            sent += [(peer, forging.vote(own, ahead, rng.randbytes(32))) for peer in peers]
        else:
            dest = rng.choice(peers)
            digests = list(known.blocks)[-8:]
            sent += [(dest, BlockRequest(digest, 64, 0)) for digest in digests]
            sent += [
                (dest, BatchRequest(list(known.batches)[-20:])),
                (dest, ReadRequest(rng.getrandbits(30))),
            ]
        return sent


class Fabulist(Strategy):
    """Claims in its blocks what the chain does not say: another index, height, schedule, author, epoch or mark."""

    name = "fabulist"
    title = "blocks whose fields are not what the chain gives, or out of turn"

    def outgoing(self, dest: NodeId, message: Any, now: int) -> list[Send]:
        if type(message) is not Proposal or self.rng.random() < 0.4:
            return [(dest, message)]
        block = decode_block(message.block)
        made = self._changed(block)
        return [(dest, forging.proposal(self.own, made, message.tc))]

    def _changed(self, block: Block) -> Block:
        rng = self.rng
        values: dict[str, Any] = {
            name: getattr(block, name)
            for name in (
                "epoch", "round", "height", "author", "justify", "payload", "index", "weight", "mark", "marked", "standing",
                "schedule",
            )
        }  # fmt: skip
        own_number = self.own.committee.members.index(self.own.node)
        field, value = rng.choice((
            ("epoch", block.epoch + 1), ("round", block.round + rng.randint(1, 5)), ("height", block.height + 1),
            ("author", rng.choice(self.own.peers)), ("index", block.index + rng.randint(1, 9)), ("weight", 0),
            ("mark", rng.choice((1, 2, 3))), ("marked", (block.height, block.index)),
            ("schedule", (own_number,) * max(1, len(block.schedule))),
            ("standing", tuple((block.height, 0) for _ in block.standing)),
        ))  # fmt: skip
        values[field] = value
        return make_block(**values)

    def tick(self, now: int) -> list[Send]:
        """Now and then a block out of turn."""
        if self.rng.random() > 0.05 or not self.known.blocks:
            return []
        own = self.own
        encoded = max(self.known.qcs, key=lambda data: self.known.qcs[data].round, default=b"")
        parent = self.known.blocks.get(self.known.qcs[encoded].block) if encoded else None
        if parent is None:
            return []
        made = extend(
            parent, encoded, parent.round + self.rng.randint(1, 2), own.node, [], own.committee, own.timing
        )
        return [(peer, forging.proposal(own, made)) for peer in own.peers]


class Whimsical(Strategy):
    """Each moment another of the strategies."""

    name = "whimsical"
    title = "now this, now that"
    every = 20_000
    of: ClassVar[tuple[type[Strategy], ...]] = ()

    def __init__(self, own: Own) -> None:
        super().__init__(own)
        self._all = [kind(own) for kind in self.of]
        for one in self._all:
            one.known = self.known
        self._now = self.rng.choice(self._all)
        self._until = 0

    def _turn(self, now: int) -> Strategy:
        if now >= self._until:
            self._now = self.rng.choice(self._all)
            self._until = now + self.rng.randrange(20_000, 500_000)
        return self._now

    def outgoing(self, dest: NodeId, message: Any, now: int) -> list[Send]:
        return self._turn(now).outgoing(dest, message, now)

    def incoming(self, sender: NodeId, message: Any, now: int) -> list[Send]:
        return self._turn(now).incoming(sender, message, now)

    def replying(self, message: Any, now: int) -> list[Any]:
        return self._turn(now).replying(message, now)

    def tick(self, now: int) -> list[Send]:
        sent: list[Send] = []
        for one in self._all:
            sent += [(dest, message) for at, _, dest, message in one._late if at <= now]
            one._late = [item for item in one._late if item[0] > now]
        return sent + self._turn(now).tick(now)


ORDERING: Final[tuple[type[Strategy], ...]] = (
    Silent, Equivocate, Late, SlowLeader, Stale, Forge, BadPayload, Replay, Garbage, Hasty, Fabulist,
)  # fmt: skip
"""Those that lie to the other members about the order of the log."""
