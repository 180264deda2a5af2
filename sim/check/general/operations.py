"""What the general checker is asked about: operations on cells, each with the time it was invoked and returned, and verdicts.

A *cell* is one register or one key: it holds a value, `None` at first. Linearizability is local (Herlihy and Wing 1990,
theorem 1): a history is linearizable if and only if each cell's part of it is, so that cells are judged apart.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

READ: Final = "read"
WRITE: Final = "write"
CAS: Final = "cas"
APPEND: Final = "append"
KINDS: Final = (READ, WRITE, CAS, APPEND)


class Outcome(Enum):
    """Of a check."""

    LINEARIZABLE = "linearizable"
    NOT = "not linearizable"
    UNDECIDED = "undecided"


@dataclass(slots=True)
class Op:
    """One operation on one cell, as its client saw it.

    What a `read` without an answer said is not known, and it is ignored. A `write`, `cas` or `append` without an answer
    (`returned` is None) may take effect at any time after `invoke`, or never. Operations known to have had no effect
    are left out of a history, but for a failed compare-and-set that is known to have found another value (`ok` False).
    """

    kind: str
    """One of `KINDS`."""
    key: Hashable
    process: Hashable
    """Who did it; only for people."""
    invoke: int
    """When it was invoked. Any integer clock, the same for all."""
    returned: int | None
    """When its answer came; None: there was none. An operation that returns when another is invoked overlaps it."""
    value: Any = None
    """Of a read: what it returned. Of the others: what is written, put behind, or set in the end."""
    expected: Any = None
    """Of a cas: the value that must be there."""
    ok: bool = True
    """Of a cas: False if it found something else than `expected`, and changed nothing."""
    length: int | None = None
    """Of an append: the length that the value had behind it, if the answer told it."""
    line: int | None = None
    """Where it stands in its file, for people."""
    name: str = ""
    """What its history calls it, for people, where that and not the change of a value says what it was."""


def describe(op: Op) -> str:
    """An operation in a few words."""
    if op.name:
        text = op.name
    elif op.kind == READ:
        text = f"read -> {show(op.value)}"
    elif op.kind == CAS:
        text = f"cas {show(op.expected)} -> {show(op.value)}{'' if op.ok else ' (mismatch)'}"
    else:
        text = f"{op.kind} {show(op.value)}"
        if op.length is not None:
            text += f" (then {op.length} long)"
    return text if op.returned is not None else text + " ?"


def show(value: Any, most: int = 40) -> str:
    """A value as short text; long ones keep both ends."""
    text = "nil" if value is None else printable(repr(value))
    if len(text) <= most:
        return text
    half = (most - 3) // 2
    return f"{text[:half]}...{text[-half:]}"


def printable(text: str) -> str:
    """A text fit for any terminal: what does not print (control characters, halves of surrogate pairs) as escapes."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text
    )


@dataclass(slots=True)
class CellVerdict:
    """What was found for one cell. Operations are named by their place in the sequence that was checked."""

    key: Hashable
    outcome: Outcome
    method: str
    """`search`, `zones` or `append order`."""
    operations: int
    seconds: float
    configurations: int = 0
    """Looked at by the search."""
    linearization: list[int] | None = None
    """If linearizable: an order of the operations that proves it (unread operations without an answer are left out)."""
    failed: int | None = None
    """If not: the operation with the earliest return that cannot be explained. Everything that returned before it can."""
    partials: list[list[int]] = field(default_factory=list)
    """If not: longest orders of what was invoked before `failed` returned, without it."""
    values: list[Any] = field(default_factory=list)
    """If not: values that the cell may have held when `failed` returned."""
    reason: str = ""
    """If undecided: why."""


@dataclass(slots=True)
class Verdict:
    """What was found for a history."""

    outcome: Outcome
    cells: list[CellVerdict]
    operations: int
    seconds: float

    @property
    def failure(self) -> CellVerdict | None:
        """The cell that fails, if one does; of several the one whose operation returned first."""
        return next((cell for cell in self.cells if cell.outcome is Outcome.NOT), None)


def verify(ops: Sequence[Op], order: Sequence[int], initial: Any = None) -> str | None:
    """Check a linearization of one cell by running it: what is wrong with it in words, or None.

    Shares nothing with the search. Every operation with an answer must stand in `order` once, in an order that agrees
    with real time (no operation stands before another that returned before its invocation), and each must be legal
    where it stands. Reads without an answer may be left out, as may anything that has none. Time: linear.
    """
    seen: set[int] = set()
    state = initial
    latest, latest_number = None, -1
    for number in order:
        op = ops[number]
        if number in seen:
            return f"operation {number} stands there twice"
        seen.add(number)
        if latest is not None and op.returned is not None and op.returned < latest:
            return f"operation {number} returned before operation {latest_number} was invoked, yet stands behind it"
        if latest is None or op.invoke > latest:
            latest, latest_number = op.invoke, number
        if op.kind == READ:
            legal = op.returned is None or same(state, op.value)
        elif op.kind == WRITE:
            legal, state = True, op.value
        elif op.kind == CAS:
            legal = same(state, op.expected) == op.ok
            state = op.value if op.ok and legal else state
        else:
            state = op.value if state is None else state + op.value
            legal = op.length is None or len(state) == op.length
        if not legal:
            return f"operation {number} ({describe(op)}) is not legal where the value is {show(state)}"
    for number, op in enumerate(ops):
        if op.returned is not None and number not in seen:
            return f"operation {number} ({describe(op)}) is missing"
    return None


def same(one: Any, other: Any) -> bool:
    """Equal and of one type, also within tuples: 1, 1.0 and True are three values. Not-a-number is one value."""
    if one.__class__ is not other.__class__:
        return False
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other or (one != one and other != other))


def typed(value: Any) -> Any:
    """A dictionary key for a value: two of them are equal where `same` says that the values are."""
    kind = value.__class__
    if kind is int or kind is str or kind is bytes or value is None:
        return (kind, value)
    if isinstance(value, tuple):
        return (kind, tuple(map(typed, value)))
    return (kind, value if value == value else "not a number")
