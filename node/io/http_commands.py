"""Writes to the ranking model: observations, versions, items. Each POST is one command, submitted once."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import Response

from node.io.http_calls import (
    Call,
    Handler,
    HttpError,
    bad,
    deadline_of,
    only_keys,
    reply,
    show,
    submit,
    text_of,
    whole,
)
from node.io.http_infer import require_model
from node.ranking import commands
from node.ranking.commands import MAX_BIAS, MAX_ROWS, MAX_TITLE, MAX_VALUE, Status
from node.ranking.settings import LARGEST_ID

_HTTP_STATUS: Final = {
    Status.MALFORMED: 400,
    Status.CONFLICT: 409,
    Status.UNKNOWN: 404,
    Status.EXISTS: 409,
    Status.FULL: 507,
}
# What the fields of a result mean, by command (`commands.Result`).
_OBSERVED: Final = ("recorded", "learned", "frozen", "total")
_PUBLISHED: Final = ("serving", "dropped")
_SERVING: Final = ("serving",)
_CHANGED: Final = ("changed",)
_NEW: Final = ("new_items",)


def _rows(table: dict[str, Any], key: str, what: str) -> list[dict[str, Any]]:
    rows = table.get(key)
    if type(rows) is not list or not 1 <= len(rows) <= MAX_ROWS:
        held = f"{len(rows)} of them" if type(rows) is list else show(rows)
        raise bad(f"{key} must be a list of 1 to {MAX_ROWS} {what}, not {held}")
    for place, row in enumerate(rows):
        if type(row) is not dict:
            raise bad(f"{key}[{place}] must be an object, not {show(row)}")
    return rows


async def _observe(call: Call) -> Response:
    table = await call.table()
    only_keys(table, ("interactions", "deadline_ms"))
    deadline_ms = deadline_of(table)
    users, items, values = [], [], []
    for place, row in enumerate(_rows(table, "interactions", "interactions")):
        where = f"interactions[{place}]."
        only_keys(row, ("user", "item", "value"), where)
        users.append(whole(row.get("user"), f"{where}user", 0, LARGEST_ID))
        items.append(whole(row.get("item"), f"{where}item", 0, LARGEST_ID))
        values.append(whole(row.get("value", 1), f"{where}value", 1, MAX_VALUE))
    return await _carry_out(call, commands.observe_columns(users, items, values), deadline_ms, _OBSERVED)


async def _upsert(call: Call) -> Response:
    table = await call.table()
    only_keys(table, ("items", "deadline_ms"))
    deadline_ms = deadline_of(table)
    items: list[tuple[int, int | None, str | None]] = []
    for place, row in enumerate(_rows(table, "items", "items")):
        where = f"items[{place}]."
        only_keys(row, ("item", "bias", "title"), where)
        bias, title = row.get("bias"), row.get("title")
        if bias is not None:
            whole(bias, f"{where}bias (Q16)", -MAX_BIAS, MAX_BIAS)
        if title is not None:
            _check_title(title, f"{where}title")
        items.append((whole(row.get("item"), f"{where}item", 0, LARGEST_ID), bias, title))
    return await _carry_out(call, commands.upsert_items(items), deadline_ms, _NEW)


def _check_title(title: Any, where: str) -> None:
    # Half a surrogate pair is a string to JSON, but no text: it has no UTF-8.
    fits = type(title) is str and len(title.encode("utf-8", "surrogatepass")) <= MAX_TITLE
    if not fits or "\0" in title or any("\ud800" <= letter <= "\udfff" for letter in title):
        raise bad(f"{where} must be a text of at most {MAX_TITLE} bytes without NUL")


async def _publish(call: Call) -> Response:
    version, expected, deadline_ms = await _pointer(call)
    return await _carry_out(call, commands.publish(version, expected), deadline_ms, _PUBLISHED)


async def _rollback(call: Call) -> Response:
    version, expected, deadline_ms = await _pointer(call)
    return await _carry_out(call, commands.rollback(version, expected), deadline_ms, _SERVING)


async def _pointer(call: Call) -> tuple[str, str | None, int]:
    table = await call.table()
    only_keys(table, ("version", "expected", "deadline_ms"))
    expected = table.get("expected")
    version = _version(table.get("version"), "version")
    return version, None if expected is None else _version(expected, "expected"), deadline_of(table)


def _version(value: Any, what: str) -> str:
    name = text_of(value, what)
    if not name.isascii() or not name.isprintable() or len(name) > 64:
        raise bad(f"{what} must be 1 to 64 printable ASCII characters, not {show(name)}")
    return name


async def _freeze(call: Call) -> Response:
    return await _switch(call, commands.freeze())


async def _unfreeze(call: Call) -> Response:
    return await _switch(call, commands.unfreeze())


async def _switch(call: Call, command: bytes) -> Response:
    table = await call.table(empty_is={})
    only_keys(table, ("deadline_ms",))
    return await _carry_out(call, command, deadline_of(table), _CHANGED)


async def _carry_out(call: Call, command: bytes, deadline_ms: int, names: tuple[str, ...]) -> Response:
    done = await submit(call, command, deadline_ms)
    result = commands.decode_result(done.result)
    stands = {
        "index": done.index,
        "place": done.place,
        "chain": done.chain.hex(),
        "attempts": done.attempts,
        "node": call.backend.node,
    }
    if not result.ok:
        status = _HTTP_STATUS[result.status]
        raise HttpError(status, result.text, result.status.name.lower(), extra=stands)
    # Not strict: a result with more fields than are named here is still a command that was applied.
    values = dict(zip(names, result.fields, strict=False))
    for flag in ("frozen", "changed"):
        if flag in values:
            values[flag] = bool(values[flag])
    return reply({**stands, "result": values})


def _of_model(handler: Handler) -> Handler:
    async def checked(call: Call) -> Response:
        require_model(call)
        return await handler(call)

    return checked


COMMANDS: Final[dict[str, Handler]] = {
    "/v2/models/{name}/observe": _of_model(_observe),
    "/v2/models/{name}/items": _of_model(_upsert),
    "/v2/models/{name}/publish": _of_model(_publish),
    "/v2/models/{name}/rollback": _of_model(_rollback),
    "/v2/models/{name}/freeze": _of_model(_freeze),
    "/v2/models/{name}/unfreeze": _of_model(_unfreeze),
}
