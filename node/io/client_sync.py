"""The client for scripts and notebooks: blocking calls from any thread, trio in a background thread."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import trio

from node.io.client import Client, open_client
from node.io.client_types import ClientError, EventHook, QueryResult, Result, Settings, Signing
from node.io.config import Member, TlsFiles
from node.protocol import Consistency

T = TypeVar("T")


class SyncClient:
    """`node.io.client.Client`, blocking. Use it with `with`, or call `close`.

    Methods may be called from several threads. Ctrl-C ends a call with KeyboardInterrupt and leaves the client usable; a
    command already sent may still be applied. `events` is called in the background thread."""

    def __init__(
        self,
        members: Sequence[Member],
        tls: ssl.SSLContext | TlsFiles,
        *,
        cluster: str,
        name: str = "client",
        settings: Settings | None = None,
        seed: int | None = None,
        events: EventHook | None = None,
        signing: Signing | None = None,
    ) -> None:
        self._token: trio.lowlevel.TrioToken | None = None
        self._client: Client | None = None
        self._stop: trio.Event | None = None
        self._failure: BaseException | None = None
        ready = threading.Event()

        async def main() -> None:
            async with open_client(
                members, tls, cluster=cluster, name=name, settings=settings, seed=seed, events=events,
                signing=signing,
            ) as client:  # fmt: skip
                self._client, self._stop = client, trio.Event()
                self._token = trio.lowlevel.current_trio_token()
                ready.set()
                await self._stop.wait()

        def run() -> None:
            try:
                trio.run(main)
            except BaseException as error:
                self._failure = error
            finally:
                self._token = None
                ready.set()

        self._thread = threading.Thread(target=run, name=f"ridethrough-client-{name}", daemon=True)
        self._thread.start()
        ready.wait()
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the background thread. May be called twice."""
        token, stop = self._token, self._stop
        if token is not None and stop is not None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(stop.set)
        self._thread.join()

    def submit(self, command: bytes, *, deadline_s: float = 30.0) -> Result:
        """See `Client.submit`."""
        return self._call(lambda client: client.submit(command, deadline_s=deadline_s))

    def submit_many(self, commands: Sequence[bytes], *, deadline_s: float = 30.0) -> list[Result]:
        """See `Client.submit_many`."""
        return self._call(lambda client: client.submit_many(commands, deadline_s=deadline_s))

    def query(
        self,
        query: bytes,
        consistency: Consistency = Consistency.ANY,
        *,
        max_age_ms: int = 0,
        patience_ms: int = 500,
        hedge_ms: int | None = 50,
        prefer: str | None = None,
        fallback: Consistency | None = None,
        fallback_after_ms: int = 200,
    ) -> QueryResult:
        """See `Client.query`."""
        return self._call(
            lambda client: client.query(
                query, consistency, max_age_ms=max_age_ms, patience_ms=patience_ms, hedge_ms=hedge_ms,
                prefer=prefer, fallback=fallback, fallback_after_ms=fallback_after_ms,
            )
        )  # fmt: skip

    def status(self, node: str, *, timeout_s: float = 1.0) -> dict[str, Any]:
        """See `Client.status`."""
        return self._call(lambda client: client.status(node, timeout_s=timeout_s))

    def wait_connected(
        self, count: int | None = None, *, leader: bool = False, timeout_s: float = 10.0
    ) -> None:
        """See `Client.wait_connected`."""
        self._call(lambda client: client.wait_connected(count, leader=leader, timeout_s=timeout_s))

    @property
    def leader(self) -> str | None:
        """See `Client.leader`."""
        return None if self._client is None else self._client.leader

    @property
    def connected(self) -> tuple[str, ...]:
        """See `Client.connected`."""
        return () if self._client is None else self._client.connected

    def _call(self, ask: Callable[[Client], Awaitable[T]]) -> T:
        token, client = self._token, self._client
        if token is None or client is None:
            raise ClientError("this client is closed") from self._failure
        try:
            return trio.from_thread.run(ask, client, trio_token=token)
        except (trio.RunFinishedError, trio.Cancelled):
            raise ClientError("this client was closed during the call") from None
