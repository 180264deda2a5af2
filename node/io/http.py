"""The HTTP front of a node: ranking and writes in the manner of the Open Inference Protocol v2, health, metrics.

It runs in a thread and a trio loop of its own, so that reading requests never delays a heartbeat. docs/reference/http-api.md
describes what it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from node.finality import NoProof
from node.io import http_commands, http_infer, http_kv
from node.io.config import BFT, Address, TlsFiles
from node.io.http_calls import (
    Backend,
    Call,
    Endpoint,
    Front,
    Handler,
    HttpError,
    Limits,
    Slots,
    bad,
    reply,
    status_of,
    unavailable,
)
from node.io.http_listen import Listening
from node.io.metrics import CONTENT_TYPE, Metrics

__all__ = ["Backend", "Limits", "make_app", "serve_http"]


async def serve_http(
    backend: Backend,
    listen: Address,
    tls: TlsFiles | None,
    *,
    metrics: Metrics | None = None,
    limits: Limits | None = None,
    listeners: Sequence[trio.SocketListener] = (),
    task_status: trio.TaskStatus[Address] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, then let requests in progress finish (`Limits.drain_s`). Started with the bound address.

    `metrics`: where requests are counted, and which the replica's status is shown in when they are asked for. Plain HTTP is
    served on loopback only; with `tls` every client must show a certificate of the authority `tls.ca`. `listeners`: bound to
    `listen` already, so that nobody is turned away before this code is even loaded; they are taken over.
    Raises ConfigError for plain HTTP elsewhere, CertificateError for unusable files, OSError if it cannot listen."""
    front = Front(backend, limits or Limits(), metrics)
    listening = Listening(front, _app(front), listen, tls, listeners)
    await listening.run(task_status)


def make_app(backend: Backend, *, metrics: Metrics | None = None, limits: Limits | None = None) -> ASGIApp:
    """The ASGI application alone."""
    return _app(Front(backend, limits or Limits(), metrics))


def _app(front: Front) -> ASGIApp:
    routes: list[BaseRoute] = []

    def add(method: str, template: str, handler: Handler, slots: Slots | None = None) -> None:
        routes.append(Route(template, Endpoint(front, template, handler, slots), methods=[method]))

    # Health, metrics and status take no slot: a node that is busy is not dead.
    add("GET", "/livez", _live)
    add("GET", "/readyz/serve", _ready_to_serve)
    add("GET", "/readyz/write", _ready_to_write)
    add("GET", "/metrics", _metrics)
    add("GET", "/status", _status)
    if front.backend.protocol == BFT:
        add("GET", "/v1/proof", _proof, front.reads)
    add("GET", "/v2", http_infer.server_metadata)
    add("GET", "/v2/health/live", _live)
    add("GET", "/v2/health/ready", _ready_to_serve)
    if front.backend.machine == "ranking":
        for template, handler in http_infer.MODEL_PAGES.items():
            add("GET", template, handler, front.reads)
        for template, handler in http_infer.INFERENCE.items():
            add("POST", template, handler, front.reads)
        for template, handler in http_commands.COMMANDS.items():
            add("POST", template, handler, front.waits)
    else:
        add("GET", "/v1/kv/{key}", http_kv.get, front.reads)
        add("PUT", "/v1/kv/{key}", http_kv.put, front.waits)
    return _Application(front, routes)


class _Application:
    """The router, and an answer in our own form where no route answers."""

    def __init__(self, front: Front, routes: Sequence[BaseRoute]) -> None:
        self._router = Router(routes, redirect_slashes=False)
        self._front = front

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})
            return
        scope["app"] = self
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            await Endpoint(self._front, "(none)", _refusal(error, scope))(scope, receive, send)


def _refusal(error: HTTPException, scope: Scope) -> Handler:
    async def refuse(call: Call) -> Response:
        path = scope["path"]
        if error.status_code == 405:
            methods = ", ".join(sorted((error.headers or {}).get("Allow", "").split(", ")))
            text = f"{scope['method']} is not possible at {path:.200}; possible: {methods}"
            raise HttpError(405, text, "method_not_allowed", headers={"allow": methods})
        if path.startswith("/v2/models") and call.backend.machine != "ranking":
            text = f"this node runs the {call.backend.machine} machine, which has no models; see /v1/kv/KEY"
            raise HttpError(404, text, "not_found")
        text = f"there is nothing at {path:.200}; docs/reference/http-api.md lists what there is, /v2 answers first"
        raise HttpError(404, text, "not_found")

    return refuse


# ------------------------------------------------------------------------------------------------ health and status


async def _live(call: Call) -> Response:
    return reply({"live": True, "node": call.backend.node})


async def _ready_to_serve(call: Call) -> Response:
    status = await status_of(call)
    reason = reason_not_to_serve(status)
    return _readiness(call, status, reason)


async def _ready_to_write(call: Call) -> Response:
    status = await status_of(call)
    reason = reason_not_to_serve(status) or _reason_not_to_write(status)
    return _readiness(call, status, reason)


def reason_not_to_serve(status: dict[str, Any]) -> str | None:
    """Why this node does not answer queries; None if it does. Never a matter of a quorum: a readiness that was would take
    every replica out of service at the moment when stale answers are all there is."""
    if status.get("quarantined"):
        return str(status["quarantined"])
    if status.get("stopping"):
        return "the node is leaving"
    return None


def _reason_not_to_write(status: dict[str, Any]) -> str | None:
    if status.get("leader") is None:
        return "no leader is known; a majority of the members may be out of reach"
    if status.get("tier") != "fresh":
        age = status.get("age_us")
        since = "since this node started" if age is None else f"for {age // 1000} ms"
        return f"no read barrier has succeeded {since}: no quorum confirms that the leader still leads"
    return None


def _readiness(call: Call, status: dict[str, Any], reason: str | None) -> Response:
    body = {"ready": reason is None, "node": call.backend.node, "domain": call.backend.domain}
    body |= {key: status.get(key) for key in ("role", "leader", "applied_index", "tier")}
    if reason is not None:
        return reply({"error": reason, "code": "not_ready", **body}, 503, {"retry-after": "1"})
    return reply(body)


async def _status(call: Call) -> Response:
    backend = call.backend
    named = {"cluster": backend.cluster, "domain": backend.domain, "machine": backend.machine}
    return reply({**plain(await status_of(call)), **named, "protocol": backend.protocol})


async def _proof(call: Call) -> Response:
    text = call.asked.get("index", "")
    if not (text.isascii() and text.isdigit() and 0 < int(text[:20]) < 1 << 63):
        raise bad(f"index={text:.40} is no index of a log entry; ask for /v1/proof?index=N, N from 1 on")
    with trio.move_on_after(call.front.limits.answer_s):
        try:
            return reply(await call.backend.proof(int(text)))
        except NoProof as error:
            raise HttpError(404, str(error), "no_proof") from None
    raise unavailable("the replica of this node does not answer", "no_answer")


def plain(value: Any) -> Any:
    """A status as JSON has it: bytes in hexadecimal."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


async def _metrics(call: Call) -> Response:
    metrics = call.front.metrics
    if metrics is not None:
        try:
            metrics.update(await status_of(call))
        except HttpError:
            metrics.update({})  # figures of a replica that does not answer would only look current
    return Response(call.backend.render_metrics(), media_type=CONTENT_TYPE)
