"""What parameters of faults may be: whatever is drawn passes, whatever a kind cannot work with is refused with its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from docs.examples.brown_out import BROWN_OUT
from sim.explore import simplify
from sim.explore.mutants import EXPLORE, PROTOCOLS, focuses, instrument_of
from sim.explore.mutants_worker import plan_of
from sim.faults import catalogue
from sim.faults.catalogue import KINDS, fitted
from sim.faults.fault import Fault
from sim.faults.kind import FaultError, Terrain
from sim.faults.swarm import Options, draw
from sim.virtual.plan import Plan, dumps, loads
from sim.virtual.power import PowerTree

KEPT = Path(__file__).parents[1] / "virtual" / "plans"


def terrain(plan: Plan) -> Terrain:
    names = [f"n{number}" for number in range(1, plan.nodes + 1)]
    paths = {name: plan.domains[place % len(plan.domains)] for place, name in enumerate(names)}
    return Terrain(names, PowerTree(paths).places(), names)


HERE = terrain(Plan(1))


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_knows_the_parameters_that_it_draws_and_no_others(name: str) -> None:
    rules = KINDS[name].params
    assert rules is not None
    drawn = [set(KINDS[name].draw(Random(seed), HERE)) for seed in range(200)]
    assert set().union(*drawn) == set(rules)
    assert {key for key, rule in rules.items() if rule.needed} <= set.intersection(*drawn)


@pytest.mark.parametrize(
    "options",
    [
        *(Options(nodes=nodes) for nodes in (1, 2, 3, 5, 31)),
        Options(over_budget=True),
        Options(protocol="bft", nodes=0),
        Options(protocol="bft", nodes=7, over_budget=True),
        Options(protocol="docs.examples.fixed_leader:FixedLeader"),
        Options(machine="docs.examples.bank:Bank", kinds=("brown-out", "kill")),
    ],
)
def test_every_schedule_that_is_drawn_passes(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue.KINDS, BROWN_OUT.name, BROWN_OUT)
    checked = 0
    for seed in range(400):
        plan = draw(seed, options)
        catalogue.check(plan.schedule, terrain(plan))
        checked += len(plan.schedule)
    assert checked > 400


def test_kept_plans_pass() -> None:
    paths = sorted(KEPT.glob("*.json"))
    assert paths
    for path in paths:
        plan = loads(path.read_text(encoding="utf-8"))
        catalogue.check(plan.schedule, terrain(plan))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_mutants_focus_on_passes(protocol: str) -> None:
    checked = 0
    for focus in focuses(protocol).values():
        for seed in range(5 if instrument_of(focus) == EXPLORE else 0):
            plan = plan_of(focus, seed, protocol)
            catalogue.check(plan.schedule, terrain(plan))
            assert loads(dumps(plan)) == plan
            checked += len(plan.schedule)
    assert checked


def of(kind: str, **changed: Any) -> Fault:
    """A fault as it is drawn, with other parameters; `...` takes one away."""
    params = {**KINDS[kind].draw(Random(1), HERE), **changed}
    return Fault(7, kind, 1, 2, {key: value for key, value in params.items() if value is not ...})


NAN = float("nan")


def bad() -> Iterator[tuple[Fault, str]]:
    """Faults that no kind can work with, and what is said of them."""
    yield of("loss", rat=0.5), r"params: unknown 'rat'; known: links, rate"
    for value in (-0.1, 1.1, NAN, float("inf"), "0.5", None, True, []):
        yield of("loss", rate=value), r"params\.rate: .* is not a number from 0 to 1"
    yield of("sync error", rate=2), r"params\.rate"
    yield of("kill", node=...), r"params: 'node' is missing"
    for value in ("n1", 5, -1, 1.0, True, None, "boss", [1]):
        yield of("kill", node=value), r"params\.node: .*there are n1, n2, n3, n4, n5"
    for value in ("n6", "leader", 1):
        yield of("wipe", node=value), r"params\.node: .* is not the name of a node"
    yield of("rot", node="n9"), r"params\.node"
    yield of("jump", node="leader"), r"params\.node: 'leader' is not the number of a node"
    yield of("byzantine", node="n1", variant="charm"), r"params\.variant: 'charm' is none of silent"
    for value in ("sitte/A", "site/A/9", "n9", 5, None, ""):
        yield of("outage", place=value), r"params\.place: "
    yield of("partition", shape="brige"), r"params\.shape: no partition shape 'brige'; did you mean 'bridge'"
    yield of("partition", shape="bridge:up"), r"params\.shape: 'bridge:up': a direction"
    yield of("partition", shape=5), r"params\.shape: 5 is not the name"
    yield of("partition", again=5), r"params\.again: 5 is neither 0 nor"
    yield of("clog", links="everything"), r"params\.links: no partition shape 'everything'"
    yield of("delay", low=500, high=400), r"params\.low: 500 is above high, 400"
    yield of("delay", low=500, high=...), r"params\.low: 500 is above high, 0"
    yield of("jump", every=-1), r"params\.every: -1 is neither 0"
    yield of("flap", on=0), r"params\.on: 0 is not an integer from 100"
    yield of("kill", times=0), r"params\.times"
    yield of("kill", rest=-1), r"params\.rest"
    yield of("kill", rest=0.5), r"params\.rest"
    yield of("trap", again=1), r"params\.again: 1 is neither true nor false"
    yield of("trap", variant="before", how="power"), r"params\.variant: 'before' is none of before the sync"
    yield of("trap", how="knife"), r"params\.how"
    yield of("drift", ppm=5), r"params\.ppm: 5 is not a list"
    yield of("drift", ppm=[0] * 6), r"params\.ppm: 6 values for 5 nodes"
    yield of("drift", ppm=[0, 10**7]), r"params\.ppm: \[1\]: 10000000 is not"
    yield of("storm", variant=5), r"params\.variant"


@pytest.mark.parametrize(("fault", "words"), [*bad()])
def test_what_a_kind_cannot_work_with_is_refused_with_its_place(fault: Fault, words: str) -> None:
    good = Fault(1, "partition", 1, 2, {"shape": "one"})
    with pytest.raises(FaultError, match=rf"^schedule\[1\]\.{words}.*\(fault #7, '{fault.kind}'\)$"):
        catalogue.check([good, fault], HERE)


def test_without_a_terrain_it_is_not_asked_who_is_there() -> None:
    catalogue.check([of("kill", node=30), of("wipe", node="n9"), of("outage", place="elsewhere")])
    with pytest.raises(FaultError):
        catalogue.check([of("kill", node="n9")])


def test_parameters_of_a_kind_without_rules_are_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(catalogue.KINDS, BROWN_OUT.name, BROWN_OUT)
    assert BROWN_OUT.params is None
    catalogue.check([Fault(0, BROWN_OUT.name, 1, 2, {"whatever": [NAN]})], HERE)


def test_among_fewer_nodes_numbers_are_counted_round_so_that_shrinking_can_go_on() -> None:
    schedule = (
        of("kill", node=4),
        of("drift", ppm=[1, 2, 3, 4, 5]),
        of("outage", place="site/A"),
        Fault(1, "no such", 1, 2),
    )
    found = fitted(schedule, 3)
    assert [fault.params.get("node", fault.params.get("ppm")) for fault in found] == [
        1,
        [1, 2, 3],
        None,
        None,
    ]
    plan = Plan(1, schedule=schedule[:3])
    fewer = [plan for words, plan in simplify.fewer(plan) if words == "3 nodes"]
    catalogue.check(fewer[0].schedule, terrain(fewer[0]))
