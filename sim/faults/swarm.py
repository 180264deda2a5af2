"""Drawing a plan from a seed, by swarm testing: every seed leaves out kinds of faults, so that those it has come together in ways
that a draw from everything never shows (Groce et al., "Swarm Testing", ISSTA 2012).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from random import Random
from typing import Final

from sim.faults.catalogue import KINDS
from sim.faults.fault import Fault
from sim.faults.kind import FaultError, Terrain
from sim.faults.themes import THEMES, Themes
from sim.virtual import subjects
from sim.virtual.client import Load
from sim.virtual.network import Weather
from sim.virtual.plan import Plan
from sim.virtual.power import PowerTree
from sim.virtual.streams import Streams

CALM: Final = 500_000
"""Microseconds before the first window of faults."""
WINDOWS: Final = 3
SPAN: Final = 3_100_000
"""Microseconds from the beginning of a window of faults to that of the next."""
WEIGHTS: Final = {"partition": 5, "outage": 2, "trap": 2, "kill": 2, "rot": 2, "byzantine": 5}
"""How much more often than others a kind is drawn: those of many variants."""


@dataclass(slots=True, frozen=True)
class Options:
    """What a campaign asks for; everything else is drawn from each seed."""

    protocol: str = "raft"
    machine: str = "kv"
    nodes: int = 5
    """0: as many as the protocol likes, drawn where it likes several numbers."""
    clients: int = 5
    kinds: tuple[str, ...] = ()
    """Kinds of faults to draw from; none given: all."""
    without: tuple[str, ...] = ()
    """Kinds of faults to leave out."""
    over_budget: bool = False
    oracles: tuple[str, ...] = ()


def budget(nodes: int) -> int:
    """How many nodes a majority protocol can lose for good."""
    return (nodes - 1) // 2


def draw(seed: int, options: Options = Options()) -> Plan:
    """The plan of a seed. Raises FaultError for a kind that does not exist."""
    for kind in (*options.kinds, *options.without):
        if kind not in KINDS:
            raise FaultError(f"no fault {kind!r}. Known: {', '.join(KINDS)}")
    rng = Streams(seed).fresh("plan")
    subject = subjects.protocol(options.protocol)
    nodes = options.nodes or subject.nodes(Streams(seed).fresh("nodes"))
    plan = Plan(seed, options.protocol, options.machine, nodes, options.clients, oracles=options.oracles)
    names = [f"n{number}" for number in range(1, plan.nodes + 1)]
    places = PowerTree({name: plan.domains[k % len(plan.domains)] for k, name in enumerate(names)}).places()
    spared = plan.nodes if options.over_budget else subject.budget(plan.nodes)
    vital = subject.vital
    expendable = names if options.over_budget else names[vital:]
    damageable = rng.sample(expendable, min(spared, len(expendable)))
    # Whoever lies is one of those that may be lost: a liar takes the place of a node that stops.
    terrain = Terrain(names, places, damageable, damageable[: subject.liars(plan.nodes)])
    known = [name for name in (options.kinds or KINDS) if name not in options.without]
    if not terrain.liars:
        known = [name for name in known if not KINDS[name].lies]
    if not terrain.damageable:
        known = [name for name in known if not KINDS[name].damages]
    enabled = [name for name in known if rng.random() < 0.5] or [rng.choice(known)] if known else []
    plan = Plan(
        seed,
        options.protocol,
        options.machine,
        nodes,
        options.clients,
        schedule=tuple(_schedule(rng, terrain, enabled)),
        duration=CALM + WINDOWS * SPAN,
        quorum=rng.choice((700_000, 1_500_000)),
        timing=subject.timing(rng),
        settings={
            "snapshot_bytes": rng.choice((2_500, 6_000, 8 << 20)),
            # Of few sessions there is still one for every client: with fewer they would put each other out for ever.
            "max_sessions": rng.choice((max(6, options.clients + 1), 4096)),
            "session_ttl": rng.choice((1_200_000, 600_000_000)),
            "queries_in_queue": rng.choice((2, 512)),
            "digest": 50_000 if rng.random() < 0.04 else 1_000_000,
        },
        weather=Weather(
            low=rng.choice((60, 150, 1_000)),
            spread=rng.choice((100, 100, 300, 300, 4_000)),
            loss=rng.choice((0.0, 0.0, 0.001, 0.01)),
            ordered=rng.random() < 0.75,
            bulk=rng.choice((10, 10, 30_000, 400_000)),
        ),
        load=Load(
            pause=(450_000, 950_000),
            beat=rng.choice((0, 250_000)) if rng.random() < 0.08 else 500_000,
            batch=rng.choice((4, 5, 6)),
            window=rng.choice((4, 8, 12)),
            patience=(8_000, 30_000) if rng.random() < 0.1 else (60_000, 120_000),
            wander=rng.choice((0.02, 0.02, 0.15)),
            sleep=rng.choice((0.0, 0.0, 0.03)),
        ),
        drift=rng.choice((0, 0, 200)),
        coded=rng.random() < 0.06,
        over_budget=options.over_budget,
        oracles=options.oracles,
    )
    everything = not (options.kinds or options.without or vital) and len(names) > 2
    themes = subject.themes or THEMES
    return _themed(plan, rng, terrain, themes) if everything and rng.random() < themes.share else plan


def _themed(plan: Plan, rng: Random, terrain: Terrain, themes: Themes) -> Plan:
    begins = [CALM + window * SPAN for window in range(WINDOWS)]
    theme = rng.choice(themes.draws)(rng, terrain, begins)
    return dataclasses.replace(
        plan,
        schedule=tuple(sorted(theme.faults, key=lambda fault: fault.at)),
        timing={**plan.timing, **theme.timing},
        settings={**plan.settings, **theme.settings},
        weather=dataclasses.replace(plan.weather, **theme.weather),
        load=dataclasses.replace(plan.load, **theme.load),
    )


def _schedule(rng: Random, terrain: Terrain, enabled: list[str]) -> list[Fault]:
    faults: list[Fault] = []
    if not enabled:
        return faults
    for window in range(WINDOWS):
        begin = CALM + window * SPAN + rng.randrange(300_000)
        for _ in range(rng.choice((1, 1, 2, 3))):
            kind = KINDS[rng.choices(enabled, [WEIGHTS.get(name, 1) for name in enabled])[0]]
            at = begin + rng.choice((0, rng.randrange(400_000)))
            until = at + rng.randrange(500_000, 2_200_000)
            faults.append(Fault(len(faults), kind.name, at, until, kind.draw(rng, terrain)))
    return sorted(faults, key=lambda fault: fault.at)
