"""A fault as data, and a schedule of them: what can be saved, edited, replayed and shrunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sim.edited import read_json, shown


@dataclass(slots=True, frozen=True)
class Fault:
    """`kind` (a name in `sim.faults.catalogue`) begins at `at` and ends at `until` (virtual microseconds from the start of
    the run; equal for what happens in an instant). `params` are the kind's own, plain JSON values, already drawn: applying
    a fault draws only from a stream named after its number."""

    number: int
    """Its own for ever: when others are taken out of a schedule, this one still draws what it drew."""
    kind: str
    at: int
    until: int
    params: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        words = " ".join(f"{key}={_plain(value)}" for key, value in self.params.items())
        return f"#{self.number} {self.kind} {self.at / 1e6:.3f}-{self.until / 1e6:.3f} s {words}".rstrip()


def _plain(value: Any) -> str:
    return ",".join(map(_plain, value)) if isinstance(value, list) else str(value)


class ScheduleError(ValueError):
    """A schedule that cannot be used; the text names the place."""


def encode(schedule: Sequence[Fault]) -> list[dict[str, Any]]:
    """As plain data for JSON."""
    return [
        {"number": f.number, "kind": f.kind, "at": f.at, "until": f.until, "params": dict(f.params)}
        for f in schedule
    ]


def decode(rows: Any, where: str = "schedule") -> list[Fault]:
    """Read what `encode` wrote and a person may have edited. Raises ScheduleError."""
    if not isinstance(rows, list):
        raise ScheduleError(f"{where}: expected a list of faults")
    faults = []
    for place, row in enumerate(rows):
        here = f"{where}[{place}]"
        if not isinstance(row, dict):
            raise ScheduleError(f"{here}: expected an object with number, kind, at, until, params")
        unknown = sorted(set(row) - {"number", "kind", "at", "until", "params"})
        if unknown:
            raise ScheduleError(f"{here}: unknown key {shown(unknown[0])}")
        at, until = row.get("at"), row.get("until", row.get("at"))
        number, kind, params = row.get("number", place), row.get("kind"), row.get("params", {})
        if type(at) is not int or type(until) is not int or not 0 <= at <= until:
            raise ScheduleError(
                f"{here}: at and until are microseconds, 0 <= at <= until, not {shown(at)}, {shown(until)}"
            )
        if type(number) is not int or type(kind) is not str or not isinstance(params, dict):
            raise ScheduleError(f"{here}: number is an integer, kind a text, params an object")
        faults.append(Fault(number, kind, at, until, params))
    seen: set[int] = set()
    for place, fault in enumerate(faults):
        if fault.number in seen:
            raise ScheduleError(f"{where}[{place}]: two faults have the same number, {shown(fault.number)}")
        seen.add(fault.number)
    return faults


def loads(text: str, where: str = "schedule") -> list[Fault]:
    """Read a schedule from JSON text. Raises ScheduleError."""
    try:
        return decode(read_json(text), where)
    except ScheduleError:
        raise
    except ValueError as error:
        raise ScheduleError(f"{where}: not JSON that can be used: {error}") from None
