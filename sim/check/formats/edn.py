"""A reader of EDN, the notation of Clojure's data, as far as histories need it, with the line of everything that is wrong.

Numbers, strings, characters, nil, true, false, keywords, symbols, lists, vectors, maps, sets, tagged values, `#_`, comments
and metadata are read. Lists and vectors become tuples, sets `Set`, keywords `Keyword`, decimals `Exact`. A tagged value is its
value: the tag of a record says nothing that a history needs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from decimal import Decimal, DecimalException
from typing import Any, Final


class EdnError(ValueError):
    """Text that is no EDN. `line` counts from 1."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class Keyword(str):
    """A keyword, without its colon. Never equal to a string of the same letters."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other.__class__ is self.__class__ and str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return str.__hash__(self) ^ 1

    def __repr__(self) -> str:
        return f":{self!s}"


class Symbol(Keyword):
    """A symbol."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Exact(Decimal):
    """A number that a float cannot tell from others: a decimal (`1.5M`), or one beyond a float's range."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{self!s}M"


class Set(tuple[Any, ...]):
    """A set, in an order that does not depend on how it was written."""

    __slots__ = ()

    def __new__(cls, items: Iterable[Any] = ()) -> Set:
        return super().__new__(cls, sorted(items, key=repr))

    def __repr__(self) -> str:
        return f"#{{{' '.join(map(repr, self))}}}"


DEPTH: Final = 100
"""Nesting beyond which a text is refused."""
TOO_LONG: Final = f"an integer has more than {sys.get_int_max_str_digits():,} digits"
"""What is wrong with a number that Python will not make of so many digits."""

_TOKEN: Final = re.compile(
    r"""(?P<skip>[\s,]+|;[^\r\n]*)
    |(?P<string>"(?:[^"\\]|\\.)*")
    |(?P<dispatch>\#_|\#\{|\#\^|\#inf|\#\#[A-Za-z]+|\#[A-Za-z][^\s,;"()\[\]{}]*|\#")
    |(?P<bracket>[()\[\]{}])
    |(?P<character>\\(?:[a-zA-Z0-9]+|.))
    |(?P<meta>\^)
    |(?P<atom>[^\s,;"()\[\]{}\\^\#][^\s,;"()\[\]{}]*)
    """,
    re.X | re.S,
)
_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:N|(?:\.\d*)?(?:[eE][+-]?\d+)?M?)|\d+/\d+)\Z", re.A)
_DIGITS: Final = frozenset("0123456789")
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.S)
_ESCAPES: Final = {"t": "\t", "r": "\r", "n": "\n", "b": "\b", "f": "\f", '"': '"', "\\": "\\"}
_CLOSING: Final = {"(": ")", "[": "]", "{": "}", "#{": "}"}
_CHARACTERS: Final = {"newline": "\n", "space": " ", "tab": "\t", "return": "\r"}


def real(text: str) -> float | Exact:
    """A number with a point or an exponent. What a float would make infinite, or zero, is kept as it is written, so that two such
    numbers stay two. Raises OverflowError for an exponent that no number can have."""
    number = float(text)
    if number in _BORDERS and (kept := exact(text)) != number:
        return kept
    return number


_BORDERS: Final = (0.0, float("inf"), float("-inf"))


def exact(text: str) -> Exact:
    """A number with all its digits. Raises OverflowError for an exponent that no number can have."""
    try:
        return Exact(text)
    except DecimalException:
        raise OverflowError(f"the exponent of {text:.60} is too large") from None


def read_all(text: str, line: int = 1) -> Iterator[tuple[int, Any]]:
    """Every value that stands in a text, one behind the other, with the line on which it begins. `line`: number of the text's
    first line. Raises EdnError where something is wrong, after what stands before it."""
    reader = _Reader(text, line)
    while (found := reader.next_value(top=True)) is not None:
        yield found


class _Reader:
    def __init__(self, text: str, line: int) -> None:
        self.text, self.at = text, 0
        self.line = line
        self.depth = 0

    def fail(self, text: str, line: int | None = None) -> EdnError:
        return EdnError(line or self.line, text)

    def token(self) -> tuple[str, str] | None:
        """(kind, text) of the next token; None at the end."""
        while self.at < len(self.text):
            match = _TOKEN.match(self.text, self.at)
            if match is None:
                if self.text[self.at] == '"':
                    raise self.fail("a string has no closing quote")
                raise self.fail(f"cannot read {self.text[self.at : self.at + 20]!r}")
            self.at = match.end()
            kind, found = match.lastgroup or "", match.group()
            before = self.line
            self.line += found.count("\n")
            if kind != "skip":
                self.began = before
                return kind, found
        return None

    def next_value(self, top: bool = False) -> tuple[int, Any] | None:
        """The next value and its line; None at the end, or at a closing bracket, which is then in `closed`."""
        while True:
            token = self.token()
            if token is None:
                self.closed = ""
                return None
            kind, found = token
            line = self.began
            if kind == "bracket" and found in ")]}":
                if top:
                    raise self.fail(f"{found!r} closes nothing", line)
                self.closed = found
                return None
            if found == "#_":
                self.needed("#_")
                continue
            if kind == "meta" or found == "#^":
                self.needed("^")
                continue
            return line, self.value(kind, found, line)

    def needed(self, what: str) -> Any:
        self.enter(self.began)
        found = self.next_value()
        self.depth -= 1
        if found is None:
            raise self.fail(f"nothing stands behind {what}")
        return found[1]

    def enter(self, line: int) -> None:
        """Go one level down; whoever calls it comes up again."""
        self.depth += 1
        if self.depth > DEPTH:
            raise self.fail(f"nested deeper than {DEPTH}", line)

    def value(self, kind: str, found: str, line: int) -> Any:
        if kind == "atom":
            return self.atom(found, line)
        if kind == "string":
            return self.string(found, line)
        if kind == "bracket" or found == "#{":
            return self.collection(found, line)
        if kind == "character":
            name = found[1:]
            if len(name) == 1 or name in _CHARACTERS:
                return _CHARACTERS.get(name, name)
            raise self.fail(f"unknown character {found}", line)
        if found.startswith("##"):
            if found[2:] in ("Inf", "-Inf", "NaN"):
                return float(found[2:].lower())
            raise self.fail(f"unknown symbolic value {found}", line)
        if found == '#"':
            raise self.fail("a regular expression is no data", line)
        return self.needed(f"the tag {found}")

    def collection(self, opening: str, line: int) -> Any:
        self.enter(line)
        items: list[Any] = []
        while (item := self.next_value()) is not None:
            items.append(item[1])
        self.depth -= 1
        if self.closed != _CLOSING[opening]:
            closed = f"is closed by {self.closed!r}" if self.closed else "is never closed"
            raise self.fail(f"{opening!r} {closed}", line)
        if opening == "{":
            if len(items) % 2:
                raise self.fail("a map has a key without a value", line)
            try:
                return dict(zip(items[::2], items[1::2], strict=True))
            except TypeError:
                raise self.fail("a map has a map as its key, which cannot be read", line) from None
        return Set(items) if opening == "#{" else tuple(items)

    def atom(self, found: str, line: int) -> Any:
        if found[0] == ":":
            if len(found) == 1:
                raise self.fail("a keyword has no name", line)
            return Keyword(found[1:])
        if found in ("nil", "true", "false"):
            return {"nil": None, "true": True, "false": False}[found]
        if found[0] in _DIGITS or (found[0] in "+-" and found[1:2] in _DIGITS):
            if not _NUMBER.match(found):
                raise self.fail(f"{found!r:.60} is no number", line)
            return self.number(found, line)
        return Symbol(found)

    def number(self, found: str, line: int) -> Any:
        if "/" in found:
            return Symbol(found)
        body = found.rstrip("NM")
        try:
            if found[-1] == "M":
                return exact(body)
            return int(body) if body.lstrip("+-").isdigit() else real(body)
        except OverflowError as error:
            raise self.fail(str(error), line) from None
        except ValueError:
            raise self.fail(TOO_LONG, line) from None

    def string(self, found: str, line: int) -> str:
        def escape(match: re.Match[str]) -> str:
            name = match.group(1)
            if len(name) == 5:
                return chr(int(name[1:], 16))
            if name not in _ESCAPES:
                raise self.fail(f"unknown escape \\{name} in a string", line)
            return _ESCAPES[name]

        body = found[1:-1]
        return _ESCAPE.sub(escape, body) if "\\" in body else body
