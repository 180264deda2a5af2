from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.check.history import (
    HistoryError,
    HistoryWriter,
    Operation,
    decode_operation,
    encode_operation,
    read_history,
)

GOOD = {
    "op": "query",
    "client": "c",
    "invoke": 5,
    "return": 9,
    "outcome": "failed",
    "consistency": "any",
    "query": "cQ==",
}


def test_what_was_written_is_read_back_in_order(made, tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    with HistoryWriter(path, bundle=4) as writer:
        for operation in made.operations:
            writer.add(operation)
    assert writer.count == len(made.operations)
    assert read_history(path) == made.operations


@settings(max_examples=50)
@given(
    st.builds(
        Operation,
        op=st.just("write"),
        client=st.text(max_size=5),
        invoke=st.integers(0, 1 << 40),
        returned=st.none(),
        outcome=st.just("unknown"),
        session=st.integers(0, 1 << 60),
        seq=st.integers(0, 1 << 60),
        chain=st.none() | st.binary(min_size=32, max_size=32),
        command=st.binary(max_size=40),
        attempts=st.integers(1, 9),
        hedged=st.booleans(),
        error=st.none() | st.text(max_size=5),
    )
)
def test_any_operation_survives_the_trip_through_a_line(operation: Operation) -> None:
    line = encode_operation(operation)
    assert "\n" not in line
    assert decode_operation(json.loads(line)) == operation


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"op": "poke"}, "op: expected one of"),
        ({"outcome": "fine"}, "outcome: expected one of"),
        ({"invoke": 1.5}, "invoke: expected integer microseconds"),
        ({"return": 4}, "lies before invoke"),
        ({"colour": 1}, "unknown field 'colour'"),
        ({"index": -1}, "index: expected an integer of at least 0"),
        ({"query": "?"}, "query: expected base64"),
        ({"chain": "ab"}, "chain: expected 64 hexadecimal digits"),
        ({"consistency": "eventual"}, "consistency: expected one of"),
        ({"consistency": "bounded"}, "needs the field 'max_age_us'"),
        ({"outcome": "ok", "source": "model"}, "needs the field 'index'"),
        ({"outcome": "ok", "return": None}, "return is null"),
        ({"op": "write"}, "needs the field 'command'"),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_reason(tmp_path: Path, change: dict, words: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + json.dumps(GOOD | change) + "\n")
    with pytest.raises(HistoryError, match=f"line 3: .*{words}"):
        read_history(path)


def test_a_line_cut_short_says_so(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD)[:30])
    with pytest.raises(HistoryError, match=r"line 2: .*cut short"):
        read_history(path)
