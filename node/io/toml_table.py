"""Reading one TOML table key by key, collecting every problem; and writing simple tables."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

_MISSING: Any = object()


class Table:
    """A TOML table that remembers which keys were asked for.

    Every reader returns a usable value (the default, or an empty one) when there is a problem, so that the rest can
    be checked as well; `problems`, shared by all tables of a file, says afterwards whether the values count."""

    def __init__(self, values: Mapping[str, Any], problems: list[str], path: str = "") -> None:
        self.problems = problems
        self.path = path
        self._values = values
        self._asked: list[str] = []

    def key_path(self, key: str) -> str:
        """The key as the user finds it: `timing.heartbeat_ms`, `members[2].id`."""
        return f"{self.path}.{key}" if self.path else key

    def problem(self, key: str, text: str) -> None:
        """Note what is wrong with a key."""
        self.problems.append(f"{self.key_path(key)}: {text}")

    def has(self, key: str) -> bool:
        """Whether the key is there at all."""
        return key in self._values

    def _get(self, key: str, default: Any) -> Any:
        self._asked.append(key)
        value = self._values.get(key, default)
        if value is _MISSING:
            self.problem(key, "is missing")
        return value

    def text(self, key: str, default: Any = _MISSING) -> Any:
        """A string that is not empty; "" after a problem."""
        value = self._get(key, default)
        if value is _MISSING:
            return ""
        if value is default:
            return default
        if type(value) is not str or not value.strip():
            self.problem(key, f"is {_show(value)}; a text that is not empty belongs here")
            return ""
        return value

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        """One of `choices`."""
        value: str = self.text(key, default)
        if value and value not in choices:
            self.problem(
                key, f"{value!r} is not known; {_nearest(value, choices)}it must be {_either(choices)}"
            )
            return default
        return value

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self._get(key, default)
        if type(value) is not int:
            self.problem(key, f"is {_show(value)}; a whole number from {low} to {high} belongs here")
            return default
        if not low <= value <= high:
            self.problem(key, f"is {value}; it must be from {low} to {high}")
            return default
        return value

    def boolean(self, key: str, default: bool) -> bool:
        """true or false."""
        value = self._get(key, default)
        if type(value) is not bool:
            self.problem(key, f"is {_show(value)}; true or false belongs here")
            return default
        return value

    def table(self, key: str, *, required: bool = False) -> Table:
        """A table below this one; an empty one where it is missing and not required."""
        value = self._values.get(key, {})
        self._asked.append(key)
        if required and key not in self._values:
            self.problem(key, f"is missing; add a table [{self.key_path(key)}]")
            return Table({}, [], self.key_path(key))
        if type(value) is not dict:
            self.problem(key, f"is {_show(value)}; a table [{self.key_path(key)}] belongs here")
            return Table({}, [], self.key_path(key))
        return Table(value, self.problems, self.key_path(key))

    def tables(self, key: str) -> list[Table]:
        """An array of tables, at least one."""
        value = self._get(key, _MISSING)
        if value is _MISSING:
            return []
        if type(value) is not list or not value or not all(type(item) is dict for item in value):
            self.problem(key, f"is {_show(value)}; one or more tables [[{key}]] belong here")
            return []
        return [
            Table(item, self.problems, f"{self.key_path(key)}[{number}]")
            for number, item in enumerate(value, 1)
        ]

    def finish(self) -> None:
        """Note every key that nobody asked for."""
        for key in self._values:
            if key not in self._asked:
                known = ", ".join(self._asked)
                self.problem(key, f"is not a known key; {_nearest(key, self._asked)}known here: {known}")


def _show(value: Any) -> str:
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) in (dict, list):
        return "a table" if type(value) is dict else "an array"
    return f"{value!r:.60}"


def _nearest(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}? " if near else ""


def _either(choices: Sequence[str]) -> str:
    return " or ".join(repr(choice) for choice in choices)


def dump(values: Mapping[str, Any]) -> str:
    """Write TOML: scalars, arrays of scalars, tables, and arrays of tables, one level deep; None is left out.

    Raises ValueError for what this small writer does not know (deeper nesting, dates, NaN)."""
    lines: list[str] = []
    tables: list[tuple[str, Mapping[str, Any]]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            tables.append((f"[{_key(key)}]", value))
        elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            tables.extend((f"[[{_key(key)}]]", item) for item in value)
        elif value is not None:
            lines.append(f"{_key(key)} = {_scalar(value)}")
    for header, table in tables:
        lines += ["", header]
        lines += [f"{_key(key)} = {_scalar(value)}" for key, value in table.items() if value is not None]
    return "\n".join(lines).lstrip("\n") + "\n"


def _key(key: str) -> str:
    plain = key and key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else _scalar(key)


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def _scalar(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and value == value and value not in (float("inf"), float("-inf")):
        return repr(value)
    if isinstance(value, list | tuple) and not any(isinstance(item, Mapping) for item in value):
        return "[" + ", ".join(map(_scalar, value)) + "]"
    if isinstance(value, str) or hasattr(value, "__fspath__"):
        text = str(value)
        return (
            '"'
            + "".join(
                _ESCAPES.get(c) or (f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else c) for c in text
            )
            + '"'
        )
    raise ValueError(f"cannot write {value!r:.60} as TOML")
