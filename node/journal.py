"""The journal: what a core wants durable, in append-only segments of which the newest is enough.

A segment begins with the core's whole state (`Core.state_records`), so that it replaces all older ones; deleting those
never deletes a vote. Recovery has to answer one question about damaged bytes: *had this node promised them?*

- Nothing says so: a torn tail. It is cut off, durably, before anything is appended.
- Something says so (a later batch's durable marker, or a newer file): `JournalCorrupt`. Damage is never counted away.

Crash points and the argument for each of them: docs/explanation/durability.md. Layout: docs/reference/journal-format.md
and `node.segment`. This module makes lists of `node.disk` operations; only `Journal.open` performs some itself, because nothing
of the journal may be used before its repair is durable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from consensus.core import Record
from consensus.marks import sometimes
from node.disk import Append, Create, Disk, Op, Remove, Rename, Sync, SyncDirectory, Truncate
from node.segment import (
    Batch,
    Header,
    Identity,
    Segment,
    SegmentVersionError,
    decode_header,
    encode_batch,
    parse_segment,
)

__all__ = [
    "RESERVE",
    "Batch",
    "Identity",
    "Journal",
    "JournalCorrupt",
    "JournalError",
    "JournalForeign",
    "JournalMissing",
    "JournalVersion",
    "Recorder",
    "Recovered",
    "SegmentView",
    "merge",
    "read_segments",
]

RESERVE: Final = 8 << 20
"""Space set aside ahead of a segment's end, in bytes: an fsync inside it has no metadata to write."""

_NAME: Final = re.compile(r"(journal|archive)-(\d{16})\.seg")
_MARK_BITS: Final = 48


class JournalError(Exception):
    """The journal cannot be used. The text says which file, where, what, and what to do."""


class JournalMissing(JournalError):
    """No segment at all: the disk was wiped, or `init` never ran. Starting empty would forget votes."""


class JournalCorrupt(JournalError):
    """Something that this node had promised is damaged or gone; it must not vote."""


class JournalForeign(JournalError):
    """The folder belongs to another node or another cluster."""


class JournalVersion(JournalError):
    """Written in a format that this program does not know."""


@dataclass(slots=True)
class Recovered:
    """What `Journal.open` found. All of it is durable now."""

    records: list[Record]
    notes: list[str] = field(default_factory=list)
    """What was dropped or tidied, in words: how many bytes, where, why."""
    torn_bytes: int = 0
    """Bytes of torn tails that were dropped; none of them had been promised."""
    incarnation: int = 0
    """Number of this life of the node, from 1; durable."""


def _segment_name(number: int) -> str:
    return f"journal-{number:016d}.seg"


def _archive_name(number: int) -> str:
    return f"archive-{number:016d}.seg"


def _numbers(names: Iterable[str], kind: str) -> list[int]:
    found = (_NAME.fullmatch(name) for name in names)
    return sorted(int(match[2]) for match in found if match and match[1] == kind)


def merge(lists: Iterable[Sequence[Op]]) -> list[Op]:
    """Join op lists in order: consecutive appends to a file become one, with one sync behind them.

    Sound because only a run of `Append` and `Sync` on one and the same file is touched: the file's bytes reach the disk in the
    same order, and its syncs return before any other operation begins. Whoever waited for a sync waits for the end of the job."""
    merged: list[Op] = []
    name, sync = "", False
    parts: list[bytes] = []

    def flush() -> None:
        nonlocal sync
        if parts:
            merged.append(Append(name, parts[0] if len(parts) == 1 else b"".join(parts)))
            parts.clear()
        if sync:
            merged.append(Sync(name))
            sync = False

    for ops in lists:
        for op in ops:
            kind = type(op)
            if kind is not Append and kind is not Sync:
                flush()
                merged.append(op)
                continue
            assert isinstance(op, Append | Sync)
            if op.name != name:
                flush()
                name = op.name
            if isinstance(op, Append):
                parts.append(op.data)
            else:
                sync = True
    flush()
    return merged


class Recorder(Protocol):
    """What a replica needs of a journal; whoever wants to hear of its records puts one in between that meets this."""

    @property
    def size(self) -> int:
        """As `Journal.size`."""

    def append(self, records: Sequence[Record]) -> tuple[list[Op], int]:
        """As `Journal.append`."""

    def rotate(self, state_records: Sequence[Record]) -> tuple[list[Op], int]:
        """As `Journal.rotate`."""

    def mark_synced(self, mark: int) -> None:
        """As `Journal.mark_synced`."""


class Journal:
    """The writing end: makes the operations; whoever runs the node performs them in this order, one after the other.

    A *mark* is a position that only grows, over all segments; it is durable once the operations that came with it are done."""

    __slots__ = (
        "_archive",
        "_base",
        "_chain",
        "_end",
        "_identity",
        "_incarnation",
        "_name",
        "_number",
        "_reserve",
        "_seed",
        "_synced",
    )

    def __init__(
        self,
        identity: Identity,
        number: int,
        incarnation: int,
        base: int,
        end: int,
        chain: int,
        archive: bool,
        reserve: int,
    ) -> None:
        """For `open`. `base`: end of the segment's state batch; `end`: of the segment, all of it durable."""
        self._identity = identity
        self._incarnation = incarnation
        self._archive = archive
        self._reserve = reserve
        self._begin(number, base, end, chain)

    def _begin(self, number: int, base: int, end: int, chain: int) -> None:
        self._number = number
        self._name = _segment_name(number)
        self._seed = self._identity.seed(number)
        self._base = base
        self._end = end
        self._synced = end
        self._chain = chain

    @property
    def size(self) -> int:
        """Bytes in the current segment behind the state it began with."""
        return self._end - self._base

    @property
    def incarnation(self) -> int:
        """Number of this life of the node."""
        return self._incarnation

    @property
    def mark(self) -> int:
        """The position behind everything appended so far."""
        return self._number << _MARK_BITS | self._end

    @staticmethod
    def create_ops(identity: Identity, reserve: int = RESERVE) -> list[Op]:
        """Operations that make the first segment, with no records, in an empty folder. For `init`, never for start-up."""
        data, _, _ = _new_segment(identity, 1, 0, 0, 0, [])
        name = _segment_name(1)
        return [Create(name, reserve), Append(name, data), Sync(name), SyncDirectory()]

    @staticmethod
    def open(
        disk: Disk, identity: Identity, archive: bool = False, reserve: int = RESERVE
    ) -> tuple[Journal, Recovered]:
        """Read the journal back, repair its tail and begin a new incarnation, all durable on return.

        Raises JournalMissing, JournalCorrupt, JournalForeign, JournalVersion (the disk is then as it was) and DiskError."""
        names = disk.names()
        segment, number, newer = _choose(disk, names, identity)
        recovered = Recovered([record for batch in segment.batches for record in batch.records])
        incarnation = segment.batches[-1].incarnation
        name = _segment_name(number)
        if newer is not None:
            sometimes("recovery: a segment without its first batch is dropped for the one before")
            # Gone for good before the older segment is touched: its existence says that the older one is complete.
            disk.perform([Remove(newer.name), SyncDirectory()])
            recovered.torn_bytes += newer.torn_bytes
            recovered.notes.append(
                f"{newer.name}: dropped; its first batch had not been written completely when the power went "
                f"({newer.torn_bytes} bytes), {name} still holds everything"
            )
            if newer.header is not None:
                incarnation = max(incarnation, newer.header.incarnation)
        if segment.damage:
            sometimes("recovery: a torn tail is dropped")
            recovered.torn_bytes += segment.torn_bytes
            recovered.notes.append(
                f"{name}: dropped a torn tail of {segment.torn_bytes} bytes at offset {segment.end} "
                f"({segment.damage}); nothing says that it had ever been synced"
            )
        # The tail must be gone before anything is written behind it, else a later cut could bring it back under new batches.
        disk.perform([Truncate(name, segment.end, reserve), Sync(name)])
        incarnation += 1
        data, chain = encode_batch([], incarnation, segment.end, segment.chain, identity.seed(number))
        # This sync also covers batches that were read back but never known to be synced: from now on they are promised.
        disk.perform([Append(name, data), Sync(name), SyncDirectory()])
        older = [other for other in _numbers(names, "journal") if other < number]
        if older:
            sometimes("recovery: a segment that was replaced is still there and goes")
            disk.perform([*(_retire(other, archive) for other in older), SyncDirectory()])
            done = "archived" if archive else "removed"
            recovered.notes.extend(f"{_segment_name(other)}: replaced by {name}; {done}" for other in older)
        recovered.incarnation = incarnation
        journal = Journal(
            identity,
            number,
            incarnation,
            segment.batches[0].end,
            segment.end + len(data),
            chain,
            archive,
            reserve,
        )
        return journal, recovered

    def append(self, records: Sequence[Record]) -> tuple[list[Op], int]:
        """Operations that make records durable, as one batch that survives whole or not at all; and their mark. No records: no
        operations, and the mark of what was appended last."""
        if not records:
            return [], self.mark
        data, self._chain = encode_batch(records, self._incarnation, self._synced, self._chain, self._seed)
        self._end += len(data)
        return [Append(self._name, data), Sync(self._name)], self.mark

    def mark_synced(self, mark: int) -> None:
        """The operations that came with `mark` are done. Later batches say so, which lets recovery tell corruption from a torn
        tail. Marks of older segments are ignored. Raises ValueError for a mark that was never given out."""
        if mark > self.mark:
            raise ValueError(
                f"mark {mark} lies behind the end of the journal ({self.mark}); it was never given out"
            )
        if mark >> _MARK_BITS != self._number:
            sometimes("a write is done to a segment that has been replaced since")
        else:
            self._synced = max(self._synced, mark & ((1 << _MARK_BITS) - 1))

    def rotate(self, state_records: Sequence[Record]) -> tuple[list[Op], int]:
        """Operations that begin a new segment with `state_records`, then retire the old one; and their mark. The records must
        cover everything appended before."""
        old, number = self._number, self._number + 1
        data, base, chain = _new_segment(
            self._identity, number, self._incarnation, self._end, self._chain, state_records
        )
        ops: list[Op] = [Sync(self._name)]  # first: the new file's existence says that this one is complete
        self._begin(number, base, len(data), chain)
        # `_begin` counts the state as synced already. That is sound: no batch of this segment is written before
        # the sync below has returned (`merge` keeps it in front of the SyncDirectory), so a batch that can be read
        # back proves the state durable.
        ops += [
            Create(self._name, self._reserve),
            Append(self._name, data),
            Sync(self._name),
            SyncDirectory(),
        ]
        ops += [_retire(old, self._archive), SyncDirectory()]
        return ops, self.mark


def _retire(number: int, archive: bool) -> Op:
    if archive:
        return Rename(_segment_name(number), _archive_name(number))
    return Remove(_segment_name(number))


def _new_segment(
    identity: Identity,
    number: int,
    incarnation: int,
    previous_end: int,
    previous_chain: int,
    records: Sequence[Record],
) -> tuple[bytes, int, int]:
    """(bytes, end of the state batch, its chain value)."""
    header = Header(identity, number, incarnation, previous_end, previous_chain).encode()
    start = int.from_bytes(header[-4:], "little")
    data, chain = encode_batch(records, incarnation, 0, start, identity.seed(number))
    return header + data, len(header) + len(data), chain


def _load(disk: Disk, number: int, identity: Identity) -> Segment:
    name = _segment_name(number)
    try:
        segment = parse_segment(name, number, disk.read(name), identity)
    except SegmentVersionError as error:
        raise JournalVersion(
            f"{name}: {error}; start the program version that wrote it, nothing was changed"
        ) from None
    header = segment.header
    if header is not None and header.identity != identity:
        raise JournalForeign(
            f"{name} belongs to node {header.identity.node!r} of cluster {header.identity.cluster!r}, this is node "
            f"{identity.node!r} of cluster {identity.cluster!r}; give this node its own data folder"
        )
    return segment


_ADVICE: Final = (
    "This node must not vote with what is left. Keep the folder for inspection; "
    "bring the machine back as a new member with an empty folder"
)


def _corrupt(name: str, offset: int, what: str) -> JournalCorrupt:
    sometimes("recovery: something promised is damaged, and the node does not start")
    return JournalCorrupt(f"{name}, offset {offset}: {what}. {_ADVICE}.")


def _choose(disk: Disk, names: list[str], identity: Identity) -> tuple[Segment, int, Segment | None]:
    """(the segment that counts, its number, a newer one to drop). Changes nothing."""
    numbers, archived = _numbers(names, "journal"), _numbers(names, "archive")
    if not numbers:
        sometimes("recovery: there is no journal, and the node does not start")
        what = (
            f"there are only archived segments, up to {_archive_name(archived[-1])}"
            if archived
            else "none is there"
        )
        raise JournalMissing(
            f"no journal segment (journal-*.seg) in the data folder of node {identity.node!r}: {what}. If this node "
            "never ran, run `init` for it. If it did, its disk was wiped: it must come back as a new member, "
            "because an empty journal would forget its votes."
        )
    number, newer = numbers[-1], None
    segment = _load(disk, number, identity)
    if not segment.batches:
        newer = segment
        segment = _before_torn_rotation(disk, numbers, newer, identity)
        number -= 1
    elif segment.damage and segment.proof:
        raise _corrupt(segment.name, segment.end, f"{segment.damage}, although {segment.proof}")
    if archived and archived[-1] >= number:
        raise _corrupt(
            segment.name,
            0,
            f"{_archive_name(archived[-1])} shows that segment {archived[-1] + 1} was durable once, and it is not here",
        )
    return segment, number, newer


def _before_torn_rotation(disk: Disk, numbers: list[int], newer: Segment, identity: Identity) -> Segment:
    """The segment before one whose first batch is not complete, or JournalCorrupt if that may not be counted away."""
    if newer.proof:
        raise _corrupt(newer.name, newer.end, f"{newer.damage}, although {newer.proof}")
    previous = numbers[-1] - 1
    if previous not in numbers:
        # The old segment goes only after the new one is durable; so this one had been.
        hint = (
            ", or this node's `init` was cut short: then empty the folder and repeat it"
            if previous == 0
            else ""
        )
        raise _corrupt(
            newer.name, newer.end, f"{newer.damage or 'no state batch'}, and no older segment is left{hint}"
        )
    segment = _load(disk, previous, identity)
    if segment.damage or not segment.batches:
        what = segment.damage or "no state batch"
        raise _corrupt(
            segment.name, segment.end, f"{what}, although it was complete before {newer.name} was made"
        )
    if newer.header is not None and segment.end < newer.header.previous_end:
        raise _corrupt(
            segment.name,
            segment.end,
            f"it ends here, although {newer.name} says that it was complete up to {newer.header.previous_end}",
        )
    return segment


# ------------------------------------------------------------------------------------------------------ offline reading


@dataclass(slots=True)
class SegmentView:
    """A segment as an audit sees it. `batches[0]` is the state it began with; a batch without records begins an incarnation."""

    name: str
    number: int
    archived: bool
    identity: Identity | None
    """None if the header is damaged."""
    incarnation: int
    """Of its last intact batch."""
    batches: list[Batch]
    end: str
    """`clean`, `torn` or `corrupt`."""
    words: str
    """What is wrong and where; empty if clean."""


def read_segments(disk: Disk) -> Iterator[SegmentView]:
    """Every segment, archived ones included, by number; a segment that stands under both names comes twice. Changes nothing.
    Raises JournalVersion, DiskError."""
    names = disk.names()
    found = sorted((int(match[2]), match[1], name) for name in names if (match := _NAME.fullmatch(name)))
    last = max((number for number, _, _ in found), default=0)
    headers = {number: _peek(disk, number, name) for number, _, name in found}
    known = next((header.identity for header in headers.values() if header is not None), None)
    for number, kind, name in found:
        try:
            segment = parse_segment(name, number, disk.read(name), known)
        except SegmentVersionError as error:
            raise JournalVersion(f"{name}: {error}") from None
        header = segment.header
        end, words = "clean", ""
        following = headers.get(number + 1)
        short = following is not None and segment.end < following.previous_end
        if segment.damage or not segment.batches or short:
            what = segment.damage or ("it ends early" if segment.batches else "no state batch")
            words = f"{name}, offset {segment.end}: {what}"
            reason = segment.proof
            if not reason and number < last:
                reason = "it was complete before the next segment was made"
            if reason:
                end, words = "corrupt", f"{words}, although {reason}"
            else:
                end, words = "torn", f"{words} ({segment.torn_bytes} bytes)"
        yield SegmentView(
            name,
            number,
            kind == "archive",
            header.identity if header else None,
            segment.batches[-1].incarnation if segment.batches else (header.incarnation if header else 0),
            segment.batches,
            end,
            words,
        )


def _peek(disk: Disk, number: int, name: str) -> Header | None:
    try:
        found = decode_header(disk.read(name, 0, 4096))
    except SegmentVersionError as error:
        raise JournalVersion(f"{name}: {error}") from None
    return found[0] if found is not None and found[0].number == number else None
