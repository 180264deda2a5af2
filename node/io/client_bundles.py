"""Commands that a client has signed together, and when enough nodes say the same of one."""

from __future__ import annotations

from typing import Any

from node.io.client_link import Channel
from node.io.client_pending import Pending
from node.protocol import SignedSubmit


class Bundle:
    """Commands under one signature."""

    __slots__ = ("again_at", "asked", "attempts", "left", "message", "sent_at")

    def __init__(self, message: SignedSubmit) -> None:
        self.message = message
        self.left = len(message.seqs)
        """Commands in it that are not settled."""
        self.attempts = 0
        self.sent_at = 0.0
        self.asked: dict[str, Channel] = {}
        """Nodes that were sent it, and over which connection; cleared when all were."""
        self.again_at: float | None = None
        """When it is to be sent again whatever else; None: when it becomes stale."""


def agreed(pending: Pending, node: str, word: Any, need: int) -> bool:
    """Note what a node says became of a command (its latest word counts); whether `need` nodes now say that."""
    said = pending.said
    if said is None:
        pending.said = {node: word}
        return need <= 1
    said[node] = word
    return sum(bool(other == word) for other in said.values()) >= need
