"""A small cluster of scripted nodes for tests of the client: it speaks `node.protocol` over memory streams.

All nodes share one `World`: who leads, and a log that applies a (session, number) once, as real replicas do. What a node
does with a kind of message can be replaced by a script.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
import trio.testing

from consensus import wire
from node.io.config import Address, Member
from node.io.frames import FrameStream, HandshakeError
from node.protocol import (
    Answer,
    Code,
    Hello,
    Leader,
    OpenSession,
    Outcome,
    Ping,
    Pong,
    Query,
    Refused,
    SessionOpened,
    Status,
    StatusRequest,
    Submit,
)

CLUSTER = "3f2a9c01"
CHAIN = b"c" * 32
Script = Callable[["Peer", Any], list[Any] | None]


class World:
    """What the nodes agree on."""

    def __init__(self, *domains: str) -> None:
        self.leader: str | None = "n1"
        self.term = 1
        self.sessions: list[int] = []
        self.log: list[tuple[int, int, bytes]] = []
        self.done: dict[tuple[int, int], tuple[int, bytes]] = {}
        self.peers = {f"n{i}": Peer(self, f"n{i}", domain) for i, domain in enumerate(domains, 1)}
        self.members = [
            Member(peer.name, peer.domain, Address("127.0.0.1", 7000 + i))
            for i, peer in enumerate(self.peers.values())
        ]
        self.nursery: trio.Nursery | None = None

    async def dial(self, member: Member) -> FrameStream:
        """What the client connects with."""
        await trio.lowlevel.checkpoint()
        peer = self.peers[member.id]
        peer.dials += 1
        if not peer.reachable:
            if peer.silent:
                await trio.sleep_forever()
            raise HandshakeError(f"{member.id}: cannot connect: scripted")
        near, far = trio.testing.memory_stream_pair()
        assert self.nursery is not None
        self.nursery.start_soon(peer.serve, FrameStream(far))
        return FrameStream(near)

    def lead(self, name: str | None, tell: bool = True) -> None:
        """A new term, with this leader; every node that is not silent pushes it."""
        self.leader = name
        self.term += 1
        if tell:
            for peer in self.peers.values():
                peer.push(Leader(name, self.term))

    def open_session(self) -> int:
        self.sessions.append(len(self.sessions) + 101)
        return self.sessions[-1]

    def apply(self, session: int, seq: int, command: bytes) -> tuple[int, bytes]:
        """(index, result); once for every (session, number)."""
        if (session, seq) not in self.done:
            self.log.append((session, seq, command))
            self.done[session, seq] = (len(self.log), b"did " + command)
        return self.done[session, seq]

    def submits(self) -> list[Submit]:
        return [message for peer in self.peers.values() for message in peer.heard if type(message) is Submit]


class Peer:
    """One scripted node."""

    def __init__(self, world: World, name: str, domain: str) -> None:
        self.world = world
        self.name = name
        self.domain = domain
        self.reachable = True
        self.silent = False
        self.dials = 0
        self.heard: list[Any] = []
        self.scripts: dict[type, Script] = {}
        self.streams: list[FrameStream] = []
        self._outboxes: list[tuple[FrameStream, trio.MemorySendChannel[bytes]]] = []

    def push(self, message: Any) -> None:
        """Send to every client connected (nothing while silent)."""
        self.push_raw(wire.encode(message))

    def push_raw(self, body: bytes) -> None:
        if not self.silent:
            for _, outbox in self._outboxes:
                outbox.send_nowait(body)

    async def cut_connections(self) -> None:
        """Close all connections."""
        for stream in list(self.streams):
            await stream.aclose()

    async def serve(self, stream: FrameStream) -> None:
        send, receive = trio.open_memory_channel[bytes](1_000_000)
        self.streams.append(stream)
        self._outboxes.append((stream, send))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, stream, receive)
                while messages := await stream.receive():
                    for message in messages:
                        self.heard.append(message)
                        if self.silent:
                            continue
                        for answer in self.answer(message):
                            send.send_nowait(wire.encode(answer))
                nursery.cancel_scope.cancel()
        finally:
            self.streams.remove(stream)
            self._outboxes.remove((stream, send))
            await stream.aclose()

    async def _write(self, stream: FrameStream, receive: trio.MemoryReceiveChannel[bytes]) -> None:
        async for body in receive:
            try:
                await stream.send([body])
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    # ------------------------------------------------------------------------------------------------ answers

    def answer(self, message: Any) -> list[Any]:
        script = self.scripts.get(type(message))
        if script is not None:
            answers = script(self, message)
            if answers is not None:
                return answers
        return self.usual(message)

    def usual(self, message: Any) -> list[Any]:
        """What a sound node says."""
        world = self.world
        match message:
            case Hello():
                leader = [Leader(world.leader, world.term)] if world.leader else []
                return [Hello(wire.VERSION, CLUSTER, "peer"), *leader]
            case Ping():
                return [Pong(message.stamp)]
            case OpenSession():
                if world.leader != self.name:
                    return [self.refused(message.request, 0, [], Code.NOT_LEADER)]
                return [SessionOpened(message.request, world.open_session(), 1, CHAIN)]
            case Submit():
                if world.leader != self.name:
                    return [self.refused(0, message.session, message.seqs, Code.NOT_LEADER)]
                if message.session not in world.sessions:
                    return [self.refused(0, message.session, message.seqs, Code.UNKNOWN_SESSION)]
                return self.apply(message)
            case Query():
                return [Answer(message.request, 7, CHAIN, 1000, "fresh", self.name.encode())]
            case StatusRequest():
                return [Status(message.request, {"node": self.name})]
        return []

    def apply(self, message: Submit) -> list[Any]:
        done = [
            self.world.apply(message.session, *pair)
            for pair in zip(message.seqs, message.commands, strict=True)
        ]
        return [
            Outcome(message.session, index, CHAIN, [seq], [0], [result])
            for seq, (index, result) in zip(message.seqs, done, strict=True)
        ]

    def refused(
        self, request: int, session: int, seqs: list[int], code: Code, leader: str | None = "known"
    ) -> Refused:
        hint = self.world.leader if leader == "known" else leader
        return Refused(request, session, seqs, int(code), f"scripted {code.name}", hint)
