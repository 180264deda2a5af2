"""What `sim.virtual.disk` keeps of one file, of one name operation, and of harm on its way to being noticed."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Hole:
    """Bytes [start, stop) of a file that the platter does not hold as they were written. Nobody is wronged before a sync
    has returned for them: then they count as damage."""

    start: int
    stop: int
    why: str
    shown: bool = False
    """The kernel's memory still shows them as written; a power cut ends that."""
    counted: bool = False
    """A sync has returned for them, and they stand in `MemoryDisk.damaged`."""


@dataclass(slots=True)
class Cut:
    """A truncation to `size` that no sync covers yet, and what the file was before."""

    size: int
    tail: bytearray
    synced: int
    durable: int
    holes: list[Hole]
    bad: list[tuple[int, int]]


@dataclass(slots=True)
class File:
    """`data`: what was written; up to `size` the file reads as zeros, for which no memory is held. `end`: where appends go: the
    end of `data`, but after a restart the end of the file, and with a stray write behind it in front of that. `synced`,
    `durable`: how much of `data` and of `size` survives a cut."""

    data: bytearray = field(default_factory=bytearray)
    end: int = 0
    size: int = 0
    reserve: int = 0
    synced: int = 0
    durable: int = 0
    cuts: list[Cut] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    bad: list[tuple[int, int]] = field(default_factory=list)
    """Ranges that cannot be read: every read of one fails."""

    @property
    def promised(self) -> int:
        """Bytes written that a sync has covered."""
        return min(self.synced, len(self.data))

    def truncate(self, size: int, reserve: int) -> None:
        """Cut the file to `size`; before the next sync a power cut may undo that."""
        if size < self.size:
            self.cuts.append(Cut(size, self.data[size:], self.synced, self.durable, self.holes, self.bad))
            self.synced, self.durable = min(self.synced, size), min(self.durable, size)
            self.holes = [
                Hole(h.start, min(h.stop, size), h.why, h.shown, h.counted)
                for h in self.holes
                if h.start < size
            ]
            self.bad = [(start, min(stop, size)) for start, stop in self.bad if start < size]
        del self.data[size:]
        self.end, self.size, self.reserve = size, size + reserve, reserve

    def write(self, at: int, data: bytes) -> None:
        """Let `data` stand from `at` on."""
        if at > len(self.data):
            self.data += bytes(at - len(self.data))
        self.data[at : at + len(data)] = data

    def blank(self, start: int, stop: int) -> None:
        """Let [start, stop) read as zeros, as far as bytes were written there."""
        stop = min(stop, len(self.data))
        if start < stop:
            self.data[start:stop] = bytes(stop - start)


@dataclass(slots=True)
class Pending:
    """A name operation not yet durable; `gone` is the file that it removed or replaced."""

    kind: type
    name: str
    new: str
    gone: File | None

    @property
    def names(self) -> set[str]:
        """The names it touches."""
        return {self.name, self.new} if self.new else {self.name}
