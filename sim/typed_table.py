"""Tables of a TOML file as dataclasses: every key known, every value of its type, and words for what is not."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any


class ScenarioError(ValueError):
    """A scenario cannot be used; the text names the file, the key and what would be right."""


def read_table(kind: type[Any], values: Any, where: str) -> Any:
    """A `kind`, a dataclass, from a table of TOML. `where` begins the words of errors. Raises ScenarioError."""
    if not isinstance(values, dict):
        raise ScenarioError(f"{where} must be a table")
    fields = {item.name: item for item in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(fields)}"
            raise ScenarioError(f"{where}: unknown key {key!r}{hint}")
        _check(fields[key].type, value, f"{where}: {key}")
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


def _check(hint: Any, value: Any, where: str) -> None:
    wanted: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "int | None": (int,),
        "float": (int, float),
        "str": (str,),
        "bool": (bool,),
    }
    if hint == "tuple[str, ...]":
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ScenarioError(f"{where} must be a list of texts, not {value!r}")
        return
    kinds = wanted.get(hint)
    if kinds is None:
        return
    if not isinstance(value, kinds) or (isinstance(value, bool) and hint != "bool"):
        raise ScenarioError(f"{where} must be of type {hint}, not {value!r}")
    if isinstance(value, int | float) and not 0 <= value < 1e12:
        raise ScenarioError(f"{where} must be a number from 0 on, not {value!r}")
