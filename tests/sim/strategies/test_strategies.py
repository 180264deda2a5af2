"""Strategies over the virtual world: what they draw is valid, holds for Raft, and finds and shrinks what is broken."""

from __future__ import annotations

import random
import sys
from collections import Counter
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from consensus.core import CoreView
from consensus.raft.electing import Electing
from sim.faults import catalogue
from sim.faults.catalogue import KINDS
from sim.faults.fault import Fault
from sim.faults.kind import FaultError
from sim.faults.swarm import budget
from sim.oracles.oracle import Oracle, Violation
from sim.strategies import WorldMachine, faults, plans, run, schedules
from sim.virtual.plan import Plan, dumps, loads
from sim.virtual.world import VIOLATION, World

HERE = __name__
SMALL = Plan(0, nodes=3, clients=2, operations=10, quorum=200_000)
few = settings(
    derandomize=True,
    deadline=None,
    max_examples=12,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.generate, Phase.shrink),
)
"""Without the phase that explains a failure: it runs a world hundreds of times more."""


@pytest.fixture(autouse=True)
def _this_module_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "strategies_brought", sys.modules[HERE])


# ----------------------------------------------------------------------------------------------------------- draws


@given(st.sampled_from(list(KINDS)).flatmap(lambda kind: faults(kind, nodes=4, duration=2_000_000)))
@settings(derandomize=True, deadline=None, max_examples=120)
def test_a_drawn_fault_is_one_of_the_catalogue_and_can_be_written_down(fault: Fault) -> None:
    catalogue.check([fault])
    assert 500_000 <= fault.at < fault.until <= 2_000_000
    assert loads(dumps(Plan(0, schedule=(fault,)))).schedule == (fault,)


@given(schedules(nodes=5, most=6))
@settings(derandomize=True, deadline=None, max_examples=80)
def test_a_schedule_is_in_order_numbered_and_within_the_budget(schedule: tuple[Fault, ...]) -> None:
    assert [fault.at for fault in schedule] == sorted(fault.at for fault in schedule)
    assert len({fault.number for fault in schedule}) == len(schedule) <= 6
    damaged = {fault.params["node"] for fault in schedule if KINDS[fault.kind].damages}
    assert len(damaged) <= budget(5)


def test_what_nobody_objects_to_shrinks_to_nothing_and_a_fault_to_the_shortest() -> None:
    quick = settings(derandomize=True, deadline=None, database=None)
    assert find(schedules(), lambda schedule: True, settings=quick) == ()
    (fault,) = find(schedules(["partition"]), lambda schedule: len(schedule) > 0, settings=quick)
    assert fault == Fault(0, "partition", 500_000, 550_000, {"shape": "one"})


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(FaultError, match="no fault 'flood'"):
        find(faults("flood"), lambda fault: True)


# ------------------------------------------------------------------------------------------------------------- plans


@given(plans(SMALL, duration=2_000_000))
@few
def test_raft_survives_every_schedule(plan: Plan) -> None:
    result = run(plan)
    assert result.acknowledged


def test_a_broken_vote_is_found_and_shrunk_to_a_small_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes to whoever asks first, however short the log."""
    monkeypatch.setattr(Electing, "_log_is_current", lambda self, last_index, last_term: True)
    base = replace(SMALL, clients=3, quorum=0)

    def wrong(plan: Plan) -> bool:
        return World(plan).run().outcome == VIOLATION

    strategy = plans(base, ["partition", "outage", "kill", "loss"], duration=3_000_000, seeds=20)
    plan = find(
        strategy,
        wrong,
        settings=settings(few, max_examples=200, database=None),
        random=random.Random(1),
    )
    assert 1 <= len(plan.schedule) <= 2, plan.schedule
    with pytest.raises(
        AssertionError,
        match=r"(?s)violation at .* says .*schedule of seed .*#.*\"protocol\": \"raft\"",
    ):
        run(plan)


# ------------------------------------------------------------------------------------------------------------- steps

short = settings(few, max_examples=8, stateful_step_count=15)


class Counted(WorldMachine):
    seen: ClassVar[Counter[str]] = Counter()

    def teardown(self) -> None:
        super().teardown()
        self.seen["runs"] += 1
        self.seen["acknowledged"] += sum(operation.outcome == "ok" for operation in self.world.history)
        self.seen["bites"] += sum(sum(running.bites.values()) for running in self.world.running)
        self.seen["cuts"] += sum(host.life for host in self.world.hosts.values()) - len(self.world.hosts)


def test_raft_survives_whatever_steps_are_drawn() -> None:
    run_state_machine_as_test(Counted, settings=settings(few, max_examples=40, stateful_step_count=25))
    assert Counted.seen["runs"] >= 40
    assert min(Counted.seen[what] for what in ("acknowledged", "bites", "cuts")) > 40, Counted.seen


class NobodyIsElectedTwice(Oracle):
    """An oracle that any second leader upsets."""

    name = "one leader for ever"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.first = ""

    def changed(self, host: Any, view: CoreView) -> None:
        if view.role == "leader":
            self.first = self.first or host.name
            if host.name != self.first:
                self.violated(f"{host.name} leads after {self.first}", host.name)


class Wary(WorldMachine):
    kinds = ("kill", "pause")
    plan: ClassVar[Plan] = replace(
        WorldMachine.plan, nodes=3, oracles=("strategies_brought:NobodyIsElectedTwice",)
    )


def test_a_state_machine_finds_what_an_oracle_objects_to_and_prints_the_steps() -> None:
    with pytest.raises(Violation, match="leads after") as caught:
        run_state_machine_as_test(
            Wary, settings=settings(few, max_examples=60, stateful_step_count=6, database=None)
        )
    program = "\n".join(caught.value.__notes__)
    assert "state.begin(" in program
    rules = ("cut_power", "partition", "kill", "stall_disk", "trouble")
    assert 1 <= sum(f"state.{rule}(" in program for rule in rules) <= 2, program
    assert program.count("let_time_pass") <= 2, program


class Split(WorldMachine):
    """Teardown is where two logs that differ are seen at last."""

    def teardown(self) -> None:
        for host in self.world.hosts.values():
            if host.replica is not None:
                host.replica.state.chain = bytes(32)
                break
        super().teardown()


def test_the_end_of_a_state_machine_judges() -> None:
    with pytest.raises(World.verdicts):
        run_state_machine_as_test(Split, settings=settings(short, max_examples=6, phases=(Phase.generate,)))
