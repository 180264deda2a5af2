"""Cores in a small world full of faults. What must hold is looked at with everything they say and hand out (`bft_world`)."""

from __future__ import annotations

import pytest
from bft_world import QUICK, BftWorld

from consensus.bft.committee import Committee


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_logs_agree_nobody_votes_twice_and_the_log_goes_on(seed: int) -> None:
    world = BftWorld(seed)
    world.storm(90)
    world.settle()
    assert world.stats["crash"]


@pytest.mark.parametrize("seed", range(2))
def test_the_same_with_six_members_of_which_two_may_stop_and_one_of_those_may_lie(seed: int) -> None:
    names = tuple(f"n{number}" for number in range(1, 7))
    world = BftWorld(seed, 6, committee=Committee("world", 1, names, 2, 1))
    world.storm(60)
    world.settle()
    world.settle(without=("n2", "n5"))


@pytest.mark.parametrize(("size", "stop"), [(3, 1), (5, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_where_nobody_lies_it_is_a_majority_protocol_and_leaders_that_go_dark_are_replaced(
    seed: int, size: int, stop: int
) -> None:
    """A schedule of as few leaders as may be dark at the same time would never change again."""
    names = tuple(f"n{number}" for number in range(1, size + 1))
    world = BftWorld(seed, size, committee=Committee("world", 1, names, stop, 0))
    for number in range(6):
        dark = tuple(names[(seed + number * stop + away) % size] for away in range(stop))
        world.settle(without=dark)
        for count in range(12):
            world.propose(next(name for name in names if name not in dark), b"%d/%d" % (number, count))
            world.run(20_000)
        assert len(world.hosts[names[0]].up.tree.committed.block.schedule) > stop
    world.settle()


@pytest.mark.parametrize(("size", "dark"), [(1, ()), (2, ()), (3, ()), (4, ("n3",)), (7, ("n1", "n6"))])
def test_the_log_goes_on_without_as_many_as_may_stop(size: int, dark: tuple[str, ...]) -> None:
    world = BftWorld(0, size)
    for name in dark:
        world.crash(name)
    world.settle(without=dark)
    world.settle(without=dark)


def test_without_a_quorum_nothing_is_committed_and_with_it_everything_goes_on() -> None:
    world = BftWorld(1)
    world.settle()
    before = len(world.committed)
    world.crash("n1")
    world.crash("n2")
    world.propose("n3", b"alone")
    world.run(3_000_000)
    assert len(world.committed) == before
    assert b"alone" not in world.payloads()
    world.boot("n1")
    world.settle(without=("n2",))
    assert b"alone" in world.payloads()


def test_messages_slower_than_a_round_do_not_stop_the_log_for_ever() -> None:
    """Fixed time-outs livelock here."""
    world = BftWorld(2)
    world.delay_us = (QUICK.round, 2 * QUICK.round)
    world.propose("n1", b"slow")
    assert world.run(20_000_000, lambda: b"slow" in world.payloads())


def test_a_dark_leader_costs_its_turn_a_few_times_and_not_for_ever() -> None:
    world = BftWorld(3)
    world.settle()
    world.crash("n4")

    def load(number: int) -> int:
        names = [name for name in world.names if name != "n4"]
        before = world.hosts["n1"].up.view_changes
        for count in range(number):
            world.propose(names[count % 3], b"%d/%d" % (world.now, count))
            world.run(15_000)
        return world.hosts["n1"].up.view_changes - before

    load(30)
    assert "n4" not in world.hosts["n1"].up.observe().facts["schedule"]
    # It may only be tried again after `exile` heights, and never twice in a row.
    assert load(100) <= 1
    world.settle()
    load(60)
    assert "n4" in world.hosts["n1"].up.observe().facts["schedule"]


def test_a_node_that_was_away_for_long_fetches_a_state_and_goes_on_from_there() -> None:
    world = BftWorld(4)
    world.settle()
    world.crash("n2")
    for number in range(60):
        world.propose("n1", b"%d/" % number + bytes(200))
        world.run(30_000)
    world.settle()
    assert world.stats["installed"]
    assert world.hosts["n2"].up.tree.root.block.index > 0
    # And it is worth a vote again.
    world.crash("n3")
    world.settle(without=("n3",))


def test_a_node_that_was_away_for_a_moment_fetches_blocks_and_no_state() -> None:
    world = BftWorld(5)
    world.settle()
    world.crash("n2")
    for number in range(12):
        world.propose("n1", b"%d" % number)
        world.run(10_000)
    world.settle()
    assert not world.stats["installed"]


def test_memory_and_journal_stay_small_however_long_it_runs() -> None:
    world = BftWorld(6)
    sizes = []
    for number in range(400):
        world.propose(world.names[number % 4], b"%d/" % number + bytes(100))
        world.run(12_000)
        if number % 100 == 99:
            host = world.hosts["n1"]
            sizes.append((len(host.up.tree), len(host.disk), sum(1 for _ in host.up.payloads.held())))
    for early, late in zip(sizes[1], sizes[3], strict=True):
        assert late < 2 * early + 20, sizes


def test_a_read_names_everything_that_was_handed_out_before_it_was_asked() -> None:
    """How old it may be is looked at with every answer."""
    world = BftWorld(7)
    world.settle()
    for number in range(60):
        world.propose(world.names[number % 4], b"%d" % number)
        for name in world.names:
            world.read(name, number)
        world.run(world.rng.randrange(20_000))
    assert world.run(5_000_000, lambda: not world.read_index)
    assert world.stats["reads"] > 200
    assert not world.stats["refused reads"]


def test_a_read_in_a_minority_is_refused_with_words() -> None:
    world = BftWorld(8)
    world.settle()
    world.arrives = lambda source, dest, message: "n1" not in (source, dest)
    world.read("n1", 1)
    assert world.run(3_000_000, lambda: not world.read_index)
    assert world.stats["refused reads"] == 1
