"""Messages on a byte stream: a frame is a 4-byte big-endian length and a msgpack body (`consensus.wire`).

Everything that one read brought is decoded in one go, and everything that waits to leave goes out in one write:
at tens of thousands of small messages a second the calls cost more than the bytes. `connect` and `accept` make such
streams over mutual TLS (`node.io.tls`) and hold the other side to who it should be.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import struct
from collections.abc import Sequence
from typing import Any, Final

import trio

from consensus import wire
from node.io.certificates import CertificateError, Identity
from node.io.tls import (
    HANDSHAKE_TIMEOUT_S,
    HandshakeError,
    TlsStream,
    client_context,
    close_after_reading,
    explain,
    handshake,
    peer_identity,
    server_context,
)
from node.protocol import Goodbye

__all__ = [
    "CertificateError",
    "FrameError",
    "FrameStream",
    "HandshakeError",
    "Identity",
    "Outbox",
    "TlsStream",
    "accept",
    "client_context",
    "connect",
    "peer_identity",
    "server_context",
]

_LENGTH: Final = struct.Struct(">I")
_HEADER: Final = _LENGTH.size
_READ_SIZE: Final = 1 << 18


class FrameError(Exception):
    """The other side sent what is no frame or no message, or a body to be sent is too long."""


class FrameStream:
    """Messages over a byte stream. At most one task may receive and one send at a time.

    `ended` says, once `receive` has returned nothing, why: closed by the other side, reset, a TLS alert."""

    __slots__ = ("_buffer", "_failure", "ended", "frames_received", "identity", "max_frame", "stream")

    def __init__(
        self, stream: trio.abc.Stream, max_frame: int = wire.MAX_FRAME, identity: Identity | None = None
    ) -> None:
        self.stream = stream
        self.identity = identity
        """Who the other side is, by its certificate; None where there is no TLS (tests, memory streams)."""
        self.max_frame = max_frame
        self.ended: str | None = None
        self.frames_received = 0
        self._buffer = bytearray()
        self._failure: FrameError | None = None

    async def receive(self) -> list[Any]:
        """Wait for messages and return all that have arrived completely; an empty list means that the stream ended.

        Raises FrameError for a frame longer than `max_frame` and for a body that is no message; messages that
        came before it are returned first. The stream is of no use afterwards."""
        if self._failure is not None:
            raise self._failure
        while True:
            try:
                data = await self.stream.receive_some(_READ_SIZE)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self.ended = explain(error)
                return []
            if not data:
                where = (
                    f" in the middle of a frame ({len(self._buffer)} bytes of it came)"
                    if self._buffer
                    else ""
                )
                self.ended = f"closed by the other side{where}"
                return []
            messages = self._decode(data)
            if messages:
                return messages
            if self._failure is not None:
                raise self._failure

    def _decode(self, data: bytes | bytearray) -> list[Any]:
        buffer = self._buffer
        if buffer:
            # A long frame comes in many reads: extending is amortised, and nothing is decoded or cut off before it is
            # complete, so that its bytes are copied once and not once a read.
            buffer += data
            data = buffer
        size = len(data)
        position = 0
        messages: list[Any] = []
        decode, unpack, limit = wire.decode, _LENGTH.unpack_from, self.max_frame
        with memoryview(data) as view:
            while size - position >= _HEADER:
                (length,) = unpack(view, position)
                if length > limit:
                    self._failure = FrameError(
                        f"a frame of {length} bytes is announced; the limit is {limit}"
                    )
                    break
                end = position + _HEADER + length
                if end > size:
                    break
                try:
                    messages.append(decode(bytes(view[position + _HEADER : end])))
                except wire.WireError as error:
                    self._failure = FrameError(f"a frame of {length} bytes holds no message: {error}")
                    break
                position = end
        if data is buffer:
            del buffer[:position]
        elif position < size:
            buffer += data[position:]
        self.frames_received += len(messages)
        return messages

    async def send(self, bodies: Sequence[bytes]) -> None:
        """Send encoded messages (`wire.encode`) in one write.

        Raises FrameError, before anything is sent, if a body is longer than `max_frame`; trio.BrokenResourceError or
        trio.ClosedResourceError if the connection is gone."""
        pieces: list[bytes] = []
        pack, limit = _LENGTH.pack, self.max_frame
        for body in bodies:
            if len(body) > limit:
                raise FrameError(f"a message of {len(body)} bytes cannot be sent; the limit is {limit}")
            pieces.append(pack(len(body)))
            pieces.append(body)
        if pieces:
            await self.stream.send_all(b"".join(pieces))

    async def farewell(self, reason: str, timeout_s: float = 0.5) -> None:
        """Send `Goodbye`, let the other side read it, and close. Takes at most about twice `timeout_s`, and never raises."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            with trio.move_on_after(timeout_s):
                await self.send([wire.encode(Goodbye(reason[:500]))])
        await close_after_reading(self.stream, timeout_s)

    async def aclose(self) -> None:
        """Close the stream at once, without waiting for the other side."""
        await trio.aclose_forcefully(self.stream)


class Outbox:
    """What waits to leave on one connection: a queue bounded in bytes, and the task that empties it.

    Protocols resend, so a full queue drops; it never makes the caller wait (rule 5 of `consensus.core`)."""

    __slots__ = ("_closing", "_event", "_frames", "_queue", "dropped", "limit", "queued", "sent")

    def __init__(self, frames: FrameStream, limit: int = 16 << 20) -> None:
        self._frames = frames
        self._queue: list[bytes] = []
        self._event: trio.Event | None = None
        self._closing = False
        self.limit = limit
        self.queued = 0
        """Bytes in the queue, those being written among them."""
        self.dropped = 0
        """Messages refused so far."""
        self.sent = 0
        """Messages handed to the connection so far."""

    def put(self, body: bytes) -> bool:
        """Queue an encoded message; False if it was dropped (queue full, or connection gone). Never waits."""
        if self._closing or self.queued + len(body) > self.limit or len(body) > self._frames.max_frame:
            self.dropped += 1
            return False
        self._queue.append(body)
        self.queued += len(body)
        if self._event is not None:
            self._event.set()
            self._event = None
        return True

    def finish(self) -> None:
        """Take nothing more; `run` returns when the queue is empty."""
        self._closing = True
        if self._event is not None:
            self._event.set()
            self._event = None

    async def run(self) -> None:
        """Write everything queued, in one write a turn, until the connection breaks or `finish` was called."""
        try:
            while True:
                while not self._queue:
                    if self._closing:
                        return
                    self._event = event = trio.Event()
                    await event.wait()
                batch, self._queue = self._queue, []
                size = sum(map(len, batch))
                try:
                    await self._frames.send(batch)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
                self.queued -= size
                self.sent += len(batch)
        finally:
            self._closing = True
            self._event = None


async def connect(
    host: str,
    port: int,
    context: ssl.SSLContext,
    *,
    cluster: str,
    expect_node: str,
    timeout_s: float = HANDSHAKE_TIMEOUT_S,
    max_frame: int = wire.MAX_FRAME,
) -> FrameStream:
    """Connect to the node `expect_node` of `cluster`, by TCP (no delay) and TLS, within `timeout_s`.

    With TLS 1.3 the other side's refusal of our certificate is seen only by the first `receive`, which
    then returns nothing and leaves the reason in `ended`. Raises HandshakeError: unreachable, wrong or expired
    certificate, a client instead of a node, another cluster, another node behind this address."""
    where = f"{expect_node} at {host}:{port}"
    try:
        with trio.fail_after(timeout_s):
            tcp = await trio.open_tcp_stream(host, port)
            secured = await handshake(tcp, context, server_side=False, timeout_s=timeout_s)
    except trio.TooSlowError:
        raise HandshakeError(f"{where}: no connection within {timeout_s:g} s") from None
    except OSError as error:
        raise HandshakeError(f"{where}: cannot connect: {_os_text(error)}") from None
    except HandshakeError as error:
        raise HandshakeError(f"{where}: {error}") from None
    try:
        identity = peer_identity(secured)
        if identity.cluster != cluster:
            raise HandshakeError(f"belongs to cluster {identity.cluster}, not to {cluster}")
        if identity.role != "node":
            raise HandshakeError(f"{identity.role} {identity.name!r} answers; a node was expected")
        if identity.name != expect_node:
            raise HandshakeError(f"node {identity.name!r} answers behind this address; check [[members]]")
    except HandshakeError as error:
        await trio.aclose_forcefully(secured)
        raise HandshakeError(f"{where}: {error}") from None
    return FrameStream(secured, max_frame, identity)


async def accept(
    stream: trio.abc.Stream,
    context: ssl.SSLContext,
    *,
    cluster: str,
    timeout_s: float = HANDSHAKE_TIMEOUT_S,
    max_frame: int = wire.MAX_FRAME,
) -> FrameStream:
    """Shake hands with whoever connected, a node or client of `cluster` (see `FrameStream.identity`).

    Raises HandshakeError, with `stream` closed: slow, no or wrong or expired certificate, another cluster."""
    secured = await handshake(stream, context, server_side=True, timeout_s=timeout_s)
    try:
        identity = peer_identity(secured)
        if identity.cluster != cluster:
            raise HandshakeError(
                f"{identity.role} {identity.name!r} belongs to cluster {identity.cluster}, not to {cluster}"
            )
    except HandshakeError as error:
        await FrameStream(secured).farewell(str(error))
        raise
    return FrameStream(secured, max_frame, identity)


def _os_text(error: OSError) -> str:
    # trio puts the errors of several addresses into a group behind the OSError.
    cause: BaseException = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[-1]
    if isinstance(cause, OSError) and cause.errno and cause.errno > 0:
        return os.strerror(cause.errno).lower()
    return str(error)
