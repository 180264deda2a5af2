"""The general checker: histories of cells in, verdicts with their proofs out."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from typing import Any, Final

from sim.check.general.cells import prepare
from sim.check.general.operations import CellVerdict, Op, Outcome, Verdict, typed, verify
from sim.check.general.paths import checked_order, full_order, possible_values, unroll
from sim.check.general.search import Budget, Found, search
from sim.check.general.unique import Decided, decide

BUDGET_S: Final = 60.0
MEMORY: Final = 1_600_000_000
PARTIALS: Final = 3
"""Partial linearizations told of a cell that fails."""


def check_history(
    ops: Sequence[Op],
    budget_s: float = BUDGET_S,
    memory: int = MEMORY,
    *,
    initial: Any = None,
    polynomial: bool = True,
) -> Verdict:
    """Is this history linearizable? Cells (`Op.key`) are judged one by one; one that is not settles it.

    `budget_s`: seconds for all cells together, then the rest is undecided; `memory`: bytes that the process may hold;
    `initial`: what every cell holds at first; `polynomial` False: always search, for comparison.
    Raises ValueError for a history that makes no sense (a return before its invocation, a text appended to a number).
    """
    began = time.monotonic()
    deadline = began + budget_s
    numbers: dict[Hashable, list[int]] = {}
    for number, op in enumerate(ops):
        numbers.setdefault(typed(op.key), []).append(number)
    verdicts: dict[Hashable, CellVerdict] = {}
    # A hard cell must not use up what the others need: first a fair share for each, then what is left.
    waiting = sorted(numbers, key=lambda key: len(numbers[key]))
    for last_round in (False, True):
        left = waiting
        waiting = []
        for place, key in enumerate(left):
            now = time.monotonic()
            until = now + max(deadline - now, 0) / (len(left) - place)
            part = [ops[number] for number in numbers[key]]
            cell = check_cell(part, Budget(until, memory), initial=initial, polynomial=polynomial)
            verdicts[key] = _renumbered(cell, numbers[key])
            if cell.outcome is Outcome.UNDECIDED and not last_round and len(left) > 1:
                waiting.append(key)
        if time.monotonic() >= deadline:
            break
    cells = [verdicts[key] for key in numbers]
    failed = [cell for cell in cells if cell.outcome is Outcome.NOT]
    if failed:
        outcome = Outcome.NOT
        first = min(failed, key=lambda cell: _end(ops, cell))
        cells.remove(first)
        cells.insert(0, first)
    elif any(cell.outcome is Outcome.UNDECIDED for cell in cells):
        outcome = Outcome.UNDECIDED
    else:
        outcome = Outcome.LINEARIZABLE
    return Verdict(outcome, cells, len(ops), time.monotonic() - began)


def check_kv(ops: Sequence[Op], budget_s: float = 10.0, *, initial: Any = None) -> Verdict:
    """`check_history` with the budget of an online check: about two milliseconds for 200 operations on five keys."""
    return check_history(ops, budget_s, initial=initial)


def check_cell(
    ops: Sequence[Op], budget: Budget, *, initial: Any = None, polynomial: bool = True
) -> CellVerdict:
    """Judge one cell: the operations of one key. Raises ValueError as `check_history` does."""
    began = time.monotonic()
    key = ops[0].key if ops else None
    decided = decide(ops, initial) if polynomial else None
    if decided is not None and decided.linearization is not None:
        _hold(ops, decided.linearization, initial)
        seconds = time.monotonic() - began
        order = decided.linearization
        return CellVerdict(key, Outcome.LINEARIZABLE, decided.method, len(ops), seconds, linearization=order)
    verdict = (
        _searched(ops, initial, budget) if decided is None else _explained(ops, decided, initial, budget)
    )
    verdict.key, verdict.seconds = key, time.monotonic() - began
    return verdict


def _searched(ops: Sequence[Op], initial: Any, budget: Budget) -> CellVerdict:
    cell = prepare(ops, initial)
    found = search(cell, budget)
    verdict = CellVerdict(None, Outcome.UNDECIDED, "search", len(ops), 0.0, found.configurations)
    if found.linearizable is None:
        verdict.reason = found.reason
    elif found.linearizable:
        verdict.outcome = Outcome.LINEARIZABLE
        if found.links:
            verdict.linearization = checked_order(ops, cell, found.links[0], initial)
    else:
        assert found.failed is not None
        verdict.outcome = Outcome.NOT
        verdict.failed = found.failed.number
        _tell(verdict, ops, found, initial)
    return verdict


def _tell(verdict: CellVerdict, ops: Sequence[Op], found: Found, initial: Any) -> None:
    """How far it went: the longest partial linearizations, and the values possible at the end of them."""
    cell = prepare(ops, initial)
    longest = sorted(found.links[:200], key=lambda link: len(unroll(link)), reverse=True)[: 4 * PARTIALS]
    orders = {tuple(full_order(ops, cell, link, initial, found.position)): None for link in longest}
    verdict.partials = [list(order) for order in sorted(orders, key=len, reverse=True)[:PARTIALS]]
    assert found.failed is not None
    verdict.values = possible_values(ops, found.links, initial, found.failed.number)


def _explained(ops: Sequence[Op], decided: Decided, initial: Any, budget: Budget) -> CellVerdict:
    """A failure found in polynomial time, with the details that the search of the same prefix gives, if that is quick."""
    assert decided.failed is not None
    verdict = CellVerdict(None, Outcome.NOT, decided.method, len(ops), 0.0, failed=decided.failed)
    verdict.partials = [decided.before or []]
    quick = Budget(min(budget.deadline, time.monotonic() + 1.0), budget.memory)
    end = ops[decided.failed].returned
    assert end is not None
    numbers = [number for number, op in enumerate(ops) if op.invoke <= end]
    cell = prepare([ops[number] for number in numbers], initial)
    found = search(cell, quick)
    if found.failed is not None and numbers[found.failed.number] == decided.failed:
        verdict.configurations = found.configurations
        _tell(verdict, [ops[number] for number in numbers], found, initial)
        verdict.partials = [[numbers[each] for each in order] for order in verdict.partials]
    return verdict


def _hold(ops: Sequence[Op], order: Sequence[int], initial: Any) -> None:
    """A polynomial check's order is run before it is believed."""
    wrong = verify(ops, order, initial)
    if wrong is not None:
        raise AssertionError(f"the check's own order does not hold: {wrong}")


def _renumbered(cell: CellVerdict, numbers: Sequence[int]) -> CellVerdict:
    """Numbers of a cell's operations become numbers of the whole history's."""
    if cell.linearization is not None:
        cell.linearization = [numbers[each] for each in cell.linearization]
    if cell.failed is not None:
        cell.failed = numbers[cell.failed]
    cell.partials = [[numbers[each] for each in order] for order in cell.partials]
    return cell


def _end(ops: Sequence[Op], cell: CellVerdict) -> int:
    assert cell.failed is not None
    returned = ops[cell.failed].returned
    assert returned is not None
    return returned
