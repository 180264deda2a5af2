"""A seeded bug, to be imported before runs: nobody ever asks for a vote, so nobody leads and nothing goes on."""

from __future__ import annotations

from typing import Any

from consensus.raft.electing import Electing


def _wait(self: Electing, now: int, out: Any) -> None:
    self.reset(now)


Electing.campaign = _wait  # type: ignore[method-assign]
