"""Where the sometimes-marks stand (`consensus.marks`), read from the source itself, so that none can be missing from the list."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

import consensus
import node

PACKAGES: Final = (consensus, node)
"""The packages that hold marks: what is tried out, never what tries it."""


class MarkError(ValueError):
    """A mark that cannot be listed: its name is no literal, or stands in two places. The text says where."""


def places() -> dict[str, str]:
    """Every mark with its place, like `consensus/raft/leading.py:93`, in the order of the places. Raises MarkError."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            name = path.relative_to(root.parent).as_posix()
            for mark, place in in_source(path.read_text(encoding="utf-8"), name):
                if mark in found:
                    raise MarkError(
                        f"{place}: {mark!r} stands at {found[mark]} already; a mark names one branch"
                    )
                found[mark] = place
    return found


def in_source(source: str, name: str) -> list[tuple[str, str]]:
    """(mark, `name:line`) of the marks in a module's source, by line. Raises MarkError."""
    calls = [
        call
        for call in ast.walk(ast.parse(source, name))
        if isinstance(call, ast.Call)
        and (
            (isinstance(call.func, ast.Name) and call.func.id == "sometimes")
            or (isinstance(call.func, ast.Attribute) and call.func.attr == "sometimes")
        )
    ]
    found: list[tuple[str, str]] = []
    for call in sorted(calls, key=lambda call: (call.lineno, call.col_offset)):
        place = f"{name}:{call.lineno}"
        argument = call.args[0] if len(call.args) == 1 and not call.keywords else None
        if not isinstance(argument, ast.Constant) or type(argument.value) is not str:
            raise MarkError(f"{place}: the name of a mark must be a literal string")
        found.append((argument.value, place))
    return found
