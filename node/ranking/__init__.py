"""The ranking model as a replicated state machine.

Commands, queries and settings import without numba, so that clients start fast; `RankingMachine` loads the compiled
loops when it is first named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from node.ranking import commands, queries
from node.ranking.settings import RankingSettings

if TYPE_CHECKING:
    from node.ranking.machine import RankingMachine

__all__ = ["RankingMachine", "RankingSettings", "commands", "queries", "warm"]


def __getattr__(name: str) -> Any:
    if name == "RankingMachine":
        from node.ranking.machine import RankingMachine

        return RankingMachine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def warm() -> None:
    """Fill the cache of compiled loops (some seconds the first time, then a fraction of one): set-up calls this, so that
    no node compiles when it starts. The cache stands beside the sources, or in the user's cache folder where those are
    read-only, or in NUMBA_CACHE_DIR; where none can be written, every start compiles."""
    from node.ranking.machine import RankingMachine

    machine = RankingMachine(RankingSettings(max_users=1, max_items=1))
    machine.apply([commands.observe([(0, 0)])])
    machine.query(queries.rank(0, 1))
