"""Dataclasses in the copy of the sources that is compiled: their constructors written out, wire messages registered at the end.

The compiler takes a dataclass's `__init__` from Python's `dataclasses`: it stays interpreted, and is called with a tuple and a
dict. For a class of six fields that takes longer than all that the compiled code around it does with the object. One that stands
in the source is compiled. What is added takes the place of the two empty lines behind a class, so that every line keeps its
number.

Such a class can no longer be made without arguments, as `pickle` and `copy` do: its `__reduce__` has them call the constructor,
and `__post_init__` behind it once more.
A class with a decorator of its own would not be compiled at all, and a compiled one forgets what its fields are lists of: where
there is a `consensus.wire.register`, it is called behind everything else, with the types of all fields.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_KNOWN: Final = {"slots", "frozen", "eq", "repr", "order"}
"""Arguments of `dataclass` that do not change what its `__init__` is."""
_NO_PARAMETER: Final = {"init", "kw_only"}
"""Arguments of `field` that do."""


@dataclass(slots=True, frozen=True)
class _Field:
    name: str
    hint: str
    default: str = ""
    factory: str = ""

    def parameter(self) -> str:
        if self.factory:
            return f"{self.name}: {self.hint} | None = None"
        return f"{self.name}: {self.hint}" + (f" = {self.default}" if self.default else "")

    def assignment(self) -> str:
        made = f"({self.factory})() if {self.name} is None else " if self.factory else ""
        return f"self.{self.name} = {made}{self.name}"


@dataclass(slots=True, frozen=True)
class _Class:
    node: ast.ClassDef
    fields: list[_Field]
    frozen: bool
    register: list[ast.Call]
    """The decorator that registers a message, if there is one."""

    def methods(self) -> list[str]:
        """What is added to the class: one line each."""
        parameters = ", ".join(["self", *(one.parameter() for one in self.fields)])
        body = "; ".join(one.assignment() for one in self.fields)
        if "__post_init__" in _methods(self.node):
            body += "; self.__post_init__()"
        # To the compiler, fields of a frozen class can be set nowhere.
        ignored = "  # type: ignore[misc]" if self.frozen else ""
        values = "".join(f"self.{one.name}, " for one in self.fields)
        constructor = f"def __init__({parameters}) -> None: {body}{ignored}"
        if "__reduce__" in _methods(self.node):
            return [constructor]
        return [constructor, f"def __reduce__(self) -> tuple[object, ...]: return type(self), ({values})"]


def spell_out(path: Path) -> list[str]:
    """Rewrite a module in place; the names of the classes that it was done to. A class is left as it is where its constructor is
    not told by the fields in their order: it inherits, has one of its own, or fields that are no parameters."""
    text = path.read_text(encoding="utf-8")
    lines = [*text.splitlines(), "", ""]
    done: list[str] = []
    for node in ast.walk(ast.parse(text)):
        found = _understood(node, text) if isinstance(node, ast.ClassDef) else None
        if found is None:
            continue
        end = found.node.end_lineno or 0
        added = found.methods()
        if lines[end : end + len(added)] != [""] * len(added):
            continue
        lines[end : end + len(added)] = [" " * (found.node.col_offset + 4) + method for method in added]
        for call in found.register:
            for line in range(call.lineno - 1, call.end_lineno or call.lineno):
                lines[line] = ""
            kind = ast.unparse(call.args[0])
            hints = ", ".join(f'"{one.name}": {one.hint}' for one in found.fields)
            lines.append(f"register({kind}, {{{hints}}})({found.node.name})")
        done.append(found.node.name)
    if done:
        path.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return done


def _methods(node: ast.ClassDef) -> set[str]:
    return {inner.name for inner in node.body if isinstance(inner, ast.FunctionDef)}


def _understood(node: ast.ClassDef, text: str) -> _Class | None:
    """A dataclass whose constructor can be told from its fields alone."""
    decorators = {_name(one): one for one in node.decorator_list}
    if "dataclass" not in decorators or decorators.keys() - {"dataclass", "register"}:
        return None
    arguments = _keywords(decorators["dataclass"])
    if not arguments.keys() <= _KNOWN or node.bases or node.keywords or "__init__" in _methods(node):
        return None
    register = [one for one in node.decorator_list if isinstance(one, ast.Call) and _name(one) == "register"]
    if any(len(one.args) != 1 or one.keywords for one in register):
        return None
    fields: list[_Field] = []
    for inner in node.body:
        if isinstance(inner, ast.AnnAssign):
            if (one := _field(inner, text)) is None:
                return None
            fields.append(one)
    frozen = arguments.get("frozen")
    truly = isinstance(frozen, ast.Constant) and frozen.value is True
    return _Class(node, fields, truly, register) if fields else None


def _name(call: ast.expr) -> str:
    """Of what is called, or named; empty: it has no simple name."""
    called = call.func if isinstance(call, ast.Call) else call
    return called.id if isinstance(called, ast.Name) else ""


def _keywords(call: ast.expr) -> dict[str | None, ast.expr]:
    return {one.arg: one.value for one in call.keywords} if isinstance(call, ast.Call) else {}


def _field(statement: ast.AnnAssign, text: str) -> _Field | None:
    """A field, or None where it is none, or not simply a parameter."""
    hint = _on_one_line(statement.annotation, text)
    if not isinstance(statement.target, ast.Name) or not hint or "ClassVar" in hint or "InitVar" in hint:
        return None
    name = statement.target.id
    if statement.value is None:
        return _Field(name, hint)
    if not isinstance(statement.value, ast.Call):
        value = _on_one_line(statement.value, text)
        return _Field(name, hint, default=value) if value else None
    arguments = _keywords(statement.value)
    if _name(statement.value) != "field" or arguments.keys() & _NO_PARAMETER:
        return None
    if "default" in arguments:
        return _Field(name, hint, default=ast.unparse(arguments["default"]))
    if "default_factory" in arguments:
        if not _container(statement.annotation):
            return None  # None stands for "not given"
        return _Field(name, hint, factory=ast.unparse(arguments["default_factory"]))
    return _Field(name, hint)


def _container(hint: ast.expr) -> bool:
    """Whether a hint is plainly that of a container, which None is not."""
    return _name(hint.value if isinstance(hint, ast.Subscript) else hint) in (
        "list",
        "dict",
        "set",
        "bytearray",
    )


def _on_one_line(expression: ast.expr, text: str) -> str:
    segment = ast.get_source_segment(text, expression) or ""
    return "" if "\n" in segment else segment
