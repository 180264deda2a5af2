"""Reads of a log whose members may lie, judged at each honest node. A client believes only what several nodes answer alike, so a
node whose barriers are worth nothing would hardly ever be seen through its clients.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

from node.protocol import Answer
from sim.check.history import Operation
from sim.oracles.oracle import Oracle
from sim.virtual.clock import MILLION

if TYPE_CHECKING:
    from sim.virtual.host import Host
    from sim.virtual.world import World


class TrueAges(Oracle):
    """An answer of an honest node that claims an age holds all that a client had been told, as the outcome of a write or by a
    linearizable read, before that long ago. What a linearizable read is answered with claims that of the time since it was
    asked."""

    name = "true ages"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._times: list[int] = []
        self._highest: list[int] = []
        """Highest index that any client had been told by then."""

    def returned(self, operation: Operation) -> None:
        index = operation.index
        strong = operation.op != "query" or operation.consistency == "linearizable"
        if operation.outcome == "ok" and strong and index and index > (self._highest or [0])[-1]:
            self._times.append(self.world.timeline.now)
            self._highest.append(index)

    def replied(self, host: Host, message: Any) -> None:
        if (
            type(message) is not Answer
            or message.age is None
            or host.lied
            or host.name in self.world.diverged
        ):
            return
        # An age is counted by the node's own clock, which may run slowly.
        age = message.age * MILLION // (MILLION + host.clock.slowest) + 2
        before = bisect_left(self._times, self.world.timeline.now - age)
        floor = self._highest[before - 1] if before else 0
        if message.index < floor:
            self.violated(
                f"{host.name} answers from index {message.index} and claims an age of {message.age} us; index {floor} had been "
                f"shown before",
                host.name,
            )
