"""Faults of the network."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Final

from sim.faults import shapes
from sim.faults.kind import UNTIL_THE_END, Kind, Params, Terrain
from sim.faults.rules import LINKS, LOW, NOW_AND_THEN, NUMBER, PACE, SHAPE, SHARE, WAIT, Rules, optional
from sim.faults.running import Course, Running
from sim.faults.shapes import Setting
from sim.virtual.network import OUTSIDE, Condition, Link

if TYPE_CHECKING:
    from sim.virtual.world import World


def setting(world: World) -> Setting:
    """What a shape is drawn for, as the world is now."""
    # The second part of a path; a tree may be flatter than that.
    domains = {name: (path.split("/")[1:] or [path])[0] for name, path in world.power.paths.items()}
    return Setting(world.names, world.leader(), domains)


# ------------------------------------------------------------------------------------------------------------ partitions


def _partition(world: World, running: Running) -> Course:
    """`shape`: a name in `sim.faults.shapes`; `deaf`: a node that clients cannot reach either, or nothing; `again`: draw it anew
    after so many microseconds, 0 for never."""
    params = running.fault.params
    cut: list[Link] = []
    try:
        while True:
            for sender, receiver in shapes.grudge(params["shape"], setting(world), running.rng):
                cut.append(world.network.links[sender, receiver])
            if params.get("deaf"):
                victim = world.names[params["deaf"] % len(world.names)]
                cut += world.network.between(OUTSIDE, victim) + world.network.between(victim, OUTSIDE)
            for link in cut:
                link.cut(running)
            yield params.get("again") or UNTIL_THE_END
            for link in cut:
                link.mend(running)
            cut = []
    finally:
        for link in cut:
            link.mend(running)


def _draw_partition(rng: Random, terrain: Terrain) -> Params:
    name = rng.choice(shapes.names())
    direction = rng.choice(("", "", ":out", ":in")) if name != "grudge" else ""
    params: Params = {"shape": name + direction}
    if rng.random() < 0.2:
        params["deaf"] = rng.randrange(len(terrain.nodes))
    if rng.random() < 0.2:
        params["again"] = rng.randrange(200_000, 800_000)
    return params


# ------------------------------------------------------------------------------------------------- conditions of links


def _chosen(world: World, running: Running) -> list[Link]:
    """The links that `links` names: `all`, `clients`, or a shape's."""
    which = running.fault.params.get("links", "all")
    network = world.network
    if which == "all":
        return list(network.links.values())
    if which == "clients":
        return [
            link
            for link in network.links.values()
            if link.source in network.clients or link.dest in network.clients
        ]
    return [network.links[pair] for pair in shapes.grudge(which, setting(world), running.rng)]


def _condition(kind: str) -> Callable[[World, Running], Course]:
    def course(world: World, running: Running) -> Course:
        params = running.fault.params
        chosen = _chosen(world, running)
        try:
            for link in chosen:
                link.lay(
                    Condition(
                        kind,
                        running,
                        running.rng,
                        params.get("rate", 1.0),
                        params.get("low", 0),
                        params.get("high", 0),
                    )
                )
            yield UNTIL_THE_END
        finally:
            for link in chosen:
                link.lift(running)

    return course


def _draw_links(rng: Random) -> str:
    return rng.choice(("all", "all", "clients", rng.choice(shapes.names())))


def _rates(low: float, high: float) -> Callable[[Random, Terrain], Params]:
    return lambda rng, terrain: {"links": _draw_links(rng), "rate": round(rng.uniform(low, high), 3)}


def _draw_delay(rng: Random, terrain: Terrain) -> Params:
    low = rng.choice((2_000, 10_000, 40_000))
    return {
        "links": _draw_links(rng),
        "rate": rng.choice((0.3, 1.0)),
        "low": low,
        "high": low * rng.choice((1, 3)),
    }


def _draw_duplicate(rng: Random, terrain: Terrain) -> Params:
    high = rng.choice((1_000, 50_000, 400_000))
    return {"links": _draw_links(rng), "rate": round(rng.uniform(0.05, 0.4), 3), "low": 0, "high": high}


def _draw_reorder(rng: Random, terrain: Terrain) -> Params:
    high = rng.choice((3_000, 30_000, 300_000))
    return {"links": _draw_links(rng), "rate": round(rng.uniform(0.1, 0.6), 3), "low": 0, "high": high}


def _draw_capacity(rng: Random, terrain: Terrain) -> Params:
    """`low`: microseconds that a message takes, `high`: the longest queue, in microseconds."""
    return {
        "links": _draw_links(rng),
        "low": rng.choice((500, 3_000, 12_000)),
        "high": rng.choice((5_000, 60_000)),
    }


# ---------------------------------------------------------------------------------------------------- clogs and swizzle


def _clog(world: World, running: Running) -> Course:
    """The chosen links keep everything; all of it arrives when they are unclogged."""
    yield from _condition("clog")(world, running)


def _swizzle(world: World, running: Running) -> Course:
    """Half the nodes are clogged one by one, and unclogged in another order (FoundationDB's swizzle-clog). `step`:
    microseconds."""
    rng, step = running.rng, running.fault.params["step"]
    victims = rng.sample(world.names, max(1, len(world.names) // 2))
    touched: dict[str, list[Link]] = {}
    try:
        for name in victims:
            links = [link for link in world.network.peer_links() if name in (link.source, link.dest)]
            touched[name] = links
            for link in links:
                link.lay(Condition("clog", running, rng))
            yield step
        rng.shuffle(victims)
        for name in victims:
            for link in touched.pop(name):
                link.lift(running)
            for links in touched.values():  # a link between two victims stays clogged until both are free
                for link in links:
                    if not any(condition.by is running for condition in link.conditions):
                        link.lay(Condition("clog", running, rng))
            yield step
        yield UNTIL_THE_END
    finally:
        for links in touched.values():
            for link in links:
                link.lift(running)


def _draw_swizzle(rng: Random, terrain: Terrain) -> Params:
    return {"step": rng.randrange(60_000, 300_000)}


def _jam(world: World, running: Running) -> Course:
    """Everything that one node sends is clogged for a moment, again and again: a link that stutters. `on`, `off`:
    microseconds."""
    params = running.fault.params
    name = world.names[params["node"] % len(world.names)]
    links = [link for link in world.network.peer_links() if link.source == name]
    try:
        while True:
            for link in links:
                link.lay(Condition("clog", running, running.rng))
            yield params["on"]
            for link in links:
                link.lift(running)
            yield params["off"]
    finally:
        for link in links:
            link.lift(running)


def _draw_jam(rng: Random, terrain: Terrain) -> Params:
    on = rng.randrange(30_000, 260_000)
    return {"node": rng.randrange(len(terrain.nodes)), "on": on, "off": rng.randrange(5_000, 150_000)}


def _kind(name: str, title: str, course: Any, draw: Any, params: Rules, **more: Any) -> Kind:
    return Kind(name, title, course, draw, params=params, **more)


_SHARE: Final = {"links": optional(LINKS), "rate": optional(SHARE)}
_LATE: Final = {**_SHARE, "low": optional(LOW), "high": optional(WAIT)}

KINDS: Final = (
    _kind(
        "partition", "links between members are cut, in one of the shapes", _partition, _draw_partition,
        {"shape": SHAPE, "deaf": optional(NUMBER), "again": optional(NOW_AND_THEN)},
        variants=tuple(shapes.names()),
    ),
    _kind("loss", "messages are lost", _condition("loss"), _rates(0.02, 0.4), _SHARE),
    _kind("delay", "messages are late", _condition("delay"), _draw_delay, _LATE),
    _kind("duplicate", "messages arrive twice, the second time late", _condition("duplicate"), _draw_duplicate,
    _LATE),
    _kind("reorder", "messages overtake each other", _condition("reorder"), _draw_reorder, _LATE),
    _kind("corrupt", "bits of messages flip", _condition("corrupt"), _rates(0.01, 0.2), _SHARE),
    _kind("capacity", "a link carries few messages, and drops what does not fit its queue", _condition("capacity"),
    _draw_capacity, {"links": optional(LINKS), "low": optional(WAIT), "high": optional(WAIT)}),
    _kind("clog", "links keep everything until they are unclogged", _clog, lambda rng, terrain: {"links": _draw_links(rng)},
    {"links": optional(LINKS)}),
    _kind("swizzle", "half the nodes are clogged one by one, and unclogged in another order", _swizzle, _draw_swizzle,
    {"step": WAIT}),
    _kind("jam", "what a node sends comes in bursts, with silence between", _jam, _draw_jam,
    {"node": NUMBER, "on": PACE, "off": PACE}),
)  # fmt: skip
