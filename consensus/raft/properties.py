"""The five properties that Raft guarantees at all times (paper, figure 3), as functions of what can be seen from outside.

Each returns None while its property holds, and otherwise the counterexample in words. They look at logs and histories,
never at a core's own helpers, so that a bug in those cannot hide from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from consensus.core import NodeId, entry_position


@dataclass(slots=True, frozen=True)
class LogView:
    """Entries `base_index + 1 ...` of a node's log, encoded."""

    node: NodeId
    base_index: int
    entries: Sequence[bytes]

    @property
    def last_index(self) -> int:
        """Index of the last entry."""
        return self.base_index + len(self.entries)

    def at(self, index: int) -> bytes | None:
        """The entry at `index`, if it is in view."""
        place = index - self.base_index - 1
        return self.entries[place] if 0 <= place < len(self.entries) else None


def election_safety(elected: Iterable[tuple[int, NodeId]]) -> str | None:
    """At most one leader is elected in a term. `elected`: (term, node) of every election that anyone won."""
    leaders: dict[int, NodeId] = {}
    for term, node in elected:
        first = leaders.setdefault(term, node)
        if first != node:
            return f"term {term} has two leaders: {first} and {node}"
    return None


def leader_append_only(before: LogView, after: LogView) -> str | None:
    """A leader never overwrites or deletes entries in its log: compare its log at two moments of one leadership."""
    if after.last_index < before.last_index:
        return f"leader {after.node}: its log shrank from {before.last_index} to {after.last_index}"
    for index in range(max(before.base_index, after.base_index) + 1, before.last_index + 1):
        if before.at(index) != after.at(index):
            return f"leader {after.node}: entry {index} was overwritten"
    return None


def log_matching(one: LogView, other: LogView) -> str | None:
    """If two logs hold an entry of the same index and term, they are identical up to there."""
    first = max(one.base_index, other.base_index) + 1
    last = min(one.last_index, other.last_index)
    agree = False
    for index in range(last, first - 1, -1):
        a, b = one.at(index), other.at(index)
        assert a is not None
        assert b is not None
        same_place = entry_position(a)[:2] == entry_position(b)[:2]
        if (agree or same_place) and a != b:
            return f"{one.node} and {other.node} agree behind entry {index} and differ in it"
        agree = agree or same_place
    return None


def leader_completeness(committed: Mapping[int, bytes], leader: LogView) -> str | None:
    """An entry committed in some term is in the log of the leaders of all later terms. `committed`: what was committed in
    earlier terms than this leader's. (Not: what was committed before it won. Late votes can make a leader of a term
    that is long past, and later terms may have committed what it never saw.)"""
    for index, entry in committed.items():
        if index > leader.base_index and leader.at(index) != entry:
            return f"leader {leader.node} lacks committed entry {index} (its log ends at {leader.last_index})"
    return None


def state_machine_safety(applied: Mapping[NodeId, Mapping[int, bytes]]) -> str | None:
    """No two nodes ever apply different entries at the same index."""
    seen: dict[int, tuple[NodeId, bytes]] = {}
    for node, entries in applied.items():
        for index, entry in entries.items():
            other, first = seen.setdefault(index, (node, entry))
            if first != entry:
                return f"{other} and {node} applied different entries at index {index}"
    return None
