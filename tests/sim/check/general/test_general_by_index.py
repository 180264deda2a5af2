"""The general checker against the one by log index: two ways to judge one history that share nothing."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.bench import check as bench
from sim.bench.check import Made, check_by_index, make_history
from sim.check.formats import convert
from sim.check.general import Outcome, check_history, check_kv


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less overlap than the benchmark has, so that stale answers show."""
    monkeypatch.setattr(bench, "SPREAD_US", 300)


def passes(made: Made) -> bool:
    return all(finding.passed for finding in check_by_index(made))


@settings(max_examples=25, derandomize=True, deadline=None)
@given(st.integers(0, 10**6))
def test_what_a_log_gives_is_linearizable_to_both(seed: int) -> None:
    made = make_history(200, seed, sessions=6, keys=8)
    assert passes(made)
    assert check_kv(convert(made.operations)).outcome is Outcome.LINEARIZABLE


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.integers(0, 10**6))
def test_what_the_search_refuses_the_index_refuses_too(seed: int) -> None:
    """The other way round need not hold: replies that lie about their index may still be explained by some order."""
    random = Random(seed)
    made = make_history(150, seed, sessions=6, keys=4)
    number = random.randrange(len(made.operations))
    operation = made.operations[number]
    twins = [
        other
        for other in made.operations
        if other.op == operation.op and other.outcome == operation.outcome == "ok"
    ]
    if not twins:
        return
    made.operations[number] = replace(operation, result=random.choice(twins).result)
    refused = check_history(convert(made.operations), 20.0).outcome is Outcome.NOT
    if operation.result != made.operations[number].result:
        assert not passes(made)
    else:
        assert passes(made)
    if refused:
        assert not passes(made)


def test_the_search_refuses_most_changed_answers() -> None:
    refused = 0
    for seed in range(40):
        random = Random(seed)
        made = make_history(150, seed, sessions=6, keys=4)
        answered = [n for n, o in enumerate(made.operations) if o.op == "query"]
        number = random.choice(answered)
        others = [
            made.operations[n].result
            for n in answered
            if made.operations[n].result != made.operations[number].result
        ]
        made.operations[number] = replace(made.operations[number], result=random.choice(others))
        refused += check_history(convert(made.operations), 20.0).outcome is Outcome.NOT
    assert refused >= 30


@pytest.mark.parametrize("corrupt", bench.CORRUPTIONS)
def test_the_check_by_index_finds_every_corruption_of_the_benchmark(corrupt: bench.Corruption) -> None:
    for seed in range(5):
        made = make_history(8_000, seed, sessions=16, keys=200)
        for number, operation in corrupt(made, Random(seed)).items():
            made.operations[number] = operation
        assert not passes(made), seed
