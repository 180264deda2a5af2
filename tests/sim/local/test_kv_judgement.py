"""A key-value history judged without its log."""

from __future__ import annotations

import msgpack

from node.kv import cas, get, put
from sim.check.history import Operation
from sim.local.judge import general_checks


def write(seq: int, invoke: int, returned: int | None, command: bytes, result: list[object]) -> Operation:
    outcome = "ok" if returned is not None else "unknown"
    return Operation(
        "write",
        "c1",
        invoke,
        returned,
        outcome,
        1,
        seq,
        seq,
        0,
        command=command,
        result=msgpack.packb(result),
    )


def read(invoke: int, returned: int, value: bytes | None, consistency: str = "linearizable") -> Operation:
    return Operation(
        "query", "c2", invoke, returned, "ok", index=1, query=get(b"k1"), result=msgpack.packb([value]),
        consistency=consistency, source="model", tier="fresh",
    )  # fmt: skip


HISTORY = [
    write(1, 10, 20, put(b"k1", b"one"), [0]),
    write(2, 30, 40, cas(b"k1", b"one", b"two"), [0]),
    write(3, 50, None, put(b"k1", b"lost"), [0]),
]


def test_a_history_that_some_order_explains_passes_and_counts_its_operations() -> None:
    (check,) = general_checks([*HISTORY, read(60, 70, b"lost"), read(80, 90, b"lost")])
    assert (check.passed, check.counted) == (True, 5)


def test_a_stale_read_fails_and_names_its_key_although_no_log_is_asked() -> None:
    (check,) = general_checks([*HISTORY, read(60, 70, b"one")])
    assert not check.passed
    assert "key k1: no order explains read" in check.detail


def test_a_read_that_asked_for_no_order_is_not_held_to_one() -> None:
    (check,) = general_checks([*HISTORY, read(60, 70, b"one", "any")])
    assert (check.passed, check.counted) == (True, 3)


def test_a_history_with_nothing_to_order_counts_nothing() -> None:
    (check,) = general_checks([])
    assert (check.passed, check.counted, check.needs_count) == (True, 0, True)
