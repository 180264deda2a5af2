"""One HTTP request inside the front: its bounds, its body, its errors, its reply."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import structlog
import trio
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from node.io.client_types import (
    BadCommand,
    ClientError,
    NotDone,
    OutcomeUnknown,
    Overloaded,
    Result,
    SessionLost,
)
from node.io.metrics import Metrics
from node.protocol import Answer, Code, Consistency, QueryRefused

log = structlog.get_logger()

RETRY_AFTER: Final = {"retry-after": "1"}


class Backend(Protocol):
    """What the front needs of a node. All coroutines run in the front's own trio loop."""

    node: str
    cluster: str
    domain: str
    machine: str
    """`ranking` or `kv`."""
    protocol: str
    """`raft` or `bft`."""

    async def query(
        self, query: bytes, consistency: Consistency, max_age_us: int, patience_us: int
    ) -> Answer | QueryRefused:
        """Ask this node's replica; it answers or refuses within `patience_us`."""

    async def submit(self, command: bytes, deadline_s: float) -> Result:
        """Have a command applied once by whoever leads. Raises NotDone, BadCommand, Overloaded, OutcomeUnknown, SessionLost."""

    async def status(self) -> dict[str, Any]:
        """The replica's status (`Replica.status`), at once. A key `stopping` that is true says that the node is leaving."""

    async def proof(self, index: int) -> dict[str, Any]:
        """A finality proof of a log entry (`node.finality.to_json`), at once. Raises NoProof."""

    def render_metrics(self) -> bytes:
        """Prometheus text."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the front. What is beyond them is refused quickly instead of waiting in memory."""

    body_bytes: int = 1 << 20
    body_s: float = 5.0
    """Longest time for a body to arrive."""
    reads: int = 64
    """Requests that are worked on at once and wait for nothing but this node."""
    waits: int = 64
    """Requests at once that may have to wait for other nodes: writes, `bounded` and `linearizable` reads. Their own
    bound, so that a cluster without a quorum does not fill the front with requests that can only wait."""
    connections: int = 256
    answer_s: float = 1.0
    """Longest wait for an answer that the replica gives at once."""
    send_s: float = 10.0
    """Longest time for a client to take an answer."""
    drain_s: float = 1.0
    """When the front stops: longest time for requests in progress to finish."""


class HttpError(Exception):
    """A request that is answered with an error: {"error": text, "code": code} and whatever `extra` holds."""

    def __init__(
        self,
        status: int,
        text: str,
        code: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.code = code
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})

    def reply(self) -> Response:
        """As a response."""
        return reply({"error": self.text, "code": self.code, **self.extra}, self.status, self.headers)


def bad(text: str) -> HttpError:
    """400: the request makes no sense; `text` says what, where and what would."""
    return HttpError(400, text, "bad_request")


def unavailable(text: str, code: str) -> HttpError:
    """503: not now; worth another try after a while, here or elsewhere."""
    return HttpError(503, text, code, headers=RETRY_AFTER)


def reply(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response. Raises ValueError for NaN: no number of ours may be one."""
    text = json.dumps(body, allow_nan=False, separators=(",", ":"))
    return Response(text.encode() + b"\n", status, headers, "application/json")


def mark_unverified(response: Response) -> None:
    """Say, in a header and in a JSON object itself, that this is the word of one node, of a cluster in which nodes may lie:
    whoever needs to be sure asks more of them, or wants a proof. Done here, where every answer passes, so that none can be
    without it."""
    response.headers["x-unverified"] = "true"
    body = response.body
    if response.media_type != "application/json" or body[:1] != b"{":
        return
    response.body = b'{"unverified":true' + (b"}\n" if body[1:2] == b"}" else b"," + bytes(body[1:]))
    response.headers["content-length"] = str(len(response.body))


class Slots:
    """A bounded number of requests of one sort at once."""

    def __init__(self, limit: int, what: str) -> None:
        self.limit = limit
        self.what = what
        self.taken = 0

    def take(self) -> None:
        """Raises HttpError 503 when all are taken."""
        if self.taken >= self.limit:
            raise unavailable(
                f"{self.limit} {self.what} are in progress here; try again later, or another node", "busy"
            )
        self.taken += 1

    def give_back(self) -> None:
        """The request is over."""
        self.taken -= 1


@dataclass
class Front:
    """What all requests share."""

    backend: Backend
    limits: Limits
    metrics: Metrics | None
    reads: Slots = field(init=False)
    waits: Slots = field(init=False)
    in_progress: int = 0
    closing: Callable[[], bool] = lambda: False
    """Whether connections should end after their response: the front stops, or too many are open."""

    def __post_init__(self) -> None:
        self.reads = Slots(self.limits.reads, "requests")
        self.waits = Slots(self.limits.waits, "requests that wait for other nodes")

    def count(self, path: str, status: int, seconds: float) -> None:
        """A request was answered."""
        if self.metrics is not None:
            self.metrics.http_request(path, status, seconds)

    def progress(self, step: int) -> None:
        """A request begins (1) or ends (-1)."""
        self.in_progress += step
        if self.metrics is not None:
            self.metrics.http_in_progress(self.in_progress)


class Call:
    """One request on its way through a handler."""

    def __init__(self, front: Front, scope: Scope, receive: Receive, slots: Slots | None) -> None:
        self.front = front
        self.backend = front.backend
        self.path: dict[str, str] = scope.get("path_params", {})
        self.asked = QueryParams(scope.get("query_string", b""))
        self.body_complete = False
        self._headers = Headers(scope=scope)
        self._receive = receive
        self._slots = slots
        if slots is not None:
            slots.take()

    def may_wait(self) -> None:
        """From here on this request may have to wait for other nodes. Raises HttpError 503 if too many do."""
        if self._slots is self.front.waits:
            return
        self.front.waits.take()
        self.over()
        self._slots = self.front.waits

    def over(self) -> None:
        """Give the slot back."""
        if self._slots is not None:
            self._slots.give_back()
            self._slots = None

    async def body(self) -> bytes:
        """The whole body. Raises HttpError 413, 408, or 400 if the client leaves in the middle."""
        limit = self.front.limits.body_bytes
        length = self._headers.get("content-length", "0")
        too_long = HttpError(413, f"the body is longer than {limit} bytes; send less at a time", "too_large")
        if not length.isdecimal() or len(length) > 12 or int(length) > limit:
            raise too_long
        chunks: list[bytes] = []
        size = 0
        with trio.move_on_after(self.front.limits.body_s):
            while True:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    self.body_complete = True
                    raise bad("the client left before its request was whole")
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                if size > limit:
                    raise too_long
                if not message.get("more_body", False):
                    self.body_complete = True
                    return b"".join(chunks)
        seconds = self.front.limits.body_s
        raise HttpError(408, f"the body did not arrive within {seconds:g} s", "too_slow")

    async def table(self, *, empty_is: dict[str, Any] | None = None) -> dict[str, Any]:
        """The body as a JSON object. Raises HttpError."""
        data = await self.body()
        if not data and empty_is is not None:
            return empty_is
        try:
            value = json.loads(data, object_pairs_hook=_without_doubles)
        except RecursionError:
            raise bad("the body is nested too deeply") from None
        except ValueError as error:
            raise bad(f"the body is not JSON: {error}") from None
        if type(value) is not dict:
            raise bad(f"the body must be a JSON object, not {show(value)}")
        return value

    async def discard(self) -> None:
        """Take in the rest of a body that nobody wants, within bounds: a client that is still sending when its connection
        closes would lose the reply to a reset."""
        room = 8 * self.front.limits.body_bytes
        with trio.move_on_after(1.0):
            while not self.body_complete and room > 0:
                message = await self._receive()
                room -= len(message.get("body", b""))
                self.body_complete = not message.get("more_body", False)


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {double!r:.60} stands twice in one object; which one counts?")
    return table


Handler = Callable[[Call], Awaitable[Response]]


class Endpoint:
    """An ASGI application around a handler: slots, errors as JSON, metrics; never a traceback to a client."""

    def __init__(self, front: Front, template: str, handler: Handler, slots: Slots | None = None) -> None:
        self._front = front
        self._template = template
        self._handler = handler
        self._slots = slots

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        front = self._front
        began = trio.current_time()
        call: Call | None = None
        front.progress(1)
        try:
            try:
                call = Call(front, scope, receive, self._slots)
                response = await self._handler(call)
            except HttpError as error:
                response = error.reply()
            except Exception:
                log.exception("http_handler_failed", path=self._template)
                text = "an error inside this node; its log says more"
                response = HttpError(500, text, "internal").reply()
            finally:
                if call is not None:
                    call.over()
            if call is None:
                call = Call(front, scope, receive, None)
            if front.backend.protocol == "bft":
                mark_unverified(response)
            await self._send(response, call, scope, receive, send)
        finally:
            front.progress(-1)
        front.count(self._template, response.status_code, trio.current_time() - began)

    async def _send(self, response: Response, call: Call, scope: Scope, receive: Receive, send: Send) -> None:
        if not call.body_complete and _has_body(scope):
            await call.discard()
        if self._front.closing():
            response.headers["connection"] = "close"
        if call.body_complete or not _has_body(scope):
            await response(scope, receive, send)
            return
        # The server's queue of body parts must be emptied while it sends, or both wait for each other.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_swallow, receive)
            response.headers["connection"] = "close"
            await response(scope, receive, send)
            nursery.cancel_scope.cancel()


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


async def _swallow(receive: Receive) -> None:
    message: Message = {"type": ""}
    while message["type"] != "http.disconnect":
        message = await receive()


# ------------------------------------------------------------------------------------------------ asking the node


def code_name(code: int) -> str:
    """A `Code` as clients read it: `no_quorum`, `too_old`, ..."""
    try:
        return Code(code).name.lower()
    except ValueError:
        return f"code_{code}"


async def ask(
    call: Call, query: bytes, consistency: Consistency, max_age_us: int, patience_us: int
) -> Answer:
    """A query to this node's replica. Raises HttpError."""
    name = consistency.name.lower()
    began = trio.current_time()
    outcome = "no_answer"
    try:
        with trio.move_on_after(patience_us / 1e6 + call.front.limits.answer_s):
            answer = await call.backend.query(query, consistency, max_age_us, patience_us)
            if isinstance(answer, Answer):
                outcome = "ok"
                return answer
            outcome = code_name(answer.code)
            extra = {"leader": answer.leader} if answer.leader else None
            if answer.code == Code.BAD_QUERY:
                raise HttpError(400, answer.reason, outcome)
            raise HttpError(503, answer.reason, outcome, headers=RETRY_AFTER, extra=extra)
    finally:
        if call.front.metrics is not None:
            call.front.metrics.query("http", name, outcome, trio.current_time() - began)
    raise unavailable("the replica of this node does not answer", "no_answer")


async def submit(call: Call, command: bytes, deadline_ms: int) -> Result:
    """A command to whoever leads. Raises HttpError."""
    call.may_wait()
    unknown = (
        "it may have been applied, may not, or may be applied later. Read the state before you send it again: sent again it"
        " is a new command"
    )
    try:
        with trio.move_on_after(deadline_ms / 1e3 + call.front.limits.answer_s):
            return await call.backend.submit(command, deadline_ms / 1e3)
    except BadCommand as error:
        raise HttpError(400, str(error), "bad_command") from None
    except Overloaded as error:
        raise unavailable(f"not applied: {error}", "busy") from None
    except NotDone as error:
        raise unavailable(f"not applied, and it will not be: {error}", "not_done") from None
    except SessionLost as error:
        raise HttpError(504, f"the outcome is unknown: {error}; {unknown}", "session_lost") from None
    except OutcomeUnknown as error:
        raise HttpError(504, f"the outcome is unknown: {error}; {unknown}", "outcome_unknown") from None
    except ClientError as error:
        raise unavailable(f"not applied: {error}", "not_done") from None
    raise HttpError(504, f"the outcome is unknown: no answer in time; {unknown}", "outcome_unknown")


async def status_of(call: Call) -> dict[str, Any]:
    """The replica's status. Raises HttpError 503 if its loop does not answer."""
    with trio.move_on_after(call.front.limits.answer_s):
        return await call.backend.status()
    raise unavailable("the replica of this node does not answer", "no_answer")


# --------------------------------------------------------------------------------------------------- reading JSON


def show(value: Any) -> str:
    """A value for an error's text, cut short."""
    text = repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def only_keys(table: Mapping[str, Any], known: tuple[str, ...], where: str = "") -> None:
    """Raises HttpError 400 naming a key that nobody reads."""
    for key in table:
        if key not in known:
            raise bad(f"unknown key {show(f'{where}{key}')}; known here: {', '.join(known)}")


def whole(value: Any, where: str, low: int, high: int) -> int:
    """An integer from `low` to `high`. Raises HttpError 400."""
    if type(value) is not int or not low <= value <= high:
        raise bad(f"{where} must be an integer from {low} to {high}, not {show(value)}")
    return value


def truth(value: Any, where: str) -> bool:
    """true or false. Raises HttpError 400."""
    if type(value) is not bool:
        raise bad(f"{where} must be true or false, not {show(value)}")
    return value


def text_of(value: Any, where: str) -> str:
    """A text that is not empty. Raises HttpError 400."""
    if type(value) is not str or not value:
        raise bad(f"{where} must be a text, not {show(value)}")
    return value


def deadline_of(table: Mapping[str, Any]) -> int:
    """`deadline_ms` of a write."""
    return whole(table.get("deadline_ms", 2000), "deadline_ms", 1, 10_000)
