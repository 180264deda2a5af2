from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from sim.check.history import Operation
from sim.check.linear import check_chains_agree, check_real_time, check_unique_places
from sim.check.replay import replay_history


def write(invoke: int, end: int, index: int, place: int = 0, seq: int = 1) -> Operation:
    return Operation(
        "write", "c", invoke, end, "ok", session=1, seq=seq, index=index, place=place, command=b"", result=b""
    )


def ask(invoke: int, end: int, index: int, consistency: str = "linearizable") -> Operation:
    return Operation(
        "query",
        "q",
        invoke,
        end,
        "ok",
        index=index,
        consistency=consistency,
        query=b"",
        result=b"",
        source="model",
        tier="fresh",
    )


def test_an_honest_history_passes(made) -> None:
    replay = replay_history(made.entries, made.fresh_state(), made.operations)
    assert all(finding.passed and finding.counted for finding in replay.findings)
    order = check_real_time(made.operations, replay.positions)
    assert order.passed
    assert order.counted == 15  # 11 writes, one of them of unknown outcome, 2 opens, 2 linearizable queries
    assert check_unique_places(made.operations).passed
    assert check_chains_agree(made.operations).passed


def test_a_write_placed_before_one_that_had_already_returned_is_caught_in_words() -> None:
    finding = check_real_time([write(0, 10, 7), write(20, 30, 6, seq=2)])
    assert finding.problems == 1
    (text,) = finding.examples
    assert "write 1:1 of c (invoked 0 us, returned 10 us, at entry 7 place 0)" in text
    assert "before write 1:2 of c (invoked 20 us, returned 30 us, at entry 6 place 0)" in text


def test_places_within_one_entry_are_an_order_too() -> None:
    assert not check_real_time([write(0, 10, 7, place=1), write(20, 30, 7, place=0, seq=2)]).passed
    assert check_real_time([write(0, 10, 7, place=0), write(20, 30, 7, place=1, seq=2)]).passed


def test_a_stale_linearizable_query_is_caught_and_a_stale_weak_one_is_not() -> None:
    assert not check_real_time([write(0, 10, 7), ask(20, 30, 6)]).passed
    assert check_real_time([write(0, 10, 7), ask(20, 30, 6, "any")]).passed


def test_an_answer_from_the_future_is_caught_whatever_its_consistency() -> None:
    for consistency in ("any", "bounded", "linearizable"):
        assert not check_real_time([ask(0, 10, 7, consistency), write(20, 30, 7)]).passed


def test_operations_that_overlap_or_touch_may_stand_either_way() -> None:
    assert check_real_time([write(0, 20, 7), write(20, 30, 6, seq=2)]).passed
    assert check_real_time([ask(0, 10, 3), ask(20, 30, 3)]).passed


def test_an_unknown_write_found_in_the_log_before_it_was_asked_for_is_caught() -> None:
    late = Operation("write", "c", 50, None, "unknown", session=1, seq=9, command=b"")
    operations = [write(0, 10, 7), late]
    assert check_real_time(operations).passed
    assert check_real_time(operations, {(1, 9): (8, 0)}).passed
    finding = check_real_time(operations, {(1, 9): (6, 3)})
    assert finding.problems == 1
    assert "found in the log at entry 6 place 3" in finding.examples[0]


def test_two_writes_at_one_place_and_one_number_used_twice_are_caught() -> None:
    finding = check_unique_places([write(0, 1, 7, seq=1), write(0, 1, 7, seq=2), write(0, 1, 8, seq=1)])
    assert finding.problems == 2


def test_a_fork_told_to_two_clients_is_caught() -> None:
    one, two = ask(0, 10, 3), ask(0, 10, 3)
    one.chain, two.chain = b"a" * 32, b"b" * 32
    finding = check_chains_agree([one, two])
    assert finding.problems == 1
    assert "a fork at entry 3" in finding.examples[0]
    two.index = 4
    assert check_chains_agree([one, two]).passed


def linearizable_by_pairs(operations: Sequence[Operation]) -> bool:
    """The definition, pair by pair."""

    def position(operation: Operation) -> tuple[int, int]:
        return operation.index or 0, 1 << 30 if operation.op == "query" else operation.place or 0

    return not any(
        (a.returned or 0) < b.invoke and position(a) > position(b)
        for a, b in itertools.permutations(operations, 2)
        if b.op == "write" or b.consistency == "linearizable"
    )


@settings(max_examples=200)
@given(st.randoms(use_true_random=False))
def test_the_sweep_agrees_with_the_definition_on_small_histories(rng: random.Random) -> None:
    operations = []
    for seq in range(rng.randint(1, 7)):
        begin = rng.randint(0, 12)
        end = begin + rng.randint(0, 6)
        if rng.random() < 0.5:
            operations.append(write(begin, end, rng.randint(1, 3), rng.randint(0, 2), seq))
        else:
            operations.append(ask(begin, end, rng.randint(1, 3), rng.choice(["any", "linearizable"])))
    assert check_real_time(operations).passed == linearizable_by_pairs(operations)
