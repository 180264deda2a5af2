"""The key-value machine."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final
from zlib import crc32

import msgpack

from node.machine import QueryError

PUT: Final = 1
APPEND: Final = 2
CAS: Final = 3
GET: Final = 4

OK: Final = 0
MISMATCH: Final = 1
BAD: Final = 2
"""Malformed."""
FULL: Final = 3
"""The value would grow beyond its limit; nothing was changed."""

MAX_KEY: Final = 1024
MAX_VALUE: Final = 1 << 20
BUCKETS: Final = 1024
_GROUP: Final = 32
"""Buckets under one hash of the digest's tree: a change hashes its bucket, its group and the top, not all buckets."""
_ARGUMENTS: Final = {PUT: 3, APPEND: 3, CAS: 4}
"""Length of a command of each kind, the kind itself included."""
CHUNK: Final = 1 << 20


_packer: Final = msgpack.Packer(use_bin_type=True, autoreset=True)
_unpack: Final = msgpack.unpackb


def _pack(value: Any) -> bytes:
    packed: bytes = _packer.pack(value)
    return packed


_DONE: Final = _pack([OK])


def put(key: bytes, value: bytes) -> bytes:
    """Command: set a key."""
    return _pack([PUT, key, value])


def append(key: bytes, value: bytes) -> bytes:
    """Command: put bytes behind a key's value (none counts as empty)."""
    return _pack([APPEND, key, value])


def cas(key: bytes, expected: bytes | None, value: bytes) -> bytes:
    """Command: set a key if it holds `expected` (None: if it does not exist)."""
    return _pack([CAS, key, expected, value])


def get(key: bytes) -> bytes:
    """Query: a key's value."""
    return _pack([GET, key])


def _problem(command: Any) -> str | None:
    if type(command) is not list or not command or type(command[0]) is not int:
        return "a command is an array [kind, key, ...]; see node.kv"
    kind = command[0]
    length = _ARGUMENTS.get(kind)
    if length is None:
        return f"unknown command kind {kind}; known: put {PUT}, append {APPEND}, compare-and-set {CAS}"
    if len(command) != length:
        return f"command kind {kind} has {length - 1} arguments, got {len(command) - 1}"
    if type(command[1]) is not bytes or len(command[1]) > MAX_KEY:
        return f"the key must be at most {MAX_KEY} bytes (msgpack bin)"
    if type(command[-1]) is not bytes or len(command[-1]) > MAX_VALUE:
        return f"the value must be at most {MAX_VALUE} bytes (msgpack bin)"
    if kind == CAS and command[2] is not None and type(command[2]) is not bytes:
        return "the expected value must be bytes or nil"
    return None


def _parse(data: bytes) -> Any:
    try:
        return _unpack(data, raw=False)
    except Exception:
        return None


_EMPTY_GROUP: Final = sha256(bytes(32 * _GROUP)).digest()


class KvMachine:
    """Meets `node.machine.Machine`. The digest hashes only the buckets of keys that changed."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._values: dict[bytes, bytes] = {}
        self._buckets: dict[int, dict[bytes, None]] = {}  # made when a key falls into them
        self._hashes = [bytes(32)] * BUCKETS
        self._groups = [_EMPTY_GROUP] * (BUCKETS // _GROUP)
        self._dirty: dict[int, None] = {}
        self._top = b""
        """The digest, while nothing is dirty; empty: none has been made."""

    def check(self, command: bytes) -> str | None:
        return _problem(_parse(command))

    def apply(self, commands: Sequence[bytes]) -> list[bytes]:
        return [self._apply_one(command) for command in commands]

    def _apply_one(self, data: bytes) -> bytes:
        command = _parse(data)
        problem = _problem(command)
        if problem is not None:
            return _pack([BAD, problem])
        kind, key = command[0], command[1]
        if kind == PUT:
            self._set(key, command[2])
            return _DONE
        old = self._values.get(key)
        if kind == APPEND:
            value = command[2] if old is None else old + command[2]
            if len(value) > MAX_VALUE:
                return _pack([FULL, f"the value would be longer than {MAX_VALUE} bytes"])
            self._set(key, value)
            return _pack([OK, len(value)])
        if old != command[2]:
            return _pack([MISMATCH, old])
        self._set(key, command[3])
        return _DONE

    def _set(self, key: bytes, value: bytes) -> None:
        # The bucket is a function of the key alone; Python's own hash differs between processes.
        bucket = crc32(key) % BUCKETS
        if key not in self._values:
            self._buckets.setdefault(bucket, {})[key] = None
        self._values[key] = value
        self._dirty[bucket] = None

    def query(self, query: bytes) -> bytes:
        parsed = _parse(query)
        if type(parsed) is not list or len(parsed) != 2 or parsed[0] != GET or type(parsed[1]) is not bytes:
            raise QueryError(f"a query is the array [{GET}, key] with a key of bytes")
        return _pack([self._values.get(parsed[1])])

    def digest(self) -> bytes:
        if self._top and not self._dirty:
            return self._top
        for bucket in self._dirty:
            rows = [[key, self._values[key]] for key in sorted(self._buckets[bucket])]
            self._hashes[bucket] = sha256(_pack(rows)).digest() if rows else bytes(32)
        for group in {bucket // _GROUP: None for bucket in self._dirty}:
            below = self._hashes[group * _GROUP : (group + 1) * _GROUP]
            self._groups[group] = sha256(b"".join(below)).digest()
        self._dirty.clear()
        self._top = sha256(b"".join(self._groups)).digest()
        return self._top

    def snapshot(self) -> list[bytes]:
        chunks: list[bytes] = []
        rows: list[list[bytes]] = []
        size = 0
        for key in sorted(self._values):
            value = self._values[key]
            # Values are cut so that no chunk is over the limit: a row [key, part] continues the key's value.
            for start in range(0, max(len(value), 1), CHUNK // 2):
                part = value[start : start + CHUNK // 2]
                if size + len(key) + len(part) > CHUNK - 4096:
                    chunks.append(_pack(rows))
                    rows, size = [], 0
                rows.append([key, part])
                size += len(key) + len(part) + 16
        chunks.append(_pack(rows))
        return chunks

    def restore(self, chunks: Sequence[bytes]) -> None:
        values: dict[bytes, bytes] = {}
        try:
            for chunk in chunks:
                for key, part in msgpack.unpackb(chunk, raw=False):
                    if type(key) is not bytes or type(part) is not bytes:
                        raise ValueError("a row is [key, part of the value]")
                    values[key] = values.get(key, b"") + part
        except Exception as error:
            raise ValueError(f"no snapshot of a key-value machine: {error}") from None
        self._clear()
        for key, value in values.items():
            self._set(key, value)
