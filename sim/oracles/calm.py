"""Nobody disturbs a majority that is well: servers that are cut off, slow or back from the dark raise no terms over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from consensus.core import CoreView
from sim.oracles.oracle import Oracle

if TYPE_CHECKING:
    from sim.virtual.host import Host
    from sim.virtual.world import World

SETTLED: Final = 2_000_000
"""Microseconds of a healthy majority, after which it has its leader."""
MOST: Final = 2
"""Elections after that which are put down to chance."""


class Undisturbed(Oracle):
    """While a drawn majority is healthy and everybody else in lasting trouble, leadership settles (thesis 4.2.3 and
    9.6). Looked at
    from `SETTLED` on, so only where that part of a run is longer."""

    name = "undisturbed majority"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._since: int | None = None
        self._elections: list[str] = []

    def changed(self, host: Host, view: CoreView) -> None:
        world = self.world
        if world.phase != "quorum":
            return
        now = world.timeline.now
        if self._since is None:
            self._since = now
        if view.role == "leader" and now >= self._since + SETTLED:
            words = f"{host.name} term {view.term}"
            if words not in self._elections:
                self._elections.append(words)
            if len(self._elections) > MOST:
                self.violated(
                    f"a majority has been healthy and connected for {(now - self._since) / 1e6:.1f} s and yet elects again and "
                    f"again: {', '.join(self._elections)}",
                    host.name,
                )
