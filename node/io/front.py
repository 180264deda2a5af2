"""The bridge between the HTTP thread and the replica's thread.

What HTTP needs is loaded in its own thread when it starts: a node takes part in its cluster without waiting for a web server.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from node.finality import NoProof, to_json
from node.io.config import NodeConfig
from node.protocol import Answer, Consistency, Query, QueryRefused, Status, StatusRequest

if TYPE_CHECKING:
    from node.io.client import Client, Result
    from node.io.server import Node

STOP_S: Final = 1.5
"""Longest time for the HTTP thread to end: a little more than requests in progress get."""

log = structlog.get_logger()


class _Asked:
    """A question on its way through the replica's thread."""

    __slots__ = ("answer", "event")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.answer: Any = None


class Front:
    """Meets `node.io.http.Backend`. Lives in the HTTP thread; `deliver` is called in the replica's."""

    def __init__(self, node: Node, replica_token: trio.lowlevel.TrioToken) -> None:
        config: NodeConfig = node.config
        self.node = config.node
        self.cluster = config.cluster
        self.domain = config.me.domain
        self.machine = config.machine
        self.protocol = config.protocol
        self._config = config
        self._owner = node
        self._replica = replica_token
        self._here = trio.lowlevel.current_trio_token()
        self._numbers = itertools.count(1)
        self._asked: dict[int, _Asked] = {}
        self._client: Client | None = None
        self._wanted = trio.Event()
        self._ready = trio.Event()

    # -- in the replica's thread

    def deliver(self, message: Any) -> None:
        """An answer from the replica, which takes this for one of its clients."""
        request = getattr(message, "request", None)
        if request:
            with contextlib.suppress(trio.RunFinishedError):
                self._here.run_sync_soon(self._settle, request, message)

    # -- in the HTTP thread

    def _settle(self, request: int, message: Any) -> None:
        asked = self._asked.get(request)
        if asked is not None:
            asked.answer = message
            asked.event.set()

    async def _ask(self, message: Any) -> Any:
        asked = self._asked[message.request] = _Asked()
        try:
            self._replica.run_sync_soon(self._owner.from_client, self, [message])
            await asked.event.wait()
            return asked.answer
        finally:
            del self._asked[message.request]

    async def query(
        self, query: bytes, consistency: Consistency, max_age_us: int, patience_us: int
    ) -> Answer | QueryRefused:
        """Ask this node's replica."""
        message = Query(next(self._numbers), int(consistency), max_age_us, patience_us, query)
        answer: Answer | QueryRefused = await self._ask(message)
        return answer

    async def status(self) -> dict[str, Any]:
        """The replica's status."""
        answer: Status = await self._ask(StatusRequest(next(self._numbers)))
        return {**answer.status, "stopping": self._owner.leaving}

    async def submit(self, command: bytes, deadline_s: float) -> Result:
        """Have a command applied by whoever leads, in this node's own session. Raises `client_types` errors."""
        from node.io.client import NotDone

        self._wanted.set()
        with trio.move_on_after(deadline_s):
            await self._ready.wait()
        if self._client is None:
            raise NotDone("this node's own client is not ready yet")
        return await self._client.submit(command, deadline_s=deadline_s)

    async def proof(self, index: int) -> dict[str, Any]:
        """A finality proof of a log entry, as JSON's values. Raises NoProof."""
        asked = _Asked()

        def make() -> None:
            try:
                asked.answer = to_json(self._owner.prove(index))
            except NoProof as error:
                asked.answer = error
            with contextlib.suppress(trio.RunFinishedError):
                self._here.run_sync_soon(asked.event.set)

        self._replica.run_sync_soon(make)
        await asked.event.wait()
        if isinstance(asked.answer, NoProof):
            raise asked.answer
        answer: dict[str, Any] = asked.answer
        return answer

    def render_metrics(self) -> bytes:
        """Prometheus text."""
        assert self._owner.metrics is not None
        return self._owner.metrics.render()

    async def keep_client(self) -> None:
        """Connect to the cluster when a first write asks for it."""
        from node.io.client import Signing, open_client

        await self._wanted.wait()
        config = self._config
        signing = None if config.committee is None else Signing(config.committee.lie)
        async with open_client(
            config.members, config.tls, cluster=config.cluster, name=f"front-{config.node}", signing=signing
        ) as client:
            self._client = client
            self._ready.set()
            await trio.sleep_forever()


class FrontThread:
    """The thread with the HTTP front, as the replica's thread sees it."""

    def __init__(self, node: Node, listeners: Sequence[trio.SocketListener]) -> None:
        """`listeners`: bound to the node's `http`, taken over. Call within trio."""
        self._node = node
        self._listeners = listeners
        self._token = trio.lowlevel.current_trio_token()
        self._ended = trio.Event()
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._stop: tuple[trio.lowlevel.TrioToken, trio.CancelScope] | None = None
        self._stopped = False

    async def run(self) -> None:
        """Serve until `stop` was called, or until cancelled. Raises what made the front end by itself."""
        threading.Thread(target=self._thread, name="http", daemon=True).start()
        try:
            await self._ended.wait()
        finally:
            self.stop()
            with trio.CancelScope(shield=True), trio.move_on_after(STOP_S):
                await self._ended.wait()
        if self._error is not None:
            raise self._error

    @property
    def ended(self) -> bool:
        """Whether the thread uses its sockets no more."""
        return self._ended.is_set()

    def stop(self) -> None:
        """Take no more requests, and end when those in progress are answered. Does not wait."""
        with self._lock:
            self._stopped = True
            if self._stop is not None:
                token, scope = self._stop
                with contextlib.suppress(trio.RunFinishedError):
                    token.run_sync_soon(scope.cancel)

    def _thread(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:
            while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
                error = error.exceptions[0]
            self._error = error
        finally:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._ended.set)

    async def _serve(self) -> None:
        from node.io.http import serve_http
        from node.io.metrics import Metrics

        with trio.CancelScope() as scope:
            with self._lock:
                self._stop = (trio.lowlevel.current_trio_token(), scope)
                if self._stopped:
                    return
            config = self._node.config
            assert config.http is not None
            metrics = Metrics(config.node, config.cluster)
            self._node.metrics = metrics
            front = Front(self._node, self._token)
            async with trio.open_nursery() as nursery:
                serve = functools.partial(serve_http, metrics=metrics, listeners=self._listeners)
                await nursery.start(serve, front, config.http, config.http_tls)
                self._token.run_sync_soon(self._node.settled)
                nursery.start_soon(front.keep_client)
