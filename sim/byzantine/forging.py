"""How to forge: certificates, votes and blocks of which only one signature, the forger's, is its own to give."""

from __future__ import annotations

from typing import Any, Final

from consensus.bft.block import Block
from consensus.bft.certificates import QuorumCertificate, decode_qc
from consensus.bft.chain import extend
from consensus.bft.messages import Proposal, Timeout, Vote
from consensus.bft.signing import proposal_statement, timeout_statement, vote_statement
from sim.byzantine.strategy import Knowledge, Own

_SIGNATURE: Final = 64


def proposal(own: Own, block: Block, tc: bytes = b"") -> Proposal:
    """A block, signed as its proposer."""
    return Proposal(block.encoded, tc, own.sign(proposal_statement(own.committee, block.round, block.digest)))


def vote(own: Own, round: int, block: bytes) -> Vote:
    """A vote for whatever."""
    signature = own.sign(vote_statement(own.committee, round, block))
    return Vote(own.committee.epoch, round, block, signature)


def timeout(own: Own, round: int, high_qc: bytes, tc: bytes = b"", claimed: int | None = None) -> Timeout:
    """A timeout; `claimed`: the round of the certificate as it is signed, if that is to be another than the certificate's."""
    high = decode_qc(high_qc).round if claimed is None else claimed
    return Timeout(
        own.committee.epoch, round, high_qc, tc, own.sign(timeout_statement(own.committee, round, high))
    )


def sibling(own: Own, known: Knowledge, block: Block) -> Block | None:
    """Another block with the same author, round and parent, as valid as the first; None if too little is known to make it."""
    parent = known.parent(block)
    batches = None if parent is None else known.sizes(block, parent)
    if parent is None or batches is None:
        return None
    justify = block.justify
    certificate = block.parent
    if len(batches) > 1 and own.rng.random() < 0.5:
        batches = batches[::-1] if own.rng.random() < 0.5 else batches[1:]
        if any(size == 0 for _, size in batches):
            return None
    elif batches and own.rng.random() < 0.5:
        batches = []
    elif len(certificate.votes) > 1:
        justify = QuorumCertificate(certificate.round, certificate.block, certificate.votes[::-1]).encode()
    else:
        return None
    made = extend(parent, justify, block.round, own.node, batches, own.committee, own.timing)
    return made if made.digest != block.digest else None


def other_parent(own: Own, known: Knowledge, block: Block) -> Block | None:
    """A block of the same round that forks off an older certified block."""
    certificate = block.parent
    for encoded, older in reversed(known.qcs.items()):
        parent = known.blocks.get(older.block)
        if 0 < older.round < certificate.round and parent is not None:
            return extend(parent, encoded, block.round, own.node, [], own.committee, own.timing)
    return None


def bad_qc(own: Own, known: Knowledge, round: int, block: bytes) -> bytes:
    """A certificate that must not verify: of some kind that a careless verifier lets pass."""
    committee, rng = own.committee, own.rng
    mine = (own.node, own.sign(vote_statement(committee, round, block)))
    real = list(known.votes.get((round, block), {}).items())
    others = [pair for pair in real if pair[0] != own.node]
    how = rng.randrange(7)
    if how == 0:  # too few
        votes = [mine, *others][: committee.quorum - 1]
    elif how == 1:  # one of them many times
        votes = [mine] * committee.quorum
    elif how == 2:  # nobody at all
        votes = []
    elif how == 3:  # made-up signatures of everybody
        votes = [mine, *((peer, rng.randbytes(_SIGNATURE)) for peer in own.peers)]
    elif how == 4:  # its own signature under every name
        votes = [(member, mine[1]) for member in committee.members]
    elif how == 5:  # strangers
        votes = [mine, *((f"stranger-{k}", rng.randbytes(_SIGNATURE)) for k in range(committee.quorum - 1))]
    else:  # what was signed for another block, round, epoch or cluster
        votes = [mine, *_borrowed(own, known, round, block)]
    return QuorumCertificate(round, block, tuple(votes[:60])).encode()


def _borrowed(own: Own, known: Knowledge, round: int, block: bytes) -> list[tuple[str, bytes]]:
    if own.elsewhere is not None and own.rng.random() < 0.6:
        elsewhere = own.elsewhere
        return [
            (peer, elsewhere(peer, lambda committee: vote_statement(committee, round, block)))
            for peer in own.peers
        ]
    found: dict[str, bytes] = {}
    for votes in known.votes.values():
        found.update(votes)
    return [(peer, found[peer]) for peer in own.peers if peer in found]


def spoilt(own: Own, message: Any) -> Any:
    """A copy of a message with one field broken, of the right type all the same."""
    rng = own.rng
    cls = type(message)
    names = list(cls.__dataclass_fields__)
    values = {name: getattr(message, name) for name in names}
    fields = [name for name in names if isinstance(values[name], bytes | int | str | list)]
    if not fields:
        return message
    name = rng.choice(fields)
    value = values[name]
    if isinstance(value, bool):
        values[name] = not value
    elif isinstance(value, int):
        values[name] = rng.choice((0, value + 1, max(0, value - 1), (1 << 63) - 1, rng.getrandbits(40)))
    elif isinstance(value, bytes):
        values[name] = _spoilt_bytes(own, value)
    elif isinstance(value, str):
        values[name] = rng.choice(("", "nobody", value + "x", "\x00"))
    else:
        values[name] = _spoilt_list(own, value)
    return cls(**values)


def _spoilt_bytes(own: Own, value: bytes) -> bytes:
    rng = own.rng
    how = rng.randrange(5)
    if how == 0 or not value:
        return rng.randbytes(rng.choice((0, 1, 31, 32, 33, 64, 200)))
    if how == 1:
        return value[: rng.randrange(len(value))]
    if how == 2:
        return value + rng.randbytes(3)
    if how == 3:
        return b"\x9f" * rng.choice((10, 2_000)) + value  # arrays in arrays in arrays
    spoilt = bytearray(value)
    spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def _spoilt_list(own: Own, value: list[Any]) -> list[Any]:
    rng = own.rng
    how = rng.randrange(4)
    if how == 0 or not value:
        return []
    if how == 1:
        return value * rng.choice((2, 40))
    if how == 2:
        return value[::-1]
    copy = list(value)
    place = rng.randrange(len(copy))
    if isinstance(copy[place], bytes):
        copy[place] = _spoilt_bytes(own, copy[place])
    return copy
