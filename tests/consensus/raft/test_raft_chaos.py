"""Raft's five properties hold, and it makes progress afterwards, under every mixture of faults that the small world has."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from core_world import CoreWorld

from consensus.raft import Timing

seen: Counter[str] = Counter()
"""How often each fault bit, over all the worlds of this file."""


def harm(world: CoreWorld, rng: random.Random, names: list[str]) -> None:
    """Sometimes one more fault, sometimes one less."""
    what = rng.random()
    someone = rng.choice(names)
    mixed = rng.sample(names, len(names))
    leader = world.leader()
    victim = leader.name if leader is not None and rng.random() < 0.5 else someone
    if what < 0.06:
        world.crash(victim)
    elif what < 0.20:
        world.restart(someone)
    elif what < 0.24:
        world.partition(mixed[: len(names) // 2], mixed[len(names) // 2 :])
    elif what < 0.26:
        world.cut_links("random", lambda a, b: rng.random() > 0.3)
    elif what < 0.28:
        world.bridge(mixed)
    elif what < 0.30:
        world.ring(mixed)
    elif what < 0.33:
        world.one_way(victim, deaf=rng.random() < 0.5)
    elif what < 0.36:
        world.stall(victim, rng.choice([50_000, 200_000, 900_000]))
    elif what < 0.39:
        world.pause(victim, rng.choice([50_000, 200_000, 900_000]))
    elif what < 0.48:
        world.heal()
    elif what < 0.62:
        world.take_snapshot(someone)


def chaos(seed: int, size: int, duration: int = 5_000_000) -> CoreWorld:
    world = CoreWorld(seed, size)
    rng = random.Random(seed * 7919)
    names = list(world.hosts)
    counter = 0
    end = world.now + duration
    while world.now < end:
        world.run(rng.randint(500, 60_000))
        for host in (
            world.hosts.values()
        ):  # whoever believes to lead: a deposed leader's entries are a conflicting tail
            if host.core is not None and host.core.leading is not None:
                for _ in range(rng.randint(0, 3)):
                    counter += 1
                    world.propose(b"%d" % counter, host)
        world.read(rng.choice(names), counter * 1000 + rng.randrange(1000))
        harm(world, rng, names)
        world.check_logs()
    seen.update(world.stats)
    seen["committed"] += len(world.committed)
    world.heal()
    world.loss = world.hold = 0.0
    for host in world.hosts.values():
        host.stalled_until = host.paused_until = 0
        world.restart(host.name)
    world.run(2_500_000)
    assert world.propose(b"last"), f"no leader after everything has healed (seed {seed})"
    world.run(500_000)
    world.check_logs()
    assert world.applied_everywhere(), f"not everybody caught up (seed {seed})"
    return world


@pytest.mark.parametrize("seed", range(20))
def test_three_nodes_stay_safe_and_recover(seed: int) -> None:
    chaos(seed, 3)


@pytest.mark.parametrize("seed", range(100, 120))
def test_five_nodes_stay_safe_and_recover(seed: int) -> None:
    chaos(seed, 5)


@pytest.mark.parametrize("seed", range(200, 204))
def test_an_even_number_of_nodes_stays_safe_and_recovers(seed: int) -> None:
    chaos(seed, 4)


def test_every_fault_bites() -> None:
    """Counted over the worlds above; on its own, this test makes some of its own."""
    if not seen:
        for seed in range(100, 112):
            chaos(seed, 5)
    faults = "lost partition random bridge ring deaf mute crashes lost_batches stalled_writes pauses"
    consequences = "elections overwritten installs late_by_a_life late_by_a_term refused_reads"
    for what in f"{faults} {consequences}".split():
        assert seen[what] > 0, f"{what} never happened: {seen}"
    assert seen["reads"] > 300
    assert seen["committed"] > 1000


@pytest.mark.parametrize("fsync", [70_000, 150_000])
def test_slow_disks_make_elections_slow_not_impossible(fsync: int) -> None:
    """A vote takes two writes, one after the other: the candidate's, then the voters'."""
    world = CoreWorld(1, 5, loss=0.0)
    world.hold = 0.0
    world.fsync_us = (fsync, fsync)
    world.run(3_000_000)
    assert world.leader() is not None
    assert max(host.core.term for host in world.hosts.values() if host.core) <= 3


def test_a_late_vote_makes_a_leader_of_a_term_long_past_and_that_is_harmless() -> None:
    chaos(1086, 3)


def test_a_deposed_leader_with_a_long_tail_of_its_own_installs_a_snapshot_over_it() -> None:
    world = CoreWorld(7, 3, Timing(retain_bytes=0), loss=0.0)
    world.run(1_000_000)
    old = world.leader()
    assert old is not None
    others = [name for name in world.hosts if name != old.name]
    world.partition([old.name], others)
    for number in range(40):
        assert world.propose(b"tail %d" % number, old)
    world.run(1_500_000)
    for number in range(10):
        assert world.propose(b"committed %d" % number)
    world.run(500_000)
    for name in others:
        world.take_snapshot(name)
    world.heal()
    world.run(1_500_000)
    assert world.stats["conflicting_installs"] == 1
    assert world.applied_everywhere()
    assert world.propose(b"more")
    world.run(500_000)
    assert world.applied_everywhere()
    world.check_logs()
