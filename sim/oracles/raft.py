"""What Raft promises, watched from the journals: a shadow of every node's log, as wanted and as durable.

The oracle reads the records that cores hand to their disks with a reader of its own, follows which of them the disk
has synced, and
holds against that what the node says to others, what it hands out as committed, who becomes leader, and what comes back after a
crash. Prefixes of logs are compared by a hash over everything up to an index, so that log matching is one comparison.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from consensus.core import CoreView, Record
from consensus.raft.messages import AppendEntriesReply, RequestVote, RequestVoteReply
from sim.oracles.oracle import Oracle

if TYPE_CHECKING:
    from sim.virtual.host import Host
    from sim.virtual.world import World

_HARD_STATE: Final = 1
_ENTRY: Final = 2
_BASE: Final = 3
_U64: Final = struct.Struct("<Q")
_TWO: Final = struct.Struct("<QQ")

Change = tuple[int, int, int, Any]
"""What a record does to a log: (kind of record, index or term, prefix of an entry, its term or the vote)."""


@dataclass(slots=True)
class Shadow:
    """A log as its records describe it. `prefixes[i]`: hash over all entries up to index `base + 1 + i`, `terms[i]` its term."""

    term: int = 0
    voted: str = ""
    base: int = 0
    base_term: int = 0
    base_prefix: int = 0
    prefixes: list[int] = field(default_factory=list)
    terms: list[int] = field(default_factory=list)
    covered: int = 0
    """Highest index that a durable snapshot is said to cover, whether or not the log went on from there."""

    @property
    def reach(self) -> int:
        """Up to where log or snapshot hold everything."""
        return max(self.last, self.covered)

    @property
    def last(self) -> int:
        return self.base + len(self.prefixes)

    @property
    def last_term(self) -> int:
        return self.terms[-1] if self.terms else self.base_term

    def prefix(self, index: int) -> int | None:
        """The hash at an index; None if the log does not reach there, or begins behind it."""
        if index == self.base:
            return self.base_prefix
        place = index - self.base - 1
        return self.prefixes[place] if 0 <= place < len(self.prefixes) else None

    def truncate(self, last: int) -> None:
        """Forget everything behind `last`."""
        del self.prefixes[max(0, last - self.base) :]
        del self.terms[max(0, last - self.base) :]


class RaftLog(Oracle):
    """Log matching, leader completeness, committed means durable on a majority, and nothing is said that a power cut could take
    back (paper, figure 3 and section 5; thesis 3.8)."""

    name = "raft log"
    listens: ClassVar[tuple[type, ...]] = (AppendEntriesReply, RequestVote, RequestVoteReply)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._wanted: dict[str, Shadow] = {}
        self._durable: dict[str, Shadow] = {}
        self._unwritten: dict[str, list[Change]] = {}
        self._waiting: dict[str, deque[tuple[int, list[Change]]]] = {}
        self._born: dict[tuple[int, int], tuple[int, str]] = {}  # (index, term) -> prefix, who had it first
        self._committed: list[int] = [0]  # prefix at each index that anybody has applied
        self._committed_in: list[int] = [0]  # a term in which it was committed, or a later one; never falls
        self._entries: dict[int, bytes] = {}  # prefix -> entry
        self._holders: dict[int, set[str]] = {}
        self._candidate: dict[str, tuple[int, int]] = {}
        """The newest vote for itself on a node's disk: (term, how far the log in front of it reached)."""
        self._ghosts: list[tuple[str, Shadow]] = []
        """What disks held that were wiped: it has counted all the same."""
        self._quorum = len(world.names) // 2 + 1

    # ------------------------------------------------------------------------------------------------- the shadows

    def formatted(self, host: Host) -> None:
        if host.name in self._durable:
            self._ghosts.append((host.name, self._durable[host.name]))
        self._wanted[host.name] = Shadow()
        self._durable[host.name] = Shadow()
        self._unwritten[host.name] = []
        self._waiting[host.name] = deque()
        self._candidate[host.name] = (0, 0)

    def _read(self, shadow: Shadow, records: Sequence[Record], who: str) -> list[Change]:
        """Bring a shadow up to date; the changes, for the other shadow of the same log."""
        changes: list[Change] = []
        for kind, data in records:
            if kind == _ENTRY:
                index, term = _TWO.unpack_from(data)
                if index > shadow.base:
                    changes.append((_ENTRY, index, self._entry(shadow, index, term, data, who), term))
            elif kind == _HARD_STATE:
                shadow.term = _U64.unpack_from(data)[0]
                shadow.voted = data[8:].decode()
                changes.append((_HARD_STATE, shadow.term, 0, shadow.voted))
            elif kind == _BASE:
                index, term = _TWO.unpack(data)
                self._rebase(shadow, index, term)
                changes.append((_BASE, index, 0, term))
        return changes

    def _repeat(self, name: str, changes: list[Change]) -> None:
        """Make changes that `_read` found to the shadow of what is durable."""
        shadow = self._durable[name]
        for kind, number, prefix, more in changes:
            if kind == _ENTRY:
                if number <= shadow.last:
                    shadow.truncate(number - 1)
                shadow.prefixes.append(prefix)
                shadow.terms.append(more)
            elif kind == _HARD_STATE:
                shadow.term, shadow.voted = number, more
                # The first record of a vote counts: a new segment begins with it once more, and then the log may be shorter.
                if more == name and number > self._candidate[name][0]:
                    self._candidate[name] = (number, shadow.reach)
            else:
                self._rebase(shadow, number, more)

    def _entry(self, shadow: Shadow, index: int, term: int, entry: bytes, who: str) -> int:
        last = shadow.base + len(shadow.prefixes)
        if index > last + 1:
            self.violated(f"{who} records entry {index} behind entry {last}", who)
        if index <= last:
            shadow.truncate(index - 1)
        before = shadow.prefixes[-1] if shadow.prefixes else shadow.base_prefix
        prefix = hash((before, entry))
        known, other = self._born.setdefault((index, term), (prefix, who))
        if known != prefix:
            self.violated(
                f"log matching: the logs of {other} and {who} differ up to index {index}, though both have an entry of "
                f"term {term} there",
                other,
                who,
            )
        self._entries[prefix] = entry
        shadow.prefixes.append(prefix)
        shadow.terms.append(term)
        return prefix

    def _rebase(self, shadow: Shadow, index: int, term: int) -> None:
        """A snapshot covers everything up to `index`; what stands behind it stays if the logs agree there."""
        shadow.covered = max(shadow.covered, index)
        if index <= shadow.base:
            return
        place = index - shadow.base - 1
        if place < len(shadow.terms) and shadow.terms[place] == term:
            return  # the whole log stays in the shadow
        if index >= len(self._committed):
            self.violated(f"a snapshot covers index {index}, which nobody has applied")
        shadow.base, shadow.base_term, shadow.base_prefix = index, term, self._committed[index]
        shadow.prefixes, shadow.terms = [], []

    def recorded(self, host: Host, records: Sequence[Record]) -> None:
        self._unwritten[host.name] += self._read(self._wanted[host.name], records, host.name)

    def written(self, host: Host, job: int) -> None:
        records = self._unwritten[host.name]
        if records:
            self._waiting[host.name].append((job, records))
            self._unwritten[host.name] = []

    def synced(self, host: Host, job: int) -> None:
        waiting = self._waiting[host.name]
        while waiting and waiting[0][0] <= job:
            self._repeat(host.name, waiting.popleft()[1])

    def went_down(self, host: Host) -> None:
        self._unwritten[host.name] = []
        self._waiting[host.name].clear()

    def recovered(self, host: Host, records: Sequence[Record]) -> None:
        """What came back must hold everything that had been durable."""
        name = host.name
        found, known = Shadow(), self._durable[name]
        # A journal segment that begins at a snapshot begins at nothing: its base comes first.
        self._read(found, records, name)
        if found.term < known.term:
            self.violated(
                f"{name} had term {known.term} on its disk and comes back in term {found.term}", name
            )
        if found.term == known.term and known.voted and found.voted != known.voted:
            self.violated(
                f"{name} had voted for {known.voted} in term {known.term} and comes back without that", name
            )
        # A later leader's entry or snapshot may have replaced the end, on the disk by chance though not yet synced.
        replaced = found.base > known.base and known.prefix(found.base) != found.base_prefix
        if replaced:
            # The snapshot's own prefix is the committed one; only an entry of an earlier term can have stood there instead.
            place = found.base - known.base - 1
            if place < len(known.terms) and known.terms[place] >= found.base_term:
                self.violated(f"{name} comes back with another log up to {found.base} than it had", name)
            shared = 0
        elif found.last_term > known.last_term:
            shared = min(found.base, known.last)
        elif found.reach < known.reach:
            self.violated(
                f"{name} had entries up to {known.last} on its disk and comes back with {found.last}", name
            )
        else:
            shared = min(found.last, known.last)
        one, two = found.prefix(shared), known.prefix(shared)
        if one is not None and two is not None and one != two:
            self.violated(f"{name} comes back with another log up to {shared} than it had", name)
        self._wanted[name] = found
        self._durable[name] = Shadow(
            found.term, found.voted, found.base, found.base_term, found.base_prefix,
            list(found.prefixes), list(found.terms), found.covered,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------ what is checked

    def said(self, host: Host, dest: str, message: Any) -> None:
        """Durability before speech: rules 1 and 2 of the contract."""
        disk = self._durable[host.name]
        if (
            type(message) is AppendEntriesReply
            and message.term == disk.term
            and message.index <= disk.base + len(disk.prefixes)
        ):
            return  # most of them
        if disk.term < message.term:
            self.violated(
                f"{host.name} tells {dest} of term {message.term}; its disk knows term {disk.term} "
                f"({type(message).__name__})",
                host.name,
            )
        if disk.term > message.term:
            return  # it was true when it was composed, in a term that is over; nobody counts on it for a later one
        kind = type(message)
        if kind is AppendEntriesReply:
            if message.success and message.index > disk.reach:
                self.violated(
                    f"{host.name} tells {dest} that it holds index {message.index}; its disk holds {disk.reach}",
                    host.name,
                )
        elif kind is RequestVote:
            if disk.voted != host.name:
                self.violated(
                    f"{host.name} asks for votes; its disk does not know of its own vote", host.name
                )
            # A request may wait while a leader of its term takes the end of this log away, even in one sync with it: it stood in
            # front of the vote, and as that leader has won, no vote that comes of it counts.
            since, reach = self._candidate[host.name]
            held = max(disk.reach, reach) if since == message.term else disk.reach
            if message.last_index > held:
                self.violated(
                    f"{host.name} asks for votes with a log up to {message.last_index}; its disk held {held}",
                    host.name,
                )
        elif message.granted and disk.voted != dest:
            self.violated(f"{host.name} votes for {dest}; its disk says {disk.voted or 'nobody'}", host.name)

    def applied(self, host: Host, index: int, chain: bytes) -> None:
        """Committed means: durable here (rule 3), and on a majority when anybody applies it first."""
        disk = self._durable[host.name]
        if index <= self._wanted[host.name].covered:
            disk = self._wanted[
                host.name
            ]  # a snapshot on this disk holds it, though the log's record of that is under way
        elif index > disk.reach:
            self.violated(f"{host.name} applies index {index}; its disk holds {disk.reach}", host.name)
        prefix = disk.prefix(index)
        if prefix is None:
            return  # below the base: a snapshot, which the chain values speak for
        committed = self._committed
        if index < len(committed):
            if committed[index] != prefix:
                self.violated(
                    f"{host.name} applies another entry at index {index} than was committed", host.name
                )
            return
        start = len(committed) - 1
        if disk.prefix(start) != committed[start]:
            self.violated(f"{host.name}'s log has lost the committed entry {start}", host.name)
        disks = [*self._durable.items(), *self._ghosts]
        held = [name for name, shadow in disks if shadow.prefix(index) == prefix]
        if len(dict.fromkeys(held)) < self._quorum:
            self.violated(
                f"{host.name} takes index {index} for committed; only {', '.join(held) or 'nobody'} "
                f"{'has' if len(held) == 1 else 'have'} it on disk",
                host.name,
            )
        for place in range(start + 1, index + 1):
            value = disk.prefix(place)
            if value is None:
                self.violated(f"{host.name} applies up to {index} without entry {place}", host.name)
            else:
                committed.append(value)
                self._committed_in.append(max(self._committed_in[-1], self._wanted[host.name].term))

    def changed(self, host: Host, view: CoreView) -> None:
        """Leader completeness: who begins to lead holds everything that is committed."""
        if view.role != "leader":
            return
        wanted = self._wanted[host.name]
        # Of what was committed in an earlier term: a candidate of an old term may still win, and then lacks what a later
        # leader has committed in the meantime. It will never commit anything.
        last = bisect_left(self._committed_in, view.term) - 1
        if last > wanted.base and wanted.prefix(last) != self._committed[last]:
            self.violated(
                f"leader completeness: {host.name} leads term {view.term} without the committed entry {last}",
                host.name,
            )

    def log(self) -> list[bytes]:
        """The committed entries, from index 1 on."""
        return [self._entries[prefix] for prefix in self._committed[1:]]
