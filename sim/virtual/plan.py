"""The plan of a run: everything that, with the code, determines it. Plain data, so that it can be saved, edited and shrunk."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Final

from sim.faults import fault
from sim.faults.fault import Fault, ScheduleError
from sim.virtual.client import Load
from sim.virtual.network import Weather

FORMAT: Final = 1


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
    """Read what `dumps` wrote and a person may have edited. Raises ScheduleError."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ScheduleError(f"{where}: not JSON: {error}") from None
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise ScheduleError(
            f"{where}: not a plan of format {FORMAT}; `partition.py replay SEED --save FILE` writes one"
        )
    known = {item.name for item in dataclasses.fields(Plan)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ScheduleError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(sorted(known))}")
    if type(values.get("seed")) is not int:
        raise ScheduleError(f"{where}: seed must be an integer")
    try:
        values["schedule"] = tuple(fault.decode(values.get("schedule", []), f"{where}: schedule"))
        for name, kind in (("weather", Weather), ("load", Load)):
            if name in values:
                parts = {key: tuple(v) if isinstance(v, list) else v for key, v in values[name].items()}
                values[name] = kind(**parts)  # type: ignore[arg-type]
        for name in ("domains", "oracles", "committee"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return Plan(**values)
    except (TypeError, AttributeError) as error:
        raise ScheduleError(f"{where}: {error}") from None
