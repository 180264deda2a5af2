"""Virtual clients: they write in sessions, retry under the same numbers at other nodes, hang up, fall silent until their sessions
expire, ask queries of every consistency; and keep the history that the checks read.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final

from node.protocol import (
    Answer,
    Code,
    Leader,
    OpenSession,
    Outcome,
    Query,
    QueryRefused,
    Refused,
    SessionOpened,
    Submit,
)
from sim.check.history import Operation
from sim.virtual.host import CONNECT, HANG_UP
from sim.virtual.streams import below, between, pick

if TYPE_CHECKING:
    from sim.virtual.host import Host
    from sim.virtual.world import World

NO_QUORUM: Final = int(Code.NO_QUORUM)
NOT_LEADER: Final = int(Code.NOT_LEADER)
REDIRECT: Final = 1_000
"""Microseconds from a redirection to the next attempt."""
TOGETHER: Final = 120
"""Microseconds within which clients begin that begin together."""
UNKNOWN_SESSION: Final = int(Code.UNKNOWN_SESSION)
CONSISTENCIES: Final = ("any", "bounded", "linearizable")


@dataclass(slots=True, frozen=True)
class Load:
    """How clients behave; times in microseconds."""

    pause: tuple[int, int] = (300_000, 900_000)
    """Between two things that a client does."""
    beat: int = 0
    """Above 0: clients begin only at multiples of this, so that many ask at the same time."""
    batch: int = 5
    """Most commands in one request."""
    window: int = 8
    """Most commands of a client without an answer."""
    patience: tuple[int, int] = (60_000, 120_000)
    """After so long without an answer a request is sent again, then after twice as long..."""
    patience_most: int = 250_000
    queries: float = 0.8
    """Share of what a client does that is followed by a query."""
    wander: float = 0.15
    """Share of requests sent to a node other than the leader that the client knows of."""
    hang_ups: float = 0.02
    sleep: float = 0.0
    """Share of pauses in which a client sleeps through its session's life."""


class Connection:
    """A client's way to one life of a node, and back."""

    __slots__ = ("_back", "_out", "client", "closed", "host", "life")

    def __init__(self, client: Client, host: Host) -> None:
        self.client, self.host = client, host
        self.life = host.life
        self.closed = False
        links = client.world.network.links
        self._out, self._back = links[client.name, host.name], links[host.name, client.name]

    def to_node(self, message: Any) -> None:
        """From the client."""
        self._out.send((self, message))

    def to_client(self, message: Any) -> None:
        """From the node."""
        self._back.send((self, message))


class Client:
    """One client; `load` may be changed while it works."""

    def __init__(self, world: World, name: str, load: Load) -> None:
        self.world, self.name, self.load = world, name, load
        self.rng = world.streams.of(f"client/{name}")
        self.workload = world.machine.workload(name, self.rng)
        self.connections: dict[str, Connection] = {}
        self.leader = pick(self.rng, world.names)
        self.session: int | None = None
        self.opening: Operation | None = None
        self.request = 0
        self.opening_request = 0
        """The number of the latest opening, which may be older than that of the latest query."""
        self.asks_on = False
        """Whether it asks queries while it waits for a session, too: nobody may ever lead again."""
        self.seq = 0
        self.low = 0
        self.open: dict[int, Operation] = {}
        self.settled: dict[int, None] = {}
        self.asked: dict[int, Operation] = {}
        self._following: dict[tuple[int, int, int], None] = {}
        self.done = 0
        self.active = True
        self._in_a_hurry = False
        """Its session has gone with writes in it, and another one is not open yet."""
        self.refusal = ""
        """The last one heard, for whoever wonders why nothing goes on."""
        for node in world.names:
            world.network.links[node, name].deliver = self.hear
        self._turn = 0
        world.timeline.after(below(self.rng, 20_000), self.act, 0)

    # ---------------------------------------------------------------------------------------------------- asking

    def act(self, turn: int = 0) -> None:
        """What this client does next, and when after that."""
        if turn != self._turn:
            return  # it was called out of its turn meanwhile
        world, rng, load = self.world, self.rng, self.load
        pause = between(rng, load.pause)
        if self.active:
            if self.session is None:
                self._open()
            elif len(self.open) < load.window:
                self._write(between(rng, (1, min(load.batch, load.window - len(self.open)))))
            if rng.random() < load.queries:
                self._query()
            if load.hang_ups and rng.random() < load.hang_ups:
                self._hang_up(pick(rng, world.names))
            if load.sleep and rng.random() < load.sleep:
                pause += 2 * world.settings.session_ttl
        due = world.timeline.now + pause
        if load.beat:
            due = (due // load.beat + 1) * load.beat + below(rng, TOGETHER)
        world.timeline.at(due, self.act, self._turn)

    def act_once(self) -> None:
        """Do something now, whatever it was waiting for."""
        self._turn += 1
        self.act(self._turn)

    def write_once(self, count: int = 1) -> None:
        """Ask for `count` commands now; for a session first, if there is none."""
        if self.session is not None:
            self._write(count)
        else:
            self._open()

    def ask_once(self) -> None:
        """Ask one query of a node now."""
        self._query()

    def _connection(self, name: str) -> Connection:
        host = self.world.hosts[name]
        old = self.connections.get(name)
        if old is not None and old.life == host.life:
            return old
        made = self.connections[name] = Connection(self, host)
        made.to_node(CONNECT)
        return made

    def _hang_up(self, name: str) -> None:
        old = self.connections.pop(name, None)
        if old is not None:
            old.closed = True
            old.to_node(HANG_UP)

    def _record(self, op: Any, **fields: Any) -> Operation:
        world = self.world
        operation = Operation(op, self.name, world.timeline.now, None, "unknown", **fields)
        world.history.append(operation)
        for hook in world.on_invoked:
            hook(operation)
        return operation

    def _return(self, operation: Operation, outcome: Any) -> None:
        operation.returned, operation.outcome = self.world.timeline.now, outcome
        for hook in self.world.on_returned:
            hook(operation)

    def _node_to_ask(self) -> str:
        if self.rng.random() < self.load.wander:
            self.leader = pick(self.rng, self.world.names)
        return self.leader

    def _open(self) -> None:
        if self.opening is None:
            self.request += 1
            self.opening, self.opening_request = self._record("open"), self.request
            self._try_open(self.request)

    def _try_open(self, request: int) -> None:
        if request != self.opening_request or self.opening is None:
            return
        self._connection(self._node_to_ask()).to_node(OpenSession(request))
        self.world.timeline.after(between(self.rng, self.load.patience), self._open_again, request)

    def _open_again(self, request: int) -> None:
        if request == self.opening_request and self.opening is not None:
            self.leader = pick(self.rng, self.world.names)
            self._try_open(request)

    def _write(self, count: int) -> None:
        seqs = []
        session = self.session or 0
        for _ in range(count):
            self.seq += 1
            command = self.workload.command(session, self.seq)
            self.open[self.seq] = self._record("write", session=session, seq=self.seq, command=command)
            seqs.append(self.seq)
        self._submit((session, seqs, between(self.rng, self.load.patience)))

    def _submit(self, sent: tuple[int, list[int], int]) -> None:
        session, seqs, patience = sent
        seqs = [seq for seq in seqs if seq in self.open]
        if session != self.session or not seqs:
            return
        commands = [self.open[seq].command or b"" for seq in seqs]
        self._connection(self._node_to_ask()).to_node(Submit(session, self.low, seqs, commands))
        longer = min(2 * patience, self.load.patience_most)
        self.world.timeline.after(patience, self._submit_again, (session, seqs, longer))

    def _submit_again(self, sent: tuple[int, list[int], int]) -> None:
        session, seqs, _ = sent
        if session == self.session and any(seq in self.open for seq in seqs):
            for seq in seqs:
                if seq in self.open:
                    self.open[seq].attempts += 1
            if self.rng.random() < 0.5:  # whoever did not answer may be dark
                self.leader = pick(self.rng, self.world.names)
            self._submit(sent)

    def ask_nonsense(self, rng: Random) -> None:
        """Send what no well-made client sends; it must be refused, and change nothing."""
        connection = self._connection(pick(rng, self.world.names))
        session = self.session or 7
        good = self.workload.command(0, 0)
        message: Any = pick(
            rng,
            (
                Submit(session, self.low, [self.low + 10**6], [good]),
                Submit(session, self.low, [self.low + 200], [b"\xc1" + rng.randbytes(9)]),
                Submit(
                    session, self.low, [self.low + 200], [bytes(self.world.settings.max_command_bytes + 1)]
                ),
                Submit(session, self.low, [1, 2, 3], [good]),
                Submit(7, self.low + 10**6, [1], [good]),
                Submit(0, 0, [0], [good]),
                Query(10**9, 3, 0, 10**9, b""),
                Query(10**9, 0, 0, 10**9, rng.randbytes(5)),
            ),
        )
        connection.to_node(message)

    def ask_much(self, rng: Random, count: int) -> None:
        """Send many queries to one node at once."""
        connection = self._connection(pick(rng, self.world.names))
        for _ in range(count):
            self.request += 1
            consistency = below(rng, 3)
            age = pick(rng, (1_000, 30_000))
            operation = self._record(
                "query",
                consistency=CONSISTENCIES[consistency],
                max_age_us=age if consistency == 1 else None,
                query=self.workload.query(),
                node=connection.host.name,
            )
            self.asked[self.request] = operation
            connection.to_node(Query(self.request, consistency, age, 200_000, operation.query or b""))

    def _query(self) -> None:
        rng, world = self.rng, self.world
        if self.opening is not None and not self.asks_on:
            return
        self.request += 1
        consistency = below(rng, 3)
        age = pick(rng, (10_000, 100_000, 400_000))
        query = self.workload.query()
        name = pick(rng, world.names)
        self.asked[self.request] = self._record(
            "query",
            consistency=CONSISTENCIES[consistency],
            max_age_us=age if consistency == 1 else None,
            query=query,
            node=name,
        )
        patience = pick(rng, (50_000, 500_000))
        self._connection(name).to_node(Query(self.request, consistency, age, patience, query))

    # ----------------------------------------------------------------------------------------------------- hearing

    def hear(self, carried: tuple[Connection, Any]) -> None:
        """A message from a node, on a connection."""
        connection, message = carried
        if connection.closed:
            return
        kind = type(message)
        if connection.host.name in self.world.diverged and (kind is Outcome or kind is Answer):
            return  # see `World.diverged`
        if kind is Outcome:
            self._outcome(message)
        elif kind is Answer:
            self._answered(message)
        elif kind is Leader:
            if message.leader is not None:
                self.leader = message.leader
        elif kind is SessionOpened:
            self._opened(message)
        elif kind is Refused:
            self._refused(connection, message)
        elif kind is QueryRefused:
            operation = self.asked.pop(message.request, None)
            if operation is not None:
                self._return(operation, "refused")

    def _opened(self, message: SessionOpened) -> None:
        if self.opening is None or message.request != self.opening_request:
            return
        operation, self.opening = self.opening, None
        operation.session, operation.index, operation.chain = message.session, message.index, message.chain
        self._return(operation, "ok")
        self.session, self.seq, self.low = message.session, 0, 0
        self.open, self.settled = {}, {}
        if self._in_a_hurry:
            self._in_a_hurry = False
            self.act_once()

    def _outcome(self, message: Outcome) -> None:
        if message.session != self.session:
            return
        for seq, place, result in zip(message.seqs, message.places, message.results, strict=True):
            operation = self.open.pop(seq, None)
            if operation is None:
                continue
            operation.index, operation.place = message.index, place
            operation.chain, operation.result = message.chain, result
            self._return(operation, "ok")
            self.done += 1
            self.settled[seq] = None
            while self.low + 1 in self.settled:
                self.low += 1
                del self.settled[self.low]

    def _refused(self, connection: Connection, message: Refused) -> None:
        self.refusal = message.reason
        if message.code == NOT_LEADER and message.leader not in (None, connection.host.name):
            self.leader = message.leader or self.leader
            # Redirected: ask there at once, or nearly so, since two nodes may each take the other for the leader.
            wanted = (message.request, message.session, min(message.seqs, default=0))
            if wanted not in self._following:
                self._following[wanted] = None
                self.world.timeline.after(REDIRECT, self._follow, (wanted, message.seqs))
        elif message.code == NO_QUORUM:
            self.leader = pick(self.rng, self.world.names)
        if message.code == UNKNOWN_SESSION and message.session == self.session:
            # What is open stays of unknown outcome for ever. Whoever waits for it asks for something else at once: by the time
            # of its next turn, a session that lives shortly may be gone again.
            self._in_a_hurry = self.active and bool(self.open)
            self.session, self.open = None, {}
            if self._in_a_hurry:
                self._open()

    def _follow(self, refused: tuple[tuple[int, int, int], list[int]]) -> None:
        wanted, seqs = refused
        del self._following[wanted]  # one at a time for each request, however often it was refused
        request, session, _ = wanted
        if request:
            if request == self.opening_request and self.opening is not None:
                self._connection(self.leader).to_node(OpenSession(request))
            return
        seqs = [seq for seq in seqs if seq in self.open]
        if seqs and session == self.session:
            commands = [self.open[seq].command or b"" for seq in seqs]
            self._connection(self.leader).to_node(Submit(session, self.low, seqs, commands))

    def _answered(self, message: Answer) -> None:
        operation = self.asked.pop(message.request, None)
        if operation is None:
            return
        operation.source = "model"
        operation.index, operation.chain, operation.result = message.index, message.chain, message.result
        operation.age_us, operation.tier = message.age, message.tier
        self._return(operation, "ok")

    def explain(self) -> str:
        """What it waits for."""
        waiting = f"{len(self.open)} writes" if self.session is not None else "a session"
        return f"{self.name}: waits for {waiting}; it takes {self.leader} for the leader; last refusal: {self.refusal or 'none'}"
