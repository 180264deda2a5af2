"""Links: what happens to messages on their way."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from consensus.raft.messages import RequestVoteReply
from sim.faults.fault import Fault
from sim.faults.running import Running
from sim.virtual.network import OUTSIDE, Condition, Link, Weather
from sim.virtual.plan import Plan
from sim.virtual.streams import Streams
from sim.virtual.world import World


def world_of(**weather: Any) -> World:
    """Three nodes that are never booted: only what a test sends is on the links."""
    return World(Plan(3, nodes=3, clients=1, weather=Weather(**weather)))


def sent(world: World, link: Link, count: int = 200, gap: int = 100) -> list[tuple[int, int]]:
    """Messages with terms 0, 1, ... sent `gap` microseconds apart; (when, term) as they arrive, clients left aside."""
    seen: list[tuple[int, int]] = []
    link.host = None
    link.deliver = lambda message: seen.append((world.timeline.now, message.term))
    for number in range(count):
        link.send(RequestVoteReply(number, True))
        world.timeline.run(world.timeline.now + gap)
    world.timeline.run(world.timeline.now + 3_000_000)
    return seen


def laid(world: World, link: Link, kind: str, **more: Any) -> Running:
    by = Running(world, Fault(9, "loss", 0, 0))
    link.lay(Condition(kind, by, Streams(1).fresh("x"), **more))
    return by


def test_an_ordered_link_keeps_the_order_and_an_unordered_one_does_not() -> None:
    for ordered in (True, False):
        world = world_of(low=100, spread=5_000, ordered=ordered)
        order = [term for _, term in sent(world, world.network.links["n1", "n2"])]
        assert sorted(order) == list(range(200))
        assert (order == sorted(order)) is ordered


def test_nothing_passes_a_cut_link_nor_what_is_on_its_way_and_the_other_direction_is_another_link() -> None:
    world = world_of(low=1_000, spread=1)
    there, back = world.network.links["n1", "n2"], world.network.links["n2", "n1"]
    there.send(RequestVoteReply(99, True))
    by = Running(world, Fault(9, "loss", 0, 0))
    there.cut(by)
    there.cut(by)
    assert sent(world, there, 10) == []
    assert len(sent(world, back, 10)) == 10
    assert by.bites["dropped"] == 11
    there.mend(by)
    assert sent(world, there, 5) == [], "cut twice, mended once"
    there.mend(by)
    assert len(sent(world, there, 5)) == 5


def test_what_a_clog_holds_arrives_when_it_is_lifted() -> None:
    world = world_of()
    link = world.network.links["n1", "n2"]
    by = laid(world, link, "clog")
    assert sent(world, link, 20) == []
    assert by.bites["held"] == 20
    link.lift(by)
    assert [term for _, term in sent(world, link, 1)] == [*range(20), 0]
    assert link.plain


@pytest.mark.parametrize(("kind", "bite"), [("loss", "lost"), ("corrupt", "corrupted")])
def test_so_many_are_lost_or_corrupt_and_none_of_them_arrives(kind: str, bite: str) -> None:
    world = world_of()
    link = world.network.links["n1", "n2"]
    by = laid(world, link, kind, rate=0.3)
    arrived = sent(world, link, 400)
    assert len(arrived) == 400 - by.bites[bite]
    assert 80 <= by.bites[bite] <= 160
    assert world.dropped == by.bites[bite]


def test_delayed_and_reordered_and_repeated_messages_all_arrive() -> None:
    for kind, bite in (("delay", "delayed"), ("reorder", "reordered"), ("duplicate", "duplicated")):
        world = world_of(low=100, spread=100, tail=0.0)
        link = world.network.links["n1", "n2"]
        by = laid(world, link, kind, rate=0.5, low=0, high=20_000)
        arrived = [term for _, term in sent(world, link)]
        assert set(arrived) == set(range(200))
        assert len(arrived) == 200 + (by.bites[bite] if kind == "duplicate" else 0)
        assert 60 <= by.bites[bite] <= 140
        assert (arrived == sorted(arrived)) is (kind == "delay")


def test_a_line_of_small_capacity_makes_messages_wait_and_drops_what_its_queue_cannot_hold() -> None:
    world = world_of(low=100, spread=1, tail=0.0)
    link = world.network.links["n1", "n2"]
    by = laid(world, link, "capacity", low=1_000, high=5_000)
    arrived = sent(world, link, 100, gap=100)
    times = [when for when, _ in arrived]
    assert all(later - earlier >= 999 for earlier, later in pairwise(times))
    assert by.bites["overflowed"] == 100 - len(arrived)
    assert by.bites["overflowed"] > 50
    assert by.bites["queued"] > 0


def test_weather_loses_messages_without_any_fault_and_clear_takes_that_away_too() -> None:
    world = world_of(loss=0.2)
    link = world.network.links["n1", "n2"]
    assert 20 <= 200 - len(sent(world, link)) <= 65
    world.network.clear()
    assert len(sent(world, link)) == 200


def test_a_link_draws_only_from_its_own_stream() -> None:
    quiet, busy = world_of(spread=5_000), world_of(spread=5_000)
    sent(busy, busy.network.links["n2", "n1"])
    start = busy.timeline.now
    first = sent(quiet, quiet.network.links["n1", "n2"])
    second = sent(busy, busy.network.links["n1", "n2"])
    assert first == [(when - start, term) for when, term in second]


def test_clients_stand_outside_and_each_link_has_a_number_of_its_own() -> None:
    world = world_of()
    links = world.network.between(OUTSIDE, "n2")
    assert [(link.source, link.dest) for link in links] == [("c1", "n2")]
    assert len(world.network.peer_links()) == 6
    numbers = [link.number for link in world.network.links.values()]
    assert sorted(set(numbers)) == sorted(numbers)
