"""The plan of a run: everything that, with the code, determines it. Plain data, so that it can be saved, edited and shrunk."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Final

from sim import edited
from sim.edited import shown, whole
from sim.faults import fault
from sim.faults.fault import Fault, ScheduleError
from sim.faults.rules import MOST_US
from sim.virtual.client import Load
from sim.virtual.network import Weather
from sim.virtual.plan_rules import objection

FORMAT: Final = 1
MOST_NUMBER: Final = 1 << 62
"""Of a fault."""


@dataclass(slots=True, frozen=True)
class Plan:
    """One run. Times in microseconds."""

    seed: int
    protocol: str = "raft"
    machine: str = "kv"
    nodes: int = 5
    clients: int = 5
    domains: tuple[str, ...] = ("site/A/1", "site/A/2", "site/B/1", "site/B/2", "site/C/1")
    """The place in the power tree from which each node hangs, repeated from the front if there are more nodes."""
    schedule: tuple[Fault, ...] = ()
    duration: int = 10_000_000
    """Of the part with faults; the last of them end with it."""
    quorum: int = 1_500_000
    """The least time in which only a drawn majority is healthy; 0 leaves that part out."""
    patience: int = 6_000_000
    """The longest time that a healthy majority may take to make progress, and healthy nodes to become alike."""
    operations: int = 200
    """Least number of client operations; the last part lasts until there have been as many."""
    timing: dict[str, int] = field(default_factory=dict)
    """Overrides of the protocol's times and bounds (`consensus.raft.Timing`)."""
    settings: dict[str, int] = field(default_factory=dict)
    """Overrides of `node.replica.Settings`."""
    weather: Weather = field(default_factory=Weather)
    load: Load = field(default_factory=Load)
    drift: int = 0
    """Highest rate error of the nodes' clocks, parts per million; each is drawn."""
    coded: bool = False
    """Send every message through the wire format."""
    committee: tuple[int, int] | None = None
    """Where members may lie: (how many may stop, how many of those may lie); None: as many as so many nodes stand."""
    over_budget: bool = False
    """More may be damaged than the protocol promises to survive: then loss must be reported, and progress is not demanded."""
    oracles: tuple[str, ...] = ()
    """Further oracles, as `module:Class`."""

    def without(self, numbers: set[int]) -> Plan:
        """The same without some faults."""
        return dataclasses.replace(self, schedule=tuple(f for f in self.schedule if f.number not in numbers))


def dumps(plan: Plan) -> str:
    """As JSON text."""
    values: dict[str, Any] = {"format": FORMAT, **dataclasses.asdict(plan)}
    values["schedule"] = fault.encode(plan.schedule)
    return json.dumps(values, indent=1)


def loads(text: str, where: str = "plan") -> Plan:
    """Read what `dumps` wrote and a person may have edited. Parameters of faults are not looked at: whoever makes a world of
    the plan does. Raises ScheduleError, with the place."""
    try:
        values = edited.read_json(text)
    except ValueError as error:
        raise ScheduleError(f"{where}: not JSON that can be used: {error}") from None
    given = values.pop("format", None) if isinstance(values, dict) else None
    if type(given) is not int or given != FORMAT:
        raise ScheduleError(
            f"{where}: not a plan of format {FORMAT}; `partition.py replay SEED --save FILE` writes one"
        )
    known = {item.name for item in dataclasses.fields(Plan)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ScheduleError(f"{where}: unknown key {shown(unknown[0])}; known: {', '.join(sorted(known))}")
    if "seed" not in values:
        raise ScheduleError(f"{where}: seed: it is missing")
    wrong = objection(values)
    if wrong:
        raise ScheduleError(f"{where}: {wrong}")
    values["schedule"] = tuple(fault.decode(values.get("schedule", []), f"{where}: schedule"))
    for place, one in enumerate(values["schedule"]):
        late = whole(0, MOST_US)(one.until) or whole(-MOST_NUMBER, MOST_NUMBER)(one.number)
        if late:
            raise ScheduleError(f"{where}: schedule[{place}]: {late}")
    for name, kind in (("weather", Weather), ("load", Load)):
        if name in values:
            parts = {key: tuple(v) if isinstance(v, list) else v for key, v in values[name].items()}
            values[name] = kind(**parts)  # type: ignore[arg-type]
    for name in ("domains", "oracles", "committee"):
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    return Plan(**values)
