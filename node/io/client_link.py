"""One node as a client sees it: a framed connection that is kept up, and how alive the node looks."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import trio

from consensus import wire
from node.io.client_types import Event, EventHook, ProtocolViolation, Settings
from node.io.config import Member
from node.io.frames import FrameError, FrameStream, HandshakeError, Outbox
from node.protocol import Goodbye, Hello, Leader, Ping, Pong

Dial = Callable[[Member], Awaitable[FrameStream]]
"""Opens a connection to a member. Raises HandshakeError or OSError."""

Handlers = Mapping[type, Callable[["Channel", Any], None]]


class Channel:
    """One connection to a node, after both said Hello."""

    __slots__ = ("link", "node", "outbox")

    def __init__(self, link: Link, outbox: Outbox) -> None:
        self.link = link
        self.node = link.member.id
        self.outbox = outbox

    def put(self, message: Any) -> bool:
        """Queue a message; False if it was dropped."""
        return self.outbox.put(wire.encode(message))


class Link:
    """Keeps a connection to one node. `channel` is None while there is none."""

    def __init__(
        self,
        member: Member,
        dial: Dial,
        cluster: str,
        settings: Settings,
        rng: random.Random,
        handlers: Handlers,
        *,
        up: Callable[[Channel], None],
        down: Callable[[Channel, str], None],
        events: EventHook,
    ) -> None:
        self.member = member
        self.channel: Channel | None = None
        self.heard = -1e9
        """When something last came from this node (trio's clock, seconds)."""
        self.latency = 0.0
        """Recent time of a round trip, seconds, smoothed."""
        self.last_error = "not connected yet"
        self._dial = dial
        self._cluster = cluster
        self._settings = settings
        self._rng = rng
        self._handlers = handlers
        self._up = up
        self._down = down
        self._events = events

    def suspect(self, now: float) -> bool:
        """Whether the node should have answered a heartbeat by now. A reason to prefer others, no verdict."""
        return self.channel is None or now - self.heard > self._settings.ping_ms * 1.6e-3

    def note_latency(self, seconds: float) -> None:
        """A round trip took so long."""
        self.latency = seconds if self.latency == 0.0 else self.latency + 0.2 * (seconds - self.latency)

    async def run(self) -> None:
        """Connect, converse, and connect again after a wait with exponentially growing ceiling and full jitter."""
        attempt = 0
        while True:
            try:
                with trio.fail_after(self._settings.dial_ms / 1000):
                    frames = await self._dial(self.member)
            except trio.TooSlowError:
                self._note("dial_failed", f"no connection within {self._settings.dial_ms} ms")
            except (HandshakeError, OSError) as error:
                self._note("dial_failed", str(error))
            else:
                if await self._converse(frames):
                    attempt = 0
            ceiling = min(
                self._settings.reconnect_max_ms, self._settings.reconnect_min_ms << min(attempt, 16)
            )
            attempt += 1
            await trio.sleep(self._rng.uniform(0, ceiling / 1000))

    def _note(self, kind: str, detail: str) -> None:
        self.last_error = detail
        self._events(Event(trio.current_time(), kind, self.member.id, detail))

    async def _converse(self, frames: FrameStream) -> bool:
        """Serve one connection to its end; whether it was any good (so that waiting starts from the lowest again)."""
        outbox = Outbox(frames, self._settings.outbox_bytes)
        channel = Channel(self, outbox)
        channel.put(Hello(wire.VERSION, self._cluster, "client"))
        self.heard = trio.current_time()
        why = ["closed"]
        sound = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outbox.run)
                nursery.start_soon(self._heartbeat, channel, why, nursery.cancel_scope)
                try:
                    while messages := await frames.receive():
                        self.heard = trio.current_time()
                        for message in messages:
                            self._handle(channel, message, why)
                    if why[0] == "closed":
                        why[0] = frames.ended or "closed"
                except (FrameError, ProtocolViolation) as error:
                    why[0] = f"talks nonsense: {error}"
                    sound = False
                nursery.cancel_scope.cancel()
        finally:
            greeted = self.channel is channel
            if greeted:
                self.channel = None
                self._down(channel, why[0])
            self._note("disconnected", why[0])
            await frames.aclose()
        return sound and greeted

    def _handle(self, channel: Channel, message: Any, why: list[str]) -> None:
        kind = type(message)
        handler = self._handlers.get(kind)
        if handler is not None and self.channel is channel:
            handler(channel, message)
        elif kind is Pong:
            self.note_latency(max(1e-6, trio.current_time() - message.stamp / 1e6))
        elif kind is Ping:
            channel.put(Pong(message.stamp))
        elif kind is Goodbye:
            why[0] = f"said goodbye: {message.reason}"
        elif kind is Hello and self.channel is None:
            if message.version != wire.VERSION:
                raise ProtocolViolation(
                    f"speaks version {message.version} of the wire format, not {wire.VERSION}"
                )
            if message.cluster != self._cluster:
                raise ProtocolViolation(f"belongs to cluster {message.cluster}, not to {self._cluster}")
            self.channel = channel
            self._events(Event(trio.current_time(), "connected", self.member.id, ""))
            self._up(channel)
        elif (
            kind is not Leader or self.channel is not None
        ):  # a push may overtake the greeting; it is repeated after it
            raise ProtocolViolation(f"{kind.__name__} is nothing that a node says to a client at this point")

    async def _heartbeat(self, channel: Channel, why: list[str], scope: trio.CancelScope) -> None:
        ping, silence = self._settings.ping_ms / 1000, self._settings.silence_ms / 1000
        while True:
            now = trio.current_time()
            channel.put(Ping(int(now * 1e6)))
            wake = min(now + ping, max(self.heard + silence, now + 0.001))
            await trio.sleep_until(wake)
            if trio.current_time() - wake > silence / 4:
                # This process was held up; what the node said meanwhile has not been read yet.
                await trio.sleep(silence / 4)
            if trio.current_time() - self.heard >= silence:
                why[0] = f"silent for {silence * 1000:.0f} ms"
                scope.cancel()
                return
