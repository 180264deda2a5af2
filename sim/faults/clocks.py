"""Faults of clocks."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from sim.faults.kind import UNTIL_THE_END, Kind, Params, Terrain
from sim.faults.rules import NOW_AND_THEN, NUMBER, RATES_OF_CLOCKS, WAIT
from sim.faults.running import Course, Running

if TYPE_CHECKING:
    from sim.virtual.world import World


def _drift(world: World, running: Running) -> Course:
    """Clocks run at other rates: `ppm` parts per million, node by node, 0 for those left alone."""
    old = {}
    now = world.timeline.now
    try:
        for name, ppm in zip(world.names, running.fault.params["ppm"], strict=False):
            if ppm:
                host = world.hosts[name]
                old[name] = host.clock.drift
                expected = host.clock.read(now + 1_000_000)
                host.clock.set_drift(ppm, now)
                host.rearm()
                if host.clock.read(now + 1_000_000) != expected:
                    running.bite("clocks off")
        yield UNTIL_THE_END
    finally:
        for name, ppm in old.items():
            world.hosts[name].clock.set_drift(ppm, world.timeline.now)
            world.hosts[name].rearm()


def _draw_drift(rng: Random, terrain: Terrain) -> Params:
    most = rng.choice((200, 20_000, 300_000))
    return {"ppm": [rng.randint(-most, most) if rng.random() < 0.6 else 0 for _ in terrain.nodes]}


def _jump(world: World, running: Running) -> Course:
    """A clock skips ahead by `ahead` microseconds, every `every` microseconds: once is a suspended machine, often a strobe."""
    params = running.fault.params
    host = world.hosts[world.names[params["node"] % len(world.names)]]
    while True:
        before = host.clock.read(world.timeline.now)
        host.clock.jump(params["ahead"], world.timeline.now)
        host.rearm()
        if host.clock.read(world.timeline.now) > before:
            running.bite("jumps")
        yield params["every"] or UNTIL_THE_END


def _draw_jump(rng: Random, terrain: Terrain) -> Params:
    return {
        "node": rng.randrange(len(terrain.nodes)),
        "ahead": rng.choice((5_000, 100_000, 900_000)),
        "every": rng.choice((0, 50_000, 300_000)),
    }


KINDS: Final = (
    Kind("drift", "clocks run too fast or too slow", _drift, _draw_drift, params={"ppm": RATES_OF_CLOCKS}),
    Kind(
        "jump", "a clock skips ahead, once or again and again", _jump, _draw_jump,
        params={"node": NUMBER, "ahead": WAIT, "every": NOW_AND_THEN},
    ),
)  # fmt: skip
