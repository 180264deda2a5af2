"""The client history of a run: one JSON object a line, one line an operation, finished or not.

Every harness writes it through `HistoryWriter`, every check reads it through `read_history`. Times are integer
microseconds of one monotonic clock, the clock of the process that drove the load; `docs/reference/run-folder.md` lists
the fields for people.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

OPS: Final = ("write", "query", "open")
OUTCOMES: Final = ("ok", "refused", "unknown", "failed")
CONSISTENCIES: Final = ("any", "bounded", "linearizable")


class HistoryError(ValueError):
    """A history that cannot be read; names the file and the line."""


@dataclass(slots=True)
class Operation:
    """One operation as its client saw it.

    What `outcome` says about the effect of a write or an open:
    `ok` it took effect at (`index`, `place`), after `invoke` and before `returned`;
    `refused` it did not and never will: no attempt of it is still open;
    `unknown`, `failed` it may have, and may still: the checks leave it open for ever.
    A query has no effect; for it the last three only mean that there was no answer.
    """

    op: str
    """`write` (one command), `query` or `open` (of a session)."""
    client: str
    invoke: int
    """When the client was asked, before anything was sent (us)."""
    returned: int | None
    """When the client had the outcome (us); None while it has none. `return` in the file."""
    outcome: str
    session: int | None = None
    seq: int | None = None
    index: int | None = None
    """Log index: of the write or open, or the one from whose state a query was answered."""
    place: int | None = None
    """Place within entry `index`; (index, place) orders all commands."""
    chain: bytes | None = None
    """Chain value at `index`, 32 bytes, as the reply claimed it."""
    command: bytes | None = None
    query: bytes | None = None
    result: bytes | None = None
    consistency: str | None = None
    """Of a query: `any`, `bounded` or `linearizable`."""
    max_age_us: int | None = None
    """Of a bounded query: the age asked for."""
    age_us: int | None = None
    """Of an answer: time since the node asked for its last successful barrier; None if it had none."""
    tier: str | None = None
    """Of an answer: `fresh` or `stale` from a node's model; a fallback's own name otherwise."""
    source: str | None = None
    """Who answered: `model`, or the fallback (`popularity`, `static`, `client`)."""
    node: str | None = None
    """The node that answered."""
    attempts: int = 1
    hedged: bool = False
    error: str | None = None


_NAMES: Final = tuple(Operation.__dataclass_fields__)
_DEFAULTS: Final[dict[str, Any]] = {"attempts": 1, "hedged": False}
_OPTIONAL_INTS: Final = ("session", "seq", "index", "place", "max_age_us", "age_us")
_OPTIONAL_TEXTS: Final = ("consistency", "tier", "source", "node", "error")
_BINARIES: Final = ("command", "query", "result")
_KNOWN: Final = frozenset(_NAMES) - {"returned"} | {"return"}

_encoder: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True, check_circular=False)


def encode_operation(operation: Operation) -> str:
    """One line of `history.jsonl`, without its line end. Fields at their defaults are left out, but for `return`."""
    row: dict[str, Any] = {
        "op": operation.op,
        "client": operation.client,
        "invoke": operation.invoke,
        "return": operation.returned,
        "outcome": operation.outcome,
    }
    for name in _NAMES[5:]:
        value = getattr(operation, name)
        if value is None or value == _DEFAULTS.get(name):
            continue
        if name == "chain":
            row[name] = value.hex()
        elif name in _BINARIES:
            row[name] = base64.b64encode(value).decode("ascii")
        else:
            row[name] = value
    return _encoder.encode(row)


def decode_operation(row: Any) -> Operation:
    """The operation in one decoded line. Raises ValueError with what is wrong."""
    if type(row) is not dict:
        raise ValueError("expected a JSON object")
    extra = row.keys() - _KNOWN
    if extra:
        raise ValueError(f"unknown field {min(extra)!r}; known are {', '.join(sorted(_KNOWN))}")
    try:
        op, client, invoke, returned, outcome = (
            row["op"],
            row["client"],
            row["invoke"],
            row["return"],
            row["outcome"],
        )
    except KeyError as error:
        raise ValueError(f"field {error.args[0]!r} is missing") from None
    if op not in OPS:
        raise ValueError(f"op: expected one of {', '.join(OPS)}, got {op!r}")
    if outcome not in OUTCOMES:
        raise ValueError(f"outcome: expected one of {', '.join(OUTCOMES)}, got {outcome!r}")
    if type(client) is not str:
        raise ValueError(f"client: expected a string, got {client!r}")
    if type(invoke) is not int:
        raise ValueError(f"invoke: expected integer microseconds, got {invoke!r}")
    if returned is not None:
        if type(returned) is not int:
            raise ValueError(f"return: expected integer microseconds or null, got {returned!r}")
        if returned < invoke:
            raise ValueError(f"return {returned} lies before invoke {invoke}: two clocks were mixed")
    elif outcome == "ok":
        raise ValueError("outcome is ok, but return is null")
    operation = Operation(op, client, invoke, returned, outcome)
    for name in _OPTIONAL_INTS:
        value = row.get(name)
        if value is not None:
            if type(value) is not int or value < 0:
                raise ValueError(f"{name}: expected an integer of at least 0, got {value!r}")
            setattr(operation, name, value)
    for name in _OPTIONAL_TEXTS:
        value = row.get(name)
        if value is not None:
            if type(value) is not str:
                raise ValueError(f"{name}: expected a string, got {value!r}")
            setattr(operation, name, value)
    for name in _BINARIES:
        value = row.get(name)
        if value is not None:
            try:
                setattr(operation, name, base64.b64decode(value, validate=True))
            except (TypeError, ValueError, binascii.Error):
                raise ValueError(f"{name}: expected base64, got {value!r:.40}") from None
    chain = row.get("chain")
    if chain is not None:
        try:
            operation.chain = bytes.fromhex(chain)
        except (TypeError, ValueError):
            operation.chain = b""
        if len(operation.chain) != 32:
            raise ValueError(f"chain: expected 64 hexadecimal digits, got {chain!r:.70}")
    operation.attempts = row.get("attempts", 1)
    operation.hedged = row.get("hedged", False)
    if type(operation.attempts) is not int or type(operation.hedged) is not bool:
        raise ValueError("attempts: expected an integer, and hedged: expected true or false")
    _check_whole(operation)
    return operation


def _check_whole(operation: Operation) -> None:
    if operation.consistency is not None and operation.consistency not in CONSISTENCIES:
        raise ValueError(
            f"consistency: expected one of {', '.join(CONSISTENCIES)}, got {operation.consistency!r}"
        )
    needed: tuple[str, ...] = ()
    if operation.op == "write":
        needed = ("session", "seq", "command")
        if operation.outcome == "ok":
            needed += ("index", "place", "result")
    elif operation.op == "query":
        needed = ("consistency", "query")
        if operation.consistency == "bounded":
            needed += ("max_age_us",)
        if operation.outcome == "ok":
            needed += ("source",)
            if operation.source == "model":
                needed += ("index", "tier", "result")
    elif operation.outcome == "ok":
        needed = ("session", "index")
    for name in needed:
        # A session that could not be opened leaves its writes without one: they were never sent.
        if getattr(operation, name) is None and not (
            name in ("session", "seq") and operation.outcome != "ok"
        ):
            raise ValueError(f"a {operation.op} with outcome {operation.outcome} needs the field {name!r}")


class HistoryWriter:
    """Appends operations to a history file. Cheap to call: lines are encoded and written in bundles, so call `flush`
    before somebody else reads, and `close` (or leave the `with` block) at the end. Not for two threads at once."""

    def __init__(self, path: Path, bundle: int = 1024) -> None:
        """Opens `path` anew, replacing what is there. Raises OSError."""
        self._file = path.open("w", encoding="ascii")
        self._bundle = bundle
        self._waiting: list[Operation] = []
        self.count = 0
        """Operations added so far."""

    def add(self, operation: Operation) -> None:
        """Take one operation; the writer keeps it, so it must not be changed afterwards."""
        self._waiting.append(operation)
        self.count += 1
        if len(self._waiting) >= self._bundle:
            self.flush()

    def flush(self) -> None:
        """Hand everything added so far to the operating system. Raises OSError."""
        if self._waiting:
            self._file.write("\n".join(map(encode_operation, self._waiting)) + "\n")
            self._waiting.clear()
        self._file.flush()

    def close(self) -> None:
        """Flush and close; closing twice is harmless."""
        if not self._file.closed:
            self.flush()
            self._file.close()

    def __enter__(self) -> HistoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def iterate_history(path: Path) -> Iterator[Operation]:
    """The operations of a history file, in the order of the file. Raises HistoryError naming the line, OSError."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield decode_operation(json.loads(line))
            except ValueError as error:
                cut_short = not line.endswith(b"\n")
                hint = " (the last line is cut short: was the writer closed?)" if cut_short else ""
                raise HistoryError(f"{path}, line {number}: {error}{hint}") from None


def read_history(path: Path) -> list[Operation]:
    """All operations of a history file. Raises HistoryError naming the line, OSError."""
    return list(iterate_history(path))
