"""One cell's history made ready for the search: values as small integers, events in order, useless operations left out."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sim.check.general.operations import APPEND, CAS, READ, WRITE, Op, typed

FOREVER: Final = 1 << 60
"""Position of a return that never comes."""
DEAD: Final = 0
"""The state of a cell whose value nothing still to be explained can tell apart from any other such value."""

IS_READ: Final = 0
IS_MISMATCH: Final = 1
IS_WRITE: Final = 2
IS_CAS: Final = 3
IS_APPEND: Final = 4


@dataclass(slots=True)
class Step:
    """An operation as the search sees it. States are numbers of `States`."""

    number: int
    """In the sequence that is checked."""
    kind: int
    state: int
    """That a read or a cas finds, or a mismatch does not find."""
    result: int
    """State behind a write or a cas."""
    text: int
    """Of an append: the number of its text."""
    length: int
    """Of an append: the length behind it if known, else -1."""
    invoked: int
    """Position of the invocation among the cell's events."""
    returned: int
    """Position of the return; FOREVER if there is none."""
    useful: int
    """Last position at which its effect could help to explain something; only for one that never returns."""


class States:
    """Numbers for values. State 0 is `DEAD`; with lengths told by appends there is one dead state a length.

    `until[s]`: the last position whose explanation could depend on the cell being in state s, or, where texts are
    appended, in one that grows out of it. Behind that position s is as good as dead, and the search treats it so. This
    is exact: a dead value satisfies no read, no cas and no mismatch that is left (a mismatch counts as looking at the value
    that it excludes), whatever is appended to it, and a write ends it.
    """

    def __init__(self, watched: dict[Any, int], concatenates: bool, lengths: bool) -> None:
        """`watched`: until when each value is looked at, keys as `typed` makes them."""
        self.values: list[Any] = [None]
        self.until: list[int] = [FOREVER]
        self.length: list[int] = [-1]
        self._numbers: dict[Any, int] = {}
        self._dead: dict[int, int] = {}
        self._watched = watched
        self._lengths = lengths
        self._concatenates = concatenates
        self._texts: list[Any] = []
        self._last: list[int] = []
        self._longest = max(watched.values(), default=-1)
        if concatenates:
            self._texts = sorted(key[1] for key in watched if key[1] is not None)
            self._last = [watched[typed(text)] for text in self._texts]
        self._grown: dict[tuple[int, int], int] = {}

    def watched_until(self, value: Any) -> int:
        """See `until`; -1 if never."""
        if not self._concatenates:
            return self._watched.get(typed(value), -1)
        if value is None:
            return self._longest
        size = len(value)
        low = bisect_left(self._texts, value)
        high = bisect_right(self._texts, value, lo=low, key=lambda text: text[:size])
        return max(self._last[low:high], default=-1)

    def number(self, value: Any) -> int:
        """The state of a cell that holds `value`."""
        key = typed(value)
        number = self._numbers.get(key)
        if number is None:
            until = self.watched_until(value)
            if until < 0:
                return self.dead(len(value) if self._lengths and value is not None else 0)
            number = self._numbers[key] = len(self.values)
            self.values.append(value)
            self.until.append(until)
            self.length.append(len(value) if self._concatenates and value is not None else 0)
        return number

    def dead(self, length: int) -> int:
        """The dead state; where lengths matter, the one of that length."""
        if not self._lengths:
            return DEAD
        number = self._dead.get(length)
        if number is None:
            number = self._dead[length] = len(self.values)
            self.values.append(None)
            self.until.append(-1)
            self.length.append(length)
        return number

    def grow(self, state: int, text: int, texts: Sequence[Any]) -> int:
        """The state behind an append."""
        grown = self._grown.get((state, text))
        if grown is None:
            added = texts[text]
            if state == DEAD or self.until[state] < 0:
                grown = self.dead(self.length[state] + len(added))
            else:
                old = self.values[state]
                grown = self.number(added if old is None else old + added)
            self._grown[(state, text)] = grown
        return grown


@dataclass(slots=True)
class Cell:
    """One cell's history, ready."""

    events: list[Step]
    """In order; a step that returns stands there twice, first for its invocation."""
    states: States
    texts: list[Any]
    start: int
    inert: bool
    """A change that nothing can observe is never of use: there are no mismatches and no known lengths."""
    steps: int


def prepare(ops: Sequence[Op], initial: Any = None) -> Cell:
    """Make a cell ready. Left out, because they explain nothing and hinder nothing: reads without an answer; with `inert`,
    changes without an answer whose value nobody sees behind their invocation. Raises ValueError if appends are mixed with
    values that are no text."""
    considered = [
        number for number, op in enumerate(ops) if op.returned is not None or (op.kind != READ and op.ok)
    ]
    positions = _positions(ops, considered)
    concatenates = any(ops[number].kind == APPEND for number in considered)
    lengths = any(ops[number].length is not None for number in considered)
    inert = not lengths and all(ops[number].ok for number in considered)
    if concatenates:
        _check_texts([ops[number] for number in considered], initial)
    states = States(_watched(ops, considered, positions, concatenates, inert), concatenates, lengths)
    texts: list[Any] = []
    text_numbers: dict[Any, int] = {}
    placed: list[tuple[int, Step]] = []
    steps = 0
    for number in considered:
        op = ops[number]
        invoked, returned = positions[number]
        state = result = 0
        text, useful = -1, FOREVER
        if op.kind == READ:
            kind, state = IS_READ, states.number(op.value)
        elif op.kind == WRITE:
            kind, result = IS_WRITE, states.number(op.value)
            useful = states.watched_until(op.value)
        elif op.kind == CAS:
            kind = IS_CAS if op.ok else IS_MISMATCH
            state, result = states.number(op.expected), states.number(op.value) if op.ok else 0
            useful = states.watched_until(op.value)
        else:
            kind = IS_APPEND
            text = text_numbers.setdefault(op.value, len(texts))
            if text == len(texts):
                texts.append(op.value)
            if returned == FOREVER and inert:
                useful = _seen_until(ops, considered, positions, op.value)
        if returned == FOREVER and inert and useful < invoked:
            continue
        length = -1 if op.length is None else op.length
        step = Step(
            number, kind, state, result, text, length, invoked, returned, useful if inert else FOREVER
        )
        steps += 1
        placed.append((invoked, step))
        if returned != FOREVER:
            placed.append((returned, step))
    placed.sort(key=lambda item: item[0])
    return Cell([step for _, step in placed], states, texts, states.number(initial), inert, steps)


def _positions(ops: Sequence[Op], considered: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Positions of invocation and return. At one time, invocations come first: what touches overlaps."""
    times: list[tuple[int, int, int]] = []
    for number in considered:
        op = ops[number]
        times.append((op.invoke, 0, number))
        if op.returned is not None:
            if op.returned < op.invoke:
                raise ValueError(
                    f"operation {number} returned at {op.returned}, before its invocation at {op.invoke}"
                )
            times.append((op.returned, 1, number))
    times.sort()
    positions: dict[int, tuple[int, int]] = {}
    for position, (_, returned, number) in enumerate(times):
        positions[number] = (positions[number][0], position) if returned else (position, FOREVER)
    return positions


def _watched(
    ops: Sequence[Op],
    considered: Sequence[int],
    positions: dict[int, tuple[int, int]],
    concatenates: bool,
    inert: bool,
) -> dict[Any, int]:
    watched: dict[Any, int] = {}
    hopeful: list[tuple[Any, Any]] = []
    for number in considered:
        op = ops[number]
        if op.kind not in (READ, CAS):
            continue
        key = typed(op.value if op.kind == READ else op.expected)
        returned = positions[number][1]
        if returned == FOREVER and inert and not concatenates:
            hopeful.append((key, typed(op.value)))
        else:
            watched[key] = max(watched.get(key, -1), returned)
    # A cas that never returned looks at its value only as long as what it sets is looked at: the least fixed point.
    changed = True
    while changed:
        changed = False
        for key, result in hopeful:
            until = watched.get(result, -1)
            if until > watched.get(key, -1):
                watched[key] = until
                changed = True
    return watched


def _seen_until(
    ops: Sequence[Op], considered: Sequence[int], positions: dict[int, tuple[int, int]], text: Any
) -> int:
    """The last position at which a value is looked at that has `text` in it."""
    last = -1
    for number in considered:
        op = ops[number]
        looked = op.value if op.kind == READ else op.expected if op.kind == CAS else None
        if looked is not None and positions[number][1] > last and text in looked:
            last = positions[number][1]
    return last


def _check_texts(ops: Sequence[Op], initial: Any) -> None:
    kind = next(op.value.__class__ for op in ops if op.kind == APPEND)
    if kind not in (str, bytes):
        raise ValueError(f"only texts can be appended, not {kind.__name__}; as JSON or EDN write a string")
    for op in ops:
        for value in (op.value, op.expected, initial):
            if value is not None and value.__class__ is not kind:
                where = f"line {op.line}: " if op.line is not None else ""
                raise ValueError(
                    f"{where}a key with appended {kind.__name__} values also holds {value!r:.40} of type "
                    f"{value.__class__.__name__}; write all values of such a key as {kind.__name__}"
                )
