"""Faults of disks. What they damage for good is counted against the budget: see `Kind.damages`."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Final

from sim.faults.kind import UNTIL_THE_END, Kind, Params, Terrain
from sim.faults.rules import FLAG, NODE, SHARE, WAIT, one_of, optional, whole
from sim.faults.running import Course, Running
from sim.virtual.disk_faults import (
    DiskFault,
    FullDisk,
    MisdirectedWrite,
    ReadError,
    SyncError,
    WriteError,
    overwrite,
)
from sim.virtual.disk_rot import PARTS, in_window, places

if TYPE_CHECKING:
    from sim.virtual.host import Host
    from sim.virtual.world import World


def _victim(world: World, running: Running) -> Host:
    """The node that `node` names: `leader`, a number, or a name."""
    node = running.fault.params["node"]
    if node == "leader":
        return world.hosts[world.leader() or running.rng.choice(world.names)]
    return world.hosts[node if node in world.hosts else world.names[node % len(world.names)]]


def _draw_node(rng: Random, terrain: Terrain) -> int | str:
    return rng.choice(("leader", rng.randrange(len(terrain.nodes))))


# ---------------------------------------------------------------------------------------------------------- slowness


def _stall(world: World, running: Running) -> Course:
    """No sync of a disk returns; with `journal` those of snapshots do."""
    host = _victim(world, running)
    try:
        host.stall = running
        host.stall_journal_only = running.fault.params.get("journal", False)
        yield UNTIL_THE_END
    finally:
        host.unstall()


def _draw_stall(rng: Random, terrain: Terrain) -> Params:
    return {"node": _draw_node(rng, terrain), "journal": rng.random() < 0.4}


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


# ------------------------------------------------------------------------------------------------------------ errors

Make = Callable[[Running, "Host"], DiskFault]


def _lay(make: Make) -> Callable[[World, Running], Course]:
    """A condition on one disk. The node stops at the first error, says why, and is started again a little later. With `restart`
    it loses its power first, so that the fault meets it while it starts."""

    def course(world: World, running: Running) -> Course:
        host = _victim(world, running)
        condition = make(running, host)
        try:
            host.disk.lay(condition)
            if running.fault.params.get("restart"):
                host.cut_power()
                yield 20_000
                host.boot()
            yield UNTIL_THE_END
        finally:
            host.disk.lift(condition)
            host.look_after()

    return course


def _draw_error(rng: Random, terrain: Terrain) -> Params:
    rate = rng.choice((0.05, 0.3, 1.0))
    return {"node": _draw_node(rng, terrain), "rate": rate, "restart": rng.random() < 0.4}


def _draw_read_error(rng: Random, terrain: Terrain) -> Params:
    return {"node": _draw_node(rng, terrain), "rate": rng.choice((0.05, 0.3, 1.0)), "restart": True}


def _draw_full(rng: Random, terrain: Terrain) -> Params:
    return {"node": _draw_node(rng, terrain), "room": rng.choice((0, 300, 3_000))}


def _full(running: Running, host: Host) -> DiskFault:
    used = sum(host.disk.file(name).size for name in host.disk.listing())
    return FullDisk(running.rng, used + running.fault.params["room"], by=running.bite)


# ------------------------------------------------------------------------------------------------------------ damage


def _rot(world: World, running: Running) -> Course:
    """Bits flip in what was synced long ago, in the part of the files that `variant` names; the node is started again and must
    notice. What no single node can tell from a torn write (docs/explanation/durability.md) is left alone."""
    host = _victim(world, running)
    yield 0
    for _ in range(40):  # until there is such a part
        found = [
            place
            for place in places(host.disk, [running.fault.params["variant"]])
            if not in_window(host.disk, place.name, place.start, place.stop)
        ]
        if found or host.lost:
            break
        yield 50_000
    else:
        return
    if not found:
        return
    host.cut_power()
    place = running.rng.choice(found)
    if place.name not in host.disk.listing() or place.stop > host.disk.file(place.name).promised:
        host.boot()
        return
    at = running.rng.randrange(place.start, place.stop)
    data = bytes([host.disk.file(place.name).data[at] ^ 1 << running.rng.randrange(8)])
    if in_window(host.disk, place.name, at, at + 1):
        host.boot()
        return
    world.excused[host.name] = f"rot in {place.name}"
    overwrite(host.disk, place.name, at, data, f"rot ({place.part})")
    running.bite(f"rotten {place.part}")
    yield 20_000
    host.boot()
    if host.lost:
        running.bite("refused to start")


ROTTING: Final = tuple(part for part in PARTS if part != "archived segment")


def _draw_rot(rng: Random, terrain: Terrain) -> Params:
    return {"node": rng.choice(terrain.damageable), "variant": rng.choice(ROTTING)}


def _misdirected(running: Running, host: Host) -> DiskFault:
    running.world.excused[host.name] = "misdirected writes"
    return MisdirectedWrite(running.rng, running.fault.params["rate"], ("snapshot",), running.bite)


def _draw_misdirected(rng: Random, terrain: Terrain) -> Params:
    return {"node": rng.choice(terrain.damageable), "rate": 0.5}


def _memory(world: World, running: Running) -> Course:
    """A node's memory or processor is at fault: commands that no log has take effect on its state. It must be noticed by the next
    digest, and serve no more. What it told clients before that is left out of the history: no replicated log can vouch for it."""
    host = _victim(world, running)
    rogue = world.machine.workload(f"rogue{running.fault.number}", running.rng)
    yield 0
    for number in range(1, 30):
        replica = host.replica
        spared = (
            replica is None
            or replica.quarantined
            or (replica.view.role == "leader" and not running.fault.params.get("leader"))
        )
        if replica is not None and not spared:
            machine = replica.state.machine
            before = machine.digest()
            machine.apply([rogue.command(0, number)])
            if machine.digest() == before:
                yield 1_000  # it changed nothing: a compare-and-set that found another value, say
                continue
            world.excused[host.name] = "its memory was at fault"
            world.diverged.setdefault(host.name, replica.state.applied_index)
            world.harmed.setdefault(host.name, replica.state.applied_index)
            running.bite("rogue commands")
            yield running.fault.params["rest"]
        else:
            yield 20_000
        if replica is not None and replica.quarantined:
            running.bite("quarantined")
            return


def _draw_memory(rng: Random, terrain: Terrain) -> Params:
    rest = rng.randrange(200_000, 900_000)
    return {"node": rng.choice(terrain.damageable), "rest": rest, "leader": rng.random() < 0.3}


_ERROR: Final = {"node": NODE, "rate": SHARE, "restart": optional(FLAG)}

KINDS: Final = (
    Kind("disk stall", "no sync returns", _stall, _draw_stall, params={"node": NODE, "journal": optional(FLAG)}),
    Kind("disk slow", "every sync takes long", _slow, _draw_slow, params={
        "node": NODE, "times": whole(1, 1_000_000),
    }),
    Kind(
        "write error", "writes fail with EIO",
        _lay(lambda run, host: WriteError(run.rng, run.fault.params["rate"], by=run.bite)), _draw_error, params=_ERROR,
    ),
    Kind(
        "sync error", "an fsync fails, and what was dirty is gone",
        _lay(lambda run, host: SyncError(run.rng, run.fault.params["rate"], by=run.bite)), _draw_error, params=_ERROR,
    ),
    Kind(
        "read error", "reads fail with EIO when a node starts",
        _lay(lambda run, host: ReadError(run.rng, run.fault.params["rate"], by=run.bite)), _draw_read_error,
        params=_ERROR,
    ),
    Kind("full disk", "ENOSPC: there is no room left", _lay(_full), _draw_full, params={
        "node": NODE, "room": whole(0, 1 << 40),
    }),
    Kind("rot", "bits flip in what was synced", _rot, _draw_rot, variants=ROTTING, damages=True, params={
        "node": NODE, "variant": one_of(*ROTTING),
    }),
    Kind("memory", "a state diverges from the log", _memory, _draw_memory, damages=True, params={
        "node": NODE, "rest": WAIT, "leader": optional(FLAG),
    }),
    Kind(
        "misdirected write", "a write of a snapshot lands at another place", _lay(_misdirected), _draw_misdirected,
        damages=True, params={"node": NODE, "rate": SHARE},
    ),
)  # fmt: skip
