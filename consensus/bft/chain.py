"""What a block's fields must be. All of them follow from the parent, the round, the author, the batches and the signers of the
parent's certificate; so a proposer has no freedom in them, and a voter computes them again and compares bytes.

Leader reputation is such a function too: of the certified chain, never of what one replica happened to see (the idea is that of
DiemBFT v4 and of Carousel, arXiv 2110.00960; the rule is another). A member has turns while it signs. One that was silent in its
turn, or whose votes no longer come, has none until it has signed again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from consensus.bft.block import MOST_BATCHES, Block, make_block
from consensus.bft.certificates import QuorumCertificate, decode_qc
from consensus.bft.committee import Committee
from consensus.bft.timing import Timing
from consensus.core import EntryKind, NodeId
from consensus.marks import sometimes

BLOCK_WEIGHT: Final = 1024
"""Bytes that a block counts for beyond its payload: about what it takes in a journal."""
_DIGEST: Final = int(EntryKind.DIGEST)
_CHECKPOINT: Final = int(EntryKind.CHECKPOINT)
_FIELDS: Final = (
    "epoch", "round", "height", "author", "justify", "payload", "index", "weight", "mark", "marked", "standing", "schedule",
)  # fmt: skip


def leader_of(parent: Block, round: int, committee: Committee) -> NodeId:
    """Who may propose a child of `parent` in `round`."""
    schedule = parent.schedule
    return committee.members[schedule[round % len(schedule)]]


def passed_over(parent: Block, round: int, committee: Committee) -> tuple[int, ...]:
    """Numbers of the members whose turns a child of `parent` in `round` skips: the leaders of the rounds between, each once, in
    the order of their first such round. However long the gap, it costs one way through the schedule at most."""
    schedule = parent.schedule
    turns = len(schedule)
    first = parent.round + 1
    skipped = range(first, min(round, first + turns))
    return tuple(dict.fromkeys(schedule[skip % turns] for skip in skipped))


def extend(
    parent: Block,
    justify: bytes,
    round: int,
    author: NodeId,
    batches: Sequence[tuple[bytes, int]],
    committee: Committee,
    timing: Timing,
) -> Block:
    """The block that `author` proposes in `round` on top of `parent`, whose encoded certificate `justify` is. `batches`: (digest,
    bytes of payload) in order. Raises ValueError for what can be no block: a round not above the parent's, an author that is no
    member, more than MOST_BATCHES batches; CertificateError (which is one) for a `justify` that is no certificate."""
    if round <= parent.round:
        raise ValueError(f"round {round} is not above its parent's, {parent.round}")
    if author not in committee.members:
        raise ValueError(f"its author {author!r} is no member")
    if len(batches) > MOST_BATCHES:
        raise ValueError(f"{len(batches)} batches; a block has at most {MOST_BATCHES}")
    height = parent.height + 1
    index = parent.index + len(batches)
    weight = parent.weight + sum(size for _, size in batches)
    marked = parent.marked
    mark = 0
    since = height - marked[0]
    if weight >= timing.snapshot_bytes or since >= timing.idle_heights:
        mark = _CHECKPOINT
    elif index > marked[1] and since >= timing.mark_heights:
        # Blocks take their place in journals, too. They count at marks only, or an idle chain would bring marks by itself.
        weight += since * BLOCK_WEIGHT
        mark = _CHECKPOINT if weight >= timing.snapshot_bytes else _DIGEST
    if mark == _CHECKPOINT:
        weight = 0
    if mark:
        index += 1
        marked = (height, index)
    standing = _standing(parent, decode(justify), round, author, committee)
    # A turn that was passed over costs a whole time-out: whoever let it pass must not get another one before the next change.
    due = height % timing.turns == 0 or round > parent.round + 1
    schedule = _schedule(height, standing, committee, timing) if due else parent.schedule
    return make_block(
        committee.epoch, round, height, author, justify, tuple(digest for digest, _ in batches),
        index, weight, mark, marked, standing, schedule,
    )  # fmt: skip


def flaw(block: Block, parent: Block, sizes: Sequence[int], committee: Committee, timing: Timing) -> str:
    """Why `block` is not the child of `parent` that `extend` gives; "" if it is, to the byte. `sizes`: payload bytes of its
    batches, in order. Whether its author has the turn, and whether its certificate verifies, is not judged here."""
    if len(sizes) != len(block.payload):
        raise ValueError(f"{len(sizes)} sizes of {len(block.payload)} batches")
    if len(sizes) > 1 and sum(sizes) > timing.block_bytes:
        return f"its batches have {sum(sizes)} bytes; a block has at most {timing.block_bytes}"
    if any(size > timing.batch_bytes for size in sizes):
        return f"a batch of {max(sizes)} bytes; the longest has {timing.batch_bytes}"
    if len(set(block.payload)) != len(sizes):
        return "the same batch stands in it twice"
    try:
        justify = decode(block.justify)
        if (justify.round, justify.block) != (parent.round, parent.digest):
            return f"its certificate, of round {justify.round}, is not its parent's, of round {parent.round}"
        batches = list(zip(block.payload, sizes, strict=True))
        right = extend(parent, block.justify, block.round, block.author, batches, committee, timing)
    except ValueError as error:
        return str(error)
    if right.encoded == block.encoded:
        return ""
    wrong = [name for name in _FIELDS if getattr(block, name) != getattr(right, name)]
    first = wrong[0] if wrong else "encoding"
    return f"its {first} is {getattr(block, first, '?')!r:.200}, not {getattr(right, first, '?')!r:.200}"


@lru_cache(maxsize=256)
def decode(justify: bytes) -> QuorumCertificate:
    """`decode_qc`, remembered: the same certificate is read when it comes, when its block is judged, and when it is extended.
    Raises CertificateError."""
    return decode_qc(justify)


def _standing(
    parent: Block, justify: QuorumCertificate, round: int, author: NodeId, committee: Committee
) -> tuple[tuple[int, int], ...]:
    height = parent.height + 1
    signed = {signer for signer, _ in justify.votes}
    signed.add(author)
    skipped = passed_over(parent, round, committee)
    return tuple(
        [
            (height if member in signed else row[0], height if number in skipped else row[1])
            for number, (member, row) in enumerate(zip(committee.members, parent.standing, strict=True))
        ]
    )


def _schedule(
    height: int, standing: tuple[tuple[int, int], ...], committee: Committee, timing: Timing
) -> tuple[int, ...]:
    earliest = height - timing.exile
    turns = [
        number
        for number, (signed, passed) in enumerate(standing)
        if signed >= earliest and (passed == 0 or passed < earliest)
    ]
    # As few could all be dark, or lie, and then nobody would ever lead: the schedule changes only with a certified block.
    if len(turns) <= committee.stop:
        sometimes("so few leaders are left that every member gets a turn again")
        return tuple(range(len(standing)))
    if len(turns) < len(standing):
        sometimes("a member has no turn until it proves itself")
    return tuple(turns)
