"""Connections to the other members. Each node dials every peer to speak, and listens on what the peers dialled.

Two connections to a peer: one for the protocol, one, made when it is first needed, for snapshot pieces, behind which no
heartbeat must queue. A closed connection is evidence of nothing, and an open one neither: whoever answers no ping is dialled
anew, because a power cut sends no farewell.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio

from consensus import wire
from node.io.config import Member
from node.io.frames import FrameError, FrameStream, HandshakeError, Outbox
from node.io.logs import Quiet
from node.protocol import Goodbye, Hello, Ping, Pong

PING_S: Final = 0.1
SILENCE_S: Final = 0.4
"""Without a word for so long, a connection counts as dead and is made anew."""
FIRST_BACKOFF_S: Final = 0.02
LONGEST_BACKOFF_S: Final = 0.5
SOUND_S: Final = 1.0
"""A connection that held for so long was a good one: the next attempt comes at once."""
QUEUE_BYTES: Final = 64 << 20

DialPeer = Callable[[Member], Any]
Note = Callable[..., None]


class PeerLink:
    """What this node says to one peer, over connections that are kept up. Sending never waits: without a connection, or
    with a full queue, messages are dropped (rule 5)."""

    def __init__(
        self,
        member: Member,
        role: str,
        cluster: str,
        dial: DialPeer,
        rng: random.Random,
        note: Note,
        round_trip: Callable[[str, float], None],
        changed: Callable[[str, bool], None],
    ) -> None:
        """`dial` raises HandshakeError or OSError. `note(event, **fields)` goes to the log; `round_trip(peer, seconds)` and
        `changed(peer, connected)` to the metrics, the latter from the protocol's connection only."""
        self.member = member
        self.role = role
        self.connected = False
        self._cluster = cluster
        self._dial = dial
        self._rng = rng
        self._note = note
        self._round_trip = round_trip
        self._changed = changed
        self._outbox: Outbox | None = None
        self._heard = 0.0

    def put(self, body: bytes) -> bool:
        """Queue an encoded message; False if it was dropped."""
        return self._outbox is not None and self._outbox.put(body)

    async def run(self) -> None:
        """Keep the connection up until cancelled."""
        failures = 0
        quiet = Quiet(trio.current_time)
        while True:
            sound = False
            try:
                frames = await self._dial(self.member)
            except (HandshakeError, OSError) as error:
                event, reason = "peer_unreachable", str(error)
            else:
                began = trio.current_time()
                was_up, reason = await self._serve(frames)
                event = "peer_lost" if was_up else "peer_unreachable"
                sound = was_up and trio.current_time() - began > SOUND_S
            # A peer without power is dialled several times a second, and each time says something else in the end.
            if sound:
                self._note(event, peer=self.member.id, connection=self.role, reason=reason)
            else:
                quiet(self._note, event, "", peer=self.member.id, connection=self.role, reason=reason)
            # One that takes the connection and ends it at once must not be dialled without a pause either.
            failures = 0 if sound else failures + 1
            longest = min(FIRST_BACKOFF_S * 2.0 ** min(failures, 8), LONGEST_BACKOFF_S)
            await trio.sleep(self._rng.uniform(0, longest))

    async def _serve(self, frames: FrameStream) -> tuple[bool, str]:
        """Hold one connection to its end: (whether the peer said Hello, why it ended)."""
        outbox = Outbox(frames, QUEUE_BYTES)
        outbox.put(wire.encode(Hello(wire.VERSION, self._cluster, self.role)))
        self._heard = trio.current_time()
        why = ["closed"]
        try:
            async with trio.open_nursery() as nursery:

                async def stop_with(task: Callable[..., Any], *args: Any) -> None:
                    await task(*args)
                    nursery.cancel_scope.cancel()

                nursery.start_soon(stop_with, outbox.run)
                nursery.start_soon(stop_with, self._ping, outbox, why)
                nursery.start_soon(stop_with, self._listen, frames, outbox, why)
        except Exception as error:
            # Whatever one peer brings about is no reason to stop talking to the others.
            why[0] = f"failed: {error!r}"
        finally:
            was_up = self.connected
            self._outbox = None
            self._set_connected(False)
            await frames.aclose()
        return was_up, why[0]

    def _set_connected(self, connected: bool) -> None:
        self.connected = connected
        if self.role == "peer":
            self._changed(self.member.id, connected)

    async def _ping(self, outbox: Outbox, why: list[str]) -> None:
        while True:
            now = trio.current_time()
            outbox.put(wire.encode(Ping(int(now * 1e6))))
            await trio.sleep(PING_S)
            if trio.current_time() - now > PING_S + SILENCE_S / 4:
                # This process was held up itself: the peer gets the time of two pings to show that it is there.
                self._heard = max(self._heard, trio.current_time() + 2 * PING_S - SILENCE_S)
            if trio.current_time() - self._heard > SILENCE_S:
                why[0] = f"silent for {SILENCE_S:g} s"
                return

    async def _listen(self, frames: FrameStream, outbox: Outbox, why: list[str]) -> None:
        while True:
            try:
                messages = await frames.receive()
            except FrameError as error:
                why[0] = str(error)
                return
            if not messages:
                why[0] = frames.ended or "closed"
                return
            self._heard = trio.current_time()
            for message in messages:
                kind = type(message)
                if kind is Pong:
                    self._round_trip(self.member.id, self._heard - message.stamp / 1e6)
                elif kind is Hello:
                    if message.version != wire.VERSION or message.cluster != self._cluster:
                        why[0] = f"speaks version {message.version} of cluster {message.cluster}"
                        return
                    self._outbox = outbox
                    self._set_connected(True)
                    self._note("peer_connected", peer=self.member.id, connection=self.role)
                elif kind is Goodbye:
                    why[0] = f"refused: {message.reason}"
                    return
                else:
                    why[0] = f"unexpected {kind.__name__} on a connection that only this node speaks on"
                    return


class Peers:
    """The links to all peers, and one encoding a message whoever it goes to."""

    def __init__(
        self, links: Mapping[str, PeerLink], bulk: Mapping[str, PeerLink], nursery: trio.Nursery
    ) -> None:
        self.links = links
        self._bulk = bulk
        self._bulk_running: dict[str, None] = {}
        self._nursery = nursery
        self.dropped = 0

    def start(self) -> None:
        """Begin to dial."""
        for link in self.links.values():
            self._nursery.start_soon(link.run)

    def send(self, messages: list[tuple[str, Any]]) -> None:
        """Send messages; equal neighbours are encoded once."""
        last: Any = None
        body = b""
        for dest, message in messages:
            if message is not last:
                body, last = wire.encode(message), message
            if not self.links[dest].put(body):
                self.dropped += 1

    def send_bulk(self, messages: list[tuple[str, Any]]) -> None:
        """Send snapshot pieces and requests for them, on the connections of their own."""
        for dest, message in messages:
            if dest not in self._bulk_running:
                self._bulk_running[dest] = None
                self._nursery.start_soon(self._bulk[dest].run)
            # Lost while the connection is being made: the asker asks again.
            if not self._bulk[dest].put(wire.encode(message)):
                self.dropped += 1
