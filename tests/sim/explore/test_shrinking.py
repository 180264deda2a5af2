"""Shrinking ends at a plan that fails in the same way and from which nothing can be taken; candidates are plans too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.explore import shrink, simplify
from sim.explore.request import Request, play
from sim.explore.shrink import NotFailing, Shrinker, nearest_passing, signature
from sim.faults.fault import Fault
from sim.faults.swarm import Options, draw
from sim.virtual import plan as plans
from sim.virtual.plan import Plan
from sim.virtual.world import CRASH, OK, VIOLATION, Result

PASSES = (
    simplify.tails,
    simplify.shorter,
    simplify.fewer,
    simplify.plainer,
    simplify.briefer,
    simplify.simpler_faults,
)


def candidates(plan: Plan) -> Iterator[tuple[str, Plan]]:
    yield from simplify.without_chunks(plan, 2)
    for one in PASSES:
        yield from one(plan)


@given(seed=st.integers(0, 5000))
@settings(max_examples=40, derandomize=True, deadline=None)
def test_every_candidate_is_another_plan_that_can_be_saved_and_whose_faults_lie_in_its_time(
    seed: int,
) -> None:
    plan = draw(seed)
    found = list(candidates(plan))
    assert found
    for words, other in found:
        assert words
        assert other != plan, words
        assert plans.loads(plans.dumps(other)) == other, words
        assert all(0 <= fault.at <= fault.until for fault in other.schedule), words
        assert len(other.schedule) <= len(plan.schedule)
    for other in (simplify.cut_to(plan, 2_000_000), simplify.ended(plan, 2_000_000)):
        assert all(fault.at < fault.until <= 2_000_000 for fault in other.schedule)


@given(seed=st.integers(0, 5000))
@settings(max_examples=20, derandomize=True, deadline=None)
def test_taking_one_simplification_after_the_other_comes_to_an_end(seed: int) -> None:
    plan = draw(seed)
    for _ in range(3000):
        simpler = next((other for _, other in candidates(plan)), None)
        if simpler is None:
            break
        plan = simpler
    else:
        raise AssertionError("it goes on for ever")
    assert not plan.schedule
    assert (plan.clients, plan.nodes, plan.quorum) == (1, 3, 0)


def failing_if(needed: set[int], clients: int) -> Any:
    """Stands for a run: it fails if all needed faults and so many clients are there, at a moment of its last needed fault."""

    def play_it(request: Request, plan: Plan, trace: Any = None) -> tuple[Result, None]:
        there = {fault.number: fault for fault in plan.schedule}
        result = Result(plan, OK, at=plan.duration)
        if needed <= set(there) and plan.clients >= clients and plan.coded:
            at = max((there[number].at for number in needed), default=100)
            result = Result(plan, VIOLATION, "some oracle", at=min(at + 10, plan.duration))
        return result, None

    return play_it


@given(needed=st.sets(st.integers(0, 8)), clients=st.integers(1, 5))
@settings(max_examples=60, derandomize=True, deadline=None)
def test_shrinking_finds_exactly_the_faults_and_clients_that_a_failure_needs(
    needed: set[int], clients: int
) -> None:
    schedule = tuple(
        Fault(n, "kill", 1_000_000 + n * 100_000, 2_000_000, {"node": n, "times": 3, "rest": 5})
        for n in range(9)
    )
    plan = Plan(7, schedule=schedule, drift=200, coded=True, settings={"max_sessions": 6})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shrink, "play", failing_if(needed, clients))
        patch.setattr(shrink, "LUCK", (1, 2))
        found = Shrinker(Request(), 60).shrink(plan)
    smallest = found.result.plan
    assert {fault.number for fault in smallest.schedule} == needed
    assert (smallest.clients, smallest.nodes, smallest.quorum, smallest.operations) == (clients, 3, 0, 0)
    assert (smallest.drift, smallest.coded, smallest.settings) == (0, True, {})
    assert smallest.duration <= 200_000 + 100_000 * len(needed) * 9
    assert not found.exhausted
    assert found.steps


def test_a_plan_that_passes_is_not_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrink, "play", failing_if({1}, 1))
    with pytest.raises(NotFailing, match="seed 7 passes"):
        Shrinker(Request(), 60).shrink(Plan(7))


def test_a_spent_budget_leaves_what_was_found_until_then(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = tuple(Fault(n, "kill", 10 + n, 200) for n in range(9))
    monkeypatch.setattr(shrink, "play", failing_if({3, 5}, 1))
    found = Shrinker(Request(), 0).shrink(Plan(7, schedule=schedule, coded=True))
    assert found.exhausted
    assert {3, 5} <= {fault.number for fault in found.result.plan.schedule}
    assert found.result.outcome == VIOLATION


def test_two_crashes_are_the_same_if_exception_and_file_are() -> None:
    def crash(text: str) -> Result:
        return Result(Plan(1), CRASH, "crash", text)

    one = crash("n1: KeyError: 5 (leading.py:93)")
    assert signature(one) == signature(crash("n2: KeyError: 7 (leading.py:99)"))
    assert signature(one) != signature(crash("n1: IndexError: 5 (leading.py:93)"))
    assert signature(one) != signature(crash("n1: KeyError: 5 (reads.py:93)"))


def test_a_real_run_is_shrunk_to_one_fault_and_parts_from_its_nearest_passing_neighbour() -> None:
    """The oracle objects to any death of a process, so that one fault of power is enough, and without it a run passes."""
    request = Request(
        Options(nodes=3, clients=2, kinds=("kill", "loss", "delay"), oracles=("picky_oracle:NobodyDies",))
    )
    plan = next(
        plan
        for plan in map(request.plan, range(50))
        if {f.kind for f in plan.schedule} == {"kill", "loss", "delay"}
    )
    assert play(request, plan)[0].outcome == VIOLATION
    found = Shrinker(request, 4).shrink(plan)
    assert (found.result.outcome, found.result.oracle) == (VIOLATION, "nobody dies")
    assert [fault.kind for fault in found.result.plan.schedule] == ["kill"]
    assert found.result.at < found.original.at
    assert found.result.plan.clients == 1
    again, _ = play(request, found.result.plan)
    assert (again.outcome, again.trace_hash) == (VIOLATION, found.result.trace_hash)
    near = nearest_passing(request, found.result)
    assert near is not None
    assert play(request, near.plan)[0].outcome == OK
    assert near.divergence.at <= found.result.at
    assert near.divergence.left is not None
    assert near.divergence.left.kind == "down"
