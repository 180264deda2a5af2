"""What the reports of a virtual run say besides its moments, and how they word things: `RunFacts`, `clean`, `words`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sim.virtual.trace import Moment

TEXT_LIMIT: Final = 400
"""Characters of one text that a report shows; longer ones end in an ellipsis."""


@dataclass(slots=True)
class Violation:
    """What an oracle or a checker found, and when."""

    oracle: str
    at: int
    """Virtual microseconds."""
    text: str
    nodes: Sequence[str] = ()
    """The nodes that it is about."""
    operations: Sequence[int] = ()
    """Places in the history of the operations that cannot be put in order."""


@dataclass(slots=True)
class RunFacts:
    """What is known of a run as a whole. Times are virtual microseconds."""

    seed: int
    command: str
    """The line to type that replays it."""
    nodes: Sequence[str]
    """In the order of their lanes."""
    domains: Mapping[str, str]
    """Node -> its power domain."""
    options: Mapping[str, Any] = field(default_factory=dict)
    outcome: str = ""
    violation: Violation | None = None
    marks: Mapping[str, int] = field(default_factory=dict)
    """Sometimes-mark -> how often the run reached it."""
    bites: Mapping[int, int] = field(default_factory=dict)
    """Number of a fault -> how often it truly did something."""
    trace_hash: str = ""


def clean(value: Any, most: int = TEXT_LIMIT) -> str:
    """Any value as one line of text: control characters and broken surrogates are spelled out, so that nothing steers a
    terminal or breaks a page; longer than `most` characters it is cut and ends in an ellipsis."""
    text = value if isinstance(value, str) else _plain(value)
    if len(text) > most:
        text = text[: most - 1] + "…"
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """A sorting key that puts c2 before c10."""
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+", name)
    return [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts], name


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return repr(value)[2:-1]
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_plain(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(_plain, value))
    return str(value)


def details(data: Mapping[str, Any], without: Sequence[str] = ()) -> str:
    """The data of a moment as `key=value` words, in their order; what is None or empty is left out."""
    return clean(
        " ".join(
            f"{key}={_plain(value)}"
            for key, value in data.items()
            if key not in without and value is not None and value != ""
        )
    )


def words(moment: Moment, message: Mapping[str, Any] | None = None) -> str:
    """A moment in words, without its time. `message`: the data of the `send` that a `deliver` or `drop` belongs to."""
    data = moment.data
    at = clean(moment.node)
    if moment.kind in ("send", "deliver", "drop"):
        known = {**(message or {}), **data}
        name = clean(known.get("message", "message"))
        end = ""
        if moment.kind == "deliver":
            end = " arrives"
        elif moment.kind == "drop":
            fault = data.get("fault")
            end = f" DROPPED: {clean(data.get('why', 'for no told reason'))}"
            end += f" by fault #{fault}" if fault is not None else ""
        rest = details({"note": known.get("note")}).removeprefix("note=")
        return f"{at}->{clean(moment.peer)} {name}{end}{' ' + rest if rest else ''}"
    if moment.kind == "role":
        leader = data.get("leader")
        follows = f", leader {clean(leader)}" if leader else ""
        return f"{at} is {clean(data.get('role', '?'))} in term {clean(data.get('term', '?'))}{follows}"
    if moment.kind == "log":
        short = {"last_index": "last", "durable_index": "durable", "commit_index": "commit"}
        short["applied_index"] = "applied"
        return f"{at} log {details({short.get(key, key): value for key, value in data.items()})}"
    if moment.kind in ("fault", "calm", "bite"):
        verb = {"fault": "begins", "calm": "ends", "bite": "bites"}[moment.kind]
        name, text = (clean(data.get(key) or "") for key in ("name", "text"))
        # A schedule's own wording begins with the fault's number and name.
        text = text.removeprefix(f"#{data.get('number')} ")
        named = text if text.startswith(name) else f"{name} {text}".strip()
        rest = details(data, ("number", "name", "text"))
        where = f" at {at}" if at else ""
        return " ".join(filter(None, (f"fault #{clean(data.get('number', '?'))} {verb}{where}", named, rest)))
    if moment.kind == "violation":
        place = f" ({at})" if at else ""
        return f"VIOLATION {clean(data.get('oracle', '?'))}{place}: {clean(data.get('text', ''))}"
    if moment.kind in ("phase", "mark", "event"):
        named = clean(data.get("name", "?"))
        rest = details(data, ("name",)).removeprefix("text=").removeprefix("fields=")
        return " ".join(filter(None, (at, moment.kind, named, rest)))
    return " ".join(filter(None, (at, moment.kind, details(data))))
