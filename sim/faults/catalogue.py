"""Every kind of fault, by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Final

from sim.faults import byzantine, clocks, disks, links, load, power
from sim.faults.fault import Fault
from sim.faults.kind import FaultError, Kind

KINDS: Final[dict[str, Kind]] = {
    kind.name: kind for module in (links, power, disks, clocks, load, byzantine) for kind in module.KINDS
}


def enter(kind: Kind) -> None:
    """Add a kind of one's own. Raises FaultError if the name is taken."""
    if kind.name in KINDS and KINDS[kind.name] is not kind:
        raise FaultError(f"there is a fault {kind.name!r} already")
    KINDS[kind.name] = kind


def check(schedule: Sequence[Fault]) -> None:
    """Raise FaultError if a schedule names a kind that does not exist."""
    for fault in schedule:
        if fault.kind not in KINDS:
            near = difflib.get_close_matches(fault.kind, KINDS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise FaultError(f"no fault {fault.kind!r}{hint} Known: {', '.join(KINDS)}")
