"""This project's own histories (`sim.check.history`) of the key-value machine, as operations for the general checker."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgpack

from node.kv import machine as kv
from sim.check.formats.events import FormatError, Loaded
from sim.check.general.operations import APPEND, CAS, READ, WRITE, Op
from sim.check.history import Operation, decode_operation

_KINDS: Final = {kv.PUT: WRITE, kv.APPEND: APPEND, kv.CAS: CAS}


def convert(operations: Iterable[Operation]) -> list[Op]:
    """Operations of the key-value machine for `check_kv`. Left out, because they say nothing about a linearizable order:
    openings, refused writes, queries that asked for less than `linearizable` or had no answer from the model, commands that
    the machine refused. A failed compare-and-set is a read of what it found. Raises ValueError for bytes that are no
    command of that machine."""
    made: list[Op] = []
    for number, operation in enumerate(operations, 1):
        op = (
            _write(operation)
            if operation.op == "write"
            else _query(operation)
            if operation.op == "query"
            else None
        )
        if op is not None:
            op.line = number
            made.append(op)
    return made


def _unpacked(data: bytes | None, what: str) -> Any:
    try:
        value = msgpack.unpackb(data or b"", raw=False)
    except Exception:
        value = None
    if type(value) is not list or not value:
        raise ValueError(
            f"{what} is none of the key-value machine's: {(data or b'')[:20].hex()}; was it another machine?"
        )
    return value


def _write(operation: Operation) -> Op | None:
    if operation.outcome == "refused":
        return None
    command = _unpacked(operation.command, "the command")
    kind = _KINDS.get(command[0]) if type(command[0]) is int else None
    if kind is None or len(command) != (4 if kind == CAS else 3):
        raise ValueError(f"no command of the key-value machine: kind {command[0]!r:.60}")
    result = _unpacked(operation.result, "the result") if operation.outcome == "ok" else [None]
    told = result[0]
    if told == kv.BAD or (told == kv.FULL and kind == APPEND):
        return None
    key, value = command[1], command[-1]
    if type(key) is not bytes or type(value) is not bytes or (kind == CAS and not _is_value(command[2])):
        raise ValueError(
            f"no command of the key-value machine: its key and values must be bytes, got {command[1:]!r:.60}"
        )
    op = Op(kind, key, operation.client, operation.invoke, None, value)
    if kind == CAS:
        op.expected = command[2]
    if operation.outcome != "ok":
        return op
    op.returned = operation.returned
    if told == kv.OK and len(result) == (2 if kind == APPEND else 1) and type(result[-1]) is int:
        op.length = result[1] if kind == APPEND else None
        return op
    found = result[-1]
    if told == kv.MISMATCH and kind == CAS and len(result) == 2 and found != op.expected and _is_value(found):
        return Op(READ, op.key, op.process, op.invoke, op.returned, found)
    return Op(READ, op.key, op.process, op.invoke, op.returned, _impossible(operation))


def _is_value(value: Any) -> bool:
    return value is None or type(value) is bytes


def _impossible(operation: Operation) -> bytes:
    """An answer that the machine never gives is kept, as a read of what nobody wrote: no order explains it."""
    return b"impossible answer " + (operation.result or b"").hex().encode()


def _query(operation: Operation) -> Op | None:
    if operation.outcome != "ok" or operation.source != "model" or operation.consistency != "linearizable":
        return None
    query = _unpacked(operation.query, "the query")
    if query[0] != kv.GET or len(query) != 2:
        raise ValueError(f"no query of the key-value machine: kind {query[0]!r:.60}")
    if type(query[1]) is not bytes:
        raise ValueError(f"no query of the key-value machine: the key must be bytes, not {query[1]!r:.60}")
    value = _unpacked(operation.result, "the answer")[0]
    if not _is_value(value):
        value = _impossible(operation)
    return Op(READ, query[1], operation.client, operation.invoke, operation.returned, value)


def from_rows(rows: Sequence[tuple[int, dict[str, Any]]], model: str, source: str) -> Loaded:
    """A `history.jsonl`, decoded from JSON. Raises FormatError."""
    if model != "kv":
        raise FormatError(f"{source}: is a history of this project's key-value machine; give --model kv")
    loaded = Loaded(source, "jsonl", model)
    for line, row in rows:
        try:
            operation = decode_operation(row)
            made = convert([operation])
        except ValueError as error:
            raise FormatError(f"{source}:{line}: {error}") from None
        for op in made:
            op.line = line
            loaded.ops.append(op)
            loaded.unanswered += op.returned is None
        loaded.failed += operation.op == "write" and operation.outcome == "refused"
    if not loaded.ops:
        raise FormatError(f"{source}: holds no write and no linearizable query of the key-value machine")
    loaded.ops.sort(key=lambda op: op.invoke)
    return loaded
