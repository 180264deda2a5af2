"""Twins: some nodes run twice, under one name and one key, and neither copy knows of the other. Two honest programs make a liar
that does everything a real one could do with its signature, short of making up bytes (Bano et al., OPODIS 2021).

`sim.byzantine.scenarios` says who hears whom and who leads; here that is played, and judged.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from consensus.bft.committee import Committee
from consensus.core import NodeId
from sim.byzantine.forced import Build, Schedule, build
from sim.byzantine.lockstep import PACE, Instance, Lockstep, Played, judged, links
from sim.byzantine.scenarios import RoundPlan, Space
from sim.virtual.keys import Notary


@dataclass(slots=True, frozen=True)
class Shape:
    """What is played: n = `nodes`, of which `stop` may stop and `lie` of those lie; `twins` of them run twice."""

    nodes: int = 4
    rounds: int = 6
    twins: int = 1
    stop: int = 1
    lie: int = 1
    sides: int = 2
    deaf: bool = True

    def space(self) -> Space:
        """Its scenarios. Raises ScenarioError."""
        return Space(self.nodes, self.twins, self.rounds, self.sides, self.deaf)

    def committee(self) -> Committee:
        """Raises CommitteeError."""
        return Committee("twins", 1, node_names(self.nodes), self.stop, self.lie)


def node_names(count: int) -> tuple[NodeId, ...]:
    """n1, n2, ..."""
    return tuple(f"n{number}" for number in range(1, count + 1))


class Player:
    """Plays scenarios of one shape, one after the other. `build`: another core, for whoever wants to see it fail."""

    def __init__(self, shape: Shape, make: Build = build) -> None:
        self.shape = shape
        self.space = shape.space()
        self.committee = shape.committee()
        self._make = make
        self._notary = Notary(self.committee.members)
        self._settle = settle_rounds(self.committee)

    def play(self, number: int, said: Callable[[str], None] | None = None) -> Played:
        """One scenario. `said`: told what happens. Raises ScenarioError for a number that there is not."""
        return self.run(number, self.space.scenario(number), said)

    def run(
        self, number: int, plans: tuple[RoundPlan, ...], said: Callable[[str], None] | None = None
    ) -> Played:
        """A scenario that is given in full; `number` only names it, and seeds what little the cores draw."""

        hears = {place: plan.hears for place, plan in enumerate(plans, 1)}

        def script(run: Lockstep) -> None:
            for place, plan in enumerate(plans, 1):
                if said is not None:
                    said(f"round {place}: {self.words(plan)}")
                # Of their own for each copy, so that their blocks differ.
                payloads = [(copy, b"round %d at %d" % (place, copy)) for copy in self._copies(plan.leader)]
                run.step(links(plan.sides, place, hears), payloads)

        played, run = judged(number, lambda: self._instances(number, plans), script, self._settle, said)
        if run is not None:
            dealings = self._dealings(run)
            played.dealt = bool(dealings)
            invented = set() if played.oracle else run.blame() - dealings
            if invented:
                played.oracle = "blame"
                played.text = f"there is evidence of what no twin has done: {sorted(invented)}"
        return played

    def words(self, plan: RoundPlan) -> str:
        """A round for people: {n1 n2 | n1' n3 n4}, led by n1, n3 hears no votes."""
        names = [self.name(instance) for instance in range(self.space.instances)]
        sides = " | ".join(
            " ".join(name for name, at in zip(names, plan.sides, strict=True) if at == side)
            for side in range(max(plan.sides) + 1)
        )
        deaf = [name for name, hears in zip(names, plan.hears, strict=True) if not hears]
        silent = f"; no votes reach {' '.join(deaf)}" if deaf else ""
        return f"{{{sides}}}, led by {names[plan.leader]}{silent}"

    def name(self, instance: int) -> str:
        """The second copy of a node has a prime."""
        node = self.space.node_of(instance)
        return self.committee.members[node] + ("'" if instance >= self.space.nodes else "")

    def _copies(self, node: int) -> list[int]:
        return [instance for instance in range(self.space.instances) if self.space.node_of(instance) == node]

    def _instances(self, number: int, plans: tuple[RoundPlan, ...]) -> list[Instance]:
        members = self.committee.members
        schedule = Schedule.forced(self.committee, [plan.leader for plan in plans])
        made = []
        for instance in range(self.space.instances):
            node = self.space.node_of(instance)
            rng = random.Random(f"{number}/{instance}")
            key = self._notary.keyring(members[node])
            core = self._make(members[node], self.committee, key, rng, PACE, schedule)
            made.append(Instance(instance, members[node], core, node < self.shape.twins))
        return made

    def _dealings(self, run: Lockstep) -> set[tuple[NodeId, int, str]]:
        """(node, round, kind) of which the two copies of a node have said different things."""
        found = set()
        for node in range(self.shape.twins):
            one, other = (run.instances[instance] for instance in self._copies(node))
            for kind, mine, yours in (
                ("proposal", one.proposed, other.proposed),
                ("vote", one.voted, other.voted),
                ("timeout", one.timeouts, other.timeouts),
            ):
                found |= {
                    (one.node, round, kind) for round, said in mine.items() if yours.get(round, said) != said
                }
        return found


def settle_rounds(committee: Committee) -> int:
    """Rounds in which something new must be committed everywhere once all links are healed: two turns of
    everybody, for a commit takes honest leaders in a row, and what was missed is fetched meanwhile."""
    return 2 * len(committee.members) + 4
