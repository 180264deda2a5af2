"""Whole runs: a function of the plan, judged, and able to say why they did not go well."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from consensus.core import NEVER, Out
from consensus.raft import RaftCore
from node.kv import KvMachine
from node.protocol import Code, Refused
from sim.faults.fault import Fault
from sim.faults.kind import FaultError
from sim.faults.swarm import Options, draw
from sim.oracles.oracle import Oracle, Violation
from sim.virtual import judge, subjects
from sim.virtual.client import Load
from sim.virtual.host import Host
from sim.virtual.plan import Plan, dumps, loads
from sim.virtual.subjects import KvWorkload, SubjectError
from sim.virtual.trace import Trace
from sim.virtual.world import CRASH, LIVENESS, OK, VIOLATION, Result, World

HERE = __name__
SHORT = Plan(5, nodes=3, clients=2, duration=1_500_000, quorum=300_000, operations=20)


def run(plan: Plan, **more: Any) -> Result:
    return World(plan, **more).run()


def wiped(*nodes: str) -> tuple[Fault, ...]:
    return tuple(
        Fault(number, "wipe", 400_000 + 50_000 * number, 900_000, {"node": node})
        for number, node in enumerate(nodes)
    )


@pytest.fixture(autouse=True)
def _this_module_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes below are named as `brought:...` in plans."""
    monkeypatch.setitem(sys.modules, "brought", sys.modules[HERE])


# ------------------------------------------------------------------------------------------- a function of the plan


@pytest.mark.parametrize("seed", range(5))
def test_a_run_goes_well_and_the_same_plan_gives_the_same_hash_traced_or_not(seed: int) -> None:
    plan = replace(draw(seed), duration=4_000_000)
    one, other, traced = run(plan), run(loads(dumps(plan))), run(plan, trace=Trace())
    assert one.outcome == OK, one.text
    assert one.operations >= plan.operations
    assert one.trace_hash == other.trace_hash == traced.trace_hash
    assert (one.messages, one.turns, one.bites) == (traced.messages, traced.turns, traced.bites)


def test_the_hash_is_the_same_in_a_fresh_process_whatever_its_hash_seed() -> None:
    plan = replace(draw(3), duration=2_000_000, operations=40)
    program = (
        "import sys; from sim.virtual.plan import loads; from sim.virtual.world import World;"
        "print(World(loads(sys.stdin.read())).run().trace_hash)"
    )
    for hash_seed in ("0", "4242"):
        said = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed},
            input=dumps(plan),
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        assert said.strip() == run(plan).trace_hash


def test_another_seed_is_another_run() -> None:
    assert len({run(replace(SHORT, seed=seed)).trace_hash for seed in range(4)}) == 4


def test_a_fault_taken_out_leaves_what_the_others_draw_alone() -> None:
    both = replace(
        SHORT,
        nodes=5,
        schedule=(
            Fault(0, "partition", 600_000, 900_000, {"shape": "random-halves"}),
            Fault(7, "partition", 700_000, 1_000_000, {"shape": "grudge"}),
        ),
    )
    cut: list[list[str]] = []
    for plan in (both, both.without({0})):
        world = World(plan)
        world.begin()
        world.timeline.run(650_000)
        before = world.ledger[:]
        world.timeline.run(800_000)
        cut.append(
            [
                f"{a}>{b}"
                for (a, b), link in world.network.links.items()
                if any(by.fault.number == 7 for by in link.cuts)
            ]
        )
        assert before
    assert cut[0] == cut[1] != []


def test_until_the_first_difference_between_two_schedules_the_runs_are_the_same() -> None:
    late = Fault(3, "kill", 900_000, 1_200_000, {"node": 1, "times": 1, "rest": 50_000})
    ledgers = []
    for plan in (SHORT, replace(SHORT, schedule=(late,))):
        world = World(plan)
        world.begin()
        world.timeline.run(899_999)
        ledgers.append(world.ledger.tobytes())
    assert ledgers[0] == ledgers[1] != b""


# ------------------------------------------------------------------------------------------------- loss and budgets


def test_a_wiped_node_refuses_to_start_and_counts_as_lost() -> None:
    result = run(replace(SHORT, schedule=wiped("n2")))
    assert result.outcome == OK, result.text
    assert list(result.lost) == ["n2"]
    assert "its disk was wiped" in result.lost["n2"]
    assert result.details["wipe: refused to start"] == 1


def test_more_loss_than_the_budget_allows_for_is_a_violation_of_the_plan() -> None:
    result = run(replace(SHORT, schedule=wiped("n2", "n3")))
    assert (result.outcome, result.oracle) == (VIOLATION, "budget")
    assert "only 1 of 3 nodes are left" in result.text


def test_over_the_budget_loss_must_be_reported_and_nothing_be_promised() -> None:
    result = run(replace(SHORT, schedule=wiped("n2", "n3"), over_budget=True))
    assert result.outcome == OK, result.text
    assert sorted(result.lost) == ["n2", "n3"]
    assert result.notes["runs that reported their loss"] == 1
    more = run(
        replace(SHORT, schedule=wiped("n2", "n3"), over_budget=True, operations=10**6, patience=100_000)
    )
    assert more.outcome == OK, more.text  # nobody is left to answer so many
    assert more.notes["runs with fewer operations than the plan demands"] == 1


def test_silent_loss_is_a_violation_whatever_the_budget() -> None:
    """A disk that comes back with a fresh journal: what it held is gone, and it does not say so."""
    world = World(replace(SHORT, over_budget=True))
    world.begin()
    world.timeline.run(1_000_000)
    host = world.hosts["n1"]
    host.cut_power()
    host.disk = Host(world, "n1", host.clock).disk
    with pytest.raises(Violation, match="n1 had term 1 on its disk and comes back in term 0"):
        host.boot()


# -------------------------------------------------------------------------------------------------------- liveness


class Mute(RaftCore):
    """It never asks for votes."""

    def start(self, now: int, out: Out) -> None:
        super().start(now, out)
        self.deadline = NEVER

    def timeout(self, now: int, out: Out) -> None:
        self.deadline = NEVER

    def _set_deadline(self, now: int) -> None:
        self.deadline = NEVER


def test_a_least_number_of_operations_that_is_not_reached_is_no_progress() -> None:
    plan = replace(SHORT, quorum=0, patience=200_000, operations=10**6)
    result = run(plan)
    assert (result.outcome, result.oracle) == (LIVENESS, "liveness")
    assert f"only {result.operations} of 1000000 operations were asked for 4 s after" in result.text
    assert result.operations > 20


def test_a_run_without_progress_says_who_does_what_and_who_waits_for_whom() -> None:
    result = run(replace(SHORT, protocol="brought:Mute", operations=1, patience=2_000_000))
    assert (result.outcome, result.oracle) == (LIVENESS, "liveness")
    first, *lines = result.text.splitlines()
    assert "no progress within 2 s" in first
    assert [line.split(":")[0] for line in lines] == ["n1", "n2", "n3", "c1", "c2"]
    assert any("follower, term 0" in line for line in lines)
    assert "waits for a session" in lines[-1]


def test_a_node_in_trouble_says_what_its_trouble_is() -> None:
    world = World(SHORT)
    world.begin()
    world.timeline.run(500_000)
    world.hosts["n1"].pause(2_000_000)
    partition = world.inject(Fault(9, "partition", 0, 0, {"shape": "everyone"}))
    world.inject(Fault(10, "disk stall", 0, 0, {"node": 1}))
    world.inject(Fault(11, "outage", 0, 0, {"place": "n3"}))
    words = world.explain().splitlines()
    assert "paused for another 1500000 us" in words[0]
    assert "hears nothing of n2, n3" in words[0]
    assert "its disk is stalled" in words[1]
    assert words[2] == "n3: without power"
    world.calm(partition)
    assert "hears nothing" not in world.explain()
    world.settle()


# ------------------------------------------------------------------------------------------------- brought along


class Brittle(KvMachine):
    """It breaks at its eighth command."""

    def __init__(self) -> None:
        super().__init__()
        self.left = 8

    @staticmethod
    def workload(client: str, rng: random.Random) -> KvWorkload:
        return KvWorkload(client, rng)

    def apply(self, commands: Sequence[bytes]) -> list[bytes]:
        self.left -= len(commands)
        if self.left <= 0:
            raise ZeroDivisionError("out of luck")
        return super().apply(commands)


def test_an_exception_of_what_is_watched_is_a_crash_with_its_place() -> None:
    result = run(replace(SHORT, machine="brought:Brittle"))
    assert (result.outcome, result.oracle) == (CRASH, "crash")
    assert "ZeroDivisionError: out of luck (test_virtual_world.py:" in result.text


class NoSecondLeader(Oracle):
    """Says no as soon as a leader changes."""

    name = "no second leader"

    def changed(self, host: Any, view: Any) -> None:
        if view.role == "leader" and view.term > 1:
            self.violated(f"{host.name} leads term {view.term}", host.name)


def test_an_oracle_brought_along_stops_the_run_at_once() -> None:
    outage = Fault(0, "outage", 600_000, 1_400_000, {"place": "leader"})
    plan = replace(SHORT, schedule=(outage,), oracles=("brought:NoSecondLeader",))
    result = run(plan)
    assert (result.outcome, result.oracle) == (VIOLATION, "no second leader")
    assert 600_000 < result.at < 1_500_000
    assert len(result.nodes) == 1


def test_a_protocol_without_an_oracle_for_its_journal_is_judged_by_what_its_nodes_hand_out() -> None:
    plan = replace(SHORT, protocol="docs.examples.fixed_leader:FixedLeader")
    world = World(plan)
    assert world.run().outcome == OK
    (log,) = [oracle for oracle in world.oracles if oracle.name == "committed log"]
    assert len(log.log()) > 8  # type: ignore[attr-defined]
    assert not [oracle for oracle in World(SHORT).oracles if oracle.name == "committed log"]


@pytest.mark.parametrize(
    ("plan", "error", "words"),
    [
        (Plan(1, protocol="paxos"), SubjectError, "give 'raft' or module:Class"),
        (Plan(1, protocol="no.such.module:X"), SubjectError, "cannot import no.such.module"),
        (Plan(1, machine="brought:Nobody"), SubjectError, "brought has no 'Nobody'"),
        (Plan(1, machine="brought:Mute"), SubjectError, "a machine needs `workload"),
        (Plan(1, oracles=("brought",)), SubjectError, "no oracle 'brought'"),
        (Plan(1, schedule=(Fault(0, "kil", 1, 2),)), FaultError, "did you mean 'kill'"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_in_words(
    plan: Plan, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        World(plan)


def test_a_timing_that_raft_does_not_know_is_refused() -> None:
    with pytest.raises(SubjectError, match="timing: unknown 'patience'; Raft knows"):
        World(replace(SHORT, timing={"patience": 3}))
    with pytest.raises(SubjectError, match=r"settings: .*unexpected keyword argument 'patience'"):
        World(replace(SHORT, settings={"patience": 3}))


def test_plain_options_make_a_plan_for_any_number_of_nodes() -> None:
    for nodes in (1, 2, 4):
        result = run(replace(draw(nodes, Options(nodes=nodes, clients=2)), duration=2_000_000, operations=20))
        assert result.outcome == OK, result.text
    assert subjects.protocol("raft").vital == 0


def test_an_age_is_read_from_its_nodes_clock_and_judged_by_the_slowest_that_clock_ever_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = Fault(0, "drift", 200_000, 1_900_000, {"ppm": [0, -300_000, -300_000]})
    plan = replace(SHORT, schedule=(slow,), duration=2_000_000, clients=3, load=Load(pause=(5_000, 20_000)))
    plans = [replace(plan, seed=seed) for seed in range(4)]
    for each in plans:
        assert run(each).outcome == OK
    monkeypatch.setattr(judge, "_in_world_time", lambda world: world.history)
    assert {run(each).oracle for each in plans} >= {"history: ages true"}


def test_a_client_whose_session_has_gone_asks_for_another_and_for_something_at_once() -> None:
    """Its turns are a minute apart: by the next one, a session that lives shortly would be gone again."""
    load = Load(pause=(60_000_000, 60_000_000), queries=0.0, hang_ups=0.0, wander=0.0)
    world = World(replace(SHORT, clients=1, load=load))
    world.begin()
    (client,) = world.clients
    world.timeline.run(2_000_000)
    first = client.session
    assert first is not None
    client.write_once()
    (seq,) = client.open
    gone = Refused(0, first, [seq], int(Code.UNKNOWN_SESSION), "it has expired", None)
    client.hear((client.connections[client.leader], gone))
    assert client.opening is not None
    assert client.done == 0
    world.timeline.run(3_000_000)
    assert client.session not in (None, first)
    assert client.done > 0
