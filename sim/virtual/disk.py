"""A disk in memory with the contract of `node.disk.Disk`, and with power that can be cut at any moment."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from node.disk import Append, Create, DiskError, Op, Remove, Rename, Sync, SyncDirectory, Truncate
from sim.virtual.loss import PowerLoss, lose, undone

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")


@dataclass(slots=True)
class _Cut:
    size: int
    tail: bytes
    synced: int
    durable: int


@dataclass(slots=True)
class _File:
    """`data`: what was written; up to `size` the file reads as zeros. `end`: where appends go, at or behind the end of `data`.
    `synced`, `durable`: how much of `data` and of `size` survives a cut."""

    data: bytearray = field(default_factory=bytearray)
    end: int = 0
    size: int = 0
    reserve: int = 0
    synced: int = 0
    durable: int = 0
    cuts: list[_Cut] = field(default_factory=list)


@dataclass(slots=True)
class _Pending:
    """A name operation not yet durable; `gone` is the file that it removed or replaced."""

    kind: type
    name: str
    new: str
    gone: _File | None

    @property
    def names(self) -> set[str]:
        return {self.name, self.new} if self.kind is Rename else {self.name}


class MemoryDisk:
    """Files in memory. `cut` is a power cut; the same object is then the disk as the node finds it on restart."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self._pending: list[_Pending] = []
        self._failed = ""
        self.syncs = 0
        """How many `Sync` were performed."""
        self._handlers: dict[type, Callable[[Any], None]] = {
            Append: self._append,
            Sync: self._sync,
            SyncDirectory: self._sync_directory,
            Create: self._create,
            Rename: self._rename,
            Remove: self._remove,
            Truncate: self._truncate,
        }

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
        data = bytes(file.data[offset:stop])
        return data + bytes(max(0, stop - offset - len(data)))

    def perform(self, ops: Sequence[Op]) -> None:
        """Perform operations in order. Raises DiskError, after which every call raises it."""
        for op in ops:
            self._check()
            self._handlers[type(op)](op)

    def close(self) -> None:
        """Nothing to close: what was written stays, as it does in a kernel."""

    def fail(self, text: str) -> None:
        """From now on every call raises DiskError with this text (an injected EIO or ENOSPC)."""
        self._failed = self._failed or text

    @property
    def unsynced_bytes(self) -> int:
        """Bytes that a cut could take now."""
        return sum(max(0, len(file.data) - file.synced) for file in self._files.values())

    def cut(self, rng: Random) -> PowerLoss:
        """Cut the power: memory of failures and open ends is gone, unsynced names and bytes meet a fate drawn from `rng`."""
        loss = PowerLoss()
        seed = rng.getrandbits(64)
        for place in undone(Random(f"{seed}/"), [op.names for op in self._pending]):
            self._take_back(self._pending[place])
            loss.entries_undone += 1
        self._pending.clear()
        self._failed = ""
        for name in sorted(self._files):
            own = Random(f"{seed}/{name}")
            file = self._files[name]
            while file.cuts and own.random() < 0.5:
                cut = file.cuts.pop()
                file.data[cut.size :] = cut.tail
                file.synced, file.durable = cut.synced, cut.durable
                file.size = max(cut.durable, len(file.data))
                loss.entries_undone += 1
            data, size = lose(own, bytes(file.data), file.synced, file.durable, file.size, loss)
            # What is there now is the truth, and a program that opens the file takes its size for its end.
            self._files[name] = _File(bytearray(data), size, size, 0, size, size)
        return loss

    def restart(self) -> None:
        """A new process opens the files: it sees all that was written, synced or not, and knows no ends and reserves."""
        for file in self._files.values():
            file.end = file.size
            file.reserve = 0

    # -------------------------------------------------------------------------------------------------------- operations

    def _check(self) -> None:
        if self._failed:
            raise DiskError(self._failed)

    def _fail(self, op: Op, name: str, problem: str) -> DiskError:
        self._failed = f"{name}: {type(op).__name__.lower()} failed: {problem}"
        return DiskError(self._failed)

    def _file(self, op: Append | Sync | Truncate) -> _File:
        file = self._files.get(_checked(op.name))
        if file is None:
            raise self._fail(op, op.name, "ENOENT (no such file)")
        return file

    def _append(self, op: Append) -> None:
        file = self._file(op)
        file.data += bytes(file.end - len(file.data))
        file.data += op.data
        file.end = len(file.data)
        if file.end > file.size:
            file.size = file.end + file.reserve

    def _sync(self, op: Sync) -> None:
        file = self._file(op)
        file.synced, file.durable = file.end, file.size
        file.cuts.clear()
        self.syncs += 1

    def _truncate(self, op: Truncate) -> None:
        file = self._file(op)
        if not 0 <= op.size <= file.size:
            raise self._fail(op, op.name, f"EINVAL (cannot cut {file.size} bytes to {op.size})")
        if op.size < file.size:
            file.cuts.append(_Cut(op.size, bytes(file.data[op.size :]), file.synced, file.durable))
            file.synced, file.durable = min(file.synced, op.size), min(file.durable, op.size)
        del file.data[op.size :]
        file.end, file.size, file.reserve = op.size, op.size + op.reserve, op.reserve

    def _create(self, op: Create) -> None:
        if _checked(op.name) in self._files:
            raise self._fail(op, op.name, "EEXIST (the file exists)")
        self._files[op.name] = _File(size=op.reserve, reserve=op.reserve)
        self._pending.append(_Pending(Create, op.name, "", None))

    def _rename(self, op: Rename) -> None:
        _checked(op.new)
        if _checked(op.old) not in self._files:
            raise self._fail(op, op.old, "ENOENT (no such file)")
        if op.old == op.new:
            return
        gone = self._files.get(op.new)
        self._files[op.new] = self._files.pop(op.old)
        self._pending.append(_Pending(Rename, op.old, op.new, gone))

    def _remove(self, op: Remove) -> None:
        gone = self._files.pop(_checked(op.name), None)
        if gone is not None:
            self._pending.append(_Pending(Remove, op.name, "", gone))

    def _sync_directory(self, op: SyncDirectory) -> None:
        self._pending.clear()

    def _take_back(self, op: _Pending) -> None:
        if op.kind is Create:
            del self._files[op.name]
            return
        if op.kind is Rename:
            self._files[op.name] = self._files.pop(op.new)
        if op.gone is not None:
            self._files[op.name if op.kind is Remove else op.new] = op.gone


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no plain file name (letters, digits, '.', '_', '-')")
    return name
