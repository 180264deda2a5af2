"""Raft's rules themselves, held against journals and messages. `sim.oracles.raft` watches what the rules are for (no
committed entry is
lost); that takes the right disaster. A broken rule shows at once where somebody watches the rule.

Only records on their way to a disk, messages and `observe()` are looked at, with a reader of this module's own.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from consensus.core import CoreView, Record
from consensus.raft.messages import AppendEntriesReply
from sim.oracles.oracle import Oracle

if TYPE_CHECKING:
    from sim.virtual.host import Host
    from sim.virtual.world import World

_HARD_STATE: Final = 1
_ENTRY: Final = 2
_BASE: Final = 3
_U64: Final = struct.Struct("<Q")
_TWO: Final = struct.Struct("<QQ")


class VotesOnDisk(Oracle):
    """Who leads a term has the votes of a majority in that term, each of them on the voter's disk (paper, 5.2)."""

    name = "votes on disk"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._given: dict[int, dict[str, str]] = {}  # term -> voter -> candidate
        self._unwritten: dict[str, list[bytes]] = {name: [] for name in world.names}
        self._waiting: dict[str, deque[tuple[int, bytes]]] = {name: deque() for name in world.names}
        self._quorum = len(world.names) // 2 + 1

    def recorded(self, host: Host, records: Sequence[Record]) -> None:
        for kind, data in records:
            if kind == _HARD_STATE:
                self._unwritten[host.name].append(data)

    def written(self, host: Host, job: int) -> None:
        records = self._unwritten[host.name]
        if records:
            self._waiting[host.name].extend((job, data) for data in records)
            self._unwritten[host.name] = []

    def synced(self, host: Host, job: int) -> None:
        waiting = self._waiting[host.name]
        while waiting and waiting[0][0] <= job:
            self._note(host.name, waiting.popleft()[1])

    def went_down(self, host: Host) -> None:
        self._unwritten[host.name] = []
        self._waiting[host.name].clear()

    def recovered(self, host: Host, records: Sequence[Record]) -> None:
        for kind, data in records:
            if kind == _HARD_STATE:
                self._note(host.name, data)

    def _note(self, voter: str, data: bytes) -> None:
        candidate = data[8:].decode()
        if candidate:
            self._given.setdefault(_U64.unpack_from(data)[0], {})[voter] = candidate

    def changed(self, host: Host, view: CoreView) -> None:
        if view.role != "leader":
            return
        votes = [
            voter for voter, candidate in self._given.get(view.term, {}).items() if candidate == host.name
        ]
        if len(votes) < self._quorum:
            self.violated(
                f"{host.name} leads term {view.term} with the votes of {', '.join(votes) or 'nobody'}; a majority is "
                f"{self._quorum}",
                host.name,
            )


class KeptWord(Oracle):
    """What a node has acknowledged to a leader it never denies to that leader in the same term: nobody but that leader could have
    taken it away, and a leader never changes its own log (paper, figure 3, leader append-only)."""

    name = "kept word"
    listens: ClassVar[tuple[type, ...]] = (AppendEntriesReply,)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._acknowledged: dict[tuple[str, str], tuple[int, int]] = {}  # (node, leader) -> (term, index)

    def formatted(self, host: Host) -> None:
        for other in self.world.names:
            self._acknowledged.pop((host.name, other), None)

    def said(self, host: Host, dest: str, message: Any) -> None:
        term, index = self._acknowledged.get((host.name, dest), (0, 0))
        if message.success:
            if message.term > term or (message.term == term and message.index > index):
                self._acknowledged[host.name, dest] = (message.term, message.index)
        elif message.term == term and 0 < message.index <= index:
            self.violated(
                f"{host.name} denies index {message.index} to {dest} in term {term}, in which it acknowledged index {index}",
                host.name,
            )


class OwnTermCommits(Oracle):
    """A leader's commit index moves to entries of its own term only; those before them are committed by that (paper 5.4.2)."""

    name = "commit rule"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._terms: dict[str, dict[int, int]] = {
            name: {} for name in world.names
        }  # node -> index -> term, as recorded
        self._covered: dict[str, int] = dict.fromkeys(world.names, 0)
        self._known: dict[str, int] = {}  # leader -> its commit index when looked at last

    def formatted(self, host: Host) -> None:
        self._terms[host.name] = {}

    def recorded(self, host: Host, records: Sequence[Record]) -> None:
        terms = self._terms[host.name]
        for kind, data in records:
            if kind == _ENTRY:
                index, terms_index = _TWO.unpack_from(data)
                terms[index] = terms_index
            elif kind == _BASE:
                self._covered[host.name] = max(self._covered[host.name], _TWO.unpack(data)[0])

    def recovered(self, host: Host, records: Sequence[Record]) -> None:
        self._known.pop(host.name, None)
        self.recorded(host, records)

    def changed(self, host: Host, view: CoreView) -> None:
        if view.role == "leader":
            self._known.setdefault(host.name, view.commit_index)
        else:
            self._known.pop(host.name, None)

    def applied(self, host: Host, index: int, chain: bytes) -> None:
        known = self._known.get(host.name)
        if known is None or host.replica is None:
            return
        view = host.replica.core.observe()
        if view.role != "leader" or view.commit_index <= known:
            return
        self._known[host.name] = view.commit_index
        term = self._terms[host.name].get(view.commit_index)
        if term is not None and term != view.term and view.commit_index > self._covered[host.name]:
            self.violated(
                f"{host.name} leads term {view.term} and takes index {view.commit_index} for committed, an entry of term {term}",
                host.name,
            )


PROMISES: Final[tuple[type[Oracle], ...]] = (VotesOnDisk, KeptWord, OwnTermCommits)
"""All of them."""
