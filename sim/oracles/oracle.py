"""What an oracle is: hooks that the world calls while a run goes on, and the violation that stops it.

An oracle trusts nothing that the watched code says of itself beyond what it must: records on their way to a disk, messages
on their way to a peer, replies, `Core.observe()`. It never calls a core's own helpers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from consensus.core import CoreView, Record

if TYPE_CHECKING:
    from sim.check.history import Operation
    from sim.virtual.host import Host
    from sim.virtual.world import World


class Violation(Exception):
    """Something happened that must never happen. `oracle`: who says so; `nodes`: where to look."""

    def __init__(self, oracle: str, text: str, nodes: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.oracle = oracle
        self.text = text
        self.nodes = list(nodes)


class Oracle:
    """Override the hooks that you need; the world calls no others. Raise `Violation`, or call `self.violated`."""

    name = "oracle"
    listens: ClassVar[tuple[type, ...]] = ()
    """Message classes for which `said` is called."""

    def __init__(self, world: World) -> None:
        self.world = world

    def violated(self, text: str, *nodes: str) -> NoReturn:
        """Stop the run."""
        raise Violation(self.name, text, nodes)

    def formatted(self, host: Host) -> None:
        """A node's disk was made, or wiped."""

    def recovered(self, host: Host, records: Sequence[Record]) -> None:
        """A node has read its journal back, and starts."""

    def lost(self, host: Host, why: str) -> None:
        """A node refuses to start."""

    def recorded(self, host: Host, records: Sequence[Record]) -> None:
        """A core wants records durable; they are not on the disk yet."""

    def written(self, host: Host, job: int) -> None:
        """What was recorded since the last call goes to the disk as part of journal job `job`."""

    def synced(self, host: Host, job: int) -> None:
        """The disk holds journal job `job`, and every earlier one."""

    def went_down(self, host: Host) -> None:
        """A node's process is gone; what was not synced may be too."""

    def changed(self, host: Host, view: CoreView) -> None:
        """Role, term or leader of a node changed."""

    def applied(self, host: Host, index: int, chain: bytes) -> None:
        """A node's state has reached log index `index`."""

    def entered(self, host: Host, entry: bytes) -> None:
        """A node's state takes the next encoded entry. Costs a call an entry, and is off unless an oracle overrides it."""

    def said(self, host: Host, dest: str, message: Any) -> None:
        """A message of a class in `listens` leaves a node."""

    def overheard(self, host: Host, dest: str, message: Any) -> None:
        """The same of a node that lies, or ever has: nothing of it is held against anybody, but others may build on it."""

    def replied(self, host: Host, message: Any) -> None:
        """A node answers a client: `Outcome`, `Answer`."""

    def invoked(self, operation: Operation) -> None:
        """A client asks for something."""

    def returned(self, operation: Operation) -> None:
        """A client has its answer."""

    def finished(self) -> None:
        """The run is over: everything was repaired, and everybody has caught up."""


def hooks(oracles: Sequence[Oracle], name: str) -> list[Any]:
    """The overridden methods of that name."""
    plain = getattr(Oracle, name)
    return [getattr(oracle, name) for oracle in oracles if getattr(type(oracle), name) is not plain]
