"""Slow and simple checkers of one cell's history, written apart from the real ones, for tests to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from random import Random
from typing import Any

from hypothesis import strategies as st

from sim.check.general import APPEND, CAS, READ, WRITE, Op


def apply(op: Op, state: Any) -> tuple[bool, Any]:
    """Is the operation legal in this state, and what does it leave?"""
    same = type(state) is type(op.value if op.kind == READ else op.expected)
    if op.kind == READ:
        return same and state == op.value, state
    if op.kind == WRITE:
        return True, op.value
    if op.kind == CAS:
        found = same and state == op.expected
        return found == op.ok, op.value if op.ok else state
    grown = op.value if state is None else state + op.value
    return op.length is None or len(grown) == op.length, grown


def by_permutations(ops: Sequence[Op], initial: Any = None) -> bool:
    """Try every order of every choice of the operations that need not have happened. For seven operations or so."""
    needed = [op for op in ops if op.returned is not None]
    perhaps = [op for op in ops if op.returned is None and op.kind != READ]
    for choice in range(1 << len(perhaps)):
        chosen = needed + [op for place, op in enumerate(perhaps) if choice >> place & 1]
        for order in permutations(chosen):
            if any(
                later.returned is not None and later.returned < earlier.invoke
                for place, earlier in enumerate(order)
                for later in order[place + 1 :]
            ):
                continue
            state = initial
            for op in order:
                legal, state = apply(op, state)
                if not legal:
                    break
            else:
                return True
    return False


def by_wing_gong(ops: Sequence[Op], initial: Any = None) -> bool:
    """Wing and Gong's search, remembering what it has seen; for some tens of operations."""
    needed = sum(1 << number for number, op in enumerate(ops) if op.returned is not None)
    seen: set[Any] = set()
    stack: list[tuple[int, Any]] = [(0, initial)]
    while stack:
        done, state = stack.pop()
        if done & needed == needed:
            return True
        if (done, type(state), state) in seen:
            continue
        seen.add((done, type(state), state))
        first = min(op.returned for n, op in enumerate(ops) if op.returned is not None and not done >> n & 1)
        for number, op in enumerate(ops):
            if done >> number & 1 or op.invoke > first or (op.kind == READ and op.returned is None):
                continue
            legal, left = apply(op, state)
            if legal:
                stack.append((done | 1 << number, left))
    return False


def upto(ops: Sequence[Op], number: int, including: bool = True) -> list[Op]:
    """The history cut off at (or just before) the return of an operation: what returns later need not have happened."""
    rank = {n: (op.returned, n) for n, op in enumerate(ops) if op.returned is not None}
    last = rank[number]
    cut = []
    for n, op in enumerate(ops):
        if op.invoke > last[0]:
            continue
        if n not in rank or rank[n] > last or (n == number and not including):
            if op.kind == READ or not op.ok:
                continue
            op = Op(op.kind, op.key, op.process, op.invoke, None, op.value, op.expected, length=op.length)
        cut.append(op)
    return cut


def hard(seed: int = 3) -> list[Op]:
    """Seventy writes and compare-and-sets at once, four times: nobody decides that."""
    random = Random(seed)
    ops = []
    for wave in range(4):
        for process in range(70):
            begin = wave * 1000 + random.randrange(400)
            value, expected = random.randrange(9), random.randrange(9)
            if process % 3:
                ops.append(
                    Op(
                        CAS,
                        "x",
                        wave * 70 + process,
                        begin,
                        begin + 600 + random.randrange(800),
                        value,
                        expected,
                    )
                )
            else:
                ops.append(
                    Op(WRITE, "x", wave * 70 + process, begin, begin + 600 + random.randrange(800), value)
                )
    return ops


@st.composite
def histories(draw: st.DrawFn, texts: bool = False, most: int = 7) -> list[Op]:
    """Any operations on one cell, at small times, so that some histories are linearizable and some are not."""
    values = st.sampled_from(["a", "b", "ab"] if texts else [0, 1, 2])
    held = st.sampled_from([None, "a", "b", "ab", "aba"]) if texts else st.sampled_from([None, 0, 1, 2])
    ops = []
    for process in range(draw(st.integers(1, most))):
        kind = draw(st.sampled_from([READ, WRITE, CAS, APPEND] if texts else [READ, WRITE, CAS]))
        invoke = draw(st.integers(0, 12))
        duration = draw(st.none() | st.integers(0, 8))
        op = Op(kind, "x", process, invoke, None if duration is None else invoke + duration)
        op.value = draw(held if kind == READ else values)
        if kind == CAS:
            op.expected = draw(held)
            op.ok = duration is None or draw(st.booleans())
        if kind == APPEND and duration is not None:
            op.length = draw(st.none() | st.integers(1, 4))
        ops.append(op)
    return ops
