"""Faults of disks."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from sim.faults.kind import UNTIL_THE_END, Kind, Params, Terrain
from sim.faults.running import Course, Running

if TYPE_CHECKING:
    from sim.virtual.host import Host
    from sim.virtual.world import World


def _victim(world: World, running: Running) -> Host:
    node = running.fault.params["node"]
    if node == "leader":
        return world.hosts[world.leader() or running.rng.choice(world.names)]
    return world.hosts[world.names[node % len(world.names)]]


def _draw_node(rng: Random, terrain: Terrain) -> int | str:
    return rng.choice(("leader", rng.randrange(len(terrain.nodes))))


def _stall(world: World, running: Running) -> Course:
    """No sync of a disk returns."""
    host = _victim(world, running)
    try:
        host.stall = running
        yield UNTIL_THE_END
    finally:
        host.unstall()


def _slow(world: World, running: Running) -> Course:
    """Every sync takes `times` as long as usual."""
    host = _victim(world, running)
    host.slowness = running.fault.params["times"]
    running.bite("slowed")
    try:
        yield UNTIL_THE_END
    finally:
        host.slowness = 1


def _draw_slow(rng: Random, terrain: Terrain) -> Params:
    return {"node": _draw_node(rng, terrain), "times": rng.choice((5, 40, 300))}


KINDS: Final = (
    Kind("disk stall", "no sync returns", _stall, lambda rng, terrain: {"node": _draw_node(rng, terrain)}),
    Kind("disk slow", "every sync takes long", _slow, _draw_slow),
)
