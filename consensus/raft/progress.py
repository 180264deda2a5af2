"""What a leader knows of one peer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from consensus.core import SnapshotMeta


class Mode(IntEnum):
    """How entries are sent to a peer."""

    PROBE = 0
    """It is not known where the logs agree: one message at a time."""
    REPLICATE = 1
    """The logs agree: entries are sent without waiting for replies."""
    SNAPSHOT = 2
    """The peer needs entries that are gone."""


@dataclass(slots=True)
class Progress:
    """A leader's view of a peer. Invariant: match_index < next_index."""

    next_index: int
    heard: int
    """When the last reply of this term came in."""
    match_index: int = 0
    mode: Mode = Mode.PROBE
    probing: bool = False
    """A probe is on its way; the next goes out with the next heartbeat."""
    round_acked: int = 0
    """Highest read round that the peer has answered in this term."""
    commit_sent: int = 0
    snapshot: SnapshotMeta | None = None
    """What the peer was told to fetch, in mode SNAPSHOT."""
