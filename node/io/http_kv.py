"""Reading and writing one key of the key-value machine; keys and values are bytes, a key stands in the path."""

from __future__ import annotations

import msgpack
from starlette.responses import Response

from node.io.http_calls import Call, HttpError, ask, bad, reply, submit, whole
from node.io.http_infer import patience_of, read_consistency
from node.kv import machine as kv


def _number(call: Call, name: str, default: int, high: int) -> int:
    text = call.asked.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 9:
        raise bad(f"{name} must be an integer from 1 to {high}, not {text[:60]!r}")
    return whole(int(text), name, 1, high)


async def get(call: Call) -> Response:
    """GET /v1/kv/{key}: the value as it is; where it stands in the headers."""
    consistency, max_age_us = read_consistency(call.asked.get("consistency", "any"), "consistency")
    if consistency:
        call.may_wait()
    patience_us = patience_of(_number(call, "patience_ms", 500, 10_000))
    answer = await ask(call, kv.get(call.path["key"].encode()), consistency, max_age_us, patience_us)
    (value,) = msgpack.unpackb(answer.result)
    headers = {"x-applied-index": str(answer.index), "x-chain": answer.chain.hex(), "x-tier": answer.tier}
    if answer.age is not None:
        headers["x-age-ms"] = str(answer.age // 1000)
    if value is None:
        raise HttpError(404, "the key does not exist", "not_found", headers=headers)
    return Response(value, 200, headers, "application/octet-stream")


async def put(call: Call) -> Response:
    """PUT /v1/kv/{key}: the body becomes the value."""
    deadline_ms = _number(call, "deadline_ms", 2000, 10_000)
    result = await submit(call, kv.put(call.path["key"].encode(), await call.body()), deadline_ms)
    return reply(
        {
            "index": result.index,
            "place": result.place,
            "chain": result.chain.hex(),
            "attempts": result.attempts,
        }
    )
