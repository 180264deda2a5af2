"""Quorum systems as pure functions of who said yes, or of how far each member has come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from consensus.core import NodeId


def majority(members: Sequence[NodeId]) -> int:
    """The size of a majority quorum: any two of them share a member (Raft paper, section 5.1)."""
    return len(members) // 2 + 1


def has_majority(members: Sequence[NodeId], yes: Iterable[NodeId]) -> bool:
    """Whether distinct members that said yes form a majority. Names outside `members` do not count."""
    said = set(yes)
    return sum(member in said for member in members) >= majority(members)


def reached_by_majority(values: Sequence[int]) -> int:
    """The highest value that a majority has reached; `values` has one for each member, in any order."""
    # In rising order the last `majority` values begin here: so many members have reached this one or more.
    return sorted(values)[(len(values) - 1) // 2]


def holders_of_quorum(members: Mapping[NodeId, str]) -> list[str]:
    """Domains whose loss leaves no majority: `members` maps each member to its power domain. In order of
    first appearance."""
    need = majority(list(members))
    domains = list(dict.fromkeys(members.values()))
    return [domain for domain in domains if sum(other != domain for other in members.values()) < need]
