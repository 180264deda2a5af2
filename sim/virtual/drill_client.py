"""A client of a drill on virtual time: the project's own client logic for writes, over connections on the virtual network.

`node.io.client_writes.Writes` runs here as it does in a real client: numbering, sessions, sending again, its budgets. Connections
and queries are this world's own, after `node.io.client_link` and `node.io.client_queries`: a link that is silent for long is
given up and dialled again, and a query that is not answered is asked of another node as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from consensus.core import NEVER
from node.io.client_pending import Pending
from node.io.client_types import Budget, EventHook, QueryResult, Settings
from node.io.client_writes import Writes
from node.protocol import (
    Answer,
    Code,
    Consistency,
    Leader,
    Outcome,
    Query,
    QueryRefused,
    Refused,
    SessionOpened,
    StatusRequest,
)
from sim.virtual.client import Connection
from sim.virtual.host import CONNECT, HANG_UP

if TYPE_CHECKING:
    from sim.virtual.world import World

TICK: Final = 10_000
"""Microseconds between two looks at what time brings to writes, as in a real client."""
ROUND: Final = (10_000, 100_000)
"""Shortest and longest wait between two rounds of asking everybody (us)."""
HEDGE: Final = 50_000
"""After so long without an answer another node is asked as well (us)."""

Answered = Callable[[QueryResult | None, str], None]
"""Called once, with the answer, or with None and the reason."""


class Channel:
    """One connection to a node, on which it has said something."""

    __slots__ = ("connection", "link", "node")

    def __init__(self, link: Link, connection: Connection) -> None:
        self.link, self.connection = link, connection
        self.node = connection.host.name

    def put(self, message: Any) -> bool:
        """Send a message. A virtual connection takes any number."""
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
            self._hang_up("no connection in time")

    def _hang_up(self, why: str) -> None:
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
            self._hang_up(f"silent for {settings.silence_ms} ms")
            return
        channel.put(StatusRequest(self._client.number()))
        self._timeline.after(settings.ping_ms * 1000, self._beat, channel)


@dataclass(slots=True, eq=False)
class _Asking:
    """One query under way. Times in microseconds."""

    query: bytes
    level: Consistency
    max_age: int
    until: int
    hedge: int
    fallback_at: int
    done: Answered
    next_round: int
    hedge_at: int = NEVER
    pause: int = ROUND[0]
    first: str = ""
    timer: int = NEVER
    over: bool = False
    tried: dict[str, None] = field(default_factory=dict)
    copies: dict[int, tuple[Channel, Consistency]] = field(default_factory=dict)
    """Request -> where it was sent, and what it asks for."""
    reasons: dict[str, str] = field(default_factory=dict)


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
        self._rng = world.streams.of(f"client/{name}/queries")
        self.links = {node: Link(self, node, domains[node]) for node in world.names}
        self.writes = Writes(
            settings, world.streams.of(f"client/{name}/writes"), self.clock, self.number, self._channel_of,
            self._channels, self._wake, lambda event: self.events(event),
        )  # fmt: skip
        self._hedges = Budget(settings.hedge_ratio, settings.hedge_floor_per_s, cap=50.0)
        self._hedges.start(self.clock())
        self._asked: dict[int, _Asking] = {}
        self._turn = 0
        for node in world.names:
            world.network.links[node, name].deliver = self.hear
        world.timeline.after(TICK, self._tick)

    def clock(self) -> float:
        """Seconds."""
        return self.world.timeline.now / 1e6

    @property
    def open(self) -> int:
        """Writes and queries without an outcome."""
        return int(self.writes.busy) + len(self._asked)

    @property
    def ready(self) -> bool:
        """Whether it is connected with every node, and knows who leads."""
        return all(link.channel for link in self.links.values()) and self.writes.leader is not None

    def begin(self, command: bytes, deadline_s: float, callback: Callable[[Pending], None]) -> Pending:
        """Start a command: see `node.io.client.Client.begin`. Raises NotDone."""
        return self.writes.begin(command, deadline_s, callback)

    def explain(self) -> str:
        """What it waits for."""
        return (
            f"{self.name}: {self.writes.in_flight} writes open, {len(self._asked)} copies of queries; session "
            f"{self.writes.session}; it takes {self.writes.leader or 'nobody'} for the leader"
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
        for request, asking in list(self._asked.items()):
            if asking.copies[request][0] is channel:
                self._take_back(asking, request, why)
                self._step(asking)

    def hear(self, carried: tuple[Connection, Any]) -> None:
        """A message from a node, on a connection."""
        connection, message = carried
        found: Any = self.links[connection.host.name].hear(connection)
        if found is None:
            return
        kind = type(message)
        if kind is Outcome:
            self.writes.on_outcome(found, message)
        elif kind is Answer or kind is QueryRefused:
            asking = self._asked.get(message.request)
            if asking is not None:
                self._judge(asking, message)
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
        """Ask one node, and others when it does not answer or refuses; the first answer wins. Times in microseconds.

        `fallback_after`: settle for `ANY` when nothing better came in that time; None: never."""
        now = self.world.timeline.now
        fallback_at = NEVER if fallback_after is None else now + fallback_after
        self._hedges.earn(1)
        self._step(_Asking(query, consistency, max_age, now + patience, hedge, fallback_at, done, now))

    def _step(self, asking: _Asking) -> None:
        if asking.over:
            return
        now = self.world.timeline.now
        if now >= asking.until:
            for channel, _ in asking.copies.values():
                asking.reasons[channel.node] = "no answer in time"
            listed = "; ".join(f"{node}: {why}" for node, why in asking.reasons.items())
            self._finish(asking, None, f"no answer in time ({listed or 'no node is connected'})")
            return
        if now >= asking.fallback_at:
            asking.level, asking.fallback_at, asking.next_round = Consistency.ANY, NEVER, now
            asking.tried.clear()
            self._ask(asking)
        if not asking.copies and now >= asking.next_round and not self._ask(asking):
            # Everybody was asked and refused, or nobody is there: another round, a little later each time.
            asking.tried.clear()
            asking.next_round = now + self._rng.randint(asking.pause // 2, asking.pause)
            asking.pause = min(2 * asking.pause, ROUND[1])
        elif asking.copies and now >= asking.hedge_at:
            asking.hedge_at = now + asking.hedge
            dark = all(channel.link.suspect(now / 1e6) for channel, _ in asking.copies.values())
            if dark or self._hedges.take(1, now / 1e6):
                self._ask(asking)
        wake = min(asking.until, asking.fallback_at, asking.hedge_at if asking.copies else asking.next_round)
        if wake < asking.timer:
            asking.timer = wake
            self.world.timeline.at(wake, self._ring, (asking, wake))

    def _ring(self, rung: tuple[_Asking, int]) -> None:
        asking, when = rung
        if asking.timer == when:
            asking.timer = NEVER
            self._step(asking)

    def _ask(self, asking: _Asking) -> bool:
        """Ask the best node not tried in this round; False if there is none."""
        now = self.world.timeline.now
        domains = [channel.link.domain for channel, _ in asking.copies.values()]
        self._turn += 1
        choice = [
            (
                (link.suspect(now / 1e6), link.domain in domains, (place - self._turn) % len(self.links)),
                link.channel,
            )
            for place, link in enumerate(self.links.values())
            if link.channel is not None and link.node not in asking.tried
        ]
        if not choice:
            return False
        _, channel = min(choice, key=lambda one: one[0])
        request = self.number()
        asking.tried[channel.node] = None
        asking.first = asking.first or channel.node
        asking.hedge_at = now + asking.hedge
        asking.copies[request] = (channel, asking.level)
        self._asked[request] = asking
        channel.put(Query(request, int(asking.level), asking.max_age, asking.until - now, asking.query))
        return True

    def _take_back(self, asking: _Asking, request: int, why: str) -> Channel:
        channel, _ = asking.copies.pop(request)
        del self._asked[request]
        asking.reasons[channel.node] = why
        return channel

    def _judge(self, asking: _Asking, message: Answer | QueryRefused) -> None:
        if type(message) is Answer:
            channel, level = asking.copies[message.request]
            result = QueryResult(
                message.index, message.chain, message.age, message.tier, message.result, channel.node,
                channel.node != asking.first, level,
            )  # fmt: skip
            self._finish(asking, result, "")
            return
        assert type(message) is QueryRefused
        self._take_back(asking, message.request, f"{Code(message.code).name}: {message.reason}")
        if message.code == Code.BAD_QUERY:
            self._finish(asking, None, message.reason)
        else:
            self._step(asking)

    def _finish(self, asking: _Asking, result: QueryResult | None, why: str) -> None:
        asking.over = True
        for request in asking.copies:
            del self._asked[request]
        asking.done(result, why)
