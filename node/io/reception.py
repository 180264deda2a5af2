"""Whoever connects to a node's port: shown in by certificate and Hello, heard, and shown out.

Nothing that arrives here can stop the node. A connection that breaks, talks nonsense, falls silent, or does not read ends, and
takes nothing with it; what a connection may hold (places, bytes, time) is bounded.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, Final

import structlog
import trio

from consensus import wire
from node.io.config import NodeConfig
from node.io.frames import FrameError, FrameStream, HandshakeError, Outbox, accept
from node.io.logs import Quiet
from node.io.tls import close_after_reading
from node.protocol import (
    Answer,
    Code,
    Goodbye,
    Hello,
    Introduce,
    OpenSession,
    Outcome,
    Ping,
    Pong,
    Query,
    QueryRefused,
    SignedOpen,
    SignedSubmit,
    StatusRequest,
    Submit,
)

GREETING_S: Final = 5.0
"""Longest time from accepting a connection to its Hello, TLS included."""
MOST_GREETING: Final = 64
"""Connections that may be on their way there at once. One more displaces the one that has been at it for longest, so that
whoever opens connections and says nothing cannot keep others out."""
PEER_SILENCE_S: Final = 3.0
"""A peer pings every tenth of a second; a cut sends no farewell, and what it leaves behind is swept out after so long."""
CLIENT_SILENCE_S: Final = 30.0
CLIENT_STUCK_S: Final = 10.0
"""A client that takes nothing of what waits for it for so long loses its connection."""
CLIENT_QUEUE_BYTES: Final = 32 << 20
CLIENT_FRAME: Final = wire.MAX_FRAME // 2 + (64 << 10)
"""Longest frame from or to a client: commands travel on to the peers in one piece, with more around them, and must fit there."""
LAST_WORDS_S: Final = 0.5

_PEER_KINDS: Final = frozenset({*range(1, 40), 45, 46, 47})
"""Protocol messages, digest reports, snapshot pieces (see `consensus.wire`)."""
_CLIENT_KINDS: Final = frozenset(
    {OpenSession, Submit, Query, StatusRequest, Introduce, SignedOpen, SignedSubmit}
)

log = structlog.get_logger()


class ClientConnection:
    """A client at the other end of a framed connection: what `Replica` calls a connection."""

    __slots__ = ("_ending", "_seen", "_seen_at", "name", "outbox", "reason", "scope")

    def __init__(self, name: str, outbox: Outbox, now: float) -> None:
        self.name = name
        self.outbox = outbox
        self.scope = trio.CancelScope()
        self.reason = ""
        """Why this node ended the connection."""
        self._ending = False
        self._seen = 0
        self._seen_at = now

    def deliver(self, message: Any) -> None:
        """Queue a message. A client that does not read loses its connection, not the node its memory."""
        if self._ending:
            return
        body = wire.encode(message)
        if len(body) > CLIENT_FRAME:
            self._deliver_long(message, len(body))
        elif not self.outbox.put(body):
            self.drop("does not read what it is sent")

    def _deliver_long(self, message: Any, size: int) -> None:
        kind = type(message)
        if kind is Outcome and len(message.seqs) > 1:
            # Results can be far longer than their commands (what a compare-and-set found in its place).
            for seq, place, result in zip(message.seqs, message.places, message.results, strict=True):
                self.deliver(Outcome(message.session, message.index, message.chain, [seq], [place], [result]))
        elif kind is Answer:
            reason = f"the answer has {size} bytes; a frame to a client holds {CLIENT_FRAME}"
            self.deliver(QueryRefused(message.request, Code.BAD_QUERY, reason, None))
        else:
            self.drop(f"{kind.__name__} of {size} bytes does not fit in a frame")

    def finish(self, reason: str) -> None:
        """Say goodbye behind everything that waits, and then no more."""
        self._ending = True
        self.outbox.put(wire.encode(Goodbye(reason[:500])))
        self.outbox.finish()

    def drop(self, reason: str) -> None:
        """End the connection at once, without a word: none would arrive."""
        self.reason = self.reason or reason
        self.scope.cancel()

    def check(self, now: float) -> None:
        """Drop a client that takes nothing."""
        outbox = self.outbox
        if not outbox.queued or outbox.sent != self._seen:
            self._seen, self._seen_at = outbox.sent, now
        elif now - self._seen_at >= CLIENT_STUCK_S:
            self.drop(f"has read nothing for {CLIENT_STUCK_S:g} s, with {outbox.queued} bytes waiting")


class Reception:
    """The connections that others made to this node. All methods belong to the replica's thread."""

    def __init__(
        self,
        config: NodeConfig,
        tls: ssl.SSLContext,
        from_peer: Callable[[str, list[Any]], None],
        from_client: Callable[[ClientConnection, list[Any]], None],
        came: Callable[[ClientConnection], None],
        gone: Callable[[ClientConnection], None],
    ) -> None:
        """`from_peer(peer, messages)` and `from_client(connection, messages)` take over what arrived; `came` and `gone`
        frame a client's visit. None of them may wait or raise."""
        self._config = config
        self._tls = tls
        self._from_peer = from_peer
        self._from_client = from_client
        self._came = came
        self._gone = gone
        self._peers = frozenset(member.id for member in config.peers)
        self._quiet = Quiet(trio.current_time)
        self._greeting: dict[trio.CancelScope, None] = {}
        self._speaking: dict[tuple[str, str], trio.CancelScope] = {}  # (peer, role) -> its newest connection
        self.clients: dict[ClientConnection, None] = {}
        self._leaving = ""
        self._open = trio.CancelScope()

    async def run(self, listeners: list[trio.SocketListener]) -> None:
        """Take connections until `close`, and serve them until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep)
            with self._open:
                await trio.serve_listeners(self.welcome, listeners, handler_nursery=nursery)

    def close(self) -> None:
        """Take no more connections."""
        self._open.cancel()

    async def _sweep(self) -> None:
        while True:
            await trio.sleep(1)
            now = trio.current_time()
            for connection in self.clients:
                connection.check(now)

    async def say_goodbye(self, reason: str, seconds: float) -> None:
        """Tell every client that this node leaves, once it has read what was for it; returns when all are gone, or after
        `seconds`."""
        self._leaving = reason
        for connection in self.clients:
            connection.finish(reason)
        with trio.move_on_after(seconds):
            while self.clients:
                await trio.sleep(0.005)

    # ------------------------------------------------------------------------------------------- one connection

    async def welcome(self, tcp: trio.abc.Stream) -> None:
        """Serve one connection to its end. Raises nothing."""
        try:
            await self._welcome(tcp)
        except Exception as error:
            # A mistake of ours; but one connection's trouble is nobody else's.
            self._quiet(log.error, "connection_failed", repr(error), reason=repr(error), exc_info=error)
        finally:
            await trio.aclose_forcefully(tcp)

    async def _welcome(self, tcp: trio.abc.Stream) -> None:
        greeted = None
        with trio.CancelScope(deadline=trio.current_time() + GREETING_S) as scope:
            if len(self._greeting) >= MOST_GREETING:
                longest = next(iter(self._greeting))
                del self._greeting[longest]
                longest.cancel()
                self._quiet(log.warning, "too_many_greetings", "", most=MOST_GREETING)
            self._greeting[scope] = None
            try:
                greeted = await self._greet(tcp)
            finally:
                self._greeting.pop(scope, None)
        if scope.cancelled_caught:
            late = trio.current_time() >= scope.deadline
            reason = f"no Hello within {GREETING_S:g} s" if late else "displaced by newer ones while greeting"
            self._quiet(log.warning, "connection_refused", reason, reason=reason)
        if greeted is None:
            return
        frames, hello, messages = greeted
        reason = self._refusal(frames, hello)
        if not reason:
            if hello.role == "client":
                reason = await self._serve_client(frames, messages)
            else:
                assert frames.identity is not None
                reason = await self._serve_peer(frames, frames.identity.name, hello.role, messages)
        if reason:
            who = _who(frames)
            self._quiet(log.warning, "connection_closed", f"{who} {reason}", who=who, reason=reason)
            await frames.farewell(reason, LAST_WORDS_S)

    async def _greet(self, tcp: trio.abc.Stream) -> tuple[FrameStream, Hello, list[Any]] | None:
        """TLS, then Hello in both directions. None: this connection came to nothing."""
        try:
            frames = await accept(tcp, self._tls, cluster=self._config.cluster)
        except HandshakeError as error:
            self._quiet(log.warning, "connection_refused", str(error), reason=str(error))
            return None
        assert frames.identity is not None
        if frames.identity.role != "node":
            frames.max_frame = CLIENT_FRAME
        try:
            messages = await frames.receive()
            if not messages:
                return None
            hello = messages[0]
            if type(hello) is Hello:
                await frames.send([wire.encode(Hello(wire.VERSION, self._config.cluster, "node"))])
                return frames, hello, messages[1:]
            reason = f"the first message must be Hello, not {type(hello).__name__}"
        except FrameError as error:
            reason = f"bad frame: {error}"
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return None  # the other side is gone, which is its business
        who = _who(frames)
        self._quiet(log.warning, "connection_closed", f"{who} {reason}", who=who, reason=reason)
        await frames.farewell(reason, LAST_WORDS_S)
        return None

    def _refusal(self, frames: FrameStream, hello: Hello) -> str:
        """Why whoever said this Hello is not served; empty: it is."""
        config, identity = self._config, frames.identity
        assert identity is not None
        if hello.version != wire.VERSION:
            return f"wire version {hello.version}; this node speaks version {wire.VERSION}"
        if hello.cluster != config.cluster:
            return f"cluster {hello.cluster:.80}; this node belongs to {config.cluster}"
        if hello.role in ("peer", "bulk"):
            if identity.role != "node" or identity.name not in self._peers:
                return f"{identity.role} {identity.name!r} is not a peer of {config.node}"
            return ""
        if hello.role != "client":
            return f"unknown role {hello.role!r:.80}; known: peer, bulk, client"
        if len(self.clients) >= config.limits.max_clients:
            return f"{len(self.clients)} clients are connected, which is the limit; try another node"
        return self._leaving

    # ------------------------------------------------------------------------------------------------- peers

    async def _serve_peer(self, frames: FrameStream, peer: str, role: str, messages: list[Any]) -> str:
        """Hear a peer. A newer connection of the same sort takes the place of the one before, which is dead or will be."""
        older = self._speaking.get((peer, role))
        if older is not None:
            older.cancel()
        with trio.CancelScope() as scope:
            self._speaking[peer, role] = scope
            try:
                return await self._hear_peer(frames, peer, messages)
            except FrameError as error:
                return f"bad frame: {error}"
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return ""
            finally:
                if self._speaking[peer, role] is scope:
                    del self._speaking[peer, role]
        return ""

    async def _hear_peer(self, frames: FrameStream, peer: str, messages: list[Any]) -> str:
        kind_of = wire.kind_of
        while True:
            pong = None
            batch = []
            for message in messages:
                if type(message) is Ping:
                    pong = message.stamp
                elif type(message) is Goodbye:
                    return ""
                elif kind_of(message) in _PEER_KINDS:
                    batch.append(message)
                else:
                    return f"a peer does not send {type(message).__name__}"
            if batch:
                self._from_peer(peer, batch)
            with trio.move_on_after(PEER_SILENCE_S) as patience:
                if pong is not None:
                    await frames.send([wire.encode(Pong(pong))])
                messages = await frames.receive()
            if patience.cancelled_caught:
                return f"silent for {PEER_SILENCE_S:g} s"
            if not messages:
                return ""

    # ----------------------------------------------------------------------------------------------- clients

    async def _serve_client(self, frames: FrameStream, messages: list[Any]) -> str:
        assert frames.identity is not None
        frames.max_frame = CLIENT_FRAME  # a node's own client too
        outbox = Outbox(frames, CLIENT_QUEUE_BYTES)
        connection = ClientConnection(frames.identity.name, outbox, trio.current_time())
        self.clients[connection] = None
        self._came(connection)
        reason = ""
        try:
            with connection.scope:
                async with trio.open_nursery() as nursery:

                    async def write() -> None:
                        await outbox.run()
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(write)
                    reason = await self._hear_client(frames, connection, messages)
                    if reason:
                        # Behind what is on its way already: a frame cut off in the middle would hide the reason.
                        connection.finish(reason)
                        await trio.sleep(LAST_WORDS_S)
                    nursery.cancel_scope.cancel()
                if reason or self._leaving:
                    await close_after_reading(frames.stream, LAST_WORDS_S)
        finally:
            del self.clients[connection]
            self._gone(connection)
        reason = reason or connection.reason
        if reason:
            who = _who(frames)
            self._quiet(log.warning, "connection_closed", f"{who} {reason}", who=who, reason=reason)
        return ""

    async def _hear_client(
        self, frames: FrameStream, connection: ClientConnection, messages: list[Any]
    ) -> str:
        while True:
            batch = []
            for message in messages:
                kind = type(message)
                if kind in _CLIENT_KINDS:
                    batch.append(message)
                elif kind is Ping:
                    connection.deliver(Pong(message.stamp))
                elif kind is Goodbye:
                    return ""
                else:
                    return f"a client does not send {kind.__name__}"
            if batch:
                self._from_client(connection, batch)
            with trio.move_on_after(CLIENT_SILENCE_S) as patience:
                try:
                    messages = await frames.receive()
                except FrameError as error:
                    return f"bad frame: {error}"
            if patience.cancelled_caught:
                return f"silent for {CLIENT_SILENCE_S:g} s"
            if not messages:
                return ""


def _who(frames: FrameStream) -> str:
    identity = frames.identity
    return f"{identity.role} {identity.name}" if identity is not None else "?"
