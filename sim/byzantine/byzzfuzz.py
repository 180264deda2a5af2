"""ByzzFuzz (Winter et al., "Randomized Testing of Byzantine Fault Tolerant Algorithms", OOPSLA 2023): one node lies, in a few
rounds and to some of the others, by changing what it was about to say and signing it again (`sim.byzantine.fuzz`); in a few
rounds the network is cut in two, or some hear no votes. Then all links heal, the node lies no more, and something new has to be
committed everywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from consensus.bft.committee import Committee
from consensus.core import NodeId
from sim.byzantine.forced import Build, Schedule, build
from sim.byzantine.fuzz import SCOPES, SMALL, Fuzz, Lie
from sim.byzantine.lockstep import PACE, Instance, Lockstep, Played, judged, links
from sim.byzantine.scenarios import ScenarioError
from sim.byzantine.strategy import Own
from sim.byzantine.twins import node_names, settle_rounds
from sim.virtual.keys import Notary

MOST_LIES: Final = 3
MOST_CUTS: Final = 3


Cut = tuple[tuple[int, ...], tuple[bool, ...]]


@dataclass(slots=True, frozen=True)
class Case:
    """What a seed stands for. `cuts`: round -> (side of each node, whether it hears the votes of its side)."""

    seed: int
    liar: NodeId
    lies: tuple[Lie, ...]
    cuts: dict[int, Cut]

    def words(self, members: tuple[NodeId, ...]) -> list[str]:
        """For people."""
        told = [
            f"round {lie.round}: {self.liar} lies to {' '.join(lie.receivers)}"
            for lie in sorted(self.lies, key=lambda lie: lie.round)
        ]
        for round, (sides, hears) in sorted(self.cuts.items()):
            groups = (
                " ".join(n for n, at in zip(members, sides, strict=True) if at == side) for side in (0, 1)
            )
            deaf = " ".join(node for node, hears_it in zip(members, hears, strict=True) if not hears_it)
            told.append(
                f"round {round}: {{{' | '.join(groups)}}}; "
                + (f"no votes reach {deaf}" if deaf else "all hear votes")
            )
        return told


@dataclass(slots=True, frozen=True)
class Shape:
    """n = `nodes`, of which `stop` may stop and `lie` of those lie; one does. `rounds`: in which things go wrong."""

    nodes: int = 4
    rounds: int = 8
    stop: int = 1
    lie: int = 1
    scope: str = SMALL

    def committee(self) -> Committee:
        """Raises CommitteeError."""
        return Committee("byzzfuzz", 1, node_names(self.nodes), self.stop, self.lie)

    def case(self, seed: int) -> Case:
        """What that seed stands for. Raises ScenarioError for a shape of which there is nothing to draw."""
        if self.nodes < 2 or self.rounds < 1 or self.scope not in SCOPES:
            raise ScenarioError(
                f"{self.nodes} nodes, {self.rounds} rounds, scope {self.scope!r}: it takes two nodes, a round, and a "
                f"scope out of {', '.join(SCOPES)}"
            )
        rng = random.Random(f"byzzfuzz/{self.scope}/{self.nodes}/{self.rounds}/{seed}")
        members = node_names(self.nodes)
        liar = rng.choice(members)
        others = [node for node in members if node != liar]
        rounds = range(1, self.rounds + 1)
        schedule = Schedule.forced(self.committee(), [])
        led = [round for round in rounds if schedule.leader(round) == liar]
        lies = tuple(
            Lie(
                # A liar does most in the rounds that it leads.
                rng.choice(led if led and rng.random() < 0.5 else rounds),
                tuple(sorted(rng.sample(others, rng.randint(1, len(others))))),
                rng.getrandbits(32),
            )
            for _ in range(rng.randint(1, MOST_LIES))
        )
        # And most of all behind a round that was given up.
        before = [lie.round - 1 for lie in lies if lie.round > 1]
        cuts = {}
        for _ in range(rng.randint(0, MOST_CUTS)):
            sides, hears = (0,) * self.nodes, (True,) * self.nodes
            how = rng.randrange(4)
            if how < 2:
                # One node alone knows the certificate of the round: what it commits by it the others have to respect unknowing.
                alone = rng.choice(members)
                hears = tuple(member == alone for member in members)
            else:
                sides = tuple(rng.randrange(2) for _ in members)
                hears = tuple(how == 2 or rng.random() < 0.5 for _ in members)
            cuts[rng.choice(before if before and rng.random() < 0.5 else rounds)] = sides, hears
        return Case(seed, liar, lies, cuts)


class Player:
    """Plays seeds of one shape, one after the other. `make`: another core, for whoever wants to see it fail."""

    def __init__(self, shape: Shape, make: Build = build) -> None:
        self.shape = shape
        self.committee = shape.committee()
        self._make = make
        self._notary = Notary(self.committee.members)
        self._settle = settle_rounds(self.committee)
        self._turns = Schedule.forced(self.committee, [])

    def play(self, number: int, said: Callable[[str], None] | None = None) -> Played:
        """One seed. `said`: told what happens. Raises ScenarioError."""
        case = self.shape.case(number)
        liar = self._fuzz(case)
        hears = {round: heard for round, (_, heard) in case.cuts.items()}
        whole: Cut = ((0,) * self.shape.nodes, ())

        def script(run: Lockstep) -> None:
            told = case.words(self.committee.members)
            for round in range(1, self.shape.rounds + 1):
                if said is not None:
                    said(
                        "; ".join(
                            [line for line in told if line.startswith(f"round {round}:")]
                            or [f"round {round}"]
                        )
                    )
                sides, _ = case.cuts.get(round, whole)
                run.step(links(sides, round, hears), [(round % self.shape.nodes, b"round %d" % round)])

        def instances() -> list[Instance]:
            return [self._instance(case, place, liar) for place in range(self.shape.nodes)]

        played, _ = judged(number, instances, script, self._settle, said)
        played.dealt = liar.lies > 0
        return played

    def _fuzz(self, case: Case) -> Fuzz:
        rng = random.Random(f"liar/{case.seed}")
        own = Own(case.liar, self.committee, self._notary.keyring(case.liar), rng, PACE)
        return Fuzz(own, self.shape.scope, case.lies)

    def _instance(self, case: Case, place: int, liar: Fuzz) -> Instance:
        node = self.committee.members[place]
        rng = random.Random(f"{case.seed}/{place}")
        core = self._make(node, self.committee, self._notary.keyring(node), rng, PACE, self._turns)
        lies = node == case.liar
        return Instance(place, node, core, lies, liar if lies else None)
