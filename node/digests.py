"""Comparison of state digests between replicas: who has diverged is found within seconds, and who it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from consensus.core import NodeId
from consensus.marks import sometimes
from consensus.quorum import majority
from node.protocol import DigestReport

_DIGEST: Final = 32

KEPT: Final = 16
"""Marks compared at the same time."""


@dataclass(slots=True, frozen=True)
class Finding:
    """A replica whose state differs from the majority's at the same index; or, where `node` is None, that replicas differ and
    no majority says which of them is right."""

    node: NodeId | None
    index: int
    forked: bool
    """The histories differ (chain values), not only what was made of them."""

    def __str__(self) -> str:
        what = "history (chain value)" if self.forked else "state digest"
        if self.node is None:
            return f"the replicas differ in their {what} at index {self.index}, and no majority agrees"
        return f"{self.node} differs from the majority in its {what} at index {self.index}"


class DigestWatch:
    """Collects what the members report at each mark of the log."""

    def __init__(self, node: NodeId, members: Sequence[NodeId]) -> None:
        self.node = node
        self.members = tuple(members)
        self.own: DigestReport | None = None
        """The newest own report."""
        self.agreed_index = 0
        """The newest mark at which a majority, this node among it, had the same digest."""
        self._marks: dict[int, dict[NodeId, tuple[bytes, bytes]]] = {}
        self._found: dict[tuple[NodeId | None, int], None] = {}

    def knows(self, index: int) -> bool:
        """Whether somebody has reported of the mark at `index`."""
        return index in self._marks

    def add(self, sender: NodeId, report: DigestReport) -> list[Finding]:
        """Take in a report (`sender` may be this node); what it shows for the first time."""
        if sender not in self.members:
            return []
        if sender == self.node:
            self.own = report
        marks = self._marks
        if report.index not in marks:
            if len(marks) >= KEPT:
                oldest = min(marks)
                if report.index < oldest:
                    sometimes("a digest comes of a mark that was compared long ago")
                    return []  # somebody catches up
                del marks[oldest]
            marks[report.index] = {}
        marks[report.index][sender] = (report.digest, report.chain)
        return self._compare(report.index)

    def _compare(self, index: int) -> list[Finding]:
        reports = self._marks[index]
        values = list(reports.values())
        value, count = values[0], values.count(values[0])
        if count < len(values):
            value, count = Counter(values).most_common(1)[0]
        if count < majority(self.members):
            if count < len(reports):
                sometimes("digests differ and no majority says who has diverged")
            # Who it is, a report that is still to come may tell; that it is somebody, is known already.
            forked = len({chain for _, chain in reports.values()}) > 1
            return self._new([Finding(None, index, forked)] if count < len(reports) else [])
        if reports.get(self.node) == value:
            sometimes("a majority is found to have the same state digest")
            self.agreed_index = max(self.agreed_index, index)
        if count == len(values):
            return []
        sometimes("a digest differs from the majority's")
        return self._new(
            [
                Finding(member, index, got[1] != value[1])
                for member in self.members
                if (got := reports.get(member)) is not None and got != value
            ]
        )

    def _new(self, findings: list[Finding]) -> list[Finding]:
        """Those that were not found before."""
        new = [finding for finding in findings if (finding.node, finding.index) not in self._found]
        self._found.update(((finding.node, finding.index), None) for finding in new)
        while len(self._found) > KEPT * (len(self.members) + 1):
            del self._found[next(iter(self._found))]
        return new


class WaryDigestWatch(DigestWatch):
    """The same among members that may lie. Each member's reports have their own room, so that nobody's crowd out another's; the
    first that a member says of a mark counts; and marks are compared only where this node has been itself."""

    def __init__(self, node: NodeId, members: Sequence[NodeId]) -> None:
        super().__init__(node, members)
        self._said: dict[NodeId, dict[int, tuple[bytes, bytes]]] = {member: {} for member in members}

    def knows(self, index: int) -> bool:
        return any(index in said for said in self._said.values())

    def add(self, sender: NodeId, report: DigestReport) -> list[Finding]:
        said = self._said.get(sender)
        if said is None or len(report.digest) != _DIGEST or len(report.chain) != _DIGEST:
            return []
        index = report.index
        if index in said:
            sometimes("a member reports another time of a mark")
            return []
        if len(said) >= KEPT:
            del said[next(iter(said))]
        said[index] = (report.digest, report.chain)
        if sender == self.node:
            self.own = report
        elif index not in self._said[self.node]:
            return []
        self._marks = {
            index: {
                member: self._said[member][index] for member in self.members if index in self._said[member]
            }
        }
        return self._compare(index)
