"""Messages of the BFT core (wire kinds 20-39). Blocks and certificates travel encoded; an empty field means: none."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.wire import register


@register(20)
@dataclass(slots=True)
class Proposal:
    """A leader's block. `tc`: the timeout certificate of the round before, where the block's parent is not of that round."""

    block: bytes
    tc: bytes
    signature: bytes


@register(21)
@dataclass(slots=True)
class Vote:
    """The sender's vote for the block with digest `block`; to everybody."""

    epoch: int
    round: int
    block: bytes
    signature: bytes


@register(22)
@dataclass(slots=True)
class Timeout:
    """The sender gives `round` up. `high_qc`: the highest certificate that it knows, whose round it signs; `tc`: why it is in
    that round, where the certificate does not say so."""

    epoch: int
    round: int
    high_qc: bytes
    tc: bytes
    signature: bytes


@register(23)
@dataclass(slots=True)
class Batch:
    """The payload of one log entry, ahead of any block. `author`: the member that took it in."""

    author: str
    kind: int
    payload: bytes


@register(24)
@dataclass(slots=True)
class BatchRequest:
    """Send me the batches with these digests."""

    digests: list[bytes]


@register(25)
@dataclass(slots=True)
class BlockRequest:
    """Send me the block with this digest and up to `count - 1` of its ancestors; none below height `above`."""

    block: bytes
    count: int
    above: int


@register(26)
@dataclass(slots=True)
class Blocks:
    """Encoded blocks, each one's parent next."""

    blocks: list[bytes]


@register(27)
@dataclass(slots=True)
class Certificates:
    """The sender's highest certificates, for whoever is behind. `checkpoint`: the newest certified state, for whoever is so far
    behind that the blocks are gone."""

    epoch: int
    high_qc: bytes
    high_tc: bytes
    checkpoint: bytes


@register(28)
@dataclass(slots=True)
class ReadRequest:
    """What is the highest certificate that you know? For a read barrier."""

    nonce: int


@register(29)
@dataclass(slots=True)
class ReadReply:
    """The answer to `ReadRequest`."""

    nonce: int
    high_qc: bytes


@register(30)
@dataclass(slots=True)
class CheckpointVote:
    """The sender has this state (`Checkpoint.body`) and holds its snapshot durably."""

    epoch: int
    checkpoint: bytes
    signature: bytes
