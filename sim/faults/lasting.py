"""Troubles that do not end by themselves: what befalls everybody outside the healthy majority when progress is demanded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Final

from sim.faults.fault import Fault
from sim.faults.running import Running

if TYPE_CHECKING:
    from sim.virtual.world import World


def _running(world: World, name: str) -> Running:
    return Running(
        world, Fault(-1 - world.names.index(name), "lasting", world.timeline.now, world.timeline.now)
    )


def _dark(world: World, name: str, healthy: Sequence[str]) -> str:
    for lost in world.power.cut(name):
        world.hosts[lost].cut_power()
    return "has no power"


def _cut(ways: str) -> Callable[[World, str, Sequence[str]], str]:
    def trouble(world: World, name: str, healthy: Sequence[str]) -> str:
        by = _running(world, name)
        for other in healthy:
            if ways != "in":
                world.network.links[name, other].cut(by)
            if ways != "out":
                world.network.links[other, name].cut(by)
        return {
            "in": "hears none of them",
            "out": "is heard by none of them",
            "both": "is cut off from them",
        }[ways]

    return trouble


def _half_cut(world: World, name: str, healthy: Sequence[str]) -> str:
    by = _running(world, name)
    for other in healthy[: len(healthy) // 2 + 1]:
        world.network.links[name, other].cut(by)
        world.network.links[other, name].cut(by)
    return "is cut off from some of them"


def _paused(world: World, name: str, healthy: Sequence[str]) -> str:
    world.hosts[name].pause(world.timeline.now + 3_600_000_000)
    return "stands still"


def _stalled(world: World, name: str, healthy: Sequence[str]) -> str:
    world.hosts[name].stall = _running(world, name)
    return "waits for its disk for ever"


def _flooded(world: World, name: str, healthy: Sequence[str]) -> str:
    world.hosts[name].turn_cost = 30_000
    return "has a slow processor"


TROUBLES: Final[tuple[Callable[[World, str, Sequence[str]], str], ...]] = (
    _dark,
    _cut("both"),
    _cut("in"),
    _cut("out"),
    _half_cut,
    _paused,
    _stalled,
    _flooded,
)


def trouble(world: World, name: str, healthy: Sequence[str], rng: Random) -> str:
    """Put a node into trouble; in words."""
    return rng.choice(TROUBLES)(world, name, healthy)


def go_on_lying(world: World, name: str, rng: Random) -> str:
    """Let a node that has lied lie again, by the same strategy; in words."""
    assert world.protocol.liar is not None
    how = world.liars[name]
    world.hosts[name].lie(world.protocol.liar(world, name, how, rng), _running(world, name))
    return f"lies on ({how})"
