"""A seeded bug, to be imported before runs: a core raises as soon as somebody asks it for a vote."""

from __future__ import annotations

from typing import Any

from consensus.raft.electing import Electing


def _trip(self: Electing, sender: str, message: Any, now: int, out: Any) -> None:
    raise ZeroDivisionError(f"{sender} asked")


Electing.on_request_vote = _trip  # type: ignore[method-assign]
