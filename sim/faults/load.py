"""Faults that clients commit."""

from __future__ import annotations

import dataclasses
from random import Random
from typing import TYPE_CHECKING, Final

from sim.faults.kind import UNTIL_THE_END, Kind, Params, Terrain
from sim.faults.rules import one_of, whole
from sim.faults.running import Course, Running
from sim.virtual.network import Condition

if TYPE_CHECKING:
    from sim.virtual.world import World


def _storm(world: World, running: Running) -> Course:
    """Clients behave otherwise. `burst`: they ask much more often; `retry`: they send everything again before an answer can have
    come, to anybody; `hang-up`: they keep ending their connections; `huge` and `empty`: sizes of what they write;
    `queries`: one of
    them asks one node very many questions at once; `nonsense`: one of them sends what no client may send."""
    variant = running.fault.params["variant"]
    old = [client.load for client in world.clients]
    for client in world.clients:
        load = client.load
        if variant == "burst":
            client.load = dataclasses.replace(load, pause=(4_000, 40_000))
        elif variant == "retry":
            client.load = dataclasses.replace(load, patience=(1_000, 9_000), patience_most=60_000, wander=0.6)
        elif variant == "hang-up":
            client.load = dataclasses.replace(load, hang_ups=0.6)
        elif variant in ("huge", "empty"):
            client.workload.sizes(variant)
        world.timeline.after(running.rng.randrange(20_000), lambda who: who.act_once(), client)
        running.bite(variant)
    rng = running.rng
    try:
        while variant in ("queries", "nonsense"):
            client = rng.choice(world.clients)
            if variant == "nonsense":
                client.ask_nonsense(rng)
            elif client.opening is None:
                client.ask_much(rng, 30)
            yield rng.randrange(50_000, 400_000)
        yield UNTIL_THE_END
    finally:
        for client, load in zip(world.clients, old, strict=True):
            client.load = load
            client.workload.sizes("")


STORMS: Final = ("burst", "retry", "hang-up", "huge", "empty", "queries", "nonsense")


def _draw_storm(rng: Random, terrain: Terrain) -> Params:
    return {"variant": rng.choice(STORMS)}


def _deaf(world: World, running: Running) -> Course:
    """A client reads nothing of what nodes send it; all of it arrives at the end."""
    client = world.clients[running.fault.params["client"] % len(world.clients)]
    links = [link for link in world.network.links.values() if link.dest == client.name]
    try:
        for link in links:
            link.lay(Condition("clog", running, running.rng))
        yield UNTIL_THE_END
    finally:
        for link in links:
            link.lift(running)


KINDS: Final = (
    Kind(
        "storm",
        "clients behave badly",
        _storm,
        _draw_storm,
        variants=STORMS,
        params={"variant": one_of(*STORMS)},
    ),
    Kind(
        "deaf client",
        "a client reads nothing for a while",
        _deaf,
        lambda rng, terrain: {"client": rng.randrange(8)},
        params={"client": whole(0, 63)},
    ),
)
