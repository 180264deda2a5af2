"""Which links and nodes a scenario's fault falls on, and when it counts as having bitten."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from sim.check.verdict import Requirements
from sim.local import judge, layout
from sim.local.faulting import Faults
from sim.local.layout import Cluster, ClusterError
from sim.local.live import Live
from sim.scenario import FaultPlan, Scenario, load


class Switch:
    """Stands for the supervisor: notes what it is told and answers with counts."""

    def __init__(self, counts: dict[str, int], sender: str = "n2", receiver: str = "n1") -> None:
        self.counts = counts
        self.by_direction = [{"sender": sender, "receiver": receiver, **counts}] if counts else []
        self.told: list[tuple[str, dict[str, Any]]] = []

    async def acall(self, op: str, **arguments: Any) -> dict[str, Any]:
        self.told.append((op, arguments))
        if op == "faults":
            found = {"counts": self.counts, "by_direction": self.by_direction}
            return dict.fromkeys(arguments["labels"], found)
        names = {"partition": "laid_at", "delay": "laid_at", "rate": "laid_at", "heal": "healed_at"}
        names |= {"pause": "paused_at", "resume": "resumed_at", "kill": "killed_at", "start": "started_at"}
        return {
            names[op]: int(trio.current_time() * 1e6),
            "counts": self.counts,
            "by_direction": self.by_direction,
        }


class Led:
    """Stands for a client that knows the leader."""

    leader: str | None = "n2"
    writes = None


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return layout.create(tmp_path / "c", 5, 3, "kv", settings={"storage": {"reserve_bytes": 0}})


def faults(cluster: Cluster, switch: Any, seed: int = 1) -> Faults:
    return Faults(cluster, switch, Led(), Live(), seed)  # type: ignore[arg-type]


def plan(kind: str, **keys: Any) -> FaultPlan:
    return FaultPlan(at_s=1, for_s=4, kind=kind, **keys)


async def test_a_partition_is_laid_on_its_shape_s_directions_for_its_time_and_then_healed(
    cluster: Cluster, autojump_clock: trio.testing.MockClock
) -> None:
    switch = Switch({"dropped_bytes": 7})
    made = faults(cluster, switch)
    await made.run(1, plan("partition", shape="leader:out"))
    assert switch.told == [
        (
            "partition",
            {"label": "fault 1", "pairs": [["n2", "n1"], ["n2", "n3"], ["n2", "n4"], ["n2", "n5"]]},
        ),
        ("heal", {"label": "fault 1"}),
    ]
    record = made.records[0]
    assert record["until_us"] - record["at_us"] == pytest.approx(4_000_000)
    assert record["pairs"] == ["n2>n1", "n2>n3", "n2>n4", "n2>n5"]
    assert (record["bit"], record["progress"], record["leader"]) == (True, True, "n2")


@pytest.mark.parametrize(
    ("made", "counts", "bit"),
    [
        (plan("partition", shape="leader:out"), {}, False),
        (plan("partition", shape="leader:out"), {"connections_killed": 3}, False),
        (plan("partition", shape="leader:out"), {"dropped_packets": 1}, True),
        (plan("partition", shape="leader:in"), {"dropped_packets": 1}, False),
        (plan("delay", delay_ms=3), {"delayed_bytes": 9}, True),
        (plan("delay", delay_ms=3), {}, False),
        (plan("rate", kbytes_per_s=3), {"dropped_packets": 9}, True),
    ],
)
async def test_a_fault_has_bitten_only_if_something_was_lost_or_held_up(
    cluster: Cluster,
    autojump_clock: trio.testing.MockClock,
    made: FaultPlan,
    counts: dict[str, int],
    bit: bool,
) -> None:
    carried = faults(cluster, Switch(counts))
    await carried.run(1, made)
    await carried.collect()
    assert carried.records[0]["bit"] is bit


async def test_a_pause_of_the_leader_hits_the_leader_and_lasts_as_long_as_was_asked(
    cluster: Cluster, autojump_clock: trio.testing.MockClock
) -> None:
    switch = Switch({})
    made = faults(cluster, switch)
    await made.run(1, plan("pause", node="leader"))
    assert switch.told == [("pause", {"node": "n2"}), ("resume", {"node": "n2"})]
    assert made.records[0]["counts"]["paused_us"] == pytest.approx(4_000_000)
    assert made.records[0]["bit"]


async def test_the_seed_and_the_number_decide_what_is_drawn(
    cluster: Cluster, autojump_clock: trio.testing.MockClock
) -> None:
    async def drawn(seed: int, number: int) -> list[str]:
        made = faults(cluster, Switch({}), seed)
        await made.run(number, plan("partition", shape="bridge"))
        pairs: list[str] = made.records[0]["pairs"]
        return pairs

    assert await drawn(1, 1) == await drawn(1, 1)
    assert len({tuple(await drawn(seed, number)) for seed in range(4) for number in (1, 2)}) > 3


def test_directions_may_name_the_leader_and_the_outside(cluster: Cluster) -> None:
    made = faults(cluster, Switch({}))
    given = plan("partition", pairs=("leader>outside", "n1>leader", "n2>leader"))
    assert made.directions(given, "n2", random.Random(1)) == [("n2", "outside"), ("n1", "n2")]
    with pytest.raises(ClusterError, match="no leader is known"):
        made.directions(given, None, random.Random(1))


def test_a_delay_without_a_shape_lies_on_every_link_between_nodes(cluster: Cluster) -> None:
    found = faults(cluster, Switch({})).directions(plan("delay", delay_ms=1), "n1", random.Random(1))
    assert len(found) == len(set(found)) == 20


def record(**changes: Any) -> dict[str, Any]:
    base = {"label": "fault 1", "kind": "partition", "what": "bridge", "bit": True, "at_us": 1, "until_us": 2}
    return {**base, **changes}


def scenario_with(count: int) -> Scenario:
    return load("bridge") if count == 2 else load("one-way")


def test_a_fault_that_bit_nothing_or_did_not_happen_makes_the_run_void() -> None:
    assert judge.unbitten([record(), record()], scenario_with(2)) == []
    assert (
        "fault 1 (partition bridge) bit nothing"
        in judge.unbitten([record(), record(bit=False)], scenario_with(2))[0]
    )
    assert "2 faults happened, 3 were asked for" in judge.unbitten([record(), record()], scenario_with(3))[0]


def test_only_reads_that_take_any_state_have_to_be_answered() -> None:
    from sim.check.history import Operation

    def read(consistency: str, outcome: str) -> Operation:
        return Operation("query", "c", 1, 2, outcome, consistency=consistency, query=b"")

    fine = judge.check_reads([read("any", "ok"), read("linearizable", "failed")], Requirements())
    assert (fine.passed, fine.counted) == (True, 1)
    assert not judge.check_reads([read("any", "failed"), read("any", "ok")], Requirements()).passed


async def test_what_a_fault_leaves_is_asked_of_whoever_knows_the_cluster(
    cluster: Cluster, autojump_clock: trio.testing.MockClock
) -> None:
    given = plan("partition", shape="one")
    for left in (True, False):
        made = Faults(cluster, Switch({}), Led(), Live(), 1, lambda fault, left=left: left)  # type: ignore[arg-type, misc]
        await made.run(1, given)
        assert made.records[0]["progress"] is left


def test_a_liar_that_never_lied_makes_a_run_void() -> None:
    liars = {"n2": "equivocate", "n3": "late"}
    told = {"n2": {"Vote": 3}, "n3": {}}
    (reason,) = judge.honest_liars(liars, told)
    assert reason.startswith("n3 was to lie (late)")
