"""What faults can be laid on the links of a local cluster, whatever the links are made of.

Two things meet `Links`: `sim.local.relay.Relay`, which forwards bytes between sockets and needs no privileges, and
`sim.local.namespaces.NamespaceLinks`, where every node has a network of its own and packets vanish on the way. A fault
carries a label; what it did is counted a direction and a label (`Toll`), so that a verdict can say of each fault whether
it bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, Protocol

import trio

OUTSIDE: Final = "outside"
"""The endpoint of whoever is no member: clients, browsers. Belongs to no power domain."""

Pair = tuple[str, str]
"""A direction: (sender, receiver), each a node or `OUTSIDE`."""


def now_us() -> int:
    """The clock of local experiments: microseconds of CLOCK_MONOTONIC, comparable between processes of a
    machine."""
    return time.monotonic_ns() // 1000


@dataclass(slots=True)
class Toll:
    """What one fault did to one direction. A relay knows nothing of packets, and a packet filter nothing of
    connections: what cannot be seen stays 0."""

    dropped_bytes: int = 0
    """Bytes that were sent and not delivered; in packets with their headers, repeats counted again."""
    dropped_packets: int = 0
    connections_killed: int = 0
    """Connections that lost this direction for ever."""
    dials_swallowed: int = 0
    """Connections that the sender opened and that were never joined to the receiver."""
    ends_swallowed: int = 0
    """Ends of connections (FIN, reset) that were not passed on."""
    delayed_bytes: int = 0

    def add(self, other: Toll) -> None:
        """Add another's counts to this one's."""
        for name in TOLLS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def bit(self) -> bool:
        """Whether anything was lost or held up."""
        return bool(self.dropped_bytes or self.dropped_packets or self.delayed_bytes)

    def as_json(self) -> dict[str, int]:
        """The counts that are not 0."""
        return {name: getattr(self, name) for name in TOLLS if getattr(self, name)}


TOLLS: Final = tuple(item.name for item in fields(Toll))


class Ledger:
    """Tolls by label and direction."""

    def __init__(self) -> None:
        self._tolls: dict[str, dict[Pair, Toll]] = {}

    def toll(self, label: str, pair: Pair) -> Toll:
        """The counts of a fault in a direction, to be added to."""
        return self._tolls.setdefault(label, {}).setdefault(pair, Toll())

    def of(self, label: str) -> dict[Pair, Toll]:
        """Every direction that a fault touched."""
        return self._tolls.get(label, {})


def total(tolls: Mapping[Pair, Toll]) -> Toll:
    """The sum over directions."""
    result = Toll()
    for toll in tolls.values():
        result.add(toll)
    return result


class LinksError(Exception):
    """A fault cannot be laid, or links of this kind cannot be had here; the text says what to do."""


class Links(Protocol):
    """The links of one cluster. Instants are microseconds of `now_us`; from the instant returned on a fault holds.

    Labels are free text; one label may lie on any number of directions, and a direction may bear any number of labels."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry traffic until cancelled. Raises OSError, LinksError."""

    def silence(self, domain: str, cause: str = "power") -> int:
        """Let nothing pass in any direction with an end in the domain. Raises ValueError listing the domains."""

    def restore(self, domain: str, cause: str = "power") -> int:
        """Take one cause of a domain's silence away."""

    def is_silent(self, domain: str, cause: str = "power") -> bool:
        """True between `silence` and `restore` of this domain for this cause."""

    def dropped(self, domain: str) -> int:
        """Bytes dropped so far in directions with an end in the domain."""

    def block(self, label: str, pairs: Iterable[Pair]) -> int:
        """Let nothing pass in these directions. Raises ValueError for one that no link joins."""

    def delay(
        self, label: str, pairs: Iterable[Pair], delay_us: int, jitter_us: int = 0, seed: int = 0
    ) -> int:
        """Hold back what is sent by `delay_us` and up to `jitter_us` more, drawn anew each time from a stream named after
        `seed`, label and direction; what a connection carries stays in order. Raises LinksError where it cannot be done,
        ValueError."""

    def limit(self, label: str, pairs: Iterable[Pair], bytes_per_s: int) -> int:
        """Let no more than so much pass a second in each of these directions. Raises LinksError, ValueError."""

    def lift(self, label: str) -> int:
        """Take away everything with this label; nothing happens if there is none."""

    def tolls(self, label: str) -> dict[Pair, Toll]:
        """What a fault did so far, also after it was lifted."""

    def describe(self) -> list[dict[str, Any]]:
        """Counts of every link, as data."""

    def prefix(self, node: str) -> Sequence[str]:
        """Words before the command line of a node's process, that bring it to its end of the links."""
