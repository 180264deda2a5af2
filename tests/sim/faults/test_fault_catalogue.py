"""Every kind of fault: its parameters are plain data, it does something, and it leaves nothing behind."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from sim.faults import catalogue
from sim.faults.catalogue import KINDS
from sim.faults.fault import Fault, decode, encode
from sim.faults.kind import FaultError, Kind, Terrain
from sim.faults.running import Running, label
from sim.virtual.client import Load
from sim.virtual.plan import Plan
from sim.virtual.power import PowerTree
from sim.virtual.world import World

NODES = ["n1", "n2", "n3", "n4", "n5"]
PLAN = Plan(
    0,
    settings={"snapshot_bytes": 3_000},
    timing={"retain_bytes": 800},
    operations=1,
    clients=3,
    load=Load(pause=(20_000, 80_000)),
)
"""Busy enough for snapshots to be taken all the time."""
LIARS = replace(PLAN, protocol="bft", timing={"snapshot_bytes": 3_000})
"""The same of a protocol whose members may lie."""
TERRAIN = Terrain(NODES, PowerTree(dict(zip(NODES, PLAN.domains, strict=True))).places(), ["n2", "n4"])


@pytest.mark.parametrize("name", KINDS)
def test_parameters_are_plain_json_and_a_function_of_the_draw(name: str) -> None:
    for seed in range(40):
        params = KINDS[name].draw(Random(seed), TERRAIN)
        assert params == KINDS[name].draw(Random(seed), TERRAIN)
        assert json.loads(json.dumps(params)) == params
        fault = Fault(1, name, 0, 9, params)
        assert decode(encode([fault])) == [fault]


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.variants])
def test_every_variant_of_a_kind_is_drawn_and_counted_under_its_name(name: str) -> None:
    labels = {
        label(Fault(0, name, 0, 0, KINDS[name].draw(Random(seed), TERRAIN))).split(":")[0]
        for seed in range(600)
    }
    assert labels == {f"{name} {variant}" for variant in KINDS[name].variants}


def traces(world: World) -> dict[str, Any]:
    """Whatever a fault may have changed and must put back."""
    found: dict[str, Any] = {}
    for link in world.network.links.values():
        found[f"link {link.number}"] = link.cuts[:], link.conditions[:], len(link.held), link.plain, link.loss
    for host in world.hosts.values():
        gone = bool(host.lost)
        found[host.name] = (
            gone or host.running,
            gone or world.power.powered(host.name),
            None if gone else host.trap,
            host.stall,
            host.slowness,
            host.turn_cost,
            host.clock.drift,
            gone or host.paused_until <= world.timeline.now,
            host.lies,
        )
        found[f"{host.name}'s disk"] = list(host.disk._conditions)
    for client in world.clients:
        found[client.name] = client.load, client.workload.__dict__.get("_sizes")
    return found


def started(seed: int, plan: Plan = PLAN) -> World:
    world = World(replace(plan, seed=seed))
    world.begin()
    world.timeline.run(700_000)
    return world


def play(world: World, fault: Fault) -> Running:
    """A fault's whole course, and time enough for whatever comes back."""
    running = world.inject(fault)
    world.timeline.run(world.timeline.now + 1_000_000)
    world.calm(running)
    assert running.course is None
    world.timeline.run(world.timeline.now + 1_200_000)
    return running


@pytest.mark.parametrize("name", KINDS)
def test_a_fault_bites_and_when_it_is_over_nothing_of_it_is_left(name: str) -> None:
    bites: dict[str, int] = {}
    for seed in range(6):
        world = started(seed, LIARS if KINDS[name].lies else PLAN)
        before = traces(world)
        fault = Fault(0, name, 0, 0, KINDS[name].draw(Random(f"{name}/{seed}"), TERRAIN))
        running = play(world, fault)
        bites |= running.bites
        after = traces(world)
        left = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
        assert not left, f"{fault} leaves {left}"
        gone = [host.name for host in world.hosts.values() if host.lost]
        assert not gone or KINDS[name].damages, f"{fault} costs {gone} their disks, and does not say so"
        assert set(gone) <= set(TERRAIN.damageable)
        world.settle()
        if bites:
            break
    assert bites, f"{name} never did anything"


def test_a_kind_of_ones_own_can_be_entered_once_under_a_name_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catalogue, "KINDS", dict(KINDS))
    mine = Kind("mine", "of my own", KINDS["loss"].course, KINDS["loss"].draw)
    catalogue.enter(mine)
    catalogue.enter(mine)
    catalogue.check([Fault(0, "mine", 0, 1)])
    with pytest.raises(FaultError, match="there is a fault 'loss' already"):
        catalogue.enter(Kind("loss", "another", KINDS["loss"].course, KINDS["loss"].draw))


def test_an_unknown_kind_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(FaultError, match="no fault 'partiton'; did you mean 'partition'"):
        World(Plan(1, schedule=(Fault(0, "partiton", 1, 2),)))
