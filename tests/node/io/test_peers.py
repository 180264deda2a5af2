"""Connections to peers: kept up, given up when silent, bounded, and each peer's trouble its own."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import trio
import trio.testing
from trio.testing import MockClock

from consensus import wire
from consensus.raft.messages import PreVote
from node.io.config import Address, Member
from node.io.frames import FrameStream, HandshakeError
from node.io.peers import LONGEST_BACKOFF_S, QUEUE_BYTES, SILENCE_S, PeerLink, Peers
from node.protocol import Chunk, Goodbye, Hello, Ping, Pong

CLUSTER = "3f2a9c01"
Script = Callable[[FrameStream], Any]


class Far:
    """The other side of a link: each dial is met by `script`."""

    def __init__(self, nursery: trio.Nursery, script: Script | None) -> None:
        self.nursery = nursery
        self.script = script
        self.dials: list[float] = []
        self.heard: list[Any] = []
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.states: list[bool] = []

    async def dial(self, member: Member) -> FrameStream:
        await trio.lowlevel.checkpoint()
        self.dials.append(trio.current_time())
        if self.script is None:
            raise HandshakeError(f"{member.id}: refused, attempt {len(self.dials)}")
        near, far = trio.testing.memory_stream_pair()
        self.nursery.start_soon(self._meet, FrameStream(far))
        return FrameStream(near)

    async def _meet(self, frames: FrameStream) -> None:
        assert self.script is not None
        await self.script(frames)

    async def answer(self, frames: FrameStream) -> None:
        """A good peer."""
        while messages := await frames.receive():
            for message in messages:
                if type(message) is Hello:
                    await frames.send([wire.encode(Hello(wire.VERSION, CLUSTER, "node"))])
                elif type(message) is Ping:
                    await frames.send([wire.encode(Pong(message.stamp))])
                else:
                    self.heard.append(message)

    async def fall_silent(self, frames: FrameStream) -> None:
        await frames.send([wire.encode(Hello(wire.VERSION, CLUSTER, "node"))])
        await trio.sleep_forever()

    def link(self, role: str = "peer") -> PeerLink:
        member = Member("n2", "B", Address("127.0.0.1", 7000))
        return PeerLink(
            member, role, CLUSTER, self.dial, random.Random(1),
            lambda event, **fields: self.notes.append((event, fields)),
            lambda peer, seconds: None, lambda peer, up: self.states.append(up),
        )  # fmt: skip

    def reasons(self, event: str) -> list[str]:
        return [fields["reason"] for name, fields in self.notes if name == event]


async def test_a_connection_that_falls_silent_is_dialled_anew(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        far = Far(nursery, None)
        far.script = far.fall_silent
        link = far.link()
        nursery.start_soon(link.run)
        await trio.sleep(0.05)
        assert link.connected
        far.script = far.answer
        await trio.sleep(SILENCE_S + 0.3)
        assert len(far.dials) == 2
        assert link.connected
        assert far.states == [True, False, True]
        assert far.reasons("peer_lost") == [f"silent for {SILENCE_S:g} s"]
        await trio.sleep(30)
        assert len(far.dials) == 2  # one that answers stays
        nursery.cancel_scope.cancel()


async def test_whoever_was_held_up_itself_does_not_blame_its_peers() -> None:
    clock = MockClock()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            far = Far(nursery, None)
            far.script = far.answer
            link = far.link()
            nursery.start_soon(link.run)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(5):
                clock.jump(2.0)  # as if this process had stood still; the pongs wait to be read
                await trio.testing.wait_all_tasks_blocked()
                clock.jump(0.1)
                await trio.testing.wait_all_tasks_blocked()
                assert link.connected
            assert len(far.dials) == 1
            nursery.cancel_scope.cancel()

    await trio.to_thread.run_sync(lambda: trio.run(main, clock=clock))


async def test_a_peer_that_is_away_is_dialled_with_growing_pauses_and_told_of_rarely(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        far = Far(nursery, None)
        link = far.link()
        nursery.start_soon(link.run)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    pauses = [later - earlier for earlier, later in zip(far.dials, far.dials[1:], strict=False)]
    assert max(pauses[:3]) < 0.2
    assert max(pauses) <= LONGEST_BACKOFF_S
    assert len(far.dials) < 60 / LONGEST_BACKOFF_S * 3
    told = far.reasons("peer_unreachable")
    assert told[0] == "n2: refused, attempt 1"
    assert len(told) <= 7
    assert far.notes[1][1]["held_back"] > 10
    assert not link.put(b"x")


async def test_nonsense_from_a_peer_ends_that_connection_and_nothing_else(autojump_clock: MockClock) -> None:
    hello = wire.encode(Hello(wire.VERSION, CLUSTER, "node"))
    frame = [
        (b"\xff\xff\xff\xff", "a frame of 4294967295 bytes is announced"),
        (b"\0\0\0\1\xc1", "holds no message"),
    ]
    messages = [
        (PreVote(1, 1, 1), "unexpected PreVote"),
        (Goodbye("no peer of mine"), "refused: no peer of mine"),
        (Hello(99, CLUSTER, "node"), "speaks version 99"),
        (Hello(wire.VERSION, "aaaaaa", "node"), "of cluster aaaaaa"),
    ]
    for raw, reason in [*frame, *((None, words) for _, words in messages)]:
        said = next((message for message, words in messages if words == reason), None)

        async def nonsense(frames: FrameStream, raw: bytes | None = raw, said: Any = said) -> None:
            await frames.send([hello])
            if raw is not None:
                await frames.stream.send_all(raw)
            else:
                await frames.send([wire.encode(said)])
            await trio.sleep_forever()

        async with trio.open_nursery() as nursery:
            far = Far(nursery, nonsense)
            link = far.link()
            nursery.start_soon(link.run)
            await trio.sleep(0.5)
            assert len(far.dials) > 2
            assert any(reason in told for _, fields in far.notes for told in [fields.get("reason", "")]), (
                reason
            )
            far.script = far.answer
            await trio.sleep(1)
            assert link.connected
            nursery.cancel_scope.cancel()


async def test_a_failure_nobody_thought_of_is_noted_and_the_link_goes_on(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        far = Far(nursery, None)
        far.script = far.answer
        link = far.link()
        link._round_trip = lambda peer, seconds: 1 / 0  # type: ignore[assignment, return-value]
        nursery.start_soon(link.run)
        await trio.sleep(3)
        assert any("ZeroDivisionError" in reason for reason in far.reasons("peer_lost"))
        assert len(far.dials) > 3
        nursery.cancel_scope.cancel()


async def test_what_is_said_waits_within_bounds_and_is_dropped_beyond(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        far = Far(nursery, None)
        links, bulk = {"n2": far.link()}, {"n2": far.link("bulk")}
        peers = Peers(links, bulk, nursery)
        peers.send([("n2", PreVote(1, 1, 1))])
        assert peers.dropped == 1  # not connected: protocols resend
        far.script = far.fall_silent
        peers.start()
        await trio.sleep(0.05)
        assert links["n2"].connected
        big = Chunk(1, 1, 2, bytes(4 << 20))
        peers.send([("n2", big)] * 20)
        assert (
            peers.dropped == 1 + 20 - QUEUE_BYTES // (4 << 20) + 1
        )  # the queue holds Hello and a ping already
        nursery.cancel_scope.cancel()


async def test_snapshot_pieces_have_a_connection_of_their_own_made_when_first_needed(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        far, far_bulk = Far(nursery, None), Far(nursery, None)
        far.script, far_bulk.script = far.answer, far_bulk.answer
        peers = Peers({"n2": far.link()}, {"n2": far_bulk.link("bulk")}, nursery)
        peers.start()
        await trio.sleep(1)
        assert far_bulk.dials == []
        piece = Chunk(1, 1, 2, b"piece")
        peers.send_bulk([("n2", piece)])
        await trio.sleep(0.5)
        peers.send_bulk([("n2", piece)])
        peers.send([("n2", PreVote(1, 2, 3))])
        await trio.sleep(0.5)
        assert far_bulk.heard == [piece]
        assert far.heard == [PreVote(1, 2, 3)]
        assert len(far_bulk.dials) == 1
        assert far_bulk.states == []  # the metrics show the protocol's connection
        nursery.cancel_scope.cancel()
