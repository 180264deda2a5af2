"""What a leader knows of one peer, and what an answer of that peer changes in it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from consensus.core import SnapshotMeta
from consensus.marks import sometimes
from consensus.raft.log import Log

MAX_APPEND_BYTES: Final = 1 << 20
"""Most bytes of entries in one message (one entry may be larger)."""
MAX_INFLIGHT_BYTES: Final = 32 << 20
"""Most bytes sent to a peer and not yet acknowledged."""


class Mode(IntEnum):
    """How entries are sent to a peer."""

    PROBE = 0
    """It is not known where the logs agree: one message at a time."""
    REPLICATE = 1
    """The logs agree: entries are sent without waiting for replies."""
    SNAPSHOT = 2
    """The peer needs entries that are gone."""


PROBE: Final = Mode.PROBE
REPLICATE: Final = Mode.REPLICATE
SNAPSHOT: Final = Mode.SNAPSHOT

Span = tuple[int, int]
"""(previous, last): a message with the entries behind `previous` up to `last`; a heartbeat if they are equal."""


@dataclass(slots=True)
class Progress:
    """A leader's view of a peer. I3: match_index < next_index."""

    next_index: int
    heard: int
    """When the last reply of this term came in."""
    match_index: int = 0
    mode: Mode = PROBE
    probing: bool = False
    """A probe is on its way; the next goes out with the next heartbeat."""
    round_acked: int = 0
    """Highest read round that the peer has answered in this term."""
    commit_sent: int = 0
    snapshot: SnapshotMeta | None = None
    """What the peer was told to fetch, in mode SNAPSHOT."""

    def spans(self, log: Log, heartbeat: bool) -> list[Span]:
        """The messages to send now; they count as sent. With `heartbeat` at least one. Not in mode SNAPSHOT."""
        previous = self.next_index - 1
        if self.mode is PROBE:
            if self.probing:
                # Entries went with the first probe. Where the logs agree can be asked again without them.
                if heartbeat:
                    sometimes("a probe is repeated with a heartbeat")
                return [(previous, previous)] if heartbeat else []
            last = log.last_within(previous, MAX_APPEND_BYTES)
            if last == previous and not heartbeat:
                return []
            self.probing = True
            return [(previous, last)]
        if previous == log.last_index:  # the common case, first
            return [(previous, previous)] if heartbeat else []
        found: list[Span] = []
        acknowledged = max(self.match_index, log.base_index)
        while previous < log.last_index and log.bytes_between(acknowledged, previous) < MAX_INFLIGHT_BYTES:
            last = log.last_within(previous, MAX_APPEND_BYTES)
            found.append((previous, last))
            previous = last
        self.next_index = previous + 1
        if heartbeat and not found:
            found.append((previous, previous))
        return found

    def matched(self, index: int) -> bool:
        """The peer's log agrees up to `index`, durably. True if that is news."""
        news = index > self.match_index
        if news:
            self.match_index = index
            self.next_index = max(self.next_index, index + 1)
        elif index < self.match_index:
            sometimes("an acknowledgement is overtaken by a later one")
        if self.mode is REPLICATE:
            return news
        if self.mode is SNAPSHOT:
            if self.snapshot is not None and self.match_index < self.snapshot.index:
                return news
            sometimes("a peer has its snapshot and gets entries again")
            self.snapshot = None
            self.mode = PROBE
        if index >= self.next_index - 1:
            self.mode = REPLICATE
            self.probing = False
        return news

    def mismatched(self, log: Log, index: int, hint_index: int, hint_term: int) -> bool:
        """The peer has no match at `index`; the logs may agree at the hint. False: the answer is out of date."""
        if self.mode is SNAPSHOT or index <= self.match_index:
            sometimes("a peer denies what it has acknowledged since")
            return False
        if self.mode is PROBE and index != self.next_index - 1:
            sometimes("a peer denies an earlier probe")
            return False
        # The highest place that both logs may share: ours at or below the hint, of no later term.
        back = log.highest_with_term_at_most(hint_index, hint_term)
        if hint_index < log.base_index:
            sometimes("a hint points below what is in memory")
            back = hint_index  # below what is in memory: `next_index` says that a snapshot is needed
        if back < index - 1:
            sometimes("a hint saves probes")
        self.next_index = max(min(back, index - 1), self.match_index) + 1
        self.mode = PROBE
        self.probing = False
        return True
