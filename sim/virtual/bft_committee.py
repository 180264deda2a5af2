"""Who takes part in a virtual run of the BFT log, under which keys, and how many of them may fail: functions of their number."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from consensus.bft.committee import Committee
from consensus.core import NodeId
from sim.virtual.keys import Notary

CLUSTER: Final = "virtual"
EPOCH: Final = 1


def liars(nodes: int) -> int:
    """r: as many as 3r + 1 nodes stand."""
    return (nodes - 1) // 3


def quorum(nodes: int) -> int:
    """q = (n + r) // 2 + 1."""
    return (nodes + liars(nodes)) // 2 + 1


def budget(nodes: int) -> int:
    """u = n - q: as many as leave a quorum; 2 of 6, of whom 1 may lie."""
    return nodes - quorum(nodes)


def committee(members: Sequence[NodeId], stands: tuple[int, int] | None = None) -> Committee:
    """The committee of a virtual run. `stands`: see `Plan.committee`. Raises consensus.bft.committee.CommitteeError."""
    stop, lie = stands or (budget(len(members)), liars(len(members)))
    return Committee(CLUSTER, EPOCH, tuple(members), stop, lie)


@lru_cache(maxsize=8)
def notary(members: tuple[NodeId, ...], clients: int) -> Notary:
    """The keys of a run: a function of its names."""
    made = Notary(members)
    for number in range(1, clients + 1):
        made.client(f"c{number}")
    return made
