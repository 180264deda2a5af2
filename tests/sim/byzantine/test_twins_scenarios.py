"""The numbering of Twins' scenarios: exact totals, every scenario once, symmetric ones under one number."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.byzantine.scenarios import Order, RoundPlan, ScenarioError, Space, _symmetries

SMALL = [
    (3, 1, 1, 2, True),
    (3, 1, 2, 2, False),
    (4, 1, 2, 2, False),
    (4, 2, 1, 3, False),
    (2, 0, 2, 2, True),
]


def moved(plans: tuple[RoundPlan, ...], by: tuple[int, ...], nodes: int) -> tuple[RoundPlan, ...]:
    """The same scenario with the instances renamed."""
    made = []
    for plan in plans:
        sides, hears = [0] * len(by), [False] * len(by)
        for place, goal in enumerate(by):
            sides[goal], hears[goal] = plan.sides[place], plan.hears[place]
        leader = by[plan.leader]
        made.append(RoundPlan(tuple(sides), tuple(hears), leader if leader < nodes else leader - nodes))
    return tuple(made)


@pytest.mark.parametrize("shape", SMALL)
def test_every_scenario_has_one_number_up_to_symmetry_and_the_total_is_exact(
    shape: tuple[int, int, int, int, bool],
) -> None:
    nodes, twins, _, _, _ = shape
    space = Space(*shape)
    listed = [space.scenario(number) for number in range(space.total)]
    assert len(set(listed)) == space.total
    assert [space.number(plans) for plans in listed] == list(range(space.total))
    # Orbits, counted by hand: rename the instances of each in every way, and nothing is counted twice or left out.
    orbits = set()
    told_apart = 0
    for plans in listed:
        orbit = {
            tuple((tuple(_named(plan.sides)), plan.hears, plan.leader) for plan in moved(plans, by, nodes))
            for by in _symmetries(nodes, twins, nodes - twins)
        }
        told_apart += len(orbit)
        orbits.add(frozenset(orbit))
    assert len(orbits) == space.total
    assert told_apart == space.plain_total


def _named(sides: tuple[int, ...]) -> list[int]:
    names: dict[int, int] = {}
    return [names.setdefault(side, len(names)) for side in sides]


def test_the_sides_are_those_that_set_partitions_give() -> None:
    # Five instances on at most two sides: 15 ways to split them, and one side of all; four leaders.
    assert Space(4, 1, 1, 2, deaf=False).plain_total == 16 * 4
    assert Space(4, 1, 6, 2, deaf=False).plain_total == 64**6
    assert Space(4, 1, 1, 5, deaf=False).plain_total == 52 * 4  # the Bell number of five
    assert Space(4, 1, 6, 2, deaf=True).plain_total == 2048**6


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.sampled_from([(4, 1), (6, 1), (5, 0), (5, 2)]), st.integers(0), st.integers(0, 10_000))
def test_a_number_is_that_of_the_scenario_it_gives_however_the_equal_instances_are_renamed(
    shape: tuple[int, int], number: int, pick: int
) -> None:
    nodes, twins = shape
    space = SPACES.setdefault(shape, Space(nodes, twins, 5))
    number %= space.total
    plans = space.scenario(number)
    ways = _symmetries(nodes, twins, space.alike)
    assert space.number(plans) == number
    assert space.number(moved(plans, ways[pick % len(ways)], nodes)) == number


SPACES: dict[tuple[int, int], Space] = {}


def test_leaders_are_twins_in_some_rounds_and_others_in_other_rounds() -> None:
    space = Space(4, 1, 6)
    order = Order(space.total, 0)
    scenarios = [space.scenario(order[place]) for place in range(200)]
    led_by_twins = [sum(plan.leader == 0 for plan in plans) for plans in scenarios]
    assert {0, 1, 2, 3} <= set(led_by_twins)
    assert 0.15 < sum(led_by_twins) / (200 * 6) < 0.35
    assert any(len(set(plan.sides)) == 1 for plans in scenarios for plan in plans)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(st.integers(1, 2_000), st.integers())
def test_an_order_holds_every_number_once(total: int, seed: int) -> None:
    order = Order(total, seed)
    assert sorted(order[place] for place in range(total)) == list(range(total))


def test_orders_of_different_seeds_differ_and_those_of_the_same_do_not() -> None:
    big = 10**18
    first = [Order(big, 1)[place] for place in range(50)]
    assert first == [Order(big, 1)[place] for place in range(50)]
    assert first != [Order(big, 2)[place] for place in range(50)]
    assert max(first) > big // 2 > min(first)


def test_a_sample_reaches_all_of_the_space_evenly() -> None:
    order = Order(1 << 62, 5)
    rows = [order[place] >> 60 for place in range(2_000)]
    assert all(400 < rows.count(quarter) < 600 for quarter in range(4))


@pytest.mark.parametrize(
    ("shape", "word"),
    [((0, 0, 1), "at least"), ((3, 4, 1), "more twins"), ((3, 1, 0), "round"), ((20, 6, 2), "fewer")],
)
def test_what_cannot_be_numbered_is_refused_with_the_reason(shape: tuple[int, int, int], word: str) -> None:
    with pytest.raises(ScenarioError, match=word):
        Space(*shape)


def test_a_number_that_does_not_exist_is_refused_with_how_many_there_are() -> None:
    space = Space(4, 1, 1, deaf=False)
    with pytest.raises(ScenarioError, match=f"{space.total:,}"):
        space.scenario(space.total)
    with pytest.raises(ScenarioError, match="2 rounds"):
        space.number(space.scenario(0) * 2)


def test_where_there_are_too_many_symmetries_only_some_honest_nodes_are_interchangeable() -> None:
    space = Space(8, 0, 2)
    assert 0 < space.alike < 8
    rng = random.Random(1)
    for _ in range(20):
        number = rng.randrange(space.total)
        assert space.number(space.scenario(number)) == number
    ways = itertools.islice(_symmetries(8, 0, space.alike), 3)
    assert all(by[space.alike :] == tuple(range(space.alike, 8)) for by in ways)
