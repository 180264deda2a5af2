"""Strategies for faults, schedules and plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from random import Random
from typing import Final

from hypothesis import strategies as st

from sim.faults.catalogue import KINDS
from sim.faults.fault import Fault
from sim.faults.kind import FaultError, Kind, Params, Terrain
from sim.faults.swarm import budget
from sim.virtual.plan import Plan, dumps
from sim.virtual.power import PowerTree
from sim.virtual.world import OK, Result, World

STEP: Final = 50_000
"""Microseconds: faults begin and end at multiples of it, so that a shrunk one reads well."""
CALM: Final = 500_000
"""Microseconds before the earliest fault: by then somebody leads."""


def terrain(nodes: int = 5, domains: Sequence[str] = Plan(0).domains) -> Terrain:
    """Nodes n1, n2... and their places in the power tree; the last of them, as many as a majority can lose, may be damaged."""
    names = [f"n{number}" for number in range(1, nodes + 1)]
    paths = {name: domains[place % len(domains)] for place, name in enumerate(names)}
    return Terrain(names, PowerTree(paths).places(), names[nodes - budget(nodes) :])


def _known(kinds: Sequence[str], where: Terrain) -> list[Kind]:
    unknown = [name for name in kinds if name not in KINDS]
    if unknown:
        raise FaultError(f"no fault {unknown[0]!r}. Known: {', '.join(KINDS)}")
    chosen = [KINDS[name] for name in kinds] or list(KINDS.values())
    return [
        kind
        for kind in chosen
        if (where.damageable or not kind.damages) and (where.liars or kind.name in kinds or not kind.lies)
    ]


class Drawn(Random):
    """A source of randomness whose every draw is one of Hypothesis, which shrinks it: to the first choice, the lowest number, and
    to a `random()` as high as can be, since what is rarer and stranger stands behind `random() < share`."""

    def __init__(self, draw: st.DrawFn) -> None:
        super().__init__(0)
        self._draw = draw

    def random(self) -> float:
        return (999 - self._draw(st.integers(0, 999))) / 1000

    def getrandbits(self, k: int) -> int:
        return self._draw(st.integers(0, (1 << k) - 1))

    # `Random` makes these of the two above, by ways that shrink badly: it rejects draws, or spreads them over many bits.

    def _randbelow(self, n: int) -> int:
        return self._draw(st.integers(0, n - 1))

    def uniform(self, a: float, b: float) -> float:
        return a + (b - a) * self._draw(st.integers(0, 1000)) / 1000


@st.composite
def _params(draw: st.DrawFn, kind: Kind, where: Terrain) -> Params:
    return kind.draw(Drawn(draw), where)


@st.composite
def faults(
    draw: st.DrawFn,
    kind: str | None = None,
    *,
    kinds: Sequence[str] = (),
    nodes: int = 5,
    duration: int = 4_000_000,
    number: int = 0,
) -> Fault:
    """A fault of `kind`, or of one of `kinds`, or of any, within `duration` (microseconds), valid for so many nodes. Raises
    FaultError for a kind that does not exist."""
    where = terrain(nodes)
    chosen = draw(st.sampled_from(_known([kind] if kind is not None else kinds, where)))
    steps = max(1, (duration - CALM) // STEP)
    at = CALM + STEP * draw(st.integers(0, steps - 1))
    until = min(duration, at + STEP * draw(st.integers(1, steps)))
    return Fault(number, chosen.name, at, until, draw(_params(chosen, where)))


@st.composite
def schedules(
    draw: st.DrawFn, kinds: Sequence[str] = (), *, nodes: int = 5, most: int = 4, duration: int = 4_000_000
) -> tuple[Fault, ...]:
    """Up to `most` faults in the order of their beginning, damage within what a majority protocol survives."""
    drawn = draw(st.lists(faults(kinds=kinds, nodes=nodes, duration=duration), max_size=most))
    numbered = [Fault(n, f.kind, f.at, f.until, f.params) for n, f in enumerate(drawn)]
    return tuple(sorted(numbered, key=lambda fault: fault.at))


@st.composite
def plans(
    draw: st.DrawFn,
    base: Plan = Plan(0, clients=3, operations=30),  # noqa: B008 - frozen
    kinds: Sequence[str] = (),
    *,
    most: int = 4,
    duration: int = 4_000_000,
    seeds: int = 1000,
) -> Plan:
    """`base` with a seed below `seeds` and a schedule. Protocol, machine, oracles, sizes, weather... are those of `base`."""
    schedule = draw(schedules(kinds, nodes=base.nodes, most=most, duration=duration))
    return dataclasses.replace(
        base, seed=draw(st.integers(0, seeds - 1)), schedule=schedule, duration=duration
    )


def run(plan: Plan) -> Result:
    """Run a plan. Raises AssertionError with the verdict, the schedule, and the plan as text to keep, unless all went well."""
    result = World(plan).run()
    if result.outcome != OK:
        schedule = "\n".join(f"  {fault}" for fault in plan.schedule) or "  no faults"
        raise AssertionError(
            f"{result.outcome} at {result.at / 1e6:.3f} s, says {result.oracle}: {result.text}\n"
            f"schedule of seed {plan.seed}:\n{schedule}\nthe plan, for `partition.py replay FILE`:\n{dumps(plan)}"
        )
    return result
