"""Nobody deposes a leader that is well: servers that are cut off raise no terms over those that are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consensus.core import CoreView
from sim.oracles.oracle import Oracle

if TYPE_CHECKING:
    from sim.virtual.host import Host
    from sim.virtual.world import World

SETTLED: Final = 1_000_000
"""Microseconds for which a leader must have led, and nothing but a partition been wrong, before its fall is looked at."""


class Undisturbed(Oracle):
    """While nothing is wrong but one partition that does not change, and a leader and a majority hear each other, nobody else
    comes to lead: whoever is cut off from that leader gets no votes (thesis 4.2.3 and 9.6)."""

    name = "undisturbed majority"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._leader: tuple[str, int, int, int] | None = None  # name, term, life, since when

    def changed(self, host: Host, view: CoreView) -> None:
        before = self._leader
        if view.role != "leader" or (before is not None and view.term <= before[1]):
            return
        now = self.world.timeline.now
        self._leader = (host.name, view.term, host.life, now)
        if before is None or now - before[3] < SETTLED or not self._only_a_partition(now):
            return
        name, term, life, since = before
        heard = [other for other in self.world.names if other == name or self._hear_each_other(name, other)]
        if self.world.hosts[name].life == life and len(heard) > len(self.world.names) // 2:
            self.violated(
                f"{host.name} comes to lead term {view.term}, although {name} has led term {term} for "
                f"{(now - since) / 1e6:.1f} s, {', '.join(heard)} hear each other, and nothing else is wrong",
                host.name,
                name,
            )

    def _only_a_partition(self, now: int) -> bool:
        world = self.world
        if world.phase != "faults" or world.plan.weather.loss:
            return False
        near = [
            running.fault
            for running in world.running
            if running.fault.at <= now and running.fault.until >= now - SETTLED
        ]
        return (
            len(near) == 1
            and near[0].kind == "partition"
            and not near[0].params.get("again")
            and near[0].until >= now
        )

    def _hear_each_other(self, one: str, other: str) -> bool:
        links = self.world.network.links
        return self.world.hosts[other].running and not links[one, other].cuts and not links[other, one].cuts
