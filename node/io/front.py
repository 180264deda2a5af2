"""The bridge between the HTTP thread and the replica's thread."""

from __future__ import annotations

import contextlib
import itertools
import threading
from typing import TYPE_CHECKING, Any

import trio

from node.io.client import Client, open_client
from node.io.client_types import NotDone, Result
from node.io.config import NodeConfig
from node.io.http import serve_http
from node.protocol import Answer, Consistency, Query, QueryRefused, Status, StatusRequest

if TYPE_CHECKING:
    from node.io.server import Node


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

    def _ask_replica(self, message: Any) -> None:
        from node.io.server import now_us

        self._owner.post(lambda: self._owner.replica.receive_client(self, message, now_us()))

    # -- in the HTTP thread

    def _settle(self, request: int, message: Any) -> None:
        asked = self._asked.get(request)
        if asked is not None:
            asked.answer = message
            asked.event.set()

    async def _ask(self, message: Any) -> Any:
        asked = self._asked[message.request] = _Asked()
        try:
            self._replica.run_sync_soon(self._ask_replica, message)
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
        return answer.status

    async def submit(self, command: bytes, deadline_s: float) -> Result:
        """Have a command applied by whoever leads, in this node's own session. Raises `client_types` errors."""
        self._wanted.set()
        with trio.move_on_after(deadline_s):
            await self._ready.wait()
        if self._client is None:
            raise NotDone("this node's own client is not ready yet")
        return await self._client.submit(command, deadline_s=deadline_s)

    def render_metrics(self) -> bytes:
        """Prometheus text."""
        return self._owner.metrics.render()

    async def keep_client(self) -> None:
        """Connect to the cluster when a first write asks for it."""
        await self._wanted.wait()
        config = self._config
        async with open_client(
            config.members, config.tls, cluster=config.cluster, name=f"front-{config.node}"
        ) as client:
            self._client = client
            self._ready.set()
            await trio.sleep_forever()


async def run_front(node: Node, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Run the HTTP front in a thread of its own until cancelled. Raises what kept it from starting."""
    token = trio.lowlevel.current_trio_token()
    started = trio.Event()
    stopped = trio.Event()
    state: dict[str, Any] = {}

    async def serve() -> None:
        scope = trio.CancelScope()
        state["stop"] = (trio.lowlevel.current_trio_token(), scope)
        with scope:
            front = Front(node, token)
            async with trio.open_nursery() as nursery:
                assert node.config.http is not None
                await nursery.start(serve_http, front, node.config.http, node.config.http_tls)
                token.run_sync_soon(started.set)
                nursery.start_soon(front.keep_client)

    def run() -> None:
        try:
            trio.run(serve)
        except BaseException as error:
            state["error"] = error
        finally:
            try:
                token.run_sync_soon(stopped.set)
                token.run_sync_soon(started.set)
            except trio.RunFinishedError:
                pass

    threading.Thread(target=run, name="http", daemon=True).start()
    try:
        await started.wait()
        if "error" not in state:
            task_status.started()
            await stopped.wait()
        if "error" in state:
            raise _single(state["error"])
    finally:
        if "stop" in state and not stopped.is_set():
            there, scope = state["stop"]
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                with contextlib.suppress(trio.RunFinishedError):
                    there.run_sync_soon(scope.cancel)
                await stopped.wait()


def _single(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
