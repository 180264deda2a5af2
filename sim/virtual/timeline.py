"""Virtual time: an event heap in integer microseconds."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from sim.virtual.interrupts import interruptible

Action = Callable[[Any], None]

BREATH: Final = 4096
"""Events between two looks for signals: a loop that does nothing in virtual time must still be given up."""


class Timeline:
    """Events happen in the order of their time, and those of one time in the order in which they were set."""

    __slots__ = ("_heap", "events", "now")

    def __init__(self) -> None:
        self.now = 0
        self._heap: list[tuple[int, int, Action, Any]] = []
        self.events = 0
        """Events set so far."""

    def at(self, when: int, action: Action, argument: Any = None) -> None:
        """Call `action(argument)` at `when`, which must not lie in the past."""
        self.events = count = self.events + 1
        heappush(self._heap, (when, count, action, argument))

    def after(self, delay: int, action: Action, argument: Any = None) -> None:
        """Call `action(argument)` in `delay` microseconds."""
        self.at(self.now + delay, action, argument)

    def run(self, end: int) -> None:
        """Let everything up to and including `end` happen."""
        heap, pop = self._heap, heappop
        happened = 0
        while heap and heap[0][0] <= end:
            self.now, _, action, argument = pop(heap)
            action(argument)
            happened += 1
            if not happened % BREATH:
                interruptible()
        self.now = end

    def run_until(self, end: int, done: Callable[[], bool]) -> bool:
        """The same, but stop as soon as `done()`, which is asked after every event; whether it is."""
        heap = self._heap
        happened = 0
        while heap and heap[0][0] <= end:
            self.now, _, action, argument = heappop(heap)
            action(argument)
            if done():
                return True
            happened += 1
            if not happened % BREATH:
                interruptible()
        self.now = end
        return done()
