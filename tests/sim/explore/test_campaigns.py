"""A campaign's sum does not depend on how its batches were run; its verdict and exit code follow from what its seeds came to."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.explore import campaign as campaigns
from sim.explore import engine as engines
from sim.explore import summary as summaries
from sim.explore.campaign import Campaign, Progress
from sim.explore.engine import Engine
from sim.explore.request import Request
from sim.explore.show import ending
from sim.explore.summary import EXIT_CRASH, Summary
from sim.explore.worker import Batch
from sim.faults.fault import Fault
from sim.faults.swarm import Options
from sim.virtual.plan import Plan
from sim.virtual.world import CRASH, LIVENESS, OK, VIOLATION, Result


def result_of(seed: int, outcome: str = OK, **fields: Any) -> Result:
    plan = Plan(seed, schedule=(Fault(0, "kill", 0, 1), Fault(1, "partition", 0, 1, {"shape": "bridge:out"})))
    made = Result(plan, outcome, trace_hash=f"{seed:032x}", operations=seed, acknowledged=1, messages=2)
    made.bites = {"kill": 1, "partition bridge:out": 2, "partition bridge": 3}
    made.marks, made.notes, made.recovery_us = {"a conflicting tail is cut off": 1}, {"leaders": 1}, seed + 1
    for name, value in fields.items():
        setattr(made, name, value)
    return made


class OutOfOrder(Executor):
    """Carries out the submitted batches only when the next one comes, the newest first."""

    def __init__(self, newest_first: bool) -> None:
        self._newest_first = newest_first
        self._waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.append((future, lambda: fn(*args, **kwargs)))
        if len(self._waiting) > 1 or not self._newest_first:
            self.work()
        return future

    def work(self) -> None:
        while self._waiting:
            future, call = self._waiting.pop(-1 if self._newest_first else 0)
            if future.set_running_or_notify_cancel():
                future.set_result(call())


def run(campaign: Campaign, slots: int, newest_first: bool = False) -> Summary:
    executor = OutOfOrder(newest_first)
    engine = Engine(executor, slots, "", lambda: None, "by hand")
    if not newest_first:
        return campaigns.run(campaign, engine, lambda now: None)
    # A batch on its own is only carried out once somebody waits for it.
    wait = campaigns.wait

    def waiting(*args: Any, **kwargs: Any) -> Any:
        executor.work()
        return wait(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(campaigns, "wait", waiting)
        return campaigns.run(campaign, engine, lambda now: None)


def told(summary: Summary) -> str:
    """Everything but the times."""
    found = summary.as_json({r.plan.seed: "" for r in summary.failures}, {})
    return json.dumps(
        {key: value for key, value in found.items() if "second" not in key and "real" not in key}
    )


@given(
    seeds=st.integers(1, 200), first=st.integers(0, 50), slots=st.integers(1, 7), failing=st.sets(st.integers(0, 250)),
    stop_after=st.integers(0, 4), newest_first=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, derandomize=True, deadline=None)
def test_what_a_campaign_comes_to_depends_neither_on_the_number_of_jobs_nor_on_which_batch_is_ready_first(
    seeds: int, first: int, slots: int, failing: set[int], stop_after: int, newest_first: bool
) -> None:
    def batch(request: Request, asked: range, code: str) -> Batch:
        return Batch([result_of(seed, VIOLATION if seed in failing else OK) for seed in asked], 0.5)

    campaign = Campaign(Request(), seeds, first, stop_after=stop_after)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(campaigns, "run_batch", batch)
        found = run(campaign, slots, newest_first)
        alone = run(campaign, 1)
    assert told(found) == told(alone)
    expected = list(range(first, first + seeds))
    bad = [seed for seed in expected if seed in failing]
    if stop_after and len(bad) >= stop_after:
        expected = expected[: expected.index(bad[stop_after - 1]) + 1]
    assert [seed for seed, _ in found.hashes] == expected
    assert [result.plan.seed for result in found.failures] == [seed for seed in expected if seed in failing]


def test_a_campaign_that_only_its_time_ends_runs_a_range_without_gaps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(campaigns.time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(
        campaigns, "run_batch", lambda request, asked, code: Batch([result_of(seed) for seed in asked])
    )
    found = run(Campaign(Request(), campaigns.FOR_EVER, 7, minutes=0.5), slots=3)
    ran = [seed for seed, _ in found.hashes]
    assert len(ran) >= campaigns.BATCH
    assert ran == list(range(7, 7 + len(ran)))


def summary_of(*results: Result, options: Options | None = None, complete: bool = False) -> Summary:
    summary = Summary(Request(options or Options()), complete=complete)
    summary.take(Batch(list(results), 1.0))
    return summary


def test_a_worker_that_dies_makes_a_campaign_a_crash_that_tells_what_was_run() -> None:
    request = Request(Options(nodes=3, clients=2))
    with engines.processes(2, request) as engine:

        def watch(now: Progress) -> None:
            if now.seeds >= 2:
                for pid in list(engine.executor._processes):  # type: ignore[attr-defined]
                    os.kill(pid, signal.SIGKILL)

        summary = campaigns.run(Campaign(request, 300), engine, watch)
    assert "a worker process died" in summary.died
    assert 2 <= summary.seeds < 300
    assert summary.exit_code() == EXIT_CRASH
    assert any("FAILED: a worker process died" in line for line in ending(summary, {}))


def test_both_directions_of_a_shape_are_counted_as_one() -> None:
    summary = summary_of(result_of(1))
    assert summary.faults()["partition bridge"] == 5
    assert summary.drawn["partition bridge"] == 1
    assert not [name for name in summary.faults() if ":" in name]
    assert "partition one" in summary.never_bit()
    assert "partition bridge" not in summary.never_bit()


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([OK], 0),
        ([OK, VIOLATION, CRASH, LIVENESS], 1),
        ([LIVENESS], 3),
        ([LIVENESS, CRASH], 5),
    ],
)
def test_the_gravest_failure_decides_the_exit_code(outcomes: list[str], code: int) -> None:
    summary = summary_of(*[result_of(seed, outcome) for seed, outcome in enumerate(outcomes)])
    assert summary.exit_code() == code
    summary.interrupted = True
    assert summary.exit_code() == (code or 130)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"notes": {}}, "nobody was ever elected"),
        ({"acknowledged": 0}, "no operation was ever acknowledged"),
        ({"bites": {"kill": 0}}, "no fault ever did anything"),
        ({"plan": Plan(1)}, "no fault was ever drawn"),
    ],
)
def test_a_campaign_in_which_nothing_happened_is_void(fields: dict[str, Any], words: str) -> None:
    assert summary_of(result_of(1)).void() == []
    summary = summary_of(result_of(1, **fields))
    assert words in summary.void()
    assert summary.exit_code() == summaries.EXIT_VOID


def test_a_fault_that_was_asked_for_and_never_bit_makes_a_campaign_void() -> None:
    summary = summary_of(result_of(1), options=Options(kinds=("kill", "partition")))
    assert summary.exit_code() == 0
    summary = summary_of(result_of(1), options=Options(kinds=("kill", "trap")))
    assert summary.void() == ["'trap' was asked for and never did anything"]


def test_a_complete_campaign_is_void_unless_everything_bit_and_every_mark_was_reached() -> None:
    partial = summary_of(result_of(1), complete=True)
    assert partial.exit_code() == summaries.EXIT_VOID
    bites, marks = dict.fromkeys(partial.faults(), 1), dict.fromkeys(partial.places(), 1)
    whole = summary_of(result_of(1, bites=bites, marks=marks), complete=True)
    assert whole.exit_code() == 0
    missing = marks.popitem()[0]
    nearly = summary_of(result_of(1, bites=bites, marks=marks), complete=True)
    assert nearly.void() == [f"mark {missing!r} was never reached"]


def test_recovery_times_are_given_as_percentiles() -> None:
    summary = summary_of(*[result_of(seed) for seed in range(100)])
    assert summary.recovery() == {"p50": 51, "p90": 91, "p99": 100, "max": 100}
