"""Tables of a TOML file as dataclasses: every key known, every value of its type and in bounds, and words for what is not."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

Bounds = tuple[float, float]
"""The least and the largest number that a key takes."""

NO_BOUNDS: Final[Mapping[str, Bounds]] = MappingProxyType({})
LARGEST_FILE: Final = 1 << 20
"""Bytes of a file that somebody wrote by hand."""
MOST_DOTS: Final = 500
"""In a line. Keys of thousands of parts keep the standard library's parser busy for minutes."""
LONGEST_SHOWN: Final = 80
"""Characters of a wrong value in a message."""

_TYPES: Final[Mapping[str, tuple[type, ...]]] = MappingProxyType(
    {"int": (int,), "int | None": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}
)


class ScenarioError(ValueError):
    """A scenario cannot be used; the text names the file, the key and what would be right."""


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file says. Raises FileNotFoundError; ValueError for a file that cannot be read or is not TOML, whose text says
    why and does not name the file."""
    return parse_toml(read_text(path))


def read_text(path: Path) -> str:
    """The text of a file. Raises as `read_toml` does."""
    try:
        # Of a device or a pipe nobody knows whether it ends.
        if path.exists() and not path.is_file():
            raise ValueError("cannot be read: not a file")
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    if len(data) > LARGEST_FILE:
        raise ValueError(f"cannot be read: more than {LARGEST_FILE:,} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot be read: no text in UTF-8 (byte {error.start})") from None


def parse_toml(text: str) -> dict[str, Any]:
    """What a text in TOML says. Raises ValueError, whose text says what is wrong."""
    if any(line.count(".") > MOST_DOTS for line in text.splitlines()):
        raise ValueError("not TOML: nested too deeply")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"not TOML: {error}") from None
    except RecursionError:
        raise ValueError("not TOML: nested too deeply") from None
    except ValueError:
        raise ValueError("not TOML: a number in it has too many digits") from None


def shown(value: Any) -> str:
    """A wrong value as a message shows it, whatever it is: never long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, thousands of levels
        return "what stands there"
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."


def read_table(kind: type[Any], values: Any, where: str, bounds: Mapping[str, Bounds] = NO_BOUNDS) -> Any:
    """A `kind`, a dataclass, from a table of TOML. `where` begins the words of errors; `bounds`: of its numbers. Raises
    ScenarioError."""
    if not isinstance(values, dict):
        raise ScenarioError(f"{where} must be a table")
    fields = {item.name: item for item in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key[:LONGEST_SHOWN], fields, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(fields)}"
            raise ScenarioError(f"{where}: unknown key {shown(key)}{hint}")
        _check(fields[key].type, value, f"{where}: {key}", bounds.get(key))
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    missing = [
        name
        for name, item in fields.items()
        if name not in values
        and item.default is dataclasses.MISSING
        and item.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ScenarioError(f"{where}: missing {', '.join(missing)}")
    return kind(**values)


def check_number(value: int | float, bounds: Bounds, where: str) -> None:
    """Whether a number lies within its bounds; `nan` does not. Raises ScenarioError."""
    low, high = bounds
    if not low <= value <= high:
        raise ScenarioError(f"{where} must be from {plain(low)} to {plain(high)}, not {shown(value)}")


def plain(number: float) -> str:
    """A bound as one writes it: no exponent, no needless fraction."""
    return str(int(number)) if number == int(number) else str(number)


def _check(hint: Any, value: Any, where: str, bounds: Bounds | None) -> None:
    if hint == "tuple[str, ...]":
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ScenarioError(f"{where} must be a list of texts, not {shown(value)}")
        return
    if hint == "dict[str, int]":
        if not isinstance(value, dict) or not all(type(item) is int for item in value.values()):
            raise ScenarioError(f"{where} must be a table of whole numbers, not {shown(value)}")
        return
    kinds = _TYPES.get(hint)
    if kinds is None:
        return
    if not isinstance(value, kinds) or (isinstance(value, bool) and hint != "bool"):
        raise ScenarioError(f"{where} must be of type {hint}, not {shown(value)}")
    if isinstance(value, int | float) and hint != "bool":
        check_number(value, bounds or (0, 1e12), where)
