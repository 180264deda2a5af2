"""The ranking machine as the subject of a virtual run."""

from __future__ import annotations

from random import Random
from typing import Final

from node.ranking import RankingMachine, commands, queries
from sim.virtual.subjects import MachineSubject

USERS: Final = 40
ITEMS: Final = 120
"""Few of both, so that clients meet."""


class RankingWorkload:
    """Observations of a small shop: some users take items, those with low numbers more often."""

    def __init__(self, client: str, rng: Random) -> None:
        self._rng = rng
        self._sizes = ""

    def command(self, session: int, seq: int) -> bytes:
        """Up to four interactions at once; as many as fit into a command while sizes are `huge`, one while they are `empty`."""
        rng = self._rng
        count = {"huge": commands.MAX_ROWS, "empty": 1}.get(self._sizes) or rng.randint(1, 4)
        pairs = [
            (rng.randrange(USERS), min(rng.randrange(ITEMS), rng.randrange(ITEMS))) for _ in range(count)
        ]
        return commands.observe(pairs)

    def query(self) -> bytes:
        """Rank for one of the users."""
        return queries.rank(self._rng.randrange(USERS), 10)

    def sizes(self, variant: str) -> None:
        """See `sim.virtual.subjects.Workload`."""
        self._sizes = variant


RANKING: Final = MachineSubject("ranking", RankingMachine, RankingWorkload)
