"""Rot: bits that flip in what was written and synced long ago, aimed at a named part of a journal or a snapshot.

`places` reads the files as `node.segment` and `node.snapshot` lay them out, so that rare parts (a header, a manifest) are hit
as easily as long ones. It knows which damage a single node can tell from a torn write and which it cannot: the window of
docs/explanation/durability.md. Source of the idea: Alagappan et al., "Protocol-Aware Recovery for Consensus-Based Storage",
FAST 2018.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from random import Random
from typing import Final

from node.segment import BATCH_HEADER_SIZE, Segment, SegmentVersionError, parse_segment
from node.snapshot import SnapshotError, decode_manifest
from sim.virtual.disk import MemoryDisk
from sim.virtual.disk_faults import overwrite
from sim.virtual.loss import SECTOR

PARTS: Final = (
    "segment header",
    "segment state",
    "batch header",
    "batch records",
    "older segment",
    "archived segment",
    "snapshot head",
    "manifest",
    "chunk length",
    "chunk",
    "older snapshot",
)
"""The parts that rot can be aimed at. A segment's and a snapshot's own parts are those of the newest one."""

_SEGMENT: Final = re.compile(r"(journal|archive)-(\d{16})\.seg")
_SNAPSHOT: Final = re.compile(r"snapshot-(\d{16})\.snap")
_SNAPSHOT_HEAD: Final = 46
_MANIFEST_LENGTH: Final = 10
"""Where it stands in the head, in four bytes."""


@dataclass(slots=True, frozen=True)
class Place:
    """Synced bytes [start, stop) of a file that are one part of it."""

    name: str
    part: str
    start: int
    stop: int


@dataclass(slots=True, frozen=True)
class Rot:
    """What `rot` did. `window`: nothing in the file tells this damage from a write that was torn before its sync returned."""

    name: str
    part: str
    start: int
    stop: int
    window: bool


def places(disk: MemoryDisk, parts: Collection[str] = PARTS) -> list[Place]:
    """Where synced bytes of these parts stand, by name and offset. Raises ValueError for a part that there is not."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no part of a file; there are {', '.join(PARTS)}")
    names = disk.listing()
    segments = [name for name in names if name.startswith("journal-") and _SEGMENT.fullmatch(name)]
    snapshots = [name for name in names if _SNAPSHOT.fullmatch(name)]
    found: list[Place] = []
    for name in names:
        if name.startswith("archive-"):
            found.append(Place(name, "archived segment", 0, disk.file(name).promised))
        elif name in segments:
            found += _of_segment(disk, name, name == segments[-1])
        elif name in snapshots:
            found += _of_snapshot(disk, name, name == snapshots[-1])
    wanted = []
    for place in found:
        stop = min(place.stop, disk.file(place.name).promised)
        if place.part in parts and place.start < stop:
            wanted.append(Place(place.name, place.part, place.start, stop))
    return wanted


def rot(
    disk: MemoryDisk,
    rng: Random,
    parts: Collection[str] = PARTS,
    bits: int = 1,
    sector: bool = False,
) -> Rot | None:
    """Damage one place of these parts, drawn evenly over the parts that are there: flip `bits` bits within 32 bytes, or turn a
    whole `sector` to garbage. None if there is nothing of the kind; else it is counted and accounted for."""
    found = places(disk, parts)
    if not found:
        return None
    part = rng.choice(sorted({place.part for place in found}))
    place = rng.choice([place for place in found if place.part == part])
    at = rng.randrange(place.start, place.stop)
    promised = disk.file(place.name).promised
    if sector:
        start, stop = at // SECTOR * SECTOR, min(at // SECTOR * SECTOR + SECTOR, promised)
        data = bytearray(rng.randbytes(stop - start))
        data[at - start] ^= data[at - start] == disk.file(place.name).data[at]  # a change for sure
    else:
        start, stop = at, min(at + 32, place.stop)
        data = bytearray(disk.file(place.name).data[start:stop])
        for bit in rng.sample(range(8 * len(data)), min(bits, 8 * len(data))):
            data[bit // 8] ^= 1 << bit % 8
    window = in_window(disk, place.name, start, stop)
    overwrite(disk, place.name, start, bytes(data), f"rot ({part})")
    disk.bites[f"rot: {part}"] += 1
    return Rot(place.name, part, start, stop, window)


def in_window(disk: MemoryDisk, name: str, start: int, stop: int) -> bool:
    """Whether damage to bytes [start, stop) of a file would look like a torn write: only ever in the newest segment, behind its
    state, where no batch behind the damage says that a batch in it had been synced."""
    match = _SEGMENT.fullmatch(name)
    if match is None or match[1] == "archive":
        return False
    segment = _parse(disk, name)
    if segment is None or not segment.batches or start < segment.batches[0].end:
        return False
    if any(other > name for other in disk.listing() if other.startswith("journal-")):
        return False
    hit = next((batch.offset for batch in segment.batches if batch.end > start), segment.end)
    return not any(batch.offset >= stop and batch.synced_upto > hit for batch in segment.batches)


def _parse(disk: MemoryDisk, name: str) -> Segment | None:
    match = _SEGMENT.fullmatch(name)
    assert match is not None
    try:
        return parse_segment(name, int(match[2]), disk.contents(name), None)
    except SegmentVersionError:
        return None


def _of_segment(disk: MemoryDisk, name: str, newest: bool) -> list[Place]:
    if not newest:
        return [Place(name, "older segment", 0, disk.file(name).promised)]
    segment = _parse(disk, name)
    if segment is None or segment.header is None:
        return []
    found = [Place(name, "segment header", 0, segment.header_size)]
    for place, batch in enumerate(segment.batches):
        if place == 0:
            found.append(Place(name, "segment state", batch.offset, batch.end))
            continue
        inner = batch.offset + BATCH_HEADER_SIZE
        found.append(Place(name, "batch header", batch.offset, inner))
        found.append(Place(name, "batch records", inner, batch.end))
    return found


def _of_snapshot(disk: MemoryDisk, name: str, newest: bool) -> list[Place]:
    if not newest:
        return [Place(name, "older snapshot", 0, disk.file(name).promised)]
    data = disk.contents(name)
    end = _SNAPSHOT_HEAD + int.from_bytes(data[_MANIFEST_LENGTH : _MANIFEST_LENGTH + 4], "little")
    found = [Place(name, "snapshot head", 0, _SNAPSHOT_HEAD), Place(name, "manifest", _SNAPSHOT_HEAD, end)]
    try:
        sizes = decode_manifest(data[_SNAPSHOT_HEAD:end]).sizes
    except SnapshotError:
        return found
    for size in sizes:
        found.append(Place(name, "chunk length", end, end + 4))
        found.append(Place(name, "chunk", end + 4, end + 4 + size))
        end += 4 + size
    return found
