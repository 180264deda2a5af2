"""What a campaign can meet: every fault that it may draw, by the label under which it is counted, and every sometimes-mark."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Final

from sim import marks
from sim.faults import catalogue
from sim.faults.fault import Fault
from sim.faults.running import label
from sim.faults.swarm import Options
from sim.virtual import subjects


def folded(name: str) -> str:
    """A label without its direction: `partition bridge:out` counts as `partition bridge`."""
    return name.partition(":")[0]


def counted_as(fault: Fault) -> str:
    """The label of a fault of a schedule."""
    return folded(label(fault))


def menu(options: Options) -> list[str]:
    """Every label that the options can draw: a kind, or a kind and one of its variants."""
    labels: list[str] = []
    subject = subjects.protocol(options.protocol)
    may_lie = subject.liars(options.nodes or subject.nodes(Random(0))) > 0
    for name in options.kinds or catalogue.KINDS:
        if name not in options.without and (may_lie or not catalogue.KINDS[name].lies):
            variants = catalogue.KINDS[name].variants
            labels += [f"{name} {variant}" for variant in variants] or [name]
    return labels


OWN_PLACES: Final[dict[str, tuple[str, ...]]] = {
    "raft": ("consensus/raft/",),
    "bft": ("consensus/bft/", "node/held.py:", "node/requests.py:", "node/signed.py:"),
}
"""Protocol -> where the marks are that runs of no other protocol can reach."""
OWN_MARKS: Final[dict[str, tuple[str, ...]]] = {
    "raft": (
        # Only a leader's clock makes sessions expire, only requests without a signature belong to a connection, and only one
        # source vouches for a snapshot.
        "a leader proposes to forget an idle session",
        "an idle session expires",
        "a session expires that is gone already",
        "a session was used again before the log could expire it",
        "a request is refused and told who leads",
        "a request is refused: its numbers make no sense",
        "a command is refused: it is malformed or too long",
        "a session is opened and its asker is gone",
        "a snapshot is gone while it is fetched",
        "a digest comes of a mark that was compared long ago",  # see node.digests.WaryDigestWatch
    ),
    "bft": (
        "a snapshot that the log asked for gives way to the next before it is written",
        "a snapshot that the log asked for is written behind another",
        "a member reports another time of a mark",
        "a request is refused: it is signed where it must not be, or not where it must",
        "a session is opened again that is open, or under an old nonce",
        "a peer denies a snapshot that a quorum has",
    ),
}
"""The same of marks that stand in files of all protocols."""


@cache
def mark_places(protocol: str = "raft") -> dict[str, str]:
    """`sim.marks.places`, read once, without what only other protocols reach: not to be changed. A protocol that was brought
    along is taken for one like Raft."""
    like = protocol if protocol in OWN_PLACES else "raft"
    others = [name for name in OWN_PLACES if name != like]
    elsewhere = tuple(place for name in others for place in OWN_PLACES[name])
    theirs = {mark for name in others for mark in OWN_MARKS[name]}
    return {
        mark: place
        for mark, place in marks.places().items()
        if mark not in theirs and not place.startswith(elsewhere)
    }
