"""What a virtual run tells of itself, for reports: one `Moment` for everything that happened, in order.

Only a traced run (a replay) makes moments; exploring runs leave `World.trace` None and pay nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

KINDS: Final = (
    "send",  # node -> peer; data: id, message (class name), note (fields worth reading)
    "deliver",  # at peer, from node; data: id
    "drop",  # node -> peer; data: id, message, why (cut, lost, clogged, corrupt, down, ...), fault (its number or None)
    "role",  # data: role, term, leader
    "log",  # data: last_index, durable_index, commit_index, applied_index
    "write",  # bytes handed to the disk; data: bytes, file
    "sync",  # durable; data: took (us)
    "boot",  # data: life, notes
    "down",  # data: why (power, kill, disk, crash), unsynced bytes lost
    "pause",  # data: until
    "fault",  # a fault begins; data: number, name, text
    "calm",  # it ends; data: number
    "bite",  # it truly did something; data: number
    "event",  # an event of the replica (diverged, installed, ...); data: name, fields
    "mark",  # a sometimes-mark was reached; data: name
    "phase",  # data: name (faults, quorum, healed), text
    "violation",  # data: oracle, text
)


@dataclass(slots=True)
class Moment:
    """`at`: virtual microseconds. `node`: where; empty for the world. `peer`: the other end of a message."""

    at: int
    kind: str
    node: str = ""
    peer: str = ""
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Trace:
    """Everything that was told, oldest first."""

    moments: list[Moment] = field(default_factory=list)

    def tell(self, at: int, kind: str, node: str = "", peer: str = "", **data: Any) -> None:
        """Note a moment."""
        self.moments.append(Moment(at, kind, node, peer, data))
