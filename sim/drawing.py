"""What a scenario leaves open until the moment comes: which links, which process, which domain. The same for every world.

Everything is a function of what is known at that moment and of a stream of random numbers, so that the same fault falls on the
same links wherever the same node leads.
"""

from __future__ import annotations

import random
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from consensus.bft.committee import CommitteeError
from sim.faults import shapes

if TYPE_CHECKING:
    from sim.scenario import FaultPlan, PowerCut


ALL: Final = "all"
"""Instead of a domain's name in a cut: every one at once."""


class Undrawable(Exception):
    """It cannot be drawn as things are; the text says what is missing."""


def deal(nodes: int, domains: int) -> dict[str, str]:
    """Node -> domain: n1, n2... are dealt to A, B... in runs, 5 over 3 as 2 + 2 + 1."""
    share, extra = divmod(nodes, domains)
    sizes = [share + (1 if place < extra else 0) for place in range(domains)]
    names = [chr(ord("A") + place) for place, size in enumerate(sizes) for _ in range(size)]
    return {f"n{number}": name for number, name in enumerate(names, 1)}


def committee_counts(nodes: int, stop: int | None, lie: int | None) -> tuple[int, int]:
    """How many nodes of a committee may stop and how many lie, where perhaps neither is said: a third that may do both. Raises
    CommitteeError if nobody would be left."""
    most = (nodes - 1) // 3
    stop = most if stop is None else stop
    if stop >= nodes:
        raise CommitteeError(
            f"{stop} of {nodes} nodes may stop: none would be left to order the log. Of {nodes}, {most} may stop if those may "
            f"lie, too, and {(nodes - 1) // 2} if none may lie"
        )
    return stop, min(most, stop) if lie is None else lie


def stream(seed: int, number: int) -> random.Random:
    """What the scenario's `number`-th fault draws from: a stream of its own, so that taking one fault out leaves the others
    as they were."""
    return random.Random(f"{seed}/fault/{number}")


def new_record(
    number: int, fault: FaultPlan, leader: str | None, quorum: bool | None = None
) -> dict[str, Any]:
    """What a run's folder says of a fault, before anything has happened (docs/reference/run-folder.md has the keys). `quorum`:
    whether it leaves one; None: by majority."""
    return {
        "number": number,
        "label": f"fault {number}",
        "kind": fault.kind,
        "what": fault.what,
        "leader": leader,
        "node": None,
        "pairs": [],
        "progress": fault.progress and (fault.quorum if quorum is None else quorum),
        "until_us": None,
        "bit": False,
        "counts": {},
        "by_direction": [],
    }


def directions(
    fault: FaultPlan, domains: Mapping[str, str], leader: str | None, rng: random.Random
) -> list[shapes.Pair]:
    """The directions that a fault of links is laid on. `domains`: every node, in order, and its domain. Raises Undrawable if it
    needs a leader and there is none."""
    nodes = list(domains)
    if fault.shape:
        return shapes.grudge(fault.shape, shapes.Setting(nodes, leader, domains), rng)
    if not fault.pairs:
        return [(a, b) for a in nodes for b in nodes if a != b]
    found = []
    for words in fault.pairs:
        if leader is None and "leader" in words:
            raise Undrawable(f"no leader is known; {words} cannot be drawn")
        sender, receiver = (leader or "" if end == "leader" else end for end in words.split(">"))
        if sender != receiver:
            found.append((sender, receiver))
    return found


def victim(fault: FaultPlan, nodes: Sequence[str], leader: str | None, rng: random.Random) -> str:
    """The node that a fault of a process falls on. Raises Undrawable if that is the leader and there is none."""
    if fault.node == "leader":
        if leader is None:
            raise Undrawable(f"no leader is known; the {fault.kind} of it cannot be carried out")
        return leader
    if fault.node == "follower":
        return rng.choice([node for node in nodes if node != leader])
    return rng.choice(nodes) if fault.node == "any" else fault.node


def domain_to_cut(
    cut: PowerCut,
    domains: Sequence[str],
    leading: str | None,
    dark: Container[str],
    touched: Container[str],
    spared: Container[str] = (),
) -> str:
    """The domain that a cut falls on. `leading`: the leader's; `dark`: those without power; `touched`: those that were cut
    before; `spared`: those that only a cut of them by name falls on. Raises Undrawable."""
    if cut.domain == "leader":
        if leading is None:
            raise Undrawable("no leader is known; the cut of its domain cannot be made")
        return leading
    if cut.domain == "untouched":
        lit = [name for name in domains if name not in dark and name not in spared]
        if not lit:
            raise Undrawable("every domain is dark already; there is none to cut")
        fresh = [name for name in lit if name not in touched] or lit
        return sorted(fresh, key=lambda name: name == leading)[0]
    if cut.domain not in domains:
        raise Undrawable(f"the scenario cuts {cut.domain!r}; domains are {', '.join(domains)}")
    return cut.domain
