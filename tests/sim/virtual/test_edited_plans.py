"""Plans that a person has edited: whatever cannot be run is refused when it is read, with the place and what is allowed."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from node.replica import Settings
from sim.faults.fault import ScheduleError
from sim.faults.swarm import Options, draw
from sim.virtual.client import Load
from sim.virtual.network import Weather
from sim.virtual.plan import Plan, dumps, loads
from sim.virtual.plan_rules import LOAD, PLAN, SETTINGS, TIMINGS, WEATHER

NAN, INFINITE = float("nan"), float("inf")


def test_every_field_has_a_check() -> None:
    others = {"schedule", "timing", "settings", "weather", "load"}
    assert {item.name for item in fields(Plan)} == set(PLAN) | others
    for kind, checks in ((Weather, WEATHER), (Load, LOAD), (Settings, SETTINGS), *TIMINGS.values()):
        assert {item.name for item in fields(kind)} == set(checks)


@pytest.mark.parametrize(
    ("edit", "place"),
    [
        *(({"duration": value}, "duration: ") for value in ("5", None, [], -1, 10**15, 0.5, True)),
        *(({"nodes": value}, "nodes: ") for value in (-1, 0, "5", 1_000_000, 32)),
        *(({"clients": value}, "clients: ") for value in (0, "5", 100_000)),
        *(({"operations": value}, "operations: ") for value in (2.5, None, 10**9)),
        *(({"domains": value}, "domains: ") for value in ([], [""], "x", ["site//A"], ["/"], [5])),
        *(({"committee": value}, "committee: ") for value in ([5, 5], [99, 0], [-1, 0], [1, 2], [1], 3)),
        *(({"drift": value}, "drift: ") for value in (-1, 10**7)),
        *(({"patience": value}, "patience: ") for value in ("5", 0)),
        *(({"seed": value}, "seed: ") for value in (-1, 1.0, "1", True, 1 << 64)),
        ({"quorum": "5"}, "quorum: "),
        ({"protocol": 5}, "protocol: "),
        ({"machine": ""}, "machine: "),
        ({"oracles": "a:B"}, "oracles: "),
        ({"over_budget": 1}, "over_budget: "),
        ({"coded": "yes"}, "coded: "),
        ({"timing": {"heartbeat": 0}}, r"timing\.heartbeat: "),
        ({"timing": {"heartbeat": 300_000}}, "timing: heartbeat 300000 us and election"),
        ({"timing": {"hartbeat": 5}}, "timing: unknown 'hartbeat'; did you mean 'heartbeat'"),
        ({"timing": {"round": 0}, "protocol": "bft"}, r"timing\.round: "),
        ({"timing": {"mine": "5"}, "protocol": "my:Own"}, r"timing\.mine: "),
        ({"timing": []}, r"timing: \[\] is not an object"),
        ({"settings": {"max_sessions": 0}}, r"settings\.max_sessions: 0 is not an integer from 1"),
        ({"settings": {"x": 1}}, "settings: unknown 'x'; known: barrier"),
        ({"load": {"pause": [5, 1]}}, r"load\.pause: "),
        ({"load": {"pause": [0, 0]}}, r"load\.pause: "),
        ({"load": {"pause": [900, 800]}}, r"load\.pause: .*the lower one first"),
        ({"load": {"batch": 0}}, r"load\.batch: "),
        ({"load": {"patience_most": 0}}, r"load\.patience_most: "),
        ({"load": {"patience": [0, 0]}}, r"load\.patience: "),
        ({"load": {"queries": NAN}}, r"load\.queries: nan is not a number from 0 to 1"),
        ({"load": 5}, "load: 5 is not an object"),
        ({"weather": []}, "weather: .* is not an object"),
        *(({"weather": {"loss": value}}, r"weather\.loss: ") for value in (NAN, 2, True, "0")),
        *(({"weather": {"tail": value}}, r"weather\.tail: ") for value in (INFINITE, -1)),
        *(({"weather": {name: -1}}, rf"weather\.{name}: ") for name in ("low", "spread", "bulk")),
        ({"weather": {"ordered": 1}}, r"weather\.ordered: "),
        *(({"format": value}, "not a plan of format 1") for value in (1.0, True, 2, None)),
        ({"schedule": [{"kind": "kill", "at": 1, "until": 10**11}]}, r"schedule\[0\]: "),
        ({"schedule": [{"kind": "kill", "at": 1}, {"kind": "kill", "at": 1, "number": 0}]}, r"schedule\[1\]: two faults"),
        ({"schedule": 5}, "schedule: expected a list"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_or_range_is_refused_with_its_place(edit: Any, place: str) -> None:
    with pytest.raises(ScheduleError, match=f"^my.json: {place}"):
        loads(json.dumps({"format": 1, "seed": 1, **edit}), "my.json")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"format": 1, "seed": 1, "seed": 2}', "the key 'seed' stands twice"),
        ("[" * 100_000, "more than 24 deep"),
        ('{"format": 1, "seed": 1, "domains": ' + "[" * 200 + "]" * 200 + "}", "more than 24 deep"),
        ('{"format": 1, "seed": ' + "9" * 5000 + "}", "digits"),
        ('{"format": 1}', "seed: it is missing"),
        ("[1]", "not a plan of format 1"),
        ("{", "not JSON"),
    ],
)
def test_text_that_is_no_plan_is_refused(text: str, words: str) -> None:
    with pytest.raises(ScheduleError, match=f"^my.json: .*{words}"):
        loads(text, "my.json")


@pytest.mark.parametrize(
    "edit",
    [
        {},
        {"domains": ["x"], "nodes": 31, "clients": 64},
        {"committee": None},
        {"committee": [1, 1], "nodes": 4, "protocol": "bft"},
        {"weather": {"loss": 0, "tail": 1, "spread": 0}, "load": {"queries": 0, "pause": [100, 100]}},
        {"timing": {"mine": -5}, "protocol": "my:Own"},
        {"duration": 0, "quorum": 0, "operations": 0},
    ],
)
def test_what_can_be_run_is_read(edit: Any) -> None:
    plan = loads(json.dumps({"format": 1, "seed": 1, **edit}))
    assert loads(dumps(plan)) == plan


@pytest.mark.parametrize(
    "options",
    [
        Options(),
        Options(over_budget=True),
        Options(nodes=1, clients=64),
        Options(protocol="bft", nodes=0),
        Options(protocol="docs.examples.fixed_leader:FixedLeader"),
    ],
)
def test_every_plan_that_is_drawn_is_read_back(options: Options) -> None:
    for seed in range(300):
        plan = draw(seed, options)
        assert loads(dumps(plan)) == plan
