"""A node that is not there, and a client without a network, for tests of the HTTP front."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgpack
import trio

from node.finality import NoProof
from node.io.client_types import Result
from node.protocol import Answer, Consistency, QueryRefused
from node.ranking import queries
from node.ranking.commands import Status, encode_result


@dataclass
class Reply:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def request(
    app: Any, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> Reply:
    """One request to an ASGI application; `body` is bytes, a list of parts (None: one that never arrives), or something
    to write as JSON."""
    parts = body if isinstance(body, list) else [body if isinstance(body, bytes) else _written(body)]
    lines = {"host": "test", **(headers or {})}
    if any(parts) and "content-length" not in lines and "transfer-encoding" not in lines:
        lines["content-length"] = str(sum(map(len, parts)))
    path, _, asked = path.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": asked.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in lines.items()],
    }
    queue = [
        {"type": "http.request", "body": part, "more_body": place < len(parts) - 1}
        for place, part in enumerate(parts)
        if part is not None
    ]
    answer = Reply(0, {}, b"")

    async def receive() -> dict[str, Any]:
        if not queue:
            await trio.sleep_forever()
        return queue.pop(0)

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answer.status = message["status"]
            answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            answer.body += message.get("body", b"")

    await app(scope, receive, send)
    return answer


def _written(body: Any) -> bytes:
    return b"" if body is None else json.dumps(body).encode()


def _packed(value: Any) -> bytes:
    data: bytes = msgpack.packb(value)
    return data


class FakeNode:
    """Meets `Backend`. What it answers is set by the test; what it was asked is kept."""

    def __init__(self) -> None:
        self.node, self.cluster, self.domain, self.machine = "n1", "c0ffee01", "east", "ranking"
        self.protocol = "raft"
        self.proofs: dict[int, dict[str, Any]] = {}
        self.asked: list[tuple[queries.Rank | None, Consistency, int, int]] = []
        self.submitted: list[tuple[bytes, float]] = []
        self.refusal: QueryRefused | None = None
        self.failure: Exception | None = None
        self.result = encode_result(Status.OK, 1, 1, 0, 1)
        self.index = 7
        self.age: int | None = 12_345
        self.tier = "fresh"
        self.source = "model"
        self.known = [30, 20, 10]
        self.hold: trio.Event | None = None
        self.before: Callable[[], Awaitable[None]] | None = None
        self.state: dict[str, Any] = {
            "node": "n1",
            "role": "leader",
            "term": 3,
            "leader": "n1",
            "commit_index": 8,
            "applied_index": 7,
            "age_us": 12_345,
            "tier": "fresh",
            "quarantined": None,
        }

    async def query(
        self, query: bytes, consistency: Consistency, max_age_us: int, patience_us: int
    ) -> Answer | QueryRefused:
        wanted = queries.decode_query(query)
        self.asked.append((wanted, consistency, max_age_us, patience_us))
        if self.hold is not None:
            await self.hold.wait()
        if self.refusal is not None and wanted is not None:
            return self.refusal
        self.index += 1
        return Answer(
            1, self.index, bytes([self.index % 256]) * 32, self.age, self.tier, self._answer(wanted)
        )

    def _answer(self, wanted: queries.Rank | None) -> bytes:
        if wanted is None:
            table = {"users": 1, "items": 3, "recorded": 5, "learned": 5, "frozen": False}
            return _packed({**table, "serving": "v1", "versions": ["v1"]})
        items = [item for item in self.known if wanted.candidates is None or item in wanted.candidates][
            : wanted.k
        ]
        version = "v1" if wanted.version == "serving" else wanted.version
        scores = [(item - wanted.user) << 32 for item in items]
        return _packed((self.source, version, items, scores))

    async def submit(self, command: bytes, deadline_s: float) -> Result:
        self.submitted.append((command, deadline_s))
        if self.hold is not None:
            await self.hold.wait()
        if self.failure is not None:
            raise self.failure
        return Result(41, 2, b"\xab" * 32, self.result, 1)

    async def status(self) -> dict[str, Any]:
        if self.hold is not None:
            await self.hold.wait()
        return dict(self.state)

    async def proof(self, index: int) -> dict[str, Any]:
        if index not in self.proofs:
            raise NoProof(f"entry {index} is not committed here yet")
        return self.proofs[index]

    def render_metrics(self) -> bytes:
        return b"a_metric 1\n"


def ask_for(*users: int, candidates: list[int] | None = None, **parameters: Any) -> dict[str, Any]:
    """The body of an inference request."""
    inputs = [{"name": "user", "shape": [len(users)], "datatype": "INT64", "data": list(users)}]
    if candidates is not None:
        inputs.append(
            {"name": "candidates", "shape": [len(candidates)], "datatype": "INT64", "data": candidates}
        )
    return {"inputs": inputs, "parameters": parameters}
