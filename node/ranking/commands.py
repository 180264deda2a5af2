"""Commands of the ranking machine and their results: msgpack arrays [kind, *fields].

A kind never changes its meaning: a new form of a command gets a new number. Decoding needs no state, so that what
`decode` refuses is refused before it enters a log.

    OBSERVE   [1, users, items, values | nil]     columns of 1 .. 256; nil: every value is 1
    DELTA     [2, table, row ids, deltas]         deltas row after row, Q16
    PUBLISH   [3, version, expected | nil]
    ROLLBACK  [4, version, expected | nil]
    FREEZE    [5]        UNFREEZE  [6]
    UPSERT    [7, [[item, bias | nil, title | nil], ...]]   1 .. 256 items

A result is [status, *fields]; a status other than OK has one field, a text, and nothing was changed (FULL, CONFLICT
and the rest are all or nothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import msgpack

from node.ranking.settings import LARGEST_ID, RankingSettings

MAX_ROWS: Final = 256
"""Interactions, delta rows or items in one command."""
MAX_VALUE: Final = 1_000_000
"""Largest value of an interaction."""
MAX_BIAS: Final = 1 << 24
MAX_TITLE: Final = 512
"""Bytes of a title in UTF-8."""
LIVE: Final = "live"
"""The version that is being learned."""
SERVING: Final = "serving"
"""In a query: whatever version the serving pointer names."""


class Kind(IntEnum):
    """What a command does."""

    OBSERVE = 1
    """Users took items: remember it, count it, learn from it. Unknown users and items come into being, in log order."""
    DELTA = 2
    """An outside trainer adds to rows of a table of the live version; rows must exist. FREEZE does not stop it."""
    PUBLISH = 3
    """Copy the live tables under a new name and let it serve."""
    ROLLBACK = 4
    """Let an existing version, or `live`, serve."""
    FREEZE = 5
    """Stop learning; OBSERVE still records histories and counts."""
    UNFREEZE = 6
    """Learn again."""
    UPSERT = 7
    """Make items known, or set the bias or title of known ones."""


class Status(IntEnum):
    """Outcome of a command."""

    OK = 0
    MALFORMED = 1
    """No command of this machine; `check` would have said so."""
    CONFLICT = 2
    """The serving version is not the expected one."""
    UNKNOWN = 3
    """A version, or the row of a delta, does not exist."""
    EXISTS = 4
    """A version of this name exists; a published version never changes."""
    FULL = 5
    """The bound on users or items is reached."""


class Table(IntEnum):
    """Tables that a delta may name."""

    USER = 0
    ITEM = 1
    HISTORY = 2
    BIAS = 3


TABLE_NAMES: Final = {"user": Table.USER, "item": Table.ITEM, "history": Table.HISTORY, "bias": Table.BIAS}


class CommandError(ValueError):
    """A malformed command: what is wrong, where, and what to do."""


@dataclass(slots=True)
class Result:
    """A decoded result. `fields` holds, for OBSERVE: interactions recorded, how many of them were learned from, 1 if frozen,
    interactions recorded since the beginning; PUBLISH: serving version, dropped version or None; ROLLBACK: serving version;
    FREEZE, UNFREEZE: 1 if that changed anything; DELTA: rows changed; UPSERT: items that are new."""

    status: Status
    fields: tuple[Any, ...]

    @property
    def ok(self) -> bool:
        """Whether the command was done."""
        return self.status == Status.OK

    @property
    def text(self) -> str:
        """What went wrong; empty if nothing did."""
        return "" if self.ok else str(self.fields[0])


def decode_result(data: bytes) -> Result:
    """Read a result of `RankingMachine.apply`. Raises ValueError if it is none."""
    fields = msgpack.unpackb(data)
    return Result(Status(fields[0]), tuple(fields[1:]))


def encode_result(status: int, *fields: Any) -> bytes:
    """Write a result."""
    data: bytes = msgpack.packb((int(status), *fields))
    return data


# ------------------------------------------------------------------------------------------------------- building


def observe(interactions: Sequence[tuple[int, int] | tuple[int, int, int]]) -> bytes:
    """OBSERVE of (user, item) or (user, item, value), 1 .. 256 of them, in order."""
    if all(len(interaction) == 2 for interaction in interactions):
        return observe_columns([row[0] for row in interactions], [row[1] for row in interactions])
    values = [row[2] if len(row) == 3 else 1 for row in interactions]
    return observe_columns([row[0] for row in interactions], [row[1] for row in interactions], values)


def observe_columns(users: Sequence[int], items: Sequence[int], values: Sequence[int] | None = None) -> bytes:
    """OBSERVE of columns of equal length. Checks nothing: `RankingMachine.check` does."""
    return _pack(Kind.OBSERVE, list(users), list(items), None if values is None else list(values))


def delta(table: str, rows: Sequence[int], deltas: Sequence[Sequence[int]]) -> bytes:
    """DELTA of Q16 integers: `deltas[i]` is added to the row of id `rows[i]` of table user, item, history or bias."""
    return _pack(Kind.DELTA, table, list(rows), [value for row in deltas for value in row])


def publish(version: str, expected: str | None = None) -> bytes:
    """PUBLISH under a new name; with `expected`, only if that version serves now."""
    return _pack(Kind.PUBLISH, version, expected)


def rollback(version: str, expected: str | None = None) -> bytes:
    """ROLLBACK to an existing version or `live`; with `expected`, only if that version serves now."""
    return _pack(Kind.ROLLBACK, version, expected)


def freeze() -> bytes:
    """FREEZE."""
    return _pack(Kind.FREEZE)


def unfreeze() -> bytes:
    """UNFREEZE."""
    return _pack(Kind.UNFREEZE)


def upsert_item(item: int, bias: int | None = None, title: str | None = None) -> bytes:
    """UPSERT of one item; a bias is Q16. None leaves a known item's value as it is."""
    return upsert_items([(item, bias, title)])


def upsert_items(items: Sequence[tuple[int, int | None, str | None]]) -> bytes:
    """UPSERT of (item, bias, title), 1 .. 256 of them, in order."""
    return _pack(Kind.UPSERT, [list(item) for item in items])


def _pack(kind: Kind, *fields: Any) -> bytes:
    data: bytes = msgpack.packb((int(kind), *fields))
    return data


# ------------------------------------------------------------------------------------------------------- decoding

_INTEGERS: Final = {int}
_FIELDS: Final[dict[int, int]] = {
    Kind.OBSERVE: 3,
    Kind.DELTA: 3,
    Kind.PUBLISH: 2,
    Kind.ROLLBACK: 2,
    Kind.FREEZE: 0,
    Kind.UNFREEZE: 0,
    Kind.UPSERT: 1,
}


def decode(command: bytes, settings: RankingSettings) -> list[Any]:
    """[kind, *fields] of a well-formed command, a table's name replaced by its `Table`. Raises CommandError."""
    try:
        fields = msgpack.unpackb(command)
    except Exception as error:  # msgpack raises many kinds, and no bytes at all may stop a replica
        raise CommandError("a ranking command must be one msgpack value; these bytes are not") from error
    if type(fields) is not list or not fields or type(fields[0]) is not int or fields[0] not in _FIELDS:
        raise CommandError("a ranking command is [kind, ...] with kind from 1 (OBSERVE) to 7 (UPSERT)")
    kind = fields[0]
    if len(fields) != 1 + _FIELDS[kind]:
        raise CommandError(
            f"{Kind(kind).name} has {_FIELDS[kind]} fields behind its kind, not {len(fields) - 1}"
        )
    if kind == Kind.OBSERVE:
        _check_observe(fields)
    elif kind == Kind.DELTA:
        _check_delta(fields, settings)
    elif kind == Kind.UPSERT:
        _check_upsert(fields)
    elif kind in (Kind.PUBLISH, Kind.ROLLBACK):
        _check_version(fields[1], "version", kind == Kind.ROLLBACK)
        if fields[2] is not None:
            _check_version(fields[2], "expected version", True)
    return fields


def _check_observe(fields: list[Any]) -> None:
    _, users, items, values = fields
    if type(users) is not list or type(items) is not list:
        raise CommandError("OBSERVE needs a list of users and a list of items")
    count = len(users)
    if not 1 <= count <= MAX_ROWS:
        raise CommandError(f"OBSERVE holds 1 to {MAX_ROWS} interactions, not {count}; send several commands")
    if len(items) != count:
        raise CommandError(f"OBSERVE has {count} users but {len(items)} items; each interaction needs both")
    _check_column(users, "user", 0, LARGEST_ID, "interaction")
    _check_column(items, "item", 0, LARGEST_ID, "interaction")
    if values is not None:
        if type(values) is not list or len(values) != count:
            raise CommandError(f"OBSERVE needs as many values as interactions ({count}), or none at all")
        _check_column(values, "value", 1, MAX_VALUE, "interaction")


def _check_column(column: list[Any], what: str, low: int, high: int, row: str) -> None:
    if set(map(type, column)) == _INTEGERS and min(column) >= low and max(column) <= high:
        return
    for place, value in enumerate(column):
        if type(value) is not int or not low <= value <= high:
            raise CommandError(
                f"{row} {place}: {what} must be an integer from {low} to {high}, not {show(value)}"
            )


def _check_delta(fields: list[Any], settings: RankingSettings) -> None:
    _, table, rows, deltas = fields
    if type(table) is not str or table not in TABLE_NAMES:
        raise CommandError(f"DELTA names table {show(table)}; there are: {', '.join(TABLE_NAMES)}")
    width = 1 if table == "bias" else settings.factors
    if type(rows) is not list or not 1 <= len(rows) <= MAX_ROWS:
        raise CommandError(f"DELTA needs a list of 1 to {MAX_ROWS} row ids")
    if type(deltas) is not list or len(deltas) != width * len(rows):
        raise CommandError(f"DELTA of {len(rows)} rows of table {table} needs {width * len(rows)} integers")
    _check_column(rows, "id", 0, LARGEST_ID, "row")
    _check_column(deltas, "delta", -(1 << 31), (1 << 31) - 1, "number")
    fields[1] = TABLE_NAMES[table]


def _check_upsert(fields: list[Any]) -> None:
    items = fields[1]
    if type(items) is not list or not 1 <= len(items) <= MAX_ROWS:
        raise CommandError(f"UPSERT needs a list of 1 to {MAX_ROWS} items")
    for place, row in enumerate(items):
        if type(row) is not list or len(row) != 3:
            raise CommandError(f"item {place}: must be [item, bias or nil, title or nil], not {show(row)}")
        item, bias, title = row
        if type(item) is not int or not 0 <= item <= LARGEST_ID:
            raise CommandError(
                f"item {place}: id must be an integer from 0 to {LARGEST_ID}, not {show(item)}"
            )
        if bias is not None and (type(bias) is not int or not -MAX_BIAS <= bias <= MAX_BIAS):
            raise CommandError(
                f"item {place}: bias must be an integer from {-MAX_BIAS} to {MAX_BIAS} (Q16), not {show(bias)}"
            )
        if title is not None and (type(title) is not str or len(title.encode()) > MAX_TITLE or "\0" in title):
            raise CommandError(f"item {place}: title must be a text of at most {MAX_TITLE} bytes without NUL")


def _check_version(name: Any, what: str, reserved_allowed: bool) -> None:
    if type(name) is not str or not 1 <= len(name) <= 64 or not name.isascii() or not name.isprintable():
        raise CommandError(f"{what} must be 1 to 64 printable ASCII characters, not {show(name)}")
    if name == SERVING or (name == LIVE and not reserved_allowed):
        raise CommandError(f"{what} cannot be {name!r}: that name is reserved; choose another")


def show(value: Any) -> str:
    """A value for an error's text, cut to a length that a log bears. Of what holds other values only the type: whoever wrote it
    may have nested it deeper than a `repr` can go."""
    if type(value) in (str, bytes):
        text = repr(value[:60])
    elif value is None or type(value) in (bool, int, float):
        text = repr(value)
    else:
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
