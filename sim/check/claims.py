"""Queries held against what their replies claimed of themselves.

A reply from a node's model claims an index, an age and a tier. `sim.check.replay` holds the answer against the index;
this file holds the age against the writes, and the tier against the age.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from sim.check.history import Operation
from sim.check.linear import Collector, Finding, describe

FRESH: Final = "fresh"
STALE: Final = "stale"


def _answers(operations: Sequence[Operation]) -> list[Operation]:
    return [o for o in operations if o.op == "query" and o.outcome == "ok" and o.source == "model"]


def check_bounded(operations: Sequence[Operation]) -> Finding:
    """Check that every `bounded` answer claims an age, and `age_us <= max_age_us`."""
    collector = Collector("bounded_within_age")
    for operation in _answers(operations):
        if operation.consistency != "bounded":
            continue
        collector.counted += 1
        if operation.age_us is None:
            collector.problem(
                f"{describe(operation)} claims no age; at most {operation.max_age_us} us was asked for"
            )
        elif operation.age_us > (operation.max_age_us or 0):
            collector.problem(
                f"{describe(operation)} claims an age of {operation.age_us} us; at most {operation.max_age_us} us was "
                "asked for"
            )
    return collector.finding()


def check_ages_true(operations: Sequence[Operation], slack_us: int = 0) -> Finding:
    """Check that no answer is older than the age it claims.

    A node answered at some instant t, `invoke <= t`. With age a it claims that its last successful barrier was asked
    for at t - a, so that its state holds every write acknowledged before t - a. A write W that its client knew done at
    W.returned < invoke - a was acknowledged before t - a. So for every such pair: W.index <= answer.index. An age may
    be read from a clock that is looked at once a turn; `slack_us` (microseconds) is taken off the instant for that.
    Answers without an age claim nothing here and are not counted.
    """
    collector = Collector("ages_true")
    writes = [o for o in operations if o.op == "write" and o.outcome == "ok" and o.index is not None]
    answers = [o for o in _answers(operations) if o.age_us is not None and o.index is not None]
    collector.counted = len(answers)
    if not writes or not answers:
        return collector.finding()
    writes.sort(key=lambda o: o.returned or 0)
    ends = np.array([o.returned for o in writes], dtype=np.int64)
    indexes = np.array([o.index for o in writes], dtype=np.int64)
    highest = np.maximum.accumulate(indexes)
    since = np.array([o.invoke - (o.age_us or 0) - slack_us for o in answers], dtype=np.int64)
    claimed = np.array([o.index for o in answers], dtype=np.int64)
    before = np.searchsorted(ends, since, side="left")
    some = before > 0
    bad = np.zeros(len(answers), dtype=bool)
    bad[some] = highest[before[some] - 1] > claimed[some]
    for place in np.flatnonzero(bad).tolist():
        answer = answers[place]
        write = writes[int(np.argmax(indexes[: before[place]]))]
        collector.problem(
            f"{describe(answer)} claims an age of {answer.age_us} us, but lacks {describe(write)}, which was "
            f"acknowledged {answer.invoke - (write.returned or 0)} us before the query was asked"
        )
    return collector.finding()


def check_tiers(operations: Sequence[Operation], fresh_limit_us: int) -> Finding:
    """Check that an answer of a model calls itself `fresh` exactly if it claims an age of at most `fresh_limit_us`, and
    `stale` otherwise."""
    collector = Collector("tiers_true")
    for operation in _answers(operations):
        collector.counted += 1
        fresh = operation.age_us is not None and operation.age_us <= fresh_limit_us
        expected = FRESH if fresh else STALE
        if operation.tier != expected:
            age = "no age" if operation.age_us is None else f"an age of {operation.age_us} us"
            collector.problem(
                f"{describe(operation)} calls itself {operation.tier} with {age}; up to {fresh_limit_us} us is fresh"
            )
    return collector.finding()


def check_sessions(operations: Sequence[Operation]) -> Finding:
    """Check what is promised of sessions: each is given once; one client alone writes in it; and an acknowledged write
    stands behind the opening of its session, where the history has the opening (a client may open sessions by itself)."""
    collector = Collector("sessions_true")
    owners: dict[int, Operation] = {}
    for operation in operations:
        if operation.op != "open" or operation.outcome != "ok" or operation.session is None:
            continue
        collector.counted += 1
        other = owners.setdefault(operation.session, operation)
        if other is not operation:
            collector.problem(f"one session was given twice: {describe(other)} and {describe(operation)}")
    for operation in operations:
        if operation.op != "write" or operation.outcome != "ok" or operation.session is None:
            continue
        collector.counted += 1
        owner = owners.setdefault(operation.session, operation)
        if owner.client != operation.client:
            collector.problem(f"two clients used one session: {describe(owner)} and {describe(operation)}")
        elif owner.op == "open" and (operation.index or 0) < (owner.index or 0):
            collector.problem(f"{describe(operation)} stands before its session: {describe(owner)}")
    return collector.finding()
