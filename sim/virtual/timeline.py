"""Virtual time: an event heap in integer microseconds."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

from sim.virtual.interrupts import interruptible

Action = Callable[[Any], None]

# Looked up once: compiled code does so at every use of a name that it imports.
_push: Final = heappush
_pop: Final = heappop

BREATH: Final = 4096
"""Events between two looks for signals: a loop that does nothing in virtual time must still be given up."""


class Timeline:
    """Events happen in the order of their time, and those of one time in the order in which they were set."""

    __slots__ = ("_at", "_times", "events", "now")

    def __init__(self) -> None:
        self.now = 0
        # The heap holds bare numbers, each time once: tuples are several times as slow to compare.
        self._times: list[Any] = []
        self._at: dict[Any, Any] = {}
        """time -> its events, as action, argument, action, argument...: a tuple of the one that most times have, or a list."""
        self.events = 0
        """Events set so far."""

    def at(self, when: int, action: Action, argument: Any = None) -> None:
        """Call `action(argument)` at `when`, which must not lie in the past."""
        self.events += 1
        time: Any = (
            when  # `Any`, here and below: compiled code else makes a new object of a number at every use
        )
        events = self._at.get(time)
        if events is None:
            self._at[time] = (action, argument)
            _push(self._times, time)
        elif type(events) is tuple:
            self._at[time] = [*events, action, argument]
        else:
            events.append(action)
            events.append(argument)

    def after(self, delay: int, action: Action, argument: Any = None) -> None:
        """Call `action(argument)` in `delay` microseconds."""
        self.at(self.now + delay, action, argument)

    def run(self, end: int) -> None:
        """Let everything up to and including `end` happen."""
        self._run(end, None)

    def run_until(self, end: int, done: Callable[[], bool]) -> bool:
        """The same, but stop as soon as `done()`, which is asked after every event; whether it is."""
        return self._run(end, done) or done()

    def _run(self, end: int, done: Callable[[], bool] | None) -> bool:
        times, at = self._times, self._at
        last: Any = end
        happened = 0
        while times and times[0] <= last:
            now = _pop(times)
            self.now = now
            events = at.pop(now)  # what sets more for this very time begins a new list, which is next
            place = 0
            try:
                while place < len(events):
                    action, argument = events[place], events[place + 1]
                    place += 2
                    action(argument)
                    happened += 1
                    if not happened % BREATH:
                        interruptible()
                    if done is not None and done():
                        self._put_back(now, [*events[place:]])
                        return True
            except BaseException:
                self._put_back(now, [*events[place:]])
                raise
        self.now = end
        return False

    def _put_back(self, now: Any, events: list[Any]) -> None:
        """Whoever stopped the time, or an action that raised, leaves the others of its moment to happen later."""
        if not events:
            return
        if now in self._at:
            self._at[now] = [*events, *self._at[now]]
        else:
            self._at[now] = events
            _push(self._times, now)
