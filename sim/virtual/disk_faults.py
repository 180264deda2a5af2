"""Faults of a disk: conditions that a world lays on a `MemoryDisk` for a time, each with a random stream of its own.

A condition draws only when one of its operations is performed, so that taking it out of a schedule leaves everybody else's
draws as they were. It counts in `disk.bites` what it truly did, and tells `by` the same words. Errors follow the contract:
after one every call raises DiskError until the process restarts.

What there is, and after whom: docs/reference/virtual-disk.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from node.disk import Append, Create, Op, Remove, Rename, Sync, SyncDirectory, Truncate
from sim.virtual.disk import Handler, MemoryDisk
from sim.virtual.disk_file import File, Hole
from sim.virtual.loss import PAGE, SECTOR

FOREVER: Final = 1 << 61
"""Microseconds that `MemoryDisk.delay` gives for what is stalled."""


class DiskFault:
    """What the conditions here share: which files, how often, whom to tell."""

    ops: tuple[type, ...] = ()

    def __init__(
        self,
        rng: Random,
        chance: float = 1.0,
        files: Sequence[str] = ("",),
        by: Callable[[str], object] | None = None,
    ) -> None:
        """`chance`: for each operation that it could befall. `files`: beginnings of the names that it befalls (`journal-`...).
        `by`: told the name of the fault whenever it bites."""
        if not 0 <= chance <= 1:
            raise ValueError(f"a chance lies between 0 and 1, not at {chance}")
        self.rng = rng
        self.chance = chance
        self.files = tuple(files)
        self.by = by

    def perform(self, disk: MemoryDisk, onward: Handler, op: Any) -> None:
        """See `sim.virtual.disk.Condition`."""
        onward(op)

    def reading(self, disk: MemoryDisk, name: str, start: int, stop: int) -> None:
        """See `sim.virtual.disk.Condition`."""

    def delay(self, disk: MemoryDisk, op: Op, took: int) -> int:
        """See `sim.virtual.disk.Condition`."""
        return took

    def strikes(self, name: str) -> bool:
        """Whether it befalls this operation on a file."""
        return name.startswith(self.files) and self.rng.random() < self.chance

    def bite(self, disk: MemoryDisk, what: str) -> None:
        """It truly did something."""
        disk.bites[what] += 1
        if self.by is not None:
            self.by(what)


class WriteError(DiskFault):
    """EIO on what changes a file or a name. Of an append some whole sectors may have been written."""

    ops = (Append, Create, Truncate, Rename, Remove)

    def perform(self, disk: MemoryDisk, onward: Handler, op: Any) -> None:
        """Fail instead of doing it."""
        name = op.old if isinstance(op, Rename) else op.name
        if not self.strikes(name):
            onward(op)
            return
        if isinstance(op, Append) and op.data:
            boundary = SECTOR - disk.file(name).end % SECTOR if name in disk.listing() else 0
            cuts = [0, *range(boundary, len(op.data), SECTOR)] if boundary else [0]
            onward(Append(name, op.data[: self.rng.choice(cuts)]))
        self.bite(disk, "write error")
        raise disk.failure(type(op).__name__.lower(), name, "EIO (injected)")


class ReadError(DiskFault):
    """EIO on reading. With `lasting` the sector that could not be read never can be again."""

    def __init__(
        self,
        rng: Random,
        chance: float = 1.0,
        files: Sequence[str] = ("",),
        by: Callable[[str], object] | None = None,
        lasting: bool = False,
    ) -> None:
        """See the class and `DiskFault`."""
        super().__init__(rng, chance, files, by)
        self.lasting = lasting

    def reading(self, disk: MemoryDisk, name: str, start: int, stop: int) -> None:
        """Fail, perhaps for good."""
        if start >= stop or not self.strikes(name):
            return
        self.bite(disk, "read error")
        if self.lasting:
            at = self.rng.randrange(start, stop) // SECTOR * SECTOR
            make_unreadable(disk, name, at)
        raise disk.failure("pread", name, "EIO (injected)")


def make_unreadable(disk: MemoryDisk, name: str, at: int) -> None:
    """A latent sector error: from now on the sector of byte `at` cannot be read. Raises KeyError if there is no such file."""
    start = at // SECTOR * SECTOR
    file = disk.file(name)
    file.bad.append((start, start + SECTOR))
    if start < file.promised:
        stop = min(start + SECTOR, file.promised)
        disk.damaged.append(f"{name}: bytes {start} to {stop}: cannot be read any more")


class SyncError(DiskFault):
    """fsync fails, and what it should have written is gone: the kernel calls those pages clean.

    `shows`: what the file shows from then on: `new`, what was written, until a cut of the power (ext4, XFS), `old`, what the
    disk has (Btrfs), or `either`, drawn each time. A later fsync succeeds without writing them. Of names nothing is lost
    at once: those not yet durable stay so."""

    ops = (Sync, SyncDirectory)

    def __init__(
        self,
        rng: Random,
        chance: float = 1.0,
        files: Sequence[str] = ("",),
        by: Callable[[str], object] | None = None,
        shows: str = "either",
    ) -> None:
        """Raises ValueError for a `shows` that there is not."""
        super().__init__(rng, chance, files, by)
        if shows not in ("new", "old", "either"):
            raise ValueError(f"after a failed fsync a file shows 'new', 'old' or 'either', not {shows!r}")
        self.shows = shows

    def perform(self, disk: MemoryDisk, onward: Handler, op: Any) -> None:
        """Lose what is dirty and fail."""
        directory = isinstance(op, SyncDirectory)
        name = "." if directory else op.name
        if not self.strikes("" if directory else name) or not (directory or name in disk.listing()):
            onward(op)
            return
        if not directory:
            self._lose(disk, disk.file(name))
        self.bite(disk, "failed fsync")
        raise disk.failure("fsync", name, "EIO (injected); what was dirty is gone")

    def _lose(self, disk: MemoryDisk, file: File) -> None:
        lost = [
            (max(page, file.synced), min(page + PAGE, len(file.data)))
            for page in range(file.synced // PAGE * PAGE, len(file.data), PAGE)
        ]
        lost = [span for span in lost if span[0] < span[1]]
        if not lost:
            return
        self.bite(disk, "failed fsync with dirty bytes")
        # Pages that were already on their way may have arrived; one did not, or there would be no error.
        missed = self.rng.randrange(len(lost))
        lost = [span for place, span in enumerate(lost) if place == missed or self.rng.random() < 0.7]
        shown = self.shows == "new" or (self.shows == "either" and self.rng.random() < 0.5)
        for start, stop in lost:
            if shown:
                file.holes.append(
                    Hole(start, stop, "never written: an earlier fsync of them had failed", True)
                )
            else:
                file.blank(start, stop)


class LyingSync(DiskFault):
    """fsync returns and nothing was made durable (a drive that lies about its cache). More than any protocol promises to
    survive."""

    ops = (Sync,)

    def perform(self, disk: MemoryDisk, onward: Handler, op: Any) -> None:
        """Promise without doing."""
        if op.name in disk.listing() and self.strikes(op.name):
            file = disk.file(op.name)
            if len(file.data) > file.synced:
                file.holes.append(
                    Hole(file.synced, len(file.data), "fsync returned and nothing was written", True)
                )
                self.bite(disk, "lying fsync")
        onward(op)


class FullDisk(DiskFault):
    """ENOSPC beyond `capacity` bytes, reserves counted. Of the append that no longer fits a part may be written."""

    ops = (Append, Create, Truncate)

    def __init__(
        self,
        rng: Random,
        capacity: int,
        files: Sequence[str] = ("",),
        by: Callable[[str], object] | None = None,
    ) -> None:
        """`capacity`: in bytes, of all files together."""
        super().__init__(rng, 1.0, files, by)
        self.capacity = capacity

    def perform(self, disk: MemoryDisk, onward: Handler, op: Any) -> None:
        """Do it if there is room."""
        known = op.name in disk.listing()
        if not op.name.startswith(self.files) or known == isinstance(op, Create):
            onward(op)
            return
        room = self.capacity - sum(disk.file(name).size for name in disk.listing())
        if self._growth(op, disk.file(op.name) if known else None) <= max(room, 0):
            onward(op)
            return
        if isinstance(op, Create):
            onward(Create(op.name))
        elif isinstance(op, Truncate):
            onward(Truncate(op.name, op.size))
        else:
            self._write_part(disk.file(op.name), op.data, max(room, 0))
        self.bite(disk, "full disk")
        raise disk.failure(type(op).__name__.lower(), op.name, "ENOSPC (no space left, injected)")

    def _growth(self, op: Append | Create | Truncate, file: File | None) -> int:
        if file is None or isinstance(op, Create):
            return op.reserve if isinstance(op, Create) else 0
        if isinstance(op, Truncate):
            return op.size + op.reserve - file.size
        end = file.end + len(op.data)
        return end + file.reserve - file.size if end > file.size else 0

    def _write_part(self, file: File, data: bytes, room: int) -> None:
        fits = min(file.size - file.end + room, len(data) - 1)
        part = data[: self.rng.randint(0, max(0, fits))]
        file.write(file.end, part)
        file.end += len(part)
        file.size = max(file.size, file.end)


class LostWrite(DiskFault):
    """A phantom write: an append succeeds, its sync returns, and the bytes were never there. More than any protocol promises
    to survive, for the newest bytes of a file."""

    ops = (Append,)

    def perform(self, disk: MemoryDisk, onward: Handler, op: Any) -> None:
        """Write zeros instead."""
        onward(op)
        if op.data and self.strikes(op.name):
            file = disk.file(op.name)
            file.blank(file.end - len(op.data), file.end)
            self.bite(disk, "lost write")
            disk.harm(op.name, file.end - len(op.data), file.end, "a write that never reached the disk")


class MisdirectedWrite(DiskFault):
    """An append's sectors land at another sector of the same or of another file; the right place keeps what it had.

    What they cover there is overwritten, up to the end of that file. Where there is no other sector the write is lost."""

    ops = (Append,)

    def perform(self, disk: MemoryDisk, onward: Handler, op: Any) -> None:
        """Write elsewhere."""
        onward(op)
        if not op.data or not self.strikes(op.name):
            return
        file = disk.file(op.name)
        start, stop = file.end - len(op.data), file.end
        first = start // SECTOR * SECTOR
        moved = bytes(file.data[first:stop])
        moved += bytes(-len(moved) % SECTOR)
        file.blank(start, stop)
        disk.harm(op.name, start, stop, "a write that went to another place")
        self.bite(disk, "misdirected write")
        places = [
            (name, sector)
            for name in disk.listing()
            for sector in range(0, disk.file(name).size, SECTOR)
            if name != op.name or sector != first
        ]
        if places:
            overwrite(disk, *self.rng.choice(places), moved, "overwritten by a write that belonged elsewhere")


def overwrite(disk: MemoryDisk, name: str, at: int, data: bytes, why: str) -> None:
    """Put `data` over the bytes of a file from `at` on, without making it longer; what that harms is accounted for with the
    word `why`. Raises KeyError if there is no such file."""
    file = disk.file(name)
    data = data[: max(0, file.size - at)]
    before = bytes(file.data[at : at + len(data)])
    file.write(at, data)
    changed = [place for place, (old, new) in enumerate(zip(before, data, strict=False)) if old != new]
    if changed:
        disk.harm(name, at + changed[0], at + changed[-1] + 1, why)


class SlowDisk(DiskFault):
    """Operations take `factor` times as long, and from `low` to `high` microseconds more."""

    def __init__(
        self,
        rng: Random,
        factor: int = 1,
        low: int = 0,
        high: int = 0,
        files: Sequence[str] = ("",),
        by: Callable[[str], object] | None = None,
    ) -> None:
        """Raises ValueError for what makes nothing slower."""
        super().__init__(rng, 1.0, files, by)
        if factor < 1 or not 0 <= low <= high:
            raise ValueError(f"slow means factor >= 1 and 0 <= low <= high, not {factor}, {low}, {high}")
        self.factor, self.low, self.high = factor, low, high

    def delay(self, disk: MemoryDisk, op: Op, took: int) -> int:
        """More than it would have taken."""
        if took >= FOREVER:
            return took
        slower = took * self.factor + self.rng.randint(self.low, self.high)
        if slower > took:
            self.bite(disk, "slow disk")
        return slower


class Stall(DiskFault):
    """Every fsync hangs until the condition is lifted: `delay` gives `FOREVER`, and the world asks again then."""

    def delay(self, disk: MemoryDisk, op: Op, took: int) -> int:
        """FOREVER for what syncs."""
        if not isinstance(op, Sync | SyncDirectory):
            return took
        self.bite(disk, "stalled fsync")
        return FOREVER


class Latency:
    """How long a sound disk takes: a fixed time and a time by length for a write, a drawn one for a sync, stretched by ten for
    a share `tail` of them. Times in microseconds."""

    __slots__ = ("_kib", "_low", "_random", "_spread", "_tail", "_write")

    def __init__(
        self,
        rng: Random,
        low: int = 100,
        high: int = 1500,
        tail: float = 0.01,
        write: int = 5,
        kib: int = 1,
    ) -> None:
        """Syncs take `low` to `high`, writes `write` and `kib` more for each KiB, everything else `write`."""
        self._random = rng.random
        self._low, self._spread, self._tail = low, high - low + 1, 1.0 - tail
        self._write, self._kib = write, kib

    def __call__(self, op: Op) -> int:
        kind = type(op)
        if kind is Sync or kind is SyncDirectory:
            draw = self._random
            took = self._low + int(draw() * self._spread)
            return took if draw() < self._tail else took * 10
        if isinstance(op, Append):
            return self._write + len(op.data) * self._kib // 1024
        return self._write
