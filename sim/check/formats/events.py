"""Events (who invoked what, who got which answer) and how they become operations on cells, model by model."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from sim.check.formats.edn import Keyword
from sim.check.general.operations import APPEND, CAS, READ, WRITE, Op, same

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
    """A history, read. `ops` are by invocation. Counted beside them: those that `failed` and appends of the empty text, which
    are left out; those `unanswered`; events of the harness itself (the nemesis), which are `passed_over`; and `other_lines` of
    a log, which are no event."""

    source: str
    format: str
    model: str
    ops: list[Op] = field(default_factory=list)
    failed: int = 0
    unanswered: int = 0
    passed_over: int = 0
    empty_appends: int = 0
    other_lines: int = 0

    @property
    def answered(self) -> int:
        """Operations with an answer. Without any there is nothing that an order would have to explain."""
        return sum(op.returned is not None for op in self.ops)


def pair(events: Iterable[Event], model: str, source: str, form: str) -> Loaded:
    """Join invocations with their completions. Times are the events' places, so that no two are equal.

    `:fail` says that the operation had no effect, and leaves it out. `:info`, or no completion at all, says that nobody
    knows: it stays open for ever. Raises FormatError.
    """
    if model not in MODELS:
        raise FormatError(f"unknown model {model!r}; known are {', '.join(MODELS)}")
    listed = list(events)
    loaded = Loaded(source, form, model, passed_over=sum(event.process is None for event in listed))
    listed = _unwrapped([event for event in listed if event.process is not None], model, source)
    waiting: dict[Hashable, tuple[int, Event]] = {}
    made: dict[int, Op | None] = {}
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
            _fits(first, event, model, where)
            made[invoked] = _operation(first, event, invoked, time, model, source)
        elif event.type == INFO:
            made[invoked] = _operation(first, None, invoked, None, model, source)
            loaded.unanswered += 1
        else:
            loaded.failed += 1
    for invoked, first in waiting.values():
        made[invoked] = _operation(first, None, invoked, None, model, source)
        loaded.unanswered += 1
    loaded.ops = [op for time in sorted(made) if (op := made[time]) is not None]
    loaded.empty_appends = len(made) - len(loaded.ops)
    if not made and not loaded.failed and not loaded.passed_over:
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
) -> Op | None:
    """The operation of an invocation and its answer; None for one that changes nothing and tells nothing."""
    where = f"{source}:{first.line}"
    kind = _kind(first, model, where)
    value = first.value
    if second is not None and (kind == READ or (value is None and second.value is not None)):
        value = second.value
        where = f"{source}:{second.line}"
    op = Op(kind, first.key, first.process, invoked, returned, line=first.line)
    if model == "mutex":
        op.name = first.f
        op.expected, op.value = (None, HELD) if first.f == "acquire" else (HELD, None)
        return op
    if kind == CAS:
        if type(value) is not tuple or len(value) != 2:
            raise FormatError(f"{where}: the value of a cas is [expected new], not {value!r:.60}")
        op.expected, op.value = (_plain(each, model, where) for each in value)
    elif kind != READ or returned is not None:
        op.value = _plain(value, model, where)
    if kind == APPEND and type(op.value) is not str and op.value is not None:
        raise FormatError(f"{where}: only strings can be appended, not {value!r:.60}")
    if model == "kv" and first.key is None:
        raise FormatError(
            f"{source}:{first.line}: {first.f} has no key; in the model kv every operation has one (the field key, or "
            "[key value] for its value); a single register is --model cas-register"
        )
    # The empty text is nil in this model, and what is appended to nil or to a text stays what it was.
    return None if kind == APPEND and op.value is None else op


def _fits(first: Event, second: Event, model: str, where: str) -> None:
    """Refuse an answer that speaks of something else than was invoked: one of the two lines is not what it seems to be."""
    if second.key is not None and not same(first.key, second.key):
        raise FormatError(
            f"{where}: process {second.process} completes {second.f} of key {second.key!r:.60}, but invoked it of key "
            f"{first.key!r:.60} on line {first.line}"
        )
    if model == "mutex" or first.value is None or second.value is None or MODELS[model][first.f] == READ:
        return
    if not same(first.value, second.value):
        raise FormatError(
            f"{where}: process {second.process} completes {second.f} with {second.value!r:.60}, but invoked it with "
            f"{first.value!r:.60} on line {first.line}; an answer of :ok repeats the value, or has nil"
        )


def _plain(value: Any, model: str, where: str) -> Any:
    """In a key-value history nil and "" are one value: what a key without one reads as differs from store to store."""
    try:
        hash(value)
    except TypeError:
        raise FormatError(
            f"{where}: {value!r:.60} cannot be a register's value; use numbers, strings, nil or lists of them"
        ) from None
    return None if model == "kv" and value == "" else value


def _unwrapped(events: list[Event], model: str, source: str) -> list[Event]:
    """Histories of many independent keys carry `[key value]` for values. They are known by their reads: each is invoked with
    a pair that ends in nil, which no history of one register has."""
    reads = [event.value for event in events if event.type == INVOKE and MODELS[model].get(event.f) == READ]
    if not reads or not all(type(value) is tuple and len(value) == 2 and value[1] is None for value in reads):
        return events
    for event in events:
        if type(event.value) is tuple and len(event.value) == 2:
            event.key, event.value = event.value
            _check_key(event.key, f"{source}:{event.line}")
    return events


def _check_key(key: Any, where: str) -> None:
    try:
        hash(key)
    except TypeError:
        raise FormatError(f"{where}: {key!r:.60} cannot be a key") from None


def fields(row: dict[str, Any], line: int, where: str) -> Event:
    """An event from the fields of a map, names without colons. Raises FormatError."""
    process = row.get("process")
    if "process" not in row or "type" not in row or "f" not in row:
        missing = next(name for name in ("process", "type", "f") if name not in row)
        raise FormatError(
            f"{where}: the field {missing!r} is missing; an event has process, type, f and value"
        )
    if type(process) is not int and not isinstance(process, str):
        raise FormatError(f"{where}: process must be a number or a name, not {process!r:.40}")
    if isinstance(process, str) and is_harness(process):
        return Event(line, None, str(row["type"]), str(row["f"]), None)
    kind = row["type"]
    if kind not in TYPES and str(kind) not in TYPES:
        raise FormatError(f"{where}: unknown type {kind!r}; known are {', '.join(TYPES)}")
    key = row.get("key")
    _check_key(key, where)
    return Event(line, process, str(kind), str(row["f"]), row.get("value"), key)


def is_harness(process: str) -> bool:
    """Is this the name of the nemesis? Every other name is a client's."""
    return process.removeprefix(":") == "nemesis"
