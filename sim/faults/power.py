"""Faults of power and of processes."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any, Final

from node.disk import Append, Create, Remove, Rename, Sync, SyncDirectory, Truncate
from sim.faults.kind import UNTIL_THE_END, Kind, Params, Terrain
from sim.faults.rules import FLAG, NAME, NUMBER_OR_LEADER, PACE, PLACE, WAIT, one_of, optional, whole
from sim.faults.running import Course, Running
from sim.virtual.disk import Handler, MemoryDisk
from sim.virtual.disk_faults import DiskFault
from sim.virtual.host import AMID_THE_START, TRAPS

if TYPE_CHECKING:
    from sim.virtual.host import Host
    from sim.virtual.world import World


def dark(world: World, place: str, running: Running) -> None:
    """Cut the power of a place in the tree."""
    for name in world.power.cut(place):
        world.hosts[name].cut_power(running)
        if world.hosts[name].view is None:
            running.bite("nodes dark")


def light(world: World, place: str, running: Running, delay: int = 0) -> None:
    """Give a place its power back; its nodes start after `delay`."""
    for name in world.power.restore(place):
        world.timeline.after(delay, lambda host: host.boot(), world.hosts[name])


def _place(world: World, running: Running) -> str:
    """The place that `place` names: a path, `leader` (the leader's), or a node."""
    place: str = running.fault.params["place"]
    if place == "leader":
        return world.power.paths[world.leader() or running.rng.choice(world.names)]
    return place


def _when_unsynced(world: World, place: str) -> bool:
    return any(
        world.hosts[name].disk.unsynced_bytes
        for name in world.power.below(place)
        if world.hosts[name].running
    )


def _outage(world: World, running: Running) -> Course:
    """A place loses its power, at a moment when a disk below it holds bytes that are not synced if `wait` allows for one; it
    comes back at the end, one node after the other if `stagger` is above 0."""
    params = running.fault.params
    place = _place(world, running)
    for _ in range(params.get("wait", 0) // 100):
        if _when_unsynced(world, place):
            break
        yield 100
    dark(world, place, running)
    try:
        yield UNTIL_THE_END
    finally:
        stagger = params.get("stagger", 0)
        names = world.power.restore(place)
        if params.get("reverse"):
            names.reverse()
        for turn, name in enumerate(names):
            world.timeline.after(stagger * turn, lambda host: host.boot(), world.hosts[name])


def _draw_outage(rng: Random, terrain: Terrain) -> Params:
    place = rng.choice([*terrain.places, "leader", "leader"])
    stagger = rng.choice((0, 0, 20_000, 200_000))
    return {
        "place": place,
        "wait": rng.choice((0, 20_000)),
        "stagger": stagger,
        "reverse": rng.random() < 0.3,
    }


def _flap(world: World, running: Running) -> Course:
    """The power of a place comes and goes. `on`, `off`: microseconds."""
    params = running.fault.params
    place = _place(world, running)
    out = False
    try:
        while True:
            dark(world, place, running)
            out = True
            yield params["off"]
            light(world, place, running)
            out = False
            yield params["on"]
    finally:
        if out:
            light(world, place, running)


def _draw_flap(rng: Random, terrain: Terrain) -> Params:
    place = rng.choice(list(terrain.places)[1:] or list(terrain.places))
    return {"place": place, "off": rng.randrange(20_000, 250_000), "on": rng.randrange(30_000, 400_000)}


def _rolling(world: World, running: Running) -> Course:
    """One place of a level after the other loses its power and gets it back. `dark`, `gap`: microseconds."""
    params = running.fault.params
    places = [place for place in world.power.places() if place.count("/") == params["level"]] or world.names
    running.rng.shuffle(places)
    current = ""
    try:
        for place in places:
            dark(world, place, running)
            current = place
            yield params["dark"]
            light(world, place, running)
            current = ""
            yield params["gap"]
        yield UNTIL_THE_END
    finally:
        if current:
            light(world, current, running)


def _draw_rolling(rng: Random, terrain: Terrain) -> Params:
    return {
        "level": rng.choice((1, 2)),
        "dark": rng.randrange(100_000, 500_000),
        "gap": rng.randrange(20_000, 300_000),
    }


def _blackout(world: World, running: Running) -> Course:
    """Everything goes dark at once and comes back in an order of its own. `stagger`: microseconds between two nodes."""
    for _ in range(200):
        if _when_unsynced(world, world.power.places()[0]):
            break
        yield 100
    root = world.power.places()[0]
    dark(world, root, running)
    try:
        yield UNTIL_THE_END
    finally:
        names = world.power.restore(root)
        running.rng.shuffle(names)
        for turn, name in enumerate(names):
            world.timeline.after(
                running.fault.params["stagger"] * turn, lambda host: host.boot(), world.hosts[name]
            )


def _victim(world: World, running: Running) -> Host:
    """The node that `node` names: `leader`, or a number."""
    node = running.fault.params["node"]
    if node == "leader":
        return world.hosts[world.leader() or running.rng.choice(world.names)]
    return world.hosts[world.names[node % len(world.names)]]


def _draw_node(rng: Random, terrain: Terrain) -> int | str:
    return rng.choice(("leader", rng.randrange(len(terrain.nodes))))


def _kill(world: World, running: Running) -> Course:
    """A process dies; it is started again after `rest` microseconds, `times` times over."""
    params = running.fault.params
    host = _victim(world, running)
    try:
        for _ in range(params["times"]):
            host.kill(running)
            yield params["rest"]
            host.boot()
            yield params["rest"]
        yield UNTIL_THE_END
    finally:
        host.boot()


def _draw_kill(rng: Random, terrain: Terrain) -> Params:
    return {
        "node": _draw_node(rng, terrain),
        "times": rng.randint(1, 4),
        "rest": rng.randrange(5_000, 400_000),
    }


def _trap(world: World, running: Running) -> Course:
    """The process dies exactly at one of `TRAPS`, by loss of power or by itself, as soon as it comes to it."""
    params = running.fault.params
    host = _victim(world, running)
    moment: str = params["variant"]
    if moment == AMID_THE_START:
        yield from _amid_the_start(world, running, host)
        return
    try:
        while True:
            if host.running:
                host.trap = (moment, running, params["how"])
            for _ in range(200):
                yield 2_000
                if host.trap is None or not host.running:
                    break
            yield params["rest"]
            host.boot()
            if not params["again"]:
                yield UNTIL_THE_END
            yield params["rest"]
    finally:
        host.trap = None
        host.boot()


def _amid_the_start(world: World, running: Running, host: Host) -> Course:
    """The power goes again while the node reads and repairs its disk, one operation later each time."""
    halt = None
    try:
        for count in range(1, 9):
            host.cut_power(running)
            yield running.fault.params["rest"]
            halt = Halt(running.rng, count)
            host.disk.lay(halt)
            host.boot()
            host.disk.lift(halt)
            if halt.halted:
                running.bite(f"died {AMID_THE_START}")
            host.look_after()
            if not running.fault.params["again"]:
                yield UNTIL_THE_END
            yield running.fault.params["rest"] + 40_000
        yield UNTIL_THE_END
    finally:
        if halt is not None:
            host.disk.lift(halt)
        host.look_after()


class Halt(DiskFault):
    """The machine stops at the `count`-th operation that changes the disk."""

    ops: tuple[type, ...] = (Create, Append, Sync, SyncDirectory, Rename, Remove, Truncate)

    def __init__(self, rng: Random, count: int) -> None:
        super().__init__(rng)
        self._left = count
        self.halted = False

    def perform(self, disk: MemoryDisk, onward: Handler, op: Any) -> None:
        """See `sim.virtual.disk.Condition`."""
        self._left -= 1
        if self._left == 0:
            self.halted = True
            raise disk.failure(type(op).__name__, getattr(op, "name", ""), "the power is gone")
        onward(op)


def _draw_trap(rng: Random, terrain: Terrain) -> Params:
    return {
        "node": _draw_node(rng, terrain),
        "variant": rng.choice(TRAPS),
        "how": rng.choice(("power", "power", "kill")),
        "rest": rng.randrange(5_000, 300_000),
        "again": rng.random() < 0.5,
    }


def _leave(world: World, running: Running) -> Course:
    """A node is stopped in order: it hands over, finishes what it writes, ends, and is started again after `rest`
    microseconds."""
    params = running.fault.params
    host = _victim(world, running)
    try:
        if host.running:
            host.leave()
            running.bite("left")
            for _ in range(50):
                yield params["linger"]
                if host.replica is None or not host.replica.busy:
                    break
            host.kill()
        yield params["rest"]
        host.boot()
        yield UNTIL_THE_END
    finally:
        host.kill()  # a node that is leaving would never lead or serve again
        host.boot()


def _draw_leave(rng: Random, terrain: Terrain) -> Params:
    rest = rng.randrange(5_000, 400_000)
    return {"node": _draw_node(rng, terrain), "linger": rng.choice((2_000, 20_000)), "rest": rest}


def _pause(world: World, running: Running) -> Course:
    """A process stands still (SIGSTOP, a collection of garbage, a moved machine) for `on` microseconds, and goes on for `off`."""
    params = running.fault.params
    host = _victim(world, running)
    try:
        while True:
            if host.running:
                host.pause(world.timeline.now + params["on"])
                running.bite("paused")
            yield params["on"] + params["off"]
    finally:
        host.resume()


def _draw_pause(rng: Random, terrain: Terrain) -> Params:
    on = rng.choice((60_000, 200_000, 700_000))
    return {"node": _draw_node(rng, terrain), "on": on, "off": rng.randrange(20_000, 500_000)}


def _slow(world: World, running: Running) -> Course:
    """A processor that takes `cost` microseconds for a turn."""
    host = _victim(world, running)
    before, host.turn_cost = host.turn_cost, running.fault.params["cost"]
    running.bite("slowed")
    try:
        yield UNTIL_THE_END
    finally:
        host.turn_cost = before


def _draw_slow(rng: Random, terrain: Terrain) -> Params:
    return {"node": _draw_node(rng, terrain), "cost": rng.choice((1_000, 6_000, 30_000))}


def _wipe(world: World, running: Running) -> Course:
    """A node loses its power, and comes back with an empty disk: it must refuse to start, and counts as lost."""
    host = world.hosts[running.fault.params["node"]]
    yield 0
    host.cut_power(running)
    world.excused[host.name] = "wiped"
    host.wipe()
    running.bite("wiped")
    yield 50_000
    host.boot()
    if host.lost:
        running.bite("refused to start")


def _draw_wipe(rng: Random, terrain: Terrain) -> Params:
    return {"node": rng.choice(terrain.damageable)}


def _gone(world: World, running: Running) -> Course:
    """A node loses its power and never returns."""
    host = world.hosts[running.fault.params["node"]]
    yield 0
    host.cut_power(running)
    world.power.cut(host.name)
    world.excused[host.name] = "gone for good"
    host.lost = "gone for good"
    running.bite("gone")


_NODE: Final = {"node": NUMBER_OR_LEADER}

KINDS: Final = (
    Kind("outage", "a place of the power tree goes dark", _outage, _draw_outage, params={
        "place": PLACE, "wait": optional(WAIT), "stagger": optional(WAIT), "reverse": optional(FLAG),
    }),
    Kind("flap", "the power of a place comes and goes", _flap, _draw_flap, params={
        "place": PLACE, "off": PACE, "on": PACE,
    }),
    Kind("rolling", "one place after the other goes dark", _rolling, _draw_rolling, params={
        "level": whole(0, 31), "dark": WAIT, "gap": WAIT,
    }),
    Kind(
        "blackout", "everything goes dark at once", _blackout,
        lambda rng, terrain: {"stagger": rng.choice((0, 30_000, 250_000))}, params={"stagger": WAIT},
    ),
    Kind("kill", "a process dies and is started again", _kill, _draw_kill, params={
        **_NODE, "times": whole(1, 1_000), "rest": WAIT,
    }),
    Kind("trap", "a process dies between a write, its sync and the messages", _trap, _draw_trap, variants=TRAPS, params={
        **_NODE, "variant": one_of(*TRAPS), "how": one_of("power", "kill"), "rest": WAIT, "again": FLAG,
    }),
    Kind("leave", "a node is stopped in order and started again", _leave, _draw_leave, params={
        **_NODE, "linger": WAIT, "rest": WAIT,
    }),
    Kind("pause", "a process stands still and goes on", _pause, _draw_pause, params={**_NODE, "on": PACE, "off": WAIT}),
    Kind("slow", "a processor is slow", _slow, _draw_slow, params={**_NODE, "cost": whole(1, 10_000_000)}),
    Kind("wipe", "a node comes back with an empty disk", _wipe, _draw_wipe, damages=True, params={"node": NAME}),
    Kind("gone", "a node never returns", _gone, _draw_wipe, damages=True, params={"node": NAME}),
)  # fmt: skip
