"""An oracle that objects to what is no bug, so that every run with such a fault fails; and a kind of fault that does nothing."""

from __future__ import annotations

from sim.faults.kind import UNTIL_THE_END, Kind
from sim.faults.running import Course, Running
from sim.oracles.oracle import Oracle
from sim.virtual.host import Host
from sim.virtual.world import World


class NobodyDies(Oracle):
    """No process may ever end."""

    name = "nobody dies"

    def went_down(self, host: Host) -> None:
        self.violated(f"{host.name} went down", host.name)


def _idle(world: World, running: Running) -> Course:
    yield UNTIL_THE_END


IDLE = Kind(
    "idle", "nothing happens", _idle, lambda rng, terrain: {"node": rng.randrange(len(terrain.nodes))}
)
