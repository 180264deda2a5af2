"""What a power cut does to bytes and names that no sync covered: the one law for disks in memory and for real folders.

A disk writes sectors of 512 bytes whole, and the kernel hands it pages of 4 KiB in any order. So what was not synced may be
there, be missing, be there up to some sector, or be patchy: some sectors as written, some still zero, some garbage; and the
length may have reached the disk while its blocks still hold what somebody else once wrote there. Bytes below a synced length are
never touched, not even within the sector in which that length lies. Names may be undone one by one, in any combination that
makes sense: an operation can only be undone if every later one on the same names was. Bytes and names know nothing of each other,
so a new name may stand before the bytes it was made for.

Source: the persistence properties of real file systems in Pillai et al., "All File Systems Are Not Created Equal" (ALICE),
OSDI 2014, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

SECTOR: Final = 512
PAGE: Final = 4096

FATES: Final = ("keep", "drop", "prefix", "tear", "stale")
"""What may become of unsynced bytes: all there, all gone, there up to some sector, patchy, or the length without the bytes."""
LOST: Final = ("drop", "prefix")
"""The same, if the kernel had not yet begun to write them: the usual case a moment after the write."""


@dataclass(slots=True)
class PowerLoss:
    """What a cut found and did, summed over the files of a folder."""

    unsynced_bytes: int = 0
    """Bytes written that no sync covered."""
    dropped_bytes: int = 0
    """Of these, gone because a file lost its unsynced end."""
    torn_bytes: int = 0
    """Of these, zero or garbage between sectors that stayed, or garbage throughout."""
    garbage_bytes: int = 0
    """Bytes that nobody wrote there: the part of the torn ones that is not zero, and stale blocks behind them."""
    mixed_bytes: int = 0
    """Bytes written behind a truncation, found in the old, longer file because only the truncation was undone."""
    entries_undone: int = 0
    """Creations, renames, removals and truncations that had never happened."""
    in_trap: bool = False
    """The cut landed exactly between a write and its fsync (real disks only)."""

    def add(self, other: PowerLoss) -> None:
        """Add another folder's loss to this one."""
        self.unsynced_bytes += other.unsynced_bytes
        self.dropped_bytes += other.dropped_bytes
        self.torn_bytes += other.torn_bytes
        self.garbage_bytes += other.garbage_bytes
        self.mixed_bytes += other.mixed_bytes
        self.entries_undone += other.entries_undone
        self.in_trap = self.in_trap or other.in_trap


def undone(rng: Random, operations: Sequence[set[str]]) -> list[int]:
    """Which of the unsynced name operations (each the names it touches, oldest first) to undo, latest first."""
    pinned: set[str] = set()
    chosen = []
    for place in range(len(operations) - 1, -1, -1):
        if pinned.isdisjoint(operations[place]) and rng.random() < 0.5:
            chosen.append(place)
        else:
            pinned |= operations[place]
    return chosen


def overlay(rng: Random, start: int, old: bytes, new: bytes, loss: PowerLoss) -> bytes:
    """What stands from `start` on after a truncation to `start` was undone: `old`, what it had cut off, in which sectors
    of `new`, written behind it, may already have landed. As long as `old`; the count goes into `loss`."""
    # One draw whatever the lengths are: a real folder cannot tell written zeros from a reserve, and must draw alike.
    own = Random(rng.getrandbits(64))
    if not new or own.random() < 0.5:
        return old
    found = bytearray(old)
    stop = start + min(len(old), len(new))
    at = start
    while at < stop:
        end = min((at // SECTOR + 1) * SECTOR, stop)
        if own.random() < 0.5:
            found[at - start : end - start] = new[at - start : end - start]
            loss.mixed_bytes += end - at
        at = end
    return bytes(found)


def lose(
    rng: Random,
    data: bytes,
    synced: int,
    durable: int,
    size: int,
    loss: PowerLoss,
    fates: Sequence[str] = FATES,
) -> tuple[bytes, int]:
    """(data, size) of a file after a cut; the counts go into `loss`.

    data: what was written. synced: bytes of it that survive. size: of the file, >= len(data), zeros behind the data
    (reserved space). durable: the size that survives, synced <= durable <= size. fates: what to draw from."""
    shorter = max(durable, synced)
    unsynced = len(data) - synced
    if unsynced <= 0:
        return data, max(len(data), rng.choice((size, shorter)))
    loss.unsynced_bytes += unsynced
    fate = rng.choice(fates)
    if fate == "keep":
        return data, size
    if fate == "tear":
        return _tear(rng, data, synced, durable, size, loss)
    if fate == "stale":
        return _stale(rng, data, synced, durable, size, loss)
    first = synced // SECTOR + 1
    sectors = (len(data) - 1) // SECTOR - first + 1  # boundaries strictly inside the unsynced bytes
    end = (first + rng.randrange(sectors)) * SECTOR if fate == "prefix" and sectors > 0 else synced
    loss.dropped_bytes += len(data) - end
    return data[:end], max(shorter, end, rng.choice((size, 0)))


def _tear(
    rng: Random, data: bytes, synced: int, durable: int, size: int, loss: PowerLoss
) -> tuple[bytes, int]:
    parts = [data[:synced]]
    end = synced  # behind the last byte that is not zero for sure
    start = synced
    page, fate = -1, ""
    while start < len(data):
        stop = min((start // SECTOR + 1) * SECTOR, len(data))
        if start // PAGE != page:
            page = start // PAGE
            fate = rng.choice(("kept", "zero", "mixed", "mixed"))
        sector = fate if fate != "mixed" else rng.choice(("kept", "zero", "garbage"))
        if sector == "kept":
            parts.append(data[start:stop])
        elif sector == "zero":
            parts.append(bytes(stop - start))
        else:
            parts.append(rng.randbytes(stop - start))
            loss.garbage_bytes += stop - start
        if sector != "kept":
            loss.torn_bytes += stop - start
        if sector != "zero":
            end = stop
        start = stop
    return b"".join(parts)[:end], max(durable, end, rng.choice((size, 0)))


def _stale(
    rng: Random, data: bytes, synced: int, durable: int, size: int, loss: PowerLoss
) -> tuple[bytes, int]:
    """The length came first and the blocks hold what they held before, up to a page behind what was written; but never
    in a reserve that was synced: that reads as zeros for ever."""
    end = max(len(data), min(size, len(data) + PAGE) if durable <= len(data) else 0)
    loss.torn_bytes += len(data) - synced
    loss.garbage_bytes += end - synced
    return data[:synced] + rng.randbytes(end - synced), size
