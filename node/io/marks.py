"""Platter marks: what a power cut has to know about a folder of files once the process that wrote them is dead.

A SIGKILL loses nothing that was handed to the kernel, so a real process can be killed but its disk cannot lose power. The
marks say what a real cut could have lost: per file the length that an fsync covered, and which names no directory fsync covers
yet. `sim.local.platter` reads them and takes the rest away. They are written by plain `write` to an append-only file in a
folder beside the data (the platter folder), which survives SIGKILL because the kernel has it; a line that was cut
short counts as not written.

Order. A name operation is announced before it is done, one at a time; whether the latest one happened is told by looking at
the folder. A sync is noted after fsync has returned and before the caller hears of it. So at any moment the marks promise no
more than the disk did, and no less than the caller was told.

What an undone operation needs is kept in the platter folder (`kept-*`) until the sync behind it returns: a removed or
replaced file, the tail that a truncation cut off.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import re
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

MARKS: Final = "marks"
TRAP: Final = "trap"
TRAP_OFF: Final = ord("0")
TRAP_ARMED: Final = ord("1")
TRAP_HOLDING: Final = ord("2")

NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")
"""A file name that the marks can carry; `FileDisk` accepts no other."""

TRAP_PATIENCE_MS: Final = 2000
"""How long a sprung trap holds before it gives up."""

COMPACT_AT: Final = 1 << 20
"""Size at which the file of marks is written anew, in bytes."""


@dataclass(slots=True)
class Cut:
    """A truncation not yet synced: `kept` in the platter folder has the bytes from `size` on."""

    size: int
    kept: str
    synced: int
    durable: int
    """What the extent said before."""


@dataclass(slots=True)
class Extent:
    """One file: bytes below `synced` survive; the file is at least `durable` bytes long."""

    synced: int = 0
    durable: int = 0
    cuts: list[Cut] = field(default_factory=list)


@dataclass(slots=True)
class Pending:
    """A name operation that no directory sync covers yet. `kind`: c(reate), r(ename) to `new`, u(nlink). `kept`: the
    removed or replaced file, `-` if there was none."""

    number: int
    kind: str
    name: str
    new: str
    kept: str

    @property
    def names(self) -> set[str]:
        """The names it touches."""
        return {self.name, self.new} if self.kind == "r" else {self.name}


@dataclass(slots=True)
class MarkState:
    """What the marks say, replayed."""

    files: dict[str, Extent] = field(default_factory=dict)
    kept: dict[str, Extent] = field(default_factory=dict)
    pending: list[Pending] = field(default_factory=list)
    number: int = 0
    """Number of the latest operation."""

    def play(self, line: str) -> list[str]:
        """Take one mark; names of kept files that are no longer needed. Raises ValueError for a line that is none."""
        kind, *words = line.split(" ")
        if kind == "s":
            name, synced, durable = words
            old = self.files.get(name)
            self.files[name] = Extent(int(synced), int(durable))
            return [cut.kept for cut in old.cuts] if old else []
        if kind == "d":
            return self._directory_synced(int(words[0]))
        if kind == "t":
            number, name, size, kept = words
            self.number = max(self.number, int(number))
            extent = self.files[name]
            extent.cuts.append(Cut(int(size), kept, extent.synced, extent.durable))
            extent.synced, extent.durable = min(extent.synced, int(size)), min(extent.durable, int(size))
            return []
        op = Pending(int(words[0]), kind, words[1], words[2], words[3])
        self.number = max(self.number, op.number)
        if kind == "c":
            self.files[op.name] = Extent()
        elif kind == "r":
            if op.kept != "-":
                self.kept[op.kept] = self.files.pop(op.new)
            self.files[op.new] = self.files.pop(op.name)
        elif kind == "u":
            self.kept[op.kept] = self.files.pop(op.name)
        else:
            raise ValueError(f"no mark begins with {kind!r}")
        self.pending.append(op)
        return []

    def _directory_synced(self, upto: int) -> list[str]:
        done = [op for op in self.pending if op.number <= upto]
        self.pending = [op for op in self.pending if op.number > upto]
        unneeded = []
        for op in done:
            if op.kept != "-":
                unneeded.append(op.kept)
                unneeded.extend(cut.kept for cut in self.kept.pop(op.kept, Extent()).cuts)
        return unneeded

    def take_back(self, op: Pending) -> None:
        """Forget the latest effect on the names of `op`, which is as if it had never happened."""
        self.pending.remove(op)
        if op.kind == "c":
            self.files.pop(op.name, None)
        elif op.kind == "r":
            self.files[op.name] = self.files.pop(op.new)
            if op.kept != "-":
                self.files[op.new] = self.kept.pop(op.kept)
        else:
            self.files[op.name] = self.kept.pop(op.kept)

    def dump(self) -> str:
        """One mark that says all of this."""
        return "= " + json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def load(cls, text: str) -> MarkState:
        """Read what `dump` wrote."""
        fields = json.loads(text)
        return cls(
            {name: _extent(extent) for name, extent in fields["files"].items()},
            {name: _extent(extent) for name, extent in fields["kept"].items()},
            [Pending(**op) for op in fields["pending"]],
            fields["number"],
        )


def _extent(fields: dict[str, Any]) -> Extent:
    return Extent(fields["synced"], fields["durable"], [Cut(**cut) for cut in fields["cuts"]])


def read_marks(folder: Path, platter: Path) -> MarkState:
    """Replay the marks and compare the latest operation with the folder: it was announced, and may not have happened.
    Files without a mark (made before there were any) count as durable. Raises ValueError naming a line that makes no sense."""
    path = platter / MARKS
    text = path.read_bytes().decode("ascii", "replace") if path.exists() else ""
    lines = text.split("\n")[:-1]  # a last line without its end was never written
    state = MarkState()
    for place, line in enumerate(lines, 1):
        try:
            if line.startswith("= "):
                state = MarkState.load(line[2:])
            else:
                state.play(line)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{path}, line {place}: {line[:80]!r} is no mark ({error!r})") from None
    if state.pending and state.pending[-1].number == state.number:
        last = state.pending[-1]
        happened = {
            "c": lambda: (folder / last.name).exists(),
            "r": lambda: not (folder / last.name).exists(),
            "u": lambda: (platter / last.kept).exists(),
        }
        if not happened[last.kind]():
            state.take_back(last)
    for entry in sorted(folder.iterdir()):
        if NAME.fullmatch(entry.name) and entry.is_file() and entry.name not in state.files:
            size = entry.stat().st_size
            state.files[entry.name] = Extent(size, size)
    return state


def write_marks(platter: Path, state: MarkState) -> None:
    """Write the file of marks anew. Whole or not at all, whenever the process is killed."""
    aside = platter / (MARKS + ".new")
    aside.write_text(state.dump() + "\n")
    os.replace(aside, platter / MARKS)


def remove_unneeded(platter: Path, state: MarkState) -> None:
    """Remove what no operation in `state` needs any more (a process was killed before it could)."""
    needed = {op.kept for op in state.pending}
    for extent in (*state.files.values(), *state.kept.values()):
        needed.update(cut.kept for cut in extent.cuts)
    for entry in sorted(platter.glob("kept-*")):
        if entry.name not in needed:
            entry.unlink()


class Marks:
    """The writing end. Raises OSError; safe to use from several threads."""

    def __init__(self, folder: Path, platter: Path) -> None:
        """Go on with the marks of the process before, if any. Raises ValueError for marks that make no sense."""
        platter.mkdir(parents=True, exist_ok=True)
        self.platter = platter
        self.state = read_marks(folder, platter)
        remove_unneeded(platter, self.state)
        self._lock = threading.Lock()
        self._file = -1
        self._size = 0
        self._compact()
        trap = platter / TRAP
        trap.write_bytes(b"0")  # a trap armed or sprung in an earlier life is of no use to anyone
        with open(trap, "r+b") as file:
            self._trap = mmap.mmap(file.fileno(), 1)

    def _compact(self) -> None:
        write_marks(self.platter, self.state)
        if self._file >= 0:
            os.close(self._file)
        self._file = os.open(self.platter / MARKS, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = 0

    def _write(self, line: str) -> None:
        data = line.encode() + b"\n"
        if os.write(self._file, data) != len(data):
            raise OSError(errno.EIO, "a mark was written in part")
        self._size += len(data)
        if self._size > COMPACT_AT:
            self._compact()

    def _drop(self, kept: list[str]) -> None:
        for name in kept:
            (self.platter / name).unlink(missing_ok=True)

    def synced(self, name: str, synced: int, durable: int) -> None:
        """fsync of a file has returned: it covered `synced` bytes written of a file of `durable` bytes."""
        with self._lock:
            # State first: a compaction inside `_write` must not lose the mark that caused it.
            unneeded = self.state.play(f"s {name} {synced} {durable}")
            self._write(f"s {name} {synced} {durable}")
            if unneeded:
                self._drop(unneeded)

    def announce(self, kind: str, name: str, new: str = "-", replaces: bool = False) -> Path | None:
        """A name operation is about to be done. The place to keep what it removes or replaces, if `replaces`."""
        with self._lock:
            number = self.state.number + 1
            kept = f"kept-{number}" if replaces else "-"
            line = f"{kind} {number} {name} {new} {kept}"
            self.state.play(line)
            self._write(line)
            return self.platter / kept if replaces else None

    def announce_cut(self, name: str, size: int, tail: bytes) -> None:
        """A truncation is about to be done that cuts `tail` (and zeros behind it) off."""
        with self._lock:
            number = self.state.number + 1
            kept = f"kept-{number}"
            (self.platter / kept).write_bytes(tail)
            line = f"t {number} {name} {size} {kept}"
            self.state.play(line)
            self._write(line)

    def directory_synced(self, upto: int) -> None:
        """fsync of the folder has returned, and covered the operations up to number `upto`."""
        with self._lock:
            unneeded = self.state.play(f"d {upto}")
            self._write(f"d {upto}")
            self._drop(unneeded)

    def wait_in_trap(self) -> None:
        """Called between a write and its fsync: if the power switch has armed the trap, hold here until it cuts."""
        if self._trap[0] != TRAP_ARMED:
            return
        with self._lock:
            if self._trap[0] != TRAP_ARMED:
                return
            self._trap[0] = TRAP_HOLDING
        for _ in range(TRAP_PATIENCE_MS):
            if self._trap[0] != TRAP_HOLDING:
                return
            time.sleep(0.001)
        self._trap[0] = TRAP_OFF

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
                self._trap.close()
