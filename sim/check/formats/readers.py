"""Histories from files: what Jepsen logs, what Knossos and Porcupine keep, JSON lines, and this project's own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

from sim.check.formats.edn import EdnError, Keyword, read_all
from sim.check.formats.events import TYPES, Event, FormatError, Loaded, fields, pair
from sim.check.formats.own import from_rows

FORMATS: Final = ("jepsen-log", "edn", "jsonl")

_LOGGED: Final = re.compile(r"\bjepsen\.util\s+(?:-\s+)?(?P<rest>.*)")
_EVENT: Final = re.compile(r"(?P<process>\S+)\s+:(?P<type>[\w-]+)\s+:(?P<f>[\w-]+)(?:\s+(?P<value>.*))?\Z")


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
        return pair(_log_events(text, source), model, source, form)
    if form == "edn":
        return pair(_edn_events(text, source), model, source, form)
    if form == "jsonl":
        return _jsonl(text, model, source)
    raise FormatError(f"unknown format {form!r}; known are {', '.join(FORMATS)}")


def detect(text: str, source: str) -> str:
    """The format of a text, from its first lines. Raises FormatError."""
    for line in text.splitlines():
        start = line.strip()
        if not start or start.startswith(";"):
            continue
        if _LOGGED.search(start):
            return "jepsen-log"
        if re.match(r"[\[({]*\s*\{\s*\"", start):
            return "jsonl"
        if start[0] in "[({#":
            return "edn"
        if any(_LOGGED.search(other) for other in text.splitlines()):
            return "jepsen-log"
        break
    else:
        raise FormatError(f"{source}: is empty; a history has at least one operation")
    raise FormatError(
        f"{source}: cannot tell its format; give --format {'|'.join(FORMATS)} (the first line with text is {start[:60]!r})"
    )


def _log_events(text: str, source: str) -> Iterator[Event]:
    """Lines of other loggers are passed over."""
    for number, line in enumerate(text.splitlines(), 1):
        logged = _LOGGED.search(line)
        if logged is None:
            continue
        where = f"{source}:{number}"
        rest = logged["rest"].strip()
        event = _EVENT.match(rest)
        if event is None:
            if re.match(r"\d+\s+:", rest):
                raise FormatError(f"{where}: expected PROCESS :TYPE :FUNCTION VALUE, got {rest[:60]!r}")
            continue
        if not event["process"].isdigit():
            yield Event(number, None, event["type"], event["f"], None)
            continue
        if event["type"] not in TYPES:
            raise FormatError(f"{where}: unknown type :{event['type']}; known are :{', :'.join(TYPES)}")
        value: Any = None
        if event["value"]:
            try:
                value = next(read_all(event["value"], number), (0, None))[1]
            except EdnError as error:
                raise FormatError(f"{where}: {error} in the value {event['value'][:60]!r}") from None
        if event["type"] == "ok" and type(value) is Keyword:
            raise FormatError(f"{where}: an answer of :ok with the value {value!r}")
        yield Event(number, int(event["process"]), event["type"], event["f"], value)


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
    body = re.match(r"(?:[\s,]|;[^\n]*)*", text)
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
    stripped = text.lstrip()
    if stripped.startswith("["):
        try:
            listed = json.loads(text)
        except ValueError as error:
            raise FormatError(f"{source}:{getattr(error, 'lineno', 1)}: no JSON: {error}") from None
        numbered = list(enumerate(listed, 1))
    else:
        numbered = []
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip():
                continue
            try:
                numbered.append((number, json.loads(line)))
            except ValueError as error:
                raise FormatError(f"{source}:{number}: no JSON: {error}") from None
    for number, row in numbered:
        if type(row) is not dict:
            raise FormatError(f"{source}:{number}: expected an object, got {row!r:.60}")
        rows.append((number, row))
    if rows and "op" in rows[0][1] and "client" in rows[0][1]:
        return from_rows(rows, model, source)
    events = []
    for number, row in rows:
        row = {name: _frozen(value) for name, value in row.items()}
        events.append(fields(row, number, f"{source}:{number}"))
    return pair(events, model, source, "jsonl")


def _frozen(value: Any) -> Any:
    """Lists as tuples, so that they can be values and keys."""
    return tuple(_frozen(each) for each in value) if type(value) is list else value
