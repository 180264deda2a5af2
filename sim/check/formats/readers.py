"""Histories from files: what Jepsen logs, what Knossos and Porcupine keep, JSON lines, and this project's own."""

from __future__ import annotations

import json
import re
from collections.abc import Container, Hashable, Iterator
from typing import Any, Final

from sim.check.formats.edn import DEPTH, TOO_LONG, EdnError, Keyword, read_all, real
from sim.check.formats.events import INVOKE, OK, TYPES, Event, FormatError, Loaded, fields, is_harness, pair
from sim.check.formats.own import from_rows

FORMATS: Final = ("jepsen-log", "edn", "jsonl")

_LOGGED: Final = re.compile(r"\bjepsen\.util\s+(?:-\s+)?(?P<rest>.*)")
_EVENT: Final = re.compile(
    r"(?P<process>\S+)\s+:(?P<type>[\w-]+)\s+:(?P<f>[\w-]+)(?:\s+(?P<value>.*))?\Z", re.S
)
_INTEGER: Final = re.compile(r"-?[0-9]+\Z")
_HEAD: Final = re.compile(r"(?P<process>\S+)(?:\s+:(?P<type>[^\s:]*)(?P<more>\s.*)?)?\Z", re.S)
"""The beginning of an event, perhaps."""
_CUT: Final = re.compile(r"\bjepsen\.u(?:t(?:i(?:l)?)?)?\Z")
"""The end of a line that was cut before its event."""


def load(data: bytes, model: str, source: str = "history", form: str | None = None) -> Loaded:
    """Read a history from a file's bytes. `form`: one of `FORMATS`; None finds out. `source` names it in errors.
    Raises FormatError, which names file, line, what is wrong and what to do."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FormatError(
            f"{source}:{line}: not UTF-8 text; is it compressed, or no history at all?"
        ) from None
    text = text.removeprefix("\ufeff")
    form = form or detect(text, source)
    if form == "jepsen-log":
        events, others = _log_events(text, source)
        loaded = pair(events, model, source, form)
        loaded.other_lines = others
        return loaded
    if form == "edn":
        return pair(_edn_events(text, source), model, source, form)
    if form == "jsonl":
        return _jsonl(text, model, source)
    raise FormatError(f"unknown format {form!r}; known are {', '.join(FORMATS)}")


def detect(text: str, source: str) -> str:
    """The format of a text, from its first lines. Raises FormatError."""
    lines = _lines(text)
    for number, line in enumerate(lines):
        start = line.strip()
        if not start or start.startswith(";"):
            continue
        if _LOGGED.search(start):
            return "jepsen-log"
        # A bracket may stand alone on its line.
        if re.match(r"[\[({]*\s*\{\s*\"", "\n".join([start, *lines[number + 1 : number + 4]])):
            return "jsonl"
        if start[0] in "[({#":
            return "edn"
        if any(_LOGGED.search(other) for other in lines):
            return "jepsen-log"
        break
    else:
        raise FormatError(f"{source}: is empty; a history has at least one operation")
    raise FormatError(
        f"{source}: cannot tell its format; give --format {'|'.join(FORMATS)} (the first line with text is {start[:60]!r})"
    )


def _lines(text: str) -> list[str]:
    """The lines of a text. `str.splitlines` ends lines where a string may go on, too: at a form feed, or at U+2028."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.split("\n")


def _log_events(text: str, source: str) -> tuple[list[Event], int]:
    """The events, and how many other lines there are; these are passed over."""
    events: list[Event] = []
    others = 0
    processes: dict[str, Hashable] = {}
    lines = _lines(text)
    for number, line in enumerate(lines, 1):
        logged = _LOGGED.search(line)
        rest = logged["rest"].strip() if logged is not None else ""
        where = f"{source}:{number}"
        event = _EVENT.match(rest)
        name, kind, f, written = event.groups() if event is not None else (None, "", "", None)
        if rest and is_harness(rest.split(None, 1)[0]):
            events.append(Event(number, None, kind, f, None))
        elif name is not None and (kind in TYPES or _known(name, processes)):
            if kind not in TYPES:
                raise FormatError(f"{where}: unknown type :{kind}; known are :{', :'.join(TYPES)}")
            if name not in processes:
                processes[name] = _process(name, where)
            value = _value(written, kind, f, number, where)
            events.append(Event(number, processes[name], kind, f, value))
        else:
            last = number == len(lines)
            if _is_cut(rest, processes, last) if logged is not None else last and _CUT.search(line):
                hint = (
                    "; the last line is cut off: is the file whole? Else leave that line out" if last else ""
                )
                raise FormatError(f"{where}: expected PROCESS :TYPE :FUNCTION VALUE, got {rest[:60]!r}{hint}")
            others += bool(line.strip())
    return events, others


def _known(name: str, processes: Container[str]) -> bool:
    return name in processes or _INTEGER.match(name) is not None


def _is_cut(rest: str, processes: Container[str], last: bool) -> bool:
    """Was this remark of the log to be an event? `last`: nothing ends the line, so that it may have been cut anywhere."""
    head = _HEAD.match(rest)
    if head is None or rest == "-":
        return last and rest in ("", "-")
    known = _known(head["process"], processes)
    if head["type"] is None:
        return last and known
    if known or head["type"] in TYPES:
        return True
    return last and head["more"] is None and any(kind.startswith(head["type"]) for kind in TYPES)


def _process(name: str, where: str) -> Hashable:
    if not _INTEGER.match(name):
        return Keyword(name[1:]) if name[0] == ":" and len(name) > 1 else name
    try:
        return int(name)
    except ValueError:
        raise FormatError(f"{where}: the process is no number: {TOO_LONG}") from None


def _value(written: str | None, kind: str, f: str, number: int, where: str) -> Any:
    if not written:
        if kind == OK and f in ("read", "get"):
            raise FormatError(
                f"{where}: an answer of :ok to {f} has no value; is the line cut off? Where nothing was read write nil"
            )
        return None
    try:
        found = read_all(written, number)
        value = next(found, (0, None))[1]
        # Jepsen writes the error behind the value, and that is no EDN; but not behind what was invoked, or done.
        behind = next(found, None) if kind in (INVOKE, OK) else None
    except EdnError as error:
        raise FormatError(f"{where}: {error} in the value {written[:60]!r}") from None
    if behind is not None:
        raise FormatError(f"{where}: one value is expected, got {written[:60]!r}; write several in brackets")
    if kind == OK and type(value) is Keyword:
        raise FormatError(f"{where}: an answer of :ok with the value {value!r:.60}")
    return value


def _edn_events(text: str, source: str) -> Iterator[Event]:
    """One map behind the other, or one list or vector of maps."""
    try:
        for line, value in _maps(text):
            if type(value) is not dict:
                raise FormatError(
                    f"{source}:{line}: expected a map {{:process ... :type ...}}, got {value!r:.60}"
                )
            row = {str(key): each for key, each in value.items() if type(key) is Keyword}
            yield fields(row, line, f"{source}:{line}")
    except EdnError as error:
        raise FormatError(f"{source}:{error.line}: {error}") from None


def _maps(text: str) -> Iterator[tuple[int, Any]]:
    """The maps with their lines. A surrounding bracket is taken away first, so that each map keeps a line of its own."""
    body = re.match(r"(?:[\s,]|;[^\r\n]*)*", text)
    start = body.end() if body else 0
    if text[start : start + 1] not in ("[", "("):
        yield from read_all(text)
        return
    opening = text[start]
    closing = {"[": "]", "(": ")"}[opening]
    count = 0
    last = 1
    try:
        for line, value in read_all(text[start + 1 :], 1 + text.count("\n", 0, start + 1)):
            count += 1
            last = line
            yield line, value
    except EdnError as error:
        if str(error) != f"{closing!r} closes nothing":
            raise
        return
    raise EdnError(
        last, f"{opening!r} at the beginning is never closed: is the file cut off? ({count} maps were read)"
    )


def _jsonl(text: str, model: str, source: str) -> Loaded:
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, row in _elements(text, source) if text.lstrip().startswith("[") else _rows(text, source):
        if type(row) is not dict:
            raise FormatError(f"{source}:{number}: expected an object, got {row!r:.60}")
        rows.append((number, row))
    if rows and "op" in rows[0][1] and "client" in rows[0][1]:
        return from_rows(rows, model, source)
    events = []
    for number, row in rows:
        for name, value in row.items():
            if type(value) is list:
                row[name] = _frozen(value)
        events.append(fields(row, number, f"{source}:{number}"))
    return pair(events, model, source, "jsonl")


_decoder: Final = json.JSONDecoder(parse_float=real)


def _rows(text: str, source: str) -> Iterator[tuple[int, Any]]:
    """One value a line."""
    for number, line in enumerate(_lines(text), 1):
        if line.strip():
            try:
                value = _decoder.decode(line)
                _check_depth(value, line.count("[") + line.count("{"))
            except (ValueError, OverflowError, RecursionError) as error:
                raise _no_json(error, source, number) from None
            yield number, value


_SPACE: Final = re.compile(r"[ \t\r\n]*")


def _elements(text: str, source: str) -> Iterator[tuple[int, Any]]:
    """The elements of one array, each with the line on which it begins."""
    at = _after(text, text.index("[") + 1)
    line = 1 + text.count("\n", 0, at)
    if text[at : at + 1] == "]":
        return
    while True:
        try:
            value, end = _decoder.raw_decode(text, at)
            _check_depth(value, text.count("[", at, end) + text.count("{", at, end))
        except (ValueError, OverflowError, RecursionError) as error:
            raise _no_json(error, source, getattr(error, "lineno", line)) from None
        yield line, value
        end = _after(text, end)
        line += text.count("\n", at, end)
        if text[end : end + 1] != ",":
            break
        at = _after(text, end + 1)
        line += text.count("\n", end, at)
    if text[end : end + 1] != "]":
        raise FormatError(f"{source}:{line}: no JSON: the array is not closed here; is the file cut off?")
    if _after(text, end + 1) < len(text):
        raise FormatError(f"{source}:{line}: no JSON: something stands behind the array")


def _after(text: str, at: int) -> int:
    """The place of the first character from `at` on that is no space."""
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _no_json(error: Exception, source: str, line: int) -> FormatError:
    if isinstance(error, json.JSONDecodeError):
        text = f"{error.msg} (column {error.colno})"
    elif isinstance(error, RecursionError):
        text = f"nested deeper than {DEPTH}"
    else:
        text = str(error) if isinstance(error, OverflowError) else TOO_LONG
    return FormatError(f"{source}:{line}: no JSON: {text}")


def _check_depth(value: Any, opened: int) -> None:
    """Raises RecursionError for a value that is nested too deep; `opened`: at least how many collections it has."""
    if opened <= DEPTH:
        return
    level = [value]
    for _ in range(DEPTH):
        level = [
            each
            for collection in level
            for each in (collection.values() if type(collection) is dict else collection)
            if type(each) in (dict, list)
        ]
    if level:
        raise RecursionError


def _frozen(value: Any) -> Any:
    """Lists as tuples, so that they can be values and keys."""
    return tuple(map(_frozen, value)) if type(value) is list else value
