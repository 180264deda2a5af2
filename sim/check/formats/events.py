"""Events (who invoked what, who got which answer) and how they become operations on cells, model by model."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sim.check.formats.edn import Keyword
from sim.check.general.operations import APPEND, CAS, READ, WRITE, Op

INVOKE: Final = "invoke"
OK: Final = "ok"
FAIL: Final = "fail"
INFO: Final = "info"
TYPES: Final = (INVOKE, OK, FAIL, INFO)

MODELS: Final[dict[str, dict[str, str]]] = {
    "cas-register": {"read": READ, "write": WRITE, "cas": CAS},
    "kv": {"get": READ, "read": READ, "put": WRITE, "write": WRITE, "append": APPEND, "cas": CAS},
    "mutex": {"acquire": CAS, "release": CAS},
}
"""Model -> name of a function in the history -> kind of operation."""

HELD: Final = Keyword("held")


class FormatError(ValueError):
    """A history that cannot be read; the text names the file and the line, and what to do."""


@dataclass(slots=True)
class Event:
    """One line of a history."""

    line: int
    process: Hashable
    """None: the harness itself."""
    type: str
    """One of `TYPES`."""
    f: str
    value: Any
    key: Hashable = None


@dataclass(slots=True)
class Loaded:
    """A history, read. `ops` are by invocation. Counted beside them: those that `failed` (and are left out), those `unanswered`,
    and events of the harness itself (the nemesis), which are `passed_over`."""

    source: str
    format: str
    model: str
    ops: list[Op] = field(default_factory=list)
    failed: int = 0
    unanswered: int = 0
    passed_over: int = 0


def pair(events: Iterable[Event], model: str, source: str, form: str) -> Loaded:
    """Join invocations with their completions. Times are the events' places, so that no two are equal.

    `:fail` says that the operation had no effect, and leaves it out. `:info`, or no completion at all, says that nobody
    knows: it stays open for ever. Raises FormatError.
    """
    if model not in MODELS:
        raise FormatError(f"unknown model {model!r}; known are {', '.join(MODELS)}")
    listed = list(events)
    loaded = Loaded(source, form, model, passed_over=sum(event.process is None for event in listed))
    listed = _unwrapped([event for event in listed if event.process is not None], model)
    waiting: dict[Hashable, tuple[int, Event]] = {}
    made: dict[int, Op] = {}
    for time, event in enumerate(listed):
        where = f"{source}:{event.line}"
        if event.type == INVOKE:
            if event.process in waiting:
                first = waiting[event.process][1]
                raise FormatError(
                    f"{where}: process {event.process} invokes {event.f} while its {first.f} of line {first.line} is still open; "
                    "a process does one thing at a time: give each client its own process, or write the missing completion"
                )
            _kind(event, model, where)
            waiting[event.process] = (time, event)
            continue
        if event.process not in waiting:
            raise FormatError(
                f"{where}: process {event.process} completes {event.f} ({event.type}), which it never invoked; "
                "is the history cut off at its beginning, or is a line missing?"
            )
        invoked, first = waiting.pop(event.process)
        if event.f != first.f:
            raise FormatError(
                f"{where}: process {event.process} completes {event.f}, but invoked {first.f} on line {first.line}"
            )
        if event.type == OK:
            made[invoked] = _operation(first, event, invoked, time, model, source)
        elif event.type == INFO:
            made[invoked] = _operation(first, None, invoked, None, model, source)
            loaded.unanswered += 1
        else:
            loaded.failed += 1
    for invoked, first in waiting.values():
        made[invoked] = _operation(first, None, invoked, None, model, source)
        loaded.unanswered += 1
    loaded.ops = [made[time] for time in sorted(made)]
    if not loaded.ops and not loaded.failed and not loaded.passed_over:
        raise FormatError(
            f"{source}: holds no operation of the model {model}; is it the file you meant, and its format {form}?"
        )
    return loaded


def _kind(event: Event, model: str, where: str) -> str:
    kind = MODELS[model].get(event.f)
    if kind is None:
        others = [name for name, functions in MODELS.items() if event.f in functions]
        hint = f"; {event.f} belongs to --model {others[0]}" if others else ""
        raise FormatError(
            f"{where}: unknown function {event.f!r}; the model {model} has {', '.join(MODELS[model])}{hint}"
        )
    return kind


def _operation(
    first: Event, second: Event | None, invoked: int, returned: int | None, model: str, source: str
) -> Op:
    where = f"{source}:{first.line}"
    kind = _kind(first, model, where)
    value = first.value
    if second is not None and (kind == READ or (value is None and second.value is not None)):
        value = second.value
        where = f"{source}:{second.line}"
    op = Op(kind, first.key, first.process, invoked, returned, line=first.line)
    if model == "mutex":
        op.expected, op.value = (None, HELD) if first.f == "acquire" else (HELD, None)
        return op
    if kind == CAS:
        if type(value) is not tuple or len(value) != 2:
            raise FormatError(f"{where}: the value of a cas is [expected new], not {value!r:.60}")
        op.expected, op.value = (_plain(each, model, where) for each in value)
    elif kind != READ or returned is not None:
        op.value = _plain(value, model, where)
    if kind == APPEND and type(op.value) is not str:
        if op.value is not None:
            raise FormatError(f"{where}: only strings can be appended, not {value!r:.60}")
        op.value = ""
    return op


def _plain(value: Any, model: str, where: str) -> Any:
    """In a key-value history nil and "" are one value: what a key without one reads as differs from store to store."""
    try:
        hash(value)
    except TypeError:
        raise FormatError(
            f"{where}: {value!r:.60} cannot be a register's value; use numbers, strings, nil or lists of them"
        ) from None
    return None if model == "kv" and value == "" else value


def _unwrapped(events: list[Event], model: str) -> list[Event]:
    """Histories of many independent keys carry `[key value]` for values. They are known by their reads: each is invoked with
    a pair that ends in nil, which no history of one register has."""
    reads = [event.value for event in events if event.type == INVOKE and MODELS[model].get(event.f) == READ]
    if not reads or not all(type(value) is tuple and len(value) == 2 and value[1] is None for value in reads):
        return events
    for event in events:
        if type(event.value) is tuple and len(event.value) == 2:
            event.key, event.value = event.value
    return events


def fields(row: dict[str, Any], line: int, where: str) -> Event:
    """An event from the fields of a map, names without colons. Raises FormatError."""
    process = row.get("process")
    if "process" not in row or "type" not in row or "f" not in row:
        missing = next(name for name in ("process", "type", "f") if name not in row)
        raise FormatError(
            f"{where}: the field {missing!r} is missing; an event has process, type, f and value"
        )
    if type(process) is Keyword or process == "nemesis":
        return Event(line, None, str(row["type"]), str(row["f"]), None)
    if type(process) not in (int, str):
        raise FormatError(f"{where}: process must be a number or a name, not {process!r:.40}")
    kind = row["type"]
    if kind not in TYPES and str(kind) not in TYPES:
        raise FormatError(f"{where}: unknown type {kind!r}; known are {', '.join(TYPES)}")
    key = row.get("key")
    try:
        hash(key)
    except TypeError:
        raise FormatError(f"{where}: {key!r:.60} cannot be a key") from None
    return Event(line, process, str(kind), str(row["f"]), row.get("value"), key)


def keys_of(ops: Sequence[Op]) -> int:
    """How many cells a history has."""
    return len({op.key for op in ops})
