"""What a turn of a replica asks of whoever runs it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from consensus.core import NodeId
from node.disk import Job

Connection = Hashable
"""Whatever the shell uses to name a client's connection."""


class Effects:
    """What a turn asks of the shell. `jobs` of one lane are performed in order. Messages to one peer leave in order;
    those in `bulk` over a connection of their own. `again`: there is more to do at once, without waiting for anything."""

    __slots__ = ("again", "bulk", "clients", "events", "jobs", "peers")

    def __init__(self) -> None:
        self.peers: list[tuple[NodeId, Any]] = []
        self.bulk: list[tuple[NodeId, Any]] = []
        self.clients: list[tuple[Connection, Any]] = []
        self.jobs: list[Job] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        """(name, fields): what an operator wants to read in the log."""
        self.again = False
