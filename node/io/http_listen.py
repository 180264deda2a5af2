"""Listening for HTTP: a bounded number of connections, TLS where the address asks for it, an orderly end.

hypercorn parses HTTP and calls the application. The loop around it is ours and not `hypercorn.trio.serve`, which bounds
neither connections nor the time a client takes to read an answer (its sends are shielded: one client that does not read
would keep a leaving node from leaving), and whose TLS keeps the reason of a refusal from the client.
"""

from __future__ import annotations

import errno
import ssl
from collections.abc import Sequence
from typing import Any, Final

import structlog
import trio
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app
from starlette.types import ASGIApp

from node.io.config import Address, ConfigError, TlsFiles
from node.io.http_calls import Front
from node.io.tls import HandshakeError, handshake, server_context

log = structlog.get_logger()

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


class _Connection:
    """A client's connection, in the shape that hypercorn expects of a stream, with a bound on every send.

    `scope` is shielded from the front's own cancellation: requests in progress finish until `scope.deadline`."""

    def __init__(self, tcp: trio.SocketStream, send_s: float) -> None:
        self.socket = tcp.socket
        self.scope = trio.CancelScope(shield=True)
        self.context = WorkerContext(None)
        self.stream: trio.abc.HalfCloseableStream = tcp
        self._send_s = send_s
        self._sending: trio.CancelScope | None = None

    async def send_all(self, data: bytes) -> None:
        """Raises trio.BrokenResourceError also if the client does not take the data in time.

        Either way the whole connection ends here: hypercorn's reader, if it holds back a further request of this
        connection until this one is answered, would wait for ever."""
        until = min(trio.current_time() + self._send_s, self.scope.deadline)
        try:
            with trio.CancelScope(deadline=until) as self._sending:
                await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.scope.cancel()
            raise
        if self._sending.cancelled_caught:
            self.scope.cancel()
            raise trio.BrokenResourceError("the client does not read")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self.stream.receive_some(max_bytes))
        if not data:
            # A client that has left sends no further request; without this its place stays taken for as long as a
            # connection may idle.
            await self.context.terminated.set()
        return data

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()

    async def end_by(self, when: float) -> None:
        """Take no further request; whatever this connection still does ends at `when`."""
        await self.context.terminated.set()
        self.scope.deadline = min(self.scope.deadline, when)
        if self._sending is not None:
            self._sending.deadline = min(self._sending.deadline, when)


class Listening:
    """The listening sockets of one front and their connections."""

    def __init__(
        self,
        front: Front,
        app: ASGIApp,
        address: Address,
        tls: TlsFiles | None,
        listeners: Sequence[trio.SocketListener] = (),
    ) -> None:
        """`listeners`: already bound to `address`, taken over; none: `run` binds. Raises ConfigError for plain HTTP on an
        address that others reach, CertificateError for unusable files."""
        if tls is None and not address.is_loopback:
            raise ConfigError("http", [_plain(str(address))])
        self._tls: ssl.SSLContext | None = None
        if tls is not None:
            self._tls = server_context(tls.ca, tls.certificate, tls.key)
            self._tls.set_alpn_protocols(["http/1.1"])
        self._front = front
        self._address = address
        self._listeners = list(listeners)
        self._limits = front.limits
        self._connections: dict[_Connection, None] = {}
        self._free = trio.Semaphore(front.limits.connections)
        self._stopping = False
        front.closing = self._closing
        self._app = wrap_app(app, 0, "asgi")  # type: ignore[arg-type]
        self._config = Config()
        self._config.errorlog = None
        self._config.accesslog = None
        self._config.include_server_header = False
        self._config.keep_alive_timeout = 5.0

    async def run(self, task_status: trio.TaskStatus[Address]) -> None:
        """Serve until cancelled. Raises OSError if it cannot listen."""
        listeners = await self._listen()
        port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            try:
                for listener in listeners:
                    nursery.start_soon(self._accept, listener, nursery)
                task_status.started(Address(self._address.host, port))
                await trio.sleep_forever()
            finally:
                self._stopping = True
                end = trio.current_time() + self._limits.drain_s
                for connection in list(self._connections):
                    await connection.end_by(end)

    async def _listen(self) -> list[trio.SocketListener]:
        address = self._address
        try:
            listeners = self._listeners or await trio.open_tcp_listeners(
                address.port, host=address.host, backlog=128
            )
        except OSError as error:
            what = (error.strerror or str(error)).lower()
            raise OSError(
                error.errno,
                f"cannot listen on {address} (http): {what}. Is another node running with this configuration?"
                " Choose another port otherwise",
            ) from None
        # A name may mean another address than it says: what counts is what is bound.
        bound = [Address(*listener.socket.getsockname()[:2]) for listener in listeners]
        open_to_others = [place for place in bound if not place.is_loopback]
        if self._tls is None and open_to_others:
            for listener in listeners:
                listener.socket.close()
            raise ConfigError("http", [_plain(f"{address} ({open_to_others[0]})")])
        return listeners

    def _closing(self) -> bool:
        # With most places taken, connections end after one request, so that those who wait outside get in.
        return self._stopping or 4 * len(self._connections) > 3 * self._limits.connections

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        async with listener:
            while True:
                await self._free.acquire()
                try:
                    tcp = await listener.accept()
                except OSError as error:
                    self._free.release()
                    if error.errno not in _EXHAUSTED:
                        raise
                    log.warning("http_accept_failed", reason=str(error))
                    await trio.sleep(0.1)
                    continue
                except BaseException:
                    self._free.release()
                    raise
                connection = _Connection(tcp, self._limits.send_s)
                self._connections[connection] = None
                self._count()
                nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: _Connection) -> None:
        try:
            with connection.scope:
                await self._converse(connection)
        except Exception:
            # One connection's trouble is not the others'.
            log.exception("http_connection_failed")
        finally:
            connection.socket.close()
            del self._connections[connection]
            self._free.release()
            self._count()

    async def _converse(self, connection: _Connection) -> None:
        if self._tls is not None:
            try:
                connection.stream = await handshake(connection.stream, self._tls, server_side=True)
            except HandshakeError as error:
                log.info("http_connection_refused", reason=str(error))
                return
        stream: Any = connection  # it names trio's streams, and uses what `_Connection` has
        await TCPServer(self._app, self._config, connection.context, ConnectionState({}), stream)

    def _count(self) -> None:
        if self._front.metrics is not None:
            self._front.metrics.http_connections(len(self._connections))


def _plain(where: str) -> str:
    return (
        f"{where} is not loopback, where plain HTTP is refused; use 127.0.0.1, or add [http_tls] with ca, certificate and"
        " key (client certificates are then required)"
    )
