"""Who orders the log in an epoch, and how many of them must agree (hybrid faults: Clement et al., "UpRight", SOSP 2009)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from consensus.core import NodeId


class CommitteeError(ValueError):
    """A committee that cannot be safe, or cannot make progress; the text shows the count that says so."""


@dataclass(slots=True, frozen=True)
class Committee:
    """The members of one epoch, in the order in which everything numbers them. `stop` (u) of them may stop, and of those `lie`
    (r) may do anything at all: u = r = f gives n = 3f + 1, r = 0 a majority. Raises CommitteeError.

    Read "2f + 1" in the papers as `quorum`, "f + 1" as `honest`."""

    cluster: str
    epoch: int
    members: tuple[NodeId, ...]
    stop: int
    lie: int
    quorum: int = field(init=False)
    """q: as few as make any two quorums share more members than may lie, 2q - n > r."""
    honest: int = field(init=False)
    """r + 1: so many cannot all be liars."""

    def __post_init__(self) -> None:
        n, u, r = len(self.members), self.stop, self.lie
        if not self.members or len(set(self.members)) != n:
            raise CommitteeError(
                f"a committee has distinct members, at least one; these are {list(self.members)}"
            )
        if not 0 <= r <= u:
            raise CommitteeError(f"of {u} members that may stop, between none and {u} may lie, not {r}")
        quorum = (n + r) // 2 + 1
        if n - u < quorum:
            raise CommitteeError(
                f"{n} members, of which {u} may stop and {r} of those lie: two quorums of {n - u} (all that are left when {u} "
                f"stop) share as few as {max(0, 2 * (n - u) - n)} members, and {r + 1} are needed so that one of them is "
                f"honest. It takes {2 * u + r + 1} members"
            )
        object.__setattr__(self, "quorum", quorum)
        object.__setattr__(self, "honest", r + 1)

    @classmethod
    def usual(cls, cluster: str, epoch: int, members: Sequence[NodeId]) -> Committee:
        """u = r = f, for the largest f that n >= 3f + 1 members stand."""
        faults = (len(members) - 1) // 3
        return cls(cluster, epoch, tuple(members), faults, faults)

    def is_quorum(self, nodes: Iterable[NodeId]) -> bool:
        """Whether distinct members among `nodes` are a quorum; others do not count."""
        return self.count(nodes) >= self.quorum

    def count(self, nodes: Iterable[NodeId]) -> int:
        """How many distinct members are among `nodes`."""
        said = set(nodes)
        return sum(member in said for member in self.members)
