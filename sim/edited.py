"""What a person may have edited: a file of JSON, and checks of its values that say in words what is wrong and what is allowed."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

MOST_BYTES: Final = 16 << 20
"""Of a file that is read as a whole: a plan is some KiB."""
DEEPEST: Final = 24
"""Lists and objects inside each other. What is deeper trips whoever walks it by recursion."""

Check = Callable[[Any], str]
"""What is wrong with a value and what is allowed, in words; empty: nothing is wrong."""


def read_text(path: Path) -> str:
    """A file's text. Raises OSError; ValueError for what is no file, is too large or is no text."""
    if path.exists() and not path.is_file():
        raise ValueError("not a file")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES >> 20} MiB")
    return path.read_text(encoding="utf-8")


def read_json(text: str) -> Any:
    """JSON, with no key twice and nothing too deep. Raises ValueError, with the place where there is one."""
    try:
        found = json.loads(text, object_pairs_hook=_object)
        level = [found]
        for _ in range(DEEPEST):
            level = [inner for outer in level for inner in _inside(outer)]
            if not level:
                return found
    except RecursionError:
        pass
    raise ValueError(f"lists and objects lie more than {DEEPEST} deep in each other")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {shown(key)} stands twice in one object")
        found[key] = value
    return found


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def shown(value: Any) -> str:
    """A value in a few words, whatever it is."""
    return reprlib.repr(value)


def whole(low: int, high: int) -> Check:
    """An integer of a range; `true` is none."""

    def check(value: Any) -> str:
        if type(value) is int and low <= value <= high:
            return ""
        return f"{shown(value)} is not an integer from {low:,} to {high:,}"

    return check


def number(low: float, high: float) -> Check:
    """A finite number of a range, whole or not."""

    def check(value: Any) -> str:
        good = type(value) in (int, float) and math.isfinite(value) and low <= value <= high
        return "" if good else f"{shown(value)} is not a number from {low:g} to {high:g}"

    return check


SHARE: Final = number(0, 1)


def flag(value: Any) -> str:
    """`true` or `false`."""
    return "" if type(value) is bool else f"{shown(value)} is neither true nor false"


def word(value: Any) -> str:
    """A text that is not empty."""
    return "" if type(value) is str and value else f"{shown(value)} is not a text with something in it"


def pair(low: int, high: int) -> Check:
    """Two integers of a range, the lower one first."""
    each = whole(low, high)

    def check(value: Any) -> str:
        good = isinstance(value, list | tuple) and len(value) == 2 and not any(map(each, value))
        if good and value[0] <= value[1]:
            return ""
        return f"{shown(value)} is not a pair of integers from {low:,} to {high:,}, the lower one first"

    return check


def one_of(*allowed: str) -> Check:
    """One of some texts."""

    def check(value: Any) -> str:
        if type(value) is str and value in allowed:
            return ""
        return f"{shown(value)} is none of {', '.join(allowed)}"

    return check


def texts(value: Any) -> str:
    """A list of texts with something in them; the list may be empty."""
    if isinstance(value, list | tuple) and not any(map(word, value)):
        return ""
    return f"{shown(value)} is not a list of texts with something in them"
