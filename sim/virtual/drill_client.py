"""A client of a drill on virtual time: the project's own client logic for writes, over connections on the virtual network.

`node.io.client_writes.Writes` runs here as it does in a real client, and where nodes may lie `node.io.client_signed.SignedWrites`
does: numbering, sessions, signatures, sending again, its budgets. Connections and queries are this world's own: a link that is
silent for long is given up and dialled again, after `node.io.client_link`; for queries see `drill_queries` and `drill_agreed`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

from node.io.client_pending import Pending
from node.io.client_signed import SignedWrites
from node.io.client_types import EventHook, ProtocolViolation, Settings, Signing
from node.io.client_writes import Writes
from node.protocol import (
    Answer,
    Consistency,
    Leader,
    Outcome,
    QueryRefused,
    Refused,
    SessionOpened,
    SignedOpen,
    SignedSubmit,
    StatusRequest,
)
from sim.virtual.bft_committee import notary
from sim.virtual.client import Connection
from sim.virtual.drill_agreed import AgreedQueries
from sim.virtual.drill_queries import Answered, Queries
from sim.virtual.host import CLUSTER, CONNECT, HANG_UP

if TYPE_CHECKING:
    from node.io.keys import SigningKey
    from sim.virtual.world import World

TICK: Final = 10_000
"""Microseconds between two looks at what time brings to writes, as in a real client."""
HEDGE: Final = 50_000
"""After so long without an answer another node is asked as well (us)."""


class Channel:
    """One connection to a node, on which it has said something."""

    __slots__ = ("connection", "link", "node")

    def __init__(self, link: Link, connection: Connection) -> None:
        self.link, self.connection = link, connection
        self.node = connection.host.name

    def put(self, message: Any) -> bool:
        """Send a message. A virtual connection takes any number."""
        kind = type(message)
        if kind is SignedSubmit:
            said = (message.key, message.session, message.low, tuple(message.seqs), tuple(message.commands))
            self.connection.client.world.signed[message.signature] = said
        elif kind is SignedOpen:
            self.connection.client.world.signed[message.signature] = (message.key, message.nonce)
        self.connection.to_node(message)
        return True


class Link:
    """Keeps a connection to one node. `channel` is None while there is none."""

    def __init__(self, client: DrillClient, node: str, domain: str) -> None:
        self.node, self.domain = node, domain
        self.channel: Channel | None = None
        self.heard = 0
        """When something last came from this node (us)."""
        self._client = client
        self._timeline = client.world.timeline
        self._rng = client.world.streams.of(f"client/{client.name}/link/{node}")
        self._connection: Connection | None = None
        self._attempt = 0
        self._timeline.after(self._rng.randrange(5_000), self._dial)

    def suspect(self, now: float) -> bool:
        """Whether the node should have answered a heartbeat by now (`now` in seconds). A reason to prefer others, no verdict."""
        return self.channel is None or now - self.heard / 1e6 > self._client.settings.ping_ms * 1.6e-3

    def _dial(self, _: Any = None) -> None:
        made = self._connection = Connection(self._client, self._client.world.hosts[self.node])  # type: ignore[arg-type]
        made.to_node(CONNECT)
        self._timeline.after(self._client.settings.dial_ms * 1000, self._give_up, made)

    def _give_up(self, connection: Connection) -> None:
        if connection is self._connection and self.channel is None:
            self.hang_up("no connection in time")

    def hang_up(self, why: str) -> None:
        """Give the connection up, and dial again after a while."""
        connection, channel = self._connection, self.channel
        assert connection is not None
        connection.closed = True
        connection.to_node(HANG_UP)
        self._connection = self.channel = None
        if channel is not None:
            self._attempt = 0
            self._client.lost(channel, why)
        settings = self._client.settings
        ceiling = min(settings.reconnect_max_ms, settings.reconnect_min_ms << min(self._attempt, 16)) * 1000
        self._attempt += 1
        self._timeline.after(self._rng.randint(0, ceiling), self._dial)

    def hear(self, connection: Connection) -> Channel | None:
        """Something came on a connection; the channel that it belongs to, None if that was given up."""
        if connection is not self._connection:
            return None
        self.heard = self._timeline.now
        if self.channel is None:
            self.channel = Channel(self, connection)
            self._client.connected(self.channel)
            self._beat(self.channel)
        return self.channel

    def _beat(self, channel: Channel) -> None:
        if channel is not self.channel:
            return
        settings = self._client.settings
        if self._timeline.now - self.heard >= settings.silence_ms * 1000:
            self.hang_up(f"silent for {settings.silence_ms} ms")
            return
        channel.put(StatusRequest(self._client.number()))
        self._timeline.after(settings.ping_ms * 1000, self._beat, channel)


class DrillClient:
    """One client. What it is told is handed to whoever asked; the history is the load's business."""

    def __init__(
        self, world: World, name: str, domains: dict[str, str], settings: Settings | None = None
    ) -> None:
        self.world, self.name = world, name
        self.settings = settings = settings or Settings()
        self.events: EventHook = lambda event: None
        self.active = True
        self.done = 0
        """Writes acknowledged."""
        numbers = itertools.count(1)
        self.number = numbers.__next__
        self._woken = False
        self.links = {node: Link(self, node, domains[node]) for node in world.names}
        rng = world.streams.of(f"client/{name}/queries")
        self.writes: Writes | SignedWrites
        if world.protocol.requests is None:
            self.writes = Writes(
                settings, world.streams.of(f"client/{name}/writes"), self.clock, self.number, self._channel_of,
                self._channels, self._wake, lambda event: self.events(event),
            )  # fmt: skip
            self._queries = Queries(world.timeline, self.links, self.number, settings, rng)
        else:
            # A virtual signer is all of a key that a client has use for. It has never been used before.
            key = cast("SigningKey", notary(tuple(world.names), world.plan.clients).client(name))
            signing = Signing(world.may_lie, key)
            self.writes = SignedWrites(
                settings, signing, CLUSTER, 1, world.streams.of(f"client/{name}/writes"), self.clock,
                self._channels, self._wake, lambda event: self.events(event),
            )  # fmt: skip
            self._queries = AgreedQueries(
                signing.lie + 1, world.timeline, self.links, self.number, settings, rng
            )
        for node in world.names:
            world.network.links[node, name].deliver = self.hear
        world.timeline.after(TICK, self._tick)

    def clock(self) -> float:
        """Seconds."""
        return self.world.timeline.now / 1e6

    @property
    def open(self) -> int:
        """Writes and queries without an outcome."""
        return int(self.writes.busy) + self._queries.open

    @property
    def ready(self) -> bool:
        """Whether it is connected with every node that has never lied, and knows whom to turn to."""
        honest = [link for link in self.links.values() if link.node not in self.world.liars]
        return all(link.channel for link in honest) and self.writes.leader is not None

    def begin(self, command: bytes, deadline_s: float, callback: Callable[[Pending], None]) -> Pending:
        """Start a command: see `node.io.client.Client.begin`. Raises NotDone."""
        return self.writes.begin(command, deadline_s, callback)

    def explain(self) -> str:
        """What it waits for."""
        return (
            f"{self.name}: {self.writes.in_flight} writes open, {self._queries.open} copies of queries; session "
            f"{self.writes.session}; it turns to {self.writes.leader or 'nobody'} first"
        )

    # --------------------------------------------------------------------------------------------------- writes

    def _channel_of(self, node: str) -> Any:
        link = self.links.get(node)
        return None if link is None else link.channel

    def _channels(self) -> list[Any]:
        return [link.channel for link in self.links.values() if link.channel is not None]

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            self.world.timeline.after(0, self._flush)

    def _flush(self, _: Any) -> None:
        self._woken = False
        self.writes.flush()

    def _tick(self, _: Any) -> None:
        self.writes.tick()
        self.world.timeline.after(TICK, self._tick)

    # -------------------------------------------------------------------------------------------------- hearing

    def connected(self, channel: Channel) -> None:
        """A link is up."""
        self.writes.on_up(channel)  # type: ignore[arg-type]

    def lost(self, channel: Channel, why: str) -> None:
        """A link is down, and with it the answers that were to come over it."""
        self.writes.on_down(channel, why)  # type: ignore[arg-type]
        self._queries.on_down(channel, why)

    def hear(self, carried: tuple[Connection, Any]) -> None:
        """A message from a node, on a connection."""
        connection, message = carried
        link = self.links[connection.host.name]
        found = link.hear(connection)
        if found is not None:
            try:
                self._take(found, message)
            except ProtocolViolation as error:
                link.hang_up(f"talks nonsense: {error}")

    def _take(self, found: Any, message: Any) -> None:
        kind = type(message)
        if kind is Outcome:
            self.writes.on_outcome(found, message)
        elif kind is Answer or kind is QueryRefused:
            self._queries.on_answer(found, message)
        elif kind is Leader:
            self.writes.on_leader(found, message)
        elif kind is Refused:
            self.writes.on_refused(found, message)
        elif kind is SessionOpened:
            self.writes.on_opened(found, message)

    # -------------------------------------------------------------------------------------------------- queries

    def query(
        self,
        query: bytes,
        consistency: Consistency,
        done: Answered,
        *,
        max_age: int,
        patience: int,
        hedge: int = HEDGE,
        fallback_after: int | None = None,
    ) -> None:
        """Ask one node, where some may lie so many that one of them is honest; and others when those do not answer, refuse, or
        do not agree. Times in microseconds.

        `fallback_after`: settle for `ANY` when nothing better came in that time; None: never."""
        self._queries.ask(
            query, consistency, done,
            max_age=max_age, patience=patience, hedge=hedge, fallback_after=fallback_after,
        )  # fmt: skip
