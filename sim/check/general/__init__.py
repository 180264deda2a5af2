"""Is a history linearizable, when replies name no place in a log? The general checker; see `check_history`."""

from sim.check.general.check import check_cell, check_history, check_kv
from sim.check.general.operations import (
    APPEND,
    CAS,
    READ,
    WRITE,
    CellVerdict,
    Op,
    Outcome,
    Verdict,
    describe,
    verify,
)
from sim.check.general.search import Budget

__all__ = [
    "APPEND",
    "CAS",
    "READ",
    "WRITE",
    "Budget",
    "CellVerdict",
    "Op",
    "Outcome",
    "Verdict",
    "check_cell",
    "check_history",
    "check_kv",
    "describe",
    "verify",
]
