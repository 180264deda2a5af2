"""Simpler plans than a given one: what shrinking may try. Every candidate is a plan of its own; nothing here runs any."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from sim.faults.catalogue import fitted
from sim.faults.fault import Fault
from sim.virtual.plan import Plan

CALMEST: Final = {
    "weather": {"loss": 0.0, "tail": 0.0, "spread": 0, "low": 150},
    "load": {"hang_ups": 0.0, "wander": 0.0, "queries": 0.0},
}
"""What is simpler still than the defaults."""
SOON: Final = 300_000
"""Microseconds after which a cluster has had time to elect somebody."""
SHORTEST: Final = 10_000
"""Microseconds: nothing is made shorter than that."""


def without_chunks(plan: Plan, parts: int) -> Iterator[tuple[str, Plan]]:
    """Plans that lack one of `parts` runs of the schedule: delta debugging's complements (Zeller and Hildebrandt, 2002)."""
    count = len(plan.schedule)
    for part in range(parts):
        low, high = count * part // parts, count * (part + 1) // parts
        if low < high:
            gone = plan.schedule[low:high]
            words = f"without {', '.join(f'#{fault.number} {fault.kind}' for fault in gone)}"
            yield words, replace(plan, schedule=plan.schedule[:low] + plan.schedule[high:])


def tails(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Only the last faults, few of them first, and they soon after the beginning: short runs, of which many can be tried."""
    schedule = sorted(plan.schedule, key=lambda fault: fault.at)
    for count in range(1, len(schedule) + 1):
        last = schedule[-count:]
        ahead = max(last[0].at - SOON, 0)
        if count < len(schedule) or ahead >= SHORTEST:
            yield (
                f"the last {count}, {ahead / 1e6:.3f} s earlier",
                _earlier(replace(plan, schedule=tuple(last)), ahead),
            )


def _earlier(plan: Plan, ahead: int) -> Plan:
    moved = [replace(fault, at=fault.at - ahead, until=fault.until - ahead) for fault in plan.schedule]
    return replace(plan, schedule=tuple(moved), duration=max(plan.duration - ahead, SHORTEST))


def cut_to(plan: Plan, end: int) -> Plan:
    """The part with faults ends at `end`: what would begin later is left out, what would last longer ends there."""
    kept = [replace(fault, until=min(fault.until, end)) for fault in plan.schedule if fault.at < end]
    return replace(plan, duration=end, schedule=tuple(kept))


def ended(plan: Plan, end: int) -> Plan:
    """The part with faults ends at `end`, and nothing is demanded behind it. A plan that fails before `end` fails all the
    same, at the same moment."""
    return replace(cut_to(plan, min(end, plan.duration)), quorum=0, operations=0)


def shorter(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Less time with faults, and nothing behind it."""
    if plan.quorum:
        yield "no part with a majority only", replace(plan, quorum=0)
    if plan.operations:
        yield "no least number of operations", replace(plan, operations=0)
    for share in (4, 2):
        end = plan.duration // share
        if end >= SHORTEST:
            yield f"{end / 1e6:.3f} s", cut_to(plan, end)
    end = plan.duration * 7 // 8
    if end >= SHORTEST:
        yield f"{end / 1e6:.3f} s", cut_to(plan, end)
    first = min((fault.at for fault in plan.schedule), default=0)
    for share in (1, 2, 4):
        ahead = first // share
        if ahead >= SHORTEST:
            yield f"everything {ahead / 1e6:.3f} s earlier", _earlier(plan, ahead)


def fewer(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Fewer clients, fewer nodes."""
    for clients in dict.fromkeys((1, plan.clients // 2, plan.clients - 1)):
        if 0 < clients < plan.clients:
            yield f"{clients} clients", replace(plan, clients=clients)
    for nodes in dict.fromkeys((3, plan.nodes - 2)):
        if 3 <= nodes < plan.nodes:
            yield f"{nodes} nodes", replace(plan, nodes=nodes, schedule=fitted(plan.schedule, nodes))


def plainer(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Settings at their defaults, weather and load at their calmest, one thing at a time."""
    usual = Plan(plan.seed)
    changed: dict[str, Any]
    for name in ("coded", "drift"):
        if getattr(plan, name) != getattr(usual, name):
            yield f"{name} as usual", replace(plan, **{name: getattr(usual, name)})
    for name in ("timing", "settings"):
        values: dict[str, int] = getattr(plan, name)
        for key in values:
            changed = {name: {other: value for other, value in values.items() if other != key}}
            yield f"{key} as usual", replace(plan, **changed)
    for name in ("weather", "load"):
        mine, default = getattr(plan, name), getattr(usual, name)
        for item in dataclasses.fields(mine):
            value, plain = getattr(mine, item.name), getattr(default, item.name)
            for wanted in dict.fromkeys((CALMEST[name].get(item.name, plain), plain)):
                if value == wanted:
                    break
                yield (
                    f"{name}: {item.name} {wanted}",
                    replace(plan, **{name: replace(mine, **{item.name: wanted})}),
                )


def briefer(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Each fault for less time: its end earlier, its beginning later."""
    for place, fault in enumerate(plan.schedule):
        lasts = fault.until - fault.at
        for share in (8, 2):
            if lasts // share >= SHORTEST:
                yield (
                    f"#{fault.number} ends sooner",
                    _with(plan, place, replace(fault, until=fault.at + lasts // share)),
                )
        if lasts // 2 >= SHORTEST:
            yield (
                f"#{fault.number} begins later",
                _with(plan, place, replace(fault, at=fault.at + lasts // 2)),
            )


def simpler_faults(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Parameters left out, at nothing, or smaller."""
    for place, fault in enumerate(plan.schedule):
        for words, params in simpler_params(fault.params):
            yield f"#{fault.number} {words}", _with(plan, place, replace(fault, params=params))


def simpler_params(params: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """A fault's parameters, one of them simpler. Not every kind can do without every parameter: such a candidate trips, and is no
    candidate."""
    for key, value in params.items():
        yield f"without {key}", {other: one for other, one in params.items() if other != key}
        for simple in _simpler(value):
            yield f"{key} {simple}", {**params, key: simple}


def _simpler(value: Any) -> Iterator[Any]:
    if value is True:
        yield False
    elif isinstance(value, float):
        if value != 1.0:
            yield 1.0
        rounded = round(value, 1)
        if rounded not in (0.0, value):
            yield rounded
    elif isinstance(value, int) and value is not False:
        yield from dict.fromkeys(one for one in (0, value // 10, value // 2) if abs(one) < abs(value))
    elif isinstance(value, str) and ":" in value:
        yield value.partition(":")[0]
    elif isinstance(value, list):
        for place, one in enumerate(value):
            if one:
                yield [*value[:place], type(one)(), *value[place + 1 :]]


def _with(plan: Plan, place: int, fault: Fault) -> Plan:
    return replace(plan, schedule=(*plan.schedule[:place], fault, *plan.schedule[place + 1 :]))


def size(plan: Plan) -> tuple[int, int, int, int]:
    """How large a plan is: faults, nodes and clients, microseconds of faults, settings that are not the usual ones."""
    usual = Plan(plan.seed)
    odd = len(plan.timing) + len(plan.settings) + bool(plan.drift) + bool(plan.coded)
    for name in ("weather", "load"):
        mine, default = getattr(plan, name), getattr(usual, name)
        odd += sum(
            getattr(mine, item.name) != getattr(default, item.name) for item in dataclasses.fields(mine)
        )
    return len(plan.schedule), plan.nodes + plan.clients, plan.duration + plan.quorum, odd
