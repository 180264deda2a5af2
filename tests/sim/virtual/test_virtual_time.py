"""Virtual time, clocks, power and random streams: small laws."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.virtual.clock import Clock
from sim.virtual.power import PowerTree
from sim.virtual.streams import Streams, below, between, pick
from sim.virtual.timeline import Timeline

laws = settings(max_examples=60, derandomize=True, deadline=None)


# ------------------------------------------------------------------------------------------------------ timeline


@given(st.lists(st.integers(0, 20), max_size=30), st.integers(0, 25))
@laws
def test_events_happen_in_the_order_of_their_time_and_then_of_their_setting(
    times: list[int], end: int
) -> None:
    timeline, seen = Timeline(), []
    for number, when in enumerate(times):
        timeline.at(when, lambda item: seen.append((timeline.now, item)), (when, number))
    timeline.run(end)
    due = sorted((when, number) for number, when in enumerate(times) if when <= end)
    assert seen == [(when, (when, number)) for when, number in due]
    assert timeline.now == end
    timeline.run(100)
    assert len(seen) == len(times)


def test_what_an_event_sets_for_the_same_moment_still_happens_in_this_run() -> None:
    timeline, seen = Timeline(), []

    def again(left: int) -> None:
        seen.append((timeline.now, left))
        if left:
            timeline.after(0 if left == 2 else 3, again, left - 1)

    timeline.at(5, again, 2)
    timeline.run(6)
    assert seen == [(5, 2), (5, 1)]
    timeline.run(8)
    assert seen[-1] == (8, 0)


def test_run_until_stops_behind_the_event_that_did_it() -> None:
    timeline, seen = Timeline(), []
    for when in (1, 2, 2, 3):
        timeline.at(when, seen.append, when)
    assert timeline.run_until(10, lambda: len(seen) == 2)
    assert (timeline.now, seen) == (2, [1, 2])
    assert not timeline.run_until(10, lambda: len(seen) == 9)
    assert (timeline.now, seen) == (10, [1, 2, 2, 3])


def test_after_an_action_that_raised_the_others_of_its_moment_still_happen() -> None:
    timeline, seen = Timeline(), []

    def fail(_: object) -> None:
        timeline.at(2, seen.append, "set by it")
        raise RuntimeError("on purpose")

    timeline.at(2, seen.append, "before")
    timeline.at(2, fail)
    timeline.at(2, seen.append, "behind")
    with pytest.raises(RuntimeError, match="on purpose"):
        timeline.run(9)
    assert (timeline.now, seen) == (2, ["before"])
    timeline.run(9)
    assert seen == ["before", "behind", "set by it"]


# --------------------------------------------------------------------------------------------------------- clocks

_changes = st.lists(
    st.tuples(
        st.integers(0, 10**7), st.one_of(st.integers(-300_000, 300_000), st.integers(0, 10**6).map(str))
    ),
    max_size=6,
)


@given(st.integers(0, 10**9), st.integers(-300_000, 300_000), _changes, st.integers(0, 10**7))
@laws
def test_a_clock_never_goes_back_and_when_is_the_first_moment_at_which_it_reads_so(
    offset: int, drift: int, changes: list[tuple[int, int | str]], local: int
) -> None:
    clock, now = Clock(offset, drift), 0
    last = clock.read(0)
    for wait, change in [*changes, (1_000_000, 0)]:
        for part in (wait // 3, wait - wait // 3):
            now += part
            assert clock.read(now) >= last
            last = clock.read(now)
        if isinstance(change, str):
            clock.jump(int(change), now)
            assert clock.read(now) == last + int(change)
        else:
            clock.set_drift(change, now)
            assert clock.read(now) == last
        last = clock.read(now)
    due = clock.when(last + local)
    assert clock.read(due) >= last + local
    assert due <= now or clock.read(due - 1) < last + local


def test_a_clock_says_how_slow_it_ever_was() -> None:
    clock = Clock(5, 200)
    assert (clock.slowest, clock.skew) == (0, None)
    clock.set_drift(-300, 10)
    clock.set_drift(0, 20)
    assert clock.slowest == -300
    assert clock.skew == clock.read(77) - 77


# ---------------------------------------------------------------------------------------------------------- power

PATHS = {"n1": "site/A/1", "n2": "site/A/2", "n3": "site/B/1", "n4": "site/B/1", "n5": "site/C"}


def test_a_place_holds_what_hangs_below_it_and_nothing_that_is_called_nearly_so() -> None:
    tree = PowerTree(PATHS | {"n6": "site/AB/1"})
    assert tree.places()[:5] == ["site", "site/A", "site/B", "site/C", "site/AB"]
    assert tree.below("site/A") == ["n1", "n2"]
    assert tree.below("site/B/1") == ["n3", "n4"]
    assert tree.below("n5") == ["n5"]
    assert tree.below("site") == [*PATHS, "n6"]


_steps = st.lists(
    st.tuples(st.booleans(), st.sampled_from(["site", "site/A", "site/B", "site/B/1", "n1", "n4"])),
    max_size=20,
)


@given(_steps)
@laws
def test_a_node_has_power_exactly_while_nothing_above_it_is_cut_more_often_than_restored(
    steps: list[tuple[bool, str]],
) -> None:
    tree, count = PowerTree(PATHS), dict.fromkeys([step[1] for step in steps], 0)
    lit = dict.fromkeys(PATHS, True)
    for cut, place in steps:
        changed = tree.cut(place) if cut else tree.restore(place)
        count[place] = max(0, count[place] + (1 if cut else -1))
        before, lit = (
            lit,
            {node: not any(count[p] and node in tree.below(p) for p in count) for node in PATHS},
        )
        assert {node: tree.powered(node) for node in PATHS} == lit
        assert changed == [node for node in PATHS if before[node] != lit[node]]
    tree.restore_all()
    assert all(map(tree.powered, PATHS))


# -------------------------------------------------------------------------------------------------------- streams


def test_a_stream_depends_on_seed_and_name_alone() -> None:
    one, other = Streams(7), Streams(7)
    draws = [one.of(name).random() for name in ("a", "b", "a")]
    assert [other.of("b").random(), other.of("a").random(), other.of("a").random()] == [
        draws[1],
        draws[0],
        draws[2],
    ]
    assert one.fresh("a").random() == draws[0]
    assert one.of("a") is one.of("a")
    assert len({Streams(seed).of(name).random() for seed in range(20) for name in ("a", "b", "a/b")}) == 60
    assert isinstance(one.of("c"), Random)


@given(st.integers(), st.lists(st.integers(1, 10**12) | st.sampled_from((1, 2, 3, 4, 1 << 32)), min_size=1))
@laws
def test_the_short_ways_to_draw_give_what_the_library_gives(seed: int, bounds: list[int]) -> None:
    one, other = Random(seed), Random(seed)
    for bound in bounds:
        assert below(one, bound) == other.randrange(bound)
        assert between(one, (-bound, bound)) == other.randint(-bound, bound)
        some = range(min(bound, 1000))
        assert pick(one, some) == other.choice(some)
    assert one.getstate() == other.getstate()
    for empty in (0, -bounds[0]):
        with pytest.raises(ValueError, match="no number"):
            below(one, empty)
