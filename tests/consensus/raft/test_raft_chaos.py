"""Raft's five properties hold, and it makes progress afterwards, under every mixture of faults that the small world has."""

from __future__ import annotations

import random

import pytest
from core_world import CoreWorld


def chaos(seed: int, size: int, duration: int = 6_000_000) -> CoreWorld:
    world = CoreWorld(seed, size)
    rng = random.Random(seed * 7919)
    names = list(world.hosts)
    counter = 0
    end = world.now + duration
    while world.now < end:
        world.run(rng.randint(500, 60_000))
        for _ in range(rng.randint(0, 3)):
            counter += 1
            world.propose(b"%d" % counter)
        world.read(rng.choice(names), counter * 1000 + rng.randrange(1000))
        what = rng.random()
        if what < 0.06:
            world.crash(rng.choice(names))
        elif what < 0.20:
            world.restart(rng.choice(names))
        elif what < 0.24:
            mixed = rng.sample(names, len(names))
            world.partition(mixed[: size // 2], mixed[size // 2 :])
        elif what < 0.26:
            world.cut = {(a, b) for a in names for b in names if rng.random() < 0.3}
        elif what < 0.34:
            world.heal()
        elif what < 0.42:
            world.take_snapshot(rng.choice(names))
        world.check_logs()
    world.heal()
    world.loss = 0.0
    for name in names:
        world.restart(name)
    world.run(1_500_000)
    assert world.propose(b"last"), f"no leader after everything has healed (seed {seed})"
    world.run(500_000)
    world.check_logs()
    ends = {host.applied_index for host in world.hosts.values()}
    assert ends == {max(world.committed)}, f"not everybody caught up (seed {seed}): {ends}"
    return world


@pytest.mark.parametrize("seed", range(24))
def test_three_nodes_stay_safe_and_recover(seed: int) -> None:
    chaos(seed, 3)


@pytest.mark.parametrize("seed", range(100, 116))
def test_five_nodes_stay_safe_and_recover(seed: int) -> None:
    chaos(seed, 5)


def test_the_faults_bite() -> None:
    worlds = [chaos(seed, 5, 8_000_000) for seed in range(200, 204)]
    for what in ("dropped", "crashes", "elections", "installs", "lost_batches"):
        assert sum(world.stats[what] for world in worlds) > 0, f"{what} never happened"
    assert sum(world.reads_done for world in worlds) > 50
    assert min(len(world.committed) for world in worlds) > 30
