"""Every kind of fault, by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from sim.edited import shown
from sim.faults import byzantine, clocks, disks, links, load, power
from sim.faults.fault import Fault
from sim.faults.kind import FaultError, Kind, Terrain
from sim.faults.rules import objection

KINDS: Final[dict[str, Kind]] = {
    kind.name: kind for module in (links, power, disks, clocks, load, byzantine) for kind in module.KINDS
}


def enter(kind: Kind) -> None:
    """Add a kind of one's own. Raises FaultError if the name is taken."""
    if kind.name in KINDS and KINDS[kind.name] is not kind:
        raise FaultError(f"there is a fault {kind.name!r} already")
    KINDS[kind.name] = kind


def check(schedule: Sequence[Fault], terrain: Terrain | None = None) -> None:
    """Raise FaultError, with the place, if a schedule names a kind that does not exist or gives it parameters that it cannot work
    with. Without a terrain it is not asked which nodes and places there are."""
    for place, fault in enumerate(schedule):
        if fault.kind not in KINDS:
            near = difflib.get_close_matches(fault.kind, KINDS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise FaultError(
                f"schedule[{place}].kind: no fault {shown(fault.kind)}{hint} Known: {', '.join(KINDS)}"
            )
        rules = KINDS[fault.kind].params
        wrong = "" if rules is None else objection(rules, fault.params, terrain)
        if wrong:
            raise FaultError(f"schedule[{place}].{wrong} (fault #{fault.number}, {fault.kind!r})")


def fitted(schedule: Sequence[Fault], nodes: int) -> tuple[Fault, ...]:
    """The same faults among fewer nodes: numbers of nodes are counted round. Names stay what they are."""
    found = []
    for fault in schedule:
        rules = (KINDS[fault.kind].params if fault.kind in KINDS else None) or {}
        params = dict(fault.params)
        for name, rule in rules.items():
            if rule.fitted is not None and name in params:
                params[name] = rule.fitted(params[name], nodes)
        found.append(replace(fault, params=params))
    return tuple(found)
