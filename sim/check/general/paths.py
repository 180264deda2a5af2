"""From what the search remembers to a full linearization: reads and hidden changes put back where they belong."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any

from sim.check.general.cells import FOREVER, Cell, Step
from sim.check.general.operations import APPEND, CAS, READ, WRITE, Op, same, verify
from sim.check.general.search import Link


def unroll(link: Link | None) -> list[tuple[int, int, int]]:
    """(operation, position, cas hidden before it or -1) from the first to the last."""
    steps: list[tuple[int, int, int]] = []
    while link is not None:
        link, number, position, covered = link
        steps.append((number, position, covered))
    steps.reverse()
    return steps


def full_order(
    ops: Sequence[Op], cell: Cell, link: Link | None, initial: Any, upto: int = FOREVER
) -> list[int]:
    """The linearization behind a link, for everything that returned before position `upto`.

    The visible changes divide time: between two of them the cell holds one value. A read stands in the first such stretch
    that it overlaps and that holds its value; a hidden change at the end of one, just before a write. Operations for which
    no place is found are left out; `verify` would say so.
    """
    visible = unroll(link)
    steps = _steps(cell)
    values = [initial]
    for number, _, _ in visible:
        values.append(_changed(ops[number], values[-1]))
    marks = [-1, *(position for _, position, _ in visible), min(upto, FOREVER)]
    taken = {number for number, _, _ in visible}
    covered_at = {covered: place for place, (_, _, covered) in enumerate(visible) if covered >= 0}
    early: list[list[int]] = [[] for _ in values]
    late: list[list[int]] = [[] for _ in values]
    for step in steps:
        number, op = step.number, ops[step.number]
        if number in taken or step.returned >= upto:
            continue
        # From the first stretch that ends behind its invocation to the last that begins before its return.
        first = bisect_right(marks, step.invoked) - 1
        last = min(bisect_right(marks, step.returned) - 1, len(values) - 1)
        stretches = range(first, last + 1)
        if op.kind == READ or not op.ok:
            fit = [
                p for p in stretches if same(values[p], op.value if op.kind == READ else op.expected) == op.ok
            ]
            if fit:
                early[fit[0]].append(number)
            continue
        if op.kind == CAS:
            if number in covered_at:
                late[covered_at[number]].insert(0, number)
            continue
        place = next(
            (
                place
                for place in stretches
                if place < len(visible)
                and ops[visible[place][0]].kind == WRITE
                and marks[place + 1] <= step.returned
            ),
            stretches[-1] if op.kind == APPEND and stretches else -1,
        )
        if place >= 0:
            late[place].append(number)
    order: list[int] = []
    for place in range(len(values)):
        order += sorted(early[place], key=lambda number: ops[number].invoke)
        order += late[place][:1] if late[place] and ops[late[place][0]].kind == CAS else []
        rest = [number for number in late[place] if number not in order[-1:]]
        order += sorted(rest, key=lambda number: ops[number].invoke)
        if place < len(visible):
            order.append(visible[place][0])
    return order


def _steps(cell: Cell) -> list[Step]:
    """Each operation once, by invocation."""
    seen: set[int] = set()
    return [step for step in cell.events if not (step.number in seen or seen.add(step.number))]  # type: ignore[func-returns-value]


def _changed(op: Op, value: Any) -> Any:
    """The value behind a change."""
    if op.kind == APPEND:
        return op.value if value is None else value + op.value
    return op.value


def possible_values(ops: Sequence[Op], links: Sequence[Link | None], initial: Any, failed: int) -> list[Any]:
    """Values that the cell may have held when operation `failed` returned, for people: at the ends of some partial
    linearizations, and behind changes that were under way. Not all of them where there are very many."""
    end = ops[failed].returned
    assert end is not None
    under_way = [
        number
        for number, op in enumerate(ops)
        if op.kind != READ and op.ok and op.invoke <= end and (op.returned is None or op.returned >= end)
    ][-12:]
    found: list[Any] = []
    for link in links[:16]:
        visible = unroll(link)
        value = initial
        for number, _, _ in visible:
            value = _changed(ops[number], value)
        taken = {number for number, _, _ in visible}
        waiting = [(value, frozenset(number for number in under_way if number not in taken))]
        for value, left in waiting:
            if not any(same(value, other) for other in found):
                found.append(value)
            if len(waiting) > 200:
                continue
            for number in sorted(left):
                op = ops[number]
                if op.kind != CAS or same(value, op.expected):
                    waiting.append((_changed(op, value), left - {number}))
    return found[:50]


def checked_order(ops: Sequence[Op], cell: Cell, link: Link | None, initial: Any) -> list[int]:
    """The linearization behind a link of a history found linearizable. Raises AssertionError if it is none: then the search
    is wrong, and its verdict must not be believed."""
    order = full_order(ops, cell, link, initial)
    wrong = verify(ops, order, initial)
    if wrong is not None:
        raise AssertionError(f"the search's own order does not hold: {wrong}")
    return order
