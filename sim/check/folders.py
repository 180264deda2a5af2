"""Reads the data folder of a node that is down. Changes nothing in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from consensus.core import Record
from node.disk import DiskError, Op
from node.journal import read_segments


@dataclass(slots=True)
class Damage:
    """A place where a segment stops making sense."""

    segment: str
    kind: str
    """`torn`: a tail that was never promised, as a power cut leaves it. `corrupt`: bytes that had been promised."""
    detail: str


Item = tuple[str, Record] | Damage
Source = Callable[[Path], Iterator[Item]]
"""Reads a node's folder: (segment, record) oldest first, archived segments before live ones, and damage where found."""


class ReadOnlyDisk:
    """A `node.disk.Disk` over a folder that refuses to change it; for nodes that are down."""

    def __init__(self, folder: Path) -> None:
        """Raises NotADirectoryError if there is no such folder."""
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder} is no folder; a node's data folder is needed")
        self._folder = folder

    def names(self) -> list[str]:
        """The plain files in the folder, sorted."""
        return sorted(path.name for path in self._folder.iterdir() if path.is_file())

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """Bytes of a file. Raises FileNotFoundError, OSError."""
        with (self._folder / name).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def perform(self, ops: Sequence[Op]) -> None:
        """Always raises DiskError."""
        raise DiskError(f"{self._folder} is open for reading only")

    def close(self) -> None:
        """Nothing is open between calls."""


def read_folder(folder: Path) -> Iterator[Item]:
    """The journal records of a folder, oldest first, archived segments before the live one, one segment in memory at a
    time; and what is damaged. Raises OSError, node.journal.JournalVersion."""
    empty = True
    for view in read_segments(ReadOnlyDisk(folder)):
        empty = False
        for batch in view.batches:
            for record in batch.records:
                yield view.name, record
        if view.end != "clean":
            yield Damage(view.name, view.end, view.words)
    if empty:
        yield Damage(str(folder.name), "corrupt", "there is no journal segment in the folder")
