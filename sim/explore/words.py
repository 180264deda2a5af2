"""Plans and figures in words, for people."""

from __future__ import annotations

import dataclasses
from typing import Any

from sim.explore.menu import counted_as
from sim.faults import catalogue
from sim.faults.fault import Fault
from sim.virtual.plan import Plan


def seconds(us: int) -> str:
    """Microseconds as seconds."""
    return f"{us / 1e6:.3f} s"


def fault_in_words(fault: Fault) -> str:
    """One line: when, what, and its parameters."""
    kind = catalogue.KINDS.get(fault.kind)
    title = kind.title if kind else "a fault that is not known here"
    params = ", ".join(f"{key} {_value(key, value)}" for key, value in fault.params.items())
    when = f"{fault.at / 1e6:8.3f} to {fault.until / 1e6:.3f} s"
    return f"{when}  #{fault.number} {counted_as(fault)}: {title}" + (f" ({params})" if params else "")


def _value(key: str, value: Any) -> str:
    if isinstance(value, list):
        return "[" + " ".join(_value(key, one) for one in value) + "]"
    return f"{value:,}" if type(value) is int else str(value)


def plan_in_words(plan: Plan) -> list[str]:
    """A plan, a line a thing, without what is at its default."""
    lines = [
        f"seed {plan.seed}, {plan.protocol} with {plan.machine}: {plan.nodes} nodes, {plan.clients} clients, faults for "
        f"{seconds(plan.duration)}"
        + (
            f", then {seconds(plan.quorum)} with a healthy majority only"
            if plan.quorum
            else ", no part with a majority only"
        )
    ]
    usual = Plan(plan.seed)
    for name in ("weather", "load"):
        mine, default = getattr(plan, name), getattr(usual, name)
        changed = [
            f"{item.name} {getattr(mine, item.name)}"
            for item in dataclasses.fields(mine)
            if getattr(mine, item.name) != getattr(default, item.name)
        ]
        if changed:
            lines.append(f"{name}: {', '.join(changed)}")
    for name in ("timing", "settings"):
        values = getattr(plan, name)
        if values:
            lines.append(f"{name}: {', '.join(f'{key} {value}' for key, value in values.items())}")
    for name in ("drift", "coded", "committee", "over_budget", "oracles"):
        if getattr(plan, name):
            lines.append(f"{name.replace('_', ' ')}: {getattr(plan, name)}")
    if not plan.schedule:
        lines.append("no faults at all")
    lines += [fault_in_words(fault) for fault in plan.schedule]
    return lines
