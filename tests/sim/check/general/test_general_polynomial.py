from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from sim.check.general import APPEND, CAS, READ, WRITE, Op, Outcome, check_history
from sim.check.general.simulate import Shape, mutate, simulate
from sim.check.general.unique import decide

REGISTER = {READ: 1, WRITE: 1}
APPENDS = {READ: 1, APPEND: 1}


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    st.integers(0, 10**6), st.booleans(), st.booleans(), st.integers(1, 8), st.sampled_from([0.0, 0.1, 0.4])
)
def test_both_polynomial_checks_agree_with_the_search_on_verdict_and_point(
    seed: int, texts: bool, changed: bool, clients: int, timeouts: float
) -> None:
    ops = simulate(Shape(clients, 40, values=0, timeouts=timeouts, mix=APPENDS if texts else REGISTER), seed)
    ops = mutate(ops, seed) if changed else ops
    decided = decide(ops)
    assert decided is not None
    assert decided.method == ("append order" if texts and any(op.kind == APPEND for op in ops) else "zones")
    searched = check_history(ops, 20.0, polynomial=False).cells[0]
    assert (decided.linearization is not None) == (searched.outcome is Outcome.LINEARIZABLE)
    assert decided.failed == searched.failed


def test_a_history_fits_only_if_reads_tell_which_write_they_saw() -> None:
    first = Op(WRITE, "x", 0, 0, 1, 1)
    assert decide([first, Op(WRITE, "x", 0, 2, 3, 1)]) is None
    assert decide([first, Op(WRITE, "x", 0, 2, 3, None)]) is None
    assert decide([first, Op(CAS, "x", 0, 2, 3, 2, 1)]) is None
    one, two = Op(APPEND, "x", 0, 0, 1, "a"), Op(APPEND, "x", 0, 2, 3, "aa")
    read = Op(READ, "x", 0, 4, 5, "aaa")
    assert decide([one, two, read]) is None, "aaa can be cut up in two ways"
    assert check_history([one, two, read]).outcome is Outcome.LINEARIZABLE
    assert decide([one, Op(APPEND, "x", 0, 2, 3, "a")]) is None


def test_lengths_told_by_appends_are_held_to_the_order_that_reads_show() -> None:
    one, two = Op(APPEND, "x", 0, 0, 9, "a", length=1), Op(APPEND, "x", 1, 0, 9, "b", length=2)
    assert check_history([one, two, Op(READ, "x", 2, 10, 11, "ab")]).outcome is Outcome.LINEARIZABLE
    verdict = check_history([one, two, Op(READ, "x", 2, 10, 11, "ba")])
    assert verdict.outcome is Outcome.NOT
    assert check_history([one, Op(APPEND, "x", 1, 0, 9, "b", length=1)]).outcome is Outcome.NOT


def test_a_hundred_thousand_operations_at_high_concurrency_take_seconds() -> None:
    ops = simulate(Shape(100, 50_000, values=0, mix=REGISTER), 5)
    began = time.process_time()
    assert check_history(ops).outcome is Outcome.LINEARIZABLE
    assert time.process_time() - began < 5
