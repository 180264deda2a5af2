"""A node's clock: it starts somewhere, runs a little fast or slow, and may jump ahead, but never goes back."""

from __future__ import annotations

from typing import Final

MILLION: Final = 1_000_000


class Clock:
    """What a node takes for the time, as a function of the world's. `drift` in parts per million."""

    __slots__ = ("_base", "_since", "drift", "slowest")

    def __init__(self, offset: int = 0, drift: int = 0) -> None:
        self._base = offset
        self._since = 0
        self.drift = drift
        self.slowest = min(drift, 0)
        """The lowest rate that it ever had, as a drift."""

    @property
    def skew(self) -> int | None:
        """How far it is ahead for good; None while it runs at another rate."""
        return None if self.drift else self._base - self._since

    def read(self, now: int) -> int:
        """The node's time when the world's is `now`."""
        elapsed = now - self._since
        if self.drift:
            elapsed += elapsed * self.drift // MILLION
        return self._base + elapsed

    def when(self, local: int) -> int:
        """The earliest time of the world at which the node's is `local` or later."""
        ahead = local - self._base
        if not self.drift:
            return self._since + ahead
        rate = MILLION + self.drift
        return self._since + -(-ahead * MILLION // rate)

    def set_drift(self, drift: int, now: int) -> None:
        """From `now` on run at another rate."""
        self._base, self._since, self.drift = self.read(now), now, drift
        self.slowest = min(drift, self.slowest)

    def jump(self, ahead: int, now: int) -> None:
        """Skip `ahead` >= 0 microseconds: what a machine sees that was suspended."""
        self._base, self._since = self.read(now) + ahead, now
