"""Blocks. A block names its parent by the certificate of it, its payload by the digests of the batches, and carries all that
a replica must know of the chain below to judge or extend it: how far the log has come, when the next mark is due, and whose turns
are to come. Whoever votes has computed all of that anew from the parent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import msgpack

from consensus.bft.certificates import CertificateError, QuorumCertificate, decode_qc
from consensus.bft.committee import Committee
from consensus.bft.signing import DOMAIN
from consensus.core import NodeId

VERSION: Final = 1
MOST_BATCHES: Final = 256
"""Most batches in a block."""
_DIGEST: Final = 32
_MOST_INT: Final = (1 << 63) - 1


class BlockError(ValueError):
    """Bytes that are no block; the text says why."""


@dataclass(slots=True, frozen=True)
class Block:
    """A block. Its log entries are those of its batches, in order, one each, then the mark if it has one."""

    epoch: int
    round: int
    height: int
    """Blocks below it, up to the genesis block's 0."""
    author: NodeId
    justify: bytes
    """The encoded quorum certificate of its parent."""
    payload: tuple[bytes, ...]
    """Digests of batches."""
    index: int
    """Of the last log entry in it, or in its ancestors if it has none."""
    weight: int
    """Bytes of blocks and payload since the last snapshot mark, its own included; 0 if it has that mark itself."""
    mark: int
    """0: none; else the kind of the last entry, `EntryKind.DIGEST` or `EntryKind.CHECKPOINT`."""
    marked: tuple[int, int]
    """(height, index) of the newest block with a mark, itself included."""
    standing: tuple[tuple[int, int], ...]
    """For each member: (height of the newest block whose parent's certificate it has signed, height of the newest block for which
    its turn was passed over); 0 for never."""
    schedule: tuple[int, ...]
    """Numbers of the members that lead the rounds behind this block, by round modulo length."""
    encoded: bytes = field(compare=False)
    digest: bytes = field(compare=False)

    @property
    def parent(self) -> QuorumCertificate:
        """The certificate of the parent."""
        return decode_qc(self.justify)


def make_block(
    epoch: int,
    round: int,
    height: int,
    author: NodeId,
    justify: bytes,
    payload: tuple[bytes, ...],
    index: int,
    weight: int,
    mark: int,
    marked: tuple[int, int],
    standing: tuple[tuple[int, int], ...],
    schedule: tuple[int, ...],
) -> Block:
    """A block with its bytes and its digest, which covers every field."""
    fields = [
        VERSION,
        epoch,
        round,
        height,
        author,
        justify,
        list(payload),
        index,
        weight,
        mark,
        list(marked),
    ]
    fields += [[list(row) for row in standing], list(schedule)]
    encoded: bytes = msgpack.packb(fields)
    return Block(
        epoch, round, height, author, justify, payload, index, weight, mark, marked, standing, schedule,
        encoded, block_digest(encoded),
    )  # fmt: skip


def block_digest(encoded: bytes) -> bytes:
    """32 bytes that name a block."""
    return sha256(DOMAIN + b"/block" + encoded).digest()


def batch_digest(kind: int, payload: bytes) -> bytes:
    """32 bytes that name a batch: the payload of one log entry, of that kind."""
    return sha256(DOMAIN + b"/batch" + bytes((kind,)) + payload).digest()


MOST_ENCODED: Final = 64 << 10
"""Longest block read, in bytes: it is read before anything says who made it. A committee of 100 members makes some 20 KiB."""


def decode_block(data: bytes) -> Block:
    """Read a block. Only its shape is judged. Raises BlockError."""
    if len(data) > MOST_ENCODED:
        raise BlockError(f"a block of {len(data)} bytes; the longest has {MOST_ENCODED}")
    try:
        value = msgpack.unpackb(data, raw=False, use_list=True)
        (
            version,
            epoch,
            round,
            height,
            author,
            justify,
            payload,
            index,
            weight,
            mark,
            marked,
            standing,
            schedule,
        ) = value
        numbers = [epoch, round, height, index, weight, mark, *marked, *schedule]
        numbers += [number for row in standing for number in row]
        if version != VERSION:
            raise BlockError(f"a block of version {version}; this program reads version {VERSION}")
        if any(type(number) is not int or not 0 <= number <= _MOST_INT for number in numbers):
            raise BlockError("a number is none, or out of range")
        if (
            any(type(item) is not bytes or len(item) != _DIGEST for item in payload)
            or len(payload) > MOST_BATCHES
        ):
            raise BlockError(f"its payload is not a list of at most {MOST_BATCHES} digests")
        if len(marked) != 2 or any(len(row) != 2 for row in standing) or type(author) is not str:
            raise BlockError("a field has another shape")
        if type(justify) is not bytes:
            raise BlockError("its certificate is none")
        decode_qc(justify)
    except BlockError:
        raise
    except CertificateError as flaw:
        raise BlockError(str(flaw)) from None
    except Exception as error:
        raise BlockError(f"no block: {type(error).__name__}") from None
    made = make_block(
        epoch, round, height, author, justify, tuple(payload), index, weight, mark, (marked[0], marked[1]),
        tuple((row[0], row[1]) for row in standing), tuple(schedule),
    )  # fmt: skip
    if made.encoded != data:
        # One block has one encoding, or it would have several names.
        raise BlockError("not encoded the one way in which blocks are")
    return made


def genesis(committee: Committee) -> Block:
    """The block of height 0, which everybody takes for certified: it binds cluster, epoch and committee."""
    named = msgpack.packb([committee.cluster, list(committee.members), committee.stop, committee.lie])
    seal = QuorumCertificate(0, sha256(DOMAIN + b"/genesis" + named).digest(), ()).encode()
    everybody = tuple(range(len(committee.members)))
    nothing = tuple((0, 0) for _ in committee.members)
    return make_block(committee.epoch, 0, 0, "", seal, (), 0, 0, 0, (0, 0), nothing, everybody)


def genesis_qc(committee: Committee) -> QuorumCertificate:
    """The certificate of the genesis block."""
    return QuorumCertificate(0, genesis(committee).digest, ())
