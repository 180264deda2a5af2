"""What a node asks of its disk: a flat folder of append-only files, as data.

The pure half of a node never touches a file. It makes lists of operations, each list a `Job`; whoever runs the
node performs the jobs of a lane in order and reports each finished job. A job is done when every operation in it
has returned. Nothing is promised by `Append`, `Create`, `Rename`, `Remove` and `Truncate` until the `Sync` (for
bytes and length) or `SyncDirectory` (for names) behind them has returned: a power cut before that may keep, drop or
tear them, in any combination.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol


@dataclass(slots=True)
class Create:
    """Make an empty file. An error if the name exists. `reserve`: bytes of space to set aside, so that appends within it
    change no metadata; the reserved space reads as zeros behind the end that was written."""

    name: str
    reserve: int = 0


@dataclass(slots=True)
class Append:
    """Write bytes behind what was written before (not behind the reserve)."""

    name: str
    data: bytes


@dataclass(slots=True)
class Sync:
    """Make the bytes and the length of a file durable."""

    name: str


@dataclass(slots=True)
class SyncDirectory:
    """Make the names in the folder durable: creations, renames, removals."""


@dataclass(slots=True)
class Rename:
    """Give a file another name, replacing a file of that name."""

    old: str
    new: str


@dataclass(slots=True)
class Remove:
    """Remove a file. No error if there is none: a removal that was lost and is asked for again is common."""

    name: str


@dataclass(slots=True)
class Truncate:
    """Cut a file to `size` bytes; later appends go there. Zeros nothing in front. `reserve`: as for `Create`, space to set
    aside behind `size`."""

    name: str
    size: int
    reserve: int = 0


Op = Create | Append | Sync | SyncDirectory | Rename | Remove | Truncate

JOURNAL: Final = 0
"""Lane of journal writes: short, somebody waits for each of them."""
SNAPSHOT: Final = 1
"""Lane of snapshot files: long, nobody waits; a stall here must not delay the other lane."""


@dataclass(slots=True)
class Job:
    """Operations to perform in order. `number` is reported back when all are done."""

    lane: int
    number: int
    ops: list[Op]


class DiskError(Exception):
    """The disk refused or failed (ENOSPC, EIO, a failed fsync...). Final: after it every call raises it again, because
    what a failed fsync left dirty may be gone; the node stops and says which file, which call, which error."""


class Disk(Protocol):
    """A flat folder. Names are plain file names, without a path."""

    def names(self) -> list[str]:
        """The files that there are, sorted."""

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """Bytes of a file, reserved zeros included. Raises FileNotFoundError, DiskError."""

    def perform(self, ops: Sequence[Op]) -> None:
        """Perform operations in order. Raises DiskError."""

    def close(self) -> None:
        """Close every open file. Syncs nothing."""
