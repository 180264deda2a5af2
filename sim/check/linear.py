"""Linearizability of a client history whose replies carry log positions, in time linear after a sort.

A general search (Wing and Gong 1993; Lowe 2017) has to guess an order. Here every reply names its place in one: a
command stands at (index, place) of the log, a query behind all commands of the entry `index` from whose state it was
answered. What is left to check is that this order does not contradict real time (Herlihy and Wing 1990, section 2.3),
here, and that it explains every result, in `sim.check.replay`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim.check.history import Operation

PLACES: Final = 1 << 24
"""Places in one entry; a position is the integer `index * PLACES + place`. Queries stand at the last place."""

Positions = dict[tuple[int, int], tuple[int, int]]
"""(session, seq) -> (index, place) where the command took effect, as a replay of the log found it."""


@dataclass(slots=True)
class Finding:
    """What one check found. `counted` says how much it looked at: a check that saw nothing has proved nothing."""

    name: str
    counted: int
    problems: int
    examples: list[str]
    """The first few problems in words."""

    @property
    def passed(self) -> bool:
        """No problem was found."""
        return self.problems == 0


EXAMPLES: Final = 5
"""Problems told in words, for one check; the rest are only counted."""


class Collector:
    """Counts problems of one check and keeps the first few in words."""

    __slots__ = ("counted", "examples", "name", "problems")

    def __init__(self, name: str) -> None:
        self.name = name
        self.counted = 0
        self.problems = 0
        self.examples: list[str] = []

    def problem(self, text: str) -> None:
        """Note a problem."""
        self.problems += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(text)

    def finding(self) -> Finding:
        """What was found."""
        return Finding(self.name, self.counted, self.problems, self.examples)


def describe(operation: Operation) -> str:
    """An operation in words, with its client, times and position."""
    if operation.op == "query":
        what = f"{operation.consistency} query"
    elif operation.op == "open":
        what = f"opening of session {operation.session}"
    else:
        what = f"write {operation.session}:{operation.seq}"
    if operation.index is None:
        where = "without a position"
    elif operation.op == "query":
        where = f"answered after entry {operation.index}"
    else:
        where = f"at entry {operation.index} place {operation.place if operation.place is not None else '?'}"
    until = "never" if operation.returned is None else f"{operation.returned} us"
    at_node = f" by {operation.node}" if operation.node else ""
    return f"{what} of {operation.client} (invoked {operation.invoke} us, returned {until}, {where}{at_node})"


def check_real_time(operations: Sequence[Operation], late: Positions | None = None) -> Finding:
    """Check that the order of the log agrees with real time.

    Violated if some A returned before some B was invoked and yet stands behind B. A ranges over acknowledged writes and
    opens and over every answer of a model, weak ones too (a weak answer may be old, but once it has shown entry i,
    nothing that is ordered before i can still begin); B over acknowledged writes, opens and linearizable queries, and
    over writes of unknown outcome found in the log by a replay (`late`), which return never and so are only ever B.
    Two queries may share a position. One sort and one sweep with a running maximum.
    """
    answered: list[int] = []
    found_late: list[tuple[int, tuple[int, int]]] = []
    for number, operation in enumerate(operations):
        if operation.outcome == "ok":
            if operation.index is not None and (operation.op != "query" or operation.source == "model"):
                answered.append(number)
        elif late is not None and operation.op == "write":
            found = late.get((operation.session or 0, operation.seq or 0))
            if found is not None:
                found_late.append((number, found))
    placed = [operations[number] for number in answered]
    numbers = np.array(answered, dtype=np.int64)
    invokes, ends, indexes = (_column(placed, name) for name in ("invoke", "returned", "index"))
    # A query stands behind all commands of its entry. An open may come without its place: let it stand where it can do no
    # harm in either comparison.
    last = PLACES - 1
    lows = np.fromiter(
        (
            o.place if o.op != "query" and o.place is not None else last if o.op == "query" else 0
            for o in placed
        ),
        dtype=np.int64,
        count=len(placed),
    )
    highs = np.fromiter(
        (o.place if o.op != "query" and o.place is not None else last for o in placed),
        dtype=np.int64,
        count=len(placed),
    )
    strong = np.fromiter(
        (o.op != "query" or o.consistency == "linearizable" for o in placed),
        dtype=np.bool_,
        count=len(placed),
    )
    begins = np.concatenate(
        (invokes[strong], np.array([operations[number].invoke for number, _ in found_late], dtype=np.int64))
    )
    begin_positions = np.concatenate(
        (
            (indexes * PLACES + highs)[strong],
            np.array([index * PLACES + place for _, (index, place) in found_late], dtype=np.int64),
        )
    )
    begin_numbers = np.concatenate(
        (numbers[strong], np.array([number for number, _ in found_late], dtype=np.int64))
    )
    collector = Collector("real_time_order")
    collector.counted = len(begins)
    if len(begins) and len(ends):
        _sweep(
            operations,
            (ends, indexes * PLACES + lows, numbers),
            (begins, begin_positions, begin_numbers),
            late or {},
            collector,
        )
    return collector.finding()


_Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


def _column(operations: Sequence[Operation], name: str) -> NDArray[np.int64]:
    """One integer field of all operations, none of which lacks it."""
    return np.fromiter(map(attrgetter(name), operations), dtype=np.int64, count=len(operations))


def _sweep(
    operations: Sequence[Operation], ended: _Columns, begun: _Columns, late: Positions, collector: Collector
) -> None:
    order = np.argsort(ended[0], kind="stable")
    ends, positions, numbers = ended[0][order], ended[1][order], ended[2][order]
    highest = np.maximum.accumulate(positions)
    # How many had returned strictly before each B was invoked; equal instants count as concurrent.
    before = np.searchsorted(ends, begun[0], side="left")
    some = before > 0
    bad = np.zeros(len(before), dtype=bool)
    bad[some] = highest[before[some] - 1] > begun[1][some]
    culprits = np.flatnonzero(bad)
    culprits = culprits[np.argsort(begun[0][culprits], kind="stable")]
    for culprit in culprits[:EXAMPLES]:
        first = int(np.argmax(positions[: before[culprit]]))
        one, two = operations[int(numbers[first])], operations[int(begun[2][culprit])]
        words = describe(two)
        if two.outcome != "ok":
            index, place = late[(two.session or 0, two.seq or 0)]
            words += f" (unknown outcome, found in the log at entry {index} place {place})"
        collector.problem(
            f"{describe(one)} had returned before {words} was invoked, yet stands behind it in the log"
        )
    collector.problems = len(culprits)


def check_unique_places(operations: Sequence[Operation]) -> Finding:
    """Check that no two acknowledged commands claim the same (index, place), and no (session, seq) two places."""
    collector = Collector("places_unique")
    at: dict[int, int] = {}
    of: dict[tuple[int, int], int] = {}
    for number, operation in enumerate(operations):
        if operation.op != "write" or operation.outcome != "ok":
            continue
        assert operation.index is not None
        assert operation.place is not None
        collector.counted += 1
        position = operation.index * PLACES + operation.place
        other = at.setdefault(position, number)
        if other != number:
            collector.problem(
                f"two writes claim one place: {describe(operations[other])} and {describe(operation)}"
            )
        name = (operation.session or 0, operation.seq or 0)
        other = of.setdefault(name, number)
        if other != number:
            collector.problem(
                f"one number was used twice: {describe(operations[other])} and {describe(operation)}"
            )
    return collector.finding()


def check_chains_agree(operations: Sequence[Operation]) -> Finding:
    """Check that all replies that name a log index name the same chain value for it: a fork of the log shows here to
    clients alone, with no folder looked at."""
    collector = Collector("chains_agree")
    seen: dict[int, int] = {}
    for number, operation in enumerate(operations):
        if operation.outcome != "ok" or operation.chain is None or operation.index is None:
            continue
        collector.counted += 1
        other = operations[seen.setdefault(operation.index, number)]
        if other.chain != operation.chain:
            assert other.chain is not None
            collector.problem(
                f"a fork at entry {operation.index}: {other.chain.hex()[:16]}... was told to {describe(other)}, "
                f"{operation.chain.hex()[:16]}... to {describe(operation)}"
            )
    return collector.finding()
