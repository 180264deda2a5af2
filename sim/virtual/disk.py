"""A disk in memory with the contract of `node.disk.Disk`, whose power can be cut at any moment and on which faults can be laid.

The disk itself knows one fault, the power cut (`sim.virtual.loss` has its law). All others are *conditions*
(`sim.virtual.disk_faults`), laid on for a time and lifted again: a condition takes the place of the handlers it changes, so that
a disk without conditions pays nothing for them. Rot is in `sim.virtual.disk_rot`. `bites` counts what truly happened, `damaged`
says which acknowledged bytes were harmed. docs/reference/virtual-disk.md has the tables.

Every handler is a method, found when the disk is made: a mutant of the harness replaces one of them (`_lose`, `_sync`...).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any, Final, Protocol

from node.disk import Append, Create, DiskError, Op, Remove, Rename, Sync, SyncDirectory, Truncate
from sim.virtual.disk_file import File, Hole, Pending
from sim.virtual.loss import FATES, PowerLoss, lose, overlay, undone

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")

Handler = Callable[[Any], None]
Pace = Callable[[Op], int]
"""How many microseconds an operation takes."""


class Condition(Protocol):
    """What can be laid on a disk. `sim.virtual.disk_faults` has those that there are; anything of this shape will do."""

    ops: tuple[type, ...]
    """The operations whose handler it replaces."""

    def perform(self, disk: MemoryDisk, onward: Handler, op: Any) -> None:
        """Do `op` in this condition's way; `onward(op)` does it as if the condition were not there."""

    def reading(self, disk: MemoryDisk, name: str, start: int, stop: int) -> None:
        """Bytes [start, stop) are about to be read. May raise what `disk.failure` makes."""

    def delay(self, disk: MemoryDisk, op: Op, took: int) -> int:
        """Microseconds that `op` takes, which without this condition would be `took`."""


class MemoryDisk:
    """Files in memory. `cut` is a power cut; the same object is then the disk as the node finds it on restart."""

    def __init__(self, pace: Pace | None = None) -> None:
        """`pace` tells `delay` how long an operation takes while nothing is wrong; without it none takes any time."""
        self._files: dict[str, File] = {}
        self._dirty: dict[str, File] = {}
        """Every file with bytes that no sync covers, and perhaps others."""
        self._pending: list[Pending] = []
        self._failed = ""
        self._pace = pace
        self._conditions: list[Condition] = []
        self.fates: Sequence[str] = FATES
        """What a cut draws from for unsynced bytes (`sim.virtual.loss.FATES`)."""
        self.syncs = 0
        """How many `Sync` were performed."""
        self.bites: Counter[str] = Counter()
        """How often each fault truly did something."""
        self.damaged: list[str] = []
        """Harm to bytes for which a sync had returned, in words. Only ever grows."""
        self._handlers: dict[type, Handler] = {}
        self._rebuild()

    # ------------------------------------------------------------------------------------------------------ Disk

    def names(self) -> list[str]:
        """The files that there are, sorted."""
        self._check()
        return sorted(self._files)

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """Bytes of a file, reserved zeros included. Raises FileNotFoundError, DiskError."""
        self._check()
        file = self._files.get(_checked(name))
        if file is None:
            raise FileNotFoundError(name)
        stop = file.size if size < 0 else min(file.size, offset + size)
        for condition in self._conditions:
            condition.reading(self, name, offset, stop)
        for start, end in file.bad:
            if start < stop and offset < end:
                self.bites["unreadable sector"] += 1
                raise self.failure("pread", name, f"EIO (bytes {start} to {end} cannot be read)")
        return _bytes_of(file, offset, stop)

    def perform(self, ops: Sequence[Op]) -> None:
        """Perform operations in order. Raises DiskError, after which every call raises it."""
        if self._failed:
            raise DiskError(self._failed)
        handlers = self._handlers
        for op in ops:
            handlers[type(op)](op)

    def close(self) -> None:
        """Nothing to close: what was written stays, as it does in a kernel."""

    # ----------------------------------------------------------------------------- what befalls it from outside

    def fail(self, text: str) -> None:
        """From now on every call raises DiskError with this text, until a restart or a cut."""
        self._failed = self._failed or text

    def failure(self, what: str, name: str, problem: str) -> DiskError:
        """Fail for good; the error to raise. `what`: the call that failed."""
        self._failed = self._failed or f"{name}: {what} failed: {problem}"
        return DiskError(self._failed)

    @property
    def failed(self) -> str:
        """Why every call raises DiskError; empty if none does."""
        return self._failed

    @property
    def unsynced_bytes(self) -> int:
        """Bytes that a cut could take now."""
        total = 0
        for file in self._dirty.values():
            unsynced = len(file.data) - file.synced
            if unsynced > 0:
                total += unsynced
        return total

    def restart(self) -> None:
        """A new process opens the files: it sees all that was written, synced or not, and knows no ends, reserves, failures."""
        self._failed = ""
        for file in self._files.values():
            file.end = file.size
            file.reserve = 0

    def cut(self, rng: Random) -> PowerLoss:
        """Cut the power: memory of failures and open ends is gone, unsynced names and bytes meet a fate drawn from `rng`."""
        loss = PowerLoss()
        self.bites["cut"] += 1
        seed = rng.getrandbits(64)
        for place in undone(Random(f"{seed}/"), [op.names for op in self._pending]):
            self._take_back(self._pending[place])
            loss.entries_undone += 1
            self.bites["name undone"] += 1
        self._pending.clear()
        self._dirty.clear()
        self._failed = ""
        for name in sorted(self._files):
            self._settle(name, Random(f"{seed}/{name}"), loss)
        self._count(loss)
        return loss

    def wipe(self) -> None:
        """The disk is replaced by an empty one. `Journal.open` refuses it (JournalMissing): the node counts as lost."""
        promised = sum(file.promised for file in self._files.values())
        if promised:
            self.damaged.append(f"wiped: {promised} acknowledged bytes in {len(self._files)} files are gone")
        self.bites["wiped"] += 1
        self._files.clear()
        self._dirty.clear()
        self._pending.clear()
        self._failed = ""

    def lay(self, condition: Condition) -> None:
        """Lay a condition on the disk; the latest is asked first."""
        self._conditions.append(condition)
        self._rebuild()

    def lift(self, condition: Condition) -> None:
        """Take a condition away again; nothing happens if it is not there. What it did stays."""
        self._conditions = [other for other in self._conditions if other is not condition]
        self._rebuild()

    def clear(self) -> None:
        """Take every condition away."""
        self._conditions.clear()
        self._rebuild()

    def delay(self, op: Op) -> int:
        """Microseconds that `op` takes now, drawn anew at each call; `disk_faults.FOREVER` or more while it is stalled: ask
        again once the stall is lifted."""
        took = self._pace(op) if self._pace is not None else 0
        for condition in self._conditions:
            took = condition.delay(self, op, took)
        return took

    # ------------------------------------------------------------------------- for faults, oracles and tests: no checks

    def file(self, name: str) -> File:
        """The file as it is. Raises KeyError."""
        return self._files[name]

    def contents(self, name: str) -> bytes:
        """What `read` gives on a disk without failures. Raises KeyError."""
        file = self._files[name]
        return _bytes_of(file, 0, file.size)

    def listing(self) -> list[str]:
        """What `names` gives on a disk without failures."""
        return sorted(self._files)

    def harm(self, name: str, start: int, stop: int, why: str) -> None:
        """Account for bytes [start, stop) of a file not being what was written: damage as far as a sync has returned for
        them, and else as soon as one does."""
        file = self._files[name]
        promised = min(stop, file.synced)
        if start < promised:
            self.damaged.append(f"{name}: bytes {start} to {promised}: {why}")
        if stop > max(start, promised):
            file.holes.append(Hole(max(start, promised), stop, why))

    # -------------------------------------------------------------------------------------------------- operations

    def _rebuild(self) -> None:
        handlers: dict[type, Handler] = {
            Append: self._append,
            Sync: self._sync,
            SyncDirectory: self._sync_directory,
            Create: self._create,
            Rename: self._rename,
            Remove: self._remove,
            Truncate: self._truncate,
        }
        for condition in self._conditions:
            for kind in condition.ops:
                handlers[kind] = partial(condition.perform, self, handlers[kind])
        self._handlers = handlers

    def _check(self) -> None:
        if self._failed:
            raise DiskError(self._failed)

    def _refuse(self, op: Op, name: str, problem: str) -> DiskError:
        return self.failure(type(op).__name__.lower(), name, problem)

    def _missing(self, op: Append | Sync | Truncate) -> DiskError:
        return self._refuse(op, _checked(op.name), "ENOENT (no such file)")

    def _append(self, op: Append) -> None:
        file = self._files.get(op.name)
        if file is None:
            raise self._missing(op)
        if file.end == len(file.data):
            file.data += op.data
        else:
            file.write(file.end, op.data)
        file.end = end = file.end + len(op.data)
        if end > file.size:
            file.size = end + file.reserve
        self._dirty[op.name] = file

    def _sync(self, op: Sync) -> None:
        file = self._files.get(op.name)
        if file is None:
            raise self._missing(op)
        file.synced = file.end
        file.durable = file.size
        if file.cuts:
            file.cuts = []
        if file.holes:
            self._acknowledge(op.name, file)
        self._dirty.pop(op.name, None)
        self.syncs += 1

    def _acknowledge(self, name: str, file: File) -> None:
        """A sync has returned for bytes that are not there."""
        for hole in file.holes:
            if not hole.counted:
                hole.counted = True
                self.damaged.append(f"{name}: bytes {hole.start} to {hole.stop}: {hole.why}")
                self.bites["sync of bytes that are not there"] += 1
        file.holes = [hole for hole in file.holes if hole.shown]

    def _truncate(self, op: Truncate) -> None:
        file = self._files.get(op.name)
        if file is None:
            raise self._missing(op)
        if not 0 <= op.size <= file.size:
            raise self._refuse(op, op.name, f"EINVAL (cannot cut {file.size} bytes to {op.size})")
        file.truncate(op.size, op.reserve)

    def _create(self, op: Create) -> None:
        if _checked(op.name) in self._files:
            raise self._refuse(op, op.name, "EEXIST (the file exists)")
        self._files[op.name] = File(size=op.reserve, reserve=op.reserve)
        self._pending.append(Pending(Create, op.name, "", None))

    def _rename(self, op: Rename) -> None:
        _checked(op.new)
        if _checked(op.old) not in self._files:
            raise self._refuse(op, op.old, "ENOENT (no such file)")
        if op.old == op.new:
            return
        gone = self._files.get(op.new)
        self._files[op.new] = self._files.pop(op.old)
        self._dirty.pop(op.new, None)
        if op.old in self._dirty:
            self._dirty[op.new] = self._dirty.pop(op.old)
        self._pending.append(Pending(Rename, op.old, op.new, gone))

    def _remove(self, op: Remove) -> None:
        gone = self._files.pop(_checked(op.name), None)
        if gone is not None:
            self._dirty.pop(op.name, None)
            self._pending.append(Pending(Remove, op.name, "", gone))

    def _sync_directory(self, op: SyncDirectory) -> None:
        self._pending.clear()

    # --------------------------------------------------------------------------------------------------- power cuts

    def _take_back(self, op: Pending) -> None:
        if op.kind is Create:
            del self._files[op.name]
            return
        if op.kind is Rename:
            self._files[op.name] = self._files.pop(op.new)
        if op.gone is not None:
            self._files[op.name if op.kind is Remove else op.new] = op.gone

    def _settle(self, name: str, rng: Random, loss: PowerLoss) -> None:
        """What a file is once the power is gone. That is then the truth, and whoever opens it takes its size for its end."""
        file = self._files[name]
        while file.cuts and rng.random() < 0.5:
            cut = file.cuts.pop()
            file.data[cut.size :] = overlay(
                rng, cut.size, bytes(cut.tail), bytes(file.data[cut.size :]), loss
            )
            file.synced, file.durable, file.holes, file.bad = cut.synced, cut.durable, cut.holes, cut.bad
            file.size = max(cut.durable, len(file.data))
            loss.entries_undone += 1
            self.bites["truncation undone"] += 1
        data, size = self._lose(rng, file, loss)
        bad = [(start, stop) for start, stop in file.bad if start < size]
        after = self._files[name] = File(bytearray(data), size, size, 0, size, size, [], [], bad)
        for hole in file.holes:
            if hole.shown:
                after.blank(hole.start, hole.stop)
                if hole.counted:
                    self.bites["acknowledged bytes gone after a cut"] += 1

    def _lose(self, rng: Random, file: File, loss: PowerLoss) -> tuple[bytes, int]:
        """(bytes, size) that a cut leaves of a file."""
        return lose(rng, bytes(file.data), file.synced, file.durable, file.size, loss, self.fates)

    def _count(self, loss: PowerLoss) -> None:
        for what, count in (
            ("cut with unsynced bytes", loss.unsynced_bytes),
            ("unsynced bytes dropped", loss.dropped_bytes),
            ("unsynced bytes torn", loss.torn_bytes),
            ("garbage", loss.garbage_bytes),
            ("old and new bytes mixed", loss.mixed_bytes),
        ):
            if count:
                self.bites[what] += 1


def _bytes_of(file: File, offset: int, stop: int) -> bytes:
    data = bytes(file.data[offset:stop])
    return data + bytes(max(0, stop - offset - len(data)))


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no plain file name (letters, digits, '.', '_', '-')")
    return name
