"""Plans drawn from seeds: a function of the seed, within the budget, and varied."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from functools import cache

import pytest

from sim.faults import shapes
from sim.faults.catalogue import KINDS
from sim.faults.kind import FaultError
from sim.faults.running import label
from sim.faults.swarm import Options, budget, draw
from sim.virtual.plan import Plan, dumps, loads


@cache
def many() -> tuple[Plan, ...]:
    return tuple(draw(seed) for seed in range(2000))


def test_the_same_seed_gives_the_same_plan_whatever_the_hash_seed() -> None:
    assert [draw(seed) for seed in range(50)] == list(many()[:50])
    program = "from sim.faults.swarm import draw; from sim.virtual.plan import dumps; print(dumps(draw(77)))"
    for hash_seed in ("1", "2"):
        said = subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        assert said.strip() == dumps(many()[77])


def test_every_plan_survives_being_written_down() -> None:
    for plan in many()[:200]:
        assert loads(dumps(plan)) == plan


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5, 7])
def test_no_more_nodes_are_damaged_than_the_protocol_survives(nodes: int) -> None:
    most = 0
    for seed in range(400):
        plan = draw(seed, Options(nodes=nodes))
        damaged = {
            # Whoever leads then: each time it may be another one.
            f"leader at {fault.at}" if fault.params["node"] == "leader" else str(fault.params["node"])
            for fault in plan.schedule
            if KINDS[fault.kind].damages
        }
        named = {name for name in damaged if not name.startswith("leader")}
        assert named <= {f"n{number}" for number in range(1, nodes + 1)}
        most = max(most, len(damaged))
    assert most <= budget(nodes)
    assert most == budget(nodes) or nodes > 5


def test_over_the_budget_more_are_damaged_at_times() -> None:
    plans = [draw(seed, Options(over_budget=True)) for seed in range(400)]
    damaged = [
        {fault.params["node"] for fault in plan.schedule if KINDS[fault.kind].damages} for plan in plans
    ]
    assert max(map(len, damaged)) > budget(5)
    assert all(plan.over_budget for plan in plans)


def test_nodes_that_a_protocol_cannot_do_without_are_not_damaged() -> None:
    options = Options(protocol="docs.examples.fixed_leader:FixedLeader")
    for seed in range(300):
        for fault in draw(seed, options).schedule:
            assert not KINDS[fault.kind].damages or fault.params["node"] != "n1"


def test_every_kind_shape_direction_and_variant_comes_up() -> None:
    labels = Counter(label(fault) for plan in many() for fault in plan.schedule)
    wanted = [name for name, kind in KINDS.items() if not kind.variants]
    usual = {name: kind for name, kind in KINDS.items() if not kind.lies}
    wanted += [f"{name} {variant}" for name, kind in usual.items() for variant in kind.variants]
    wanted += [
        f"partition {name}:{way}" for name in shapes.names() if name != "grudge" for way in ("out", "in")
    ]
    assert not [name for name in wanted if not labels[name]]


def liars() -> tuple[Plan, ...]:
    """Plans of a protocol whose members may lie."""
    return tuple(draw(seed, Options(protocol="bft", nodes=0)) for seed in range(1500))


def test_where_members_may_lie_every_strategy_comes_up_and_liars_are_among_those_that_may_be_lost() -> None:
    told: Counter[str] = Counter()
    sizes: Counter[int] = Counter()
    for plan in liars():
        sizes[plan.nodes] += 1
        lying = {fault.params["node"] for fault in plan.schedule if KINDS[fault.kind].lies}
        lost = {
            str(fault.params["node"])
            for fault in plan.schedule
            if (KINDS[fault.kind].damages and fault.params["node"] != "leader") or KINDS[fault.kind].lies
        }
        assert len(lying) <= (plan.nodes - 1) // 3
        assert len(lost) <= {4: 1, 6: 2, 7: 2}[plan.nodes]
        told.update(fault.params["variant"] for fault in plan.schedule if KINDS[fault.kind].lies)
    assert set(told) == set(KINDS["byzantine"].variants)
    assert sizes[4] > 3 * min(sizes[6], sizes[7]) > 0


def test_nobody_lies_where_the_protocol_does_not_allow_for_it() -> None:
    assert not [fault for plan in many() for fault in plan.schedule if KINDS[fault.kind].lies]


def test_there_is_a_session_for_every_client() -> None:
    for clients in (1, 5, 6, 12, 64):
        drawn = {draw(seed, Options(clients=clients)).settings["max_sessions"] for seed in range(50)}
        assert drawn == {max(6, clients + 1), 4096}


def test_seeds_leave_out_kinds_so_that_the_others_meet() -> None:
    used = [{fault.kind for fault in plan.schedule} for plan in many()]
    assert all(1 <= len(kinds) <= 9 for kinds in used)
    assert len({frozenset(kinds) for kinds in used}) > 1500
    together = Counter(pair for kinds in used for pair in ((a, b) for a in kinds for b in kinds if a < b))
    assert len(together) > 0.9 * len(KINDS) * (len(KINDS) - 1) / 2


def test_faults_lie_in_windows_with_quiet_between_and_end_with_their_part() -> None:
    for plan in many()[:300]:
        assert [fault.at for fault in plan.schedule] == sorted(fault.at for fault in plan.schedule)
        assert len({fault.number for fault in plan.schedule}) == len(plan.schedule)
        for fault in plan.schedule:
            assert 500_000 <= fault.at < fault.until <= plan.duration


def test_only_and_all_but_take_kinds_by_name() -> None:
    for seed in range(60):
        assert {fault.kind for fault in draw(seed, Options(kinds=("kill", "loss"))).schedule} <= {
            "kill",
            "loss",
        }
        assert "kill" not in {fault.kind for fault in draw(seed, Options(without=("kill",))).schedule}
    assert draw(1, Options(without=tuple(KINDS))).schedule == ()
    with pytest.raises(FaultError, match=r"no fault 'earthquake'\. Known: partition"):
        draw(1, Options(kinds=("earthquake",)))


def test_themes_of_liars_keep_to_one_liar_and_come_up() -> None:
    themed = [plan for plan in liars() if plan.load.pause in ((130_000, 400_000), (90_000, 300_000))]
    lying = [
        {fault.params["node"] for fault in plan.schedule if fault.kind == "byzantine"} for plan in themed
    ]
    assert sum(map(bool, lying)) > 10
    assert max(map(len, lying)) == 1
    for plan in themed:
        assert loads(dumps(plan)) == plan
