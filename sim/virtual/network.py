"""The virtual network: one `Link` for each direction between two parties, with everything that can befall a message.

Messages are handed over as they are, without encoding, as long as nothing touches their bytes: `Network.coded` sends every one
through the wire format, and a corrupted one always goes through it. Faults lay conditions on links and take them away again;
a link without any takes the fast path. Each condition knows the fault that laid it and tells that fault when it bites.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final

from consensus import wire
from sim.faults.running import Running
from sim.virtual.streams import between

if TYPE_CHECKING:
    from sim.virtual.host import Host
    from sim.virtual.world import World

OUTSIDE: Final = "outside"
"""Where clients are."""

Deliver = Callable[[Any], None]


@dataclass(slots=True, frozen=True)
class Weather:
    """How links are when no fault is at work; times in microseconds. A delay is drawn uniformly from [low, low + spread), and
    for a share `tail` of the messages from the same stretched by ten."""

    low: int = 150
    spread: int = 900
    tail: float = 0.01
    loss: float = 0.0
    ordered: bool = True
    """Messages of one direction arrive in the order in which they were sent, as they do on one connection."""
    bulk: int = 10
    """Microseconds that a KiB takes on the bulk connection, on which snapshots travel."""


@dataclass(slots=True)
class Condition:
    """Something laid on a link by a fault. `rate`: of messages that it befalls; `low`, `high`: microseconds."""

    kind: str
    by: Running
    rng: Random
    rate: float = 1.0
    low: int = 0
    high: int = 0
    free_at: int = 0
    """For a capacity: when the line is free again."""
    bytes_per_s: int = 0
    """For a capacity: what a message takes depends on its size, too; 0: it does not."""


class Link:
    """One direction between two parties, `source` to `dest`. `number` names it in traces. What arrives goes to `host` between two
    nodes, else to `deliver`. A client's messages travel with their connection, as a pair."""

    __slots__ = (
        "_arrived",
        "_last",
        "_low",
        "_note",
        "_ordered",
        "_random",
        "_spread",
        "_tail",
        "_timeline",
        "conditions",
        "cuts",
        "deliver",
        "dest",
        "held",
        "host",
        "loss",
        "number",
        "plain",
        "source",
        "world",
    )

    def __init__(self, world: World, source: str, dest: str, number: int, weather: Weather) -> None:
        self.world = world
        self.source, self.dest, self.number = source, dest, number
        self.host: Host | None = None
        self.deliver: Deliver = _nobody
        self._timeline = world.timeline
        self._note = world.ledger.append
        self._arrived = self._arrive  # made once, not for every message
        self._random: Callable[[], float] = self._first_draw
        self._low, self._spread = weather.low, weather.spread
        self._tail = 1.0 - weather.tail
        self._ordered = weather.ordered
        self.loss = weather.loss
        self._last = 0
        self.cuts: list[Running] = []
        self.conditions: list[Condition] = []
        self.held: list[Any] = []
        """Messages that a clogged link keeps until it is unclogged."""
        self.plain = False
        """Nothing is laid on the link and nobody listens in: the fast path."""
        self._judge()

    def _first_draw(self) -> float:
        # Half of the links to clients are never used, and a stream costs more than all the rest of a link.
        self._random = self.world.streams.fresh(f"link/{self.source}>{self.dest}").random
        return self._random()

    # ------------------------------------------------------------------------------------------------ conditions

    def cut(self, by: Running) -> None:
        """Nothing passes any more, nor does what is on its way."""
        self.cuts.append(by)
        self.plain = False

    def mend(self, by: Running) -> None:
        """Take a cut away."""
        if by in self.cuts:
            self.cuts.remove(by)
        self._judge()

    def lay(self, condition: Condition) -> None:
        """Lay a condition on the link."""
        self.conditions.append(condition)
        self.plain = False

    def lift(self, by: Running) -> None:
        """Take every condition of a fault away; what a clog held moves on."""
        self.conditions = [condition for condition in self.conditions if condition.by is not by]
        self._judge()
        if self.held and not any(condition.kind == "clog" for condition in self.conditions):
            self._release()

    def clear(self) -> None:
        """As good as new, whatever was laid on it."""
        self.cuts.clear()
        self.conditions.clear()
        self.loss = 0.0
        self._judge()
        self._release()

    def _release(self) -> None:
        held, self.held = self.held, []
        for message in held:
            self.send(message)

    def _judge(self) -> None:
        world = self.world
        self.plain = not (self.cuts or self.conditions or world.coded or world.trace is not None)

    # -------------------------------------------------------------------------------------------------- messages

    def send(self, message: Any, bulk: int = 0) -> None:
        """Carry a message. `bulk`: microseconds that it takes beyond a small one, on a connection of its own:
        nothing waits behind
        it."""
        timeline = self._timeline
        if self.plain:
            draw = self._random()
            if draw < self.loss:
                self._drop(message, 0, "lost", None, "")
                return
            delay = self._low + int(self._spread * draw)
            if draw > self._tail:
                delay *= 10
            due = timeline.now + delay + bulk
            if self._ordered and not bulk:
                if due <= self._last:
                    due = self._last + 1
                self._last = due
            timeline.at(due, self._arrived, message)
            return
        world = self.world
        world.sent = number = world.sent + 1
        if world.trace is not None:
            world.tell_sent(number, self, message)
        if self._passes(message, number, bulk):
            self._carry(message, number, 0, bulk)

    def _carry(self, message: Any, number: int, late: int, bulk: int) -> None:
        draw = self._random()
        if draw < self.loss:
            self._drop(message, number, "lost", None, "")
            return
        delay = self._low + int(self._spread * draw)
        if draw > self._tail:
            delay *= 10
        due = self._timeline.now + delay + late + bulk
        if self._ordered and not bulk:
            if due <= self._last:
                due = self._last + 1
            self._last = due
        self._set_off(message, number, due)

    def _set_off(self, message: Any, number: int, due: int) -> None:
        if self.world.coded:
            message = recoded(message)
        if self.world.trace is None:
            self._timeline.at(due, self._arrived, message)
        else:
            self._timeline.at(due, self._arrive_traced, (message, number))

    def _arrive(self, message: Any) -> None:
        if self.cuts:
            self._drop(message, 0, "cut", self.cuts[-1], "dropped")
            return
        self._note(self._timeline.now << 10 | self.number)
        if self.host is not None:
            self.host.hear_peer(self.source, message)
        else:
            self.deliver(message)

    def _arrive_traced(self, carried: tuple[Any, int]) -> None:
        message, number = carried
        if self.cuts:
            self._drop(message, number, "cut", self.cuts[-1], "dropped")
            return
        world = self.world
        world.ledger.append(self._timeline.now << 10 | self.number)
        if world.trace is not None:
            world.trace.tell(self._timeline.now, "deliver", self.source, self.dest, id=number)
        if self.host is not None:
            self.host.hear_peer(self.source, message)
        else:
            self.deliver(message)

    def _passes(self, message: Any, number: int, bulk: int) -> bool:
        """Let the conditions work on a message. False: it goes no further, or has been sent on in another form."""
        if self.cuts:
            self._drop(message, number, "cut", self.cuts[-1], "dropped")
            return False
        late, aside = 0, False
        for condition in self.conditions:
            if condition.rate < 1.0 and condition.rng.random() >= condition.rate:
                continue
            kind, by = condition.kind, condition.by
            if kind == "clog":
                by.bite("held")
                self.held.append(message)
                return False
            if kind == "loss":
                self._drop(message, number, "lost", by, "lost")
                return False
            if kind == "corrupt":
                self._corrupt(message, number, condition)
                return False
            if kind == "capacity":
                waits = self._queue(condition, message)
                if waits < 0:
                    self._drop(message, number, "queue full", by, "overflowed")
                    return False
                late += waits
                continue
            by.bite(_BITES[kind])
            drawn = between(condition.rng, (condition.low, condition.high))
            if kind == "duplicate":
                self._set_off(message, number, self._timeline.now + self._low + drawn)
            else:
                late += drawn
                aside = aside or kind == "reorder"
        if not late:
            return True
        if aside:  # past the order of the others
            self._set_off(message, number, self._timeline.now + self._low + late + bulk)
        else:
            self._carry(message, number, late, bulk)
        return False

    def _queue(self, condition: Condition, message: Any) -> int:
        """Microseconds that a message waits for the line; -1: the queue is full. `low`: time that a message takes, `high`: the
        longest wait."""
        now = self._timeline.now
        waits = max(0, condition.free_at - now)
        if waits > condition.high:
            return -1
        if condition.bytes_per_s:
            # A line that is slow is so for the first message, too.
            waits += size_of(message) * 1_000_000 // condition.bytes_per_s
        condition.free_at = now + waits + condition.low
        if waits:
            condition.by.bite("queued")
        return waits

    def _corrupt(self, message: Any, number: int, condition: Condition) -> None:
        """Flip bits of a message. The real transport's TLS rejects such a record, and so nothing corrupt may reach a core. What
        the decoder would make of the bytes must all the same be a message or a `WireError`, never another exception."""
        body = message[1] if type(message) is tuple else message
        if hasattr(body, "__dataclass_fields__"):
            data = bytearray(wire.encode(body))
            for _ in range(condition.rng.randint(1, 3)):
                data[condition.rng.randrange(len(data))] ^= 1 << condition.rng.randrange(8)
            try:
                wire.decode(bytes(data))
            except wire.WireError:
                condition.by.bite("corrupted, unreadable")
        self._drop(message, number, "corrupt", condition.by, "corrupted")

    def _drop(self, message: Any, number: int, why: str, by: Running | None, bite: str) -> None:
        if by is not None:
            by.bite(bite)
        world = self.world
        world.dropped += 1
        if world.trace is not None:
            fault = by.fault.number if by else None
            name = type(message[1] if type(message) is tuple else message).__name__
            now = self._timeline.now
            world.trace.tell(
                now, "drop", self.source, self.dest, id=number, message=name, why=why, fault=fault
            )


def _nobody(message: Any) -> None:
    """Where nobody listens."""


_BITES: Final = {"delay": "delayed", "duplicate": "duplicated", "reorder": "reordered"}


def size_of(message: Any) -> int:
    """Bytes of a message on the wire, without any frame."""
    body = message[1] if type(message) is tuple else message
    return len(wire.encode(body)) if hasattr(body, "__dataclass_fields__") else 0


def recoded(message: Any) -> Any:
    """A message as it comes out of the wire format. What opens or ends a connection is no message and stays what it is."""
    if type(message) is tuple:
        return message[0], recoded(message[1])
    return wire.decode(wire.encode(message)) if hasattr(message, "__dataclass_fields__") else message


class Network:
    """All links: between any two nodes, and between each client and each node."""

    def __init__(self, world: World, nodes: Iterable[str], clients: Iterable[str], weather: Weather) -> None:
        self.links: dict[tuple[str, str], Link] = {}
        nodes, clients = list(nodes), list(clients)
        ends = [(a, b) for a in nodes for b in nodes if a != b]
        ends += [pair for client in clients for node in nodes for pair in ((client, node), (node, client))]
        for number, (a, b) in enumerate(ends):
            self.links[a, b] = Link(world, a, b, number, weather)
        self.nodes, self.clients = nodes, clients

    def between(self, source: str, dest: str) -> list[Link]:
        """The links of a pair; `OUTSIDE` stands for every client."""
        sources = self.clients if source == OUTSIDE else [source]
        dests = self.clients if dest == OUTSIDE else [dest]
        return [self.links[a, b] for a in sources for b in dests]

    def peer_links(self) -> list[Link]:
        """The links between nodes."""
        return [link for link in self.links.values() if link.source in self.nodes and link.dest in self.nodes]

    def clear(self) -> None:
        """Every link as good as new."""
        for link in self.links.values():
            link.clear()
