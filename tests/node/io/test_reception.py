"""Whoever connects: shown in, heard, bounded, and shown out; and none of them can do a node any harm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from consensus import wire
from consensus.raft.messages import PreVote
from node.io import reception as module
from node.io.certificates import Identity
from node.io.config import Address, Limits, Member, NodeConfig, TlsFiles
from node.io.frames import FrameStream, HandshakeError
from node.io.reception import CLIENT_STUCK_S, GREETING_S, MOST_GREETING, PEER_SILENCE_S, Reception
from node.protocol import (
    Answer,
    Chunk,
    Code,
    Goodbye,
    Hello,
    Leader,
    Outcome,
    Ping,
    Pong,
    Query,
    QueryRefused,
    StatusRequest,
)

CLUSTER = "3f2a9c01"
PATH = Path("none")
CONFIG = NodeConfig(
    CLUSTER,
    "n1",
    Address("127.0.0.1", 7001),
    PATH,
    TlsFiles(PATH, PATH, PATH),
    tuple(Member(name, "A", Address("127.0.0.1", 7000)) for name in ("n1", "n2", "n3")),
    limits=Limits(max_clients=3),
)
CLIENT = Identity("client", CLUSTER, "c1")
PEER = Identity("node", CLUSTER, "n2")


class House:
    """A reception, with what passed through it."""

    def __init__(self, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nursery = nursery
        self.from_peers: list[tuple[str, list[Any]]] = []
        self.from_clients: list[list[Any]] = []
        self.visits: list[str] = []
        self.connections: list[module.ClientConnection] = []
        self.lines: list[str] = []
        self.reception = Reception(
            CONFIG, None, lambda peer, batch: self.from_peers.append((peer, batch)),  # type: ignore[arg-type]
            lambda who, batch: self.from_clients.append(batch), self._came, lambda who: self.visits.append("gone"),
        )  # fmt: skip
        self._next = CLIENT
        nursery.start_soon(self.reception._sweep)
        monkeypatch.setattr(module, "accept", self._accept)
        for level in ("warning", "error"):
            monkeypatch.setattr(module.log, level, self._line, raising=False)

    def _came(self, connection: module.ClientConnection) -> None:
        self.visits.append("came")
        self.connections.append(connection)

    def _line(self, event: str, **fields: Any) -> None:
        self.lines.append(f"{event}: {fields.get('reason', '')}")

    async def _accept(self, stream: Any, context: Any, *, cluster: str) -> FrameStream:
        await trio.lowlevel.checkpoint()
        if stream.who is None:
            await trio.sleep_forever()
        if isinstance(stream.who, str):
            await trio.aclose_forcefully(stream)
            raise HandshakeError(stream.who)
        return FrameStream(stream, identity=stream.who)

    def enter(self, who: Identity | str | None) -> Guest:
        """Somebody connects. None: who says nothing; a text: whose handshake fails."""
        near, far = trio.testing.memory_stream_pair()
        far.who = who  # type: ignore[attr-defined]
        guest = Guest(FrameStream(near))

        async def serve() -> None:
            await self.reception.welcome(far)
            guest.served = True

        self.nursery.start_soon(serve)
        return guest


class Guest:
    """The far end of a connection."""

    def __init__(self, frames: FrameStream) -> None:
        self.frames = frames
        self.served = False

    async def say(self, *messages: Any) -> None:
        await self.frames.send([wire.encode(message) for message in messages])

    async def greet(self, role: str = "client") -> None:
        await self.say(Hello(wire.VERSION, CLUSTER, role))

    async def hears(self) -> list[Any]:
        """Everything until the end."""
        heard: list[Any] = []
        while messages := await self.frames.receive():
            heard += messages
        return heard

    async def refused(self) -> str:
        """The reason with which the node ended the connection."""
        with trio.fail_after(20):
            last = (await self.hears())[-1]
        assert type(last) is Goodbye
        await self.frames.aclose()
        return last.reason


@pytest.fixture
async def house(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> House:
    return House(nursery, monkeypatch)


@pytest.mark.parametrize(
    ("who", "message", "reason"),
    [
        (CLIENT, Ping(1), "the first message must be Hello, not Ping"),
        (CLIENT, Hello(99, CLUSTER, "client"), "wire version 99; this node speaks version 1"),
        (CLIENT, Hello(1, "aaaaaa", "client"), "cluster aaaaaa; this node belongs to 3f2a9c01"),
        (CLIENT, Hello(1, CLUSTER, "boss"), "unknown role 'boss'; known: peer, bulk, client"),
        (CLIENT, Hello(1, CLUSTER, "peer"), "client 'c1' is not a peer of n1"),
        (CLIENT, Hello(1, CLUSTER, "bulk"), "client 'c1' is not a peer of n1"),
        (Identity("node", CLUSTER, "n9"), Hello(1, CLUSTER, "peer"), "node 'n9' is not a peer of n1"),
        (Identity("node", CLUSTER, "n1"), Hello(1, CLUSTER, "peer"), "node 'n1' is not a peer of n1"),
    ],
)
async def test_who_may_not_come_in_hears_why(
    autojump_clock: MockClock, house: House, who: Identity, message: Any, reason: str
) -> None:
    guest = house.enter(who)
    await guest.say(message, PreVote(1, 1, 1))
    assert await guest.refused() == reason
    assert house.lines == [f"connection_closed: {reason}"]
    assert not house.from_peers
    assert not house.visits


async def test_garbage_ends_the_connection_that_brought_it_with_its_reason(
    autojump_clock: MockClock, house: House
) -> None:
    frames = [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\3\x92\x3d\x01", b"GET / HTTP/1.1\r\n\r\n"]
    for who, role in ((CLIENT, "client"), (PEER, "peer")):
        for raw in frames:
            for greeted in (True, False):
                guest = house.enter(who)
                if greeted:
                    await guest.greet(role)
                await guest.frames.stream.send_all(raw)
                assert (await guest.refused()).startswith("bad frame: a frame of ")
    assert house.visits == ["came", "gone"] * len(frames)
    assert not house.reception.clients


async def test_messages_of_the_wrong_kind_end_a_connection(autojump_clock: MockClock, house: House) -> None:
    guest = house.enter(CLIENT)
    await guest.greet()
    await guest.say(PreVote(1, 1, 1))
    assert await guest.refused() == "a client does not send PreVote"
    guest = house.enter(PEER)
    await guest.greet("peer")
    await guest.say(PreVote(1, 1, 1), StatusRequest(1))
    assert await guest.refused() == "a peer does not send StatusRequest"
    assert house.from_peers == []


async def test_connections_that_break_at_any_point_are_nobody_elses_business(
    autojump_clock: MockClock, house: House
) -> None:
    for role, who in (("client", CLIENT), ("peer", PEER)):
        for steps in range(4):
            guest = house.enter(who)
            if steps == 1:
                await guest.frames.stream.send_all(b"\0\0")
            if steps > 1:
                await guest.greet(role)
            if steps > 2:
                await guest.say(Ping(1))
            await guest.frames.aclose()
    await trio.sleep(1)
    assert house.lines == []
    assert not house.reception.clients
    assert not house.reception._greeting


async def test_a_mistake_of_our_own_costs_one_connection(autojump_clock: MockClock, house: House) -> None:
    def fail(who: Any, batch: list[Any]) -> None:
        raise KeyError("unforeseen")

    house.reception._from_client = fail
    bad, good = house.enter(CLIENT), house.enter(CLIENT)
    await good.greet()
    await bad.greet()
    await bad.say(StatusRequest(1))
    await bad.hears()
    assert len(house.lines) == 1
    assert "unforeseen" in house.lines[0]
    await good.say(Ping(7))
    with trio.fail_after(1):
        assert [type(m) for m in [*await good.frames.receive(), *await good.frames.receive()]] == [
            Hello,
            Pong,
        ]


async def test_those_who_connect_and_say_nothing_do_not_keep_others_out(
    autojump_clock: MockClock, house: House
) -> None:
    silent = []
    for _ in range(MOST_GREETING + 10):
        silent.append(house.enter(None))
        await trio.sleep(0.001)
    assert len(house.reception._greeting) == MOST_GREETING
    guest = house.enter(CLIENT)
    await guest.greet()
    await trio.sleep(0.01)
    assert len(house.reception.clients) == 1
    assert [one.served for one in silent[:12]] == [True] * 11 + [False]
    await trio.sleep(GREETING_S)
    assert all(one.served for one in silent)
    assert house.lines[0] == "too_many_greetings: "
    assert len(house.lines) == 3  # the crowd, the displaced, the late: once each, not once a head
    assert len(house.reception.clients) == 1


async def test_refused_handshakes_are_logged_once_in_a_while(autojump_clock: MockClock, house: House) -> None:
    for _ in range(50):
        house.enter("the other side showed no certificate")
        await trio.sleep(0.1)
    assert house.lines == ["connection_refused: the other side showed no certificate"]


async def test_more_clients_than_allowed_are_sent_elsewhere(autojump_clock: MockClock, house: House) -> None:
    guests = [house.enter(CLIENT) for _ in range(3)]
    for guest in guests:
        await guest.greet()
    await trio.sleep(0.1)
    late = house.enter(CLIENT)
    await late.greet()
    assert await late.refused() == "3 clients are connected, which is the limit; try another node"
    await guests[0].frames.aclose()
    await trio.sleep(0.1)
    again = house.enter(CLIENT)
    await again.greet()
    await trio.sleep(0.1)
    assert len(house.reception.clients) == 3


async def test_a_client_that_does_not_read_loses_its_connection_not_the_node_its_memory(
    autojump_clock: MockClock, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck(self: FrameStream, bodies: Any) -> None:
        await trio.sleep_forever()

    guest = house.enter(CLIENT)
    await guest.greet()
    await trio.sleep(0.1)
    (connection,) = house.connections
    monkeypatch.setattr(FrameStream, "send", stuck)
    connection.deliver(Leader("n1", 1))
    await trio.sleep(CLIENT_STUCK_S + 2)
    assert not house.reception.clients
    assert house.lines == [
        f"connection_closed: has read nothing for {CLIENT_STUCK_S:g} s, with 6 bytes waiting"
    ]

    other = house.enter(CLIENT)
    monkeypatch.undo()
    monkeypatch.setattr(module, "accept", house._accept)
    await other.greet()
    await trio.sleep(0.1)
    monkeypatch.setattr(FrameStream, "send", stuck)
    for _ in range(20):
        house.connections[1].deliver(Answer(1, 1, b"", None, "stale", bytes(4 << 20)))
    assert house.connections[1].outbox.queued <= module.CLIENT_QUEUE_BYTES
    assert house.connections[1].reason == "does not read what it is sent"
    await trio.sleep(0.01)
    assert not house.reception.clients


async def test_answers_longer_than_a_frame_are_cut_or_refused(
    autojump_clock: MockClock, house: House
) -> None:
    guest = house.enter(CLIENT)
    await guest.greet()
    await trio.sleep(0.1)
    (connection,) = house.connections
    long = bytes(3 << 20)
    connection.deliver(Outcome(5, 9, b"chain", [1, 2, 3], [4, 5, 6], [long, b"x", long]))
    connection.deliver(Answer(8, 1, b"", None, "stale", long * 2))
    heard: list[Any] = []
    with trio.fail_after(5):
        while len(heard) < 5:
            heard += await guest.frames.receive()
    assert [(m.seqs, m.places, [len(r) for r in m.results]) for m in heard[1:4]] == [
        ([1], [4], [3 << 20]), ([2], [5], [1]), ([3], [6], [3 << 20]),
    ]  # fmt: skip
    assert type(heard[4]) is QueryRefused
    assert (heard[4].request, heard[4].code) == (8, Code.BAD_QUERY)


async def test_a_clients_frame_leaves_room_for_what_the_peers_put_around_it(
    autojump_clock: MockClock, house: House
) -> None:
    guest = house.enter(CLIENT)
    await guest.greet()
    await guest.say(Query(1, 0, 0, 1, bytes(module.CLIENT_FRAME)))
    assert (await guest.refused()).endswith("bytes is announced; the limit is 4259840")
    assert house.from_clients == []


async def test_a_peer_that_a_cut_silenced_is_swept_out_and_a_newer_connection_replaces_the_older(
    autojump_clock: MockClock,
    house: House,
) -> None:
    first, second = house.enter(PEER), house.enter(PEER)
    await first.greet("peer")
    await trio.sleep(0.1)
    await second.greet("peer")
    await trio.sleep(0.1)
    assert (first.served, second.served) == (True, False)
    bulk = house.enter(PEER)
    await bulk.greet("bulk")
    await bulk.say(Chunk(1, 1, 2, b"x"))
    for _ in range(10):
        await second.say(Ping(1), PreVote(1, 1, 1))
        await trio.sleep(0.5)
    assert not second.served  # one that pings stays
    assert ("n2", [Chunk(1, 1, 2, b"x")]) in house.from_peers
    assert len(house.from_peers) == 11
    await trio.sleep(PEER_SILENCE_S + 2)
    assert second.served
    assert not house.reception._speaking
    assert f"connection_closed: silent for {PEER_SILENCE_S:g} s" in house.lines


async def test_leaving_tells_every_client_behind_what_it_is_owed(
    autojump_clock: MockClock, house: House
) -> None:
    guests = []
    for _ in range(2):
        guests.append(guest := house.enter(CLIENT))
        await guest.greet()
        await trio.sleep(0.1)
    house.connections[0].deliver(Leader("n1", 1))
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(house.reception.say_goodbye, "n1 is leaving", 0.3)
        heard = await guests[0].hears()
        await guests[0].frames.aclose()
        nursery.start_soon(guests[1].hears)  # reads, but does not close
    assert [type(message) for message in heard] == [Hello, Leader, Goodbye]
    assert trio.current_time() - began < 0.31
    late = house.enter(CLIENT)
    await late.greet()
    assert await late.refused() == "n1 is leaving"


def test_what_is_said_too_often_is_counted_instead() -> None:
    now = 0.0
    lines: list[dict[str, Any]] = []
    quiet = module.Quiet(lambda: now, every_s=10)
    for step in range(25):
        now = float(step)
        quiet(lambda event, **fields: lines.append({"event": event, **fields}), "noise", "same", n=step)
        quiet(lambda event, **fields: None, "noise", f"other {step}")
    assert lines == [
        {"event": "noise", "n": 0}, {"event": "noise", "n": 10, "held_back": 9}, {"event": "noise", "n": 20, "held_back": 9},
    ]  # fmt: skip
    for step in range(2000):
        quiet(lambda event, **fields: None, "noise", f"other {step}")
    assert len(quiet._said) <= quiet.MOST
