"""Nodes that lie."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from sim.byzantine.client_lies import STRATEGIES
from sim.faults.kind import UNTIL_THE_END, FaultError, Kind, Params, Terrain
from sim.faults.rules import NAME, one_of
from sim.faults.running import Course, Running

if TYPE_CHECKING:
    from sim.virtual.world import World


def _byzantine(world: World, running: Running) -> Course:
    """A node lies, by the strategy `variant`, for as long as the fault lasts. `node`: its name."""
    params = running.fault.params
    make = world.protocol.liar
    if make is None:
        raise FaultError(f"{running.fault}: nobody who takes part in {world.protocol.name} may lie")
    host = world.hosts.get(params["node"])
    if host is None or host.lies is not None:
        return  # there is no such node any more, or it lies already in another way
    others = [name for name in world.liars if name != host.name]
    if len(others) >= world.may_lie:
        running.bite("spared: as many as may lie have lied")
        return
    host.lie(make(world, host.name, params["variant"], running.rng), running)
    try:
        yield UNTIL_THE_END
    finally:
        host.come_clean()


def _draw(rng: Random, terrain: Terrain) -> Params:
    return {"node": rng.choice(terrain.liars or terrain.damageable), "variant": rng.choice(list(STRATEGIES))}


KINDS: Final = (
    Kind(
        "byzantine", "a node lies", _byzantine, _draw, variants=tuple(STRATEGIES), lies=True,
        params={"node": NAME, "variant": one_of(*STRATEGIES)},
    ),
)  # fmt: skip
