"""A fault at work in a world, and what it has done so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from random import Random
from typing import TYPE_CHECKING

from sim.faults.fault import Fault

if TYPE_CHECKING:
    from sim.virtual.world import World

Course = Generator[int, None, None]
"""The course of a fault: it does something, yields the microseconds to wait before it goes on, and undoes everything in a
`finally`. The world closes it when its time is over."""


class Running:
    """One fault at work."""

    def __init__(self, world: World, fault: Fault) -> None:
        self.world = world
        self.fault = fault
        self.label = label(fault)
        self.bites: Counter[str] = Counter()
        self.course: Course | None = None

    @property
    def rng(self) -> Random:
        """The stream of this fault alone."""
        return self.world.streams.of(f"fault/{self.fault.number}")

    def bite(self, what: str) -> None:
        """It truly did something: a message was dropped, bytes were lost..."""
        self.bites[what] += 1
        if self.world.trace is not None and self.bites[what] == 1:
            self.world.trace.tell(self.world.timeline.now, "bite", number=self.fault.number, what=what)


def label(fault: Fault) -> str:
    """What it is counted as: its kind, and its shape or variant where it has one."""
    variant = fault.params.get("shape") or fault.params.get("variant")
    return f"{fault.kind} {variant}" if variant else fault.kind
