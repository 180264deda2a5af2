"""A seeded bug, to be imported before runs: what one node less than a majority has counts as committed (against Raft, 5.3)."""

from __future__ import annotations

from collections.abc import Sequence

from consensus import quorum


def _reached_by_too_few(values: Sequence[int]) -> int:
    return sorted(values)[(len(values) - 1) // 2 + 1]


quorum.reached_by_majority = _reached_by_too_few
