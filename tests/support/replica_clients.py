"""Clients of `replica_world`: they write in sessions, retry under the same numbers at other nodes, hang up, fall silent until
their sessions expire, ask queries; and keep the history that the checks read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from node.kv import append, cas, get, put
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

if TYPE_CHECKING:
    from replica_world import Host, World

LOG_KEY = b"all"
"""Everybody appends tokens to the value of this key; each must stand in it once."""


class Wire:
    """A client's way to one node and back: messages arrive in any order, or not at all."""

    def __init__(self, world: World, client: Client, host: Host, number: int) -> None:
        self.world, self.client, self.host, self.number = world, client, host, number
        self.life = host.life

    def deliver(self, message: Any) -> None:
        """From the node."""
        client = self.client
        assert self in client.wires.values(), f"a reply to a connection that is gone: {message}"
        self.world.carry(
            f"{self.host.name}>{client.name}", message, client.hears(self), client.reachable(self)
        )

    def ask(self, message: Any) -> None:
        """To the node."""

        def arrive(copy: Any) -> None:
            replica = self.host.replica
            if replica is not None and self.host.life == self.life and self in self.client.wires.values():
                replica.receive_client(self, copy, self.world.now)
                self.host.poke()

        way = f"{self.client.name}>{self.host.name}"
        self.world.carry(way, message, arrive, self.client.reachable(self))


class Client:
    """Writes in a session, asks queries, retries under the same number; keeps the history that the checks read."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.rng = world.rng(f"client/{name}")
        self.wires: dict[str, Wire] = {}
        self.leader = self.rng.choice(world.names)
        self.session: int | None = None
        self.opening: Operation | None = None
        self.request = 0
        self.seq = 0
        self.low = 0
        self.open: dict[int, Operation] = {}
        self.settled: set[int] = set()
        self.asked: dict[int, Operation] = {}
        self.done = 0
        self.active = True
        self.window = self.rng.choice((1, 3, 8, 8))
        self.impatience = self.rng.choice((8_000, 60_000, 60_000))
        """Before the first reply can have come, in some clients: many copies of a command then race."""
        world.at(self.rng.randint(0, 5000), self.act)

    def wire_to(self, name: str) -> Wire:
        host = self.world.hosts[name]
        old = self.wires.get(name)
        if old is not None and old.life == host.life:
            return old
        made = self.wires[name] = Wire(self.world, self, host, len(self.wires))
        if host.replica is not None:
            host.replica.client_connected(made)
            host.poke()
        return made

    def hang_up(self, name: str) -> None:
        """The connection ends; the node notices at once."""
        old = self.wires.pop(name, None)
        host = self.world.hosts[name]
        if old is not None and host.replica is not None and old.life == host.life:
            host.replica.client_gone(old)
            host.poke()
            self.world.bites["hang-ups"] += 1

    def reachable(self, wire: Wire) -> Callable[[], bool]:
        return lambda: ("clients", wire.host.name) not in self.world.severed

    def record(self, op: str, **fields: Any) -> Operation:
        operation = Operation(op, self.name, self.world.now, None, "unknown", **fields)
        self.world.history.append(operation)
        return operation

    # -- asking

    def act(self) -> None:
        """What this client does next, and when after that."""
        world, rng = self.world, self.rng
        pause = rng.randint(2000, 16_000)
        if self.active:
            if self.session is None:
                if self.opening is None:
                    self.request += 1
                    self.opening = self.record("open")
                    self.try_open(self.request, rng.random() < 0.5)
            elif len(self.open) < self.window:
                self.write([self.command() for _ in range(rng.randint(1, self.window - len(self.open)))])
            if rng.random() < 0.3:
                self.query()
            if rng.random() < 0.02:
                self.hang_up(rng.choice(world.names))
            if rng.random() < 0.012:
                pause += rng.randint(0, 2) * world.settings.session_ttl  # an idle session expires
        world.at(pause, self.act)

    def command(self) -> bytes:
        rng = self.rng
        key = b"k%d" % rng.randrange(4)
        value = b"%s.%d" % (self.name.encode(), rng.randrange(1 << 30))
        draw = rng.random()
        if draw < 0.4:
            return b""  # a token, made when its number is known
        if draw < 0.6:
            return put(key, value + bytes(rng.randrange(150)))
        if draw < 0.7:
            return cas(key, None, value)
        return append(key, value[-3:]) if draw < 0.8 else put(b"r%d" % rng.randrange(40), value)

    def node_to_ask(self) -> str:
        return self.leader if self.rng.random() < 0.8 else self.rng.choice(self.world.names)

    def try_open(self, request: int, again: bool = False) -> None:
        if request != self.request or self.opening is None:
            return
        self.wire_to(self.node_to_ask()).ask(OpenSession(request))
        if again:
            self.wire_to(self.rng.choice(self.world.names)).ask(OpenSession(request))
        self.world.at(self.rng.randint(100_000, 200_000), lambda: self.try_open(request))

    def write(self, commands: list[bytes]) -> None:
        seqs = []
        for command in commands:
            self.seq += 1
            if not command:
                token = b"%s.%d.%d" % (self.name.encode(), self.session or 0, self.seq)
                self.world.tokens[self.session or 0, self.seq] = token
                command = append(LOG_KEY, token + b";")
            self.open[self.seq] = self.record("write", session=self.session, seq=self.seq, command=command)
            seqs.append(self.seq)
        self.submit(self.session or 0, seqs, self.impatience)

    def submit(self, session: int, seqs: list[int], patience: int) -> None:
        seqs = [seq for seq in seqs if seq in self.open]
        if session != self.session or not seqs:
            return
        if self.rng.random() < 0.2:
            self.rng.shuffle(seqs)
        self.wire_to(self.node_to_ask()).ask(
            Submit(session, self.low, seqs, [self.open[seq].command or b"" for seq in seqs])
        )
        wait = self.rng.randint(patience, 2 * patience)
        self.world.at(wait, lambda: self.submit(session, seqs, min(2 * patience, 200_000)))

    def query(self) -> None:
        rng = self.rng
        if self.opening is not None:
            return  # its request number is in use
        self.request += 1
        consistency = rng.randrange(3)
        age = rng.choice((1000, 30_000, 100_000, 400_000))
        names = ("any", "bounded", "linearizable")
        query = get(rng.choice((LOG_KEY, b"k0", b"k1", b"r1")))
        name = rng.choice(self.world.names)
        self.asked[self.request] = self.record(
            "query",
            query=query,
            consistency=names[consistency],
            max_age_us=age if consistency == 1 else None,
            node=name,
        )
        patience = rng.choice((5000, 100_000, 500_000))
        self.wire_to(name).ask(Query(self.request, consistency, age, patience, query))

    # -- hearing

    def hears(self, wire: Wire) -> Callable[[Any], None]:
        def arrive(message: Any) -> None:
            if self.wires.get(wire.host.name) is not wire:
                return
            kind = type(message)
            if kind is Leader:
                self.leader = message.leader or self.leader
            elif kind is Outcome:
                self.outcome(message)
            elif kind is SessionOpened:
                self.opened(message)
            elif kind is Refused:
                self.refused(message)
            elif kind is Answer:
                self.answered(message)
            else:
                assert kind is QueryRefused, message
                operation = self.asked.pop(message.request, None)
                if operation is not None:
                    operation.returned, operation.outcome = self.world.now, "refused"
                    self.world.bites[f"query refused: {Code(message.code).name}"] += 1

        return arrive

    def opened(self, message: SessionOpened) -> None:
        if self.opening is None or message.request != self.request:
            return
        operation, self.opening = self.opening, None
        operation.returned, operation.outcome = self.world.now, "ok"
        operation.session, operation.index, operation.chain = message.session, message.index, message.chain
        self.session, self.seq, self.low = message.session, 0, 0
        self.open, self.settled = {}, set()

    def outcome(self, message: Outcome) -> None:
        if message.session != self.session:
            return
        for seq, place, result in zip(message.seqs, message.places, message.results, strict=True):
            operation = self.open.pop(seq, None)
            if operation is None:
                continue
            operation.returned, operation.outcome = self.world.now, "ok"
            operation.index, operation.place = message.index, place
            operation.chain, operation.result = message.chain, result
            self.done += 1
            self.settle(seq)

    def settle(self, seq: int) -> None:
        self.settled.add(seq)
        while self.low + 1 in self.settled:
            self.low += 1
            self.settled.remove(self.low)

    def refused(self, message: Refused) -> None:
        self.world.bites[f"refused: {Code(message.code).name}"] += 1
        self.leader = message.leader or self.leader
        if message.code == Code.UNKNOWN_SESSION and message.session == self.session:
            # What is open stays of unknown outcome for ever.
            self.session, self.open = None, {}

    def answered(self, message: Answer) -> None:
        operation = self.asked.pop(message.request, None)
        if operation is None:
            return
        operation.returned, operation.outcome, operation.source = self.world.now, "ok", "model"
        operation.index, operation.chain, operation.result = message.index, message.chain, message.result
        operation.age_us, operation.tier = message.age, message.tier
        self.world.bites[f"answered: {operation.consistency}"] += 1
