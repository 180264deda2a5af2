"""A fault: the voltage sags. For as long as it lasts, nodes of one power domain compute and sync more slowly and their clocks
lose time; each by itself is harmless, and some of them restart when the voltage comes back."""

from random import Random
from typing import TYPE_CHECKING

from sim.faults.kind import UNTIL_THE_END, Kind, Params, Terrain
from sim.faults.running import Course, Running
from sim.virtual.host import TURN

if TYPE_CHECKING:
    from sim.virtual.world import World


def brown_out(world: "World", running: Running) -> Course:
    """`place` of the power tree; `cost`: microseconds of a turn; `times`: how much longer a sync takes; `ppm`: what clocks lose;
    `restart`: share of the nodes that do not stand it."""
    params = running.fault.params
    now = world.timeline.now
    nodes = [world.hosts[name] for name in world.power.below(params["place"])]
    drifts = [host.clock.drift for host in nodes]
    try:
        for host in nodes:
            host.turn_cost, host.slowness = params["cost"], params["times"]
            host.clock.set_drift(-params["ppm"], now)
            host.rearm()  # its timer was set for a clock that ran otherwise
            if host.running:
                running.bite("nodes dimmed")
        yield UNTIL_THE_END
    finally:  # whatever happens, leave everything as it was found
        for host, drift in zip(nodes, drifts, strict=True):
            host.turn_cost, host.slowness = TURN, 1
            host.clock.set_drift(drift, world.timeline.now)
            host.rearm()
            if host.running and running.rng.random() < params["restart"]:
                host.cut_power(running)
                host.boot()


def draw(rng: Random, terrain: Terrain) -> Params:
    return {
        "place": rng.choice(list(terrain.places)[1:]),
        "cost": rng.choice((200, 2_000)),
        "times": rng.choice((3, 20)),
        "ppm": rng.randint(1_000, 50_000),
        "restart": rng.choice((0, 0.5, 1)),
    }


BROWN_OUT = Kind("brown-out", "the voltage of a place sags, and comes back with restarts", brown_out, draw)
