"""One direction between two endpoints of the relay: why it is silent, how late and how slow it is."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

from sim.local.links import Ledger, Pair

if TYPE_CHECKING:
    from sim.local.flow import Flow

SLICES_PER_S: Final = 50
"""A direction with a rate passes on pieces that take no longer than a fiftieth of a second each, so that it trickles
and does not gush."""
SMALLEST_PIECE: Final = 64


@dataclass(slots=True)
class _Delay:
    delay_us: int
    jitter_us: int
    rng: Random


class Direction:
    """What happens to the bytes that `sender` sends to `receiver`, on whichever connection of whichever
    link."""

    __slots__ = (
        "_delays",
        "_flows",
        "_free_at",
        "_rates",
        "_reasons",
        "ledger",
        "pair",
        "receiver",
        "sender",
    )

    def __init__(self, sender: str, receiver: str, ledger: Ledger) -> None:
        self.sender = sender
        self.receiver = receiver
        self.pair: Pair = (sender, receiver)
        self.ledger = ledger
        self._reasons: dict[str, None] = {}
        self._delays: dict[str, _Delay] = {}
        self._rates: dict[str, int] = {}
        self._free_at = 0
        self._flows: dict[Flow, None] = {}

    # ------------------------------------------------------------------------------------------ silence

    @property
    def silent(self) -> bool:
        """True while there is a reason for silence."""
        return bool(self._reasons)

    @property
    def cause(self) -> str | None:
        """The oldest of the reasons in force: what is lost now is lost to it."""
        return next(iter(self._reasons), None)

    def silence(self, reason: str) -> None:
        """Lay a reason for silence; every connection that has bytes flowing this way dies in this
        direction."""
        self._reasons[reason] = None
        toll = self.ledger.toll(reason, self.pair)
        for flow in list(self._flows):
            toll.connections_killed += flow.die(reason)

    def restore(self, reason: str) -> None:
        """Take a reason away. The direction is open again once none is left."""
        self._reasons.pop(reason, None)

    def silenced_by(self, reason: str) -> bool:
        """True if this reason is one of those why the direction is silent."""
        return reason in self._reasons

    def enter(self, flow: Flow) -> None:
        """A connection begins to send this way."""
        self._flows[flow] = None

    def leave(self, flow: Flow) -> None:
        """A connection has ended in this direction."""
        self._flows.pop(flow, None)

    # ------------------------------------------------------------------------------------------ delay and rate

    @property
    def shaped(self) -> bool:
        """True while bytes are held back, by a delay or by a rate."""
        return bool(self._delays or self._rates)

    def delay(self, label: str, delay_us: int, jitter_us: int, seed: int) -> None:
        """Hold every piece back by `delay_us` and a draw from 0 to `jitter_us`."""
        rng = Random(f"{seed}/{label}/{self.sender}>{self.receiver}")
        self._delays[label] = _Delay(delay_us, jitter_us, rng)

    def limit(self, label: str, bytes_per_s: int) -> None:
        """Pass so many bytes a second, over all connections together."""
        self._rates[label] = bytes_per_s

    def calm(self, label: str) -> None:
        """Take the delays and rates of a label away. What is held back already leaves when it was due."""
        self._delays.pop(label, None)
        self._rates.pop(label, None)
        if not self._rates:
            self._free_at = 0

    def piece(self) -> int | None:
        """The most bytes to hold back as one piece; None where it does not matter."""
        if not self._rates:
            return None
        return max(SMALLEST_PIECE, min(self._rates.values()) // SLICES_PER_S)

    def due(self, size: int, now: int) -> int:
        """The instant at which `size` bytes that arrived now are to leave. Counts them as delayed by each delay, and by a rate
        if they have to wait for what went before: a rate that nothing reaches holds nothing up."""
        at = now
        if self._rates:
            slowest = min(self._rates, key=lambda label: self._rates[label])
            if self._free_at > now:
                self.ledger.toll(slowest, self.pair).delayed_bytes += size
            at = self._free_at = max(now, self._free_at) + size * 1_000_000 // self._rates[slowest]
        for label, delay in self._delays.items():
            at += delay.delay_us + delay.rng.randint(0, delay.jitter_us)
            self.ledger.toll(label, self.pair).delayed_bytes += size
        return at
